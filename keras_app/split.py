"""Arrays that lie split over several devices, and what is asked of them there.

Under `keras.distribution.ModelParallel` no device holds a whole weight, and
the host may have no room for it. What is computed of such a weight stays a
`jax.Array`, split alike; only numbers come to the host. All other arrays are
NumPy's, whose work on a CPU's memory is faster than that of the backends.

On a CPU, XLA takes numbers below the smallest normal one for zero. Whether an
entry is zero, and which of two is larger, is therefore told from their bits.
"""

import contextlib
import functools

import numpy as np
from keras import ops

from keras_app import host


def is_split(value):
    """Whether a variable or an array lies in parts on several devices.

    Copies of the whole on each of them, as of data parallelism, are no parts.
    """
    value = getattr(value, "value", value)
    if host.BACKEND != "jax" or _is_traced(value):
        return False
    sharding = getattr(value, "sharding", None)
    return sharding is not None and not sharding.is_fully_replicated


def read(variable):
    """A variable's values: in NumPy, or where it is split, where they lie.

    A training step may take the memory of what lies on devices: `copy` what is
    to be kept.
    """
    if is_split(variable):
        return getattr(variable, "value", variable)
    return ops.convert_to_numpy(variable)


def copy(array):
    """Returns an array that no training step takes the memory of."""
    return array if isinstance(array, np.ndarray) else ops.copy(array)


def gathered(array):
    """Returns an array whose parts, if it is split, are brought to the host."""
    return ops.convert_to_numpy(array) if is_split(array) else array


def whole(array):
    """Returns an array, of a few numbers, that lies whole on each device."""
    if not is_split(array):
        return array
    return _compiled_copy(named_sharding(array.sharding.mesh))(array)


def layout(array):
    """Returns the `jax.sharding.NamedSharding` of what is split.

    `None` of other variables and arrays.
    """
    if not is_split(array):
        return None
    return getattr(array, "value", array).sharding


def numpy_of(*arrays):
    """The module whose functions take the arrays.

    `jax.numpy` where one of them is split, or is traced by a compiled function;
    else `numpy`.
    """
    if not any(is_split(array) or _is_traced(array) for array in arrays):
        return np
    import jax

    return jax.numpy


def like(array, other):
    """Returns an array, split as another one is if that one is split."""
    if is_split(array) or not is_split(other):
        return array
    import jax

    with in_64_bits():
        return jax.device_put(array, other.sharding)


def precisely(*arrays):
    """A context in which JAX computes in double precision what it is asked to.

    NumPy always does. Nothing changes where none of the arrays is split.
    """
    split = any(map(is_split, arrays))
    return in_64_bits() if split else contextlib.nullcontext()


def in_64_bits():
    """A context in which JAX has integers and floats of 64 bits."""
    import jax

    return jax.enable_x64(True)


def nonzero(array):
    """Returns which entries are not zero, however small."""
    return _nonzero(array) if is_split(array) else array != 0


def count(array):
    """Returns how many entries are not zero, as an int."""
    if not is_split(array):
        return int(np.count_nonzero(array))
    with in_64_bits():
        return int(_compiled_count()(array))


def any_of(array):
    """Returns whether any entry is not zero, as a bool."""
    return bool(array.any()) if not is_split(array) else count(array) > 0


def all_finite(array):
    """Returns whether no entry is infinite or no number, as a bool."""
    with precisely(array):
        return bool(numpy_of(array).isfinite(array).all())


# ---- in JAX, compiled or not -----------------------------------------------


def method_for(layout, owner, method, *args):
    """Returns a pure method of arrays, compiled if they are split.

    It is compiled once for all owners that are equal; on the host nothing is
    kept.

    Args:
        layout: The `layout` of the array that it returns; with `None` the
            method is returned as it is, for arrays of NumPy.
        owner: The object; to be compiled, one with a hash by value.
        method: Its name.
        *args: What it takes after the arrays; must have a hash.
    """
    if layout is None:
        return lambda *arrays: getattr(owner, method)(*arrays, *args)
    return _compiled_method(layout, owner, method, args)


def named_sharding(mesh, axes=()):
    """A `jax.sharding.NamedSharding`; by default of what lies whole.

    Args:
        mesh: The `jax.sharding.Mesh`.
        axes: For each axis of an array the names, in a tuple, of the axes of
            the mesh that it is split over.
    """
    import jax

    spec = jax.sharding.PartitionSpec(*(each or None for each in axes))
    return jax.sharding.NamedSharding(mesh, spec)


def axes_of(layout, rank):
    """Returns what `named_sharding` calls `axes`, a list, of a layout."""
    spec = [*layout.spec, *[None] * (rank - len(layout.spec))]
    return [
        (each,) if isinstance(each, str) else tuple(each or ()) for each in spec
    ]


def widened(array):
    """Returns floats of JAX in double precision, however small.

    On a CPU a conversion loses the smallest numbers of single precision. Arrays
    of NumPy, whose functions widen them, are returned as they are.
    """
    if isinstance(array, np.ndarray) or array.dtype.itemsize == 8:
        return array
    import jax

    bits = bits_of(array).astype("uint32")
    if array.dtype.itemsize == 2:
        bits = bits << 16  # of a bfloat16, the upper half of a float32
    single = jax.lax.bitcast_convert_type(bits, "float32")
    small = (bits & 0x7FFFFF).astype("float64") * 2.0**-149
    small = jax.numpy.where(bits >> 31 == 1, -small, small)
    return jax.numpy.where(
        (bits >> 23) & 0xFF == 0, small, single.astype("float64")
    )


def bits_of(array):
    """The bits of floats as unsigned integers of their size."""
    import jax

    size = 8 * array.dtype.itemsize
    return jax.lax.bitcast_convert_type(array, f"uint{size}")


def total(flags):
    """The number of `True`, exact beyond what 32 bits hold.

    Of rows first, because most devices are slow at wide integers.
    """
    rows = flags.reshape(1) if flags.ndim == 0 else flags
    return rows.sum(-1, dtype="int32").sum(dtype="int64")


def _nonzero(array):
    if array.dtype.kind in "biu":
        return array != 0
    # Without the sign, so that -0.0 is zero.
    return bits_of(array) << 1 != 0


def _is_traced(value):
    """Whether it stands for an array in a function that JAX compiles."""
    if host.BACKEND != "jax":
        return False
    import jax

    return isinstance(value, jax.core.Tracer)


@functools.cache
def _compiled_method(layout, owner, method, args):
    import jax

    function = getattr(owner, method)
    compiled = jax.jit(
        lambda *arrays: function(*arrays, *args), out_shardings=layout
    )

    def in_double_precision(*arrays):
        with in_64_bits():
            return compiled(*arrays)

    return in_double_precision


@functools.cache
def _compiled_copy(layout):
    import jax

    return jax.jit(lambda array: array, out_shardings=layout)


@functools.cache
def _compiled_count():
    import jax

    return jax.jit(lambda array: total(_nonzero(array)))
