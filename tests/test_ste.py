"""Tests of the straight-through estimator: pruned weights train on."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_app import enforcement
from keras_app import masks
from keras_app import pruners
from keras_app.export import load_sparse
from keras_app.export import save_sparse
from keras_app.schedules import ConstantSparsity
from keras_app.schedules import OneShot
from keras_app.schedules import PolynomialDecay
from tests.models import flat
from tests.models import train_eight
from tests.models import X_OF_EIGHT

# ---- by hand -----------------------------------------------------------


def test_ste_by_hand():
    pruner = pruners.STE(ConstantSparsity(0.5, 0, frequency=1))
    kernel, state = train_eight(pruner, X_OF_EIGHT, [1.0, 26.75])
    # 5, 0, 2 and 3 are kept: w x = 4 - 2 - 5 = -3, which is 4 too little, and
    # w <- w + x: 5, 3.5, -3, 1, 1.5, -4, -0.5, 3.75. Now 0, 5, 7 and 1 are
    # kept: w x = 5 + 8.75 - 4 + 15 = 24.75, 2 too little; w <- w + x / 2.
    dense = [5.5, 4.75, -3.0, 0.5, 2.0, -3.5, -1.5, 5.75]
    assert flat(state.dense(kernel)) == dense
    [mask] = pruner.masks.values()
    assert mask.ravel().astype(int).tolist() == [1, 1, 0, 0, 0, 1, 0, 1]
    assert flat(kernel) == [5.5, 4.75, 0.0, 0.0, 0.0, -3.5, 0.0, 5.75]
    assert pruner.report.sparsity == 0.5 and pruner.missed == []


def test_dormant_weights_decay_by_hand():
    pruner = pruners.STE(OneShot(0.5), lam=2.0)
    kernel, state = train_eight(pruner, X_OF_EIGHT, [1.0])
    # As above, and of the pruned ones a quarter goes.
    dense = [5.0, 3.25, -3.0, 1.0, 1.375, -4.0, -0.875, 3.8125]
    assert flat(state.dense(kernel)) == dense
    assert flat(kernel) == [5.0, 0.0, -3.0, 1.0, 0.0, -4.0, 0.0, 0.0]


def test_n_m_moves_within_its_groups():
    pruner = pruners.STE(
        ConstantSparsity(0.5, 0, frequency=1), structure=masks.NM(1, 4, axis=0)
    )
    kernel, state = train_eight(pruner, X_OF_EIGHT, [3.0])
    # 0 and 5 are kept: w x = -1, which is 4 too little, and w <- w + x.
    dense = [5.0, 3.5, -3.0, 1.0, 1.5, -4.0, -0.5, 3.75]
    assert flat(state.dense(kernel)) == dense
    assert flat(kernel) == [5.0, 0.0, 0.0, 0.0, 0.0, -4.0, 0.0, 0.0]


@pytest.mark.backend_free
@pytest.mark.parametrize("method", [pruners.STE, pruners.TopKAST])
@pytest.mark.parametrize("lam", [-1e-4, "much", float("nan")])
def test_a_bad_strength_is_refused(method, lam):
    with pytest.raises(ValueError, match=f"`lam` must be .*lam={lam!r}"):
        method(OneShot(0.5), lam=lam)


# ---- what all methods with dormant values share ------------------------


METHODS = {
    "ste": lambda: pruners.STE(
        ConstantSparsity(0.6, 0, frequency=1), lam=0.1, on_miss="ignore"
    ),
    "top_kast": lambda: pruners.TopKAST(
        ConstantSparsity(0.6, 0, frequency=1), 0.3, on_miss="ignore"
    ),
    "movement": lambda: pruners.MovementPruner(
        PolynomialDecay(0.2, 0.6, 1, 7, frequency=1), on_miss="ignore"
    ),
}


def network():
    inputs = keras.Input((8,))
    outputs = layers.Dense(4, name="only")(inputs)
    model = keras.Model(inputs, outputs)
    kernel = np.random.default_rng(7).standard_normal((8, 4)) * 0.3
    model.layers[1].kernel.assign(kernel)
    # To compile a step takes TensorFlow seconds.
    eager = keras.backend.backend() == "tensorflow"
    model.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=eager)
    return model


def fit(model, pruner):
    """Four steps; returns the masks at their end, in a list."""
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(pruner.masks)
            assert enforcement.state_of(model).leaks() == {}

    generator = np.random.default_rng(3)
    x = generator.standard_normal((32, 8)).astype("float32")
    y = generator.standard_normal((32, 4)).astype("float32")
    model.fit(
        x,
        y,
        batch_size=8,
        shuffle=False,
        verbose=0,
        callbacks=[pruner, Watch()],
    )
    return seen


@pytest.mark.parametrize("name", METHODS)
def test_weights_come_back_and_a_sparse_checkpoint_goes_on_exactly(
    name, tmp_path
):
    first, second = METHODS[name](), METHODS[name]()
    model = network()
    [before] = fit(model, first)
    save_sparse(model, tmp_path / "model.sparse")
    loaded = load_sparse(tmp_path / "model.sparse")
    [after], [found] = fit(model, first), fit(loaded, second)
    assert (after["only/kernel"] & ~before["only/kernel"]).any()
    np.testing.assert_array_equal(found["only/kernel"], after["only/kernel"])
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(a), ops.convert_to_numpy(b)
        )
    # 0.6 of 32, rounded down.
    assert first.report.sparsity == second.report.sparsity == 19 / 32


def test_a_checkpoint_without_optimizer_holds_no_dormant_values(tmp_path):
    model = network()
    pruner = METHODS["ste"]()
    fit(model, pruner)
    save_sparse(model, tmp_path / "model.sparse", optimizer=False)
    loaded = load_sparse(tmp_path / "model.sparse")
    state = enforcement.state_of(loaded)
    kernel, mask = loaded.layers[1].kernel, pruner.masks["only/kernel"]
    np.testing.assert_array_equal(state.get(kernel), mask)
    assert not state.dense(kernel)[~mask].any()
    assert enforcement.state_of(model).dense(model.layers[1].kernel).all()
