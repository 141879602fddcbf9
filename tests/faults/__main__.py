"""Kills runs at random moments, resumes them, and compares how they end.

`python -m tests.faults --backend tensorflow --kills 200`. Two fifths of the
kills come at a moment drawn from the length of the run, two fifths while a
checkpoint is being written, the others while any file is. Exit status: 0 every
run ended like the one that was not killed; 1 one did not; 2 the arguments are
wrong.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
import warnings

import numpy as np

from tests import s3
from tests.faults import processes
from tests.methods import command
from tests.methods import RUNS

_DONE = (0, 3)  # 3: a pruner missed its target
_MOST_ATTEMPTS = 100
_KINDS = (0.4, 0.4, 0.2)


def main():
    options = _options()
    os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    # Forking with threads around is what processes.py is careful about.
    warnings.filterwarnings("ignore", message=".*fork", category=RuntimeWarning)
    processes.import_everything()
    place = pathlib.Path(tempfile.mkdtemp(prefix="faults-"))
    with contextlib.ExitStack() as stack:
        store = None
        if options.s3:
            store = place / "puts.log"
            os.environ.update(stack.enter_context(s3.serving(store)))
        return _try(options, place, store)


def _try(options, place, store):
    trials = {
        m: Trial(m, place / m, options.seed, store) for m in options.methods
    }
    for trial in trials.values():
        trial.run_whole()
    # One run could take all the kills, and leave none for another method.
    share = -(-options.kills // len(trials))
    end = _minutes() + options.minutes
    while sum(t.kills for t in trials.values()) < options.kills:
        if _minutes() > end:
            break
        trial = min(trials.values(), key=lambda t: t.kills)
        left = options.kills - sum(t.kills for t in trials.values())
        trial.run_killed(min(left, share - trial.kills))
    rows = [trial.row() for trial in trials.values()]
    found = {
        "backend": options.backend,
        "folders": "s3" if options.s3 else "disk",
        "seed": options.seed,
        "minutes": _minutes(),
        "versions": _versions(),
        "methods": rows,
    }
    _print_table(found)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(found, indent=2))
    equal = all(row["survived"] == row["kills"] for row in rows)
    if equal:
        shutil.rmtree(place)
    else:
        print(f"The folders are in {place}")
    return 0 if equal else 1


class Trial:
    """One method: the whole run, and those that are killed.

    Args:
        method: Its name.
        place: Folder for logs, and for run folders on this disk.
        seed: Of the moments.
        store: What the server of `tests.s3` writes to, if the folders are
            there.

    Attributes:
        kills: Number of kills so far.
    """

    def __init__(self, method, place, seed, store=None):
        self._store = store
        self.method = method
        self.place = place
        self.kills = 0
        self._survived = 0
        self._runs = 0
        self._equal = 0
        self._torn = collections.Counter()
        self._largest = 0.0
        self._differences = []
        self._draw = np.random.default_rng([seed, *method.encode()])
        place.mkdir()

    def run_whole(self):
        """The run that nobody kills."""
        end = self._watch("whole")
        if end.status not in _DONE:
            raise RuntimeError(
                f"{self.method} fails: {processes.tail(self._log('whole'))}"
            )
        if self._store:
            processes.fetch(self._folder("whole"), self.place / "whole")
        self._status = end.status
        self._seconds = end.seconds
        self._writes = end.writes
        self._say(
            f"{self._seconds:.1f} s, {self._writes} files seen being written"
        )

    def run_killed(self, most):
        """One run, killed `most` times at most, until it has ended."""
        name = f"run{self._runs}"
        self._runs += 1
        kills, torn = 0, []
        for _ in range(_MOST_ATTEMPTS):
            moment = self._moment() if kills < most else {}
            end = self._watch(name, **moment)
            if end.status is not None:
                break
            kills += 1
            torn += end.torn
        self.kills += kills
        if end.status != self._status:
            text = f"{name}: ended with {end.status}, not {self._status}: "
            self._differences.append(
                text + " ".join(processes.tail(self._log(name)))
            )
            equal = False
        else:
            equal = self._compare(name)
        for each in torn:
            self._torn["checkpoint" if each.endswith("ckpt") else each] += 1
        if equal:
            self._survived += kills
            self._equal += 1
            shutil.rmtree(self.place / name)
        self._say(
            f"{kills} kills, {len(torn)} of them in a write ({', '.join(torn)})"
            f": {'equal' if equal else self._differences[-1]}"
        )

    def _moment(self):
        draw = self._draw
        kind = draw.choice(["any moment", "checkpoint", "file"], p=_KINDS)
        if kind == "any moment":
            return {"seconds": draw.uniform(0, self._seconds)}
        # At once, or a little later: before or behind the rename.
        delay = float(draw.choice([0, draw.uniform(0, 0.01)]))
        if kind == "checkpoint":
            number = int(draw.integers(1, 4))
            return {"write": number, "suffix": ".ckpt", "delay": delay}
        number = int(draw.integers(1, self._writes + 1))
        return {"write": number, "delay": delay}

    def _compare(self, name):
        from tests.faults.comparison import compare

        if self._store:
            processes.fetch(self._folder(name), self.place / name)
        found, largest = compare(self.place / name, self.place / "whole")
        self._largest = max(self._largest, largest)
        self._differences += [f"{name}: {text}" for text in found]
        return not found

    def _watch(self, name, **moment):
        folder = self._folder(name)
        if self._store:
            writes = processes.InStore(self._store, folder)
        else:
            writes = processes.OnDisk(self.place / name)
        arguments = command(self.method, folder)
        child = processes.start(arguments, self._log(name))
        return processes.watch(child, writes, **moment)

    def _folder(self, name):
        if self._store:
            return f"s3://{s3.BUCKET}/{self.method}/{name}"
        return str(self.place / name)

    def _log(self, name):
        return self.place / f"{name}.log"

    def _say(self, text):
        print(f"{_minutes():5.1f}  {self.method}: {text}", flush=True)

    def row(self):
        """What came of it, ready for JSON."""
        return {
            "method": self.method,
            "seconds": self._seconds,
            "kills": self.kills,
            "survived": self._survived,
            "in_a_write": sum(self._torn.values()),
            "torn": dict(self._torn),
            "runs": self._runs,
            "equal": self._equal,
            "largest_difference": self._largest,
            "differences": self._differences,
        }


_BEGAN = time.monotonic()


def _minutes():
    return (time.monotonic() - _BEGAN) / 60


def _versions():
    from keras_app.experiments.run.folder import versions

    return {**versions(), "python": sys.version.split()[0]}


def _print_table(found):
    names = ("kills", "survived", "in_a_write", "runs", "equal")
    print(f"\n{found['backend']}: {found['versions']}")
    print(f"{'method':<14}" + "".join(f"{n:>12}" for n in names) + "  largest")
    for row in found["methods"]:
        numbers = "".join(f"{row[n]:>12}" for n in names)
        print(f"{row['method']:<14}{numbers}  {row['largest_difference']:g}")
        for text in row["differences"]:
            print(f"    {text}")


def _options():
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--kills", type=int, default=50, help="in all; 50 if not given")
    add(
        "--minutes",
        type=float,
        default=float("inf"),
        help="of killing, after which no further run is begun; endless if "
        "not given",
    )
    add("--seed", type=int, default=0, help="of the moments; 0 if not given")
    add(
        "--methods",
        nargs="+",
        choices=RUNS,
        default=list(RUNS),
        metavar="METHOD",
        help=f"of {', '.join(RUNS)}; all if not given",
    )
    add(
        "--backend",
        choices=("tensorflow", "jax", "torch"),
        default=os.environ.get("KERAS_BACKEND", "tensorflow"),
    )
    add(
        "--s3",
        action="store_true",
        help="run folders in S3, of a server on this machine",
    )
    add("--json", metavar="FILE", help="where to write the figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
