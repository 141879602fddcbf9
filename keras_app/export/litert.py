"""LiteRT (TFLite) files that are smaller, checked, and described."""

import dataclasses
import pathlib
import statistics
import tempfile
import time
import warnings

import numpy as np
from keras import ops

from keras_app import files
from keras_app import graph
from keras_app import lora
from keras_app.checks import check_choice
from keras_app.cli import one_line
from keras_app.export import fast_path
from keras_app.export import litert_file
from keras_app.export import saved_model
from keras_app.export import strip
from keras_app.export import verification
from keras_app.export.fresh_process import run_on_tensorflow
from keras_app.report.exports import compressed_size
from keras_app.report.exports import ExportReport

# Largest difference to what the file is compared with, of the largest output,
# beyond the model's own rounding. Halves keep eleven bits; int8, compared with
# dense int8, may round activations by a step or two; dynamic rounds them all.
_TOLERANCES = {"float32": 0.0, "float16": 5e-3, "int8": 0.05, "dynamic": 0.2}

# Below this share of zeros the converter leaves a tensor dense.
_FEW_ZEROS = 0.3
_BLOCK_INT8 = 16
_CONVOLUTIONS = {"CONV_2D", "TRANSPOSE_CONV", "DEPTHWISE_CONV_2D"}
_NEVER_ENCODED = {"CONV_3D", "CONV_3D_TRANSPOSE", "GATHER", "EMBEDDING_LOOKUP"}
# Resources would mean that weights stayed outside of the graph.
_RESOURCES = {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"}

_SAMPLES = 4
_CALIBRATION = 200
_ROUNDS = 21
_SECONDS = 4.0


def export_litert(model, path, data=None, quantize=None, sparse="auto"):
    """Writes a LiteRT (TFLite) file, verified, and says what it came to.

    The converter's file is read back. Weights that it stored in a way that the
    runtime computes wrongly, or refuses, are stored otherwise; then the file is
    run by the default interpreter and compared with the model, or, for int8,
    with the dense int8 export. What does not pass is an error and leaves no
    file.

    What sparsity brings depends on its pattern. `Dense` kernels whose zeros
    come in blocks of 4 inputs (`masks.Block((4, 1))`; for int8 `(16, 1)`) are
    computed without them on every processor. All other zeros make the file
    smaller and are put back when it is loaded; on ARM and in browsers 1x1
    convolutions can skip them, on conditions that the report names. Channels
    that are zero are best cut out before, by `shrink`.

    The file computes one sample at a time. From the JAX and PyTorch backends
    the conversion runs in a process with the TensorFlow backend.

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
            does not have, a file that differs from the model; custom classes
            on the JAX and PyTorch backends.

    Example:

    ```python
    report = export_litert(model, "model.tflite", data=x_test[:200])
    print(report)
    ```
    """
    path = pathlib.Path(path)
    _check(path, data, quantize, sparse)
    lora.refuse_filled_zeros(model)
    strip.zero_pruned(model)
    precision = quantize or "float32"
    _check_lengths(model, data)
    samples = _samples(model, data, _SAMPLES)
    batch_size = verification.batch_size(model) or 1
    names = saved_model.input_names(model)
    batches = [
        {name: x[i : i + batch_size] for name, x in zip(names, samples)}
        for i in range(0, len(samples[0]), batch_size)
    ]
    expected = _expected(model, batches)
    count = _CALIBRATION if quantize == "int8" else _SAMPLES
    dense, encoded, outputs = _converted(
        model,
        _samples(model, data, count),
        batch_size,
        quantize,
        sparse=bool(sparse) and quantize != "dynamic",
    )
    mended = _Mended(encoded, dense, precision, keep_all=sparse is True)
    if not mended.sparse and sparse is True:
        raise ValueError(
            "`sparse` must not be True where no weight can be stored sparse. "
            f"Received: sparse=True, quantize={quantize!r}; "
            f"{_sentence(mended.dense) or 'no weight has enough zeros'}"
        )
    content = mended.content if mended.sparse else dense
    _check_structure(content, dense, model)

    notes = _notes(model, quantize, sparse)
    run = _Runs(batches, outputs)
    received = run(content, precision)
    compared_with = "the model"
    if precision == "int8":
        difference = verification.largest_difference(expected, received)
        notes.append(
            f"int8 differs from the model by {difference:.3f} of the largest "
            "output"
        )
        compared_with = "the dense int8 export"
        expected = run(dense, precision)
    difference = verification.largest_difference(expected, received)
    tolerance = max(_TOLERANCES[precision], verification.tolerance_for(model))
    if difference > tolerance:
        raise ValueError(
            f"The {precision} file must give the outputs of {compared_with} to "
            f"{tolerance:g} of the largest. Received: a difference of "
            f"{difference:g} (infinite stands for NaN). Nothing was written."
        )
    latency = None
    if mended.sparse:
        latency = _latency_ratio(content, dense, batches[0])
        notes += _on_speed(latency, mended, content)
    else:
        notes.append("no weight is stored sparse: this is the dense file")
    files.write_bytes(path, content)
    return ExportReport(
        path=str(path),
        format="litert",
        precision=precision,
        bytes=len(content),
        compressed_bytes=compressed_size(content),
        max_difference=difference,
        compared_with=compared_with,
        dense_bytes=len(dense),
        dense_compressed_bytes=compressed_size(dense),
        sparse_tensors=tuple(w.name for w in mended.sparse),
        blocked_tensors=tuple(w.name for w in mended.sparse if w.block),
        dense_tensors=mended.dense,
        repairs=tuple(mended.repairs),
        latency_ratio=latency,
        notes=tuple(notes),
    ).write()


def _check(path, data, quantize, sparse):
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


# ---- the conversion --------------------------------------------------------


def _converted(model, samples, batch_size, quantize, sparse):
    """Dense file, sparse file or `None`, and the names of the outputs."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {"dense": str(pathlib.Path(folder) / "dense")}
        if sparse:
            paths["sparse"] = str(pathlib.Path(folder) / "sparse")
        outputs = run_on_tensorflow(
            "keras_app.export.litert:convert",
            model,
            samples=samples,
            batch_size=batch_size,
            quantize=quantize,
            paths=paths,
        )
        contents = {n: pathlib.Path(p).read_bytes() for n, p in paths.items()}
    return contents["dense"], contents.get("sparse"), outputs


def convert(model, samples, batch_size, quantize, paths):
    """Writes what TensorFlow's converter makes of a model.

    Args:
        model: A built `keras.Model`, on the TensorFlow backend.
        samples: Inputs, flat, whose first axis is the samples; all of them
            calibrate int8.
        batch_size: How many samples the file computes at once.
        quantize: As for `export_litert`.
        paths: `{"dense": path}`, and `"sparse"` for a second file.

    Returns:
        The names of the outputs, in order.
    """
    import tensorflow as tf

    names = saved_model.input_names(model)
    shapes = [[batch_size, *x.shape[1:]] for x in samples]
    dtypes = [x.dtype.name for x in samples]
    optimizations = [tf.lite.Optimize.DEFAULT] if quantize else []
    with tempfile.TemporaryDirectory() as folder:
        outputs = saved_model.write(model, folder, shapes, dtypes)
        for name, path in paths.items():
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            encoding = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
            converter.optimizations = optimizations + (
                encoding if name == "sparse" else []
            )
            if quantize == "float16":
                converter.target_spec.supported_types = [tf.float16]
            if quantize == "int8":
                converter.representative_dataset = lambda: (
                    dict(zip(names, (x[i : i + batch_size] for x in samples)))
                    for i in range(0, len(samples[0]), batch_size)
                )
            try:
                with warnings.catch_warnings():
                    # Calibration uses an interpreter of TensorFlow's own.
                    warnings.filterwarnings("ignore", ".*tf.lite.Interpreter")
                    content = converter.convert()
            except Exception as error:
                raise ValueError(
                    "TensorFlow's converter does not take this model: "
                    f"{one_line(error)[:500]}"
                ) from error
            pathlib.Path(path).write_bytes(content)
    return outputs


class _Mended:
    """The converter's sparse file, without what it or the runtime gets wrong.

    Attributes:
        content: The file as bytes.
        sparse: The `Weight`s that are stored sparse in it.
        dense: `{name: reason}` of weights with many zeros that are not.
        repairs: What was changed, in sentences.
    """

    def __init__(self, content, dense, precision, keep_all):
        self.content, self.sparse = content, []
        self.dense, self.repairs = {}, []
        if content is None:
            return
        file = litert_file.LiteRTFile(content)
        self._true = _encoded_wrongly(file, litert_file.LiteRTFile(dense))
        for weight in file.weights():
            self._mend(file, weight, precision, keep_all)
        self.content = file.to_bytes()
        self.sparse = [w for w in file.weights() if w.sparse]

    def _mend(self, file, weight, precision, keep_all):
        if not weight.sparse:
            if weight.zeros > _FEW_ZEROS:
                self.dense[weight.name] = _why_dense(weight)
            return
        true = self._true.get((weight.graph, weight.index))
        if true is not None:
            fault = "the converter's sparse form holds other numbers"
            file.store_dense(dataclasses.replace(weight, values=true))
            self.repairs.append(f"{weight.name}: {fault}; stored dense")
            self.dense[weight.name] = fault
            return
        fault = _fault(weight, precision)
        blocked_halves = fault and precision == "float16"
        if blocked_halves:
            file.store_unblocked(weight)
            self.repairs.append(f"{weight.name}: {fault}; blocks dissolved")
        elif fault:
            file.store_dense(weight)
            self.repairs.append(f"{weight.name}: {fault}; stored dense")
            self.dense[weight.name] = fault
        if (blocked_halves or not fault) and not keep_all:
            size = file.stored_bytes(weight)
            if size >= weight.values.nbytes:
                file.store_dense(weight)
                self.dense[weight.name] = "its zeros are too few to save bytes"


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
    """Inputs, flat, in the order of their names and of the model's types."""
    inputs = verification.inputs_for(model, data, count)
    arrays = saved_model.in_order(model, inputs)
    _, dtypes = saved_model.specs(model, arrays)
    return [array.astype(dtype) for array, dtype in zip(arrays, dtypes)]


def _notes(model, quantize, sparse):
    notes = []
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


def _on_speed(ratio, mended, content):
    """Sentences on where the zeros make the file faster, and where not."""
    rule = fast_path.failing_rule(litert_file.LiteRTFile(content))
    elsewhere = (
        "on ARM and in browsers its 1x1 convolutions qualify for sparse kernels"
        if rule is None
        else f"on ARM and in browsers no convolution runs sparse: {rule}"
    )
    if ratio < 0.95:
        return [elsewhere]
    why = (
        "no weight is stored in blocks, and others are put back to dense when "
        "the file is loaded"
        if not any(w.block for w in mended.sparse)
        else "its blocks are too dense, or too small a part of the work"
    )
    return [f"sparsity brings no speed on this machine: {why}", elsewhere]


def _sentence(reasons):
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _expected(model, batches):
    """What the model gives, flat, one batch after the other."""
    return [
        output
        for batch in batches
        for output in verification.outputs_of(
            model, saved_model.packed(model, list(batch.values()))
        )
    ]


# ---- the checks ------------------------------------------------------------


def _check_structure(content, dense, model):
    """Raises unless the file holds the weights and the zeros of the model."""
    file = litert_file.LiteRTFile(content)
    if _contents(file) != _contents(litert_file.LiteRTFile(dense)):
        raise ValueError(
            "The sparse file does not hold the weights of the dense one. "
            "Nothing was written."
        )
    resources = _RESOURCES.intersection(file.operation_names())
    if resources:
        raise ValueError(
            f"The file leaves weights outside ({', '.join(resources)}). "
            "Nothing was written."
        )
    counts = {}
    for weight in file.weights():
        found = counts.setdefault(weight.values.size, ([], []))
        found[0].append(np.count_nonzero(weight.values))
    for variable in model.variables:
        values = ops.convert_to_numpy(variable)
        if values.ndim >= 2 and values.size in counts:
            counts[values.size][1].append(np.count_nonzero(values))
    for size, (stored, ours) in counts.items():
        # Constants that are no weights, and weights that were cut in pieces,
        # cannot be told apart by their size.
        if len(stored) != len(ours):
            continue
        if any(a > b for a, b in zip(sorted(stored), sorted(ours))):
            raise ValueError(
                f"Zeros were lost: of weights with {size} entries the file "
                f"holds {sorted(stored)} non-zeros, the model {sorted(ours)}. "
                "Nothing was written."
            )
    payload = sum(
        np.count_nonzero(w.values) * w.values.itemsize for w in file.weights()
    )
    if len(content) < payload:
        raise ValueError(
            f"The file has {len(content)} bytes, less than its weights. "
            "Nothing was written."
        )


def _contents(file):
    """Shapes and bytes of all weights."""
    return sorted(map(_content, file.weights()))


def _content(weight):
    # Adding 0 makes one zero of both.
    values = weight.values + weight.values.dtype.type(0)
    return values.shape, values.tobytes()


def _interpreter(content, precision):
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"The runtime does not load the {precision} file: {error} Nothing "
            "was written."
        ) from error
    return interpreter


class _Runs:
    """Runs files on the same inputs, one batch after the other.

    Args:
        batches: `[{name: array}]`.
        outputs: The names of the outputs, in the model's order.
    """

    def __init__(self, batches, outputs):
        self.batches = batches
        self.outputs = outputs

    def __call__(self, content, precision):
        """Returns what a file gives, flat, one batch after the other."""
        run = _interpreter(content, precision).get_signature_runner()
        found = [run(**batch) for batch in self.batches]
        return [
            np.asarray(each[name], "float32")
            for each in found
            for name in self.outputs
        ]


def _latency_ratio(content, dense, batch):
    """Median time of `content` over that of `dense`, taken in turns."""
    invocations = []
    for data in (content, dense):
        interpreter = _interpreter(data, "")
        interpreter.get_signature_runner()(**batch)  # fills the inputs
        invocations.append(interpreter.invoke)
    seconds = ([], [])
    start = time.perf_counter()
    while len(seconds[0]) < _ROUNDS and time.perf_counter() - start < _SECONDS:
        for taken, invoke in zip(seconds, invocations):
            begin = time.perf_counter()
            invoke()
            taken.append(time.perf_counter() - begin)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])
