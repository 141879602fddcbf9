"""Tests of the callbacks that choose an epoch at the target sparsity."""

import warnings

import keras
import numpy as np
import pytest

import keras_app
from keras_app import optimizers
from keras_app import pruners
from keras_app import regularizers
from keras_app.callbacks import SparseEarlyStopping
from keras_app.callbacks import SparseModelCheckpoint
from keras_app.compat import tfmot
from keras_app.experiments import Train
from keras_app.experiments.run.folder import RunFolder
from keras_app.schedules import ConstantSparsity
from keras_app.schedules import CyclicSparsity
from keras_app.schedules import OneShot
from keras_app.schedules import PolynomialDecay
from tests.helpers import assert_refused
from tests.helpers import weights
from tests.helpers import zeros
from tests.models import dense
from tests.models import network
from tests.models import train
from tests.test_training import holdout
from tests.test_training import Killed
from tests.test_training import small

KERNEL = "dense/kernel"

# Dense epochs are better than any sparse one, and of these epoch 5 is the best.
LOSSES = [1.0, 0.5, 0.7, 3.0, 2.0, 1.5, 1.6, 1.7, 1.8]


class Says(keras.callbacks.Callback):
    """Writes a loss into the logs, and notes the weights of each epoch."""

    def __init__(self, losses=LOSSES):
        super().__init__()
        self.losses = losses
        self.kernels = []

    def on_epoch_end(self, epoch, logs=None):
        logs["said"] = self.losses[epoch]
        self.kernels.append(weights(self.model)[KERNEL])


def gradual():
    """Of nine epochs of four steps: the end is in the fourth."""
    return PolynomialDecay(0.0, 0.8, 2, 14, frequency=3)


def stopping(**kwargs):
    return SparseEarlyStopping(
        "said", mode="min", restore_best_weights=True, **kwargs
    )


def fit(model, pruner, *others, epochs=9):
    said = Says()
    train(model, pruner, epochs=epochs, callbacks=[said, *others])
    return said


def test_the_best_epoch_is_one_at_the_target(tmp_path):
    model, pruner = dense(10, 10), pruners.MagnitudePruner(gradual())
    stop = stopping(patience=20)
    best = SparseModelCheckpoint(
        tmp_path / "ours.keras", "said", mode="min", save_best_only=True
    )
    of_keras = keras.callbacks.ModelCheckpoint(
        tmp_path / "keras.keras", "said", mode="min", save_best_only=True
    )
    said = fit(model, pruner, best, of_keras, stop)
    # Keras's takes the second epoch, in which the schedule has just begun.
    kernels = [
        keras.saving.load_model(tmp_path / name).get_weights()[0]
        for name in ("keras.keras", "ours.keras")
    ]
    np.testing.assert_array_equal(kernels[0], said.kernels[1])
    np.testing.assert_array_equal(kernels[1], said.kernels[5])
    np.testing.assert_array_equal(weights(model)[KERNEL], said.kernels[5])
    assert zeros(kernels[0]) < 80 == zeros(kernels[1])
    assert stop.best_epoch == 5 and stop.best == best.best == 1.5
    assert pruner.missed == [] and pruner.report.sparsity == 0.8
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        keras_app.export.strip_pruning(model)


def test_keras_stops_before_the_target_and_ours_after_it():
    model, pruner = dense(10, 10), pruners.MagnitudePruner(gradual())
    stop = stopping(patience=1)
    said = fit(model, pruner, stop)
    # Epoch 6 is no better than 5; none before 3 counts.
    assert len(said.kernels) == 7 and stop.stopped_epoch == 6
    assert pruner.missed == []
    np.testing.assert_array_equal(weights(model)[KERNEL], said.kernels[5])
    model, pruner = dense(10, 10), pruners.MagnitudePruner(gradual())
    of_keras = keras.callbacks.EarlyStopping("said", patience=1, mode="min")
    with pytest.warns(UserWarning, match="of the schedule's 0.8000"):
        said = fit(model, pruner, of_keras)
    assert len(said.kernels) == 3


def test_training_goes_on_from_the_best_epoch():
    model, pruner = dense(10, 10), pruners.MagnitudePruner(gradual())
    stop = stopping(patience=2)
    fit(model, pruner, stop)
    mask = pruner.masks[KERNEL]
    model.compile("sgd", "mse")
    pruner = pruners.MagnitudePruner(ConstantSparsity(0.8, 0))
    said = fit(model, pruner, stop, epochs=2)
    np.testing.assert_array_equal(pruner.masks[KERNEL], mask)
    # What an earlier fit found is forgotten.
    assert stop.best == LOSSES[1]
    np.testing.assert_array_equal(weights(model)[KERNEL], said.kernels[1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: pruners.SET(ConstantSparsity(0.8, 0, frequency=2)),
        lambda: pruners.RigL(ConstantSparsity(0.8, 0, frequency=2)),
        lambda: pruners.STE(ConstantSparsity(0.8, 0, frequency=1), lam=0.1),
        lambda: pruners.TopKAST(ConstantSparsity(0.8, 0, frequency=1)),
    ],
)
def test_masks_that_move_come_back_with_their_weights(make):
    model, pruner = dense(10, 10, learning_rate=0.5), make()
    seen = []

    class Masks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(pruner.masks[KERNEL])

    stop = stopping(patience=3)
    said = Says([2.0, 1.0, *[3.0] * 7])
    train(model, pruner, epochs=9, callbacks=[Masks(), said, stop])
    assert len(said.kernels) == 5
    assert any((mask != seen[1]).any() for mask in seen[2:])
    np.testing.assert_array_equal(pruner.masks[KERNEL], seen[1])
    np.testing.assert_array_equal(weights(model)[KERNEL], said.kernels[1])
    assert not weights(model)[KERNEL][~seen[1]].any()
    assert pruner.missed == [] and pruner.report.sparsity == 0.8
    # A new optimizer takes the masks of the weights that are there.
    model.compile("sgd", "mse")
    pruner.set_model(model)
    np.testing.assert_array_equal(pruner.masks[KERNEL], seen[1])


def test_dense_phases_do_not_count():
    # Sparse in epochs 1, 3, 5 and from 7 on, of 0 to 8.
    schedule = CyclicSparsity(0.0, 0.5, 4, 28, period=8)
    model, pruner = dense(10, 10), pruners.ACDC(schedule)
    stop = stopping(patience=9)
    said = Says([1, 9, 1, 5, 1, 6, 1, 7, 8])
    train(model, pruner, epochs=9, callbacks=[said, stop])
    assert stop.best_epoch == 3
    np.testing.assert_array_equal(weights(model)[KERNEL], said.kernels[3])
    assert zeros(weights(model)[KERNEL]) == 50 and pruner.missed == []


def test_a_bregman_pruner_ends_the_epochs_that_count_at_its_density():
    regularizer = regularizers.L1(0.05)
    model = network(optimizers.LinBreg(0.3, regularizers=regularizer))
    pruner = pruners.BregmanPruner(ConstantSparsity(0.5, 8, frequency=3))
    shares, after = [], []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            shares.append(logs["sparsity"])
            logs["said"] = [0, 0, 3, 2, 1, 2, 2, 2][epoch]
            if epoch == 3:  # more zeros than asked for are no target either
                self.model.optimizer.set_sparsity(regularizer, 0.7)

    class After(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            after.append(weights(self.model))

    stop = stopping(patience=3)
    train(model, pruner, epochs=8, callbacks=[Watch(), stop, After()])
    # The first update is before the third epoch; weights move after each.
    assert len(shares) == 8 and stop.best_epoch == 4
    assert any(share != 0.5 for share in shares[2:])
    for values in after[2:]:
        assert zeros(values["conv/kernel"]) + zeros(values[KERNEL]) == 356
    for path, values in weights(model).items():
        np.testing.assert_array_equal(values, after[4][path])
    assert pruner.missed == []


def test_a_density_at_most_the_target_counts():
    regularizer = regularizers.L1(0.1)
    model = network(optimizers.LinBreg(0.1, regularizers=regularizer))
    controller = pruners.DensityController(regularizer, 0.8, frequency=2)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(logs["density"])
            logs["said"] = -logs["density"]  # the densest is the best

    stop = stopping(patience=50)
    train(model, controller, epochs=12, callbacks=[Watch(), stop])
    assert max(seen) > 0.8 >= min(seen)
    assert -stop.best == max(d for d in seen if d <= 0.8)


def test_only_epochs_with_a_final_mask_count():
    optimizer = optimizers.ContinuousSparsification(0.5, lam=0.01)
    model = network(optimizer)
    pruner = pruners.ContinuousSparsifier(20.0, retrain_epochs=3)
    stop = stopping(patience=9)
    said = Says([0, 0, 3, 1, 2])
    train(model, pruner, epochs=5, callbacks=[said, stop])
    assert stop.best_epoch == 3 and pruner.missed == []
    np.testing.assert_array_equal(weights(model)[KERNEL], said.kernels[3])


def test_marks_of_tfmot_have_a_target():
    model = tfmot.prune_low_magnitude(dense(10, 10), gradual())
    model.compile("sgd", "mse")
    stop = stopping(patience=2)
    said = fit(model, tfmot.UpdatePruningStep("raise"), stop)
    assert stop.best_epoch == 5
    np.testing.assert_array_equal(weights(model)[KERNEL], said.kernels[5])


def test_masks_of_an_earlier_fit_are_a_target():
    model = dense(10, 10)
    train(model, pruners.MagnitudePruner(OneShot(0.8)))
    stop = stopping(patience=1)
    said = fit(model, None, stop)
    assert stop.best_epoch == 1 and len(said.kernels) == 3
    assert zeros(weights(model)[KERNEL]) == 80


def test_all_pruners_of_a_fit_must_be_there_or_the_one_that_is_named():
    def run(**kwargs):
        model = network()
        late = pruners.MagnitudePruner(OneShot(0.5, 14), filters="conv/kernel")
        soon = pruners.MagnitudePruner(OneShot(0.5), filters="dense/kernel")
        # One that was there before has no say.
        train(network(), pruners.MagnitudePruner(OneShot(0.5, 4)))
        stop = stopping(patience=9, **{k: soon for k in kwargs})
        train(model, late, epochs=6, callbacks=[soon, Says(), stop])
        return stop.best_epoch

    assert run() == 5
    assert run(pruner=True) == 1


@pytest.mark.parametrize("kind", ["stop", "save"])
def test_what_never_counts_is_told(kind, tmp_path):
    path = tmp_path / "best.keras"
    chosen = {
        "stop": lambda: stopping(),
        "save": lambda: SparseModelCheckpoint(path, "said", mode="min"),
    }[kind]()
    pruner = pruners.MagnitudePruner(OneShot(0.8, 1.0))
    words = {"stop": "those of the last", "save": "nothing was saved"}[kind]
    with pytest.warns(UserWarning, match=words):
        fit(dense(10, 10), pruner, chosen, epochs=2)
    assert not path.exists()


@pytest.mark.parametrize("kind", ["stop", "save"])
def test_every_fit_is_told_of_for_itself(kind, tmp_path):
    chosen = {
        "stop": lambda: stopping(),
        "save": lambda: SparseModelCheckpoint(
            tmp_path / "best.keras", "said", mode="min"
        ),
    }[kind]()
    model = dense(10, 10)
    fit(model, pruners.MagnitudePruner(OneShot(0.5)), chosen, epochs=2)
    later = pruners.MagnitudePruner(OneShot(0.8, 1.0))
    with pytest.warns(UserWarning, match="none of the epochs"):
        fit(model, later, chosen, epochs=2)


def test_what_has_no_target_is_refused_before_training():
    model = dense(10, 10)
    assert_refused(
        lambda: fit(model, None, stopping()),
        ["SparseEarlyStopping", "nothing in this `fit`", "BregmanPruner"],
    )
    pruner = pruners.MagnitudePruner(OneShot(0.5))
    assert_refused(
        lambda: train(model, stopping(), callbacks=[pruner]),
        ["SparseEarlyStopping must come after MagnitudePruner"],
    )
    assert int(model.optimizer.iterations) == 0
    assert_refused(
        lambda: SparseModelCheckpoint("best.keras", save_freq=10),
        ["`save_freq` must be 'epoch'", "save_freq=10"],
    )
    elsewhere = pruners.MagnitudePruner(OneShot(0.5))
    assert_refused(
        lambda: fit(model, pruner, stopping(pruner=elsewhere)),
        ["`pruner` of SparseEarlyStopping", "`callbacks` of this `fit`"],
    )
    with pytest.raises(TypeError, match="pruner='magnitude'"):
        stopping(pruner="magnitude")
    with pytest.raises(TypeError, match="patients"):
        SparseEarlyStopping(patients=3)


def test_gin_knows_the_arguments_of_keras():
    import gin

    with gin.unlock_config():
        gin.parse_config(
            "from __gin__ import dynamic_registration\n"
            "from keras_app import callbacks\n"
            "callbacks.SparseEarlyStopping.patience = 3\n"
            "callbacks.SparseModelCheckpoint.filepath = 'best.keras'\n"
        )
        found = gin.get_configurable(SparseEarlyStopping)()
        with pytest.raises(ValueError, match="patients"):
            gin.bind_parameter("callbacks.SparseEarlyStopping.patients", 3)
    gin.clear_config()
    assert isinstance(found, SparseEarlyStopping) and found.patience == 3


def test_a_killed_run_stops_and_restores_like_one_that_was_not(
    tmp_path, monkeypatch
):
    def run(path, **kwargs):
        # Of seven steps an epoch; the loss that it says falls, then rises.
        losses = [0.1, 3.0, 2.0, 2.5, 2.6, 2.7]

        class Loss(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                logs["said"] = losses[epoch]

        stop = stopping(patience=2)
        summary = Train(
            holdout,
            small,
            pruner=pruners.SET(ConstantSparsity(0.8, 7, frequency=3)),
            callbacks=[Loss(), stop],
            epochs=6,
        ).run(path, verbose=False, **kwargs)
        assert (stop.best_epoch, stop.stopped_epoch) == (2, 4)
        assert summary["missed"] == []
        return keras.saving.load_model(path / "model.keras").get_weights()

    whole = run(tmp_path / "whole")
    save = RunFolder.save_checkpoint

    def save_and_die(self, arrays, meta):
        save(self, arrays, meta)
        if meta["epoch"] == 4:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "save_checkpoint", save_and_die)
        with pytest.raises(Killed):
            run(tmp_path / "killed")
    again = run(tmp_path / "killed", resume=True)
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one, other)
