"""Small runs of the command line, one for each method: some seconds."""

_HOLDOUT = (
    "data.Holdout.split='train[:640]'",
    "data.Holdout.batch_size=64",
    "data.Holdout.augment=True",
)
_TRAIN = (
    *_HOLDOUT,
    "experiments.train.epochs=4",
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
        "experiments.anytime.methods=('app',)",
        "experiments.anytime.epochs=2",
        "experiments.anytime.milestones=(1,)",
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
        "experiments.ticket_search.rounds=2",
        "experiments.ticket_search.epochs=2",
        "experiments.ticket_search.rewind_epoch=1",
        "experiments.ticket_search.milestones=(1,)",
    ),
    "lottery": (
        "prac.gin",
        *_HOLDOUT,
        "experiments.lottery.methods=('prac',)",
        "experiments.lottery.rounds=2",
        "experiments.lottery.epochs=2",
        "experiments.lottery.milestones=(1,)",
        "experiments.lottery.rewind_epoch=0",
        "experiments.lottery.evaluate=(1,)",
    ),
    # As a callback it is given no data: it grows by the gradients of its steps.
    "rigl": (
        "rigl.gin",
        *_DYNAMIC,
        "pruners.RigL.batches_per_update=None",
        "experiments.train.pruner=None",
        "experiments.train.callbacks=[@pruners.RigL()]",
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
