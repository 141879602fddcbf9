"""Strengths of weights split over four devices are those of the host."""

import numpy as np

from keras_app import optimizers
from keras_app import pruners
from keras_app import regularizers
from keras_app import schedules
from keras_app import split
from tests import splitting

# ---- the choice itself ----------------------------------------------------

REGULARIZERS = {
    "L1": lambda: regularizers.L1(0.5),
    "NonNegativeL1": lambda: regularizers.NonNegativeL1(0.5),
    "GroupL2": lambda: regularizers.GroupL2(0.5),
    "SparseGroup": lambda: regularizers.SparseGroup(0.25, 0.25),
}


def chosen(kind, regularizer):
    """What three choices leave: `(done, lam, weights, dual variables)`."""
    model = splitting.model(kind(0.1, regularizers=regularizer))
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    draw = np.random.default_rng(0)
    for variable in model.trainable_variables:
        # Many are equal.
        values = draw.integers(0, 7, variable.shape).astype("float32")
        variable.assign(values)
    found = []
    for sparsity in (0.5, 0.8, 0.3):
        done = optimizer.set_sparsity(regularizer, sparsity)
        found.append((done, regularizer.lam))
    state = [*model.trainable_variables, *optimizer.variables]
    return found, state


def agrees(make, kind):
    def check():
        regularizer = make()
        told, whole = chosen(kind, regularizer)
        whole = [np.array(each) for each in whole]
        with splitting.distributed(), splitting.fetches() as fetched:
            told_too, parts = chosen(kind, make())
        assert fetched == [], fetched
        assert told[0][0]
        check_layouts(parts)
        # Sums over devices are rounded otherwise.
        near = 0 if regularizer.elementwise else 1e-5
        np.testing.assert_allclose(told_too, told, near)
        for a, b in zip(whole, map(np.array, parts), strict=True):
            np.testing.assert_array_equal(a == 0, b == 0)
            np.testing.assert_allclose(a, b, near)

    return check


def check_layouts(state):
    """The latent state of a weight lies as the weight does."""
    weights = {v.path.replace("/", "_"): v.value.sharding for v in state[:6]}
    checked = 0
    for variable in state[6:]:
        name, _, what = variable.name.rpartition("_")
        if what in ("subgradient", "point"):
            rank = len(variable.shape)
            assert variable.value.sharding.is_equivalent_to(weights[name], rank)
            checked += split.is_split(variable)
    assert checked == 2


# ---- whole trainings ------------------------------------------------------


def trained(kind, scope):
    regularizer = regularizers.L1(0.1)
    model = splitting.model(kind(0.1, regularizers=regularizer))
    pruner = pruners.BregmanPruner(
        schedules.PolynomialDecay(0.3, 0.7, 0, 6, frequency=2), scope=scope
    )
    with splitting.fetches() as fetched:
        splitting.fit(model, pruner)
        assert pruner.report.sparsity >= 0.69
        assert pruner.is_at_target
    return pruner.masks, model.get_weights(), fetched


def trains(scope):
    def check():
        masks, weights, _ = trained(optimizers.LinBreg, scope)
        with splitting.distributed():
            parts, split_weights, fetched = trained(optimizers.LinBreg, scope)
        assert fetched == [], fetched
        for a, b in zip(masks.values(), parts.values(), strict=True):
            np.testing.assert_array_equal(a, b)
        for a, b in zip(weights, split_weights, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

    return check


def masks_can_be_proposed():
    def proposed():
        optimizer = optimizers.AdaBreg(
            0.1, regularizers=regularizers.GroupL2(0.1)
        )
        pruner = pruners.BregmanPruner(schedules.ConstantSparsity(0.5, 0))
        pruner.set_model(splitting.model(optimizer))
        return pruner.propose(0.5)

    whole = proposed()
    with splitting.distributed(), splitting.fetches() as fetched:
        parts = proposed()
    assert fetched == [], fetched
    for path, mask in whole.items():
        np.testing.assert_array_equal(mask, np.asarray(parts[path]))


def cases():
    """`{name: what a process with four devices runs}`."""
    return {
        **{n: agrees(m, optimizers.LinBreg) for n, m in REGULARIZERS.items()},
        "ProxSGD": agrees(REGULARIZERS["L1"], optimizers.ProxSGD),
        "trained layer": trains("layer"),
        "trained global": trains("global"),
        "proposed": masks_can_be_proposed,
    }


test_on_four_devices = splitting.tests_of(__name__, cases())
