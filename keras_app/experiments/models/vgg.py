"""VGG networks for small images."""

from keras_app.experiments.models import blocks
from keras_app.experiments.models.frame import classifier

_VGG16_FILTERS = (
    (64, 64),
    (128, 128),
    (256, 256, 256),
    (512, 512, 512),
    (512, 512, 512),
)


@classifier()
def vgg16_bn(x):
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
    for i, group in enumerate(_VGG16_FILTERS, start=1):
        for j, width in enumerate(group, start=1):
            x = blocks.conv_bn_relu(x, width, f"block{i}_conv{j}")
        x = blocks.max_pool(x, f"block{i}_pool")
    return blocks.global_pool(x)
