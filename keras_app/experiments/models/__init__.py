"""The networks that the configs train.

Every function returns an uncompiled functional `keras.Model` that maps images
in [0, 1], shape `(batch, height, width, channels)`, to logits, shape
`(batch, num_classes)`: no softmax at the end, so the loss is built with
`from_logits=True`. (Only `skip_encoder` gives images, and `hub_causal_lm` takes
tokens.) The models are plain
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

from keras_app.experiments.models.frame import initialize
from keras_app.experiments.models.language import hub_causal_lm
from keras_app.experiments.models.lookup import application
from keras_app.experiments.models.lookup import factory
from keras_app.experiments.models.lookup import get
from keras_app.experiments.models.lookup import hub_backbone
from keras_app.experiments.models.networks import convnet
from keras_app.experiments.models.networks import convnet_5x5
from keras_app.experiments.models.networks import densenet_design
from keras_app.experiments.models.networks import fast_convnet
from keras_app.experiments.models.networks import mlp
from keras_app.experiments.models.networks import resnet18
from keras_app.experiments.models.networks import resnet20
from keras_app.experiments.models.networks import resnet32
from keras_app.experiments.models.networks import resnet50
from keras_app.experiments.models.networks import resnet56
from keras_app.experiments.models.networks import resnet_cifar
from keras_app.experiments.models.networks import skip_encoder
from keras_app.experiments.models.networks import SkipSum
from keras_app.experiments.models.networks import vgg16_bn
from keras_app.experiments.models.whitening import whiten

__all__ = [
    "SkipSum",
    "application",
    "convnet",
    "convnet_5x5",
    "densenet_design",
    "factory",
    "fast_convnet",
    "get",
    "hub_backbone",
    "hub_causal_lm",
    "initialize",
    "mlp",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet50",
    "resnet56",
    "resnet_cifar",
    "skip_encoder",
    "vgg16_bn",
    "whiten",
]
