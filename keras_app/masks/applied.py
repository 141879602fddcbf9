"""What a structure says about an array, said where the array lies.

Of arrays in NumPy the structure says it on the host. Of an array that is split
over devices its methods are compiled, and what they return stays split along
the same axes; only vectors, as the scores of channels are, come to the host.
"""

import functools
import math

import numpy as np

from keras_app import split
from keras_app.masks import on_devices


def pool(structure, scores):
    """Returns the score of each unit."""
    return _pooled(structure, "pool", scores)


def pool_mask(structure, mask):
    """Returns which units still keep anything."""
    return _pooled(structure, "pool_mask", mask)


def expand(structure, unit_mask, shape, layout):
    """Returns the mask of an array, for the units that are kept.

    Args:
        structure: The `Structure`.
        unit_mask: Bool array, `True` kept.
        shape: Shape of the array.
        layout: Its `split.layout`.
    """
    if not structure.pools:
        return structure.expand(unit_mask, shape)
    return split.method_for(layout, structure, "expand", shape)(unit_mask)


def reduced(array, size, axis, is_sum):
    """Returns sums, or maxima, of groups of so many entries along an axis."""
    if isinstance(array, np.ndarray):
        reduce = np.add if is_sum else np.maximum
        starts = np.arange(0, array.shape[axis], size)
        return reduce.reduceat(array, starts, axis=axis)
    axis %= array.ndim
    fill = 0.0 if is_sum else -np.inf
    groups = on_devices.grouped(array, size, axis, fill)
    return groups.sum(axis + 1) if is_sum else groups.max(axis + 1)


def _pooled(structure, method, array):
    if not (structure.pools and split.is_split(array)):
        return getattr(structure, method)(array)
    layout = _layout_of_units(
        structure, method, array.shape, array.dtype, array.sharding
    )
    return split.read(split.method_for(layout, structure, method)(array))


@functools.cache
def _layout_of_units(structure, method, shape, dtype, layout):
    import jax

    array = jax.ShapeDtypeStruct(shape, dtype)
    with split.in_64_bits():
        units = jax.eval_shape(getattr(structure, method), array).shape
    if len(units) != len(shape) or len(units) < 2:
        return split.named_sharding(layout.mesh)
    axes = split.axes_of(layout, len(shape))
    parts = layout.mesh.shape
    for axis, names in enumerate(axes):
        if units[axis] % math.prod(parts[name] for name in names):
            axes[axis] = ()
    return split.named_sharding(layout.mesh, axes)
