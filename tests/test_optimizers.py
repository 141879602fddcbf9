"""Tests of what every optimizer must do, with the callback that steers it."""

import json
import warnings

import keras
import numpy as np
import pytest

import keras_app
from tests.helpers import not_torch
from tests.helpers import weights
from tests.helpers import zeros
from tests.masking import assert_same_weights
from tests.methods import OPTIMIZERS
from tests.models import compiled
from tests.models import fit
from tests.models import KERNELS
from tests.models import network
from tests.models import train

SPARSE = [name for name, row in OPTIMIZERS.items() if row.sparse]


def trained(name, epochs=2):
    """A network under a row of the catalogue, and its callbacks."""
    keras.utils.set_random_seed(0)
    optimizer, callbacks = OPTIMIZERS[name].make()
    model = network(optimizer)
    train(model, epochs=epochs, callbacks=callbacks)
    return model, callbacks


@pytest.mark.parametrize("name", SPARSE)
def test_zeros_after_training_are_exact_and_counted(name):
    model, _ = trained(name)
    after = weights(model)
    kept = sum(np.count_nonzero(after[path]) for path in KERNELS)
    assert 0 < kept < 712
    assert model.optimizer.density == pytest.approx(kept / 712)
    report = keras_app.report.summarize(model)
    assert report.sparsity == pytest.approx(1 - kept / 712)
    rows = {row.path: row.zeros for row in report.rows}
    assert [rows[path] for path in KERNELS] == [
        zeros(after[p]) for p in KERNELS
    ]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_biases_and_normalization_train_on_and_are_dense(name):
    before = weights(network())
    after = weights(trained(name)[0])
    # The bias before the normalization has no effect, and so no gradient.
    for path in ("norm/gamma", "norm/beta", "dense/bias"):
        assert after[path].all()
        assert (after[path] != before[path]).any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_same_seed_same_weights(name):
    assert_same_weights(trained(name)[0], trained(name)[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_config_round_trip(name):
    optimizer, _ = OPTIMIZERS[name].make()
    config = optimizer.get_config()
    again = type(optimizer).from_config(config)
    assert again.get_config() == config
    stored = keras.optimizers.serialize(optimizer)
    json.dumps(stored)
    restored = keras.optimizers.deserialize(stored)
    assert type(restored) is type(optimizer)
    assert restored.get_config() == config


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_save_load_and_continue(name, tmp_path):
    model, _ = trained(name)
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same_weights(model, loaded)
    for each in (model, loaded):
        train(each)
    assert_same_weights(model, loaded)
    before = weights(trained(name)[0])
    assert (weights(loaded)[KERNELS[0]] != before[KERNELS[0]]).any()


@pytest.mark.parametrize("name", SPARSE)
def test_a_callback_tells_the_share_of_zeros_of_each_epoch(name):
    optimizer, callbacks = OPTIMIZERS[name].make()
    if not callbacks:
        pytest.skip("nothing steers it")
    model = network(optimizer)
    logs = train(model, epochs=2, callbacks=callbacks).history
    assert len(logs["sparsity_all"]) == 2
    if "sparsity" in logs:  # of a pruner
        density = [1 - sparsity for sparsity in logs["sparsity"]]
    else:
        density = logs["density"]
    assert len(density) == 2
    assert density[-1] == pytest.approx(optimizer.density)


@not_torch
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_several_steps_per_execution_and_compilation_change_nothing(name):
    ends = []
    for arguments in (
        {"jit_compile": False},
        {"jit_compile": True},
        {"steps_per_execution": 4},
    ):
        model = compiled(OPTIMIZERS[name].make()[0], **arguments)
        fit(model)
        ends.append(model.get_weights())
    for a, b, c in zip(*ends):
        np.testing.assert_allclose(a, b, atol=1e-5)
        np.testing.assert_allclose(a, c, atol=1e-5)
