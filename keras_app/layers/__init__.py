"""The catalogue: what is known of layers, one row per layer type.

A row says which weights are kernels, which of their axes are inputs and
outputs, how channels pass through the layer, how it is cut, and how often its
kernels are applied. All that depends on the type of a layer reads it here:
which weights are pruned by default, structures that follow channels, n:m along
the inputs, `shrink`, FLOPs, Wanda and SparseGPT, sparse first weights.

For a layer type of one's own, add a row to `CATALOGUE`:

    CATALOGUE[Projection] = LayerType(
        (Kernel("matrix"), BIAS), channels=passing.mixing, size="units"
    )
"""

import dataclasses

import keras
import numpy as np

from keras_app import host
from keras_app.layers import inside
from keras_app.layers import passing
from keras_app.layers import products
from keras_app.layers.rows import BIAS
from keras_app.layers.rows import Kernel
from keras_app.layers.rows import LayerType
from keras_app.layers.rows import Weight

__all__ = ["BIAS", "CATALOGUE", "Kernel", "LayerType", "Weight"]

# `{class: row}`. A subclass has the row of the nearest class that has one,
# except for its channels, because it may do anything else in its `call`.
CATALOGUE = {}

# The same for functions of `keras.ops`, by the names of the classes behind
# them, which are not public.
_OPERATIONS = {}


def _add(names, *weights, **columns):
    """Adds a row for layers of Keras, in as many dimensions as there are."""
    for name in names.split():
        for rank in "123":
            kind = getattr(keras.layers, name.format(rank), None)
            if kind is not None:
                CATALOGUE[kind] = LayerType(weights, **columns)


# ---- layers with kernels ----------------------------------------------------

_KERNEL = Kernel("kernel")
_DEPTHWISE = Kernel(
    "depthwise_kernel",
    outputs=None,
    sums=products.in_space,
    contracted=products.nothing,
    follows=False,
    left_out="a depthwise kernel",
)
_TABLE = Kernel(
    "embeddings",
    inputs=None,
    contracted=products.nothing,
    left_out="an embedding",
)


_add(
    "Dense",
    _KERNEL,
    BIAS,
    channels=passing.mixing,
    size="units",
    inputs=products.features,
)
_add(
    "EinsumDense",
    Kernel(
        "kernel",
        sums=products.by_equation,
        shared=products.shared_by_equation,
    ),
    positions=products.at_free_letters,
    inputs=products.operand,
)
_add(
    "Conv{}D",
    _KERNEL,
    BIAS,
    channels=passing.mixing,
    size="filters",
    inputs=products.patches,
)
_add(
    "Conv{}DTranspose",
    Kernel("kernel", outputs=-2, inputs=-1, spreads=True),
    BIAS,
    channels=passing.mixing,
    size="filters",
    positions=products.at_inputs,
)
_add(
    "SeparableConv{}D",
    _DEPTHWISE,
    Kernel("pointwise_kernel"),
    BIAS,
    channels=passing.mixing,
    size="filters",
)
_add(
    "DepthwiseConv{}D",
    dataclasses.replace(_DEPTHWISE, name="kernel", follows=True),
    BIAS,
    channels=passing.apart,
)
_add(
    "Embedding",
    _TABLE,
    channels=passing.lookup,
    size="output_dim",
    positions=products.unknown,
)
_add(
    "ReversibleEmbedding",
    dataclasses.replace(_TABLE, contracted=products.last_if_tied),
    dataclasses.replace(_TABLE, name="reverse_embeddings", contracted=None),
    positions=products.unknown,
)
_add(
    "SimpleRNNCell GRUCell LSTMCell",
    *(
        Kernel(name, left_out="a kernel of {}")
        for name in ("kernel", "recurrent_kernel")
    ),
    positions=products.unknown,
)

# ---- layers that call others ------------------------------------------------

_add("SimpleRNN GRU LSTM", inside=inside.of_recurrent)
_add("TimeDistributed", inside=inside.of_time_distributed)
_add("Bidirectional", inside=inside.of_bidirectional)
_add(
    "MultiHeadAttention",
    heads="num_heads",
    size="num_heads",
    inside=inside.of_attention,
)
# A head of keys and values goes with the queries that share it.
_add(
    "GroupQueryAttention",
    heads="num_key_value_heads",
    size=lambda layer, kept, of: {
        "num_query_heads": kept * layer.num_repeats,
        "num_key_value_heads": kept,
    },
    inside=inside.of_attention,
)

# ---- layers that change each channel by itself ------------------------------

_SCALES = Weight("gamma"), Weight("beta")
_STATISTICS = (
    Weight("moving_mean", follows=False),
    Weight("moving_variance", follows=False),
)

_add("BatchNormalization", *_SCALES, *_STATISTICS, channels=passing.batch_norm)
_add(
    "GroupNormalization",
    *_SCALES,
    channels=passing.group_norm,
    size=lambda layer, kept, of: {"groups": kept * layer.groups // of},
)
_add("PReLU", Weight("alpha", follows=False), channels=passing.prelu)
_add("Activation", channels=passing.activation)
_add("Rescaling", channels=passing.rescaling)
_add("ReLU LeakyReLU ELU", channels=passing.elementwise)

# ---- layers that move channels, or leave them as they are -------------------

_add(
    "ActivityRegularization AlphaDropout Dropout GaussianDropout GaussianNoise "
    "Identity RepeatVector",
    channels=passing.unchanged,
)
_add(
    "MaxPooling{}D GlobalMaxPooling{}D GlobalAveragePooling{}D Cropping{}D "
    "SpatialDropout{}D",
    channels=passing.spatial,
)
_add(
    "AveragePooling{}D UpSampling{}D ZeroPadding{}D", channels=passing.bordered
)
_add("Flatten", channels=passing.flatten)
_add(
    "Reshape",
    channels=passing.reshape,
    size=lambda layer, kept, of: {
        "target_shape": (
            *layer.target_shape[:-1],
            -1 if layer.target_shape[-1] == -1 else kept,
        )
    },
)
_add("Permute", channels=passing.permute)

# ---- layers that look at all channels at once -------------------------------

_add(
    "LayerNormalization RMSNormalization UnitNormalization",
    channels="normalizes over all channels",
)
_add("Softmax", channels="looks at all channels at once")

# ---- layers that merge several inputs, and functions ------------------------

_add("Concatenate", channels=passing.concatenate, several=True)
for _name, _function in {
    "Add": lambda x: np.sum(x, axis=0),
    "Subtract": lambda x: x[0] - x[1],
    "Multiply": passing.product,
    "Average": lambda x: np.mean(x, axis=0),
    "Maximum": lambda x: np.max(x, axis=0),
    "Minimum": lambda x: np.min(x, axis=0),
}.items():
    _merging = passing.merging(_function)
    _add(_name, channels=_merging, several=True)
    _OPERATIONS[_name] = LayerType(channels=_merging, several=True)
for _name in (
    "Absolute Celu Elu Exp Gelu HardSigmoid HardSilu HardTanh LeakyRelu "
    "LogSigmoid Mish Negative Relu Relu6 Selu Sigmoid Silu Softplus Softsign "
    "Sqrt Square Tanh"
).split():
    _OPERATIONS[_name] = LayerType(channels=passing.elementwise)
# That of `keras.ops` is a mean over one tensor.
del _OPERATIONS["Average"]

_UNKNOWN = LayerType(positions=products.at_outputs_of_a_convolution)


# ---- how the rows are read --------------------------------------------------


def row_of(layer: object) -> LayerType:
    """The row of the type of a layer, or of the nearest type it derives from.

    Args:
        layer: A layer, or `None`.
    """
    rows = (CATALOGUE.get(kind) for kind in type(layer).__mro__)
    return next(filter(None, rows), _UNKNOWN)


def exact_row_of(layer: object) -> LayerType:
    """The row of exactly this type of a layer or operation of `keras.ops`."""
    kind = type(layer)
    if isinstance(layer, keras.Layer):
        return CATALOGUE.get(kind, _UNKNOWN)
    if not host.is_of_keras(kind, "ops"):
        return LayerType(channels="{} is not known")
    unknown = LayerType(channels="{} is not known to keep channels apart")
    return _OPERATIONS.get(kind.__name__, unknown)


def kernel_of(
    layer: keras.layers.Layer | None, attribute: str
) -> Kernel | None:
    """The `Kernel` that an attribute of a layer is, or `None`.

    Args:
        layer: The layer that made it, or `None`.
        attribute: Its name there, without underscores in front.
    """
    kernels = {kernel.name: kernel for kernel in row_of(layer).kernels}
    return kernels.get(attribute)


def contracted_axes(
    layer: keras.layers.Layer | None, attribute: str, rank: int
) -> tuple[int, ...] | None:
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
    kernel = kernel_of(layer, attribute)
    return None if kernel is None else kernel.contracted_axes(layer, rank)


def sum_axes(
    layer: keras.layers.Layer | None, attribute: str, rank: int
) -> tuple[int, ...]:
    """The axes of a kernel that are summed over to make one output.

    In an unknown layer they are those of a layer of Keras whose kernel has
    the same name.
    """
    known = {_DEPTHWISE.name: _DEPTHWISE}
    kernel = kernel_of(layer, attribute) or known.get(attribute, _KERNEL)
    return kernel.sum_axes(layer, rank)


def variable_of(layer: keras.layers.Layer, name: str) -> keras.Variable | None:
    """The variable itself, which Keras hides where LoRA adds to it."""
    held = vars(layer)
    return held.get(f"_{name}", held.get(name))
