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
tells what the final mask costs: accuracy under the soft mask, under the hard
one with the moving statistics of the soft, and with them measured anew.
"""

import argparse
import sys
import warnings

import keras
import numpy as np
from bregman_digits import batches
from bregman_digits import digits
from bregman_digits import spread
from training_overhead import hardware
from training_overhead import show
from training_overhead import versions

from keras_app.batch_norm import reestimate_batch_norm
from keras_app.experiments import MilestoneLearningRate
from keras_app.optimizers import ContinuousSparsification
from keras_app.pruners import ContinuousSparsifier

EPOCHS = 20
ROUNDS = 3
MILESTONES = (13, 16)
BATCH_SIZE = 64
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


def accuracy(model, x, y):
    return 100 * np.mean(np.argmax(model.predict(x, verbose=0), -1) == y)


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
        anew = accuracy(self.model, *test)
        optimizer.soften()
        self.model.set_weights(weights)
        self.found = soft, hard, anew


def run(s_init, rule, seed, data):
    """`(densities after each round, gap, accuracy of the ticket)`."""
    train_x, train_y, test_x, test_y = data
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
    model.fit(
        batches(train_x, train_y, seed),
        steps_per_epoch=-(-len(train_x) // BATCH_SIZE),
        epochs=(ROUNDS + 1) * EPOCHS,
        verbose=0,
        callbacks=[
            sparsifier,
            MilestoneLearningRate(0.1, MILESTONES, period=EPOCHS),
            gap,
        ],
    )
    densities = [entry["density"] for entry in sparsifier.history]
    return densities, gap.found, accuracy(model, test_x, test_y)


def dense(seed, data):
    """Accuracy of the network without masks."""
    train_x, train_y, test_x, test_y = data
    keras.utils.set_random_seed(seed)
    model = network()
    model.compile(
        keras.optimizers.SGD(0.1, 0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(
        batches(train_x, train_y, seed),
        steps_per_epoch=-(-len(train_x) // BATCH_SIZE),
        epochs=EPOCHS,
        verbose=0,
        callbacks=[MilestoneLearningRate(0.1, MILESTONES)],
    )
    return accuracy(model, test_x, test_y)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--s-init", type=float, nargs="+", default=list(S_INITS))
    rules = ["default", "released"]
    add("--rule", nargs="+", choices=rules, default=rules)
    add("--markdown", action="store_true", help="print a Markdown table")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    # Layers collapse at the sparsest settings; the table shows it.
    warnings.simplefilter("ignore")
    data = digits()
    data = (
        data[0].reshape(-1, 8, 8, 1),
        data[1],
        data[2].reshape(-1, 8, 8, 1),
        data[3],
    )
    print("training the dense network ...", file=sys.stderr)
    plain = [dense(seed, data) for seed in args.seeds]
    rows, gaps = [], []
    for rule in args.rule:
        for s_init in args.s_init if rule == "default" else [0.0]:
            print(f"searching, s_init {s_init}, {rule} ...", file=sys.stderr)
            found = [run(s_init, rule, seed, data) for seed in args.seeds]
            densities = np.array([d for d, _, _ in found])
            known = AUTHORS.get((s_init, rule), ("", ""))
            rows.append(
                [
                    f"{s_init:g}",
                    rule,
                    " / ".join(f"{d:.3f}" for d in densities.mean(0)),
                    known[0],
                    f"{densities[:, -1].std(ddof=1):.3f}"
                    if len(found) > 1
                    else "",
                    spread([t for _, _, t in found], 1),
                    known[1],
                ]
            )
            gaps.append(
                [
                    f"{s_init:g}",
                    rule,
                    f"{densities[:, -1].mean():.3f}",
                    *(spread([g[i] for _, g, _ in found], 1) for i in range(3)),
                ]
            )
    print(f"\n{hardware()}\n{versions('keras', keras.backend.backend())}")
    print(f"Seeds {args.seeds}. Dense: {spread(plain, 1)} %.\n")
    header = ["s_init", "rule between rounds", "hard density after each round"]
    header += ["authors' layer", "± after the last"]
    header += ["ticket accuracy, %", "authors' layer"]
    show(header, rows, args.markdown)
    print("\nAccuracy at the end of the last round, %:\n")
    header = ["s_init", "rule", "density", "soft", "hard"]
    show([*header, "hard, statistics anew"], gaps, args.markdown)
    at_zero = [row for row in rows if row[:2] == ["0", "default"]]
    if at_zero:
        print(
            f"\ns_init 0, default rule: densities {at_zero[0][2]} (the last in "
            f"0.08-0.17), ticket {at_zero[0][5]} % (at least 98)"
        )


if __name__ == "__main__":
    main()
