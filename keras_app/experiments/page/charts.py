"""The page's kinds of charts: lines, bars, and maps of numbers."""

import collections
import dataclasses
import math
import statistics

import numpy as np

from keras_app.experiments.page import drawing
from keras_app.experiments.page import wording
from keras_app.experiments.page.comparison import Side
from keras_app.experiments.page.runs import finite
from keras_app.experiments.page.runs import number

DASHED = {"ls": (0, (4, 2)), "lw": 1.2}
SHARES = {"cmap": "Blues", "vmin": 0, "vmax": 100}
# A map with more columns shows its numbers by colours alone.
_WRITTEN_COLUMNS = 8


# ---- lines: one for equal runs and a method, thin ones for seeds -----------


@dataclasses.dataclass(frozen=True, eq=False)
class Line(Side):
    """What is drawn for equal runs and a method.

    `curves` holds `(xs, ys)` for each of the runs.
    """

    style: dict
    curves: list

    @property
    def look(self):
        """Colour and mark of the method, dashes and tone of the setting."""
        return drawing.toned(drawing.look_of(self), self.style)

    def points(self):
        """`(xs, ys)`: the mean over the runs, where all have a value."""
        return mean(self.curves)

    def numbers(self):
        """All numbers."""
        return [y for _, ys in self.curves for y in ys]

    def plot(self, axes, **style):
        """Draws the mean, and thin lines of the seeds if there are several."""
        look = {**self.look, **style}
        for xs, ys in self.curves if len(self.curves) > 1 else ():
            thin = {"marker": "", "lw": 0.7, "alpha": 0.35}
            axes.plot(xs, ys, **{**look, **thin})
        axes.plot(*self.points(), **look)


def mean(curves):
    """The mean of curves `(xs, ys)`, where all of them have a value."""
    values = collections.defaultdict(list)
    for xs, ys in curves:
        for x, y in zip(xs, ys):
            values[x].append(y)
    xs = sorted(x for x in values if len(values[x]) == len(curves))
    return xs, [statistics.fmean(values[x]) for x in xs]


def lines(runs, curve):
    """A `Line` for all equal runs and methods.

    `curve(run, method)` gives `(xs, ys)`, without a finite number in `ys`
    where the run does not know them.
    """
    found = []
    for group, style in drawing.styles(runs):
        for method in group[0].methods:
            curves = [curve(run, method) for run in group]
            curves = [pair for pair in curves if finite(pair[1])]
            if curves:
                found.append(Line(group, method, style, curves))
    return found


# ---- charts ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Words:
    """What a chart says: its title, a note, its axes.

    `counts` tells whether whole numbers lie along the x axis.
    """

    title: str
    note: str = ""
    x: str = ""
    y: str = ""
    counts: bool = True


def words(chart, run="", **figures):
    """The `Words` of a chart, of one run of several, with figures put in."""
    told = Words(**wording.WORDS["charts"][chart])
    return dataclasses.replace(
        told,
        title=f"{told.title}, {run}" if run else told.title,
        note=told.note.format(**figures),
    )


def over(
    runs, words, drawn, alt, limits, each=None, last=None, legend=None, **size
):
    """A chart of lines, or `None` where there are none.

    Args:
        runs: The `Run`s of the page.
        words: Its `Words`.
        drawn: `{Line: how it differs from its look}`.
        alt: The chart in words.
        limits: A function of all values that makes the axis's limits.
        each: `each(axes, line)` draws what belongs to a line.
        last: `last(axes)` draws what else there is.
        legend: Makes the entries of the legend from those of the lines.
        **size: Its height, see `drawing.chart`.
    """
    if not drawn:
        return None

    def draw(axes):
        for line, style in drawn.items():
            line.plot(axes, **style)
            if each is not None:
                each(axes, line)
        axes.set_ylim(*limits([y for line in drawn for y in line.numbers()]))
        name_axes(axes, words)
        if last is not None:
            last(axes)
        entries = drawing.entries(runs, drawn)
        return legend(entries) if legend is not None else entries

    return drawing.chart(words.title, words.note, alt, draw, **size)


def bars(words, alt, heights, color, top, dashed=None, **size):
    """A chart of numbered bars, up to `top`, and a dashed line at a height."""

    def draw(axes):
        axes.grid(False, axis="x")
        places = range(1, len(heights) + 1)
        found = axes.bar(places, heights, color=color, width=0.7)
        look = {"padding": 2}
        if dashed is not None:
            axes.axhline(dashed, color="#777777", zorder=2, **DASHED)
            # White behind the numbers, where the dashed line would cross them.
            look = {"padding": 3, "bbox": {"color": "white", "pad": 0.6}}
        axes.bar_label(found, fontsize=8.5, **look)
        axes.set_ylim(0, top)
        name_axes(axes, words)

    return drawing.chart(words.title, words.note, alt, draw, **size)


def heat_map(words, alt, table, columns, rows, show, look=None, **size):
    """A map of rows of numbers, of which those of nan are left out in grey.

    Args:
        words, alt: As for `over`.
        table: The numbers.
        columns, rows: Their names, or `None`: they are numbered from 1.
        show: Makes the text of a number.
        look: Its colours. Defaults to those of shares in percent.
        **size: Its height and width.
    """

    def draw(axes):
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_facecolor("#e4e6ea")
        image = axes.imshow(table, aspect="auto", **(look or SHARES))
        count = len(table[0])
        ticks = range(count)
        if columns is None:
            ticks = range(0, count, math.ceil(count / 12))
        names = columns or [tick + 1 for tick in range(count)]
        axes.set_xticks(ticks, [_tick(names[i]) for i in ticks])
        axes.set_yticks(range(len(table)), map(_tick, rows))
        axes.set_xlabel(words.x)
        axes.set_ylabel(words.y)
        if columns is None and count > _WRITTEN_COLUMNS:
            bar = axes.figure.colorbar(image, ax=axes)
            bar.set_label("density (%)")
        else:
            _write_values(axes, image, show)

    return drawing.chart(words.title, words.note, alt, draw, **size)


def _tick(name):
    return drawing.short(str(name))


def _write_values(axes, image, show):
    """Writes each number of a heat map, as `show` has it, into its cell."""
    for (y, x), value in np.ndenumerate(image.get_array().filled(math.nan)):
        if math.isfinite(value):
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
            color = "white" if dark else "#1f2933"
            look = {"ha": "center", "va": "center", "fontsize": 8.5}
            axes.text(x, y, show(value), color=color, **look)


def numbers(rows, scale=1):
    """Rows of a map; nan where a value is no number."""
    return [
        [math.nan if number(v) is None else scale * v for v in row]
        for row in rows
    ]


def short_percent(value):
    """A number in percent, with a decimal where whole ones say too little."""
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def name_axes(axes, words):
    """Writes what is along the axes."""
    if words.counts:
        from matplotlib.ticker import MaxNLocator

        whole = MaxNLocator(integer=True, min_n_ticks=1)
        axes.xaxis.set_major_locator(whole)
    axes.set_xlabel(words.x)
    axes.set_ylabel(words.y)
