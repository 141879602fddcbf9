"""Commands side by side, on Ray: one machine or a cluster.

`attempt` travels to Ray's workers by value, so that none of them imports Keras
beside the process it starts. It may use the standard library only.
"""

import contextlib
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import time

from keras_app import cli
from keras_app.cli import GIN_TRACE
from keras_app.experiments.run import interruption

# The smallest that Ray takes: nothing but a few words travels through it.
_STORE_BYTES = 10**8
_PATIENCE_SECONDS = 10
_GLANCE_SECONDS = 1.0


def import_ray():
    """Returns Ray.

    Raises:
        cli.UsageError: It is not installed.
    """
    # Ray reports to its makers unless told otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.cloudpickle
    except ImportError as error:
        raise cli.UsageError(
            "the sweep needs Ray: `pip install 'keras_app[ray]'`."
        ) from error
    return ray


@contextlib.contextmanager
def started(ray, address=None):
    """Connects to a cluster, or starts a Ray of our own; and leaves it.

    Whatever still runs then is killed.

    Args:
        ray: The library.
        address: The cluster's address, or `None` for this machine alone.

    Raises:
        cli.UsageError: There is no cluster, or another Ray on it.
    """
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    refusals = OSError, RuntimeError, ValueError, ray.exceptions.RayError
    try:
        # Ray answers SIGTERM with SystemExit from here on.
        with interruption.keeping_handler():
            if address is None:
                where = "Ray does not start"
                ray.init(
                    "local",
                    include_dashboard=False,
                    object_store_memory=_STORE_BYTES,
                    **quiet,
                )
            else:
                where = f"--address={address}"
                _knock(address)
                where += " (if it asks for a token, set RAY_AUTH_MODE=token)"
                ray.init(address, **quiet)
    except SystemExit:
        signal.raise_signal(signal.SIGTERM)
    except refusals as error:
        raise cli.UsageError(f"{where}: {cli.one_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address):
    """Raises an `OSError` where nobody listens; Ray itself tries for long."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _PATIENCE_SECONDS).close()


def room(ray, cpus, gpus):
    """Returns how many commands of this size run at a time."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        int(
            min(
                node.get("CPU", 0) // cpus,
                node.get("GPU", 0) // gpus if gpus else sys.maxsize,
            )
        )
        for node in nodes
    )


def run_all(ray, jobs, cpus, gpus, ended):
    """Runs commands to their ends, as many at a time as there is room.

    Args:
        ray: The library, started.
        jobs: `{name: (arguments, log, cwd, environment)}`, see `attempt`.
        cpus, gpus: What each command needs; `gpus` may be a fraction.
        ended: Called with a name, the seconds its command took, its exit
            status and what it said last. If its worker or machine was lost
            these are 0, `None` and why. Returns whether to run it again.

    Raises:
        KeyboardInterrupt: A signal's handler raised it. The commands were
            sent SIGTERM and have ended; a second signal does not wait for it.
    """
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    # A worker that is lost counts as a failure like any other.
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(attempt)
    going = {}

    def start(name):
        going[task.remote(*jobs[name])] = name

    def take(reference):
        name = going.pop(reference)
        try:
            seconds, status, said = ray.get(reference)
        except ray.exceptions.RayError as error:
            # What went wrong in the task itself comes with a traceback.
            cause = getattr(error, "cause", None) or error
            seconds, status, said = 0.0, None, cli.one_line(cause)
        if ended(name, seconds, status, said):
            start(name)

    try:
        for name in jobs:
            start(name)
        while going:
            (reference,), _ = ray.wait(list(going))
            take(reference)
    except KeyboardInterrupt:
        for reference in going:
            ray.cancel(reference)
        if going:
            ray.wait(list(going), num_returns=len(going))
        raise


def attempt(arguments, log, cwd, environment):
    """Runs one command of this Python to its end.

    Args:
        arguments: Those after the interpreter.
        log: File to append all output to.
        cwd: Folder to start in.
        environment: Variables on top of those that are set.

    Returns:
        `(seconds, exit status, last line of the output)`.
    """
    clock = time.monotonic()
    # Ray cancels a task as Ctrl-C would. A launcher in the background ignores
    # that, and so would this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(log, "ab") as file:
        # The command inherits the lock. Should it outlive its worker, another
        # attempt waits for it instead of writing to the same files. Some
        # shared file systems know no locks.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        begin = file.seek(0, os.SEEK_END)
        with subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        ) as process:
            status = None
            try:
                # Only between glances can it be told to stop.
                while status is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        status = process.wait(_GLANCE_SECONDS)
            except KeyboardInterrupt:
                process.terminate()
                process.wait()
                raise
    with open(log, "rb") as file:
        file.seek(begin)
        lines = file.read().decode(errors="replace").splitlines()
    lines = [line.strip() for line in lines]
    lines = [x for x in lines if x and not x.startswith(GIN_TRACE)]
    return time.monotonic() - clock, status, lines[-1] if lines else ""


def reason(status):
    """Returns an exit status in words."""
    if status is None:
        return "lost"
    if status >= 0:
        return f"exit status {status}"
    return f"killed by signal {-status}"
