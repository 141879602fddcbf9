"""Lines of charts: one for equal runs and a method, thin ones for seeds."""

import collections
import dataclasses
import statistics

from keras_app.experiments.page import drawing
from keras_app.experiments.page.comparison import Side
from keras_app.experiments.page.runs import finite


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
