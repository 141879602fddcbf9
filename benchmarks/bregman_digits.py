"""Accuracy and density of the Bregman optimizers on 8x8 digits.

    pip install -e . scikit-learn
    python benchmarks/bregman_digits.py
    python benchmarks/bregman_digits.py --seeds 0 --only "LinBreg, lam 0.1"

A small task with known answers: scikit-learn's digits, an MLP 64-128-64-10, 60
epochs. Rows are optimizers and strengths; beside each stand the figures that
the method authors' code gave on the same task where they are known. Density is
that of the three kernels. Magnitude pruning is run to the density at which
LinBreg with lam 0.1 ended.
"""

import argparse
import statistics
import warnings

import keras
import numpy as np
import results
from measure import met
from measure import plus_minus
from tasks import BATCH_SIZE
from tasks import digits
from tasks import fit_digits

from keras_app.experiments import PlateauLearningRate
from keras_app.initializers import sparsify
from keras_app.optimizers import AdaBreg
from keras_app.optimizers import LinBreg
from keras_app.optimizers import ProxSGD
from keras_app.pruners import MagnitudePruner
from keras_app.regularizers import GroupL2
from keras_app.regularizers import L1
from keras_app.schedules import PolynomialDecay

EPOCHS = 60

# {row: (optimizer, density at the start, groups, published accuracy in
# percent, published density)}
ROWS = {
    "SGD": (lambda: keras.optimizers.SGD(0.1), 1.0, None, "98.2 ± 0.1", "1"),
    "Adam": (lambda: keras.optimizers.Adam(2e-3), 1.0, None, "", ""),
    "SGD + magnitude pruning": (
        lambda: keras.optimizers.SGD(0.1),
        1.0,
        None,
        "",
        "",
    ),
    "ProxSGD, lam 1e-4": (
        lambda: ProxSGD(0.1, regularizers=L1(1e-4)),
        *(1.0, None, "98.2 ± 0.1", "0.976"),
    ),
    "ProxSGD, lam 1e-3": (
        lambda: ProxSGD(0.1, regularizers=L1(1e-3)),
        *(1.0, None, "98.4 ± 0.3", "0.752"),
    ),
    "LinBreg, lam 0.01": (
        lambda: LinBreg(0.1, regularizers=L1(0.01)),
        *(0.05, None, "98.3 ± 0.5", "0.499 ± 0.012"),
    ),
    "LinBreg, lam 0.1": (
        lambda: LinBreg(0.1, regularizers=L1(0.1)),
        *(0.05, None, "98.0 ± 0.6", "0.154 ± 0.004"),
    ),
    "LinBreg, lam 0.3": (
        lambda: LinBreg(0.1, regularizers=L1(0.3)),
        *(0.05, None, "97.4 ± 0.4", "0.089 ± 0.004"),
    ),
    "LinBreg, lam 1": (
        lambda: LinBreg(0.1, regularizers=L1(1.0)),
        *(0.05, None, "96.0 ± 0.9", "0.061 ± 0.002"),
    ),
    "LinBreg, momentum 0.9, lam 0.1": (
        lambda: LinBreg(0.1, momentum=0.9, regularizers=L1(0.1)),
        *(0.05, None, "98.0 ± 0.7", "0.163 ± 0.005"),
    ),
    "AdaBreg, lam 0.1": (
        lambda: AdaBreg(2e-3, regularizers=L1(0.1)),
        *(0.05, None, "98.7 ± 0.1", "0.519 ± 0.012"),
    ),
    "AdaBreg, lam 0.3": (
        lambda: AdaBreg(2e-3, regularizers=L1(0.3)),
        *(0.05, None, "98.2 ± 0.5", "0.274 ± 0.018"),
    ),
    "LinBreg, rows, lam 0.1": (
        lambda: LinBreg(0.1, regularizers=GroupL2(0.1)),
        *(0.1, "neuron", "95.2 ± 1.3", "0.349 ± 0.029"),
    ),
    "AdaBreg, rows, lam 0.03": (
        lambda: AdaBreg(2e-3, regularizers=GroupL2(0.03)),
        *(0.1, "neuron", "97.1 ± 0.9", "0.928 ± 0.022"),
    ),
}

# {row: (least accuracy in percent, density from, to)}
GATES = {
    "LinBreg, lam 0.1": (97.0, 0.12, 0.19),
    "LinBreg, lam 0.3": (96.0, 0.07, 0.11),
}


class Densities(keras.callbacks.Callback):
    """Share of non-zeros in the kernels, at the start and after epochs."""

    def __init__(self):
        super().__init__()
        self.found = []

    def measure(self):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        kernels = [
            keras.ops.convert_to_numpy(v)
            for v in self.model.trainable_variables
            if v.name == "kernel"
        ]
        kept = sum(np.count_nonzero(kernel) for kernel in kernels)
        self.found.append(kept / sum(kernel.size for kernel in kernels))

    def on_train_begin(self, logs=None):
        self.measure()

    def on_epoch_end(self, epoch, logs=None):
        self.measure()


def run(row, seed, data, density):
    """Accuracy in percent, and densities, of one training."""
    make, start, groups = ROWS[row][:3]
    keras.utils.set_random_seed(seed)
    keras.backend.clear_session()
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    sparsify(model, start, seed=seed, groups=groups, bias_gain=1.0)
    model.compile(
        make(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    densities = Densities()
    callbacks = [PlateauLearningRate(), densities]
    if "magnitude" in row:
        steps = EPOCHS * -(-len(data[0]) // BATCH_SIZE)
        schedule = PolynomialDecay(
            0.0, 1 - density, steps // 10, steps // 2, frequency=20
        )
        callbacks.insert(0, MagnitudePruner(schedule, scope="global"))
    accuracy = fit_digits(model, data, seed, EPOCHS, callbacks)
    return {"row": row, "accuracy": accuracy, "density": densities.found}


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--only", nargs="+", choices=list(ROWS), metavar="ROW")
    add("--density", type=float, default=0.154, help="of magnitude pruning")
    results.options(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    # That dense weights under an empty penalty will not stay sparse is meant.
    warnings.simplefilter("ignore")
    data = digits()
    found = results.Results(
        *(args, "bregman_digits"),
        packages=("keras", keras.backend.backend()),
        settings=("density",),
    )
    for row in args.only or ROWS:
        for seed in args.seeds:
            name = f"{row}, seed {seed}"
            found.measure(name, run, row, seed, data, args.density)
    rows, sentences = [], []
    for row in ROWS:
        runs = [run for run in found.measured.values() if run["row"] == row]
        if not runs:
            continue
        accuracies = [run["accuracy"] for run in runs]
        at = {
            n: [run["density"][n] for run in runs] for n in (0, 1, 10, EPOCHS)
        }
        rows.append(
            [
                row,
                plus_minus(accuracies, 1),
                ROWS[row][3],
                *(f"{statistics.fmean(at[n]):.3f}" for n in (0, 1, 10)),
                plus_minus(at[EPOCHS], 3),
                ROWS[row][4],
            ]
        )
        if row in GATES:
            least, low, high = GATES[row]
            accuracy = statistics.fmean(accuracies)
            density = statistics.fmean(at[EPOCHS])
            holds = accuracy >= least and low <= density <= high
            sentences.append(
                f"{row}: accuracy {accuracy:.1f} % (at least {least:.0f}), "
                f"density {density:.3f} ({low}-{high}): {met(holds)}"
            )
    header = ["optimizer", "test accuracy, %", "authors' code"]
    header += ["density: start", "epoch 1", "epoch 10", "end", "authors' code"]
    note = f"{EPOCHS} epochs, seeds {args.seeds}."
    found.finish({"optimizers": (header, rows)}, note, sentences)


if __name__ == "__main__":
    main()
