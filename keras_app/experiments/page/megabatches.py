"""Megabatch by megabatch: accuracy, density, gaps and errors; every layer."""

import math

from keras_app.experiments.page import charts
from keras_app.experiments.page import drawing
from keras_app.experiments.page import wording
from keras_app.experiments.page.runs import DENSE
from keras_app.experiments.page.runs import number
from keras_app.experiments.page.runs import settings
from keras_app.experiments.page.sections import Cell
from keras_app.experiments.page.sections import Row
from keras_app.experiments.page.sections import Section
from keras_app.experiments.page.sections import Table

_LAST, _BEST = "generalization_gap_last", "generalization_gap_best"
_TARGET = {"color": "#777777", "label": "target", **charts.DASHED}
# More maps than this are folded.
_SHOWN_MAPS = 4


def section(runs):
    """Charts with a line for each setting and method."""
    gaps = [
        value
        for run in runs
        for method in run.methods
        for key in (_LAST, _BEST)
        for value in _series(run, method, key)[1]
    ]
    # Common limits, so that neighbouring charts can be compared by eye.
    gaps = drawing.limits([0, *gaps], drawing.LEAST_POINTS)
    shown = [
        _chart(runs, *row)
        for row in (
            ("accuracy", "test_accuracy", drawing.shares, _series),
            ("density", "density", drawing.whole, _series),
            ("gap_last", _LAST, lambda values: gaps, _series),
            ("gap_best", _BEST, lambda values: gaps, _series),
            ("misclassified", "misclassified", drawing.from_zero, _series),
            ("cer", "misclassified", drawing.from_zero, _summed),
            (
                "cer_beside_dense",
                "misclassified",
                _around_zero(runs),
                _beside_dense,
            ),
        )
    ]
    return Section("Megabatch by megabatch", charts=list(filter(None, shown)))


def _series(run, method, key, scale=1):
    """`(numbers of the megabatches from 1, values)` of what is known."""
    xs, ys = [], []
    for index, row in enumerate(run.megabatches(method)):
        value = number(row.get(key))
        if value is None:
            continue
        megabatch = number(row.get("megabatch"))
        xs.append((index if megabatch is None else megabatch) + 1)
        ys.append(scale * value)
    return xs, ys


def _summed(run, method, key, scale):
    xs, ys = _series(run, method, key, scale)
    return xs, [sum(ys[: i + 1]) for i in range(len(ys))]


def _beside_dense(run, method, key, scale):
    base = dict(zip(*_summed(run, DENSE, key, scale)))
    xs, ys = _summed(run, method, key, scale)
    known = [x for x in xs if x in base and method != DENSE]
    return known, [y - base[x] for x, y in zip(xs, ys) if x in known]


def _around_zero(runs):
    """Limits of differences that are small beside what they differ in."""
    totals = [
        sum(_series(run, method, "misclassified")[1])
        for run in runs
        for method in run.methods
    ]
    least = 0.05 * max(totals, default=0)
    return lambda values: drawing.limits([0, *values], least)


def _chart(runs, chart, key, limits, curve):
    """What the log has as the target of a key is drawn dashed."""
    words = charts.words(chart)
    scale = 100 if words.y.endswith("(%)") else 1
    drawn, asked, ends = {}, {}, []
    for line in charts.lines(runs, lambda r, m: curve(r, m, key, scale)):
        asked[line] = charts.mean(
            [_series(r, line.method, f"target_{key}", scale) for r in line.runs]
        )
        # Under its dashed target a line steps back.
        under = {"lw": 3.0, "alpha": 0.45} if asked[line][0] else {}
        drawn[line] = {"clip_on": False, **under}
        ys = line.points()[1] or [math.nan]
        name = f"{line.name}, " if len(runs) > 1 else ""
        start, end = wording.fixed(ys[0], 1), wording.fixed(ys[-1], 1)
        ends.append(f"{name}{line.label} from {start} to {end}")

    def draw_target(axes, line):
        if asked[line][0]:
            color = line.look["color"]
            axes.plot(*asked[line], color=color, **charts.DASHED)

    def draw_zero(axes):
        low, high = axes.get_ylim()
        if low < 0 < high:
            axes.axhline(0, color="#8a8f98", linewidth=0.8, zorder=1)

    has_targets = any(xs for xs, _ in asked.values())
    return charts.over(
        runs,
        words,
        drawn,
        f"Line chart, {words.title.lower()}, {words.y}: {'; '.join(ends)}.",
        limits,
        each=draw_target,
        last=draw_zero,
        legend=lambda found: [*found, *([_TARGET] if has_targets else [])],
    )


# ---- layers ----------------------------------------------------------------


def layers(runs):
    """A map per run and pruned method: density by layer and megabatch."""
    maps = [
        _layer_map(run, method, len(runs) > 1)
        for run in runs
        for method in run.methods
        if method != run.dense
    ]
    maps = list(filter(None, maps))
    folded = len(maps) > _SHOWN_MAPS
    return Section(
        "Layer by layer",
        "Density of each pruned kernel after each megabatch, in percent.",
        charts=[] if folded else maps,
        folded=[Section(f"Show all {len(maps)} maps", charts=maps)] * folded,
    )


def _layer_map(run, method, with_name):
    rows = [
        row["layers"]
        for row in run.megabatches(method)
        if isinstance(row.get("layers"), dict) and row["layers"]
    ]
    if not rows:
        return None
    names = list(rows[0])
    table = [
        [100 * (number(row.get(name)) or 0.0) for row in rows] for name in names
    ]
    title = wording.capital(wording.label(method))
    title += f", {run.name}" if with_name else ""
    last = ", ".join(
        f"{name} {values[-1]:.1f} %" for name, values in zip(names, table)
    )
    return charts.heat_map(
        charts.Words(title, x="megabatch"),
        f"Heat map of the density per layer and megabatch; at the end {last}.",
        table,
        None,
        names,
        charts.short_percent,
        height=0.8 + 0.3 * len(names),
    )


# ---- numbers ---------------------------------------------------------------

_COLUMNS = (
    ("target_sparsity", "target sparsity", wording.percent),
    ("sparsity", "sparsity, prunable", wording.percent),
    ("sparsity_all", "sparsity, whole model", wording.percent),
    ("kept_parameters", "kept parameters", wording.count),
    ("test_accuracy", "test accuracy", wording.percent),
    ("misclassified", "misclassified", wording.count),
    ("best_epoch", "best epoch", lambda value: wording.count(value + 1)),
    ("best_val_accuracy", "best val. accuracy", wording.percent),
    (_LAST, "gap, last", wording.points),
    (_BEST, "gap, best", wording.points),
    ("training_examples", "training examples", wording.count),
)


def in_numbers(runs):
    """A table for each run that has megabatches."""
    head = [Cell("megabatch"), *(Cell(label) for _, label, _ in _COLUMNS)]
    tables = []
    for run in (run for group in settings(runs) for run in group):
        title = "Every megabatch in numbers"
        title += f": {run.name}" if len(runs) > 1 else ""
        if rows := list(_rows(run)):
            tables.append(Section(title, table=Table(title, head, rows)))
    return Section(folded=tables)


def _rows(run):
    for method in run.methods:
        for index, row in enumerate(run.megabatches(method)):
            cells = []
            for key, _, show in _COLUMNS:
                value = number(row.get(key))
                known = value is not None
                cells.append(Cell(show(value) if known else wording.NOTHING))
            head = Cell(f"{wording.label_of(run, method)} {index + 1}")
            yield Row(head, cells, "" if index else "first")
