"""Tests of the copy that carries no trace of pruning but its zeros."""

import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_app import masks_of
from keras_app.export import shrink
from keras_app.export import strip_pruning
from keras_app.pruners import MagnitudePruner
from keras_app.pruners import STE
from keras_app.schedules import ConstantSparsity
from keras_app.schedules import OneShot


def chain(shape, *stack):
    """A functional model: its paths do not begin with the model's name."""
    x = inputs = keras.Input(shape)
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x)


def data(model, size=16):
    generator = np.random.default_rng(2)
    x = generator.standard_normal((size, *model.input_shape[1:]))
    y = generator.standard_normal((size, *model.output_shape[1:]))
    return x.astype("float32"), y.astype("float32")


def pruned(model):
    """Trains `model` a little, half of it pruned."""
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(
        *data(model), verbose=0, callbacks=[MagnitudePruner(OneShot(0.5))]
    )
    return model


def network():
    return chain(
        (6, 6, 2),
        layers.Conv2D(4, 3, name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.Dropout(0.5),
        layers.Flatten(),
        layers.Dense(3, name="dense"),
    )


def outputs(model):
    return ops.convert_to_numpy(model(data(model)[0], training=False))


def assert_same(copy, model):
    assert copy is not model
    assert len(copy.weights) == len(model.weights)
    for new, old in zip(copy.weights, model.weights):
        assert new is not old
        # Keras may change the path: `mlp/a/kernel` becomes `a/kernel`.
        assert new.name == old.name
        np.testing.assert_array_equal(
            ops.convert_to_numpy(new), ops.convert_to_numpy(old)
        )
    np.testing.assert_array_equal(outputs(copy), outputs(model))


def test_the_copy_has_the_weights_and_outputs_and_nothing_else():
    model = pruned(network())
    copy = strip_pruning(model)
    assert_same(copy, model)
    kernel = ops.convert_to_numpy(copy.get_layer("dense").kernel)
    assert np.count_nonzero(kernel == 0) == 96
    assert masks_of(copy) == {}
    # Each has weights of its own.
    copy.get_layer("dense").kernel.assign(np.ones(kernel.shape))
    original = ops.convert_to_numpy(model.get_layer("dense").kernel)
    assert np.count_nonzero(original == 0) == 96


def test_the_original_goes_on_training_under_its_masks():
    model = pruned(network())
    old = masks_of(model)
    strip_pruning(model)
    assert model.compiled
    model.fit(*data(model), verbose=0)
    for path, mask in masks_of(model).items():
        np.testing.assert_array_equal(mask, old[path])
    kernel = ops.convert_to_numpy(model.get_layer("dense").kernel)
    assert not kernel[~old["dense/kernel"]].any()
    assert kernel[old["dense/kernel"]].all()


def test_the_copy_trains_dense():
    copy = strip_pruning(pruned(network()))
    copy.compile(keras.optimizers.Adam(0.01), "mse")
    copy.fit(*data(copy), verbose=0)
    kernel = ops.convert_to_numpy(copy.get_layer("dense").kernel)
    assert kernel.all()


@pytest.mark.parametrize("export", [strip_pruning, shrink])
def test_weights_that_came_back_are_zeroed_with_a_warning(export):
    model = pruned(network())
    kernel = model.get_layer("dense").kernel
    kernel.assign(np.ones(kernel.shape))
    said = "96 pruned weights .* were not zero .*'dense/kernel': 96"
    with pytest.warns(RuntimeWarning, match=said):
        copy = export(model).get_layer("dense").kernel
    for each in (copy, kernel):
        assert np.count_nonzero(ops.convert_to_numpy(each)) == 96


@pytest.mark.parametrize(
    "pruner",
    [
        MagnitudePruner(OneShot(0.5)),
        # What it prunes trains on, beside the kernel.
        STE(ConstantSparsity(0.5, 0, frequency=1)),
        # It never comes to prune.
        MagnitudePruner(OneShot(0.5, step=100), on_miss="ignore"),
    ],
)
def test_nothing_is_warned_of_while_the_masks_hold(pruner):
    model = chain((4,), layers.Dense(3))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(*data(model), verbose=0, callbacks=[pruner])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        copy = strip_pruning(model)
    assert_same(copy, model)


def test_the_copy_of_a_compiled_model_is_not_compiled():
    # A compiled copy would write an optimizer into its file, perhaps one of
    # this package.
    model = network()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    assert not strip_pruning(model).compiled


def test_a_model_compiled_with_functions_of_ones_own_is_copied():
    def loss(y, outputs):
        return ops.mean(ops.abs(y - outputs))

    model = network()
    model.compile("sgd", loss, metrics=[lambda y, outputs: ops.max(outputs)])
    assert_same(strip_pruning(model), model)


def test_a_model_that_was_never_pruned_is_copied():
    model = network()
    assert_same(strip_pruning(model), model)


def test_frozen_layers_stay_frozen():
    model = network()
    model.get_layer("conv").trainable = False
    copy = strip_pruning(pruned(model))
    assert not copy.get_layer("conv").trainable
    assert_same(copy, model)


def test_sequential_models():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(6), layers.Dense(2)]
    )
    copy = strip_pruning(pruned(model))
    assert type(copy) is keras.Sequential
    assert_same(copy, model)


def test_nested_models():
    inner = chain((4,), layers.Dense(6, name="a"), layers.Dense(4, name="b"))
    model = chain((4,), inner, layers.Dense(2, name="c"))
    assert_same(strip_pruning(pruned(model)), model)


def test_shared_layers_stay_shared():
    shared = layers.Dense(4, name="shared")
    x = keras.Input((4,))
    model = pruned(keras.Model(x, layers.Dense(2)(shared(shared(x)))))
    copy = strip_pruning(model)
    assert len(copy.weights) == 4
    assert_same(copy, model)


@keras.saving.register_keras_serializable(package="test_strip")
class Subclassed(keras.Model):
    def __init__(self, width=5, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.hidden = layers.Dense(width, name="hidden")
        self.last = layers.Dense(2, name="last")

    def call(self, x):
        return self.last(self.hidden(x))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def test_subclassed_models_with_a_config():
    model = Subclassed(7)
    x, y = np.ones((4, 3), "float32"), np.ones((4, 2), "float32")
    model(x)
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0, callbacks=[MagnitudePruner(OneShot(0.5))])
    copy = strip_pruning(model)
    assert type(copy) is Subclassed
    for new, old in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert sum(np.count_nonzero(w == 0) for w in copy.get_weights()[::2]) == 17


def test_subclassed_models_without_a_config_are_refused_with_the_way_out():
    class Mute(keras.Model):
        def __init__(self, width):
            super().__init__()
            self.last = layers.Dense(width)

        def call(self, x):
            return self.last(x)

    model = Mute(2)
    model(np.ones((1, 3), "float32"))
    with pytest.raises(
        ValueError, match="(?s)Mute cannot be copied.*get_config"
    ):
        strip_pruning(model)


@pytest.mark.backend_free
def test_the_file_loads_where_this_package_is_not_installed(tmp_path):
    model = pruned(network())
    copy = strip_pruning(model)
    copy.save(tmp_path / "model.keras")
    x, _ = data(model)
    np.savez(tmp_path / "vectors.npz", x=x, y=outputs(model))
    program = """
        import sys

        # An import of it fails, even where it is installed.
        sys.modules["keras_app"] = None
        import keras
        import numpy as np

        model = keras.saving.load_model("model.keras")
        vectors = np.load("vectors.npz")
        y = keras.ops.convert_to_numpy(model(vectors["x"], training=False))
        np.testing.assert_allclose(y, vectors["y"], rtol=1e-5, atol=1e-6)
        kernel = keras.ops.convert_to_numpy(model.get_layer("dense").kernel)
        assert np.count_nonzero(kernel == 0) == 96
        print("loaded")
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("loaded\n")
