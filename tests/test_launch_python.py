"""The launchers in Python: what they would run, and what their parts do.

No cluster is near: stand-ins for kinetic, a training and Ray note how they were
called.
"""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import types

import pytest

from keras_app import cli
from keras_app import train
from keras_app.experiments.cli import configuration

pytestmark = pytest.mark.backend_free

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
KINETIC = ["--accelerator=tpu-v6e-8", "--output=gs://mine/runs/lam"]
GRID = "--grid=regularizers.L1.lam=[0.1, 0.3]"
RAY = ["--gin_file=rigl.gin", "--run_dir=/shared/rigl"]


def launch(name, *arguments):
    return subprocess.run(
        [sys.executable, f"launch/{name}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def imported(monkeypatch):
    """Imports a file of the folder, and forgets it at the end."""
    monkeypatch.syspath_prepend(LAUNCH)
    before = signal.getsignal(signal.SIGTERM)
    known = set(sys.modules)

    def take(name):
        return __import__(name)

    yield take
    signal.signal(signal.SIGTERM, before)
    for name in set(sys.modules) - known:
        if name in ("doors", "grid", "kinetic_job", "keras_kinetic"):
            del sys.modules[name]


# ---- what is run --------------------------------------------------------

TRAIN = "env KERAS_BACKEND=jax {}python -m keras_app.train "
DRY = {
    "a training": (
        "keras_kinetic.py",
        [*KINETIC, "--spot", "--", "--gin_file=rigl.gin"],
        "kinetic.run(accelerator='tpu-v6e-8', output_dir='gs://mine/runs/lam', "
        "spot=True)\n    " + TRAIN.format("") + "--gin_file=rigl.gin "
        "--gin_file=distribution/tpu.gin --run_dir=gs://mine/runs/lam "
        "--resume\n",
    ),
    "a sweep": (
        "keras_kinetic.py",
        [*KINETIC, GRID, "--data=gs://mine/tfds", "--project=p"]
        + ["--", "--gin_file=bregman.gin"],
        "kinetic.run(accelerator='tpu-v6e-8', output_dir='gs://mine/runs/lam', "
        "spot=False, project='p', volumes={'/data': 'gs://mine/tfds'})\n"
        + "".join(
            "    " + TRAIN.format("") + "--gin_file=bregman.gin "
            "--gin_file=distribution/tpu.gin "
            f"--gin_param=regularizers.L1.lam={x}"
            f" --run_dir=gs://mine/runs/lam/lam={x} --resume\n"
            for x in (0.1, 0.3)
        ),
    ),
    "a TPU of Ray": (
        "ray_train.py",
        ["--workers=4", "--tpu=4x4", "--accelerator=TPU-V6E"]
        + ["--address=auto", "--", *RAY],
        "ray.init('auto')\nJaxTrainer on ScalingConfig(num_workers=4, "
        "use_tpu=True, topology='4x4', accelerator_type='TPU-V6E')\n    "
        + TRAIN.format("JAX_PLATFORMS=tpu ")
        + "--gin_file=rigl.gin --run_dir=/shared/rigl "
        "--gin_file=distribution/tpu.gin --resume\n",
    ),
    "GPUs of Ray": (
        "ray_train.py",
        ["--workers=2", "--gpus=8", "--", *RAY],
        "ray.init('local')\nJaxTrainer on ScalingConfig(num_workers=2, "
        "use_gpu=True, resources_per_worker={'GPU': 8})\n    "
        + TRAIN.format("JAX_PLATFORMS=cuda ")
        + "--gin_file=rigl.gin --run_dir=/shared/rigl "
        "--gin_file=distribution/data_parallel.gin --resume\n",
    ),
}


def test_every_launcher_is_tested():
    found = {path.name for path in LAUNCH.glob("*.py")}
    # What others import, and what is sent along.
    assert found - {"doors.py", "kinetic_job.py"} == {
        n for n, _, _ in DRY.values()
    }


@pytest.mark.parametrize("case", DRY)
def test_a_dry_run_prints_what_would_run_and_the_parser_takes_it(case):
    name, arguments, printed = DRY[case]
    done = launch(name, "--dry-run", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == printed
    lines = [x for x in done.stdout.splitlines() if "keras_app.train" in x]
    for line in lines:
        _, _, command = line.partition("-m keras_app.train ")
        options = train.PARSER.parse_args(shlex.split(command))
        assert options.resume and options.run_dir
        assert all(configuration.find(file) for file in options.gin_file)


@pytest.mark.parametrize(
    "name, arguments, words",
    [
        ("keras_kinetic.py", KINETIC, "--gin_file must be given behind --"),
        ("keras_kinetic.py", KINETIC[:1], "required: --output"),
        (
            "keras_kinetic.py",
            [KINETIC[0], "--output=runs", "--", "--gin_file=a.gin"],
            "--output must be gs://BUCKET/FOLDER. Received: --output=runs",
        ),
        (
            "keras_kinetic.py",
            [*KINETIC, "--", "--gin_file=a.gin", "--run_dir=b"],
            "--run_dir must not be given behind --",
        ),
        (
            "keras_kinetic.py",
            [*KINETIC, "--grid=lam", "--", "--gin_file=a.gin"],
            "`--grid` must be a binding and a list",
        ),
        (
            "keras_kinetic.py",
            [*KINETIC, "--gin_file=a.gin"],
            "unexpected argument: --gin_file=a.gin (what the command itself",
        ),
        (
            "keras_kinetic.py",
            [*KINETIC, "--", f"--gin_file={ROOT}/gin/rigl.gin"],
            "--gin_file must be below the folder where this is started",
        ),
        (
            "ray_train.py",
            ["--workers=0", "--cpus=1", "--", *RAY],
            "--workers: must be a whole number, at least 1. Received: 0",
        ),
        (
            "ray_train.py",
            ["--workers=2", "--", *RAY],
            "one of --tpu, --gpus and --cpus must be given",
        ),
        (
            "ray_train.py",
            ["--workers=2", "--tpu=4x4", "--", *RAY],
            "--tpu and --accelerator must be given together",
        ),
        (
            "ray_train.py",
            ["--workers=2", "--cpus=1", "--", RAY[0]],
            "--run_dir must be given behind --: a folder that all machines see",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(name, arguments, words):
    done = launch(name, "--dry-run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"launch/{name}: ") and words in line


@pytest.mark.parametrize("name", ["keras_kinetic.py", "ray_train.py"])
def test_help_names_all_options(name):
    done = launch(name, "--help")
    assert done.returncode == 0
    assert f"Usage: launch/{name}" in done.stdout
    assert "--dry-run" in done.stdout and "--retries" in done.stdout


# ---- kinetic ------------------------------------------------------------


class Kinetic(types.ModuleType):
    """Notes what is sent, and gives the statuses it is told."""

    def __init__(self, statuses):
        super().__init__("kinetic")
        self.statuses = statuses
        self.core = types.ModuleType("kinetic.core")
        chips = types.SimpleNamespace(num_nodes=1)
        self.core.accelerators = types.ModuleType("kinetic.core.accelerators")
        self.core.accelerators.parse_accelerator = lambda name, spot: chips
        self.chips = chips

    def run(self, **how):
        self.how = how

        def decorated(function):
            folder = pathlib.Path(sys.modules[function.__module__].__file__)
            self.sent = {
                path.relative_to(folder.parent).as_posix()
                for path in folder.parent.rglob("*")
            }
            needed = folder.with_name("requirements.txt")
            self.requirements = needed.read_text().splitlines()
            return types.SimpleNamespace(run_async_map=self.run_async_map)

        return decorated

    def run_async_map(self, jobs, **how):
        self.jobs, self.map = jobs, how
        return types.SimpleNamespace(
            results=lambda return_exceptions: self.statuses
        )

    def install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "kinetic", self)
        monkeypatch.setitem(sys.modules, "kinetic.core", self.core)
        name = "kinetic.core.accelerators"
        monkeypatch.setitem(sys.modules, name, self.core.accelerators)
        return self


def test_a_sweep_sends_a_training_for_each_point(
    imported, monkeypatch, tmp_path, capsys
):
    (tmp_path / "mine.gin").touch()
    monkeypatch.chdir(tmp_path)
    module = imported("keras_kinetic")
    kinetic = Kinetic([0, RuntimeError("lost")]).install(monkeypatch)
    arguments = [*KINETIC, GRID, "--at_a_time=2", "--retries=3"]
    own = ["--gin_file", "mine.gin"]
    assert module.main([*arguments, "--", *own]) == 1
    shared = [*own, "--gin_file=distribution/tpu.gin"]
    assert kinetic.jobs == [
        ("lam=0.1", [*shared, "--gin_param=regularizers.L1.lam=0.1"]),
        ("lam=0.3", [*shared, "--gin_param=regularizers.L1.lam=0.3"]),
    ]
    assert kinetic.map == {
        "input_mode": "args",
        "max_concurrent": 2,
        "retries": 3,
    }
    assert kinetic.how["output_dir"] == "gs://mine/runs/lam"
    wanted = {"keras_app/train.py", "gin/distribution/tpu.gin", "mine.gin"}
    assert wanted | {"kinetic_job.py"} <= kinetic.sent
    assert "keras>=3.14,<3.16" in kinetic.requirements
    # For the run folder in the bucket.
    assert any(line.startswith("gcsfs") for line in kinetic.requirements)
    # Its own version of JAX would not be the one that was tested.
    assert kinetic.requirements[-1] == "jax[tpu]>=0.10,<0.11  # kn:keep"
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("lam=0.3: lost")


def test_several_machines_are_refused(imported, monkeypatch, capsys):
    module = imported("keras_kinetic")
    Kinetic([0]).install(monkeypatch).chips.num_nodes = 4
    with pytest.raises(SystemExit) as end:
        module.main([*KINETIC, "--", "--gin_file=rigl.gin"])
    assert end.value.code == 2
    assert "which has 4" in capsys.readouterr().err


# Says what it was asked to do, and ends as the name of the run says.
TRAINING = """#!{python} -IS
import pathlib, sys
pathlib.Path({noted!r}).write_text("\\n".join(sys.argv[1:]))
sys.exit(75 if "stopped" in sys.argv[-2] else 3)
"""


@pytest.mark.parametrize("label", ["", "lam=0.1", "stopped"])
def test_a_job_trains_into_the_bucket(label, imported, monkeypatch, tmp_path):
    python, noted = tmp_path / "python", tmp_path / "noted"
    python.write_text(TRAINING.format(python=sys.executable, noted=str(noted)))
    python.chmod(0o755)
    job = imported("kinetic_job")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("KINETIC_OUTPUT_DIR", "gs://mine/runs/")
    if label == "stopped":
        # Which kinetic takes for a reason to send it again.
        with pytest.raises(RuntimeError, match="exit status 75"):
            job.train(label, ["--gin_file=a.gin"])
    else:
        assert job.train(label, ["--gin_file=a.gin"]) == 3
    assert noted.read_text().split("\n") == [
        *("-m", "keras_app.train", "--gin_file=a.gin"),
        "--run_dir=gs://mine/runs" + (f"/{label}" if label else ""),
        "--resume",
    ]


def test_the_notice_of_a_preemption_reaches_the_training(
    imported, monkeypatch, tmp_path
):
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/bash\ntrap 'exit 75' TERM\nkill -TERM $PPID\n"
        "for _ in {1..600}; do sleep 0.1; done\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("KINETIC_OUTPUT_DIR", "gs://mine/runs/")
    with pytest.raises(RuntimeError, match="exit status 75"):
        imported("kinetic_job").train("", [])


# ---- Ray ----------------------------------------------------------------


@pytest.mark.parametrize(
    "ends, told",
    [
        (0, (0, [])),
        (3, (3, [])),
        (
            cli.UsageError("no such file."),
            (2, ["keras_app.train: no such file."]),
        ),
        (75, None),
    ],
)
def test_ray_starts_again_what_was_stopped_and_nothing_else(
    imported, monkeypatch, ends, told
):
    module = imported("ray_train")

    def main(argv):
        assert argv == ["keras_app.train", "--gin_file=a.gin"]
        if isinstance(ends, Exception):
            raise ends
        return ends

    monkeypatch.setattr(train, "main", main)
    config = {"folder": os.getcwd(), "arguments": ["--gin_file=a.gin"]}
    if told is None:
        with pytest.raises(RuntimeError, match="exit status 75"):
            module._work(config)
    else:
        assert module._work(config) == told


@pytest.mark.slow
def test_ray_trains_in_two_processes(tmp_path):
    pytest.importorskip("pandas", reason="a part of ray[train]")
    pytest.importorskip("pydantic", reason="a part of ray[train]")
    run_dir = tmp_path / "run"
    done = launch(
        "ray_train.py",
        *("--workers=2", "--cpus=1", "--retries=0", "--"),
        *("--gin_file=rigl.gin", f"--run_dir={run_dir}"),
        "--gin_param=experiments.Train.epochs=2",
        "--gin_param=data.Holdout.split='train[:640]'",
        "--gin_param=schedules.ConstantSparsity.end_step=10",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == 2
    assert (run_dir / "summary.json").exists()
