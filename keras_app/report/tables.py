"""What was pruned: per variable, in a table, a picture, or a dict."""

import dataclasses
import inspect
import math
import re

import keras
from keras import tree

from keras_app import graph
from keras_app import lora
from keras_app import selection
from keras_app import shares
from keras_app.report import rendering


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
    shape: tuple
    parameters: int
    zeros: int
    flops: int | None
    prunable: bool
    asked_sparsity: float | None = None
    layer: str = ""

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

    rows: list
    skipped: dict
    notes: list = dataclasses.field(default_factory=list)
    untrained: list = dataclasses.field(default_factory=list)
    followers: list = dataclasses.field(default_factory=list)
    asked_together: float | None = None

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
    def sparsity_all(self):
        """Share of exact zeros among all weights, trainable and not."""
        rows = [*self.rows, *self.untrained]
        total = sum(row.parameters for row in rows)
        return sum(row.zeros for row in rows) / max(1, total)

    @property
    def asked_sparsity(self):
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
    def flops(self):
        """Forward FLOPs per sample, zeros included, where they are known."""
        return sum(row.flops or 0 for row in [*self.rows, *self.untrained])

    @property
    def sparse_flops(self):
        """Forward FLOPs per sample without those of zero weights."""
        rows = [*self.rows, *self.untrained]
        return sum((row.flops or 0) * row.density for row in rows)

    def to_dict(self):
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


def _plain(row):
    shape = list(row.shape)
    return {**dataclasses.asdict(row), "shape": shape, "density": row.density}


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


def build(
    model, chosen, asked=None, asked_together=None, notes=(), followers=()
):
    """The report on a `selection.Selection` with `{path: asked sparsity}`."""
    flops = flops_per_sample(model)
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


def flops_per_sample(model):
    """`{id(kernel): forward FLOPs}` of the kernels whose uses are all known.

    Every call in the graph of the model counts, also those in nested models,
    and of recurrent layers each step.
    """
    model = shares.whole(model)
    if not graph.is_graph(model):
        return {}
    flops = {}
    for kernel, positions in _uses(model, model.inputs, {}, None, ()):
        more = math.nan
        if positions is not None and None not in positions:
            more = 2 * math.prod(kernel.shape) * math.prod(positions)
        flops[id(kernel)] = flops.get(id(kernel), 0) + more
    # Not a number: one of the uses is not known.
    return {key: count for key, count in flops.items() if count == count}


def _uses(layer, args, kwargs, output, times):
    """Yields `(kernel, how often it is applied per sample, as a shape)`.

    Args:
        layer: A layer, a model or an operation of `keras.ops`.
        args, kwargs: What it is called with, symbolic tensors.
        output: The first tensor that it returns.
        times: How often it is called per sample, as a shape.
    """
    given = [
        x
        for x in tree.flatten((args, kwargs))
        if isinstance(x, keras.KerasTensor)
    ]
    if graph.is_graph(layer):
        # Keras calls it on the shapes that it was built for only.
        for call in _calls(layer):
            yield from _uses(*call, times)
    elif type(layer) is keras.layers.TimeDistributed:
        slices = [_slice(x) for x in given]
        times = (*times, output.shape[1])
        yield from _uses(layer.layer, slices, {}, _slice(output), times)
    elif type(layer) is keras.layers.Bidirectional:
        for each in (layer.forward_layer, layer.backward_layer):
            yield from _uses(each, args, kwargs, output, times)
    elif type(layer) in _RECURRENT:
        # The first by name may be a state.
        steps = given[0].shape[1] if args else None
        for kernel in _kernels(layer.cell):
            yield kernel, (*times, steps)
    elif type(layer) in _ATTENTION:
        bound = inspect.signature(layer.call).bind(*args, **kwargs).arguments
        for dense in selection.walk_layers(layer):
            # Keys are at the positions of the values; all else, the output
            # too, is at those of the queries.
            of_values = dense.name in ("key", "value")
            source = bound["value" if of_values else "query"]
            for kernel in _kernels(dense):
                yield kernel, (*times, *source.shape[1:-1])
    else:
        for kernel in _kernels(layer):
            positions = _positions(layer, given[0].shape, output.shape)
            known = positions is not None
            yield kernel, (*times, *positions) if known else None
        # How often it calls what is inside only its code knows.
        for inner in selection.walk_layers(layer):
            if inner is not layer:
                for kernel in _kernels(inner):
                    yield kernel, None


_RECURRENT = (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)
_ATTENTION = (
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
)


def _calls(model):
    """`[(layer, args, kwargs, first output)]` in the graph of a model."""
    calls = []

    def call(node, args, kwargs):
        calls.append((node.operation, args, kwargs, node.outputs[0]))
        return node.outputs

    graph.walk(model, model.inputs, call)
    return calls


def _slice(tensor):
    """One step of a symbolic tensor whose second axis is time."""
    shape = (tensor.shape[0], *tensor.shape[2:])
    return keras.KerasTensor(shape, tensor.dtype)


def _kernels(layer):
    """The kernels that a layer holds itself."""
    return [
        value
        for name, value in vars(layer).items()
        if isinstance(value, keras.Variable) and name.endswith("kernel")
    ]


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
