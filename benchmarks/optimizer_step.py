"""Step time and state of the sparse optimizers, against Keras's own.

    pip install -e .
    python benchmarks/optimizer_step.py
    python benchmarks/optimizer_step.py --backend jax --model mlp --rounds 9

One process per backend and model. For each pair it holds three models of one
architecture: one under Keras's optimizer, its identical twin, and one under
ours. Whole fits of the three take turns; the twin's ratio to the first is the
noise of the machine, against which ours is read.

State is what the optimizer keeps beside the weights, in bytes per trainable
weight. Timing never decides the exit status.

The pair "traffic" bounds what a rewrite of continuous sparsification could
gain: an optimizer that reads and writes the same arrays and computes next to
nothing. It is measured when asked for with --pair.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from training_overhead import BACKENDS
from training_overhead import build
from training_overhead import CLASSES
from training_overhead import data
from training_overhead import FEATURES
from training_overhead import hardware
from training_overhead import judge
from training_overhead import KerasSide
from training_overhead import show
from training_overhead import spread

TARGET = 1.15
BATCH_SIZES = {"mlp": 128, "convnet": 32}

# {pair: (Keras's optimizer, ours)}, each made from both packages.
PAIRS = {
    "AdaBreg / Adam": (
        lambda keras, app: keras.optimizers.Adam(1e-3),
        lambda keras, app: app.optimizers.AdaBreg(
            1e-3, regularizers=app.regularizers.L1(1e-3)
        ),
    ),
    "LinBreg / SGD": (
        lambda keras, app: keras.optimizers.SGD(1e-2),
        lambda keras, app: app.optimizers.LinBreg(
            1e-2, regularizers=app.regularizers.L1(1e-3)
        ),
    ),
    "ContinuousSparsification / SGD, Nesterov": (
        lambda keras, app: keras.optimizers.SGD(
            1e-2, momentum=0.9, nesterov=True
        ),
        lambda keras, app: app.optimizers.ContinuousSparsification(1e-2),
    ),
    "traffic": (
        lambda keras, app: keras.optimizers.SGD(
            1e-2, momentum=0.9, nesterov=True
        ),
        lambda keras, app: traffic(keras, app),
    ),
}
BOUNDS = ("traffic",)  # of which there is nothing to judge


def traffic(keras, app):
    """Reads five arrays and writes five, as continuous sparsification does."""
    enforcement = app.enforcement

    class Traffic(keras.optimizers.Optimizer):
        def build(self, variables):
            if self.built:
                return
            super().build(variables)
            self.latent = [
                [enforcement.add_latent(self, v, name) for v in variables]
                for name in ("w", "s", "b_w", "b_s")
            ]

        def update_step(self, gradient, variable, learning_rate):
            index = self._get_variable_index(variable)
            latent = [each[index] for each in self.latent]
            enforcement.apply_rule(
                self,
                lambda g, w, s, b, d: (w + s, w + g, s + g, b + g, d + g),
                [gradient, *latent],
                [variable, *latent],
            )

    return Traffic(1e-2)


# ---- worker --------------------------------------------------------------


def compiled(keras, name, optimizer):
    if name == "mlp":
        # Smaller than that of training_overhead.py: 3.1 million weights.
        layers = keras.layers
        model = keras.Sequential(
            [
                layers.InputLayer((FEATURES,)),
                layers.Dense(1024, activation="relu"),
                layers.Dense(1024, activation="relu"),
                layers.Dense(CLASSES),
            ]
        )
    else:
        model = build(keras, name)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    return model


def state_bytes(keras, model):
    convert = keras.ops.convert_to_numpy
    return sum(convert(v).nbytes for v in model.optimizer.variables)


def measure(side, args, pair):
    import keras_app

    keras = side.keras
    baseline, ours = PAIRS[pair]
    makers = {"baseline": baseline, "control": baseline, "ours": ours}
    models = {
        name: compiled(keras, args.model, make(keras, keras_app))
        for name, make in makers.items()
    }
    batch_size = BATCH_SIZES[args.model]
    x, y = data(args.model, args.steps * batch_size)
    seconds = {name: [] for name in models}
    names = list(models)
    for round_number in range(-1, args.rounds):
        # Nobody is always first, or always behind the same one.
        first = round_number % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            models[name].fit(
                x, y, batch_size=batch_size, shuffle=False, verbose=0
            )
            side.wait(models[name])
            # Round -1 compiles.
            if round_number >= 0:
                elapsed = time.perf_counter() - start
                seconds[name].append(elapsed / args.steps)
    weights = sum(keras.ops.size(v) for v in models["ours"].trainable_variables)
    return {
        "seconds": seconds,
        "weights": int(weights),
        "bytes": {
            name: state_bytes(keras, models[name])
            for name in ("baseline", "ours")
        },
    }


def work(args):
    side = KerasSide()
    measured = [pair for pair in PAIRS if pair not in BOUNDS]
    pairs = [args.pair] if args.pair else measured
    results = {pair: measure(side, args, pair) for pair in pairs}
    done = {"pairs": results, "versions": side.versions()}
    args.result.write_text(json.dumps(done))


# ---- the process that starts the workers ---------------------------------


def start_worker(args, backend, model):
    """Runs one worker; its result, or `None` if it failed."""
    defaults = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    environment = {**defaults, **os.environ, "KERAS_BACKEND": backend}
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder) / "result.json"
        command = [
            *(sys.executable, __file__, "--result", str(result)),
            *("--backend", backend, "--model", model),
            *("--rounds", str(args.rounds), "--steps", str(args.steps)),
            *(("--pair", args.pair) if args.pair else ()),
        ]
        done = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            print(
                f"{backend}, {model}: the worker failed.\n"
                f"{done.stderr[-2000:]}",
                file=sys.stderr,
            )
            return None
        return json.loads(result.read_text())


def ratios(result, name):
    seconds = result["seconds"]
    return [a / b for a, b in zip(seconds[name], seconds["baseline"])]


def row(backend, model, pair, result):
    step = {
        name: f"{1e3 * statistics.median(values):.1f}"
        for name, values in result["seconds"].items()
    }
    weights = result["weights"]
    return [
        backend,
        f"{model}, {weights / 1e6:.1f}M",
        pair,
        step["baseline"],
        step["ours"],
        spread(ratios(result, "ours")),
        spread(ratios(result, "control")),
        " / ".join(
            f"{result['bytes'][name] / weights:.2f}"
            for name in ("ours", "baseline")
        ),
    ]


def verdict(backend, model, pair, result):
    ratio = statistics.median(ratios(result, "ours"))
    judged = judge(ratio, ratios(result, "control"), TARGET)
    return f"{backend}, {model}: {pair} {ratio:.3f}, {judged}"


def parse(argv):
    parser = argparse.ArgumentParser(
        description="Step time and state of the sparse optimizers."
    )
    add = parser.add_argument
    add("--backend", choices=BACKENDS, help="default: all")
    add("--model", choices=list(BATCH_SIZES), help="default: both")
    add("--pair", choices=list(PAIRS), help="default: all but the bound")
    add("--rounds", type=int, default=5, help="timed fits of each model")
    add("--steps", type=int, default=100, help="of a fit")
    add("--markdown", action="store_true", help="print a Markdown table")
    add("--result", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.steps < 1:
        parser.error("--rounds and --steps must be at least 1.")
    return args


def main(argv=None):
    args = parse(argv)
    if args.result:
        work(args)
        return
    rows, sentences, packages = [], [], []
    for backend in [args.backend] if args.backend else BACKENDS:
        if not importlib.util.find_spec(backend):
            print(f"{backend} is left out: it is not installed.")
            continue
        for model in [args.model] if args.model else BATCH_SIZES:
            print(f"measuring {backend}, {model} ...", file=sys.stderr)
            done = start_worker(args, backend, model)
            if done is None:
                continue
            for pair, result in done["pairs"].items():
                rows.append(row(backend, model, pair, result))
                if pair not in BOUNDS:
                    sentences.append(verdict(backend, model, pair, result))
            if done["versions"] not in packages:
                packages.append(done["versions"])
    if not rows:
        print("Nothing was measured.")
        return
    print(f"\n{hardware()}\n")
    bullet = "- " if args.markdown else ""
    for line in packages:
        print(f"{bullet}{line}")
    sizes = ", ".join(f"{size} ({name})" for name, size in BATCH_SIZES.items())
    print(
        f"\nBatch size {sizes}, {args.rounds} rounds of {args.steps} steps. "
        "Ratios are medians over the rounds (min-max).\n"
    )
    header = [
        "backend",
        "model",
        "pair",
        "Keras's, ms/step",
        "ours, ms/step",
        "ours / Keras's",
        "control: Keras's / Keras's",
        "state, bytes per weight",
    ]
    show(header, rows, args.markdown)
    print()
    for sentence in sentences:
        print(f"{bullet}{sentence}")


if __name__ == "__main__":
    main()
