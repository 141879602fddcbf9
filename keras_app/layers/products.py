"""What a kernel sums over, what it multiplies, and how often it is applied."""

import re
from typing import Any

import keras
import numpy as np

# Columns `sums` and `contracted`: axes of a kernel.


def nothing(layer, rank):
    """No axes: no inputs are mixed, as in a lookup."""
    return ()


def in_space(layer, rank):
    """All but the last two axes."""
    return tuple(range(rank - 2))


def last_if_tied(layer, rank):
    """Turned around, the table makes the logits."""
    return (rank - 1,) if layer.tie_weights else ()


def by_equation(layer, rank):
    """What the equation of an `EinsumDense` sums over."""
    inputs, kernel, outputs = _operands(layer.equation)
    return tuple(
        axis
        for axis, letter in enumerate(kernel)
        if letter in inputs and letter not in outputs
    )


def _operands(equation):
    return re.split(",|->", equation)


# Column `positions`: how often a kernel is applied per sample.


def unknown(layer, inputs, outputs):
    """Nobody knows."""
    return None


def at_outputs(
    layer: keras.layers.Layer, inputs: Any, outputs: Any
) -> int | None:
    """Once for each position of the output."""
    return _positions(layer, outputs)


def at_outputs_of_a_convolution(layer, inputs, outputs):
    """Once for each position, if it looks like a convolution."""
    return _positions(layer, outputs) if hasattr(layer, "kernel_size") else None


def at_inputs(layer, inputs, outputs):
    """Once for each position of the input."""
    return _positions(layer, inputs)


def _positions(layer, shape):
    first = getattr(layer, "data_format", None) == "channels_first"
    return shape[2:] if first else shape[1:-1]


def at_free_letters(layer, inputs, outputs):
    """Once for each place of the output that the kernel does not tell apart."""
    if "..." in layer.equation:
        return None
    given, kernel, result = _operands(layer.equation)
    sizes = dict(zip(given, inputs))
    return [sizes.get(x) for x in result[1:] if x not in kernel]


# Column `inputs`: what a kernel multiplies, `(groups, positions, inputs)`.


def features(layer, values):
    """Features are the last axis; the others are positions."""
    return values.reshape(1, -1, values.shape[-1])


def operand(layer, values):
    """The axes that an `EinsumDense` sums over; those it shares are groups."""
    inputs, kernel, outputs = _operands(layer.equation)
    head, _, tail = inputs.partition("...")
    axes = {letter: axis for axis, letter in enumerate(head)}
    for back, letter in enumerate(reversed(tail), start=1):
        axes[letter] = values.ndim - back
    known = [letter for letter in kernel if letter in axes]
    groups = [axes[letter] for letter in known if letter in outputs]
    summed = [axes[letter] for letter in known if letter not in outputs]
    positions = set(range(values.ndim)) - {*groups, *summed}
    sizes = [
        int(np.prod([values.shape[axis] for axis in part]))
        for part in (groups, summed)
    ]
    values = values.transpose([*groups, *sorted(positions), *summed])
    # The sum before the product, as where only the inputs have an axis.
    lost = [
        len(groups) + place
        for place, axis in enumerate(sorted(positions))
        if axis in {axes[x] for x in axes if x not in kernel + outputs}
    ]
    return values.sum(tuple(lost)).reshape(sizes[0], -1, sizes[1])


def shared_by_equation(layer, rank):
    """Axes of the kernel of an `EinsumDense` that inputs and outputs have."""
    inputs, kernel, outputs = _operands(layer.equation)
    return tuple(
        axis
        for axis, letter in enumerate(kernel)
        if letter in inputs and letter in outputs
    )


def patches(layer, values):
    """All patches that a convolution sees, in its groups of channels."""
    if layer.data_format == "channels_first":
        values = np.moveaxis(values, 1, -1)
    lengths = values.shape[1:-1]
    spans, padding = [], [(0, 0), (0, 0)]
    for length, size, stride, dilation in zip(
        lengths, layer.kernel_size, layer.strides, layer.dilation_rate
    ):
        spans.append((size - 1) * dilation + 1)
        missing = (-(-length // stride) - 1) * stride + spans[-1] - length
        before = max(missing, 0) // 2
        if layer.padding == "causal":
            missing = before = spans[-1] - 1
        padding.insert(-1, (before, max(missing, 0) - before))
    if layer.padding != "valid":
        values = np.pad(values, padding)
    axes = tuple(range(1, 1 + len(spans)))
    seen = np.lib.stride_tricks.sliding_window_view(values, spans, axes)
    steps = [slice(None, None, stride) for stride in layer.strides]
    places = [slice(None, None, rate) for rate in layer.dilation_rate]
    seen = seen[(slice(None), *steps, slice(None), *places)]
    # (samples, *positions, *kernel, channels), the channels in groups.
    seen = np.moveaxis(seen, 1 + len(spans), -1)
    size = int(np.prod(layer.kernel_size))
    seen = seen.reshape(
        -1, size, layer.groups, values.shape[-1] // layer.groups
    )
    return np.moveaxis(seen, 2, 0).reshape(layer.groups, len(seen), -1)
