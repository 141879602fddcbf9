"""What was pruned: per variable, in a table, a picture, or a dict."""

import dataclasses
import io
import math
import re

import keras
import numpy as np
from keras import ops

from keras_app import lora
from keras_app import selection


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
            the layer's output shape is not known.
        prunable: Whether it is one of the pruned (or by default prunable)
            kernels.
        asked_sparsity: What the pruner asked for, in [0, 1); `None` without.
    """

    path: str
    shape: tuple
    parameters: int
    zeros: int
    flops: int | None
    prunable: bool
    asked_sparsity: float | None = None

    @property
    def density(self):
        """Share of entries that are not zero, in [0, 1]."""
        return 1.0 - self.zeros / self.parameters

    @property
    def sparsity(self):
        """Share of entries that are exactly zero, in [0, 1]."""
        return self.zeros / self.parameters


@dataclasses.dataclass(frozen=True)
class PruningReport:
    """Asked and achieved sparsity of a model; `print` shows the table.

    Attributes:
        rows: A `VariableReport` for every trainable variable.
        skipped: `{path: reason}` of the trainable variables without a mask.
        notes: Sentences on what the reader should know.
    """

    rows: list
    skipped: dict
    notes: list = dataclasses.field(default_factory=list)

    @property
    def parameters(self):
        """Number of trainable parameters."""
        return sum(row.parameters for row in self.rows)

    @property
    def zeros(self):
        """Number of trainable parameters that are exactly zero."""
        return sum(row.zeros for row in self.rows)

    @property
    def density(self):
        """Share of all trainable parameters that are not zero."""
        return 1.0 - self.zeros / max(1, self.parameters)

    @property
    def effective_density(self):
        """Share of the prunable kernels' entries that are not zero."""
        rows = [row for row in self.rows if row.prunable]
        total = sum(row.parameters for row in rows)
        return 1.0 - sum(row.zeros for row in rows) / max(1, total)

    @property
    def sparsity(self):
        """Share of the prunable kernels' entries that are exactly zero."""
        return 1.0 - self.effective_density

    @property
    def flops(self):
        """Forward FLOPs per sample, zeros included, where they are known."""
        return sum(row.flops or 0 for row in self.rows)

    @property
    def sparse_flops(self):
        """Forward FLOPs per sample without those of zero weights."""
        return sum((row.flops or 0) * row.density for row in self.rows)

    def to_dict(self):
        """Returns everything as plain Python values, ready for JSON."""
        return {
            "parameters": self.parameters,
            "zeros": self.zeros,
            "density": self.density,
            "effective_density": self.effective_density,
            "flops": self.flops,
            "sparse_flops": self.sparse_flops,
            "variables": [
                {
                    **dataclasses.asdict(row),
                    "shape": list(row.shape),
                    "density": row.density,
                }
                for row in self.rows
            ],
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
        }

    def __str__(self):
        # Imported here: a library user who prints nothing needs no table.
        from rich.console import Console
        from rich.table import Table

        table = Table(title="Pruning report", title_justify="left")
        # Paths are what one searches for: they are never broken.
        table.add_column("variable", no_wrap=True)
        for name in ("shape", "parameters", "zeros", "asked", "achieved"):
            table.add_column(name, justify="right")
        for row in self.rows:
            if not row.prunable:
                continue
            asked = row.asked_sparsity
            table.add_row(
                row.path,
                "x".join(map(str, row.shape)),
                f"{row.parameters:,}",
                f"{row.zeros:,}",
                "-" if asked is None else f"{asked:.4f}",
                f"{row.sparsity:.4f}",
            )
        table.add_section()
        prunable = [row for row in self.rows if row.prunable]
        table.add_row(
            "prunable kernels",
            "",
            f"{sum(row.parameters for row in prunable):,}",
            f"{sum(row.zeros for row in prunable):,}",
            "",
            f"{self.sparsity:.4f}",
        )
        table.add_row(
            "all trainable",
            "",
            f"{self.parameters:,}",
            f"{self.zeros:,}",
            "",
            f"{1 - self.density:.4f}",
        )
        out = io.StringIO()
        width = 80 + max((len(row.path) for row in self.rows), default=0)
        console = Console(
            file=out, width=width, no_color=True, markup=False, highlight=False
        )
        console.print(table)
        lines = [f"skipped {p}: {why}" for p, why in self.skipped.items()]
        lines += [f"note: {note}" for note in self.notes]
        for line in lines:
            console.print(line, soft_wrap=True)
        text = out.getvalue().splitlines()
        return "\n".join(line.rstrip() for line in text)

    def plot(self, path):
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


def summarize(model):
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


def build(model, chosen, asked=None, notes=()):
    """The report on a `selection.Selection` with `{path: asked sparsity}`."""
    flops = flops_per_sample(model)
    rows = []
    for path, variable in selection.paths_of(model.trainable_variables).items():
        values = ops.convert_to_numpy(variable)
        rows.append(
            VariableReport(
                path=path,
                shape=tuple(variable.shape),
                parameters=int(values.size),
                zeros=int(values.size - np.count_nonzero(values)),
                flops=flops.get(id(variable)),
                prunable=path in chosen.variables,
                asked_sparsity=(asked or {}).get(path),
            )
        )
    filled = lora.filled_zeros(model)
    notes = [*notes, *([filled] if filled else [])]
    return PruningReport(rows, dict(chosen.skipped), notes)


def flops_per_sample(model):
    """`{id(kernel): forward FLOPs}` of the layers whose shapes are known."""
    flops = {}
    shared = _used_more_than_once(model)
    for layer in selection.walk_layers(model):
        if id(layer) in shared:
            continue
        kernels = [
            value
            for name, value in vars(layer).items()
            if isinstance(value, keras.Variable) and name.endswith("kernel")
        ]
        try:
            outputs, inputs = layer.output.shape, layer.input.shape
        except (AttributeError, ValueError):
            # Layers inside other layers have no shapes of their own.
            continue
        for kernel in kernels:
            positions = _positions(layer, inputs, outputs)
            if positions is not None and None not in positions:
                size = math.prod(kernel.shape) * math.prod(positions)
                flops[id(kernel)] = 2 * int(size)
    return flops


def _used_more_than_once(model):
    """Ids of layers whose uses may have different shapes."""
    try:
        described = model.get_config().get("layers", [])
    except (NotImplementedError, TypeError, ValueError):
        return set()
    names = {
        entry.get("name")
        for entry in described
        if len(entry.get("inbound_nodes", ())) > 1
    }
    found = set()
    for layer in model.layers:
        if layer.name in names:
            found.update(id(inner) for inner in selection.walk_layers(layer))
        elif isinstance(layer, keras.Model):
            found |= _used_more_than_once(layer)
    return found


def _positions(layer, inputs, outputs):
    """How often a kernel is applied per sample, as a shape."""
    if isinstance(layer, keras.layers.Dense):
        return outputs[1:-1]
    if isinstance(layer, keras.layers.EinsumDense):
        if "..." in layer.equation:
            return None
        given, weight, result = re.split(",|->", layer.equation)
        sizes = dict(zip(given, inputs))
        return [sizes.get(x) for x in result[1:] if x not in weight]
    if not hasattr(layer, "kernel_size"):
        return None
    # A transposed convolution applies its kernel at every input position.
    shape = inputs if "Transpose" in type(layer).__name__ else outputs
    first = layer.data_format == "channels_first"
    return shape[2:] if first else shape[1:-1]
