"""ONNX files, dense and verified."""

import contextlib
import importlib.util
import pathlib

import keras
import numpy as np

from keras_app import files
from keras_app import lora
from keras_app import selection
from keras_app.cli import one_line
from keras_app.export import saved_model
from keras_app.export import strip
from keras_app.export import verification
from keras_app.report.exports import compressed_size
from keras_app.report.exports import ExportReport

# What Keras converts with, and the extra that brings it.
_CONVERTERS = {
    "tensorflow": ("tf2onnx", "onnx"),
    "jax": ("jax2onnx", "onnx-jax"),
    "torch": ("onnx", "onnx"),
}


def export_onnx(model, path, data=None):
    """Writes an ONNX file with Keras's exporter, and compares it.

    ONNX has no sparse weights that runtimes compute with: cut dead channels
    out first, by `shrink`, which is faster everywhere. Needs the extra
    `onnx`, on the JAX backend `onnx-jax`.

    Args:
        model: A built `keras.Model`. Masked weights are zero afterwards.
        path: File to write. Its folder must exist.
        data: Sample inputs in the structure that the model takes, of which the
            first 4 serve to compare. Defaults to random inputs.

    Returns:
        An `ExportReport`, also written to `<path>.report.json`.

    Raises:
        ValueError: The exporter refuses the model, or ONNX Runtime's outputs
            differ from the model's by more than 1e-5 of the largest one.
        ImportError: The extra `onnx` (on JAX `onnx-jax`) is not installed.

    Example:

    ```python
    report = export_onnx(shrink(model), "model.onnx", data=x_test)
    ```
    """
    _check_installed()
    import onnxruntime

    path = pathlib.Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(
            "`path` must name a file in a folder that exists. "
            f"Received: path={path}"
        )
    lora.refuse_filled_zeros(model)
    strip.zero_pruned(model)
    samples = verification.inputs_for(model, data)
    expected = verification.outputs_of(model, samples)
    with files.replacing(path) as temporary:
        try:
            with _constants_as_arrays(model):
                model.export(str(temporary), format="onnx", verbose=False)
        except Exception as error:
            raise ValueError(
                f"Keras's exporter does not take {model.name} on the "
                f"{keras.backend.backend()} backend: {one_line(error)[:500]}"
            ) from error
        session = onnxruntime.InferenceSession(str(temporary))
        arrays = saved_model.in_order(model, samples)
        names = [each.name for each in session.get_inputs()]
        if len(names) != len(arrays):
            raise ValueError(
                "Keras's exporter made inputs of the constants "
                f"{', '.join(names[len(arrays) :])}. Keep them in weights. "
                "Nothing was written."
            )
        received = session.run(None, dict(zip(names, arrays, strict=True)))
        difference = verification.largest_difference(
            expected, [np.asarray(each, "float32") for each in received]
        )
        tolerance = verification.tolerance_for(model)
        if difference > tolerance:
            raise ValueError(
                "The ONNX file must give the outputs of the model to "
                f"{tolerance:g} of the largest. Received: a "
                f"difference of {difference:g} (infinite stands for NaN). "
                "Nothing was written."
            )
    content = path.read_bytes()
    return ExportReport(
        path=str(path),
        format="onnx",
        precision=str(model.variable_dtype),
        bytes=len(content),
        compressed_bytes=compressed_size(content),
        max_difference=difference,
        notes=("zeros are stored and computed like any other number",),
    ).write()


def _check_installed():
    module, extra = _CONVERTERS[keras.backend.backend()]
    for name in ("onnxruntime", module):
        if importlib.util.find_spec(name) is None:
            raise ImportError(
                f"ONNX files need {name} on the {keras.backend.backend()} "
                f"backend: pip install 'keras_app[{extra}]'"
            )


@contextlib.contextmanager
def _constants_as_arrays(model):
    """Holds the constants of normalization layers as NumPy arrays.

    tf2onnx makes an input of the graph of every constant tensor that a layer
    keeps outside its variables.
    """
    kept = [
        (layer, layer.mean, layer.variance)
        for layer in selection.walk_layers(model)
        if isinstance(layer, keras.layers.Normalization)
    ]
    for layer, mean, variance in kept:
        layer.mean = keras.ops.convert_to_numpy(mean)
        layer.variance = keras.ops.convert_to_numpy(variance)
    try:
        yield
    finally:
        for layer, mean, variance in kept:
            layer.mean, layer.variance = mean, variance
