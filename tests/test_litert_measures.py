"""Tests of what is measured on LiteRT files: time and memory."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_app.export import export_litert
from keras_app.export.litert import memory
from keras_app.export.litert import timing

converts = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="the converter runs on TensorFlow",
)
pytestmark = pytest.mark.usefixtures("done_here")


def written(path, inputs, outputs, **options):
    export_litert(keras.Model(inputs, outputs), path, **options)
    return path.read_bytes()


@converts
def test_the_peak_of_a_chain_is_its_largest_neighbours(tmp_path):
    x = keras.Input((10,))
    y = layers.Dense(4)(layers.Dense(30)(layers.Dense(20)(x)))
    content = written(tmp_path / "m.tflite", x, y)
    # 20 and 30 numbers of 4 bytes, while the second layer computes; all
    # layers are without activation, which would be fused anyway.
    assert memory.peak_activations(content) == 4 * (20 + 30)


@converts
def test_a_shortcut_keeps_its_tensor_alive(tmp_path):
    x = keras.Input((10,))
    a = layers.Dense(20)(x)
    b = layers.Dense(20)(layers.Dense(30)(a))
    content = written(tmp_path / "m.tflite", x, layers.Add()([a, b]))
    # While the third layer computes: 30 read, 20 written, 20 for the sum.
    assert memory.peak_activations(content) == 4 * (30 + 20 + 20)


@converts
@pytest.mark.parametrize("quantize", [None, "float16"])
def test_unpacked_weights_are_no_activations(quantize, tmp_path):
    x = keras.Input((8, 8, 4))
    conv = layers.Conv2D(16, 3)
    model = keras.Model(x, conv(x))
    rng = np.random.default_rng(0)
    shape = conv.kernel.shape
    conv.kernel.assign(rng.standard_normal(shape) * (rng.random(shape) < 0.1))
    path = tmp_path / "m.tflite"
    report = export_litert(model, path, quantize=quantize, sparse=True)
    assert report.sparse_tensors
    found = memory.peak_activations(path.read_bytes())
    assert found == 4 * (8 * 8 * 4 + 6 * 6 * 16)


@converts
def test_int8_counts_single_bytes_between_its_float_ends(tmp_path):
    x = keras.Input((10,))
    y = layers.Dense(4)(layers.Dense(30)(layers.Dense(20)(x)))
    data = np.random.default_rng(0).random((8, 10), "float32")
    content = written(tmp_path / "m.tflite", x, y, data=data, quantize="int8")
    # 20 and 30 bytes; less than 10 floats and their 10 bytes at the start.
    assert memory.peak_activations(content) == 50


@converts
def test_files_are_timed_in_turns(tmp_path):
    contents = []
    for size in (8, 2048):
        x = keras.Input((size,))
        path = tmp_path / f"{size}.tflite"
        contents.append(written(path, x, layers.Dense(size)(x)))
    small, large = timing.time_files(
        [contents[0], tmp_path / "2048.tflite"], rounds=7, threads=2
    )
    assert (small.rounds, small.threads, large.rounds) == (7, 2, 7)
    assert 0 < 20 * small.median_ms < large.median_ms
    assert small.spread_ms >= 0


@converts
def test_no_round_begins_after_the_time_is_up_except_three(tmp_path):
    x = keras.Input((8,))
    content = written(tmp_path / "m.tflite", x, layers.Dense(8)(x))
    [found] = timing.time_files([content], rounds=1000, seconds=0.0)
    assert found.rounds == 3


def test_what_is_no_file_of_litert_is_refused(elsewhere):
    with pytest.raises(ValueError, match="runtime does not load the file"):
        timing.time_files([b"no model at all, but long enough"])
