"""Networks by name."""

import functools

from keras_app.experiments.models import densenet
from keras_app.experiments.models import foreign
from keras_app.experiments.models import resnets
from keras_app.experiments.models import skips
from keras_app.experiments.models import small
from keras_app.experiments.models import vgg

_HUB = "keras_hub.models."
_NETWORKS = (
    small.mlp,
    small.convnet,
    resnets.resnet_cifar,
    resnets.resnet20,
    resnets.resnet32,
    resnets.resnet56,
    resnets.resnet18,
    resnets.resnet50,
    vgg.vgg16_bn,
    small.convnet_5x5,
    densenet.densenet_design,
    skips.skip_encoder,
)


def get(name, input_shape, num_classes, **kwargs):
    """A network by name: of this package, `keras.applications`, or KerasHub.

    `"keras_hub.models.ViTBackbone"`, with the module in front, is the one of
    KerasHub (see `hub_backbone`). For the others, upper and lower case are the
    same, except where both places have a network of that name: `"resnet50"` is
    the one of this package, for small images, and `"ResNet50"` the one of
    `keras.applications`.

    Args:
        name: Name of a function of this package or of `keras.applications`, or
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
        return foreign.hub_backbone(name, input_shape, num_classes, **kwargs)
    own = {network.__name__: network for network in _NETWORKS}
    # Own names come last: `foreign.match_name` prefers them in the wrong case.
    match = foreign.match_name(
        name,
        [*foreign.applications(), *own],
        "a network of `keras_app.experiments.models` or `keras.applications`",
    )
    if match in own:
        # By keyword, since `resnet_cifar` has `depth` in front.
        return own[match](
            input_shape=input_shape, num_classes=num_classes, **kwargs
        )
    return foreign.application(match, input_shape, num_classes, **kwargs)


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
