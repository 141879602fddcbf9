"""Size and speed of what is exported, against the dense float32 export.

    pip install -e .[onnx]
    python benchmarks/export.py --markdown
    python benchmarks/export.py --model mlp --model small_mlp --sparsity 0.9

Untrained networks with magnitude masks: bytes and time depend on where the
zeros are, not on how the weights were found. Versions:

- masked: single weights, in every kernel.
- shrunk: the channels with the largest weights, as many as hold that share of
  all weights, the others cut out by `shrink`. "half the channels" keeps one in
  two.
- blocks: Dense kernels in blocks of 4 inputs (int8: 16).
- int8: full integer files of the above.

Every version of a model is timed in turns with all others, one inference of
one sample in one thread on LiteRT and ONNX Runtime, a batch of 32 in Keras; the
ratio to dense is taken round by round, and the median of these is shown; of
int8 files also the ratio to dense int8, which is their alternative.
Timing never decides the exit status.
"""

import argparse
import functools
import pathlib
import statistics
import sys
import tempfile
import warnings

import keras
import numpy as np
import results
from keras import layers
from measure import in_turns
from measure import ratios
from measure import timed

from keras_app import export
from keras_app import masks
from keras_app import pruners
from keras_app import schedules
from keras_app.experiments import models

SPARSITIES = (0.5, 0.8, 0.9, 0.95)
HALF = 0.75  # of the weights go with half the channels
BATCH = 32
CALIBRATION = 16
# A round must last long enough for the clock.
SECONDS = 0.02


def mlp():
    """10.5 million weights, more than a cache holds."""
    return keras.Sequential(
        [
            keras.Input((1024,)),
            layers.Dense(2048, activation="relu"),
            layers.Dense(2048, activation="relu"),
            layers.Dense(2048, activation="relu"),
            layers.Dense(10),
        ]
    )


def small_mlp():
    """236 thousand weights, which a cache holds."""
    return keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(256, activation="relu"),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )


MODELS = {
    "resnet18": lambda: models.resnet18((64, 64, 3), 40, seed=0),
    "mobilenet": lambda: models.get("mobilenet", (96, 96, 3), 40, seed=0),
    "mlp": mlp,
    "small_mlp": small_mlp,
}


# ---- versions --------------------------------------------------------------


def copy_of(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def kernels(model):
    return [
        layer
        for layer in model.layers
        if isinstance(layer, (layers.Conv2D, layers.Dense))
    ]


def masked(model, sparsity, structure=None):
    """Zeros in each kernel; `structure` of Dense kernels only."""
    model = copy_of(model)
    for layer in kernels(model):
        values = keras.ops.convert_to_numpy(layer.kernel)
        if structure is not None and not isinstance(layer, layers.Dense):
            continue
        mask = masks.mask_from_scores(np.abs(values), sparsity, structure)
        layer.kernel.assign(np.where(mask, values, 0.0))
    return model


def shrunk(model, sparsity):
    """Without the channels that hold `sparsity` of the weights."""
    model = copy_of(model)
    model.compile("sgd")
    gone = 1.0 - (1.0 - sparsity) ** 0.5
    pruner = pruners.MagnitudePruner(
        schedules.OneShot(gone), structure=masks.GraphChannel()
    )
    pruner.set_model(model)
    pruner.prune(gone)
    with warnings.catch_warnings():
        # Nothing may stay uncut.
        warnings.filterwarnings("error", "`shrink` could not")
        return export.shrink(model)


def versions_of(model, sparsity):
    """`{name: (model, precision)}`."""
    made = {"masked": masked(model, sparsity)}
    made["shrunk"] = shrunk(model, sparsity)
    found = {name: (each, None) for name, each in made.items()}
    if isinstance(model, keras.Sequential):
        blocks = masks.Block((4, 1))
        found["blocks of 4"] = (masked(model, sparsity, blocks), None)
        blocks = masks.Block((16, 1))
        found["blocks of 16, int8"] = (masked(model, sparsity, blocks), "int8")
    for name, each in made.items():
        found[f"{name}, int8"] = (each, "int8")
    return found


# ---- one runtime each ------------------------------------------------------


def litert_call(path, x):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    place = interpreter.get_input_details()[0]["index"]
    interpreter.set_tensor(place, x[:1])
    return interpreter.invoke


def onnx_call(path, x):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options)
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x[:1]})


def keras_call(model, x):
    batch = np.concatenate([x] * BATCH)[:BATCH]
    return lambda: model.predict_on_batch(batch)


def relative_times(calls, rounds):
    """`{name: [time / time of dense]}`, of rounds in which all take turns."""
    measured = {}
    for name, call in calls.items():
        call()  # compiles, and fills the caches
        repeats = max(1, round(SECONDS / timed(call)()))
        measured[name] = timed(
            functools.partial(repeat, call, repeats), repeats
        )
    seconds = in_turns(measured, rounds, warm_up=False)
    return {name: ratios(seconds, name, "dense") for name in calls}


def repeat(call, times):
    for _ in range(times):
        call()


# ---- the table -------------------------------------------------------------


def measure(name, sparsities, rounds, folder):
    keras.utils.set_random_seed(0)
    dense = MODELS[name]()
    shape = dense.input_shape[1:]
    x = np.random.default_rng(0).random((CALIBRATION, *shape), "float32")
    variants = {"dense": (dense, None), "dense, int8": (dense, "int8")}
    for sparsity in sparsities:
        for version, each in versions_of(dense, sparsity).items():
            variants[f"{sparsity:.0%} {version}"] = each
    half = shrunk(dense, HALF)
    variants["half the channels, shrunk"] = (half, None)
    variants["half the channels, shrunk, int8"] = (half, "int8")
    calls = {"LiteRT": {}, "ONNX Runtime": {}, "Keras": {}}
    reports = {}
    for index, (variant, (model, precision)) in enumerate(variants.items()):
        print(f"{name}: {variant} ...", file=sys.stderr)
        path = folder / f"{name}-{index}.tflite"
        reports[variant] = export.export_litert(model, path, x, precision)
        calls["LiteRT"][variant] = litert_call(path, x)
        if precision is None:
            path = path.with_suffix(".onnx")
            export.export_onnx(model, path, x)
            calls["ONNX Runtime"][variant] = onnx_call(path, x)
            calls["Keras"][variant] = keras_call(model, x)
    times = {
        runtime: relative_times(each, rounds) for runtime, each in calls.items()
    }
    checkpoints = {}
    for variant, (model, precision) in variants.items():
        if precision is None:
            path = folder / "checkpoint.sparse"
            export.save_sparse(model, path, optimizer=False)
            checkpoints[variant] = path.stat().st_size
    weights = 4 * dense.count_params()
    return {
        "rows": [
            row(
                name,
                variant,
                report,
                reports["dense"],
                times,
                checkpoints,
                weights,
            )
            for variant, report in reports.items()
        ]
    }


def row(name, variant, report, dense, times, checkpoints, weights):
    cells = [name, variant]
    cells.append(f"{report.bytes / dense.bytes:.3f}")
    cells.append(f"{report.compressed_bytes / dense.bytes:.3f}")
    size = checkpoints.get(variant)
    cells.append("" if size is None else f"{size / weights:.3f}")
    for runtime in ("LiteRT", "ONNX Runtime", "Keras"):
        found = times[runtime].get(variant)
        cells.append("" if found is None else faster(found))
    cells.append(of_int8(times["LiteRT"], variant) if "int8" in variant else "")
    return cells


def of_int8(times, variant):
    """How many times faster than dense int8, round by round."""
    pairs = zip(times[variant], times["dense, int8"])
    return faster([own / dense for own, dense in pairs])


def faster(found):
    """How many times faster than dense: median (slowest-fastest round)."""
    middle = 1 / statistics.median(found)
    return f"{middle:.2f} ({1 / max(found):.2f}-{1 / min(found):.2f})"


def parse(argv):
    parser = argparse.ArgumentParser(
        description="Size and speed of what is exported."
    )
    add = parser.add_argument
    add("--model", choices=list(MODELS), action="append", help="default: all")
    add("--sparsity", type=float, action="append", help="default: four")
    add("--rounds", type=int, default=9)
    results.options(parser)
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error("--rounds must be at least 1.")
    for sparsity in args.sparsity or ():
        if not 0 < sparsity < 1:
            parser.error(f"--sparsity must be in (0, 1), not {sparsity}.")
    return args


def main(argv=None):
    args = parse(argv)
    sparsities = args.sparsity or SPARSITIES
    packages = ("ai-edge-litert", "onnxruntime", "numpy")
    found = results.Results(
        *(args, "export"),
        packages=("keras", keras.backend.backend(), *packages),
        settings=("rounds",),
    )
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name in args.model or MODELS:
            percents = ", ".join(f"{sparsity:g}" for sparsity in sparsities)
            found.measure(
                f"{name}, {percents}",
                *(measure, name, sparsities, args.rounds, folder),
            )
    header = [
        "model",
        "version",
        "LiteRT bytes",
        "compressed",
        "sparse checkpoint",
        "LiteRT, times faster",
        "ONNX Runtime",
        "Keras, batch 32",
        "LiteRT, than dense int8",
    ]
    rows = [row for each in found.measured.values() for row in each["rows"]]
    note = "Bytes and times are relative to dense."
    found.finish({"versions": (header, rows)}, note)


if __name__ == "__main__":
    main()
