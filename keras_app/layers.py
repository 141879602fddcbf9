"""What layers contract: one row per layer type.

A kernel is the matrix, or holds the matrices, that a layer multiplies its
inputs by. Some of its axes are summed over in that product; hardware that
skips zeros of a sum needs to know which.
"""

import keras


def contracted_axes(layer, attribute, rank):
    """Returns the axes of a kernel that its layer sums over.

    Args:
        layer: The layer that made the kernel, or `None`.
        attribute: Its name there, without underscores in front.
        rank: How many axes it has.

    Returns:
        A tuple of axes, in the order of the kernel; empty where no inputs are
        mixed, as in a lookup or a depthwise convolution; `None` where it is
        not known.
    """
    for kinds, attributes, axes_of in _ROWS:
        if isinstance(layer, kinds) and attribute in attributes:
            return axes_of(layer, rank)
    return None


def einsum_contracted(equation):
    """Returns the axes of the kernel that an `EinsumDense` sums over."""
    inputs, kernel, outputs = equation.replace("->", ",").split(",")
    return tuple(
        axis
        for axis, letter in enumerate(kernel)
        if letter in inputs and letter not in outputs
    )


def _all_but_last(layer, rank):
    return tuple(range(rank - 1))


def _last(layer, rank):
    return (rank - 1,)


def _none(layer, rank):
    return ()


def _if_tied(layer, rank):
    # Turned around, the table makes the logits.
    return _last(layer, rank) if layer.tie_weights else ()


def _by_equation(layer, rank):
    return einsum_contracted(layer.equation)


def _named(*names):
    return tuple(
        getattr(keras.layers, name.format(rank))
        for name in names
        for rank in (1, 2, 3)
        if hasattr(keras.layers, name.format(rank))
    )


_CELLS = (
    keras.layers.SimpleRNNCell,
    keras.layers.GRUCell,
    keras.layers.LSTMCell,
)

# Types, names of their kernels, axes. The first row that fits decides.
_ROWS = (
    (keras.layers.Dense, ("kernel",), _all_but_last),
    (keras.layers.EinsumDense, ("kernel",), _by_equation),
    # Kernel positions first: the rows of the matrix of patches.
    (_named("Conv{}D"), ("kernel",), _all_but_last),
    # Multiplied by the inputs of one position, and then spread over outputs.
    (_named("Conv{}DTranspose"), ("kernel",), _last),
    (_named("SeparableConv{}D"), ("pointwise_kernel",), _all_but_last),
    (_named("SeparableConv{}D"), ("depthwise_kernel",), _none),
    (_named("DepthwiseConv{}D"), ("kernel",), _none),
    (_CELLS, ("kernel", "recurrent_kernel"), _all_but_last),
    (keras.layers.ReversibleEmbedding, ("embeddings",), _if_tied),
    (
        keras.layers.ReversibleEmbedding,
        ("reverse_embeddings",),
        _all_but_last,
    ),
    (keras.layers.Embedding, ("embeddings",), _none),
)
