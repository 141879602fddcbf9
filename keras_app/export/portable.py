"""Models as converters take them: in float32, and with loops unrolled.

Private Keras names in use: `_dtype_policy`.
"""

import contextlib

import keras

from keras_app import selection

_OTHER_FLOATS = ("float16", "bfloat16", "float64")


class _InFloat32(keras.DTypePolicy):
    """Computes in float32, whatever the weights are stored in."""

    def __init__(self, stored):
        super().__init__("float32")
        self._stored = stored

    @property
    def variable_dtype(self):
        """What the weights are stored in."""
        return self._stored


@contextlib.contextmanager
def portable(model, unroll=False):
    """Makes a model compute in float32 while it is traced, for inference only.

    Weights stay as they are; half precision is exact in float32.

    Args:
        model: A built `keras.Model`.
        unroll: Whether recurrent layers are unrolled, too.
    """
    changed = {}
    for layer in _in_other_floats(model):
        policy = _InFloat32(layer.variable_dtype)
        changed[layer, "_dtype_policy"] = policy
    for layer in _loops(model) if unroll else ():
        changed[layer, "unroll"] = True
    for layer in selection.walk_layers(model):
        # Recurrent cells draw their masks at inference, too, and drop them.
        if "recurrent_dropout" in vars(layer):
            changed[layer, "dropout"] = changed[layer, "recurrent_dropout"] = (
                0.0
            )
    before = {(layer, name): getattr(layer, name) for layer, name in changed}
    try:
        _set(changed)
        yield
    finally:
        _set(before)


def _set(values):
    for (layer, name), value in values.items():
        setattr(layer, name, value)


def changes(model, unroll=False):
    """Returns sentences on what `portable` changes."""
    notes = []
    policies = {
        layer.dtype_policy.name: layer for layer in _in_other_floats(model)
    }
    if policies:
        notes.append(
            f"layers compute in {', '.join(sorted(policies))} in the model, "
            "and in float32 in the file"
        )
    if unroll and (loops := _loops(model)):
        names = ", ".join(layer.name for layer in loops)
        notes.append(
            f"{names}: unrolled, step after step, which takes bytes, because "
            "the converter crashes on loops in int8"
        )
    return notes


def float32(dtype):
    """Returns a dtype as `portable` has it."""
    return "float32" if dtype in _OTHER_FLOATS else dtype


def _in_other_floats(model):
    return [
        layer
        for layer in selection.walk_layers(model)
        if layer.compute_dtype in _OTHER_FLOATS
        and layer.dtype_policy.quantization_mode is None
    ]


def _loops(model):
    return [
        layer
        for layer in selection.walk_layers(model)
        if isinstance(layer, keras.layers.RNN) and not layer.unroll
    ]
