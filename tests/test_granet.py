"""Tests of GraNet: prune by magnitude, drop, and grow by the gradient."""

import numpy as np
import pytest

from keras_app.pruners import GraNet
from keras_app.pruners import MagnitudePruner
from keras_app.pruners import SET
from keras_app.schedules import PolynomialDecay
from tests import models
from tests.helpers import to_numpy
from tests.models import EIGHT
from tests.models import KERNELS
from tests.models import network
from tests.models import train

# The gradient of (w x)^2 is in proportion to x. From the largest on: 0, 5, 6,
# 4, 2, 7, 3, 1; and 2, 7, 6, 4, 3, 1, 0, 5.
X = [9.0, -1.0, 4.0, 2.0, -5.0, 8.0, 7.0, 3.0]
LATER_X = [0.7, 2.0, 8.0, 3.0, -4.0, 0.5, 5.0, 6.0]


def data(x):
    return [(np.reshape(x, (1, 8)).astype("float32"), np.zeros((1, 1)))]


def eight(pruner):
    """The eight weights, dense, under a pruner; returns their kernel."""
    model = models.dense(8, 1, EIGHT)
    pruner.set_model(model)
    return model.get_layer("dense").kernel


def mask_of(pruner):
    [mask] = pruner.masks.values()
    return mask.ravel().astype(int).tolist()


@pytest.mark.parametrize(
    "drop_fraction, expected",
    [
        # Of the largest magnitudes: 5, 0, 2, 3. The others are pruned.
        (0.0, [1, 0, 1, 1, 0, 1, 0, 0]),
        # Of these 3 drops, and 6 grows.
        (0.25, [1, 0, 1, 0, 0, 1, 1, 0]),
        # 3 and 2 drop, 6 and 4 grow.
        (0.5, [1, 0, 0, 0, 1, 1, 1, 0]),
        # 3, 2 and 0 drop; 0, 6 and 4 grow.
        (0.75, [1, 0, 0, 0, 1, 1, 1, 0]),
    ],
)
def test_the_first_update_of_a_dense_start_by_hand(drop_fraction, expected):
    schedule = PolynomialDecay(0.0, 0.75, 0, 100)
    pruner = GraNet(schedule, data(X), drop_fraction=drop_fraction)
    kernel = eight(pruner)
    pruner.prune(0.0)
    assert mask_of(pruner) == [1] * 8
    pruner.prune(0.5)
    assert mask_of(pruner) == expected
    # Nothing was zero before, and what was dropped and grew is what it was.
    after = to_numpy(kernel).ravel().tolist()
    assert after == [w * m for w, m in zip(EIGHT, expected)]


def test_a_later_update_by_hand():
    pruner = GraNet(PolynomialDecay(0.0, 0.75, 0, 100), data(X))
    kernel = eight(pruner)
    pruner.prune(0.5)
    pruner.data = data(LATER_X)
    # Kept are 5, 0, 6, 4: 4 is pruned, 6 drops (a half of three, rounded
    # down), 2 grows, from zero.
    pruner.prune(0.625)
    assert mask_of(pruner) == [1, 0, 1, 0, 0, 1, 0, 0]
    assert to_numpy(kernel).ravel().tolist() == [4.0, 0, 0, 0, 0, -5.0, 0, 0]
    # f(75) = 0.5 / 2 (1 + cos(3 pi / 4)) = 0.07: nothing drops. 2 is pruned.
    pruner.model.optimizer.iterations.assign(75)
    pruner.prune(0.75)
    assert mask_of(pruner) == [1, 0, 0, 0, 0, 1, 0, 0]


def test_without_drops_it_is_gradual_pruning_by_magnitude():
    found = []
    for method in (GraNet, MagnitudePruner):
        options = {"drop_fraction": 0} if method is GraNet else {}
        pruner = method(
            PolynomialDecay(0.0, 0.8, 0, 8, frequency=2),
            distribution="erk",
            **options,
        )
        model = network()
        train(model, pruner, epochs=3)
        found.append(model.get_weights())
    for one, two in zip(*found):
        np.testing.assert_array_equal(one, two)


def test_a_sparse_start_draws_its_first_masks():
    schedule = PolynomialDecay(0.5, 0.8, 0, 8, frequency=2)
    found = []
    for method in (GraNet, SET):
        pruner = method(schedule)
        pruner.set_model(network())
        pruner.prune(0.5)
        found.append(pruner.masks)
    for path in KERNELS:
        np.testing.assert_array_equal(found[0][path], found[1][path])


class Logged(GraNet):
    """Keeps the masks of each update."""

    log = ()

    def prune(self, sparsity):
        super().prune(sparsity)
        self.log = (*self.log, self.masks)


@pytest.mark.parametrize("initial_sparsity", [0.0, 0.5])
def test_weights_come_back_while_the_sparsity_rises(initial_sparsity):
    # By the gradients of the training itself.
    schedule = PolynomialDecay(initial_sparsity, 0.8, 0, 10, frequency=2)
    pruner = Logged(schedule)
    model = network()
    train(model, pruner, epochs=4)
    kept = [sum(m.sum() for m in masks.values()) for masks in pruner.log]
    asked = [schedule(step)[1] for step in range(0, 11, 2)]
    # Each of the two layers rounds.
    np.testing.assert_allclose(kept, [712 * (1 - s) for s in asked], atol=2)
    grown = sum(
        int((new[path] & ~old[path]).sum())
        for old, new in zip(pruner.log, pruner.log[1:])
        for path in KERNELS
    )
    assert grown > 0
    assert pruner.missed == []
    for path, variable in pruner.variables.items():
        assert not to_numpy(variable)[~pruner.masks[path]].any()
