r"""Methods at equal tuning budgets: settings by validation, figures by test.

    pip install -e '.[ray]'
    export TFDS_DATA_DIR=...
    python benchmarks/tuned_methods.py --results docs/results/data --work runs
    python benchmarks/tuned_methods.py --data cifar10 --work runs

Every method has as many settings of its own knobs: twelve on Fashion-MNIST,
three on CIFAR-10, in a third of the epochs. Each is one run of `python -m
keras_app.sweep` at one sparsity, with a seed that is not used again, judged on
the validation part. The best one then trains at every sparsity with three seeds
and is judged on the test set. What was tried and what was chosen is stored
beside the results; a method that is there is not measured again.

Any cell is one command, `python -m keras_app.train` with the gin file of the
protocol and the bindings that the table of settings gives.
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys

import results
from measure import plus_minus

TUNING_SEED = 100
STEPS = 5 * 446
SOME_FAILED = 1  # of a sweep: settings with which a training diverges

RATE = "experiments.MilestoneLearningRate.learning_rate"
OPTIMIZER = "experiments.Train.optimizer"


ENDS = [STEPS // 2, 3 * STEPS // 4]
END = "schedules.PolynomialDecay.end_step"
ADAM = f"{OPTIMIZER}='adam'"

# {method: (gin file, [(further bindings, {knob: values}), ...])}: the values of
# all grids together are twelve settings.
FASHION_MNIST = {
    "dense": (
        "fashion_mnist",
        [
            ((), {RATE: [0.01, 0.02, 0.05, 0.1, 0.2, 0.4]}),
            ((ADAM,), {RATE: [3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2]}),
        ],
    ),
    "gradual magnitude": (
        "magnitude",
        [
            ((), {RATE: [0.05, 0.1, 0.2], END: ENDS}),
            ((ADAM,), {RATE: [1e-3, 3e-3, 1e-2], END: ENDS}),
        ],
    ),
    "AdaBreg": (
        "adabreg",
        [
            (
                (),
                {
                    RATE: [5e-3, 1e-2, 2e-2],
                    "optimizers.AdaBreg.epsilon": [1e-8, 1e-5, 1e-4, 1e-3],
                },
            ),
        ],
    ),
    "LinBreg": (
        "linbreg",
        [
            (
                (),
                {
                    RATE: [0.1, 0.3, 1.0, 2.0],
                    "optimizers.LinBreg.momentum": [0.0, 0.5, 0.9],
                },
            ),
        ],
    ),
    "RigL": (
        "rigl",
        [
            (
                (),
                {
                    RATE: [0.05, 0.1, 0.2, 0.4],
                    "pruners.RigL.drop_fraction": [0.1, 0.3, 0.5],
                },
            ),
        ],
    ),
    "GraNet": (
        "granet",
        [
            (
                (),
                {
                    RATE: [0.05, 0.1, 0.2],
                    "pruners.GraNet.drop_fraction": [0.1, 0.5],
                    END: ENDS,
                },
            ),
        ],
    ),
    "STE": (
        "ste",
        [
            (
                (),
                {
                    RATE: [0.05, 0.1, 0.2],
                    "pruners.STE.lam": [0.0, 2e-4],
                    "schedules.ConstantSparsity.end_step": ENDS,
                },
            ),
        ],
    ),
    "AC/DC": (
        "acdc",
        [
            (
                (),
                {
                    RATE: [0.05, 0.1, 0.2],
                    "schedules.CyclicSparsity.period": [223, 446],
                    "schedules.CyclicSparsity.sparse_fraction": [0.5, 0.75],
                },
            ),
        ],
    ),
    "Top-KAST": (
        "top_kast",
        [
            (
                (),
                {
                    RATE: [0.05, 0.1, 0.2],
                    "pruners.TopKAST.lam": [0.0, 1e-4],
                    "pruners.TopKAST.backward_sparsity": [0.5, 0.8],
                },
            ),
        ],
    ),
}

PEAK = "experiments.TriangularLearningRate.peak"
SGD_PEAKS = [((), {PEAK: [0.75, 1.2, 2.0]})]

# Three settings each, around the best on a network of twice the width.
CIFAR10 = {
    "dense": ("cifar10_dense", SGD_PEAKS),
    "gradual magnitude": ("cifar10_magnitude", SGD_PEAKS),
    "AdaBreg": ("cifar10_adabreg", [((), {PEAK: [1e-2, 2e-2, 4e-2]})]),
    "RigL": ("cifar10_rigl", SGD_PEAKS),
    "LinBreg": ("cifar10_linbreg", [((), {PEAK: [0.3, 1.0, 3.0]})]),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set with its network: what is tuned on it, where, and how."""

    methods: dict
    tuned_at: float
    sparsities: tuple[float, ...]
    # While tuning only.
    bindings: tuple[str, ...] = ()


TASKS = {
    "fashion_mnist": Task(FASHION_MNIST, 0.95, (0.8, 0.9, 0.95, 0.98)),
    "cifar10": Task(
        CIFAR10, 0.966, (0.9, 0.966, 0.99), ("experiments.Train.epochs=2",)
    ),
}


def sweep(folder, file, bindings, grid):
    """The finished runs of a sweep: `[(point, folder of the run)]`."""
    command = [sys.executable, "-m", "keras_app.sweep"]
    if (folder / "sweep.json").exists():
        command += ["--resume"]
    else:
        command += [f"--gin_file=benchmarks/protocols/{file}.gin"]
        command += [f"--gin_param={binding}" for binding in bindings]
        for knob, values in grid.items():
            command += ["--grid", f"{knob}={values}"]
    # From the root, where the gin files find what they include.
    command += [f"--sweep_dir={folder.resolve()}"]
    status = subprocess.run(command, cwd=results.ROOT).returncode
    if status not in (0, SOME_FAILED):
        sys.exit(f"the sweep in {folder} ended with exit status {status}")
    found = json.loads((folder / "sweep.json").read_text())
    return [(run["point"], folder / run["label"]) for run in found["runs"]]


def slug(name):
    return name.replace(" ", "_").replace("/", "")


def events(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def tune(name, task, work):
    """Settings with their validation accuracy, the best one first."""
    file, grids = task.methods[name]
    tried = []
    for number, (more, grid) in enumerate(grids):
        folder = work / f"{slug(name)}-tuning-{number}"
        seed = f"experiments.Train.seed={TUNING_SEED}"
        fixed = (*more, *task.bindings, seed)
        if name != "dense":
            fixed = (*fixed, f"SPARSITY={task.tuned_at}")
        for point, run in sweep(folder, file, fixed, grid):
            # One that diverged is a setting that was tried, and lost.
            done = (run / "summary.json").exists()
            judged = [e for e in events(run) if "val_accuracy" in e]
            chosen = [f"{knob}={value}" for knob, value in point.items()]
            tried.append(
                {
                    "settings": [*more, *chosen],
                    "validation": judged[-1]["val_accuracy"] if done else 0.0,
                }
            )
    return sorted(tried, key=lambda one: -one["validation"])


def measure(name, args):
    """Everything about a method, as it is stored."""
    task = TASKS[args.data]
    work = args.work / args.data
    tried = tune(name, task, work)
    folder = work / f"{slug(name)}-final"
    file, fixed = task.methods[name][0], tried[0]["settings"]
    grid = {"experiments.Train.seed": args.seeds}
    if name != "dense":
        grid["SPARSITY"] = args.sparsities
    cells = []
    for point, run in sweep(folder, file, fixed, grid):
        summary = json.loads((run / "summary.json").read_text())
        cells.append(
            {
                # A point holds what was bound, as text.
                "sparsity": float(point.get("SPARSITY", 0.0)),
                "seed": int(point["experiments.Train.seed"]),
                "accuracy": summary["accuracy"],
                "density": summary["effective_density"],
            }
        )
    return {"tried": tried, "file": file, "chosen": fixed, "cells": cells}


def tables(found, args):
    rows, settings = [], []
    for name, one in found.items():
        row = [name]
        for sparsity in args.sparsities:
            wanted = 0.0 if name == "dense" else sparsity
            cells = [c for c in one["cells"] if c["sparsity"] == wanted]
            text = plus_minus([100 * c["accuracy"] for c in cells], 2)
            density = sum(c["density"] for c in cells) / len(cells)
            if abs(density - (1 - wanted)) > 5e-5:
                text += f" (at {100 * density:.2f} %)"
            row.append(text)
        rows.append(row)
        values = [100 * each["validation"] for each in one["tried"]]
        short = [
            setting.replace(RATE, "rate")
            .replace(PEAK, "rate")
            .replace("experiments.", "")
            for setting in one["tried"][0]["settings"]
        ]
        settings.append(
            [
                name,
                str(len(values)),
                f"`{', '.join(short)}`",
                f"{values[0]:.2f}",
                f"{values[-1]:.2f}" if values[-1] else "diverged",
            ]
        )
    return {
        "accuracy": (
            ["method", *(f"{100 * s:g} %" for s in args.sparsities)],
            rows,
        ),
        "settings": (
            ["method", "tried", "chosen", "validation, best", "worst"],
            settings,
        ),
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    results.options(parser)
    add("--data", choices=TASKS, default="fashion_mnist")
    add("--only", nargs="+", help="methods; all of the data set if not given")
    add("--sparsities", type=float, nargs="+", help="those of the data set")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add(
        "--work",
        type=pathlib.Path,
        default=pathlib.Path("runs/tuned"),
        help="folder of the sweeps, which go on where they stopped",
    )
    args = parser.parse_args(argv)
    task = TASKS[args.data]
    names = args.only or list(task.methods)
    if unknown := sorted(set(names) - set(task.methods)):
        parser.error(
            f"`--only` must be of {', '.join(task.methods)}. "
            f"Received: {', '.join(unknown)}"
        )
    args.sparsities = args.sparsities or list(task.sparsities)
    found = results.Results(
        args,
        f"tuned_{args.data}",
        ("keras", "torch", "tensorflow", "jax", "numpy"),
        ("sparsities", "seeds"),
    )
    for name in names:
        found.measure(name, measure, name, args)
    found.finish(tables(found.measured, args))


if __name__ == "__main__":
    main()
