"""Small runs of the command line, one for each method: some seconds."""

_HOLDOUT = (
    "data.Holdout.split='train[:640]'",
    "data.Holdout.batch_size=64",
    "data.Holdout.augment=True",
)
_TRAIN = (
    *_HOLDOUT,
    "experiments.Train.epochs=4",
    "models.mlp.hidden=(60, 30)",
)
# Nine steps an epoch: an update comes right behind each checkpoint.
_DYNAMIC = (
    *_TRAIN,
    "schedules.ConstantSparsity.end_step=36",
    "schedules.ConstantSparsity.frequency=3",
)

# {name: (gin file, parameters)}
METHODS = {
    "app": (
        "app.gin",
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
    "ticket_search": (
        "cs.gin",
        *_HOLDOUT,
        "experiments.TicketSearch.rounds=2",
        "experiments.TicketSearch.epochs=2",
        "experiments.TicketSearch.rewind_epoch=1",
        "experiments.TicketSearch.milestones=(1,)",
    ),
    "lottery": (
        "prac.gin",
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
        *_DYNAMIC,
        "pruners.RigL.batches_per_update=None",
        "experiments.Train.pruner=None",
        "experiments.Train.callbacks=[@pruners.RigL()]",
    ),
    "set": ("set.gin", *_DYNAMIC),
}


def command(method, folder):
    """Returns the arguments of `keras_app.train` that start or continue it."""
    file, *parameters = METHODS[method]
    return [
        "keras_app.train",
        f"--gin_file={file}",
        *(f"--gin_param={text}" for text in parameters),
        f"--run_dir={folder}",
        "--resume",
    ]
