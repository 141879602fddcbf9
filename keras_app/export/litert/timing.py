"""How long LiteRT files take, measured in turns.

What else the machine does changes from second to second: files are compared
only by times taken in turns.
"""

import dataclasses
import importlib.util
import os
import time

import numpy as np

from keras_app import host
from keras_app.export import fresh_process
from keras_app.export.litert import runtime

_ROUNDS = 31
_LEAST_ROUNDS = 3  # whatever they take
_SECONDS = 4.0
# A turn lasts this long: the first call of one finds the caches full of
# another file, which the application would not have done.
_TURN = 0.002


@dataclasses.dataclass(frozen=True)
class Latency:
    """The time of one inference.

    Attributes:
        median_ms: Median over the rounds, in milliseconds.
        spread_ms: Interquartile range over the rounds, in milliseconds.
        least_ms: Least over the rounds, in milliseconds: what else a busy
            machine does only adds.
        threads: How many threads the runtime was given.
        rounds: How many rounds were measured.
    """

    median_ms: float
    spread_ms: float
    least_ms: float
    threads: int
    rounds: int

    def __str__(self):
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.median_ms:.3g} ms (±{self.spread_ms / 2:.1g}), {threads}"


def time_files(files, rounds=_ROUNDS, threads=1, seconds=_SECONDS):
    """Returns the `Latency` of each of several files, measured in turns.

    One inference of what the file takes, with random inputs (integers are 0),
    on the CPU with the runtime's default delegate, in a process of its own,
    which may crash without harm to this one.

    Args:
        files: LiteRT files, each as its bytes or its path.
        rounds: In each, every file has its turn. Defaults to `31`.
        threads: Threads of the runtime. Defaults to `1`.
        seconds: No round begins after so many, except the first three.
            Defaults to `4.0`.

    Raises:
        ValueError: The runtime refuses a file.
        keras_app.export.fresh_process.Crash: The process ends without answer.
        OSError: A file cannot be read.

    Example:

    ```python
    dense, small = time_files(["dense.tflite", "small.tflite"])
    print(small.median_ms / dense.median_ms)
    ```
    """
    contents = [_content(each) for each in files]
    found = fresh_process.run(
        "keras_app.export.litert.timing:take_turns",
        # None is needed; JAX starts fastest, and Keras's NumPy needs it too.
        backend="jax" if importlib.util.find_spec("jax") else host.BACKEND,
        # Where a model lies in memory makes a difference.
        reuse=False,
        contents=[np.frombuffer(each, "uint8") for each in contents],
        rounds=rounds,
        threads=threads,
        seconds=seconds,
    )
    return [Latency(**each) for each in found]


def _content(file):
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as opened:
            return opened.read()
    return file


def take_turns(contents, rounds=_ROUNDS, threads=1, seconds=_SECONDS):
    """Measures as `time_files` does, in this process.

    Args:
        contents: The bytes of the files.
        rounds, threads, seconds: As for `time_files`.

    Returns:
        The fields of a `Latency` for each file, as dicts.
    """
    turns = [_Turn(runtime.load(each, threads)) for each in contents]
    taken = [[] for _ in turns]
    start = time.perf_counter()
    for done in range(rounds):
        late = time.perf_counter() - start > seconds
        if late and done >= _LEAST_ROUNDS:
            break
        for times, turn in zip(taken, turns):
            times.append(turn())
    return [_summary(times, threads) for times in taken]


class _Turn:
    """Calls a file as often as fills a turn; gives the seconds of one call."""

    def __init__(self, interpreter):
        self._invoke = interpreter.invoke
        generator = np.random.default_rng(0)
        for each in interpreter.get_input_details():
            value = np.zeros(each["shape"], each["dtype"])
            if value.dtype.kind == "f":
                value += generator.standard_normal(value.shape)
            interpreter.set_tensor(each["index"], value)
        self._repeats = 1
        self()  # packs the weights, and fills the caches
        self._repeats = max(1, round(_TURN / self()))

    def __call__(self):
        begin = time.perf_counter()
        for _ in range(self._repeats):
            self._invoke()
        return (time.perf_counter() - begin) / self._repeats


def _summary(seconds, threads):
    low, median, high = 1e3 * np.percentile(seconds, [25, 50, 75])
    return {
        "median_ms": float(median),
        "spread_ms": float(high - low),
        "least_ms": 1e3 * float(min(seconds)),
        "threads": threads,
        "rounds": len(seconds),
    }
