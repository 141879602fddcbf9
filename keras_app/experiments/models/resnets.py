"""Residual networks for small images."""

from keras import layers

from keras_app.checks import check_int
from keras_app.experiments.models import blocks
from keras_app.experiments.models.frame import classifier


@classifier(name="resnet{depth}")
def resnet_cifar(depth, x):
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
def resnet20(x):
    """`resnet_cifar` of depth 20: 0.27 million parameters on CIFAR-10."""
    return _cifar_stages(x, 3)


@classifier()
def resnet32(x):
    """`resnet_cifar` of depth 32: 0.47 million parameters on CIFAR-10."""
    return _cifar_stages(x, 5)


@classifier()
def resnet56(x):
    """`resnet_cifar` of depth 56: 0.86 million parameters on CIFAR-10."""
    return _cifar_stages(x, 9)


@classifier()
def resnet18(x):
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
def resnet50(x):
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
    x = blocks.conv_bn_relu(x, widths[0], "stem_conv")
    for i, (width, repeats) in enumerate(zip(widths, num_blocks), start=1):
        for j in range(1, repeats + 1):
            strides = 2 if i > 1 and j == 1 else 1
            x = block(x, width, strides, f"stage{i}_block{j}")
    return blocks.global_pool(x)


def _basic_block(x, width, strides, name):
    y = blocks.conv_bn_relu(x, width, f"{name}_conv1", strides=strides)
    y = blocks.conv_bn(y, width, f"{name}_conv2")
    return _join(_shortcut(x, width, strides, name), y, name)


def _bottleneck_block(x, width, strides, name):
    y = blocks.conv_bn_relu(x, width, f"{name}_conv1", kernel_size=1)
    y = blocks.conv_bn_relu(y, width, f"{name}_conv2", strides=strides)
    y = blocks.conv_bn(y, 4 * width, f"{name}_conv3", kernel_size=1)
    return _join(_shortcut(x, 4 * width, strides, name), y, name)


def _shortcut(x, width, strides, name):
    if strides == 1 and x.shape[-1] == width:
        return x
    name = f"{name}_shortcut_conv"
    return blocks.conv_bn(x, width, name, kernel_size=1, strides=strides)


def _join(shortcut, y, name):
    y = layers.Add(name=f"{name}_add")([shortcut, y])
    return layers.ReLU(name=f"{name}_relu")(y)
