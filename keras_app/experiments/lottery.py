"""Lottery tickets by iterative pruning, on all data or on PrAC sets."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import Self

import keras
import numpy as np

from keras_app import lottery as lottery_lib
from keras_app.checks import check_number
from keras_app.experiments.comparison import Comparison
from keras_app.experiments.data.holdout import Parts as Source
from keras_app.experiments.experiment import Learner
from keras_app.experiments.lottery_search import Search
from keras_app.hints import FilePath
from keras_app.hints import Filters
from keras_app.lottery import MaskDistanceStop
from keras_app.lottery import PracSets
from keras_app.pruners import MagnitudePruner
from keras_app.pruners import Pruner


@dataclasses.dataclass(frozen=True, eq=False)
class Lottery(Comparison):
    """Searches winning tickets: train, prune a share of what remains, rewind.

    Round r trains under the mask of r prunings; then `round(rate *
    remaining)` more weights go, all over the network, and the rest returns to
    its early values. With PrAC sets a round trains only on examples that the
    one before forgot or that pruning changes the prediction of, for a number
    of epochs in proportion, and ends once the mask has settled.

    A ticket is judged by training it from its early values on all data:
    test accuracy with the weights of the best validation epoch. On all data
    (`"vanilla"`, `"random"`) the rounds themselves do that.

    Args:
        data: An `experiments.data.Holdout` with classes, or a callable that
            makes one given `seed`.
        model: See `Train`.
        methods: Searches to make, from the same initial weights: any of
            `"vanilla"`, `"prac"` (on PrAC sets), `"random"` (random weights
            are pruned). Defaults to `("vanilla",)`.
        optimizer: A callable without arguments that makes an optimizer.
            Defaults to `CoupledSGD`.
        pruner: A callable that makes one of `keras_app.pruners` given
            `schedule`, `scope`, `filters` and `on_miss`; its scores and
            structure decide what goes. Defaults to `MagnitudePruner`.
        filters: What is pruned, see `keras_app.selection.select`. Defaults to
            `None`: all convolution kernels.
        ticket: Where tickets start: `"lt"`, the initial weights;
            `"rewind_lt"`, those after `rewind_epoch + 1` epochs; `"pt"`, the
            best of the dense network. Defaults to `"rewind_lt"`.
        rounds: R, >= 1. Defaults to `16`.
        rate: Share of the remaining weights to prune in a round, in (0, 1).
            Defaults to `0.2`.
        epochs: Epochs of a round on all data, >= 1. Defaults to `182`.
        milestones: Epochs at which the learning rate falls to a tenth.
            Defaults to `(91, 136)`.
        warmup_epochs: Epochs of warm-up, >= 0. Defaults to `0`.
        rate_schedule: `"milestones"`; or `"triangle"`,
            `TriangularLearningRate` over each training, to which milestones
            and warm-up mean nothing. Defaults to `"milestones"`.
        rewind_epoch: Counted from 0; its end is returned to. Defaults to `2`.
        lr_rewind: Whether later rounds skip the first `rewind_epoch` epochs of
            the learning rate's schedule. Defaults to `None`: only where
            vanilla tickets are rewound, as in the released code.
        select_examples: `"threshold"`: those forgotten more than
            `forgetting_threshold` times; `"constant"`: the hardest, `(1 -
            data_rate)^(r + 1)` of the training set. Defaults to
            `"threshold"`.
        forgetting_threshold: >= 0. Defaults to `0`.
        data_rate: In (0, 1). Defaults to `0.2`.
        use_pruning_examples: Whether examples on which the dense and the
            sparse network disagree are critical too. Defaults to `True`.
        early_stop, eps, queue_length, require_first_exceed: Whether and when a
            round on PrAC sets ends early, see
            `keras_app.lottery.MaskDistanceStop`.
        iteration_scaling: `"epochs"`: fewer examples and fewer epochs, as the
            released code; `"linear"`: fewer examples only, as the paper.
            Defaults to `"epochs"`.
        on_empty: What happens where no example is critical: `"raise"`, or
            `"keep"` the set. Defaults to `"raise"`.
        sets: `prac_sets.npz` of another run on the same data, whose sets are
            used instead of finding new ones. Defaults to `None`.
        set_mode: `"per_round"` or `"final"`, see
            `keras_app.lottery.PracSets.for_round`. Defaults to `"per_round"`.
        evaluate: Numbers of prunings whose tickets `"prac"` judges. Defaults
            to `None`: all from 1 to `rounds - 1`.
        evaluation_runs: Trainings whose mean judges a ticket, >= 1. Defaults
            to `1`.
        mean, std, seed, dtype_policy, label_smoothing, no_decay,
            average_flip: See `Train`.

    Raises:
        ValueError: Bad arguments, here or when it is run, before anything is
            written or trained; later: no critical examples, or a rate that
            prunes nothing.

    Example:

    ```python
    data = keras_app.experiments.data.Holdout("fashion_mnist_mini")
    search = Lottery(
        data, "convnet", methods="prac", rounds=4, epochs=10,
        milestones=(6, 8), rewind_epoch=0
    )
    summary = search.run("runs/prac")
    ```

    Reference: [Zhang et al., 2021](https://arxiv.org/abs/2106.03225); vanilla
    is [Frankle et al., 2020](https://arxiv.org/abs/1912.05671). Differs: see
    `on_empty`; ids are those of the samples, never positions.
    """

    data: Source | Callable[..., Source]
    model: str | Callable[..., keras.Model]
    _: dataclasses.KW_ONLY
    methods: Sequence[str] = ("vanilla",)
    pruner: Callable[..., Pruner] = MagnitudePruner
    filters: Filters = None
    ticket: str = "rewind_lt"
    rounds: int = 16
    rate: float = 0.2
    epochs: int = 182
    milestones: Sequence[int] = (91, 136)
    rewind_epoch: int = 2
    lr_rewind: bool | None = None
    select_examples: str = "threshold"
    forgetting_threshold: float = 0
    data_rate: float = 0.2
    use_pruning_examples: bool = True
    early_stop: bool = True
    eps: float = 0.08
    queue_length: int = 5
    require_first_exceed: bool = True
    iteration_scaling: str = "epochs"
    on_empty: str = "raise"
    sets: FilePath | PracSets | None = None
    set_mode: str = "per_round"
    evaluate: Sequence[int] | None = None
    evaluation_runs: int = 1

    kind = "lottery"
    columns = (
        ("accuracy", "accuracy", "{:.4f}"),
        ("density", "effective_density", "{:.4f}"),
        ("iterations", "iterations", "{:,}"),
        ("saved", "saving_percent", "{:.1f} %"),
    )
    _known = ("vanilla", "prac", "random")
    _objects = Comparison._objects | {"filters", "sets"}
    _choices = {
        **Comparison._choices,
        "ticket": ("lt", "rewind_lt", "pt"),
        "select_examples": ("threshold", "constant"),
        "iteration_scaling": ("epochs", "linear"),
        "on_empty": ("raise", "keep"),
        "set_mode": lottery_lib.sets.MODES,
    }
    _least = {
        **Comparison._least,
        "rounds": 1,
        "rewind_epoch": 0,
        "evaluation_runs": 1,
    }

    def __post_init__(self):
        """Raises on arguments out of their range."""
        super().__post_init__()
        for name in ("rate", "data_rate"):
            value = getattr(self, name)
            check_number(name, value, lambda x: 0 < x < 1, "in (0, 1)")
        check_number(
            "forgetting_threshold", self.forgetting_threshold, lambda x: x >= 0
        )
        self.stop_rule()
        if self.ticket == "rewind_lt" and self.epochs <= self.rewind_epoch:
            raise ValueError(
                "`epochs` must be more than `rewind_epoch`, which would never "
                f"be reached. Received: epochs={self.epochs}, "
                f"rewind_epoch={self.rewind_epoch}"
            )
        if self.ticket == "pt" and "prac" in self.methods:
            raise ValueError(
                "`ticket` must be 'lt' or 'rewind_lt' on PrAC sets. "
                "Received: ticket='pt'"
            )
        evaluate = self.evaluate
        if evaluate is None:
            evaluate = range(1, self.rounds)
        evaluate = tuple(evaluate) if "prac" in self.methods else ()
        if not all(0 <= number <= self.rounds for number in evaluate):
            raise ValueError(
                "`evaluate` must hold numbers of prunings, in [0, "
                f"{self.rounds}]. Received: evaluate={evaluate}"
            )
        object.__setattr__(self, "evaluate", evaluate)

    def stop_rule(self, warmup_epochs: int = 0) -> MaskDistanceStop:
        """When a round on PrAC sets ends early."""
        return lottery_lib.MaskDistanceStop(
            self.eps,
            self.queue_length,
            warmup_epochs,
            self.require_first_exceed,
        )

    def resolved(self) -> Self:
        """Returns the experiment with data, model and sets made ready."""
        ready = super().resolved()
        ready.check_classes()
        if self.sets is None:
            return ready
        sets = lottery_lib.PracSets.load(self.sets)
        sets.check(ready.data.fingerprint, ready.data.train_ids)
        return dataclasses.replace(ready, sets=sets)

    def learner(self, method: str) -> Learner:
        """Returns the learner of a method, at its start."""
        return Search(self, method)

    # ---- figures -------------------------------------------------------

    def figures(
        self, learner: Learner | None, events: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Rounds, tickets, and what they cost to find."""
        rounds = [e for e in events if e["event"] == "round"]
        runs = [e for e in events if e["event"] == "ticket"]
        account = lottery_lib.iteration_account(
            [row["set_size"] for row in rounds],
            [row["epochs_run"] for row in rounds],
            self.data.batch_size,
            len(self.data.train_ids),
            self.epochs,
        )
        tickets = _tickets(runs or rounds)
        last = tickets[-1]
        # What the sparsest judged ticket cost to find.
        found = max(0, last["prunings"] - 1)
        return {
            "accuracy": last["accuracy"],
            "effective_density": last["density"],
            "sparsity_all": last["sparsity_all"],
            "iterations": int(account["cumulative"][found]),
            "saving_percent": float(account["saving_percent"][found]),
            "set_fraction": float(account["set_fraction"][-1]),
            "overhead_samples": sum(row["overhead_samples"] for row in rounds),
            "account": {k: v.tolist() for k, v in account.items()},
            "rounds": rounds,
            "tickets": tickets,
        }

    def summary(
        self, learner: Learner, figures: dict[str, Any]
    ) -> dict[str, Any]:
        """The number of rounds and of test examples."""
        examples = len(self.data.test[0])
        return {
            **super().summary(learner, figures),
            "rounds": self.rounds,
            "test_examples": examples,
        }

    @property
    def title(self) -> str:
        """What stands above the closing table."""
        return f"lottery tickets on {self.data.name}"


def _tickets(rows):
    """Runs of equal tickets together: mean and spread of their accuracy."""
    found = {}
    for row in rows:
        found.setdefault(row["prunings"], []).append(row)
    return [
        {
            "prunings": prunings,
            "density": same[0]["density"],
            "sparsity_all": same[0]["sparsity_all"],
            "accuracy": float(np.mean([r["test_accuracy"] for r in same])),
            "accuracies": [r["test_accuracy"] for r in same],
        }
        for prunings, same in sorted(found.items())
    ]
