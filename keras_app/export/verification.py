"""A model's outputs, and the comparison with those of its export."""

import keras
import numpy as np
from keras import ops
from keras import tree

from keras_app import selection

# Of the largest output: a shorter or reordered sum rounds differently.
_TOLERANCE = 1e-5
_HALF_TOLERANCE = 1e-2


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


def check_difference(what, difference, tolerance, compared_with="the model"):
    """Raises if outputs differ by more than they may.

    Args:
        what: The kind of file.
        difference: As of `largest_difference`.
        tolerance: The largest one that is let pass.
        compared_with: What the file is compared with.
    """
    # Written so that NaN fails.
    if not difference <= tolerance:
        raise ValueError(
            f"The {what} must give the outputs of {compared_with} to "
            f"{tolerance:g} of the largest. Received: a difference of "
            f"{difference:g} (infinite stands for NaN). Nothing was written."
        )


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
