"""When schedules prune, and what they count: training steps, or megabatches."""

import numpy as np

from keras_app import host
from keras_app import timing


class Steps:
    """Time in updates of the optimizer.

    They are counted from the optimizer's own counter, read where an epoch
    begins, so that a second `fit` or a restored model goes on where the first
    stopped: batches with gradients that are no numbers do not count, and data
    may end before the steps that were announced. Within an epoch batches are
    counted.

    Args:
        before: Updates that earlier optimizers made. Defaults to `0`.

    Attributes:
        next: The first time that was not looked at yet; `None` while it is not
            known, before the first epoch of a `fit`.
    """

    def __init__(self, before=0):
        self.next = None
        self._before = before
        self._batches = 0
        self._accumulation = 1  # batches whose gradients make one update

    def updates(self, model):
        """Returns how many updates were made."""
        return self._before + host.updates(model.optimizer)

    def begin_fit(self, model):
        """Returns sentences about the times at which updates can be made."""
        self.next = None
        if model.steps_per_execution == 1:
            return []
        return [
            "mask updates land on multiples of steps_per_execution="
            f"{model.steps_per_execution}"
        ]

    def begin_epoch(self, model):
        """Reads the counters of the optimizer."""
        self._batches = host.batches_seen(model)
        if self.next is None:
            self.next = self.updates(model)
            # Kept here, because on JAX every look at a callback's model in the
            # middle of an epoch writes all variables back.
            optimizer = host.inner_optimizer(model)
            self._accumulation = optimizer.gradient_accumulation_steps or 1

    def at(self, batch):
        """Returns the time so many batches after the epoch began."""
        return self._before + (self._batches + batch) // self._accumulation

    def training(self, epoch, epochs, steps):
        """Returns the first step of a training, and how many it has.

        Epochs before the first of this `fit` are part of it, so that a run
        that goes on is the training that was stopped.

        Args:
            epoch: The first epoch of this `fit`, which begins now.
            epochs: All epochs.
            steps: Batches in each.
        """
        done = epoch * steps
        now = self._before * self._accumulation + self._batches
        # Batches without a gradient that is a number were not counted, and a
        # file may be of the middle of an epoch.
        if epoch and abs(now - done) < steps:
            now = done
        # A new optimizer knows nothing of the epochs before.
        first = max(0, now - done) // self._accumulation
        last = (now + epochs * steps - done) // self._accumulation
        return first, last - first

    def at_end(self, model):
        """Returns the time when training ends."""
        return self.updates(model)


class Megabatches(Steps):
    """Time in megabatches: each `fit` is one, whatever its steps.

    Attribute `now` is the megabatch that trains, or comes next.
    """

    def __init__(self):
        super().__init__()
        self.now = self.next = 0

    def begin_fit(self, model):
        """Returns no sentences: a `fit` begins when it should."""
        return []

    def at(self, batch):
        """Returns the megabatch."""
        return self.now

    def at_end(self, model):
        """Returns the megabatch."""
        return self.now


def begin_and_end(schedule):
    """Returns the first and the last step; an end of -1: there is none."""
    timing.check_in_steps(schedule)
    begin = getattr(schedule, "begin_step", 0)
    return begin, getattr(schedule, "end_step", -1)


def due_at(schedule, step):
    """Returns the sparsity that is asked for at a step, or `None`."""
    should_prune, sparsity = schedule(step)
    # A frequency that does not divide the interval would otherwise stop
    # short of the final sparsity.
    last = step == begin_and_end(schedule)[1]
    return exact(sparsity) if bool(should_prune) or last else None


def final_sparsity(schedule):
    """Returns the sparsity that a schedule ends with."""
    if timing.shares_of(schedule):
        return exact(timing.last_sparsity(schedule))
    begin, end = begin_and_end(schedule)
    return exact(schedule(begin if end < 0 else end)[1])


def exact(sparsity):
    """Returns a schedule's sparsity as a Python float.

    tfmot returns float32, whose 0.9 is below the double 0.9 and would prune
    one weight less than asked; its shortest decimal form is what was meant.
    """
    value = getattr(sparsity, "numpy", lambda: sparsity)()
    if isinstance(value, np.floating) and value.dtype == np.float32:
        return float(str(value))
    return float(value)
