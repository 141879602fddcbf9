"""Tests of dormant values: what is pruned may train on, unseen."""

import keras
import numpy as np
import pytest

from keras_app import enforcement
from tests.helpers import not_torch
from tests.helpers import to_numpy
from tests.masking import assert_same_weights
from tests.masking import check
from tests.masking import check_dormant
from tests.masking import compiled
from tests.masking import data
from tests.masking import dense_layers
from tests.masking import Dormant
from tests.masking import fit
from tests.masking import load
from tests.masking import Masking
from tests.masking import OPTIMIZERS
from tests.masking import slot
from tests.masking import slots

# ---- dormant values --------------------------------------------------------


@pytest.mark.parametrize(
    "share, decay", [(1.0, (0.0, 0.0)), (0.5, (0.2, 0.6))], ids=["all", "some"]
)
def test_dormant_weights_follow_the_gradient_at_the_masked_ones(share, decay):
    # One linear layer, mean squared error: gradient and momentum by hand.
    x, y = data(outputs=3)
    inputs = keras.Input((8,))
    outputs = keras.layers.Dense(3, use_bias=False)(inputs)
    model = compiled(
        keras.optimizers.SGD(0.1, momentum=0.9), keras.Model(inputs, outputs)
    )
    dormant = Dormant(share, decay, plan=[(0, 0.5), (2, 0.4)])
    w = to_numpy(model.trainable_variables[0]).astype("float64")
    fit(model, dormant, inputs=(x, y), epochs=1)
    random = np.random.default_rng(0)
    v, learned = np.zeros(w.shape), np.ones(w.shape, bool)
    for step, start in enumerate(range(0, 32, 8)):
        if step in (0, 2):
            mask = random.random(w.shape) >= (0.5 if step == 0 else 0.4)
            learning = mask | (random.random(w.shape) < share)
            v[learning & ~learned] = 0
            learned = learning
        inputs, targets = x[start : start + 8], y[start : start + 8]
        g = 2 / (8 * 3) * inputs.T @ (inputs @ (mask * w) - targets)
        g += np.where(mask, *decay) * w
        v = 0.9 * v - 0.1 * g
        w = np.where(learning, w + v, w)
    variable = model.trainable_variables[0]
    found = dormant.state.dense(variable)
    np.testing.assert_allclose(found, w, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(to_numpy(variable), found * mask)
    check_dormant(dormant)


@pytest.mark.parametrize("name", ["muon", "ema_overwrite", "all_at_once"])
def test_dormant_weights_train_under(name):
    model = compiled(OPTIMIZERS[name]())
    dormant = Dormant(share=0.6)
    fit(model, dormant)
    check_dormant(dormant)


def test_dormant_weights_train_under_loss_scaling(policy):
    policy("mixed_float16")
    model = compiled(keras.optimizers.Adam(0.01))
    dormant = Dormant(share=0.6)
    fit(model, dormant)
    check_dormant(dormant)


@not_torch
def test_dormant_weights_train_in_several_compiled_steps():
    model = compiled(
        keras.optimizers.Adam(0.01), jit_compile=True, steps_per_execution=4
    )
    dormant = Dormant(share=0.6, plan=[(0, 0.3), (4, 0.6)])
    fit(model, dormant, epochs=3)
    check_dormant(dormant)


def test_what_comes_back_has_its_value_its_average_and_its_momentum():
    model = compiled(keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True))
    dormant = Dormant(plan=[(0, 0.5)])
    fit(model, dormant, epochs=1)
    held = [dormant.state.dense(v) for v in dormant.variables]
    before = slots(model.optimizer)
    ones = [np.ones_like(mask) for mask in dormant.masks]
    dormant.state.set(list(zip(dormant.variables, ones)))
    for variable, mask, values in zip(dormant.variables, dormant.masks, held):
        assert values[~mask].all()
        np.testing.assert_array_equal(to_numpy(variable), values)
        average = to_numpy(slot(model.optimizer, variable, "average"))
        np.testing.assert_array_equal(average[~mask], values[~mask])
        momentum = slot(model.optimizer, variable, "momentum")
        was = before[momentum.path]
        assert was[~mask].all()
        np.testing.assert_array_equal(to_numpy(momentum), was)


def test_kept_weights_may_be_set_from_outside():
    model = compiled(keras.optimizers.SGD(0.0))
    dormant = Dormant(plan=[(0, 0.5)])
    fit(model, dormant, epochs=1)
    variable, mask = dormant.variables[0], dormant.masks[0]
    held = dormant.state.dense(variable)
    variable.assign(np.where(mask, 7.0, 0.0))
    fit(model, epochs=1)
    found = dormant.state.dense(variable)
    np.testing.assert_array_equal(found, np.where(mask, 7.0, held))
    assert dormant.state.leaks() == {}


def test_frozen_dormant_weights_stay_what_they_are_until_they_come_back():
    model = compiled(keras.optimizers.SGD(0.05, momentum=0.9))
    masking = Masking(plan=[(2, 0.5)])
    masking.set_model(model)
    assert masking.state.keep_dormant(masking.variables, learning=False)
    assert not masking.state.keep_dormant(masking.variables, learning=False)
    # Nothing is pruned before the third step: the same weights as without.
    expected = compiled(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.models.clone_model(model),
    )
    expected.set_weights(model.get_weights())
    x, y = data()
    fit(expected, inputs=(x[:16], y[:16]), epochs=1)
    fit(model, masking, epochs=1)
    check(masking)
    for variable, mask, layer in zip(
        masking.variables, masking.masks, dense_layers(expected)
    ):
        held = to_numpy(layer.kernel)
        found = masking.state.dense(variable)
        np.testing.assert_allclose(found[~mask], held[~mask], rtol=1e-5)
        np.testing.assert_array_equal(masking.state.learning(variable), mask)
        masking.state.set([(variable, np.ones_like(mask))])
        np.testing.assert_array_equal(to_numpy(variable), found)
        momentum = to_numpy(slot(model.optimizer, variable, "momentum"))
        assert not momentum[~mask].any() and momentum[mask].all()


def test_learning_entries_of_another_shape_are_refused():
    model = compiled()
    kernel = model.get_layer("hidden").kernel
    state = enforcement.attach(model, [kernel])
    state.keep_dormant([kernel], learning=True)
    with pytest.raises(ValueError, match=r"learning entries of .*\(16, 8\)"):
        state.learn([(kernel, np.ones((16, 8), bool))])


def sum_of_products(watched, gradient, weight):
    return watched + gradient * weight


def test_a_rule_adds_up_gradients_at_the_masked_weights_times_the_dense():
    x, y = data(outputs=3)
    inputs = keras.Input((8,))
    outputs = keras.layers.Dense(3, use_bias=False)(inputs)
    model = compiled(keras.optimizers.SGD(0.1), keras.Model(inputs, outputs))
    dormant = Dormant(plan=[(0, 0.5)])
    dormant.set_model(model)
    [variable] = dormant.variables
    assert dormant.state.watch([variable], sum_of_products)
    assert not dormant.state.watch([variable], sum_of_products)
    dormant.state.watch_next(dormant.variables, True)
    w = to_numpy(variable).astype("float64")
    fit(model, dormant, inputs=(x, y), epochs=1)
    [mask], expected = dormant.masks, np.zeros(w.shape)
    for start in range(0, 32, 8):
        inputs, targets = x[start : start + 8], y[start : start + 8]
        g = 2 / (8 * 3) * inputs.T @ (inputs @ (mask * w) - targets)
        expected += g * w
        w = w - 0.1 * g
    found = dormant.state.watched(variable)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    # Another rule starts from zero, and an end of watching ends it.
    assert dormant.state.watch([variable])
    dormant.state.watch_next(dormant.variables, False)
    fit(model, inputs=(x, y), epochs=1)
    assert not dormant.state.watched(variable).any()


def test_rules_decays_and_when_to_watch_are_each_weights_own():
    model = compiled(keras.optimizers.SGD(0.0))
    first, second = (layer.kernel for layer in dense_layers(model)[:2])
    state = enforcement.attach(model, [first, second])
    state.keep_dormant([first], learning=True, decay=(0.0, 1.0))
    state.keep_dormant([second], learning=True, decay=(0.0, 5.0))
    assert not state.keep_dormant([first], learning=True, decay=(0.0, 1.0))
    state.watch([first])
    state.watch([second], lambda watched, gradient, weight: watched + 1.0)
    state.watch_next([second], True)
    fit(model, epochs=1)
    assert not state.watched(first).any()
    assert (state.watched(second) == 4.0).all()


@pytest.mark.parametrize(
    "optimizer, kind",
    [
        (lambda: keras.optimizers.SGD(0.1, momentum=0.9), "momentum"),
        (lambda: keras.optimizers.Ftrl(0.1), "linear"),
    ],
)
def test_momentum_is_forgotten_where_two_paths_make_one_name(optimizer, kind):
    inputs = keras.Input((4,))
    inner = keras.Sequential([keras.layers.Dense(4, name="b")], name="a")
    outputs = inner(keras.layers.Dense(4, name="a_b")(inputs))
    model = compiled(optimizer(), keras.Model(inputs, outputs))
    kernel = inner.layers[0].kernel
    state = enforcement.attach(model, [kernel])
    half = np.arange(16).reshape(4, 4) % 2 == 0
    state.set([(kernel, half)])
    x, _ = data(outputs=4)
    model.fit(x[:, :4], x[:, :4], verbose=0)
    state.set([(kernel, np.ones((4, 4), bool))])
    found = [
        to_numpy(variable)
        for variable in model.optimizer.variables
        if variable.name == f"a_b_kernel_{kind}"
    ]
    kernels = [v for v in model.trainable_variables if len(v.shape) == 2]
    assert len(found) == 2
    for values, variable in zip(found, kernels):
        assert values[half].any()
        assert values[~half].any() == (variable is not kernel)


def test_clipping_by_value_makes_gradients_alike():
    model = compiled(keras.optimizers.SGD(0.1, clipvalue=0.5))
    kernel = dense_layers(model)[0].kernel
    state = enforcement.attach(model, [kernel])
    with pytest.warns(UserWarning, match="clipvalue=0.5"):
        state.watch([kernel])


def test_load_weights_restores_dormant_values_and_what_was_watched(tmp_path):
    def prepared(**arguments):
        model = compiled(keras.optimizers.Adam(0.01))
        dormant = Dormant(share=0.6, **arguments)
        dormant.set_model(model)
        dormant.state.watch(dormant.variables, sum_of_products, store=True)
        dormant.state.watch_next(dormant.variables, True)
        return model, dormant

    model, dormant = prepared(plan=[(0, 0.5)])
    fit(model, dormant, epochs=1)
    model.save_weights(tmp_path / "a.weights.h5")
    other, fresh = prepared(plan=[])
    other.load_weights(tmp_path / "a.weights.h5")
    fit(model, epochs=1)
    fit(other, epochs=1)
    assert_same_weights(model, other)
    own = zip(dormant.state.own_variables, fresh.state.own_variables)
    for a, b in own:
        assert a.name == b.name
        np.testing.assert_array_equal(to_numpy(a), to_numpy(b), a.name)
    model.save(tmp_path / "model.keras")
    assert_same_weights(model, load(tmp_path / "model.keras"))
    enforcement.detach(model)
    # Steps, learning rate, and two slots of each of four variables.
    assert len(model.optimizer.variables) == 10
    assert "update_step" not in vars(model.optimizer)
