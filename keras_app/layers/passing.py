"""How channels pass through layers: what a row says in its column `channels`.

The last axis of every tensor is followed through the graph of a model. Each of
its positions carries an *atom*: what is cut must be cut wherever the atom
appears. With each position goes the constant that it always has, whatever the
input is, if there is one. A function here takes a `Call` and the `Channels` of
its input, and returns those of its output.
"""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

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

_LOOKS_AT_ALL = "its activation looks at all channels at once"


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

    @property
    def known(self):
        """Which positions are constant."""
        return ~np.isnan(self.constants)


@dataclasses.dataclass
class Call:
    """One call of a layer, or of an operation of `keras.ops`.

    Attributes:
        analysis: The `graph.Analysis` that follows the channels.
        layer: What is called.
        row: Its `LayerType`.
        node: The node of the graph.
    """

    analysis: object
    layer: object
    row: object
    node: object

    @property
    def rank(self):
        """How many axes the first input has."""
        return len(self.node.input_tensors[0].shape)

    @property
    def size(self):
        """How many channels the output has; `None` if it is not known."""
        return self.node.outputs[0].shape[-1]

    def record(self, inputs, outputs, reader=None):
        """Notes that the layer changes with these channels."""
        self.analysis.record(self, inputs, outputs, reader)

    def new_atoms(self, count):
        """The atoms that the layer makes, the same in all of its calls."""
        old = self.analysis.records.get(id(self.layer))
        return old.outputs.atoms if old else self.analysis.new(count)


@dataclasses.dataclass
class Reader:
    """A layer that mixes its input channels into new ones.

    Attributes:
        reads: Whether output j has a nonzero weight for input i, shape
            `(inputs, outputs)`.
        sums: What output j gets from a constant 1 at input i, same shape.
        only_zeros: Why no constants but zeros can be folded into the bias;
            `None` if others can.
    """

    reads: np.ndarray
    sums: np.ndarray
    only_zeros: str | None

    def folds(self, constants):
        """Which inputs are constants that the bias can take over."""
        zeros_only = self.only_zeros is not None
        return ~np.isnan(constants) & ((constants == 0) | (not zeros_only))


def numpy_of(variable):
    """A variable or tensor in double precision, for exact sums."""
    return np.asarray(ops.convert_to_numpy(variable)).astype("float64")


# Layers with kernels.


def mixing(call, channels):
    """New channels, each a sum over the old ones by the kernel."""
    layer = call.layer
    reader = _reader(call)
    foldable = reader.folds(channels.constants)
    constant = ~reader.reads[~foldable].any(axis=0)
    values = np.where(foldable, channels.constants, 0.0) @ reader.sums
    values = _bias(layer) + values
    activation = getattr(layer, "activation", keras.activations.linear)
    elementwise = activation in _ELEMENTWISE
    if elementwise:
        values = _activate(layer, np.where(constant, values, 0.0))
    made = Channels(
        call.new_atoms(len(values)), np.where(constant, values, np.nan)
    )
    if elementwise:
        call.record(channels, made, reader)
        return made
    result = made.replace(np.full(len(values), np.nan))
    call.record(channels, result, reader)
    call.analysis.pin(made, layer, _LOOKS_AT_ALL)
    return result


def apart(call, channels):
    """Each channel by itself times its kernel, or its several kernels."""
    check_last(call.layer)
    layer, [kernel] = call.layer, call.row.kernels
    reads, sums = _over_space(layer, kernel)
    constants = np.repeat(channels.constants, sums.shape[-1])
    reader = Reader(reads, sums, _border(layer, kernel))
    foldable = reader.folds(constants)
    constant = ~reads.reshape(-1) | foldable
    values = np.where(foldable, constants, 0.0) * sums.reshape(-1)
    if layer.activation not in _ELEMENTWISE:
        raise Uncut(_LOOKS_AT_ALL)
    values = np.where(constant, values + _bias(layer), 0.0)
    result = Channels(
        np.repeat(channels.atoms, sums.shape[-1]),
        np.where(constant, _activate(layer, values), np.nan),
    )
    call.record(channels, result)
    return result


def lookup(call, channels):
    """New channels: the columns of a table. Its inputs are no channels."""
    call.analysis.pin(channels)
    table = numpy_of(call.layer.embeddings)
    constant = (table == table[:1]).all(axis=0)
    result = Channels(
        call.new_atoms(len(constant)), np.where(constant, table[0], np.nan)
    )
    call.record(result, result)
    return result


def _reader(call):
    layer = call.layer
    check_last(layer)
    if getattr(layer, "groups", 1) != 1:
        raise Uncut("a convolution in groups")
    *before, kernel = call.row.kernels
    reads, sums = _over_space(layer, kernel)
    for depthwise in before:
        # Each channel has several products, of which this kernel makes sums.
        read, summed = _over_space(layer, depthwise)
        reads = reads.reshape(*read.shape, -1).astype("float64")
        reads = np.einsum("im,imo->io", read.astype("float64"), reads) > 0
        sums = np.einsum("im,imo->io", summed, sums.reshape(*read.shape, -1))
    only_zeros = _border(layer, kernel)
    if not any(weight.name == "bias" for weight in call.row.weights):
        only_zeros = "the layer has no bias to take them over"
    return Reader(reads, sums, only_zeros)


def _over_space(layer, kernel):
    """What a kernel reads, and its sums over the positions in space.

    Two arrays `(inputs, outputs)`; or, if it keeps channels apart, `(inputs,
    kernels for each)`.
    """
    outputs = -1 if kernel.outputs is None else kernel.outputs
    axes = kernel.inputs, outputs
    values = np.moveaxis(numpy_of(getattr(layer, kernel.name)), axes, (-2, -1))
    space = tuple(range(values.ndim - 2))
    return (values != 0).any(axis=space), values.sum(space)


def _border(layer, kernel):
    """Why the border sees less of a constant than the middle, if it does."""
    padded = getattr(layer, "padding", "valid") != "valid" and (
        math.prod(layer.kernel_size) > 1
    )
    # Where a kernel spreads, how many weights meet at one output depends on
    # where it is.
    return "padding shows at the border" if padded or kernel.spreads else None


def _bias(layer):
    bias = getattr(layer, "bias", None)
    return 0.0 if bias is None else numpy_of(bias)


def _activate(layer, values):
    """The activation of a layer, of values that are finite."""
    activation = getattr(layer, "activation", keras.activations.linear)
    if activation is keras.activations.linear:
        return values
    values = ops.convert_to_tensor(values, layer.compute_dtype)
    return numpy_of(activation(values))


# Layers that change each channel by itself.


def elementwise(call, channels):
    """Each entry by itself; what becomes of constants is tried out."""
    known = channels.known
    if not known.any():
        return channels
    probe = np.where(known, channels.constants, 0.0)
    probe = probe.reshape((1,) * (call.rank - 1) + (-1,))
    dtype = getattr(call.layer, "compute_dtype", "float32")
    result = call.layer(ops.convert_to_tensor(probe, dtype))
    return channels.replace(
        np.where(known, numpy_of(result).reshape(-1), np.nan)
    )


def activation(call, channels):
    """An activation by name."""
    if call.layer.activation not in _ELEMENTWISE:
        raise Uncut(_LOOKS_AT_ALL)
    return elementwise(call, channels)


def rescaling(call, channels):
    """One scale and offset for all channels."""
    if np.ndim(call.layer.scale) or np.ndim(call.layer.offset):
        raise Uncut("its scale or offset differs between channels")
    return elementwise(call, channels)


def batch_norm(call, channels):
    """Scales and shifts by moving statistics."""
    layer = call.layer
    check_axis(call)
    call.record(channels, channels)
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


def group_norm(call, channels):
    """The channels of a group are normalized, and cut, together."""
    check_axis(call)
    size = len(channels.atoms) // call.layer.groups
    constants = channels.constants.reshape(-1, size)
    constants = np.where(
        np.isnan(constants).any(axis=1, keepdims=True), np.nan, constants
    )
    for atoms in channels.atoms.reshape(-1, size):
        call.analysis.join(atoms[1:], atoms[:-1])
    call.record(channels, channels)
    result = elementwise(call, channels.replace(constants.reshape(-1)))
    call.analysis.grouped.append((call.layer, channels, result.constants))
    return result


def prelu(call, channels):
    """A slope for each channel."""
    call.record(channels, channels)
    alpha = numpy_of(call.layer.alpha)
    if alpha.shape[-1] != len(channels.atoms):
        raise Uncut("its slopes are shared by all channels")
    # Slopes may differ in space: then a negative constant is one no longer.
    shared = alpha.size == alpha.shape[-1]
    negative = alpha.reshape(-1, alpha.shape[-1])[0] * channels.constants
    constants = channels.constants
    return channels.replace(
        np.where(constants >= 0, constants, negative if shared else np.nan)
    )


# Layers that move channels, or leave them as they are.


def unchanged(call, channels):
    """Channels as they are."""
    return channels


def spatial(call, channels):
    """Positions in space change, and no constant does."""
    check_last(call.layer)
    return channels


def bordered(call, channels):
    """At the border, or between two positions, only a zero stays what it is."""
    check_last(call.layer)
    layer = call.layer
    if getattr(layer, "padding", "valid") == "valid" and (
        getattr(layer, "interpolation", "nearest") == "nearest"
    ):
        return channels
    return channels.replace(np.where(channels.constants == 0, 0.0, np.nan))


def flatten(call, channels):
    """Channels repeat, once for each position in space."""
    check_last(call.layer)
    if call.size is None:
        raise Uncut("flattens a shape that is not known")
    return _repeated(channels, call.size)


def reshape(call, channels):
    """A whole number of channels in the last axis, or all of one."""
    if call.size is None or call.size % len(channels.atoms):
        raise Uncut("divides its channels")
    result = _repeated(channels, call.size)
    call.record(channels, result)
    return result


def permute(call, channels):
    """Other axes than that of the channels change places."""
    if call.layer.dims[-1] != len(call.layer.dims):
        raise Uncut("moves its channels to another axis")
    return channels


def _repeated(channels, size):
    repeats = size // len(channels.atoms)
    return Channels(
        np.tile(channels.atoms, repeats), np.tile(channels.constants, repeats)
    )


# Layers that merge several inputs.


def concatenate(call, inputs):
    """Channels of several inputs in a row, or joined along another axis."""
    rank = len(call.node.outputs[0].shape)
    if call.layer.axis in (-1, rank - 1):
        return Channels(
            np.concatenate([x.atoms for x in inputs]),
            np.concatenate([x.constants for x in inputs]),
        )
    constants = np.stack([x.constants for x in inputs])
    for other in inputs[1:]:
        call.analysis.join(other.atoms, inputs[0].atoms)
    same = (constants == constants[0]).all(axis=0)
    return inputs[0].replace(np.where(same, constants[0], np.nan))


def merging(function):
    """Entries at one place of all inputs.

    Args:
        function: What it makes of their constants.
    """

    def merge(call, inputs):
        rank = len(call.node.outputs[0].shape)
        if any(len(x.shape) != rank for x in call.node.input_tensors):
            raise Uncut("merges tensors of different ranks")
        channels = [x for x in inputs if isinstance(x, Channels)]
        others = [x for x in inputs if not isinstance(x, Channels)]
        if any(np.ndim(x) for x in others):
            raise Uncut("merges with an array")
        size = max(len(x.atoms) for x in channels)
        wide = [x for x in channels if len(x.atoms) == size]
        for one in wide[1:]:
            call.analysis.join(one.atoms, wide[0].atoms)
        for one in channels:
            if len(one.atoms) != size:
                call.analysis.pin(one)
        constants = [
            x.constants if isinstance(x, Channels) else float(x) for x in inputs
        ]
        with np.errstate(all="ignore"):
            return wide[0].replace(
                function([np.broadcast_to(x, (size,)) for x in constants])
            )

    return merge


def product(constants):
    """A constant 0 makes a product 0, whatever the other factors are."""
    zero = np.any([x == 0 for x in constants], axis=0)
    return np.where(zero, 0.0, np.prod(constants, axis=0))


# What refuses.


def check_plain(layer):
    """Raises for weights that are not what the layer computes with."""
    if getattr(layer, "quantization_mode", None) or getattr(
        layer, "lora_enabled", False
    ):
        raise Uncut("quantized, or adapted by LoRA")


def check_last(layer):
    """Raises if the channels are not the last axis."""
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise Uncut("its channels are not the last axis")


def check_axis(call):
    """Raises if it normalizes along another axis than the last."""
    axis = call.layer.axis
    if not isinstance(axis, int) or axis not in (-1, call.rank - 1):
        raise Uncut("normalizes along another axis than the last")
