"""Files for microcontrollers, run by TensorFlow Lite Micro if it is installed.

Its package is `tflite-micro`.
"""

import re

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from keras_app.experiments import models
from keras_app.export import export_litert

micro = pytest.importorskip(
    "tflite_micro.python.tflite_micro.runtime",
    reason="TensorFlow Lite Micro is not installed",
)
pytestmark = [
    pytest.mark.usefixtures("done_here"),
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow",
        reason="the converter runs on TensorFlow",
    ),
]


def convolutions():
    return [
        keras.Input((16, 16, 3)),
        layers.Conv2D(8, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(16, 3),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(4, activation="softmax"),
    ]


def mobile():
    stack = [keras.Input((32, 32, 3)), layers.Conv2D(8, 3, strides=2)]
    for channels, stride in ((16, 1), (32, 2)):
        stack += [
            layers.DepthwiseConv2D(3, strides=stride, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(6),
            layers.Conv2D(channels, 1),
        ]
    return [*stack, layers.GlobalAveragePooling2D(), layers.Dense(5)]


def recurrent():
    return [keras.Input((6, 8)), layers.LSTM(8), layers.Dense(3)]


def attention():
    x = keras.Input((12, 16))
    y = layers.MultiHeadAttention(2, 8)(x, x)
    y = layers.LayerNormalization()(layers.Add()([x, y]))
    y = layers.GlobalAveragePooling1D()(y)
    return keras.Model(x, layers.Dense(4)(y))


NETWORKS = {
    "convolutions": lambda: keras.Sequential(convolutions()),
    "mobile": lambda: keras.Sequential(mobile()),
    "recurrent": lambda: keras.Sequential(recurrent()),
    "attention": attention,
    "resnet20": lambda: models.resnet20((28, 28, 1), 10),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_files_run_there_with_the_ram_that_the_report_says(
    network, tmp_path, capfd
):
    keras.utils.set_random_seed(0)
    model = NETWORKS[network]()
    rng = np.random.default_rng(0)
    data = rng.standard_normal((32, *model.input_shape[1:]), "float32")
    path = tmp_path / "m.tflite"
    report = export_litert(model, path, data, target="micro")
    there = micro.Interpreter.from_file(str(path), arena_size=1 << 20)
    here = Interpreter(str(path))
    here.allocate_tensors()
    [place], [result] = here.get_input_details(), here.get_output_details()
    for _ in range(8):
        x = rng.integers(-128, 128, place["shape"], dtype=np.int8)
        here.set_tensor(place["index"], x)
        here.invoke()
        there.set_input(x, 0)
        there.invoke()
        expected = here.get_tensor(result["index"]).astype(int)
        # Of 255 steps: XNNPACK rounds otherwise here and there.
        assert np.abs(there.get_output(0) - expected).max() <= 2
    capfd.readouterr()
    there.print_allocations()
    [planned] = re.findall(r"head (\d+) bytes", "".join(capfd.readouterr()))
    # Its planner leaves gaps, and kernels scratch.
    assert 1 <= int(planned) / report.activation_bytes < 1.5
