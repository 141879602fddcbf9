"""Tests of the copy that carries no trace of pruning but its zeros."""

import functools
import random
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
from keras_app.export import merge_lora
from keras_app.export import shrink
from keras_app.export import strip_pruning
from keras_app.optimizers import LinBreg
from keras_app.pruners import MagnitudePruner
from keras_app.pruners import STE
from keras_app.regularizers import GroupL2
from keras_app.regularizers import L1
from keras_app.regularizers import SparseGroup
from keras_app.schedules import ConstantSparsity
from keras_app.schedules import OneShot
from tests.models import chain
from tests.models import Mute


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
    model = Mute(2)
    model(np.ones((1, 3), "float32"))
    with pytest.raises(
        ValueError, match="(?s)Mute cannot be copied.*get_config"
    ):
        strip_pruning(model)


# ---- what is no weight -----------------------------------------------------


def times(factor):
    return lambda x: factor * ops.relu(x)


class Shifted(layers.Layer):
    """A layer that nobody registered, with a layer and a function in it."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self._function = function
        self.norm = layers.Normalization()

    def call(self, x):
        return self._function(self.norm(x))

    def get_config(self):
        function = keras.saving.serialize_keras_object(self._function)
        return {**super().get_config(), "function": function}

    @classmethod
    def from_config(cls, config):
        function = keras.saving.deserialize_keras_object(config["function"])
        return cls(**{**config, "function": function})


def adapted(layer, values):
    layer.adapt(np.asarray(values))
    return layer


def normalization():
    return adapted(layers.Normalization(), [[1.0, 5.0], [3.0, 9.0]])


def shifted():
    layer = Shifted(lambda x: x + 10)
    layer.norm.adapt(np.asarray([[1.0, 5.0], [3.0, 9.0]]))
    return [layer]


# Name: layers, inputs, and outputs by hand.
HELD = {
    "normalization": (lambda: [normalization()], [[1.0, 9.0]], [[-1, 1]]),
    "nested": (
        lambda: [chain((2,), normalization(), layers.Dropout(0.5))],
        [[1.0, 9.0]],
        [[-1, 1]],
    ),
    "wrapped": (
        lambda: [
            layers.Reshape((1, 2)),
            layers.TimeDistributed(normalization()),
            layers.Flatten(),
        ],
        [[1.0, 9.0]],
        [[-1, 1]],
    ),
    "discretization": (
        lambda: [
            adapted(
                layers.Discretization(num_bins=2, output_mode="multi_hot"),
                [[0.0], [1.0], [10.0], [11.0]],
            )
        ],
        [[-1.0, -2.0], [11.0, 10.0]],
        [[1, 0], [0, 1]],
    ),
    "lookup": (
        lambda: [
            adapted(layers.IntegerLookup(output_mode="count"), [[5], [5], [7]])
        ],
        [[7, 7], [9, 5]],
        [[0, 0, 2], [1, 1, 0]],
    ),
    "lambdas": (
        lambda: [layers.Lambda(times(2)), layers.Lambda(times(3))],
        [[1.0, -2.0]],
        [[6, 0]],
    ),
    "partial": (
        lambda: [layers.Lambda(functools.partial(ops.clip, x_min=0, x_max=3))],
        [[5.0, -2.0]],
        [[3, 0]],
    ),
    "activation": (
        lambda: [
            layers.Dense(2, "linear", kernel_initializer="identity"),
            layers.Dense(2, times(4), kernel_initializer="identity"),
        ],
        [[1.0, -2.0]],
        [[4, 0]],
    ),
    "unregistered": (shifted, [[1.0, 9.0]], [[9, 11]]),
}


def merged(model):
    model.layers[-1].enable_lora(1)
    return merge_lora(model)


def shrunk(model):
    return shrink(model, data=np.ones((2, *model.input_shape[1:])))


@pytest.mark.parametrize("export", [strip_pruning, merged, shrunk])
@pytest.mark.parametrize("case", HELD)
def test_copies_compute_with_all_that_layers_hold(case, export):
    make, x, expected = HELD[case]
    expected = np.asarray(expected, "float32")
    last = layers.Dense(expected.shape[1], kernel_initializer="identity")
    dtype = "int64" if case == "lookup" else None
    x = np.asarray(x, dtype or "float32")
    inputs = y = keras.Input(x.shape[1:], dtype=dtype)
    for layer in (*make(), last):
        y = layer(y)
    model = keras.Model(inputs, y)
    copy = export(model)
    for each in (model, copy):
        y = ops.convert_to_numpy(each(x))
        np.testing.assert_allclose(y, expected)
    assert not {id(v) for v in copy.variables} & {
        id(v) for v in model.variables
    }


def test_functions_are_the_same_afterwards():
    layer = layers.Lambda(times(2))
    function = layer.function
    copy = strip_pruning(chain((2,), layer, layers.Dense(1)))
    assert layer.function is function is copy.layers[1].function
    assert vars(layer).get("get_compile_config") is None


def test_functions_of_subclassed_models_and_of_calls_are_kept():
    class Model(keras.Model):
        def __init__(self, factor, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor
            self.inner = [layers.Lambda(times(factor)), normalization()]

        def call(self, x):
            return self.inner[1](self.inner[0](x))

        def get_config(self):
            return {**super().get_config(), "factor": self.factor}

    model = Model(3)
    x = np.asarray([[1.0, 5.0]], "float32")
    model(x)
    y = ops.convert_to_numpy(strip_pruning(model)(x))
    np.testing.assert_allclose(y, [[1, 4]])
    inputs = keras.Input((2,))
    model = keras.Model(inputs, ops.map(times(5), inputs))
    for export in (strip_pruning, shrink):
        y = ops.convert_to_numpy(export(model)(x))
        np.testing.assert_array_equal(y, [[5, 25]])


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="Only it has strings."
)
def test_vocabularies_of_words_are_kept(tmp_path):
    words = adapted(
        layers.TextVectorization(output_mode="count"), ["a b b b", "a c"]
    )
    inputs = keras.Input((1,), dtype="string")
    last = layers.Dense(4, kernel_initializer="identity")
    model = keras.Model(inputs, last(words(inputs)))
    x = ops.convert_to_tensor([["b b a"], ["c d"]])
    strip_pruning(model).save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    # Unknown words first, then by how often they were seen.
    expected = [[0, 2, 1, 0], [1, 0, 0, 1]]
    np.testing.assert_array_equal(copy.predict(x, verbose=0), expected)


@pytest.mark.parametrize("export", [strip_pruning, merged, shrink])
def test_random_generators_go_on_where_they_were(export):
    model = chain(
        (4, 8),
        layers.Dropout(0.5, seed=1),
        layers.Dense(6),
    )
    x = np.ones((2, 4, 8), "float32")
    model(x, training=True)
    copy = export(model)
    for _ in range(2):
        y, again = model(x, training=True), copy(x, training=True)
        np.testing.assert_array_equal(
            ops.convert_to_numpy(y), ops.convert_to_numpy(again)
        )


def test_a_copy_does_not_change_the_random_numbers_of_a_run():
    model = network()
    random.seed(5)
    expected = random.random()
    random.seed(5)
    strip_pruning(model)
    assert random.random() == expected


def test_models_inside_are_not_compiled_either():
    inner = chain((4,), layers.Dense(4))
    inner.compile(LinBreg(0.1, regularizers=L1(0.1)), "mse")
    model = chain((4,), inner, layers.Dense(2))
    model.compile("adam", "mse")
    copy = strip_pruning(model)
    assert not copy.compiled and not copy.layers[1].compiled
    assert getattr(copy, "optimizer", None) is None


def test_classes_of_one_name_are_refused():
    def make():
        class Twin(layers.Layer):
            def call(self, x):
                return x

        return Twin()

    model = chain((4,), make(), make())
    with pytest.raises(ValueError, match="two of its classes are named Twin"):
        strip_pruning(model)


def regularized():
    """Layers with what only this package knows, in several depths."""
    return chain(
        (3, 4),
        adapted(layers.Normalization(), np.arange(24.0).reshape(2, 3, 4)),
        layers.Bidirectional(
            layers.LSTM(
                3, kernel_regularizer=L1(0.1), recurrent_regularizer=GroupL2(1)
            )
        ),
        chain(
            (6,),
            layers.Dense(
                4,
                activity_regularizer=L1(0.1),
                kernel_regularizer=SparseGroup(0.1, 0.2),
            ),
        ),
        layers.Dense(3, kernel_regularizer="l2", name="dense"),
    )


def test_only_regularizers_of_this_package_are_left_out():
    model = regularized()
    copy = strip_pruning(model)
    assert copy.get_layer("dense").kernel_regularizer.get_config()["l2"] == 0.01
    inside = copy.layers[3].layers[1]
    assert inside.kernel_regularizer is inside.activity_regularizer is None
    assert copy.layers[2].forward_layer.cell.kernel_regularizer is None
    # A smaller model may be trained on.
    kept = shrink(model).layers[3].layers[1].kernel_regularizer
    assert kept.get_config() == SparseGroup(0.1, 0.2).get_config()


@pytest.mark.backend_free
@pytest.mark.parametrize("make, zeros", [(network, 96), (regularized, 6)])
def test_the_file_loads_where_this_package_is_not_installed(
    make, zeros, tmp_path
):
    model = pruned(make())
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
        print("loaded", np.count_nonzero(kernel == 0))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(f"loaded {zeros}\n")
