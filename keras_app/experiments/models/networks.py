"""The networks: plain, residual and dense ones, and an auto-encoder."""

from collections.abc import Callable
from collections.abc import Sequence

import keras
from keras import layers

from keras_app.checks import check_int
from keras_app.experiments.models import frame
from keras_app.experiments.models.frame import classifier
from keras_app.experiments.models.whitening import WHITENING
from keras_app.hints import Shape
from keras_app.hints import Tensor

# For each group, how many filters a convolution has and how many there are.
_VGG16_GROUPS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


@classifier(rank=None)
def mlp(
    x: Tensor,
    hidden: Sequence[int] = (300, 100),
    activation: str | Callable[[Tensor], Tensor] = "relu",
    *,
    batch_norm: bool = False,
) -> Tensor:
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
            x = frame.batch_norm(x, f"{name}_bn")
        x = layers.Activation(activation, name=f"{name}_activation")(x)
    return x


@classifier()
def convnet(x: Tensor, filters: Sequence[int] = (16, 32, 64)) -> Tensor:
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
        x = frame.conv_bn_relu(x, width, f"conv{i}", strides=2)
    return frame.global_pool(x)


@classifier()
def convnet_5x5(x: Tensor) -> Tensor:
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
        x = frame.conv(x, 64, f"conv{i}", kernel_size=5, padding="valid")
        x = frame.max_pool(x, f"pool{i}", padding="valid")
        x = layers.ReLU(name=f"relu{i}")(x)
    x = layers.Flatten(name="flatten")(x)
    return layers.Dense(128, activation="relu", name="hidden")(x)


def fast_convnet(
    input_shape: Shape,
    num_classes: int,
    widths: Sequence[int] = (64, 256, 256),
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    seed: int | None = None,
) -> Tensor:
    """Convolutional network for many short trainings on small images.

    A 2x2 convolution that whitens patches, with a kernel that is not trained,
    then a group per entry of `widths`:

        3x3 convolution, 2x2 max pool, batch normalization, GELU,
        3x3 convolution, batch normalization, GELU

    then a global max pool and logits without bias, divided by 9. Batch
    normalization has offsets and no scales. `whiten` sets the whitening
    kernel from images, as `experiments` do of themselves; before that it is
    random. Trainable parameters for 32x32x3 images and 10 classes: 1,971,328;
    497,216 with `widths=(32, 128, 128)`.

    Args:
        widths: Filters of the groups, at least one. Defaults to
            `(64, 256, 256)`.

    Example:

    >>> model = fast_convnet((32, 32, 3), 10, widths=(32, 128, 128))
    >>> model.get_layer("whitening").trainable
    False

    Reference: [Jordan, 2024](https://arxiv.org/abs/2404.00498). Differs: the
    whitening has no bias, which the author trains for three epochs; the first
    weights are normal, not partly the identity; no other optimizer for the
    offsets.
    """
    inputs, x = frame.begin(input_shape, mean, std)
    check_int("num_classes", num_classes, 1)
    if not widths:
        raise ValueError(
            f"`widths` must have at least one entry. Received: widths={widths}"
        )
    least = 1 + 2 ** len(widths)
    if min(x.shape[1:3]) < least:
        raise ValueError(
            "`input_shape` must have a height and a width of at least "
            f"{least}. Received: input_shape={tuple(input_shape)}"
        )
    x = layers.Conv2D(
        2 * 4 * x.shape[-1],
        2,
        use_bias=False,
        data_format="channels_last",
        trainable=False,
        name=WHITENING,
    )(x)
    x = layers.Activation("gelu", name="whitening_gelu")(x)
    for i, width in enumerate(widths, start=1):
        for j in (1, 2):
            x = frame.conv(x, width, f"group{i}_conv{j}", use_bias=False)
            if j == 1:
                x = frame.max_pool(x, f"group{i}_pool", padding="valid")
            # A few hundred steps are all that the statistics have.
            x = layers.BatchNormalization(
                momentum=0.8, epsilon=1e-5, scale=False, name=f"group{i}_bn{j}"
            )(x)
            x = layers.Activation("gelu", name=f"group{i}_gelu{j}")(x)
    x = layers.GlobalMaxPooling2D(
        data_format="channels_last", name="global_pool"
    )(x)
    dtype = frame.full_precision()
    x = layers.Dense(num_classes, use_bias=False, dtype=dtype, name="logits")(x)
    outputs = layers.Rescaling(1 / 9, dtype=dtype, name="logits_scale")(x)
    return frame.finish(inputs, outputs, "fast_convnet", seed)


@classifier()
def vgg16_bn(x: Tensor) -> Tensor:
    """VGG-16 with batch normalization for small images, one dense layer.

    Thirteen 3x3 convolutions in five groups, each closed by a 2x2 max pool,
    then a global average pool (which does nothing at 32x32) and the logits.
    14,724,042 trainable parameters for 32x32x3 images and 10 classes.

    Example:

    >>> model = vgg16_bn((32, 32, 3), 10)

    Reference: [Simonyan and Zisserman, 2015](https://arxiv.org/abs/1409.1556),
    configuration D. Differs: batch normalization; one dense layer instead of
    three; no convolution biases, which batch normalization would cancel (4,224
    parameters fewer than code that keeps them).
    """
    for i, (width, repeats) in enumerate(_VGG16_GROUPS, start=1):
        for j in range(1, repeats + 1):
            x = frame.conv_bn_relu(x, width, f"block{i}_conv{j}")
        x = frame.max_pool(x, f"block{i}_pool")
    return frame.global_pool(x)


@classifier(name="resnet{depth}")
def resnet_cifar(depth: int, x: Tensor) -> Tensor:
    """Residual network for CIFAR: `depth = 6n + 2`, widths 16, 32 and 64.

    Three stages of n basic blocks. Trainable parameters for 32x32x3 images
    and 10 classes: 272,474 (depth 20), 466,906 (32), 855,770 (56).

    Args:
        depth: Number of weighted layers on the longest path, 6n + 2.

    Example:

    >>> resnet_cifar(8, (32, 32, 3), 10).name
    'resnet8'

    Reference: [He et al., 2016](https://arxiv.org/abs/1512.03385), section
    4.2. Differs: where the shape changes the shortcut is a 1x1 convolution
    with batch normalization (the paper's option B) instead of the padded
    identity (A), so that it can be pruned; 2,752 parameters more.
    """
    if check_int("depth", depth, 8) % 6 != 2:
        raise ValueError(
            f"`depth` must be 6n + 2 with n at least 1, such as 20, 32 or 56. "
            f"Received: depth={depth}"
        )
    return _cifar_stages(x, (depth - 2) // 6)


@classifier()
def resnet20(x: Tensor) -> Tensor:
    """`resnet_cifar` of depth 20: 0.27 million parameters on CIFAR-10."""
    return _cifar_stages(x, 3)


@classifier()
def resnet32(x: Tensor) -> Tensor:
    """`resnet_cifar` of depth 32: 0.47 million parameters on CIFAR-10."""
    return _cifar_stages(x, 5)


@classifier()
def resnet56(x: Tensor) -> Tensor:
    """`resnet_cifar` of depth 56: 0.86 million parameters on CIFAR-10."""
    return _cifar_stages(x, 9)


@classifier()
def resnet18(x: Tensor) -> Tensor:
    """ResNet-18 for small images: 3x3 stem with stride 1, no max pool.

    Four stages of two basic blocks, widths 64 to 512; 11,173,962 trainable
    parameters for 32x32x3 images and 10 classes.

    Example:

    >>> model = resnet18((64, 64, 3), 40, mean=0.5, std=0.25)

    Reference: [He et al., 2016](https://arxiv.org/abs/1512.03385), table 1.
    Differs: the stem, as is usual for images of 32 to 64 pixels.
    """
    return _stages(x, _basic_block, (64, 128, 256, 512), (2, 2, 2, 2))


@classifier()
def resnet50(x: Tensor) -> Tensor:
    """ResNet-50 for small images: 3x3 stem with stride 1, no max pool.

    Four stages of 3, 4, 6 and 3 bottleneck blocks; 23,520,842 trainable
    parameters for 32x32x3 images and 10 classes.

    Example:

    >>> model = resnet50((32, 32, 3), 10, seed=1)

    Reference: [He et al., 2016](https://arxiv.org/abs/1512.03385), table 1.
    Differs: the stem, as in `resnet18`; the stride of a stage sits on its
    first 3x3 convolution, as most code has it, instead of the 1x1 before.
    """
    return _stages(x, _bottleneck_block, (64, 128, 256, 512), (3, 4, 6, 3))


def _cifar_stages(x, n):
    return _stages(x, _basic_block, (16, 32, 64), (n, n, n))


def _stages(x, block, widths, num_blocks):
    x = frame.conv_bn_relu(x, widths[0], "stem_conv")
    for i, (width, repeats) in enumerate(zip(widths, num_blocks), start=1):
        for j in range(1, repeats + 1):
            strides = 2 if i > 1 and j == 1 else 1
            x = block(x, width, strides, f"stage{i}_block{j}")
    return frame.global_pool(x)


def _basic_block(x, width, strides, name):
    y = frame.conv_bn_relu(x, width, f"{name}_conv1", strides=strides)
    y = frame.conv_bn(y, width, f"{name}_conv2")
    return _join(_shortcut(x, width, strides, name), y, name)


def _bottleneck_block(x, width, strides, name):
    y = frame.conv_bn_relu(x, width, f"{name}_conv1", kernel_size=1)
    y = frame.conv_bn_relu(y, width, f"{name}_conv2", strides=strides)
    y = frame.conv_bn(y, 4 * width, f"{name}_conv3", kernel_size=1)
    return _join(_shortcut(x, 4 * width, strides, name), y, name)


def _shortcut(x, width, strides, name):
    if strides == 1 and x.shape[-1] == width:
        return x
    name = f"{name}_shortcut_conv"
    return frame.conv_bn(x, width, name, kernel_size=1, strides=strides)


def _join(shortcut, y, name):
    y = layers.Add(name=f"{name}_add")([shortcut, y])
    return layers.ReLU(name=f"{name}_relu")(y)


@classifier()
def densenet_design(x: Tensor, *, units: int = 5, growth: int = 12) -> Tensor:
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
    x = frame.conv(x, growth, "stem", use_bias=False)
    for i in range(1, units + 1):
        new = frame.conv(x, growth, f"unit{i}_conv", activation="relu")
        x = layers.Concatenate(name=f"unit{i}_concat")([x, new])
    x = frame.conv(x, 1, f"unit{units + 1}_conv", activation="relu")
    return layers.Flatten(name="flatten")(x)


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
    input_shape: Shape,
    num_classes: None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    seed: int | None = None,
    depth: int = 6,
) -> keras.Model:
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
    outputs = layers.Reshape(
        tuple(input_shape), dtype=frame.full_precision(), name="restored"
    )(x)
    return frame.finish(inputs, outputs, "skip_encoder", seed)
