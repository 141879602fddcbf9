"""`BregmanPruner`: exact densities for optimizers that find their zeros."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_app import optimizers
from keras_app import pruners
from keras_app import regularizers
from keras_app import schedules
from keras_app.export import load_sparse
from keras_app.export import save_sparse
from keras_app.initializers import sparsify

OPTIMIZERS = ("LinBreg", "AdaBreg", "ProxSGD")


def network(optimizer, seed=0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, name="dense"),
        ]
    )
    model.compile(optimizer, "mse")
    return model


def samples(count=96):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 8, 8, 1)).astype("float32")
    return x, rng.normal(size=(count, 10)).astype("float32")


def fit(model, pruner, epochs=3, **kwargs):
    x, y = samples()
    return model.fit(
        x, y, 16, epochs, verbose=0, callbacks=[pruner], shuffle=False, **kwargs
    )


def kernels(model):
    return {
        layer.name: ops.convert_to_numpy(layer.kernel)
        for layer in model.layers
        if hasattr(layer, "kernel")
    }


def optimizer_of(kind, regularizer):
    rate = {"AdaBreg": 1e-2}.get(kind, 0.1)
    return getattr(optimizers, kind)(rate, regularizers=regularizer)


# 36 + 1440 weights; int(0.9 * 1476) = 1328 of them are zero.
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_model_ends_at_the_density_asked_for_to_the_weight(kind):
    regularizer = regularizers.L1(0.1)
    model = network(optimizer_of(kind, regularizer))
    pruner = pruners.BregmanPruner(
        schedules.ConstantSparsity(0.9, 0, frequency=1), regularizer
    )
    fit(model, pruner)
    zeros = sum(np.sum(w == 0) for w in kernels(model).values())
    assert zeros == 1328
    assert pruner.missed == []
    assert pruner.report.sparsity == pytest.approx(1328 / 1476)


def perceptron(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(16, "tanh", bias_initializer="ones"),
            keras.layers.Dense(10),
        ]
    )
    model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize("kind", ("LinBreg", "AdaBreg"))
def test_a_ramp_grows_from_almost_nothing(kind):
    regularizer = regularizers.L1(0.1)
    model = perceptron(optimizer_of(kind, regularizer))
    sparsify(model, 0.01, seed=0)
    model.layers[1].bias.assign(np.ones(16))
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            zeros = [np.sum(m == 0) for m in pruner.masks.values()]
            seen.append(int(sum(zeros)))

    schedule = schedules.PolynomialDecay(0.98, 0.5, 0, 12, frequency=2, power=1)
    pruner = pruners.BregmanPruner(schedule, regularizer)
    x, y = samples()
    model.fit(x, y, 16, 3, verbose=0, callbacks=[pruner, Watch()])
    # Fewer have moved before the first step: that update is made after it.
    # int((0.98 - 0.48 t / 12) * 1184), t = 2, 4, ...
    # AdaBreg's first step moves all by the same.
    assert seen[1] == 1160
    assert [seen[t] for t in (2, 4, 6, 8, 10, 12)] == [
        *(1065, 970, 876, 781, 686, 592)
    ]
    # The density stays that of the end.
    assert seen[14] == seen[16] == 592
    zeros = sum(np.sum(w == 0) for w in kernels(model).values())
    assert zeros == 592


def test_whole_groups_are_counted():
    regularizer = regularizers.GroupL2(0.1)
    model = network(optimizers.LinBreg(0.1, regularizers=regularizer))
    pruner = pruners.BregmanPruner(
        schedules.ConstantSparsity(0.5, 0, frequency=2), regularizer
    )
    fit(model, pruner)
    found = kernels(model)
    # Four kernels of the convolution, ten columns: int(0.5 * 14) are zero.
    dead = np.sum(~found["conv"].any((0, 1))) + np.sum(~found["dense"].any(0))
    assert dead == 7
    assert pruner.missed == []


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_each_layer_by_itself(kind):
    regularizer = regularizers.L1(0.1)
    model = network(optimizer_of(kind, regularizer))
    pruner = pruners.BregmanPruner(
        schedules.ConstantSparsity(0.75, 0, frequency=1),
        regularizer,
        scope="layer",
    )
    fit(model, pruner)
    found = kernels(model)
    assert [np.sum(w == 0) for w in found.values()] == [27, 1080]


def test_a_worked_example():
    # v = theta / delta + lam sign(theta): 1.5, -0.9, 0.7, -0.6 for lam = 0.5.
    weight = keras.Variable([[1.0, -0.4], [0.2, -0.1]])
    regularizer = regularizers.L1(0.5)
    optimizer = optimizers.LinBreg(0.0, regularizers=lambda v: regularizer)
    optimizer.build([weight])
    assert optimizer.set_sparsity(regularizer, 0.5)
    # Halfway between 0.7 and 0.9; what is left is |v| - 0.8.
    assert regularizer.lam == pytest.approx(0.8)
    np.testing.assert_allclose(
        ops.convert_to_numpy(weight), [[0.7, -0.1], [0, 0]], atol=1e-6
    )
    # After the first step nothing is forgotten: v = 1.5, -0.9, 0, 0 there.
    optimizer.apply([ops.convert_to_tensor([[0.0, 0.0], [0.0, 0.0]])])
    assert optimizer.set_sparsity(regularizer, 0.75)
    assert regularizer.lam == pytest.approx(1.2)
    assert optimizer.set_sparsity(regularizer, 0.5)
    assert regularizer.lam == pytest.approx(0.45)
    np.testing.assert_allclose(
        ops.convert_to_numpy(weight), [[1.05, -0.45], [0, 0]], atol=1e-6
    )


def test_what_never_moved_cannot_be_told_apart():
    weight = keras.Variable([[1.0, 0.0], [0.0, 0.0]])
    regularizer = regularizers.L1(0.5)
    optimizer = optimizers.LinBreg(0.0, regularizers=lambda v: regularizer)
    optimizer.build([weight])
    assert not optimizer.set_sparsity(regularizer, 0.5)
    assert np.count_nonzero(ops.convert_to_numpy(weight)) == 1
    assert optimizer.set_sparsity(regularizer, 0.75)


def test_of_equal_weights_the_first_ones_go():
    weight = keras.Variable([[1.0, 0.5], [0.5, -0.5]])
    regularizer = regularizers.L1(0.25)
    optimizer = optimizers.LinBreg(0.0, regularizers=lambda v: regularizer)
    optimizer.build([weight])
    assert optimizer.set_sparsity(regularizer, 0.5)
    alive = ops.convert_to_numpy(weight) != 0
    assert alive.tolist() == [[True, False], [False, True]]
    assert regularizer.lam == 0.75
    assert optimizer.set_sparsity(regularizer, 0.75)
    assert np.count_nonzero(ops.convert_to_numpy(weight)) == 1


def test_a_training_that_diverged_is_told_so():
    weight = keras.Variable([[1.0, np.nan]])
    regularizer = regularizers.L1(0.25)
    optimizer = optimizers.LinBreg(0.0, regularizers=lambda v: regularizer)
    optimizer.build([weight])
    with pytest.raises(ValueError, match="diverge"):
        optimizer.set_sparsity(regularizer, 0.5)


@pytest.mark.parametrize("squared", (False, True))
def test_critical_strengths_of_sparse_groups(squared):
    x = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    regularizer = regularizers.SparseGroup(
        0.1, 0.3, reference_double_lambda=squared
    )
    critical = ops.convert_to_numpy(regularizer.critical(x))[0]
    assert critical.shape == (5,)
    for column, strength in enumerate(critical):
        for factor, alive in ((0.999, True), (1.001, False)):
            regularizer.lam = float(strength * factor)
            shrunk = ops.convert_to_numpy(regularizer.prox(x, 1.0))
            assert shrunk[:, column].any() == alive


def test_a_second_fit_goes_on():
    def trained(splits):
        regularizer = regularizers.L1(0.1)
        model = network(optimizers.AdaBreg(1e-2, regularizers=regularizer))
        schedule = schedules.ConstantSparsity(0.9, 0, frequency=6)
        pruner = pruners.BregmanPruner(schedule, regularizer)
        start = 0
        for end in splits:
            fit(model, pruner, end, initial_epoch=start)
            start = end
        return kernels(model)

    # Six batches an epoch: the update at the end of a fit is one that is due.
    once, twice = trained([4]), trained([2, 4])
    for name, weights in once.items():
        np.testing.assert_array_equal(weights, twice[name])


@pytest.mark.parametrize("epsilon", (1e-8, 1e-4))
def test_rows_of_absent_classes_die(epsilon):
    """Under a fixed strength AdaBreg keeps all of them alive here."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(512, 16)).astype("float32")
    y = (x[:, 0] > 0).astype("int32") + 2 * (x[:, 1] > 0)
    keras.utils.set_random_seed(0)
    regularizer = regularizers.L1(0.1)
    model = keras.Sequential(
        [keras.Input((16,)), keras.layers.Dense(12, name="head")]
    )
    model.compile(
        optimizers.AdaBreg(1e-2, epsilon=epsilon, regularizers=regularizer),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    pruner = pruners.BregmanPruner(
        schedules.ConstantSparsity(0.95, 0, frequency=4), regularizer
    )
    model.fit(x, y, 32, 30, verbose=0, callbacks=[pruner])
    alive = kernels(model)["head"].any(0)
    assert alive[:4].all()
    assert not alive[4:].any()


# ---- bad input -----------------------------------------------------------


def test_a_regularizer_without_zeros_is_refused():
    with pytest.raises(ValueError, match="`regularizer` must .*Nuclear"):
        pruners.BregmanPruner(schedules.OneShot(0.5), regularizers.Nuclear(0.1))


def test_what_is_no_regularizer_is_refused():
    with pytest.raises(TypeError, match="`regularizer` must .*'l1'"):
        pruners.BregmanPruner(schedules.OneShot(0.5), "l1")


def test_other_optimizers_are_refused():
    model = network("sgd")
    pruner = pruners.BregmanPruner(schedules.OneShot(0.5))
    with pytest.raises(ValueError, match="LinBreg, AdaBreg or ProxSGD.*SGD"):
        fit(model, pruner)


def test_without_a_regularizer_the_optimizer_must_have_one():
    rules = {"conv": regularizers.GroupL2(0.1), "dense": regularizers.L1(0.1)}
    rules = {f"{name}/kernel": rule for name, rule in rules.items()}
    model = network(optimizers.LinBreg(0.1, regularizers=rules))
    pruner = pruners.BregmanPruner(schedules.OneShot(0.5))
    with pytest.raises(ValueError, match="`regularizer` must be one of"):
        fit(model, pruner)


def test_a_regularizer_of_another_optimizer_is_refused():
    model = network(optimizers.LinBreg(0.1, regularizers=regularizers.L1(0.1)))
    pruner = pruners.BregmanPruner(schedules.OneShot(0.5), regularizers.L1(0.1))
    with pytest.raises(ValueError, match="`regularizer` must be one of"):
        fit(model, pruner)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("by_pattern", [False, True])
def test_a_model_with_separate_strengths_is_stored_whole(
    kind, by_pattern, tmp_path
):
    l1 = regularizers.L1(0.1)
    given = {"kernel": l1} if by_pattern else l1
    model = network(optimizer_of(kind, given))
    schedule = schedules.ConstantSparsity(0.5, 0, frequency=1)
    fit(model, pruners.BregmanPruner(schedule, scope="layer"))
    model.save(tmp_path / "model.keras")
    save_sparse(model, tmp_path / "model.sparse")
    for loaded in (
        keras.saving.load_model(tmp_path / "model.keras"),
        load_sparse(tmp_path / "model.sparse"),
    ):
        variables = model.optimizer.variables
        found = loaded.optimizer.variables
        assert len(found) == len(variables)
        for a, b in zip(variables, found):
            np.testing.assert_array_equal(
                ops.convert_to_numpy(a), ops.convert_to_numpy(b), a.path
            )
        strengths = [
            float(loaded.optimizer.regularizer_of(index).lam)
            for index in (0, 2)  # of the kernels
        ]
        assert strengths[0] != strengths[1]
