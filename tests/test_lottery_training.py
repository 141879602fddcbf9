"""The tracker inside `fit`, and rewinding: what needs a model."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_app import enforcement
from keras_app.experiments import data as data_lib
from keras_app.lottery import forgetting_counts
from keras_app.lottery import ForgettingTracker
from keras_app.lottery import rewind
from keras_app.lottery import snapshot
from keras_app.pruners import MagnitudePruner
from keras_app.schedules import OneShot
from tests.helpers import run
from tests.helpers import RUNNER

BACKEND = keras.backend.backend()

only_torch_cannot = pytest.mark.skipif(
    BACKEND == "torch", reason="Keras has no steps_per_execution there"
)


class Reverse(layers.Layer):
    """Reverses its input, in training mode only."""

    def call(self, x, training=False):
        return ops.flip(x, axis=-1) if training else x


def still(*stack, loss="sparse_categorical_crossentropy", **arguments):
    """A compiled model that never changes its weights."""
    model = keras.Sequential([keras.Input((3,)), *stack])
    model.compile(keras.optimizers.SGD(0.0), loss, **arguments)
    return model


def identity(**arguments):
    """A dense layer that begins, and with `still` stays, as the identity."""
    return layers.Dense(3, kernel_initializer="identity", **arguments)


def logits():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def examples(count, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((count, 3)).astype("float32")
    return x, generator.integers(0, 3, count)


def fit(model, x, y, ids, *callbacks, **arguments):
    arguments = {"batch_size": 5, "verbose": 0, **arguments}
    return model.fit(x, y, sample_weight=ids, callbacks=callbacks, **arguments)


def placed(outcomes, ids, num_examples):
    """A column of the history: `outcomes` at `ids`, -1 elsewhere."""
    column = np.full(num_examples, -1)
    column[ids] = outcomes
    return column


# ---- what is recorded --------------------------------------------------


def softmax_regression(x, y, epochs, learning_rate):
    """NumPy SGD on batches of 5 in order; the history it should leave."""
    w, history = np.zeros((3, 3)), []
    for _ in range(epochs):
        outcomes = []
        for start in range(0, len(x), 5):
            batch, labels = x[start : start + 5], y[start : start + 5]
            z = batch @ w
            outcomes += list(np.argmax(z, -1) == labels)
            p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
            w -= learning_rate * batch.T @ (p - np.eye(3)[labels]) / len(batch)
        history.append(outcomes)
    return np.array(history, int).T


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({}, id="plain"),
        pytest.param(
            {"steps_per_execution": 2},
            id="steps_per_execution",
            marks=only_torch_cannot,
        ),
        pytest.param(
            {"jit_compile": True},
            id="jit_compile",
            marks=pytest.mark.skipif(
                BACKEND != "tensorflow", reason="slow, or as plain"
            ),
        ),
    ],
)
def test_the_prediction_before_each_update_is_recorded(arguments):
    # 13 examples, so that the last batch holds 3.
    x, y = examples(13)
    ids = np.random.default_rng(1).permutation(20)[:13]
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(3, use_bias=False, kernel_initializer="zeros"),
        ]
    )
    model.compile(keras.optimizers.SGD(1.0), logits(), **arguments)
    tracker = ForgettingTracker(20)
    assert tracker.history.shape == (20, 0)
    fit(model, x, y, ids, tracker, epochs=6, shuffle=False)
    outcomes = softmax_regression(x, y, 6, 1.0)
    expected = np.full((20, 6), -1)
    expected[ids] = outcomes
    assert tracker.history.dtype == np.int8
    np.testing.assert_array_equal(tracker.history, expected)
    # The case is worth something: some examples are forgotten.
    counts = forgetting_counts(expected)
    assert counts.max() > 0
    np.testing.assert_array_equal(tracker.counts, counts)


def test_training_mode_counts_and_order_does_not():
    model = still(identity(), Reverse(), loss=logits())
    x, y = examples(23)
    ids = np.random.default_rng(1).permutation(40)[:23]
    right = np.argmax(x[:, ::-1], -1) == y
    assert (right != (np.argmax(x, -1) == y)).any()
    tracker = ForgettingTracker(40)
    fit(model, x, y, ids, tracker, epochs=2, shuffle=True)
    column = placed(right, ids, 40)
    np.testing.assert_array_equal(tracker.history, np.stack([column] * 2, 1))


def test_batch_statistics_are_those_of_the_batch():
    model = still(identity(), layers.BatchNormalization(), loss=logits())
    x, y = examples(14)
    x *= [1.0, 5.0, 0.2]
    normalized = [
        (b - b.mean(0)) / np.sqrt(b.var(0) + 1e-3)
        for b in (x[:5], x[5:10], x[10:])
    ]
    right = np.argmax(np.concatenate(normalized), -1) == y
    assert (right != (np.argmax(x, -1) == y)).any()
    tracker = ForgettingTracker(14)
    fit(model, x, y, np.arange(14), tracker, shuffle=False)
    np.testing.assert_array_equal(tracker.history[:, 0], right)


def bce(**arguments):
    return keras.losses.BinaryCrossentropy(**arguments)


UNIT = np.linspace(-1, 2, 12).astype("float32")


@pytest.mark.parametrize(
    "stack, loss, threshold, label, positive",
    [
        pytest.param(
            ["sigmoid"], "binary_crossentropy", None, np.int64, UNIT > 0
        ),
        pytest.param([], bce(from_logits=True), None, np.float32, UNIT > 0),
        pytest.param([], bce(), None, bool, UNIT > 0.5),
        pytest.param([], "mse", 1.0, np.uint8, UNIT > 1),
        pytest.param(
            [],
            keras.losses.binary_crossentropy,
            None,
            lambda y: y.astype("float32")[:, None],
            UNIT > 0.5,
        ),
    ],
    ids=["sigmoid", "logits", "probabilities", "threshold", "column"],
)
def test_a_single_unit_is_compared_with_the_threshold_of_its_loss(
    stack, loss, threshold, label, positive
):
    unit = layers.Dense(1, *stack, kernel_initializer="ones")
    model = still(unit, loss=loss)
    x = np.stack([UNIT, 0 * UNIT, 0 * UNIT], 1)
    y = np.random.default_rng(0).integers(0, 2, 12)
    y_true = y.astype(label) if isinstance(label, type) else label(y)
    tracker = ForgettingTracker(12, threshold=threshold)
    fit(model, x, y_true, np.arange(12), tracker)
    np.testing.assert_array_equal(tracker.history[:, 0], positive == y)


@pytest.mark.parametrize(
    "loss, label",
    [
        ("sparse_categorical_crossentropy", lambda y: y[:, None]),
        ("sparse_categorical_crossentropy", lambda y: y.astype("float32")),
        ("categorical_crossentropy", lambda y: np.eye(3)[y]),
        ("categorical_crossentropy", lambda y: 0.8 * np.eye(3)[y] + 0.1),
    ],
    ids=["column", "floats", "one_hot", "smoothed"],
)
def test_labels_may_be_classes_or_one_hot(loss, label):
    model = still(identity(activation="softmax"), loss=loss)
    x, y = examples(12)
    tracker = ForgettingTracker(12)
    fit(model, x, label(y), np.arange(12)[:, None], tracker)
    np.testing.assert_array_equal(tracker.history[:, 0], np.argmax(x, -1) == y)


def test_megabatches_bring_their_ids():
    x, y = examples(60)
    parts = data_lib.Megabatches((x, y), 2, batch_size=8, with_ids=True)
    part = parts[1]
    model = still(identity(), loss=logits())
    tracker = ForgettingTracker(60)
    history = model.fit(
        part.epochs(0, 2),
        epochs=2,
        steps_per_epoch=part.steps_per_epoch,
        validation_data=part.validation,
        callbacks=[tracker],
        verbose=0,
    )
    ids = part.train_ids
    column = placed((np.argmax(x, -1) == y)[ids], ids, 60)
    np.testing.assert_array_equal(tracker.history, np.stack([column] * 2, 1))
    assert (tracker.history[part.validation_ids] == -1).all()
    # The ids of validation batches are no weights of their losses.
    held = part.validation_ids
    loss = model.evaluate(x[held], y[held], verbose=0)
    np.testing.assert_allclose(history.history["val_loss"], loss, rtol=1e-5)


# ---- what is left as it was --------------------------------------------


def dropping():
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(8, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(3),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        logits(),
        metrics=["accuracy"],
        weighted_metrics=["accuracy"],
    )
    return model


def test_training_and_logs_are_as_without_the_tracker():
    x, y = examples(24)
    arguments = {"epochs": 2, "validation_split": 0.25, "shuffle": True}
    plain = dropping()
    expected = plain.fit(x, y, batch_size=5, verbose=0, **arguments)
    tracked, tracker = dropping(), ForgettingTracker(24)
    found = fit(tracked, x, y, np.arange(24), tracker, **arguments)
    assert list(found.history) == list(expected.history)
    for name, values in expected.history.items():
        np.testing.assert_allclose(found.history[name], values, rtol=1e-6)
    for a, b in zip(tracked.get_weights(), plain.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    # The last quarter was validated on.
    assert (tracker.history[18:] == -1).all()
    # On line, accuracy is the mean of what was recorded.
    means = (tracker.history[:18] == 1).mean(0)
    np.testing.assert_allclose(found.history["accuracy"], means, rtol=1e-6)


def test_the_model_is_its_own_after_training(tmp_path):
    model = dropping()
    metrics = model.metrics_names
    x, y = examples(12)
    path = str(tmp_path / "model.keras")
    fit(
        model,
        x,
        y,
        np.arange(12),
        ForgettingTracker(12),
        keras.callbacks.ModelCheckpoint(path),
    )
    assert model.metrics_names == metrics
    wrapped = {"train_step", "test_step", "compute_metrics"}
    assert not wrapped & set(model.__dict__)
    # Saved while it was tracked; loads, and trains without ids.
    for each in (keras.models.load_model(path), model):
        each.fit(x, y, sample_weight=np.ones(12), verbose=0)


def test_it_tracks_beside_a_pruner_and_a_moving_average():
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(8), layers.Dense(3)]
    )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True), logits()
    )
    x, y = examples(12)
    tracker = ForgettingTracker(12)
    pruner = MagnitudePruner(OneShot(0.5, step=1))
    for order in ([tracker, pruner], [pruner, tracker]):
        fit(model, x, y, np.arange(12), *order, epochs=2)
    assert tracker.history.shape == (12, 4)
    assert (tracker.history >= 0).all()
    masks = enforcement.masks_of(model)
    for path, kernel in snapshot(model).items():
        if path in masks:
            assert not kernel[~masks[path]].any()


# ---- rounds, interruptions, states -------------------------------------


def test_epochs_add_up_until_a_new_round_begins():
    model = still(identity(), loss=logits())
    x, y = examples(10)
    tracker = ForgettingTracker(10)
    fit(model, x, y, np.arange(10), tracker, epochs=2)
    fit(model, x[:6], y[:6], np.arange(6), tracker)
    assert tracker.history.shape == (10, 3)
    assert (tracker.history[6:, 2] == -1).all()
    assert (tracker.history[:, :2] >= 0).all()
    # A new round: another optimizer, other examples.
    tracker.reset()
    model.compile(keras.optimizers.SGD(0.0), logits())
    fit(model, x[4:], y[4:], np.arange(4, 10), tracker)
    column = placed((np.argmax(x, -1) == y)[4:], np.arange(4, 10), 10)
    np.testing.assert_array_equal(tracker.history, column[:, None])


def test_a_stopped_run_goes_on_with_the_history_as_it_was():
    model = still(identity(), loss=logits())
    x, y = examples(11)
    first, second = ForgettingTracker(13), ForgettingTracker(13)
    fit(model, x, y, np.arange(11), first, epochs=2)
    plain, arrays = first.state()
    second.restore(json.loads(json.dumps(plain)), arrays)
    assert second.history.dtype == np.int8
    np.testing.assert_array_equal(second.history, first.history)
    fit(model, x, y, np.arange(11), second, initial_epoch=2, epochs=3)
    assert second.history.shape == (13, 3)
    with pytest.raises(ValueError, match="num_examples=12. Received: 13"):
        ForgettingTracker(12).restore(*first.state())


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2:
            raise KeyboardInterrupt


def test_an_interrupted_fit_leaves_nothing_that_a_next_one_records():
    model = still(identity(), loss=logits())
    x, y = examples(15)
    tracker = ForgettingTracker(15)
    with pytest.raises(KeyboardInterrupt):
        fit(model, x, y, np.arange(15), tracker, Interrupt())
    assert tracker.history.shape == (15, 0)
    # Nobody said that it is over: training without ids says what to do.
    with pytest.raises(ValueError, match="call its `detach"):
        model.fit(x, y, verbose=0)
    other = ForgettingTracker(15)
    fit(model, x, y, np.arange(15), other)
    np.testing.assert_array_equal(other.history[:, 0], np.argmax(x, -1) == y)
    with pytest.raises(KeyboardInterrupt):
        fit(model, x, y, np.arange(15), tracker, Interrupt())
    tracker.detach()
    model.fit(x, y, verbose=0)


def test_the_tracker_round_trips_through_its_config():
    tracker = ForgettingTracker(7, threshold=0.25)
    stored = keras.saving.serialize_keras_object(tracker)
    again = keras.saving.deserialize_keras_object(stored)
    assert again.get_config() == {"num_examples": 7, "threshold": 0.25}


# ---- what is refused ---------------------------------------------------


def fails(model, x, y, ids, *said, num_examples=12, **arguments):
    """Asserts one ValueError, and that the model is free again or says so."""
    tracker = ForgettingTracker(num_examples)
    with pytest.raises(ValueError) as caught:
        fit(model, x, y, ids, tracker, **arguments)
    for words in said:
        assert words in str(caught.value), str(caught.value)
    assert tracker.history.shape[1] == 0


def test_batches_without_ids_are_refused_before_training():
    model = dropping()
    before = model.get_weights()
    x, y = examples(12)
    fails(model, x, y, None, "(x, y, ids)", "NoneType as ids")
    fails(model, x, y, np.ones(12), "float32 of shape")
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("bad", [-1, 12, 2**31 - 1])
def test_ids_out_of_range_are_refused(bad):
    model = still(identity(), loss=logits())
    ids = np.arange(12)
    ids[4] = bad
    fails(model, *examples(12), ids, "num_examples=12", "epoch 0")
    assert model.train_function is None


@pytest.mark.parametrize("twin", [3, 9], ids=["same_batch", "other_batch"])
def test_an_id_that_comes_twice_in_an_epoch_is_refused(twin):
    model = still(identity(), loss=logits())
    ids = np.arange(12)
    ids[twin] = 1
    fails(
        model,
        *examples(12),
        ids,
        "12 examples with 11 different ids in epoch 0",
        shuffle=False,
    )


def test_outputs_that_name_no_class_are_refused():
    x, y = examples(12)
    ids = np.arange(12)
    grid = still(identity(), layers.RepeatVector(2), loss=logits())
    fails(
        grid, x, np.stack([y, y], 1), ids, "one output", "2, 3)", batch_size=2
    )
    # Nobody knows where this loss would put the border.
    unit = still(layers.Dense(1), loss="mse")
    fails(unit, x, y, ids, "`threshold` must be given")
    unit = still(layers.Dense(1), loss=lambda y, z: ops.mean((y - z) ** 2))
    fails(unit, x, y, ids, "`threshold` must be given")
    inputs = keras.Input((3,))
    double = keras.Model(inputs, [layers.Dense(3)(inputs)] * 2)
    double.compile("sgd", [logits(), logits()])
    with pytest.raises(ValueError):
        fit(double, x, [y, y], ids, ForgettingTracker(12))


def test_two_trackers_in_a_fit_are_refused():
    model = still(identity(), loss=logits())
    trackers = ForgettingTracker(12), ForgettingTracker(12)
    with pytest.raises(ValueError, match="at most one ForgettingTracker"):
        fit(model, *examples(12), np.arange(12), *trackers)


@pytest.mark.skipif(BACKEND != "torch", reason="a training step of its own")
def test_a_training_step_of_ones_own_must_call_compute_metrics():
    class Own(keras.Sequential):
        def train_step(self, data):
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            if self.follows_the_guide:
                for metric in self.metrics:
                    if metric.name == "loss":
                        metric.update_state(loss)
                    else:
                        metric.update_state(y, self(x, training=True))
            return {"loss": loss}

    x, y = examples(12)
    for follows in (True, False):
        model = Own([keras.Input((3,)), identity()])
        model.follows_the_guide = follows
        model.compile("sgd", logits())
        if not follows:
            fails(model, x, y, np.arange(12), "`compute_metrics`")
            continue
        tracker = ForgettingTracker(12)
        fit(model, x, y, np.arange(12), tracker)
        right = np.argmax(x, -1) == y
        np.testing.assert_array_equal(tracker.history[:, 0], right)


def test_strategies_that_cannot_be_followed_are_refused():
    class MultiWorkerMirroredStrategy:
        num_replicas_in_sync = 2

    class Elsewhere:
        distribute_strategy = MultiWorkerMirroredStrategy()

    with pytest.raises(ValueError) as caught:
        ForgettingTracker(12).set_model(Elsewhere())
    assert "under MultiWorkerMirroredStrategy" in str(caught.value)
    assert "`keras.distribution`" in str(caught.value)


# ---- distribution ------------------------------------------------------

TRACK = """
    def track(steps_per_execution=1):
        x, y = tests.examples(24)
        ids = np.random.default_rng(1).permutation(30)[:24]
        model = tests.still(
            tests.identity(), tests.Reverse(), loss=tests.logits(),
            steps_per_execution=steps_per_execution)
        tracker = ForgettingTracker(30)
        tests.fit(model, x, y, ids, tracker, epochs=2, batch_size=8,
                  validation_data=(x, y, ids))
        right = np.argmax(x[:, ::-1], -1) == y
        column = tests.placed(right, ids, 30)
        np.testing.assert_array_equal(
            tracker.history, np.stack([column] * 2, 1))
        return model
"""

MIRRORED = (
    """
    import numpy as np
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    import keras
    from keras_app.lottery import ForgettingTracker
    from tests import test_lottery_training as tests
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
"""
    + TRACK
    + """
    def together():
        with strategy.scope():
            x, y = tests.examples(23)
            model = tests.dropping()
        tracker = ForgettingTracker(23)
        found = tests.fit(
            model, x, y, np.arange(23), tracker, epochs=3, batch_size=8)
        # The last batch holds 7 examples: shares differ.
        means = (tracker.history == 1).mean(0)
        np.testing.assert_allclose(
            found.history["accuracy"], means, rtol=1e-6)

    def order():
        with strategy.scope():
            track()
    cases = {"order": order, "together": together}
"""
    + RUNNER
)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a TensorFlow strategy")
def test_mirrored_replicas_record_their_own_examples():
    results = json.loads(run(MIRRORED)[-1])
    assert results == {"order": "ok", "together": "ok"}, results


MESH = (
    """
    import jax
    import keras
    import numpy as np
    from keras_app.lottery import ForgettingTracker
    from tests import test_lottery_training as tests
    names = keras.distribution.list_devices()
    assert len(names) == 4, names
"""
    + TRACK
    + """
    def data():
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=names))
        model = track()
        assert len(model.layers[0].kernel.value.sharding.device_set) == 4

    def steps():
        track(steps_per_execution=2)

    def model():
        mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"], names)
        layouts = keras.distribution.LayoutMap(mesh)
        keras.distribution.set_distribution(keras.distribution.ModelParallel(
            layout_map=layouts, batch_dim_name="batch"))
        track()
    cases = {"data": data, "steps": steps, "model": model}
"""
    + RUNNER
)


@pytest.mark.skipif(BACKEND != "jax", reason="a JAX mesh")
def test_a_mesh_records_the_examples_of_all_devices():
    flags = "--xla_force_host_platform_device_count=4"
    results = json.loads(run(MESH, XLA_FLAGS=flags)[-1])
    assert results == {"data": "ok", "steps": "ok", "model": "ok"}, results


# ---- rewinding ---------------------------------------------------------


def network(scale=1):
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4 * scale, 3, name="conv1"),
            layers.BatchNormalization(),
            layers.Conv2D(6, 3, name="conv2"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(5, name="fc"),
        ]
    )


def shaken(model, seed=0):
    generator = np.random.default_rng(seed)
    model.set_weights([generator.random(w.shape) for w in model.get_weights()])
    return model


def test_a_snapshot_holds_weights_and_statistics_but_no_seeds():
    model = shaken(network())
    taken = snapshot(model)
    assert len(taken) == len(model.get_weights()) == 10
    assert sum("moving" in path for path in taken) == 2
    for array, value in zip(taken.values(), model.get_weights()):
        np.testing.assert_array_equal(array, value)


def test_rewinding_brings_everything_back_again_and_again():
    model = network()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), logits())
    generator = np.random.default_rng(0)
    x = generator.random((8, 6, 6, 3)).astype("float32")
    y = generator.integers(0, 5, 8)
    start = snapshot(model)
    copies = {path: array.copy() for path, array in start.items()}
    for _ in range(2):
        model.fit(x, y, verbose=0)
        moved = snapshot(model)
        for path, array in start.items():
            assert (moved[path] != array).any() or not array.size
        rewind(model, start)
        for path, array in snapshot(model).items():
            np.testing.assert_array_equal(array, copies[path])
            np.testing.assert_array_equal(start[path], copies[path])


def test_a_snapshot_of_an_epoch_is_the_state_at_its_end():
    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                self.taken = snapshot(self.model)

    x, y = examples(12)
    keep = Keep()
    arguments = {"batch_size": 5, "shuffle": False, "verbose": 0}
    whole = dropping()
    whole.fit(x, y, epochs=2, callbacks=[keep], **arguments)
    half = dropping()
    half.fit(x, y, epochs=1, **arguments)
    rewind(whole, keep.taken)
    for a, b in zip(whole.get_weights(), half.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["lt", "rewind_lt", "pt"])
def test_recorded_rounds_rewind_to_the_recorded_weights(golden, kind):
    data = golden("prac/imp_rounds.npz")
    base = {"lt": "init", "rewind_lt": "rewind", "pt": "pt.base"}[kind]
    model = network()
    model.compile("sgd", logits())
    kernels = {
        name: model.get_layer(name).kernel for name in ("conv1", "conv2")
    }
    for name, kernel in kernels.items():
        kernel.assign(data[f"{base}.{name}"])
    fc = model.get_layer("fc").kernel
    if kind != "pt":
        fc.assign(data[f"{base}.fc"])
    start = snapshot(model)
    for level in range(3):
        case = f"{kind}.r{level}"
        fc.assign(data[f"{case}.trained.fc"])
        for name, kernel in kernels.items():
            kernel.assign(data[f"{case}.trained.{name}"])
        state = enforcement.attach(model, list(kernels.values()))
        state.set(
            [(k, data[f"{case}.mask_after.{n}"]) for n, k in kernels.items()]
        )
        rewind(model, start)
        for name, kernel in kernels.items():
            np.testing.assert_array_equal(
                ops.convert_to_numpy(kernel),
                data[f"{case}.weight_after.{name}"],
            )
        assert state.leaks() == {}
        if kind != "pt":
            np.testing.assert_array_equal(
                ops.convert_to_numpy(fc), data[f"{base}.fc"]
            )


def test_a_model_that_is_built_again_matches_by_order():
    first, second = shaken(network(), 1), shaken(network(), 2)
    rewind(second, snapshot(first))
    for a, b in zip(first.get_weights(), second.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda taken: snapshot(network(2)), "weight 0 a kernel of shape (3"),
        (lambda taken: dict(list(taken.items())[:-1]), "9 weights for a"),
        (lambda taken: dict(reversed(taken.items())), "weight 0 a bias"),
        (lambda taken: list(taken.values()), "list"),
    ],
    ids=["wider", "shorter", "reversed", "list"],
)
def test_a_snapshot_of_another_architecture_is_refused(change, said):
    model = shaken(network())
    before = model.get_weights()
    with pytest.raises(ValueError) as caught:
        rewind(model, change(snapshot(model)))
    assert "`snapshot` must be" in str(caught.value)
    assert said in str(caught.value)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_a_model_without_weights_yet_is_refused():
    with pytest.raises(ValueError, match="must be built"):
        snapshot(keras.Sequential([layers.Dense(2)]))
