"""Tests of what every pruner must do, and of the masks that each one sets."""

import inspect
import json
import warnings

import keras
import numpy as np
import pytest

import keras_app
from keras_app import masks
from keras_app.schedules import OneShot
from keras_app.schedules import PolynomialDecay
from tests import restated
from tests.helpers import weights
from tests.helpers import zeros
from tests.methods import PRUNERS
from tests.models import batches
from tests.models import KERNELS
from tests.models import make
from tests.models import network
from tests.models import pruned_now
from tests.models import train

NESTED = [name for name, row in PRUNERS.items() if not row.cls.revives]
CLASSES = {row.kind: row.cls for row in PRUNERS.values()}.values()


# ---- the contract of every method --------------------------------------


@pytest.mark.parametrize("name", PRUNERS)
def test_masks_after_training(name):
    model = network(keras.optimizers.AdamW(0.01, weight_decay=0.1))
    before = weights(model)
    pruner = make(name)
    train(model, pruner)
    found, after = pruner.masks, weights(model)
    assert sorted(found) == KERNELS
    for path, mask in found.items():
        assert mask.dtype == bool and mask.shape == after[path].shape
        assert not after[path][~mask].any()
        assert after[path][mask].all()
    # Within one weight of half of them, in each layer or in all.
    if pruner.scope == "layer":
        assert [zeros(found[path]) for path in KERNELS] == [36, 320]
    assert abs(sum(zeros(mask) for mask in found.values()) - 356) <= 1
    for path, mask in keras_app.masks_of(model).items():
        np.testing.assert_array_equal(mask, found[path])
    # Biases and normalization train on, and carry no mask.
    for path in ("conv/bias", "norm/gamma", "norm/beta", "dense/bias"):
        assert path not in found
        assert (after[path] != before[path]).any()
        assert after[path].all()


@pytest.mark.parametrize("name", PRUNERS)
def test_same_seed_same_masks(name):
    first, second = (pruned_now(make(name), network(), 0.5) for _ in range(2))
    for path in KERNELS:
        np.testing.assert_array_equal(first[path], second[path])


@pytest.mark.parametrize("name", PRUNERS)
def test_sparsity_within_one_weight(name):
    for sparsity in (0.0, 0.123, 0.9, 0.99):
        found = pruned_now(make(name), network(), sparsity)
        asked = int(sparsity * 712)
        assert abs(sum(zeros(m) for m in found.values()) - asked) <= 1


@pytest.mark.parametrize("name", NESTED)
def test_masks_only_grow(name):
    pruner = make(name)
    pruner.set_model(network())
    old = pruner.masks
    assert all(mask.all() for mask in old.values())
    for sparsity in (0.2, 0.6, 0.4, 0.9):
        pruner.prune(sparsity)
        for path, mask in pruner.masks.items():
            assert not (mask & ~old[path]).any()
        old = pruner.masks
    assert sum(zeros(mask) for mask in old.values()) >= int(0.9 * 712) - 1


@pytest.mark.parametrize("name", PRUNERS)
def test_config_round_trip(name):
    pruner = make(
        name,
        PolynomialDecay(0.1, 0.5, 2, 40),
        # SparseGPT, which goes through single inputs, has no blocks.
        structure=None if name == "sparsegpt" else masks.Block((2, 1), "max"),
        filters=["conv", "dense"],
        custom_sparsity={"conv": 0.25},
        scope="layer",
        distribution="erk",
        on_miss="raise",
    )
    config = pruner.get_config()
    json.dumps(config)
    again = type(pruner).from_config(config)
    assert again.get_config() == config
    assert again.structure == pruner.structure
    assert again.schedule(7) == pruner.schedule(7)
    stored = keras.saving.serialize_keras_object(pruner)
    again = keras.saving.deserialize_keras_object(stored)
    assert type(again) is type(pruner) and again.get_config() == config


@pytest.mark.parametrize("method", CLASSES)
def test_defaults_round_trip(method):
    config = method(OneShot(0.5)).get_config()
    named = set(inspect.signature(method).parameters) - {"data"}
    assert set(config) == named
    assert method.from_config(config).get_config() == config


@pytest.mark.parametrize("name", PRUNERS)
def test_save_load_and_continue(name, tmp_path):
    model = network()
    pruner = make(name)
    train(model, pruner)
    saved = pruner.masks
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    continued = type(pruner).from_config(pruner.get_config())
    if hasattr(continued, "data"):
        continued.data = batches()
    with warnings.catch_warnings():
        # It is as sparse as asked: there is nothing to warn about.
        warnings.simplefilter("error", UserWarning)
        train(loaded, continued)
    assert sorted(continued.masks) == KERNELS
    for path, mask in continued.masks.items():
        np.testing.assert_array_equal(mask, saved[path])
        assert not weights(loaded)[path][~mask].any()


@pytest.mark.parametrize("name", PRUNERS)
def test_the_report_says_what_was_asked_and_what_came(name):
    pruner = make(name, filters="dense/kernel")
    pruned_now(pruner, network(), 0.5)
    report = pruner.report
    rows = {row.path: row for row in report.rows}
    assert rows["dense/kernel"].asked_sparsity == 0.5
    assert rows["dense/kernel"].sparsity == 0.5
    assert rows["conv/kernel"].asked_sparsity is None
    assert report.sparsity == 0.5
    assert set(report.skipped) == set(rows) - {"dense/kernel"}
    assert "filters" in report.skipped["conv/kernel"]


@pytest.mark.parametrize("method", CLASSES)
@pytest.mark.parametrize(
    "arguments, error, said",
    [
        (dict(scope="l"), ValueError, "scope='l'"),
        (dict(structure="nm"), TypeError, "structure='nm'"),
        (dict(structure=masks.NM), TypeError, "structure=<class"),
        (dict(custom_sparsity=["a"]), TypeError, "custom_sparsity=['a']"),
        (dict(distribution="er"), ValueError, "distribution='er'"),
        (
            dict(scope="global", distribution="erk"),
            ValueError,
            "distribution='erk'",
        ),
        (dict(on_miss="shrug"), ValueError, "on_miss='shrug'"),
        (dict(filters=3), TypeError, "filters=3"),
        (dict(filters="("), ValueError, "filters='('"),
        (
            dict(custom_sparsity={"conv": 50}),
            ValueError,
            "custom_sparsity['conv']=50",
        ),
        (dict(custom_sparsity={"(": 0.5}), ValueError, "'('"),
    ],
)
def test_bad_arguments_are_refused_in_the_constructor(
    method, arguments, error, said
):
    with pytest.raises(error) as caught:
        method(OneShot(0.5), **arguments)
    assert said in str(caught.value)


@pytest.mark.parametrize("method", CLASSES)
def test_a_schedule_must_be_callable_and_say_when_and_how_much(method):
    with pytest.raises(TypeError, match=r"schedule=0\.5"):
        method(0.5)
    with pytest.raises(TypeError, match="schedule=<class"):
        method(OneShot)
    with pytest.raises(ValueError, match=r"returns 0\.5 for step 0"):
        method(lambda step: 0.5)


@pytest.mark.parametrize("name", PRUNERS)
def test_there_is_no_report_before_a_model(name):
    pruner = make(name)
    assert pruner.masks == {}
    with pytest.raises(ValueError, match="before the pruner has seen a model"):
        _ = pruner.report


# ---- the same masks on every backend -----------------------------------


def scopes(name):
    layer = ["layer"]
    return {"wanda": layer, "sparsegpt": layer, "app": ["global"]}.get(
        name, ["layer", "global"]
    )


@pytest.mark.parametrize(
    "name, scope",
    [
        (name, scope)
        for name in PRUNERS
        if name in restated.SCORES
        for scope in scopes(name)
    ],
)
def test_masks_are_those_of_numpy(name, scope):
    pruner = make(name, scope=scope)
    found = pruned_now(pruner, network(), 0.7)
    expected = restated.masks(name, 0.7, together=scope == "global")
    for path in KERNELS:
        np.testing.assert_array_equal(found[path], expected[path])


def test_random_masks_differ_between_seeds():
    one, two = (
        pruned_now(make("random", seed=seed), network(), 0.5) for seed in (1, 2)
    )
    assert (one["dense/kernel"] != two["dense/kernel"]).any()
