"""Timing in turns, workers, and words for figures: what benchmarks share.

This runs also where neither Keras 3 nor this package is installed: a worker
for tfmot imports it.
"""

import importlib.util
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata

BACKENDS = ("tensorflow", "jax", "torch")


# ---- time ------------------------------------------------------------------


def timed(call, parts=1, clock=time.perf_counter):
    """A function that calls and returns the seconds of one of its parts."""

    def measured():
        start = clock()
        result = call()
        elapsed = clock() - start
        del result  # to free it takes no part of the time
        return elapsed / parts

    return measured


def in_turns(measured, rounds, warm_up=True):
    """`{name: [seconds]}` of functions that return seconds, round by round.

    Nobody is always first, or always after the same one. The figures of the
    round that warms up (compiles, fills caches) are dropped.
    """
    names = list(measured)
    seconds = {name: [] for name in names}
    for number in range(-warm_up, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            elapsed = measured[name]()
            if number >= 0:
                seconds[name].append(elapsed)
    return seconds


def ratios(seconds, name, base):
    """Round by round."""
    return [a / b for a, b in zip(seconds[name], seconds[base])]


def peak_bytes():
    """Peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024


# ---- figures ---------------------------------------------------------------


def milliseconds(seconds, digits=1):
    """The median."""
    return f"{1e3 * statistics.median(seconds):.{digits}f}"


def spread(values, digits=3):
    """Median and range: `1.020 (1.010-1.031)`."""
    low, high = min(values), max(values)
    return (
        f"{statistics.median(values):.{digits}f} "
        f"({low:.{digits}f}-{high:.{digits}f})"
    )


def plus_minus(values, digits):
    """Mean and standard deviation: `98.6 ± 0.3`."""
    text = f"{statistics.fmean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text


def judge(ratio, controls, target):
    """What a ratio says about a target, given the ratios of equal twins.

    Subtracted from the ratio, a noisy control would excuse anything.
    """
    noise = max(abs(value - 1) for value in controls)
    if noise > target - 1:
        words = "undecided, the control alone differs by more than that"
    elif ratio <= target:
        words = "met"
    elif ratio - noise <= target:
        words = "met beyond the control's spread only"
    else:
        words = "MISSED"
    return f"control within {noise:.3f} of 1, target <= {target:.2f}: {words}"


def met(holds):
    return "met" if holds else "MISSED"


# ---- on what ---------------------------------------------------------------


def hardware():
    """One line: processor and cores."""
    model = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count()
    return f"{model}, {cores} cores, {platform.system()}"


def versions(*packages):
    """One line: Python and what is installed of the packages."""
    found = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def installed(chosen=None):
    """The chosen backend or all; says what is left out."""
    for backend in [chosen] if chosen else BACKENDS:
        if importlib.util.find_spec(backend):
            yield backend
        else:
            print(f"{backend} is left out: it is not installed.")


def has_tfmot(python):
    probe = (
        "import importlib.util, sys\n"
        "names = ('tf_keras', 'tensorflow_model_optimization')\n"
        "sys.exit(not all(map(importlib.util.find_spec, names)))"
    )
    try:
        return subprocess.run([python, "-c", probe]).returncode == 0
    except OSError:
        return False


# ---- workers ---------------------------------------------------------------


def run_worker(script, options, python=sys.executable, **environment):
    """What a process of the script's own measures; `None` if it fails.

    It is given the options and `--result PATH`, and writes JSON there.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder) / "result.json"
        command = [python, script, "--result", str(result)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        done = subprocess.run(
            command,
            env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            given = ", ".join(f"{k} {v}" for k, v in options.items())
            print(
                f"The worker for {given} ended with {done.returncode}.\n"
                f"{done.stderr[-2000:]}",
                file=sys.stderr,
            )
            return None
        return json.loads(result.read_text())
