"""What tests share: backends, values, and processes of their own.

Networks and data are in `models.py`, methods in `methods.py`.
"""

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
        timeout=240,
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
