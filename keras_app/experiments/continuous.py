"""Tickets by continuous sparsification: search, rewind, retrain."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import keras
from keras import ops

from keras_app.experiments.callbacks import rate_schedule
from keras_app.experiments.callbacks import RATE_SCHEDULES
from keras_app.experiments.data.holdout import Parts as Source
from keras_app.experiments.experiment import FromScratch
from keras_app.experiments.training import Train
from keras_app.optimizers import ContinuousSparsification
from keras_app.pruners import ContinuousSparsifier

_HANDED_ON = (
    "final_temperature",
    "rounds",
    "rewind_epoch",
    "granularity",
    "reference_code_prune",
    "reset_momentum_between_rounds",
    "min_density",
)


@dataclasses.dataclass(frozen=True, eq=False)
class TicketSearch(FromScratch):
    """Searches which weights to keep, and judges the network that is left.

    Rounds of training with a growing temperature decide which weights stay.
    Then, with the mask fixed, `mode="ticket"` rewinds the weights to those
    after `rewind_epoch` epochs and trains them as a lottery ticket;
    `mode="prune"` keeps the weights found, measures the moving statistics of
    batch normalization again, and fine-tunes. The learning rate starts over in
    every round and for the retraining.

    The density that results is steered by the optimizer's `s_init`. Searches
    with several `s_init` or `lam` from the same initial weights run side by
    side with `python -m keras_app.sweep`.

    Args:
        data: See `Train`, with classes.
        model: See `Train`.
        optimizer: A callable without arguments that makes a
            `ContinuousSparsification`. Its learning rate is that of the first
            epochs. Defaults to the class.
        mode: `"ticket"` or `"prune"`. Defaults to `"ticket"`.
        strategy: `"sequential"`: a round goes on with the weights of the one
            before; `"iterative"`: each starts from those of `rewind_epoch`.
            Defaults to `"sequential"`.
        rounds: R, >= 1. Defaults to `3`.
        epochs: Epochs of each round, >= 2. Defaults to `85`.
        rewind_epoch: Epochs of the first round after which the weights to go
            back to are kept, in [0, epochs). Defaults to `2`.
        retrain_epochs: Epochs with the mask fixed, >= 0. Defaults to `epochs`
            for a ticket and to `0` for pruning.
        final_temperature, granularity, reference_code_prune,
            reset_momentum_between_rounds, min_density: See
            `keras_app.pruners.ContinuousSparsifier`.
        milestones: Epochs of a round at which the learning rate falls to a
            tenth. Defaults to `(56, 71)`.
        rate_schedule: See `Lottery`; for each round and the retraining, which
            must be as long for `"triangle"`.
        label: Name of the method in tables. Defaults to mode and strategy.
        mean, std, seed, dtype_policy, label_smoothing, no_decay,
            average_flip: See `Train`.

    Its summary lists in `rounds` the densities, and soft and hard validation
    accuracies, after each round.

    Raises:
        ValueError: See `Train`.

    Example:

    ```python
    data = keras_app.experiments.data.Holdout("fashion_mnist_mini")
    search = TicketSearch(data, "convnet", rounds=2, epochs=5, milestones=(3,))
    summary = search.run("runs/ticket")
    ```

    Reference: [Savarese et al., 2020](https://arxiv.org/abs/1912.04427),
    algorithms 1 and 2. Differs: moving statistics are measured again in
    `mode="prune"`.
    """

    data: Source | Callable[..., Source]
    model: str | Callable[..., keras.Model]
    _: dataclasses.KW_ONLY
    optimizer: Callable[[], ContinuousSparsification] = ContinuousSparsification
    mode: str = "ticket"
    strategy: str = "sequential"
    rounds: int = 3
    epochs: int = 85
    rewind_epoch: int = 2
    retrain_epochs: int | None = None
    final_temperature: float = 200.0
    milestones: Sequence[int] = (56, 71)
    rate_schedule: str = "milestones"
    granularity: str = "epoch"
    reference_code_prune: bool = False
    reset_momentum_between_rounds: bool = False
    min_density: float = 0.0
    label: str | None = None

    _choices = {
        "mode": ("ticket", "prune"),
        "strategy": ("sequential", "iterative"),
        "rate_schedule": RATE_SCHEDULES,
    }
    _least = {**FromScratch._least, "rewind_epoch": 0}

    def resolved(self) -> Train:
        """Returns the training that the search comes down to."""
        ready = super().resolved()
        ready.check_classes()
        data, optimizer = ready.data, self.optimizer()
        ticket = self.mode == "ticket"
        retrain_epochs = self.retrain_epochs
        if retrain_epochs is None:
            retrain_epochs = self.epochs if ticket else 0
        total = self.rounds * self.epochs + retrain_epochs
        pruner = ContinuousSparsifier(
            **{name: getattr(self, name) for name in _HANDED_ON},
            retrain_epochs=retrain_epochs,
            ticket=ticket,
            rewind_between_rounds=self.strategy == "iterative",
            batch_norm_data=None if ticket else data.epochs(0, 1),
            validation_data=data.validation,
        )
        pruner.epochs_per_round(total)
        if self.rate_schedule == "triangle" and retrain_epochs not in (
            0,
            self.epochs,
        ):
            raise ValueError(
                "`retrain_epochs` must be 0 or `epochs` with "
                "rate_schedule='triangle', whose rounds are equally long. "
                f"Received: retrain_epochs={retrain_epochs}, "
                f"epochs={self.epochs}"
            )
        rate = rate_schedule(
            self.rate_schedule,
            float(ops.convert_to_numpy(optimizer.learning_rate)),
            self.milestones,
            period=self.epochs,
        )
        return Train(
            data,
            ready.model,
            optimizer=lambda: optimizer,
            pruner=pruner,
            callbacks=(rate,),
            epochs=total,
            mean=self.mean,
            std=self.std,
            dtype_policy=self.dtype_policy,
            label_smoothing=self.label_smoothing,
            no_decay=self.no_decay,
            average_flip=self.average_flip,
            discover=lambda model: {"rounds": pruner.history},
            label=self.label or f"{self.mode}, {self.strategy}",
            seed=self.seed,
        )
