"""The catalogue of methods: one row each, for all that runs over methods.

Contract tests (`test_pruners.py`, `test_optimizers.py`), several devices
(`test_distribution.py`), kills (`python -m tests.faults`) and
`benchmarks/compare_methods.py` draw from it. A new method is one row here;
`test_methods.py` fails until it has one.

Rows name classes. Nothing of Keras is imported before a method is made: the
backend may not be chosen yet.
"""

import dataclasses

# What is public beside the methods, and where it is tested.
NO_METHODS = {
    "CustomLoop": "calls a pruner without `fit`: test_custom_loop.py",
    "Pruner": "the base of pruners",
    "PruningMissed": "an error: test_pruner_steps.py",
}


# ---- pruners -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Pruner:
    """How a pruner is usually asked for.

    Attributes:
        kind: Its class in `keras_app.pruners`.
        schedule: What its sparsity does. "gradual": it rises. "constant": it
            stays while masks move. "once". "cyclic": it comes and goes.
            "megabatches": it rises with each. Who makes the pruner says how
            long that takes.
        data: Whether it scores on batches that it is given.
        arguments: What tells it from other rows of its class.
    """

    kind: str
    schedule: str = "gradual"
    data: bool = False
    arguments: dict = dataclasses.field(default_factory=dict)

    @property
    def cls(self):
        from keras_app import pruners

        return getattr(pruners, self.kind)

    def make(self, schedule, data=None, **arguments):
        """Returns the pruner; `data` is left out where it takes none."""
        if self.data:
            arguments["data"] = data
        return self.cls(schedule, **{**self.arguments, **arguments})


PRUNERS = {
    "magnitude": Pruner("MagnitudePruner"),
    "random": Pruner("RandomPruner"),
    "snip": Pruner("SaliencyPruner", "once", True, {"scorer": "snip"}),
    "taylor": Pruner("SaliencyPruner", "gradual", True, {"scorer": "taylor"}),
    "grasp": Pruner("SaliencyPruner", "once", True, {"scorer": "grasp"}),
    "synflow": Pruner("SaliencyPruner", "once", False, {"scorer": "synflow"}),
    "app": Pruner("AnytimeProgressivePruner", "megabatches", True),
    "rigl": Pruner("RigL", "constant", True),
    "rigl_by_steps": Pruner("RigL", "constant"),
    "granet": Pruner("GraNet", "gradual", True),
    "set": Pruner("SET", "constant"),
    "acdc": Pruner("ACDC", "cyclic"),
    "wanda": Pruner("WandaPruner", "once", True),
    "sparsegpt": Pruner("SparseGPTPruner", "once", True),
    "ste": Pruner("STE"),
    "top_kast": Pruner("TopKAST", "constant"),
    "movement": Pruner("MovementPruner"),
}


# ---- optimizers --------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How an optimizer is used on a small network.

    Attributes:
        kind: Its class in `keras_app.optimizers`.
        arguments: Of its constructor.
        lam: Strength of an L1 penalty on the kernels; `None` if it takes none.
        callback: The class in `keras_app.pruners` that steers it, or `None`.
        steering: Arguments of the callback.
        schedule: Class in `keras_app.schedules` and arguments of the schedule
            that the callback follows, or `()`.
        sparse: Whether it leaves zeros.
    """

    kind: str
    arguments: dict
    lam: float | None = None
    callback: str | None = None
    steering: dict = dataclasses.field(default_factory=dict)
    schedule: tuple = ()
    sparse: bool = True

    def make(self):
        """Returns the optimizer and the callbacks of its `fit`."""
        from keras_app import optimizers
        from keras_app import pruners
        from keras_app import regularizers
        from keras_app import schedules

        arguments, steering = dict(self.arguments), dict(self.steering)
        if self.lam is not None:
            arguments["regularizers"] = regularizers.L1(self.lam)
            steering["regularizer"] = arguments["regularizers"]
        if self.schedule:
            name, *rest = self.schedule
            steering["schedule"] = getattr(schedules, name)(*rest)
        callbacks = []
        if self.callback is not None:
            callbacks.append(getattr(pruners, self.callback)(**steering))
        return getattr(optimizers, self.kind)(**arguments), callbacks


OPTIMIZERS = {
    "linbreg": Optimizer(
        "LinBreg",
        {"learning_rate": 0.3},
        lam=0.05,
        callback="LambdaController",
        steering={"target_density": 0.5, "increment": 0.2},
    ),
    "adabreg": Optimizer(
        "AdaBreg",
        {"learning_rate": 0.02},
        lam=0.05,
        callback="DensityController",
        steering={"target_density": 0.5, "frequency": 2},
    ),
    "adabreg_exact": Optimizer(
        "AdaBreg",
        {"learning_rate": 0.02, "epsilon": 1e-4},
        lam=0.05,
        callback="BregmanPruner",
        schedule=("ConstantSparsity", 0.5, 0, -1, 2),
    ),
    "proxsgd": Optimizer("ProxSGD", {"learning_rate": 0.3}, lam=0.05),
    "continuous_sparsification": Optimizer(
        "ContinuousSparsification",
        {"learning_rate": 0.5, "lam": 0.01},
        callback="ContinuousSparsifier",
        steering={"final_temperature": 20.0},
    ),
    "str": Optimizer(
        "STR", {"learning_rate": 0.1, "weight_decay": 0.01, "s_init": -3.0}
    ),
    "coupled_sgd": Optimizer(
        "CoupledSGD",
        {"learning_rate": 0.05},
        sparse=False,
    ),
}


# ---- small runs of the command line ------------------------------------

_HOLDOUT = (
    "data.Holdout.split='train[:640]'",
    "data.Holdout.batch_size=64",
    "data.Holdout.augment=True",
)
# Nine steps an epoch.
_TRAIN = (
    *_HOLDOUT,
    "experiments.Train.epochs=4",
    "models.mlp.hidden=(60, 30)",
)
# An update comes right after each checkpoint.
_CONSTANT = (
    *_TRAIN,
    "schedules.ConstantSparsity.end_step=36",
    "schedules.ConstantSparsity.frequency=3",
)
_GRADUAL = (
    *_TRAIN,
    "schedules.PolynomialDecay.begin_step=3",
    "schedules.PolynomialDecay.end_step=33",
    "schedules.PolynomialDecay.frequency=3",
)

# Convolutions enough for all that is done with them, and fewer to compile.
_CONVNET = "models.convnet.filters=(8, 16)"

# {name: (gin file, parameters)}: some seconds each.
RUNS = {
    "app": (
        "app.gin",
        _CONVNET,
        "experiments.Anytime.methods=('app',)",
        "experiments.Anytime.epochs=2",
        "experiments.Anytime.milestones=(1,)",
        "data.Megabatches.num_megabatches=2",
        "data.Megabatches.megabatch_size=200",
    ),
    "linbreg": (
        "bregman_mlp.gin",
        *_TRAIN,
        "data.Holdout.name_or_arrays='fashion_mnist_mini'",
        "optimizers.LinBreg.momentum=0.9",
    ),
    "adabreg": ("bregman.gin", *_TRAIN),
    "adabreg_exact": (
        "adabreg.gin",
        *_TRAIN,
        "schedules.ConstantSparsity.frequency=3",
    ),
    "ticket_search": (
        "cs.gin",
        _CONVNET,
        *_HOLDOUT,
        "experiments.TicketSearch.rounds=2",
        "experiments.TicketSearch.epochs=2",
        "experiments.TicketSearch.rewind_epoch=1",
        "experiments.TicketSearch.milestones=(1,)",
    ),
    "lottery": (
        "prac.gin",
        _CONVNET,
        *_HOLDOUT,
        "experiments.Lottery.methods=('prac',)",
        "experiments.Lottery.rounds=2",
        "experiments.Lottery.epochs=2",
        "experiments.Lottery.milestones=(1,)",
        "experiments.Lottery.rewind_epoch=0",
        "experiments.Lottery.evaluate=(1,)",
    ),
    # As a callback it is given no data: it grows by the gradients of its steps.
    "rigl": (
        "rigl.gin",
        *_CONSTANT,
        "pruners.RigL.batches_per_update=None",
        "experiments.Train.pruner=None",
        "experiments.Train.callbacks=[@pruners.RigL()]",
    ),
    "set": ("set.gin", *_CONSTANT),
    "magnitude": ("magnitude.gin", *_GRADUAL),
    "movement": ("movement.gin", *_GRADUAL),
    "ste": ("ste.gin", *_CONSTANT),
    "top_kast": ("top_kast.gin", *_CONSTANT),
    "acdc": (
        "acdc.gin",
        *_TRAIN,
        "schedules.CyclicSparsity.begin_step=3",
        "schedules.CyclicSparsity.end_step=33",
        "schedules.CyclicSparsity.period=6",
    ),
    "wanda": ("wanda.gin", *_TRAIN, "schedules.OneShot.step=36"),
}
# Those that train more than once.
SEARCHES = ("app", "lottery", "ticket_search")


def command(name, folder):
    """Returns the arguments of `keras_app.train` that start or continue it."""
    file, *parameters = RUNS[name]
    return [
        "keras_app.train",
        f"--gin_file={file}",
        *(f"--gin_param={text}" for text in parameters),
        f"--run_dir={folder}",
        "--resume",
    ]
