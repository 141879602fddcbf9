"""What is done to a LiteRT file in a process of its own.

TensorFlow's converter and the runtime are native code: what they do not like
may end the process.
"""

import collections
import dataclasses
import operator
import pathlib
import re
import warnings

import numpy as np

from keras_app.cli import one_line
from keras_app.export import verification
from keras_app.export.export_report import compressed_size
from keras_app.export.litert import fast_path
from keras_app.export.litert import runtime
from keras_app.export.litert import timing
from keras_app.export.litert.file import LiteRTFile
from keras_app.export.litert.request import Request

# Below this share of zeros the converter leaves a tensor dense.
_FEW_ZEROS = 0.3
_BLOCK_INT8 = 16
_CONVOLUTIONS = {"CONV_2D", "TRANSPOSE_CONV", "DEPTHWISE_CONV_2D"}
_NEVER_ENCODED = {"CONV_3D", "CONV_3D_TRANSPOSE", "GATHER", "EMBEDDING_LOOKUP"}
# Resources would mean that weights stayed outside of the graph.
_RESOURCES = {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"}


def make(folder, outputs, path, request):
    """Writes a LiteRT file of a SavedModel, mends, runs and times it.

    Args:
        folder: The SavedModel.
        outputs: The names of its outputs, in the model's order.
        path: File to write.
        request: The fields of a `Request`, as a dict.

    Returns:
        What an `ExportReport` says of it, as a dict.
    """
    request = Request(**request)
    dense = convert(folder, request, sparse=False)
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
    check_structure(mended.content, dense, request.nonzeros)
    compared = _compare(mended.content, dense, outputs, request)
    latency, notes = (
        None,
        ["no weight is stored sparse: this is the dense file"],
    )
    if mended.sparse:
        latency = _latency_ratio(mended.content, dense)
        notes = _on_speed(latency, mended, request.precision)
    pathlib.Path(path).write_bytes(mended.content)
    return {
        **compared,
        "dense_bytes": len(dense),
        "dense_compressed_bytes": compressed_size(dense),
        "sparse_tensors": [w.name for w in mended.sparse],
        "blocked_tensors": [w.name for w in mended.sparse if w.block],
        "dense_tensors": mended.dense,
        "repairs": mended.repairs,
        "latency_ratio": latency,
        "notes": compared["notes"] + notes,
    }


# ---- the conversion --------------------------------------------------------


def convert(folder, request, sparse):
    """Returns what TensorFlow's converter makes of a SavedModel, as bytes."""
    import tensorflow as tf

    quantize = request.quantize
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if quantize else []
    if sparse:
        converter.optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        converter.representative_dataset = lambda: iter(request.batches)
    try:
        with warnings.catch_warnings():
            # Calibration uses an interpreter of TensorFlow's own.
            warnings.filterwarnings("ignore", ".*tf.lite.Interpreter")
            return converter.convert()
    except Exception as error:
        text = one_line(error)
        raise ValueError(_refusal(text, request.layers)) from error


def _refusal(text, layers):
    """What the converter does not take, in a sentence."""
    faults = re.findall(r"'tf\.(\w+)' op is neither a custom op", text)
    found = {name: _layer(name, text, layers) for name in faults}
    if not found:
        operation = re.search(r'fused\["(\w+):"', text)
        place = _layer(operation[1], text, layers) if operation else ""
        # What stands between the first place and the next.
        reason = re.search(r"\]\)+: (.*?)(?: <unknown>|$)", text)
        reason = reason[1] if reason else text
        return (
            "TensorFlow's converter does not take this model"
            f"{place.replace(' of', ', at')}: {reason[:300]}"
        )
    places = ", ".join(f"{name}{place}" for name, place in found.items())
    return (
        "TensorFlow's converter does not take this model: LiteRT cannot "
        f"compute {places}. Express it by other operations or types, or leave "
        "it to the code around the file."
    )


def _layer(operation, text, layers):
    """Which layer an operation came from, as far as the message says."""
    scopes = re.findall(rf'"{operation}:", "([^"@]*)/[^"@/]*@', text)
    # TensorFlow numbers the names that come again.
    names = [
        name
        for scope in scopes[:1]
        for part in scope.split("/")
        for name in (part, re.sub(r"_\d+$", "", part))
        if name in layers
    ]
    return f" of layer {names[-1]}" if names else ""


class Mended:
    """The converter's sparse file, without what it or the runtime gets wrong.

    Args:
        content: The sparse file, or `None`.
        dense: The dense file.
        precision: What weights are stored in.
        keep_all: Whether to store sparse even what grows by it.

    Attributes:
        content: The file to write; the dense one if nothing is stored sparse.
        sparse: The `Weight`s that are stored sparse in it.
        dense: `{name: reason}` of weights with many zeros that are not.
        repairs: What was changed, in sentences.
    """

    def __init__(self, content, dense, precision, keep_all):
        self.content, self.sparse = dense, []
        self.dense, self.repairs = {}, []
        if content is None:
            return
        file = LiteRTFile(content)
        self._true = _encoded_wrongly(file, LiteRTFile(dense))
        for weight in file.weights():
            self._mend(file, weight, precision, keep_all)
        sparse = [w for w in file.weights() if w.sparse]
        if not sparse:
            return
        content = file.to_bytes()
        if len(content) >= len(dense) and not keep_all:
            reason = (
                f"the file would have {len(content):,} bytes with it sparse, "
                f"and has {len(dense):,}"
            )
            self.dense.update((weight.name, reason) for weight in sparse)
            return
        self.content, self.sparse = content, sparse

    def _mend(self, file, weight, precision, keep_all):
        name = weight.name
        if not weight.sparse:
            if weight.zeros > _FEW_ZEROS:
                self.dense[name] = _why_dense(weight)
            return
        true = self._true.get((weight.graph, weight.index))
        if true is None:
            fault = _fault(weight, precision)
            unblocked = fault and precision == "float16"
        else:
            weight = dataclasses.replace(weight, values=true)
            fault = "the converter's sparse form holds other numbers"
            unblocked = False
        if unblocked:
            file.store_unblocked(weight)
            self.repairs.append(f"{name}: {fault}; blocks dissolved")
        elif fault:
            file.store_dense(weight)
            self.repairs.append(f"{name}: {fault}; stored dense")
            self.dense[name] = fault
            return
        if not keep_all and file.stored_bytes(weight) > weight.values.nbytes:
            file.store_dense(weight)
            self.dense[name] = "its zeros are too few to save bytes"


def _encoded_wrongly(file, dense):
    """`{(graph, index): values}` of weights that hold other numbers.

    Seen where blocks do not divide the inputs. Names do not help, because the
    converter renames what it joins.
    """
    known = set(map(_content, file.weights()))
    true = set(map(_content, dense.weights()))
    lost = [w.values for w in dense.weights() if _content(w) not in known]
    found = {}
    for weight in file.weights():
        alike = [v for v in lost if v.shape == weight.values.shape]
        # Of several nobody can tell; then the last check refuses the file.
        if _content(weight) not in true and len(alike) == 1:
            found[weight.graph, weight.index] = alike[0]
    return found


def _fault(weight, precision):
    """What the runtime would do wrong with a sparse weight; or `None`."""
    readers = set(weight.readers)
    if readers <= _CONVOLUTIONS or weight.values.dtype == np.float32:
        return None
    if precision == "float16":
        return "blocks of halves give NaN" if weight.block else None
    if weight.block == _BLOCK_INT8 and readers == {"FULLY_CONNECTED"}:
        return None
    return f"{'/'.join(sorted(readers))} reads int8 in blocks of 16 only"


def _why_dense(weight):
    never = _NEVER_ENCODED & set(weight.readers)
    if never:
        return f"the converter stores no {never.pop()} sparse"
    return "the converter left it dense"


def _on_speed(ratio, mended, precision):
    """Sentences on where the zeros make the file faster, and where not."""
    rule = fast_path.failing_rule(LiteRTFile(mended.content))
    elsewhere = (
        "on ARM and in browsers its 1x1 convolutions qualify for sparse kernels"
        if rule is None
        else f"on ARM and in browsers no convolution runs sparse: {rule}"
    )
    if ratio < 0.95:
        return [elsewhere]
    if ratio > 1.05:
        return [
            f"slower than dense {precision} here, {ratio:.1f} times the time: "
            "for speed export with sparse=False",
            elsewhere,
        ]
    why = (
        "no weight is stored in blocks, and others are put back to dense when "
        "the file is loaded"
        if not any(w.block for w in mended.sparse)
        else "its blocks are too dense, or too small a part of the work"
    )
    return [f"sparsity brings no speed on this machine: {why}", elsewhere]


# ---- the checks ------------------------------------------------------------


def check_structure(content, dense, nonzeros):
    """Raises unless the file holds the weights and the zeros of the model."""
    file = LiteRTFile(content)
    if _contents(file) != _contents(LiteRTFile(dense)):
        raise ValueError(
            "The sparse file does not hold the weights of the dense one. "
            "Nothing was written."
        )
    resources = _RESOURCES.intersection(file.operation_names())
    if resources:
        raise ValueError(
            "The model must not assign variables when it is called: the file "
            f"would keep them outside of its graph ({', '.join(resources)}). "
            "Leave out the layer that does, such as one that draws random "
            "numbers. Nothing was written."
        )
    weights = [weight.values for weight in file.weights()]
    stored = _by_size((x.size, np.count_nonzero(x)) for x in weights)
    ours = _by_size(nonzeros)
    for size, found in stored.items():
        expected = ours.get(size, [])
        # Constants that are no weights, and weights that were cut in pieces,
        # cannot be told apart by their size.
        if len(found) == len(expected) and any(
            map(operator.gt, found, expected)
        ):
            raise ValueError(
                f"Zeros were lost: of weights with {size} entries the file "
                f"holds {found} non-zeros, the model {expected}. "
                "Nothing was written."
            )
    payload = sum(np.count_nonzero(x) * x.itemsize for x in weights)
    if len(content) < payload:
        raise ValueError(
            f"The file has {len(content)} bytes, less than its weights. "
            "Nothing was written."
        )


def _by_size(nonzeros):
    """`{size: sorted non-zeros}` of `(size, non-zeros)` pairs."""
    found = collections.defaultdict(list)
    for size, count in sorted(nonzeros):
        found[size].append(count)
    return found


def _contents(file):
    """Shapes and bytes of all weights."""
    return sorted(map(_content, file.weights()))


def _content(weight):
    # Adding 0 makes one zero of both.
    values = weight.values + weight.values.dtype.type(0)
    return values.shape, values.tobytes()


def _compare(content, dense, outputs, request):
    """Raises unless a file gives what it must; returns how near it comes."""
    batches = request.batches[: len(request.expected[0])]
    received = runtime.outputs_of(content, batches, outputs)
    expected, compared_with, notes = request.expected, "the model", []
    difference = verification.largest_difference(expected, received)
    if request.precision == "int8":
        notes.append(
            f"int8 differs from the model by {difference:.3f} of the largest "
            "output"
        )
        compared_with = "the dense int8 export"
        expected = runtime.outputs_of(dense, batches, outputs)
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


def _latency_ratio(content, dense):
    """Median time of `content` over that of `dense`, taken in turns."""
    own, other = timing.take_turns([content, dense])
    return own["median_ms"] / other["median_ms"]
