"""Tests that a smaller model goes on to ONNX."""

import sys

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_app.export import export_onnx
from keras_app.export import fresh_process
from keras_app.export import shrink

onnxruntime = pytest.importorskip("onnxruntime")
# What Keras converts with, on each backend.
CONVERTERS = {"tensorflow": "tf2onnx", "jax": "jax2onnx", "torch": "onnx"}
pytest.importorskip(CONVERTERS[keras.backend.backend()])

# Of the converters.
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("done_here"),
]


@pytest.fixture(autouse=True)
def _arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)  # tf2onnx reads it


def network():
    """A residual network of which half of the channels are dead."""
    inputs = keras.Input((8, 8, 3), name="image")
    # Its constants must not become inputs of the file.
    x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[0.5] * 3)(inputs)
    x = layers.Conv2D(32, 3, activation="relu", name="stem")(x)
    y = layers.Conv2D(32, 3, padding="same", use_bias=False, name="body")(x)
    y = layers.BatchNormalization(name="norm")(y)
    x = layers.Add()([x, layers.ReLU()(y)])
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(5, name="logits")(x))
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.uniform(0.2, 0.8, weight.shape))
    dead = {"stem": ["kernel", "bias"], "body": ["kernel"]}
    dead["norm"] = ["gamma", "beta"]
    for name, attributes in dead.items():
        for attribute in attributes:
            variable = getattr(model.get_layer(name), attribute)
            value = ops.convert_to_numpy(variable).copy()
            value[..., ::2] = 0
            variable.assign(value)
    return model


def random(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def assert_same(received, expected):
    expected = ops.convert_to_numpy(expected)
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(received, expected, rtol=0, atol=tolerance)


def test_a_smaller_model_gives_its_outputs_in_onnx_runtime(tmp_path, elsewhere):
    model = network()
    smaller = shrink(model)
    assert smaller.count_params() < 0.3 * model.count_params()
    path = tmp_path / "model.onnx"
    report = export_onnx(smaller, path)
    assert report.max_difference <= 1e-5
    assert report.bytes == path.stat().st_size < 2 * model.count_params()
    session = onnxruntime.InferenceSession(path)
    (spec,) = session.get_inputs()
    assert spec.name == "image"
    # The batch size stays free.
    for images in (random(1, 8, 8, 3), random(5, 8, 8, 3)):
        (outputs,) = session.run(None, {"image": images})
        assert_same(outputs, model(images, training=False))


def test_inputs_and_outputs_keep_the_models_order(tmp_path):
    z, a = keras.Input((3,), name="z"), keras.Input((3,), name="a")
    total = layers.Subtract()([z, layers.Dense(3, use_bias=False)(a)])
    model = keras.Model([z, a], [total, layers.Dense(2)(z)])
    samples = [random(4, 3), 2 * random(4, 3)]
    path = tmp_path / "model.onnx"
    assert export_onnx(model, path, data=samples).max_difference <= 1e-5
    session = onnxruntime.InferenceSession(path)
    outputs = session.run(None, dict(zip(("z", "a"), samples)))
    for received, expected in zip(outputs, model(samples), strict=True):
        assert_same(received, expected)


def test_more_than_ten_outputs_keep_their_order(tmp_path):
    x = keras.Input((3,), name="x")
    model = keras.Model(x, [layers.Dense(i + 1)(x) for i in range(12)])
    path = tmp_path / "model.onnx"
    export_onnx(model, path)
    shapes = [
        each.shape[1]
        for each in onnxruntime.InferenceSession(path).get_outputs()
    ]
    assert shapes == list(range(1, 13))


def test_layers_that_augment_data_pass_them_on(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.RandomFlip("horizontal"),
            layers.RandomContrast(0.5),
            layers.GaussianNoise(1.0),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    path = tmp_path / "model.onnx"
    assert export_onnx(model, path).max_difference <= 1e-5
    images = random(4, 8, 8, 3)
    (outputs,) = onnxruntime.InferenceSession(path).run(None, {"image": images})
    kernel, bias = model.get_weights()[-2:]
    assert_same(outputs, images.reshape(4, -1) @ kernel + bias)


def test_half_precision_is_computed_in_float32(tmp_path):
    model = keras.Sequential([keras.Input((8,), name="x")])
    for dtype in ("mixed_float16", "bfloat16", "float32"):
        model.add(layers.Dense(8, dtype=dtype))
    path = tmp_path / "model.onnx"
    report = export_onnx(model, path)
    assert any("and in float32 in the file" in note for note in report.notes)
    expected = x = random(4, 8)
    for layer in model.layers:
        kernel = ops.convert_to_numpy(ops.cast(layer.kernel, "float32"))
        expected = expected @ kernel
    (outputs,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    assert outputs.dtype == np.float32
    assert_same(outputs, expected)
    assert model.layers[0].compute_dtype == "float16"


def test_a_class_of_a_script_is_exported(tmp_path):
    class Local(layers.Layer):
        def call(self, x):
            return 2 * x

    model = keras.Sequential([keras.Input((3,), name="x"), Local()])
    path = tmp_path / "model.onnx"
    export_onnx(model, path)
    x = random(2, 3)
    assert_same(
        onnxruntime.InferenceSession(path).run(None, {"x": x})[0], 2 * x
    )


def test_states_that_go_from_call_to_call_are_refused(tmp_path):
    x = keras.Input((5, 4), batch_size=1)
    model = keras.Model(x, layers.GRU(2, stateful=True)(x))
    with pytest.raises(ValueError, match="an ONNX file has no states. Set"):
        export_onnx(model, tmp_path / "model.onnx")


def test_what_cannot_be_converted_is_one_sentence(tmp_path):
    x = keras.Input((6, 6))
    outputs = layers.Lambda(lambda x: ops.svd(x)[1], name="strange")(x)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"what was here before")
    with pytest.raises(ValueError, match="does not take.*Nothing") as caught:
        export_onnx(keras.Model(x, outputs), path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert "Express it by other operations" in str(caught.value)
    assert path.read_bytes() == b"what was here before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_crash_is_an_error(tmp_path, elsewhere, monkeypatch):
    monkeypatch.setattr(fresh_process, "_PROGRAM", "import os; os.abort()")
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="crashed: it was ended by SIGABRT"):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
