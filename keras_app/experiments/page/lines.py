"""Lines of charts: one for equal runs and a method, thin ones for seeds."""

import collections
import dataclasses
import statistics

from keras_app.experiments.page import drawing
from keras_app.experiments.page import wording
from keras_app.experiments.page.runs import finite
from keras_app.experiments.page.runs import group_name


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """What is drawn for equal runs and a method.

    `curves` holds `(xs, ys)` for each of the runs.
    """

    group: list
    method: str
    style: dict
    curves: list

    @property
    def look(self):
        """Colour and mark of the method, dashes and tone of the setting."""
        look = drawing.look(self.method, self.group[0].dense)
        return drawing.toned(look, self.style)

    @property
    def label(self):
        """The method's name."""
        return wording.label_of(self.group[0], self.method)

    @property
    def name(self):
        """The runs' name."""
        return group_name(self.group)

    def mean(self):
        """The mean over the runs, where all of them have a value."""
        return mean(self.curves)

    def values(self):
        """All numbers."""
        return [y for _, ys in self.curves for y in ys]

    def plot(self, axes, **style):
        """Draws the mean, and thin lines of the seeds if there are several."""
        look = {**self.look, **style}
        for xs, ys in self.curves if len(self.curves) > 1 else ():
            thin = {"marker": "", "lw": 0.7, "alpha": 0.35}
            axes.plot(xs, ys, **{**look, **thin})
        axes.plot(*self.mean(), **look)


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


def entries(runs, drawn, extra=()):
    """Entries of the legend of these lines, and further ones."""
    shown = [(line.group, line.method) for line in drawn]
    return [*drawing.entries(runs, shown), *extra]
