"""Networks by name: of this package, `keras.applications`, or KerasHub."""

import difflib
import functools
import inspect
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from keras_app.checks import check_int
from keras_app.experiments.models import frame
from keras_app.experiments.models import networks
from keras_app.hints import Shape

_HUB = "keras_hub.models."


def get(
    name: str, input_shape: Shape, num_classes: int, **kwargs: Any
) -> keras.Model:
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
        return hub_backbone(name, input_shape, num_classes, **kwargs)
    own = {
        name: each
        for name, each in inspect.getmembers(networks, inspect.isfunction)
        if each.__module__ == networks.__name__ and not name.startswith("_")
    }
    # Own names come last: `match_name` prefers them in the wrong case.
    match = match_name(
        name,
        [*applications(), *own],
        "a network of `keras_app.experiments.models` or `keras.applications`",
    )
    if match in own:
        # By keyword, since `resnet_cifar` has `depth` in front.
        return own[match](
            input_shape=input_shape, num_classes=num_classes, **kwargs
        )
    return application(match, input_shape, num_classes, **kwargs)


def factory(
    model: str | Callable[..., keras.Model],
) -> Callable[..., keras.Model]:
    """Returns a callable that makes a model, given one or a name for `get`."""
    if isinstance(model, str):
        return functools.partial(get, model)
    if not callable(model):
        raise TypeError(
            "`model` must be a name or a callable that makes a model. "
            f"Received: model={model!r}"
        )
    return model


def application(
    name: str,
    input_shape: Shape,
    num_classes: int,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> keras.Model:
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
        **kwargs: Further arguments of that network, such as `alpha=0.5` for
            `"MobileNetV2"`.

    Raises:
        ValueError: If `name` is unknown, or the network does not take
            `input_shape` or one of the `kwargs`.

    Example:

    >>> model = application("MobileNetV2", (32, 32, 3), 10, alpha=0.35)
    """
    inputs, x = frame.begin(input_shape, mean, std)
    check_int("num_classes", num_classes, 1)
    constructors = applications()
    match = match_name(name, constructors, "a network of `keras.applications`")
    constructor = constructors[match]
    if "include_preprocessing" in inspect.signature(constructor).parameters:
        kwargs["include_preprocessing"] = False

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
    return frame.finish(inputs, model.outputs[0], model.name, seed)


def hub_backbone(
    name: str,
    input_shape: Shape,
    num_classes: int,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> keras.Model:
    """Any backbone of KerasHub that takes images, untrained, with logits.

    The logits are a linear layer on the average of the backbone's outputs over
    all positions, class token included. Needs the extra `hub`. With a `seed`,
    `initialize` draws what it finds outside of KerasHub's own layers; within
    them the first weights are Keras's, and follow
    `keras.utils.set_random_seed`.

    Args:
        name: Name of a class of `keras_hub.models`, in upper or lower case,
            such as `"ViTBackbone"`.
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
    match = match_name(
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
        return frame.global_pool(x) if rank == 4 else x

    return frame.classify(
        body, match.lower(), 3, input_shape, num_classes, mean, std, seed
    )


def hub():
    """Returns the module `keras_hub`, or raises and names the extra."""
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            "The networks of KerasHub need the extra `hub`: "
            "pip install 'keras_app[hub]'"
        ) from error
    return keras_hub


def _hub_backbones():
    """`{name: (class, its argument for the shape of an image)}`."""
    found = {}
    for name, each in inspect.getmembers(hub().models, inspect.isclass):
        arguments = inspect.signature(each).parameters
        for shape in ("image_shape", "input_shape"):
            if name.endswith("Backbone") and shape in arguments:
                found.setdefault(name, (each, shape))
    return found


def applications():
    """`{name: function}` of `keras.applications`."""
    return dict(inspect.getmembers(keras.applications, inspect.isfunction))


def match_name(name, names, kind):
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
