"""The table of results: which figures, in which words, beside dense."""

import dataclasses

from keras_app.experiments.page import wording
from keras_app.experiments.page.comparison import Comparison
from keras_app.experiments.page.runs import groups
from keras_app.experiments.page.runs import number
from keras_app.experiments.page.sections import Cell
from keras_app.experiments.page.sections import Row
from keras_app.experiments.page.sections import Section
from keras_app.experiments.page.sections import Table

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


_SHARE = (wording.percent,)
_RATE = wording.percent, _difference
_GAP = wording.points, lambda value, dense: wording.signed(value - dense)
_COUNT = (wording.count,)
_AMOUNT = wording.count, _share
_COST = wording.large, _share
_BYTES = (wording.nbytes,)
# The key in the summary: the label, what it is about, how it is shown.
_FIGURES = {
    "accuracy": Figure("Test accuracy", "at the end", *_RATE, max),
    "sparsity": Figure(
        "Sparsity, prunable",
        "share of the prunable kernels that is zero",
        *_SHARE,
    ),
    "sparsity_all": Figure(
        "Sparsity, whole model", "share of all weights", *_SHARE
    ),
    "zeros": Figure("Zeros", "weights of the whole model", *_COUNT),
    "parameters": Figure(
        "Parameters", "zeros included", lambda value, _: wording.count(value)
    ),
    "sparse_bytes": Figure(
        "Size, stored sparse", "of the exported checkpoint", *_BYTES
    ),
    "dense_bytes": Figure(
        "Size, stored dense", "of the same checkpoint", *_BYTES
    ),
    "model_bytes": Figure("Size, Keras file", "zeros included", *_BYTES),
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
        *_SHARE,
    ),
    "training_flops_share": Figure(
        "Training FLOPs",
        "relative to dense training, zero weights left out: a count, not a "
        "time",
        *_SHARE,
    ),
    "mean_squared_error": Figure(
        "Mean squared error", "on the test set", best=min
    ),
    "psnr": Figure(
        "PSNR",
        "peak signal-to-noise ratio in decibels",
        wording.points,
        best=max,
    ),
    "psnr_of_input": Figure(
        "PSNR of the input", "what doing nothing would give", wording.points
    ),
    "iterations": Figure(
        "Iterations", "of training, until the sparsest ticket is found", *_COUNT
    ),
    "saving_percent": Figure(
        "Iterations saved",
        "in percent of those that all data would have cost",
        wording.hundredths,
    ),
    "set_fraction": Figure(
        "Last set", "share of the training examples it holds", *_SHARE
    ),
    "overhead_samples": Figure(
        "Extra predictions",
        "of examples, to find those that pruning costs",
        *_COUNT,
    ),
    "cumulative_kept_parameters": Figure(
        "Kept parameters", "summed over the megabatches", *_AMOUNT
    ),
    "cumulative_training_examples": Figure(
        "Training examples", "seen, all epochs and megabatches", *_AMOUNT
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


def _shown_figures(runs):
    """`{key: Figure}`: the known ones that any method has, then all others."""
    found = set()
    for run in runs:
        for figures in run.figures.values():
            found |= {k for k, v in figures.items() if number(v) is not None}
        if not isinstance(run.summary.get("methods"), dict):
            # A summary without methods: its settings are not its results.
            found -= {"seed", "seconds", "epochs", "num_megabatches"}
    found -= _SAID_ALREADY
    known = {k: figure for k, figure in _FIGURES.items() if k in found}
    others = sorted(found.difference(known))
    return {**known, **{k: Figure(wording.humanised(k)) for k in others}}


# ---- the table -------------------------------------------------------------


def section(runs):
    """The table of results, and what there is to know before it is read."""
    figures = _shown_figures(runs)
    if not figures:
        return Section()
    equal = groups(runs)
    folded = []
    if len(runs) > 1:
        terms = [(f.label, f.note) for f in figures.values() if f.note]
        folded = [Section("What the columns mean", terms=terms)]
    return Section(
        "Results" if all(run.finished for run in runs) else "Results so far",
        _note(runs, equal),
        table=(_of_one if len(runs) == 1 else _of_several)(
            runs, equal, figures
        ),
        folded=[part for part in folded if not part.is_empty],
    )


def _of_one(runs, equal, figures):
    """Figures down, methods across: it fits a phone, and explains itself."""
    results = Comparison(runs)
    rows = [
        Row(Cell(figure.label, figure.note), _cells(results, key, figure))
        for key, figure in figures.items()
    ]
    head = [Cell(""), *(Cell(side.label) for side in results.sides)]
    return Table("Results per method", head, rows)


def _of_several(runs, equal, figures):
    """Runs and methods down; before them, the means over seeds."""
    several = [group for group in equal if len(group) > 1]
    rows = []
    for group in several + [[run] for run in runs]:
        results = Comparison(group, equal)
        many = len(group) > 1
        tag = "" if group[0].finished else "unfinished"
        lines = zip(*(_cells(results, *item) for item in figures.items()))
        for side, cells in zip(results.sides, lines):
            head = Cell(f"{side.name}, {side.label}", tag=tag)
            if many:
                mean = f"{side.label}, mean of {len(group)} seeds"
                head = Cell(mean, side.name)
            first = "first" if side is results.sides[0] else ""
            marks = f"{'mean' if many else ''} {first}".strip()
            rows.append(Row(head, cells, marks))
    head = [Cell("run, method"), *(Cell(f.label) for f in figures.values())]
    return Table("Results per run and method", head, rows, "several")


def _cells(results, key, figure):
    """One figure of equal runs, a cell per method; one run's best is marked.

    In small print is how it compares to the dense network.
    """
    means = [side.mean(key) for side in results.sides]
    known = [mean for mean in means if mean is not None]
    best = dense = None
    # Half a method compared to a whole one would mislead.
    if results.runs[0].finished:
        dense = results.dense and results.dense.mean(key)
        if figure.best and len(known) > 1 and len(results.runs) == 1:
            best = figure.best(known)
    cells = []
    for side, mean in zip(results.sides, means):
        if mean is None:
            cells.append(Cell(wording.NOTHING))
            continue
        small = ""
        if figure.compare and dense is not None and not side.is_dense:
            small = figure.compare(mean, dense)
        text = figure.show(mean, side.spread(key))
        cells.append(Cell(text, small, best is not None and mean == best))
    return cells


def _note(runs, equal):
    found = []
    compared = [Comparison(group, equal) for group in equal]
    compared = [x for x in compared if x.dense and not x.main.is_dense]
    if compared:
        own = all(each.has_own_dense for each in compared)
        where = " of the same run" if len(runs) > 1 and own else ""
        found.append(
            f"Small print: the difference to the dense network{where}."
        )
    if any(len(group) > 1 for group in equal):
        found.append("± is the standard deviation over seeds (n - 1).")
    if any(len(run.figures) > 1 and run.finished for run in runs):
        found.append("Green marks the best method of a run.")
    return " ".join(found)
