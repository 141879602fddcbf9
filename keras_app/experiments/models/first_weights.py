"""First weights that are the same on every backend."""

import math

import keras
import numpy as np
from keras import layers

from keras_app.checks import check_int


def initialize(model, seed):
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
    """Lists `(kernel, scale, draw)` of a layer, none for unknown layers."""
    if isinstance(layer, layers.Dense):
        scale = math.sqrt(6 / sum(layer.kernel.shape))
        return [(layer.kernel, scale, _symmetric_uniform)]
    if isinstance(layer, (layers.Conv1D, layers.Conv2D, layers.Conv3D)):
        return [_he_normal(layer.kernel, layer.kernel.shape[:-1])]
    if isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)):
        return [_he_normal(layer.kernel, layer.kernel.shape[:-2])]
    if isinstance(layer, (layers.SeparableConv1D, layers.SeparableConv2D)):
        depthwise = layer.depthwise_kernel
        pointwise = layer.pointwise_kernel
        return [
            _he_normal(depthwise, depthwise.shape[:-2]),
            _he_normal(pointwise, pointwise.shape[:-1]),
        ]
    return []


def _he_normal(kernel, fan_in_shape):
    return kernel, math.sqrt(2 / math.prod(fan_in_shape)), _standard_normal


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
