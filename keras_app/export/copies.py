"""Copies of layers and models, with everything that they hold in memory.

A copy is made of the configuration and of what Keras would write to a file, so
that whatever a layer needs to come back (moving statistics and what is computed
from them, vocabularies, tokenizers) does. Files leave out three things that a
copy has: the states of random generators, functions, which files know by name
at best, and classes that are not registered. These are taken over as they are.
Nobody compiles a copy.

Private Keras names in use: `_compile_config`, `_inbound_nodes`, `arguments` of
a node.
"""

import contextlib
import random

import keras
import numpy as np
from keras import ops

from keras_app import host
from keras_app import selection

# What belongs to a training, and not to a copy.
_OF_TRAINING = (
    keras.losses.Loss,
    keras.metrics.Metric,
    keras.optimizers.Optimizer,
)


def copy(model, change=None):
    """Returns an uncompiled copy of a model.

    Args:
        model: A built `keras.Model`.
        change: See `recreate`.

    Raises:
        ValueError: A class that cannot be made from its configuration.
    """
    host.sync(model)
    made = recreate(model, change)
    if not made.built:
        with _copying(model):
            made.build_from_config(model.get_build_config())
    # Some classes compile themselves when they are made.
    for each in selection.walk_layers(made):
        if getattr(each, "compiled", False):
            each.compiled, each.optimizer, each.loss = False, None, None
    move_state(model, made)
    return made


def recreate(layer, change=None):
    """Returns a new layer of the same configuration, without its state.

    Args:
        layer: A layer, model or operation of Keras.
        change: Takes the configuration, as `keras.saving` serializes it, and
            returns the one to use. Defaults to `None`: the same.

    Raises:
        ValueError: A class that cannot be made from its configuration.
    """
    with _copying(layer), undisturbed(), _in_memory(layer) as objects:
        with host.ObjectSharingScope():
            config = keras.saving.serialize_keras_object(layer)
            config.pop("build_config", None)
            return keras.saving.deserialize_keras_object(
                change(config) if change else config,
                custom_objects=objects,
                # It is in memory already.
                safe_mode=False,
            )


def edited(config, edit):
    """Returns a serialized configuration with each object in it edited.

    Args:
        config: What `keras.saving.serialize_keras_object` returns.
        edit: Takes a dictionary and returns another, or `None` for nothing.
    """
    if isinstance(config, dict):
        return edit({key: edited(each, edit) for key, each in config.items()})
    if isinstance(config, (list, tuple)):
        pairs = [(each, edited(each, edit)) for each in config]
        kept = [new for old, new in pairs if new is not None or old is None]
        return type(config)(kept)
    return config


def move_state(layer, made):
    """Gives a layer the state of another one of the same configuration."""
    trained = [
        {id(each) for each in held_by(side) if isinstance(each, _OF_TRAINING)}
        for side in (layer, made)
    ]
    with _copying(layer):
        host.move_saved(layer, made, *trained)
        move_seeds(layer, made)
        # Some layers keep variables out of files.
        if [v.name for v in layer.weights] == [v.name for v in made.weights]:
            for old, new in zip(layer.weights, made.weights):
                value = ops.convert_to_numpy(old)
                if value.tobytes() != ops.convert_to_numpy(new).tobytes():
                    new.assign(value.copy())


def move_seeds(layer, made):
    """Gives the random generators of a layer the states of another's."""
    for old, new in zip(seeds(layer), seeds(made), strict=True):
        new.assign(np.array(ops.convert_to_numpy(old)))


def seeds(layer):
    """The states of the random generators in a layer, in its order."""
    weights = {id(variable) for variable in layer.weights}
    return [v for v in layer.variables if id(v) not in weights]


def held_by(layer):
    """Yields all layers in a layer, and whatever they hold."""
    for owner in selection.walk_layers(layer):
        yield owner
        for _, value in _attributes(owner):
            yield from _leaves(value)


def objects_of(layer):
    """`{name: class}` of what is in a layer and not registered with Keras."""
    found = {}
    for kind in map(type, held_by(layer)):
        if not hasattr(kind, "from_config") or _is_kerass(kind):
            continue
        name = keras.saving.get_registered_name(kind)
        if found.setdefault(name, kind) is not kind:
            raise ValueError(
                f"two of its classes are named {name}: register them "
                "with `keras.saving.register_keras_serializable`"
            )
    return found


def functions_of(model):
    """`{name: function}` of what is in a model or was given to `compile`."""
    found = {}
    for owner in _owners(model):
        compiled = vars(owner).get("_compile_config")
        for held in (owner, *filter(None, [compiled])):
            for _, value in _attributes(held):
                for each in filter(_is_function, _leaves(value)):
                    found.setdefault(getattr(each, "__name__", None), each)
    return found


@contextlib.contextmanager
def undisturbed():
    """What happens inside does not change Python's random numbers after it.

    Keras draws a seed from them for each generator and initializer that it
    makes.
    """
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


@contextlib.contextmanager
def explained(sentence):
    """Turns errors of Keras about a model into one that says what to do.

    Args:
        sentence: Takes the reason, a sentence, and returns the message.
    """
    try:
        yield
    except (OSError, MemoryError):
        raise  # about this machine, not about the model
    except Exception as error:
        raise ValueError(sentence(_reason(error))) from error


def _copying(layer):
    return explained(
        lambda reason: (
            f"{layer.name!r} of type {type(layer).__name__} cannot be copied "
            f"from its configuration: {reason} Give classes of your own "
            "`get_config` and `from_config`."
        )
    )


def _reason(error):
    """The sentence in an error of Keras, which quotes whole configurations."""
    while error.__context__ and str(error.__context__) in str(error):
        error = error.__context__
    sentences = str(error).strip().split("\n\n")
    # Of several errors it announces one.
    first = sentences[1 if sentences[0].endswith(":") else 0]
    sentence = " ".join(first.split()).partition(" Full object config")[0]
    return sentence if sentence.endswith(".") else f"{sentence}."


@contextlib.contextmanager
def _in_memory(layer):
    """Lends names to the functions in a layer; yields what all names mean.

    While it is serialized, stand-ins with these names are in their places.
    They call the functions, in case that another thread does.
    """
    objects = objects_of(layer)
    swapped = []

    def stand_in(function):
        def call(*args, **kwargs):
            return function(*args, **kwargs)

        call.__name__ = f"in_memory_{len(objects)}"
        objects[call.__name__] = function
        return call

    def swap(owner, name, value):
        swapped.append((owner, name, vars(owner).get(name)))
        vars(owner)[name] = value

    try:
        for owner in _owners(layer):
            for name, value in _attributes(owner):
                new = _replaced(value, stand_in)
                if new is not value:
                    swap(owner, name, new)
            if isinstance(owner, keras.Model):
                swap(owner, "get_compile_config", lambda: None)
        yield objects
    finally:
        for owner, name, value in reversed(swapped):
            if value is None:
                del vars(owner)[name]
            else:
                vars(owner)[name] = value


def _owners(layer):
    """Whatever may hold functions: layers, and calls in a graph."""
    for each in selection.walk_layers(layer):
        yield each
        for operation in getattr(each, "operations", ()):
            for node in operation._inbound_nodes:
                yield node.arguments


def _attributes(owner):
    return list(vars(owner).items())


def _leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _replaced(value, stand_in):
    """The value with stand-ins for functions; itself, if there are none."""
    if isinstance(value, dict):
        new = {key: _replaced(each, stand_in) for key, each in value.items()}
        same = all(new[key] is each for key, each in value.items())
        return value if same else new
    if isinstance(value, (list, tuple)):
        new = [_replaced(each, stand_in) for each in value]
        same = all(a is b for a, b in zip(new, value))
        return value if same else (tuple if type(value) is tuple else list)(new)
    return stand_in(value) if _is_function(value) else value


def _is_function(value):
    # Objects with a configuration are made from it, and PyTorch's modules
    # have files of their own.
    return callable(value) and not (
        isinstance(value, type)
        or hasattr(value, "get_config")
        or hasattr(value, "state_dict")
    )


def _is_kerass(kind):
    name = keras.saving.get_registered_name(kind)
    registered = keras.saving.get_registered_object(name) is kind
    return registered or host.is_of_keras(kind)
