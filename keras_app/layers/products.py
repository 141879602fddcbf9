"""What a kernel sums over, what it multiplies, and how often it is applied."""

import re

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


def at_outputs(layer, inputs, outputs):
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


# Column `squares`: for each weight, the sum of squares of what it multiplies.


def squares_of_features(layer, squares):
    """Features are the last axis; the others are positions."""
    return squares.reshape(-1, squares.shape[-1]).sum(0)[:, None]


def squares_of_einsum(layer, squares):
    """Sums over the axes that the kernel does not have."""
    inputs, kernel, _ = _operands(layer.equation)
    head, _, tail = inputs.partition("...")
    axes = {letter: axis for axis, letter in enumerate(head)}
    for back, letter in enumerate(reversed(tail), start=1):
        axes[letter] = squares.ndim - back
    shared = [letter for letter in kernel if letter in axes]
    rest = set(range(squares.ndim)) - {axes[letter] for letter in shared}
    # The axes of the kernel last and in its order, the others summed.
    squares = squares.transpose([*rest, *(axes[letter] for letter in shared)])
    squares = squares.sum(tuple(range(len(rest))))
    missing = [i for i, letter in enumerate(kernel) if letter not in axes]
    return np.expand_dims(squares, missing)


def squares_of_patches(layer, squares):
    """Sums over all patches that a convolution sees."""
    if layer.data_format == "channels_first":
        squares = np.moveaxis(squares, 1, -1)
    squares = squares.sum(0)  # (*positions, channels)
    spans, padding = [], [(0, 0)]
    for length, size, stride, dilation in zip(
        squares.shape, layer.kernel_size, layer.strides, layer.dilation_rate
    ):
        spans.append((size - 1) * dilation + 1)
        missing = (-(-length // stride) - 1) * stride + spans[-1] - length
        before = max(missing, 0) // 2
        if layer.padding == "causal":
            missing = before = spans[-1] - 1
        padding.insert(-1, (before, max(missing, 0) - before))
    if layer.padding != "valid":
        squares = np.pad(squares, padding)
    axes = tuple(range(len(spans)))
    patches = np.lib.stride_tricks.sliding_window_view(squares, spans, axes)
    steps = [slice(None, None, stride) for stride in layer.strides]
    channels = squares.shape[-1]
    sums = np.empty((*layer.kernel_size, channels))
    for place in np.ndindex(*layer.kernel_size):
        at = np.multiply(place, layer.dilation_rate)
        seen = patches[(*steps, slice(None), *at)]
        sums[place] = seen.reshape(-1, channels).sum(0)
    # A group of outputs sees its own channels.
    sums = sums.reshape(*layer.kernel_size, layer.groups, -1)
    return np.repeat(
        sums.swapaxes(-1, -2), layer.filters // layer.groups, axis=-1
    )
