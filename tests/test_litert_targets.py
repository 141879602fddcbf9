"""Tests of LiteRT files for targets, of their accuracy, and of comparisons."""

import json

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from keras_app.export import export_litert
from keras_app.export import ExportReport
from keras_app.export import shrink
from keras_app.export import signature
from keras_app.export import strip_pruning
from keras_app.export.litert import evaluation
from keras_app.export.litert import micro
from keras_app.export.litert import runtime
from keras_app.export.litert import timing
from keras_app.export.litert.file import LiteRTFile
from tests.helpers import turns

converts = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="the converter runs on TensorFlow",
)
pytestmark = pytest.mark.usefixtures("done_here")


def classifier(activation="softmax", units=3, batch_size=None, zeros=0.0):
    """A network of 10, 20, 30 and `units` numbers."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((10,), batch_size=batch_size),
            layers.Dense(20, activation="relu", name="first"),
            layers.Dense(30, activation="relu", name="second"),
            layers.Dense(units, activation=activation, name="last"),
        ]
    )
    for layer in model.layers:
        # Far apart, for eight bits to decide alike.
        values = 3 * keras.ops.convert_to_numpy(layer.kernel)
        kept = np.random.default_rng(0).random(values.shape) >= zeros
        layer.kernel.assign(values * kept)
    return model


def half_dead():
    """A network whose first layer has 10 of 20 channels."""
    model = classifier()
    kernel = keras.ops.convert_to_numpy(model.layers[0].kernel)
    model.layers[0].kernel.assign(kernel * (np.arange(20) < 10))
    return model


def labelled(count=50):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((count, 10)).astype("float32")
    return x, rng.integers(0, 3, count)


def outputs_of(path, x, batch_size=1):
    """What the file gives, by the runtime alone; int8 is rounded here."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    [given], [taken] = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    if given["dtype"] == np.int8:
        scale, zero = given["quantization"]
        x = np.clip(np.round(x / scale) + zero, -128, 127).astype("int8")
    found = []
    for start in range(0, len(x) - batch_size + 1, batch_size):
        batch = x[start : start + batch_size]
        interpreter.set_tensor(given["index"], batch)
        interpreter.invoke()
        found.append(interpreter.get_tensor(taken["index"]).copy())
    return np.concatenate(found)


def text_of(report):
    plain = str(report).replace("│", " ")
    return " ".join(plain.split())


# ---- on every backend ------------------------------------------------------


def test_a_shrunk_model_is_measured_beside_its_original(tmp_path, elsewhere):
    model = half_dead()
    x, y = labelled()
    path = tmp_path / "m.tflite"
    report = export_litert(
        shrink(model), path, x, "int8", baseline=model, evaluate=(x, y)
    )
    # 220 + 630 + 93 parameters, of which the cut leaves 110 + 330 + 93.
    assert (report.parameters, report.original["parameters"]) == (533, 943)
    assert report.flops == 2 * (10 * 10 + 10 * 30 + 30 * 3)
    assert report.original["flops"] == 2 * (10 * 20 + 20 * 30 + 30 * 3)
    assert report.original["bytes"] == 4 * 943
    found = outputs_of(path, x).argmax(-1)
    assert report.accuracy == np.mean(found == y)
    expected = keras.ops.convert_to_numpy(model(x)).argmax(-1)
    baseline = report.references["baseline"]
    assert baseline["accuracy"] == np.mean(expected == y)
    assert set(report.references) == {"float32", "baseline"}
    assert report.latency_ms > 0 and baseline["median_ms"] > 0
    assert "533, 0.565 of the original, 943" in text_of(report)
    assert "of the baseline (" in text_of(report)
    assert "dense" not in dict(report.rows())["bytes"]
    names = sorted(each.name for each in tmp_path.iterdir())
    assert names == ["m.tflite", "m.tflite.report.json"]
    stored = json.loads((tmp_path / "m.tflite.report.json").read_text())
    assert ExportReport.from_dict(stored) == report


def test_what_was_cut_is_remembered_through_copies():
    model = half_dead()
    small = strip_pruning(shrink(model))
    kernel = np.ones((10, 30)) * (np.arange(30) < 15)
    small.layers[1].kernel.assign(kernel)
    smaller = shrink(small)
    assert smaller.count_params() == 110 + 165 + 48
    assert smaller._keras_app_original.parameters == 943


def test_other_formats_say_what_is_left_of_the_original(tmp_path):
    from keras_app.export.sparse import export_sparse

    report = export_sparse(shrink(half_dead()), tmp_path / "m.sparse")
    assert "533, 0.565 of the original, 943" in text_of(report)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "tpu"}, "`target` must be one of 'cpu', 'gpu', 'npu'"),
        ({"target": "gpu", "sparse": True}, "GPU delegate refuses sparse"),
        ({"target": "npu", "sparse": True}, "NPUs take dense tensors"),
        ({"target": "micro", "sparse": True}, "has no DENSIFY"),
        ({"target": "micro", "data": None}, "`data` must hold sample inputs"),
        (
            {"target": "micro", "quantize": "float16"},
            "`quantize` must be 'int8' with target='micro'.*'float16'",
        ),
        ({"io_dtype": "int8"}, "`quantize` must be 'int8' with io_dtype"),
        ({"io_dtype": "uint8"}, "`io_dtype` must be one of 'float32', 'int8'"),
        ({"baseline": 3}, "`baseline` must be a keras.Model or a .tfl.*=3"),
        ({"baseline": "none.tflite"}, "file that exists.*none.tflite"),
        ({"baseline": __file__}, "`baseline` must be .*test_litert_targets"),
        ({"evaluate": np.ones((3, 10))}, r"`evaluate` must be \(x, y\).*ndarr"),
        (
            {"evaluate": (np.ones((3, 10)), np.zeros(4, int))},
            r"as many inputs as classes. Received: lengths \[3, 4\]",
        ),
        (
            {"evaluate": (np.ones((3, 10)), np.array([0, 1, 3]))},
            "with others than 0 to 2",
        ),
        (
            {"evaluate": (np.ones((3, 10)), np.array([0.5, 1, 2]))},
            "y the classes.*float64",
        ),
        (
            {"evaluate": (np.full((3, 10), np.nan), np.zeros(3, int))},
            "`evaluate` must hold numbers",
        ),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_no_file(
    arguments, message, tmp_path
):
    arguments = {"data": labelled()[0], **arguments}
    with pytest.raises(ValueError, match=message):
        export_litert(classifier(), tmp_path / "m.tflite", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_accuracy_needs_one_output(tmp_path):
    x = keras.Input((10,))
    model = keras.Model(x, [layers.Dense(3)(x), layers.Dense(3)(x)])
    with pytest.raises(ValueError, match="one output of classes.* 2 outputs"):
        export_litert(model, tmp_path / "m.tflite", evaluate=labelled())
    assert list(tmp_path.iterdir()) == []


# ---- accuracy --------------------------------------------------------------


@converts
@pytest.mark.parametrize("io_dtype", ["float32", "int8"])
@pytest.mark.parametrize("one_hot", [False, True])
def test_accuracy_is_that_of_the_file(io_dtype, one_hot, tmp_path):
    x, y = labelled()
    path = tmp_path / "m.tflite"
    evaluate = (x, np.eye(3)[y] if one_hot else y[:, None])
    report = export_litert(
        classifier(), path, x, "int8", evaluate=evaluate, io_dtype=io_dtype
    )
    found = outputs_of(path, x)
    assert found.dtype == io_dtype
    assert report.accuracy == np.mean(found.argmax(-1) == y)
    assert 0.1 < report.accuracy < 0.9 and report.evaluated == 50
    assert f"{report.accuracy:.4f}, 50 samples, float32 0." in text_of(report)


@converts
def test_samples_that_do_not_fill_a_batch_are_evaluated(tmp_path):
    model = classifier(batch_size=8)
    x, y = labelled(21)
    path = tmp_path / "m.tflite"
    report = export_litert(model, path, x, evaluate=(x, y))
    padded = np.concatenate([x, np.zeros((3, 10), "float32")])
    found = outputs_of(path, padded, 8)[:21].argmax(-1)
    assert report.accuracy == np.mean(found == y)


@converts
def test_an_output_of_one_number_is_split_at_a_half(tmp_path):
    x, y = labelled()
    y = y > 1
    path = tmp_path / "m.tflite"
    report = export_litert(
        classifier("sigmoid", 1), path, evaluate=(x, y.astype("float32"))
    )
    found = outputs_of(path, x)[:, 0] > 0.5
    assert report.accuracy == np.mean(found == y)
    with pytest.raises(ValueError, match="End the model in a sigmoid"):
        logits = classifier(None, 1)
        export_litert(logits, tmp_path / "l.tflite", evaluate=(x, y))
    assert not (tmp_path / "l.tflite").exists()


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("labels", "shape", "found"),
    [
        ([0, 2], (3,), [0, 2]),
        ([[0], [2]], (3,), [0, 2]),
        ([[1, 0, 0], [0, 0, 1]], (3,), [0, 2]),
        ([1.0, 0.0], (1,), [1, 0]),
        ([[True], [False]], (1,), [1, 0]),
        # Pixels.
        ([[0, 2], [1, 1]], (2, 3), [[0, 2], [1, 1]]),
        ([[[0], [2]]], (2, 3), [[0, 2]]),
        ([[[1, 0], [0, 1]]], (2, 2), [[0, 1]]),
    ],
)
def test_classes_are_read_from_labels_of_every_form(labels, shape, found):
    result = evaluation.classes(np.array(labels), shape)
    np.testing.assert_array_equal(result, found)


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("labels", "shape"),
    [
        ([[0.9, 0.1], [0.1, 0.9]], (2,)),
        ([[1, 1], [0, 1]], (2,)),
        ([-1, 0], (2,)),
        ([0, 2], (1,)),
        (["a", "b"], (2,)),
        ([[0, 1, 2]], (2,)),
        ([0, 1], ()),
        ([], (2,)),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, shape):
    with pytest.raises(ValueError, match="`evaluate` must be .*Received: y of"):
        evaluation.classes(np.array(labels), shape)


# ---- targets ---------------------------------------------------------------


@converts
@pytest.mark.parametrize("target", ["gpu", "npu"])
def test_targets_without_sparse_tensors_get_dense_ones(target, tmp_path):
    keras.utils.set_random_seed(0)
    model = classifier(zeros=0.9)
    dense = export_litert(model, tmp_path / "d.tflite", sparse=False)
    report = export_litert(model, tmp_path / "m.tflite", target=target)
    assert report.sparse_tensors == () and report.bytes == dense.bytes
    names = LiteRTFile((tmp_path / "m.tflite").read_bytes()).operation_names()
    assert "DENSIFY" not in names
    [unused] = report.unused
    assert "% of the weights are zeros that the" in unused
    assert f"not used: {unused}" in text_of(report)
    assert "CPU, not of the" in text_of(report)


@converts
def test_what_the_cpu_does_not_use_is_said(tmp_path):
    x = keras.Input((64,))
    dense = layers.Dense(64)
    model = keras.Model(x, dense(x))
    rng = np.random.default_rng(0)
    values = rng.standard_normal((64, 64))
    singles = rng.permutation(64 * 64).reshape(64, 64) % 4 == 0
    dense.kernel.assign(values * singles)
    report = export_litert(model, tmp_path / "m.tflite")
    assert report.unused == (
        "75% of the weights are zeros that the CPU multiplies by: only what is "
        "stored in blocks is computed without its zeros; channels that are "
        "zero are cut out by `shrink`",
    )
    blocks = np.repeat(rng.random((16, 64)) < 0.25, 4, axis=0)
    dense.kernel.assign(values * blocks)
    report = export_litert(model, tmp_path / "m.tflite")
    assert report.blocked_tensors and report.unused == ()


@converts
def test_a_file_for_microcontrollers_is_int8_at_both_ends(tmp_path):
    x, y = labelled()
    path = tmp_path / "m.tflite"
    report = export_litert(
        classifier(), path, x, target="micro", evaluate=(x, y)
    )
    runner = runtime.Runner(path.read_bytes())
    ends = [*runner.inputs.values(), *runner.outputs.values()]
    assert [each["dtype"] for each in ends] == [np.int8, np.int8]
    assert (report.precision, report.io_dtype) == ("int8", "int8")
    # Flash: the file. RAM: 20 and 30 numbers of a byte, of the two layers
    # whose numbers are alive at once.
    assert report.bytes == path.stat().st_size
    assert report.activation_bytes == 20 + 30
    text = text_of(report)
    assert f"bytes {report.bytes:,}, in flash, " in text
    assert "RAM of activations 50 bytes, at the least" in text
    scale, zero = ends[0]["quantization"]
    assert f"input input_layer: int8 = round(x / {scale:.6g})" in text.replace(
        runner.inputs.popitem()[0], "input_layer"
    )
    operations = set(LiteRTFile(path.read_bytes()).operation_names())
    assert operations <= {"FULLY_CONNECTED", "SOFTMAX"}


@converts
def test_operations_that_microcontrollers_lack_are_named(tmp_path):
    inputs = keras.Input((10,))
    x = layers.Dense(4, name="first")(inputs)
    x = layers.Lambda(lambda x: keras.ops.tile(x, (1, 3)), name="repeated")(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    data = labelled()[0]
    path = tmp_path / "m.tflite"
    export_litert(model, tmp_path / "cpu.tflite", data, "int8")
    with pytest.raises(
        ValueError,
        match="`target` must not be 'micro'.*lacks TILE of layer repeated. "
        "Express it",
    ):
        export_litert(model, path, data, target="micro", dense_twin=True)
    names = [each.name for each in tmp_path.iterdir()]
    assert all(name.startswith("cpu.") for name in names)


@pytest.mark.backend_free
def test_microcontrollers_have_no_sparse_tensors():
    assert {"CONV_2D", "FULLY_CONNECTED", "SOFTMAX"} < micro.OPERATORS
    lacking = {"DENSIFY", "TILE", "POW", "GELU", "CUSTOM", "CONV_3D"}
    assert not lacking & micro.OPERATORS
    assert len(micro.OPERATORS) == 100


@converts
def test_ends_that_are_rounded_wrongly_are_found(tmp_path, monkeypatch):
    right = runtime.quantized

    def wrong(values, details):
        found = right(values, details)
        return found // 2 if details["dtype"] == np.int8 else found

    monkeypatch.setattr(runtime, "quantized", wrong)
    with pytest.raises(ValueError, match="int8 file must give the outputs of"):
        export_litert(
            classifier(),
            tmp_path / "m.tflite",
            labelled()[0],
            "int8",
            io_dtype="int8",
        )
    assert list(tmp_path.iterdir()) == []


# ---- beside others ---------------------------------------------------------


@converts
def test_int8_that_is_slower_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "take_turns", turns(3.0, 2.0))
    data = labelled()[0]
    report = export_litert(classifier(), tmp_path / "m.tflite", data, "int8")
    assert (
        "int8 is slower than float32 here, 1.5 times the time: for speed on "
        "this machine export without `quantize`"
    ) in report.notes
    assert dict(report.rows())["time of an inference"] == (
        "3 ms, quartiles 0.25 ms apart, 1 thread, 1.50 of float32 (2 ms), "
        "shares of the least times"
    )
    # Less than the rounds differ among themselves is no finding.
    monkeypatch.setattr(timing, "take_turns", turns(2.2, 2.0))
    report = export_litert(classifier(), tmp_path / "m.tflite", data, "int8")
    assert not any("slower" in note for note in report.notes)


@converts
def test_a_file_is_a_baseline(tmp_path, monkeypatch):
    x, y = labelled()
    old = tmp_path / "old.tflite"
    first = export_litert(classifier(), old)
    monkeypatch.setattr(timing, "take_turns", turns(1.0, 4.0))
    report = export_litert(
        classifier("sigmoid"),
        tmp_path / "m.tflite",
        baseline=str(old),
        evaluate=(x, y),
    )
    baseline = report.references["baseline"]
    found = outputs_of(old, x).argmax(-1)
    assert baseline["accuracy"] == np.mean(found == y)
    assert baseline["bytes"] == first.bytes
    assert "0.25 of the baseline (4 ms)" in text_of(report)
    assert report.original is None
    saved = tmp_path / "old.keras"
    classifier().save(saved)
    again = export_litert(
        classifier(), tmp_path / "m.tflite", baseline=saved, evaluate=(x, y)
    )
    assert again.references["baseline"]["accuracy"] == again.accuracy
    # As many weights are no share of an original.
    assert dict(again.rows())["parameters"] == "943"


@converts
def test_a_baseline_that_takes_something_else_is_refused(tmp_path):
    other = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    old = tmp_path / "old.tflite"
    export_litert(other, old)
    with pytest.raises(ValueError, match="The baseline must take what the mod"):
        export_litert(
            classifier(),
            tmp_path / "m.tflite",
            baseline=old,
            evaluate=labelled(),
        )
    assert not (tmp_path / "m.tflite").exists()


@converts
def test_a_sparse_file_has_a_dense_twin_on_request(tmp_path):
    model = classifier(zeros=0.9)
    path, twin = tmp_path / "m.tflite", tmp_path / "m.dense.tflite"
    report = export_litert(model, path, sparse=True, dense_twin=True)
    assert report.sparse_tensors and report.dense_twin == str(twin)
    assert f"dense twin: {twin}" in report.remarks()
    assert twin.stat().st_size == report.dense_bytes
    stored = LiteRTFile(twin.read_bytes())
    assert not any(weight.sparse for weight in stored.weights())
    x, _ = labelled(5)
    np.testing.assert_allclose(
        outputs_of(twin, x), outputs_of(path, x), atol=1e-6
    )


# ---- reports ---------------------------------------------------------------


@pytest.mark.backend_free
def test_reports_of_other_versions_are_read():
    earlier = {
        "path": "m.tflite",
        "format": "litert",
        "precision": "int8",
        "bytes": 300,
        "compressed_bytes": 200,
        "max_difference": 0.0,
        "compared_with": "the dense int8 export",
        "dense_bytes": 400,
        "dense_compressed_bytes": 350,
        "sparse_tensors": ["a"],
        "blocked_tensors": [],
        "dense_tensors": {},
        "repairs": [],
        "latency_ratio": 0.5,
        "notes": ["a note"],
    }
    report = ExportReport.from_dict(earlier)
    assert report.latency_ms is None and report.references == {}
    text = text_of(report)
    assert "300, 0.750 of 400 dense" in text and "0.50, of dense" in text
    later = {**report.to_dict(), "of_another_version": 1}
    assert ExportReport.from_dict(later) == report


@converts
def test_a_batch_size_of_one_is_calibrated_on_many_samples(tmp_path):
    inputs = keras.Input((8,), batch_size=1)
    model = keras.Model(inputs, layers.Dense(4, "softmax")(inputs))
    x = np.random.default_rng(0).normal(size=(200, 8)).astype("float32")
    x[0] *= 0.01  # the range of this one alone would clip all others
    y = np.argmax(x @ model.get_weights()[0], -1)
    path = tmp_path / "model.tflite"
    report = export_litert(model, path, x, "int8", evaluate=(x, y))
    assert report.accuracy > 0.9
    # A last batch that is not full is filled up.
    inputs = keras.Input((8,), batch_size=4)
    model = keras.Model(inputs, layers.Dense(4, "softmax")(inputs))
    export_litert(model, path, x[:6], "int8")
    filled = signature.inputs_for(model, x[:2])
    np.testing.assert_array_equal(filled, x[[0, 1, 1, 1]])
    # A fixed batch is made of as many different samples as it holds.
    one = signature.inputs_for(model, x, 2)
    np.testing.assert_array_equal(one, x[:4])


@converts
def test_inputs_of_a_baseline_are_told_apart_or_refused(tmp_path):
    def two(first, second, *shapes):
        names = first, second
        a, b = (keras.Input(s, name=n) for s, n in zip(shapes, names))
        keras.utils.set_random_seed(0)
        hidden = layers.Concatenate()([layers.Dense(3)(a), b])
        return keras.Model([a, b], layers.Dense(4, "softmax")(hidden))

    rng = np.random.default_rng(0)
    old, new = tmp_path / "old.tflite", tmp_path / "new.tflite"
    export_litert(two("z", "y", (5,), (2,)), old)
    model = two("a", "b", (5,), (2,))
    x = [rng.normal(size=(40, n)).astype("float32") for n in (5, 2)]
    y = np.argmax(keras.ops.convert_to_numpy(model(x)), -1)
    report = export_litert(model, new, evaluate=(x, y), baseline=old)
    assert report.accuracy == report.references["baseline"]["accuracy"] == 1.0
    export_litert(two("z", "y", (5,), (5,)), old)
    x = [rng.normal(size=(40, 5)).astype("float32") for _ in range(2)]
    with pytest.raises(ValueError, match="must name them.*y, z.*for.*a, b"):
        export_litert(
            two("a", "b", (5,), (5,)), new, evaluate=(x, y), baseline=old
        )
