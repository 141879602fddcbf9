"""A first convolution that whitens the patches of the training images."""

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from keras_app.checks import check_number

#: Name of the layer, by which a network says that it wants `whiten`.
WHITENING = "whitening"

_AT_ONCE = 500  # images whose patches are in memory together


def wants_whitening(model):
    """Whether a network has a layer for `whiten`."""
    return any(layer.name == WHITENING for layer in model.layers)


def whiten(
    model: keras.Model, images: npt.ArrayLike, epsilon: float = 5e-4
) -> None:
    """Sets the kernel of a network's whitening layer from images.

    With the eigenvectors v_i and eigenvalues e_i of the covariance of all
    patches of the size of the kernel, the filters are

        v_i / sqrt(e_i + epsilon)   and then   -v_i / sqrt(e_i + epsilon)

    so that what the first half of them gives has uncorrelated channels of
    variance e_i / (e_i + epsilon). Computed with NumPy in float64: equal
    images give equal kernels on every backend.

    Args:
        model: A network with a `Conv2D` named `"whitening"` as its first layer
            but for normalization, such as `fast_convnet`; changed in place.
        images: Array `(N, height, width, channels)`, as the network takes
            them.
        epsilon: Keeps directions without variance from being blown up, >= 0.
            Defaults to `5e-4`.

    Raises:
        ValueError: There is no such layer, or images of another shape.

    Example:

    >>> from keras_app.experiments.models import fast_convnet
    >>> model = fast_convnet((32, 32, 3), 10)
    >>> whiten(model, np.random.default_rng(0).random((8, 32, 32, 3)))

    Reference: [Jordan, 2024](https://arxiv.org/abs/2404.00498). Differs: the
    sign of an eigenvector is fixed, its largest entry being positive.
    """
    check_number("epsilon", epsilon, lambda x: x >= 0)
    if not wants_whitening(model):
        raise ValueError(
            f"`model` must have a layer named {WHITENING!r}. Received: "
            f"model={model.name!r}"
        )
    images = np.asarray(images)
    if images.shape[1:] != tuple(model.input_shape[1:]) or not len(images):
        raise ValueError(
            "`images` must be at least one image of the shape "
            f"{tuple(model.input_shape[1:])}. Received: images of shape "
            f"{images.shape}"
        )
    layer = model.get_layer(WHITENING)
    kernel = layer.kernel
    height, width = kernel.shape[:2]
    covariance = _patch_covariance(_normalized(model, images), height, width)
    variances, directions = np.linalg.eigh(covariance)
    strongest = np.abs(directions).argmax(axis=0)
    signs = np.sign(directions[strongest, np.arange(len(strongest))])
    # Rounding can leave a variance of nothing below zero.
    scale = np.sqrt(np.maximum(variances, 0) + epsilon)
    filters = directions * signs / scale
    filters = np.concatenate([filters, -filters], axis=1)
    kernel.assign(filters.reshape(kernel.shape).astype("float32"))


def _normalized(model, images):
    """Images as they leave the network's normalization layer, in pieces."""
    mean, deviation = 0.0, 1.0
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            mean, variance = (
                keras.ops.convert_to_numpy(value).astype("float64")
                for value in (layer.mean, layer.variance)
            )
            deviation = np.sqrt(variance)
    for begin in range(0, len(images), _AT_ONCE):
        part = images[begin : begin + _AT_ONCE].astype("float64")
        yield (part - mean) / deviation


def _patch_covariance(parts, height, width):
    """The covariance of all patches, `(height * width * channels,) * 2`."""
    count, total, products = 0, 0.0, 0.0
    for images in parts:
        rows, columns = images.shape[1:3]
        patches = np.concatenate(
            [
                images[
                    :, i : rows - height + 1 + i, j : columns - width + 1 + j
                ]
                for i in range(height)
                for j in range(width)
            ],
            axis=-1,
        )
        patches = patches.reshape(-1, patches.shape[-1])
        count += len(patches)
        total = total + patches.sum(axis=0)
        products = products + patches.T @ patches
    mean = total / count
    return products / count - np.outer(mean, mean)
