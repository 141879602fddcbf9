"""Small networks: a perceptron and plain convolutions."""

from keras import layers

from keras_app.experiments.models import blocks
from keras_app.experiments.models.frame import classifier


@classifier(rank=None)
def mlp(x, hidden=(300, 100), activation="relu", *, batch_norm=False):
    """Multilayer perceptron; by default LeNet-300-100.

    The defaults on 28x28 images with 10 classes have 266,610 parameters. The
    smallest network here, and the one to try a pruning idea on first.

    Args:
        hidden: Widths of the hidden layers, `()` for a linear model. Defaults
            to `(300, 100)`.
        activation: Activation of the hidden layers. Defaults to `"relu"`.
        batch_norm: Whether to normalize over the batch before each
            activation; the hidden layers then have no bias. Defaults to
            `False`.

    Example:

    >>> model = mlp((28, 28, 1), 10, seed=0)
    >>> model.count_params()
    266610

    Reference: [LeCun et al., 1998](http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf).
    Differs: ReLU instead of tanh.
    """
    x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(hidden, start=1):
        name = f"hidden{i}"
        x = layers.Dense(units, use_bias=not batch_norm, name=name)(x)
        if batch_norm:
            x = blocks.batch_norm(x, f"{name}_bn")
        x = layers.Activation(activation, name=f"{name}_activation")(x)
    return x


@classifier()
def convnet(x, filters=(16, 32, 64)):
    """Small convolutional network that trains in seconds on a CPU.

    One 3x3 convolution with stride 2, batch normalization and ReLU per entry
    of `filters`, then a global average pool and the logits. The defaults on
    28x28x1 images with 10 classes have 24,058 trainable parameters.

    Trained on 6,000 images of Fashion-MNIST for 20 epochs (SGD with momentum
    0.9, learning rate 0.1 with cosine decay, batches of 128) it gets 85.0 to
    85.7 % of the test images right over three seeds, at 10,000 images/s or
    more on two CPU cores (TensorFlow). Stride 1 and max pools would give one
    point more at less than half of the speed.

    Args:
        filters: Filters of the convolutions, at least one. Defaults to
            `(16, 32, 64)`.

    Example:

    >>> convnet((28, 28, 1), 10, filters=(8, 16)).output_shape
    (None, 10)
    """
    if not filters:
        raise ValueError(
            f"`filters` must have at least one entry. Received: "
            f"filters={filters}"
        )
    for i, width in enumerate(filters, start=1):
        x = blocks.conv_bn_relu(x, width, f"conv{i}", strides=2)
    return blocks.global_pool(x)


@classifier()
def convnet_5x5(x):
    """Two unpadded 5x5 convolutions and two dense layers, all with biases.

    Each convolution has 64 filters and is followed by a 2x2 max pool and then
    by ReLU; the hidden dense layer has 128 units. 236,618 parameters for
    28x28x1 images and 10 classes, more than half of them in the hidden layer:
    a network that is wide enough to leave most of itself unused.

    Args:
        input_shape: `(height, width, channels)`, height and width at least
            16.

    Example:

    >>> convnet_5x5((28, 28, 1), 10, mean=0.5, std=0.5).count_params()
    236618

    Reference: [Bungert et al., 2022](https://arxiv.org/abs/2105.04319),
    the network for Fashion-MNIST. Differs: none known.
    """
    if min(x.shape[1:3]) < 16:
        raise ValueError(
            "`input_shape` must have a height and a width of at least 16. "
            f"Received: input_shape={tuple(x.shape[1:])}"
        )
    for i in (1, 2):
        x = blocks.conv(x, 64, f"conv{i}", kernel_size=5, padding="valid")
        x = blocks.max_pool(x, f"pool{i}", padding="valid")
        x = layers.ReLU(name=f"relu{i}")(x)
    x = layers.Flatten(name="flatten")(x)
    return layers.Dense(128, activation="relu", name="hidden")(x)
