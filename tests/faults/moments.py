"""Sends SIGTERM to one run at given moments, one after the other.

`python -m tests.faults.moments FOLDER MOMENT ...` prints a dict as JSON: how
the run ended at each moment, after how many seconds, and what it said; and how
it differs, when it has been resumed for the last time, from one that was left
alone. A moment must not lie before one that was named before it.
"""

import collections
import ctypes
import functools
import importlib
import json
import os
import pathlib
import signal
import sys
import time

from tests.faults import processes
from tests.faults.comparison import compare
from tests.methods import command

GRACE_SECONDS = 0.5
_SLOW_SECONDS = 1.0  # for one batch: longer than that

# What a run is doing when the signal comes: a function's call of that number.
#
# Native code does not return to Python, as while a step is compiled, so that
# no handler of Python's is called. Python code does, but comes to no end.
# Slow batches follow each other.
Moment = collections.namedtuple("Moment", "owner name call manner")
_STOPS = "keras_app.experiments.run.interruption:StopPoints"
_ANYTIME = "keras_app.experiments.anytime"
MOMENTS = {
    "data are prepared": Moment(_ANYTIME, "made", 1, "native"),
    "scoring": Moment(
        "keras_app.pruners:AnytimeProgressivePruner", "scores", 1, "native"
    ),
    "a step is compiled": Moment("keras.layers:Conv2D", "call", 1, "native"),
    "training": Moment(_STOPS, "on_train_batch_begin", 2, "slow"),
    "validation": Moment(_STOPS, "on_test_batch_begin", 1, "native"),
    "judging": Moment(_STOPS, "on_predict_batch_begin", 2, "slow"),
    "between megabatches": Moment(
        f"{_ANYTIME}:_Learner", "prepare", 2, "python"
    ),
    "the page": Moment("keras_app.experiments.page", "write_page", 1, "python"),
    "exporting": Moment(
        "keras_app.experiments.exporting", "_targets", 1, "native"
    ),
}
_EXPORT = [
    "--gin_file=export.gin",
    "--gin_param=experiments.export_run.formats=('sparse',)",
]


def main(folder, *names):
    os.environ["KERAS_APP_GRACE_SECONDS"] = str(GRACE_SECONDS)
    processes.import_everything()
    place = pathlib.Path(folder)
    whole, wanted = _start(place / "whole"), (0, 3)
    assert (
        processes.watch(whole, processes.OnDisk(place / "whole")).status
        in wanted
    )
    found = {name: _interrupted(place, MOMENTS[name]) for name in names}
    run = place / "run"
    again = processes.watch(_start(run), processes.OnDisk(run))
    differences = [f"ended with {again.status}", *_said(run)]
    if again.status in wanted:
        differences = compare(run, place / "whole")[0]
    print(json.dumps({"moments": found, "differences": differences}))


def _interrupted(place, moment):
    """What came of SIGTERM at a moment."""
    run, now = place / "run", place / "now"
    child = _start(run, lambda: _arrange(moment, now))
    while not now.exists():
        if os.waitpid(child, os.WNOHANG)[0]:
            return {"status": "it never came", "said": _said(run)}
        time.sleep(0.01)
    os.kill(child, signal.SIGTERM)
    end = processes.watch(child, processes.OnDisk(run))
    now.unlink()
    return {"status": end.status, "seconds": end.seconds, "said": _said(run)}


def _start(run, prepare=lambda: None):
    arguments = [*command("app", run), *_EXPORT]
    return processes.start(arguments, run.with_suffix(".log"), prepare)


def _said(run):
    return processes.tail(run.with_suffix(".log"))


def _arrange(moment, now):
    """Has something happen, and a file appear, at the moment's call."""
    from keras_app.experiments.run.runner import Runner

    module, _, kind = moment.owner.partition(":")
    owner = importlib.import_module(module)
    owner = getattr(owner, kind) if kind else owner
    before, fit = getattr(owner, moment.name), Runner._train
    calls, in_fit = [0], []

    @functools.wraps(before)
    def instead(*arguments, **keywords):
        # Building a model is no training.
        calls[0] += moment.owner != "keras.layers:Conv2D" or bool(in_fit)
        if calls[0] >= moment.call:
            now.touch()
            _MANNERS[moment.manner]()
        return before(*arguments, **keywords)

    def train(*arguments):
        in_fit.append(True)
        return fit(*arguments)

    setattr(owner, moment.name, instead)
    Runner._train = train


def _native():
    # Nothing wakes it; it lets other threads run, as a compiler does.
    libc = ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


def _python():
    while True:
        time.sleep(0.01)


_MANNERS = {
    "native": _native,
    "python": _python,
    "slow": lambda: time.sleep(_SLOW_SECONDS),
}


if __name__ == "__main__":
    main(*sys.argv[1:])
