"""LiteRT (TFLite) files that are smaller, checked, and described."""

import contextlib
import dataclasses
import pathlib
import tempfile
from typing import Literal

import keras
import numpy.typing as npt

from keras_app import files
from keras_app import graph
from keras_app import selection
from keras_app.export import fresh_process
from keras_app.export import original
from keras_app.export import portable
from keras_app.export import saved_model
from keras_app.export import strip
from keras_app.export.export_report import ExportReport
from keras_app.export.export_report import write_report
from keras_app.export.litert import asking
from keras_app.export.litert import checking
from keras_app.export.litert.checking import EndsDtype
from keras_app.export.litert.targets import TargetName
from keras_app.export.litert.targets import TARGETS
from keras_app.hints import FilePath
from keras_app.hints import Inputs
from keras_app.hints import Quantize


def export_litert(
    model: keras.Model,
    path: FilePath,
    data: Inputs | None = None,
    quantize: Quantize | None = None,
    sparse: bool | Literal["auto"] = "auto",
    target: TargetName = "cpu",
    baseline: keras.Model | FilePath | None = None,
    evaluate: tuple[Inputs, npt.ArrayLike] | None = None,
    io_dtype: EndsDtype = "float32",
    dense_twin: bool = False,
) -> ExportReport:
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
    best cut out before, by `shrink`; of what it cut the report says how much
    of the original is left.

    The file computes one sample at a time, and layers in half or double
    precision in float32. Recurrent layers are unrolled for int8. The report
    says what was changed for the file; the model stays as it is.

    Every file is timed on this machine's CPU, in one thread, in turns with
    what it is to be compared with: the dense file of its precision, if it is
    sparse; the float32 file, if it has eight bits; the `baseline`.

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
            stores sparse what gets smaller by it and the target can read.
            Defaults to `"auto"`.
        target: What will run the file: `"cpu"`; `"gpu"` and `"npu"`, which
            take no sparse tensors; `"micro"`, TensorFlow Lite Micro, whose
            files are int8, inside and at both ends, dense, and of its built-in
            operations only. Defaults to `"cpu"`.
        baseline: What to compare with, for bytes, milliseconds and accuracy: a
            `keras.Model`, which is converted in float32, or the path of a
            `.tflite` or `.keras` file. Defaults to none.
        evaluate: `(x, y)` to measure the accuracy of the file on, all of it: x
            as `data`, y the classes, as integers or one-hot. It is the share of
            samples (of pixels, for outputs by pixel) whose largest output is
            their class; with one output, of those on the right side of 0.5.
            Other outputs are refused. Defaults to none.
        io_dtype: `"int8"` makes inputs and outputs of floats int8, with
            `quantize="int8"`; the report says how to round them. Defaults to
            `"float32"`, except for micro.
        dense_twin: Whether to write the file without sparse weights, too, as
            `model.dense.tflite` beside `model.tflite`, for targets that do not
            read them. Defaults to `False`.

    Returns:
        An `ExportReport`, also written to `<path>.report.json`; latencies are
        those of this machine.

    Raises:
        ValueError: What cannot be exported correctly: `quantize="dynamic"`
            with `sparse=True`, int8 without data, an operation that LiteRT or
            the target does not have, `sparse=True` for a target that takes no
            sparse tensors, inputs of strings, states that go from call to
            call, labels that are no classes, a crash, a file that differs from
            the model; classes of a script or notebook on the JAX and PyTorch
            backends.
        ImportError: LiteRT's runtime or TensorFlow is not installed.

    Example:

    ```python
    report = export_litert(model, "model.tflite", data=x_test[:200])
    print(report)
    # What int8 costs and brings, for a microcontroller:
    export_litert(
        model,
        "micro.tflite",
        data=x_train,
        target="micro",
        baseline=dense_model,
        evaluate=(x_test, y_test),
    )
    ```
    """
    path = files.path(path)
    if target == "micro":
        # Nothing else runs there.
        quantize, io_dtype = quantize or "int8", "int8"
    checking.check_choices(quantize, sparse, target, io_dtype)
    checking.check_inputs(model, path, data, quantize)
    baseline = checking.baseline_of(baseline)
    strip.make_ready(model)
    choices = {"quantize": quantize, "target": target, "io_dtype": io_dtype}
    asked = asking.request(
        model, data, evaluate, sparse=_sparse(sparse, target), **choices
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            fresh_process.refusing_crashes(model, _way_out(model, quantize))
        )
        compared = stack.enter_context(_baseline_file(baseline, data))
        written = {"path": stack.enter_context(files.replacing(path))}
        if dense_twin:
            twin = path.with_name(f"{path.stem}.dense{path.suffix}")
            written["twin"] = stack.enter_context(files.replacing(twin))
        found = saved_model.convert(
            "keras_app.export.litert.process:make",
            model,
            **asked.tracing,
            **written,
            baseline=compared,
            request=vars(asked),
        )
    found["notes"] = _notes(model, quantize, sparse) + found["notes"]
    return write_report(
        path,
        format="litert",
        precision=asked.precision,
        dense_twin=str(twin) if dense_twin else None,
        **_sizes(model, baseline),
        **found,
    )


def _sparse(sparse, target):
    """Whether to store weights sparse, now that the target is known."""
    takes_none = TARGETS[target].refuses_sparse is not None
    return False if takes_none and sparse == "auto" else sparse


def _sizes(model, baseline):
    """What the report says of the model and of what it came from."""
    found = original.described(model)
    if found["original"] is None and isinstance(baseline, keras.Model):
        whole = original.figures(baseline)
        if whole != original.figures(model):
            found["original"] = dataclasses.asdict(whole)
    return found


@contextlib.contextmanager
def _baseline_file(baseline, data):
    """Yields the path of a LiteRT file to compare with, or `None`.

    A model becomes a float32 file, for as long as it is needed.
    """
    if not isinstance(baseline, keras.Model):
        with contextlib.ExitStack() as stack:
            if baseline is not None:
                baseline = stack.enter_context(files.local(baseline))
            yield baseline
        return
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "baseline.tflite"
        asked = asking.request(baseline, data, sparse=False)
        saved_model.convert(
            "keras_app.export.litert.process:make_plain",
            baseline,
            **asked.tracing,
            path=path,
            request=vars(asked),
        )
        yield path


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


def _notes(model, quantize, sparse):
    notes = portable.changes(model, unroll=quantize == "int8")
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
