"""Which runs are worth having: few weights, high accuracy, or a bit of both."""

import dataclasses
import statistics

from keras_app.experiments.page import wording
from keras_app.experiments.page.results import Cell
from keras_app.experiments.page.results import Row
from keras_app.experiments.page.results import Table
from keras_app.experiments.page.runs import group_name
from keras_app.experiments.page.runs import groups
from keras_app.experiments.page.runs import number
from keras_app.report.front import pareto_front

TITLE = "Density and accuracy"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one method of equal runs ends with, a number for each seed."""

    runs: list
    method: str
    densities: list
    accuracies: list
    on_front: bool = False

    @property
    def density(self):
        """The mean over the seeds."""
        return statistics.fmean(self.densities)

    @property
    def accuracy(self):
        """The mean over the seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def density_spread(self):
        """The standard deviation (n - 1), or `None` of a single run."""
        return _spread(self.densities)

    @property
    def accuracy_spread(self):
        """The standard deviation (n - 1), or `None` of a single run."""
        return _spread(self.accuracies)

    @property
    def name(self):
        """The runs' name."""
        return group_name(self.runs)

    @property
    def label(self):
        """The method's name."""
        return wording.label_of(self.runs[0], self.method)


def _spread(values):
    return statistics.stdev(values) if len(values) > 1 else None


def outcomes(runs):
    """Returns the `Outcome`s of all finished runs by rising density.

    Runs that differ only by their seed are one outcome. Methods without a
    density or an accuracy are left out.
    """
    found = []
    for group in groups(runs):
        for method in group[0].figures:
            numbers = [
                [number(run.figures.get(method, {}).get(key)) for run in group]
                for key in ("effective_density", "accuracy")
            ]
            if None not in numbers[0] + numbers[1]:
                found.append(Outcome(group, method, *numbers))
    members = pareto_front(
        [outcome.density for outcome in found],
        [outcome.accuracy for outcome in found],
    )
    shown = [
        dataclasses.replace(outcome, on_front=index in members)
        for index, outcome in enumerate(found)
    ]
    return sorted(shown, key=lambda row: (row.density, -row.accuracy))


def table(outcomes):
    """The `Table` of outcomes, numbered as in the chart."""
    several = len({outcome.method for outcome in outcomes}) > 1
    seeds = any(len(outcome.runs) > 1 for outcome in outcomes)
    rows = []
    for place, outcome in enumerate(outcomes, start=1):
        name = f"{place} {outcome.name}"
        name += f", {outcome.label}" if several else ""
        cells = [
            Cell(wording.percent(outcome.density, outcome.density_spread)),
            Cell(wording.percent(outcome.accuracy, outcome.accuracy_spread)),
            Cell("front" if outcome.on_front else "", best=outcome.on_front),
        ]
        if seeds:
            cells.insert(0, Cell(str(len(outcome.runs))))
        rows.append(Row(Cell(name), cells))
    head = ["run, method" if several else "run", *(["seeds"] if seeds else [])]
    head += ["density, prunable", "test accuracy", ""]
    return Table(TITLE, [Cell(text) for text in head], rows, "several")


def note(outcomes):
    """What the table says, and how sure it is."""
    text = (
        "By rising density. A run is on the front if no other has as few "
        "weights and as much accuracy, and more of either."
    )
    if any(len(outcome.runs) > 1 for outcome in outcomes):
        text += (
            " Runs that differ only by their seed are one, with their means; "
            "± is the standard deviation (n - 1)."
        )
    if any(len(outcome.runs) == 1 for outcome in outcomes):
        text += " A lucky seed counts where there is only one."
    return text
