"""The `train` experiment: the run folder, figures, resuming, refusals."""

import keras
import numpy as np
import pytest

from keras_app.experiments import PlateauLearningRate
from keras_app.experiments import Train
from keras_app.experiments.data import Holdout
from keras_app.experiments.models import mlp
from keras_app.experiments.run.folder import RunFolder
from keras_app.initializers import sparsify
from keras_app.optimizers import LinBreg
from keras_app.pruners import LambdaController
from keras_app.pruners import MagnitudePruner
from keras_app.pruners import SaliencyPruner
from keras_app.regularizers import L1
from keras_app.schedules import OneShot
from keras_app.schedules import PolynomialDecay
from tests.helpers import assert_run_folder
from tests.helpers import events
from tests.models import three_classes


def holdout(seed=0):
    return Holdout(
        three_classes(120, 1),
        test=three_classes(45, 2),
        validation_fraction=0.1,
        batch_size=16,
        seed=seed,
    )


def small(input_shape, num_classes, mean, std, seed):
    return mlp(
        input_shape, num_classes, hidden=(20, 10), mean=mean, std=std, seed=seed
    )


def bregman(path, epochs=4, **kwargs):
    """A run with an optimizer and two callbacks that all have a state."""
    regularizer = L1(0.02)
    return Train(
        holdout,
        small,
        optimizer=lambda: LinBreg(0.1, momentum=0.5, regularizers=regularizer),
        callbacks=[
            LambdaController(
                regularizer, 0.2, increment=0.01, on_change="rescale"
            ),
            PlateauLearningRate(patience=0, threshold=0.5),
        ],
        sparsify=lambda model, seed: sparsify(
            model, 0.2, seed=seed, bias_gain=1.0
        ),
        epochs=epochs,
    ).run(path, verbose=False, **kwargs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("train") / "run"
    return path, bregman(path)


def test_the_run_folder_is_that_of_every_experiment(finished):
    assert_run_folder(*finished, "model.keras")


def test_figures_are_those_of_the_model_that_was_saved(finished):
    path, summary = finished
    model = keras.models.load_model(path / "model.keras")
    x, y = three_classes(45, 2)
    right = np.argmax(model.predict(x, verbose=0), -1) == y
    assert summary["accuracy"] == pytest.approx(right.mean())
    kernels = [
        keras.ops.convert_to_numpy(v)
        for v in model.trainable_variables
        if v.name == "kernel"
    ]
    kept = sum(np.count_nonzero(kernel) for kernel in kernels)
    total = sum(kernel.size for kernel in kernels)
    assert summary["effective_density"] == pytest.approx(kept / total)
    figures = summary["methods"]["LinBreg"]
    values = model.get_weights()
    zeros = sum(int(np.sum(value == 0)) for value in values)
    share = zeros / sum(value.size for value in values)
    assert summary["sparsity_all"] == pytest.approx(share)
    assert figures["density_all"] == pytest.approx(1 - share)
    assert events(path)[-1]["sparsity_all"] == pytest.approx(share)
    assert 0.1 < figures["initial_density"] < 0.3
    # Between 1/3, where only the weights' gradient is dense, and all of it.
    assert 1 / 3 < figures["training_flops_share"] < 1


def test_each_epoch_is_logged_with_what_the_callbacks_say(finished):
    path, _ = finished
    rows = events(path)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    for row in rows:
        assert {"loss", "val_accuracy", "lam", "density"} <= set(row)
        assert row["density"] == pytest.approx(row["effective_density"])
    assert rows[-1]["learning_rate"] < 0.1


def test_the_page_shows_the_strength(finished):
    path, _ = finished
    page = (path / "report.html").read_text()
    assert "LinBreg" in page and "Epoch by epoch" in page


class Killed(Exception):
    """Stands for a process that ends."""


def kill_after(epoch, monkeypatch):
    save = RunFolder.save_checkpoint

    def save_and_die(self, arrays, meta):
        save(self, arrays, meta)
        if meta["epoch"] == epoch:
            raise Killed

    monkeypatch.setattr(RunFolder, "save_checkpoint", save_and_die)


def kill_before_the_model_is_saved(monkeypatch):
    def die(self, model, name):
        raise Killed

    monkeypatch.setattr(RunFolder, "save_model", die)


@pytest.mark.parametrize("epoch", [3, None])
def test_a_killed_run_ends_like_one_that_was_not(
    finished, epoch, tmp_path, monkeypatch
):
    whole, summary = finished
    with monkeypatch.context() as patched:
        if epoch:
            kill_after(epoch, patched)
        else:
            kill_before_the_model_is_saved(patched)
        with pytest.raises(Killed):
            bregman(tmp_path / "run")
    again = bregman(tmp_path / "run", resume=True)
    assert again["methods"] == summary["methods"]
    assert events(tmp_path / "run") == events(whole)
    a, b = (
        keras.models.load_model(path / "model.keras").get_weights()
        for path in (whole, tmp_path / "run")
    )
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_finished_run_is_not_run_again(finished):
    path, summary = finished
    assert bregman(path, resume=True) == summary
    with pytest.raises(ValueError, match="holds files already"):
        bregman(path)


def test_other_settings_are_not_resumed(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        kill_after(1, patched)
        with pytest.raises(Killed):
            bregman(tmp_path / "run")
    with pytest.raises(ValueError, match="epochs: 4 -> 5"):
        bregman(tmp_path / "run", epochs=5, resume=True)


# Of 21 steps, 14 = 2/3.
STEPS = PolynomialDecay(0.0, 0.8, begin_step=0, end_step=14, frequency=3)
SHARES = PolynomialDecay(0.0, 0.8, 0.0, 2 / 3, frequency=1 / 7)


def pruned(path, schedule=STEPS, **kwargs):
    return Train(
        holdout, small, pruner=MagnitudePruner(schedule), epochs=3
    ).run(path, verbose=False, **kwargs)


@pytest.mark.parametrize("schedule", [STEPS, SHARES])
def test_a_pruner_reaches_its_target_and_is_resumed(
    schedule, tmp_path, monkeypatch
):
    summary = pruned(tmp_path / "whole")
    assert summary["method"] == "Adam + MagnitudePruner"
    assert summary["effective_density"] == pytest.approx(0.2, abs=0.01)
    assert summary["missed"] == []
    with monkeypatch.context() as patched:
        kill_after(1, patched)
        with pytest.raises(Killed):
            pruned(tmp_path / "killed", schedule)
    again = pruned(tmp_path / "killed", schedule, resume=True)
    assert again["methods"] == summary["methods"]


@pytest.mark.backend_free
def test_a_pruner_that_needs_data_is_given_the_training_part(tmp_path):
    pruner = SaliencyPruner(OneShot(0.5))
    training = Train(holdout, small, pruner=pruner, epochs=1)
    summary = training.run(tmp_path / "run", verbose=False)
    # 108 to train on, 12 held out.
    assert [len(y) for _, y in pruner.data] == [16] * 6 + [12]
    assert summary["effective_density"] == pytest.approx(0.5, abs=0.01)


def test_what_cannot_be_trained_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="'nothing', which matches none"):
        Train(
            holdout,
            small,
            optimizer=lambda: LinBreg(regularizers={"nothing": L1(0.1)}),
        ).run(tmp_path / "run", verbose=False)
    with pytest.raises(ValueError, match="epochs"):
        Train(holdout, small, epochs=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "arguments",
    [
        {"data": "fashion_mnist"},
        {"pruner": MagnitudePruner},
        {"callbacks": [3]},
        {"callbacks": PlateauLearningRate()},
    ],
)
def test_what_is_no_data_set_or_callback_is_refused(tmp_path, arguments):
    [(name, value)] = arguments.items()
    with pytest.raises(TypeError, match=f"`{name}`.*must be"):
        Train(**{"data": holdout, "model": small, **arguments}).run(
            tmp_path / "run", verbose=False
        )
    assert not (tmp_path / "run").exists()


def test_the_plateau_rule_waits_one_epoch_longer_than_its_patience():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    rule = PlateauLearningRate(factor=0.5, patience=1, threshold=0.1)
    rule.set_model(model)
    found = []
    # 0.95 is less than 10 % below 1: no progress, like all that follow.
    for loss in (1.0, 0.95, 0.94, 0.93, 0.92, 0.5, 0.5):
        rule.on_epoch_end(0, {"loss": loss})
        rate = keras.ops.convert_to_numpy(model.optimizer.learning_rate)
        found.append(float(rate))
    assert found == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]


@pytest.mark.parametrize(
    "arguments", [{"factor": 1.0}, {"patience": -1}, {"threshold": 1.0}]
)
def test_bad_arguments_of_the_plateau_rule(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"`{name}` must be.*{value}"):
        PlateauLearningRate(**arguments)
