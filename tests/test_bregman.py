"""LinBreg, AdaBreg and ProxSGD: recorded trajectories, rules, refusals."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from keras_app import enforcement
from keras_app import pruners
from keras_app import schedules
from keras_app.initializers import sparsify
from keras_app.optimizers import AdaBreg
from keras_app.optimizers import LinBreg
from keras_app.optimizers import ProxSGD
from keras_app.regularizers import GroupL2
from keras_app.regularizers import L1
from keras_app.regularizers import NonNegativeL1
from keras_app.regularizers import Nuclear
from keras_app.regularizers import SparseGroup
from tests.helpers import to_numpy
from tests.models import apply
from tests.models import compiled
from tests.models import examples
from tests.models import fit
from tests.models import RECORDED
from tests.models import small_model

BREGMAN = (LinBreg, AdaBreg)
ALL = (LinBreg, AdaBreg, ProxSGD)

# ---- recorded trajectories ----


def optimizer_for(name, get, regularizers):
    rate = float(get("lr")[0])
    if name == "proxsgd":
        return ProxSGD(rate, regularizers=regularizers)
    delta = float(get("delta"))
    if name.startswith("linbreg"):
        momentum = float(get("momentum")) if "momentum" in name else 0.0
        return LinBreg(
            rate, momentum=momentum, delta=delta, regularizers=regularizers
        )
    legacy = name == "adabreg_legacy"
    return AdaBreg(
        rate,
        beta_1=float(get("beta1")),
        beta_2=float(get("beta2")),
        epsilon=float(get("eps")),
        delta=delta,
        regularizers=regularizers,
        bias_correction="second_only" if legacy else "full",
    )


def runs(arrays):
    """`(name, getter)` of each recorded run, in the layout of Keras."""
    for name in sorted({key.rsplit("__", 1)[0] for key in arrays}):

        def get(key, name=name):
            for suffix in ("_keras", "_torch", ""):
                if f"{name}__{key}{suffix}" in arrays:
                    return arrays[f"{name}__{key}{suffix}"]
            raise KeyError(key)

        yield name, get


@pytest.mark.parametrize(
    "name",
    ["linbreg", "linbreg_momentum", "adabreg", "adabreg_legacy", "proxsgd"],
)
def test_trajectories_are_the_recorded_ones(golden, name):
    seen = 0
    recorded = golden(f"bregman/traj_{name}.npz")
    for case, get in runs({key: recorded[key] for key in recorded}):
        kind = case.split("__")[0]
        regularizer = RECORDED[kind](float(get("lam")))
        variable = keras.Variable(get("theta0"), name="kernel")
        rules = None if regularizer is None else {"kernel": regularizer}
        optimizer = optimizer_for(name, get, rules)
        with warnings.catch_warnings():
            # The recorded non-negative run starts from negative weights.
            warnings.simplefilter("ignore")
            optimizer.build([variable])
        # Ten float32 steps; singular vectors cost digits.
        atol = 5e-5 if kind == "nuclear" else 1e-5
        close = {"rtol": 1e-5, "atol": atol, "err_msg": case}
        for step, gradient in enumerate(get("grads")):
            optimizer.learning_rate = float(get("lr")[step])
            theta = apply(optimizer, variable, gradient)
            expected = get("theta")[step]
            np.testing.assert_allclose(theta, expected, **close)
            if kind != "nuclear":
                np.testing.assert_array_equal(theta != 0, expected != 0, case)
            if name != "proxsgd" and regularizer is not None:
                (v,) = optimizer.subgradients.values()
                np.testing.assert_allclose(v, get("v")[step], **close)
        seen += 1
    assert seen == {"adabreg_legacy": 9, "adabreg": 23}.get(name, seen) > 8


@pytest.mark.parametrize("name", ["linbreg", "adabreg", "proxsgd"])
def test_one_optimizer_trains_four_kinds_of_variables(golden, name):
    recorded = golden("bregman/multi_param.npz")
    parts = ("conv", "dense", "bias", "gamma")
    arrays = {
        part: {
            key: recorded.get(
                f"{name}__{part}__{key}_keras",
                recorded.get(f"{name}__{part}__{key}_torch"),
            )
            for key in ("theta0", "grads", "theta")
        }
        for part in parts
    }
    lam = {part: float(recorded[f"{name}__{part}__lam"]) for part in parts}
    conv, dense = GroupL2(lam["conv"]), L1(lam["dense"])
    kind = {"linbreg": LinBreg, "adabreg": AdaBreg, "proxsgd": ProxSGD}[name]
    optimizer = kind(
        float(recorded[f"{name}__lr"]),
        regularizers={"conv": conv, "dense": dense},
    )
    variables = [
        keras.Variable(arrays[part]["theta0"], name=part) for part in parts
    ]
    for step in range(len(arrays["conv"]["grads"])):
        gradients = [
            ops.convert_to_tensor(arrays[part]["grads"][step]) for part in parts
        ]
        optimizer.apply(gradients, variables)
        for part, variable in zip(parts, variables):
            expected = arrays[part]["theta"][step]
            theta = to_numpy(variable)
            np.testing.assert_allclose(theta, expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(theta != 0, expected != 0)
    values = [float(conv(variables[0])), float(dense(variables[1]))]
    expected = recorded[f"{name}__reg_values"][:2]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_planted_weights_are_found_without_a_false_one(golden):
    data = golden("bregman/planted_regression.npz")
    a, y = data["A"].astype("float32"), data["y"].astype("float32")
    x = keras.Variable(np.zeros(a.shape[1], "float32"), name="x")
    optimizer = LinBreg(
        float(data["lr"]),
        delta=float(data["delta"]),
        regularizers={"x": L1(float(data["lam"]))},
    )
    count = []
    for _ in range(200):
        gradient = a.T @ (a @ to_numpy(x) - y)
        count.append(np.count_nonzero(apply(optimizer, x, gradient)))
    # Recorded after each step: none, then a few, then the true eight.
    assert count[:3] == [0, 0, 0]
    assert max(count) == 8 and set(count[21:]) == {8}
    np.testing.assert_array_equal(count, data["linbreg__nnz"][:200])
    support = np.flatnonzero(data["x_true"])
    np.testing.assert_array_equal(np.flatnonzero(to_numpy(x)), support)


# ---- identities (independent of any recording) ----


def trajectory(optimizer, shape=(4, 3), steps=8, decay_at=4, start=None):
    generator = np.random.default_rng(0)
    theta = generator.normal(size=shape).astype("float32")
    variable = keras.Variable(theta if start is None else start, name="kernel")
    found = []
    for step in range(steps):
        if step == decay_at:
            rate = float(to_numpy(optimizer.learning_rate))
            optimizer.learning_rate = rate / 2
        gradient = generator.normal(size=shape).astype("float32")
        found.append(apply(optimizer, variable, gradient).copy())
    return np.stack(found)


@pytest.mark.parametrize("regularizers", [None, {"kernel": L1(0.0)}])
def test_without_a_penalty_linbreg_is_sgd(regularizers):
    ours = LinBreg(0.2, delta=2.5, regularizers=regularizers)
    np.testing.assert_allclose(
        trajectory(ours), trajectory(keras.optimizers.SGD(0.5)), atol=2e-6
    )


def test_without_a_penalty_momentum_is_keras_momentum_rescaled():
    ours = LinBreg(0.2, momentum=0.75, delta=2.0)
    theirs = keras.optimizers.SGD(0.2 * 2.0 * 0.25, momentum=0.75)
    np.testing.assert_allclose(trajectory(ours), trajectory(theirs), atol=2e-6)


def test_without_a_penalty_adabreg_is_adam():
    # Adam of Keras adds epsilon elsewhere, which gradients near 1 do not see.
    ours = AdaBreg(0.02, delta=2.0, epsilon=1e-8)
    theirs = keras.optimizers.Adam(0.04, epsilon=1e-8)
    np.testing.assert_allclose(trajectory(ours), trajectory(theirs), atol=2e-6)


@pytest.mark.parametrize("kind", BREGMAN)
@pytest.mark.parametrize(
    "regularizer", [L1(0.3), GroupL2(0.2), SparseGroup(0.1, 0.1)]
)
def test_a_zero_gradient_moves_nothing(kind, regularizer):
    start = np.array([[1.5, 0.0, -0.3], [0.2, 0.0, 0.7]], "float32")
    variable = keras.Variable(start, name="kernel")
    optimizer = kind(0.5, delta=1.7, regularizers=regularizer)
    for _ in range(5):
        apply(optimizer, variable, np.zeros_like(start))
    np.testing.assert_allclose(to_numpy(variable), start, atol=1e-6)
    np.testing.assert_array_equal(to_numpy(variable) == 0, start == 0)


@pytest.mark.parametrize("kind", BREGMAN)
def test_the_dual_variable_is_a_subgradient_at_all_times(kind):
    lam, delta = 0.4, 1.5
    optimizer = kind(0.1, delta=delta, regularizers=L1(lam))
    variable = keras.Variable(
        np.array([[1.0, 0.0, -2.0, 0.0]], "float32"), name="kernel"
    )
    generator = np.random.default_rng(1)
    for _ in range(20):
        gradient = generator.normal(size=(1, 4)).astype("float32")
        theta = apply(optimizer, variable, gradient)
        (v,) = optimizer.subgradients.values()
        assert (np.abs(v[theta == 0]) <= lam + 1e-6).all()
        active = theta != 0
        np.testing.assert_allclose(
            v[active], (theta / delta + lam * np.sign(theta))[active], atol=1e-5
        )


def test_a_dormant_weight_wakes_up_after_lam_over_the_step():
    variable = keras.Variable(np.zeros((1, 2), "float32"), name="kernel")
    optimizer = LinBreg(0.25, regularizers=L1(1.0))
    gradient = np.array([[-1.0, 0.0]], "float32")
    active = [apply(optimizer, variable, gradient)[0, 0] for _ in range(6)]
    # v = 0.25, 0.5, 0.75, 1.0 (the threshold), 1.25, 1.5
    np.testing.assert_allclose(active, [0, 0, 0, 0, 0.25, 0.5], atol=1e-6)


def test_proxsgd_by_hand():
    variable = keras.Variable(np.array([[1.0, -0.3]], "float32"), name="kernel")
    optimizer = ProxSGD(0.5, regularizers=L1(0.2))
    theta = apply(optimizer, variable, np.array([[1.0, 0.4]], "float32"))
    # 1 - 0.5 - 0.1; -0.3 - 0.2 + 0.1
    np.testing.assert_allclose(theta, [[0.4, -0.4]], atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_large_weight_follows_the_restated_rule(momentum):
    # Beyond 2^18 entries PyTorch is given it in pieces.
    generator = np.random.default_rng(0)
    theta = generator.normal(size=(600, 500)).astype("float32")
    theta[generator.random(theta.shape) < 0.5] = 0
    variable = keras.Variable(theta, name="kernel")
    optimizer = LinBreg(0.5, momentum, delta=2.0, regularizers=L1(0.3))
    v = theta / 2 + 0.3 * np.sign(theta)
    b = np.zeros_like(v)
    for _ in range(3):
        g = generator.normal(size=theta.shape).astype("float32")
        found = apply(optimizer, variable, g)
        b = momentum * b + (1 - momentum) * 0.5 * g
        v = v - b
        expected = np.sign(v) * np.maximum(np.abs(2 * v) - 0.6, 0)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert 0.1 < np.mean(found != 0) < 0.9


@pytest.mark.parametrize("kind", ALL)
def test_embeddings_with_sparse_gradients_are_trained(kind):
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(10, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    model.compile(kind(0.1, regularizers=L1(0.01)), "mse")
    before = to_numpy(model.layers[0].embeddings).copy()
    x = np.array([[1, 2, 3], [2, 3, 4]], "int32")
    model.fit(x, np.ones((2, 2), "float32"), epochs=2, verbose=0)
    moved = (to_numpy(model.layers[0].embeddings) != before).any(axis=1)
    assert moved[1:5].all() and not moved[5:].any()


def test_coupled_l2_is_added_to_the_gradient():
    start = np.array([[1.0, -2.0]], "float32")
    variable = keras.Variable(start, name="kernel")
    apply(LinBreg(0.1, l2=0.5), variable, np.zeros_like(start))
    np.testing.assert_allclose(to_numpy(variable), start * 0.95, atol=1e-6)


@pytest.mark.parametrize("kind", BREGMAN)
def test_between_support_updates_only_active_weights_move(kind):
    start = np.array([[1.0, 0.0, 0.0]], "float32")
    variable = keras.Variable(start, name="kernel")
    optimizer = kind(0.1, regularizers=L1(0.15), support_update_freq=3)
    gradient = np.array([[1.0, -1.0, 0.0]], "float32")
    thetas, duals = [], []
    for _ in range(5):
        thetas.append(apply(optimizer, variable, gradient)[0].copy())
        duals.append(next(iter(optimizer.subgradients.values()))[0, 1])
    # Every step is of 0.1, by Adam's rule too. Steps 0 and 3 are full, and in
    # between the dual variable of the dormant weight rests below 0.15.
    np.testing.assert_allclose(duals, [0.1, 0.1, 0.1, 0.2, 0.3], atol=1e-5)
    np.testing.assert_allclose(
        thetas,
        [[0.9, 0, 0], [0.8, 0, 0], [0.7, 0, 0], [0.6, 0.05, 0], [0.5, 0.15, 0]],
        atol=1e-5,
    )


# ---- which variable has which regularizer ----


KERNELS = {"net/conv/kernel", "net/hidden/kernel", "net/head/kernel"}


def test_a_single_regularizer_takes_the_kernels_only():
    optimizer = LinBreg(0.1, regularizers=L1(0.1))
    optimizer.build(small_model().trainable_variables)
    assert set(optimizer.subgradients) == KERNELS


def test_layers_and_patterns_choose_variables():
    model = small_model()
    conv, dense = GroupL2(0.1), L1(0.2)
    optimizer = AdaBreg(
        regularizers={model.get_layer("conv"): conv, "hidden/kernel": dense}
    )
    optimizer.build(model.trainable_variables)
    assert set(optimizer.subgradients) == {
        "net/conv/kernel",
        "net/hidden/kernel",
    }
    assert [v.path for _, v in optimizer.members(conv)] == ["net/conv/kernel"]
    assert [v.path for _, v in optimizer.members(dense)] == [
        "net/hidden/kernel"
    ]


def test_a_callable_chooses_variables():
    regularizer = L1(0.2)
    optimizer = ProxSGD(
        regularizers=lambda v: regularizer if "bias" in v.path else None
    )
    optimizer.build(small_model().trainable_variables)
    assert len(optimizer.members(regularizer)) == 3


@pytest.mark.parametrize(
    ("regularizers", "message"),
    [
        ({}, "must not be empty"),
        ({"nothing": L1(0.1)}, "'nothing', which matches none"),
        (
            {"kernel": L1(0.1), "conv": L1(0.1)},
            "'kernel' and 'conv', which both match net/conv/kernel",
        ),
        ({"kernel": GroupL2(0.1), "bias": GroupL2(0.1)}, "rank 2 or more"),
        (Nuclear(0.1), "rank 2, a matrix"),
        (lambda variable: None, "at least one variable"),
    ],
)
@pytest.mark.parametrize("kind", ALL)
def test_rules_that_cannot_be_meant_are_refused(kind, regularizers, message):
    with pytest.raises(ValueError, match=message):
        optimizer = kind(regularizers=regularizers)
        optimizer.build(small_model().trainable_variables)


@pytest.mark.parametrize(
    "value", [keras.regularizers.L1(0.1), "l1", {"kernel": 0.1}]
)
def test_what_has_no_prox_is_refused(value):
    with pytest.raises(TypeError, match="keras_app.regularizers"):
        LinBreg(regularizers=value)


def test_groups_of_an_einsum_kernel_must_be_named():
    layer = keras.layers.MultiHeadAttention(2, 4)
    layer.build((None, 5, 8), (None, 5, 8))
    with pytest.raises(
        ValueError, match=r"`axes` must be .*query.*\(8, 2, 4\)"
    ):
        LinBreg(regularizers=GroupL2(0.1)).build(layer.trainable_variables)
    optimizer = LinBreg(regularizers={"query/kernel": GroupL2(0.1, axes=(0,))})
    optimizer.build(layer.trainable_variables)
    kernel = keras.layers.Conv1D(3, 2)
    kernel.build((None, 5, 4))
    LinBreg(regularizers=GroupL2(0.1)).build(kernel.trainable_variables)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (LinBreg, {"learning_rate": -0.1}),
        (LinBreg, {"learning_rate": float("nan")}),
        (LinBreg, {"momentum": 1.0}),
        (LinBreg, {"momentum": -0.1}),
        (LinBreg, {"delta": 0.0}),
        (LinBreg, {"delta": float("nan")}),
        (LinBreg, {"l2": -1.0}),
        (LinBreg, {"support_update_freq": 0}),
        (AdaBreg, {"beta_1": 1.0}),
        (AdaBreg, {"beta_2": -0.5}),
        (AdaBreg, {"epsilon": 0.0}),
        (AdaBreg, {"epsilon": float("nan")}),
        (AdaBreg, {"bias_correction": "none"}),
        (ProxSGD, {"learning_rate": -1.0}),
        (ProxSGD, {"momentum": 0.9}),
        (ProxSGD, {"delta": 1.0}),
        (LinBreg, {"weight_decay": 0.1}),
        (AdaBreg, {"weight_decay": 0.1}),
        (LinBreg, {"use_ema": True}),
    ],
)
def test_bad_arguments_are_refused_with_name_and_value(kind, arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=name) as raised:
        kind(**arguments)
    assert str(value) in str(raised.value)


@pytest.mark.parametrize("kind", ALL)
def test_a_learning_rate_of_zero_moves_nothing(kind):
    start = np.array([[1.0, 0.0, -0.5]], "float32")
    variable = keras.Variable(start, name="kernel")
    optimizer = kind(0.0, regularizers=L1(0.3))
    apply(optimizer, variable, np.ones_like(start))
    np.testing.assert_allclose(to_numpy(variable), start, atol=1e-6)


@pytest.mark.parametrize("kind", BREGMAN)
def test_a_constraint_on_a_regularized_weight_is_refused(kind):
    layer = keras.layers.Dense(2, kernel_constraint="non_neg")
    layer.build((None, 3))
    with pytest.raises(ValueError, match="NonNegativeL1"):
        kind(regularizers=L1(0.1)).build(layer.trainable_variables)


def test_a_second_penalty_on_a_weight_is_said():
    layer = keras.layers.Dense(2, kernel_regularizer="l2")
    layer.build((None, 3))
    with pytest.warns(UserWarning, match="kernel_regularizer"):
        LinBreg(regularizers=L1(0.1)).build(layer.trainable_variables)


def test_zeros_that_will_not_last_are_said():
    variable = keras.Variable(np.array([[1.0, 0.0]], "float32"), name="kernel")
    with pytest.warns(UserWarning, match="they will not last"):
        LinBreg(regularizers=L1(0.0)).build([variable])


def test_a_strength_that_swallows_the_weights_is_said():
    variable = keras.Variable(np.array([[1.0, 0.0]], "float32"), name="kernel")
    with pytest.warns(UserWarning, match="so large"):
        LinBreg(regularizers=L1(1e10)).build([variable])
    zeros = keras.Variable(np.zeros((1, 2), "float32"), name="kernel")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        optimizer = LinBreg(regularizers=L1(1e10))
        for _ in range(3):
            apply(optimizer, zeros, np.ones((1, 2), "float32"))
    assert not to_numpy(zeros).any()


def test_negative_weights_under_a_non_negative_penalty_are_zeroed_and_said():
    variable = keras.Variable(np.array([[1.0, -2.0]], "float32"), name="kernel")
    with pytest.warns(UserWarning, match="1 of them are set to zero"):
        LinBreg(regularizers=NonNegativeL1(0.1)).build([variable])
    np.testing.assert_array_equal(to_numpy(variable), [[1.0, 0.0]])


def test_a_mask_beside_a_dual_variable_is_refused():
    model = compiled(LinBreg(regularizers=L1(0.1)))
    pruner = pruners.MagnitudePruner(schedules.OneShot(0.5))
    with pytest.raises(ValueError, match="LinBreg decides by itself"):
        fit(model, callbacks=[pruner])
    assert enforcement.masks_of(model) == {}


# ---- strengths ----


def test_a_strength_set_between_compiled_steps_acts_at_once():
    regularizer = L1(1e-3)
    model = compiled(ProxSGD(0.1, regularizers=regularizer))
    x, y = examples(16)
    model.train_on_batch(x, y)
    assert model.optimizer.density > 0.9
    regularizer.lam = 1e4
    model.train_on_batch(x, y)
    assert model.optimizer.density == 0.0
    assert regularizer.lam == 1e4


def test_a_strength_is_saved_with_the_optimizer(tmp_path):
    regularizer = L1(0.25)
    model = compiled(LinBreg(0.1, regularizers=regularizer))
    fit(model, epochs=1)
    regularizer.lam = 0.125
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    (found,) = {
        id(r): r for r in loaded.optimizer._regularizer_of if r is not None
    }.values()
    assert found.lam == 0.125


def test_reset_and_rescale_leave_the_weights_and_keep_does_not():
    start = np.array([[1.0, 0.0, -0.5]], "float32")
    gradient = np.array([[0.0, -1.0, 0.0]], "float32")
    ends = {}
    for mode in ("reset", "rescale", "keep"):
        regularizer = L1(0.4)
        variable = keras.Variable(start, name="kernel")
        optimizer = LinBreg(0.1, regularizers=regularizer)
        apply(optimizer, variable, gradient)
        optimizer.set_strength(regularizer, 0.2, mode)
        (v,) = optimizer.subgradients.values()
        ends[mode] = v.astype("float64").round(4).tolist()
        theta = apply(optimizer, variable, np.zeros_like(start))
        moved = 0.2 if mode == "keep" else 0.0
        expected = start + np.array([[moved, 0.0, -moved]])
        np.testing.assert_allclose(theta, expected, atol=1e-6)
    # theta + lam sign; the dormant one had come to 0.1.
    assert ends["reset"] == [[1.2, 0.0, -0.7]]
    assert ends["rescale"] == [[1.2, 0.05, -0.7]]
    assert ends["keep"] == [[1.4, 0.1, -0.9]]


# ---- weights replaced from outside ----


def replace_by(model, how, tmp_path):
    donor = small_model(seed=3)
    if how == "set_weights":
        model.set_weights(donor.get_weights())
    elif how == "load_weights":
        donor.save_weights(tmp_path / "donor.weights.h5")
        with warnings.catch_warnings():
            # The file holds no optimizer.
            warnings.simplefilter("ignore")
            model.load_weights(tmp_path / "donor.weights.h5")
    elif how == "sparsify":
        sparsify(model, 0.2, seed=0)
    return [to_numpy(v).copy() for v in model.trainable_variables]


@pytest.mark.parametrize("kind", BREGMAN)
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("how", ["set_weights", "load_weights", "sparsify"])
def test_replaced_weights_are_trained_from(kind, trained, how, tmp_path):
    model = compiled(kind(1e-5, regularizers=L1(0.5)))
    model.optimizer.build(model.trainable_variables)
    if trained:
        fit(model)
    new = replace_by(model, how, tmp_path)
    fit(model, epochs=1)
    for before, variable in zip(new, model.trainable_variables):
        # Four tiny steps; a stale dual variable would undo the replacement.
        theta = to_numpy(variable)
        np.testing.assert_allclose(theta, before, atol=2e-3)
        if "kernel" in variable.path:
            np.testing.assert_array_equal(theta == 0, before == 0)
    v = model.optimizer.subgradients["net/hidden/kernel"]
    kernel = to_numpy(model.get_layer("hidden").kernel)
    active = kernel != 0
    np.testing.assert_allclose(
        v[active], (kernel + 0.5 * np.sign(kernel))[active], atol=1e-4
    )


def test_undisturbed_training_never_starts_anew():
    # Dormant weights would lose what they had accumulated.
    optimizer = LinBreg(0.01, regularizers=L1(100.0))
    model = small_model()
    for layer in ("conv", "hidden"):
        kernel = model.get_layer(layer).kernel
        kernel.assign(np.zeros(kernel.shape))
    for variable in model.trainable_variables:
        if "bias" in variable.path:
            variable.assign(np.full(variable.shape, 0.1))
    compiled(optimizer, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(model, epochs=3)
    v = optimizer.subgradients["net/hidden/kernel"]
    one = np.abs(v).max()
    fit(model, epochs=3)
    two = np.abs(optimizer.subgradients["net/hidden/kernel"]).max()
    assert two > 1.5 * one > 0


# ---- inside Keras ----

SETTINGS = [
    (LinBreg, {"momentum": 0.9}, {}),
    (AdaBreg, {"global_clipnorm": 1.0}, {}),
    (ProxSGD, {}, {}),
    (LinBreg, {"gradient_accumulation_steps": 2}, {}),
    (AdaBreg, {"gradient_accumulation_steps": 2, "clipvalue": 1.0}, {}),
]


@pytest.mark.parametrize(("kind", "arguments", "compile_arguments"), SETTINGS)
def test_sparse_weights_stay_sparse_and_learn(
    kind, arguments, compile_arguments
):
    model = small_model()
    sparsify(model, 0.3, seed=0, bias_gain=1.0)
    rate = 2e-3 if kind is AdaBreg else 0.05
    optimizer = kind(rate, regularizers=L1(0.05), **arguments)
    compiled(optimizer, model, **compile_arguments)
    losses = fit(model, epochs=8).history["loss"]
    assert losses[-1] < losses[0]
    assert 0 < optimizer.density < 0.95


@pytest.mark.parametrize("kind", ALL)
def test_training_goes_on_bit_for_bit_from_a_file(kind, tmp_path):
    model = small_model()
    sparsify(model, 0.3, seed=0)
    rules = {"conv/kernel": GroupL2(0.02), "(hidden|head)/kernel": L1(0.03)}
    compiled(kind(0.01, regularizers=rules), model)
    fit(model)
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for each in (model, loaded):
        fit(each)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ALL)
def test_layers_and_callables_are_patterns_in_a_file(kind, tmp_path):
    model = small_model()
    shared = L1(0.1)
    rules = {model.get_layer("hidden"): shared, model.get_layer("head"): shared}
    compiled(kind(0.01, regularizers=rules), model)
    fit(model, epochs=1)
    config = model.optimizer.get_config()["regularizers"]
    assert list(config) == ["(?:(^|/)hidden/kernel$)|(?:(^|/)head/kernel$)"]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.optimizer._strengths) == 1


@pytest.mark.parametrize("kind", ALL)
def test_config_round_trip_before_anything_is_built(kind):
    optimizer = kind(0.3, regularizers={"a": L1(0.1), "b": GroupL2(0.2)})
    config = optimizer.get_config()
    again = kind.from_config(config)
    assert again.get_config() == config
    restored = keras.optimizers.deserialize(
        keras.optimizers.serialize(optimizer)
    )
    assert restored.get_config() == config


@pytest.mark.parametrize(
    "policy", ["mixed_float16", "bfloat16", "mixed_bfloat16"]
)
@pytest.mark.parametrize("kind", BREGMAN)
def test_low_precision_keeps_a_float32_dual(policy, kind):
    keras.config.set_dtype_policy(policy)
    try:
        model = small_model()
    finally:
        keras.config.set_dtype_policy("float32")
    sparsify(model, 0.4, seed=0, bias_gain=1.0)
    optimizer = kind(1e-2, regularizers=L1(0.05))
    compiled(optimizer, model)
    fit(model, epochs=3)
    for v in optimizer.subgradients.values():
        assert v.dtype == np.float32 and np.isfinite(v).all()
    assert 0 < optimizer.density < 1


def test_a_variable_without_gradient_is_left_alone():
    one = keras.Variable(np.ones((2, 2), "float32"), name="kernel")
    two = keras.Variable(np.ones((2, 2), "float32"), name="kernel")
    optimizer = LinBreg(0.1, regularizers=L1(0.1))
    optimizer.build([one, two])
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([ops.ones((2, 2)), None], [one, two])
    np.testing.assert_allclose(to_numpy(one), 0.9, atol=1e-6)
    np.testing.assert_array_equal(to_numpy(two), 1.0)


def test_a_nan_in_the_gradient_shows():
    variable = keras.Variable(np.ones((1, 2), "float32"), name="kernel")
    optimizer = LinBreg(0.1, regularizers=L1(0.1))
    theta = apply(optimizer, variable, np.array([[np.nan, 0.0]], "float32"))
    assert np.isnan(theta[0, 0]) and theta[0, 1] == 1.0


def test_learning_rate_schedules_act_as_usual():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [0, 2], [0.4, 0.2, 0.1]
    )
    variable = keras.Variable(np.zeros((1, 1), "float32"), name="kernel")
    optimizer = LinBreg(schedule, regularizers=L1(0.0))
    ends = [apply(optimizer, variable, -np.ones((1, 1), "float32"))[0, 0]]
    ends += [apply(optimizer, variable, -np.ones((1, 1), "float32"))[0, 0]]
    np.testing.assert_allclose(ends, [0.4, 0.6], atol=1e-6)
