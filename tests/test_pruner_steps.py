"""Tests of when pruners act: steps, epochs, fits that go on, schedules."""

import warnings

import keras
import numpy as np
import pytest

from keras_app import pruners
from keras_app.schedules import ConstantSparsity
from keras_app.schedules import OneShot
from keras_app.schedules import PolynomialDecay
from tests.helpers import BACKEND
from tests.helpers import weights
from tests.helpers import zeros
from tests.models import dense
from tests.models import train

# ---- time --------------------------------------------------------------


class Logged(pruners.MagnitudePruner):
    """Notes the sparsity of each update."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.log = []

    def prune(self, sparsity):
        self.log.append(sparsity)
        super().prune(sparsity)


def at(schedule, *steps):
    return pytest.approx([schedule(step)[1] for step in steps])


def test_updates_come_at_the_steps_of_the_schedule():
    schedule = PolynomialDecay(0.1, 0.8, 1, 7, frequency=2)
    pruner = Logged(schedule)
    train(dense(10, 10), pruner, epochs=2)
    assert pruner.log == at(schedule, 1, 3, 5, 7)


def test_a_frequency_that_does_not_divide_still_reaches_the_end():
    schedule = PolynomialDecay(0.1, 0.8, 0, 7, frequency=3)
    pruner = Logged(schedule)
    train(dense(10, 10), pruner, epochs=2)
    assert pruner.log == at(schedule, 0, 3, 6, 7)
    assert pruner.report.sparsity == 0.8


def test_an_update_due_after_the_last_step_is_made():
    schedule = PolynomialDecay(0.1, 0.8, 0, 8, frequency=4)
    pruner = Logged(schedule)
    model = dense(10, 10)
    train(model, pruner, epochs=2)
    assert pruner.log == at(schedule, 0, 4, 8)
    assert zeros(weights(model)["dense/kernel"]) == 80


def test_a_schedule_past_the_end_is_refused_before_training():
    pruner = Logged(PolynomialDecay(0.1, 0.8, 0, 9))
    model = dense(10, 10)
    with pytest.raises(ValueError) as error:
        train(model, pruner, epochs=2)
    assert "step 9" in str(error.value) and "step 8" in str(error.value)
    assert int(model.optimizer.iterations) == 0
    assert pruner.log == []


def test_a_schedule_that_begins_past_the_end_is_refused():
    pruner = pruners.MagnitudePruner(ConstantSparsity(0.5, 100))
    with pytest.raises(ValueError, match="step 100"):
        train(dense(10, 10), pruner)


def test_epochs_run_before_do_not_count_towards_the_end():
    # Epochs 3 and 4 of 4: eight steps, not sixteen.
    pruner = pruners.MagnitudePruner(PolynomialDecay(0.1, 0.8, 0, 12))
    with pytest.raises(ValueError, match="step 12"):
        train(dense(10, 10), pruner, epochs=4, initial_epoch=2)


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


def stopped_early(on_miss):
    pruner = Logged(
        PolynomialDecay(0.1, 0.8, 0, 8, frequency=1), on_miss=on_miss
    )
    train(dense(10, 10), pruner, epochs=2, callbacks=[Stop()])
    return pruner


def test_a_missed_target_warns():
    with pytest.warns(UserWarning, match="0.8000"):
        pruner = stopped_early("warn")
    assert any("0.8000" in note for note in pruner.report.notes)
    assert "0.8000" in str(pruner.report)


def test_a_missed_target_raises_if_asked_to():
    with pytest.raises(pruners.PruningMissed, match="0.8000"):
        stopped_early("raise")


def test_a_missed_target_can_be_ignored():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pruner = stopped_early("ignore")
    assert len(pruner.missed) == 1


def test_a_training_of_unknown_length_that_prunes_nothing_warns():
    def endless():
        while True:
            yield np.ones((4, 10), "float32"), np.ones((4, 10), "float32")

    pruner = pruners.MagnitudePruner(ConstantSparsity(0.5, begin_step=50))
    model = dense(10, 10)
    generator = (batch for batch, _ in zip(endless(), range(3)))
    with pytest.warns(UserWarning, match="nothing was pruned"):
        model.fit(generator, verbose=0, callbacks=[pruner])


@pytest.mark.parametrize("step", [4, 8])
def test_an_update_due_at_the_end_of_an_epoch_of_unknown_length_is_made(step):
    def batches_of_an_epoch():
        for _ in range(4):
            yield np.ones((8, 10), "float32"), np.ones((8, 10), "float32")

    from keras_app.experiments.data.loading import import_tensorflow

    tf = import_tensorflow()
    spec = tf.TensorSpec((8, 10), "float32")
    data = tf.data.Dataset.from_generator(
        batches_of_an_epoch, output_signature=(spec, spec)
    )
    model = dense(10, 10)
    pruner = pruners.MagnitudePruner(OneShot(0.75, step=step))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        warnings.filterwarnings("error", message="MagnitudePruner")
        model.fit(data, epochs=3, verbose=0, callbacks=[pruner])
    assert zeros(weights(model)["dense/kernel"]) == 75


def test_a_second_fit_goes_on_where_the_first_stopped():
    schedule = PolynomialDecay(0.1, 0.8, 0, 8, frequency=1)
    pruner = Logged(schedule, on_miss="ignore")
    model = dense(10, 10)
    train(model, pruner)
    assert zeros(pruner.masks["dense/kernel"]) == int(schedule(4)[1] * 100)
    train(model, pruner)
    # Step 4 falls due after the first fit and again before the second.
    assert sorted(set(pruner.log)) == at(schedule, *range(9))
    assert zeros(weights(model)["dense/kernel"]) == 80


def test_another_pruner_continues_with_the_masks_of_the_first():
    model = dense(10, 10)
    first = pruners.RandomPruner(OneShot(0.4))
    train(model, first)
    old = first.masks["dense/kernel"]
    second = pruners.MagnitudePruner(OneShot(0.7, step=4))
    train(model, second)
    new = second.masks["dense/kernel"]
    assert not (new & ~old).any()
    assert zeros(new) == 70


def test_accumulated_gradients_count_as_one_step():
    # Eight batches are four updates.
    schedule = PolynomialDecay(0.1, 0.8, 0, 4, frequency=1)
    model = dense(10, 10)
    model.compile(
        keras.optimizers.SGD(0.01, gradient_accumulation_steps=2), "mse"
    )
    pruner = Logged(schedule)
    train(model, pruner, epochs=2)
    assert pruner.log == at(schedule, 0, 1, 2, 3, 4)
    assert zeros(weights(model)["dense/kernel"]) == 80


def test_a_fit_may_end_within_an_accumulation():
    # Three batches a fit are three halves of an update.
    schedule = PolynomialDecay(0.1, 0.8, 0, 6, frequency=1)
    model = dense(10, 10)
    optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=2)
    model.compile(optimizer, "mse")
    pruner = Logged(schedule, on_miss="ignore")
    before = []

    class Batches(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            before.append(len(pruner.log))

    for _ in range(2):
        train(model, pruner, size=24, callbacks=[Batches()])
    # At batches 0, 2 and 4, and once more where the second fit goes on.
    assert pruner.log == at(schedule, 0, 1, 1, 2, 3)
    assert before == [1, 1, 2, 3, 4, 4]


def test_accumulated_gradients_count_in_the_refusal_too():
    model = dense(10, 10)
    model.compile(
        keras.optimizers.SGD(0.01, gradient_accumulation_steps=2), "mse"
    )
    pruner = Logged(PolynomialDecay(0.1, 0.8, 0, 5))
    with pytest.raises(ValueError, match="step 4"):
        train(model, pruner, epochs=2)


@pytest.mark.skipif(
    BACKEND == "torch", reason="Keras runs single steps on PyTorch"
)
def test_several_steps_per_execution_are_noted_and_reach_the_end():
    schedule = PolynomialDecay(0.1, 0.8, 0, 7, frequency=1)
    model = dense(10, 10, steps_per_execution=4)
    pruner = Logged(schedule)
    train(model, pruner, epochs=2)
    assert "steps_per_execution=4" in str(pruner.report)
    # Before steps 0 and 4; the last is made up for at the end.
    assert pruner.log == at(schedule, 0, 4, 7)
    assert zeros(weights(model)["dense/kernel"]) == 80


def test_the_sparsity_is_logged_each_epoch():
    schedule = PolynomialDecay(0.0, 0.8, 0, 8, power=1, frequency=4)
    history = train(dense(10, 10), pruners.MagnitudePruner(schedule), epochs=3)
    # After 4, 8 and 12 steps; step 4 prunes when the second epoch begins.
    assert history.history["sparsity"] == pytest.approx([0.0, 0.4, 0.8])


def test_pruned_weights_stay_zero_in_every_epoch():
    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if BACKEND == "jax":
                self.model.jax_state_sync()
            kernel = weights(self.model)["dense/kernel"]
            assert zeros(kernel) == 50

    watch = Watch()
    train(
        dense(10, 10),
        pruners.MagnitudePruner(OneShot(0.5)),
        2,
        callbacks=[watch],
    )


# ---- schedules of others -----------------------------------------------


class OfTfmot:
    """Answers as tfmot does: NumPy scalars of single precision, no end."""

    def __call__(self, step):
        return np.bool_(step == 0), np.float32(0.9)


class Scalar:
    """An eager tensor, as far as a schedule shows it."""

    def __init__(self, value):
        self.value = value

    def numpy(self):
        return self.value

    def __bool__(self):
        return bool(self.value)


class OfTensors:
    def __call__(self, step):
        return Scalar(np.bool_(step == 0)), Scalar(np.float32(0.9))


@pytest.mark.parametrize("schedule", [OfTfmot(), OfTensors()])
@pytest.mark.filterwarnings("error::UserWarning")
def test_schedules_of_tfmot_prune_what_they_say(schedule):
    # In single precision 0.9 of 1000 would be 899.
    model = dense(100, 10)
    pruner = pruners.MagnitudePruner(schedule)
    train(model, pruner, size=8)
    assert zeros(weights(model)["dense/kernel"]) == 900
    assert pruner.report.sparsity == pytest.approx(0.9)


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_end_of_a_tfmot_schedule_is_known():
    class Decay(OfTfmot):
        begin_step, end_step, frequency = 0, 7, 3

        def __call__(self, step):
            due = step <= 7 and step % 3 == 0
            return np.bool_(due), np.float32(min(step, 7) / 10)

    pruner = Logged(Decay())
    train(dense(10, 10), pruner, epochs=2)
    assert pruner.log == [0.0, 0.3, 0.6, 0.7]
