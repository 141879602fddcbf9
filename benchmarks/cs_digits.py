"""Tickets and densities of continuous sparsification on 8x8 digits.

    pip install -e . scikit-learn
    python benchmarks/cs_digits.py
    python benchmarks/cs_digits.py --seeds 0 --s-init 0.0

A small task with known answers: scikit-learn's digits, three 3x3 convolutions
with batch normalization, 13,968 masked weights, rounds of 20 epochs, then the
ticket retrained from epoch 2. Beside each figure stands the one that the
method authors' layer gave on the same task, where it is known.

The authors' released rule between rounds is tried with `s_init` 0 only. For
each search the script also takes the network at the end of the last round and
says what the final mask costs: accuracy under the soft mask, under the hard
one with the moving statistics of the soft, and with them measured again.
"""

import argparse
import warnings

import keras
import numpy as np
import results
from measure import plus_minus
from tasks import accuracy
from tasks import BATCH_SIZE
from tasks import digits
from tasks import fit_digits

from keras_app.batch_norm import reestimate_batch_norm
from keras_app.experiments import MilestoneLearningRate
from keras_app.optimizers import ContinuousSparsification
from keras_app.pruners import ContinuousSparsifier

EPOCHS = 20
ROUNDS = 3
MILESTONES = (13, 16)
S_INITS = (0.1, 0.0, -0.05, -0.1, -0.2)

# {(s_init, rule): (densities after each round, ticket accuracy in percent)},
# means of two seeds.
AUTHORS = {
    (0.1, "default"): ("1.000 / 1.000 / 1.000", "99.2, 99.7"),
    (0.0, "default"): ("0.406 / 0.219 / 0.120", "98.9, 99.2"),
    (0.0, "released"): ("0.406 / 0.361 / 0.336", "99.2, 99.2"),
    (-0.05, "default"): ("0.033 / 0.020 / 0.015", "93.9, 65.0"),
    (-0.05, "released"): ("0.033 / 0.080 / 0.047", "98.6, 98.9"),
    (-0.1, "default"): ("0.021 / 0.013 / 0.011", "85.6, 88.1"),
    (-0.1, "released"): ("0.021 / 0.030 / 0.033", "98.3, 98.9"),
    (-0.2, "default"): ("0.015 / 0.009 / 0.007", "82.5, 72.8"),
}


def network():
    layers = [keras.Input((8, 8, 1))]
    for filters, strides in ((16, 1), (32, 2), (32, 1)):
        layers += [
            # Keras pads a strided convolution on one side only.
            keras.layers.ZeroPadding2D(1),
            keras.layers.Conv2D(
                filters,
                3,
                strides,
                use_bias=False,
                kernel_initializer=keras.initializers.VarianceScaling(
                    1.0, "fan_avg", "untruncated_normal"
                ),
            ),
            keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
            keras.layers.ReLU(),
        ]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    return keras.Sequential(layers)


class Gap(keras.callbacks.Callback):
    """Measures what the final mask costs, at the end of the last round."""

    def __init__(self, data):
        super().__init__()
        self.train_x, _, self.test_x, self.test_y = data
        self.found = None

    def on_epoch_end(self, epoch, logs=None):
        if epoch != ROUNDS * EPOCHS - 1:
            return
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        test = self.test_x, self.test_y
        optimizer = self.model.optimizer
        weights = [w.copy() for w in self.model.get_weights()]
        soft = accuracy(self.model, *test)
        optimizer.harden()
        hard = accuracy(self.model, *test)
        batches = np.array_split(self.train_x, len(self.train_x) // BATCH_SIZE)
        reestimate_batch_norm(self.model, batches)
        again = accuracy(self.model, *test)
        optimizer.soften()
        self.model.set_weights(weights)
        self.found = [soft, hard, again]


def run(s_init, rule, seed, data):
    """Densities after each round, gap, accuracy of the ticket."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = network()
    optimizer = ContinuousSparsification(
        0.1, s_init=s_init, filters=r"conv2d\w*/kernel"
    )
    model.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    sparsifier = ContinuousSparsifier(
        rounds=ROUNDS,
        retrain_epochs=EPOCHS,
        ticket=True,
        rewind_epoch=2,
        reference_code_prune=rule == "released",
    )
    gap = Gap(data)
    rate = MilestoneLearningRate(0.1, MILESTONES, period=EPOCHS)
    ticket = fit_digits(
        *(model, data, seed, (ROUNDS + 1) * EPOCHS),
        callbacks=[sparsifier, rate, gap],
    )
    return {
        "search": [f"{s_init:g}", rule],
        "densities": [entry["density"] for entry in sparsifier.history],
        "gap": gap.found,
        "ticket": ticket,
    }


def dense(seed, data):
    """Accuracy of the network without masks."""
    keras.utils.set_random_seed(seed)
    model = network()
    model.compile(
        keras.optimizers.SGD(0.1, 0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    rate = MilestoneLearningRate(0.1, MILESTONES)
    return {"dense": fit_digits(model, data, seed, EPOCHS, [rate])}


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--s-init", type=float, nargs="+", default=list(S_INITS))
    rules = ["default", "released"]
    add("--rule", nargs="+", choices=rules, default=rules)
    results.options(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    # Layers collapse at the sparsest settings; the table shows it.
    warnings.simplefilter("ignore")
    data = digits((8, 8, 1))
    found = results.Results(
        args, "cs_digits", ("keras", keras.backend.backend())
    )
    for seed in args.seeds:
        found.measure(f"dense, seed {seed}", dense, seed, data)
        for rule in args.rule:
            for s_init in args.s_init if rule == "default" else [0.0]:
                name = f"s_init {s_init:g}, {rule}, seed {seed}"
                found.measure(name, run, s_init, rule, seed, data)
    searches, plain = {}, []
    for each in found.measured.values():
        if "dense" in each:
            plain.append(each["dense"])
        else:
            searches.setdefault(tuple(each["search"]), []).append(each)
    rows, gaps, sentences = [], [], []
    for (s_init, rule), runs in searches.items():
        densities = np.array([run["densities"] for run in runs])
        last = densities[:, -1]
        known = AUTHORS.get((float(s_init), rule), ("", ""))
        after = " / ".join(f"{d:.3f}" for d in densities.mean(0))
        ticket = plus_minus([run["ticket"] for run in runs], 1)
        scatter = f"{last.std(ddof=1):.3f}" if len(runs) > 1 else ""
        rows.append([s_init, rule, after, known[0], scatter, ticket, known[1]])
        costs = zip(*(run["gap"] for run in runs))
        costs = [plus_minus(each, 1) for each in costs]
        gaps.append([s_init, rule, f"{last.mean():.3f}", *costs])
        if (s_init, rule) == ("0", "default"):
            sentences.append(
                f"s_init 0, default rule: densities {after} (the last in "
                f"0.08-0.17), ticket {ticket} % (at least 98)"
            )
    header = ["s_init", "rule between rounds", "hard density after each round"]
    header += ["authors' layer", "± after the last"]
    header += ["ticket accuracy, %", "authors' layer"]
    costs = ["s_init", "rule", "density", "soft", "hard"]
    costs.append("hard, statistics measured again")
    found.finish(
        {"tickets": (header, rows), "final_mask": (costs, gaps)},
        f"Seeds {args.seeds}. Dense: {plus_minus(plain, 1)} %. Second table: "
        "accuracy at the end of the last round, %.",
        sentences,
    )


if __name__ == "__main__":
    main()
