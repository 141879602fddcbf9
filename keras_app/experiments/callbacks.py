"""Callbacks that several experiments use, each able to resume."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_app import host
from keras_app.checks import check_int
from keras_app.checks import check_number
from keras_app.config import Configured
from keras_app.hints import Arrays
from keras_app.hints import State


def learning_rate_of(model):
    """The learning rate that a model trains with now, a float."""
    return float(ops.convert_to_numpy(model.optimizer.learning_rate))


class MilestoneLearningRate(Configured, keras.callbacks.Callback):
    """Step decay with warm-up, restarted by every `fit`.

        lr_e = learning_rate * factor ^ (number of milestones <= e)

    and, while `e < warmup_epochs`, after i of S steps of an epoch

        lr = learning_rate * min(1, (e S + i) / (warmup_epochs S)),  i = 1..S

    Args:
        learning_rate: The rate to start from.
        milestones: Epochs, from 0, at which the rate falls.
        warmup_epochs: Epochs of warm-up, >= 0. Defaults to `0`.
        factor: Factor at each milestone. Defaults to `0.1`.
        period: Epochs after which the schedule starts over. Defaults to
            `None`: never.
    """

    def __init__(
        self,
        learning_rate: float,
        milestones: Sequence[int] = (),
        warmup_epochs: int = 0,
        factor: float = 0.1,
        period: int | None = None,
    ) -> None:
        super().__init__()
        self.learning_rate = float(learning_rate)
        self.milestones = tuple(milestones)
        self.warmup_epochs = warmup_epochs
        self.factor = factor
        self.period = period

    def on_epoch_begin(self, epoch, logs=None):
        """Sets the epoch's rate."""
        self._epoch = epoch % self.period if self.period else epoch
        passed = sum(milestone <= self._epoch for milestone in self.milestones)
        rate = self.learning_rate * self.factor**passed
        self.model.optimizer.learning_rate = rate

    def on_train_batch_begin(self, batch, logs=None):
        """Sets the step's rate during the warm-up."""
        if self._epoch >= self.warmup_epochs:
            return
        steps = self.params["steps"]
        done = self._epoch * steps + batch + 1
        host.sync(self.model)
        share = min(1.0, done / (self.warmup_epochs * steps))
        self.model.optimizer.learning_rate = self.learning_rate * share

    def on_epoch_end(self, epoch, logs=None):
        """Adds the rate to the logs."""
        logs["learning_rate"] = learning_rate_of(self.model)


class TriangularLearningRate(Configured, keras.callbacks.Callback):
    """Rises to a peak and falls again, both linearly, over a whole `fit`.

    Before step t of T, counted from 0, with u = t / T; with a `period`, T is
    its steps, and it starts over after them:

        lr = peak * (start + (1 - start) u / rise)              where u < rise
        lr = peak * (1 - (1 - end) (u - rise) / (1 - rise))     elsewhere

    It follows from the number of the step alone, so a run that is resumed
    goes on with it. The optimizer's own rate is overwritten.

    Args:
        peak: The highest rate, > 0.
        start, end: Rates of the first step and after the last, as shares of
            the peak, in [0, 1]. Default to `0.2` and `0.07`.
        rise: Share of the steps until the peak, in (0, 1). Defaults to
            `0.23`.
        period: Epochs after which it starts over, >= 1. Defaults to `None`:
            those of the `fit`.

    Reference: [Jordan, 2024](https://arxiv.org/abs/2404.00498). Differs: none
    known.
    """

    def __init__(
        self,
        peak: float,
        start: float = 0.2,
        end: float = 0.07,
        rise: float = 0.23,
        period: int | None = None,
    ) -> None:
        super().__init__()
        check_number("peak", peak, lambda x: x > 0, "> 0")
        check_number("start", start, lambda x: 0 <= x <= 1, "in [0, 1]")
        check_number("end", end, lambda x: 0 <= x <= 1, "in [0, 1]")
        check_number("rise", rise, lambda x: 0 < x < 1, "in (0, 1)")
        if period is not None:
            check_int("period", period, 1)
        self.peak = peak
        self.start = start
        self.end = end
        self.rise = rise
        self.period = period

    def on_epoch_begin(self, epoch, logs=None):
        """Remembers which epoch it is."""
        self._epoch = epoch % self.period if self.period else epoch

    def on_train_batch_begin(self, batch, logs=None):
        """Sets the step's rate."""
        steps = self.params["steps"]
        done = self._epoch * steps + batch
        share = done / ((self.period or self.params["epochs"]) * steps)
        if share < self.rise:
            height = self.start + (1 - self.start) * share / self.rise
        else:
            height = 1 - (1 - self.end) * (share - self.rise) / (1 - self.rise)
        host.sync(self.model)
        self.model.optimizer.learning_rate = self.peak * height

    def on_epoch_end(self, epoch, logs=None):
        """Adds the rate of the last step to the logs."""
        logs["learning_rate"] = learning_rate_of(self.model)


#: How the rate may fall in each of an experiment's trainings.
RATE_SCHEDULES = ("milestones", "triangle")


def rate_schedule(name, rate, milestones, warmup_epochs=0, period=None):
    """Returns the callback of one of `RATE_SCHEDULES`.

    Args:
        name: Which one.
        rate: The highest rate.
        milestones, warmup_epochs: For `"milestones"`.
        period: Epochs after which it starts over, or `None`.
    """
    if name == "triangle":
        return TriangularLearningRate(rate, period=period)
    return MilestoneLearningRate(rate, milestones, warmup_epochs, period=period)


class PlateauLearningRate(Configured, keras.callbacks.Callback):
    """Lowers the learning rate when the training loss stops falling.

        lr <- factor * lr  after more than `patience` epochs in a row without
        loss < (1 - threshold) * best loss

    The threshold is relative and one more bad epoch is waited for than by
    `keras.callbacks.ReduceLROnPlateau`, as in PyTorch.

    Args:
        factor: In (0, 1). Defaults to `0.5`.
        patience: Bad epochs to tolerate, >= 0. Defaults to `5`.
        threshold: What counts as progress, in [0, 1). Defaults to `0.01`.

    Reference: [Bungert et al., 2022](https://arxiv.org/abs/2105.04319), the
    setting of the authors' experiments. Differs: looks at the epoch's mean
    loss, which weighs a smaller last batch by its size.
    """

    def __init__(
        self, factor: float = 0.5, patience: int = 5, threshold: float = 0.01
    ) -> None:
        super().__init__()
        check_number("factor", factor, lambda x: 0 < x < 1, "in (0, 1)")
        check_int("patience", patience, 0)
        check_number("threshold", threshold, lambda x: 0 <= x < 1, "in [0, 1)")
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self._best = float("inf")
        self._bad = 0

    def on_epoch_end(self, epoch, logs=None):
        """Compares the epoch's loss with the best one."""
        if logs["loss"] < (1 - self.threshold) * self._best:
            self._best = float(logs["loss"])
            self._bad = 0
            return
        self._bad += 1
        if self._bad > self.patience:
            self._bad = 0
            rate = self.factor * learning_rate_of(self.model)
            self.model.optimizer.learning_rate = rate

    def state(self) -> State:
        """Returns `(plain values, {name: array})`, what `restore` needs."""
        return {"best": self._best, "bad": self._bad}, {}

    def restore(self, plain: dict[str, Any], arrays: Arrays) -> None:
        """Continues where `state()` was taken."""
        self._best, self._bad = plain["best"], plain["bad"]


class BestWeights(keras.callbacks.Callback):
    """Ends every `fit` with the weights of its best epoch.

    The first of equally good epochs counts. Weights are what
    `model.get_weights` returns, moving statistics included.

    Args:
        monitor: Name in the logs; larger is better. Defaults to
            `"val_accuracy"`.
    """

    def __init__(self, monitor="val_accuracy"):
        super().__init__()
        self.monitor = monitor
        self.reset()

    def reset(self):
        """Forgets the best epoch so far."""
        self.best = -np.inf
        self.epoch = None
        self.weights = None

    def on_epoch_end(self, epoch, logs=None):
        """Keeps a copy of the weights if they are the best so far."""
        if logs[self.monitor] > self.best:
            self.best = float(logs[self.monitor])
            self.epoch = epoch
            self.weights = [w.copy() for w in self.model.get_weights()]

    def on_train_end(self, logs=None):
        """Restores the best weights."""
        if self.weights is not None:
            self.model.set_weights(self.weights)

    def state(self):
        """Returns `(plain values, {name: array})`, what `restore` needs."""
        weights = {str(i): w for i, w in enumerate(self.weights or ())}
        return {"best": self.best, "epoch": self.epoch}, weights

    def restore(self, plain, arrays):
        """Continues where `state()` was taken."""
        self.best, self.epoch = plain["best"], plain["epoch"]
        count = len(arrays)
        self.weights = [arrays[str(i)] for i in range(count)] or None
