"""One weight's mask, and what else the optimizer keeps beside the weight."""

import keras
import numpy as np
from keras import ops

from keras_app import host
from keras_app import split
from keras_app.enforcement.latent import add_latent
from keras_app.enforcement.latent import apply_rule
from keras_app.enforcement.latent import flat_path

# Keras's names for the slots that say where a weight was going, the second one
# Ftrl's. Those of a weight that comes back are stale. Accumulators of squares
# stay: Ftrl and Adagrad divide by theirs.
_MOMENTUM_SLOTS = ("momentum", "linear")


class Record:
    """What is kept of one weight. All but flags are variables of the optimizer.

    Attributes:
        variable: The weight.
        mask: Which entries are kept.
        dormant: What pruned entries hold, or `None`.
        learning: Which entries train, pruned ones included; `None`: the kept.
        decay: `(a, b)`: the gradient grows by a w where the weight is kept
            and by b w where it is pruned.
        watched: What `rule` made of the gradients, or `None`.
        watching: Whether the rule is applied in the next steps, or `None`.
        rule: Pure function `(watched, gradient, w) -> watched`, or `None`.
        is_watch_stored: Whether files hold `watched`.
    """

    def __init__(self, optimizer, index):
        self._optimizer = optimizer
        self._index = index
        self.variable = optimizer._trainable_variables[index]
        self.mask = self._add("mask", "bool", "ones")
        self.dormant = None
        self.learning = None
        self.decay = (0.0, 0.0)
        self.watched = None
        self.watching = None
        self.rule = None
        self.is_watch_stored = False

    @property
    def own_variables(self):
        """Everything it added to the optimizer."""
        return [
            value
            for value in vars(self).values()
            if isinstance(value, keras.Variable) and value is not self.variable
        ]

    @property
    def dense(self):
        """The weight as it was if nothing was pruned: see `split.read`."""
        values = split.read(self.variable)
        if self.dormant is None:
            return values
        kept = split.read(self.mask)
        where = split.numpy_of(kept).where
        return where(kept, values, split.read(self.dormant))

    def set_mask(self, new):
        """Writes a mask; what comes back has its dormant value, or zero."""
        new = self._checked("mask", new)
        regrown = new & ~split.read(self.mask)
        if self.dormant is not None:
            values = self.dense
            self.dormant.assign(values)
            if split.any_of(regrown):
                where = split.numpy_of(regrown).where
                for each in self._with_average():
                    now = split.read(each)
                    woken = where(regrown, values, now)
                    each.assign(woken.astype(now.dtype))
        # The next step takes the memory of what the variable holds.
        self.mask.assign(split.copy(new))
        # The momentum of what was learning is not stale.
        if self.learning is None:
            self._reset_momentum(regrown)

    def zero(self):
        """Zeroes what is pruned, and its moving average."""
        keep = split.read(self.mask)
        for each in self._with_average():
            _assign_where(each, keep)

    def count_leaks(self):
        """Returns how many pruned entries are not zero."""
        pruned = ~split.read(self.mask)
        return split.count(split.nonzero(split.read(self.variable)) & pruned)

    def keep_dormant(self, learning, decay=None):
        """Makes room; returns whether a compiled step is out of date."""
        changed = False
        if self.dormant is None:
            self.dormant = self._add("dormant")
            changed = True
        if learning and self.learning is None:
            self.learning = self._add("learning", "bool", "ones")
            changed = True
        if decay not in (None, self.decay):
            self.decay = decay
            changed = True
        return changed

    def learn(self, new):
        """Says which entries train; those that begin forget their momentum."""
        new = self._checked("learning entries", new)
        old = split.read(self.learning)
        self.learning.assign(split.copy(new))
        self._reset_momentum(new & ~old)

    def watch(self, rule, store):
        """Takes a rule; returns whether a compiled step is out of date."""
        self.make_room_to_watch()
        self.is_watch_stored = store
        if rule is self.rule:
            return False
        if self.rule is not None:
            self.watched.assign(np.zeros(tuple(self.watched.shape)))
        self.rule = rule
        return True

    def make_room_to_watch(self):
        """Adds `watched` and `watching`, if they are not there."""
        if self.watched is None:
            self.watched = self._add("watched")
            self.watching = self._add("watching", "bool", shape=())

    # ---- the compiled step ---------------------------------------------

    def before(self, gradient, variable):
        """Comes before the update; returns the gradient to update with.

        Args:
            gradient: The gradient that the step took.
            variable: The weight as the step sees it.
        """
        if self.dormant is None and self.watched is None:
            return gradient
        weight = host.as_tensor(variable)
        if self.dormant is not None:
            mask = host.as_tensor(self.mask)
            weight = ops.where(mask, weight, host.as_tensor(self.dormant))
        if self.rule is not None:
            self._apply_rule(gradient, weight)
        if self.learning is None:
            return gradient
        self._optimizer.assign(variable, ops.cast(weight, variable.dtype))
        kept, asleep = self.decay
        if kept == asleep == 0.0:
            return gradient
        gradient = host.as_tensor(gradient)
        added = ops.where(mask, kept * weight, asleep * weight)
        return gradient + ops.cast(added, gradient.dtype)

    def _apply_rule(self, gradient, weight):
        if host.known(self.watching) is False:
            return
        watching = host.as_tensor(self.watching)

        def rule(watched, gradient, weight):
            new = self.rule(
                watched,
                ops.cast(gradient, watched.dtype),
                ops.cast(weight, watched.dtype),
            )
            return [ops.where(watching, new, watched)]

        inputs = [self.watched, gradient, weight]
        apply_rule(self._optimizer, rule, inputs, [self.watched])

    def after(self, variable):
        """Comes after the update: what is pruned falls asleep."""
        if self.learning is not None:
            apply_rule(
                self._optimizer,
                lambda learning, w, d: [ops.where(learning, w, d)],
                [self.learning, variable, self.dormant],
                [self.dormant],
            )

    # ---- inside --------------------------------------------------------

    def _add(self, name, *args, **kwargs):
        return add_latent(self._optimizer, self.variable, name, *args, **kwargs)

    def _checked(self, what, new):
        if not split.is_split(new):
            new = np.asarray(new, dtype=bool)
        if new.shape != tuple(self.variable.shape):
            raise ValueError(
                f"The {what} of {self.variable.path} must have shape "
                f"{tuple(self.variable.shape)}. Received: {new.shape}"
            )
        return new

    def _with_average(self):
        """The weight and, where there is one, its moving average."""
        averages = getattr(
            self._optimizer, "_model_variables_moving_average", None
        )
        average = averages[self._index] if averages else None
        return [e for e in (self.variable, average) if e is not None]

    def _reset_momentum(self, forget):
        if not split.any_of(forget):
            return
        path = flat_path(self.variable)
        # Equally named layers of two nested models have slots of one name,
        # in the order of their variables; so have `a/b` and `a_b`.
        twins = [
            known
            for known in self._optimizer._trainable_variables
            if flat_path(known) == path
        ]
        for kind in _MOMENTUM_SLOTS:
            slots = [
                slot
                for slot in self._optimizer.variables
                if slot.name == f"{path}_{kind}"
            ]
            for known, slot in zip(twins, slots):
                if known is self.variable:
                    _assign_where(slot, ~forget)


def _assign_where(variable, keep):
    values = split.read(variable)
    # Devices write as fast as they look.
    if split.is_split(values) or np.count_nonzero(values[~keep]):
        zero = np.zeros((), values.dtype)
        variable.assign(split.numpy_of(values, keep).where(keep, values, zero))
