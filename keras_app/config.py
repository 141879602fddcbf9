"""Configurations read off the signature of the constructor."""

import functools
import inspect

import keras


class Configured:
    """Gives a class `get_config` and `from_config`, for `keras.saving`.

    Each argument of the constructor is an attribute of the same name. A
    constructor that takes `**kwargs` hands them to the next class, whose
    arguments count too.
    """

    #: Arguments that are no settings, such as data; left out.
    not_configured = ()

    def get_config(self):
        """Returns the constructor's arguments, serialized."""
        return {
            name: _serialized(getattr(self, name))
            for name in arguments_of(type(self))
            if name not in self.not_configured
        }

    @classmethod
    def from_config(cls, config):
        """Builds the object that `get_config` described."""
        return cls(**{name: _restored(config[name]) for name in config})


@functools.cache
def arguments_of(cls):
    """Names of all arguments of a constructor, in a tuple.

    Args:
        cls: A class whose constructor may hand `**kwargs` to its base.
    """
    names = {}
    for each in cls.__mro__:
        if "__init__" not in vars(each):
            continue
        parameters = list(inspect.signature(each.__init__).parameters.values())
        names.update(
            (p.name, None)
            for p in parameters[1:]
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        )
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return tuple(names)


def _serialized(value):
    if isinstance(value, (list, tuple)):
        return [_serialized(each) for each in value]
    plain = isinstance(value, (str, bool, int, float, dict, type(None)))
    return value if plain else keras.saving.serialize_keras_object(value)


def _restored(value):
    if isinstance(value, dict) and "class_name" in value:
        return keras.saving.deserialize_keras_object(value)
    return value
