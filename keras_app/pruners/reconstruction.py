"""SparseGPT's solver: matrices that lose weights and move the others.

Pure functions on NumPy arrays. Matrices are `(groups, inputs, outputs)`, one
group but for grouped products; H holds the sums of products of their inputs,
`(groups, inputs, inputs)`. What a change E of the weights does to the outputs
is

    ||X (W - W')||^2 = sum of E * (H E),  E = W - W',  H = X^T X
"""

import numpy as np

from keras_app import masks as masks_lib
from keras_app.pruners.calibrated import ranks_within_outputs

# The authors' 128 inputs are a sixteenth of a layer, or less. Where they are
# half of a small one, masks are chosen that no update has been seen by, and the
# error doubles.
_BLOCKS = 16


def error(change, hessians):
    """Returns the sum of squares that a change of weights makes in outputs."""
    return float(np.sum(change * (hessians @ change)))


def saliencies(weights, hessians, dampening):
    """Returns w^2 / [H^-1]_ii: what it costs to lose one weight alone."""
    costs = np.empty(weights.shape)
    for group, (w, hessian) in enumerate(zip(weights, hessians)):
        upper = _inverse_factor(hessian, dampening)
        costs[group] = w**2 / np.square(upper).sum(axis=0)[:, None]
    return costs


def reconstructed(
    weights, hessians, sparsity, structure, kept, block_size, dampening
):
    """Prunes, and moves what is kept so that the outputs change little.

    Never worse than to prune by magnitude or as Wanda does, and to move
    nothing: of the three the one with the smallest `error` is taken.

    Args:
        weights: Array `(groups, inputs, outputs)` of float64.
        hessians: Array `(groups, inputs, inputs)`.
        sparsity: In [0, 1).
        structure: `None`, or `NM` along the inputs of matrices, axis -2.
        kept: The mask before; what it prunes stays pruned.
        block_size: Inputs at a time, see `SparseGPTPruner`.
        dampening: See `SparseGPTPruner`.

    Returns:
        `(weights, mask)`; what is pruned is exactly zero.
    """
    dense = weights * kept
    magnitudes = np.abs(dense)
    norms = np.sqrt(np.diagonal(hessians, axis1=1, axis2=2))[..., None]
    alive = kept
    if structure is None:
        # Nothing is lost with what multiplies zeros.
        alive = _without_free(magnitudes, norms, sparsity, kept)
    found = _solved(
        dense, hessians, sparsity, structure, alive, block_size, dampening
    )
    by_inputs = magnitudes * norms
    if structure is None:
        by_inputs = np.where(kept, by_inputs, -1.0)
        by_inputs = ranks_within_outputs(by_inputs)
    candidates = [found]
    for scores in (magnitudes, by_inputs):
        mask = masks_lib.mask_from_scores(
            scores, sparsity, structure, previous=kept
        )
        candidates.append((dense * mask, mask))
    return min(candidates, key=lambda each: error(dense - each[0], hessians))


def _without_free(magnitudes, norms, sparsity, kept):
    """The mask without weights whose input is always zero, if so many go."""
    free = kept & (norms == 0)
    gone = kept.size - np.count_nonzero(kept & ~free)
    if gone <= int(sparsity * kept.size):
        return kept & ~free
    scores = np.where(free, magnitudes, np.inf)
    return masks_lib.mask_from_scores(scores, sparsity, previous=kept)


def _solved(
    weights, hessians, sparsity, structure, kept, block_size, dampening
):
    """SparseGPT itself, group by group."""
    size = min(block_size, -(-weights.shape[1] // _BLOCKS))
    if structure is not None:
        size = max(structure.m, size - size % structure.m)
    counts = None
    if structure is None:
        counts = _counts(kept, sparsity, size)
    weights, mask = weights * kept, kept.copy()
    for group, hessian in enumerate(hessians):
        upper = _inverse_factor(hessian, dampening)

        def pick(scores, before, start, group=group):
            share = sparsity
            if counts is not None:
                # Half a weight more, so that rounding down gives the count.
                share = (counts[group][start // size] + 0.5) / scores.size
            return masks_lib.mask_from_scores(
                scores, min(1.0, share), structure, previous=before
            )

        step = size if structure is None else structure.m
        _prune_rows(weights[group], mask[group], upper, pick, size, step)
    return weights, mask


def _prune_rows(w, mask, upper, pick, size, step):
    """Prunes one matrix in place, its inputs in order.

    Args:
        w: Weights `(inputs, outputs)`.
        mask: The mask before, which becomes the new one.
        upper: U with (H + damping)^-1 = U^T U.
        pick: `(scores, mask before, first row) -> mask` of some rows.
        size: Rows to a block. Rows after it are moved once, by all of it.
        step: Rows whose mask is picked at once, by the weights as they are
            when their turn comes.
    """
    for start in range(0, len(w), size):
        block = slice(start, start + size)
        here = upper[block, block]
        rows = w[block]
        diagonal = np.diag(here)[:, None]
        errors = np.zeros_like(rows)
        for i, row in enumerate(rows):
            if i % step == 0:
                now = slice(i, i + step)
                mask[block][now] = pick(
                    (rows[now] / diagonal[now]) ** 2,
                    mask[block][now],
                    start,
                )
            # err <- (w - q) / U_ii, q = 0 where it is pruned and w elsewhere
            errors[i] = np.where(mask[block][i], 0.0, row / diagonal[i])
            # w_j <- w_j - err U_ij, all that come after it
            rows[i:] -= np.outer(here[i, i:], errors[i])
            row[~mask[block][i]] = 0.0
        w[start + size :] -= upper[block, start + size :].T @ errors


def _counts(kept, sparsity, size):
    """How many are pruned in each block of each group, `int(s N)` in all.

    What is pruned already stays so, wherever it is; the rest is shared in
    proportion to what is left.
    """
    left = kept.sum(axis=2)
    starts = np.arange(0, left.shape[1], size)
    left = np.add.reduceat(left, starts, axis=1)
    rows = np.diff(np.append(starts, kept.shape[1]))
    gone = rows * kept.shape[2] - left
    more = max(0, int(sparsity * kept.size) - int(gone.sum()))
    # In whole numbers: the last sum is `more` exactly.
    sums = more * np.cumsum(left.reshape(-1)) // max(1, int(left.sum()))
    return gone + np.diff(sums, prepend=0).reshape(left.shape)


def _inverse_factor(hessian, dampening):
    """U, upper triangular, with (H + damping)^-1 = U^T U.

    The damping is that share of the mean of the diagonal. It also makes room
    where an input was always zero, or there are fewer examples than inputs.
    """
    mean = np.trace(hessian) / len(hessian)
    damped = hessian + (dampening * mean or 1.0) * np.eye(len(hessian))
    # With the order turned around, Cholesky's lower factor is the upper one R
    # of H = R R^T, and U is its inverse.
    factor = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    return np.linalg.inv(factor)
