"""What is done to a LiteRT file in a process of its own.

TensorFlow's converter and the runtime are native code: what they do not like
may end the process.
"""

import dataclasses
import pathlib

from keras_app.export import verification
from keras_app.export.export_report import compressed_size
from keras_app.export.litert import measuring
from keras_app.export.litert import micro
from keras_app.export.litert import remarks
from keras_app.export.litert import runtime
from keras_app.export.litert.conversion import convert
from keras_app.export.litert.file import LiteRTFile
from keras_app.export.litert.mending import check_structure
from keras_app.export.litert.mending import Mended
from keras_app.export.litert.request import Request


def make(folder, outputs, path, request, twin=None, baseline=None):
    """Writes a LiteRT file of a SavedModel, mends, runs and measures it.

    Args:
        folder: The SavedModel.
        outputs: The names of its outputs, in the model's order.
        path: File to write.
        request: The fields of a `Request`, as a dict.
        twin: File to write without sparse weights, or `None`.
        baseline: LiteRT file to compare with, or `None`.

    Returns:
        What an `ExportReport` says of it, as a dict.
    """
    request = Request(**request)
    dense = convert(folder, request, sparse=False)
    if request.target == "micro":
        micro.check_operators(LiteRTFile(dense), request.layers)
    mended = _mended(folder, dense, request)
    content = mended.content
    check_structure(content, dense, request.nonzeros)
    truth = dense
    if request.io_dtype == "int8":
        # With ends in floats the file rounds itself what is rounded for it.
        floats = dataclasses.replace(request, io_dtype="float32")
        truth = convert(folder, floats, sparse=False)
    compared = _compare(content, truth, outputs, request)
    references = _references(folder, mended, dense, baseline, request)
    figures = measuring.measured(content, references, request)
    latency, notes = None, []
    if mended.sparse:
        latency = measuring.ratio(figures, "dense")
        slower = measuring.clearly_slower(figures, "dense")
        notes = remarks.on_sparse_speed(latency, slower, mended, request)
    elif request.sparse:
        notes = ["no weight is stored sparse: this is the dense file"]
    notes += measuring.slower_than_float(figures, request.precision)
    pathlib.Path(path).write_bytes(content)
    if twin:
        pathlib.Path(twin).write_bytes(dense)
    return {
        **compared,
        **figures,
        "target": request.target,
        "io_dtype": request.io_dtype,
        "dense_bytes": len(dense),
        "dense_compressed_bytes": compressed_size(dense),
        "sparse_tensors": [w.name for w in mended.sparse],
        "blocked_tensors": [w.name for w in mended.sparse if w.block],
        "dense_tensors": mended.dense,
        "repairs": mended.repairs,
        "latency_ratio": latency,
        "unused": remarks.unused(LiteRTFile(content), request),
        "notes": compared["notes"] + notes + remarks.on_target(request),
    }


def make_plain(folder, outputs, path, request):
    """Writes what the converter makes of a SavedModel, as it comes."""
    del outputs
    content = convert(folder, Request(**request), sparse=False)
    pathlib.Path(path).write_bytes(content)


def _mended(folder, dense, request):
    """What is written: sparse, where that is asked for and can be."""
    encoded = None
    if request.sparse and request.quantize != "dynamic":
        encoded = convert(folder, request, sparse=True)
    forced = request.sparse is True
    mended = Mended(encoded, dense, request.precision, keep_all=forced)
    if forced and not mended.sparse:
        reasons = [f"{name}: {why}" for name, why in mended.dense.items()]
        raise ValueError(
            "`sparse` must not be True where no weight can be stored sparse. "
            f"Received: sparse=True, quantize={request.quantize!r}; "
            f"{'; '.join(reasons) or 'no weight has enough zeros'}"
        )
    return mended


def _references(folder, mended, dense, baseline, request):
    """`{name: bytes}` of what a file is measured beside."""
    found = {}
    if mended.sparse:
        found["dense"] = dense
    if request.quantize in ("int8", "dynamic"):
        floats = dataclasses.replace(request, quantize=None, io_dtype="float32")
        found["float32"] = convert(folder, floats, sparse=False)
    if baseline:
        found["baseline"] = pathlib.Path(baseline).read_bytes()
    return found


def _compare(content, truth, outputs, request):
    """Raises unless a file gives what it must; returns how near it comes.

    Args:
        content: The bytes of the file.
        truth: Those of the dense file that takes and gives floats.
        outputs: Names of the outputs.
        request: A `Request`.
    """
    batches = request.batches[: len(request.expected[0])]
    received = runtime.outputs_of(content, batches, outputs)
    expected, compared_with, notes = request.expected, "the model", []
    difference = verification.largest_difference(expected, received)
    if request.precision == "int8":
        notes.append(
            f"int8 differs from the model by {difference:.3f} of the largest "
            "output"
        )
        if request.io_dtype == "int8":
            notes += _ends(content)
        compared_with = "the dense int8 export"
        expected = runtime.outputs_of(truth, batches, outputs)
        difference = verification.largest_difference(expected, received)
    verification.check_difference(
        f"{request.precision} file",
        difference,
        request.tolerance,
        compared_with,
    )
    return {
        "max_difference": difference,
        "compared_with": compared_with,
        "notes": notes,
    }


def _ends(content):
    """How to round what goes in and what comes out, in sentences."""
    runner = runtime.Runner(content)
    return [
        f"{what} {name}: int8 = round(x / {scale:.6g}) {zero_point:+}"
        for what, ends in (("input", runner.inputs), ("output", runner.outputs))
        for name, details in ends.items()
        for scale, zero_point in [details["quantization"]]
        if scale
    ]
