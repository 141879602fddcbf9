r"""Every method of the package under one protocol: accuracy, density, time.

    pip install -e .
    export TFDS_DATA_DIR=...
    python benchmarks/compare_methods.py --results runs/compare
    python benchmarks/compare_methods.py --results runs/compare \
        --task cifar10 --sparsities 0.9 --seeds 0

One protocol for all: the same data, network, batches, epochs and learning rate
that falls at the same epochs; all kernels are pruned, the last one included.
Methods that train more than once (tickets) are given as many epochs for each
of their trainings, and the time says so. Bregman optimizers have a learning
rate of their own and are steered to the density; the density of continuous
sparsification is an outcome, of the rounds written in `ROUNDS`.

Each cell of the table (method, sparsity, seed) is stored in `--results`: a run
that was cut off goes on where it stopped. Time is the processor time inside of
`fit`, relative to dense training with the same seed, so that other work on the
machine counts little.

tfmot is measured on tf_keras, in an environment of its own (it needs an older
absl-py), with the same initial weights, batches and schedule:

    python -m venv tfmot
    tfmot/bin/pip install tensorflow tf_keras tensorflow-model-optimization
    python benchmarks/compare_methods.py --tfmot-python tfmot/bin/python ...
"""

import argparse
import dataclasses
import functools
import json
import math
import pathlib
import statistics
import sys
import tempfile
import time
import warnings

import numpy as np
import results
import tasks
from measure import has_tfmot
from measure import plus_minus
from measure import run_worker
from measure import versions

# A worker for tfmot runs where neither Keras 3 nor this package is installed:
# everything else is imported where it is used.

SPARSITIES = (0.8, 0.9, 0.95, 0.98)
FREQUENCY = 100  # steps between mask updates
# {sparsity: rounds} of continuous sparsification from s_init=0, whose density
# is an outcome: found on Fashion-MNIST with seed 0.
ROUNDS = {0.8: 2, 0.9: 3, 0.95: 4, 0.98: 6}


@dataclasses.dataclass
class Task:
    """One data set and network, and how long it is trained.

    Attributes:
        data: Arguments of `experiments.data.Holdout` and `Megabatches`.
        model: Name for `experiments.models.get`, and further arguments.
        epochs: Epochs of one training.
        milestones: Epochs at which the learning rate falls to a tenth.
        learning_rate: Of SGD with momentum 0.9.
        bregman_rates: Of LinBreg and ProxSGD, and of AdaBreg.
        mean, std: Normalization inside the model.
    """

    data: dict
    model: tuple
    epochs: int
    milestones: tuple
    learning_rate: float
    bregman_rates: tuple
    mean: tuple
    std: tuple


TASKS = {
    "fashion_mnist": Task(
        data={
            "name_or_arrays": "fashion_mnist",
            "batch_size": 128,
            "validation_fraction": 0.05,
            "augment": False,
        },
        model=("mlp", {"hidden": (300, 100)}),
        epochs=5,
        milestones=(3, 4),
        learning_rate=0.05,
        bregman_rates=(0.1, 1e-3),
        mean=(0.2860,),
        std=(0.3530,),
    ),
    "cifar10": Task(
        data={
            "name_or_arrays": "cifar10",
            "split": "train[:10000]",
            "batch_size": 64,
            "validation_fraction": 0.05,
            "augment": True,
        },
        model=("resnet20", {}),
        epochs=8,
        milestones=(5, 7),
        learning_rate=0.1,
        bregman_rates=(0.1, 1e-3),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
}


# ---- the methods -------------------------------------------------------


class Cell:
    """One training: what a row of `METHODS` is given to work with."""

    def __init__(self, task, sparsity, seed, folder):
        import keras_app

        self.ka = keras_app
        self.task = task
        self.sparsity = sparsity
        self.seed = seed
        self.folder = folder
        self.data = keras_app.experiments.data.Holdout(**task.data, seed=seed)
        self.steps = task.epochs * self.data.steps_per_epoch

    @property
    def schedules(self):
        return self.ka.schedules

    @property
    def common(self):
        """Arguments of every experiment."""
        name, arguments = self.task.model
        return {
            "model": functools.partial(
                getattr(self.ka.experiments.models, name), **arguments
            ),
            "mean": self.task.mean,
            "std": self.task.std,
            "seed": self.seed,
        }

    def run(self, experiment):
        summary = experiment.run(self.folder, verbose=False)
        return summary["accuracy"], summary["effective_density"]

    def sgd(self):
        return self.ka.optimizers.CoupledSGD(self.task.learning_rate)

    def gradual(self, frequency=FREQUENCY):
        """Rises over the first two thirds of the training."""
        return self.schedules.PolynomialDecay(
            0.0, self.sparsity, 0, 2 * self.steps // 3, frequency=frequency
        )

    def gradual_each_step(self):
        """The same, for dormant weights: in between they grow unchecked."""
        return self.gradual(1)

    def constant(self, frequency=FREQUENCY):
        """One sparsity, whose masks move for three quarters of the time."""
        return self.schedules.ConstantSparsity(
            self.sparsity, 0, 3 * self.steps // 4, frequency=frequency
        )

    def constant_each_step(self):
        return self.constant(1)

    def alternating(self):
        """Phases of an epoch, the first half of a period sparse."""
        per_epoch = self.data.steps_per_epoch
        return self.schedules.CyclicSparsity(
            0.0, self.sparsity, per_epoch, self.steps - per_epoch, per_epoch
        )

    def at_start(self):
        return self.schedules.OneShot(self.sparsity)

    def at_end(self):
        return self.schedules.OneShot(self.sparsity, self.steps)

    SCHEDULES = {
        "gradual": gradual,
        "gradual_each_step": gradual_each_step,
        "constant": constant,
        "constant_each_step": constant_each_step,
        "cyclic": alternating,
        "once": at_start,
        "at_end": at_end,
    }

    def scoring_batches(self, count=10):
        """The first training batches, not augmented."""
        taken = self.data.in_order(self.data.train_ids).take(count)
        return [(x.numpy(), y.numpy()) for x, y in taken]

    def train(self, pruner=None, optimizer=None, rate=None, **kwargs):
        rate = rate or self.task.learning_rate
        falling = self.ka.experiments.MilestoneLearningRate(
            rate, self.task.milestones
        )
        callbacks = [falling, *kwargs.pop("callbacks", ())]
        experiment = self.ka.experiments.Train(
            self.data,
            optimizer=optimizer or self.sgd,
            pruner=pruner,
            callbacks=callbacks,
            epochs=self.task.epochs,
            **kwargs,
            **self.common,
        )
        return self.run(experiment)

    def bregman(self, kind, rate, lam, **arguments):
        regularizer = self.ka.regularizers.L1(lam)
        density = 1 - self.sparsity
        controller = self.ka.pruners.DensityController(
            regularizer, density, frequency=FREQUENCY // 10
        )
        optimizer = getattr(self.ka.optimizers, kind)
        grown = kind != "ProxSGD"
        sparsify = functools.partial(
            self.ka.initializers.sparsify, density=density, bias_gain=1.0
        )
        return self.train(
            optimizer=lambda: optimizer(
                rate, regularizers=regularizer, **arguments
            ),
            rate=rate,
            callbacks=[controller],
            sparsify=sparsify if grown else None,
        )

    def soft_masks(self):
        experiment = self.ka.experiments.TicketSearch(
            self.data,
            optimizer=lambda: self.ka.optimizers.ContinuousSparsification(
                self.task.learning_rate, s_init=0.0
            ),
            rounds=ROUNDS[self.sparsity],
            epochs=self.task.epochs,
            milestones=self.task.milestones,
            **self.common,
        )
        return self.run(experiment)

    def tickets(self, method, rounds=5):
        """Four prunings of equal rate, then the ticket's own training."""
        rate = 1 - (1 - self.sparsity) ** (1 / (rounds - 1))
        experiment = self.ka.experiments.Lottery(
            self.data,
            methods=(method,),
            optimizer=self.sgd,
            filters="kernel",
            rounds=rounds,
            rate=rate,
            epochs=self.task.epochs,
            milestones=self.task.milestones,
            rewind_epoch=0,
            evaluate=(rounds - 1,),
            on_empty="keep",
            iteration_scaling="linear",
            **self.common,
        )
        return self.run(experiment)

    def anytime(self, method, megabatches=8):
        """Megabatches with replay, an epoch each: 4.5 passes over all."""
        data = {**self.task.data}
        data.pop("validation_fraction")
        pruner = self.ka.pruners.AnytimeProgressivePruner
        experiment = self.ka.experiments.Anytime(
            self.ka.experiments.data.Megabatches(
                num_megabatches=megabatches, seed=self.seed, **data
            ),
            methods=(method,),
            # Dense training has none, but it must be a valid one.
            level=max(1.0, math.log(1 - self.sparsity) / math.log(0.8)),
            pruner=functools.partial(pruner, filters="kernel"),
            optimizer=self.sgd,
            epochs=1,
            milestones=(),
            **self.common,
        )
        return self.run(experiment)


def _pruner(name, schedule=None, **arguments):
    """A row that trains once, under a pruner of the catalogue in tests/.

    The schedule is the catalogue's if none is given; see `Cell.SCHEDULES`.
    """

    def run(cell):
        row = tasks.catalogue().PRUNERS[name]
        data = cell.scoring_batches() if row.data else None
        make = cell.SCHEDULES[schedule or row.schedule]
        return cell.train(row.make(make(cell), data, **arguments))

    run.method = name
    return run


# {row: function of a cell that returns (accuracy, density)}
METHODS = {
    "dense": lambda cell: cell.train(),
    "gradual magnitude, by layer": _pruner("magnitude"),
    "gradual magnitude, global": _pruner("magnitude", scope="global"),
    "magnitude after training": _pruner("magnitude", "at_end", scope="global"),
    "Wanda after training": _pruner("wanda", "at_end"),
    "gradual Taylor": _pruner("taylor", scope="global"),
    "movement": _pruner("movement"),
    "gradual random": _pruner("random"),
    "SNIP": _pruner("snip", scope="global"),
    "GraSP": _pruner("grasp", scope="global"),
    "SynFlow, one pass": _pruner("synflow", scope="global"),
    "static sparse, ERK": _pruner("set", drop_fraction=0.0),
    "SET": _pruner("set"),
    "RigL": _pruner("rigl_by_steps"),
    "AC/DC": _pruner("acdc", scope="global"),
    "STE": _pruner("ste", "gradual_each_step"),
    "Top-KAST": _pruner("top_kast", "constant_each_step"),
    "ProxSGD": lambda cell: cell.bregman(
        "ProxSGD", cell.task.bregman_rates[0], 1e-4
    ),
    "LinBreg": lambda cell: cell.bregman(
        "LinBreg", cell.task.bregman_rates[0], 0.1
    ),
    "AdaBreg": lambda cell: cell.bregman(
        "AdaBreg", cell.task.bregman_rates[1], 0.1
    ),
    "continuous sparsification": Cell.soft_masks,
    "iterative magnitude, rewound": lambda cell: cell.tickets("vanilla"),
    "iterative magnitude on PrAC sets": lambda cell: cell.tickets("prac"),
    "APP": lambda cell: cell.anytime("app"),
    "one-shot, megabatches": lambda cell: cell.anytime("one_shot"),
    "dense, megabatches": lambda cell: cell.anytime("dense"),
}
_DRAWN = [row.method for row in METHODS.values() if hasattr(row, "method")]


def _other_pruners():
    """`{kind: row}` of what the catalogue has besides: as usually asked for."""
    pruners = tasks.catalogue().PRUNERS
    kinds = {pruners[name].kind for name in _DRAWN}
    kinds.add("AnytimeProgressivePruner")
    return {
        row.kind: _pruner(name)
        for name, row in pruners.items()
        if row.kind not in kinds
    }


METHODS |= _other_pruners()
DENSE = {"dense": "dense", "dense, megabatches": "dense, megabatches"}
TFMOT = "tfmot 0.8.1, gradual magnitude"


class FitClock:
    """Adds up the processor time of everything inside of `Model.fit`."""

    def __init__(self, model_class):
        self.seconds = 0.0
        fit = model_class.fit

        @functools.wraps(fit)
        def timed(*args, **kwargs):
            start = time.process_time()
            try:
                return fit(*args, **kwargs)
            finally:
                self.seconds += time.process_time() - start

        model_class.fit = timed


def measure(name, task, sparsity, seed, clock):
    """One cell of the table, as it is stored."""
    import keras

    keras.backend.clear_session()
    clock.seconds = 0.0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        cell = Cell(task, sparsity, seed, f"{folder}/run")
        accuracy, density = METHODS[name](cell)
    return {
        "accuracy": accuracy,
        "density": density,
        "seconds": clock.seconds,
        "versions": versions("keras", keras.backend.backend(), "numpy"),
    }


# ---- tfmot -------------------------------------------------------------


# Of the layers' settings, those that both generations of Keras know.
SETTINGS = (
    *("name", "units", "filters", "kernel_size", "strides", "padding"),
    *("use_bias", "activation", "momentum", "epsilon"),
)


def plan(model):
    """The layers of a functional model: class, settings, inputs by name."""
    layers = []
    for layer in model.get_config()["layers"]:
        inputs = []
        if layer["inbound_nodes"]:
            tensors = layer["inbound_nodes"][0]["args"][0]
            if not isinstance(tensors, list):
                tensors = [tensors]
            inputs = [t["config"]["keras_history"][0] for t in tensors]
        settings = {k: v for k, v in layer["config"].items() if k in SETTINGS}
        layers.append((layer["class_name"], settings, inputs))
    return layers


def hand_over(task, seed, path):
    """Writes data and initial network for a process without this package."""
    import keras

    import keras_app as ka

    keras.utils.set_random_seed(seed)
    data = ka.experiments.data.Holdout(**task.data, seed=seed)
    name, arguments = task.model
    model = getattr(ka.experiments.models, name)(
        input_shape=tuple(data.image_shape),
        num_classes=data.num_classes,
        mean=task.mean,
        std=task.std,
        seed=seed,
        **arguments,
    )
    batches = [(x.numpy(), y.numpy()) for x, y in data.epochs(0, task.epochs)]
    test_x, test_y = data.test
    mean, std = np.float32(task.mean), np.float32(task.std)
    np.savez(
        path,
        layers=json.dumps(plan(model)),
        outputs=model.predict(test_x[:64], verbose=0),
        x=(np.concatenate([x for x, _ in batches]) - mean) / std,
        y=np.concatenate([y for _, y in batches]),
        sizes=[len(y) for _, y in batches],
        test_x=(test_x - mean) / std,
        test_y=test_y,
        **{
            f"{layer.name}/{i}": value
            for layer in model.layers
            if layer.name != "input_normalization"
            for i, value in enumerate(layer.get_weights())
        },
    )


def rebuild(found):
    """The network handed over, in tf_keras, checked by its outputs."""
    import tf_keras

    tensors = {}
    for kind, settings, inputs in json.loads(str(found["layers"])):
        name = settings["name"]
        sources = [tensors[i] for i in inputs]
        if kind == "InputLayer":
            inputs_of_all = tf_keras.Input(found["x"].shape[1:], name=name)
            tensors[name] = inputs_of_all
        elif kind == "Normalization":
            # The images handed over are normalized: tfmot has no wrapper for
            # this layer.
            tensors[name] = sources[0]
        else:
            layer = getattr(tf_keras.layers, kind)(**settings)
            tensors[name] = layer(sources if len(sources) > 1 else sources[0])
    model = tf_keras.Model(inputs_of_all, tensors[name])
    for layer in model.layers:
        values = [found[f"{layer.name}/{i}"] for i in range(len(layer.weights))]
        layer.set_weights(values)
    outputs = model.predict(found["test_x"][:64], verbose=0)
    np.testing.assert_allclose(outputs, found["outputs"], rtol=0, atol=1e-3)
    return model


def work_tfmot(args):
    """One cell on tf_keras, with the weights and batches handed over."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    task = TASKS[args.task]
    found = np.load(args.worker)
    model = rebuild(found)
    sizes = found["sizes"]
    steps = len(sizes)
    per_epoch = steps // task.epochs
    callbacks = []
    if args.worker_sparsity > 0:
        schedule = tfmot.sparsity.keras.PolynomialDecay(
            0.0, args.worker_sparsity, 0, 2 * steps // 3, frequency=FREQUENCY
        )
        model = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
        callbacks.append(tfmot.sparsity.keras.UpdatePruningStep())
    rates = tf_keras.callbacks.LearningRateScheduler(
        lambda epoch: (
            task.learning_rate * 0.1 ** sum(m <= epoch for m in task.milestones)
        )
    )
    model.compile(
        tf_keras.optimizers.SGD(task.learning_rate, momentum=0.9),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

    def batches():
        start = 0
        for size in sizes:
            yield found_x[start : start + size], found_y[start : start + size]
            start += size

    found_x, found_y = found["x"], found["y"]
    clock = FitClock(type(model))
    model.fit(
        batches(),
        steps_per_epoch=per_epoch,
        epochs=task.epochs,
        callbacks=[rates, *callbacks],
        verbose=0,
    )
    outputs = model.predict(found["test_x"], batch_size=256, verbose=0)
    if args.worker_sparsity > 0:
        model = tfmot.sparsity.keras.strip_pruning(model)
    values = [w for w in model.get_weights() if w.ndim > 1]
    kept = sum(np.count_nonzero(w) for w in values)
    args.result.write_text(
        json.dumps(
            {
                "accuracy": float(
                    np.mean(np.argmax(outputs, -1) == found["test_y"])
                ),
                "density": kept / sum(w.size for w in values),
                "seconds": clock.seconds,
                "versions": versions(
                    *("tf_keras", "tensorflow"),
                    *("tensorflow-model-optimization", "numpy"),
                ),
            }
        )
    )


def measure_tfmot(args, sparsity, seed):
    with tempfile.TemporaryDirectory() as folder:
        handed = pathlib.Path(folder) / "handed.npz"
        hand_over(TASKS[args.task], seed, handed)
        options = {"task": args.task, "worker": handed}
        options["worker-sparsity"] = sparsity
        return run_worker(
            __file__,
            options,
            python=args.tfmot_python,
            TF_USE_LEGACY_KERAS="1",
        )


def measure_cell(args, name, sparsity, seed, clock):
    if name == TFMOT:
        found = measure_tfmot(args, sparsity, seed)
    else:
        found = measure(name, TASKS[args.task], sparsity, seed, clock)
    if found is None:
        return None
    print(
        f"{found['accuracy']:.4f} at {found['density']:.4f}, "
        f"{found['seconds']:.0f} s",
        file=sys.stderr,
    )
    return {"method": name, "sparsity": sparsity, "seed": seed, **found}


# ---- the table ---------------------------------------------------------


def cells(args):
    """`(row, sparsity, seed)` in the order of the table, dense rows first."""
    names = args.only or [*METHODS, *([TFMOT] if args.tfmot_python else [])]
    for seed in args.seeds:
        for name in sorted(names, key=lambda n: n not in DENSE):
            for sparsity in [0.0] if name in DENSE else args.sparsities:
                yield name, sparsity, seed


def table(args, measured):
    """Rows of text: accuracy and density per sparsity, and the time."""
    dense = {
        cell["seed"]: cell["seconds"]
        for cell in measured
        if cell["method"] == "dense"
    }
    rows = []
    for name in [*METHODS, TFMOT]:
        row, ratios = [name], []
        for sparsity in args.sparsities:
            wanted = 0.0 if name in DENSE else sparsity
            cells = [
                cell
                for cell in measured
                if (cell["method"], cell["sparsity"]) == (name, wanted)
                and cell["seed"] in args.seeds
            ]
            ratios += [
                cell["seconds"] / dense[cell["seed"]]
                for cell in cells
                if cell["seed"] in dense
            ]
            if not cells:
                row.append("-")
                continue
            text = plus_minus([100 * cell["accuracy"] for cell in cells], 2)
            density = statistics.mean(cell["density"] for cell in cells)
            if wanted and abs(density - (1 - wanted)) > 5e-4:
                text += f" (at {100 * density:.1f} %)"
            row.append(text)
        if set(row[1:]) == {"-"}:
            continue
        # Without dense training there is nothing to relate the time to.
        row.append(f"{statistics.median(ratios):.2f}" if ratios else "-")
        rows.append(row)
    return rows


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    results.options(parser)
    add("--task", choices=TASKS, default="fashion_mnist")
    add("--sparsities", type=float, nargs="+", default=list(SPARSITIES))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--only", nargs="+", choices=[*METHODS, TFMOT], help="some rows")
    add("--tfmot-python", help="interpreter that has tf_keras and tfmot")
    add("--show", action="store_true", help="print what is there, run nothing")
    add("--worker", help=argparse.SUPPRESS)
    add("--worker-sparsity", type=float, help=argparse.SUPPRESS)
    add("--result", type=pathlib.Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    if args.worker:
        work_tfmot(args)
        return
    if args.tfmot_python and not has_tfmot(args.tfmot_python):
        sys.exit(f"{args.tfmot_python} has no tf_keras and tfmot.")
    found = results.Results(args, f"compare_{args.task}")
    if not args.show:
        import keras

        clock = FitClock(keras.Model)
        for name, sparsity, seed in cells(args):
            cell = f"{name}, {sparsity:g}, seed {seed}"
            found.measure(cell, measure_cell, args, name, sparsity, seed, clock)
    header = ["method", *(f"{100 * s:g} %" for s in args.sparsities), "time"]
    rows = table(args, found.measured.values())
    found.finish({"accuracy": (header, rows)})


if __name__ == "__main__":
    main()
