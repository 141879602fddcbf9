"""What stops a run, told in one line: disk, lock, configuration, SIGTERM."""

import errno
import os
import signal

import keras
import numpy as np
import pytest

import gin
from keras_app import cli
from keras_app import experiments
from keras_app import train
from keras_app.experiments import data
from keras_app.experiments.run.folder import RunFolder
from keras_app.experiments.run.session import open_folder
from keras_app.experiments.run.session import Session
from keras_app.masks import DegenerateScores
from keras_app.pruners import MagnitudePruner
from keras_app.schedules import ConstantSparsity
from tests.helpers import locked

pytestmark = pytest.mark.backend_free

# ---- the command line, around an experiment that trains nothing ------------


class Tiny:
    """Takes checkpoints as every experiment does."""

    def __init__(self, seed=0, steps=2, sigterm_after=None):
        self.seed, self.steps, self.sigterm_after = seed, steps, sigterm_after

    def run(self, run_dir, resume, on_start):
        folder, _ = open_folder(run_dir, resume)
        settings = {"seed": self.seed}
        with Session(folder, settings, resume, verbose=False) as session:
            session.begin(on_start)
            for step in range(self.steps):
                session.log({"event": "epoch", "method": "tiny", "epoch": step})
                session.checkpoint({"a": np.full(9, step)}, {"step": step})
                if step == self.sigterm_after:
                    os.kill(os.getpid(), signal.SIGTERM)
        return {}


Tiny.__module__ = "keras_app.experiments"  # where gin looks


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Calls the command line on `Tiny` in a folder named run."""
    monkeypatch.setattr(experiments, "Tiny", Tiny, raising=False)
    file = tmp_path / "tiny.gin"
    file.write_text(
        "from __gin__ import dynamic_registration\n"
        "from keras_app import experiments\n"
        "from keras_app import train\n"
        "train.run.experiment = @experiments.Tiny()\n"
    )

    def call(*arguments, **parameters):
        gin.clear_config()
        parameters = [
            f"--gin_param=experiments.Tiny.{name}={value}"
            for name, value in parameters.items()
        ]
        first = ["t", f"--gin_file={file}", f"--run_dir={tmp_path / 'run'}"]
        return train.main([*first, *parameters, *arguments])

    yield call
    gin.clear_config()


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("steps", [1, 2])
def test_a_disk_that_fills_behind_the_run_ends_it_in_one_line(
    call, tmp_path, monkeypatch, capsys, steps
):
    # Of the last checkpoint, or of one before the last.
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "_write_checkpoint", full)
        assert call(steps=steps) == cli.EXIT_FAILED
    [line] = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line
    assert str(tmp_path / "run") in line
    assert call("--resume", steps=steps) == 0
    assert RunFolder(tmp_path / "run").load_checkpoint()[1]["step"] == steps - 1


def test_sigterm_ends_with_its_checkpoint_on_the_disk(call, tmp_path, capsys):
    # Noted once the first checkpoint is under way.
    status = call(steps=9, sigterm_after=0)
    assert status == cli.EXIT_INTERRUPTED
    assert "go on with" in capsys.readouterr().err
    # Nothing waits here: it has to be there.
    files = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [p.name for p in files] == ["000000.ckpt", "000001.ckpt"]


def refused(call, *arguments, **parameters):
    with pytest.raises(cli.UsageError) as error:
        call(*arguments, **parameters)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_run_folder_in_use_is_refused_in_one_line(call, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with locked(run / ".lock"):
        before = sorted(path.name for path in run.iterdir())
        text = refused(call, "--resume")
    assert "in use by another process" in text and str(run) in text
    # The configuration of the other run is still its own.
    after = {path.name for path in run.iterdir()}
    assert after.difference(before) <= {"checkpoints"}


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(
    call, tmp_path, monkeypatch
):
    access = os.access

    def read_only(path, mode):
        return mode != os.W_OK and access(path, mode)

    # Whoever runs the tests may be allowed to write everywhere.
    monkeypatch.setattr(os, "access", read_only)
    text = refused(call)
    assert "must be writable" in text and str(tmp_path / "run") in text
    assert not (tmp_path / "run").exists()


def test_another_configuration_is_refused_in_one_line(call):
    assert call() == 0
    text = refused(call, "--resume", seed=5)
    assert "another configuration (seed: 0 -> 5)" in text


# ---- what is another configuration, for each experiment --------------------


def arrays():
    images = np.random.default_rng(0).normal(size=(60, 6, 6, 1))
    return images.astype("float32"), (np.arange(60) % 3).astype("int32")


def model(input_shape, num_classes, mean, std, seed):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(num_classes, name="logits"),
        ],
        name="small",
    )


def holdout(batch_size=16, augment=False):
    return data.Holdout(
        arrays(),
        0.2,
        test=arrays(),
        batch_size=batch_size,
        shuffle=False,
        augment=augment,
    )


def anytime(batch_size=16, **kwargs):
    stream = data.Megabatches(arrays(), 2, batch_size=batch_size)
    return experiments.Anytime(stream, model, test=arrays(), **kwargs)


def training(batch_size=16, augment=False, sparsity=0.5, **kwargs):
    pruner = MagnitudePruner(ConstantSparsity(sparsity, 0, frequency=1))
    kwargs = {"pruner": pruner, **kwargs}
    return experiments.Train(holdout(batch_size, augment), model, **kwargs)


def lottery(batch_size=16, **kwargs):
    return experiments.Lottery(holdout(batch_size), model, **kwargs)


def ticket_search(batch_size=16, **kwargs):
    return experiments.TicketSearch(holdout(batch_size), model, **kwargs)


def exploding():
    return keras.optimizers.SGD(1e30)


@pytest.mark.parametrize(
    "experiment, method",
    [
        (anytime, {"methods": "dense"}),
        (training, {"pruner": None}),
        (lottery, {"rewind_epoch": 0}),
    ],
)
def test_a_loss_that_is_no_number_ends_each_experiment(
    tmp_path, experiment, method
):
    words = "`loss` is (nan|inf) in epoch 1.*There is no checkpoint yet"
    with pytest.raises(FloatingPointError, match=words):
        run = experiment(optimizer=exploding, epochs=2, **method)
        run.run(tmp_path, verbose=False)


def test_a_loss_that_is_no_number_names_the_last_good_checkpoint(tmp_path):
    explodes = experiments.MilestoneLearningRate(0.01, (2,), factor=1e30)
    # The optimizer's first update of the third epoch comes before its loss.
    words = "loss` is (nan|inf) in epoch 3.*checkpoint is .*/000001.ckpt"
    with pytest.raises(FloatingPointError, match=words):
        run = training(pruner=None, callbacks=[explodes], epochs=4)
        run.run(tmp_path, verbose=False)
    assert (tmp_path / "checkpoints" / "000001.ckpt").exists()


def test_scores_of_a_training_that_diverged_are_refused(tmp_path):
    with pytest.raises(DegenerateScores, match="did the training diverge"):
        run = training(optimizer=exploding, epochs=2)
        run.run(tmp_path, verbose=False)


class Killed(BaseException):
    """Stands for a process that ends."""


@pytest.mark.parametrize(
    "experiment, before, after, words",
    [
        (anytime, {}, {"batch_size": 4}, "steps_per_epoch: 2 -> 7"),
        (anytime, {}, {"std": (2.0,)}, r"std: None -> \[2.0\]"),
        (training, {}, {"batch_size": 8}, "batch_size: 16 -> 8"),
        (training, {}, {"augment": True}, "data.augment: False -> True"),
        (training, {}, {"mean": (0.5,)}, r"mean: None -> \[0.5\]"),
        (training, {}, {"sparsity": 0.6}, "callbacks: .*0.5.* -> .*0.6"),
        (lottery, {}, {"rate": 0.3}, "rate: 0.2 -> 0.3"),
        (lottery, {}, {"batch_size": 8}, "batch_size: 16 -> 8"),
        (
            ticket_search,
            {"milestones": (9,)},
            {"milestones": (8,)},
            r"callbacks: .*\[9\].* -> .*\[8\]",
        ),
    ],
)
def test_each_experiment_knows_another_configuration(
    tmp_path, monkeypatch, experiment, before, after, words
):
    def begin(self, on_start):
        self.folder.begin()
        self.checkpoint({}, {})
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Session, "begin", begin)
        with pytest.raises(Killed):
            experiment(**before).run(tmp_path, verbose=False)
    with pytest.raises(ValueError, match=f"another configuration.*{words}"):
        again = experiment(**{**before, **after})
        again.run(tmp_path, resume=True, verbose=False)
