"""The base of pruners that look at the inputs of layers."""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Self
from typing import Unpack

import keras
import numpy as np
from keras import ops

from keras_app import batches as batches_lib
from keras_app import host
from keras_app import layers
from keras_app import masks as masks_lib
from keras_app.hints import Data
from keras_app.hints import Schedule
from keras_app.hints import Shape
from keras_app.hints import Tensor
from keras_app.hints import Variables
from keras_app.pruners.arguments import PrunerArguments
from keras_app.pruners.pruner import Pruner
from keras_app.selection import Selection


class CalibratedPruner(Pruner):
    """The base of pruners that look at what kernels multiply, on `data`.

    Args:
        schedule, data: See `WandaPruner`.
        scope, structure, distribution, filters, custom_sparsity, on_miss: See
            `Pruner`.
    """

    not_configured = ("data",)

    def __init__(
        self,
        schedule: Schedule,
        data: Data | None = None,
        **kwargs: Unpack[PrunerArguments],
    ) -> None:
        super().__init__(schedule, **kwargs)
        if self.scope == "global":
            raise ValueError(
                "`scope` must be 'layer': scores of two layers have different "
                f"units for {type(self).__name__}. Received: scope='global'"
            )
        self.data = data

    @property
    def needs_data(self) -> bool:
        """Whether there is no `data` yet."""
        return self.data is None

    @property
    def is_unstructured(self) -> bool:
        """Whether single weights are pruned."""
        return self.structure in (None, masks_lib.Unstructured())

    def select(self, model: keras.Model) -> Selection:
        """Returns the selection; refuses what has no inputs to calibrate on."""
        name = type(self).__name__
        if self.needs_data:
            raise ValueError(
                f"{name} needs `data`, a re-iterable of x or (x, y) "
                "batches, to calibrate on. Received: data=None"
            )
        chosen = super().select(model)
        known = _layers_by_kernel(model)
        others = [
            path
            for path, variable in chosen.variables.items()
            if id(variable) not in known
        ]
        if others and self.filters is not None:
            raise ValueError(
                "`filters` must name kernels of Dense, EinsumDense and "
                f"convolution layers, whose inputs {name} can see. Leave "
                f"these to another pruner, such as MagnitudePruner: {others}. "
                f"Received: filters={self.filters!r}"
            )
        skipped = dict.fromkeys(
            others,
            "not the kernel of a Dense, EinsumDense or convolution layer; "
            "prune it with another pruner, such as MagnitudePruner",
        )
        chosen = chosen.without(skipped)
        if not chosen.variables:
            raise ValueError(
                "There is nothing to prune: the model has no kernels of "
                "Dense, EinsumDense or convolution layers. Prune it with "
                f"another pruner, such as MagnitudePruner: {others}"
            )
        return chosen

    def matrices(self, variables: Variables) -> "dict[str, Matrices]":
        """Returns `{path: Matrices}` of `{path: variable}`."""
        users = _layers_by_kernel(self.model)
        return {
            path: Matrices.of_layer(users[id(variable)][0], variable.shape)
            for path, variable in variables.items()
        }

    def watch(
        self,
        variables: Variables,
        note: Callable[[str, keras.layers.Layer, np.ndarray], object],
        batches: Data | None = None,
    ) -> None:
        """Shows data to the model, in inference, and looks at its layers.

        Args:
            variables: `{path: variable}` of the kernels whose inputs are asked
                for.
            note: Called with `(path, layer, array of its inputs)` at each call
                of a layer.
            batches: Defaults to `None`: those of `data`.

        Raises:
            ValueError: No examples, or a layer that is not called, or called
                in a compiled loop.
        """
        users = _layers_by_kernel(self.model)
        seen = set()

        def noted(path, layer, inputs):
            note(path, layer, inputs)
            seen.add(path)

        has_batches = False
        with contextlib.ExitStack() as stack:
            stack.enter_context(host.without_gradients())
            for path, variable in variables.items():
                for layer in users[id(variable)]:
                    stack.enter_context(self._watched(layer, path, noted))
            given = self.data if batches is None else batches
            for batch in batches_lib.cut(given):
                x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
                x = keras.tree.map_structure(ops.convert_to_numpy, x)
                if batches_lib.is_empty(x):
                    continue
                has_batches = True
                self.model(x, training=False)
        if not has_batches:
            raise ValueError(
                "`data` must hold at least one batch with examples. Received "
                "none."
            )
        unseen = [path for path in variables if path not in seen]
        if unseen:
            raise ValueError(
                f"{type(self).__name__} needs the inputs of each layer, but "
                "the model calls these not in inference, or quantized. Leave "
                f"them out with `filters`: {unseen}"
            )

    @contextlib.contextmanager
    def _watched(self, layer, path, note):
        """While open, `note(path, layer, inputs)` at each call of a layer."""
        call, shadowing = layer.call, vars(layer).get("call")

        def watched_call(inputs, *args, **kwargs):
            try:
                array = ops.convert_to_numpy(inputs)
            # Each backend has an exception of its own for what is being
            # traced.
            except Exception as error:
                raise ValueError(
                    f"{type(self).__name__} cannot see the inputs of {path}, "
                    "because the model calls it in a compiled loop. Leave it "
                    "out with `filters`."
                ) from error
            note(path, layer, array)
            return call(inputs, *args, **kwargs)

        # Past Keras, which would track what is set.
        vars(layer)["call"] = watched_call
        try:
            yield
        finally:
            del vars(layer)["call"]
            if shadowing is not None:
                vars(layer)["call"] = shadowing


@dataclasses.dataclass(frozen=True)
class Matrices:
    """A kernel as the matrices that multiply inputs, `(groups, in, out)`.

    Args:
        kernel: Shape of the kernel.
        order: Its axes: those of groups, of inputs, of outputs.
        shape: Shape `(groups, in, out)` that it has in this order.
        parts: In how many groups the outputs are, of a convolution.
    """

    kernel: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, int, int]
    parts: int

    @classmethod
    def of_layer(cls, layer: keras.layers.Layer, shape: Shape) -> Self:
        """Returns those of a layer whose kernel has this shape.

        The row of the catalogue for the layer must have `inputs`.
        """
        [kernel] = layers.row_of(layer).kernels
        rank = len(shape)
        shared = list(kernel.shared_axes(layer, rank))
        rows = list(kernel.contracted_axes(layer, rank))
        rest = [axis for axis in range(rank) if axis not in shared + rows]
        sizes = [
            math.prod(shape[axis] for axis in part)
            for part in (shared, rows, rest)
        ]
        parts = getattr(layer, "groups", 1)
        return cls(tuple(shape), (*shared, *rows, *rest), tuple(sizes), parts)

    def of(self, array: Tensor) -> Tensor:
        """Returns the matrices of an array of the kernel's shape."""
        matrices = array.transpose(self.order).reshape(self.shape)
        # Of a convolution in groups each makes outputs that lie together.
        if self.parts > 1:
            matrices = matrices.reshape(*self._in_parts).swapaxes(0, 1)
        return matrices.copy()

    def back(self, matrices: Tensor) -> Tensor:
        """Undoes `of`."""
        if self.parts > 1:
            matrices = matrices.swapaxes(0, 1)
        array = matrices.reshape([self.kernel[axis] for axis in self.order])
        return array.transpose(np.argsort(self.order).tolist()).copy()

    @property
    def _in_parts(self):
        _, height, width = self.shape
        return height, self.parts, width // self.parts


def check_finite(path, sums):
    """Raises if what the inputs of a kernel add up to is no number."""
    if not np.isfinite(sums).all():
        raise masks_lib.DegenerateScores(
            f"`data` must give {path} inputs that are finite numbers. "
            "Received: NaN or infinity"
        )


def ranks_within_outputs(scores):
    """Replaces scores of matrices by their rank among those of one output."""
    # An output with a single weight has nothing to compare within.
    within = scores if scores.shape[-2] > 1 else scores.reshape(1, -1, 1)
    order = _argsort(within)
    return _argsort(order).reshape(scores.shape)


def _argsort(array):
    # Stable: of equal scores the lower index is pruned, as everywhere.
    if isinstance(array, np.ndarray):
        return array.argsort(axis=-2, kind="stable")
    return array.argsort(axis=-2, stable=True)


def _layers_by_kernel(model):
    """`{id(kernel): [layers that multiply their inputs by it]}`."""
    found = {}
    for layer in layers.inside.walk_layers(model):
        row = layers.row_of(layer)
        if row.inputs is not None:
            [kernel] = row.kernels
            variable = layers.variable_of(layer, kernel.name)
            found.setdefault(id(variable), []).append(layer)
    return found
