"""ONNX files, dense and verified."""

import importlib.util
import itertools
import re
import sys

import keras
import numpy as np
from keras import ops

from keras_app import files
from keras_app import graph
from keras_app import host
from keras_app.cli import one_line
from keras_app.export import fresh_process
from keras_app.export import original
from keras_app.export import portable
from keras_app.export import saved_model
from keras_app.export import signature
from keras_app.export import strip
from keras_app.export import verification
from keras_app.export.export_report import ExportReport
from keras_app.export.export_report import write_report
from keras_app.hints import FilePath
from keras_app.hints import Inputs

# What Keras converts with, and the extra that brings it.
_CONVERTERS = {
    "tensorflow": ("tf2onnx", "onnx"),
    "jax": ("jax2onnx", "onnx-jax"),
    "torch": ("onnx", "onnx"),
}
# How ONNX Runtime says which node it does not have.
_NODE = re.compile(r'In Node, \("([^"]*)", (\w+),')
# ONNX's names of types that NumPy calls otherwise.
_TYPES = {"float": "float32", "double": "float64", "string": "object"}


def export_onnx(
    model: keras.Model, path: FilePath, data: Inputs | None = None
) -> ExportReport:
    """Writes an ONNX file with Keras's exporter, and compares it.

    ONNX has no sparse weights that runtimes compute with: cut dead channels
    out first, by `shrink`, which is faster everywhere. Needs the extra
    `onnx`, on the JAX backend `onnx-jax`.

    Layers in half or double precision compute in float32 in the file, and
    layers that augment data pass them on. The exporter and ONNX Runtime work in
    a process of their own, which may crash: that is a `ValueError`. Only a
    model of JAX or PyTorch with classes of a script or notebook is traced in
    this one.

    Args:
        model: A built `keras.Model`. Masked weights are zero afterwards.
        path: File to write. Its folder must exist.
        data: Sample inputs in the structure that the model takes, of which the
            first 4 serve to compare. Defaults to random inputs.

    Returns:
        An `ExportReport`, also written to `<path>.report.json`.

    Raises:
        ValueError: The exporter or ONNX Runtime refuses the model, or crashes;
            states go from call to call; outputs differ from the model's by
            more than 1e-5 of the largest one.
        ImportError: The extra `onnx` (on JAX `onnx-jax`) is not installed.

    Example:

    ```python
    report = export_onnx(shrink(model), "model.onnx", data=x_test)
    ```
    """
    _check_installed()
    path = files.path(path)
    files.check_target(path)
    strip.make_ready(model)
    samples = signature.inputs_for(model, data)
    expected = verification.outputs_of(model, samples, "an ONNX file")
    arrays = signature.in_order(model, samples)
    tolerance = verification.tolerance_for(model)
    with (
        files.replacing(path) as temporary,
        fresh_process.refusing_crashes(model),
    ):
        difference = _made(model, temporary, arrays, expected)
        verification.check_difference("ONNX file", difference, tolerance)
    return write_report(
        path,
        **original.described(model),
        format="onnx",
        precision=portable.float32(str(model.variable_dtype)),
        max_difference=difference,
        notes=(
            "zeros are stored and computed like any other number",
            *portable.changes(model),
        ),
    )


def _made(model, path, arrays, expected):
    """Writes the file, and returns how far its outputs are from `expected`."""
    backend = host.BACKEND
    module = "keras_app.export.onnx_file"
    compared = {"path": path, "samples": arrays, "expected": expected}
    if backend == "tensorflow":
        shapes, dtypes = signature.specs(model, arrays)
        return saved_model.convert(
            f"{module}:of_saved_model",
            model,
            shapes,
            list(map(portable.float32, dtypes)),
            inputs=signature.names(model),
            **compared,
        )
    try:
        return fresh_process.run(
            f"{module}:of_model", model, backend, **compared
        )
    except fresh_process.UnknownModel:
        # Classes of a script or notebook are known to this process alone. Here
        # the exporters are Python programs; what they write is run elsewhere.
        write(model, path, arrays)
    return fresh_process.run(f"{module}:compare", backend=backend, **compared)


def of_saved_model(folder, outputs, inputs, path, samples, expected):
    """Converts a SavedModel, and compares what came.

    Args:
        folder: The SavedModel.
        outputs, inputs: Their names, in the model's order.
        path: File to write.
        samples, expected: Inputs, and what the model gives for them, flat.
    """
    import onnx
    from tf2onnx import convert

    host.patch_tf2onnx()
    # Of its functions none takes tables and keeps constants out of the inputs.
    options = {
        "--saved-model": folder,
        "--tag": "serve",
        "--signature_def": "serving_default",
        "--output": path,
    }
    sys.argv = ["tf2onnx.convert", *itertools.chain(*options.items())]
    try:
        convert.main()
        file = onnx.load(path)
    except Exception as error:
        raise ValueError(_refusal(error)) from error
    file.graph.name = "model"
    for parts, names in (
        (file.graph.input, inputs),
        (file.graph.output, outputs),
    ):
        ordered = sorted(parts, key=lambda part: names.index(part.name))
        del parts[:]
        parts.extend(ordered)
    onnx.save(file, path)
    return compare(path, samples, expected)


def of_model(model, path, samples, expected):
    """Converts a model of this backend, and compares what came."""
    write(model, path, samples)
    return compare(path, samples, expected)


def write(model, path, samples):
    """Writes what Keras's exporter makes of a model on JAX or PyTorch."""
    tensors = signature.packed(model, map(ops.convert_to_tensor, samples))
    if graph.is_graph(model):
        # On PyTorch layers that augment data would go on doing so.
        symbols = signature.symbolic(model)
        model = keras.Model(symbols, model(symbols, training=False))
    try:
        with portable.portable(model):
            model(tensors, training=False)  # Keras asks for it
            model.export(str(path), format="onnx", verbose=False)
    except Exception as error:
        raise ValueError(_refusal(error)) from error


def compare(path, samples, expected):
    """Returns the largest difference of a file's outputs to `expected`."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path))
        taken = session.get_inputs()
        names = [each.name for each in taken]
        if len(names) == len(samples):
            arrays = map(_as_declared, samples, taken)
            received = session.run(None, dict(zip(names, arrays)))
    except Exception as error:
        text = one_line(error)
        fault = _NODE.search(text)
        what = f"{fault[2]} at {fault[1]}" if fault else text[:300]
        raise ValueError(
            f"ONNX Runtime does not take the file: {what}. Express it by "
            "other operations, or leave it to the code around the file. "
            "Nothing was written."
        ) from error
    if len(names) != len(samples):
        raise ValueError(
            "The file must take the inputs of the model. Received: "
            f"{len(names)} inputs ({', '.join(names)}) for {len(samples)}. A "
            "layer keeps constants outside of its weights, or computes with "
            "another library: change it, or leave it to the code around the "
            "file. Nothing was written."
        )
    return verification.largest_difference(
        expected, [np.asarray(each, "float32") for each in received]
    )


def _as_declared(sample, declared):
    """A sample in the type of an input, such as `"tensor(float)"`."""
    name = declared.type.removeprefix("tensor(").removesuffix(")")
    return sample.astype(_TYPES.get(name, name))


def _refusal(error):
    # Keras prints in bold.
    text = re.sub(r"\x1b\[\d*m", "", one_line(error))[:300].rstrip(". ")
    return (
        "Keras's exporter to ONNX does not take the model on the "
        f"{host.BACKEND} backend: {text}. Express it by other "
        "operations, or leave it to the code around the file. Nothing was "
        "written."
    )


def _check_installed():
    module, extra = _CONVERTERS[host.BACKEND]
    for name in ("onnxruntime", module):
        if importlib.util.find_spec(name) is None:
            raise ImportError(
                f"ONNX files need {name} on the {host.BACKEND} "
                f"backend: pip install 'keras_app[{extra}]'"
            )
