"""The runs of a grid: what is to be done, what came of it, where it lies."""

import collections
import os
import pathlib

from rich.markup import escape

from keras_app import cli
from keras_app import host
from keras_app.experiments import page
from keras_app.experiments.cli.configuration import CONFIG
from keras_app.experiments.page.runs import number
from keras_app.experiments.run.folder import RunFolder
from keras_app.experiments.run.folder import SUMMARY
from keras_app.experiments.run.progress import Terminal
from keras_app.experiments.sweep import grid
from keras_app.experiments.sweep import parallel
from keras_app.experiments.sweep.results import folders_and_notes
from keras_app.experiments.sweep.results import SWEEP
from keras_app.report import pareto_front

LOGS = "logs"
NAME = "keras_app.sweep"


def bindings(point):
    """Returns a point as gin reads it: `["binding=value", ...]`."""
    return [f"{binding}={value!r}" for binding, value in point.items()]


class Sweep:
    """The runs of a grid, what became of them, and their folder.

    Args:
        path: The sweep folder; made by `run`.
        config: What the runs share, as gin reads it.
        grids: `[(binding, values), ...]`.

    Attributes:
        points: `[{binding: value}, ...]`, one for each run.
        runs: What `sweep.json` says about each, in the same order.
    """

    def __init__(self, path, config, grids):
        self.path = pathlib.Path(path).resolve()
        self.config = config
        self.grids = [f"{binding}={values!r}" for binding, values in grids]
        self.points = grid.points(grids)
        self.runs = [
            {
                "label": label,
                "point": {key: repr(value) for key, value in point.items()},
                "status": "waiting",
                "attempts": 0,
                "seconds": 0.0,
                "accuracy": None,
                "effective_density": None,
                "message": None,
            }
            for label, point in zip(grid.labels(self.points), self.points)
        ]
        self._folder = RunFolder(self.path)
        self._terminal = Terminal()

    @property
    def waiting(self):
        """The runs that are still to be done."""
        return [run for run in self.runs if run["status"] == "waiting"]

    def restore(self, stored):
        """Goes on from what `sweep.json` holds; what failed waits again.

        Raises:
            cli.UsageError: It is another sweep.
        """
        config = (self.path / CONFIG).read_text()
        if (stored["grids"], config) != (self.grids, self.config):
            raise cli.UsageError(
                f"{self.path} was started with another configuration or grid. "
                "Continue it without --gin_file, --gin_param and --grid, or "
                "start in another folder."
            )
        for run, before in zip(self.runs, stored["runs"]):
            run.update(attempts=before["attempts"], seconds=before["seconds"])
            self._read_summary(run)

    def run(self, ray, cpus, gpus, retries, may_grow):
        """Runs what is waiting, and writes `sweep.json` after each attempt.

        Args:
            ray: The library, started.
            cpus, gpus: What each run needs.
            retries: How often a run that failed is started again.
            may_grow: Whether to wait where no machine is large enough.

        Raises:
            cli.UsageError: The machine is too small, or the folder cannot be
                written.
        """
        places = parallel.room(ray, cpus, gpus)
        if not places and not may_grow:
            raise cli.UsageError(
                f"this machine is too small for --cpus_per_run={cpus} "
                f"--gpus_per_run={gpus:g}."
            )
        self._begin()
        environment = _environment(cpus, gpus)
        jobs, runs = {}, {}
        for run, point in zip(self.runs, self.points):
            if run["status"] == "waiting":
                runs[run["label"]] = run
                jobs[run["label"]] = self._job(run, point, environment)
        done = len(self.runs) - len(jobs)
        self._terminal.line(
            f"{self.path}: {len(self.runs)} runs, {done} of them done, "
            + (f"{places} at a time" if places else "waiting for a machine")
        )
        tries = collections.Counter()

        def ended(label, seconds, status, said):
            tries[label] += 1
            may_retry = tries[label] <= retries
            again = self._ended(runs[label], seconds, status, said, may_retry)
            self._write()
            return again

        with self._terminal.bar(len(self.runs), done):
            parallel.run_all(ray, jobs, cpus, gpus, ended)

    def _begin(self):
        with cli.usage(OSError):
            (self.path / LOGS).mkdir(parents=True, exist_ok=True)
        cli.keep_native_chatter_in(self.path)
        self._folder.write_text(CONFIG, self.config)
        self._write()

    def _job(self, run, point, environment):
        """The arguments of `parallel.attempt`."""
        label = run["label"]
        arguments = ["-m", "keras_app.train"]
        arguments.append(f"--gin_file={self.path / CONFIG}")
        arguments += [f"--gin_param={param}" for param in bindings(point)]
        arguments += [f"--run_dir={self.path / label}", "--resume"]
        log = str(self.path / LOGS / f"{label}.log")
        return arguments, log, os.getcwd(), environment

    def _ended(self, run, seconds, status, said, may_retry):
        """Notes the end of an attempt; returns whether to try again."""
        run["attempts"] += 1
        run["seconds"] += seconds
        label = escape(run["label"])
        if status in (0, cli.EXIT_MISSED) and self._read_summary(run):
            self._terminal.line(
                f"{label}: accuracy {_shown(run['accuracy'])}, density "
                f"{_shown(run['effective_density'])}, {run['seconds']:.0f} s"
                + (" [yellow](missed its target)[/]" * bool(run["message"]))
            )
            self._terminal.advance("")
            return False
        run["message"] = f"{parallel.reason(status)}: {said or 'no output'}"
        # A configuration that is wrong stays so.
        again = may_retry and status != cli.EXIT_USAGE
        self._terminal.line(
            f"{label}: [red]failed[/], {escape(run['message'])}"
            + ("; trying again" if again else "")
        )
        if not again:
            run["status"] = "failed"
            self._terminal.advance("")
        return again

    def _read_summary(self, run):
        """Takes over what a run says of itself, if it is finished."""
        summary = RunFolder(self.path / run["label"]).read_json(SUMMARY)
        if summary is None:
            return False
        missed = summary.get("missed")
        run["status"] = "missed" if missed else "done"
        run["message"] = "; ".join(missed) if missed else None
        for key in ("accuracy", "effective_density"):
            run[key] = number(summary.get(key))
        return True

    def _write(self):
        self._folder.write_json(SWEEP, {"grids": self.grids, "runs": self.runs})

    # ---- results -------------------------------------------------------

    def finish(self):
        """Writes the page and prints the results.

        Returns:
            The exit status.
        """
        self._write()
        self._print_table()
        folders, notes = folders_and_notes(self.path)
        if folders:
            written = self.path / page.PAGE
            page.write_page(folders, written, notes=notes)
            self._terminal.line(f"{written} shows the runs side by side")
        for run in self.runs:
            if run["message"]:
                told = (run[key] for key in ("status", "label", "message"))
                cli.tell(NAME, ": ".join(told))
        failed = any(run["status"] == "failed" for run in self.runs)
        return cli.EXIT_FAILED if failed else 0

    def _print_table(self):
        keys = "label", "effective_density", "accuracy"
        rows = [tuple(run[key] for key in keys) for run in self.runs]
        rows = [row for row in rows if None not in row]
        if not rows:
            return
        rows.sort(key=lambda row: (row[1], -row[2]))
        front = pareto_front([row[1] for row in rows], [row[2] for row in rows])
        self._terminal.table(
            f"{len(rows)} of {len(self.runs)} runs",
            ("run", "density", "accuracy", "front"),
            [
                (label, _shown(density), _shown(accuracy), "*" * (i in front))
                for i, (label, density, accuracy) in enumerate(rows)
            ],
        )


def _shown(value):
    return "-" if value is None else f"{value:.4f}"


_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    # JAX's.
    "NPROC",
)


def _environment(cpus, gpus):
    """The variables that keep runs from taking each other's share."""
    found = dict.fromkeys(_THREADS, str(cpus))
    if not gpus:
        found["CUDA_VISIBLE_DEVICES"] = "-1"
    elif gpus < 1:
        # TensorFlow and JAX would take all memory of a GPU at once.
        found["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
        found["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    # The machines of a cluster have settings of their own.
    found["KERAS_BACKEND"] = host.BACKEND
    if "TFDS_DATA_DIR" in os.environ:
        found["TFDS_DATA_DIR"] = os.environ["TFDS_DATA_DIR"]
    return found
