"""Masks from scores: exact counts, ties, structures, fast selection.

Pure functions on NumPy arrays. A mask is a bool array of its weight's shape,
`True` where the weight is kept. Whether a score is kept, how many survive and
who wins a tie is decided here and nowhere else.
"""

import keras
import numpy as np

from keras_app.checks import check_int
from keras_app.checks import check_sparsity

# Entries handled at a time. The temporaries of one chunk stay in the cache
# and far below the size of the scores, whatever the model's size.
_CHUNK = 1 << 18

# Up to here a threshold is found by partitioning everything.
_SMALL = 1 << 16


def mask_from_scores(
    scores, sparsity, structure=None, ties="exact", previous=None
):
    """Prunes the `int(sparsity * N)` entries with the smallest scores.

    One tensor, or several with one threshold for all of them. The cost is two
    passes over the scores and one to write the masks, without a sort and
    without a concatenation.

    Args:
        scores: Array of one tensor, or a dict or list of arrays; larger is
            kept. Any real dtype.
        sparsity: Fraction to prune, in [0, 1]. `N` counts the entries of all
            tensors, or their units where a `structure` is given.
        structure: `None` (every entry by itself), or one of `NM`, `Block`,
            `Channel`.
        ties: `"exact"` prunes exactly k entries; among equal scores the
            earlier tensor goes first, then the lower flat index. `"le"`
            prunes every score at or below the k-th smallest, which can be
            more. Defaults to `"exact"`.
        previous: Masks in the same container. What they prune stays pruned
            and counts as the first of the k; a k below their number keeps
            them as they are. Defaults to `None`: scores alone decide.

    Returns:
        Bool masks, `True` kept, in the container of `scores`.

    Raises:
        ValueError: For NaN scores, unknown `ties`, a sparsity outside [0, 1],
            or `previous` masks of another shape.

    Example:

    >>> mask_from_scores(np.array([0.3, 0.1, 0.2, 0.4]), 0.5)
    array([ True, False, False,  True])
    """
    sparsity = check_sparsity("sparsity", sparsity, allow_one=True)
    if ties not in ("exact", "le"):
        raise ValueError(
            f"`ties` must be 'exact' or 'le'. Received: ties={ties!r}"
        )
    structure = Unstructured() if structure is None else structure
    if not isinstance(structure, _Structure):
        raise TypeError(
            "`structure` must be None, or one of NM, Block, Channel. "
            f"Received: structure={structure!r}"
        )
    names, arrays = _unpack(scores)
    arrays = [_as_scores(name, array) for name, array in zip(names, arrays)]
    previous = _check_previous(names, arrays, scores, previous)
    if isinstance(structure, NM):
        masks = [
            structure.mask(array, sparsity, old)
            for array, old in zip(arrays, previous)
        ]
        return _pack(scores, masks)
    units = [structure.pool(array) for array in arrays]
    old_units = [
        None if old is None else structure.pool_mask(old) for old in previous
    ]
    unit_masks = _prune_smallest(units, sparsity, ties, old_units)
    masks = [
        structure.expand(mask, array.shape)
        for mask, array in zip(unit_masks, arrays)
    ]
    # A unit that is kept may hold single weights that were pruned before.
    masks = [
        mask if old is None else mask & old
        for mask, old in zip(masks, previous)
    ]
    return _pack(scores, masks)


def _unpack(container):
    if isinstance(container, dict):
        return list(container), list(container.values())
    if isinstance(container, (list, tuple)):
        return list(range(len(container))), list(container)
    return ["scores"], [container]


def _pack(container, values):
    if isinstance(container, dict):
        return dict(zip(container, values))
    if isinstance(container, (list, tuple)):
        return type(container)(values)
    return values[0]


def _as_scores(name, array):
    if not isinstance(array, np.ndarray):
        array = keras.ops.convert_to_numpy(array)
    if array.dtype not in (np.float32, np.float64):
        # Half precisions and integers embed exactly in these two.
        wide = np.float32 if array.dtype.itemsize <= 2 else np.float64
        array = array.astype(wide)
    # A chunk with a NaN has a NaN minimum; no mask of that size is made.
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        if np.isnan(np.min(flat[start : start + _CHUNK])):
            raise ValueError(
                f"`scores` must not contain NaN. Received NaN in {name!r}; did "
                "the training diverge, or the loss overflow?"
            )
    return array


def _check_previous(names, arrays, scores, previous):
    if previous is None:
        return [None] * len(arrays)
    if isinstance(scores, dict) != isinstance(previous, dict):
        raise ValueError(
            "`previous` must be in the same container as `scores`. "
            f"Received: {type(previous).__name__}"
        )
    if isinstance(scores, dict):
        if set(previous) != set(names):
            raise ValueError(
                "`previous` must have the names of `scores`. Received: "
                f"{list(previous)} for scores of {names}"
            )
        olds = [previous[name] for name in names]
    else:
        olds = _unpack(previous)[1]
    olds = [np.asarray(old).astype(bool, copy=False) for old in olds]
    shapes = [array.shape for array in arrays]
    if [old.shape for old in olds] != shapes:
        raise ValueError(
            "`previous` must have the shapes of `scores`. Received: "
            f"{[old.shape for old in olds]} for scores of {shapes}"
        )
    return olds


def _prune_smallest(arrays, sparsity, ties, previous):
    total = sum(array.size for array in arrays)
    # In double precision and this order: (1 - 0.8) * 1000 prunes 199.
    k = int(sparsity * total)
    gone = sum(
        old.size - int(np.count_nonzero(old))
        for old in previous
        if old is not None
    )
    if k <= gone:
        return [
            np.ones(array.shape, bool) if old is None else old.copy()
            for array, old in zip(arrays, previous)
        ]
    flats = [array.reshape(-1) for array in arrays]
    plays = [None if old is None else old.reshape(-1) for old in previous]
    threshold, below = _kth_smallest(flats, plays, k - gone)
    ties_to_prune = k - gone - below
    masks = []
    for array, flat, play in zip(arrays, flats, plays):
        mask = flat > threshold
        if play is not None:
            mask &= play
        if ties == "exact":
            ties_to_prune = _keep_later_ties(
                mask, flat, play, threshold, ties_to_prune
            )
        masks.append(mask.reshape(array.shape))
    return masks


def _keep_later_ties(mask, flat, play, threshold, ties_to_prune):
    """Keeps all ties but the first `ties_to_prune`; returns how many remain."""
    for start in range(0, flat.size, _CHUNK):
        here = slice(start, start + _CHUNK)
        tied = flat[here] == threshold
        if play is not None:
            tied &= play[here]
        count = int(np.count_nonzero(tied))
        if 0 < ties_to_prune < count:
            tied[np.flatnonzero(tied)[:ties_to_prune]] = False
        if count > ties_to_prune:
            mask[here] |= tied
        ties_to_prune = max(0, ties_to_prune - count)
    return ties_to_prune


def _chunks(flats, plays):
    for flat, play in zip(flats, plays):
        for start in range(0, flat.size, _CHUNK):
            chunk = flat[start : start + _CHUNK]
            if play is not None:
                chunk = chunk[play[start : start + _CHUNK]]
            yield chunk


def _kth_smallest(flats, plays, k):
    """The k-th smallest value in play (1-based), and how many are below it.

    The quantiles of a sample bracket the k-th; only what lies between them,
    a few entries in a hundred, is gathered and partitioned. The bracket
    is checked by counting, so that chance decides the cost and never the
    result.
    """
    low, high = _bracket(flats, plays, k)
    found = _gather(flats, plays, low, high)
    if not found[0] < k <= found[0] + found[1]:
        low, high = -np.inf, np.inf
        found = _gather(flats, plays, low, high)
    below, inside, candidates = found
    if low == high:
        return low, below
    position = k - below - 1
    candidates.partition(position)
    threshold = candidates[position]
    below += int(np.count_nonzero(candidates[:position] < threshold))
    return threshold, below


def _bracket(flats, plays, k):
    in_play = sum(
        flat.size if play is None else int(np.count_nonzero(play))
        for flat, play in zip(flats, plays)
    )
    total = sum(flat.size for flat in flats)
    if in_play <= _SMALL:
        return -np.inf, np.inf
    # Balances sorting the sample against gathering what it brackets.
    size = int(in_play ** (2 / 3))
    generator = np.random.default_rng(0)
    parts = []
    for flat, play in zip(flats, plays):
        # At random places: a stride could fall in step with the channels.
        share = max(1, round(size * flat.size / total))
        places = generator.integers(0, flat.size, share)
        part = flat[places]
        parts.append(part if play is None else part[play[places]])
    sample = np.sort(np.concatenate(parts))
    if not sample.size:
        return -np.inf, np.inf
    # Five standard deviations of a sampled rank on either side.
    rank = sample.size * (k - 0.5) / in_play
    margin = 5 * np.sqrt(rank * (1 - rank / sample.size)) + 5
    first, last = int(rank - margin), int(rank + margin)
    low = sample[first] if first >= 0 else -np.inf
    high = sample[last] if last < sample.size else np.inf
    return low, high


def _gather(flats, plays, low, high):
    """Count below `low`; count and values of what lies in [low, high]."""
    below = 0
    inside = 0
    for chunk in _chunks(flats, plays):
        at_least = chunk >= low
        below += chunk.size - int(np.count_nonzero(at_least))
        at_least &= chunk <= high
        inside += int(np.count_nonzero(at_least))
    if low == high:
        # All of them are equal: there is nothing to partition.
        return below, inside, None
    # Counted first, so that the values are held once.
    dtype = np.result_type(*[flat.dtype for flat in flats])
    candidates = np.empty(inside, dtype)
    filled = 0
    for chunk in _chunks(flats, plays):
        found = chunk[(chunk >= low) & (chunk <= high)]
        candidates[filled : filled + found.size] = found
        filled += found.size
    return below, inside, candidates


class _Structure:
    """What is pruned together. Value objects: equal if their configs are."""

    def get_config(self):
        """Returns the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config):
        """Builds the structure that `get_config` described."""
        return cls(**config)

    def __eq__(self, other):
        return (
            type(self) is type(other)
            and self.get_config() == other.get_config()
        )

    def __hash__(self):
        return hash((type(self), str(self.get_config())))

    def __repr__(self):
        args = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({args})"


@keras.saving.register_keras_serializable(package="keras_app")
class Unstructured(_Structure):
    """Every weight by itself."""

    def pool(self, scores):
        """Returns the score of each unit: here each entry's own."""
        return scores

    def pool_mask(self, mask):
        """Returns which units still keep anything."""
        return mask

    def expand(self, unit_mask, shape):
        """Returns the mask of shape `shape` for the units that are kept."""
        return unit_mask


@keras.saving.register_keras_serializable(package="keras_app")
class Channel(_Structure):
    """Whole channels, scored by the sum of the scores over the channel.

    Args:
        axis: Axis of the channels. Defaults to `-1`, the output channels or
            neurons of Keras's kernels.

    Example:

    >>> scores = np.array([[1.0, 5.0, 2.0], [1.0, 5.0, 2.0]])
    >>> mask_from_scores(scores, 0.34, structure=Channel())
    array([[False,  True,  True],
           [False,  True,  True]])
    """

    def __init__(self, axis=-1):
        if not isinstance(axis, int):
            raise TypeError(f"`axis` must be an integer. Received: axis={axis}")
        self.axis = axis

    def get_config(self):
        """Returns the constructor's arguments."""
        return {"axis": self.axis}

    def _other_axes(self, ndim):
        if not -ndim <= self.axis < ndim:
            raise ValueError(
                f"`axis` must be an axis of the weight. Received: "
                f"axis={self.axis} for a weight of rank {ndim}"
            )
        return tuple(i for i in range(ndim) if i != self.axis % ndim)

    def pool(self, scores):
        """Returns the sum of the scores over each channel."""
        # Accumulated in double: the order of a float32 sum differs between
        # platforms and would move the threshold.
        return scores.sum(self._other_axes(scores.ndim), dtype=np.float64)

    def pool_mask(self, mask):
        """Returns which channels still keep anything."""
        return mask.any(self._other_axes(mask.ndim))

    def expand(self, unit_mask, shape):
        """Returns the mask of shape `shape` for the channels kept."""
        view = [1] * len(shape)
        view[self.axis] = shape[self.axis]
        return np.broadcast_to(unit_mask.reshape(view), shape).copy()


@keras.saving.register_keras_serializable(package="keras_app")
class Block(_Structure):
    """Blocks over the last two axes of a kernel.

    Blocks at a ragged edge are smaller and are pooled over the entries that
    exist, so that a padding never makes them look weak.

    Args:
        block_shape: `(rows, columns)` of a block, both >= 1.
        pooling: `"avg"` or `"max"`: how the scores of a block become one.
            Defaults to `"avg"`.

    Example:

    >>> scores = np.array([[1.0, 1.0, 9.0], [1.0, 1.0, 9.0]])
    >>> mask_from_scores(scores, 0.5, structure=Block((2, 2)))
    array([[False, False,  True],
           [False, False,  True]])
    """

    def __init__(self, block_shape, pooling="avg"):
        if len(tuple(block_shape)) != 2:
            raise ValueError(
                "`block_shape` must be two integers. "
                f"Received: block_shape={block_shape}"
            )
        self.block_shape = tuple(
            check_int("block_shape", size, 1) for size in block_shape
        )
        if pooling not in ("avg", "max"):
            raise ValueError(
                f"`pooling` must be 'avg' or 'max'. Received: {pooling!r}"
            )
        self.pooling = pooling

    def get_config(self):
        """Returns the constructor's arguments."""
        return {"block_shape": list(self.block_shape), "pooling": self.pooling}

    def _starts(self, shape):
        if len(shape) < 2:
            raise ValueError(
                "`Block` needs weights of rank 2 or more. "
                f"Received: a weight of shape {shape}"
            )
        rows, columns = self.block_shape
        return (
            np.arange(0, shape[-2], rows),
            np.arange(0, shape[-1], columns),
        )

    def pool(self, scores):
        """Returns the pooled score of each block."""
        rows, columns = self._starts(scores.shape)
        reduce = np.add if self.pooling == "avg" else np.maximum
        wide = np.float64 if self.pooling == "avg" else scores.dtype
        pooled = reduce.reduceat(scores.astype(wide), rows, axis=-2)
        pooled = reduce.reduceat(pooled, columns, axis=-1)
        if self.pooling == "avg":
            height = np.diff(np.append(rows, scores.shape[-2]))
            width = np.diff(np.append(columns, scores.shape[-1]))
            pooled = pooled / np.outer(height, width)
        return pooled

    def pool_mask(self, mask):
        """Returns which blocks still keep anything."""
        rows, columns = self._starts(mask.shape)
        pooled = np.logical_or.reduceat(mask, rows, axis=-2)
        return np.logical_or.reduceat(pooled, columns, axis=-1)

    def expand(self, unit_mask, shape):
        """Returns the mask of shape `shape` for the blocks kept."""
        rows, columns = self.block_shape
        mask = np.repeat(unit_mask, rows, axis=-2)[..., : shape[-2], :]
        return np.repeat(mask, columns, axis=-1)[..., : shape[-1]].copy()


@keras.saving.register_keras_serializable(package="keras_app")
class NM(_Structure):
    """Keeps `n` of every `m` consecutive entries along an axis.

    The ratio is fixed: any sparsity above 0 gives n:m, 0 keeps everything.
    Where m does not divide the axis, the shorter last group keeps its `n`
    best as well (all of them, if it has no more).

    Args:
        n: Entries **kept** in each group, 1 <= n <= m.
        m: Size of a group, >= 1.
        axis: Axis along which groups lie. Defaults to `-1`.

    Example:

    >>> mask_from_scores(np.array([4.0, 1.0, 3.0, 2.0]), 0.5, NM(2, 4))
    array([ True, False,  True, False])
    """

    def __init__(self, n, m, axis=-1):
        self.m = check_int("m", m, 1)
        self.n = check_int("n", n, 1)
        if self.n > self.m:
            raise ValueError(
                "`n` must be <= `m`: n entries are kept of every m. "
                f"Received: n={n}, m={m}"
            )
        if not isinstance(axis, int):
            raise TypeError(f"`axis` must be an integer. Received: axis={axis}")
        self.axis = axis

    def get_config(self):
        """Returns the constructor's arguments."""
        return {"n": self.n, "m": self.m, "axis": self.axis}

    def sparsity_of(self, shape):
        """Returns the sparsity that n:m gives a weight of this shape."""
        length = shape[self.axis]
        full, rest = divmod(length, self.m)
        return 1.0 - (full * self.n + min(rest, self.n)) / length

    def mask(self, scores, sparsity, previous=None):
        """Returns the n:m mask of one tensor."""
        if sparsity == 0:
            return (
                np.ones(scores.shape, bool)
                if previous is None
                else previous.copy()
            )
        if not -scores.ndim <= self.axis < scores.ndim:
            raise ValueError(
                f"`axis` must be an axis of the weight. Received: "
                f"axis={self.axis} for a weight of shape {scores.shape}"
            )
        # The padding below is -inf and must lose to every score.
        ranked = np.maximum(scores, -np.finfo(np.float64).max)
        if previous is not None:
            ranked[~previous] = -np.inf
        rows = np.moveaxis(ranked, self.axis, -1)
        length = rows.shape[-1]
        padding = -length % self.m
        # Padding ranks below everything, so that it never takes a place.
        rows = np.concatenate(
            [rows, np.full((*rows.shape[:-1], padding), -np.inf)], axis=-1
        )
        groups = rows.reshape(-1, self.m)
        # Stable: of equal scores the lower index is pruned, as everywhere.
        pruned = np.argsort(groups, axis=-1, kind="stable")
        pruned = pruned[:, : self.m - self.n]
        mask = np.ones(groups.shape, bool)
        np.put_along_axis(mask, pruned, False, axis=-1)
        mask = mask.reshape(rows.shape)[..., :length]
        mask = np.ascontiguousarray(np.moveaxis(mask, -1, self.axis))
        if previous is not None:
            mask &= previous
        return mask
