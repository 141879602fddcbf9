"""Inputs to compare a model with its export on, and the comparison."""

import keras
import numpy as np
from keras import ops
from keras import tree

from keras_app import selection

# Of the largest output: a shorter or reordered sum rounds differently.
_TOLERANCE = 1e-5
_HALF_TOLERANCE = 1e-2
_SAMPLES = 4
_UNKNOWN_SIZE = 32
_WORDS = ("a", "b", "c")


def inputs_for(model, data=None, count=_SAMPLES):
    """Returns what `model` takes, as NumPy arrays.

    Args:
        model: A built `keras.Model`.
        data: Sample inputs in the model's structure; the first `count` are
            used. Defaults to random ones.
        count: Number of samples, unless the model fixes its batch size.
    """
    shapes, dtypes = _inputs_of(model)
    size = batch_size(model) or count
    if data is not None:
        return tree.map_structure(lambda x: _checked(x)[:size], data)
    if not shapes:
        raise ValueError(
            f"`data` must be given: the inputs of {model.name} are not known, "
            "as it is no functional model. Received: data=None"
        )
    draw = _draws(model)
    samples = [
        draw([size, *(length or _UNKNOWN_SIZE for length in shape[1:])], dtype)
        for shape, dtype in zip(shapes, dtypes)
    ]
    structure = _structure(model)
    if isinstance(structure, (dict, list, tuple)):
        return tree.pack_sequence_as(structure, samples)
    return samples[0]


def _checked(data):
    array = np.asarray(data)
    if array.dtype.kind == "f":
        fine = np.isfinite(array).all()
    else:
        fine = array.dtype.kind in "biuSU" or all(
            isinstance(each, (str, bytes)) for each in array.flat
        )
    if not (array.ndim and array.size and fine):
        raise ValueError(
            "`data` must hold numbers, without NaN or infinities, or strings, "
            "in arrays whose first axis is the samples. Received: "
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


def outputs_of(model, samples, stateless=None):
    """Returns the outputs of a model at inference, flat, as NumPy arrays.

    The model is left as it was: states that the call changed are put back.

    Args:
        model: A built `keras.Model`.
        samples: What it takes.
        stateless: What kind of file has no states, if the model must not
            change any. Defaults to `None`: it may.
    """
    variables = [*model.non_trainable_weights, *states_of(model)]
    before = [ops.convert_to_numpy(each).copy() for each in variables]
    tensors = tree.map_structure(ops.convert_to_tensor, samples)
    outputs = tree.flatten(model(tensors, training=False))
    changed = []
    for variable, value in zip(variables, before):
        if not np.array_equal(ops.convert_to_numpy(variable), value):
            changed.append(variable.path)
            variable.assign(value)
    if changed and stateless:
        raise ValueError(
            f"The model must not change its states: {', '.join(changed)} go "
            f"from call to call, and {stateless} has no states. Set "
            "stateful=False, or export a SavedModel, which has."
        )
    return [comparable(output) for output in outputs]


def states_of(model):
    """Returns the states of recurrent layers, which are no weights."""
    return [
        state
        for layer in selection.walk_layers(model)
        for state in tree.flatten(getattr(layer, "states", None) or [])
        if isinstance(state, keras.Variable)
    ]


def comparable(tensor):
    """Returns a tensor as an array of float32, or of strings."""
    if keras.backend.standardize_dtype(tensor.dtype) == "string":
        return np.asarray(tensor)
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def largest_difference(expected, received):
    """Returns the largest difference of flat outputs, relative to each's scale.

    Args:
        expected, received: Lists of arrays. NaN in either counts as an
            infinite difference.
    """
    worst = 0.0
    for old, new in zip(expected, received, strict=True):
        if old.dtype.kind != "f":  # strings
            if np.array_equal(old, new):
                continue
            return float("inf")
        finite = np.isfinite(old).all() and np.isfinite(new).all()
        if old.shape != new.shape or not finite:
            return float("inf")
        scale = max(np.abs(old).max(initial=0.0), np.finfo("float32").tiny)
        worst = max(worst, float(np.abs(new - old).max(initial=0.0) / scale))
    return worst


def tolerance_for(model):
    """Returns the largest difference that rounding alone may make.

    1e-5 of the largest output; 1e-2 where layers compute in half precision,
    or on an accelerator, which may multiply with as few bits.
    """
    half = any(
        layer.compute_dtype in ("float16", "bfloat16")
        for layer in selection.walk_layers(model)
    )
    devices = {str(weight.value.device).lower() for weight in model.weights}
    on_cpu = all("cpu" in device for device in devices)
    return _HALF_TOLERANCE if half or not on_cpu else _TOLERANCE


def batch_size(model):
    """Returns the batch size that a model fixes, or `None`."""
    shapes, _ = _inputs_of(model)
    return shapes[0][0] if shapes else None


def _structure(model):
    # A Sequential model and a subclassed one have no structure of inputs.
    return getattr(model, "_inputs_struct", None)


def _inputs_of(model):
    """Shapes and dtypes of the inputs, flat; empty where they are unknown."""
    if getattr(model, "inputs", None):
        return [x.shape for x in model.inputs], [x.dtype for x in model.inputs]
    shape = (model.get_build_config() or {}).get("input_shape")
    if shape and all(x is None or isinstance(x, int) for x in shape):
        return [tuple(shape)], [model.input_dtype]
    return [], []
