"""STR: two steps restated with NumPy, what comes back, refusals."""

import keras
import numpy as np
import pytest

from keras_app.optimizers import CoupledSGD
from keras_app.optimizers import STR
from tests.helpers import to_numpy
from tests.models import apply
from tests.models import compiled
from tests.models import fit


def kernel(values, dtype="float32"):
    return keras.Variable(np.asarray(values), dtype=dtype, name="kernel")


def latent(optimizer):
    """`(w, s)` of the only kernel."""
    return to_numpy(optimizer._weights[0]), float(to_numpy(optimizer._s[0]))


# ---- two steps, restated ------------------------------------------------


def sigmoid(s):
    return 1 / (1 + np.exp(-s))


def image(w, s):
    return np.sign(w) * np.maximum(np.abs(w) - sigmoid(s), 0)


def gradients(w, s, g, step=1e-6):
    """Of sum(g image(w, s)) by w and s, from differences."""
    by_w = (image(w + step, s) - image(w - step, s)) / (2 * step) * g
    by_s = np.sum(g * (image(w, s + step) - image(w, s - step))) / (2 * step)
    return by_w, by_s


class Restated:
    """SGD as PyTorch has it, on one array."""

    def __init__(self, value, lr, momentum, decay):
        self.value, self.buffer = value, 0.0
        self.lr, self.momentum, self.decay = lr, momentum, decay

    def step(self, gradient):
        gradient = gradient + self.decay * self.value
        self.buffer = self.momentum * self.buffer + gradient
        self.value = self.value - self.lr * self.buffer


# The larger one is computed in pieces on PyTorch.
@pytest.mark.parametrize("shape", [(3, 4), (400, 400)])
def test_two_steps_are_those_of_numpy(shape):
    generator = np.random.default_rng(5)
    settings = {"lr": 0.1, "momentum": 0.5, "decay": 0.2}
    theta = generator.standard_normal(shape)
    theta[0] = 0.0
    bias = generator.standard_normal(4)
    optimizer = STR(0.1, momentum=0.5, weight_decay=0.2, s_init=-1.0)
    variables = [kernel(theta), keras.Variable(bias, name="bias")]
    optimizer.build(variables)
    # The kernel is what it was.
    np.testing.assert_array_equal(to_numpy(variables[0]), np.float32(theta))
    s = Restated(-1.0, **settings)
    w = Restated(theta + np.sign(theta) * sigmoid(-1.0), **settings)
    offset = Restated(bias, **settings)
    zeros = []
    for _ in range(2):
        # Not so large that s runs away from a sum of 160,000 terms.
        g = generator.standard_normal(shape) / np.sqrt(theta.size) * 3
        g_bias = generator.standard_normal(4)
        by_w, by_s = gradients(w.value, s.value, g)
        w.step(by_w)
        s.step(by_s)
        offset.step(g_bias)
        optimizer.apply(
            [keras.ops.convert_to_tensor(np.float32(x)) for x in (g, g_bias)],
            variables,
        )
        found_w, found_s = latent(optimizer)
        np.testing.assert_allclose(found_w, w.value, atol=1e-5)
        np.testing.assert_allclose(found_s, s.value, atol=1e-5)
        after = to_numpy(variables[0])
        np.testing.assert_allclose(after, image(w.value, s.value), atol=1e-5)
        np.testing.assert_allclose(
            to_numpy(variables[1]), offset.value, atol=1e-5
        )
        zeros.append(int((after == 0).sum()))
    assert theta.size > zeros[1] > 0
    assert optimizer.density == pytest.approx(1 - zeros[1] / theta.size)
    (t,) = optimizer.thresholds.values()
    assert t == pytest.approx(sigmoid(s.value), abs=1e-5)


# ---- what it does ------------------------------------------------------


def test_weights_become_exactly_zero_and_come_back():
    # t = 1/2 nearly: w = 1.25 and -0.75.
    optimizer = STR(1.0, momentum=0.0, weight_decay=0.0, s_init=-1e-6)
    variable = kernel([[0.75, -0.25]])
    # The second becomes smaller: w = -0.35, g_s = -t (1 - t) 0.4 = -0.1.
    theta = apply(optimizer, variable, [[0.0, -0.4]])
    w, s = latent(optimizer)
    np.testing.assert_allclose(w, [[1.25, -0.35]], atol=1e-5)
    assert s == pytest.approx(0.1, abs=1e-5)
    np.testing.assert_allclose(theta, [[1.25 - sigmoid(0.1), 0]], atol=1e-5)
    assert theta[0, 1] == 0.0 and optimizer.density == 0.5
    # The first becomes larger, and the threshold falls below 0.35.
    theta = apply(optimizer, variable, [[-8.0, 0.0]])
    s = 0.1 - 8 * sigmoid(0.1) * sigmoid(-0.1)
    assert latent(optimizer)[1] == pytest.approx(s, abs=1e-5)
    expected = [[9.25 - sigmoid(s), sigmoid(s) - 0.35]]
    np.testing.assert_allclose(theta, expected, atol=1e-5)
    assert optimizer.density == 1.0


def test_weight_decay_alone_empties_a_kernel():
    optimizer = STR(1.0, momentum=0.0, weight_decay=0.5, s_init=-20.0)
    variable = kernel([[0.75, -2.0]])
    densities = []
    for _ in range(4):
        theta = apply(optimizer, variable, [[0.0, 0.0]])
        densities.append(optimizer.density)
    # s is -10, -5, -2.5, -1.25; w halves, to 0.047 and -0.125.
    assert densities == [1.0, 1.0, 1.0, 0.0]
    assert not theta.any() and not np.signbit(theta).any()
    # What is zero gets no gradient, as in the paper.
    w = latent(optimizer)[0]
    apply(optimizer, variable, [[5.0, -5.0]])
    np.testing.assert_allclose(latent(optimizer)[0], w / 2, atol=1e-6)


def test_far_below_zero_it_is_sgd_with_momentum():
    ends = []
    for optimizer in (
        STR(0.05, 0.9, 1e-3, s_init=-3200.0),
        CoupledSGD(0.05, 0.9, 1e-3),
    ):
        model = compiled(optimizer)
        fit(model)
        ends.append(model.get_weights())
    for one, two in zip(*ends):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_weights_set_from_outside_are_where_the_next_step_starts():
    optimizer = STR(0.5, momentum=0.0, weight_decay=0.0, s_init=-1.0)
    variable = kernel([[1.0, -2.0, 0.5]])
    apply(optimizer, variable, [[0.1, 0.1, 0.1]])
    variable.assign([[3.0, 0.0, -1.0]])
    theta = apply(optimizer, variable, [[0.0, 0.0, 0.0]])
    np.testing.assert_allclose(theta, [[3.0, 0.0, -1.0]], atol=1e-6)
    variable.assign([[0.0, 1.0, 1.0]])
    optimizer.sync_from_model()
    w, s = latent(optimizer)
    assert abs(w[0, 0]) <= sigmoid(s) + 1e-6
    np.testing.assert_allclose(image(w, s), [[0, 1, 1]], atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_latent_state_is_float32_or_more(dtype):
    optimizer = STR(0.5, momentum=0.0, weight_decay=0.1, s_init=-1.0)
    variable = kernel([[1.0, -2.0, 0.01]], dtype)
    for _ in range(3):
        apply(optimizer, variable, np.zeros((1, 3), "float32"))
    for slot in (optimizer._weights[0], optimizer._s[0]):
        assert keras.backend.standardize_dtype(slot.dtype) == "float32"
    assert keras.backend.standardize_dtype(variable.dtype) == dtype
    assert optimizer.density == pytest.approx(2 / 3)


def test_only_what_filters_match_has_a_threshold():
    optimizer = STR(0.1, weight_decay=0.05, s_init=-1.0, filters="conv/kernel")
    model = compiled(optimizer)
    fit(model)
    assert list(optimizer.thresholds) == list(optimizer.masked_variables)
    (path,) = optimizer.masked_variables
    assert path.endswith("conv/kernel")
    for name in ("hidden", "head"):
        assert to_numpy(model.get_layer(name).kernel).all()


# ---- refusals ----------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"s_init": 0.0}, "s_init=0.0"),
        ({"s_init": float("-inf")}, "s_init=-inf"),
        ({"use_ema": True}, "use_ema=True"),
        ({"filters": "("}, "filters='('"),
    ],
)
def test_bad_arguments_are_refused(arguments, said):
    with pytest.raises(ValueError) as caught:
        STR(**arguments)
    assert said in str(caught.value)


def test_latent_state_is_there_once_it_is_built():
    optimizer = STR()
    for name in ("density", "thresholds", "masks"):
        with pytest.raises(RuntimeError, match="not built yet"):
            getattr(optimizer, name)


def test_filters_must_match():
    with pytest.raises(ValueError, match="filters='nothing'"):
        STR(filters="nothing").build([kernel([[1.0]])])


def test_a_kernel_regularizer_is_told():
    layer = keras.layers.Dense(2, kernel_regularizer="l2")
    layer.build((None, 3))
    with pytest.warns(UserWarning, match="also passes to the mask"):
        STR().build(layer.trainable_variables)
    with pytest.raises(ValueError, match="strict=True"):
        STR(strict=True).build(layer.trainable_variables)
