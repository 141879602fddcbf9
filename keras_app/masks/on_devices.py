"""Exact selection of arrays that are split over devices, where they lie.

The rule is that of `exact_k`, bit for bit. Instead of sorting, or gathering
what may be the threshold, one counts: with one bit more in each pass, how many
scores are below. Among those equal to the threshold the same finds the place
up to which they are pruned. Each pass reads what a device holds and adds up one
number over all of them, so that nothing but numbers ever leaves a device.
"""

import functools

import numpy as np

from keras_app import split
from keras_app.masks.exact_k import DegenerateScores


def as_scores(name, array, old=None):
    """Returns scores on the devices, without a NaN.

    Args:
        name: Name of the array, for the message.
        array: The scores. What lies on the host goes where `old` lies.
        old: The mask before, or `None`.
    """
    import jax

    array = array if old is None else split.like(array, old)
    with split.in_64_bits():
        array = jax.numpy.asarray(array)
        if array.dtype.itemsize <= 2 and array.dtype != jax.numpy.bfloat16:
            array = array.astype("float32")
        elif array.dtype.kind in "iu":
            array = array.astype("float64")
        if bool(jax.numpy.isnan(array).any()):
            raise DegenerateScores.of_nan(name)
    return array


def prune_smallest(arrays, sparsity, ties, previous):
    """Prunes as `exact_k.prune_smallest` does, whose arguments these are.

    The cost is a pass over the scores for each of their bits, and where ties
    are to be divided one for each bit of a flat index.
    """
    k = int(sparsity * sum(array.size for array in arrays))
    layouts = [split.layout(array) for array in arrays]
    with split.in_64_bits():
        choose = compiled(ties == "exact", tuple(layouts))
        masks = choose(arrays, previous, np.int64(k))
    # What lay whole on the host comes back there.
    return [
        mask if layout else np.array(mask)
        for mask, layout in zip(masks, layouts)
    ]


@functools.cache
def compiled(exact, layouts):
    """A compiled function of scores, masks before, and k, an int64.

    Args:
        exact: Whether ties are divided.
        layouts: The `jax.sharding.Sharding` of each mask; `None` for whole.
    """
    import jax

    # On the mesh of the others.
    mesh = next(layout.mesh for layout in layouts if layout)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    chosen = functools.partial(_chosen, exact)
    return jax.jit(chosen, out_shardings=[each or whole for each in layouts])


def best_of_groups(scores, previous, n, m, axis):
    """Keeps the `n` best of every `m` entries along an axis; under 64 bits.

    Args:
        scores: The scores.
        previous: The mask before, or `None`.
        n, m, axis: As of `NM`.
    """
    import jax
    import jax.numpy as jnp

    axis %= scores.ndim
    keys = _keys(scores, 64 if scores.dtype == jnp.float64 else 32)
    # Below those of all scores: what is pruned, and what fills the last group.
    lowest = jnp.zeros((), keys.dtype)
    keys = keys if previous is None else jnp.where(previous, keys, lowest)
    groups = grouped(keys, m, axis, lowest)
    # How many of its group go before each entry: along an axis of their own.
    mine = jnp.expand_dims(groups, axis + 1)
    others = jnp.expand_dims(groups, axis + 2)
    pair = (1,) * (axis + 1) + (m, m) + (1,) * (scores.ndim - axis - 1)
    place = jax.lax.broadcasted_iota("int32", pair, axis + 2)
    other = jax.lax.broadcasted_iota("int32", pair, axis + 1)
    first = (others < mine) | ((others == mine) & (other < place))
    kept = first.sum(axis + 1, dtype="int32") >= m - n
    kept = kept.reshape(*kept.shape[:axis], -1, *kept.shape[axis + 2 :])
    return jax.lax.slice_in_dim(kept, 0, scores.shape[axis], axis=axis)


def grouped(array, size, axis, fill):
    """Makes an axis two: groups of `size` entries, and the entries of each.

    The last group is filled up with `fill`.
    """
    import jax.numpy as jnp

    padding = -array.shape[axis] % size
    pads = [(0, padding if i == axis else 0) for i in range(array.ndim)]
    shape = [*array.shape[:axis], -1, size, *array.shape[axis + 1 :]]
    return jnp.pad(array, pads, constant_values=fill).reshape(shape)


def _chosen(exact, arrays, previous, k):
    """The masks; under 64 bits."""
    import jax.numpy as jnp

    size = 64 if any(a.dtype == jnp.float64 for a in arrays) else 32
    parts = [_Part(*each, size) for each in zip(arrays, previous)]
    pruned = sum(part.size - part.in_play() for part in parts)
    k -= pruned

    def below(key):
        return sum(part.count(_is_less, key) for part in parts)

    threshold = _largest(f"uint{size}", size, lambda key: below(key) < k)
    to_prune = k - below(threshold)
    masks = []
    for part in parts:
        cut = part.size
        if exact:
            tied = part.count(_is_equal, threshold)
            cut = _cut(part, threshold, to_prune, tied)
            to_prune = jnp.maximum(to_prune - tied, 0)
        masks.append(part.mask(threshold, cut, k))
    return masks


def _is_less(keys, _, key):
    return keys < key


def _is_equal(keys, _, key):
    return keys == key


class _Part:
    """One of the arrays; what is asked of it is computed in one pass.

    Args:
        scores: The array.
        play: Which entries are not pruned yet; `None` for all.
        bits: Of the keys that it is ranked by.
    """

    def __init__(self, scores, play, bits):
        self._scores, self._play, self._bits = scores, play, bits
        self.size = scores.size
        self.place = "int32" if self.size < 2**31 else "int64"

    def in_play(self):
        """The number of entries that are not pruned yet."""
        return self.size if self._play is None else split.total(self._play)

    def count(self, test, number):
        """The number of entries in play for which `test(keys, places, number)`.

        Within a loop XLA would compute keys and places once, before it, and
        need room for them: the barrier makes them depend on what changes.
        """
        import jax

        held = self._scores, self._play, number, 1
        scores, play, number, one = jax.lax.optimization_barrier(held)
        flags = test(_keys(scores, self._bits), self.places(one), number)
        return split.total(flags if play is None else flags & play)

    def places(self, one=1):
        """The flat index of each entry, times one."""
        import jax
        import jax.numpy as jnp

        shape = self._scores.shape
        found, stride = jnp.zeros(shape, self.place), 1
        for axis in reversed(range(len(shape))):
            step = jnp.asarray(stride * one, self.place)
            found += step * jax.lax.broadcasted_iota(self.place, shape, axis)
            stride *= shape[axis]
        return found

    def mask(self, threshold, cut, k):
        """What is above a threshold, or tied with it from a place `cut` on.

        With nothing to prune, what was in play stays.
        """
        keys = _keys(self._scores, self._bits)
        tied = (keys == threshold) & (self.places() >= cut)
        kept = (keys > threshold) | tied | (k <= 0)
        return kept if self._play is None else kept & self._play


def _cut(part, threshold, wanted, tied):
    """The place before which are the first `wanted` of so many ties."""
    import jax
    import jax.numpy as jnp

    def fewer_before(place):
        def test(keys, places, place):
            return (keys == threshold) & (places < place)

        return part.count(test, place) < wanted

    def search():
        # The last of them stands at the last place before which are fewer.
        last = _largest(part.place, part.size.bit_length(), fewer_before)
        return 1 + last.astype("int64")

    return jax.lax.cond(
        (0 < wanted) & (wanted < tied),
        search,
        lambda: jnp.where(wanted > 0, jnp.int64(part.size), jnp.int64(0)),
    )


def _keys(scores, size):
    """Unsigned integers that rank as the scores do, with one zero."""
    import jax.numpy as jnp

    if scores.dtype == jnp.bfloat16 and size == 32:
        # The upper half of a float32; conversion would lose small numbers.
        bits = split.bits_of(scores).astype("uint32") << 16
    else:
        bits = split.bits_of(scores.astype(f"float{size}"))
    sign = jnp.array(1 << (size - 1), bits.dtype)
    bits = jnp.where(bits == sign, jnp.zeros((), bits.dtype), bits)
    return jnp.where(bits >= sign, ~bits, bits | sign)


def _largest(dtype, bits, holds):
    """The largest integer of so many bits for which `holds`; it does for 0."""
    import jax
    import jax.numpy as jnp

    def with_one_bit_more(i, found):
        last = jnp.array(bits - 1, dtype)
        tried = found | (jnp.array(1, dtype) << (last - i.astype(dtype)))
        return jnp.where(holds(tried), tried, found)

    return jax.lax.fori_loop(0, bits, with_one_bit_more, jnp.zeros((), dtype))
