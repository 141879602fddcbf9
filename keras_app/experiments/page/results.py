"""The table of results: which figures, in which words, beside dense."""

import dataclasses
import statistics

from keras_app.experiments.page import wording
from keras_app.experiments.page.runs import group_name
from keras_app.experiments.page.runs import groups
from keras_app.experiments.page.runs import number
from keras_app.experiments.page.runs import settings


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, a line in small print, its mark."""

    text: str
    small: str = ""
    best: bool = False
    tag: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table: its header, its cells, its classes in the CSS."""

    head: Cell
    cells: list
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; `label` says what it holds, `name` is its class in the CSS."""

    label: str
    head: list
    rows: list
    name: str = ""


# ---- headline figures ------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Figure:
    """One headline number: its words, its format, its comparison to dense.

    `show` makes a text of a value and a spread or `None`, `compare` of a
    value and the dense network's; `best` is `max`, `min`, or `None`.
    """

    label: str
    about: str = ""
    show: object = wording.plain
    compare: object = None
    best: object = None

    @property
    def note(self):
        """What is counted, and which way is better."""
        better = {max: "; higher is better", min: "; lower is better"}
        return self.about + better.get(self.best, "")


def _difference(value, dense):
    return wording.signed(100 * (value - dense))


def _share(value, dense):
    return wording.percent(value / dense) + " of dense" if dense else ""


def _count_beside(value, dense):
    whole = float(value - dense).is_integer()
    return wording.signed(value - dense, 0 if whole else 1)


_RATE = wording.percent, _difference
_GAP = wording.points, lambda value, dense: wording.signed(value - dense)
_COST = wording.large, _share
_FIGURES = {
    "accuracy": Figure("Test accuracy", "at the end", *_RATE, max),
    "sparsity": Figure(
        "Sparsity, prunable",
        "share of the prunable kernels that is zero",
        wording.percent,
    ),
    "sparsity_all": Figure(
        "Sparsity, whole model", "share of all weights", wording.percent
    ),
    "zeros": Figure("Zeros", "weights of the whole model", wording.count),
    "parameters": Figure(
        "Parameters", "zeros included", lambda value, _: wording.count(value)
    ),
    "sparse_bytes": Figure(
        "Size, stored sparse", "of the exported checkpoint", wording.nbytes
    ),
    "dense_bytes": Figure(
        "Size, stored dense", "of the same checkpoint", wording.nbytes
    ),
    "model_bytes": Figure("Size, Keras file", "zeros included", wording.nbytes),
    "cer": Figure(
        "CER",
        "misclassified test examples, summed over the megabatches",
        *(wording.count, _count_beside, min),
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
    "initial_sparsity": Figure(
        "Sparsity, at first",
        "of the prunable kernels, before training",
        wording.percent,
    ),
    "training_flops_share": Figure(
        "Training FLOPs",
        "relative to dense training, zero weights left out: a count, not a "
        "time",
        wording.percent,
    ),
    "mean_squared_error": Figure(
        "Mean squared error", "on the test set", wording.plain, None, min
    ),
    "psnr": Figure(
        "PSNR",
        "peak signal-to-noise ratio in decibels",
        *(wording.points, None, max),
    ),
    "psnr_of_input": Figure(
        "PSNR of the input", "what doing nothing would give", wording.points
    ),
    "iterations": Figure(
        "Iterations",
        "of training, until the sparsest ticket is found",
        wording.count,
    ),
    "saving_percent": Figure(
        "Iterations saved",
        "in percent of those that all data would have cost",
        wording.hundredths,
    ),
    "set_fraction": Figure(
        "Last set", "share of the training examples it holds", wording.percent
    ),
    "overhead_samples": Figure(
        "Extra predictions",
        "of examples, to find those that pruning costs",
        wording.count,
    ),
    "cumulative_kept_parameters": Figure(
        "Kept parameters",
        "summed over the megabatches",
        *(wording.count, _share),
    ),
    "cumulative_training_examples": Figure(
        "Training examples",
        "seen, all epochs and megabatches",
        *(wording.count, _share),
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
# The table says the sparsity, which is the rest.
_SAID_ALREADY = {"effective_density", "density_all", "initial_density"}


def shown_figures(runs):
    """`{key: Figure}`: the known ones that any method has, then all others."""
    found = set()
    for run in runs:
        for figures in run.figures.values():
            found |= {k for k, v in figures.items() if number(v) is not None}
        if not isinstance(run.summary.get("methods"), dict):
            # A summary without methods: its settings are not its results.
            found -= {"seed", "seconds", "epochs", "num_megabatches"}
    found -= _SAID_ALREADY
    known = [key for key in _FIGURES if key in found]
    others = sorted(found.difference(known))
    return {
        **{key: _FIGURES[key] for key in known},
        **{key: Figure(wording.humanised(key)) for key in others},
    }


# ---- comparison ------------------------------------------------------------


class Comparison:
    """One run, or equal runs with several seeds, beside a dense network.

    Args:
        runs: The `Run`s, one or more.
        others: Groups of other runs, one of which may be the dense network
            where these have none.
    """

    def __init__(self, runs, others=()):
        self.runs = runs
        self.methods = list(runs[0].figures)
        main, dense = runs[0].main, runs[0].dense
        if main == dense:
            main = next((m for m in self.methods if m != dense), main)
        self.subject = main
        rest = [m for m in self.methods if m != main]
        self.others = sorted(rest, key=lambda method: method != dense)
        self.dense = dense
        self.reference = self if dense in self.methods else None
        if self.reference is None:
            fitting = [
                group
                for group in others
                if group[0].dense in group[0].figures
                and task(group[0]) == task(runs[0])
            ]
            if fitting:
                self.reference = Comparison(min(fitting, key=group_name))

    @property
    def is_dense(self):
        """Whether there is nothing but the dense network."""
        return self.subject == self.dense

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

    def dense_mean(self, key):
        """The mean of the dense network, of these runs or of others."""
        if self.reference is None:
            return None
        return self.reference.mean(self.reference.dense, key)

    def seeds(self):
        """The seeds of the runs."""
        return [run.summary.get("seed") for run in self.runs]


def task(run):
    """What a dense network must share to be what a run is compared to."""
    names = ("data", "model", "epochs", "num_megabatches")
    return [run.summary.get(name) for name in names]


# ---- tables ----------------------------------------------------------------


def table(runs):
    """The `Table` of results, or `None` where there are none."""
    figures = shown_figures(runs)
    if not figures:
        return None
    return (_of_one if len(runs) == 1 else _of_several)(runs, figures)


def _of_one(runs, figures):
    """Figures down, methods across: it fits a phone, and explains itself."""
    results = Comparison(runs)
    rows = [
        Row(Cell(figure.label, figure.note), _cells(results, key, figure))
        for key, figure in figures.items()
    ]
    labels = [wording.label_of(runs[0], m) for m in results.methods]
    return Table("Results per method", [Cell(""), *map(Cell, labels)], rows)


def _of_several(runs, figures):
    """Runs and methods down; before them, the means over seeds."""
    equal = groups(runs)
    several = [group for group in equal if len(group) > 1]
    rows = []
    for group in several + [[run] for run in runs]:
        results = Comparison(group, equal)
        many = len(group) > 1
        tag = "" if group[0].finished else "unfinished"
        name = group_name(group)
        lines = zip(*(_cells(results, *item) for item in figures.items()))
        for method, cells in zip(results.methods, lines):
            label = wording.label_of(group[0], method)
            head = Cell(f"{name}, {label}", tag=tag)
            if many:
                head = Cell(f"{label}, mean of {len(group)} seeds", name)
            first = "first" if method == results.methods[0] else ""
            marks = f"{'mean' if many else ''} {first}".strip()
            rows.append(Row(head, cells, marks))
    head = [Cell("run, method"), *(Cell(f.label) for f in figures.values())]
    return Table("Results per run and method", head, rows, "several")


def _cells(results, key, figure):
    """One figure of equal runs, a cell per method; one run's best is marked.

    In small print is how it compares to the dense network.
    """
    means = {method: results.mean(method, key) for method in results.methods}
    known = [mean for mean in means.values() if mean is not None]
    best = dense = None
    # Half a method compared to a whole one would mislead.
    if results.runs[0].finished:
        dense = results.dense_mean(key)
        if figure.best and len(known) > 1 and len(results.runs) == 1:
            best = figure.best(known)
    cells = []
    for method, mean in means.items():
        if mean is None:
            cells.append(Cell(wording.NOTHING))
            continue
        small = ""
        if figure.compare and dense is not None and method != results.dense:
            small = figure.compare(mean, dense)
        text = figure.show(mean, results.spread(method, key))
        cells.append(Cell(text, small, best is not None and mean == best))
    return cells


def notes(runs):
    """What there is to know before the table is read."""
    found = []
    equal = groups(runs)
    sides = [Comparison(group, equal) for group in equal]
    compared = [side for side in sides if side.reference and not side.is_dense]
    if compared:
        own = all(side.reference is side for side in compared)
        where = " of the same run" if len(runs) > 1 and own else ""
        found.append(
            f"Small print: the difference to the dense network{where}."
        )
    if any(len(group) > 1 for group in equal):
        found.append("± is the standard deviation over seeds (n - 1).")
    if any(len(run.figures) > 1 and run.finished for run in runs):
        found.append("Green marks the best method of a run.")
    return " ".join(found)


_COLUMNS = (
    ("target_sparsity", "target sparsity", wording.percent),
    ("sparsity", "sparsity, prunable", wording.percent),
    ("sparsity_all", "sparsity, whole model", wording.percent),
    ("kept_parameters", "kept parameters", wording.count),
    ("test_accuracy", "test accuracy", wording.percent),
    ("misclassified", "misclassified", wording.count),
    ("best_epoch", "best epoch", lambda value: wording.count(value + 1)),
    ("best_val_accuracy", "best val. accuracy", wording.percent),
    ("generalization_gap_last", "gap, last", wording.points),
    ("generalization_gap_best", "gap, best", wording.points),
    ("training_examples", "training examples", wording.count),
)


def every_megabatch(runs):
    """A `Table` for each run that has megabatches."""
    tables = []
    for group in settings(runs):
        for run in group:
            rows = list(_megabatch_rows(run))
            title = "Every megabatch in numbers"
            title += f": {run.name}" if len(runs) > 1 else ""
            head = ["megabatch", *(label for _, label, _ in _COLUMNS)]
            if rows:
                tables.append(Table(title, list(map(Cell, head)), rows))
    return tables


def _megabatch_rows(run):
    for method in run.methods:
        for index, row in enumerate(run.megabatches(method)):
            cells = []
            for key, _, show in _COLUMNS:
                value = number(row.get(key))
                known = value is not None
                cells.append(Cell(show(value) if known else wording.NOTHING))
            head = Cell(f"{wording.label_of(run, method)} {index + 1}")
            yield Row(head, cells, "" if index else "first")
