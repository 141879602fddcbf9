"""What was pruned: per variable, in a table, a picture, or a dict."""

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import keras

from keras_app import graph
from keras_app import lora
from keras_app import selection
from keras_app import shares
from keras_app.hints import FilePath
from keras_app.hints import Shape
from keras_app.report import rendering
from keras_app.selection import Selection


@dataclasses.dataclass(frozen=True)
class VariableReport:
    """One weight of a model.

    Attributes:
        path: Its `variable.path`, unique in the model.
        shape: Its shape.
        parameters: Number of entries.
        zeros: Number of entries that are exactly zero.
        flops: Floating-point operations it costs per sample in the forward
            pass, two for each multiply-add, counting zeros too; `None` where
            it is not known how often it is applied: in subclassed models,
            layers of one's own, and at shapes that are not fixed.
        prunable: Whether it is one of the pruned (or by default prunable)
            kernels.
        asked_sparsity: What the pruner asked for, in [0, 1), of this weight;
            `None` without, and where it asked for it of several together.
        layer: Name of the layer of the model that it is in.
    """

    path: str
    shape: Shape
    parameters: int
    zeros: int
    flops: int | None
    prunable: bool
    asked_sparsity: float | None = None
    layer: str = ""

    @property
    def density(self) -> float:
        """Share of entries that are not zero, in [0, 1]."""
        return 1.0 - self.zeros / self.parameters

    @property
    def sparsity(self) -> float:
        """Share of entries that are exactly zero, in [0, 1]."""
        return self.zeros / self.parameters


@dataclasses.dataclass(frozen=True)
class PruningReport:
    """Asked and achieved sparsity of a model; `print` shows the table.

    Long lists are shortened in the table; the attributes hold all names.

    Attributes:
        rows: A `VariableReport` for every trainable variable.
        skipped: `{path: reason}` of the trainable variables without a mask.
        notes: Sentences on what the reader should know.
        untrained: A `VariableReport` for every other weight of the model:
            frozen ones and moving statistics.
        followers: Paths of the variables that are pruned along with others,
            such as the biases of channels.
        asked_together: What the pruner asked for of the prunable kernels that
            share one threshold; `None` without.
    """

    rows: list[VariableReport]
    skipped: dict[str, str]
    notes: list[str] = dataclasses.field(default_factory=list)
    untrained: list[str] = dataclasses.field(default_factory=list)
    followers: list[str] = dataclasses.field(default_factory=list)
    asked_together: float | None = None

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(row.parameters for row in self.rows)

    @property
    def zeros(self) -> int:
        """Number of trainable parameters that are exactly zero."""
        return sum(row.zeros for row in self.rows)

    @property
    def density(self) -> float:
        """Share of all trainable parameters that are not zero."""
        return 1.0 - self.zeros / max(1, self.parameters)

    @property
    def effective_density(self) -> float:
        """Share of the prunable kernels' entries that are not zero."""
        rows = [row for row in self.rows if row.prunable]
        total = sum(row.parameters for row in rows)
        return 1.0 - sum(row.zeros for row in rows) / max(1, total)

    @property
    def sparsity(self) -> float:
        """Share of the prunable kernels' entries that are exactly zero."""
        return 1.0 - self.effective_density

    @property
    def sparsity_all(self) -> float:
        """Share of exact zeros among all weights, trainable and not."""
        rows = [*self.rows, *self.untrained]
        total = sum(row.parameters for row in rows)
        return sum(row.zeros for row in rows) / max(1, total)

    @property
    def asked_sparsity(self) -> float | None:
        """What was asked of all prunable kernels; `None` without."""
        rows = [row for row in self.rows if row.prunable]
        asked = [
            self.asked_together
            if row.asked_sparsity is None
            else row.asked_sparsity
            for row in rows
        ]
        if not rows or None in asked:
            return None
        pruned = sum(s * row.parameters for s, row in zip(asked, rows))
        return pruned / sum(row.parameters for row in rows)

    @property
    def flops(self) -> int | None:
        """Forward FLOPs per sample, zeros included, where they are known."""
        return sum(row.flops or 0 for row in [*self.rows, *self.untrained])

    @property
    def sparse_flops(self) -> int | None:
        """Forward FLOPs per sample without those of zero weights."""
        rows = [*self.rows, *self.untrained]
        return sum((row.flops or 0) * row.density for row in rows)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain Python values, ready for JSON."""
        return {
            "parameters": self.parameters,
            "zeros": self.zeros,
            "density": self.density,
            "effective_density": self.effective_density,
            "sparsity": self.sparsity,
            "sparsity_all": self.sparsity_all,
            "asked_sparsity": self.asked_sparsity,
            "flops": self.flops,
            "sparse_flops": self.sparse_flops,
            "variables": [_plain(row) for row in self.rows],
            "untrained": [_plain(row) for row in self.untrained],
            "followers": list(self.followers),
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
        }

    def __str__(self):
        return rendering.as_text(self)

    def _repr_html_(self):
        return rendering.as_html(self)

    def plot(self, path: FilePath) -> None:
        """Writes a bar chart of the density of every prunable kernel.

        Args:
            path: File to write; its suffix chooses the format (PNG, SVG, ...).
        """
        from matplotlib.figure import Figure

        rows = [row for row in self.rows if row.prunable]
        figure = Figure(figsize=(7, 0.7 + 0.3 * len(rows)), layout="tight")
        axes = figure.subplots()
        names = [row.path for row in rows]
        axes.barh(names, [row.density for row in rows], color="#3b6ea5")
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel("density (share of weights kept)")
        figure.savefig(path)


def _plain(row):
    shape = list(row.shape)
    return {**dataclasses.asdict(row), "shape": shape, "density": row.density}


def summarize(model: keras.Model) -> PruningReport:
    """Counts the zeros of a model, whoever made them.

    Args:
        model: A built `keras.Model`.

    Returns:
        A `PruningReport`.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> summarize(model).effective_density
    1.0
    """
    try:
        chosen = selection.select(model)
    except ValueError as error:
        if not model.built:
            raise
        paths = selection.paths_of(model.trainable_variables)
        reason = str(error)
        chosen = selection.Selection({}, dict.fromkeys(paths, reason))
    return build(model, chosen)


def build(
    model: keras.Model,
    chosen: Selection,
    asked: Mapping[str, float] | None = None,
    asked_together: float | None = None,
    notes: Iterable[str] = (),
    followers: Iterable[str] = (),
) -> PruningReport:
    """The report on a `selection.Selection` with `{path: asked sparsity}`."""
    flops = graph.flops_per_sample(model)
    layers = shares.homes(model)

    def row(path, variable):
        return VariableReport(
            path=path,
            shape=tuple(variable.shape),
            parameters=shares.size(variable),
            zeros=shares.count_zeros(variable),
            flops=flops.get(id(variable)),
            prunable=path in chosen.variables,
            asked_sparsity=(asked or {}).get(path),
            layer=layers.get(id(variable), ""),
        )

    trained = selection.paths_of(model.trainable_variables)
    known = {id(variable) for variable in trained.values()}
    others = selection.paths_of(
        v for v in shares.whole(model).weights if id(v) not in known
    )
    filled = lora.filled_zeros(model)
    return PruningReport(
        [row(path, variable) for path, variable in trained.items()],
        dict(chosen.skipped),
        [*notes, *([filled] if filled else [])],
        [row(path, variable) for path, variable in others.items()],
        followers,
        asked_together,
    )
