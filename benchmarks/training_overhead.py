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
import functools
import json
import statistics
import sys

import numpy as np
import results
import tasks
from measure import BACKENDS
from measure import has_tfmot
from measure import in_turns
from measure import installed
from measure import judge
from measure import met
from measure import milliseconds
from measure import peak_bytes
from measure import ratios
from measure import run_worker
from measure import spread
from measure import timed
from measure import versions

# A worker for tfmot runs where neither Keras 3 nor this package is installed:
# everything else is imported where it is used.

FREQUENCY = 100
SPARSITY = 0.9
MODELS = ("mlp", "convnet")
TARGETS = {"tensorflow": 1.05, "jax": 1.05, "torch": 1.10}
TARGET_BYTES = 1.0


# ---- workers -----------------------------------------------------------


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


def dense(keras, name):
    return tasks.compiled(
        keras, tasks.build(keras, name), keras.optimizers.Adam(1e-4)
    )


class KerasSide:
    """Dense and masked models on the Keras backend of this process."""

    def __init__(self):
        import keras

        self.keras = keras

    def masked(self, args, steps):
        from keras_app.schedules import PolynomialDecay

        schedule = PolynomialDecay(**schedule_args(args, steps))
        pruner = tasks.timed_pruner(self.keras, schedule)
        return dense(self.keras, args.model), [pruner]

    def wait(self, model):
        tasks.wait(self.keras, model)

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
        return tasks.keras_versions(self.keras)


class TfmotSide:
    """Dense and pruned models on tf_keras."""

    def __init__(self):
        import tensorflow_model_optimization as tfmot
        import tf_keras

        self.keras = tf_keras
        self.sparsity = tfmot.sparsity.keras

    def masked(self, args, steps):
        schedule = self.sparsity.PolynomialDecay(**schedule_args(args, steps))
        model = self.sparsity.prune_low_magnitude(
            tasks.build(self.keras, args.model), pruning_schedule=schedule
        )
        callbacks = [self.sparsity.UpdatePruningStep()]
        optimizer = self.keras.optimizers.Adam(1e-4)
        return tasks.compiled(self.keras, model, optimizer), callbacks

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


def fit(side, args, x, y, model, callbacks):
    model.fit(
        x,
        y,
        batch_size=args.batch_size,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    side.wait(model)


def measure_time(side, args):
    x, y = tasks.data(args.model, args.steps * args.batch_size)
    variants = {
        "dense": (dense(side.keras, args.model), []),
        "control": (dense(side.keras, args.model), []),
        "masked": side.masked(args, args.steps),
    }
    fits = {
        name: timed(
            functools.partial(fit, side, args, x, y, *variant), args.steps
        )
        for name, variant in variants.items()
    }
    seconds = in_turns(fits, args.rounds)
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
    x, y = tasks.data(args.model, steps * args.batch_size)
    if args.memory == "masked":
        model, callbacks = side.masked(args, steps)
    else:
        model, callbacks = dense(side.keras, args.model), []
    fit(side, args, x, y, model, callbacks)
    return {"peak_bytes": peak_bytes()}


def work(args):
    side = TfmotSide() if args.backend == "tfmot" else KerasSide()
    measure = measure_memory if args.memory else measure_time
    args.result.write_text(json.dumps(measure(side, args)))


# ---- the process that starts the workers -------------------------------


def measure_cell(args, backend, model):
    """What three workers find: time, and the memory of each model."""
    options = {"backend": backend, "model": model, "rounds": args.rounds}
    options |= {"steps": args.steps, "batch-size": args.batch_size}
    if backend == "tfmot":
        environment = {"python": args.tfmot_python, "TF_USE_LEGACY_KERAS": "1"}
    else:
        environment = {"KERAS_BACKEND": backend}
    worker = functools.partial(run_worker, __file__, **environment)
    result = worker(options)
    if result is None:
        return None
    for kind in ("dense", "masked"):
        memory = worker({**options, "memory": kind}) or {}
        result[f"{kind}_peak_bytes"] = memory.get("peak_bytes")
    return {"backend": backend, "model": model, **result}


def choose_backends(args):
    """The backends to measure; says what is left out, and why."""
    if args.backend != "tfmot":
        yield from installed(args.backend)
    if args.backend in (None, "tfmot"):
        if has_tfmot(args.tfmot_python):
            yield "tfmot"
            return
        print(
            f"tfmot is left out: {args.tfmot_python} finds no tf_keras with "
            "tensorflow-model-optimization. Install both into an environment "
            "of their own and name its interpreter with --tfmot-python."
        )


def row(result):
    seconds = result["seconds"]
    updates = result["update_seconds"]
    peak = [result[f"{kind}_peak_bytes"] for kind in ("dense", "masked")]
    backend = result["backend"]
    return [
        "tfmot on tf_keras" if backend == "tfmot" else backend,
        f"{result['model']}, {result['parameters'] / 1e6:.1f}M",
        milliseconds(seconds["dense"]),
        milliseconds(seconds["masked"]),
        spread(ratios(seconds, "masked", "dense")),
        spread(ratios(seconds, "control", "dense")),
        milliseconds(updates, 0) if updates else "in step",
        f"{result['bytes_per_weight']:.2f}",
        " / ".join(f"{b / 2**20:.0f}" if b else "-" for b in peak),
    ]


def verdicts(result):
    """One sentence per target of this package."""
    seconds, backend = result["seconds"], result["backend"]
    if backend not in TARGETS:
        return
    place = f"{backend}, {result['model']}"
    ratio = statistics.median(ratios(seconds, "masked", "dense"))
    control = ratios(seconds, "control", "dense")
    judged = judge(ratio, control, TARGETS[backend])
    yield f"{place}: masked/dense {ratio:.3f}, {judged}"
    size = result["bytes_per_weight"]
    yield (
        f"{place}: {size:.2f} bytes per masked weight, target <= "
        f"{TARGET_BYTES:.0f}: {met(round(size, 2) <= TARGET_BYTES)}"
    )


def parse(argv):
    parser = results.parser_of(
        "Step time and memory of masked against dense training.",
        backends=[*BACKENDS, "tfmot"],
        rounds=(5, "timed fits of each model"),
        steps=(FREQUENCY, f"of a fit; a multiple of {FREQUENCY}"),
        batch_size=(128, "of all fits"),
    )
    add = parser.add_argument
    add("--model", choices=MODELS, help="default: both")
    add(
        "--tfmot-python",
        default=sys.executable,
        metavar="PATH",
        help="interpreter of an environment with tensorflow-model-optimization",
    )
    add("--memory", choices=["dense", "masked"], help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.steps % FREQUENCY:
        parser.error(
            f"--steps must be a multiple of {FREQUENCY}, so that every fit "
            f"has its share of mask updates. Received: {args.steps}"
        )
    return args


def compare(args):
    found = results.Results(
        *(args, "training_overhead"),
        settings=("rounds", "steps", "batch_size"),
    )
    for backend in choose_backends(args):
        for model in [args.model] if args.model else MODELS:
            name = f"{backend}, {model}"
            found.measure(name, measure_cell, args, backend, model)
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
    cells = found.measured.values()
    found.finish(
        {"steps": (header, [row(cell) for cell in cells])},
        f"Adam, masks updated every {FREQUENCY} steps. Ratios are medians over "
        "the rounds (min-max).",
        [sentence for cell in cells for sentence in verdicts(cell)],
    )


def main(argv=None):
    results.start(parse(argv), work, compare)


if __name__ == "__main__":
    main()
