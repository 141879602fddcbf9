"""The command line."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import types

import pytest

import gin
from keras_app import cli
from keras_app import train
from keras_app.experiments import devices
from keras_app.experiments.cli import configuration
from keras_app.experiments.run.folder import RunFolder
from keras_app.masks import DegenerateScores

pytestmark = pytest.mark.backend_free

ROOT = pathlib.Path(__file__).parents[1]
SHORT = [
    "--gin_file=app.gin",
    "--gin_param=Anytime.epochs=1",
    "--gin_param=Anytime.milestones=()",
    "--gin_param=data.Megabatches.num_megabatches=2",
    "--gin_param=data.Megabatches.megabatch_size=200",
]


def call(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "keras_app.train", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        env={**os.environ, **environment},
    )


@pytest.fixture(autouse=True)
def _fresh_gin():
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "run"
    result = call(*SHORT, f"--run_dir={path}")
    assert result.returncode == 0, result.stderr
    assert "app megabatch 2/2" in result.stdout
    return path


def test_a_run_ends_with_status_0_and_its_files(run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    assert 0 <= summary["accuracy"] <= 1
    assert summary["effective_density"] == pytest.approx(0.8**10, abs=1e-4)
    assert "Anytime.level = 10.0" in (run_dir / "config.gin").read_text()


def test_resume_of_a_finished_run_says_so(run_dir):
    before = (run_dir / "metrics.jsonl").read_bytes()
    result = call("--resume", f"--run_dir={run_dir}")
    assert result.returncode == 0
    assert "finished already" in result.stdout
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_the_operative_config_reproduces_the_run(run_dir, tmp_path):
    result = call(
        f"--gin_file={run_dir / 'config.gin'}", f"--run_dir={tmp_path / 'r'}"
    )
    assert result.returncode == 0, result.stderr
    again = (tmp_path / "r" / "metrics.jsonl").read_bytes()
    assert again == (run_dir / "metrics.jsonl").read_bytes()


def test_the_config_is_whole_before_the_run_counts_as_finished(
    tmp_path, monkeypatch
):
    found = []
    write = RunFolder.write_json

    def write_json(self, name, value):
        found.append((name, (self.path / "config.gin").read_text()))
        write(self, name, value)

    monkeypatch.setattr(RunFolder, "write_json", write_json)
    # An argument of a function that never runs stays, as it was bound.
    unused = ["--gin_file=export.gin", "--gin_param=train.run.export=None"]
    arguments = ["train", *SHORT, *unused, f"--run_dir={tmp_path / 'run'}"]
    assert train.main(arguments) == 0
    [(name, text)] = found
    assert name == "summary.json"
    assert text == (tmp_path / "run" / "config.gin").read_text()
    # One line that only a run knows, and one that no run uses.
    assert "data.Megabatches.scoring_batch_size = 100\n" in text
    assert "experiments.export_run.shrink = False\n" in text
    gin.clear_config()
    gin.parse_config(text)
    formats = gin.query_parameter("keras_app.experiments.export_run.formats")
    assert formats == ("litert", "saved_model", "sparse")


def test_a_mistake_is_one_line_and_status_2_and_no_folder(tmp_path):
    result = call(
        *SHORT, "--gin_param=Anytime.levle=3.0", f"--run_dir={tmp_path / 'r'}"
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "levle" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("binding", "told"),
    [
        ("quantise='int8'", "`quantise` must be.*Did you mean quantize"),
        ("formats=('h5',)", "Received: 'h5'. Did you mean sparse"),
        ("formats='sparse'", "`target` must go with a format that takes it"),
    ],
)
@pytest.mark.backend_free
def test_exports_are_checked_before_the_training(tmp_path, binding, told):
    bound = [
        "--gin_file=export.gin",
        "--gin_param=experiments.export_run.target='gpu'",
        f"--gin_param=experiments.export_run.{binding}",
    ]
    with pytest.raises(cli.UsageError, match=told):
        train.main(["train", *SHORT, *bound, f"--run_dir={tmp_path / 'r'}"])
    assert list(tmp_path.iterdir()) == []


def test_an_unprepared_data_set_offline_is_one_line_and_status_2(tmp_path):
    result = call(
        *SHORT,
        "--gin_param=data.Megabatches.name_or_arrays='cifar10'",
        f"--run_dir={tmp_path / 'r'}",
        TFDS_DATA_DIR=str(tmp_path / "data"),
        HTTPS_PROXY="http://127.0.0.1:9",
        HTTP_PROXY="http://127.0.0.1:9",
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "cifar10" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "--gin_file=app.gin"),
        (["--gin_file=ap.gin"], "Did you mean app.gin"),
        (["--bogus"], "bogus"),
        (["--gin_file=app.gin", "extra"], "unexpected argument: extra"),
        (["--resume"], "--run_dir"),
        ([*SHORT, "--gin_param=Anytime.level=0.5"], "level=0.5"),
        ([*SHORT, "--gin_param=Anytime.lev"], "parse"),
        (["--gin_file=app"], "Did you mean app.gin?"),
        (["--gin_file=convnt.gin"], "Did you mean models/convnet.gin?"),
        (["--gin_file=models\\mlp.gin"], "Did you mean models/mlp.gin?"),
        (["--gin_file=zzz"], "no such file. --list shows"),
        (["--gin_file=gin"], "--gin_file=gin: it is a folder."),
        (["--gin_file="], "gin_file must not be empty."),
        (["--gin_file=models/mlp.gin"], "Nothing binds `train.run.experiment`"),
        ([*SHORT, "--gin_param=train.run.experiment=3"], "Received: 3."),
        ([*SHORT, "--gin_param=Anytime.model='resnet21'"], "resnet20"),
        (
            [*SHORT, "--gin_param=data.Megabatches.name_or_arrays='fashon'"],
            "fashon",
        ),
    ],
)
def test_mistakes_name_what_is_wrong(tmp_path, arguments, words):
    run_dir = [] if "--resume" in arguments else [f"--run_dir={tmp_path / 'r'}"]
    with pytest.raises(cli.UsageError) as error:
        train.main(["train", *arguments, *run_dir])
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "param, words",
    [
        ("Anytime.level==", "Couldn't parse statement"),
        ("Anytime.level=", "Unable to parse value"),
        ("Anytime.level", "Couldn't parse statement"),
        ("Anytime.level=[1,", "A bracket or a quotation mark is not closed"),
        ("Anytime.level=abc", "Failed to parse token 'abc'"),
        ("=3", "Unexpected token"),
        ("# 3", "Nothing is bound"),
        ("Anytime.levl=3", "Did you mean level?"),
        ("experiments.anytme.level=3", "Did you mean experiments.Anytime?"),
        ("Anytime.pruner=@anytme", "Did you mean Anytime?"),
        (
            "from keras_app.experiments import modles",
            "Did you mean keras_app.experiments.models?",
        ),
        ("include 'models/convnt.gin'", "Did you mean models/convnet.gin?"),
    ],
)
def test_a_binding_that_is_wrong_is_named(tmp_path, param, words):
    arguments = [*SHORT, f"--gin_param={param}", f"--run_dir={tmp_path / 'r'}"]
    with pytest.raises(cli.UsageError) as error:
        train.main(["train", *arguments])
    assert str(error.value).startswith(f"--gin_param={param}: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_a_name_like_no_other_is_answered_with_all(tmp_path):
    param = "nothing_is_called_so.level=3"
    arguments = [*SHORT, f"--gin_param={param}", f"--run_dir={tmp_path / 'r'}"]
    with pytest.raises(cli.UsageError) as error:
        train.main(["train", *arguments])
    # gin forgets no name of the files that ran before in this process.
    _, names = str(error.value).split(" What the gin files name: ")
    assert {"experiments.Anytime", "train.run"} <= set(names[:-1].split(", "))


@pytest.mark.parametrize(
    "line, words",
    [
        ("experiments.Anytime.levl = 3", "Did you mean level?"),
        ("experiments.anytme.level = 3", "Did you mean Anytime?"),
        ("experimnts.anytime.level = 3", "Did you mean experiments?"),
        (
            "models.mlp.hidden = (3,)",
            "Add the line: from keras_app.experiments",
        ),
        (
            "from keras_app.experiments import modles",
            "Did you mean keras_app.experiments.models?",
        ),
        ("import kera", "Did you mean keras?"),
        ("include 'models/convnt.gin'", "Did you mean models/convnet.gin?"),
        ("experiments.Anytime.level ==", "Couldn't parse statement"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_line(tmp_path, line, words):
    path = tmp_path / "own.gin"
    # Files of Windows are read as well.
    path.write_bytes(
        b"from __gin__ import dynamic_registration\r\n"
        b"from keras_app import experiments\r\n" + line.encode() + b"\r\n"
    )
    with pytest.raises(cli.UsageError) as error:
        train.main(["train", f"--gin_file={path}"])
    assert str(error.value).startswith(f"{path}, line 3: ")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_is_an_experiment_s_is_told_where_another_room_is_named(tmp_path):
    path = tmp_path / "own.gin"
    path.write_text(
        "from __gin__ import dynamic_registration\n"
        "from keras_app import export\n"
        "export.export_run.formats = ('sparse',)\n"
    )
    with pytest.raises(cli.UsageError) as error:
        train.main(["train", "--gin_file=magnitude.gin", f"--gin_file={path}"])
    said = str(error.value)
    assert said.startswith(f"{path}, line 3: ")
    assert "Write experiments.export_run, and above it the line: from" in said


def test_a_macro_that_is_misspelt_is_not_passed_over(tmp_path):
    path = tmp_path / "own.gin"
    path.write_text(
        "include 'app.gin'\nEPOCHS = 3\nexperiments.Anytime.epochs = %EPOCHS\n"
    )
    for param, words in (
        (
            "EPOCS=1",
            "EPOCS is bound, but nothing uses it. Did you mean EPOCH",
        ),
        ("Anytime.epochs=%EPOCS", "'EPOCS/gin.macro'. Did you mean EPOCHS?"),
    ):
        gin.clear_config()
        with pytest.raises(cli.UsageError) as error:
            train.main(["train", f"--gin_file={path}", f"--gin_param={param}"])
        assert words in str(error.value)


def test_the_configs_are_listed_a_line_each(tmp_path, monkeypatch, capsys):
    (tmp_path / "own.gin").write_text(
        "# What I tried: one\n# line. And two.\n#\n# Time: long.\na.b = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert train.main(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    names = [line.split(" ")[0] for line in lines if line[:1] not in ("", "#")]
    assert sorted(names) == sorted(["own.gin", *map(str, gin_files())])
    assert f"{'own.gin':26} What I tried" in lines
    # Runs come first, then their parts.
    assert lines.index("# models/: parts") > names.index("wanda.gin")


def test_a_backend_that_is_none_is_one_line_and_status_2():
    for backend in ("jaxx", "numpy"):
        result = call("--list", KERAS_BACKEND=backend)
        assert (result.returncode, result.stdout) == (2, "")
        [line] = result.stderr.splitlines()
        assert "one of tensorflow, jax, torch" in line
        assert f"KERAS_BACKEND={backend}" in line


def test_a_backend_that_is_not_installed_is_one_line(tmp_path):
    (tmp_path / "jax.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'jax'\", name='jax')"
    )
    found = call("--list", KERAS_BACKEND="jax", PYTHONPATH=str(tmp_path))
    assert found.returncode == 2
    [line] = found.stderr.splitlines()
    assert "JAX is not installed: `pip install jax`" in line


def test_a_schedule_that_cannot_end_is_refused_before_training(tmp_path):
    arguments = ["--gin_file=magnitude.gin", f"--run_dir={tmp_path / 'r'}"]
    short = "--gin_param=experiments.Train.epochs=1"
    with pytest.raises(cli.UsageError, match="schedule ends at step 2025"):
        train.main(["train", *arguments, short])
    # Another try finds nothing in its way.
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("trained", [True, False, None])
def test_an_error_is_a_mistake_only_where_nothing_was_trained(
    trained, status_of, tmp_path
):
    def other(run_dir, resume, on_start):
        folder = RunFolder(run_dir)
        folder.begin()
        folder.trained = trained
        on_start(folder)
        raise ValueError("no luck")

    expected = cli.UsageError if trained is False else ValueError
    with pytest.raises(expected, match="no luck"):
        status_of(other)
    assert (tmp_path / "r").exists() == (trained is not False)


@pytest.fixture
def status_of(tmp_path, monkeypatch):
    """The status of a command line whose experiment runs a function."""
    from keras_app import experiments

    def status(experiment):
        name = tmp_path.name  # gin knows a name for good

        def make():
            return types.SimpleNamespace(run=experiment)

        monkeypatch.setattr(experiments, name, make, raising=False)
        file = tmp_path / "other.gin"
        file.write_text(
            "from __gin__ import dynamic_registration\n"
            "from keras_app import experiments\n"
            "from keras_app import train\n"
            f"train.run.experiment = @experiments.{name}()\n"
        )
        return train.main(
            ["train", f"--gin_file={file}", f"--run_dir={tmp_path / 'r'}"]
        )

    return status


@pytest.mark.parametrize("chief", [True, False])
def test_the_first_process_says_what_was_missed_and_ends_with_status_3(
    chief, status_of, monkeypatch, capsys
):
    def other(run_dir, resume, on_start):
        folder = RunFolder(run_dir)
        folder.begin()
        on_start(folder)
        return {"missed": ["app: asked for 0.9, reached 0.5"]}

    monkeypatch.setattr(devices, "is_chief", lambda: chief)
    # The others must not end with it: a launcher may end all processes with
    # the first that does not end with 0, while the first is still writing.
    assert status_of(other) == (3 if chief else 0)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "keras_app.train: missed: app: asked for 0.9, reached 0.5"
    ] * int(chief)


def test_a_lost_process_is_one_line_and_status_75(status_of, tmp_path, capsys):
    def other(run_dir, resume, on_start):
        raise devices.ProcessLost("another process is gone.")

    assert status_of(other) == 75
    [line] = capsys.readouterr().err.splitlines()
    assert "another process is gone. Start all of them again" in line
    assert f"--run_dir={tmp_path / 'r'} --resume" in line


def test_sigterm_ends_behind_a_checkpoint_and_resume_goes_on(run_dir, tmp_path):
    path = tmp_path / "run"
    command = [sys.executable, "-m", "keras_app.train", *SHORT]
    process = subprocess.Popen(
        [*command, f"--run_dir={path}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    # Its first line says that training has begun.
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75
    [line] = errors.splitlines()
    assert "stopped by SIGTERM" in line and f"--run_dir={path} --resume" in line
    assert not (path / "summary.json").exists()
    again = call(*SHORT, f"--run_dir={path}", "--resume")
    assert again.returncode == 0, again.stderr
    metrics = [(p / "metrics.jsonl").read_text() for p in (run_dir, path)]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (FloatingPointError("`loss` is nan."), "`loss` is nan."),
        (DegenerateScores("NaN in 'kernel'."), "NaN in 'kernel'."),
    ],
)
def test_a_run_that_fails_says_so_in_one_line_and_status_1(
    tmp_path, monkeypatch, capsys, error, words
):
    def save(self, arrays, meta):
        raise error

    monkeypatch.setattr(RunFolder, "save_checkpoint", save)
    arguments = ["train", *SHORT, f"--run_dir={tmp_path / 'run'}"]
    assert train.main(arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert words in line and str(tmp_path / "run") in line


def gin_files():
    return sorted(
        p.relative_to(ROOT / "gin") for p in ROOT.glob("gin/**/*.gin")
    )


def test_there_are_gin_files():
    assert pathlib.Path("app.gin") in gin_files()


@pytest.mark.parametrize("name", gin_files(), ids=str)
def test_every_gin_file_parses_and_states_its_promise(name):
    path = ROOT / "gin" / name
    text = path.read_text()
    for word in ("Command:", "Hardware:", "Time:", "Expected:"):
        assert f"# {word}" in text, f"{name} does not state its {word}"
    # As the command line does, for what a file includes.
    gin.add_config_file_search_path(str(ROOT / "gin"))
    gin.parse_config_files_and_bindings([str(path)], [])
    # What completes another run is named behind the file of that.
    if text.count("--gin_file=") == 1:
        assert gin.query_parameter("keras_app.train.run.experiment")


def test_gin_holds_no_package():
    # It would hide the gin library from `python -m`.
    assert not (ROOT / "gin" / "__init__.py").exists()


@pytest.mark.slow
def test_the_default_run_learns_and_meets_its_density(tmp_path):
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "keras_app.train",
            "--gin_file=app.gin",
            f"--run_dir={tmp_path / 'r'}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    # 23,184 convolution weights, int((1 - 0.8^10) 23184) of them pruned.
    assert summary["effective_density"] == (23184 - 20694) / 23184
    assert summary["accuracy"] > 0.75


HARMLESS = """
from __gin__ import dynamic_registration
import keras.optimizers
from keras_app import experiments
from keras_app import train
rate = 0.5
train.run.experiment = @experiments.Train()
experiments.Train.optimizer = @keras.optimizers.SGD
keras.optimizers.SGD.learning_rate = %rate
"""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("import os", "imports os"),
        ("from os import path", "imports os.path"),
        ("include '/tmp/other.gin'", "includes /tmp/other.gin"),
        (
            "from keras_app import cli\ntrain.run.export = @cli.os._exit",
            "names cli.os._exit",
        ),
        (
            "from keras_app import cli\ncli.sys.setrecursionlimit.limit = 1",
            "names cli.sys.setrecursionlimit",
        ),
    ],
)
def test_a_config_from_elsewhere_can_only_name_what_is_ours(
    tmp_path, line, said
):
    (tmp_path / "config.gin").write_text(HARMLESS + line + "\n")
    with pytest.raises(cli.UsageError, match=re.escape(said)) as refused:
        train.main(["train", f"--run_dir={tmp_path}", "--resume"])
    assert f"--gin_file={tmp_path}/config.gin" in str(refused.value)


def test_a_config_of_our_own_is_read(tmp_path):
    path = tmp_path / "config.gin"
    path.write_text(HARMLESS)
    configuration.check_own(path)
    for known in (ROOT / "gin").rglob("*.gin"):
        if "include" not in known.read_text():
            configuration.check_own(known)
