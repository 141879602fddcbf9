"""Child processes that have imported everything already, and their end.

Importing takes longer than a small run. The parent imports once and computes
nothing, because a backend that has started threads does not survive a fork.
"""

import collections
import dataclasses
import importlib
import os
import pathlib
import signal
import sys
import time
import traceback

_LOOK_SECONDS = 2e-4  # between two looks at the folder
_LONGEST_SECONDS = 300
_CRASHED = 70
_MODULES = (
    "tensorboard.summary",
    "tensorflow",  # for data, on any backend: the slowest of all
    "tensorflow_datasets",
    "keras_app.train",
    "keras_app.experiments.data",
    "keras_app.experiments",
    "keras_app.initializers",
    "keras_app.experiments.models",
    "keras_app.optimizers",
    "keras_app.pruners",
    "keras_app.regularizers",
    "keras_app.experiments.page",
    "keras_app.schedules",
    "keras_app.selection",
)


def import_everything():
    """What a run imports, and no computation."""
    for name in _MODULES:
        importlib.import_module(name)
    # A fifth of a small run would go into drawing what nobody looks at.
    sys.modules["keras_app.experiments.page"].write_page = lambda *_, **__: None


def start(arguments, log, prepare=lambda: None):
    """Forks a process that runs `keras_app.train`; returns its id.

    Args:
        arguments: Those of the command, its name first.
        log: File to append its output to.
        prepare: Called in it first.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = _CRASHED
    try:
        _send_output_to(log)
        from keras_app import cli
        from keras_app import train

        prepare()
        status = train.main(arguments)
    except cli.UsageError as error:
        print(error)
        status = cli.EXIT_USAGE
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # No thread is waited for: what `main` returned from is on the disk.
        os._exit(status)


def _send_output_to(log):
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


@dataclasses.dataclass
class End:
    """How a child ended.

    Attributes:
        status: Its exit status; `None` if it was killed.
        seconds: How long it lived.
        writes: Files that it was seen to write.
        torn: Names of the files that the kill left half written.
    """

    status: int | None
    seconds: float
    writes: int
    torn: tuple = ()


def watch(
    child, writes, seconds=_LONGEST_SECONDS, write=None, suffix="", delay=0.0
):
    """Waits until a child ends, and kills it before at a given moment.

    Args:
        child: Its id.
        writes: Looks at the run folder: `OnDisk` or `InStore`.
        seconds: Age at which to kill it.
        write: Number of the write, from 1, during which to kill it. Defaults
            to `None`.
        suffix: How the names of the files that count end.
        delay: Seconds to wait from when that write is seen.

    Returns:
        An `End`.
    """
    began = time.monotonic()
    seen = set()
    killed = False
    while True:
        found, state = os.waitpid(child, 0 if killed else os.WNOHANG)
        age = time.monotonic() - began
        if found:
            break
        seen |= writes.seen()
        aimed_at = [name for name, _ in seen if name.endswith(suffix)]
        if write is not None and len(aimed_at) >= write:
            time.sleep(delay)
            killed = True
        killed = killed or age > seconds
        if killed:
            os.kill(child, signal.SIGKILL)
        elif write is None and seconds < _LONGEST_SECONDS:
            time.sleep(min(0.005, max(0.0, seconds - age)))
        else:
            time.sleep(_LOOK_SECONDS)
    if not os.WIFSIGNALED(state):
        return End(os.WEXITSTATUS(state), age, len(seen))
    torn = tuple(sorted(writes.torn()))
    return End(None, age, len(seen), torn)


class OnDisk:
    """Sees temporary files in a run folder on this disk.

    Args:
        folder: Its `pathlib.Path`.
    """

    def __init__(self, folder):
        self._folder = folder
        # What an earlier kill left is no write of this child.
        self._before = _temporaries(folder)

    def seen(self):
        """`{(name, inode)}` of those that are not as they were before."""
        found = _temporaries(self._folder).items()
        return {file for file, time in found if self._before.get(file) != time}

    def torn(self):
        """The names of what is half written."""
        return [name for name, _ in self.seen()]


class InStore:
    """Sees what the server of `tests.s3` writes down.

    Args:
        log: The server's file, a `pathlib.Path`.
        folder: The run folder, a text.
    """

    def __init__(self, log, folder):
        self._file = open(log)
        self._file.seek(0, os.SEEK_END)
        self._start = folder.removeprefix("s3:/")
        self._begun, self._ended = [], []

    def seen(self):
        """`{(name, number)}` of the objects that began to be put."""
        for line in self._file:
            what, _, path = line.strip().partition(" ")
            if path.startswith(self._start):
                noted = self._begun if what == "begun" else self._ended
                noted.append(path.rpartition("/")[2])
        return {(name, i) for i, name in enumerate(self._begun)}

    def torn(self):
        """The names of what was on its way."""
        self.seen()
        left = collections.Counter(self._begun)
        left.subtract(self._ended)
        return list(left.elements())


def fetch(folder, place):
    """Copies a run folder of a store to this disk.

    Args:
        folder: The run folder, a text.
        place: The `pathlib.Path` to write.
    """
    # In a child: the store's client starts threads.
    child = os.fork()
    if not child:
        status = _CRASHED
        try:
            from keras_app import files

            files.path(folder).download(place)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            # Not as far as what the parent does at its own end.
            os._exit(status)
    _, state = os.waitpid(child, 0)
    if state:
        raise RuntimeError(f"{folder} could not be read")


def _temporaries(folder):
    """`{(name, inode): time of the last change}`."""
    found = {}
    for place in (folder, folder / "checkpoints"):
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.startswith(".writing-"):
                        name = entry.name.removeprefix(".writing-")
                        changed = entry.stat().st_mtime_ns
                        found[name, entry.inode()] = changed
        except FileNotFoundError:
            pass
    return found


def tail(log, lines=5):
    """Returns the end of a log."""
    path = pathlib.Path(log)
    return path.read_text().splitlines()[-lines:] if path.exists() else []
