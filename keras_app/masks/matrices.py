"""Kernels that are seen as the matrices that their layers multiply by.

A layer multiplies its inputs by a matrix `(inputs, outputs)`, whatever the
shape of its kernel. Runtimes and hardware want zeros to lie in patterns along
the inputs, or the outputs, of that matrix.
"""

import dataclasses
import math
from typing import get_args
from typing import Literal

import keras
import numpy as np

from keras_app import layers
from keras_app import selection
from keras_app import split
from keras_app.checks import check_choice
from keras_app.masks import applied
from keras_app.masks.structures import Block
from keras_app.masks.structures import Pooling
from keras_app.masks.structures import Structure
from keras_app.masks.structures import Units
from keras_app.masks.structures import Unstructured
from keras_app.selection import Selection


@keras.saving.register_keras_serializable(package="keras_app")
class TargetBlock(Structure):
    """Blocks that a runtime computes faster, along the right axes by layer.

    | target | `Dense`, `EinsumDense`, attention | 1x1 `Conv2D` |
    | --- | --- | --- |
    | `"litert"` (float32) | 4 inputs to an output | 4 outputs of an input |
    | `"litert_int8"` | 16 inputs to an output | single weights |

    A kernel of more than two axes is seen as the matrix that the runtime
    multiplies by: the axes that are summed over are its inputs. All other
    kernels are pruned by single weights, as are matrices whose number of inputs
    is no multiple of the block, which LiteRT's converter stores wrongly. The
    blocks of convolutions are those
    of the sparse kernels that LiteRT has on ARM and in browsers, for networks
    of the kind that docs/export.md names.

    Args:
        target: `"litert"` or `"litert_int8"`.
        pooling: As in `Block`. Defaults to `"avg"`.

    Example:

    >>> from keras_app.pruners import MagnitudePruner
    >>> from keras_app.schedules import OneShot
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    >>> model.compile("sgd", "mse")
    >>> pruner = MagnitudePruner(OneShot(0.5), structure=TargetBlock("litert"))
    >>> pruner.set_model(model)
    >>> pruner.prune(0.5)
    >>> [mask] = pruner.masks.values()
    >>> print(mask.reshape(2, 4, 2).sum(axis=1).ravel() % 4)
    [0 0 0 0]
    """

    is_of_arrays = False
    takes_split = True

    def __init__(
        self, target: Literal["litert", "litert_int8"], pooling: Pooling = "avg"
    ) -> None:
        check_choice("target", target, tuple(_TARGETS))
        check_choice("pooling", pooling, get_args(Pooling))
        self.target = target
        self.pooling = pooling

    def units(self, model: keras.Model, chosen: Selection) -> Units:
        """Returns the blocks; every weight is a set."""
        rows, blocks = {}, {}
        for path, (layer, name, kernel) in _owned(model, chosen).items():
            rows[path], blocks[path] = self._block_of(layer, name, kernel)
        return MatrixUnits(Unstructured(), chosen, rows, blocks)

    def _block_of(self, layer, name, kernel):
        """The axes of a kernel that are its rows, and the units there."""
        inputs, outputs = _TARGETS[self.target]
        rows = _matrix_rows(layer, name, len(kernel.shape))
        if rows:
            height = math.prod(kernel.shape[axis] for axis in rows)
            if height % inputs == 0:
                return rows, Block((inputs, 1), self.pooling)
            return None, Unstructured()
        pointwise = (
            isinstance(layer, keras.layers.Conv2D)
            and tuple(layer.kernel_size) == (1, 1)
            or isinstance(layer, keras.layers.SeparableConv2D)
        )
        if pointwise and name in ("kernel", "pointwise_kernel"):
            return None, Block((1, outputs), self.pooling)
        return None, Unstructured()


# Inputs of a matrix, and outputs of a 1x1 convolution, to a block.
_TARGETS = {"litert": (4, 4), "litert_int8": (16, 1)}


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A kernel seen as a matrix of two kinds of axes.

    Args:
        kernel: Shape of the kernel.
        rows: Axes that are the rows; with `None` the kernel stays as it is.
    """

    kernel: tuple[int, ...]
    rows: tuple[int, ...] | None = None

    @property
    def shape(self):
        """Shape of the matrix."""
        if self.rows is None:
            return self.kernel
        height = math.prod(self.kernel[axis] for axis in self.rows)
        return height, math.prod(self.kernel) // height

    def of(self, array):
        """Returns the matrix of an array of the kernel's shape."""
        return self._moved("to_rows", array, self.layout(split.layout(array)))

    def back(self, matrix, layout):
        """Undoes `of`, for an array of this `split.layout`."""
        return self._moved("from_rows", matrix, layout)

    def layout(self, layout):
        """Returns the `split.layout` of the matrix, for that of the kernel."""
        if layout is None or self.rows is None:
            return layout
        names = split.axes_of(layout, len(self.kernel))
        height = len(self.rows)
        both = self._order[:height], self._order[height:]
        axes = [sum((names[axis] for axis in part), ()) for part in both]
        return split.named_sharding(layout.mesh, axes)

    def to_rows(self, array):
        """Returns what `of` does, on the host or compiled."""
        return array.transpose(self._order).reshape(self.shape)

    def from_rows(self, matrix):
        """Returns what `back` does, on the host or compiled."""
        array = matrix.reshape([self.kernel[axis] for axis in self._order])
        return array.transpose(np.argsort(self._order).tolist()).copy()

    def _moved(self, method, array, layout):
        if self.rows is None:
            return array
        return split.method_for(layout, self, method)(array)

    @property
    def _order(self):
        others = [i for i in range(len(self.kernel)) if i not in self.rows]
        return [*self.rows, *others]


class MatrixUnits(Units):
    """Units of kernels that are seen as matrices, rows first.

    Args:
        structure: As in `Units`, of what is pooled.
        chosen: The `selection.Selection` to prune.
        rows: `{path: axes that are the rows}`; with `None` a kernel stays as
            it is.
        pooled: `{path: structure of the matrix}` that scores and masks are
            pooled by. Defaults to `None`: they are those of single weights.
    """

    def __init__(self, structure, chosen, rows, pooled=None):
        super().__init__(structure, chosen)
        self.matrices = {
            path: Matrix(shape, rows[path] and tuple(rows[path]))
            for path, shape in self.shapes.items()
        }
        self._pooled = pooled or dict.fromkeys(rows, Unstructured())

    def pool(self, scores):
        """Returns `{path: scores of the units of its matrix}`."""
        return {
            path: applied.pool(
                self._pooled[path], self.matrices[path].of(values)
            )
            for path, values in scores.items()
        }

    def pool_masks(self, masks):
        """Returns `{path: which units of its matrix still keep anything}`."""
        return {
            path: applied.pool_mask(
                self._pooled[path], self.matrices[path].of(mask)
            )
            for path, mask in masks.items()
        }

    def spread(self, units, beside):
        """Returns `{path: mask}`."""
        masks = {}
        for path, kept in units.items():
            matrix = self.matrices[path]
            layout = split.layout(beside[path])
            mask = applied.expand(
                self._pooled[path], kept, matrix.shape, matrix.layout(layout)
            )
            masks[path] = matrix.back(mask, layout)
        return masks


def _owned(model, chosen):
    """`{path: (layer, name of its attribute, variable)}`."""
    owners = selection.owners_of(model)
    return {
        path: (*owners.get(id(variable), (None, "")), variable)
        for path, variable in chosen.variables.items()
    }


def contracted(model, chosen):
    """`{path: (layer, axes that it sums over)}`; `None` if not known."""
    return {
        path: (layer, layers.contracted_axes(layer, name, len(kernel.shape)))
        for path, (layer, name, kernel) in _owned(model, chosen).items()
    }


def _matrix_rows(layer, name, rank):
    """The axes of a kernel that are summed over, if it is one matrix."""
    if not isinstance(layer, (keras.layers.Dense, keras.layers.EinsumDense)):
        return None
    if isinstance(layer, keras.layers.EinsumDense):
        given, kernel, result = layer.equation.replace("->", ",").split(",")
        if set(kernel) & set(given) & set(result):
            return None  # a batch of products
    return layers.contracted_axes(layer, name, rank)
