"""Tests of tfmot's API: which layers and weights a mark covers."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_app import masks_of
from keras_app.compat import tfmot
from keras_app.compat.tfmot import ConstantSparsity
from keras_app.compat.tfmot import prune_low_magnitude
from keras_app.compat.tfmot import strip_pruning
from keras_app.compat.tfmot import UpdatePruningStep
from tests.helpers import zeros
from tests.models import chain
from tests.tfmot import compiled
from tests.tfmot import Own
from tests.tfmot import pruned_now
from tests.tfmot import rows
from tests.tfmot import selected
from tests.tfmot import train
from tests.tfmot import two
from tests.tfmot import Watch

# ---- what is marked ------------------------------------------------------


@keras.saving.register_keras_serializable(package="test_compat_tfmot")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(5, name="hidden")
        self.last = layers.Dense(2, name="last")

    def call(self, x):
        return self.last(self.hidden(x))


def sequential():
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="a"), layers.Dense(2)]
    )


def nested():
    inner = chain((4,), layers.Dense(6, name="a"), layers.Dense(4, name="b"))
    return chain((4,), inner, layers.Dense(2, name="c"))


def subclassed():
    model = Subclassed()
    model(np.ones((1, 4), "float32"))
    return model


@pytest.mark.parametrize("make", [sequential, nested, subclassed])
def test_a_whole_model_of_any_kind(make):
    model = make()
    assert prune_low_magnitude(model, ConstantSparsity(0.75, 0)) is model
    compiled(model)
    step = UpdatePruningStep()
    x, y = np.ones((4, 4), "float32"), np.ones((4, 2), "float32")
    model.fit(x, y, verbose=0, callbacks=[step])
    kernels = [v for v in model.trainable_variables if len(v.shape) == 2]
    assert len(kernels) == (3 if make is nested else 2)
    for kernel in kernels:
        assert zeros(kernel) == int(0.75 * np.prod(kernel.shape))
    assert len(step.pruners) == 1
    copy = strip_pruning(model)
    assert type(copy) is type(model)
    for new, old in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_layers_with_settings_of_their_own_in_one_training():
    late = ConstantSparsity(0.25, 2, frequency=1)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            prune_low_magnitude(
                layers.Dense(4, name="a"), ConstantSparsity(0.75, 0)
            ),
            layers.Dense(5, name="free"),
            prune_low_magnitude(layers.Dense(4, name="b"), late),
            prune_low_magnitude(layers.ReLU()),
            prune_low_magnitude(layers.Dense(4, name="c"), late),
            prune_low_magnitude(
                layers.Dense(8, name="d"), sparsity_m_by_n=(1, 4)
            ),
            prune_low_magnitude(layers.Dense(2, name="e"), late, (4, 1), "MAX"),
        ],
        name="net",
    )
    compiled(model)
    step, watch = UpdatePruningStep(), Watch()
    history = train(model, step, watch, steps=4)
    assert watch.seen == [[18, 0, 0, 8, 0]] * 2 + [[18, 5, 4, 8, 4]] * 2
    assert len(step.pruners) == 4
    assert history.history["sparsity"] == [pytest.approx(39 / 108)]
    report = step.report
    assert [
        (row.path, row.zeros, row.asked_sparsity)
        for row in report.rows
        if row.prunable
    ] == [
        ("net/a/kernel", 18, 0.75),
        ("net/b/kernel", 5, 0.25),
        ("net/c/kernel", 4, 0.25),
        ("net/d/kernel", 8, 0.25),
        ("net/e/kernel", 4, 0.25),
    ]
    assert report.skipped["net/free/kernel"] == "not marked"
    assert zeros(model.get_layer("free").kernel) == 0
    assert "skipped net/free/kernel: not marked" in str(report)


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_clone_model_marks_with_a_clone_function(kind):
    stack = [layers.Dense(5, name="a"), layers.Dense(2, name="b")]
    if kind == "sequential":
        base = keras.Sequential([keras.Input((4,)), *stack])
    else:
        base = chain((4,), *stack)
    before = base.get_weights()

    def prune_first(layer):
        return prune_low_magnitude(layer) if layer.name == "a" else layer

    model = keras.models.clone_model(base, clone_function=prune_first)
    assert model is not base
    for new, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)
    compiled(model)
    train(model, UpdatePruningStep())
    assert zeros(model.get_layer("a").kernel) == 10
    assert zeros(model.get_layer("b").kernel) == 0


def test_prune_low_magnitude_is_a_clone_function_itself():
    base = chain(
        (4, 4, 3), layers.Conv2D(2, 2), layers.ReLU(), layers.Flatten()
    )
    model = compiled(
        keras.models.clone_model(base, clone_function=prune_low_magnitude)
    )
    assert [zeros(mask) for mask in pruned_now(model).values()] == [12]


def test_a_list_of_layers():
    stack = [layers.Dense(4, name="a"), layers.Dropout(0.1)]
    assert prune_low_magnitude(stack, ConstantSparsity(0.75, 0)) is stack
    model = compiled(chain((6,), *stack))
    [mask] = pruned_now(model, 0.75).values()
    assert zeros(mask) == 18


def test_the_mark_of_a_layer_goes_before_that_of_the_model_around_it():
    model = two()
    prune_low_magnitude(model.get_layer("b"), ConstantSparsity(0.75, 0))
    prune_low_magnitude(model, ConstantSparsity(0.25, 0))
    train(model, UpdatePruningStep())
    assert zeros(model.get_layer("a").kernel) == 6
    assert zeros(model.get_layer("b").kernel) == 9


def test_the_mark_of_a_layer_goes_first_wherever_it_is_met():
    # The model reaches `shared` before the inner model that holds it too.
    shared = layers.Dense(6, name="shared")
    inner = chain((6,), shared, layers.Dense(6, name="last"))
    x = keras.Input((6,))
    model = keras.Model(x, layers.Add()([shared(x), inner(x)]))
    prune_low_magnitude(inner, ConstantSparsity(0.25, 0))
    prune_low_magnitude(shared, ConstantSparsity(0.75, 0))
    train(compiled(model), UpdatePruningStep())
    assert zeros(shared.kernel) == 27
    assert zeros(inner.get_layer("last").kernel) == 9


def test_marking_again_replaces_the_mark():
    model = two()
    prune_low_magnitude(model, ConstantSparsity(0.75, 0))
    prune_low_magnitude(model, ConstantSparsity(0.25, 0))
    step = UpdatePruningStep()
    step.set_model(model)
    assert [pruner.schedule.target_sparsity for pruner in step.pruners] == [
        0.25
    ]


class Block(layers.Layer):
    """A layer of one's own, of known layers and a weight."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense")

    def build(self, shape):
        self.table = self.add_weight(shape=(4, 4), name="table")
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x) @ self.table


class Named(Own):
    def build(self, shape):
        super().build(shape)
        self.bias = self.add_weight(shape=(4,), name="bias", initializer="ones")

    def call(self, x):
        return super().call(x) + self.bias

    def get_prunable_weights(self):
        return [self.table, self.bias]


def test_layers_of_unknown_type_are_skipped_and_listed():
    model = chain(
        (4,),
        layers.Dense(4, name="a"),
        Own(name="own"),
        Block(name="block"),
        layers.BatchNormalization(name="norm"),
    )
    paths, skipped = selected(compiled(prune_low_magnitude(model)))
    assert paths == ["a/kernel", "block/dense/kernel"]
    assert skipped == {
        "a/bias": "a vector (bias, scale or offset)",
        "own/table": "a weight of Own, a layer of unknown type; give it "
        "`get_prunable_weights`",
        "block/dense/bias": "a vector (bias, scale or offset)",
        "block/table": "a weight of Block, a layer of unknown type; give it "
        "`get_prunable_weights`",
        "norm/gamma": "a vector (bias, scale or offset)",
        "norm/beta": "a vector (bias, scale or offset)",
    }


def test_a_layer_names_its_weights_biases_included():
    model = prune_low_magnitude(compiled(chain((6,), Named(name="own"))))
    train(model, UpdatePruningStep())
    found = masks_of(model)
    assert {path: zeros(mask) for path, mask in found.items()} == {
        "own/table": 12,
        "own/bias": 2,
    }
    assert zeros(model.get_layer("own").bias) == 2


class Listed(layers.Layer):
    """Keeps its weights in a list and a dict."""

    def build(self, shape):
        self.maps = [
            self.add_weight(shape=(4, 4), name=f"map{i}") for i in range(2)
        ]
        self.others = {"gain": self.add_weight(shape=(4,), name="gain")}

    def call(self, x):
        return x @ self.maps[0] @ self.maps[1] * self.others["gain"]


class ListedAndNamed(Listed):
    def get_prunable_weights(self):
        return [self.maps[1], self.others["gain"]]


def test_weights_kept_in_lists_and_dicts():
    model = chain((4,), ListedAndNamed(name="named"), Listed(name="not"))
    paths, skipped = selected(compiled(prune_low_magnitude(model)))
    assert paths == ["named/gain", "named/map1"]
    unknown = (
        "a weight of Listed, a layer of unknown type; give it "
        "`get_prunable_weights`"
    )
    assert skipped == {
        "named/map0": "not among `get_prunable_weights`",
        "not/map0": unknown,
        "not/map1": unknown,
        "not/gain": "a vector (bias, scale or offset)",
    }


def test_what_a_known_layer_names_goes_before_what_tfmot_prunes():
    class BiasOnly(layers.Dense, tfmot.PrunableLayer):
        def get_prunable_weights(self):
            return [self.bias]

    model = compiled(chain((6,), prune_low_magnitude(BiasOnly(4, name="own"))))
    paths, skipped = selected(model)
    assert paths == ["own/bias"]
    assert skipped == {"own/kernel": "not among `get_prunable_weights`"}


class OnlyConvolutions(tfmot.PruningPolicy):
    def __init__(self):
        self.models = []

    def allow_pruning(self, layer):
        assert not isinstance(layer, keras.Model)
        return isinstance(layer, (layers.Conv2D, layers.MultiHeadAttention))

    def ensure_model_supports_pruning(self, model):
        self.models.append(model)
        if "refused" in model.name:
            raise ValueError("refused, says the policy")


def test_a_policy_chooses_layers_with_all_that_is_in_them():
    x = keras.Input((4, 4, 3))
    inner = chain(
        (4, 4, 3), layers.Conv2D(4, 2, name="c"), layers.Dense(6, name="d")
    )
    y = layers.Reshape((9, 6))(inner(x))
    y = layers.MultiHeadAttention(1, 2, name="mha")(y, y)
    model = compiled(keras.Model(x, layers.Dense(2, name="e")(y)))
    policy = OnlyConvolutions()
    prune_low_magnitude(model, pruning_policy=policy)
    assert policy.models == [model]
    paths, skipped = selected(model)
    names = ("attention_output", "key", "query", "value")
    assert paths == ["c/kernel", *(f"mha/{name}/kernel" for name in names)]
    assert skipped["d/kernel"] == "not allowed by `pruning_policy`"
    assert skipped["e/kernel"] == "not allowed by `pruning_policy`"


def test_a_policy_can_refuse_a_model():
    model = keras.Sequential([layers.Dense(2)], name="refused")
    with pytest.raises(ValueError, match="refused, says the policy"):
        prune_low_magnitude(model, pruning_policy=OnlyConvolutions())


def test_m_by_n_leaves_weights_of_other_ranks_alone():
    model = chain((5, 4), layers.Conv1D(4, 2, name="c"), layers.Dense(2))
    prune_low_magnitude(model, sparsity_m_by_n=(2, 4))
    paths, skipped = selected(compiled(model))
    assert len(paths) == 1 and "dense" in paths[0]
    assert skipped["c/kernel"] == (
        "m-by-n sparsity is for weights of rank 2 and 4, this has 3"
    )


def test_blocks_of_a_convolution_lie_over_its_last_two_axes():
    model = compiled(chain((3, 3, 4), layers.Conv2D(2, 1, name="c")))
    kernel = np.reshape([1, 8, 1, 7, 5, 2, 5, 2], (1, 1, 4, 2))
    model.get_layer("c").kernel.assign(kernel)
    prune_low_magnitude(model, block_size=(2, 1))
    found = pruned_now(model)["c/kernel"].reshape(4, 2)
    assert rows(found) == "01 01 10 10"


def test_frozen_layers_are_named():
    model = two()
    model.get_layer("a").trainable = False
    compiled(prune_low_magnitude(model))
    step = UpdatePruningStep()
    with pytest.warns(UserWarning, match="a/kernel: marked, but frozen"):
        step.set_model(model)
    assert list(masks_of(model)) == ["b/kernel"]
    assert step.report.skipped["a/kernel"] == "frozen (trainable=False)"
