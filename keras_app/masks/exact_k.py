"""How many entries are pruned, which of them, and how they are found fast.

Pure functions on NumPy arrays. Whether a score is kept, how many survive and
who wins a tie is decided here and nowhere else.
"""

from typing import Self

import keras
import numpy as np

# Entries handled at a time. The temporaries of one chunk stay in the cache
# and far below the size of the scores, whatever the model's size.
CHUNK = 1 << 18

# Up to here a threshold is found by partitioning everything.
_SMALL = 1 << 16


class DegenerateScores(ValueError):
    """Scores that say nothing, most often of a training that diverged."""

    @classmethod
    def of_nan(cls, name: str) -> Self:
        """Returns the error that tells of a NaN in the scores of that name."""
        return cls(
            f"`scores` must not contain NaN. Received NaN in {name!r}; did "
            "the training diverge, or the loss overflow?"
        )


def as_scores(name, array):
    """Returns scores as an array of float32 or float64, without a NaN."""
    if not isinstance(array, np.ndarray):
        array = keras.ops.convert_to_numpy(array)
    if array.dtype not in (np.float32, np.float64):
        # Half precisions and integers embed exactly in these two.
        wide = np.float32 if array.dtype.itemsize <= 2 else np.float64
        array = array.astype(wide)
    # A chunk with a NaN has a NaN minimum; no mask of that size is made.
    flat = array.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        if np.isnan(np.min(flat[start : start + CHUNK])):
            raise DegenerateScores.of_nan(name)
    return array


def prune_smallest(arrays, sparsity, ties, previous):
    """Prunes the smallest entries of arrays that share one threshold.

    The cost is two passes over the scores and one to write the masks, without a
    sort and without a concatenation.

    Args:
        arrays: Scores, of `as_scores`.
        sparsity: Fraction of all entries to prune, in [0, 1].
        ties: `"exact"` or `"le"`, as in `mask_from_scores`.
        previous: The mask before of each array, or `None`.

    Returns:
        A list of masks.
    """
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
    for start in range(0, flat.size, CHUNK):
        here = slice(start, start + CHUNK)
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
        for start in range(0, flat.size, CHUNK):
            chunk = flat[start : start + CHUNK]
            if play is not None:
                chunk = chunk[play[start : start + CHUNK]]
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
