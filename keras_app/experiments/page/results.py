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


# How figures are shown, and compared to those of the dense network.
_KINDS = {
    "plain": (wording.plain, None),
    "share": (wording.percent, None),
    "rate": (wording.percent, _difference),
    "percent": (wording.hundredths, None),
    "points": (wording.points, None),
    "gap": (wording.points, lambda value, dense: wording.signed(value - dense)),
    "count": (wording.count, None),
    "size": (lambda value, _: wording.count(value), None),
    "errors": (wording.count, _count_beside),
    "amount": (wording.count, _share),
    "cost": (wording.large, _share),
    "bytes": (wording.nbytes, None),
    "size_of": (wording.nbytes, _share),
    "time": (wording.milliseconds, _share),
}


def _figures(words):
    return {
        key: Figure(
            told["label"],
            told["about"],
            *_KINDS[told["as"]],
            {"max": max, "min": min}.get(told.get("best")),
        )
        for key, told in words.items()
    }


_FIGURES = _figures(wording.WORDS["figures"])
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
    kinds = {run.summary.get("experiment") for run in runs}
    own = wording.WORDS["figures_of"].get(min(kinds, key=str), {})
    all_known = {**_FIGURES, **(_figures(own) if len(kinds) == 1 else {})}
    known = {k: figure for k, figure in all_known.items() if k in found}
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
