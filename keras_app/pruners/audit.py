"""What a training can reach, and what it did: lost zeros, missed targets."""

from keras_app import split
from keras_app.pruners.clock import begin_and_end
from keras_app.pruners.clock import exact
from keras_app.pruners.clock import final_sparsity
from keras_app.selection import adapted_layers
from keras_app.selection import some


class PruningMissed(RuntimeError):
    """A pruner ended without the sparsity it was asked for."""


def unreachable(schedule, last_step, now, is_dense):
    """Says why a schedule cannot be completed, or `None`.

    Args:
        schedule: The schedule.
        last_step: The step after which training stops.
        now: The step that training begins at.
        is_dense: Whether nothing is pruned yet.
    """
    begin, end = begin_and_end(schedule)
    if max(begin, end) > last_step:
        return (
            f"The schedule ends at step {max(begin, end)}, but training "
            f"stops after step {last_step}. Lower `end_step`, train "
            "longer, or pass on_miss='ignore' if another fit follows."
        )
    if 0 <= end < now and is_dense and final_sparsity(schedule) > 0:
        return (
            f"The schedule ended at step {end}, but the optimizer is at "
            f"step {now} already and has no masks. Move "
            "the schedule's steps after that, or call `model.compile` "
            "again, which starts the count over."
        )
    return None


def late(schedule, now):
    """Says that a ramp is entered in its middle, or `None`.

    Dense training counts.
    """
    begin, _ = begin_and_end(schedule)
    missed = (schedule(step) for step in range(begin, now))
    if any(bool(due) and exact(sparsity) > 0 for due, sparsity in missed):
        return (
            f"the schedule begins at step {begin}, "
            f"but the optimizer is at step {now} already and "
            "nothing is pruned. It goes on from there; call "
            "`model.compile` again to start at its begin."
        )
    return None


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


def short_of(target, asked):
    """Says that the schedule asked for less than its target, or for nothing."""
    if asked is None:
        return (
            f"nothing was pruned (target sparsity {target:.4f}): the "
            "schedule names none of this training's steps"
        )
    return (
        f"training ended at sparsity {asked:.4f} of the schedule's {target:.4f}"
    )


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
        pruned = total - sum(split.count(kept[name]) for name in group)
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
        pruned = count - split.count(kept[name])
        total += size
        zeros += size - sum(map(split.count, mine))
        even += size * pruned / count
        largest = max(largest, size / count)
    return max(zeros, even) / total, largest / total


def adapted(model):
    """Returns a list with a sentence if LoRA has frozen weights, else empty."""
    paths = [each.path for each in adapted_layers(model)]
    if not paths:
        return []
    return [
        f"LoRA has frozen the weights of {some(paths)}, which are not pruned. "
        "Prune before `enable_lora`"
    ]
