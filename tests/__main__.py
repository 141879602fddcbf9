"""Runs the suite on every Keras backend that is installed.

`python -m tests` covers TensorFlow, JAX and, where it is installed, PyTorch.
Further arguments go to pytest. Tests marked `backend_free` run once.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile

# What is marked `backend_free` runs on the first, the fastest.
BACKENDS = ("torch", "tensorflow", "jax")


def main():
    """Returns the exit status: 0 if every backend's run passed."""
    with tempfile.TemporaryDirectory() as compiled:
        return _run(compiled)


def _run(compiled):
    installed = [b for b in BACKENDS if importlib.util.find_spec(b)]
    failed = []
    for backend in installed:
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2"]
        # In the order of the names: kills of whole runs, few tests that take
        # minutes, would come last by their number and leave a worker idle.
        command += ["--dist", "loadfile", "--no-loadscope-reorder"]
        command += sys.argv[1:]
        if backend != installed[0]:
            command += ["-m", "not backend_free"]
        print(f"== tests on the {backend} backend", flush=True)
        environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            # Two workers share the machine: more threads get in the way, and so
            # does a third worker, which makes the same tests a third slower.
            "OMP_NUM_THREADS": "1",
            # Tests compile much and compute little.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            # And often the same: each program once, in all processes.
            "JAX_COMPILATION_CACHE_DIR": compiled,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        if subprocess.run(command, env=environment).returncode != 0:
            failed.append(backend)
    missing = [b for b in BACKENDS if b not in installed]
    if missing:
        print(f"== not installed, not tested: {', '.join(missing)}")
    print(f"== {'failed on ' + ', '.join(failed) if failed else 'all passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
