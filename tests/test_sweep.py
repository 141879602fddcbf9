"""Sweeps: the grid, the launcher, and one sweep on a local Ray."""

import contextlib
import json
import os
import pathlib
import signal
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gin
from keras_app import cli
from keras_app import report
from keras_app.experiments.sweep import grid
from keras_app.experiments.sweep import parallel
from keras_app.sweep import main

pytestmark = pytest.mark.backend_free

ROOT = pathlib.Path(__file__).parents[1]
BASE = "--gin_file=bregman.gin"
LAM = "--grid=regularizers.L1.lam=[0.1, 0.3]"


@pytest.fixture(autouse=True)
def _fresh_gin():
    gin.clear_config()
    yield
    gin.clear_config()


def sweep(*arguments):
    return main(["sweep", *arguments])


# ---- the front -------------------------------------------------------------


def test_front_of_a_worked_example():
    densities = [1.0, 0.1, 0.2, 0.5, 0.1, 0.5]
    accuracies = [0.90, 0.80, 0.75, 0.88, 0.70, 0.88]
    # 2 has more weights than 1 and is worse, 4 as many and is worse; 3 and 5
    # are equal.
    assert report.pareto_front(densities, accuracies) == [1, 3, 5, 0]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5))))
def test_front_is_what_nothing_beats(runs):
    front = report.pareto_front([d for d, _ in runs], [a for _, a in runs])
    beaten = {
        i
        for i, (d, a) in enumerate(runs)
        for e, b in runs
        if e <= d and b >= a and (e, b) != (d, a)
    }
    assert sorted(front) == [i for i in range(len(runs)) if i not in beaten]
    assert [runs[i] for i in front] == sorted(runs[i] for i in front)


def test_front_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match=r"one length.*\(2,\) and \(1,\)"):
        report.pareto_front([0.1, 0.2], [0.5])
    with pytest.raises(ValueError, match=r"`accuracies` must be finite.*nan"):
        report.pareto_front([0.1], [float("nan")])


# ---- the grid --------------------------------------------------------------


@pytest.mark.parametrize(
    "text, words",
    [
        ("a.b", "--grid=a.b"),
        ("a.b=3", "--grid=a.b=3"),
        ("a.b=(1, 2)", "list of Python literals"),
        ("a.b=[@adam]", "list of Python literals"),
        ("=[1]", "--grid==[1]"),
        ("a.b=[]", "at least one value"),
        ("a.b=[1, 2, 1]", "with 1 twice"),
        ("a.b=[0.1, 0.10]", "with 0.1 twice"),
    ],
)
def test_a_grid_that_is_none_is_refused(text, words):
    with pytest.raises(ValueError) as error:
        grid.parse(text)
    assert words in str(error.value)


def test_grids_multiply():
    grids = [grid.parse("a.x = [1, 2]"), grid.parse("s/a.y=['u', (3, 4)]")]
    assert grid.points(grids) == [
        {"a.x": 1, "s/a.y": "u"},
        {"a.x": 1, "s/a.y": (3, 4)},
        {"a.x": 2, "s/a.y": "u"},
        {"a.x": 2, "s/a.y": (3, 4)},
    ]


@pytest.mark.parametrize(
    "points, expected",
    [
        ([{"L1.lam": 1e-05, "LAM": -1}], ["lam=1e-05,LAM=-1"]),
        ([{"mlp.hidden": (20, 10)}], ["hidden=20_10"]),
        ([{"data.name": "../x y"}], ["name=.._x_y"]),
        ([{"A.lam": 1, "s/B.lam": 2}], ["A.lam=1,s_B.lam=2"]),
        (
            [{"a.x": x} for x in ("b", "B", "b ", (), [])],
            ["x=b", "x=B~2", "x=b~3", "x=", "x=~2"],
        ),
    ],
)
def test_labels_can_be_read_and_name_folders(points, expected):
    assert grid.labels(points) == expected


def test_long_labels_are_cut_and_stay_different():
    first, second = grid.labels([{"a.x": "n" * 500 + end} for end in "ab"])
    assert first == "x=" + "n" * 118
    assert second == first + "~2"


# ---- mistakes --------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([LAM], "--gin_file=app.gin"),
        ([BASE], "--grid="),
        ([BASE, LAM, "extra"], "unexpected argument: extra"),
        ([BASE, LAM, "--retries=-1"], "--retries=-1"),
        ([BASE, LAM, "--cpus_per_run=0"], "--cpus_per_run=0"),
        ([BASE, LAM, "--gpus_per_run=1.5"], "--gpus_per_run=1.5"),
        ([BASE, LAM, "--resume"], "--sweep_dir"),
        (["--gin_file=bregmann.gin", LAM], "Did you mean bregman.gin"),
        ([BASE, "--grid=experiments.Train.sed=[1]"], "parameter named 'sed'"),
        ([BASE, "--grid=nowhere.lam=[1]"], "No configurable matching"),
        ([BASE, "--grid=regularizers.L2.lam=[1]"], "mean regularizers.L1?"),
        ([BASE, "--grid=experiments.Train.sed=[1]"], "Did you mean seed?"),
        ([BASE, LAM, "--grid=BATCH=[1]"], "BATCH is bound, but nothing"),
        ([BASE, "--grid=regularizers.L1.lam=0.1"], "lam=0.1"),
        ([BASE, LAM, "--grid=L1.lam=[1]"], "--grid=L1.lam: it is bound"),
        ([BASE, LAM, "--gin_param=L1.lam = 1"], "it is bound already"),
        ([BASE, "--gin_param=LAM=1", "--grid=LAM=[1]"], "it is bound already"),
        (["--gin_file=datasets/cifar10.gin", "--grid=X=[1]"], "X=1: "),
    ],
)
def test_mistakes_name_what_is_wrong_before_anything_starts(
    tmp_path, monkeypatch, arguments, words
):
    monkeypatch.setattr(parallel, "import_ray", None)
    place = [] if "--resume" in arguments else [f"--sweep_dir={tmp_path / 's'}"]
    with pytest.raises(cli.UsageError) as error:
        sweep(*arguments, *place)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_without_ray_one_is_told_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(cli.UsageError, match=r"pip install 'keras_app\[ray\]'"):
        sweep(BASE, LAM, f"--sweep_dir={tmp_path / 's'}")
    assert list(tmp_path.iterdir()) == []


def test_nobody_at_the_address_is_told_at_once(tmp_path):
    with pytest.raises(
        cli.UsageError, match="--address=127.0.0.1:9: .*refused"
    ):
        sweep(BASE, LAM, "--address=127.0.0.1:9", f"--sweep_dir={tmp_path}")
    assert list(tmp_path.iterdir()) == []


# ---- attempts --------------------------------------------------------------


def test_an_attempt_tells_its_status_and_its_last_line(tmp_path):
    code = (
        "import os, sys\n"
        "print(os.environ['WORD'], os.getcwd(), flush=True)\n"
        "print('  In call to configurable x\\n', file=sys.stderr)\n"
        "sys.exit(5)"
    )
    log = tmp_path / "log"
    log.write_text("before\n")
    seconds, status, said = parallel.attempt(
        ["-c", code], str(log), str(tmp_path), {"WORD": "hello"}
    )
    assert (status, said) == (5, f"hello {tmp_path}")
    assert 0 < seconds < 60
    assert log.read_text().startswith("before\nhello")


def test_a_silent_attempt_says_nothing(tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    outcome = parallel.attempt(["-c", ""], str(log), str(tmp_path), {})
    assert outcome[1:] == (0, "")


def test_statuses_in_words():
    assert parallel.reason(1) == "exit status 1"
    assert parallel.reason(-9) == "killed by signal 9"
    assert parallel.reason(None) == "lost"


class FakeRay:
    """Runs tasks one after another, as `outcomes` says.

    It is its own task: `remote` with options makes one, with arguments runs
    it.
    """

    RayError = ConnectionError

    def __init__(self, outcomes):
        self.outcomes = outcomes
        self.exceptions = self.cloudpickle = self

    def register_pickle_by_value(self, module):
        pass

    def remote(self, *arguments, **options):
        if arguments:
            return arguments[0]
        self.options = options
        return lambda function: self

    def wait(self, references):
        return references[:1], references[1:]

    def get(self, reference):
        outcome = self.outcomes[reference].pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def test_lost_workers_are_told_and_run_again_if_asked():
    ray = FakeRay(
        {
            "a": [ConnectionError("worker\ndied"), (2.0, 0, "x")],
            "b": [(1, 7, "")],
        }
    )
    told = []

    def ended(*outcome):
        told.append(outcome)
        return outcome[2] is None

    parallel.run_all(ray, {"a": ["a"], "b": ["b"]}, 2, 0.5, ended)
    assert told == [
        ("a", 0.0, None, "worker died"),
        ("b", 1, 7, ""),
        ("a", 2.0, 0, "x"),
    ]
    assert ray.options == {"num_cpus": 2, "num_gpus": 0.5, "max_retries": 0}


# ---- the launcher ----------------------------------------------------------


def write_run(folder, accuracy, density, **more):
    folder.mkdir(exist_ok=True)
    figures = {"accuracy": accuracy, "effective_density": density}
    summary = {"method": "M", **figures, "methods": {"M": figures}, **more}
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def launched(monkeypatch):
    """What was launched; `launched.play` stands for the run of a label."""

    class Launched(list):
        play = None

    found = Launched()

    def run_all(ray, jobs, cpus, gpus, ended):
        for label, job in jobs.items():
            again = True
            while again:
                found.append((label, *job))
                (place,) = [x for x in job[0] if x.startswith("--run_dir=")]
                folder = pathlib.Path(place.removeprefix("--run_dir="))
                again = ended(label, 2.0, *found.play(label, folder))

    monkeypatch.setattr(parallel, "import_ray", lambda: None)
    monkeypatch.setattr(
        parallel, "started", lambda ray, address: contextlib.nullcontext()
    )
    monkeypatch.setattr(parallel, "room", lambda *arguments: 2)
    monkeypatch.setattr(parallel, "run_all", run_all)
    return found


def state(folder):
    return json.loads((folder / "sweep.json").read_text())["runs"]


def test_every_point_is_one_run_of_the_same_configuration(launched, tmp_path):
    def play(label, folder):
        write_run(folder, 0.5, 0.25)
        return 0, ""

    launched.play = play
    folder = tmp_path / "s"
    status = sweep(
        BASE,
        "--gin_param=experiments.Train.epochs=2",
        LAM,
        "--cpus_per_run=3",
        f"--sweep_dir={folder}",
    )
    assert status == 0
    label, arguments, log, cwd, environment = launched[1]
    assert arguments == [
        "-m",
        "keras_app.train",
        f"--gin_file={folder / 'config.gin'}",
        "--gin_param=regularizers.L1.lam=0.3",
        f"--run_dir={folder / 'lam=0.3'}",
        "--resume",
    ]
    assert (label, log) == ("lam=0.3", str(folder / "logs" / "lam=0.3.log"))
    assert cwd == os.getcwd()
    assert environment["OMP_NUM_THREADS"] == environment["NPROC"] == "3"
    assert environment["CUDA_VISIBLE_DEVICES"] == "-1"
    config = (folder / "config.gin").read_text()
    assert "experiments.Train.epochs = 2" in config
    assert "optimizers.AdaBreg.learning_rate = 0.002" in config


def test_failures_are_retried_named_and_do_not_stop_the_others(
    launched, tmp_path, capsys
):
    def play(label, folder):
        if label == "lam=0.1":
            return 1, "ArithmeticError: [no] luck"
        if label == "lam=-1":
            return 2, "keras_app.train: `lam` must be >= 0"
        if label == "lam=0.3":
            # A lost machine, and then luck.
            if sum(row[0] == label for row in launched) == 1:
                return None, "worker died"
            write_run(folder, 0.8, 0.2)
            return 0, ""
        if label == "lam=3":
            # It says that it is done, and left nothing.
            return 0, "bye"
        write_run(folder, 0.7, 0.1, missed=["M: asked for 0.9, got 0.5"])
        return 3, ""

    launched.play = play
    folder = tmp_path / "s"
    lam = "--grid=regularizers.L1.lam=[0.1, -1, 0.3, 1, 3]"
    assert sweep(BASE, lam, "--retries=2", f"--sweep_dir={folder}") == 1
    keys = "label", "status", "attempts", "seconds", "accuracy"
    assert [tuple(run[key] for key in keys) for run in state(folder)] == [
        ("lam=0.1", "failed", 3, 6.0, None),
        ("lam=-1", "failed", 1, 2.0, None),
        ("lam=0.3", "done", 2, 4.0, 0.8),
        ("lam=1", "missed", 1, 2.0, 0.7),
        ("lam=3", "failed", 3, 6.0, None),
    ]
    out, err = capsys.readouterr()
    assert "lam=0.3: accuracy 0.8000, density 0.2000" in out
    assert err.splitlines() == [
        "keras_app.sweep: failed: lam=0.1: exit status 1: ArithmeticError: "
        "[no] luck",
        "keras_app.sweep: failed: lam=-1: exit status 2: keras_app.train: "
        "`lam` must be >= 0",
        "keras_app.sweep: missed: lam=1: M: asked for 0.9, got 0.5",
        "keras_app.sweep: failed: lam=3: exit status 0: bye",
    ]
    page = (folder / "report.html").read_text()
    assert "lam=0.1 failed: exit status 1: ArithmeticError: [no] luck" in page
    assert "Density and accuracy" in page


def test_a_sweep_goes_on_with_what_is_not_done(launched, tmp_path, capsys):
    folder = tmp_path / "s"

    def killed(label, run_dir):
        write_run(run_dir, 0.5, 0.25)
        raise KeyboardInterrupt

    launched.play = killed
    assert sweep(BASE, LAM, f"--sweep_dir={folder}") == 130
    assert f"--resume --sweep_dir={folder}" in capsys.readouterr().err
    assert [run["status"] for run in state(folder)] == ["waiting"] * 2

    def play(label, run_dir):
        write_run(run_dir, 0.6, 0.5)
        return 0, ""

    launched.clear()
    launched.play = play
    assert sweep("--resume", f"--sweep_dir={folder}") == 0
    assert [row[0] for row in launched] == ["lam=0.3"]
    assert [run["accuracy"] for run in state(folder)] == [0.5, 0.6]

    launched.clear()
    assert sweep(BASE, LAM, "--resume", f"--sweep_dir={folder}") == 0
    assert launched == []
    assert "finished already" in capsys.readouterr().out


def test_another_sweep_is_not_mixed_into_a_folder(launched, tmp_path):
    def play(label, folder):
        return 1, ""

    launched.play = play
    folder = f"--sweep_dir={tmp_path}"
    assert sweep(BASE, LAM, "--resume", folder) == 1
    for arguments, words in (
        ([BASE, LAM], "holds a sweep already"),
        ([BASE, "--grid=L1.lam=[1]", "--resume"], "another configuration"),
        (["--gin_param=Train.epochs=9", "--resume"], "another configuration"),
    ):
        with pytest.raises(cli.UsageError, match=words):
            sweep(*arguments, folder)
    (tmp_path / "sweep.json").unlink()
    with pytest.raises(cli.UsageError, match="new or an empty folder"):
        sweep(BASE, LAM, "--resume", folder)


# ---- on Ray ----------------------------------------------------------------

WORK = """
import pathlib

from keras_app.experiments import data
from keras_app import experiments


def search(lam):
    if lam == 2 and not pathlib.Path("repaired").exists():
        raise ArithmeticError("no luck")
    return experiments.Train(
        data.Holdout("fashion_mnist_mini", batch_size=1024),
        "mlp",
        epochs=1,
    )
"""
# It waits in its first epoch until it is told to stop, or not to wait.
WAITING = """
import pathlib
import time

import keras

from keras_app.experiments import data
from keras_app import experiments
from keras_app.experiments.run import interruption


class Wait(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        pathlib.Path("begun").touch()
        while not pathlib.Path("go").exists() and not interruption.was_asked():
            time.sleep(0.1)


def search(lam):
    return experiments.Train(
        data.Holdout("fashion_mnist_mini", batch_size=1024),
        "mlp",
        epochs=2,
        callbacks=[Wait()],
    )
"""
CONFIG = """
from __gin__ import dynamic_registration
import work
from keras_app import train
train.run.experiment = @work.search()
"""


@pytest.fixture
def on_ray(tmp_path, monkeypatch):
    """A folder of one's own, whose modules the workers find."""
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_a_sweep_on_a_local_ray_retries_reports_and_resumes(
    on_ray, tmp_path, capsys
):
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "work.gin").write_text(CONFIG)
    grid = "--grid=work.search.lam=[2, 1]"
    assert sweep("--gin_file=work.gin", grid, "--sweep_dir=s") == 1
    failed, done = state(tmp_path / "s")
    assert (failed["status"], failed["attempts"]) == ("failed", 2)
    assert failed["message"] == "exit status 1: ArithmeticError: no luck"
    assert done["status"] == "done" and 0 < done["accuracy"] < 1
    written = tmp_path / "s" / "lam=1" / "summary.json"
    before = written.stat().st_mtime_ns
    # What was done stays; what failed is tried again.
    (tmp_path / "repaired").touch()
    assert sweep("--resume", "--sweep_dir=s") == 0
    assert [run["status"] for run in state(tmp_path / "s")] == ["done"] * 2
    assert state(tmp_path / "s")[0]["attempts"] == 3
    assert written.stat().st_mtime_ns == before
    page = (tmp_path / "s" / "report.html").read_text()
    assert "Density and accuracy" in page and "failed" not in page
    assert "2 of 2 runs" in capsys.readouterr().out


def test_sigterm_stops_a_sweep_after_checkpoints_and_resume_goes_on(
    on_ray, tmp_path, monkeypatch, capsys
):
    # gin knows a name for good.
    (tmp_path / "waiting.py").write_text(WAITING)
    config = CONFIG.replace("work", "waiting")
    (tmp_path / "waiting.gin").write_text(config)

    def stop():
        while not (tmp_path / "begun").exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    # As in a script's background, where Ctrl-C is ignored.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        threading.Thread(target=stop, daemon=True).start()
        grid = "--grid=waiting.search.lam=[1]"
        assert sweep("--gin_file=waiting.gin", grid, "--sweep_dir=s") == 75
    finally:
        signal.signal(signal.SIGINT, before)
    [line] = capsys.readouterr().err.splitlines()
    folder = tmp_path / "s"
    assert line.endswith(
        f"stopped by SIGTERM. It goes on with --resume --sweep_dir={folder}"
    )
    assert "stopped by SIGTERM" in (folder / "logs" / "lam=1.log").read_text()
    assert [run["status"] for run in state(folder)] == ["waiting"]
    (tmp_path / "go").touch()
    assert sweep("--resume", f"--sweep_dir={folder}") == 0
    assert (
        "resuming Adam epoch 2" in (folder / "logs" / "lam=1.log").read_text()
    )
