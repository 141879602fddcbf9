"""Step time and memory of masked training, against dense training.

    pip install -e .
    python benchmarks/training_overhead.py
    python benchmarks/training_overhead.py --backend jax --model mlp --rounds 9

One process per backend holds three models of one architecture: a dense one,
its identical twin, and one under a `MagnitudePruner`. Whole fits of all three
take turns; the twin's ratio to the first is the noise of the machine, against
which the masked model's is read. The schedule rises to 90 % over the whole
measurement and updates the masks once in 100 steps, so that each timed fit
holds exactly one real update for each 100 steps.

TensorFlow Model Optimization (tfmot) is measured in the same way on tf_keras.
It cannot share an environment with this package (it needs an older absl-py):

    python -m venv tfmot
    tfmot/bin/pip install tensorflow tf_keras tensorflow-model-optimization
    python benchmarks/training_overhead.py --tfmot-python tfmot/bin/python

Timing never decides the exit status.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata

import numpy as np

# A worker for tfmot runs where neither Keras 3 nor this package is installed:
# everything else is imported where it is used.

FREQUENCY = 100
SPARSITY = 0.9
CLASSES = 1000
IMAGE = (32, 32, 3)
FEATURES = 1024

BACKENDS = ("tensorflow", "jax", "torch")
MODELS = ("mlp", "convnet")
TARGETS = {"tensorflow": 1.05, "jax": 1.05, "torch": 1.10}
TARGET_BYTES = 1.0


# ---- shared with the other benchmark -----------------------------------


def hardware():
    """One line: processor and cores."""
    model = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count()
    return f"{model}, {cores} cores, {platform.system()}"


def versions(*packages):
    """One line: Python and what is installed of the packages."""
    found = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def show(header, rows, markdown):
    """Prints a table, for the terminal or as Markdown."""
    if markdown:
        print("| " + " | ".join(header) + " |")
        print("| " + " | ".join("---" for _ in header) + " |")
        for row in rows:
            print("| " + " | ".join(row) + " |")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    # A file or a pipe has no width of its own.
    width = None if sys.stdout.isatty() else 160
    Console(width=width).print(table)


def spread(values, digits=3):
    """Median and range: `1.020 (1.010-1.031)`."""
    low, high = min(values), max(values)
    return (
        f"{statistics.median(values):.{digits}f} "
        f"({low:.{digits}f}-{high:.{digits}f})"
    )


def judge(ratio, controls, target):
    """What a ratio says about a target, given the ratios of equal twins.

    Subtracted from the ratio, a noisy control would excuse anything.
    """
    noise = max(abs(value - 1) for value in controls)
    if noise > target - 1:
        words = "undecided, the control alone differs by more than that"
    elif ratio <= target:
        words = "met"
    elif ratio - noise <= target:
        words = "met beyond the control's spread only"
    else:
        words = "MISSED"
    return f"control within {noise:.3f} of 1, target <= {target:.2f}: {words}"


# ---- workers -----------------------------------------------------------


def build(keras, name):
    """The architecture, in Keras 3 and in tf_keras alike."""
    layers = keras.layers
    if name == "mlp":
        stack = [
            layers.InputLayer((FEATURES,)),
            layers.Dense(4096, activation="relu"),
            layers.Dense(4096, activation="relu"),
            layers.Dense(CLASSES),
        ]
    else:
        stack = [layers.InputLayer(IMAGE)]
        for width in (32, 64, 128, 256):
            for strides in (1, 2):
                stack += [
                    layers.Conv2D(
                        width,
                        3,
                        strides=strides,
                        padding="same",
                        use_bias=False,
                    ),
                    layers.BatchNormalization(),
                    layers.ReLU(),
                ]
        stack += [layers.GlobalAveragePooling2D(), layers.Dense(CLASSES)]
    return keras.Sequential(stack)


def compile_model(keras, model):
    model.compile(
        optimizer=keras.optimizers.Adam(1e-4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def data(name, examples):
    generator = np.random.default_rng(0)
    shape = (FEATURES,) if name == "mlp" else IMAGE
    x = generator.standard_normal((examples, *shape), dtype=np.float32)
    y = generator.integers(0, CLASSES, examples).astype(np.int32)
    return x, y


def schedule_args(args, steps):
    # Updates fall in the middle of each 100 steps: one due at the end of a fit
    # would be looked at again by the next. The last one reaches the target.
    begin_step = min(steps, FREQUENCY) // 2
    end_step = (1 + args.rounds) * steps - begin_step
    return {
        "initial_sparsity": 0.5,
        "final_sparsity": SPARSITY,
        "begin_step": begin_step,
        "end_step": end_step,
        "frequency": FREQUENCY,
    }


class KerasSide:
    """Dense and masked models on the Keras backend of this process."""

    def __init__(self):
        import keras

        self.keras = keras

    def dense(self, args):
        return compile_model(self.keras, build(self.keras, args.model)), []

    def masked(self, args, steps):
        from keras_app.pruners import MagnitudePruner
        from keras_app.schedules import PolynomialDecay

        side = self

        class TimedPruner(MagnitudePruner):
            seconds = []

            def prune(self, sparsity):
                # Steps that JAX has in its queue are no part of it.
                self._sync()
                side.wait(self.model)
                start = time.perf_counter()
                super().prune(sparsity)
                self.seconds.append(time.perf_counter() - start)

        schedule = PolynomialDecay(**schedule_args(args, steps))
        pruner = TimedPruner(schedule, on_miss="ignore")
        return self.dense(args)[0], [pruner]

    def wait(self, model):
        self.keras.ops.convert_to_numpy(model.trainable_variables[-1])

    def state_bytes(self, model):
        variables = [*model.variables, *model.optimizer.variables]
        unique = {id(variable): variable for variable in variables}
        convert = self.keras.ops.convert_to_numpy
        return sum(convert(v).nbytes for v in unique.values())

    def masked_weights(self, model, callbacks):
        masks = callbacks[0].masks.values()
        pruned = sum(mask.size - np.count_nonzero(mask) for mask in masks)
        return sum(mask.size for mask in masks), int(pruned)

    def update_seconds(self, callbacks):
        return callbacks[0].seconds

    def versions(self):
        return versions("keras", self.keras.backend.backend(), "numpy")


class TfmotSide:
    """Dense and pruned models on tf_keras."""

    def __init__(self):
        import tensorflow_model_optimization as tfmot
        import tf_keras

        self.keras = tf_keras
        self.sparsity = tfmot.sparsity.keras

    def dense(self, args):
        return compile_model(self.keras, build(self.keras, args.model)), []

    def masked(self, args, steps):
        schedule = self.sparsity.PolynomialDecay(**schedule_args(args, steps))
        model = self.sparsity.prune_low_magnitude(
            build(self.keras, args.model), pruning_schedule=schedule
        )
        callbacks = [self.sparsity.UpdatePruningStep()]
        return compile_model(self.keras, model), callbacks

    def wait(self, model):
        model.trainable_variables[-1].numpy()

    def state_bytes(self, model):
        optimizer = model.optimizer.variables
        optimizer = optimizer() if callable(optimizer) else optimizer
        variables = [*model.variables, *optimizer]
        unique = {id(variable): variable for variable in variables}
        return sum(v.numpy().nbytes for v in unique.values())

    def masked_weights(self, model, callbacks):
        masks = [v.numpy() for v in model.variables if "mask" in v.name]
        pruned = sum(mask.size - np.count_nonzero(mask) for mask in masks)
        return sum(mask.size for mask in masks), int(pruned)

    def update_seconds(self, callbacks):
        return []  # inside the compiled step

    def versions(self):
        return versions(
            "tf_keras", "tensorflow", "tensorflow-model-optimization", "numpy"
        )


def measure_time(side, args):
    x, y = data(args.model, args.steps * args.batch_size)
    variants = {
        "dense": side.dense(args),
        "control": side.dense(args),
        "masked": side.masked(args, args.steps),
    }
    seconds = {name: [] for name in variants}
    names = list(variants)
    for round_number in range(-1, args.rounds):
        # Nobody is always first, or always behind the same one.
        first = round_number % len(names)
        for name in names[first:] + names[:first]:
            model, callbacks = variants[name]
            start = time.perf_counter()
            model.fit(
                x,
                y,
                batch_size=args.batch_size,
                shuffle=False,
                verbose=0,
                callbacks=callbacks,
            )
            side.wait(model)
            # Round -1 compiles.
            if round_number >= 0:
                elapsed = time.perf_counter() - start
                seconds[name].append(elapsed / args.steps)
    model, callbacks = variants["masked"]
    weights, pruned = side.masked_weights(model, callbacks)
    added = side.state_bytes(model) - side.state_bytes(variants["dense"][0])
    return {
        "seconds": seconds,
        "update_seconds": side.update_seconds(callbacks),
        "parameters": sum(
            int(np.prod(v.shape))
            for v in variants["dense"][0].trainable_variables
        ),
        "masked_weights": weights,
        "sparsity": pruned / weights,
        "bytes_per_weight": added / weights,
        "versions": side.versions(),
    }


def measure_memory(side, args):
    """Peak resident memory of a process with one model: four steps."""
    steps = 4
    x, y = data(args.model, steps * args.batch_size)
    if args.memory == "masked":
        model, callbacks = side.masked(args, steps)
    else:
        model, callbacks = side.dense(args)
    model.fit(x, y, batch_size=args.batch_size, verbose=0, callbacks=callbacks)
    side.wait(model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return {"peak_bytes": peak if sys.platform == "darwin" else peak * 1024}


def work(args):
    side = TfmotSide() if args.backend == "tfmot" else KerasSide()
    measure = measure_memory if args.memory else measure_time
    args.result.write_text(json.dumps(measure(side, args)))


# ---- the process that starts the workers -------------------------------


def start_worker(args, backend, model, memory=None):
    """Runs one worker; its result, or `None` if it failed."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    if backend == "tfmot":
        python = args.tfmot_python
        environment["TF_USE_LEGACY_KERAS"] = "1"
    else:
        python = sys.executable
        environment["KERAS_BACKEND"] = backend
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder) / "result.json"
        command = [
            *(python, __file__, "--worker", "--result", str(result)),
            *("--backend", backend, "--model", model),
            *("--rounds", str(args.rounds), "--steps", str(args.steps)),
            *("--batch-size", str(args.batch_size)),
        ]
        if memory:
            command += ["--memory", memory]
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


def has_tfmot(python):
    probe = (
        "import importlib.util, sys\n"
        "names = ('tf_keras', 'tensorflow_model_optimization')\n"
        "sys.exit(not all(map(importlib.util.find_spec, names)))"
    )
    try:
        return subprocess.run([python, "-c", probe]).returncode == 0
    except OSError:
        return False


def choose_backends(args):
    """The backends to measure; says what is left out, and why."""
    chosen = []
    for backend in [args.backend] if args.backend else [*BACKENDS, "tfmot"]:
        if backend == "tfmot":
            if has_tfmot(args.tfmot_python):
                chosen.append(backend)
                continue
            print(
                f"tfmot is left out: {args.tfmot_python} finds no tf_keras "
                "with tensorflow-model-optimization. Install both into an "
                "environment of their own and name its interpreter with "
                "--tfmot-python."
            )
        elif importlib.util.find_spec(backend):
            chosen.append(backend)
        else:
            print(f"{backend} is left out: it is not installed.")
    return chosen


def ratios(result, name):
    seconds = result["seconds"]
    return [a / b for a, b in zip(seconds[name], seconds["dense"])]


def row(backend, model, result):
    step = {
        name: f"{1e3 * statistics.median(values):.1f}"
        for name, values in result["seconds"].items()
    }
    updates = result["update_seconds"]
    peak = [result[f"{kind}_peak_bytes"] for kind in ("dense", "masked")]
    return [
        "tfmot on tf_keras" if backend == "tfmot" else backend,
        f"{model}, {result['parameters'] / 1e6:.1f}M",
        step["dense"],
        step["masked"],
        spread(ratios(result, "masked")),
        spread(ratios(result, "control")),
        f"{1e3 * statistics.median(updates):.0f}" if updates else "in step",
        f"{result['bytes_per_weight']:.2f}",
        " / ".join(f"{b / 2**20:.0f}" if b else "-" for b in peak),
    ]


def verdicts(backend, model, result):
    """One sentence per target of this package."""
    ratio = statistics.median(ratios(result, "masked"))
    judged = judge(ratio, ratios(result, "control"), TARGETS[backend])
    yield f"{backend}, {model}: masked/dense {ratio:.3f}, {judged}"
    size = result["bytes_per_weight"]
    verdict = "met" if round(size, 2) <= TARGET_BYTES else "MISSED"
    yield (
        f"{backend}, {model}: {size:.2f} bytes per masked weight, target <= "
        f"{TARGET_BYTES:.0f}: {verdict}"
    )


def parse(argv):
    parser = argparse.ArgumentParser(
        description="Step time and memory of masked against dense training."
    )
    add = parser.add_argument
    add("--backend", choices=[*BACKENDS, "tfmot"], help="default: all")
    add("--model", choices=MODELS, help="default: both")
    add("--rounds", type=int, default=5, help="timed fits of each model")
    add("--steps", type=int, default=100, help="of a fit; a multiple of 100")
    add("--batch-size", type=int, default=128)
    add(
        "--tfmot-python",
        default=sys.executable,
        metavar="PATH",
        help="interpreter of an environment with tensorflow-model-optimization",
    )
    add("--markdown", action="store_true", help="print a Markdown table")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    add("--memory", choices=["dense", "masked"], help=argparse.SUPPRESS)
    add("--result", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.steps < FREQUENCY or args.steps % FREQUENCY:
        parser.error(
            f"--steps must be a multiple of {FREQUENCY}, so that every fit "
            f"has its share of mask updates. Received: {args.steps}"
        )
    if args.rounds < 1 or args.batch_size < 1:
        parser.error("--rounds and --batch-size must be at least 1.")
    return args


def main(argv=None):
    args = parse(argv)
    if args.worker:
        work(args)
        return
    rows, sentences, packages = [], [], []
    for backend in choose_backends(args):
        for model in [args.model] if args.model else MODELS:
            print(f"measuring {backend}, {model} ...", file=sys.stderr)
            result = start_worker(args, backend, model)
            if result is None:
                continue
            for kind in ("dense", "masked"):
                memory = start_worker(args, backend, model, kind)
                result[f"{kind}_peak_bytes"] = (memory or {}).get("peak_bytes")
            rows.append(row(backend, model, result))
            if backend in TARGETS:
                sentences += verdicts(backend, model, result)
            if result["versions"] not in packages:
                packages.append(result["versions"])
    if not rows:
        print("Nothing was measured.")
        return
    print(f"\n{hardware()}\n")
    bullet = "- " if args.markdown else ""
    for line in packages:
        print(f"{bullet}{line}")
    print(
        f"\nAdam, batch size {args.batch_size}, {args.rounds} rounds of "
        f"{args.steps} steps, masks updated every {FREQUENCY}. Ratios are "
        "medians over the rounds (min-max).\n"
    )
    header = [
        "backend",
        "model",
        "dense, ms/step",
        "masked, ms/step",
        "masked / dense",
        "control: dense / dense",
        "mask update, ms",
        "bytes per masked weight",
        "peak MiB, dense / masked",
    ]
    show(header, rows, args.markdown)
    print()
    for sentence in sentences:
        print(f"{bullet}{sentence}")


if __name__ == "__main__":
    main()
