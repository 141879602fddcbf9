"""What the numbers of the runs say in sentences: "In short"."""

import math
import statistics

from keras_app.experiments.page import wording
from keras_app.experiments.page.results import Comparison
from keras_app.experiments.page.results import task
from keras_app.experiments.page.runs import group_name
from keras_app.experiments.page.runs import groups
from keras_app.experiments.page.runs import number

# More settings than this get a sentence each.
_AT_LENGTH = 2


def conclusions(runs):
    """`[(heading, [sentence, ...]), ...]`, something for every page."""
    equal = groups(runs)
    unfinished = [run for run in runs if not run.finished]
    found = []
    if len(equal) > _AT_LENGTH:
        found.append(("", _briefly(equal)))
    else:
        for group in equal:
            heading = group_name(group) if len(runs) > 1 else ""
            found.append((heading, _at_length(Comparison(group, equal))))
    for run in unfinished:
        found.append((run.name if len(runs) > 1 else "", _so_far(run)))
    return found


def _briefly(equal):
    """A sentence for each of many settings, and one on the dense network."""
    sides = [Comparison(group, equal) for group in equal]
    lines = []
    for side in sides:
        name = group_name(side.runs)
        if len(side.runs) > 1:
            name += f" ({len(side.runs)} seeds)"
        parts = [_outcome(side), _beside_dense(side)]
        parts.append("" if side.is_dense else _zeros_of(side))
        lines.append(f"{name}: {'; '.join(filter(None, parts))}.")
    ranked = [
        (side.mean(side.subject, "accuracy"), group_name(side.runs))
        for side in sides
        if side.mean(side.subject, "accuracy") is not None
    ]
    if ranked:
        top = max(ranked)[0]
        names = [name for accuracy, name in ranked if accuracy == top]
        lines.append(
            f"Highest final accuracy: {wording.listed(names)} "
            f"({wording.percent(top)})."
        )
    # One dense network serves all that share its data and model.
    missing = {
        str(task(s.runs[0])): s for s in reversed(sides) if not s.reference
    }
    return lines + list(dict.fromkeys(map(_missing, missing.values())))


def _outcome(side):
    """What the main method ends with."""
    method = side.subject
    label = wording.capital(wording.label_of(side.runs[0], method))
    accuracy = side.mean(method, "accuracy")
    if accuracy is not None:
        spread = side.spread(method, "accuracy")
        shown = wording.percent(accuracy, spread)
        return f"{label} ends at {shown} test accuracy"
    ratio = side.mean(method, "psnr")
    if ratio is not None:
        shown = wording.points(ratio, side.spread(method, "psnr"))
        text = f"{label} ends at a PSNR of {shown} dB"
        before = side.mean(method, "psnr_of_input")
        if before is not None:
            text += f", that of the input is {wording.points(before)} dB"
        return text
    return f"{label} has no accuracy"


def _beside_dense(side):
    if side.is_dense or side.reference is None:
        return ""
    means = side.mean(side.subject, "accuracy"), side.dense_mean("accuracy")
    if None in means:
        return ""
    size = wording.fixed(abs(100 * (means[0] - means[1])), 1)
    where = "below" if means[0] < means[1] else "above"
    where = "level with" if size == "0.0" else f"{size} points {where}"
    return f"{where} {_dense_phrase(side)}"


def _dense_phrase(side):
    name = "the dense network"
    if side.reference is not side:
        name += f" of {group_name(side.reference.runs)}"
    return name


def _zeros_of(side, method=None):
    method = method or side.subject
    prunable = side.mean(method, "sparsity")
    whole = side.mean(method, "sparsity_all")
    parts = []
    if prunable is not None:
        parts.append(f"{wording.percent(prunable)} of the prunable weights")
    if whole is not None:
        parts.append(f"{wording.percent(whole)} of the whole model")
    if not parts:
        return ""
    text = f"{' and '.join(parts)} zero"
    zeros = side.mean(method, "zeros")
    parameters = side.mean(method, "parameters")
    if zeros is not None and parameters is not None:
        text += f" ({wording.count(zeros)} of {wording.count(parameters)})"
    return text


# ---- at length -------------------------------------------------------------


def _at_length(side):
    found = [_against(side, side, other) for other in side.others]
    if side.reference not in (None, side):
        found.append(_against(side, side.reference, side.reference.dense))
    if not any(found):
        found.append(f"{_outcome(side)}.")
    found += [_zeros(side), _size(side)]
    found += [_winners(side), _cost(side), _chance(side), _missing(side)]
    return [sentence for sentence in found if sentence]


def _phrase(ours, theirs, method):
    if method == theirs.dense:
        return (
            _dense_phrase(ours) if ours is not theirs else "the dense network"
        )
    return wording.phrase(method)


def _against(ours, theirs, other):
    """The main method against another one, `other` of `theirs`."""
    accuracy = _accuracy_against(ours, theirs, other)
    parts = [accuracy, _cer_against(ours, theirs, other)]
    text = "; ".join(part for part in parts if part)
    subject = wording.capital(wording.phrase(ours.subject))
    return f"{subject} {text}." if text else ""


def _means(ours, theirs, other, key):
    """Our mean and the other's; `None` without both."""
    pair = ours.mean(ours.subject, key), theirs.mean(other, key)
    return None if None in pair else pair


def _accuracy_against(ours, theirs, other):
    means = _means(ours, theirs, other, "accuracy")
    if not means:
        return ""
    difference = 100 * (means[0] - means[1])
    size = wording.fixed(abs(difference), 1)
    side = "below" if difference < 0 else "above"
    where = "level with" if size == "0.0" else f"{size} points {side}"
    left, right = map(wording.percent, means)
    phrase = _phrase(ours, theirs, other)
    text = f"ends {where} {phrase} ({left} against {right})"
    text += _density_against(ours, theirs, other)
    if len(ours.runs) == 1:
        return text
    text += f" on average over {len(ours.runs)} seeds"
    # Only equal seeds make pairs.
    if size == "0.0" or ours.seeds() != theirs.seeds():
        return text
    pairs = zip(
        ours.values(ours.subject, "accuracy"), theirs.values(other, "accuracy")
    )
    differences = [100 * (a - b) for a, b in pairs]
    same = sum(d * difference > 0 for d in differences)
    return text + (
        f", {side} it in {same} of them, with a standard deviation of "
        f"the difference of {wording.fixed(statistics.stdev(differences), 1)} "
        "points"
    )


def _density_against(ours, theirs, other):
    means = _means(ours, theirs, other, "effective_density")
    if not means:
        return ""
    left, right = map(wording.percent, means)
    if left == right:
        return f" at the same density of {left}"
    text = f" with {left} of the prunable weights"
    return text if other == theirs.dense else f"{text} against {right}"


def _cer_against(ours, theirs, other):
    means = _means(ours, theirs, other, "cer")
    if not means:
        return ""
    left, right = means
    how = "better, lower" if left < right else "worse, higher"
    how += f" by {wording.count(abs(left - right))}"
    how = "the same" if left == right else how
    numbers = f"{wording.count(left)} against {wording.count(right)}"
    return f"its CER is {how} ({numbers})"


def _zeros(side):
    """The zeros of all pruned methods, equal ones together."""
    found = {}
    for method in side.methods:
        text = _zeros_of(side, method)
        if text and method != side.dense:
            found.setdefault(text, []).append(wording.label(method))
    texts = [
        f"{wording.listed(names)}: {text}" for text, names in found.items()
    ]
    return f"{wording.capital('; '.join(texts))}." if texts else ""


def _size(side):
    """What the main method takes on disk."""
    if side.is_dense:
        return ""
    label = wording.capital(wording.label(side.subject))
    sparse = side.mean(side.subject, "sparse_bytes")
    dense = side.mean(side.subject, "dense_bytes")
    whole = side.mean(side.subject, "model_bytes")
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


def _winners(side):
    """Which method comes first, by each figure that has a direction."""
    found = []
    for key, words, show, best in (
        ("accuracy", "Highest final accuracy", wording.percent, max),
        ("cer", "Lowest CER", wording.count, min),
    ):
        means = {m: side.mean(m, key) for m in side.methods}
        known = [mean for mean in means.values() if mean is not None]
        if len(known) > 1:
            top = best(known)
            names = [
                wording.label_of(side.runs[0], method)
                for method, mean in means.items()
                if mean == top
            ]
            found.append(f"{words}: {wording.listed(names)} ({show(top)}).")
    return " ".join(found)


def _cost(side):
    key = "cumulative_forward_flops_sparse"
    means = {method: side.mean(method, key) for method in side.methods}
    dense = means.pop(side.dense, None)
    shares = [
        f"{wording.label(method)} {wording.percent(mean / dense)}"
        for method, mean in means.items()
        if dense and mean is not None
    ]
    if not shares:
        return ""
    return (
        "Forward operations in training, counting kept weights only, "
        f"relative to dense: {', '.join(shares)}."
    )


def _chance(side):
    """How large a difference one test set and one seed can make."""
    examples = number(side.runs[0].summary.get("test_examples"))
    if len(side.runs) > 1 or not examples:
        return ""
    others = [(side, other) for other in side.others]
    if side.reference not in (None, side):
        others.append((side.reference, side.reference.dense))
    within, largest = [], 0.0
    for theirs, other in others:
        means = _means(side, theirs, other, "accuracy")
        if not means:
            continue
        p = sum(means) / 2
        # Two standard errors of a difference of two proportions, taken as
        # independent; they share the test set, so this is on the safe side.
        limit = 2 * math.sqrt(2 * p * (1 - p) / examples)
        largest = max(largest, limit)
        if abs(means[0] - means[1]) < limit:
            within.append(_phrase(side, theirs, other))
    if not largest:
        return ""
    limit = wording.fixed(100 * largest, 1)
    text = (
        f"With {wording.count(examples)} test examples and one seed, a "
        f"difference in final accuracy below about {limit} points can be chance"
    )
    if within:
        verb = "is" if len(within) == 1 else "are"
        noun = "difference" if len(within) == 1 else "differences"
        text += f"; the {noun} to {wording.listed(within)} {verb} that small"
    return text + "."


# ---- without a dense network, or an end ------------------------------------


def _missing(side):
    """That there is no dense network, and how to get one."""
    if side.reference is not None:
        return ""
    return (
        "No dense network was trained on the same data, model and epochs, so "
        "what the zeros cost in accuracy cannot be told. "
        + _way_to_dense(side.runs[0])
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
        bindings = ["experiments.Train.pruner=None"]
        if " + " not in run.main:
            bindings = [
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
    side = Comparison([run])
    for method in run.methods:
        parts = []
        accuracy = side.mean(method, "accuracy")
        epochs = run.epochs(method)
        validation = number(epochs[-1].get("val_accuracy")) if epochs else None
        if accuracy is not None:
            parts.append(f"{wording.percent(accuracy)} test accuracy")
        elif validation is not None:
            parts.append(f"{wording.percent(validation)} validation accuracy")
        parts.append(_zeros_of(side, method))
        label = wording.capital(wording.label_of(run, method))
        if any(parts):
            found.append(f"{label}: {'; '.join(filter(None, parts))}.")
    if run.dense is None:
        found.append("No dense network has been trained so far.")
    return found
