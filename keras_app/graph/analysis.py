"""Which channels of a functional model belong together, and which are dead.

The last axis of every tensor is followed through the graph. Each of its
positions carries an *atom*: what is cut must be cut wherever the atom appears.
A layer that mixes channels (`Dense`, convolutions) starts new atoms; one that
keeps them apart (activations, batch normalization, pooling) passes them on; a
merge joins the atoms of its inputs, a concatenation lines them up, and a
flattening repeats them, once per position in space. With each position goes
the constant that it always has, whatever the input is, if there is one.

An atom is live if it reaches an output of the model, or a layer that cannot be
cut, or a nonzero weight toward a live channel, except that a constant is not
read but folded into the bias of the reader, where that is exact. All others
can go.

The heads of an attention layer are atoms of their own, which no other layer
sees. A head is live if neither its values nor what reads them are all zero.
"""

import dataclasses
import math

import keras
import numpy as np
from keras import layers
from keras import ops
from keras import tree

from keras_app import selection
from keras_app.graph.walking import is_graph
from keras_app.graph.walking import walk

# Activations that look at one entry at a time.
_ELEMENTWISE = {
    keras.activations.get(name)
    for name in (
        "linear relu relu6 elu selu celu gelu silu sigmoid tanh tanh_shrink "
        "softplus softsign exponential hard_sigmoid hard_silu hard_tanh "
        "hard_shrink leaky_relu mish log_sigmoid soft_shrink squareplus "
        "sparse_plus threshold"
    ).split()
}


class Uncut(Exception):
    """A layer whose channels must all stay, and why."""


@dataclasses.dataclass
class Channels:
    """The last axis of one tensor.

    Attributes:
        atoms: Atom of each position; `None` where the tensor has no such axis
            or its length is not known.
        constants: What each position always is; NaN where it varies.
    """

    atoms: np.ndarray | None
    constants: np.ndarray | None = None

    def replace(self, constants):
        return Channels(self.atoms, constants)


@dataclasses.dataclass
class Reader:
    """A layer that mixes its input channels into new ones.

    Attributes:
        reads: Whether output j has a nonzero weight for input i, shape
            `(inputs, outputs)`.
        sums: What output j gets from a constant 1 at input i, same shape.
        padded: Whether the border sees less of a constant than the middle.
    """

    reads: np.ndarray
    sums: np.ndarray
    padded: bool


@dataclasses.dataclass
class Record:
    """One layer, over all of its calls; of attention, its heads."""

    layer: object
    inputs: Channels
    outputs: Channels
    reader: Reader | None = None

    @property
    def is_attention(self):
        """Whether its inputs and outputs are heads, not channels."""
        return type(self.layer) in _HEADS


@dataclasses.dataclass
class Member:
    """Where a weight has the atoms of a record.

    Attributes:
        variable: The weight.
        axis: Its axis.
        atoms: The atom of each position along this axis.
        makes: Whether the weight makes these channels, rather than change
            what others made.
    """

    variable: object
    axis: int
    atoms: np.ndarray
    makes: bool


def count_dead(model):
    """Returns how many channels, neurons and heads `shrink` would cut.

    Args:
        model: A model of which `is_graph` is true.
    """
    analysis = Analysis(model)
    analysis.find_live()
    return sum(
        int(np.count_nonzero(~analysis.kept(record.outputs)))
        for record in analysis.records.values()
        if record.reader is not None or record.is_attention
    )


def numpy_of(variable):
    """A variable or tensor in double precision, for exact sums."""
    return np.asarray(ops.convert_to_numpy(variable)).astype("float64")


class Analysis:
    """The atoms of a model and, after `find_live`, which of them are live.

    Args:
        model: A model of which `is_graph` is true.
    """

    def __init__(self, model):
        # A layer that cannot be cut in one of its calls cannot in another:
        # start again with what is known by then.
        self.uncut = {}
        while True:
            known = len(self.uncut)
            self._follow(model)
            if len(self.uncut) == known:
                break

    def kept(self, channels):
        """Which positions stay, bool."""
        return self._live[self.roots(channels.atoms)]

    def members(self, heads=False):
        """Returns a `Member` for each axis of a weight that holds atoms.

        Args:
            heads: Whether of attention heads, or of channels. Defaults to
                `False`.
        """
        return [
            member
            for record in self.records.values()
            if record.is_attention == heads
            for member in _members_of(record)
        ]

    def must_stay(self):
        """Returns `{root: why}` of the atoms that can never be cut."""
        ends = "they are inputs or outputs of the model"
        reasons = dict.fromkeys(self.roots(self._ends).tolist(), ends)
        for channels, layer, reason in self._pins:
            for root in self.roots(channels.atoms).tolist():
                reasons.setdefault(root, f"{layer.name}: {reason}")
        for root in self.roots(self._pinned).tolist():
            reasons.setdefault(root, "they meet channels that must")
        return reasons

    def fold(self, record):
        """What the constants that go add to the bias of a reader."""
        gone = ~self.kept(record.inputs)
        constants = np.where(gone, record.inputs.constants, 0.0)
        return np.nan_to_num(constants, nan=0.0) @ record.reader.sums

    def notes(self):
        """What looks dead and was kept, `{name of the layer: reason}`."""
        notes = {}
        ends = np.isin(np.arange(len(self._parents)), self.roots(self._ends))
        for channels, layer, reason in self._pins:
            # Nobody expects the model to lose an input or output.
            inside = ~ends[self.roots(channels.atoms)]
            dead = np.count_nonzero(~np.isnan(channels.constants) & inside)
            if dead:
                notes[layer.name] = f"{dead} constant channels kept: {reason}"
        for layer, reason in self.uncut.values():
            zeros = any(
                len(weight.shape) > 1 and not numpy_of(weight).all()
                for weight in getattr(layer, "weights", ())
            )
            if zeros:
                notes.setdefault(layer.name, f"its zeros stay: {reason}")
        for record in self.records.values():
            if record.reader is None or not record.reader.padded:
                continue
            constants = record.inputs.constants
            held = ~np.isnan(constants) & (constants != 0)
            read = record.reader.reads[:, self.kept(record.outputs)].any(axis=1)
            if (held & read).any():
                notes[record.layer.name] = (
                    f"{np.count_nonzero(held & read)} constant channels kept: "
                    "they are not zero, and padding shows at the border"
                )
        for layer, channels, normed in self._grouped:
            dead = ~np.isnan(channels.constants) & np.isnan(normed)
            if dead.any():
                notes[layer.name] = (
                    f"{np.count_nonzero(dead)} constant channels kept: "
                    "normalized together with channels that vary"
                )
        return notes

    # Atoms: a forest in which joined atoms have the same root.

    def _new(self, size):
        start = len(self._parents)
        self._parents.extend(range(start, start + size))
        return np.arange(start, start + size)

    def _root(self, atom):
        while self._parents[atom] != atom:
            self._parents[atom] = self._parents[self._parents[atom]]
            atom = self._parents[atom]
        return atom

    def roots(self, atoms):
        """The atom that stands for all those joined with each, int64."""
        return np.array([self._root(atom) for atom in atoms], "int64")

    def join(self, first, second):
        """Makes atoms be cut together, position by position."""
        for a, b in zip(first, second):
            self._parents[self._root(a)] = self._root(b)

    def pin(self, channels, layer=None, reason=None):
        """Makes channels stay."""
        if channels.atoms is not None:
            self._pinned.extend(channels.atoms)
            if layer is not None:
                self._pins.append((channels, layer, reason))

    # The way forward through the graph.

    def _fresh(self, tensor):
        """Channels that no one knows anything of."""
        shape = tensor.shape
        if len(shape) < 2 or shape[-1] is None:
            return Channels(None)
        return Channels(self._new(shape[-1]), np.full(shape[-1], np.nan))

    def _follow(self, model):
        self._parents, self._pinned = [], []
        self._pins, self._grouped, self._ends = [], [], []
        self.records, self.model_inputs = {}, {}
        inputs = [self._fresh(tensor) for tensor in model.inputs]
        outputs = self._enter(model, inputs)
        for channels in [*inputs, *outputs]:
            self.pin(channels)
            if channels.atoms is not None:
                self._ends.extend(channels.atoms)

    def _enter(self, model, inputs):
        before = self.model_inputs.setdefault(id(model), inputs)
        for new, old in zip(inputs, before):
            if new.atoms is not None:
                self.join(new.atoms, old.atoms)
        return walk(model, inputs, self._visit)

    def _visit(self, node, args, kwargs):
        layer = node.operation
        inputs = [
            x for x in tree.flatten((args, kwargs)) if isinstance(x, Channels)
        ]
        # A mask is no channel: what is masked is so in all of them.
        others = {name: x for name, x in kwargs.items() if name != "mask"}
        if id(layer) not in self.uncut:
            try:
                return self._cuttable(layer, node, args, others)
            except Uncut as error:
                self.uncut[id(layer)] = (layer, str(error))
        for channels in inputs:
            self.pin(channels, layer, self.uncut[id(layer)][1])
        outputs = [self._fresh(tensor) for tensor in node.outputs]
        for channels in outputs:
            self.pin(channels)
        return outputs

    def _cuttable(self, layer, node, args, others):
        if type(layer) in _HEADS:
            return self._attention(layer, node, [*args, *others.values()])
        if any(x is not None and x is not False for x in others.values()):
            raise Uncut("called with arguments beside its input")
        inputs = [x for x in tree.flatten(args) if isinstance(x, Channels)]
        if any(channels.atoms is None for channels in inputs):
            if type(layer) is not layers.Embedding:
                raise Uncut("the number of its channels is not known")
        if is_graph(layer):
            shapes = [x.shape for x in tree.flatten(node.arguments.args)]
            own = [x.shape for x in layer.inputs]
            if [(len(s), s[-1]) for s in shapes] != [
                (len(s), s[-1]) for s in own
            ]:
                raise Uncut("called on another shape than it was built for")
            return self._enter(layer, inputs)
        _check_plain(layer)
        if type(layer) in _UNCUT:
            raise Uncut(_UNCUT[type(layer)])
        if type(layer) in _MERGES:
            return self._merge(layer, args[0], _MERGES[type(layer)], node)
        if type(layer) is layers.Concatenate:
            return _concatenate(self, layer, args[0], node)
        if not isinstance(layer, keras.Layer):
            return self._operation(layer, args, inputs, node)
        handler = _HANDLERS.get(type(layer))
        if handler is None:
            raise Uncut(f"{type(layer).__name__} is not known to be cuttable")
        if len(args) != 1 or not isinstance(args[0], Channels):
            raise Uncut("called on several inputs")
        return handler(self, layer, args[0], node)

    def _attention(self, layer, node, values):
        """The channels around attention stay; its heads are by themselves."""
        known = node.arguments.kwargs
        mask = known.get("attention_mask")
        if known.get("return_attention_scores") or len(node.arguments.args) > 3:
            raise Uncut("called for more than its output")
        # A mask of rank 3 is the same for all heads.
        if mask is not None and len(mask.shape) != 3:
            raise Uncut("called with a mask that may differ between heads")
        for dense in selection.walk_layers(layer):
            _check_plain(dense)
        for channels in values:
            if isinstance(channels, Channels):
                self.pin(channels, layer, "attention reads all channels")
        old = self.records.get(id(layer))
        if old is None:
            count = getattr(layer, _HEADS[type(layer)])
            dead = _dead_heads(layer, count)
            heads = Channels(self._new(count), np.where(dead, 0.0, np.nan))
            self.record(layer, heads, heads)
        outputs = [self._fresh(tensor) for tensor in node.outputs]
        for channels in outputs:
            self.pin(channels)
        return outputs

    def _operation(self, operation, args, inputs, node):
        """A function of `keras.ops`, or an operator."""
        if not type(operation).__module__.startswith("keras.src.ops."):
            raise Uncut(f"{type(operation).__name__} is not known")
        name = type(operation).__name__
        if name in _OPERATIONS:
            return self._merge(operation, args, _OPERATIONS[name], node)
        if name in _FUNCTIONS and len(args) == 1 and len(inputs) == 1:
            return self.apply(operation, args[0], node)
        raise Uncut(f"{name} is not known to keep channels apart")

    def _merge(self, layer, args, function, node):
        rank = len(node.outputs[0].shape)
        if any(len(x.shape) != rank for x in node.input_tensors):
            raise Uncut("merges tensors of different ranks")
        channels = [x for x in args if isinstance(x, Channels)]
        others = [x for x in args if not isinstance(x, Channels)]
        if any(np.ndim(x) for x in others):
            raise Uncut("merges with an array")
        size = max(len(x.atoms) for x in channels)
        wide = [x for x in channels if len(x.atoms) == size]
        for one in wide[1:]:
            self.join(one.atoms, wide[0].atoms)
        for one in channels:
            if len(one.atoms) != size:
                self.pin(one)
        constants = [
            x.constants if isinstance(x, Channels) else float(x) for x in args
        ]
        with np.errstate(all="ignore"):
            return wide[0].replace(
                function([np.broadcast_to(x, (size,)) for x in constants])
            )

    def apply(self, layer, channels, node):
        """Passes channels through a layer that looks at each by itself."""
        known = ~np.isnan(channels.constants)
        if not known.any():
            return channels
        rank = len(node.input_tensors[0].shape)
        probe = np.where(known, channels.constants, 0.0)
        probe = probe.reshape((1,) * (rank - 1) + (-1,))
        dtype = getattr(layer, "compute_dtype", "float32")
        result = layer(ops.convert_to_tensor(probe, dtype))
        return channels.replace(
            np.where(known, numpy_of(result).reshape(-1), np.nan)
        )

    def record(self, layer, inputs, outputs, reader=None):
        """Notes a layer that changes with its channels; joins its calls."""
        old = self.records.get(id(layer))
        if old is None:
            self.records[id(layer)] = Record(layer, inputs, outputs, reader)
            return
        if len(old.inputs.atoms) != len(inputs.atoms):
            raise Uncut("called on different numbers of channels")
        self.join(inputs.atoms, old.inputs.atoms)
        self.join(outputs.atoms, old.outputs.atoms)
        # Two calls with different constants cannot fold into one bias.
        same = inputs.constants == old.inputs.constants
        old.inputs = old.inputs.replace(
            np.where(same, inputs.constants, np.nan)
        )

    def group(self, layer, channels, normed):
        self._grouped.append((layer, channels, normed))

    # The way back.

    def find_live(self, multiple_of=1):
        """Finds what stays.

        Args:
            multiple_of: Layers keep a multiple of this many channels if they
                can. Defaults to `1`.
        """
        self._live = np.zeros(len(self._parents), bool)
        self._live[self.roots(self._pinned)] = True
        readers = [
            (
                record.reader.reads,
                self.roots(record.inputs.atoms),
                self.roots(record.outputs.atoms),
                ~np.isnan(record.inputs.constants)
                & ((record.inputs.constants == 0) | (not record.reader.padded)),
            )
            for record in self.records.values()
            if record.reader is not None
        ]
        producers = [
            self.roots(record.outputs.atoms)
            for record in self.records.values()
            if record.reader is not None
            or type(record.layer) is layers.Embedding
        ]
        for record in self.records.values():
            if record.is_attention:
                heads = self.roots(record.outputs.atoms)
                self._live[heads[np.isnan(record.outputs.constants)]] = True
                self._round_up(heads, 1)
        while True:
            before = np.count_nonzero(self._live)
            for reads, inputs, outputs, foldable in readers:
                needed = reads[:, self._live[outputs]].any(axis=1) & ~foldable
                self._live[inputs[needed]] = True
            if np.count_nonzero(self._live) != before:
                continue
            for atoms in producers:
                self._round_up(atoms, multiple_of)
            if np.count_nonzero(self._live) == before:
                return

    def _round_up(self, atoms, multiple_of):
        """Brings dead channels back; a layer keeps one at the least."""
        kept = np.count_nonzero(self._live[atoms])
        target = max(1, math.ceil(kept / multiple_of)) * multiple_of
        for atom in atoms:
            if np.count_nonzero(self._live[atoms]) >= target:
                return
            self._live[atom] = True


# What the layers do to channels.


def _activate(layer, values):
    """The activation of a layer, of values that are finite."""
    if layer.activation is keras.activations.linear:
        return values
    values = ops.convert_to_tensor(values, layer.compute_dtype)
    return numpy_of(layer.activation(values))


def _reader(matrix_of):
    """A handler for layers that mix channels."""

    def handler(analysis, layer, channels, node):
        reads, sums, padded = matrix_of(layer)
        outputs = reads.shape[1]
        bias = np.zeros(outputs)
        if layer.use_bias:
            bias = numpy_of(layer.bias)
        reader = Reader(reads, sums, padded)
        known = ~np.isnan(channels.constants)
        foldable = known & ((channels.constants == 0) | (not padded))
        constant = ~reads[~foldable].any(axis=0)
        values = bias + np.where(foldable, channels.constants, 0.0) @ sums
        elementwise = layer.activation in _ELEMENTWISE
        if elementwise:
            values = _activate(layer, np.where(constant, values, 0.0))
        old = analysis.records.get(id(layer))
        atoms = old.outputs.atoms if old else analysis._new(outputs)
        result = Channels(
            atoms, np.where(constant & elementwise, values, np.nan)
        )
        analysis.record(layer, channels, result, reader)
        if not elementwise:
            analysis.pin(
                result.replace(np.where(constant, values, np.nan)),
                layer,
                "its activation looks at all channels at once",
            )
        return result

    return handler


def _dense(layer):
    kernel = numpy_of(layer.kernel)
    return kernel != 0, kernel, False


def _space(kernel):
    """The axes of a kernel that are space."""
    return tuple(range(kernel.ndim - 2))


def _is_padded(layer):
    return layer.padding != "valid" and math.prod(layer.kernel_size) > 1


def _convolution(layer):
    _check_last(layer)
    if layer.groups != 1:
        raise Uncut("a convolution in groups")
    kernel = numpy_of(layer.kernel)
    space = _space(kernel)
    return (kernel != 0).any(axis=space), kernel.sum(space), _is_padded(layer)


def _transposed(layer):
    _check_last(layer)
    kernel = numpy_of(layer.kernel).swapaxes(-1, -2)
    space = _space(kernel)
    # How many weights meet at one output depends on where it is.
    return (kernel != 0).any(axis=space), kernel.sum(space), True


def _separable(layer):
    _check_last(layer)
    depthwise = numpy_of(layer.depthwise_kernel)
    pointwise = numpy_of(layer.pointwise_kernel)
    pointwise = pointwise.reshape(*depthwise.shape[-2:], -1)
    space = _space(depthwise)
    reads = np.einsum(
        "im,imo->io",
        (depthwise != 0).any(axis=space).astype("float64"),
        (pointwise != 0).astype("float64"),
    )
    sums = np.einsum("im,imo->io", depthwise.sum(space), pointwise)
    return reads > 0, sums, _is_padded(layer)


def _check_plain(layer):
    if getattr(layer, "quantization_mode", None) or getattr(
        layer, "lora_enabled", False
    ):
        raise Uncut("quantized, or adapted by LoRA")


def _check_last(layer):
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise Uncut("its channels are not the last axis")


def _check_axis(layer, node):
    rank = len(node.input_tensors[0].shape)
    if not isinstance(layer.axis, int) or layer.axis not in (-1, rank - 1):
        raise Uncut("normalizes along another axis than the last")


def _depthwise(analysis, layer, channels, node):
    _check_last(layer)
    kernel = numpy_of(layer.kernel)
    multiplier = kernel.shape[-1]
    space = _space(kernel)
    reads = (kernel != 0).any(axis=space).reshape(-1)
    constants = np.repeat(channels.constants, multiplier)
    known = ~np.isnan(constants)
    foldable = known & ((constants == 0) | (not _is_padded(layer)))
    constant = ~reads | foldable
    values = np.where(foldable, constants, 0.0) * kernel.sum(space).reshape(-1)
    if layer.use_bias:
        values = values + numpy_of(layer.bias)
    if layer.activation not in _ELEMENTWISE:
        raise Uncut("its activation looks at all channels at once")
    values = _activate(layer, np.where(constant, values, 0.0))
    result = Channels(
        np.repeat(channels.atoms, multiplier),
        np.where(constant, values, np.nan),
    )
    analysis.record(layer, channels, result)
    return result


def _embedding(analysis, layer, channels, node):
    analysis.pin(channels)
    table = numpy_of(layer.embeddings)
    old = analysis.records.get(id(layer))
    atoms = old.outputs.atoms if old else analysis._new(table.shape[1])
    constant = (table == table[:1]).all(axis=0)
    result = Channels(atoms, np.where(constant, table[0], np.nan))
    # Its inputs are indices, which are not its channels.
    analysis.record(layer, result, result)
    return result


def _batch_norm(analysis, layer, channels, node):
    _check_axis(layer, node)
    analysis.record(layer, channels, channels)
    scale = 1 / np.sqrt(numpy_of(layer.moving_variance) + layer.epsilon)
    shift = 0.0
    constants = channels.constants
    if layer.scale:
        gamma = numpy_of(layer.gamma)
        scale = scale * gamma
        # What is scaled by zero does not depend on the input any more.
        constants = np.where((gamma == 0) & np.isnan(constants), 0, constants)
    if layer.center:
        shift = numpy_of(layer.beta)
    constants = (constants - numpy_of(layer.moving_mean)) * scale + shift
    return channels.replace(constants)


def _group_norm(analysis, layer, channels, node):
    _check_axis(layer, node)
    size = len(channels.atoms) // layer.groups
    constants = channels.constants.reshape(-1, size)
    constants = np.where(
        np.isnan(constants).any(axis=1, keepdims=True), np.nan, constants
    )
    for atoms in channels.atoms.reshape(-1, size):
        analysis.join(atoms[1:], atoms[:-1])
    analysis.record(layer, channels, channels)
    result = analysis.apply(
        layer, channels.replace(constants.reshape(-1)), node
    )
    analysis.group(layer, channels, result.constants)
    return result


def _prelu(analysis, layer, channels, node):
    analysis.record(layer, channels, channels)
    alpha = numpy_of(layer.alpha)
    if alpha.shape[-1] != len(channels.atoms):
        raise Uncut("its slopes are shared by all channels")
    # Slopes may differ in space: then a negative constant is one no longer.
    shared = alpha.size == alpha.shape[-1]
    negative = alpha.reshape(-1, alpha.shape[-1])[0] * channels.constants
    constants = channels.constants
    return channels.replace(
        np.where(constants >= 0, constants, negative if shared else np.nan)
    )


def _elementwise(analysis, layer, channels, node):
    return analysis.apply(layer, channels, node)


def _activation(analysis, layer, channels, node):
    if layer.activation not in _ELEMENTWISE:
        raise Uncut("its activation looks at all channels at once")
    return analysis.apply(layer, channels, node)


def _rescaling(analysis, layer, channels, node):
    if np.ndim(layer.scale) or np.ndim(layer.offset):
        raise Uncut("its scale or offset differs between channels")
    return analysis.apply(layer, channels, node)


def _pass(analysis, layer, channels, node):
    return channels


def _spatial(analysis, layer, channels, node):
    _check_last(layer)
    return channels


def _zero_border(analysis, layer, channels, node):
    """Layers at whose border only a zero stays what it is."""
    _check_last(layer)
    return channels.replace(
        np.where(channels.constants == 0, 0.0, np.nan),
    )


def _average_pool(analysis, layer, channels, node):
    if layer.padding == "valid":
        return _spatial(analysis, layer, channels, node)
    return _zero_border(analysis, layer, channels, node)


def _up_sampling(analysis, layer, channels, node):
    if getattr(layer, "interpolation", "nearest") == "nearest":
        return _spatial(analysis, layer, channels, node)
    return _zero_border(analysis, layer, channels, node)


def _repeat(channels, size):
    repeats = size // len(channels.atoms)
    return Channels(
        np.tile(channels.atoms, repeats), np.tile(channels.constants, repeats)
    )


def _flatten(analysis, layer, channels, node):
    _check_last(layer)
    size = node.outputs[0].shape[-1]
    if size is None:
        raise Uncut("flattens a shape that is not known")
    return _repeat(channels, size)


def _reshape(analysis, layer, channels, node):
    size = node.outputs[0].shape[-1]
    if size is None or size % len(channels.atoms):
        raise Uncut("divides its channels")
    result = _repeat(channels, size)
    analysis.record(layer, channels, result)
    return result


def _permute(analysis, layer, channels, node):
    if layer.dims[-1] != len(layer.dims):
        raise Uncut("moves its channels to another axis")
    return channels


def _concatenate(analysis, layer, channels, node):
    rank = len(node.outputs[0].shape)
    if layer.axis in (-1, rank - 1):
        return Channels(
            np.concatenate([x.atoms for x in channels]),
            np.concatenate([x.constants for x in channels]),
        )
    constants = np.stack([x.constants for x in channels])
    for other in channels[1:]:
        analysis.join(other.atoms, channels[0].atoms)
    same = (constants == constants[0]).all(axis=0)
    return channels[0].replace(np.where(same, constants[0], np.nan))


def _product(constants):
    """A constant 0 makes a product 0, whatever the other factors are."""
    zero = np.any([x == 0 for x in constants], axis=0)
    return np.where(zero, 0.0, np.prod(constants, axis=0))


_MERGES = {
    layers.Add: lambda x: np.sum(x, axis=0),
    layers.Subtract: lambda x: x[0] - x[1],
    layers.Multiply: _product,
    layers.Average: lambda x: np.mean(x, axis=0),
    layers.Maximum: lambda x: np.max(x, axis=0),
    layers.Minimum: lambda x: np.min(x, axis=0),
}

# By the names of the classes behind `keras.ops`, which are not public.
_OPERATIONS = {
    "Add": _MERGES[layers.Add],
    "Subtract": _MERGES[layers.Subtract],
    "Multiply": _product,
    "Maximum": _MERGES[layers.Maximum],
    "Minimum": _MERGES[layers.Minimum],
}
_FUNCTIONS = (
    "Absolute Celu Elu Exp Gelu HardSigmoid HardSilu HardTanh LeakyRelu "
    "LogSigmoid Mish Negative Relu Relu6 Selu Sigmoid Silu Softplus Softsign "
    "Sqrt Square Tanh"
).split()

_UNCUT = {
    layers.LayerNormalization: "normalizes over all channels",
    layers.RMSNormalization: "normalizes over all channels",
    layers.UnitNormalization: "normalizes over all channels",
    layers.Softmax: "looks at all channels at once",
}

_HANDLERS = {
    layers.Dense: _reader(_dense),
    layers.Embedding: _embedding,
    layers.BatchNormalization: _batch_norm,
    layers.GroupNormalization: _group_norm,
    layers.PReLU: _prelu,
    layers.Activation: _activation,
    layers.Rescaling: _rescaling,
    layers.Flatten: _flatten,
    layers.Reshape: _reshape,
    layers.Permute: _permute,
}
for _kind in (1, 2, 3):
    for _name, _handler in (
        ("Conv{}D", _reader(_convolution)),
        ("Conv{}DTranspose", _reader(_transposed)),
        ("SeparableConv{}D", _reader(_separable)),
        ("DepthwiseConv{}D", _depthwise),
        ("MaxPooling{}D", _spatial),
        ("GlobalMaxPooling{}D", _spatial),
        ("GlobalAveragePooling{}D", _spatial),
        ("AveragePooling{}D", _average_pool),
        ("Cropping{}D", _spatial),
        ("SpatialDropout{}D", _spatial),
        ("UpSampling{}D", _up_sampling),
        ("ZeroPadding{}D", _zero_border),
    ):
        # There is no depthwise or separable convolution in 3D.
        if hasattr(layers, _name.format(_kind)):
            _HANDLERS[getattr(layers, _name.format(_kind))] = _handler
for _kind in (layers.ReLU, layers.LeakyReLU, layers.ELU):
    _HANDLERS[_kind] = _elementwise
for _kind in (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.RepeatVector,
):
    _HANDLERS[_kind] = _pass


# Where the atoms are in the weights.

# The number of heads; of grouped queries, those of keys and values, of which
# each goes with the queries that share it.
_HEADS = {
    layers.MultiHeadAttention: "num_heads",
    layers.GroupQueryAttention: "num_key_value_heads",
}

_OUTPUT = "attention_output"


def heads_of(layer):
    """Returns `[(variable, axis)]`: where an attention layer has its heads."""
    found = []
    for dense in selection.walk_layers(layer):
        if not isinstance(dense, layers.EinsumDense):
            continue
        if dense.name == _OUTPUT:
            found.append((dense.kernel, 0))
            continue
        found.append((dense.kernel, -2))
        if dense.bias is not None:
            found.append((dense.bias, -2))
    return found


def _dead_heads(layer, count):
    """Which heads give zero, because of their values or of what reads them."""
    alive = {"value": np.zeros(count, bool), _OUTPUT: np.zeros(count, bool)}
    for dense in selection.walk_layers(layer):
        if not isinstance(dense, layers.EinsumDense):
            continue
        for variable, axis in heads_of(dense):
            heads = np.moveaxis(numpy_of(variable), axis, 0)
            nonzero = heads.reshape(count, -1).any(axis=1)
            if dense.name in alive:
                alive[dense.name] |= nonzero
    return ~(alive["value"] & alive[_OUTPUT])


# Name of a weight, its axis, and whose channels these are.
_KERNEL = ("kernel", -1, "outputs")
_BIAS = ("bias", -1, "outputs")
_SCALES = [("gamma", -1, "outputs"), ("beta", -1, "outputs")]
_AXES = {
    layers.Dense: [_KERNEL, _BIAS],
    layers.Embedding: [("embeddings", -1, "outputs")],
    layers.BatchNormalization: _SCALES,
    layers.GroupNormalization: _SCALES,
}
for _kind in (1, 2, 3):
    for _name, _axes in (
        ("Conv{}D", [_KERNEL, _BIAS]),
        ("Conv{}DTranspose", [("kernel", -2, "outputs"), _BIAS]),
        ("SeparableConv{}D", [("pointwise_kernel", -1, "outputs"), _BIAS]),
        ("DepthwiseConv{}D", [("kernel", -2, "inputs"), _BIAS]),
    ):
        if hasattr(layers, _name.format(_kind)):
            _AXES[getattr(layers, _name.format(_kind))] = _axes
_MAKERS = {"kernel", "pointwise_kernel", "embeddings"}


def _members_of(record):
    if record.is_attention:
        for variable, axis in heads_of(record.layer):
            atoms = record.outputs.atoms
            # Several queries share a head of keys and values.
            atoms = np.repeat(atoms, variable.shape[axis] // len(atoms))
            yield Member(variable, axis, atoms, len(variable.shape) > 2)
        return
    for name, axis, side in _AXES.get(type(record.layer), ()):
        variable = getattr(record.layer, name, None)
        if variable is not None:
            atoms = getattr(record, side).atoms
            makes = name in _MAKERS and side == "outputs"
            yield Member(variable, axis, atoms, makes)
