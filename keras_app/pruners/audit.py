"""What came of a pruning: lost zeros, and targets that were missed."""

import numpy as np

from keras_app.selection import some


def restored_zeros(state):
    """Zeroes what is pruned and was not zero.

    Args:
        state: The `enforcement.MaskState`.

    Returns:
        Sentences about it; an empty list is how it should be.
    """
    leaks = state.leaks()
    if not leaks:
        return []
    state.zero()
    return [
        f"{sum(leaks.values())} pruned weights had come back and were "
        "zeroed again after training: "
        + some([f"{path} ({n})" for path, n in leaks.items()])
    ]


def shortfalls(groups, units, masks):
    """Sentences on what is less sparse than it was asked to be.

    Args:
        groups: `[(names of sets that share a threshold, their sparsity)]`.
        units: The `Units` in the model.
        masks: `{path: mask}`.
    """
    problems = []
    kept = units.kept(masks)
    for group, sparsity in groups:
        total = sum(kept[name].size for name in group)
        pruned = total - sum(np.count_nonzero(kept[name]) for name in group)
        reached, unit = _reached(group, units, kept, masks)
        asked = f"{some(group)}: asked for sparsity {sparsity:.4f}, reached "
        if pruned < int(sparsity * total):
            problems.append(f"{asked}{pruned / total:.4f}")
        # A target counts units. One of them is what rounding may cost, and
        # a twentieth what smaller blocks at ragged edges may.
        elif reached + unit < 0.95 * sparsity:
            problems.append(
                f"{asked}{reached:.4f}: the {pruned} of {total} units that are "
                "pruned are the small ones. With scope='layer' every weight "
                "gets the sparsity"
            )
    return problems


def _reached(names, units, kept, masks):
    """The sparsity of weights, and the share of them in the largest unit.

    Within a weight units count alike: whoever asks for blocks knows that those
    at a ragged edge are smaller.
    """
    total = zeros = even = largest = 0
    for name in names:
        mine = [masks[path] for path in units.kernels[name]]
        size = sum(mask.size for mask in mine)
        count = kept[name].size
        pruned = count - np.count_nonzero(kept[name])
        total += size
        zeros += size - sum(int(np.count_nonzero(m)) for m in mine)
        even += size * pruned / count
        largest = max(largest, size / count)
    return max(zeros, even) / total, largest / total
