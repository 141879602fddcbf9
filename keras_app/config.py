"""Configurations read off the signature of the constructor."""

import inspect
from typing import Any
from typing import Self

import keras


class WholeSignature:
    """Shows all arguments of constructors that take `**kwargs`.

    They hand them to the next class, whose arguments then are in the
    signature too.
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        init = vars(cls).get("__init__")
        if init is not None:
            init.__signature__ = _whole_signature(cls, init)


class Configured(WholeSignature):
    """Gives a class `get_config` and `from_config`, for `keras.saving`.

    Each argument of the constructor is an attribute of the same name.
    """

    #: Arguments that are no settings, such as data; left out.
    not_configured: tuple[str, ...] = ()

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, serialized."""
        return {
            name: _serialized(getattr(self, name))
            for name in arguments_of(type(self))
            if name not in self.not_configured
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Builds the object that `get_config` described."""
        return cls(**{name: _restored(config[name]) for name in config})


def arguments_of(cls):
    """Names of all arguments of a constructor, in a tuple."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    return tuple(
        each.name
        for each in list(parameters)[1:]
        if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    )


def _whole_signature(cls, init):
    """With the arguments of the next class in the place of `**kwargs`.

    Help, completion and gin then know all arguments by name.
    """
    signature = inspect.signature(init)
    own = dict(signature.parameters)
    rest = [p for p in own.values() if p.kind is p.VAR_KEYWORD]
    if not rest:
        return signature
    del own[rest[0].name]
    for name, each in inspect.signature(
        super(cls, cls).__init__
    ).parameters.items():
        # On TensorFlow Keras hides its own arguments behind `*args`.
        if each.kind is each.VAR_POSITIONAL:
            continue
        if each.kind is not each.VAR_KEYWORD:
            each = each.replace(kind=each.KEYWORD_ONLY)
        own.setdefault(name, each)
    return signature.replace(parameters=own.values())


def _serialized(value):
    if isinstance(value, (list, tuple)):
        return [_serialized(each) for each in value]
    plain = isinstance(value, (str, bool, int, float, dict, type(None)))
    return value if plain else keras.saving.serialize_keras_object(value)


def _restored(value):
    if isinstance(value, dict) and "class_name" in value:
        return keras.saving.deserialize_keras_object(value)
    return value
