"""Anytime learning over megabatches: APP, one-shot pruning, and dense."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import Self

import keras
import numpy as np
import numpy.typing as npt

from keras_app import report as report_lib
from keras_app.enforcement import state_of
from keras_app.experiments import data as data_lib
from keras_app.experiments import models
from keras_app.experiments.comparison import Comparison
from keras_app.experiments.comparison import MethodLearner
from keras_app.experiments.experiment import Learner
from keras_app.experiments.experiment import made
from keras_app.experiments.experiment import Stage
from keras_app.pruners import AnytimeProgressivePruner
from keras_app.schedules import AnytimeSchedule
from keras_app.schedules import OneShot

# How the authors' released code prunes.
_REFERENCE = {
    "mask_update": "intersect",
    "score_weights": "reference_fresh",
    "ties": "le",
}
_SUMMED = (
    "kept_parameters",
    "training_examples",
    "forward_flops",
    "forward_flops_sparse",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Anytime(Comparison):
    """Trains on a stream of megabatches, with and without pruning.

    Each method starts from the same weights. Megabatch by megabatch it prunes
    (or not), restarts the learning rate, trains for `epochs` epochs, rolls
    back to the weights with the best validation accuracy, and is judged on
    the test set.

        CER = sum over t of the misclassified test examples after megabatch t

    Args:
        megabatches: An `experiments.data.Megabatches`, or a callable that makes
            one given `seed`.
        model: A callable `(input_shape, num_classes, mean, std, seed) ->
            keras.Model` giving logits, or a name for `experiments.models.get`.
        test: Pair `(images, labels)` of arrays. Defaults to the test split of
            the data set that `megabatches` names.
        methods: Some of `"app"`, `"one_shot"` (pruned once, before the first
            megabatch), `"dense"`, and `"app_reference"` (as the authors'
            released code prunes). The first is the run's main result.
        level: Sparsity level L, >= 1; the last density is `base ** level`.
            Defaults to `4.5`, which keeps 36.6 % of the prunable weights.
        base: Density per level, in (0, 1). Defaults to `0.8`.
        pruner: A callable with the arguments of `AnytimeProgressivePruner`,
            given `schedule` and `seed`.
        optimizer: A callable without arguments that makes the optimizer.
        epochs: Epochs per megabatch, >= 1. Defaults to `50`.
        milestones: Epochs at which the learning rate falls to a tenth.
            Defaults to `(20, 40)`.
        warmup_epochs: Epochs of linear warm-up. Defaults to `0`.
        rate_schedule: See `Lottery`; for each megabatch.
        progressive_local: With `scope="layer"`, whether the density falls from
            megabatch to megabatch; the authors' code prunes to the last
            density at once. Defaults to `True`.
        carry_optimizer_state: Whether momentum survives from one megabatch to
            the next, as in the authors' code. Defaults to `False`.
        init_from_scratch: Whether every megabatch starts from the initial
            weights (under the current mask). Defaults to `False`.
        mean, std, seed, dtype_policy, label_smoothing, no_decay,
            average_flip: See `Train`.

    Raises:
        ValueError: See `Train`.

    Example:

    ```python
    stream = keras_app.experiments.data.Megabatches("fashion_mnist_mini", 4)
    summary = Anytime(stream, "convnet", epochs=2).run("runs/try")
    ```

    Reference: [Misra et al., 2022](https://arxiv.org/abs/2204.01640); the
    accounting of parameters and operations follows
    [Caccia et al., 2022](https://arxiv.org/abs/2106.09563).
    """

    megabatches: data_lib.Megabatches | Callable[..., data_lib.Megabatches]
    model: str | Callable[..., keras.Model]
    _: dataclasses.KW_ONLY
    test: tuple[npt.ArrayLike, npt.ArrayLike] | None = None
    methods: Sequence[str] = ("app", "one_shot", "dense")
    level: float = 4.5
    base: float = 0.8
    pruner: Callable[..., AnytimeProgressivePruner] = AnytimeProgressivePruner
    epochs: int = 50
    milestones: Sequence[int] = (20, 40)
    progressive_local: bool = True
    carry_optimizer_state: bool = False
    init_from_scratch: bool = False

    kind = "anytime"
    columns = (
        ("accuracy", "accuracy", "{:.4f}"),
        ("CER", "cer", "{}"),
        ("mean error", "mean_error_rate", "{:.4f}"),
        ("gap", "generalization_gap", "{:.2f}"),
        ("density", "effective_density", "{:.4f}"),
    )
    _known = ("app", "one_shot", "dense", "app_reference")
    _objects = Comparison._objects | {"megabatches", "test"}

    def __post_init__(self):
        """Raises on arguments out of their range."""
        super().__post_init__()
        AnytimeSchedule(1, self.level, self.base)

    @property
    def data(self) -> data_lib.Megabatches:
        """The stream."""
        return self.megabatches

    def resolved(self) -> Self:
        """Returns the experiment with stream, test set and model made."""
        stream = made("megabatches", self.megabatches, self.seed)
        ready = dataclasses.replace(
            self,
            megabatches=stream,
            model=models.factory(self.model),
            test=_test_arrays(stream, self.test),
        )
        ready.check_average_flip()
        return ready

    @property
    def total_epochs(self) -> int | None:
        """Epochs of all methods, for the progress bar."""
        return len(self.methods) * len(self.megabatches) * self.epochs

    def learner(self, method: str) -> Learner:
        """Returns the learner of a method, at its start."""
        return _Learner(self, method)

    def check(self, learner: Learner) -> None:
        """Raises what making the other pruners and selecting raise."""
        rate = learner.model.optimizer.learning_rate
        if not isinstance(rate, keras.Variable):
            config = learner.model.optimizer.get_config()
            raise ValueError(
                "`optimizer` must have a number as its learning rate: "
                "`milestones` and `warmup_epochs` are the schedule here. "
                f"Received: {config['learning_rate']}"
            )
        for method in self.methods:
            pruner = self.pruner_for(method)
            pruner.data = self.megabatches[0].scoring
            pruner.select(learner.model)

    def pruner_for(self, method: str) -> AnytimeProgressivePruner | None:
        """The pruner; for the dense network one that is never attached."""
        reference = method == "app_reference"
        pruner = self.pruner(
            schedule=OneShot(1.0 - self.base**self.level)
            if method == "one_shot"
            else self._schedule(reference_compatible=reference),
            seed=self.seed,
            **(_REFERENCE if reference else {}),
        )
        constant = reference or not self.progressive_local
        if pruner.scope == "layer" and constant and method != "one_shot":
            pruner.schedule = self._schedule(progressive=False)
        return pruner

    def _schedule(self, **kwargs):
        return AnytimeSchedule(
            len(self.megabatches), self.level, self.base, **kwargs
        )

    # ---- figures -------------------------------------------------------

    def figures(
        self, learner: Learner | None, events: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Sums and last values over the megabatches of a method."""
        rows = [e for e in events if e["event"] == "megabatch"]
        wrong = [row["misclassified"] for row in rows]
        n_test = len(self.test[1])
        last = rows[-1]
        sums = {
            f"cumulative_{name}": sum(row[name] for row in rows)
            for name in _SUMMED
        }
        gaps = [row["generalization_gap_last"] for row in rows]
        return {
            "accuracy": last["test_accuracy"],
            "effective_density": last["density"],
            "density_all": last["density_all"],
            "sparsity_all": last["sparsity_all"],
            "cer": sum(wrong),
            "mean_error_rate": sum(wrong) / (len(rows) * n_test),
            "anytime_relative_error": [
                (now - before) / n_test for before, now in zip(wrong, wrong[1:])
            ],
            "generalization_gap": last["generalization_gap_last"],
            "generalization_gap_best": last["generalization_gap_best"],
            "mean_generalization_gap": float(np.mean(gaps)),
            **sums,
            "megabatches": rows,
        }

    def summary(
        self, learner: Learner, figures: dict[str, Any]
    ) -> dict[str, Any]:
        """The stream, the level and the main method's CER."""
        return {
            **super().summary(learner, figures),
            "cer": next(iter(figures.values()))["cer"],
            "num_megabatches": len(self.megabatches),
            "level": float(self.level),
            "target_density": float(self.base**self.level),
            "test_examples": len(self.test[1]),
        }

    @property
    def title(self) -> str:
        """What stands above the closing table."""
        return f"{len(self.megabatches)} megabatches of {self.data.name}"


class _Learner(MethodLearner):
    """A model on its way through the megabatches."""

    def __init__(self, experiment, method):
        super().__init__(experiment, method)
        self.pruner = experiment.pruner_for(method)
        self.pruner.data = experiment.megabatches[0].scoring
        # The dense network is measured on what the others prune.
        self.chosen = self.pruner.select(self.model)
        self.prunes = method != "dense"
        if self.prunes:
            self.pruner.set_model(self.model)
        variables = self.chosen.variables.values()
        prunable = sum(int(np.prod(v.shape)) for v in variables)
        self.introduce(
            f"{self.model.count_params():,} parameters",
            f"{prunable:,} prunable",
        )

    def settings(self):
        """The stream and the pruner."""
        stream = self.experiment.megabatches
        config = self.experiment.pruner_for(self.method).get_config()
        return {
            "num_megabatches": len(stream),
            "training_examples": sum(len(m.train_ids) for m in stream),
            "steps_per_epoch": stream[0].steps_per_epoch,
            "pruner": dict(sorted(config.items())),
        }

    def stages(self):
        """One for each megabatch."""
        e = self.experiment
        rate = e.learning_rate(e.milestones, e.warmup_epochs)
        for index, megabatch in enumerate(e.megabatches):
            yield Stage(
                index,
                e.epochs,
                megabatch.epochs,
                megabatch.steps_per_epoch,
                megabatch.validation,
                [*([self.pruner] if self.prunes else []), rate, self.best],
                about={"megabatch": index},
                title=f"megabatch {index + 1}/{len(e.megabatches)}",
                details=megabatch,
            )

    def prepare(self, stage):
        """Gives the pruner the samples to score on."""
        self.pruner.data = stage.details.scoring
        self.pruner.megabatch = stage.number

    def begin(self, stage):
        """Resets what does not go on from the megabatch before.

        Masks, counters and the learning rate are never reset.
        """
        e = self.experiment
        self.best.reset()
        if stage.number == 0:
            return

        def starts_over(kind, value):
            if kind == "model":
                return e.init_from_scratch
            return value.ndim > 0 and not e.carry_optimizer_state

        self.reset(starts_over)
        state = state_of(self.model)
        if state is not None:
            state.zero()

    def epoch_done(self, stage, epoch, logs):
        """The generalization gap, in points."""
        gap = 100 * (logs["accuracy"] - logs["val_accuracy"])
        return {"generalization_gap": gap}

    def missed(self):
        """What the pruner says."""
        return [f"{self.method}: {text}" for text in self.pruner.missed]

    def conclude(self, stage, epochs):
        """Judges the network after a megabatch."""
        e, megabatch = self.experiment, stage.details
        report = report_lib.build(self.model, self.chosen)
        total = sum(row.parameters for row in report.rows if row.prunable)
        masks = self.pruner.masks if self.prunes else {}
        pruned = sum(int(np.count_nonzero(~mask)) for mask in masks.values())
        wrong, judged = self.judged(*e.test)
        trained = len(megabatch.train_ids) * e.epochs
        gaps = [event["generalization_gap"] for event in epochs]
        target = self.pruner.schedule(stage.number)[1] if self.prunes else 0.0
        return {
            "event": "megabatch",
            "method": self.method,
            "megabatch": stage.number,
            "target_density": 1.0 - target,
            "density": (total - pruned) / total,
            "density_all": 1.0 - report.sparsity_all,
            "sparsity_all": report.sparsity_all,
            "kept_parameters": report.parameters - pruned,
            "misclassified": wrong,
            **judged,
            "generalization_gap_last": gaps[-1],
            "generalization_gap_best": gaps[self.best.epoch],
            "training_examples": trained,
            "forward_flops": report.flops * trained,
            "forward_flops_sparse": report.sparse_flops * trained,
            "layers": {r.path: r.density for r in report.rows if r.prunable},
        }

    def state(self):
        """What the pruner remembers."""
        return self.pruner.state() if self.prunes else super().state()

    def restore(self, plain, arrays):
        """Continues where `state()` was taken."""
        if self.prunes:
            self.pruner.restore(plain, arrays)


def _test_arrays(megabatches, test):
    if test is None:
        if megabatches.name is None:
            raise ValueError(
                "`test` must be given, a pair (images, labels), when "
                "`megabatches` is made from arrays. Received: test=None"
            )
        split = data_lib.test_split(megabatches.name, megabatches.data_dir)
        test = data_lib.load_arrays(
            megabatches.name, split, megabatches.data_dir
        )
    images, labels = test
    if images.dtype == np.uint8:
        images = images.astype("float32") / 255.0
    return images, np.asarray(labels)
