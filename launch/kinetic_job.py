"""What a machine of kinetic does: one training, its run folder in a bucket.

`keras_kinetic.py` sends this file along with the package.
"""

import os
import pathlib
import signal
import subprocess
import sys
import threading

OUTPUT = "KINETIC_OUTPUT_DIR"  # what kinetic says of the bucket's folder
STOPPED = 75


def train(label, arguments):
    """Trains; returns the exit status of `keras_app.train`.

    Args:
        label: The folder below the output folder, or `""`.
        arguments: Those of the command, but for the run folder.

    Raises:
        RuntimeError: The training was stopped, or killed: started again it goes
            on.
    """
    here = pathlib.Path(__file__).parent
    run_dir = "/".join(filter(None, (os.environ[OUTPUT].rstrip("/"), label)))
    children, told = [], threading.Event()

    def stop(*_):
        told.set()
        for each in children:
            each.terminate()

    # The notice that a machine is taken away comes to this process alone.
    signal.signal(signal.SIGTERM, stop)
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "keras_app.train", *arguments),
            *(f"--run_dir={run_dir}", "--resume"),
        ],
        cwd=here,
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(here)},
    )
    children.append(child)
    if told.is_set():
        child.terminate()
    status = child.wait()
    if status == STOPPED or status < 0:
        raise RuntimeError(f"the training ended with exit status {status}")
    return status
