"""Tests of LiteRT files: what is stored, mended, refused and reported."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import keras_app
from keras_app.export import export_litert
from keras_app.export import ExportReport
from keras_app.export import fresh_process
from keras_app.export import saved_model
from keras_app.export.litert import conversion
from keras_app.export.litert import fast_path
from keras_app.export.litert import timing
from keras_app.export.litert.file import LiteRTFile
from keras_app.export.litert.request import Request
from tests.helpers import turns

BACKEND = keras.backend.backend()
# On the others each conversion costs the start of a TensorFlow process; one
# test there goes that way, and the rest would repeat this one.
converts = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the converter runs on TensorFlow"
)

pytestmark = pytest.mark.usefixtures("done_here")

PATTERNS = {
    "single": lambda rng, shape: rng.random(shape) < 0.2,
    "blocks of 4": lambda rng, shape: blocks(rng, shape, 4),
    "blocks of 16": lambda rng, shape: blocks(rng, shape, 16),
    "channels": lambda rng, shape: np.broadcast_to(
        np.arange(shape[-1]) % 4 == 0, shape
    ),
}


def blocks(rng, shape, size):
    kept = rng.random((shape[0] // size, shape[1])) < 0.2
    return np.repeat(kept, size, axis=0)


def draw(model, pattern):
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        if len(weight.shape) > 1:
            values = 0.2 * rng.standard_normal(weight.shape)
            weight.assign(values * PATTERNS[pattern](rng, weight.shape))
    return model


def mlp(pattern="single"):
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(128, activation="relu", name="first"),
            layers.Dense(32, name="second"),
        ]
    )
    return draw(model, pattern)


def convolutions(pattern="single"):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.DepthwiseConv2D(3),
            layers.Conv2DTranspose(16, 3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(8),
        ]
    )
    return draw(model, pattern)


def samples(model, count=40):
    rng = np.random.default_rng(1)
    return rng.standard_normal((count, *model.input_shape[1:])).astype(
        "float32"
    )


def run(path, x):
    """The file's outputs for the samples `x`, by the runtime alone."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    place = interpreter.get_input_details()[0]["index"]
    result = interpreter.get_output_details()[0]["index"]
    outputs = []
    for each in x:
        interpreter.set_tensor(place, each[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(result)[0])
    return np.array(outputs)


def of_largest(received, expected):
    return np.abs(received - expected).max() / np.abs(expected).max()


def test_every_backend_writes_a_file_that_computes_what_the_model_does(
    tmp_path, elsewhere
):
    model = mlp("blocks of 4")
    path = tmp_path / "model.tflite"
    report = export_litert(model, path)
    x = samples(model, 5)
    expected = keras.ops.convert_to_numpy(model(x))
    assert of_largest(run(path, x), expected) < 1e-5
    assert len(report.blocked_tensors) == 2
    assert report.bytes == path.stat().st_size < 0.35 * report.dense_bytes
    assert report.max_difference < 1e-5
    stored = json.loads((tmp_path / "model.tflite.report.json").read_text())
    assert ExportReport.from_dict(stored) == report
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.tflite",
        "model.tflite.report.json",
    ]


# (pattern, precision): sparse weights, those in blocks, repairs.
DENSE_CELLS = {
    ("single", None): (2, 0, 0),
    ("single", "float16"): (2, 0, 0),
    ("single", "int8"): (0, 0, 2),
    ("blocks of 4", None): (2, 2, 0),
    ("blocks of 4", "float16"): (2, 0, 2),
    ("blocks of 4", "int8"): (0, 0, 2),
    ("blocks of 16", None): (2, 2, 0),
    ("blocks of 16", "int8"): (2, 2, 0),
    ("channels", "float16"): (2, 0, 2),
    ("channels", "int8"): (2, 2, 0),
}


@converts
@pytest.mark.parametrize(("pattern", "precision"), DENSE_CELLS)
def test_no_dense_kernel_is_stored_as_the_runtime_cannot_read_it(
    pattern, precision, tmp_path
):
    model = mlp(pattern)
    data = samples(model)
    path = tmp_path / "model.tflite"
    report = export_litert(model, path, data, quantize=precision)
    found = (
        len(report.sparse_tensors),
        len(report.blocked_tensors),
        len(report.repairs),
    )
    assert found == DENSE_CELLS[pattern, precision]
    expected = keras.ops.convert_to_numpy(model(data))
    limit = {None: 1e-5, "float16": 5e-3, "int8": 0.1}[precision]
    assert of_largest(run(path, data), expected) < limit


@converts
@pytest.mark.parametrize(
    ("pattern", "precision"),
    [("single", None), ("channels", "float16"), ("single", "int8")],
)
def test_convolutions_are_stored_sparse_at_every_precision(
    pattern, precision, tmp_path
):
    model = convolutions(pattern)
    data = samples(model)
    path = tmp_path / "model.tflite"
    report = export_litert(model, path, data, precision, sparse=True)
    assert len(report.sparse_tensors) >= 3
    # So few weights of one byte each do not pay for their positions.
    assert precision == "int8" or report.bytes < report.dense_bytes
    expected = keras.ops.convert_to_numpy(model(data))
    limit = {None: 1e-5, "float16": 5e-3, "int8": 0.1}[precision]
    assert of_largest(run(path, data), expected) < limit


@converts
def test_the_converters_own_file_gives_nan_where_ours_is_mended(tmp_path):
    # If a later converter or runtime is right here, the repair can go.
    model = mlp("blocks of 4")
    x = samples(model, 1)
    saved_model.write(model, tmp_path / "saved", [[1, 64]])
    path = tmp_path / "raw.tflite"
    path.write_bytes(
        conversion.convert(
            str(tmp_path / "saved"), Request({"x": x}, 1, "float16"), True
        )
    )
    assert np.isnan(run(path, samples(model, 1))).any()


@converts
@pytest.mark.parametrize("pattern", PATTERNS)
def test_decoded_weights_are_those_of_the_model(pattern, tmp_path):
    model = mlp(pattern)
    path = tmp_path / "model.tflite"
    export_litert(model, path, sparse=True)
    weights = LiteRTFile(path.read_bytes()).weights()
    assert all(weight.sparse for weight in weights)
    kernels = {
        weight.values.shape: weight.values.T for weight in weights
    }  # LiteRT stores (out, in)
    for name, shape in {"first": (128, 64), "second": (32, 128)}.items():
        kernel = keras.ops.convert_to_numpy(model.get_layer(name).kernel)
        np.testing.assert_array_equal(kernels[shape], kernel)


@converts
@pytest.mark.parametrize("mend", ["store_dense", "store_unblocked"])
@pytest.mark.parametrize("pattern", ["single", "blocks of 4"])
def test_mending_changes_how_weights_are_stored_not_what_they_are(
    mend, pattern, tmp_path
):
    model = mlp(pattern)
    path = tmp_path / "model.tflite"
    export_litert(model, path, sparse=True)
    file = LiteRTFile(path.read_bytes())
    before = [weight.values for weight in file.weights()]
    for weight in file.weights():
        getattr(file, mend)(weight)
    path.write_bytes(file.to_bytes())
    after = LiteRTFile(path.read_bytes()).weights()
    assert {weight.sparse for weight in after} == {mend == "store_unblocked"}
    assert {weight.block for weight in after} == {0}
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new.values)
    x = samples(model, 3)
    expected = keras.ops.convert_to_numpy(model(x))
    assert of_largest(run(path, x), expected) < 1e-5


@converts
def test_a_sparse_float_weight_takes_five_bytes_for_each_that_is_kept(tmp_path):
    model = keras.Sequential([keras.Input((200,)), layers.Dense(1000)])
    draw(model, "single")
    report = export_litert(model, tmp_path / "model.tflite")
    kept = np.count_nonzero(keras.ops.convert_to_numpy(model.layers[0].kernel))
    # A byte for each position, four for each of 1,001 row pointers, and a few
    # thousand bytes for the graph and the bias.
    assert 5 * kept < report.bytes < 5 * kept + 4 * 1001 + 4 * 1000 + 4000


@converts
def test_what_the_converter_encodes_wrongly_is_stored_dense(tmp_path):
    model = keras.Sequential([keras.Input((30,)), layers.Dense(40)])
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((30, 40)) * (rng.random((30, 40)) < 0.03)
    model.layers[0].kernel.assign(kernel)
    report = export_litert(model, tmp_path / "model.tflite")
    assert report.sparse_tensors == ()
    assert "holds other numbers; stored dense" in " ".join(report.repairs)
    file = LiteRTFile((tmp_path / "model.tflite").read_bytes())
    [stored] = file.weights()
    np.testing.assert_array_equal(stored.values, kernel.T.astype("float32"))


@converts
def test_auto_stores_dense_what_would_grow(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 16)), layers.Conv2D(16, 3)])
    kernel = model.layers[0].kernel
    rng = np.random.default_rng(0)
    kernel.assign(
        rng.standard_normal(kernel.shape) * (rng.random(kernel.shape) < 0.6)
    )
    data = samples(model)
    forced = export_litert(
        model, tmp_path / "forced.tflite", data, "int8", sparse=True
    )
    chosen = export_litert(model, tmp_path / "auto.tflite", data, "int8")
    assert forced.bytes > forced.dense_bytes == chosen.bytes
    assert chosen.sparse_tensors == ()
    assert list(chosen.dense_tensors.values()) == [
        "its zeros are too few to save bytes"
    ]


@converts
def test_masked_weights_are_zero_in_the_file(tmp_path):
    model = mlp()
    for layer in model.layers:
        layer.kernel.assign(keras.ops.ones_like(layer.kernel))
    model.compile("adam", "mse")
    pruner = keras_app.pruners.MagnitudePruner(
        schedule=keras_app.schedules.OneShot(0.75), on_miss="raise"
    )
    x = samples(model, 32)
    model.fit(x, np.zeros((32, 32)), callbacks=[pruner], verbose=0)
    path = tmp_path / "model.tflite"
    export_litert(model, path)
    counts = sorted(
        np.count_nonzero(w.values)
        for w in LiteRTFile(path.read_bytes()).weights()
    )
    assert counts == [1024, 2048]


@converts
def test_inputs_and_outputs_keep_their_names_and_order(tmp_path):
    image = keras.Input((8,), name="image")
    extra = keras.Input((4,), name="extra")
    merged = layers.Concatenate()([layers.Dense(6)(extra), image])
    outputs = [layers.Dense(i + 1)(merged) for i in range(11)]
    model = keras.Model({"image": image, "extra": extra}, outputs)
    rng = np.random.default_rng(0)
    data = {
        "image": rng.standard_normal((3, 8)).astype("float32"),
        "extra": rng.standard_normal((3, 4)).astype("float32"),
    }
    path = tmp_path / "model.tflite"
    export_litert(model, path, data)
    runner = Interpreter(str(path)).get_signature_runner()
    found = runner(image=data["image"][:1], extra=data["extra"][:1])
    expected = model({name: x[:1] for name, x in data.items()})
    for i, each in enumerate(expected):
        each = keras.ops.convert_to_numpy(each)
        np.testing.assert_allclose(found[f"output_{i}"], each, rtol=1e-4)


@converts
def test_samples_of_another_type_become_what_the_model_takes(tmp_path):
    model = mlp()
    path = tmp_path / "model.tflite"
    export_litert(model, path, samples(model).astype("float64"))
    (place,) = Interpreter(str(path)).get_input_details()
    assert place["dtype"] == np.float32


@converts
def test_dynamic_is_written_dense_and_says_why(tmp_path):
    report = export_litert(mlp(), tmp_path / "m.tflite", quantize="dynamic")
    assert report.sparse_tensors == ()
    assert any("wrong numbers" in note for note in report.notes)
    assert report.bytes == report.dense_bytes


@converts
def test_dead_channels_are_pointed_at(tmp_path):
    report = export_litert(mlp("channels"), tmp_path / "m.tflite")
    assert any(
        "96 channels are dead" in note and "shrink" in note
        for note in report.notes
    )


@converts
def test_a_report_without_speed_says_so_and_why(tmp_path):
    report = export_litert(convolutions(), tmp_path / "m.tflite", sparse=True)
    text = " ".join(str(report).split())
    assert "of dense" in text
    if report.latency_ratio >= 0.95:
        assert "sparsity brings no speed on this machine" in text
    assert "stride 2" in text  # the rule that fails on ARM


# ---- refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "int4"}, "`quantize` must be one of None, 'float16'"),
        ({"sparse": "yes"}, "`sparse` must be 'auto', True or False"),
        ({"sparse": 1}, "`sparse` must be 'auto', True or False"),
        (
            {"quantize": "dynamic", "sparse": True},
            "wrong numbers.*Use 'int8'",
        ),
        ({"quantize": "int8"}, "`data` must hold sample inputs"),
        ({"data": np.full((2, 64), np.nan)}, "`data` must hold numbers"),
    ],
)
def test_what_cannot_be_right_is_refused_before_converting(
    arguments, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        export_litert(mlp(), tmp_path / "m.tflite", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="folder that exists.*nowhere"):
        export_litert(mlp(), tmp_path / "nowhere" / "m.tflite")


def test_a_crash_is_an_error_that_names_the_combination(
    tmp_path, elsewhere, monkeypatch
):
    monkeypatch.setattr(fresh_process, "_PROGRAM", "import os; os.abort()")
    model = keras.Sequential([keras.Input((5, 4)), layers.LSTM(2)])
    path = tmp_path / "m.tflite"
    path.write_bytes(b"what was here before")
    with pytest.raises(
        ValueError,
        match="crashed: it was ended by SIGABRT.*'int8' with LSTM.*Choose",
    ):
        export_litert(model, path, np.ones((2, 5, 4)), "int8")
    assert path.read_bytes() == b"what was here before"
    assert list(tmp_path.iterdir()) == [path]


def test_states_that_go_from_call_to_call_are_refused(tmp_path):
    x = keras.Input((5, 4), batch_size=1)
    model = keras.Model(x, layers.GRU(2, stateful=True)(x))
    with pytest.raises(ValueError, match="a LiteRT file has no states. Set"):
        export_litert(model, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


@converts
def test_strings_are_refused_with_the_way_out(tmp_path):
    x = keras.Input((1,), dtype="string")
    model = keras.Model(x, layers.StringLookup(vocabulary=["a"])(x))
    with pytest.raises(ValueError, match="takes strings. Cut it"):
        export_litert(model, tmp_path / "m.tflite")


def test_a_missing_runtime_is_named_before_the_conversion(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(ImportError, match="pip install ai-edge-litert"):
        export_litert(mlp(), tmp_path / "m.tflite")


@pytest.mark.backend_free
def test_the_package_works_where_litert_is_not():
    program = (
        "import sys; sys.modules['ai_edge_litert'] = None; import keras_app; "
        "print(keras_app.export.export_litert.__name__)"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "export_litert\n")


@converts
def test_sparse_true_without_zeros_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64)])
    with pytest.raises(ValueError, match="no weight has enough zeros"):
        export_litert(model, tmp_path / "m.tflite", sparse=True)
    with pytest.raises(ValueError, match="reads int8 in blocks of 16 only"):
        model = mlp()
        export_litert(
            model, tmp_path / "m.tflite", samples(model), "int8", sparse=True
        )
    assert list(tmp_path.iterdir()) == []


@converts
def test_operations_that_the_runtime_lacks_are_named(tmp_path):
    inputs = keras.Input((6,))
    outputs = layers.Lambda(keras.ops.erfinv, name="strange")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(outputs))
    with pytest.raises(
        ValueError,
        match="cannot compute Erfinv of layer strange. Express it by other",
    ) as caught:
        export_litert(model, tmp_path / "m.tflite", np.full((2, 6), 0.5))
    assert "loc(" not in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@converts
def test_recurrent_layers_go_to_int8_unrolled(tmp_path, elsewhere):
    # In the process that converts, loops would be its end.
    inputs = keras.Input((4, 8))
    images = layers.Reshape((4, 8, 1))(inputs)
    both = layers.Bidirectional(layers.GRU(4), merge_mode="sum")(inputs)
    found = [
        layers.LSTM(4, name="lstm")(inputs),
        both,
        layers.SimpleRNN(4, go_backwards=True)(layers.Masking()(inputs)),
        layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)])(inputs),
        layers.Flatten()(layers.ConvLSTM1D(2, 3)(images)),
    ]
    model = keras.Model(inputs, layers.Concatenate()(found))
    data = samples(model)
    path = tmp_path / "m.tflite"
    report = export_litert(model, path, data, "int8")
    expected = keras.ops.convert_to_numpy(model(data))
    assert of_largest(run(path, data), expected) < 0.1
    (note,) = [note for note in report.notes if "unrolled" in note]
    assert "lstm" in note and "forward_gru" in note and "conv_lstm1d" in note
    assert not model.get_layer("lstm").unroll


@converts
@pytest.mark.parametrize("layer", [layers.LSTM, layers.GRU])
def test_recurrent_layers_keep_their_loop_in_floats(layer, tmp_path):
    dropout = {"dropout": 0.5, "recurrent_dropout": 0.5}
    model = keras.Sequential([keras.Input((5, 4)), layer(8, **dropout)])
    report = export_litert(model, tmp_path / "m.tflite")
    assert report.max_difference < 1e-5
    names = LiteRTFile((tmp_path / "m.tflite").read_bytes()).operation_names()
    assert "WHILE" in names


@converts
@pytest.mark.parametrize("precision", [None, "float16", "dynamic", "int8"])
def test_every_float_type_is_computed_in_float32(precision, tmp_path):
    types = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16")
    model = keras.Sequential([keras.Input((8,))])
    for dtype in (*types, "float64", "float32"):
        model.add(layers.Dense(8, dtype=dtype))
    data = samples(model)
    path = tmp_path / "m.tflite"
    report = export_litert(model, path, data, precision)
    expected = data.astype("float64")
    for layer in model.layers:
        kernel = keras.ops.convert_to_numpy(
            keras.ops.cast(layer.kernel, "float32")
        )
        expected = expected @ kernel
    limit = 0.1 if precision in ("int8", "dynamic") else 5e-3
    assert of_largest(run(path, data), expected) < limit
    assert any("and in float32 in the file" in note for note in report.notes)
    assert model.layers[0].dtype_policy.name == "mixed_float16"
    assert {layer.compute_dtype for layer in model.layers} == {
        *("float16", "bfloat16", "float32", "float64")
    }


@converts
def test_auto_compares_whole_files(tmp_path):
    keras.utils.set_random_seed(0)
    stack = [
        layers.Conv1D(16, 3, padding="causal", dilation_rate=rate)
        for rate in (1, 2, 4)
    ]
    model = keras.Sequential([keras.Input((64, 4)), *stack])
    draw(model, "single")
    report = export_litert(
        model, tmp_path / "m.tflite", samples(model, 8), "int8"
    )
    assert report.sparse_tensors == () and report.latency_ratio is None
    assert report.bytes == report.dense_bytes
    assert (tmp_path / "m.tflite").stat().st_size == report.bytes
    forced = export_litert(
        model, tmp_path / "f.tflite", samples(model, 8), "int8", sparse=True
    )
    assert forced.bytes > forced.dense_bytes


@converts
def test_a_slower_file_says_so_and_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "take_turns", turns(2.4, 1.0, 3.0, spread=0.0))
    model = mlp("blocks of 16")
    report = export_litert(model, tmp_path / "m", samples(model), "int8")
    assert (
        "slower than dense int8 here, 2.4 times the time: for speed export "
        "with sparse=False"
    ) in report.notes


@converts
def test_a_free_length_needs_data(tmp_path):
    model = keras.Sequential([keras.Input((None, 4)), layers.Conv1D(8, 3)])
    with pytest.raises(ValueError, match="inputs of free length"):
        export_litert(model, tmp_path / "m.tflite")
    export_litert(model, tmp_path / "m.tflite", np.ones((2, 9, 4), "float32"))
    shape = Interpreter(str(tmp_path / "m.tflite")).get_input_details()[0]
    assert list(shape["shape"]) == [1, 9, 4]


@converts
def test_a_file_that_differs_from_the_model_is_not_written(
    tmp_path, monkeypatch
):
    model = mlp()
    path = tmp_path / "model.tflite"
    path.write_bytes(b"what was here before")
    whole = saved_model.write

    def broken(model, *args):
        model.layers[0].bias.assign(np.ones(128))
        return whole(model, *args)

    monkeypatch.setattr(saved_model, "write", broken)
    with pytest.raises(ValueError, match="must give the outputs of the model"):
        export_litert(model, path)
    assert path.read_bytes() == b"what was here before"


@converts
def test_lost_zeros_are_an_error(tmp_path, monkeypatch):
    model = mlp()
    whole = saved_model.write

    def leaking(model, *args):
        kernel = model.layers[0].kernel
        kernel.assign(kernel + 1e-12 * np.ones(kernel.shape))
        return whole(model, *args)

    monkeypatch.setattr(saved_model, "write", leaking)
    with pytest.raises(ValueError, match="Zeros were lost: .* 8192 entries"):
        export_litert(model, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


# ---- sparse 1x1 convolutions on ARM and WebAssembly ------------------------


def mobile(
    stem=2,
    expand=1,
    head=layers.GlobalAveragePooling2D,
    zeros=0.8,
):
    """A network that qualifies, unless an argument spoils it."""
    x = inputs = keras.Input((17, 17, 3))
    x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(16, 3, strides=stem)(x)
    x = layers.Conv2D(32, expand, activation="relu6")(x)
    x = layers.ZeroPadding2D(1)(x)
    x = layers.DepthwiseConv2D(3, strides=2)(x)
    x = layers.Conv2D(16, 1)(x)
    x = head()(x)
    model = keras.Model(inputs, layers.Dense(4)(x))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if getattr(layer, "kernel_size", None) == (1, 1):
            kernel = layer.kernel
            kept = np.arange(np.prod(kernel.shape)) % 100 >= 100 * zeros
            values = rng.uniform(0.1, 1, kernel.shape)
            kernel.assign(values * rng.permutation(kept).reshape(kernel.shape))
    return model


@converts
@pytest.mark.parametrize(
    ("spoiled", "rule"),
    [
        ({}, None),
        ({"stem": 1}, "stride 2 on 3 channels"),
        ({"expand": 3}, "only 1x1 of stride 1 may"),
        ({"head": layers.Flatten}, "RESHAPE lies between"),
        ({"zeros": 0.5}, "more than 2/3"),
    ],
)
def test_the_rule_that_keeps_convolutions_dense_on_arm(spoiled, rule, tmp_path):
    path = tmp_path / "m.tflite"
    export_litert(mobile(**spoiled), path)
    found = fast_path.failing_rule(LiteRTFile(path.read_bytes()))
    if rule is None:
        assert found is None
    else:
        assert rule in found


@converts
def test_padding_same_at_stride_2_does_not_qualify(tmp_path):
    # An even length, which Keras pads on one side only.
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, strides=2, padding="same")(x)
    x = layers.Conv2D(16, 1)(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    path = tmp_path / "m.tflite"
    export_litert(model, path)
    found = fast_path.failing_rule(LiteRTFile(path.read_bytes()))
    assert "padded by 1 on all sides" in found


def test_words_for_a_model_of_numbers_are_refused(tmp_path):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    data = np.array([["a", "b"]])
    with pytest.raises(ValueError, match="`data` must hold .*Received: <U1"):
        export_litert(model, tmp_path / "words.tflite", data=data)


@converts
def test_an_output_near_zero_is_judged_by_the_largest_of_all(tmp_path):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.set_weights([np.array([[0.1], [-0.3]]), np.zeros(1)])
    # Outputs -0.00003 and 0.9; halves of the weights are off by 0.0001.
    x = np.array([[3.0, 1.0001], [9.0, 0.0]], "float32")
    path = tmp_path / "near.tflite"
    report = export_litert(model, path, data=x, quantize="float16")
    assert 1e-5 < report.max_difference < 1e-3
