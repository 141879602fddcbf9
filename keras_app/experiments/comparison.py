"""What experiments share that compare several methods from one start."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_app.experiments import devices
from keras_app.experiments.callbacks import BestWeights
from keras_app.experiments.callbacks import rate_schedule
from keras_app.experiments.callbacks import RATE_SCHEDULES
from keras_app.experiments.experiment import FromScratch
from keras_app.experiments.experiment import Learner
from keras_app.experiments.experiment import Table
from keras_app.experiments.run.runner import model_state
from keras_app.experiments.run.runner import restore_model_state
from keras_app.optimizers import CoupledSGD


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison(FromScratch):
    """Methods that start from the same weights and train in many stages.

    In each stage the learning rate's schedule starts over; it ends with the
    weights of its best epoch.
    """

    _: dataclasses.KW_ONLY
    methods: Sequence[str] = ()
    optimizer: Callable[[], keras.optimizers.Optimizer] = CoupledSGD
    epochs: int = 1
    milestones: Sequence[int] = ()
    warmup_epochs: int = 0
    rate_schedule: str = "milestones"

    #: The methods there are.
    _known = ()

    _least = {**FromScratch._least, "warmup_epochs": 0}
    _choices = {"rate_schedule": RATE_SCHEDULES}

    #: Columns of the closing table: heading, figure, and how to write it.
    columns = ()

    def __post_init__(self):
        """Raises on arguments out of their range."""
        super().__post_init__()
        methods = self.methods
        methods = (methods,) if isinstance(methods, str) else tuple(methods)
        unknown = set(methods) - set(self._known)
        if unknown or not methods or len(set(methods)) != len(methods):
            raise ValueError(
                f"`methods` must be different ones of {self._known}. "
                f"Received: methods={methods}"
            )
        object.__setattr__(self, "methods", methods)

    def learning_rate(
        self, milestones: Sequence[int], warmup_epochs: int
    ) -> keras.callbacks.Callback:
        """Returns the callback that sets the learning rate of a stage."""
        rate = self.optimizer().get_config()["learning_rate"]
        return rate_schedule(
            self.rate_schedule, rate, milestones, warmup_epochs
        )

    @property
    def title(self) -> str:
        """What stands above the closing table."""
        raise NotImplementedError

    def table(self, figures: dict[str, Any]) -> Table:
        """Title, columns and rows of the closing table."""
        headings = ("method", *(heading for heading, _, _ in self.columns))
        rows = [
            (
                method,
                *(form.format(row[name]) for _, name, form in self.columns),
            )
            for method, row in figures.items()
        ]
        return self.title, headings, rows


class MethodLearner(Learner):
    """The model of one method, and its best weights in a stage."""

    def __init__(self, experiment, method):
        self.experiment = experiment
        self.method = method
        devices.clear_session()
        self.model = experiment.build_model()
        self.best = BestWeights()

    def introduce(self, *figures):
        """Says what it is; from here on `reset` returns to what it is now."""
        self.introduction = (
            f"[bold]{self.method}[/bold]: {self.model.name}, "
            f"{', '.join(figures)}"
        )
        self._fresh = model_state(self.model)

    def reset(self, which):
        """Returns to the start, except for masks.

        Not a new optimizer, for which every step would be compiled again.

        Args:
            which: A callable `(kind, value) -> bool`: whether a variable of
                kind `"model"` or `"optimizer"` is one to reset.
        """
        names = [
            name
            for name, value in self._fresh.items()
            if value.dtype != bool and which(name.split("/")[0], value)
        ]
        restore_model_state(self.model, self._fresh, names)

    def judged(self, inputs, labels):
        """What the best weights, which the model holds now, are worth.

        Returns:
            How many test examples they get wrong, and figures to log.
        """
        logits = self.experiment.test_outputs(self.model, inputs)
        wrong = int(np.sum(np.argmax(logits, -1) != labels))
        return wrong, {
            "test_accuracy": (len(labels) - wrong) / len(labels),
            "best_epoch": self.best.epoch,
            "best_val_accuracy": self.best.best,
        }

    @property
    def parts(self):
        """The best weights of the stage."""
        return {"best": self.best}
