"""Tests of AC/DC: masks by hand, phases within `fit`, what ends dense."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_app import masks
from keras_app import pruners
from keras_app.schedules import CyclicSparsity
from tests.helpers import weights
from tests.helpers import zeros
from tests.models import dense
from tests.models import network
from tests.models import train


def phases(end_step=12, sparsity=0.5):
    """Warm-up of 2 steps; 2 sparse and 2 dense in turn; then sparse."""
    return CyclicSparsity(0.0, sparsity, 2, end_step, period=4)


def test_two_sparse_phases_by_hand():
    model = dense(2, 4, [0.8, -0.1, 0.3, -0.7, 0.2, 0.6, -0.5, 0.4])
    kernel = model.layers[1].kernel
    pruner = pruners.ACDC(phases())
    pruner.set_model(model)

    pruner.prune(0.5)
    first = [[1, 0, 0, 1], [0, 1, 1, 0]]
    assert pruner.masks["dense/kernel"].astype(int).tolist() == first
    pruner.prune(0.0)
    assert pruner.masks["dense/kernel"].all()
    expected = [[0.8, 0.0, 0.0, -0.7], [0.0, 0.6, -0.5, 0.0]]
    np.testing.assert_allclose(ops.convert_to_numpy(kernel), expected)

    # In the dense phase the second weight of those pruned grows past two.
    kernel.assign([[0.8, 0.1, -0.9, -0.3], [0.0, 0.6, -0.2, 0.1]])
    pruner.prune(0.5)
    second = [[1, 0, 1, 1], [0, 1, 0, 0]]
    assert pruner.masks["dense/kernel"].astype(int).tolist() == second
    expected = [[0.8, 0.0, -0.9, -0.3], [0.0, 0.6, 0.0, 0.0]]
    np.testing.assert_allclose(ops.convert_to_numpy(kernel), expected)


class Watch(keras.callbacks.Callback):
    """Notes mask, weights and momentum when an epoch ends."""

    def __init__(self, pruner):
        super().__init__()
        self.pruner = pruner
        self.masks = []
        self.kernels = []
        self.momenta = []

    def on_epoch_end(self, epoch, logs=None):
        self.masks.append(self.pruner.masks["dense/kernel"])
        self.kernels.append(weights(self.model)["dense/kernel"])
        [momentum] = [
            ops.convert_to_numpy(variable)
            for variable in self.model.optimizer.variables
            if variable.name.endswith("kernel_momentum")
        ]
        self.momenta.append(momentum)


def test_phases_of_a_fit():
    # Epochs of one step: 0-1 warm-up, 2-3 sparse, 4-5 dense, 6-7 sparse, ...
    model = dense(10, 10)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    pruner = pruners.ACDC(phases())
    watch = Watch(pruner)
    history = train(
        model, pruner, epochs=14, batch_size=32, callbacks=[watch]
    ).history
    sparse = {2, 3, 6, 7, 12, 13}
    expected = [0.5 if epoch in sparse else 0.0 for epoch in range(14)]
    assert history["sparsity"] == expected
    for epoch, (mask, kernel) in enumerate(zip(watch.masks, watch.kernels)):
        assert zeros(mask) == (50 if epoch in sparse else 0)
        assert not kernel[~mask].any() and kernel[mask].all()
    # Fixed within a phase, and not the same in all.
    for first, second in ((2, 3), (6, 7), (12, 13)):
        np.testing.assert_array_equal(watch.masks[first], watch.masks[second])
    assert (watch.masks[2] & ~watch.masks[12]).any()
    # What comes back starts from zero with momentum zero: one step of SGD.
    back = ~watch.masks[3]
    np.testing.assert_allclose(
        watch.kernels[4][back], watch.momenta[4][back], rtol=1e-6
    )
    assert pruner.missed == []
    assert pruner.report.sparsity == 0.5


def test_a_fit_that_stops_in_a_dense_phase_has_missed_its_target():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 4

    pruner = pruners.ACDC(phases(), on_miss="raise")
    with pytest.raises(pruners.PruningMissed, match="0.0000 of .* 0.5000"):
        train(dense(4, 4), pruner, epochs=14, batch_size=32, callbacks=[Stop()])


def test_a_fit_that_is_too_short_for_the_last_phase_is_refused():
    with pytest.raises(ValueError, match="ends at step 12, .* after step 11"):
        train(dense(4, 4), pruners.ACDC(phases()), epochs=11, batch_size=32)


def test_a_second_fit_goes_on_within_a_phase():
    whole = dense(6, 6)
    start = whole.get_weights()
    train(whole, pruners.ACDC(phases()), epochs=14, batch_size=32)
    # Stopped where a dense phase begins, and within it.
    for first in (4, 5):
        model = dense(6, 6)
        model.set_weights(start)
        stopped = pruners.ACDC(phases(), on_miss="ignore")
        train(model, stopped, epochs=first, batch_size=32)
        again = pruners.ACDC.from_config(stopped.get_config())
        train(model, again, epochs=14 - first, batch_size=32)
        assert again.missed == []
        for path, expected in weights(whole).items():
            found = weights(model)[path]
            np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_global_and_custom_sparsities_are_lifted_in_dense_phases():
    pruner = pruners.ACDC(
        phases(), scope="global", custom_sparsity={"conv": 0.25}
    )
    pruner.set_model(network())
    for sparsity, expected in ((0.5, [18, 320]), (0.0, [0, 0])) * 2:
        pruner.prune(sparsity)
        assert [zeros(mask) for mask in pruner.masks.values()] == expected


def test_n_m_holds_in_sparse_phases_only():
    pruner = pruners.ACDC(phases(), structure=masks.NM(2, 4, axis=-2))
    pruner.set_model(dense(8, 6))
    pruner.prune(0.5)
    [mask] = pruner.masks.values()
    assert (mask.reshape(2, 4, 6).sum(1) == 2).all()
    pruner.prune(0.0)
    assert pruner.masks["dense/kernel"].all()
