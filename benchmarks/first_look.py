"""What the README shows first: a network before and after, on shipped data.

    python benchmarks/first_look.py --results docs/results/data

A convolutional network is trained on the 6,000 images that ship in the package,
then handed to `ka.compress`. Accuracies are those of the files on the 1,000
validation images, times the least of many turns, one inference in one thread.
"""

import argparse

import keras
import results
from measure import plus_minus

import keras_app as ka

EPOCHS = 10
# Of all trainings of a compression together.
COMPRESSING = 8

# {row: (target, precision, which side of the report)}
ROWS = {
    "dense": ("latency:0.5", None, "before"),
    "90 % single zeros": ("sparsity:0.9", None, "after"),
    "half the time": ("latency:0.5", None, "after"),
    "dense, int8": ("latency:0.5", "int8", "before"),
    "half the time, int8": ("latency:0.5", "int8", "after"),
}


def load(split):
    images, labels = ka.experiments.data.load_arrays(
        "fashion_mnist_mini", split
    )
    return images / 255.0, labels


def measure(seed):
    """`{row: figures}` with one seed."""
    data, validation = load("train"), load("test")
    keras.utils.set_random_seed(seed)
    model = ka.experiments.models.convnet(
        (28, 28, 1), 10, filters=(32, 64, 128), seed=seed
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(*data, batch_size=64, epochs=EPOCHS, verbose=0)
    reports = {
        (target, precision): ka.compress(
            model,
            data,
            target,
            validation_data=validation,
            epochs=COMPRESSING,
            quantize=precision,
            seed=seed,
        ).report
        for target, precision in {row[:2]: None for row in ROWS.values()}
    }
    names = ("accuracy", "bytes", "milliseconds")
    cells = {}
    for row, (target, precision, side) in ROWS.items():
        figures = getattr(reports[target, precision], side)
        cells[row] = {name: figures[name] for name in names}
    return {"cells": cells}


def table(measured):
    rows = []
    for row in ROWS:
        cells = [each["cells"][row] for each in measured.values()]
        dense = [each["cells"]["dense"] for each in measured.values()]
        times = [
            c["milliseconds"] / d["milliseconds"] for c, d in zip(cells, dense)
        ]
        rows.append(
            [
                row,
                plus_minus([100 * c["accuracy"] for c in cells], 1),
                f"{sum(c['bytes'] for c in cells) / len(cells):,.0f}",
                plus_minus(times, 2),
            ]
        )
    return ["", "accuracy, %", "bytes", "time"], rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results.options(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args(argv)
    found = results.Results(
        args, "first_look", ("keras", keras.config.backend(), "ai-edge-litert")
    )
    for seed in args.seeds:
        found.measure(f"seed {seed}", measure, seed)
    found.finish({"files": table(found.measured)})


if __name__ == "__main__":
    main()
