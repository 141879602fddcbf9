"""ContinuousSparsification: recorded trajectories, rules, refusals."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from keras_app import enforcement
from keras_app.optimizers import ContinuousSparsification
from keras_app.selection import spatial_kernels
from tests.helpers import to_numpy
from tests.models import apply
from tests.models import compiled
from tests.models import fit
from tests.models import small_model


def kernel(values):
    return keras.Variable(np.asarray(values, "float32"), name="kernel")


def latent(optimizer):
    """`(w, s)` of the only masked weight."""
    ((w, s),) = optimizer.weights_and_logits.values()
    return w, s


def start_at(optimizer, variable, s):
    """Builds the optimizer with given logits instead of a constant."""
    optimizer.build([variable])
    optimizer._logits[0].assign(s)
    optimizer._write_kernels()


# ---- recorded trajectories ----


@pytest.mark.parametrize("case", ["default", "penalty", "dense_init"])
def test_trajectories_are_the_recorded_ones(golden, case):
    recorded = golden("cs/traj_fixed_grad.npz")

    def get(name):
        for key in (f"{case}__{name}_keras", f"{case}__{name}"):
            if key in recorded:
                return recorded[key]

    # beta 200 at logits near zero multiplies the rounding of a step by 100.
    atol = 1e-3 if case == "default" else 1e-5
    optimizer = ContinuousSparsification(
        float(get("lr")[0]),
        float(get("momentum")),
        float(get("weight_decay")),
        float(get("lam")),
        float(get("s_init")),
    )
    variable = kernel(get("w0"))
    start_at(optimizer, variable, get("s0"))
    for step, gradient in enumerate(get("grad_theta")):
        optimizer.temperature = float(get("beta")[step])
        optimizer.learning_rate = float(get("lr")[step])
        before = get("theta_before")[step]
        np.testing.assert_allclose(to_numpy(variable), before, atol=atol)
        apply(optimizer, variable, gradient)
        w, s = latent(optimizer)
        np.testing.assert_allclose(w, get("w")[step], atol=atol, rtol=1e-5)
        np.testing.assert_allclose(s, get("s")[step], atol=atol, rtol=1e-5)
    end = get("theta_final_same_beta")
    np.testing.assert_allclose(to_numpy(variable), end, atol=atol)
    sure = np.abs(get("s")[-1]) > 1e-3
    optimizer.harden()
    hard = get("theta_final_hard")
    theta = to_numpy(variable)
    np.testing.assert_allclose(theta[sure], hard[sure], atol=atol)
    np.testing.assert_array_equal((theta != 0)[sure], (hard != 0)[sure])


@pytest.mark.parametrize("case", ["s0_0", "s0_neg"])
def test_a_network_moves_as_one_that_masks_in_the_forward_pass(golden, case):
    recorded = golden("cs/traj_forward.npz")
    get = {k[len(case) + 2 :]: recorded[k] for k in recorded.files if case in k}
    lr, decay, lam, s_init, momentum = map(
        float, get["cfg_lr_wd_lam_sinit_momentum"]
    )
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(6, 3, padding="same", use_bias=False),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
        ]
    )
    model.layers[0].set_weights([get["kernel_w0_keras"]])
    model.layers[-1].set_weights([get["head_kernel0_keras"], get["head_bias0"]])
    optimizer = ContinuousSparsification(
        lr, momentum, decay, lam, s_init, filters=spatial_kernels
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    optimizer.build(model.trainable_variables)
    close = {"atol": 1e-5, "rtol": 1e-5}
    for step, beta in enumerate(get["beta"]):
        optimizer.temperature = float(beta)
        theta = to_numpy(model.layers[0].kernel)
        np.testing.assert_allclose(
            theta, get["theta_before_keras"][step], **close
        )
        # Keras before 3.15 returns the mean of all steps since.
        model.reset_metrics()
        value = model.train_on_batch(get["x_nhwc"], get["y"])
        np.testing.assert_allclose(
            value, get["ce_loss_before_step"][step], **close
        )
        if keras.backend.backend() == "jax":
            model.jax_state_sync()
        w, s = latent(optimizer)
        np.testing.assert_allclose(w, get["w_keras"][step], **close)
        np.testing.assert_allclose(s, get["s_keras"][step], **close)
        head, bias = model.layers[-1].get_weights()
        np.testing.assert_allclose(
            head, get["head_kernel_keras"][step], **close
        )
        np.testing.assert_allclose(bias, get["head_bias"][step], **close)
    optimizer.harden()
    theta = to_numpy(model.layers[0].kernel)
    np.testing.assert_allclose(theta, get["theta_ticket_keras"], **close)


@pytest.mark.parametrize("s_init", [-0.3, -0.05, 0.0, 0.05, 0.3])
@pytest.mark.parametrize("temperature", [1, 200])
def test_the_rule_between_rounds_is_the_recorded_one(
    golden, s_init, temperature
):
    recorded = golden("cs/rounds.npz")
    before = recorded["prune__s_before"]
    optimizer = ContinuousSparsification(s_init=s_init)
    start_at(optimizer, kernel(np.ones((1, 17))), before[None])
    optimizer.temperature = temperature
    optimizer.prune_logits()
    expected = recorded[f"prune__sinit{s_init}__temp{temperature}__s_after"]
    s = latent(optimizer)[1][0]
    np.testing.assert_allclose(s, expected, rtol=1e-6)


@pytest.mark.parametrize("rule", ["paper", "code"])
def test_rounds_and_the_ticket_are_the_recorded_ones(golden, rule):
    recorded = golden("cs/rounds.npz")

    def get(name):
        keys = (f"rounds_{rule}__{name}_keras", f"rounds_{rule}__{name}")
        return next(recorded[key] for key in keys if key in recorded)

    rounds, epochs, steps, rewind_epoch = get("cfg")[:4].astype(int)
    lr, decay, lam, s_init, final = map(float, get("cfg")[4:])
    optimizer = ContinuousSparsification(lr, 0.9, decay, lam, s_init)
    variable = kernel(get("w0"))
    optimizer.build([variable])
    gradients = iter(get("grad_theta"))
    step = 0
    for r in range(rounds):
        for e in range(epochs):
            optimizer.temperature = final ** (e / (epochs - 1))
            if (r, e) == (0, rewind_epoch):
                checkpoint = {"kernel": latent(optimizer)[0]}
                np.testing.assert_allclose(
                    checkpoint["kernel"], get("w_checkpoint"), atol=1e-5
                )
            for _ in range(steps):
                apply(optimizer, variable, next(gradients))
                w, s = latent(optimizer)
                expected = get("s")[step]
                # Where the mask is a steep sigmoid, rounding is amplified.
                far = np.abs(s - expected) / np.maximum(1, np.abs(expected))
                assert far.max() < 1e-3
                sure = np.abs(expected) > 1e-3
                np.testing.assert_array_equal(
                    (s > 0)[sure], (expected > 0)[sure]
                )
                np.testing.assert_allclose(w, get("w")[step], atol=1e-3)
                step += 1
        if r < rounds - 1:
            if rule == "code":
                optimizer.temperature = 1.0
            optimizer.prune_logits()
    optimizer.harden()
    (mask,) = optimizer.masks.values()
    np.testing.assert_array_equal(mask, get("ticket_mask") != 0)
    optimizer.rewind({variable.path: checkpoint["kernel"]})
    start = get("theta_ticket_start")
    np.testing.assert_allclose(to_numpy(variable), start, atol=1e-5)
    for gradient, expected in zip(gradients, get("theta_ticket_train")):
        theta = apply(optimizer, variable, gradient)
        np.testing.assert_allclose(theta, expected, atol=1e-5)
        np.testing.assert_array_equal(theta != 0, expected != 0)


def test_the_soft_mask_and_its_scale_are_the_recorded_ones(golden):
    table = golden("cs/mask_table.npz")
    for a, s_init in enumerate(table["s_init"]):
        optimizer = ContinuousSparsification(s_init=float(s_init))
        variable = kernel(np.ones((1, len(table["s"]))))
        start_at(optimizer, variable, table["s"][None])
        for b, beta in enumerate(table["beta"]):
            optimizer.temperature = float(beta)
            np.testing.assert_allclose(
                to_numpy(variable)[0], table["soft_mask"][a, b], atol=1e-6
            )
        optimizer.harden()
        np.testing.assert_allclose(
            to_numpy(variable)[0], table["hard_mask_scaled"][a], rtol=1e-6
        )


# ---- rules ----


def test_the_step_is_that_of_the_equations():
    optimizer = ContinuousSparsification(
        0.1, 0.0, weight_decay=0.5, lam=0.25, s_init=0.0
    )
    variable = kernel([[2.0]])
    theta = apply(optimizer, variable, np.array([[3.0]], "float32"))
    w, s = latent(optimizer)
    # m = 1, dm = 2 * 0.25: g_w = 3 + 0.5 * 2, g_s = (3 * 2 + 0.25) / 2.
    np.testing.assert_allclose(w, [[1.6]], rtol=1e-6)
    np.testing.assert_allclose(s, [[-0.3125]], rtol=1e-6)
    expected = 1.6 * 2 / (1 + np.exp(0.3125))
    np.testing.assert_allclose(theta, [[expected]], rtol=1e-6)


def test_a_penalty_on_the_sigmoid_is_that_on_the_mask_over_its_scale():
    ends = []
    for lam, penalty_on in ((0.3, "scaled"), (0.3 * (1 + np.e), "sigmoid")):
        optimizer = ContinuousSparsification(
            0.1, lam=lam, s_init=-1.0, penalty_on=penalty_on
        )
        variable = kernel([[1.0, 0.5]])
        for _ in range(3):
            apply(optimizer, variable, np.array([[0.1, -0.2]], "float32"))
        ends.append(latent(optimizer)[1])
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-5)


@pytest.mark.parametrize("decay_on", ["all", "kernels"])
def test_biases_decay_unless_only_kernels_shall(decay_on):
    bias = keras.Variable(np.ones(2, "float32"), name="bias")
    weight = kernel([[1.0, 1.0]])
    optimizer = ContinuousSparsification(
        0.5, 0.0, weight_decay=0.2, decay_on=decay_on
    )
    zero = ops.zeros((2,))
    optimizer.apply([zero, ops.zeros((1, 2))], [bias, weight])
    expected = 0.9 if decay_on == "all" else 1.0
    np.testing.assert_allclose(to_numpy(bias), expected, rtol=1e-6)
    np.testing.assert_allclose(to_numpy(weight), 0.9, rtol=1e-6)


def test_a_logit_of_zero_is_pruned_and_a_large_one_still_moves():
    optimizer = ContinuousSparsification(0.1, s_init=0.0)
    variable = kernel([[1.0, 1.0, 1.0]])
    start_at(optimizer, variable, np.array([[0.0, 0.1, -0.1]], "float32"))
    (mask,) = optimizer.masks.values()
    assert mask.tolist() == [[False, True, False]]
    assert optimizer.density == pytest.approx(1 / 3)
    optimizer.temperature = 200.0
    before = latent(optimizer)[1].copy()
    apply(optimizer, variable, np.full((1, 3), 1e6, "float32"))
    moved = latent(optimizer)[1] != before
    assert moved.all()  # beta s = 20, where 1 - sigmoid is 0 in float32


def test_hardening_twice_is_hardening_once_and_softening_undoes_it():
    optimizer = ContinuousSparsification()
    variable = kernel([[1.0, -2.0]])
    start_at(optimizer, variable, np.array([[0.5, -0.5]], "float32"))
    soft = to_numpy(variable).copy()
    optimizer.harden()
    optimizer.harden()
    np.testing.assert_allclose(to_numpy(variable), [[2.0, 0.0]])
    assert optimizer.is_hard
    optimizer.soften()
    optimizer.soften()
    np.testing.assert_allclose(to_numpy(variable), soft)
    np.testing.assert_allclose(latent(optimizer)[0], [[1.0, -2.0]])


def test_a_hard_mask_holds_and_its_weights_move_by_the_scale_squared():
    optimizer = ContinuousSparsification(0.1, 0.0, weight_decay=0.0)
    variable = kernel([[1.0, 1.0]])
    start_at(optimizer, variable, np.array([[0.5, -0.5]], "float32"))
    optimizer.harden()
    theta = apply(optimizer, variable, np.ones((1, 2), "float32"))
    np.testing.assert_allclose(theta, [[2.0 - 0.1 * 4, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(latent(optimizer)[1], [[0.5, -0.5]])


def test_an_emptied_weight_keeps_its_largest_logits():
    optimizer = ContinuousSparsification()
    s = np.array([[-0.5, -0.1, -0.3, -0.2]], "float32")
    variable = kernel(np.ones((1, 4)))
    start_at(optimizer, variable, s)
    optimizer.keep_at_least(0.5)
    (mask,) = optimizer.masks.values()
    assert mask.tolist() == [[False, True, False, True]]


def test_many_rounds_do_not_overflow():
    optimizer = ContinuousSparsification()
    start_at(optimizer, kernel([[1.0, 1.0]]), np.array([[-1.0, 1.0]]))
    optimizer.temperature = 200.0
    for _ in range(40):
        optimizer.prune_logits()
    assert latent(optimizer)[1].tolist() == [[-1e6, 0.0]]


# ---- weights replaced from outside ----


def test_replaced_weights_are_trained_from():
    model = compiled(ContinuousSparsification(1e-6))
    fit(model)
    donor = small_model(seed=3)
    model.set_weights(donor.get_weights())
    fit(model, epochs=1)
    for before, after in zip(donor.get_weights(), model.get_weights()):
        if before.ndim > 1:
            np.testing.assert_allclose(before, after, atol=1e-4)


def test_syncing_divides_by_the_mask_where_there_is_one():
    optimizer = ContinuousSparsification()
    variable = kernel([[1.0, 1.0]])
    start_at(optimizer, variable, np.array([[0.0, -50.0]], "float32"))
    variable.assign([[3.0, 5.0]])
    optimizer.sync_from_model()
    np.testing.assert_allclose(latent(optimizer)[0], [[3.0, 1.0]])


@pytest.mark.parametrize("change", ["harden", "temperature"])
def test_what_was_loaded_is_not_overwritten_by_older_weights(change):
    optimizer = ContinuousSparsification(s_init=1.0)
    variable = kernel([[1.0, 1.0]])
    optimizer.build([variable])
    variable.assign([[3.0, 5.0]])
    if change == "harden":
        optimizer.harden()
        expected = [[3.0, 5.0]] * np.array(1 + np.exp(-1.0))
    else:
        optimizer.temperature = 1.0
        expected = [[3.0, 5.0]]
    np.testing.assert_allclose(to_numpy(variable), expected, rtol=1e-5)


# ---- inside Keras ----


@pytest.mark.parametrize(
    ("arguments", "compile_arguments"),
    [
        ({}, {}),
        ({"global_clipnorm": 1.0}, {}),
        ({"gradient_accumulation_steps": 2}, {}),
        ({"filters": "conv|hidden", "penalty_on": "sigmoid"}, {}),
    ],
)
def test_a_network_learns_under_soft_and_hard_masks(
    arguments, compile_arguments
):
    optimizer = ContinuousSparsification(0.05, **arguments)
    model = compiled(optimizer, **compile_arguments)
    soft = fit(model, epochs=6).history["loss"]
    assert soft[-1] < soft[0]
    assert 0 < optimizer.density < 1
    optimizer.harden()
    masks = optimizer.masks
    hard = fit(model, epochs=6).history["loss"]
    assert hard[-1] < hard[0]
    for path, variable in optimizer.masked_variables.items():
        np.testing.assert_array_equal(to_numpy(variable) != 0, masks[path])


def test_accumulated_gradients_are_one_large_step():
    ends = []
    for steps in (None, 2):
        optimizer = ContinuousSparsification(
            0.1, lam=0.1, gradient_accumulation_steps=steps
        )
        variable = kernel([[1.0, -1.0]])
        optimizer.build([variable])
        for gradient in ([[1.0, 0.0]], [[0.0, 3.0]]):
            if steps:
                apply(optimizer, variable, np.array(gradient, "float32"))
        if not steps:
            apply(optimizer, variable, np.array([[0.5, 1.5]], "float32"))
        ends.append(to_numpy(variable))
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-5)


def test_training_goes_on_bit_for_bit_from_a_file(tmp_path):
    model = compiled(
        ContinuousSparsification(0.05, filters=lambda v: "conv" in v.path)
    )
    fit(model)
    model.optimizer.temperature = 7.0
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    assert loaded.optimizer.temperature == 7.0
    for each in (model, loaded):
        fit(each)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_config_round_trip():
    optimizer = ContinuousSparsification(
        0.3, 0.5, 0.1, 0.2, -0.1, ["a", "b"], "sigmoid", "kernels", True
    )
    config = optimizer.get_config()
    again = ContinuousSparsification.from_config(config)
    assert again.get_config() == config
    assert (config["weight_decay"], config["filters"]) == (0.1, ["a", "b"])


@pytest.mark.parametrize(
    "policy", ["mixed_float16", "bfloat16", "mixed_bfloat16"]
)
def test_low_precision_keeps_float32_logits(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = small_model()
    finally:
        keras.config.set_dtype_policy("float32")
    optimizer = ContinuousSparsification(0.05)
    compiled(optimizer, model)
    fit(model, epochs=3)
    for w, s in optimizer.weights_and_logits.values():
        assert w.dtype == s.dtype == np.float32
        assert np.isfinite(w).all() and (s != 0).any()


def test_a_temperature_set_between_fits_acts_in_compiled_steps():
    model = compiled(ContinuousSparsification(0.05))
    fit(model, epochs=1)
    model.optimizer.temperature = 50.0
    fit(model, epochs=1)
    for path, variable in model.optimizer.masked_variables.items():
        w, s = model.optimizer.weights_and_logits[path]
        expected = w * 2 / (1 + np.exp(-50.0 * s.astype("float64")))
        np.testing.assert_allclose(to_numpy(variable), expected, atol=1e-5)


# ---- refusals ----


@pytest.mark.parametrize(
    "arguments",
    [
        {"learning_rate": 0.0},
        {"learning_rate": -1.0},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"weight_decay": -1.0},
        {"lam": -1.0},
        {"lam": float("nan")},
        {"s_init": 11.0},
        {"s_init": float("inf")},
        {"penalty_on": "mask"},
        {"decay_on": "none"},
        {"use_ema": True},
        {"filters": "("},
    ],
)
def test_bad_arguments_are_refused_with_name_and_value(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=name) as raised:
        ContinuousSparsification(**arguments)
    assert str(value) in str(raised.value)


def test_a_temperature_set_before_anything_is_built_counts():
    optimizer = ContinuousSparsification(s_init=0.5)
    optimizer.temperature = 4.0
    variable = kernel([[1.0]])
    optimizer.build([variable])
    expected = (1 + np.exp(-0.5)) / (1 + np.exp(-2.0))
    np.testing.assert_allclose(to_numpy(variable), [[expected]], rtol=1e-6)
    assert optimizer.temperature == 4.0


@pytest.mark.parametrize("name", ["density", "masks", "weights_and_logits"])
def test_latent_state_before_it_exists_is_refused(name):
    with pytest.raises(RuntimeError, match="not built"):
        getattr(ContinuousSparsification(), name)


def test_a_bad_temperature_is_refused():
    optimizer = ContinuousSparsification()
    optimizer.build([kernel([[1.0]])])
    with pytest.raises(ValueError, match="temperature.*0.5"):
        optimizer.temperature = 0.5


def test_filters_that_match_nothing_name_the_kernels():
    optimizer = ContinuousSparsification(filters="embedding")
    with pytest.raises(ValueError, match="embedding.*hidden/kernel"):
        optimizer.build(small_model().trainable_variables)


def test_a_constraint_is_refused_and_a_penalty_is_said():
    layer = keras.layers.Dense(2, kernel_constraint="non_neg")
    layer.build((None, 3))
    with pytest.raises(ValueError, match="constraint"):
        ContinuousSparsification().build(layer.trainable_variables)
    layer = keras.layers.Dense(2, kernel_regularizer="l2")
    layer.build((None, 3))
    with pytest.warns(UserWarning, match="kernel_regularizer"):
        ContinuousSparsification().build(layer.trainable_variables)
    with pytest.raises(ValueError, match="kernel_regularizer.*strict"):
        ContinuousSparsification(strict=True).build(layer.trainable_variables)


def test_masks_of_pruners_are_refused():
    model = compiled(ContinuousSparsification())
    with pytest.raises(ValueError, match="ContinuousSparsification"):
        enforcement.attach(model, model.trainable_variables[:1])


def test_the_authors_choice_spares_projections_and_the_classifier():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.Conv2D(4, 1),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    chosen = [spatial_kernels(v) for v in model.trainable_variables]
    assert chosen == [True, False, False, False, False, False]
