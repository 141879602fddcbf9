"""What a model takes: names, shapes, types and samples of its inputs.

Private Keras names in use: `_keras_history`.
"""

import keras
import numpy as np
from keras import tree

from keras_app import selection

_SAMPLES = 4
_UNKNOWN_SIZE = 32
_WORDS = ("a", "b", "c")


def _is_graph(model):
    """Whether a model has symbolic inputs; a subclassed one has none."""
    return bool(getattr(model, "inputs", None))


def symbolic(model):
    """The inputs of a graph, as the model was made with them."""
    # A Sequential model has none of its own until it is called.
    sequential = isinstance(model, keras.Sequential)
    return model.inputs[0] if sequential else model.input


def names(model):
    """Returns the names of the inputs in the signature, in the model's order.

    Args:
        model: A built `keras.Model`.
    """
    return tree.flatten(_named(model))


def packed(model, arrays):
    """Arrays in the order of `names`, in the structure of the model."""
    return tree.pack_sequence_as(_named(model), list(arrays))


def in_order(model, samples):
    """Samples, flat, in the order of `names`."""
    if isinstance(samples, dict) and not isinstance(_named(model), dict):
        # Keras takes the inputs of a graph by name too.
        return [samples[tensor.name] for tensor in model.inputs]
    return tree.flatten(samples)


def declared_dtypes(model, count):
    """The types that a model declares for its `count` inputs."""
    if _is_graph(model):
        return [tensor.dtype for tensor in model.inputs]
    return [model.input_dtype] * count


def specs(model, arrays):
    """Shapes and types of the inputs, in the order of `names`."""
    dtypes = declared_dtypes(model, len(arrays))
    if _is_graph(model):
        return [list(tensor.shape) for tensor in model.inputs], dtypes
    shapes = [[None, *array.shape[1:]] for array in arrays]
    return shapes, list(map(_dtype, arrays, dtypes))


def _dtype(array, declared):
    # Token numbers must not become floats.
    if array.dtype.kind in "iub":
        return array.dtype.name
    return declared if array.dtype.kind == "f" else "string"


def batch_size(model):
    """Returns the batch size that a model fixes, or `None`."""
    shapes = _known_shapes(model)
    return shapes[0][0] if shapes else None


def _known_shapes(model):
    """Shapes of the inputs, flat; empty where they are unknown."""
    if _is_graph(model):
        return [tensor.shape for tensor in model.inputs]
    shape = _built_with(model)
    return [tuple(shape)] if shape and _is_shape(shape) else []


def _built_with(model):
    """The shapes that a subclassed model was built with, or `None`."""
    return (model.get_build_config() or {}).get("input_shape")


def _is_shape(value):
    return all(length is None or isinstance(length, int) for length in value)


def _named(model):
    """What the model takes, with a name in the place of each array."""
    if _is_graph(model):
        # The tensor's own name counts all tensors of the process.
        spelled = [
            _spelled(tensor._keras_history.operation.name)
            for tensor in model.inputs
        ]
        return tree.pack_sequence_as(symbolic(model), spelled)
    shapes = _built_with(model)
    if shapes is None:
        raise ValueError(
            "`model` must take one argument, an array or a list or dict of "
            f"them. Received: model={model.name}, which was called on several"
        )
    return _numbered(shapes, "inputs")


def _numbered(shapes, name):
    if isinstance(shapes, dict):
        return {key: _numbered(shape, key) for key, shape in shapes.items()}
    if _is_shape(shapes):
        return _spelled(name)
    return [_numbered(shape, f"{name}_{i}") for i, shape in enumerate(shapes)]


def _spelled(name):
    """A name as TensorFlow spells it in signatures."""
    name = "".join(letter if letter.isalnum() else "_" for letter in name)
    return name if name[0].isalpha() else f"arg_{name}"


# ---- samples ---------------------------------------------------------------


def inputs_for(model, data=None, count=_SAMPLES, one_batch=True):
    """Returns what `model` takes, as NumPy arrays.

    Args:
        model: A built `keras.Model`.
        data: Sample inputs in the model's structure; the first `count` are
            used. Defaults to random ones.
        count: Number of samples. A model that fixes its batch size gets whole
            batches, filled up with the last sample.
        one_batch: Whether that is one batch then, and not as many as hold
            `count` samples. Defaults to `True`.
    """
    size = batch_size(model)
    if data is not None:

        def taken(x):
            x = _checked(x)
            if size is None:
                return x[:count]
            x = x[: size if one_batch else max(size, count)]
            wanted = -(-len(x) // size) * size
            return x[np.minimum(np.arange(wanted), len(x) - 1)]

        return tree.map_structure(taken, data)
    size = size or count
    shapes = _known_shapes(model)
    if not shapes:
        raise ValueError(
            f"`data` must be given: the inputs of {model.name} are not known, "
            "as it is no functional model. Received: data=None"
        )
    draw = _draws(model)
    samples = [
        draw([size, *(length or _UNKNOWN_SIZE for length in shape[1:])], dtype)
        for shape, dtype in zip(shapes, declared_dtypes(model, len(shapes)))
    ]
    return packed(model, samples)


def checked(data, name="data"):
    """Returns all samples of a structure as arrays; raises for bad ones."""
    return tree.map_structure(lambda x: _checked(x, name), data)


def _checked(data, name="data"):
    array = np.asarray(data)
    if array.dtype.kind == "f":
        fine = np.isfinite(array).all()
    else:
        fine = array.dtype.kind in "biuSU" or all(
            isinstance(each, (str, bytes)) for each in array.flat
        )
    if not (array.ndim and array.size and fine):
        raise ValueError(
            f"`{name}` must hold numbers, without NaN or infinities, or "
            "strings, in arrays whose first axis is the samples. Received: "
            f"{array.dtype} of shape {array.shape}"
        )
    return array


def _draws(model):
    """A function that draws random numbers, or words that a model knows."""
    limits, known = [], []
    for layer in selection.walk_layers(model):
        if isinstance(layer, keras.layers.Embedding):
            limits.append(layer.input_dim)
        elif hasattr(layer, "get_vocabulary"):
            known += layer.get_vocabulary()
    words = [each for each in known if isinstance(each, str)]
    numbers = [each for each in known if not isinstance(each, str)]
    generator = np.random.default_rng(0)

    def draw(shape, dtype):
        if dtype == "string":
            return generator.choice(words or _WORDS, shape)
        if "int" in dtype and numbers:
            sample = generator.choice(numbers, shape)
        elif "int" in dtype or limits:
            sample = generator.integers(0, min(limits, default=2), shape)
        else:
            sample = generator.standard_normal(shape)
        return sample.astype(dtype)

    return draw
