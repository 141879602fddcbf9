"""The networks that the configs train.

Every function returns an uncompiled functional `keras.Model` that maps images
in [0, 1], shape `(batch, height, width, channels)`, to logits, shape
`(batch, num_classes)`: no softmax at the end, so the loss is built with
`from_logits=True`. (Only `skip_encoder` gives images.) The models are plain
Keras, run on every backend, and carry no regularizer: weight decay belongs to
the optimizer. Layer names, and so the paths of the variables
(`stage1_block1_conv1/kernel`), are the same in every instance.

Arguments that all of them take:

- `input_shape`: Shape of one input, without the batch. `(height, width,
  channels)` for the convolutional networks, anything for `mlp`.
- `num_classes`: Number of logits, at least 1.
- `mean`, `std`: Normalization inside the model, one number or one per channel.
  The input becomes `(x - mean) / std`; `None` stands for 0 and 1, and when both
  are `None` no layer is added. Keeping it in the model means that an exported
  file takes the same images as training did.
- `seed`: Non-negative integer that makes the initial weights equal on every
  backend, see `initialize`. `None` leaves them to Keras, whose random numbers
  differ between backends. Only initial weights: dropout, where a network has
  it, still follows `keras.utils.set_random_seed`.

The convolutional networks differ from their PyTorch siblings in one point:
strided 3x3 convolutions pad like Keras's `padding="same"`, so for even sizes
the extra row and column come at the end instead of the beginning.
"""

import difflib
import functools
import inspect
import math
import operator

import keras
import numpy as np
from keras import layers

_HUB = "keras_hub.models."
_VGG16_FILTERS = (
    (64, 64),
    (128, 128),
    (256, 256, 256),
    (512, 512, 512),
    (512, 512, 512),
)


def mlp(
    input_shape,
    num_classes,
    hidden=(300, 100),
    activation="relu",
    mean=None,
    std=None,
    seed=None,
    batch_norm=False,
):
    """Multilayer perceptron; by default LeNet-300-100.

    The defaults on 28x28 images with 10 classes have 266,610 parameters. The
    smallest network here, and the one to try a pruning idea on first.

    Args:
        input_shape: Shape of one input; flattened.
        num_classes: Number of logits.
        hidden: Widths of the hidden layers, `()` for a linear model. Defaults
            to `(300, 100)`.
        activation: Activation of the hidden layers. Defaults to `"relu"`.
        mean: Mean to subtract. Defaults to `None`.
        std: Standard deviation to divide by. Defaults to `None`.
        seed: Seed of the initial weights. Defaults to `None`.
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

    def body(x):
        x = layers.Flatten(name="flatten")(x)
        for i, units in enumerate(hidden, start=1):
            name = f"hidden{i}"
            x = layers.Dense(units, use_bias=not batch_norm, name=name)(x)
            if batch_norm:
                x = _batch_norm(x, f"{name}_bn")
            x = layers.Activation(activation, name=f"{name}_activation")(x)
        return x

    return _classifier(
        "mlp", body, input_shape, num_classes, mean, std, seed, rank=None
    )


def convnet(
    input_shape,
    num_classes,
    filters=(16, 32, 64),
    mean=None,
    std=None,
    seed=None,
):
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
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.
        filters: Filters of the convolutions, at least one. Defaults to
            `(16, 32, 64)`.
        mean: Mean to subtract, per channel. Defaults to `None`.
        std: Standard deviation to divide by, per channel. Defaults to `None`.
        seed: Seed of the initial weights. Defaults to `None`.

    Example:

    >>> convnet((28, 28, 1), 10, filters=(8, 16)).output_shape
    (None, 10)
    """
    if not filters:
        raise ValueError(
            f"`filters` must have at least one entry. Received: "
            f"filters={filters}"
        )

    def body(x):
        for i, width in enumerate(filters, start=1):
            x = _conv_bn_relu(x, width, f"conv{i}", strides=2)
        return _global_pool(x)

    return _classifier(
        "convnet", body, input_shape, num_classes, mean, std, seed
    )


def resnet_cifar(
    depth, input_shape, num_classes, mean=None, std=None, seed=None
):
    """Residual network for CIFAR: `depth = 6n + 2`, widths 16, 32 and 64.

    Three stages of n basic blocks. Trainable parameters for 32x32x3 images
    and 10 classes: 272,474 (depth 20), 466,906 (32), 855,770 (56).

    Args:
        depth: Number of weighted layers on the longest path, 6n + 2.
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.
        mean: Mean to subtract, per channel. Defaults to `None`.
        std: Standard deviation to divide by, per channel. Defaults to `None`.
        seed: Seed of the initial weights. Defaults to `None`.

    Example:

    >>> resnet_cifar(8, (32, 32, 3), 10).name
    'resnet8'

    Reference: [He et al., 2016](https://arxiv.org/abs/1512.03385), section
    4.2. Differs: where the shape changes the shortcut is a 1x1 convolution
    with batch normalization (the paper's option B) instead of the padded
    identity (A), so that it can be pruned; 2,752 parameters more.
    """
    if not _is_integer(depth, minimum=8) or (depth - 2) % 6:
        raise ValueError(
            f"`depth` must be 6n + 2 with n at least 1, such as 20, 32 or 56. "
            f"Received: depth={depth}"
        )
    return _resnet(
        f"resnet{depth}",
        _basic_block,
        widths=(16, 32, 64),
        num_blocks=((depth - 2) // 6,) * 3,
        input_shape=input_shape,
        num_classes=num_classes,
        mean=mean,
        std=std,
        seed=seed,
    )


def resnet20(input_shape, num_classes, **kwargs):
    """`resnet_cifar` of depth 20: 0.27 million parameters on CIFAR-10."""
    return resnet_cifar(20, input_shape, num_classes, **kwargs)


def resnet32(input_shape, num_classes, **kwargs):
    """`resnet_cifar` of depth 32: 0.47 million parameters on CIFAR-10."""
    return resnet_cifar(32, input_shape, num_classes, **kwargs)


def resnet56(input_shape, num_classes, **kwargs):
    """`resnet_cifar` of depth 56: 0.86 million parameters on CIFAR-10."""
    return resnet_cifar(56, input_shape, num_classes, **kwargs)


def resnet18(input_shape, num_classes, mean=None, std=None, seed=None):
    """ResNet-18 for small images: 3x3 stem with stride 1, no max pool.

    Four stages of two basic blocks, widths 64 to 512; 11,173,962 trainable
    parameters for 32x32x3 images and 10 classes.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.
        mean: Mean to subtract, per channel. Defaults to `None`.
        std: Standard deviation to divide by, per channel. Defaults to `None`.
        seed: Seed of the initial weights. Defaults to `None`.

    Example:

    >>> model = resnet18((64, 64, 3), 40, mean=0.5, std=0.25)

    Reference: [He et al., 2016](https://arxiv.org/abs/1512.03385), table 1.
    Differs: the stem, as is usual for images of 32 to 64 pixels.
    """
    return _resnet(
        "resnet18",
        _basic_block,
        widths=(64, 128, 256, 512),
        num_blocks=(2, 2, 2, 2),
        input_shape=input_shape,
        num_classes=num_classes,
        mean=mean,
        std=std,
        seed=seed,
    )


def resnet50(input_shape, num_classes, mean=None, std=None, seed=None):
    """ResNet-50 for small images: 3x3 stem with stride 1, no max pool.

    Four stages of 3, 4, 6 and 3 bottleneck blocks; 23,520,842 trainable
    parameters for 32x32x3 images and 10 classes.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.
        mean: Mean to subtract, per channel. Defaults to `None`.
        std: Standard deviation to divide by, per channel. Defaults to `None`.
        seed: Seed of the initial weights. Defaults to `None`.

    Example:

    >>> model = resnet50((32, 32, 3), 10, seed=1)

    Reference: [He et al., 2016](https://arxiv.org/abs/1512.03385), table 1.
    Differs: the stem, as in `resnet18`; the stride of a stage sits on its
    first 3x3 convolution, as most code has it, instead of the 1x1 before.
    """
    return _resnet(
        "resnet50",
        _bottleneck_block,
        widths=(64, 128, 256, 512),
        num_blocks=(3, 4, 6, 3),
        input_shape=input_shape,
        num_classes=num_classes,
        mean=mean,
        std=std,
        seed=seed,
    )


def vgg16_bn(input_shape, num_classes, mean=None, std=None, seed=None):
    """VGG-16 with batch normalization for small images, one dense layer.

    Thirteen 3x3 convolutions in five groups, each closed by a 2x2 max pool,
    then a global average pool (which does nothing at 32x32) and the logits.
    14,724,042 trainable parameters for 32x32x3 images and 10 classes.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.
        mean: Mean to subtract, per channel. Defaults to `None`.
        std: Standard deviation to divide by, per channel. Defaults to `None`.
        seed: Seed of the initial weights. Defaults to `None`.

    Example:

    >>> model = vgg16_bn((32, 32, 3), 10)

    Reference: [Simonyan and Zisserman, 2015](https://arxiv.org/abs/1409.1556),
    configuration D. Differs: batch normalization; one dense layer instead of
    three; no convolution biases, which batch normalization would cancel (4,224
    parameters fewer than code that keeps them).
    """

    def body(x):
        for i, group in enumerate(_VGG16_FILTERS, start=1):
            for j, width in enumerate(group, start=1):
                x = _conv_bn_relu(x, width, f"block{i}_conv{j}")
            x = _max_pool(x, f"block{i}_pool")
        return _global_pool(x)

    return _classifier(
        "vgg16_bn", body, input_shape, num_classes, mean, std, seed
    )


def convnet_5x5(input_shape, num_classes, mean=None, std=None, seed=None):
    """Two unpadded 5x5 convolutions and two dense layers, all with biases.

    Each convolution has 64 filters and is followed by a 2x2 max pool and then
    by ReLU; the hidden dense layer has 128 units. 236,618 parameters for
    28x28x1 images and 10 classes, more than half of them in the hidden layer:
    a network that is wide enough to leave most of itself unused.

    Args:
        input_shape: `(height, width, channels)`, height and width at least
            16.
        num_classes: Number of logits.
        mean: Mean to subtract, per channel. Defaults to `None`.
        std: Standard deviation to divide by, per channel. Defaults to `None`.
        seed: Seed of the initial weights. Defaults to `None`.

    Example:

    >>> convnet_5x5((28, 28, 1), 10, mean=0.5, std=0.5).count_params()
    236618

    Reference: [Bungert et al., 2022](https://arxiv.org/abs/2105.04319),
    the network for Fashion-MNIST. Differs: none known.
    """
    _check_input_shape(input_shape, rank=3)
    if min(input_shape[:2]) < 16:
        raise ValueError(
            "`input_shape` must have a height and a width of at least 16. "
            f"Received: input_shape={input_shape}"
        )

    def body(x):
        for i in (1, 2):
            x = layers.Conv2D(
                64,
                5,
                data_format="channels_last",
                kernel_initializer="he_normal",
                name=f"conv{i}",
            )(x)
            x = layers.MaxPooling2D(
                data_format="channels_last", name=f"pool{i}"
            )(x)
            x = layers.ReLU(name=f"relu{i}")(x)
        x = layers.Flatten(name="flatten")(x)
        return layers.Dense(128, activation="relu", name="hidden")(x)

    return _classifier(
        "convnet_5x5", body, input_shape, num_classes, mean, std, seed
    )


def densenet_design(
    input_shape,
    num_classes,
    mean=None,
    std=None,
    seed=None,
    units=5,
    growth=12,
):
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
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.
        mean: Mean to subtract, per channel. Defaults to `None`.
        std: Standard deviation to divide by, per channel. Defaults to `None`.
        seed: Seed of the initial weights. Defaults to `None`.
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
    _check_size("units", units)
    _check_size("growth", growth)

    def body(x):
        x = _conv3x3(x, growth, "stem", use_bias=False)
        for i in range(1, units + 1):
            new = _conv3x3(x, growth, f"unit{i}_conv", activation="relu")
            x = layers.Concatenate(name=f"unit{i}_concat")([x, new])
        x = _conv3x3(x, 1, f"unit{units + 1}_conv", activation="relu")
        return layers.Flatten(name="flatten")(x)

    return _classifier(
        "densenet_design", body, input_shape, num_classes, mean, std, seed
    )


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
        seed: Seed of the initial weights. Defaults to `None`.
        depth: Number of layers, at least 1. Defaults to `6`.

    Example:

    >>> model = skip_encoder((8, 8, 1), depth=3)
    >>> model.output_shape, tuple(model.get_layer("skip3").coefficients.shape)
    ((None, 8, 8, 1), (3,))

    Reference: [Bungert et al., 2021](https://arxiv.org/abs/2106.02479).
    Differs: none known.
    """
    _check_input_shape(input_shape, rank=None)
    _check_size("depth", depth)
    if num_classes is not None:
        raise ValueError(
            "`num_classes` must be None, because the output is an image. "
            f"Received: num_classes={num_classes}"
        )
    inputs = keras.Input(input_shape, name="images")
    x = layers.Flatten(name="flatten")(_normalize(inputs, mean, std))
    kept = [x]
    for k in range(1, depth + 1):
        new = layers.Dense(x.shape[-1], activation="relu", name=f"layer{k}")(x)
        skipped = SkipSum(name=f"skip{k}")(kept)
        x = layers.Add(name=f"sum{k}")([new, skipped])
        kept.append(x)
    outputs = layers.Reshape(tuple(input_shape), name="restored")(x)
    model = keras.Model(inputs, outputs, name="skip_encoder")
    if seed is not None:
        initialize(model, seed)
    return model


def application(
    name, input_shape, num_classes, mean=None, std=None, seed=None, **kwargs
):
    """Any network of `keras.applications`, untrained, with logits.

    The network's own preprocessing is switched off, so that it takes images
    in [0, 1], normalized by `mean` and `std`, like every other network here.
    With a `seed`, the kernels are drawn by `initialize` and not as Keras draws
    them for that network. Keras numbers all convolutions of InceptionV3 and
    InceptionResNetV2 and four of Xception, so the paths of those kernels
    change between instances.

    Args:
        name: Name in `keras.applications`, in upper or lower case.
        input_shape: `(height, width, channels)`. Most of these networks take
            32x32 and up, a few 71x71 or 75x75.
        num_classes: Number of logits.
        mean: Mean to subtract, per channel. Defaults to `None`.
        std: Standard deviation to divide by, per channel. Defaults to `None`.
        seed: Seed of the initial weights. Defaults to `None`.
        **kwargs: Further arguments of that network, such as `alpha=0.5` for
            `"MobileNetV2"`.

    Raises:
        ValueError: If `name` is unknown, or the network does not take
            `input_shape` or one of the `kwargs`.

    Example:

    >>> model = application("MobileNetV2", (32, 32, 3), 10, alpha=0.35)
    """
    _check_input_shape(input_shape, rank=3)
    _check_size("num_classes", num_classes)
    constructors = _applications()
    match = _match_name(name, constructors, "a network of `keras.applications`")
    constructor = constructors[match]
    if "include_preprocessing" in inspect.signature(constructor).parameters:
        kwargs["include_preprocessing"] = False

    inputs = keras.Input(input_shape, name="images")
    x = _normalize(inputs, mean, std)
    if match.startswith("EfficientNetB"):
        # The only family that always divides its input by 255.
        x = layers.Rescaling(255.0, name="undo_rescaling")(x)
    try:
        model = constructor(
            input_shape=tuple(input_shape),
            input_tensor=x,
            weights=None,
            classes=num_classes,
            classifier_activation=None,
            **kwargs,
        )
    except ValueError as error:
        raise ValueError(
            f"`input_shape` and the other arguments must be ones that "
            f"{match} takes. Received: input_shape={input_shape}. {error}"
        ) from error
    # Keras takes `input_tensor` as a list of one input, and would warn of
    # every batch that is not one.
    model = keras.Model(inputs, model.outputs[0], name=model.name)
    if seed is not None:
        initialize(model, seed)
    return model


def hub_backbone(
    name, input_shape, num_classes, mean=None, std=None, seed=None, **kwargs
):
    """Any backbone of KerasHub that takes images, untrained, with logits.

    The logits are a linear layer on the average of the backbone's outputs over
    all positions, class token included. Needs the extra `hub`. With a `seed`,
    `initialize` draws what it finds outside of KerasHub's own layers; within
    them the first weights are Keras's, and follow
    `keras.utils.set_random_seed`.

    Args:
        name: Name of a class of `keras_hub.models`, in upper or lower case,
            such as `"ViTBackbone"`.
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.
        mean: Mean to subtract, per channel. Defaults to `None`.
        std: Standard deviation to divide by, per channel. Defaults to `None`.
        seed: Seed of the initial weights. Defaults to `None`.
        **kwargs: The configuration of the backbone.

    Raises:
        ImportError: KerasHub is not installed.
        ValueError: If `name` is unknown, or the backbone takes no images or
            gives other outputs than one tensor.

    Example:

    ```python
    model = hub_backbone(
        "ViTBackbone",
        (32, 32, 3),
        10,
        patch_size=(4, 4),
        num_layers=2,
        num_heads=2,
        hidden_dim=64,
        mlp_dim=128,
    )
    ```
    """
    backbones = _hub_backbones()
    match = _match_name(
        name, backbones, "a backbone of `keras_hub.models` that takes images"
    )
    constructor, shape_argument = backbones[match]

    def body(x):
        backbone = constructor(**{shape_argument: tuple(input_shape)}, **kwargs)
        x = backbone(x)
        rank = len(getattr(x, "shape", ()))
        if rank not in (2, 3, 4):
            raise ValueError(
                f"`name` must be a backbone with one tensor of 2 to 4 axes as "
                f"its output. Received: name={name!r}, which gives {x}"
            )
        if rank == 3:
            return layers.GlobalAveragePooling1D(
                data_format="channels_last", name="global_pool"
            )(x)
        return _global_pool(x) if rank == 4 else x

    return _classifier(
        match.lower(), body, input_shape, num_classes, mean, std, seed
    )


def _hub_backbones():
    """`{name: (class, its argument for the shape of an image)}`."""
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            "The networks of KerasHub need the extra `hub`: "
            "pip install 'keras_app[hub]'"
        ) from error
    found = {}
    for name, each in inspect.getmembers(keras_hub.models, inspect.isclass):
        arguments = inspect.signature(each).parameters
        for shape in ("image_shape", "input_shape"):
            if name.endswith("Backbone") and shape in arguments:
                found.setdefault(name, (each, shape))
    return found


def get(name, input_shape, num_classes, **kwargs):
    """A network by name: of this module, `keras.applications`, or KerasHub.

    `"keras_hub.models.ViTBackbone"`, with the module in front, is the one of
    KerasHub (see `hub_backbone`). For the others, upper and lower case are the
    same, except where both places have a network of that name: `"resnet50"` is
    the one of this module, for small images, and `"ResNet50"` the one of
    `keras.applications`.

    Args:
        name: Name of a function of this module or of `keras.applications`, or
            of a class, `"keras_hub.models.<class>"`.
        input_shape: Shape of one input, without the batch.
        num_classes: Number of logits.
        **kwargs: Further arguments of that function or class.

    Raises:
        ValueError: If `name` is unknown; the message suggests close ones.

    Example:

    >>> get("resnet20", (32, 32, 3), 10).name
    'resnet20'
    >>> get("mobilenetv2", (32, 32, 3), 10, alpha=0.35).output_shape
    (None, 10)
    """
    if str(name).startswith(_HUB):
        name = name.removeprefix(_HUB)
        return hub_backbone(name, input_shape, num_classes, **kwargs)
    own = {network.__name__: network for network in _NETWORKS}
    # Own names come last: `_match_name` prefers them in the wrong case.
    match = _match_name(
        name,
        [*_applications(), *own],
        "a network of `keras_app.experiments.models` or `keras.applications`",
    )
    if match in own:
        # By keyword, since `resnet_cifar` has `depth` in front.
        return own[match](
            input_shape=input_shape, num_classes=num_classes, **kwargs
        )
    return application(match, input_shape, num_classes, **kwargs)


def factory(model):
    """Returns a callable that makes a model, given one or a name for `get`."""
    if isinstance(model, str):
        return functools.partial(get, model)
    if not callable(model):
        raise TypeError(
            "`model` must be a name or a callable that makes a model. "
            f"Received: model={model!r}"
        )
    return model


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
    if not _is_integer(seed, minimum=0):
        raise ValueError(
            f"`seed` must be a non-negative integer. Received: seed={seed}"
        )
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


def _classifier(name, body, input_shape, num_classes, mean, std, seed, rank=3):
    """Builds input, normalization, `body`, logits, and the first weights."""
    _check_input_shape(input_shape, rank)
    _check_size("num_classes", num_classes)
    inputs = keras.Input(input_shape, name="images")
    x = body(_normalize(inputs, mean, std))
    outputs = layers.Dense(num_classes, name="logits")(x)
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


def _resnet(name, block, widths, num_blocks, input_shape, **kwargs):
    def body(x):
        x = _conv_bn_relu(x, widths[0], "stem_conv")
        for i, (width, repeats) in enumerate(zip(widths, num_blocks), start=1):
            for j in range(1, repeats + 1):
                strides = 2 if i > 1 and j == 1 else 1
                x = block(x, width, strides, f"stage{i}_block{j}")
        return _global_pool(x)

    return _classifier(name, body, input_shape, **kwargs)


def _basic_block(x, width, strides, name):
    y = _conv_bn_relu(x, width, f"{name}_conv1", strides=strides)
    y = _conv_bn(y, width, f"{name}_conv2")
    return _join(_shortcut(x, width, strides, name), y, name)


def _bottleneck_block(x, width, strides, name):
    y = _conv_bn_relu(x, width, f"{name}_conv1", kernel_size=1)
    y = _conv_bn_relu(y, width, f"{name}_conv2", strides=strides)
    y = _conv_bn(y, 4 * width, f"{name}_conv3", kernel_size=1)
    return _join(_shortcut(x, 4 * width, strides, name), y, name)


def _shortcut(x, width, strides, name):
    if strides == 1 and x.shape[-1] == width:
        return x
    name = f"{name}_shortcut_conv"
    return _conv_bn(x, width, name, kernel_size=1, strides=strides)


def _join(shortcut, y, name):
    y = layers.Add(name=f"{name}_add")([shortcut, y])
    return layers.ReLU(name=f"{name}_relu")(y)


def _conv_bn_relu(x, filters, name, **kwargs):
    x = _conv_bn(x, filters, name, **kwargs)
    return layers.ReLU(name=name.replace("conv", "relu"))(x)


def _conv_bn(x, filters, name, kernel_size=3, strides=1):
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        data_format="channels_last",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    return _batch_norm(x, name.replace("conv", "bn"))


def _conv3x3(x, filters, name, **kwargs):
    return layers.Conv2D(
        filters,
        3,
        padding="same",
        data_format="channels_last",
        kernel_initializer="he_normal",
        name=name,
        **kwargs,
    )(x)


def _batch_norm(x, name):
    # Keras's momentum keeps, PyTorch's replaces: 0.9 here is 0.1 there.
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def _max_pool(x, name):
    # "same" keeps at least one pixel of images that are smaller than planned.
    return layers.MaxPooling2D(
        padding="same", data_format="channels_last", name=name
    )(x)


def _global_pool(x):
    return layers.GlobalAveragePooling2D(
        data_format="channels_last", name="global_pool"
    )(x)


def _applications():
    return dict(inspect.getmembers(keras.applications, inspect.isfunction))


def _match_name(name, names, kind):
    """Finds the spelling in `names`; of several, the last one."""
    names = list(names)
    if name in names:
        return name
    spelling = {candidate.lower(): candidate for candidate in names}
    lowered = str(name).lower()
    if lowered in spelling:
        return spelling[lowered]
    close = difflib.get_close_matches(lowered, spelling)
    hint = " or ".join(repr(spelling[match]) for match in close)
    raise ValueError(
        f"`name` must be {kind}. Received: name={name!r}."
        + (f" Did you mean {hint}?" if hint else "")
    )


def _check_input_shape(input_shape, rank):
    if (
        not isinstance(input_shape, (tuple, list))
        or len(input_shape) != (rank or len(input_shape))
        or not all(_is_integer(size, minimum=1) for size in input_shape)
    ):
        what = "(height, width, channels)" if rank == 3 else "a tuple"
        raise ValueError(
            f"`input_shape` must be {what} of positive integers. Received: "
            f"input_shape={input_shape}"
        )


def _check_size(argument, value):
    if not _is_integer(value, minimum=1):
        raise ValueError(
            f"`{argument}` must be a positive integer. Received: "
            f"{argument}={value}"
        )


def _is_integer(value, minimum):
    try:
        return operator.index(value) >= minimum
    except TypeError:
        return False


_NETWORKS = (
    mlp,
    convnet,
    resnet_cifar,
    resnet20,
    resnet32,
    resnet56,
    resnet18,
    resnet50,
    vgg16_bn,
    convnet_5x5,
    densenet_design,
    skip_encoder,
)
