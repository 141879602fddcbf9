"""Accuracy at a latency: `ka.compress` beside other ways to a faster network.

    export TFDS_DATA_DIR=...
    python benchmarks/compress.py --results docs/results/data
    python benchmarks/compress.py --model fast_convnet --latency 0.5 \
        --epochs 1 --examples 2000

A network is trained on CIFAR-10, MobileNetV2 on Tiny-ImageNet-40, and then:

- dense: as it is; its int8 column is plain int8 of the dense network.
- compress, latency: `ka.compress(model, data, "latency:...")`.
- compress, FLOPs: the same with the share as a target of FLOPs.
- narrower: all groups of channels uniformly narrower, so far that the file
  takes the time asked for, trained from scratch for as many epochs in all.

Accuracies are those of the exported files on test images that no training and
no choice has seen, float32 and int8; times of the float32 files are taken in
turns with the dense one, the least of many, one thread. The dense network is
kept in `--work`; with `--results`, each latency is measured once.
"""

import argparse
import pathlib

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


def fast(shape, classes):
    """At half its width, as in gin/sgd_cifar10_fast.gin."""
    return models.get(
        "fast_convnet", shape, classes, widths=(32, 128, 128), seed=0
    )


# {name: (builder, data set, its part for tests, its classes)}
MODELS = {
    "fast_convnet": (fast, "cifar10", "test", 10),
    "resnet20": (
        lambda s, c: models.get("resnet20", s, c, seed=0),
        "cifar10",
        "test",
        10,
    ),
    "mobilenet_v2_035": (mobilenet, "tiny_imagenet40", "validation", 40),
}


# ---- data and training -------------------------------------------------------


def parts(model, name, examples):
    """Training and test examples, in the size that a model takes."""
    _, data_set, test, _ = MODELS[name]
    found = []
    for split, count in (("train", examples), (test, max(1, examples // 5))):
        x, y = data_lib.load_arrays(data_set, f"{split}[:{count}]")
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


def dense_network(name, args):
    """A trained network and its examples, trained once for all latencies."""
    build, _, _, classes = MODELS[name]
    model = build((32, 32, 3), classes)
    train, test = parts(model, name, args.examples)
    settings = f"{args.epochs}-{args.examples}-{args.seed}"
    kept = args.work / f"{name}-{settings}.keras"
    if kept.exists():
        return keras.saving.load_model(kept), train, test
    trained(model, train, args.epochs, args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    model.save(kept)
    return model, train, test


def measure(name, share, args):
    model, train, test = dense_network(name, args)
    dense = file_of(model, train)
    rows = [row(name, "dense", None, model, dense, train, test)]
    more = max(2, args.epochs // 2)
    for way, target in (("latency", "latency"), ("FLOPs", "flops")):
        if way in args.without:
            continue
        try:
            found = ka.compress(model, train, f"{target}:{share}", epochs=more)
        except ValueError as error:
            print(f"{name}, {target}:{share}: {error}")
            continue
        way = f"compress, {way}"
        rows.append(row(name, way, share, found.model, dense, train, test))
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
    add("--without", choices=["FLOPs"], nargs="+", default=[])
    add("--work", type=pathlib.Path, default=pathlib.Path("runs/compress"))
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
        for share in latencies:
            found.measure(f"{name}, {share:g}", measure, name, share, args)
    header = ["model", "way", "asked", "latency", "accuracy", "accuracy, int8"]
    header += ["bytes", "bytes, int8"]
    rows = []
    for each in found.measured.values():
        # The dense network is measured beside each share, and shown once.
        rows += [one for one in each["rows"] if one[:2] not in shown(rows)]
    note = "Latency and bytes are relative to the dense float32 file."
    found.finish({"accuracy": (header, rows)}, note)


def shown(rows):
    return [one[:2] for one in rows if one[1] == "dense"]


if __name__ == "__main__":
    main()
