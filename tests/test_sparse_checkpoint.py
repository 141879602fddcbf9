"""Tests of the compressed checkpoint, with a second reader of its format."""

import gzip
import hashlib
import json
import os
import random
import re
import struct
import subprocess
import sys
import textwrap
import warnings

import keras
import ml_dtypes
import numpy as np
import pytest
import zstandard
from keras import layers
from keras import ops

from keras_app import masks_of
from keras_app.export import load_sparse
from keras_app.export import save_sparse
from keras_app.export.sparse import export_sparse
from keras_app.optimizers import AdaBreg
from keras_app.optimizers import ContinuousSparsification
from keras_app.pruners import MagnitudePruner
from keras_app.regularizers import L1
from keras_app.schedules import OneShot
from keras_app.schedules import PolynomialDecay
from tests.helpers import KERAS
from tests.models import chain
from tests.models import Mute


def network(optimizer=None):
    keras.utils.set_random_seed(3)
    model = chain(
        (4,),
        layers.Dense(6, activation="relu", name="a"),
        layers.BatchNormalization(name="norm"),
        # Without a seed Keras draws from PyTorch's global generator.
        layers.Dropout(0.2, seed=4),
        layers.Dense(3, name="b"),
    )
    if optimizer is not None:
        model.compile(optimizer, "mse")
    return model


def fit(model, *callbacks):
    generator = np.random.default_rng(2)
    x = generator.standard_normal((16, *model.input_shape[1:]))
    y = generator.standard_normal((16, *model.output_shape[1:]))
    model.fit(
        x.astype("float32"),
        y.astype("float32"),
        batch_size=8,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    return model


def pruner():
    schedule = PolynomialDecay(0.2, 0.7, 0, 4, frequency=1)
    return MagnitudePruner(schedule, on_miss="ignore")


def bits(variable):
    array = ops.convert_to_numpy(variable)
    return str(array.dtype), array.shape, array.tobytes()


def everything(model):
    found = [bits(v) for v in model.variables]
    if model.compiled:
        found += [bits(v) for v in model.optimizer.variables]
    return found


def round_trip(model, tmp_path, **arguments):
    save_sparse(model, tmp_path / "model.sparse", **arguments)
    return load_sparse(tmp_path / "model.sparse")


# ---- what comes back -------------------------------------------------------


def adabreg():
    return AdaBreg(0.01, regularizers=L1(0.05))


def loss_scaled():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))


@pytest.mark.parametrize(
    "policy, optimizer, prunes",
    [
        ("float32", lambda: keras.optimizers.Adam(0.01), True),
        ("mixed_float16", loss_scaled, True),
        ("float32", adabreg, False),
        ("float32", lambda: ContinuousSparsification(0.1), False),
    ],
    ids=["adam", "loss_scale", "adabreg", "continuous"],
)
def test_training_goes_on_bit_for_bit(tmp_path, policy, optimizer, prunes):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        callbacks = [pruner()] if prunes else []
        model = fit(network(optimizer()), *callbacks)
        loaded = round_trip(model, tmp_path)
        assert type(loaded.optimizer) is type(model.optimizer)
        assert everything(loaded) == everything(model)
        assert len(masks_of(model)) == 2 * prunes
        for each in (model, loaded):
            fit(each, *([pruner()] if prunes else []))
        assert everything(loaded) == everything(model)
        for path, mask in masks_of(model).items():
            np.testing.assert_array_equal(masks_of(loaded)[path], mask)
            assert 0 < np.count_nonzero(mask) < mask.size
    finally:
        keras.config.set_dtype_policy(before)


def test_without_the_optimizer_it_starts_afresh_under_its_masks(tmp_path):
    model = fit(network(keras.optimizers.Adam(0.25)), pruner())
    loaded = round_trip(model, tmp_path, optimizer=False)
    assert [bits(v) for v in loaded.variables] == [
        bits(v) for v in model.variables
    ]
    for path, mask in masks_of(model).items():
        np.testing.assert_array_equal(masks_of(loaded)[path], mask)
    state = loaded.optimizer.variables
    assert int(ops.convert_to_numpy(loaded.optimizer.iterations)) == 0
    assert float(ops.convert_to_numpy(loaded.optimizer.learning_rate)) == 0.25
    momenta = [v for v in state if v.name.endswith("momentum")]
    assert len(momenta) == 6
    assert not any(ops.convert_to_numpy(v).any() for v in momenta)


def test_an_uncompiled_model_comes_back_uncompiled(tmp_path):
    model = network()
    loaded = round_trip(model, tmp_path)
    assert not loaded.compiled
    assert everything(loaded) == everything(model)
    assert masks_of(loaded) == {}


def test_a_model_that_was_never_trained_comes_back_compiled(tmp_path):
    model = network("adam")
    assert not model.optimizer.built
    loaded = round_trip(model, tmp_path)
    assert isinstance(loaded.optimizer, keras.optimizers.Adam)
    assert [bits(v) for v in loaded.variables] == [
        bits(v) for v in model.variables
    ]


def test_state_that_is_no_variable_comes_back(tmp_path):
    # Its mean is computed from its variables, when Keras loads them.
    norm = layers.Normalization()
    norm.adapt(np.asarray([[1.0, 5.0], [3.0, 9.0]], "float32"))
    loaded = round_trip(chain((2,), norm), tmp_path)
    y = ops.convert_to_numpy(loaded(np.asarray([[1.0, 9.0]], "float32")))
    np.testing.assert_allclose(y, [[-1.0, 1.0]], rtol=1e-6)


def test_masks_find_their_weights_where_keras_changes_paths(tmp_path):
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="a")], name="mlp"
    )
    model = keras.Sequential(
        [keras.Input((4,)), inner, layers.Dense(4, name="a")], name="outer"
    )
    model.compile("sgd", "mse")
    fit(model, MagnitudePruner(OneShot(0.75)))
    loaded = round_trip(model, tmp_path)
    old, new = list(masks_of(model).values()), list(masks_of(loaded).values())
    assert len(old) == 2 and (old[0] != old[1]).any()
    np.testing.assert_array_equal(new, old)
    fit(loaded)  # without the pruner
    kernels = [w for w in loaded.get_weights() if w.ndim == 2]
    assert [np.count_nonzero(kernel) for kernel in kernels] == [4, 4]


@keras.saving.register_keras_serializable(package="test_sparse_checkpoint")
class Holder(layers.Layer):
    """Variables of any dtype, and one without entries."""

    def build(self, shape):
        self.held = [
            self.add_weight(
                shape=(2, 8), dtype=dtype, trainable=False, initializer="zeros"
            )
            for dtype in VALUES
        ]
        self.nothing = self.add_weight(shape=(0, 3), initializer="zeros")
        self.scalar = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return x


# Zeros of both signs, numbers of both, infinity, NaN with a message, subnormal.
VALUES = {
    "float32": np.array(
        [0, 1 << 31, 0x3F800000, 0xBF800000, 0x7F800000, 0x7FC01234, 1, 0],
        "u4",
    ).view("f4"),
    "float16": np.array(
        [0, 1 << 15, 0x3C00, 0xBC00, 0x7C00, 0x7E12, 1, 0], "u2"
    ).view("f2"),
    "bfloat16": np.array(
        [0, 1 << 15, 0x3F80, 0xBF80, 0x7F80, 0x7FD2, 1, 0], "u2"
    ).view(ml_dtypes.bfloat16),
    "int8": np.array([0, -128, 127, -1, 1, 0, 0, 2], "i1"),
    "uint8": np.array([0, 255, 127, 0, 1, 0, 0, 2], "u1"),
    "int32": np.array([0, -(2**31), 2**31 - 1, 256, 1, 0, 0, 2], "i4"),
    "bool": np.array([0, 1, 1, 0, 1, 0, 0, 0], "?"),
}


def holder():
    model = chain((2,), Holder(name="holder"))
    for variable, values in zip(
        model.get_layer("holder").held, VALUES.values()
    ):
        variable.assign(np.stack([values, np.zeros_like(values)]))
    return model


def test_every_bit_of_every_dtype_comes_back(tmp_path):
    model = holder()
    loaded = round_trip(model, tmp_path)
    assert everything(loaded) == everything(model)
    held = loaded.get_layer("holder").held
    for variable, (dtype, values) in zip(held, VALUES.items()):
        name, shape, data = bits(variable)
        assert (name, shape) == (dtype, (2, 8))
        if dtype == "bfloat16" and keras.backend.backend() == "torch":
            # Keras takes a detour over float32, and a NaN loses its message.
            values = values.copy()
            values[5] = np.frombuffer(data, values.dtype)[5]
            assert np.isnan(values[5])
        assert data == values.tobytes() + bytes(values.nbytes)


@keras.saving.register_keras_serializable(package="test_sparse_checkpoint")
class Subclassed(keras.Model):
    def __init__(self, width=5, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.hidden = layers.Dense(width)
        self.last = layers.Dense(2)

    def call(self, x):
        return self.last(self.hidden(x))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def test_subclassed_models_with_a_config(tmp_path):
    model = Subclassed(7)
    model(np.ones((1, 3), "float32"))
    loaded = round_trip(model, tmp_path)
    assert type(loaded) is Subclassed
    assert everything(loaded) == everything(model)


# ---- classes with a `compile` of their own ---------------------------------


@keras.saving.register_keras_serializable(package="test_sparse_checkpoint")
class Defaults(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)

    def compile(self, optimizer="adam", loss="mse", **kwargs):
        super().compile(optimizer, loss, **kwargs)


@keras.saving.register_keras_serializable(package="test_sparse_checkpoint")
class Renamed(Defaults):
    def compile(self, how, criterion):
        super().compile(how, criterion)


@keras.saving.register_keras_serializable(package="test_sparse_checkpoint")
class Another(Defaults):
    def compile(self, optimizer="sgd"):
        super().compile(keras.optimizers.Adam(0.5), "mae")


@keras.saving.register_keras_serializable(package="test_sparse_checkpoint")
class Configured(Defaults):
    def compile(self, rate):
        super().compile(keras.optimizers.Adam(rate), "mse")
        self.rate = rate

    def get_compile_config(self):
        return {"rate": self.rate}

    def compile_from_config(self, config):
        self.compile(config["rate"])


@keras.saving.register_keras_serializable(package="test_sparse_checkpoint")
class Adversarial(Defaults):
    def compile(self, first, second, factor=1.0):
        super().compile(loss="mse")
        self.first, self.second, self.factor = first, second, factor


@keras.saving.register_keras_serializable(package="test_sparse_checkpoint")
class Weighted(Defaults):
    def compile(self, optimizer="adam", loss="mse", factor=1.0):
        super().compile(optimizer, loss)
        self.factor = factor


def half_pruned(kind, *arguments, **named):
    model = kind()
    model.build((None, 8))
    model.compile(*arguments, **named)
    x = np.random.default_rng(2).standard_normal((16, 8), "float32")
    callbacks = [MagnitudePruner(OneShot(0.5))]
    model.fit(x, x[:, :3], shuffle=False, verbose=0, callbacks=callbacks)
    return model, x


def assert_same_masks(loaded, model):
    [mask], [old] = (masks_of(each).values() for each in (loaded, model))
    assert np.count_nonzero(mask) == 12
    np.testing.assert_array_equal(mask, old)


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize(
    "kind, arguments, said",
    [
        (Defaults, (), None),
        (Defaults, (keras.optimizers.SGD, "mae"), None),
        (Configured, (0.125,), None),
        (Renamed, (keras.optimizers.SGD, "mae"), "Renamed.*was not called"),
        # With Keras 3.14 it is called, and comes to the same.
        (
            Another,
            (),
            "Another.compile was not called" if KERAS >= (3, 15) else None,
        ),
    ],
)
def test_a_class_with_its_own_compile_goes_on_training(
    tmp_path, kind, arguments, said, keeps
):
    arguments = [
        each(0.25, momentum=0.5) if isinstance(each, type) else each
        for each in arguments
    ]
    model, x = half_pruned(kind, *arguments)
    save_sparse(model, tmp_path / "x", optimizer=keeps)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_sparse(tmp_path / "x")
    found = [m for m in (str(w.message) for w in caught) if "compile" in m]
    assert len(found) == bool(said)
    assert not said or re.search(said, found[0])
    assert type(loaded) is kind
    assert type(loaded.optimizer) is type(model.optimizer)
    assert loaded.loss == model.loss
    assert_same_masks(loaded, model)
    if not keeps:
        assert int(ops.convert_to_numpy(loaded.optimizer.iterations)) == 0
        return
    assert everything(loaded) == everything(model)
    for each in (model, loaded):
        each.fit(x, x[:, :3], shuffle=False, verbose=0)
    assert everything(loaded) == everything(model)
    assert_same_masks(loaded, model)


@pytest.mark.parametrize("keeps", [True, False])
def test_masks_wait_for_a_compile_that_no_file_can_repeat(tmp_path, keeps):
    def optimizers():
        return keras.optimizers.Adam(), keras.optimizers.Adam()

    model, _ = half_pruned(Adversarial, *optimizers())
    save_sparse(model, tmp_path / "x", optimizer=keeps)
    with pytest.warns(UserWarning, match="Adversarial.compile was not called"):
        loaded = load_sparse(tmp_path / "x")
    assert_same_masks(loaded, model)
    for new, old in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    loaded.compile(*optimizers(), factor=2.0)
    assert loaded.factor == 2
    assert_same_masks(loaded, model)
    # Once more is up to the user, as for any model.
    loaded.compile(*optimizers())
    assert masks_of(loaded) == {}


def test_what_compile_was_given_and_no_file_holds_is_named(tmp_path):
    model, _ = half_pruned(Weighted, factor=3.0)
    save_sparse(model, tmp_path / "x")
    with pytest.warns(UserWarning, match="was called without factor, which"):
        loaded = load_sparse(tmp_path / "x")
    assert everything(loaded) == everything(model)
    loaded.compile(factor=3.0)
    assert_same_masks(loaded, model)


def test_a_model_that_keras_never_compiled_comes_back(tmp_path):
    @keras.saving.register_keras_serializable(package="test_sparse_checkpoint")
    class Alone(Defaults):
        def compile(self, optimizer):
            self.mine = optimizer

    model = Alone()
    model.build((None, 8))
    model.compile("sgd")
    loaded = round_trip(model, tmp_path)
    assert not loaded.compiled
    assert everything(loaded) == everything(model)


# ---- what is refused -------------------------------------------------------


def test_subclassed_models_without_a_config_are_refused(tmp_path):
    model = Mute(2)
    model(np.ones((1, 3), "float32"))
    with pytest.raises(ValueError, match="(?s)Mute cannot be.*get_config"):
        save_sparse(model, tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_what_has_no_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be built: early has no weights"):
        save_sparse(
            keras.Sequential([layers.Dense(2)], name="early"), tmp_path / "x"
        )
    with pytest.raises(TypeError, match="must be a keras.Model.*Dense"):
        save_sparse(layers.Dense(2), tmp_path / "x")


def test_layers_frozen_after_compiling_are_refused(tmp_path):
    model = network("adam")
    model.optimizer.build(model.trainable_variables)
    model.get_layer("a").trainable = False
    with pytest.raises(ValueError, match="Compile the model again"):
        save_sparse(model, tmp_path / "x")
    loaded = round_trip(model, tmp_path, optimizer=False)
    assert not loaded.get_layer("a").trainable


def test_an_unknown_class_is_said_with_the_file(tmp_path):
    class Passing(layers.Layer):
        def call(self, x):
            return x

    path = tmp_path / "model.sparse"
    save_sparse(chain((2,), Passing()), path)
    with pytest.raises(ValueError, match="(?s)model.sparse is whole.*Passing"):
        load_sparse(path)


@keras.saving.register_keras_serializable(package="test_sparse_checkpoint")
class Forgetful(keras.Model):
    """Its configuration does not say how wide it is, or that a seed is used."""

    def __init__(self, width=2, seeded=False, **kwargs):
        super().__init__(**kwargs)
        self.last = layers.Dense(width)
        if seeded:
            self.drop = layers.Dropout(0.5, seed=1)

    def build(self, shape):
        self.last.build(shape)

    def call(self, x):
        return self.last(x)

    def get_config(self):
        return {}


@pytest.mark.parametrize("arguments", [{"width": 3}, {"seeded": True}])
def test_what_does_not_come_back_is_refused_and_the_old_file_stays(
    tmp_path, arguments
):
    model = Forgetful(**arguments)
    model.build((None, 4))
    path = tmp_path / "model.sparse"
    path.write_bytes(b"old")
    for write in (save_sparse, export_sparse):
        with pytest.raises(ValueError, match="Forgetful .*no file was made"):
            write(model, path)
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["model.sparse"]


@keras.saving.register_keras_serializable(package="test_sparse_checkpoint")
class Scrambled(layers.Dense):
    def load_own_variables(self, store):
        super().load_own_variables(store)
        self.kernel.assign(self.kernel * 2)


def test_other_numbers_than_were_written_are_noticed(tmp_path):
    model = chain((2,), Scrambled(2))
    with pytest.raises(
        ValueError, match="does not come back.*no file was made"
    ):
        save_sparse(model, tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_code_in_a_file_is_run_only_on_request(tmp_path):
    def loss(y, outputs):
        return ops.mean(ops.abs(y - outputs))

    model = chain((2,), layers.Lambda(lambda x: 2 * x), layers.Dense(2))
    model.compile("sgd", loss)
    save_sparse(model, tmp_path / "x")
    with pytest.raises(ValueError, match="(?s)x is whole.*safe_mode=False"):
        load_sparse(tmp_path / "x")
    with keras.saving.custom_object_scope({"loss": loss}):
        loaded = load_sparse(tmp_path / "x", safe_mode=False)
    x = np.ones((1, 2), "float32")
    np.testing.assert_array_equal(
        ops.convert_to_numpy(loaded(x)), ops.convert_to_numpy(model(x))
    )


def test_saving_does_not_change_the_random_numbers_of_a_run(tmp_path):
    model = network("adam")
    random.seed(5)
    expected = random.random()
    random.seed(5)
    save_sparse(model, tmp_path / "x")
    assert random.random() == expected


def test_a_missing_file_and_a_missing_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.sparse"):
        load_sparse(tmp_path / "nowhere.sparse")
    with pytest.raises(OSError, match="nowhere"):
        save_sparse(network(), tmp_path / "nowhere" / "x.sparse")


def test_damage_anywhere_is_noticed(tmp_path):
    path = tmp_path / "broken.sparse"
    save_sparse(chain((2,), layers.Dense(1)), path)
    data = path.read_bytes()
    assert len(data) < 4000

    def assert_refused(damaged):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="broken.sparse (is|has)"):
            load_sparse(path)

    for place in (*range(64), *range(64, len(data), 5)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        assert_refused(flipped)
    for length in range(0, len(data), 11):
        assert_refused(data[:length])
    assert_refused(data + b"\0")


def test_files_of_others_and_of_the_future_are_refused(tmp_path):
    path = tmp_path / "model.sparse"
    network().save(tmp_path / "model.keras")
    os.rename(tmp_path / "model.keras", path)
    with pytest.raises(ValueError, match="model.sparse is no sparse check"):
        load_sparse(path)
    path.write_bytes(sealed(b"whatever comes", version=2))
    with pytest.raises(ValueError, match="model.sparse has format 2.*format 1"):
        load_sparse(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.sparse"
    path.write_bytes(b"old")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_sparse(network(), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.sparse"]


# ---- the format, written and read once more --------------------------------


def sealed(body, version=1):
    number = struct.pack("<I", version)
    digest = hashlib.sha256(number + body).digest()
    return b"KSPARSE\n" + number + digest + body


def opened(path):
    """`(description, packed arrays)` of a file."""
    data = path.read_bytes()
    assert data == sealed(data[44:])
    data = zstandard.ZstdDecompressor().decompress(data[44:])
    (length,) = struct.unpack("<Q", data[:8])
    described = json.loads(data[8 : 8 + length])
    packed, start = [], 8 + length
    for *_, size in described["arrays"]:
        packed.append(data[start : start + size])
        start += size
    assert start == len(data)
    return described, packed


def test_a_file_holds_bits_and_non_zeros_or_all_entries(tmp_path):
    model = chain((4,), layers.Dense(2, use_bias=True, name="d"))
    kernel = np.zeros((4, 2), "float32")
    kernel[0, 1], kernel[3, 0] = -2.0, 1.0
    model.get_layer("d").set_weights([kernel, np.array([3.0, 0.5], "f4")])
    save_sparse(model, tmp_path / "x")
    described, packed = opened(tmp_path / "x")
    weights = described["weights"]
    assert list(weights) == ["layers/dense/vars/0", "layers/dense/vars/1"]
    index = weights["layers/dense/vars/0"][0]
    assert described["arrays"][index] == ["<f4", [4, 2], True, 9]
    # Entries 1 and 6 of 8; then byte by byte -2 (c0000000), 1 (3f800000).
    assert packed[index] == bytes([0b01000010, 0, 0, 0, 0, 0, 0x80, 0xC0, 0x3F])
    index = weights["layers/dense/vars/1"][0]
    assert described["arrays"][index] == ["<f4", [2], False, 8]
    # 3 (40400000), 0.5 (3f000000).
    assert packed[index] == bytes([0, 0, 0, 0, 0x40, 0, 0x40, 0x3F])


def test_a_file_made_by_hand_is_read(tmp_path):
    model = chain((4,), layers.Dense(2, use_bias=False, name="d"))
    model.compile(keras.optimizers.SGD(0.5), "mse")
    config = keras.saving.serialize_keras_object(model)
    text = json.dumps(config).encode()
    kernel = bytes([0b01000010, 0, 0, 0, 0, 0, 0x80, 0xC0, 0x3F])
    described = {
        "versions": {},
        "optimizer": False,
        "groups": {},
        "weights": {"layers/dense/vars/0": [1, {}]},
        "masks": {"mask_0": 2, "shape_0": 3},
        "seeds": [],
        "files": {"config.json": 0, "metadata.json": 4},
        "arrays": [
            ["|u1", [len(text)], False, len(text)],
            ["<f4", [4, 2], True, 9],
            ["|u1", [1], False, 1],
            ["<i8", [2], False, 16],
            ["|u1", [2], False, 2],
        ],
    }
    path = tmp_path / "by_hand.sparse"

    def write():
        header = json.dumps(described).encode()
        # The shape by significance: 4, 2, then the upper bytes of both.
        arrays = text + kernel + bytes([0b01100010, 4, 2, *14 * [0]]) + b"{}"
        data = struct.pack("<Q", len(header)) + header + arrays
        path.write_bytes(sealed(zstandard.ZstdCompressor().compress(data)))

    write()
    loaded = load_sparse(path)
    expected = [[0, -2], [0, 0], [0, 0], [1, 0]]
    np.testing.assert_array_equal(loaded.get_weights()[0], expected)
    (mask,) = masks_of(loaded).values()
    np.testing.assert_array_equal(mask, [[0, 1], [1, 0], [0, 0], [1, 0]])
    # Keras would only warn that the optimizer's state is not there.
    described["optimizer"] = True
    write()
    with pytest.raises(ValueError, match="(?s)by_hand.*Skipping variable"):
        load_sparse(path)
    described["files"]["../outside"] = 0
    write()
    with pytest.raises(ValueError, match="leaves the folder: ../outside"):
        load_sparse(path)


def test_a_file_written_on_another_backend_is_read(tmp_path):
    other = "tensorflow" if keras.backend.backend() == "jax" else "jax"
    program = """
        import keras
        import numpy as np

        from keras_app import enforcement
        from keras_app.export import save_sparse

        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(2, name="d", dtype="bfloat16"),
                keras.layers.Dropout(0.5, seed=1),
            ]
        )
        model.get_layer("d").kernel.assign(np.arange(8).reshape(4, 2))
        model.get_layer("d").bias.assign([7, 9])
        model.compile(keras.optimizers.Adam(), "mse")
        kernel = model.get_layer("d").kernel
        state = enforcement.attach(model, [kernel])
        state.set([(kernel, np.arange(8).reshape(4, 2) > 5)])
        model.optimizer.iterations.assign(5)
        save_sparse(model, "model.sparse")
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": other, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    described, _ = opened(tmp_path / "model.sparse")
    assert described["versions"]["backend"] == other
    loaded = load_sparse(tmp_path / "model.sparse")
    kernel, bias = loaded.get_layer("d").get_weights()
    assert str(kernel.dtype) == "bfloat16"
    expected = [[0, 0], [0, 0], [0, 0], [6, 7]]
    np.testing.assert_array_equal(kernel.astype("float32"), expected)
    np.testing.assert_array_equal(bias.astype("float32"), [7, 9])
    np.testing.assert_array_equal(
        masks_of(loaded)["d/kernel"], np.asarray(expected) != 0
    )
    assert int(ops.convert_to_numpy(loaded.optimizer.iterations)) == 5


def test_nine_zeros_of_ten_make_a_file_of_a_tenth(tmp_path):
    keras.utils.set_random_seed(0)
    model = chain((300,), layers.Dense(300, name="d"))
    kernel = model.get_layer("d").kernel
    zeroed = ops.convert_to_numpy(kernel).copy()
    zeroed[np.random.default_rng(0).random(zeroed.shape) < 0.9] = 0
    kernel.assign(zeroed)
    model.save(tmp_path / "model.keras")
    save_sparse(model, tmp_path / "model.sparse")
    raw = (tmp_path / "model.keras").read_bytes()
    size = (tmp_path / "model.sparse").stat().st_size
    assert size < 0.11 * len(raw)
    assert size < 0.8 * len(gzip.compress(raw))
