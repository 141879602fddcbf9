"""A method of equal runs in numbers, and the dense network beside it."""

import dataclasses
import statistics

from keras_app.experiments.page import wording
from keras_app.experiments.page.runs import group_name
from keras_app.experiments.page.runs import number


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """One method of a run, or of equal runs with several seeds."""

    runs: list
    method: str

    @property
    def name(self):
        """The runs' name."""
        return group_name(self.runs)

    @property
    def label(self):
        """The method's name."""
        return wording.label_of(self.runs[0], self.method)

    @property
    def is_dense(self):
        """Whether it is the dense network."""
        return self.method == self.runs[0].dense

    def values(self, key):
        """One number per run; empty if any run lacks it."""
        told = [run.figures.get(self.method, {}) for run in self.runs]
        found = [number(figures.get(key)) for figures in told]
        return [] if None in found else found

    def mean(self, key):
        """The mean over the runs, or `None` if any run lacks the number."""
        values = self.values(key)
        # The number of a single run stays an integer if it is one.
        if len(values) > 1:
            return statistics.fmean(values)
        return values[0] if values else None

    def spread(self, key):
        """The standard deviation (n - 1) over several runs, or `None`."""
        values = self.values(key)
        return statistics.stdev(values) if len(values) > 1 else None


class Comparison:
    """All methods of equal runs, beside a dense network.

    Args:
        runs: The `Run`s, one or more.
        others: Groups of other runs, one of which may be the dense network
            where these have none.

    Attributes:
        sides: A `Side` for each method.
        main: The one that is looked at: not the dense network, if there is
            another.
        rest: The others, the dense network first.
        dense: The dense network, of these runs or of others, or `None`.
    """

    def __init__(self, runs, others=()):
        self.runs = runs
        self.sides = [Side(runs, method) for method in runs[0].figures]
        self.main = Side(runs, runs[0].main)
        if self.main.is_dense:
            pruned = (side for side in self.sides if not side.is_dense)
            self.main = next(pruned, self.main)
        rest = [x for x in self.sides if x.method != self.main.method]
        self.rest = sorted(rest, key=lambda side: not side.is_dense)
        self.dense = _dense_of(runs)
        if self.dense is None:
            fitting = [
                group
                for group in others
                if _dense_of(group) and task(group[0]) == task(runs[0])
            ]
            if fitting:
                self.dense = _dense_of(min(fitting, key=group_name))

    @property
    def has_own_dense(self):
        """Whether the dense network is one of these runs' methods."""
        return self.dense is not None and self.dense.runs is self.runs

    @property
    def opponents(self):
        """Whom the main method is compared to."""
        borrowed = self.dense is not None and not self.has_own_dense
        return [*self.rest, *([self.dense] if borrowed else [])]


def _dense_of(runs):
    dense = runs[0].dense
    return Side(runs, dense) if dense in runs[0].figures else None


def task(run):
    """What a dense network must share to be what a run is compared to."""
    names = ("data", "model", "epochs", "num_megabatches")
    return [run.summary.get(name) for name in names]
