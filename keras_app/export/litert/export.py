"""LiteRT (TFLite) files that are smaller, checked, and described."""

import importlib.util
import pathlib
import tempfile

import keras
import numpy as np
from keras import ops

from keras_app import files
from keras_app import graph
from keras_app import host
from keras_app import lora
from keras_app import selection
from keras_app.checks import check_choice
from keras_app.export import fresh_process
from keras_app.export import portable
from keras_app.export import saved_model
from keras_app.export import strip
from keras_app.export import verification
from keras_app.export.export_report import ExportReport

# Largest difference to what the file is compared with, of the largest output,
# beyond the model's own rounding. Halves keep eleven bits; int8, compared with
# dense int8, may round activations by a step or two; dynamic rounds them all.
_TOLERANCES = {"float32": 0.0, "float16": 5e-3, "int8": 0.05, "dynamic": 0.2}

_SAMPLES = 4
_CALIBRATION = 200


def export_litert(model, path, data=None, quantize=None, sparse="auto"):
    """Writes a LiteRT (TFLite) file, verified, and says what it is worth.

    The converter's file is read back. Weights that it stored in a way that the
    runtime computes wrongly, or refuses, are stored otherwise; then the file is
    run by the default interpreter and compared with the model, or, for int8,
    with the dense int8 export. What does not pass is an error and leaves no
    file.

    What sparsity brings depends on its pattern. `Dense` kernels whose zeros
    come in blocks of 4 inputs (`masks.Block((4, 1))`; for int8 `(16, 1)`) are
    computed without them on every processor; in int8 that is slower than
    computing all of them, unless the weights are far larger than the caches:
    the report says which. All other zeros make the file smaller and are put
    back when it is loaded; on ARM and in browsers 1x1 convolutions can skip
    them, on conditions that the report names. Channels that are zero are
    best cut out before, by `shrink`.

    The file computes one sample at a time, and layers in half or double
    precision in float32. Recurrent layers are unrolled for int8. The report
    says what was changed for the file; the model stays as it is.

    The converter and the runtime work in a process of their own, which may
    crash: that is a `ValueError`. From the JAX and PyTorch backends the model
    is loaded there under TensorFlow; classes and functions must then be those
    of modules that can be imported.

    Args:
        model: A built `keras.Model`. Masked weights are zero afterwards.
        path: File to write; the suffix is free, `.tflite` is usual. Its folder
            must exist.
        data: Sample inputs in the structure that the model takes, first axis
            the samples. The first 4 serve to compare, the first 200 to
            calibrate int8, which needs real ones. Defaults to random inputs.
        quantize: `None` keeps float32, `"float16"` stores halves, `"int8"`
            stores and computes in eight bits, `"dynamic"` stores eight bits
            and computes in floats.
        sparse: `True` stores weights sparse where the runtime can read them,
            and raises if it can read none; `False` stores all dense; `"auto"`
            stores sparse what gets smaller by it. Defaults to `"auto"`.

    Returns:
        An `ExportReport`, also written to `<path>.report.json`; latencies are
        those of this machine.

    Raises:
        ValueError: What cannot be exported correctly: `quantize="dynamic"`
            with `sparse=True`, int8 without data, an operation that LiteRT
            does not have, inputs of strings, states that go from call to call,
            a crash, a file that differs from the model; classes of a script or
            notebook on the JAX and PyTorch backends.
        ImportError: LiteRT's runtime or TensorFlow is not installed.

    Example:

    ```python
    report = export_litert(model, "model.tflite", data=x_test[:200])
    print(report)
    ```
    """
    path = pathlib.Path(path)
    _check(model, path, data, quantize, sparse)
    lora.refuse_filled_zeros(model)
    strip.zero_pruned(model)
    count = _CALIBRATION if quantize == "int8" else _SAMPLES
    samples = _samples(model, data, count)
    batch_size = verification.batch_size(model) or 1
    unroll = quantize == "int8"
    tolerance = max(
        _TOLERANCES[quantize or "float32"], verification.tolerance_for(model)
    )
    with files.replacing(path) as temporary:
        found = _made(
            model,
            unroll,
            path=temporary,
            samples=samples,
            batch_size=batch_size,
            quantize=quantize,
            sparse=sparse,
            layers=_names(model),
            nonzeros=_nonzeros(model),
            expected=_expected(model, samples, batch_size),
            tolerance=tolerance,
        )
    notes = _notes(model, quantize, sparse, unroll) + found.pop("notes")
    described = {**found, "path": str(path), "format": "litert"}
    described["precision"] = quantize or "float32"
    described["notes"] = notes
    return ExportReport.from_dict(described).write()


def _made(model, unroll, samples, batch_size, quantize, **arguments):
    """What `litert_process.make` says, of a model of any backend."""
    shapes = [[batch_size, *x.shape[1:]] for x in samples.values()]
    dtypes = [x.dtype.name for x in samples.values()]
    arguments.update(samples=samples, batch_size=batch_size, quantize=quantize)
    module = "keras_app.export.litert.process"
    try:
        if host.BACKEND != "tensorflow":
            arguments.update(unroll=unroll, shapes=shapes, dtypes=dtypes)
            return fresh_process.run(
                f"{module}:make_of_model", model, **arguments
            )
        # Its classes may be known to this process alone.
        with tempfile.TemporaryDirectory() as folder:
            with portable.portable(model, unroll):
                outputs = saved_model.write(model, folder, shapes, dtypes)
            arguments.update(folder=folder, outputs=outputs)
            return fresh_process.run(f"{module}:make", **arguments)
    except fresh_process.Crash as error:
        kinds = {
            type(layer).__name__
            for layer in selection.walk_layers(model)
            if not isinstance(layer, (keras.Model, keras.layers.InputLayer))
        }
        raise ValueError(
            f"The process that converts and runs {model.name} crashed: "
            f"{error}. TensorFlow's converter or the LiteRT runtime does not "
            f"take quantize={quantize!r} with {', '.join(sorted(kinds))}. "
            "Choose another `quantize`, or replace the layer at fault. "
            "Nothing was written."
        ) from error


def _check(model, path, data, quantize, sparse):
    check_choice("quantize", quantize, (None, "float16", "dynamic", "int8"))
    if not (isinstance(sparse, bool) or sparse == "auto"):
        raise ValueError(
            "`sparse` must be 'auto', True or False. "
            f"Received: sparse={sparse!r}"
        )
    if quantize == "dynamic" and sparse is True:
        raise ValueError(
            "`quantize='dynamic'` must not be combined with sparse=True: the "
            "runtime computes wrong numbers from such weights. Use 'int8', "
            "which can store them sparse, or sparse='auto', which stores them "
            "dense. Received: quantize='dynamic', sparse=True"
        )
    if quantize == "int8" and data is None:
        raise ValueError(
            "`data` must hold sample inputs with quantize='int8': the ranges "
            "are measured on them. Received: data=None"
        )
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(
            "`path` must name a file in a folder that exists. "
            f"Received: path={path}"
        )
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise ImportError(
            "LiteRT files need the runtime: `pip install ai-edge-litert`, on a "
            "platform that has it."
        )
    _check_lengths(model, data)


def _check_lengths(model, data):
    free = [
        x.name
        for x in getattr(model, "inputs", None) or ()
        if None in x.shape[1:]
    ]
    if free and data is None:
        raise ValueError(
            "`data` must be given for inputs of free length, which the file "
            f"fixes to that of the samples. Received: data=None, {free} free"
        )


def _samples(model, data, count):
    """`{input: array}` in the order of their names, as the file takes them."""
    inputs = verification.inputs_for(model, data, count)
    arrays = saved_model.in_order(model, inputs)
    _, dtypes = saved_model.specs(model, arrays)
    if "string" in dtypes:
        raise ValueError(
            "The model must take numbers to become a LiteRT file, and takes "
            "strings. Cut it after its look-up layers, and look up before."
        )
    words = [array.dtype for array in arrays if array.dtype.kind not in "biuf"]
    if words:
        raise ValueError(
            "`data` must hold the numbers that the model takes, after all that "
            "prepares them, such as the `preprocessor` of a KerasHub task. "
            f"Received: {words[0]}"
        )
    names = saved_model.input_names(model)
    return {
        name: array.astype(portable.float32(dtype))
        for name, array, dtype in zip(names, arrays, dtypes, strict=True)
    }


def _notes(model, quantize, sparse, unroll):
    notes = portable.changes(model, unroll)
    if quantize == "dynamic" and sparse:
        notes.append(
            "weights are stored dense: the runtime computes wrong numbers from "
            "sparse ones in dynamic-range files; int8 can store them sparse"
        )
    dead = graph.count_dead(model) if graph.is_graph(model) else 0
    if dead:
        notes.append(
            f"{dead} channels are dead: cut them out before, with "
            "`shrink(model)`, which is smaller and faster than zeros"
        )
    return notes


def _expected(model, samples, batch_size):
    """What the model gives, flat; of each output, all batches in one array.

    A difference is judged by the largest output of all samples.
    """
    count = min(_SAMPLES, len(next(iter(samples.values()))))
    batches = [
        verification.outputs_of(
            model,
            saved_model.packed(
                model, [x[i : i + batch_size] for x in samples.values()]
            ),
            stateless="a LiteRT file",
        )
        for i in range(0, count, batch_size)
    ]
    return [np.stack(each) for each in zip(*batches)]


def _names(model):
    """Names of all layers, and of operations of Keras between them."""
    return [
        each.name
        for layer in selection.walk_layers(model)
        for each in (layer, *getattr(layer, "operations", ()))
    ]


def _nonzeros(model):
    """`[(size, non-zeros)]` of the weights of at least two axes."""
    values = [ops.convert_to_numpy(each) for each in model.variables]
    return [(x.size, np.count_nonzero(x)) for x in values if x.ndim >= 2]
