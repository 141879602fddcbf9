"""Tests of the masks: what is pruned stays exactly zero, whatever trains it."""

import keras
import numpy as np
import pytest

from keras_app import enforcement
from tests.helpers import not_torch
from tests.helpers import to_numpy
from tests.masking import check
from tests.masking import compiled
from tests.masking import data
from tests.masking import fit
from tests.masking import Masking
from tests.masking import OPTIMIZERS
from tests.masking import perceptron
from tests.masking import pruned
from tests.masking import slot
from tests.models import MODELS

# ---- optimizers ------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_stay_zero_under(name):
    model = compiled(OPTIMIZERS[name]())
    masking = Masking()
    fit(model, masking)
    check(masking)


@pytest.mark.parametrize(
    "name", ["adam", "muon", "ema", "ema_overwrite", "gradient_accumulation"]
)
def test_a_second_fit_keeps_the_masks_and_takes_new_ones(name):
    model = compiled(OPTIMIZERS[name]())
    first = Masking()
    fit(model, first)
    ended_at = [to_numpy(v).copy() for v in first.variables]
    again = Masking(plan=[])
    again.masks, again.start = first.masks, ended_at
    fit(model, again)
    check(again)
    third = Masking(plan=[(2, 0.5)], seed=7)
    fit(model, third)
    check(third)


@pytest.mark.parametrize("name", ["adam", "sgd_momentum"])
def test_training_without_the_callback_keeps_the_zeros(name):
    model = compiled(OPTIMIZERS[name]())
    masking = Masking()
    fit(model, masking)
    fit(model)
    check(masking)


def test_masks_may_come_after_a_dense_fit():
    # The step that this compiled knows nothing of masks.
    model = compiled(keras.optimizers.Adam(0.01))
    fit(model, epochs=1)
    masking = Masking()
    fit(model, masking)
    check(masking)


def test_masked_sgd_is_the_projected_step():
    # One linear layer, mean squared error: the gradient by hand.
    x, y = data(outputs=3)
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(3, use_bias=False)]
    )
    compiled(keras.optimizers.SGD(0.1), model)
    masking = Masking(plan=[(0, 0.5)])
    kernel = to_numpy(model.trainable_variables[0]).astype("float64")
    fit(model, masking, inputs=(x, y), epochs=1)
    mask = masking.masks[0]
    kernel = kernel * mask
    for start in range(0, 32, 8):
        inputs, targets = x[start : start + 8], y[start : start + 8]
        gradient = 2 / (8 * 3) * inputs.T @ (inputs @ kernel - targets)
        kernel = (kernel - 0.1 * gradient) * mask
    found = to_numpy(model.trainable_variables[0])
    np.testing.assert_allclose(found, kernel, rtol=1e-4, atol=1e-6)


def test_the_moving_average_of_the_weights_averages_zeros():
    model = compiled(keras.optimizers.SGD(0.05, use_ema=True))
    masking = Masking()
    fit(model, masking)
    check(masking)
    for variable, mask in zip(masking.variables, masking.masks):
        average = to_numpy(slot(model.optimizer, variable, "average"))
        assert not average[~mask].any()
        assert average[mask].all()


def test_an_unmasked_variable_trains_as_without_masks():
    x, y = data(outputs=3)
    kernels = []
    for attach in (False, True):
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [keras.Input((8,)), keras.layers.Dense(3, name="only")]
        )
        compiled("adam", model)
        if attach:
            enforcement.attach(model, [model.layers[0].kernel])
        fit(model, inputs=(x, y))
        kernels.append(to_numpy(model.layers[0].kernel))
    np.testing.assert_allclose(kernels[0], kernels[1], rtol=1e-6)


# ---- precision and compilation ---------------------------------------------


@pytest.mark.parametrize("name", ["adam", "sgd_momentum", "ema"])
def test_zeros_stay_zero_under_loss_scaling(policy, name):
    policy("mixed_float16")
    model = compiled(OPTIMIZERS[name]())
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    masking = Masking()
    fit(model, masking)
    check(masking)
    assert np.isfinite(to_numpy(model.optimizer.dynamic_scale))


def test_zeros_stay_zero_when_loss_scaling_skips_steps(policy):
    policy("mixed_float16")
    # Gradients times 2 ** 22 overflow float16: the first steps are skipped.
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=2.0**22
    )
    model = compiled(optimizer)
    masking = Masking(plan=[(0, 0.3), (2, 0.6)])
    fit(model, masking, epochs=5)
    check(masking)
    assert 0 < int(to_numpy(optimizer.iterations)) < 20


@pytest.mark.parametrize("name", ["mixed_bfloat16", "bfloat16"])
def test_zeros_stay_zero_in(policy, name):
    policy(name)
    # Keras's Adam does not move bfloat16 weights at all: its beta_2 = 0.999
    # rounds to 1 there.
    model = compiled(keras.optimizers.SGD(0.2, momentum=0.9))
    masking = Masking()
    fit(model, masking)
    check(masking)


@not_torch
@pytest.mark.parametrize("name", ["adam", "ema_overwrite"])
def test_zeros_stay_zero_with_several_steps_per_execution(name):
    model = compiled(OPTIMIZERS[name](), steps_per_execution=4)
    masking = Masking(plan=[(0, 0.3), (4, 0.6)])
    fit(model, masking, epochs=3)
    check(masking)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"jit_compile": True}, id="jit", marks=not_torch),
        pytest.param({"jit_compile": False}, id="no_jit"),
        pytest.param({"run_eagerly": True}, id="eager"),
        pytest.param(
            {"jit_compile": True, "steps_per_execution": 4},
            id="jit_and_steps",
            marks=not_torch,
        ),
    ],
)
def test_zeros_stay_zero_when_the_step_is(arguments):
    model = compiled(keras.optimizers.Adam(0.01), **arguments)
    masking = Masking(plan=[(0, 0.3), (4, 0.6)])
    fit(model, masking, epochs=3)
    check(masking)


# ---- models ----------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_zeros_stay_zero_in_a_model_with(name):
    model, filters, count = MODELS[name]()
    compiled(keras.optimizers.Adam(0.02), model)
    masking = Masking(filters, plan=[(0, 0.2), (3, 0.4)])
    fit(model, masking)
    assert len(masking.variables) == count
    check(masking)
    assert len(enforcement.masks_of(model)) == count


def test_a_custom_train_step_keeps_the_zeros():
    class Custom(keras.Model):
        calls = 0

        def train_step(self, *args):
            type(self).calls += 1
            return super().train_step(*args)

    plain = perceptron()
    model = Custom(plain.inputs, plain.outputs)
    compiled("adam", model)
    masking = Masking()
    fit(model, masking)
    check(masking)
    assert Custom.calls


def test_frozen_layers_are_left_alone():
    model = perceptron()
    model.get_layer("hidden").trainable = False
    compiled("adam", model)
    masking = Masking()
    fit(model, masking)
    assert [v.path for v in masking.variables] == ["head/kernel"]
    check(masking)


# ---- what is refused -------------------------------------------------------


def test_a_model_without_optimizer_is_refused():
    with pytest.raises(ValueError, match="must be compiled with an optimizer"):
        enforcement.attach(perceptron())


def test_a_mask_of_another_shape_is_refused():
    model, masking = pruned("adam")
    with pytest.raises(
        ValueError, match=r"hidden/kernel.*\(8, 16\).*\(16, 8\)"
    ):
        masking.state.set([(masking.variables[0], np.ones((16, 8), bool))])


def test_a_variable_the_optimizer_does_not_know_is_refused():
    model = compiled()
    other = keras.layers.Dense(3, name="stranger")
    other.build((None, 2))
    with pytest.raises(ValueError, match="stranger/kernel is no trainable"):
        enforcement.attach(model, [other.kernel])


def test_several_workers_are_refused(monkeypatch):
    # `fit` under two real workers ends in an error of Keras before any
    # callback is asked, so that this sees only who attaches by hand.
    class MultiWorkerMirroredStrategy:
        num_replicas_in_sync = 2

    model = compiled()
    strategy = MultiWorkerMirroredStrategy()
    monkeypatch.setattr(
        type(model), "distribute_strategy", strategy, raising=False
    )
    with pytest.raises(ValueError) as caught:
        enforcement.attach(model)
    assert "cannot `fit` under MultiWorkerMirroredStrategy" in str(caught.value)
    assert "JAX backend with `keras.distribution" in str(caught.value)


def test_an_optimizer_of_other_layers_is_explained():
    model, _ = pruned("adam")
    extra = keras.layers.Dense(4, name="extra")
    grown = keras.Model(model.inputs, extra(model.outputs[0]))
    grown.compile(model.optimizer, "mse")
    with pytest.raises(ValueError, match="Compile the model again"):
        enforcement.attach(grown, [extra.kernel])
