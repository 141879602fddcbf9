"""Numbers as text, and what the numbers of a run say in sentences."""

import dataclasses
import math
import re
import statistics

from keras_app.report.runs import DENSE
from keras_app.report.runs import number
from keras_app.report.runs import SUMMARY

NOTHING = "\N{EN DASH}"
_SPACE = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))
_LABELS = {
    "app": "APP",
    "one_shot": "one-shot",
    "app_reference": "APP reference",
    "prac": "PrAC",
    "vanilla": "all data",
    "random": "random pruning",
}
_PHRASES = {
    "one_shot": "one-shot pruning",
    "dense": "the dense network",
    "app_reference": "the APP reference",
    "prac": "the search on PrAC sets",
    "vanilla": "the search on all data",
}


# ---- numbers ---------------------------------------------------------------


def fixed(value, digits):
    """`value` with so many decimals, and a proper minus sign."""
    text = f"{abs(value):,.{digits}f}"
    negative = value < 0 and float(text.replace(",", "")) != 0
    return (_MINUS if negative else "") + text


def _signed(value, digits=1):
    text = fixed(value, digits)
    return text if value <= 0 or not re.search("[1-9]", text) else "+" + text


def _with_spread(value, spread, digits):
    text = fixed(value, digits)
    return text if spread is None else f"{text} ± {fixed(spread, digits)}"


def percent(value, spread=None):
    """A share in [0, 1] in percent."""
    spread = None if spread is None else 100 * spread
    return _with_spread(100 * value, spread, 1) + _SPACE + "%"


def points(value, spread=None):
    """A difference that is in percentage points already."""
    return _with_spread(value, spread, 1)


def count(value, spread=None):
    """How many, whole where it is; millions and more get a prefix."""
    if abs(value) >= 1e6:
        return _large(value, spread)
    whole = spread is None and float(value).is_integer()
    return _with_spread(value, spread, 0 if whole else 1)


def _large(value, spread=None):
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            spread = None if spread is None else spread / size
            text = _with_spread(value / size, spread, 2)
            return text + _SPACE + prefix
    return _with_spread(value, spread, 0)


def _hundredths(value, spread=None):
    return percent(value / 100, None if spread is None else spread / 100)


def _plain(value, spread=None):
    return _with_spread(value, spread, 0 if isinstance(value, int) else 4)


def _count_beside(value, dense):
    whole = float(value - dense).is_integer()
    return _signed(value - dense, 0 if whole else 1)


def _share(value, dense):
    return percent(value / dense) + " of dense" if dense else ""


# ---- headline figures ------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Figure:
    """One headline number: its words, its format, its comparison to dense.

    `show` makes a text of a value and a spread or `None`, `compare` of a
    value and the dense network's; `best` is `max`, `min`, or `None`.
    """

    label: str
    about: str = ""
    show: object = _plain
    compare: object = None
    best: object = None

    @property
    def note(self):
        """What is counted, and which way is better."""
        better = {max: "; higher is better", min: "; lower is better"}
        return self.about + better.get(self.best, "")


_RATE = percent, lambda value, dense: _signed(100 * (value - dense))
_GAP = points, lambda value, dense: _signed(value - dense)
_COST = _large, _share
_FIGURES = {
    "accuracy": Figure("Test accuracy", "at the end", *_RATE, max),
    "cer": Figure(
        "CER",
        "misclassified test examples, summed over the megabatches",
        *(count, _count_beside, min),
    ),
    "mean_error_rate": Figure(
        "Mean error rate", "over the megabatches", *_RATE, min
    ),
    "generalization_gap": Figure(
        "Gap, last epoch",
        "training minus validation accuracy in points, last megabatch",
        *_GAP,
    ),
    "generalization_gap_best": Figure(
        "Gap, best epoch",
        "the same at the epoch with the best validation accuracy",
        *_GAP,
    ),
    "mean_generalization_gap": Figure(
        "Gap, mean", "last epochs, over the megabatches", *_GAP
    ),
    "effective_density": Figure(
        "Density, prunable",
        "share of the prunable kernels that is kept",
        percent,
    ),
    "density_all": Figure(
        "Density, all", "share of all parameters that is kept", percent
    ),
    "initial_density": Figure(
        "Density, at first", "the same before training", percent
    ),
    "training_flops_share": Figure(
        "Training FLOPs",
        "relative to dense training, zero weights left out: a count, not a "
        "time",
        percent,
    ),
    "mean_squared_error": Figure(
        "Mean squared error", "on the test set", _plain, None, min
    ),
    "psnr": Figure(
        "PSNR", "peak signal-to-noise ratio in decibels", points, None, max
    ),
    "psnr_of_input": Figure(
        "PSNR of the input", "what doing nothing would give", points
    ),
    "iterations": Figure(
        "Iterations", "of training, until the sparsest ticket is found", count
    ),
    "saving_percent": Figure(
        "Iterations saved",
        "in percent of those that all data would have cost",
        _hundredths,
    ),
    "set_fraction": Figure(
        "Last set", "share of the training examples it holds", percent
    ),
    "overhead_samples": Figure(
        "Extra predictions",
        "of examples, to find those that pruning costs",
        count,
    ),
    "cumulative_kept_parameters": Figure(
        "Kept parameters", "summed over the megabatches", count, _share
    ),
    "cumulative_training_examples": Figure(
        "Training examples", "seen, all epochs and megabatches", count, _share
    ),
    "cumulative_forward_flops": Figure(
        "Forward FLOPs", "in training, as a dense network computes", *_COST
    ),
    "cumulative_forward_flops_sparse": Figure(
        "Forward FLOPs, kept",
        "the same, without those of pruned weights: a count, not a time",
        *_COST,
    ),
}


def shown_figures(runs):
    """`{key: Figure}`: the known ones that any method has, then all others."""
    found = set()
    for run in runs:
        for figures in run.figures.values():
            found |= {k for k, v in figures.items() if number(v) is not None}
        if run.figures and run.summary in run.figures.values():
            # A summary without methods: its settings are not its results.
            found -= {"seed", "seconds", "epochs", "num_megabatches"}
    known = [key for key in _FIGURES if key in found]
    others = sorted(found.difference(known))
    return {key: _FIGURES.get(key, Figure(key)) for key in known + others}


# ---- sentences -------------------------------------------------------------


def label(method):
    """A method's name in tables and charts."""
    return _LABELS.get(method, method)


def _phrase(method):
    return _PHRASES.get(method, label(method))


def listed(words):
    """`a, b and c`."""
    *first, last = words or [""]
    return f"{', '.join(first)} and {last}" if first else last


def capital(text):
    """`text` with a capital first letter, the others as they are."""
    return text[:1].upper() + text[1:]


def _several(how_many, one, many):
    return f"{how_many} {one if how_many == 1 else many}"


def _megabatches(how_many):
    return _several(how_many, "megabatch", "megabatches")


class Comparison:
    """What one run, or equal runs with several seeds, say in words.

    Args:
        runs: The `Run`s, one or more.
    """

    def __init__(self, runs):
        self.runs = runs
        self.methods = list(runs[0].figures)
        main = runs[0].main
        if main == DENSE:
            main = next((m for m in self.methods if m != DENSE), main)
        others = [m for m in self.methods if m != main]
        self.subject = main
        self.others = sorted(others, key=lambda method: method != DENSE)

    def values(self, method, key):
        """One number per run; empty if any run lacks it."""
        found = [run.figures.get(method, {}).get(key) for run in self.runs]
        found = [number(value) for value in found]
        return [] if None in found else found

    def mean(self, method, key):
        """The mean over the runs, or `None` if any run lacks the number."""
        values = self.values(method, key)
        # The number of a single run stays an integer if it is one.
        if len(values) > 1:
            return statistics.fmean(values)
        return values[0] if values else None

    def spread(self, method, key):
        """The standard deviation (n - 1) over several runs, or `None`."""
        values = self.values(method, key)
        return statistics.stdev(values) if len(values) > 1 else None

    def sentences(self):
        """Everything there is to say, a list of texts."""
        found = [self._against(other) for other in self.others]
        found += [self._winners(), self._cost(), self._chance()]
        return [sentence for sentence in found if sentence]

    def _against(self, other):
        parts = [self._accuracy_against(other), self._cer_against(other)]
        text = "; ".join(part for part in parts if part)
        return f"{capital(_phrase(self.subject))} {text}." if text else ""

    def _means(self, other, key):
        """The subject's mean and the other's; `None` without both."""
        pair = self.mean(self.subject, key), self.mean(other, key)
        return None if None in pair else pair

    def _accuracy_against(self, other):
        means = self._means(other, "accuracy")
        if not means:
            return ""
        ours, theirs = map(percent, means)
        pairs = (self.values(m, "accuracy") for m in (self.subject, other))
        differences = [100 * (a - b) for a, b in zip(*pairs)]
        difference = statistics.fmean(differences)
        size = fixed(abs(difference), 1)
        side = "below" if difference < 0 else "above"
        where = "level with" if size == "0.0" else f"{size} points {side}"
        text = f"ends {where} {_phrase(other)} ({ours} against {theirs})"
        text += self._density_against(other)
        if len(differences) > 1:
            text += f" on average over {len(differences)} seeds"
        if len(differences) > 1 and size != "0.0":
            same = sum(d * difference > 0 for d in differences)
            text += (
                f", {side} it in {same} of them, with a standard deviation of "
                f"the difference of {fixed(statistics.stdev(differences), 1)} "
                "points"
            )
        return text

    def _density_against(self, other):
        means = self._means(other, "effective_density")
        if not means:
            return ""
        ours, theirs = map(percent, means)
        if ours == theirs:
            return f" at the same density of {ours}"
        text = f" with {ours} of the prunable weights"
        return text if other == DENSE else f"{text} against {theirs}"

    def _cer_against(self, other):
        means = self._means(other, "cer")
        if not means:
            return ""
        ours, theirs = means
        how = "better, lower" if ours < theirs else "worse, higher"
        how += f" by {count(abs(ours - theirs))}"
        how = "the same" if ours == theirs else how
        return f"its CER is {how} ({count(ours)} against {count(theirs)})"

    def _winners(self):
        """Which method comes first, by each figure that has a direction."""
        found = []
        for key, words, show, best in (
            ("accuracy", "Highest final accuracy", percent, max),
            ("cer", "Lowest CER", count, min),
        ):
            means = {m: self.mean(m, key) for m in self.methods}
            known = [mean for mean in means.values() if mean is not None]
            if len(known) > 1:
                top = best(known)
                names = [label(m) for m, mean in means.items() if mean == top]
                found.append(f"{words}: {listed(names)} ({show(top)}).")
        return " ".join(found)

    def _cost(self):
        key = "cumulative_forward_flops_sparse"
        means = {method: self.mean(method, key) for method in self.methods}
        dense = means.pop(DENSE, None)
        shares = [
            f"{label(method)} {percent(mean / dense)}"
            for method, mean in means.items()
            if dense and mean is not None
        ]
        if not shares:
            return ""
        return (
            "Forward operations in training, counting kept weights only, "
            f"relative to dense: {', '.join(shares)}."
        )

    def _chance(self):
        """How large a difference one test set and one seed can make."""
        examples = number(self.runs[0].summary.get("test_examples"))
        if len(self.runs) > 1 or not examples:
            return ""
        within, largest = [], 0.0
        for other in self.others:
            means = self._means(other, "accuracy")
            if not means:
                continue
            p = sum(means) / 2
            # Two standard errors of a difference of two proportions, taken as
            # independent; they share the test set, so this is on the safe side.
            limit = 2 * math.sqrt(2 * p * (1 - p) / examples)
            largest = max(largest, limit)
            if abs(means[0] - means[1]) < limit:
                within.append(_phrase(other))
        if not largest:
            return ""
        text = (
            f"With {count(examples)} test examples and one seed, a difference "
            f"in final accuracy below about {fixed(100 * largest, 1)} points "
            "can be chance"
        )
        if within:
            verb = "is" if len(within) == 1 else "are"
            noun = "difference" if len(within) == 1 else "differences"
            text += f"; the {noun} to {listed(within)} {verb} that small"
        return text + "."


def title(runs):
    """What the page is about, in a few words."""
    kinds = dict.fromkeys(run.summary.get("experiment") for run in runs)
    data = dict.fromkeys(run.summary.get("data") for run in runs)
    kinds = [str(kind).replace("_", " ") for kind in kinds if kind]
    data = [str(name) for name in data if name]
    text = capital(listed(kinds)) or "Unfinished run"
    text += f" on {listed(data)}" if data else ""
    return text if len(runs) == 1 else f"{text}, {len(runs)} runs"


def statement(run):
    """One sentence on what was run."""
    told = run.summary
    text = capital(listed([label(m) for m in run.methods])) or "Nothing yet"
    text += f" on {told['data']}" if told.get("data") else ""
    text += f", model {told['model']}" if told.get("model") else ""
    parts = []
    if told.get("epochs"):
        parts.append(_several(told["epochs"], "epoch", "epochs"))
        if told.get("num_megabatches"):
            times = _megabatches(told["num_megabatches"])
            parts = [f"{times} of {parts[0]} each"]
    if number(told.get("level")) is not None:
        parts.append(f"level {told['level']:g}")
        if number(told.get("target_density")) is not None:
            density = percent(told["target_density"])
            parts[-1] += f" (target density {density})"
    if told.get("test_examples"):
        parts.append(f"{count(told['test_examples'])} test examples")
    if told.get("seed") is not None:
        parts.append(f"seed {told['seed']}")
    if number(told.get("seconds")) is not None:
        parts.append(_duration(told["seconds"]))
    if not run.finished:
        parts.append("unfinished")
    return text + (": " if parts else "") + ", ".join(parts) + "."


def _duration(seconds):
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def versions(run):
    """What the run was computed with; empty if it does not say."""
    found = dict(run.summary.get("versions") or {})
    backend = found.pop("backend", None)
    text = " · ".join(f"{name} {value}" for name, value in found.items())
    return f"{backend} backend · {text}" if backend else text


def unfinished(run):
    """A warning that the run is unfinished, and how far it has come."""
    epochs = sum(len(run.epochs(method)) for method in run.methods)
    rows = [
        f"{label(method)} {_megabatches(len(run.megabatches(method)))}"
        for method in run.methods
    ]
    done = f" ({', '.join(rows)})" if rows else ""
    return (
        f"{run.name} is unfinished: it has no {SUMMARY}. Shown is what its "
        f"log holds so far, {_several(epochs, 'epoch', 'epochs')}{done}. "
        "Methods that have not come equally far cannot be compared."
    )
