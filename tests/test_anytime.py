"""The experiment: bookkeeping, baselines, roll-back, resume."""

import warnings

import keras
import numpy as np
import pytest

from keras_app.experiments import Anytime
from keras_app.experiments.callbacks import BestWeights
from keras_app.experiments.callbacks import MilestoneLearningRate
from keras_app.experiments.data import Megabatches
from keras_app.experiments.models import convnet
from keras_app.experiments.models import mlp
from keras_app.experiments.run import folder as run_folder
from tests.helpers import assert_run_folder
from tests.helpers import events
from tests.models import three_classes

N_TEST = 40


def tiny(input_shape, num_classes, mean, std, seed):
    return convnet(
        input_shape,
        num_classes,
        filters=(4, 4, 8),
        mean=mean,
        std=std,
        seed=seed,
    )


def stream(**kwargs):
    # Of a megabatch of 36, the last batch is one of 4.
    options = dict(num_megabatches=3, batch_size=16, scoring_fraction=0.5)
    options.update(kwargs)
    return Megabatches(three_classes(120, 1), **options)


def go(path, megabatches=None, **kwargs):
    options = dict(
        model=tiny, epochs=2, milestones=(1,), test=three_classes(N_TEST, 2)
    )
    options.update(kwargs)
    run = {k: options.pop(k) for k in ("resume", "on_start") if k in options}
    stream_ = stream() if megabatches is None else megabatches
    return Anytime(stream_, **options).run(path, verbose=False, **run)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("anytime") / "run"
    return path, go(path)


def test_the_run_folder_holds_what_is_promised(finished):
    models = ["model.keras", "model_dense.keras", "model_one_shot.keras"]
    assert_run_folder(*finished, *models)


def test_density_is_the_schedules_at_every_megabatch(finished):
    path, _ = finished
    total = 36 + 144 + 288  # the three 3x3 kernels: 1-4, 4-4, 4-8
    for row in events(path):
        if row["event"] != "megabatch":
            continue
        target = {
            "app": [0.8, 0.8**2.75, 0.8**4.5][row["megabatch"]],
            "one_shot": 0.8**4.5,
            "dense": 1.0,
        }[row["method"]]
        pruned = int((1.0 - target) * total)
        assert round(row["density"] * total) == total - pruned
        assert abs(row["target_density"] - target) < 1e-12


def test_cer_and_errors_are_sums_of_what_was_counted(finished):
    path, summary = finished
    for method, result in summary["methods"].items():
        rows = [
            e
            for e in events(path)
            if e["event"] == "megabatch" and e["method"] == method
        ]
        missed = [row["misclassified"] for row in rows]
        assert result["cer"] == missed[0] + missed[1] + missed[2]
        assert result["mean_error_rate"] == sum(missed) / (3 * N_TEST)
        assert result["accuracy"] == (N_TEST - missed[2]) / N_TEST
        assert result["anytime_relative_error"] == [
            (missed[1] - missed[0]) / N_TEST,
            (missed[2] - missed[1]) / N_TEST,
        ]
        # Nine tenths of 40 for each megabatch seen so far, two epochs.
        assert [row["training_examples"] for row in rows] == [72, 144, 216]
        assert result["cumulative_training_examples"] == 432


def test_the_gap_is_in_percentage_points_of_last_and_best_epoch(finished):
    path, _ = finished
    log = events(path)
    for row in (e for e in log if e["event"] == "megabatch"):
        epochs = [
            e
            for e in log
            if e["event"] == "epoch"
            and e["method"] == row["method"]
            and e["megabatch"] == row["megabatch"]
        ]
        gaps = [100 * (e["accuracy"] - e["val_accuracy"]) for e in epochs]
        values = [e["val_accuracy"] for e in epochs]
        assert row["generalization_gap_last"] == gaps[-1]
        assert row["best_epoch"] == values.index(max(values))
        assert row["generalization_gap_best"] == gaps[row["best_epoch"]]


def test_the_learning_rate_restarts_at_every_megabatch(finished):
    path, _ = finished
    rates = [e["learning_rate"] for e in events(path) if e["event"] == "epoch"]
    assert np.allclose(rates, [0.1, 0.01] * 9)


def test_the_saved_model_is_the_judged_one_and_really_sparse(finished):
    path, summary = finished
    model = keras.models.load_model(path / "model.keras")
    images, labels = three_classes(N_TEST, 2)
    logits = model.predict(images, verbose=0)
    assert np.mean(logits.argmax(-1) == labels) == summary["accuracy"]
    kernels = [
        keras.ops.convert_to_numpy(v)
        for v in model.trainable_variables
        if len(v.shape) == 4
    ]
    kept = sum(np.count_nonzero(k) for k in kernels)
    total = sum(k.size for k in kernels)
    assert kept / total == summary["effective_density"]
    values = model.get_weights()
    zeros = sum(int(np.sum(value == 0)) for value in values)
    share = zeros / sum(value.size for value in values)
    assert summary["sparsity_all"] == pytest.approx(share)


@pytest.mark.backend_free
def test_what_ran_before_a_method_does_not_change_it(tmp_path, finished):
    _, together = finished
    alone = go(tmp_path / "dense", methods="dense")
    assert alone["methods"]["dense"] == together["methods"]["dense"]


class Stop(BaseException):
    """Stands for a kill: nothing in the library catches it."""


def small(path, **kwargs):
    """Two methods, two megabatches, two epochs, a dense network."""

    def network(input_shape, num_classes, mean, std, seed):
        return mlp(input_shape, num_classes, hidden=(8, 8), seed=seed)

    return go(
        path,
        stream(num_megabatches=2),
        model=network,
        methods=("app", "dense"),
        **kwargs,
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "run"
    return path, small(path)


# Within a megabatch, between two of them, and between the methods.
@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_stopped_run_resumes_to_the_same_bits(
    tmp_path, monkeypatch, uninterrupted, after
):
    reference, expected = uninterrupted
    path = tmp_path / "run"
    save = run_folder.RunFolder.save_checkpoint
    left = [after]

    def save_and_stop(self, *args):
        save(self, *args)
        left[0] -= 1
        if left[0] == 0:
            # What a kill may leave behind after the checkpoint.
            self.log({"event": "torn"})
            raise Stop

    monkeypatch.setattr(run_folder.RunFolder, "save_checkpoint", save_and_stop)
    with pytest.raises(Stop):
        small(path)
    monkeypatch.setattr(run_folder.RunFolder, "save_checkpoint", save)
    resumed = small(path, resume=True)
    assert events(path) == events(reference)
    assert resumed["methods"] == expected["methods"]
    for name in ("model.keras", "model_dense.keras"):
        ours = keras.models.load_model(path / name).get_weights()
        theirs = keras.models.load_model(reference / name).get_weights()
        for a, b in zip(ours, theirs, strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.backend_free
def test_resume_on_an_empty_folder_starts(tmp_path):
    assert small(tmp_path / "run", resume=True)["method"] == "app"


def test_resume_on_a_finished_run_returns_its_summary(finished):
    path, summary = finished
    started = []
    again = go(path, resume=True, on_start=started.append)
    assert again == summary
    assert started == []


@pytest.mark.backend_free
def test_resume_with_another_configuration_says_what_changed(
    tmp_path, monkeypatch
):
    save = run_folder.RunFolder.save_checkpoint

    def stop(self, *args):
        save(self, *args)
        raise Stop

    monkeypatch.setattr(run_folder.RunFolder, "save_checkpoint", stop)
    with pytest.raises(Stop):
        small(tmp_path / "run")
    with pytest.raises(ValueError, match="level: 4.5 -> 3.0"):
        small(tmp_path / "run", resume=True, level=3.0)


@pytest.mark.backend_free
def test_reference_mode_falls_below_the_target(tmp_path):
    with warnings.catch_warnings():
        # So small a network may lose a whole layer.
        warnings.simplefilter("ignore")
        summary = go(
            tmp_path / "run",
            stream(num_megabatches=4),
            methods="app_reference",
            epochs=1,
        )
    rows = summary["methods"]["app_reference"]["megabatches"]
    densities = [row["density"] for row in rows]
    # Ties at zero (dead units) are all pruned, so it may start below 0.8.
    assert densities[0] <= 0.8 + 1 / 468
    assert densities[-1] < 0.8**4.5 - 0.05
    assert densities == sorted(densities, reverse=True)


@pytest.mark.backend_free
def test_momentum_is_reset_unless_carried(tmp_path):
    seen = []

    class Spy(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            slots = [
                v
                for v in self.model.optimizer.variables
                if v.name.endswith("_momentum")
            ]
            seen.append(
                sum(float(keras.ops.sum(keras.ops.abs(v))) for v in slots)
            )

    fit = keras.Model.fit

    def spying(self, *args, callbacks, **kwargs):
        return fit(self, *args, callbacks=[*callbacks, Spy()], **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "fit", spying)
        small(tmp_path / "a", epochs=1)
        reset = seen[:]
        seen.clear()
        small(tmp_path / "b", epochs=1, carry_optimizer_state=True)
    assert reset == [0, 0, 0, 0]  # two megabatches, two methods
    assert seen[0] == seen[2] == 0
    assert seen[1] > 0 and seen[3] > 0


@pytest.mark.backend_free
def test_init_from_scratch_restarts_the_weights_and_keeps_the_mask(tmp_path):
    summary = go(tmp_path / "run", methods="app", init_from_scratch=True)
    density = summary["methods"]["app"]["effective_density"]
    assert density == pytest.approx(0.8**4.5, abs=1 / 468)


@pytest.mark.backend_free
def test_layer_scope_and_buffer_replay_run(tmp_path):
    import functools

    from keras_app.pruners import AnytimeProgressivePruner

    summary = go(
        tmp_path / "run",
        stream(replay="buffer", buffer_sizes=(8, 2)),
        methods="app",
        epochs=1,
        pruner=functools.partial(
            AnytimeProgressivePruner, scope="layer", scorer="magnitude"
        ),
    )
    # Each of the three kernels of 36, 144 and 288 weights has its own count.
    pruned = sum(int((1.0 - 0.8**4.5) * n) for n in (36, 144, 288))
    assert summary["effective_density"] == (468 - pruned) / 468


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(level=0.5), "`level` must be >= 1.*level=0.5"),
        (dict(methods=("app", "apq")), "`methods`.*apq"),
        (dict(methods=()), "`methods`"),
        (dict(epochs=0), "`epochs` must be an integer >= 1.*epochs=0"),
        (dict(model="resnet21"), "resnet20"),
        (dict(seed=-1), "`seed`.*seed=-1"),
    ],
)
def test_bad_arguments_leave_nothing_behind(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        go(tmp_path / "run", **change)
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_anything_to_prune_is_refused(tmp_path):
    def linear(input_shape, num_classes, mean, std, seed):
        return mlp(input_shape, num_classes, hidden=(), seed=seed)

    with pytest.raises(ValueError, match="nothing to prune"):
        go(tmp_path / "run", model=linear)
    assert list(tmp_path.iterdir()) == []


def test_a_learning_rate_schedule_is_refused(tmp_path):
    def optimizer():
        rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
        return keras.optimizers.SGD(rate)

    with pytest.raises(ValueError, match="`optimizer` must have a number"):
        go(tmp_path / "run", optimizer=optimizer)
    assert list(tmp_path.iterdir()) == []


def test_best_weights_keeps_the_first_of_equal_epochs():
    model = mlp((2,), 2, hidden=())
    best = BestWeights()
    best.set_model(model)
    for epoch, value in enumerate([0.0, 0.5, 0.5, 0.2]):
        model.set_weights(
            [np.full(w.shape, epoch) for w in model.get_weights()]
        )
        best.on_epoch_end(epoch, {"val_accuracy": value})
    best.on_train_end()
    assert best.epoch == 1
    assert float(model.get_weights()[0][0, 0]) == 1.0


def test_best_weights_accepts_an_accuracy_of_zero():
    model = mlp((2,), 2, hidden=())
    best = BestWeights()
    best.set_model(model)
    best.on_epoch_end(0, {"val_accuracy": 0.0})
    assert best.epoch == 0


def test_warm_up_rises_linearly_to_the_rate_and_milestones_divide_it():
    model = mlp((2,), 2, hidden=())
    model.compile(keras.optimizers.SGD(0.5), "mse")
    seen = []

    class Spy(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()
            seen.append(float(self.model.optimizer.learning_rate))

    x, y = np.zeros((8, 2), "float32"), np.zeros((8, 2), "float32")
    rate = MilestoneLearningRate(0.2, milestones=(3,), warmup_epochs=2)
    model.fit(x, y, batch_size=4, epochs=4, callbacks=[rate, Spy()], verbose=0)
    expected = [0.05, 0.1, 0.15, 0.2, 0.2, 0.2, 0.02, 0.02]
    assert np.allclose(seen, expected)
