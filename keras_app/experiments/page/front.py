"""Which runs are worth having: few weights, high accuracy, or a bit of both."""

from keras_app.experiments.page import charts
from keras_app.experiments.page import drawing
from keras_app.experiments.page import wording
from keras_app.experiments.page.comparison import Side
from keras_app.experiments.page.runs import groups
from keras_app.experiments.page.sections import Cell
from keras_app.experiments.page.sections import Row
from keras_app.experiments.page.sections import Section
from keras_app.experiments.page.sections import Table
from keras_app.report import pareto_front

_TITLE = "Density and accuracy"
_DENSITY, _ACCURACY = "effective_density", "accuracy"
_FRONT = {"color": "#333333", "label": "front", **charts.DASHED}


def section(runs):
    """All outcomes by their density, in a chart and a table, and the front."""
    sides = _outcomes(runs)
    if len({run for side in sides for run in side.runs}) < 2:
        return Section()
    front = pareto_front(
        [side.mean(_DENSITY) for side in sides],
        [side.mean(_ACCURACY) for side in sides],
    )
    return Section(
        _TITLE,
        _note(sides),
        charts=[_chart(sides, front)],
        table=_table(sides, front),
    )


def _outcomes(runs):
    """A `Side` for each method of finished runs, by rising density.

    Runs that differ only by their seed are one outcome. Methods without a
    density or an accuracy are left out.
    """
    found = [
        Side(each, name) for each in groups(runs) for name in each[0].figures
    ]
    found = [s for s in found if s.values(_DENSITY) and s.values(_ACCURACY)]
    return sorted(found, key=lambda s: (s.mean(_DENSITY), -s.mean(_ACCURACY)))


def _chart(sides, front):
    """The outcomes, numbered as in the table."""
    xs = [100 * side.mean(_DENSITY) for side in sides]
    ys = [100 * side.mean(_ACCURACY) for side in sides]
    singles = [100 * y for side in sides for y in side.values(_ACCURACY)]
    looks = [drawing.look_of(side) for side in sides]
    words = charts.words("front")

    def draw(axes):
        axes.step(
            [*(xs[i] for i in front), max(xs)],
            [*(ys[i] for i in front), ys[front[-1]]],
            where="post",
            **_FRONT,
        )
        for i, (side, look) in enumerate(zip(sides, looks)):
            if len(side.runs) > 1:
                _draw_seeds(axes, side, look["color"])
            axes.plot(xs[i], ys[i], **look)
            axes.annotate(
                str(i + 1),
                (xs[i], ys[i]),
                xytext=(3, 4),
                textcoords="offset points",
                fontsize=8.5,
                fontweight="bold" if i in front else "normal",
            )
        axes.set_xlim(*drawing.from_zero(xs))
        if min(xs) > 0 and max(xs) >= 10 * min(xs):
            _scale_by_logarithm(axes, xs)
        axes.set_ylim(*drawing.shares([*ys, *singles]))
        charts.name_axes(axes, words)
        named = dict(zip((side.label for side in sides), looks))
        marks = [{**x, "ls": "", "label": k} for k, x in named.items()]
        return [*marks, _FRONT]

    told = [
        f"{i} {side.name}, {side.label} {wording.percent(side.mean(_ACCURACY))}"
        f" at {wording.percent(side.mean(_DENSITY))}"
        for i, side in enumerate(sides, start=1)
    ]
    members = wording.listed([str(i + 1) for i in front])
    note = words.note
    if any(len(side.runs) > 1 for side in sides):
        note += " Small dots are single seeds, bars their standard deviation."
    return drawing.chart(
        words.title,
        note,
        "Scatter chart of the test accuracy over the density: "
        f"{'; '.join(told)}. On the front: {members}.",
        draw,
        3.4,
    )


def _draw_seeds(axes, side, color):
    """Dots of single seeds, and bars of their deviation."""
    keys = _DENSITY, _ACCURACY
    each = [[100 * value for value in side.values(key)] for key in keys]
    axes.plot(*each, color=color, marker="o", ms=2.5, alpha=0.35, ls="")
    x, y = (100 * side.mean(key) for key in keys)
    xerr, yerr = (100 * side.spread(key) for key in keys)
    look = {"lw": 1, "capsize": 2, "color": color}
    axes.errorbar(x, y, xerr=xerr, yerr=yerr, **look)


def _scale_by_logarithm(axes, xs):
    from matplotlib.ticker import LogLocator
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    axes.set_xlim(0.8 * min(xs), 1.3 * max(xs))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def _table(sides, front):
    """The `Table` of outcomes, numbered as in the chart."""
    several = len({side.method for side in sides}) > 1
    seeds = any(len(side.runs) > 1 for side in sides)
    rows = []
    for i, side in enumerate(sides):
        name = f"{i + 1} {side.name}" + (f", {side.label}" if several else "")
        shown = [
            wording.percent(side.mean(key), side.spread(key))
            for key in (_DENSITY, _ACCURACY)
        ]
        cells = [Cell(str(len(side.runs)))] if seeds else []
        cells += map(Cell, shown)
        cells.append(Cell("front" if i in front else "", best=i in front))
        rows.append(Row(Cell(name), cells))
    head = ["run, method" if several else "run", *(["seeds"] if seeds else [])]
    head += ["density, prunable", "test accuracy", ""]
    return Table(_TITLE, list(map(Cell, head)), rows, "several")


def _note(sides):
    """What the table says, and how sure it is."""
    text = (
        "By rising density. A run is on the front if no other has as few "
        "weights and as much accuracy, and more of either."
    )
    if any(len(side.runs) > 1 for side in sides):
        text += (
            " Runs that differ only by their seed are one, with their means; "
            "± is the standard deviation (n - 1)."
        )
    if any(len(side.runs) == 1 for side in sides):
        text += " A lucky seed counts where there is only one."
    return text
