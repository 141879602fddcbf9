"""Layers that several networks are built of."""

from keras import layers


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
