"""What the numbers of the runs say in sentences: "In short"."""

import math
import statistics

from keras_app.experiments.page import compressed
from keras_app.experiments.page import wording
from keras_app.experiments.page.comparison import Comparison
from keras_app.experiments.page.comparison import Side
from keras_app.experiments.page.comparison import task
from keras_app.experiments.page.runs import group_name
from keras_app.experiments.page.runs import groups
from keras_app.experiments.page.runs import number

# More settings than this get a sentence each.
_AT_LENGTH = 2


def conclusions(runs):
    """`[(heading, [sentence, ...]), ...]`, something for every page."""
    equal = groups(runs)
    found = []
    if len(equal) > _AT_LENGTH:
        found.append(("", _briefly(equal)))
    else:
        for group in equal:
            heading = group_name(group) if len(runs) > 1 else ""
            if all(map(compressed.is_one, group)):
                found.append((heading, compressed.conclusions(group[0])))
                continue
            found.append((heading, _at_length(Comparison(group, equal))))
    for run in runs:
        if not run.finished:
            found.append((run.name if len(runs) > 1 else "", _so_far(run)))
    return found


# ---- pieces of sentences ---------------------------------------------------


def _outcome(side):
    """What a method ends with."""
    label = wording.capital(side.label)
    for key, show, text in (
        ("accuracy", wording.percent, "{} ends at {} test accuracy"),
        ("psnr", wording.points, "{} ends at a PSNR of {} dB"),
    ):
        mean = side.mean(key)
        if mean is not None:
            text = text.format(label, show(mean, side.spread(key)))
            before = side.mean("psnr_of_input")
            if key == "psnr" and before is not None:
                text += f", that of the input is {wording.points(before)} dB"
            return text
    return f"{label} has no accuracy"


def _means(ours, theirs, key):
    """Our mean and the other's; `None` without both."""
    pair = ours.mean(key), theirs.mean(key)
    return None if None in pair else pair


def _phrase(ours, theirs):
    """The other method in a sentence on ours."""
    if not theirs.is_dense:
        return wording.phrase(theirs.method)
    of = "" if ours.runs is theirs.runs else f" of {theirs.name}"
    return f"the dense network{of}"


def _apart(means):
    """How far the first of two accuracies is from the second, and where."""
    size = wording.fixed(abs(100 * (means[0] - means[1])), 1)
    side = "below" if means[0] < means[1] else "above"
    return side, "level with" if size == "0.0" else f"{size} points {side}"


def _zeros_of(side):
    parts = [
        f"{wording.percent(mean)} of the {what}"
        for key, what in (
            ("sparsity", "prunable weights"),
            ("sparsity_all", "whole model"),
        )
        if (mean := side.mean(key)) is not None
    ]
    if not parts:
        return ""
    text = f"{' and '.join(parts)} zero"
    counts = side.mean("zeros"), side.mean("parameters")
    if None not in counts:
        text += " ({} of {})".format(*map(wording.count, counts))
    return text


def _best(sides, key, best):
    """`(value, names)` of the sides that are first in a figure, if any are."""
    found = [(side.mean(key), side) for side in sides]
    found = [(mean, side) for mean, side in found if mean is not None]
    if not found:
        return None, []
    top = best(mean for mean, _ in found)
    return top, [side for mean, side in found if mean == top]


# ---- many settings ---------------------------------------------------------


def _briefly(equal):
    """A sentence for each of many settings, and one on the dense network."""
    compared = [Comparison(group, equal) for group in equal]
    lines = []
    for each in compared:
        name = each.main.name
        if len(each.runs) > 1:
            name += f" ({len(each.runs)} seeds)"
        parts = [_outcome(each.main)]
        if not each.main.is_dense:
            parts += [_beside_dense(each), _zeros_of(each.main)]
        lines.append(f"{name}: {'; '.join(filter(None, parts))}.")
    top, sides = _best([each.main for each in compared], "accuracy", max)
    if sides:
        names = wording.listed([side.name for side in sides])
        lines.append(
            f"Highest final accuracy: {names} ({wording.percent(top)})."
        )
    # One dense network serves all that share its data and model.
    missing = {
        str(task(x.runs[0])): x for x in reversed(compared) if not x.dense
    }
    return lines + list(dict.fromkeys(map(_missing, missing.values())))


def _beside_dense(compared):
    side, dense = compared.main, compared.dense
    means = dense and _means(side, dense, "accuracy")
    return f"{_apart(means)[1]} {_phrase(side, dense)}" if means else ""


# ---- at length -------------------------------------------------------------


def _at_length(compared):
    main = compared.main
    found = [_against(main, theirs) for theirs in compared.opponents]
    if not any(found):
        found.append(f"{_outcome(main)}.")
    found += [_zeros(compared), _size(main), _winners(compared)]
    found += [_cost(compared), _chance(compared), _missing(compared)]
    return [sentence for sentence in found if sentence]


def _against(ours, theirs):
    """The main method against another one."""
    parts = [_accuracy_against(ours, theirs), _cer_against(ours, theirs)]
    text = "; ".join(part for part in parts if part)
    subject = wording.capital(wording.phrase(ours.method))
    return f"{subject} {text}." if text else ""


def _accuracy_against(ours, theirs):
    means = _means(ours, theirs, "accuracy")
    if not means:
        return ""
    side, where = _apart(means)
    left, right = map(wording.percent, means)
    text = f"ends {where} {_phrase(ours, theirs)} ({left} against {right})"
    text += _density_against(ours, theirs)
    if len(ours.runs) == 1:
        return text
    text += f" on average over {len(ours.runs)} seeds"
    # Only equal seeds make pairs.
    seeds = [
        [run.summary.get("seed") for run in each.runs]
        for each in (ours, theirs)
    ]
    if where == "level with" or seeds[0] != seeds[1]:
        return text
    pairs = zip(ours.values("accuracy"), theirs.values("accuracy"))
    differences = [100 * (a - b) for a, b in pairs]
    same = sum(d * (means[0] - means[1]) > 0 for d in differences)
    return text + (
        f", {side} it in {same} of them, with a standard deviation of "
        f"the difference of {wording.fixed(statistics.stdev(differences), 1)} "
        "points"
    )


def _density_against(ours, theirs):
    means = _means(ours, theirs, "effective_density")
    if not means:
        return ""
    left, right = map(wording.percent, means)
    if left == right:
        return f" at the same density of {left}"
    text = f" with {left} of the prunable weights"
    return text if theirs.is_dense else f"{text} against {right}"


def _cer_against(ours, theirs):
    means = _means(ours, theirs, "cer")
    if not means:
        return ""
    left, right = means
    how = "better, lower" if left < right else "worse, higher"
    how += f" by {wording.count(abs(left - right))}"
    how = "the same" if left == right else how
    numbers = f"{wording.count(left)} against {wording.count(right)}"
    return f"its CER is {how} ({numbers})"


def _zeros(compared):
    """The zeros of all pruned methods, equal ones together."""
    found = {}
    for side in compared.sides:
        text = _zeros_of(side)
        if text and not side.is_dense:
            found.setdefault(text, []).append(wording.label(side.method))
    texts = [
        f"{wording.listed(names)}: {text}" for text, names in found.items()
    ]
    return f"{wording.capital('; '.join(texts))}." if texts else ""


def _size(side):
    """What the main method takes on disk."""
    if side.is_dense:
        return ""
    label = wording.capital(wording.label(side.method))
    sparse, dense = side.mean("sparse_bytes"), side.mean("dense_bytes")
    whole = side.mean("model_bytes")
    if sparse is not None and dense:
        return (
            f"{label} takes {wording.nbytes(sparse)} stored sparse, "
            f"{wording.percent(sparse / dense)} of the "
            f"{wording.nbytes(dense)} stored dense."
        )
    if whole is None:
        return ""
    return (
        f"{label} takes {wording.nbytes(whole)} as a Keras file, zeros "
        "included. To store it without them, and to see that size here: "
        "`python -m keras_app.export RUN_DIR --format=sparse`"
    )


def _winners(compared):
    """Which method comes first, by each figure that has a direction."""
    found = []
    for key, words, show, best in (
        ("accuracy", "Highest final accuracy", wording.percent, max),
        ("cer", "Lowest CER", wording.count, min),
    ):
        known = [x for x in compared.sides if x.mean(key) is not None]
        if len(known) > 1:
            top, sides = _best(known, key, best)
            names = wording.listed([side.label for side in sides])
            found.append(f"{words}: {names} ({show(top)}).")
    return " ".join(found)


def _cost(compared):
    key = "cumulative_forward_flops_sparse"
    own = compared.has_own_dense
    dense = compared.dense.mean(key) if own else None
    shares = [
        f"{wording.label(side.method)} {wording.percent(mean / dense)}"
        for side in compared.sides
        if dense and not side.is_dense and (mean := side.mean(key)) is not None
    ]
    if not shares:
        return ""
    return (
        "Forward operations in training, counting kept weights only, "
        f"relative to dense: {', '.join(shares)}."
    )


def _chance(compared):
    """How large a difference one test set and one seed can make."""
    ours = compared.main
    examples = number(ours.runs[0].summary.get("test_examples"))
    if len(ours.runs) > 1 or not examples:
        return ""
    within, largest = [], 0.0
    for theirs in compared.opponents:
        means = _means(ours, theirs, "accuracy")
        if not means:
            continue
        p = sum(means) / 2
        # Two standard errors of a difference of two proportions, taken as
        # independent; they share the test set, so this is on the safe side.
        limit = 2 * math.sqrt(2 * p * (1 - p) / examples)
        largest = max(largest, limit)
        if abs(means[0] - means[1]) < limit:
            within.append(_phrase(ours, theirs))
    if not largest:
        return ""
    limit = wording.fixed(100 * largest, 1)
    text = (
        f"With {wording.count(examples)} test examples and one seed, a "
        f"difference in final accuracy below about {limit} points can be chance"
    )
    if within:
        one = len(within) == 1
        noun, verb = ("difference", "is") if one else ("differences", "are")
        text += f"; the {noun} to {wording.listed(within)} {verb} that small"
    return text + "."


# ---- without a dense network, or an end ------------------------------------


def _missing(compared):
    """That there is no dense network, and how to get one."""
    if compared.dense is not None:
        return ""
    return (
        "No dense network was trained on the same data, model and epochs, so "
        "what the zeros cost in accuracy cannot be told. "
        + _way_to_dense(compared.runs[0])
    )


def _way_to_dense(run):
    experiment = run.summary.get("experiment")
    if experiment in ("anytime", "lottery"):
        more = "dense" if experiment == "anytime" else "vanilla"
        methods = tuple(dict.fromkeys([*run.figures, more]))
        text = f"experiments.{experiment.capitalize()}.methods={methods}"
        return f'To get one: `--gin_param="{text}"`'
    both = "then show both folders with `python -m keras_app.report`"
    if experiment == "train" and "rounds" not in run.summary:
        pruner = "experiments.Train.pruner=None"
        settings = run.summary.get("settings", {}).get("optimizer") or {}
        bindings = [pruner]
        # Such an optimizer is sparse without a pruner too.
        if " + " not in run.main or "regularizers" in settings:
            bindings = [
                *([pruner] if " + " in run.main else []),
                "experiments.Train.optimizer='adam'",
                "experiments.Train.sparsify=None",
                "experiments.Train.callbacks=[]",
            ]
        shown = " ".join(f'--gin_param="{binding}"' for binding in bindings)
        return f"To get one: the same run with `{shown}`, {both}"
    return (
        "To get one: train the same model on the same data with "
        f"`experiments.Train` and no pruner, {both}"
    )


def _so_far(run):
    """What an unfinished run has, without any comparison."""
    found = [f"Unfinished: {wording.progress(run)} so far."]
    for method in run.methods:
        side, epochs = Side([run], method), run.epochs(method)
        accuracy = side.mean("accuracy")
        validation = number(epochs[-1].get("val_accuracy")) if epochs else None
        parts = [_zeros_of(side)]
        if accuracy is not None:
            parts.insert(0, f"{wording.percent(accuracy)} test accuracy")
        elif validation is not None:
            text = f"{wording.percent(validation)} validation accuracy"
            parts.insert(0, text)
        if any(parts):
            label = wording.capital(side.label)
            found.append(f"{label}: {'; '.join(filter(None, parts))}.")
    if run.dense is None:
        found.append("No dense network has been trained so far.")
    return found
