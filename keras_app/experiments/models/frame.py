"""What all networks share: input, normalization, blocks and first weights."""

import functools
import inspect
import math
import numbers
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from keras_app.checks import check_int
from keras_app.hints import Shape

_PER_CHANNEL = float | Sequence[float] | None
_INPUT = {"input_shape": Shape, "num_classes": int}
_FRAME = {"mean": _PER_CHANNEL, "std": _PER_CHANNEL, "seed": int | None}
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
# Types, name of a kernel, and how many of its last axes are outputs.
_CONVOLUTIONS = (
    ((layers.Conv1D, layers.Conv2D, layers.Conv3D), "kernel", 1),
    (_DEPTHWISE, "kernel", 2),
    (_SEPARABLE, "depthwise_kernel", 2),
    (_SEPARABLE, "pointwise_kernel", 1),
)


def classifier(name=None, rank=3):
    """Makes a network of a function from normalized images to features.

    `body(x, ...)` becomes a function that takes `input_shape` and
    `num_classes` in the place of `x`, and `mean`, `std` and `seed` after its
    own positional arguments; it puts input and normalization in front and the
    logits at the end.

    Args:
        name: Name of the models, in which `{depth}` stands for the argument
            `depth`. Defaults to that of `body`.
        rank: Number of axes of one input, or `None` for any.
    """

    def decorate(body):
        signature = _signature(body)

        @functools.wraps(body)
        def network(*args, **kwargs):
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            own = given.arguments
            frame = {key: own.pop(key) for key in (*_INPUT, *_FRAME)}
            called = (name or body.__name__).format(**own)
            return classify(lambda x: body(x=x, **own), called, rank, **frame)

        network.__signature__ = signature
        network.__annotations__ = {
            **{name: p.annotation for name, p in signature.parameters.items()},
            "return": signature.return_annotation,
        }
        return network

    return decorate


def _signature(body):
    """That of `body`, with the arguments of the frame; gin reads it, too."""
    own = list(inspect.signature(body).parameters.values())
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    front = [
        inspect.Parameter(name, kind, annotation=_INPUT[name])
        for name in _INPUT
    ]
    back = [
        inspect.Parameter(name, kind, default=None, annotation=_FRAME[name])
        for name in _FRAME
    ]
    end = sum(parameter.kind is kind for parameter in own)
    own[end:end] = back
    at = [parameter.name for parameter in own].index("x")
    own[at : at + 1] = front
    return inspect.Signature(own, return_annotation=keras.Model)


def classify(body, name, rank, input_shape, num_classes, mean, std, seed):
    """Builds input, normalization, `body`, logits, and the first weights."""
    inputs, x = begin(input_shape, mean, std, rank)
    check_int("num_classes", num_classes, 1)
    # The logits last: without a seed, layers draw from Keras's in this order.
    features = body(x)
    outputs = layers.Dense(num_classes, dtype=full_precision(), name="logits")(
        features
    )
    return finish(inputs, outputs, name, seed)


def begin(input_shape, mean, std, rank=3):
    """Returns the input of a network, and what it is after normalization."""
    check_input_shape(input_shape, rank)
    inputs = keras.Input(input_shape, name="images")
    return inputs, _normalize(inputs, mean, std)


def full_precision():
    """What logits are computed in: the type of the weights.

    With a mixed policy the other layers compute in half precision, whose few
    bits would make logits equal that are not.
    """
    return keras.config.dtype_policy().variable_dtype


def finish(inputs, outputs, name, seed):
    """Returns the model, with its first weights."""
    model = keras.Model(inputs, outputs, name=name)
    if seed is not None:
        initialize(model, seed)
    return model


def _normalize(x, mean, std):
    if mean is None and std is None:
        return x
    channels = x.shape[-1]
    mean = np.ravel(0.0 if mean is None else mean)
    std = np.ravel(1.0 if std is None else std)
    for argument, value in (("mean", mean), ("std", std)):
        if value.size not in (1, channels):
            raise ValueError(
                f"`{argument}` must have one value, or one for each of the "
                f"{channels} channels. Received: {argument}={value.tolist()}"
            )
    if not np.all(std > 0):
        raise ValueError(
            f"`std` must be positive. Received: std={std.tolist()}"
        )
    mean, std = np.broadcast_arrays(mean, std)
    if mean.size == 1:
        mean, std = mean[0], std[0]
    # Lists, because the layer keeps them in its config as they came.
    return layers.Normalization(
        mean=mean.tolist(),
        variance=np.square(std).tolist(),
        name="input_normalization",
    )(x)


def check_input_shape(input_shape, rank):
    """Raises unless it is a shape of `rank` positive integers; `None`: any."""
    if (
        not isinstance(input_shape, (tuple, list))
        or len(input_shape) != (rank or len(input_shape))
        or not all(isinstance(x, numbers.Integral) for x in input_shape)
        or not all(size >= 1 for size in input_shape)
    ):
        what = "(height, width, channels)" if rank == 3 else "a tuple"
        raise ValueError(
            f"`input_shape` must be {what} of positive integers. Received: "
            f"input_shape={input_shape}"
        )


# ---- blocks ------------------------------------------------------------------


def conv(x, filters, name, kernel_size=3, padding="same", **kwargs):
    """A convolution with He's first weights."""
    return layers.Conv2D(
        filters,
        kernel_size,
        padding=padding,
        data_format="channels_last",
        kernel_initializer="he_normal",
        name=name,
        **kwargs,
    )(x)


def conv_bn(x, filters, name, **kwargs):
    """A convolution without bias and batch normalization."""
    x = conv(x, filters, name, use_bias=False, **kwargs)
    return batch_norm(x, name.replace("conv", "bn"))


def conv_bn_relu(x, filters, name, **kwargs):
    """A convolution without bias, batch normalization and ReLU."""
    x = conv_bn(x, filters, name, **kwargs)
    return layers.ReLU(name=name.replace("conv", "relu"))(x)


def batch_norm(x, name):
    """Batch normalization with the constants of PyTorch."""
    # Keras's momentum keeps, PyTorch's replaces: 0.9 here is 0.1 there.
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def max_pool(x, name, padding="same"):
    """A 2x2 max pool."""
    # "same" keeps at least one pixel of images that are smaller than planned.
    return layers.MaxPooling2D(
        padding=padding, data_format="channels_last", name=name
    )(x)


def global_pool(x):
    """The average over all positions."""
    return layers.GlobalAveragePooling2D(
        data_format="channels_last", name="global_pool"
    )(x)


# ---- first weights -----------------------------------------------------------


def initialize(model: keras.Model, seed: int) -> None:
    """Redraws the weights of a model, the same ones on every backend.

    The i-th kernel, in the order of the layers, is drawn with NumPy from
    `numpy.random.default_rng((seed, i))`:

        convolution:  kernel ~ N(0, 2 / fan_in)                  (He normal)
        dense:        kernel ~ U(-a, a), a^2 = 6 / (fan_in + fan_out)
                                                                 (Glorot)

    `fan_in` counts the inputs of one output, so it is `height * width` for a
    depthwise kernel. Biases become zero. All other weights stay as they are:
    those of normalization layers, which start from constants anyway, and those
    of embedding, attention and recurrent layers, which no network here has.

    Args:
        model: A built `keras.Model`, changed in place. Models within it are
            followed.
        seed: Non-negative integer.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> initialize(model, seed=0)

    Reference: [He et al., 2015](https://arxiv.org/abs/1502.01852), eq. 10, and
    [Glorot and Bengio, 2010](https://proceedings.mlr.press/v9/glorot10a.html),
    eq. 16. Differs: the normal is not truncated, unlike Keras's `he_normal`.
    """
    check_int("seed", seed, 0)
    if not model.built:
        raise ValueError(
            f"`model` must be built. Received: model={model.name!r}, which "
            f"has no weights yet"
        )
    index = 0
    for layer in _flat_layers(model):
        for kernel, scale, draw in _kernel_draws(layer):
            values = draw(np.random.default_rng((seed, index)), kernel.shape)
            kernel.assign(np.float32(scale) * values)
            index += 1
            if layer.bias is not None:
                layer.bias.assign(np.zeros(layer.bias.shape, "float32"))


def _kernel_draws(layer):
    """Yields `(kernel, scale, draw)` of a layer, none for unknown layers."""
    if isinstance(layer, layers.Dense):
        scale = math.sqrt(6 / sum(layer.kernel.shape))
        yield layer.kernel, scale, _symmetric_uniform
    for kinds, attribute, outputs in _CONVOLUTIONS:
        if isinstance(layer, kinds):
            kernel = getattr(layer, attribute)
            fan_in = math.prod(kernel.shape[:-outputs])
            yield kernel, math.sqrt(2 / fan_in), _standard_normal


def _standard_normal(rng, shape):
    return rng.standard_normal(shape, dtype="float32")


def _symmetric_uniform(rng, shape):
    return 2 * rng.random(shape, dtype="float32") - 1


def _flat_layers(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flat_layers(layer)
        else:
            yield layer
