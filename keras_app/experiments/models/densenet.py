"""Densely connected convolutions."""

from keras import layers

from keras_app.checks import check_int
from keras_app.experiments.models import blocks
from keras_app.experiments.models.frame import classifier


@classifier()
def densenet_design(x, *, units=5, growth=12):
    """Densely connected convolutions, to find out which connections matter.

    Every unit sees the maps of all units before it, and of the stem:

        x_0     = conv3x3(images)                              (the stem)
        x_{i+1} = concat(x_i, ReLU(conv3x3(x_i)))              (unit i + 1)

    The stem, which has no bias, and `units` units add `growth` maps each. One
    further unit adds a single map, and only this one is flattened and given
    to the logits. Training that zeroes whole 2-D kernels then says which of
    the connections it needs, see
    `keras_app.report.connection_matrix`. The convolutions are named
    `stem` and `unit1_conv` to `unit6_conv`. 28,107 parameters for 28x28x1
    images and 10 classes.

    Args:
        units: Number of units before the last one, at least 1. Defaults to
            `5`.
        growth: Maps that the stem and each of them add, at least 1. Defaults
            to `12`.

    Example:

    >>> model = densenet_design((28, 28, 1), 10)
    >>> tuple(model.get_layer("unit6_conv").kernel.shape)
    (3, 3, 72, 1)

    Reference: [Bungert et al., 2021](https://arxiv.org/abs/2106.02479).
    Differs: linear logits; the authors' code applies ReLU to them.
    """
    check_int("units", units, 1)
    check_int("growth", growth, 1)
    x = blocks.conv(x, growth, "stem", use_bias=False)
    for i in range(1, units + 1):
        new = blocks.conv(x, growth, f"unit{i}_conv", activation="relu")
        x = layers.Concatenate(name=f"unit{i}_concat")([x, new])
    x = blocks.conv(x, 1, f"unit{units + 1}_conv", activation="relu")
    return layers.Flatten(name="flatten")(x)
