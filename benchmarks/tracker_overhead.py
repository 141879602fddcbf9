"""Step time of training under a ForgettingTracker, against plain training.

    pip install -e .
    KERAS_BACKEND=jax python benchmarks/tracker_overhead.py
    KERAS_BACKEND=jax python benchmarks/tracker_overhead.py --rounds 9

Three models of one architecture: plain, its identical twin, and one whose
batches carry ids that a tracker records. Whole fits take turns; the twin's
ratio to the first is the noise of the machine. Fits are long enough that the
compilation, which every tracked fit repeats, is timed apart: the steps of a
second epoch are compared.

Timing never decides the exit status.
"""

import argparse
import functools
import statistics
import time

import keras
import numpy as np
import results
from measure import in_turns
from measure import judge
from measure import milliseconds
from measure import ratios
from measure import spread
from tasks import build
from tasks import compiled
from tasks import data

from keras_app.lottery import ForgettingTracker

TARGET = 1.05
BATCH_SIZE = 32


class SecondEpoch(keras.callbacks.Callback):
    """Times the last epoch of a fit, without what compiles in the first."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = time.perf_counter() - self.start


def fit(model, x, y, tracked):
    clock = SecondEpoch()
    arguments = {"callbacks": [clock]}
    if tracked:
        arguments["sample_weight"] = np.arange(len(x))
        arguments["callbacks"].insert(0, ForgettingTracker(len(x)))
    model.fit(
        x,
        y,
        batch_size=BATCH_SIZE,
        epochs=2,
        shuffle=False,
        verbose=0,
        **arguments,
    )
    return clock.seconds


def measure(args):
    x, y = data(args.model, args.steps * BATCH_SIZE)
    fits = {}
    for name in ("plain", "control", "tracked"):
        network = build(keras, args.model)
        model = compiled(keras, network, keras.optimizers.SGD(1e-2))
        fits[name] = functools.partial(fit, model, x, y, name == "tracked")
    seconds = in_turns(fits, args.rounds, warm_up=False)
    return {
        "model": args.model,
        "backend": keras.backend.backend(),
        "steps": args.steps,
        "seconds": seconds,
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed fits")
    parser.add_argument("--steps", type=int, default=100, help="of an epoch")
    parser.add_argument("--model", default="convnet")
    results.options(parser)
    args = parser.parse_args(argv)
    backend = keras.backend.backend()
    found = results.Results(
        *(args, "tracker_overhead"),
        packages=("keras", backend),
        settings=("rounds", "steps"),
    )
    found.measure(f"{backend}, {args.model}", measure, args)
    header = ["backend", "model", "plain, ms/step", "tracked, ms/step"]
    header += ["tracked / plain", "control: plain / plain"]
    rows, sentences = [], []
    for each in found.measured.values():
        seconds = each["seconds"]
        tracked = ratios(seconds, "tracked", "plain")
        control = ratios(seconds, "control", "plain")
        step = [
            milliseconds([s / each["steps"] for s in seconds[name]])
            for name in ("plain", "tracked")
        ]
        names = [each["backend"], each["model"]]
        rows.append([*names, *step, spread(tracked), spread(control)])
        judged = judge(statistics.median(tracked), control, TARGET)
        sentences.append(f"{', '.join(names)}: {judged}")
    found.finish({"steps": (header, rows)}, sentences=sentences)


if __name__ == "__main__":
    main()
