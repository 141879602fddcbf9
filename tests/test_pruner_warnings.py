"""Tests of what pruners refuse, warn of and tell."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_app
from keras_app import pruners
from keras_app.schedules import ConstantSparsity
from keras_app.schedules import OneShot
from keras_app.schedules import PolynomialDecay
from tests.helpers import BACKEND
from tests.helpers import weights
from tests.helpers import zeros
from tests.methods import PRUNERS
from tests.models import chain
from tests.models import dense
from tests.models import KERNELS
from tests.models import logs_of
from tests.models import make
from tests.models import network
from tests.models import pruned_now
from tests.models import train

# ---- what may go wrong -------------------------------------------------


def test_a_layer_that_loses_everything_is_named():
    model = network()
    kernel = model.get_layer("conv").kernel
    kernel.assign(ops.convert_to_numpy(kernel) * 1e-3)
    pruner = pruners.MagnitudePruner(OneShot(0.5), scope="global")
    with pytest.warns(UserWarning, match="conv/kernel.*layer collapse"):
        found = pruned_now(pruner, model, 0.5)
    assert not found["conv/kernel"].any()
    assert zeros(found["dense/kernel"]) == 356 - 72


# Also where an update that is due after the last step would hide them.
@pytest.mark.parametrize("frequency", [100, 1])
def test_weights_that_came_back_are_zeroed_and_named(frequency):
    class Revive(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            kernel = self.model.layers[1].kernel
            kernel.assign(ops.ones(kernel.shape))

    model = dense(10, 10)
    pruner = pruners.MagnitudePruner(
        ConstantSparsity(0.5, 0, frequency=frequency)
    )
    x = np.ones((8, 10), "float32")
    with pytest.warns(UserWarning, match="50 pruned weights had come back"):
        model.fit(x, x, verbose=0, callbacks=[Revive(), pruner])
    assert zeros(weights(model)["dense/kernel"]) == 50


def test_nan_weights_are_refused_with_their_name():
    model = dense(2, 2, [1.0, np.nan, 2.0, 3.0])
    with pytest.raises(ValueError, match="dense/kernel"):
        pruned_now(pruners.MagnitudePruner(OneShot(0.5)), model, 0.5)


def test_a_model_that_fit_builds_is_pruned_or_refused_with_the_way_out():
    # On TensorFlow, Keras builds it only within the first step.
    model = keras.Sequential([layers.Dense(10, name="dense")])
    model.compile("sgd", "mse")
    pruner = pruners.MagnitudePruner(OneShot(0.5))
    x = np.ones((4, 10), "float32")
    if BACKEND == "tensorflow":
        with pytest.raises(ValueError, match="Call it once on a batch"):
            model.fit(x, x, verbose=0, callbacks=[pruner])
        model(x)
    model.fit(x, x, verbose=0, callbacks=[pruner])
    assert [zeros(mask) for mask in pruner.masks.values()] == [50]


def test_a_model_that_is_not_compiled_is_refused():
    model = chain((3,), layers.Dense(2))
    with pytest.raises(ValueError, match="compile"):
        pruners.MagnitudePruner(OneShot(0.5)).set_model(model)


def test_a_sparsity_out_of_range_is_refused_at_the_update():
    pruner = pruners.MagnitudePruner(lambda step: (step == 0, 90))
    with pytest.raises(ValueError, match="sparsity=90"):
        train(dense(3, 2), pruner)


@pytest.mark.parametrize("scorer", ["snip", "grasp", "taylor"])
def test_a_saliency_pruner_without_its_data_is_refused_when_fit_starts(scorer):
    pruner = pruners.SaliencyPruner(OneShot(0.5), scorer=scorer)
    with pytest.raises(ValueError, match="data=None"):
        train(dense(3, 2), pruner)


def test_an_unknown_scorer_is_refused_in_the_constructor():
    for method in (pruners.SaliencyPruner, pruners.AnytimeProgressivePruner):
        with pytest.raises(ValueError, match="Did you mean 'grasp'"):
            method(OneShot(0.5), scorer="gasp")


def test_an_unknown_mode_is_refused_in_the_constructor():
    for method in (pruners.SaliencyPruner, pruners.AnytimeProgressivePruner):
        with pytest.raises(ValueError, match="bn_mode='eval'"):
            method(OneShot(0.5), bn_mode="eval")


@pytest.mark.parametrize("scorer", ["magnitude", "random", "taylor", "synflow"])
def test_every_scorer_can_be_chosen(scorer):
    pruner = make("snip", scorer=scorer)
    found = pruned_now(pruner, network(), 0.5)
    assert [zeros(found[path]) for path in KERNELS] == [36, 320]


@pytest.mark.parametrize(
    "policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"]
)
def test_other_dtype_policies(policy):
    model = chain(
        (10,),
        layers.Dense(20, dtype=policy, activation="relu", name="hidden"),
        layers.Dense(5, dtype=policy, name="logits"),
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    pruner = pruners.MagnitudePruner(OneShot(0.5), scope="global")
    train(model, pruner, epochs=2)
    if BACKEND == "jax":
        model.jax_state_sync()
    after = weights(model)
    counts = [zeros(after[path]) for path in pruner.masks]
    assert sum(counts) == 150
    assert sum(zeros(mask) for mask in pruner.masks.values()) == 150


def test_a_schedule_that_is_over_already_is_refused():
    model = dense(10, 10)
    train(model, pruners.MagnitudePruner(ConstantSparsity(0.0, 0)), epochs=2)
    late = pruners.MagnitudePruner(OneShot(0.5))
    with pytest.raises(ValueError, match="ended at step 0, but .* step 8"):
        train(model, late)
    train(model, pruners.MagnitudePruner(OneShot(0.5, step=8)))
    assert keras_app.report.summarize(model).sparsity == 0.5


def test_no_epoch_is_no_error():
    pruner = pruners.MagnitudePruner(OneShot(0.5))
    train(dense(10, 10), pruner, epochs=0)
    assert pruner.missed == []


def test_masks_survive_a_new_compile():
    model = dense(10, 10)
    pruner = pruners.MagnitudePruner(OneShot(0.5))
    train(model, pruner)
    [before] = pruner.masks.values()
    model.compile(keras.optimizers.Adam(), "mse")
    train(model, pruner)
    [after] = pruner.masks.values()
    np.testing.assert_array_equal(before, after)


def test_masks_of_a_layer_survive_its_being_frozen():
    model = network()
    pruner = pruners.MagnitudePruner(OneShot(0.5), filters="kernel")
    train(model, pruner)
    before = pruner.masks["conv/kernel"]
    model.get_layer("conv").trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    train(model, pruner)
    model.get_layer("conv").trainable = True
    model.compile("sgd", "sparse_categorical_crossentropy")
    pruner.set_model(model)
    np.testing.assert_array_equal(pruner.masks["conv/kernel"], before)


def test_a_ramp_that_dense_training_has_passed_is_pointed_at():
    model = dense(10, 10)
    x = np.ones((32, 10), "float32")
    model.fit(x, x, batch_size=8, verbose=0)
    pruner = pruners.MagnitudePruner(PolynomialDecay(0.1, 0.5, 0, 8))
    with pytest.warns(UserWarning, match="begins at step 0.*step 4 already"):
        train(model, pruner)


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"),
    reason="this version of Keras has none",
)
def test_an_optimizer_of_several_is_refused():
    model = dense(10, 10)
    several = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1))
    model.compile(keras.optimizers.MultiOptimizer(several), "mse")
    with pytest.raises(ValueError, match="MultiOptimizer.*one optimizer"):
        train(model, pruners.MagnitudePruner(OneShot(0.5)))


def sparse_model(share):
    values = np.arange(1.0, 101.0)
    values[: int(share * 100)] = 0
    return dense(10, 10, np.random.default_rng(0).permutation(values))


@pytest.mark.parametrize("name", ["magnitude", "set"])
def test_a_model_as_sparse_as_asked_keeps_its_zeros(name):
    model = sparse_model(0.8)
    before = weights(model)["dense/kernel"] != 0
    pruner = make(name, ConstantSparsity(0.8, 100), on_miss="ignore")
    pruner.set_model(model)
    np.testing.assert_array_equal(pruner.masks["dense/kernel"], before)


def test_a_model_less_sparse_than_asked_is_said_to_train_its_zeros():
    pruner = pruners.MagnitudePruner(PolynomialDecay(0.5, 0.9, 0, 4))
    with pytest.warns(UserWarning, match="80.0 % .* zero before the training"):
        pruner.set_model(sparse_model(0.8))
    assert pruner.masks["dense/kernel"].all()


# ---- shares ------------------------------------------------------------


def frozen_base():
    """A frozen kernel of 120x50, and a head of 50x2 that trains."""
    base = chain((120,), layers.Dense(50, name="inner"))
    base.name = "base"
    base.trainable = False
    return with_head(base, (120,))


def with_head(body, shape, units=2):
    """No bias is zero, so that zeros are those of kernels."""
    head = layers.Dense(units, name="head", bias_initializer="ones")
    model = chain(shape, body, head)
    for variable in model.weights:
        if len(variable.shape) < 2:
            variable.assign(np.ones(variable.shape))
    model.compile("sgd", "mse")
    return model


def test_a_frozen_base_is_said_and_counted():
    model = frozen_base()
    pruner = pruners.MagnitudePruner(OneShot(0.5))
    with pytest.warns(UserWarning) as said:
        logs = logs_of(model, pruner)
    # 6,000 of 6,050 + 102; biases are no matrices.
    [text] = [str(w.message) for w in said if "not pruned" in str(w.message)]
    assert text == (
        "MagnitudePruner: 97.5 % of the model's weights are not pruned: base "
        "(97.5 %, frozen). `sparsity` is that of the weights to prune, "
        "`sparsity_all` that of the whole model. To prune what is frozen, make "
        "it trainable and compile."
    )
    assert logs["sparsity"] == [0.5]
    assert logs["sparsity_all"] == [pytest.approx(50 / 6152)]
    report = pruner.report
    assert report.sparsity_all == pytest.approx(50 / 6152)
    assert [(row.path, row.layer) for row in report.untrained] == [
        ("inner/kernel", "base"),
        ("inner/bias", "base"),
    ]
    assert "not trained: base (6,050 weights, 0 of them zero)" in str(report)


def test_a_recurrent_layer_that_is_left_out_is_said():
    # 2 * 80 * 240 + 2 * 240 weights, of 54,652 in all.
    gru = chain((4, 80), layers.GRU(80, name="gru"), layers.Dense(190))
    gru.name = "body"
    model = with_head(gru, (4, 80))
    pruner = pruners.MagnitudePruner(OneShot(0.5))
    with pytest.warns(UserWarning, match=r"71.1 % of .*a kernel of GRUCell"):
        logs = logs_of(model, pruner)
    assert logs["sparsity"] == [0.5]
    zeros_now = sum(zeros(values) for values in weights(model).values())
    assert logs["sparsity_all"] == [pytest.approx(zeros_now / 54652)]
    assert logs["sparsity_all"][0] < 0.16


@pytest.mark.filterwarnings("error::UserWarning")
def test_what_the_filters_do_not_name_is_no_surprise():
    pruner = pruners.MagnitudePruner(OneShot(0.5), filters="hea")
    logs = logs_of(frozen_base(), pruner)
    assert logs["sparsity"] == [0.5]
    assert list(pruner.masks) == ["head/kernel"]


def test_what_the_filters_name_and_is_frozen_is_said():
    pruner = pruners.MagnitudePruner(OneShot(0.5), filters="kernel")
    with pytest.warns(UserWarning, match="97.5 % .*frozen"):
        logs_of(frozen_base(), pruner)


@pytest.mark.parametrize("name", PRUNERS)
def test_small_shares_are_not_said(name):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        # A fifth is vectors, which nobody prunes.
        make(name, ConstantSparsity(0.5, 0)).set_model(network())
        model = chain((8,), layers.Embedding(10, 4), layers.Flatten())
        make(name).set_model(with_head(model, (8,), units=10))
    said = [w for w in said if issubclass(w.category, UserWarning)]
    assert [str(w.message) for w in said] == []


def test_the_teacher_of_a_distiller_is_no_part_of_the_model():
    student = with_head(layers.Dense(50), (120,))
    teacher = chain((120,), layers.Dense(500), layers.Dense(2))
    model = keras.distillation.Distiller(
        teacher=teacher,
        student=student,
        distillation_losses=keras.distillation.LogitsDistillation(),
    )
    model.compile("sgd", "mse")
    pruner = pruners.MagnitudePruner(OneShot(0.5))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not pruned")
        x = np.ones((8, 120), "float32")
        history = model.fit(x, x[:, :2], verbose=0, callbacks=[pruner]).history
    assert history["sparsity_all"] == [pytest.approx(3050 / 6152)]


def test_two_pruners_in_one_fit_tell_one_share_of_the_model():
    model = with_head(layers.Dense(6, name="first"), (10,))
    callbacks = [
        pruners.MagnitudePruner(OneShot(sparsity), filters=name)
        for name, sparsity in (("first", 0.5), ("head", 0.75))
    ]
    logs = logs_of(model, *callbacks)
    assert logs["sparsity"] == [0.75]
    # 30 of 60 and 9 of 12; with 8 biases.
    assert logs["sparsity_all"] == [39 / 80]


def test_learned_masks_log_the_zeros_of_the_whole_model():
    model = with_head(layers.Dense(6, name="first"), (10,))
    model.layers[1].trainable = False
    model.layers[1].kernel.assign(np.eye(10, 6))
    optimizer = keras_app.optimizers.ContinuousSparsification(1e-6, s_init=-1.0)
    model.compile(optimizer, "mse")
    sparsifier = pruners.ContinuousSparsifier(1.0)
    with pytest.warns(UserWarning, match=r"75.0 % .*first \(75.0 %, frozen"):
        logs = logs_of(model, sparsifier)
    assert logs["density"] == [0.0]
    # No mask is final: 54 zeros are those of the frozen layer.
    assert logs["sparsity_all"] == [54 / 80]
    assert sparsifier.report.sparsity_all == (54 + 12) / 80


def test_controllers_log_the_zeros_of_the_whole_model():
    model = with_head(layers.Dense(6, name="first"), (10,))
    # Strong enough to leave nothing.
    regularizer = keras_app.regularizers.L1(1000.0)
    optimizer = keras_app.optimizers.ProxSGD(
        0.1, regularizers={"first/kernel": regularizer}
    )
    model.compile(optimizer, "mse")
    controller = pruners.LambdaController(regularizer)
    logs = logs_of(model, controller)
    assert logs["density"] == [0.0]
    assert logs["sparsity_all"] == [60 / 80]


@pytest.mark.parametrize(
    "arguments, advice",
    [
        ({"scope": "global"}, "or use scope='layer'"),
        (
            {"distribution": lambda shapes, s: dict.fromkeys(shapes, 1.0)},
            "Let `distribution` give them less",
        ),
    ],
)
def test_the_advice_against_a_layer_collapse_fits_the_arguments(
    arguments, advice
):
    model = chain((4,), layers.Dense(4, name="a"), layers.Dense(50, name="b"))
    model.compile("sgd", "mse")
    model.get_layer("a").kernel.assign(np.full((4, 4), 1e-9))
    pruner = pruners.MagnitudePruner(OneShot(0.5), **arguments)
    pruner.set_model(model)
    with pytest.warns(UserWarning, match="layer collapse") as caught:
        pruner.prune(0.5)
    [said] = [str(w.message) for w in caught if "collapse" in str(w.message)]
    assert advice in said
    if arguments.get("scope") != "global":
        assert "scope" not in said
