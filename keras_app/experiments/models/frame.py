"""What all networks share: their input, normalization and first weights."""

import functools
import inspect
import numbers

import keras
import numpy as np
from keras import layers

from keras_app.checks import check_int
from keras_app.experiments.models.first_weights import initialize

_INPUT = ("input_shape", "num_classes")
_FRAME = ("mean", "std", "seed")


def classifier(name=None, rank=3):
    """Makes a network of a function from normalized images to features.

    `body(x, ...)` becomes a function that takes `input_shape` and
    `num_classes` in the place of `x`, and `mean`, `std` and `seed` after its
    own positional arguments; it puts input and normalization in front and the
    logits at the end.

    Args:
        name: Name of the models, in which `{depth}` stands for the argument
            `depth`. Defaults to that of `body`.
        rank: Number of axes of one input, or `None` for any.
    """

    def decorate(body):
        signature = _signature(body)

        @functools.wraps(body)
        def network(*args, **kwargs):
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            own = given.arguments
            frame = {key: own.pop(key) for key in (*_INPUT, *_FRAME)}
            called = (name or body.__name__).format(**own)
            return classify(lambda x: body(x=x, **own), called, rank, **frame)

        network.__signature__ = signature
        return network

    return decorate


def _signature(body):
    """That of `body`, with the arguments of the frame; gin reads it, too."""
    own = list(inspect.signature(body).parameters.values())
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    front = [inspect.Parameter(name, kind) for name in _INPUT]
    back = [inspect.Parameter(name, kind, default=None) for name in _FRAME]
    end = sum(parameter.kind is kind for parameter in own)
    own[end:end] = back
    at = [parameter.name for parameter in own].index("x")
    own[at : at + 1] = front
    return inspect.Signature(own)


def classify(body, name, rank, input_shape, num_classes, mean, std, seed):
    """Builds input, normalization, `body`, logits, and the first weights."""
    inputs, x = begin(input_shape, mean, std, rank)
    check_int("num_classes", num_classes, 1)
    # The logits last: without a seed, layers draw from Keras's in this order.
    features = body(x)
    outputs = layers.Dense(num_classes, name="logits")(features)
    return finish(inputs, outputs, name, seed)


def begin(input_shape, mean, std, rank=3):
    """Returns the input of a network, and what it is after normalization."""
    check_input_shape(input_shape, rank)
    inputs = keras.Input(input_shape, name="images")
    return inputs, _normalize(inputs, mean, std)


def finish(inputs, outputs, name, seed):
    """Returns the model, with its first weights."""
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


def check_input_shape(input_shape, rank):
    """Raises unless it is a shape of `rank` positive integers; `None`: any."""
    if (
        not isinstance(input_shape, (tuple, list))
        or len(input_shape) != (rank or len(input_shape))
        or not all(isinstance(x, numbers.Integral) for x in input_shape)
        or not all(size >= 1 for size in input_shape)
    ):
        what = "(height, width, channels)" if rank == 3 else "a tuple"
        raise ValueError(
            f"`input_shape` must be {what} of positive integers. Received: "
            f"input_shape={input_shape}"
        )
