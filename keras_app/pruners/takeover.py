"""Zeros that a model brings along, and whether they count as pruned."""

import warnings

from keras_app import masks as masks_lib
from keras_app import split
from keras_app.pruners import clock


def still_ours(last, variables, fresh):
    """Returns the masks of earlier fits, for an optimizer that holds none.

    Compiling again made a new optimizer; the zeros are still ours. One that
    has trained since may have brought them back.

    Args:
        last: `[(variable, mask)]` at the end of earlier fits.
        variables: The weights that are to have masks.
        fresh: Whether the optimizer has made no update yet.
    """
    return [
        (v, mask)
        for v, mask in last
        if any(v is w for w in variables)
        and (fresh or not split.count(split.nonzero(split.read(v)) & ~mask))
    ]


def remembered(last, model, variables, masks):
    """Returns what `still_ours` looks at: `[(variable, mask)]`.

    What is frozen for this fit keeps the mask that it had.
    """
    others = [
        (v, mask)
        for v, mask in last
        if any(v is w for w in model.variables)
        and not any(v is w for w in variables.values())
    ]
    return others + [
        (v, split.copy(masks[path])) for path, v in variables.items()
    ]


def masks_of_zeros(pruner, units, sparsities):
    """Takes zeros for pruned if this pruner would have made as many.

    That is, to prune by the zeros themselves, to one of the sparsities, prunes
    zeros, and all of them. Zeros alone say little: words never seen,
    constraints and initializers make them too.

    Args:
        pruner: The pruner.
        units: The `Units` of its structure in the model.
        sparsities: Returns `[(sparsity, whether it was asked for already)]`.

    Returns:
        `{path: mask}`; empty where nothing was pruned, with a warning if much
        is zero.
    """
    found = {
        path: split.nonzero(pruner.read(variable))
        for path, variable in units.selection.variables.items()
    }
    # All zero is how some layers start.
    found = {
        p: mask if split.any_of(mask) else ~mask for p, mask in found.items()
    }
    before = units.kept(found)
    total = sum(kept.size for kept in before.values())
    zeros = total - sum(map(split.count, before.values()))
    if zeros == 0:
        return {}

    def combine(scores, sparsity, old, structure):
        return masks_lib.mask_from_scores(scores, sparsity, structure)

    dense = {path: mask | ~mask for path, mask in found.items()}
    scores = {path: mask.astype("float32") for path, mask in found.items()}
    # Whatever spread it over the weights has rounded in each.
    rounding = min(len(before), zeros // 10)
    for sparsity, was_asked in sparsities():
        # In all, too: whoever spread it over the layers.
        for scope in dict.fromkeys((pruner.scope, "global")):
            masks = pruner.by_units(combine, sparsity, scores, dense, scope)
            after = units.kept(masks)
            wrong = sum(split.count(before[n] & ~after[n]) for n in before)
            # What a method brings back starts from zero, and may be zero
            # still.
            if not (was_asked and pruner.revives):
                wrong += sum(split.count(after[n] & ~before[n]) for n in before)
            if wrong <= rounding:
                return {path: masks[path] | found[path] for path in masks}
    _warn_of_zeros(pruner, units, 1 - (total - zeros) / total)
    return {}


def sparsities_around(schedule, now, steps_per_execution):
    """Sparsities that a schedule asks for around a step, none of them 0.

    What it named last, and with it what it names for the step that comes next,
    which may have been made; last what it ends with.

    Returns:
        `[(sparsity, whether it was asked for already)]`.
    """
    done = now - max(1, steps_per_execution)
    asked = []
    begin, end = clock.begin_and_end(schedule)
    for step in range(now if end < 0 else min(now, end), begin - 1, -1):
        sparsity = clock.due_at(schedule, step)
        if sparsity is not None:
            asked.append((sparsity, step < now))
            if step <= done:
                break
    asked.append((clock.final_sparsity(schedule), False))
    return [each for each in dict.fromkeys(asked) if each[0] > 0]


def _warn_of_zeros(pruner, units, share):
    if share <= min(0.1, clock.final_sparsity(pruner.schedule) / 2):
        return
    advice = f", or begin the schedule at their sparsity, {share:.6g}"
    if units.structure.fixes_sparsity:
        advice = ""
    what = "weights" if pruner.structure is None else "units"
    warnings.warn(
        f"{type(pruner).__name__}: {100 * share:.1f} % of the {what} to "
        "prune are zero before the training. They are not what this "
        "pruner's arguments ask for, so that nothing says that they were "
        "pruned, and they train. To go on from them, use the pruner that "
        f"made them, or a file of `export.save_sparse`{advice}."
    )
