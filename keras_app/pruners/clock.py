"""In what a schedule counts: training steps, or megabatches."""

from keras_app import host


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
