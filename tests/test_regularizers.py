"""Penalty, prox and subgradient: recorded tables, properties, gradients."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops

from keras_app import regularizers
from keras_app.regularizers import GroupL2
from keras_app.regularizers import L1
from keras_app.regularizers import NonNegativeL1
from keras_app.regularizers import Nuclear
from keras_app.regularizers import SparseGroup
from tests.helpers import to_numpy
from tests.models import RECORDED

ALL = [
    L1(0.3),
    NonNegativeL1(0.3),
    GroupL2(0.3),
    GroupL2(0.2, axes="filter"),
    GroupL2(0.2, axes="in_channel"),
    SparseGroup(0.1, 0.2),
    Nuclear(0.3),
]
KINDS = [f"{type(r).__name__}-{getattr(r, 'axes', '')}" for r in ALL]


def tables(golden):
    table = golden("bregman/reg_tables.npz")
    names = {name.rsplit("__", 1)[0] for name in table}
    for name in sorted(names):
        arrays = {
            key.removeprefix(f"{name}__"): table[key]
            for key in table
            if key.startswith(f"{name}__")
        }

        def get(key, arrays=arrays):
            # Vectors have one layout, recorded as torch's.
            for suffix in ("_keras", "_torch", ""):
                if key + suffix in arrays:
                    return arrays[key + suffix]
            raise KeyError(key)

        yield name, get


def test_prox_subgradient_and_value_are_the_recorded_ones(golden):
    seen = set()
    for name, get in tables(golden):
        kind = name.split("__")[0]
        seen.add(kind)
        regularizer = RECORDED[kind](float(get("lam")))
        x, step = get("x"), float(get("delta"))
        # Singular vectors lose digits in any order of summation.
        atol = 5e-5 if kind == "nuclear" else 2e-6
        prox = to_numpy(regularizer.prox(x, step))
        np.testing.assert_allclose(prox, get("prox"), atol=atol, err_msg=name)
        if kind != "nuclear":
            np.testing.assert_array_equal(prox != 0, get("prox") != 0, name)
        subgradient = to_numpy(regularizer.subgradient(x))
        np.testing.assert_allclose(
            subgradient, get("subgrad"), atol=atol, err_msg=name
        )
        value = float(regularizer(x))
        # The reference's sparse group has no value; ours is checked below.
        if kind != "l1_l1_l2":
            np.testing.assert_allclose(value, get("value"), rtol=2e-6)
    assert seen == set(RECORDED) - {"none"}


def test_the_sparse_group_can_square_its_strengths_as_the_reference_does(
    golden,
):
    for name, get in tables(golden):
        if not name.startswith("l1_l1_l2"):
            continue
        lam = float(get("lam"))
        regularizer = SparseGroup(lam, lam, reference_double_lambda=True)
        x, step = get("x"), float(get("delta"))
        np.testing.assert_allclose(
            to_numpy(regularizer.prox(x, step)), get("prox"), atol=2e-6
        )
        assert float(regularizer(x)) == 0.0


def test_values_by_hand():
    x = np.array([[3.0, 0.0], [-4.0, 0.0]], "float32")
    assert float(L1(0.5)(x)) == pytest.approx(3.5)
    # sqrt(2) * (5 + 0); then by rows: sqrt(2) * (3 + 4).
    assert float(GroupL2(1.0)(x)) == pytest.approx(2**0.5 * 5)
    assert float(GroupL2(1.0, axes=(1,))(x)) == pytest.approx(2**0.5 * 7)
    both = SparseGroup(0.5, 2.0)
    assert float(both(x)) == pytest.approx(3.5 + 2 * 2**0.5 * 5)
    assert float(Nuclear(2.0)(x)) == pytest.approx(10.0)
    assert float(NonNegativeL1(0.5)(x)) == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("axes", "shape", "reduced"),
    [
        ("auto", (6, 8), (0,)),
        ("auto", (5, 3, 4), (0,)),
        ("auto", (3, 3, 4, 5), (0, 1)),
        ("auto", (2, 3, 3, 4, 5), (0, 1, 2)),
        ("filter", (3, 3, 4, 5), (0, 1, 2)),
        ("filter", (6, 8), (0,)),
        ("in_channel", (3, 3, 4, 5), (0, 1, 3)),
        ("in_channel", (6, 8), (1,)),
        ((0, -1), (4, 2, 3), (0, 2)),
    ],
)
def test_groups_in_the_layout_of_keras(axes, shape, reduced):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    n = np.prod([shape[axis] for axis in reduced])
    norms = np.sqrt((x.astype("float64") ** 2).sum(axis=reduced, keepdims=True))
    # Half of the groups lie below the threshold.
    threshold = np.median(norms)
    lam = threshold / np.sqrt(n)
    expected = x * np.maximum(1 - threshold / norms, 0)
    regularizer = GroupL2(float(lam), axes=axes)
    prox = to_numpy(regularizer.prox(x, 1.0))
    np.testing.assert_allclose(prox, expected, atol=2e-6)
    value = lam * np.sqrt(n) * norms.sum()
    assert float(regularizer(x)) == pytest.approx(value, rel=1e-5)
    support = np.broadcast_to(to_numpy(regularizer.support(prox)), shape)
    np.testing.assert_array_equal(support, prox != 0)


@pytest.mark.parametrize("regularizer", ALL, ids=KINDS)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31), step=st.floats(0.01, 5), zeros=st.floats(0, 1)
)
def test_prox_undoes_the_subgradient(regularizer, seed, step, zeros):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(5, 4)).astype("float32")
    x[:, generator.random(4) < zeros] = 0
    x[generator.random((5, 4)) < zeros / 2] = 0
    moved = x + step * to_numpy(regularizer.subgradient(x))
    back = to_numpy(regularizer.prox(moved, step))
    expected = np.maximum(x, 0) if "NonNeg" in str(regularizer) else x
    np.testing.assert_allclose(back, expected, atol=5e-5)


@pytest.mark.parametrize("regularizer", ALL, ids=KINDS)
def test_zero_stays_zero_and_has_finite_gradients(regularizer):
    x = np.zeros((3, 4), "float32")
    x[:, 0] = [1.0, 0.0, -2.0]
    zero = np.zeros_like(x)
    for result in (
        regularizer.prox(zero, 1.0),
        regularizer.subgradient(zero),
    ):
        np.testing.assert_array_equal(to_numpy(result), zero)
    assert float(regularizer(zero)) == 0.0
    gradient = gradient_of(regularizer, x)
    assert np.isfinite(gradient).all()


def gradient_of(function, x):
    """The gradient of a scalar function, on each backend."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return np.asarray(jax.grad(lambda v: function(v))(x))
    if backend == "torch":
        import torch

        leaf = torch.tensor(x, requires_grad=True)
        function(leaf).backward()
        return leaf.grad.numpy()
    import tensorflow as tf

    leaf = tf.Variable(x)
    with tf.GradientTape() as tape:
        value = function(leaf)
    return tape.gradient(value, leaf).numpy()


def test_the_gradient_of_a_group_is_its_direction():
    x = np.array([[3.0, 0.0], [4.0, 0.0]], "float32")
    gradient = gradient_of(GroupL2(1.0), x)
    expected = 2**0.5 * np.array([[0.6, 0.0], [0.8, 0.0]])
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("regularizer", ALL[:6], ids=KINDS[:6])
def test_pruned_entries_are_positive_zeros(regularizer):
    x = np.array([[-0.01, 0.01], [-0.02, -9.0]], "float32")
    prox = to_numpy(regularizer.prox(x, 1.0))
    assert not np.signbit(prox[prox == 0]).any()
    assert (prox == 0).any()


def test_a_nan_stays_a_nan():
    x = np.array([[np.nan, 1.0], [2.0, 3.0]], "float32")
    for regularizer in ALL[:6]:
        assert np.isnan(to_numpy(regularizer.prox(x, 0.1))[0, 0])


@pytest.mark.parametrize("regularizer", ALL[:6], ids=KINDS[:6])
def test_half_precision_is_computed_in_float32(regularizer):
    # The square of 300 is beyond float16.
    x = ops.convert_to_tensor(np.full((2, 2), 300.0), "float16")
    prox = regularizer.prox(x, 1.0)
    assert keras.backend.standardize_dtype(prox.dtype) == "float32"
    assert np.isfinite(to_numpy(prox)).all() and (to_numpy(prox) > 250).all()


def test_the_subgradient_of_a_singular_matrix_is_of_its_rank():
    x = np.outer([1.0, 2.0, 2.0], [3.0, 4.0]).astype("float32")
    expected = np.outer([1, 2, 2], [3, 4]) / 15
    subgradient = to_numpy(Nuclear(1.0).subgradient(x))
    np.testing.assert_allclose(subgradient, expected, atol=1e-6)


@pytest.mark.parametrize(
    "regularizer",
    [*ALL, SparseGroup(0.1, 0.2, axes=(1,), reference_double_lambda=True)],
    ids=[*KINDS, "reference"],
)
def test_configs_are_plain_and_make_the_same_regularizer(regularizer):
    config = keras.saving.serialize_keras_object(regularizer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(regularizer)
    assert again.get_config() == regularizer.get_config()
    assert type(regularizer.lam) is float


def test_a_layer_saves_and_loads_its_regularizer(tmp_path):
    layer = keras.layers.Dense(2, kernel_regularizer=GroupL2(0.5, axes=(1,)))
    model = keras.Sequential([keras.Input((3,)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    found = loaded.layers[0].kernel_regularizer
    assert (type(found), found.lam, found.axes) == (GroupL2, 0.5, (1,))
    kernel = model.layers[0].kernel
    expected = 0.5 * 2**0.5 * np.sqrt((to_numpy(kernel) ** 2).sum(1)).sum()
    assert float(loaded.losses[0]) == pytest.approx(expected, rel=1e-5)


def test_the_strength_of_a_sparse_group_is_the_sum_and_keeps_its_ratio():
    regularizer = SparseGroup(0.1, 0.3)
    assert regularizer.lam == pytest.approx(0.4)
    regularizer.lam = 0.8
    assert regularizer.lam_1 == pytest.approx(0.2)
    assert regularizer.lam_2 == pytest.approx(0.6)
    regularizer.lam = 0.0
    regularizer.lam = 0.4
    assert regularizer.lam_1 == pytest.approx(0.1)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_bad_strength_is_refused_with_its_value(value):
    with pytest.raises(ValueError, match=f"`lam` must be .*lam={value}"):
        L1(value)
    regularizer = GroupL2(0.1)
    with pytest.raises(ValueError, match=f"lam={value}"):
        regularizer.lam = value
    assert regularizer.lam == 0.1


@pytest.mark.parametrize("axes", ["rows", (), (0.5,), None])
def test_bad_axes_are_refused_with_their_value(axes):
    with pytest.raises(ValueError, match="`axes` must be"):
        GroupL2(0.1, axes=axes)


def test_shapes_that_have_no_groups_are_refused():
    vector = np.ones(3, "float32")
    for regularizer in (GroupL2(0.1), SparseGroup(0.1, 0.1)):
        with pytest.raises(ValueError, match=r"rank 2 or more.*\(3,\)"):
            regularizer(vector)
    with pytest.raises(ValueError, match=r"rank 2, a matrix.*\(2, 2, 2\)"):
        Nuclear(0.1).prox(np.ones((2, 2, 2), "float32"), 1.0)
    with pytest.raises(ValueError, match=r"different axes.*\(0, 2\)"):
        GroupL2(0.1, axes=(0, 2)).prox(np.ones((2, 2), "float32"), 1.0)


def test_every_regularizer_of_the_module_was_tested():
    public = {
        name
        for name, value in vars(regularizers).items()
        if isinstance(value, type)
        and issubclass(value, regularizers.SparsityRegularizer)
        and not name.startswith("_")
    } - {"SparsityRegularizer"}
    assert public == {type(regularizer).__name__ for regularizer in ALL}
