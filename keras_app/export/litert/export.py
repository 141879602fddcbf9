"""LiteRT (TFLite) files that are smaller, checked, and described."""

import importlib.util
import pathlib

import keras
import numpy as np
from keras import ops

from keras_app import files
from keras_app import graph
from keras_app import selection
from keras_app.checks import check_choice
from keras_app.export import fresh_process
from keras_app.export import portable
from keras_app.export import saved_model
from keras_app.export import signature
from keras_app.export import strip
from keras_app.export import verification
from keras_app.export.export_report import write_report
from keras_app.export.litert.request import batches
from keras_app.export.litert.request import Request

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
    strip.make_ready(model)
    unroll = quantize == "int8"
    request = _request(model, data, quantize, sparse)
    fixed = {
        "shapes": [
            [request.batch_size, *x.shape[1:]] for x in request.samples.values()
        ],
        "dtypes": [x.dtype.name for x in request.samples.values()],
        "unroll": unroll,
    }
    with (
        files.replacing(path) as temporary,
        fresh_process.refusing_crashes(model, _way_out(model, quantize)),
    ):
        found = saved_model.convert(
            "keras_app.export.litert.process:make",
            model,
            **fixed,
            path=temporary,
            request=vars(request),
        )
    found["notes"] = _notes(model, quantize, sparse, unroll) + found["notes"]
    return write_report(
        path, format="litert", precision=request.precision, **found
    )


def _way_out(model, quantize):
    """What to do if the converter crashes."""
    kinds = {
        type(layer).__name__
        for layer in selection.walk_layers(model)
        if not isinstance(layer, (keras.Model, keras.layers.InputLayer))
    }
    return (
        "TensorFlow's converter or the LiteRT runtime does not take "
        f"quantize={quantize!r} with {', '.join(sorted(kinds))}. Choose "
        "another `quantize`, or replace the layer at fault. "
    )


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
    files.check_target(path)
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise ImportError(
            "LiteRT files need the runtime: `pip install ai-edge-litert`, on a "
            "platform that has it."
        )
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


def _request(model, data, quantize, sparse):
    """What the file has to hold and to give, as the model says."""
    count = _CALIBRATION if quantize == "int8" else _SAMPLES
    samples = _samples(model, data, count)
    batch_size = signature.batch_size(model) or 1
    # Of the batches that calibrate, a few are enough to compare.
    compared = batches(samples, batch_size)[: -(-_SAMPLES // batch_size)]
    values = [ops.convert_to_numpy(each) for each in model.variables]
    return Request(
        samples,
        batch_size,
        quantize,
        sparse,
        expected=_expected(model, compared),
        tolerance=max(
            _TOLERANCES[quantize or "float32"],
            verification.tolerance_for(model),
        ),
        nonzeros=[(x.size, np.count_nonzero(x)) for x in values if x.ndim >= 2],
        # And operations of Keras between them.
        layers=[
            each.name
            for layer in selection.walk_layers(model)
            for each in (layer, *getattr(layer, "operations", ()))
        ],
    )


def _samples(model, data, count):
    """`{input: array}` in the order of their names, as the file takes them."""
    given = signature.inputs_for(model, data, count)
    arrays = signature.in_order(model, given)
    _, dtypes = signature.specs(model, arrays)
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
    names = signature.names(model)
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


def _expected(model, compared):
    """What the model gives, flat; of each output, all batches in one array.

    A difference is judged by the largest output of all samples.
    """
    found = [
        verification.outputs_of(
            model, signature.packed(model, batch.values()), "a LiteRT file"
        )
        for batch in compared
    ]
    return [np.stack(each) for each in zip(*found)]
