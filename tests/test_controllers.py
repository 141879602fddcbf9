"""Controllers of lam: recorded sequences, by hand, and inside fit."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_app.initializers import sparsify
from keras_app.optimizers import AdaBreg
from keras_app.optimizers import LinBreg
from keras_app.optimizers import ProxSGD
from keras_app.pruners import DensityController
from keras_app.pruners import LambdaController
from keras_app.regularizers import L1
from tests.models import compiled
from tests.models import fit
from tests.models import small_model


@pytest.mark.parametrize("name", ["w0c0", "w2c1", "default_target"])
def test_the_sequence_of_lam_is_the_recorded_one(golden, name):
    data = golden("bregman/lambda_schedule.npz")
    config = data[f"{name}__cfg_warmup_increment_cooldown_target_lam0"]
    warmup, increment, cooldown, target, lam = map(float, config)
    regularizer = L1(lam)
    controller = LambdaController(
        regularizer,
        target_density=target,
        increment=increment,
        warmup=int(warmup),
        cooldown=int(cooldown),
    )
    found = []
    for density in data[f"{name}__density_in"]:
        controller.update(float(density))
        found.append(regularizer.lam)
    np.testing.assert_allclose(found, data[f"{name}__lam_after"], atol=1e-9)


@pytest.mark.parametrize("name", ["linbreg", "linbreg_momentum", "adabreg"])
def test_weights_and_duals_follow_a_moving_lam_as_recorded(golden, name):
    data = golden("bregman/lambda_schedule.npz")
    get = lambda key: data[f"coupled_{name}__{key}"]  # noqa: E731
    lam, rate, delta, increment, target = map(
        float, get("cfg_lam0_lr_delta_inc_target")
    )
    regularizer = L1(lam)
    arguments = {"delta": delta, "regularizers": regularizer}
    if name == "adabreg":
        optimizer = AdaBreg(rate, **arguments)
    else:
        momentum = 0.9 if "momentum" in name else 0.0
        optimizer = LinBreg(rate, momentum=momentum, **arguments)
    controller = LambdaController(
        regularizer, target_density=target, increment=increment, cooldown=1
    )
    variable = keras.Variable(get("theta0_keras"), name="kernel")
    close = {"rtol": 1e-5, "atol": 1e-5}
    for step, gradient in enumerate(get("grads_keras")):
        optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
        theta = ops.convert_to_numpy(variable)
        np.testing.assert_allclose(theta, get("theta_keras")[step], **close)
        (v,) = optimizer.subgradients.values()
        expected = get("v_before_sched_keras")[step]
        np.testing.assert_allclose(v, expected, **close)
        density = optimizer.density_of(regularizer)
        assert density == pytest.approx(float(get("density")[step]))
        controller.update(density)
        assert regularizer.lam == pytest.approx(float(get("lam_after")[step]))
        (v,) = optimizer.subgradients.values()
        expected = get("v_after_sched_keras")[step]
        np.testing.assert_allclose(v, expected, **close)


def test_warmup_and_cooldown_by_hand():
    regularizer = L1(1.0)
    controller = LambdaController(
        regularizer, 0.5, increment=0.5, warmup=1, cooldown=2
    )
    found = []
    for _ in range(9):
        controller.update(0.9)
        found.append(regularizer.lam)
    # Two calls of warm-up, two of cooling down, then one in three acts.
    assert found == [1, 1, 1, 1, 1.5, 1.5, 1.5, 2, 2]


def test_the_multiplicative_rule_by_hand():
    regularizer = L1(1.0)
    controller = DensityController(regularizer, 0.25, gain=2.0, decay=0.5)
    found = []
    for density in (0.75, 0.0, 0.5, 0.25):
        controller.update(density)
        found.append(regularizer.lam)
    # x 2; first crossing / 1.5; the second halves the gain: x 1.25; no gap.
    expected = [2.0, 2 / 1.5, 2 / 1.5 * 1.25, 2 / 1.5 * 1.25]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def sparse_model(optimizer):
    model = small_model()
    sparsify(model, 0.3, seed=0, bias_gain=1.0)
    return compiled(optimizer, model)


@pytest.mark.parametrize("kind", [LinBreg, AdaBreg, ProxSGD])
@pytest.mark.parametrize("on_change", ["reset", "rescale", "keep"])
def test_in_fit_lam_follows_the_density_and_is_logged(kind, on_change):
    regularizer = L1(0.25)
    model = sparse_model(kind(1e-4, regularizers=regularizer))
    controller = LambdaController(
        regularizer, target_density=0.1, increment=0.125, on_change=on_change
    )
    history = fit(model, epochs=4, callbacks=[controller]).history
    # With "keep" the active weights shrink, until the density is below.
    last = 0.375 if on_change == "keep" and kind is not ProxSGD else 0.625
    assert history["lam"] == [0.25, 0.375, 0.5, last]
    assert regularizer.lam == last
    assert history["density"][0] == pytest.approx(0.3, abs=0.06)
    assert model.optimizer.density == pytest.approx(history["density"][-1])


def test_the_multiplicative_controller_comes_to_its_target():
    regularizer = L1(0.01)
    model = sparse_model(ProxSGD(0.05, regularizers=regularizer))
    controller = DensityController(
        regularizer, target_density=0.2, frequency=4, name="all"
    )
    history = fit(model, epochs=40, callbacks=[controller]).history
    assert history["density_all"][0] > 0.2
    assert history["density_all"][-1] == pytest.approx(0.2, abs=0.05)
    assert history["lam_all"][-1] == pytest.approx(regularizer.lam)


def test_a_restored_controller_goes_on():
    one, two = L1(1.0), L1(1.0)
    first = LambdaController(one, 0.5, warmup=1, cooldown=1)
    second = LambdaController(two, 0.5, warmup=1, cooldown=1)
    for _ in range(3):
        first.update(0.9)
    second.restore(*first.state())
    two.lam = one.lam
    for _ in range(4):
        first.update(0.9)
        second.update(0.9)
        assert one.lam == two.lam


def test_an_optimizer_that_is_not_built_is_refused():
    regularizer = L1(0.1)
    optimizer = LinBreg(regularizers=regularizer)
    controller = LambdaController(regularizer)
    controller.update(0.5)  # the warm-up
    with pytest.raises(RuntimeError, match="is not built yet"):
        controller.update(0.5)
    assert not optimizer.built and regularizer.lam == 0.1


def test_a_regularizer_of_another_model_is_refused():
    model = sparse_model(LinBreg(0.1, regularizers=L1(0.1)))
    with pytest.raises(ValueError, match="`regularizer` must be one of"):
        fit(model, callbacks=[LambdaController(L1(0.1))])


def test_an_optimizer_without_strengths_is_refused():
    with pytest.raises(ValueError, match="compiled with Adam"):
        fit(compiled("adam"), callbacks=[LambdaController(L1(0.1))])


@pytest.mark.parametrize(
    "arguments",
    [
        {"target_density": 1.5},
        {"target_density": -0.1},
        {"increment": 0.0},
        {"warmup": -1},
        {"warmup": 0.5},
        {"cooldown": -2},
        {"on_change": "hold"},
        {"regularizer": "l1"},
    ],
)
def test_bad_arguments_are_refused_with_name_and_value(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"`{name}` must be") as raised:
        LambdaController(**{"regularizer": L1(0.1), **arguments})
    assert str(value) in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frequency": 0}, "frequency=0"),
        ({"gain": 0.0}, "gain=0.0"),
        ({"decay": 1.5}, "decay=1.5"),
        ({"regularizer": L1(0.0)}, "lam=0.0"),
    ],
)
def test_bad_arguments_of_the_multiplicative_rule(arguments, message):
    with pytest.raises(ValueError, match=message):
        DensityController(
            **{"regularizer": L1(0.1), "target_density": 0.1, **arguments}
        )


@pytest.mark.parametrize(
    "controller",
    [
        LambdaController(L1(0.5), 0.25, increment=0.5, warmup=1, name="conv"),
        DensityController(L1(0.5), 0.25, frequency=7, on_change="keep"),
    ],
)
def test_config_round_trip(controller):
    config = keras.saving.serialize_keras_object(controller)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == controller.get_config()
