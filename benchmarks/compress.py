"""Accuracy at a latency: `ka.compress` beside other ways to a faster network.

    python benchmarks/compress.py --markdown
    python benchmarks/compress.py --model fast_convnet --latency 0.5 \
        --epochs 1 --examples 2000

A network is trained on CIFAR-10, and then:

- dense: as it is; its int8 column is plain int8 of the dense network.
- compress, latency: `ka.compress(model, data, "latency:...")`.
- compress, FLOPs: the same with the share as a target of FLOPs.
- narrower: all groups of channels uniformly narrower, so far that the file
  takes the time asked for, trained from scratch for as many epochs in all.

Accuracies are those of the exported files on test images that no training and
no choice has seen, float32 and int8; times of the float32 files are taken in
turns with the dense one, the least of many, one thread.
"""

import argparse

import keras
import numpy as np
import results

import keras_app as ka
from keras_app.compression import files
from keras_app.compression import scoring
from keras_app.compression.cuts import Cuts
from keras_app.experiments import data as data_lib
from keras_app.experiments import models

LATENCIES = (0.7, 0.5, 0.35, 0.25)
SCALES = np.arange(15, 0, -1) / 16
BATCH = 128
CALIBRATION = 200


def mobilenet(shape, classes):
    return models.get(
        "MobileNetV2", (96, 96, shape[-1]), classes, alpha=0.35, seed=0
    )


MODELS = {
    "fast_convnet": lambda s, c: models.get("fast_convnet", s, c, seed=0),
    "resnet20": lambda s, c: models.get("resnet20", s, c, seed=0),
    "mobilenet_v2_035": mobilenet,
}


# ---- data and training -------------------------------------------------------


def parts(model, examples):
    """Training and test examples, in the size that a model takes."""
    found = []
    for split, count in (("train", examples), ("test", max(1, examples // 5))):
        x, y = data_lib.load_arrays("cifar10", f"{split}[:{count}]")
        found.append((resized(x, model.input_shape[1]), y))
    return found


def resized(x, size):
    x = x.astype("float32") / 255.0
    if x.shape[1] == size:
        return x
    steps = [
        keras.ops.convert_to_numpy(keras.ops.image.resize(part, (size, size)))
        for part in np.array_split(x, -(-len(x) // 500))
    ]
    return np.concatenate(steps)


def trained(model, train, epochs, seed):
    keras.utils.set_random_seed(seed)
    steps = epochs * -(-len(train[0]) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=0.05, warmup_steps=steps // 5
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(*train, batch_size=BATCH, epochs=epochs, verbose=0)
    return model


# ---- files -------------------------------------------------------------------


def file_of(model, train, quantize=None):
    return files.content_of(model, quantize, train[0][:CALIBRATION])


def accuracy(content, model, test):
    [outputs] = files.outputs_of(content, model, test[0])
    return scoring.accuracy(outputs, test[1])


def row(name, way, asked, model, dense, train, test):
    """One line of the table: the files of a model beside the dense one."""
    content, int8 = (file_of(model, train, q) for q in (None, "int8"))
    times = files.in_turns([dense, content])
    return [
        name,
        way,
        "" if asked is None else f"{asked:g}",
        f"{times[1] / times[0]:.3f}",
        f"{100 * accuracy(content, model, test):.2f} %",
        f"{100 * accuracy(int8, model, test):.2f} %",
        f"{len(content) / len(dense):.3f}",
        f"{len(int8) / len(dense):.3f}",
    ]


def narrower(model, dense, train, share, multiple_of=8):
    """The widest of uniformly narrower networks that is as fast, untrained."""
    cuts = Cuts(model, multiple_of)
    groups = cuts.groups(
        {path: np.ones(v.shape) for path, v in cuts.variables.items()}
    )
    for scale in SCALES:
        widths = {
            g.name: min(g.widths(), key=lambda w, g=g: abs(w - scale * g.size))
            for g in groups
        }
        # A copy begins with weights of its own.
        made = keras.models.clone_model(cuts.smaller(widths, groups))
        times = files.in_turns([dense, file_of(made, train)])
        if times[1] <= share * times[0]:
            return made
    return None


# ---- the table ---------------------------------------------------------------


def measure(name, latencies, args):
    model = MODELS[name]((32, 32, 3), 10)
    train, test = parts(model, args.examples)
    trained(model, train, args.epochs, args.seed)
    dense = file_of(model, train)
    rows = [row(name, "dense", None, model, dense, train, test)]
    more = max(2, args.epochs // 2)
    for share in latencies:
        for way, target in (("latency", "latency"), ("FLOPs", "flops")):
            try:
                found = ka.compress(
                    model, train, f"{target}:{share}", epochs=more
                )
            except ValueError as error:
                print(f"{name}, {target}:{share}: {error}")
                continue
            rows.append(
                row(
                    *(name, f"compress, {way}", share, found.model),
                    *(dense, train, test),
                )
            )
        small = narrower(model, dense, train, share)
        if small is not None:
            trained(small, train, args.epochs + more, args.seed)
            rows.append(row(name, "narrower", share, small, dense, train, test))
    return {"rows": rows}


def parse(argv):
    parser = argparse.ArgumentParser(description="Accuracy at a latency.")
    add = parser.add_argument
    add("--model", choices=list(MODELS), action="append", help="default: all")
    add("--latency", type=float, action="append", help="default: four")
    add("--epochs", type=results.at_least_one, default=20)
    add("--examples", type=results.at_least_one, default=50_000)
    add("--seed", type=int, default=0)
    results.options(parser)
    args = parser.parse_args(argv)
    for share in args.latency or ():
        if not 0 < share < 1:
            parser.error(f"--latency must be in (0, 1), not {share}.")
    return args


def main(argv=None):
    args = parse(argv)
    latencies = args.latency or LATENCIES
    found = results.Results(
        *(args, "compress"),
        packages=("keras", keras.backend.backend(), "ai-edge-litert", "numpy"),
        settings=("epochs", "examples", "seed"),
    )
    for name in args.model or MODELS:
        shares = ", ".join(f"{share:g}" for share in latencies)
        found.measure(f"{name}, {shares}", measure, name, latencies, args)
    header = ["model", "way", "asked", "latency", "accuracy", "accuracy, int8"]
    header += ["bytes", "bytes, int8"]
    rows = [row for each in found.measured.values() for row in each["rows"]]
    note = "Latency and bytes are relative to the dense float32 file."
    found.finish({"accuracy": (header, rows)}, note)


if __name__ == "__main__":
    main()
