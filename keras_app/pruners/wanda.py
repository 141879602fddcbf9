"""Pruning by weights and the inputs they see: Wanda."""

import contextlib

import keras
import numpy as np
from keras import ops

from keras_app import layers
from keras_app import masks as masks_lib
from keras_app.pruners.pruner import Pruner


@keras.saving.register_keras_serializable(package="keras_app")
class WandaPruner(Pruner):
    """Prunes by weights and activations: score = `|w|` times its input's norm.

    Made to prune a trained network once, without training it afterwards. It
    costs one forward pass over `data` at each update, and no gradient.

        S_ij = |W_ij| ||X_i||_2

    X_i holds all values that input i takes over `data`, in inference mode: of a
    `Dense` layer over all positions; of an `EinsumDense` layer, and so within
    attention, over the axes that its kernel does not have; of a convolution
    over all patches. A layer that is called several times sums over its calls.

    Scores are compared within each output: every output neuron or channel loses
    the same number of its inputs, to within one. With a `structure` its units
    are compared instead, by the scores themselves: `NM(2, 4,
    axis="inputs")` is the 2:4 of the paper, along the inputs.

    By default the kernels of all other layers are left out, with a reason in
    `report.skipped`.

    Args:
        schedule: Usually `OneShot`.
        data: Re-iterable of batches, `x` or `(x, y)`, to calibrate on; a few
            hundred examples will do. Not part of the configuration: set
            `pruner.data` after `from_config`. Machines that train together
            need the same.
        scope: `"layer"`, because scores of two layers cannot be compared.
        structure, distribution, filters, custom_sparsity, on_miss: See
            `Pruner`.

    Raises:
        ValueError: `scope="global"`. When `fit` starts: no data, or `filters`
            that name the kernel of another kind of layer. At an update: a layer
            that inference does not call, or calls in a compiled loop.

    Example:

    >>> from keras_app.schedules import OneShot
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> pruner = WandaPruner(OneShot(0.5), data=[np.ones((8, 4))])
    >>> pruner.set_model(model)
    >>> pruner.prune(0.5)
    >>> [mask] = pruner.masks.values()
    >>> print(mask.sum(axis=0))
    [2 2 2 2 2]

    Reference: [Sun et al., 2023](https://arxiv.org/abs/2306.11695), eq. 1.
    Differs: all layers are scored on the activations of the network before the
    update, where the authors prune one transformer block after the other and
    calibrate each after those already pruned. Convolutions are not in the
    paper.
    """

    not_configured = ("data",)

    def __init__(
        self,
        schedule,
        data=None,
        **kwargs,
    ):
        super().__init__(schedule, **kwargs)
        if self.scope == "global":
            raise ValueError(
                "`scope` must be 'layer': Wanda compares the inputs of one "
                "output, and scores of two layers have different units. "
                "Received: scope='global'"
            )
        self.data = data

    @property
    def needs_data(self):
        """Whether there is no `data` yet."""
        return self.data is None

    def select(self, model):
        """Returns the selection; refuses what has no inputs to calibrate on."""
        if self.needs_data:
            raise ValueError(
                "WandaPruner needs `data`, a re-iterable of x or (x, y) "
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
                "convolution layers, whose inputs WandaPruner can see. Leave "
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

    def scores(self, variables):
        """Returns `{path: |w| ||x||}`, or its rank within the output."""
        users = _layers_by_kernel(self.model)
        squares = self._squared_inputs(variables, users)
        unstructured = self.structure in (None, masks_lib.Unstructured())
        masks = self.masks
        scores = {}
        for path, variable in variables.items():
            w = np.abs(ops.convert_to_numpy(variable).astype("float64"))
            scores[path] = w * np.sqrt(squares[path])
            if unstructured:
                # Below weights that are kept although their input is zero.
                scores[path][~masks[path]] = -1.0
                scores[path] = _ranks_within_outputs(
                    scores[path], users[id(variable)][0]
                )
        return scores

    def _squared_inputs(self, variables, users):
        """`{path: sums of squares}`, each broadcasts to its weight."""
        squares = dict.fromkeys(variables, 0.0)
        seen = set()

        def note(path, layer, inputs):
            of_inputs = np.square(inputs, dtype=np.float64)
            more = layers.row_of(layer).squares(layer, of_inputs)
            squares[path] = squares[path] + more
            seen.add(path)

        has_batches = False
        with contextlib.ExitStack() as stack:
            for path, variable in variables.items():
                for layer in users[id(variable)]:
                    stack.enter_context(_watched(layer, path, note))
            for batch in self.data:
                has_batches = True
                x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
                x = keras.tree.map_structure(ops.convert_to_numpy, x)
                self.model(x, training=False)
        if not has_batches:
            raise ValueError(
                "`data` must hold at least one batch. Received none."
            )
        unseen = [path for path in variables if path not in seen]
        if unseen:
            raise ValueError(
                "WandaPruner needs the inputs of each layer, but the model "
                "calls these not in inference, or quantized. Leave them out "
                f"with `filters`: {unseen}"
            )
        return squares


def _layers_by_kernel(model):
    """`{id(kernel): [layers that multiply their inputs by it]}`."""
    found = {}
    for layer in layers.inside.walk_layers(model):
        row = layers.row_of(layer)
        if row.squares is not None:
            [kernel] = row.kernels
            variable = layers.variable_of(layer, kernel.name)
            found.setdefault(id(variable), []).append(layer)
    return found


@contextlib.contextmanager
def _watched(layer, path, note):
    """While open, `note(path, layer, inputs)` at each call of a layer."""
    call, shadowing = layer.call, vars(layer).get("call")

    def watched_call(inputs, *args, **kwargs):
        try:
            array = ops.convert_to_numpy(inputs)
        # Each backend has an exception of its own for what is being traced.
        except Exception as error:
            raise ValueError(
                f"WandaPruner cannot see the inputs of {path}, because the "
                "model calls it in a compiled loop. Leave it out with "
                "`filters`."
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


def _ranks_within_outputs(scores, layer):
    """Replaces scores by their rank, from 0, among those of one output."""
    [kernel] = layers.row_of(layer).kernels
    axes = list(kernel.contracted_axes(layer, scores.ndim))
    # An output with a single weight has nothing to compare within.
    axes = axes or list(range(scores.ndim))
    order = [axis for axis in range(scores.ndim) if axis not in axes] + axes
    moved = scores.transpose(order)
    groups = moved.reshape(-1, np.prod([scores.shape[axis] for axis in axes]))
    # Stable: of equal scores the lower index is pruned, as everywhere.
    ranks = np.argsort(np.argsort(groups, axis=1, kind="stable"), axis=1)
    return ranks.reshape(moved.shape).transpose(np.argsort(order))
