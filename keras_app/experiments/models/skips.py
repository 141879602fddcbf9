"""An auto-encoder with skip connections, and the layer that they are."""

import keras
from keras import layers

from keras_app.checks import check_int
from keras_app.experiments.models import frame


@keras.saving.register_keras_serializable(package="keras_app")
class SkipSum(layers.Layer):
    """Sums a list of tensors, each times a coefficient that is learned.

        y = sum_i a_i x_i

    The one weight is the vector `coefficients`, `(number of tensors,)`, which
    starts at 0, so that at first nothing is skipped. Every tensor must have
    the same shape, which is that of the output.

    Example:

    >>> layer = SkipSum()
    >>> y = layer([keras.ops.ones((2, 3)), keras.ops.ones((2, 3))])
    >>> keras.ops.convert_to_numpy(y).tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """

    def build(self, input_shape):
        self.coefficients = self.add_weight(
            shape=(len(input_shape),),
            initializer="zeros",
            name="coefficients",
        )

    def call(self, inputs):
        stacked = keras.ops.stack(inputs, axis=-1)
        return keras.ops.matmul(stacked, self.coefficients)


def skip_encoder(
    input_shape, num_classes=None, mean=None, std=None, seed=None, depth=6
):
    """Auto-encoder that finds its own widths and skip connections.

    All layers have as many units as the image has values. Each adds to its
    output what all earlier activations and the input give through skips:

        x_{k+1} = ReLU(W_k x_k + b_k) + sum_{i=0..k} a_{k,i} x_i

    `x_0` is the normalized image, the last `x` the restored one, in the range
    of the clean images. Training that zeroes whole columns of the kernels, and
    single coefficients `a`, leaves a network whose widths and skips are what
    the task needs, see `keras_app.report.widths_and_skips`. The
    dense layers are named `layer1` to `layer6`, the skips `skip1` to `skip6`.
    3,692,661 parameters for 28x28x1 images, 21 of them skip coefficients.

    Args:
        input_shape: Shape of one image, and of the output.
        num_classes: There are no classes: `None`, the default.
        mean: Mean to subtract from the input, per channel. Defaults to
            `None`.
        std: Standard deviation to divide it by, per channel. Defaults to
            `None`.
        depth: Number of layers, at least 1. Defaults to `6`.

    Example:

    >>> model = skip_encoder((8, 8, 1), depth=3)
    >>> model.output_shape, tuple(model.get_layer("skip3").coefficients.shape)
    ((None, 8, 8, 1), (3,))

    Reference: [Bungert et al., 2021](https://arxiv.org/abs/2106.02479).
    Differs: none known.
    """
    check_int("depth", depth, 1)
    if num_classes is not None:
        raise ValueError(
            "`num_classes` must be None, because the output is an image. "
            f"Received: num_classes={num_classes}"
        )
    inputs, x = frame.begin(input_shape, mean, std, rank=None)
    x = layers.Flatten(name="flatten")(x)
    kept = [x]
    for k in range(1, depth + 1):
        new = layers.Dense(x.shape[-1], activation="relu", name=f"layer{k}")(x)
        skipped = SkipSum(name=f"skip{k}")(kept)
        x = layers.Add(name=f"sum{k}")([new, skipped])
        kept.append(x)
    outputs = layers.Reshape(tuple(input_shape), name="restored")(x)
    return frame.finish(inputs, outputs, "skip_encoder", seed)
