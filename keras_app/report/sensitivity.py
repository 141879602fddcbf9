"""What pruning one layer alone costs: as a table, a picture, or a dict."""

import dataclasses
from typing import Any

from keras_app.hints import FilePath
from keras_app.report import rendering


@dataclasses.dataclass(frozen=True)
class Alone:
    """A layer, or layers that are joined, pruned alone at one sparsity.

    Attributes:
        name: Path of the kernel, or of the first of those that are joined.
        kernels: Paths of all of them.
        parameters: How many weights these have.
        sparsity: What was asked for, in [0, 1).
        achieved: Share of their weights that was zero.
        values: `{"loss": number, metric: number}` of the model then.
        changes: The same minus that of the model as it is.
    """

    name: str
    kernels: tuple[str, ...]
    parameters: int
    sparsity: float
    achieved: float
    values: dict[str, float]
    changes: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What `keras_app.sensitivity` found; `print` shows the table.

    Attributes:
        dense: `{"loss": number, metric: number}` of the model as it is.
        rows: An `Alone` for each layer at each sparsity, in the order of the
            model.
    """

    dense: dict[str, float]
    rows: list[Alone]

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain Python values, ready for JSON."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        return {
            "dense": dict(self.dense),
            "rows": [{**row, "kernels": list(row["kernels"])} for row in rows],
        }

    def __str__(self):
        # Here: a library user who prints nothing needs no table.
        from rich.table import Table

        table = Table(title="Each layer pruned alone", title_justify="left")
        table.add_column("layer", no_wrap=True)
        names = [part for name in self.dense for part in (name, "change")]
        for name in ("parameters", "sparsity", *names):
            table.add_column(name, justify="right")
        dense = [
            part for value in self.dense.values() for part in _cells(value, "")
        ]
        table.add_row("none", "", "", *dense)
        before = None
        for row in self.rows:
            if row.name != before:
                table.add_section()
            first = row.name, f"{row.parameters:,}"
            texts = [
                part
                for name, value in row.values.items()
                for part in _cells(value, f"{row.changes[name]:+.4f}")
            ]
            table.add_row(
                *(first if row.name != before else ("", "")),
                f"{row.achieved:.4f}",
                *texts,
            )
            before = row.name
        width = 80 + max((len(row.name) for row in self.rows), default=0)
        joined = [
            f"{row.name}: joined with {', '.join(row.kernels[1:])}"
            for row in {row.name: row for row in self.rows}.values()
            if len(row.kernels) > 1
        ]
        return rendering.printed([table, *joined], width + 20 * len(names))

    def plot(self, path: FilePath, metric: str | None = None) -> None:
        """Writes a bar chart: what changes with each layer, at each sparsity.

        Args:
            path: File to write; its suffix chooses the format (PNG, SVG, ...).
            metric: Which value. Defaults to `None`: the first metric, or the
                loss where there is none.

        Raises:
            ValueError: There is no such value.
        """
        from matplotlib.figure import Figure

        if metric is None:
            metric = next((x for x in self.dense if x != "loss"), "loss")
        if metric not in self.dense:
            raise ValueError(
                f"`metric` must be one of {', '.join(self.dense)}. "
                f"Received: metric={metric!r}"
            )
        names = list(dict.fromkeys(row.name for row in self.rows))
        sparsities = list(dict.fromkeys(row.sparsity for row in self.rows))
        height = 0.8 / len(sparsities)
        figure = Figure(
            figsize=(7, 1.2 + 0.22 * len(self.rows)), layout="tight"
        )
        axes = figure.subplots()
        for index, sparsity in enumerate(sparsities):
            rows = [row for row in self.rows if row.sparsity == sparsity]
            axes.barh(
                [names.index(row.name) + height * index for row in rows],
                [row.changes[metric] for row in rows],
                height,
                label=f"{sparsity:g}",
                # The sparser, the darker.
                color="#3b6ea5",
                alpha=(index + 1) / len(sparsities),
            )
        middle = 0.4 - height / 2
        axes.set_yticks([i + middle for i in range(len(names))], names)
        axes.invert_yaxis()
        axes.axvline(0, color="#4d4d4d", linewidth=0.8)
        axes.set_xlabel(f"change of {metric} when pruned alone")
        axes.legend(title="sparsity")
        figure.savefig(path)


def _cells(value, change):
    return f"{value:.4f}", change
