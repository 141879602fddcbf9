"""What tests share: backends, values, and processes of their own.

Networks and data are in `models.py`, methods in `methods.py`.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
BACKEND = keras.backend.backend()
KERAS = tuple(map(int, keras.__version__.split(".")[:2]))

tensorflow_only = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="there on TensorFlow alone"
)
jax_only = pytest.mark.skipif(BACKEND != "jax", reason="there on JAX alone")
not_torch = pytest.mark.skipif(
    BACKEND == "torch", reason="no such thing in Keras on PyTorch"
)


# ---- values ------------------------------------------------------------


def to_numpy(value):
    return keras.ops.convert_to_numpy(value)


def sync(model):
    """Within a `fit` on JAX, variables lag behind what has been trained."""
    if BACKEND == "jax":
        model.jax_state_sync()


def zeros(array):
    array = to_numpy(array)
    return int(array.size - np.count_nonzero(array))


def weights(model):
    """`{path: values}` of what trains, in single precision."""
    return {
        v.path: to_numpy(v).astype("float32") for v in model.trainable_variables
    }


def assert_masks(actual, expected):
    assert len(actual) == len(expected)
    for got, want in zip(actual, expected):
        assert got.dtype == bool
        np.testing.assert_array_equal(got, want)


def events(run_dir):
    """What a run has logged."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_run_folder(run_dir, summary, *models):
    """It holds what every experiment promises, and these models."""
    assert {path.name for path in run_dir.iterdir()} == {
        ".lock",
        "checkpoints",
        "metrics.jsonl",
        "report.html",
        "summary.json",
        "tensorboard",
        *models,
    }
    assert json.loads((run_dir / "summary.json").read_text()) == summary
    for name in ("effective_density", "accuracy", "seconds", "seed"):
        assert isinstance(summary[name], (int, float)), name
    assert summary["versions"]["keras"] == keras.__version__
    assert summary["versions"]["backend"] == BACKEND


def assert_refused(make, words):
    """`make` raises a `ValueError` that holds all the words."""
    with pytest.raises(ValueError) as error:
        make()
    for each in words:
        assert each in str(error.value)


# ---- processes ---------------------------------------------------------


def run(script, cwd=ROOT, path=ROOT, **environment):
    """Runs Python code in a process of its own; returns its lines."""
    environment = {**os.environ, "KERAS_BACKEND": BACKEND, **environment}
    environment.pop("PYTHONPATH", None)
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()


# Runs each case and prints `{case: "ok" or what went wrong}`.
RUNNER = """
    import json, traceback
    results = {}
    for name, case in cases.items():
        try:
            results[name] = case() or "ok"
        except Exception:
            results[name] = traceback.format_exc()
    print(json.dumps(results))
"""


@contextlib.contextmanager
def locked(path):
    """While open, another process holds the lock of a run folder."""
    program = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'a+')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('mine', flush=True)\n"
        "sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-S", "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "mine\n"
    try:
        yield
    finally:
        other.communicate("")


def turns(*medians, spread=0.25):
    """Measures what is to be told, for files in the order they are timed."""

    def take(contents):
        assert len(contents) == len(medians)
        return [
            {
                **{"median_ms": each, "least_ms": each, "spread_ms": spread},
                **{"threads": 1, "rounds": 9},
            }
            for each in medians
        ]

    return take
