"""Tests of tfmot's API in trainings, and what is said where nothing happens."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_app import masks_of
from keras_app.compat import tfmot
from keras_app.compat.tfmot import ConstantSparsity
from keras_app.compat.tfmot import PolynomialDecay
from keras_app.compat.tfmot import prune_low_magnitude
from keras_app.compat.tfmot import PruningSummaries
from keras_app.compat.tfmot import strip_pruning
from keras_app.compat.tfmot import UpdatePruningStep
from keras_app.pruners.pruner import PruningMissed
from tests.helpers import zeros
from tests.models import chain
from tests.tfmot import compiled
from tests.tfmot import dense
from tests.tfmot import Own
from tests.tfmot import pruned_now
from tests.tfmot import train
from tests.tfmot import two
from tests.tfmot import W64
from tests.tfmot import Watch

# ---- time ----------------------------------------------------------------


def test_masks_change_when_the_schedule_says_so_and_never_after_its_end():
    schedule = PolynomialDecay(0.0, 0.75, 0, 6, power=1, frequency=2)
    model = prune_low_magnitude(dense(W64), schedule)
    watch = Watch()
    train(model, UpdatePruningStep(), watch, steps=5, epochs=2)
    # tfmot 0.8.1, which counts from 1, has these numbers one batch earlier.
    zeros_seen = [count for [count] in watch.seen]
    assert zeros_seen == [0, 0, 6, 6, 12, 12, 18, 18, 18, 18]
    masks = [found["d/kernel"] for found in watch.masks]
    for old, new in zip(masks, masks[1:]):
        assert not (new & ~old).any()
    for last in masks[6:]:
        np.testing.assert_array_equal(last, masks[6])
    assert zeros(model.get_layer("d").kernel) == 18


def test_a_training_shorter_than_the_frequency_is_pruned():
    # With tfmot nothing happens before step 100.
    model = prune_low_magnitude(dense(W64))
    train(model, UpdatePruningStep(), steps=1)
    assert zeros(model.get_layer("d").kernel) == 12


def decay():
    return PolynomialDecay(0.0, 0.75, 0, 6, power=1, frequency=2)


def test_stop_and_restart_equals_going_on(tmp_path):
    straight = prune_low_magnitude(dense(W64), decay())
    train(straight, UpdatePruningStep(), steps=4, epochs=2)
    model = prune_low_magnitude(dense(W64), decay())
    train(model, UpdatePruningStep("ignore"), steps=4)
    assert zeros(model.get_layer("d").kernel) == 12
    model.save(tmp_path / "model.keras")
    with tfmot.prune_scope():
        model = keras.saving.load_model(tmp_path / "model.keras")
    assert zeros(model.get_layer("d").kernel) == 12
    prune_low_magnitude(model, decay())
    watch = Watch()
    train(model, UpdatePruningStep(), watch, steps=4)
    assert watch.seen == [[12], [12], [18], [18]]
    for new, old in zip(
        model.get_weights(), straight.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(new, old)


def test_a_second_fit_goes_on_with_another_callback():
    model = prune_low_magnitude(dense(W64), decay())
    first, second = UpdatePruningStep("ignore"), UpdatePruningStep()
    train(model, first, steps=4)
    watch = Watch()
    train(model, second, watch, steps=4)
    assert watch.seen == [[12], [12], [18], [18]]


@pytest.mark.filterwarnings("error::UserWarning")
def test_compiling_again_keeps_masks_and_steps():
    model = prune_low_magnitude(dense(W64), decay())
    prune_low_magnitude(model.get_layer("d"), decay())
    train(model, UpdatePruningStep("ignore"), steps=4)
    for _ in range(2):
        compiled(model)
        before = ops.convert_to_numpy(model.get_layer("d").kernel) != 0
        watch = Watch()
        train(model, UpdatePruningStep(), watch, steps=2, epochs=2)
        assert not (watch.masks[0]["d/kernel"] & ~before).any()
        assert watch.seen[2:] == [[18], [18]]
    assert watch.seen[:2] == [[18], [18]]


def test_compiling_again_around_the_same_optimizer_counts_its_steps_once():
    # As it is with mixed precision.
    inner = keras.optimizers.SGD(0.001)
    model = prune_low_magnitude(dense(W64), decay())
    step, watch = UpdatePruningStep("ignore"), Watch()
    for _ in range(2):
        model.compile(keras.optimizers.LossScaleOptimizer(inner), "mse")
        train(model, step, watch, steps=3)
    assert watch.seen == [[0], [0], [6], [6], [12], [12]]


def test_a_weights_only_checkpoint_goes_on_in_a_built_optimizer(tmp_path):
    model = prune_low_magnitude(dense(W64), decay())
    train(model, UpdatePruningStep("ignore"), steps=4)
    model.save_weights(tmp_path / "model.weights.h5")
    model = prune_low_magnitude(dense(W64), decay())
    model.optimizer.build(model.trainable_variables)
    model.load_weights(tmp_path / "model.weights.h5")
    watch = Watch()
    train(model, UpdatePruningStep(), watch, steps=4)
    assert watch.seen == [[12], [12], [18], [18]]


def test_compiling_before_marking():
    model = two()
    prune_low_magnitude(model)
    train(model, UpdatePruningStep())
    assert zeros(model.get_layer("a").kernel) == 12


def test_a_schedule_past_the_end_warns_before_and_after():
    model = prune_low_magnitude(dense(W64), decay())
    with pytest.warns(UserWarning) as caught:
        train(model, UpdatePruningStep(), steps=4)
    said = [str(each.message) for each in caught]
    assert any(
        "ends at step 6, but this training stops after step 4" in text
        for text in said
    )
    assert any(
        "PruneLowMagnitude: training ended at sparsity 0.5000 of the "
        "schedule's 0.7500" in text
        for text in said
    )


def test_a_schedule_past_the_end_is_refused_if_asked_to():
    model = prune_low_magnitude(dense(W64), decay())
    with pytest.raises(ValueError, match="ends at step 6.*after step 4"):
        train(model, UpdatePruningStep(on_miss="raise"), steps=4)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    with pytest.raises(PruningMissed, match="0.5000 of the schedule's 0.7500"):
        train(model, UpdatePruningStep("raise"), Stop(), steps=4, epochs=2)


def test_a_schedule_that_is_over_already_is_refused():
    # Compiling starts the count anew, as long as nothing is pruned.
    model = dense(W64)
    train(model, steps=8)
    prune_low_magnitude(model, decay())
    with pytest.raises(ValueError, match="ended at step 6.*at step 8 already"):
        train(model, UpdatePruningStep(), steps=4)
    compiled(model)
    train(model, UpdatePruningStep(), steps=7)
    assert zeros(model.get_layer("d").kernel) == 18


@pytest.mark.filterwarnings("error::UserWarning")
def test_what_is_missed_can_be_ignored():
    model = prune_low_magnitude(dense(W64), decay())
    step = UpdatePruningStep(on_miss="ignore")
    train(model, step, steps=4)
    # Silent, and as far as the schedule had come.
    assert 0 < zeros(model.get_layer("d").kernel) < 18


# ---- defects of tfmot ----------------------------------------------------


def test_equal_weights_reach_the_target():
    # tfmot keeps all of them.
    model = prune_low_magnitude(dense(np.full((4, 5), 0.3)))
    assert zeros(pruned_now(model)["d/kernel"]) == 10


def test_a_kernel_95_percent_zero_stays_half_zero():
    # tfmot's mask keeps everything, and the zeros are trained away.
    values = np.zeros(40)
    values[::20] = 1.0, 2.0
    model = prune_low_magnitude(dense(values.reshape(8, 5)))
    train(model, UpdatePruningStep())
    mask = masks_of(model)["d/kernel"].ravel()
    assert zeros(mask) == 20
    assert mask[::20].all()
    assert zeros(model.get_layer("d").kernel) == 20


@pytest.mark.parametrize("marked", ["one", "other"])
def test_tied_weights_are_pruned_once_whichever_owner_is_marked(marked):
    class Reader(layers.Layer):
        """Multiplies with the transposed kernel of another layer."""

        def __init__(self, source):
            super().__init__(name="reader")
            self.source = source

        def call(self, x):
            return ops.matmul(x, ops.transpose(self.source.kernel))

    class Tied(layers.Dense):
        def build(self, shape):
            self._kernel = one.kernel
            self.bias = self.add_weight(shape=(4,), name="bias")

    one, other = layers.Dense(4, name="one"), Tied(4, name="other")
    x = keras.Input((6,))
    hidden = one(x)
    model = keras.Model(x, other(Reader(one)(hidden)))
    prune_low_magnitude(model.get_layer(marked))
    compiled(model)
    train(model, UpdatePruningStep())
    assert [zeros(mask) for mask in masks_of(model).values()] == [12]
    assert zeros(one.kernel) == 12


def test_shared_layers_are_pruned_once():
    shared = prune_low_magnitude(layers.Dense(4, name="shared"))
    x = keras.Input((4,))
    model = compiled(keras.Model(x, shared(shared(x))))
    train(model, UpdatePruningStep())
    assert list(masks_of(model)) == ["shared/kernel"]
    assert zeros(shared.kernel) == 8


def test_checkpoints_of_every_epoch_hold_the_zeros(tmp_path):
    model = prune_low_magnitude(dense(W64))
    keep = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5")
    keep.save_weights_only = True
    train(model, keep, UpdatePruningStep(), epochs=2)
    for epoch in (1, 2):
        other = dense(np.ones((6, 4)))
        other.load_weights(tmp_path / f"{epoch}.weights.h5")
        assert zeros(other.get_layer("d").kernel) == 12


# ---- loud where nothing happens ------------------------------------------


def test_a_fit_of_a_model_without_marks_is_refused():
    with pytest.raises(ValueError, match="no layer of the model is marked"):
        train(two(), UpdatePruningStep())


def test_a_model_that_is_not_built_is_refused_with_the_way_out():
    model = prune_low_magnitude(keras.Sequential([layers.Dense(2)]))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Call it once on a batch"):
        UpdatePruningStep().set_model(model)


def test_marks_that_cover_nothing_prunable_are_refused():
    model = compiled(chain((4,), Own(name="own"), layers.ReLU()))
    with pytest.raises(ValueError, match="(?s)nothing to prune.*own/table"):
        train(prune_low_magnitude(model), UpdatePruningStep())


def test_a_layer_of_unknown_type_by_itself_is_refused():
    layer = Own(name="own")
    model = compiled(chain((4,), layer, layers.Dense(2)))
    with pytest.raises(ValueError, match="'own' of type Own.*unknown type"):
        prune_low_magnitude(layer)
    with pytest.raises(ValueError, match="no layer of the model is marked"):
        UpdatePruningStep().set_model(model)
    # One that is not built yet cannot be judged.
    layer = prune_low_magnitude(Own(name="own"))
    model = compiled(chain((4,), layer, layers.Dense(2)))
    with pytest.raises(ValueError, match="'own' of type Own.*unknown type"):
        UpdatePruningStep().set_model(prune_low_magnitude(model))


def test_layers_without_prunable_weights_may_be_marked():
    for layer in (
        layers.Dropout(0.1),
        layers.BatchNormalization(),
        layers.DepthwiseConv2D(2),
    ):
        layer.build((None, 4, 4, 3))
        assert prune_low_magnitude(layer) is layer


def test_strip_pruning_warns_where_the_callback_was_forgotten():
    model = prune_low_magnitude(two())
    train(model)
    with pytest.warns(UserWarning, match="a/kernel, b/kernel.*not one weight"):
        copy = strip_pruning(model)
    assert zeros(copy.get_layer("a").kernel) == 0


def test_strip_pruning_warns_where_zeros_were_trained_away():
    model = prune_low_magnitude(two())
    prune_low_magnitude(model.get_layer("b"), ConstantSparsity(0.0, 0))
    train(model, UpdatePruningStep())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        strip_pruning(model)  # "b" is dense as it was asked for
    # The optimizer that had the masks is gone.
    compiled(model)
    kernel = np.ones((6, 4))
    kernel[0, :3] = 0.0
    model.get_layer("a").kernel.assign(kernel)
    with pytest.warns(UserWarning) as caught:
        strip_pruning(model)
    [said] = [str(w.message) for w in caught if w.category is UserWarning]
    assert "a/kernel (3 zeros of 12): weights that were pruned" in said
    assert "b/kernel" not in said


def test_the_custom_loop_of_tfmot_is_refused_with_the_way_out():
    model = prune_low_magnitude(two())
    step = UpdatePruningStep()
    step.set_model(model)
    step.on_train_begin()
    with pytest.raises(ValueError, match="keras_app.pruners.CustomLoop"):
        step.on_train_batch_begin(batch=-1)


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_stripped_copy_has_no_marks_and_the_model_keeps_its_own():
    model = prune_low_magnitude(two())
    train(model, UpdatePruningStep())
    copy = compiled(strip_pruning(model))
    assert zeros(copy.get_layer("a").kernel) == 12
    with pytest.raises(ValueError, match="no layer of the model is marked"):
        UpdatePruningStep().set_model(copy)
    train(model, UpdatePruningStep())
    assert zeros(model.get_layer("a").kernel) == 12
    strip_pruning(two())  # never marked: nothing to say


def test_there_is_no_report_before_a_model():
    with pytest.raises(ValueError, match="no report before"):
        _ = UpdatePruningStep().report


# ---- summaries -----------------------------------------------------------


def events(log_dir):
    """`{tag: [(step, value)]}` of a folder."""
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    reader = event_accumulator.EventAccumulator(str(log_dir))
    reader.Reload()
    return {
        tag: [
            (event.step, float(tensor_util.make_ndarray(event.tensor_proto)))
            for event in reader.Tensors(tag)
        ]
        for tag in reader.Tags()["tensors"]
    }


@pytest.mark.parametrize(
    "update_freq, steps", [("epoch", [0, 3, 6]), (2, [0, 2, 4, 6])]
)
def test_summaries_hold_sparsity_and_threshold(tmp_path, update_freq, steps):
    model = prune_low_magnitude(dense(W64), ConstantSparsity(0.5, 3))
    model.optimizer.learning_rate = 0.0
    summaries = PruningSummaries(str(tmp_path), update_freq)
    train(model, UpdatePruningStep(), summaries, steps=3, epochs=2)
    found = events(tmp_path / "metrics")
    assert sorted(found) == ["d/kernel/sparsity", "d/kernel/threshold"]
    # An epoch begins before its first batch prunes.
    last_dense = 3
    expected = [(s, 0.0 if s <= last_dense else 0.5) for s in steps]
    assert found["d/kernel/sparsity"] == expected
    expected = [(s, 1.0 if s <= last_dense else 13.0) for s in steps]
    assert found["d/kernel/threshold"] == expected


def test_summaries_without_a_pruner_are_refused(tmp_path):
    model = prune_low_magnitude(two())
    with pytest.raises(ValueError, match="UpdatePruningStep"):
        train(model, PruningSummaries(tmp_path))
