"""`keras_app.prune`: one call, in place, without `fit`."""

import importlib
import pkgutil

import keras
import numpy as np
import pytest
from keras import layers

import keras_app as ka
from keras_app import masks
from keras_app.pruners import MagnitudePruner
from keras_app.schedules import ConstantSparsity
from tests.helpers import to_numpy
from tests.helpers import zeros
from tests.models import batches
from tests.models import chain
from tests.models import dense
from tests.models import images
from tests.models import network
from tests.models import OneDense


def uncompiled():
    """The 712 weights of `network`, and no optimizer."""
    compiled = network()
    model = keras.Model.from_config(compiled.get_config())
    model.set_weights(compiled.get_weights())
    return model


def kernel_of(model):
    return to_numpy(model.get_layer("dense").kernel)


def test_by_hand():
    model = chain((4,), layers.Dense(2, name="dense"))
    model.get_layer("dense").kernel.assign(
        [[4.0, -1.0], [0.5, 3.0], [-2.0, 6.0], [1.5, -5.0]]
    )
    report = ka.prune(model, 0.5)
    assert kernel_of(model).tolist() == [[4, 0], [0, 3], [0, 6], [0, -5]]
    assert report.sparsity == 0.5
    assert [row.zeros for row in report.rows if row.prunable] == [4]


METHODS = ["magnitude", "random", "synflow", "snip", "taylor", "wanda"]


@pytest.mark.parametrize("method", [*METHODS, "grasp"])
def test_every_method_prunes_exactly_so_many(method):
    model = uncompiled()
    options = {"samples_per_class": 3} if method == "grasp" else {}
    # Softmax is left out: cross-entropy of what is no probability has no bound.
    if method in ("snip", "taylor", "grasp"):
        model = network()
    ka.prune(model, 0.8, method, batches(), **options)
    assert zeros(model.get_layer("conv").kernel) == int(0.8 * 72)
    assert zeros(kernel_of(model)) == int(0.8 * 640)


def test_a_callable_scores_too():
    def position(model, variables, data, masks):
        return [np.arange(640.0).reshape(64, 10)]

    model = uncompiled()
    ka.prune(model, 0.25, position, filters="dense")
    kept = kernel_of(model).ravel() != 0
    assert not kept[:160].any() and kept[160:].all()


X, Y = images()


@pytest.mark.parametrize(
    "data",
    [
        X,
        (X, Y),
        (X, None),
        (X, Y.tolist()),
        [X[:20], X[20:]],
        [(X, None)],
        [(X[:5], Y[:5]), (X[5:], Y[5:])],
    ],
    ids=["x", "x_y", "x_none", "list", "xs", "none_batch", "batches"],
)
def test_data_in_every_form_are_the_same(data):
    model, other = uncompiled(), uncompiled()
    ka.prune(model, 0.6, "wanda", data)
    ka.prune(other, 0.6, "wanda", batches())
    np.testing.assert_array_equal(kernel_of(model), kernel_of(other))


@pytest.mark.parametrize("kind", [list, tuple])
def test_several_inputs_and_labels(kind):
    def two():
        inputs = [keras.Input((6,)), keras.Input((6,))]
        outputs = layers.Dense(3, name="dense")(layers.Add()(inputs))
        model = keras.Model(inputs, outputs)
        model.get_layer("dense").kernel.assign(np.arange(18.0).reshape(6, 3))
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    generator = np.random.default_rng(0)
    x = kind(generator.uniform(size=(2, 32, 6)))
    model, other = two(), two()
    ka.prune(model, 0.5, "snip", (x, Y % 3))
    ka.prune(other, 0.5, "snip", [(x, Y % 3)])
    np.testing.assert_array_equal(kernel_of(model), kernel_of(other))


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return X[16 * index : 16 * index + 16], None


class Endless(Sequence):
    num_batches = None


def test_data_of_keras_have_an_end():
    model, other = uncompiled(), uncompiled()
    ka.prune(model, 0.6, "wanda", Sequence())
    ka.prune(other, 0.6, "wanda", X)
    np.testing.assert_array_equal(kernel_of(model), kernel_of(other))


def test_tensorflow_data_on_every_backend():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    model, other = network(), network()
    for method in ("wanda", "snip"):
        ka.prune(model, 0.6, method, data)
        ka.prune(other, 0.6, method, (X, Y))
    np.testing.assert_array_equal(kernel_of(model), kernel_of(other))


# ---- structures --------------------------------------------------------


def test_two_of_four_along_the_inputs():
    model = uncompiled()
    report = ka.prune(model, None, structure=masks.NM(2, 4, axis="inputs"))
    groups = kernel_of(model).reshape(16, 4, 10)
    assert ((groups != 0).sum(1) == 2).all()
    # Of the 18 inputs of the convolution the last two are a group alone.
    assert [row.zeros for row in report.rows if row.prunable] == [32, 320]


def test_joined_channels_leave_a_smaller_model():
    model = uncompiled()
    ka.prune(model, 0.5, structure=masks.GraphChannel())
    smaller = ka.export.shrink(model)
    assert smaller.get_layer("conv").filters == 2
    np.testing.assert_allclose(
        to_numpy(smaller(X)), to_numpy(model(X)), atol=1e-5
    )


def test_heads():
    inputs = keras.Input((5, 8))
    attention = layers.MultiHeadAttention(4, 2, name="attention")
    model = keras.Model(inputs, attention(inputs, inputs))
    ka.prune(model, 0.5, structure=masks.AttentionHead())
    assert ka.export.shrink(model).get_layer("attention").num_heads == 2


@pytest.mark.parametrize(
    "structure, dead",
    [(masks.Block((4, 1)), 0), (masks.Channel(), 5)],
    ids=["block", "channel"],
)
def test_blocks_and_channels(structure, dead):
    model = uncompiled()
    ka.prune(model, 0.5, structure=structure, filters="dense")
    kept = kernel_of(model) != 0
    blocks = kept.reshape(16, 4, 10)
    assert (blocks.all(1) | ~blocks.any(1)).all()
    assert (~kept.any(0)).sum() == dead
    assert kept.sum() == 320


# ---- what stays of it --------------------------------------------------


def test_a_compiled_model_keeps_its_masks_in_a_fit():
    model = network(optimizer="adam")
    ka.prune(model, 0.8)
    found = ka.masks_of(model)
    assert {p: zeros(m) for p, m in found.items()} == {
        "conv/kernel": 57,
        "dense/kernel": 512,
    }
    before = kernel_of(model)
    model.fit(X, Y, verbose=0)
    after = kernel_of(model)
    np.testing.assert_array_equal(after == 0, before == 0)
    assert (after != before).any()


def test_a_model_that_was_not_compiled_stays_so():
    model = uncompiled()
    before = {**vars(model)}
    report = ka.prune(model, 0.8)
    assert not model.compiled and vars(model).keys() == before.keys()
    assert ka.masks_of(model) == {}
    assert "not compiled" in report.notes[-1]
    # A pruner that begins there takes the zeros over.
    zero = kernel_of(model) == 0
    model.compile("adam", network().loss)
    pruner = MagnitudePruner(ConstantSparsity(0.8, 0))
    model.fit(X, Y, verbose=0, callbacks=[pruner])
    np.testing.assert_array_equal(kernel_of(model) == 0, zero)


def test_after_a_failure_nothing_of_the_optimizer_is_left():
    def broken(model, variables, data, masks):
        raise RuntimeError("a fault of the scorer")

    model = uncompiled()
    weights, names = model.get_weights(), vars(model).keys()
    with pytest.raises(RuntimeError, match="a fault"):
        ka.prune(model, 0.5, broken)
    assert vars(model).keys() == names
    for old, new in zip(weights, model.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_after_a_failure_a_fit_trains_the_zeros_as_before():
    def broken(model, variables, data, masks):
        raise RuntimeError("a fault of the scorer")

    model = network()
    kernel = model.get_layer("dense").kernel
    kernel.assign(np.where(np.arange(10) < 5, 0.0, to_numpy(kernel)))
    with pytest.raises(RuntimeError, match="a fault"):
        ka.prune(model, 0.8, broken)
    assert all(mask.all() for mask in ka.masks_of(model).values())
    model.fit(X, Y, verbose=0)
    assert zeros(kernel) == 0


@pytest.mark.parametrize("make", [uncompiled, network])
@pytest.mark.parametrize("method", ["random", "magnitude", "wanda"])
def test_pruning_again_goes_on_from_the_zeros(make, method, recwarn):
    model = make()
    ka.prune(model, 0.5, method, X)
    zero = kernel_of(model) == 0
    # By chance: of other weights.
    again = {"seed": 1} if method == "random" else {}
    ka.prune(model, 0.8, method, X, **again)
    assert not kernel_of(model)[zero].any()
    assert zeros(kernel_of(model)) == 512
    assert not [w for w in recwarn.list if "are zero" in str(w.message)]


def test_a_kernel_of_zeros_is_not_taken_for_pruned():
    first = layers.Dense(3, kernel_initializer="zeros", name="first")
    model = chain((4,), first, layers.Dense(2, name="dense"))
    model.compile("sgd", "mse")
    ka.prune(model, 0.5)
    assert zeros(ka.masks_of(model)["first/kernel"]) == 6


def test_data_that_a_subclassed_model_does_not_take():
    model = OneDense()
    model(X.reshape(32, -1))
    for data in (X[:, 0, 0], {"a": X}, [object()]):
        with pytest.raises(ValueError, match="`data` must hold examples") as e:
            ka.prune(model, 0.5, "wanda", data)
        assert "\n" not in str(e.value)


def test_a_subclassed_model():
    model = OneDense()
    model(np.ones((1, 6)))
    report = ka.prune(model, 0.5)
    assert report.sparsity == 0.5


def test_other_weights_are_left_as_they_were():
    model = uncompiled()
    before = {w.path: to_numpy(w).copy() for w in model.weights}
    ka.prune(model, 0.5, "wanda", X)
    for weight in model.weights:
        after, old = to_numpy(weight), before[weight.path]
        if weight.name == "kernel":
            old = np.where(after == 0, 0, old)
        np.testing.assert_array_equal(after, old)


# ---- the name ----------------------------------------------------------


def test_the_door_does_not_hide_the_function():
    function = ka.prune
    for found in pkgutil.iter_modules(ka.__path__, "keras_app."):
        if found.name.split(".")[1] in ("prune", "oneshot"):
            importlib.import_module(found.name)
    import keras_app.prune

    assert keras_app.prune is ka.prune is function
    assert importlib.import_module("keras_app.prune").main
    assert ka.prune(dense(4, 2), 0.5).sparsity == 0.5


# ---- what is refused ---------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"sparsity": 80}, "sparsity=80. Did you mean 0.8"),
        ({"sparsity": -0.1}, r"in \[0, 1\)"),
        ({"method": "magnitud"}, "'magnitud'. Did you mean magnitude?"),
        ({"method": "wanda"}, "`data` must .*method='wanda'.*data=None"),
        ({"method": "snip"}, "`data` must .*method='snip'.*data=None"),
        ({"method": "snip", "data": X}, "without labels"),
        ({"method": "wanda", "data": []}, "at least one batch"),
        ({"method": "wanda", "data": iter([X])}, "iterated over again"),
        ({"method": "wanda", "data": "cifar10"}, "data='cifar10'"),
        ({"method": "wanda", "data": 3}, "data=3"),
        ({"method": "wanda", "data": (X, Y[:5])}, r"lengths \[5, 32\]"),
        (
            {"method": "wanda", "data": np.ones((4, 5, 5, 2))},
            r"\(None, 6, 6, 2\).*\(4, 5, 5, 2\)",
        ),
        ({"method": "wanda", "data": [X[0]]}, r"batches of shape \(6, 6, 2\)"),
        ({"method": "wanda", "data": X[:, :, None]}, r"\(32, 6, 1, 6, 2\)"),
        ({"method": "wanda", "data": ((X, Y), (X, Y))}, "type tuple"),
        ({"method": "wanda", "data": [(X[:0], Y[:0])]}, "Received none"),
        ({"method": "wanda", "data": X * np.nan}, "finite numbers"),
        ({"method": "wanda", "data": Endless()}, "without an end"),
        ({"sparsity": 0.8, "structure": masks.NM(2, 4)}, "must be 0.5, or"),
        ({"filters": "nothing"}, "filters='nothing'"),
        ({"scope": "whole"}, "scope='whole'"),
    ],
)
def test_bad_arguments_name_the_value_and_change_nothing(arguments, message):
    model = uncompiled()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        ka.prune(model, **{"sparsity": 0.5, **arguments})
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"sparsity": None}, "sparsity=None"),
        ({"structure": "2:4"}, "structure='2:4'"),
        ({"misspelt": 1}, "misspelt"),
        ({"model": "model.keras"}, "Received: 'model.keras'"),
    ],
)
def test_arguments_of_another_type(arguments, message):
    with pytest.raises(TypeError, match=message):
        ka.prune(**{"model": uncompiled(), "sparsity": 0.5, **arguments})
