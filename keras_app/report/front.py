"""Which runs are worth having: few weights, high accuracy, or a bit of both."""

import dataclasses
import statistics

import numpy as np

from keras_app.report import wording
from keras_app.report.results import Cell
from keras_app.report.results import Row
from keras_app.report.results import Table
from keras_app.report.runs import group_name
from keras_app.report.runs import groups
from keras_app.report.runs import number

TITLE = "Density and accuracy"


def pareto_front(densities, accuracies):
    """Finds the runs that no other run beats.

    Run j beats run i if it has no more weights and no less accuracy, and is
    strictly better in one of the two. Equal runs do not beat each other.

        i is on the front  <=>  no j with d_j <= d_i, a_j >= a_i
                                and (d_j, a_j) != (d_i, a_i)

    One sort.

    Args:
        densities: Densities, or any other cost, one for each run; finite.
        accuracies: Accuracies, or any other gain, one for each run; finite.

    Returns:
        A list of indices by rising density; equal runs in their order.

    Raises:
        ValueError: The lengths differ, or a number is not finite.

    Example:

    >>> pareto_front([1.0, 0.1, 0.2, 0.5], [0.90, 0.80, 0.75, 0.88])
    [1, 3, 0]
    """
    densities = np.asarray(densities, "float64")
    accuracies = np.asarray(accuracies, "float64")
    if densities.ndim != 1 or densities.shape != accuracies.shape:
        raise ValueError(
            "`densities` and `accuracies` must be two lists of one length. "
            f"Received: shapes {densities.shape} and {accuracies.shape}"
        )
    for name, values in (("densities", densities), ("accuracies", accuracies)):
        if not np.isfinite(values).all():
            raise ValueError(
                f"`{name}` must be finite. Received: {name}={values.tolist()}"
            )
    front = []
    # Among equal densities the most accurate comes first, and lexsort is
    # stable: so each run is beaten by the last of the front or by none.
    for index in np.lexsort((-accuracies, densities)).tolist():
        last = front[-1] if front else None
        if last is None or accuracies[index] > accuracies[last]:
            front.append(index)
        elif (densities[index], accuracies[index]) == (
            densities[last],
            accuracies[last],
        ):
            front.append(index)
    return front


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
