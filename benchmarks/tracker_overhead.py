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
import statistics
import time

import keras
import numpy as np
from training_overhead import build
from training_overhead import data
from training_overhead import hardware
from training_overhead import judge
from training_overhead import show
from training_overhead import spread
from training_overhead import versions

from keras_app.lottery import ForgettingTracker

TARGET = 1.05
BATCH_SIZE = 32


class SecondEpoch(keras.callbacks.Callback):
    """Times the last epoch of a fit, without what compiles in the first."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = time.perf_counter() - self.start


def compiled(name):
    model = build(keras, name)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-2), loss)
    return model


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


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed fits")
    parser.add_argument("--steps", type=int, default=100, help="of an epoch")
    parser.add_argument("--model", default="convnet")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args(argv)
    names = ["plain", "control", "tracked"]
    models = {name: compiled(args.model) for name in names}
    x, y = data(args.model, args.steps * BATCH_SIZE)
    seconds = {name: [] for name in names}
    for number in range(args.rounds):
        # Nobody is always first, or always behind the same one.
        first = number % len(names)
        for name in names[first:] + names[:first]:
            elapsed = fit(models[name], x, y, name == "tracked")
            seconds[name].append(elapsed / args.steps)
    ratios = {
        name: [a / b for a, b in zip(seconds[name], seconds["plain"])]
        for name in ("control", "tracked")
    }
    backend = keras.backend.backend()
    print(f"\n{hardware()}\n{versions('keras', backend)}\n")
    header = ["backend", "model", "plain, ms/step", "tracked, ms/step"]
    header += ["tracked / plain", "control: plain / plain"]
    row = [backend, args.model]
    row += [
        f"{1e3 * statistics.median(seconds[name]):.1f}"
        for name in ("plain", "tracked")
    ]
    row += [spread(ratios[name]) for name in ("tracked", "control")]
    show(header, [row], args.markdown)
    ratio = statistics.median(ratios["tracked"])
    print(f"\n{backend}: {judge(ratio, ratios['control'], TARGET)}")


if __name__ == "__main__":
    main()
