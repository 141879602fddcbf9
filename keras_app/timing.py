"""When schedules prune: at steps, or at shares of the training they run in."""

import abc
import copy
import math
import numbers
from typing import Self

from keras_app.checks import check_int
from keras_app.config import Configured

# What is counted from one step to another; these are the smallest.
_LENGTHS = {"frequency": 1, "period": 2}

# Products such as 0.29 * 100 are a little below the whole number meant.
_TINY = 1e-9


class PruningSchedule(Configured, abc.ABC):
    """Maps a step to whether to prune there, and to which sparsity.

    An argument that is a step, such as `begin_step`, `end_step` or
    `frequency`, is an integer, or a float from 0.0 to 1.0: a share of the
    training. 1.0 is its end; 1 is a step. Steps are updates of the optimizer.
    A pruner resolves shares when `fit` starts, into a copy of its own. The
    training is then all the epochs that this `fit` counts, those before its
    `initial_epoch` too, so that one which goes on has the steps it had. A
    second `fit` is a training of its own.

    Subclasses implement `__call__`, and keep each argument of their
    constructor as an attribute of its name. `end_step` is the last
    step at which the schedule prunes, or -1 for a schedule without an end;
    pruners use it to refuse a training that stops too early.
    """

    end_step: int | float = -1

    # The arguments that may be shares, and that which holds the last sparsity.
    _timed: tuple[str, ...] = ()
    _ends_with: str | None = None

    @abc.abstractmethod
    def __call__(self, step: int) -> tuple[bool, float]:
        """Returns `(should_prune, sparsity)` for a step counted from 0."""

    @property
    def shares(self) -> dict[str, float]:
        """`{name: value}` of the arguments that are shares of a training."""
        given = {name: getattr(self, name) for name in self._timed}
        return {name: value for name, value in given.items() if _shared(value)}

    def resolve(self, total_steps: int, first_step: int = 0) -> Self:
        """Returns the schedule in steps: a copy, if it has shares.

        A `begin_step`, `end_step`, `step` or entry of `steps` becomes the
        nearest step, a `frequency` or `period` is rounded down, to 1 and 2 at
        least. Integers stay.

        Args:
            total_steps: Steps of the training, >= 1.
            first_step: The step that it begins with, >= 0. Defaults to `0`.

        Raises:
            ValueError: A training of too few steps for its shares.

        Example:

        >>> from keras_app.schedules import PolynomialDecay
        >>> schedule = PolynomialDecay(0.0, 0.9, 0.1, 0.75, frequency=0.01)
        >>> schedule = schedule.resolve(2000)
        >>> schedule.begin_step, schedule.end_step, schedule.frequency
        (200, 1500, 20)
        """
        total_steps = check_int("total_steps", total_steps, 1)
        first_step = check_int("first_step", first_step, 0)
        shares = self.shares
        if not shares:
            return self
        resolved = copy.copy(self)
        for name, value in shares.items():
            steps = [
                _step_of(name, each, total_steps, first_step)
                for each in (value if isinstance(value, list) else [value])
            ]
            setattr(resolved, name, steps if name == "steps" else steps[0])
        try:
            resolved.__post_init__()
        except ValueError as error:
            raise ValueError(
                f"The training must be longer for the shares {_told(shares)}: "
                f"of its {total_steps} steps, from step {first_step} on, they "
                f"are {_told({n: getattr(resolved, n) for n in shares})}. "
                f"{error}"
            ) from None
        return resolved

    def _check(self, checked, *names, **rules):
        """Keeps arguments as what a check makes of them."""
        for name in names:
            setattr(self, name, checked(name, getattr(self, name), **rules))

    # The name that schedules written for tfmot call.
    def _should_prune_in_step(self, step, begin_step, end_step, frequency):
        check_in_steps(self)
        inside = step >= begin_step and (end_step < 0 or step <= end_step)
        return inside and (step - begin_step) % frequency == 0


def check_time(name, value, minimum):
    """Returns a step as an int, a share of the training as a float; or raises.

    Args:
        name: Name of the argument, for the message.
        value: An integer of at least `minimum`, or a float from 0.0 to 1.0.
        minimum: The smallest step.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return check_int(name, value, minimum)
    rule = (
        f"`{name}` must be an integer >= {minimum}, in steps, or a float from "
        f"0.0 to 1.0, a share of the training. Received: {name}={value!r}"
    )
    # NumPy's bools are no numbers to Python.
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(rule)
    value = float(value)
    if not 0.0 <= value <= 1.0:
        whole = value.is_integer() and value >= minimum
        raise ValueError(
            f"{rule}. Did you mean {value:.0f}?" if whole else rule
        )
    return value


def comparable(*times):
    """Whether all are steps, or all shares; others compare once resolved."""
    return len({isinstance(time, float) for time in times}) == 1


def shares_of(schedule):
    """Returns `{name: value}` of a schedule's shares, tfmot's have none.

    Example:

    >>> from keras_app.schedules import OneShot
    >>> shares_of(OneShot(0.5, step=0.25)), shares_of(OneShot(0.5, step=25))
    ({'step': 0.25}, {})
    """
    return schedule.shares if isinstance(schedule, PruningSchedule) else {}


def last_sparsity(schedule):
    """Returns the sparsity that a schedule with shares ends with.

    Example:

    >>> from keras_app.schedules import OneShot
    >>> last_sparsity(OneShot(0.5, step=0.25))
    0.5
    """
    value = getattr(schedule, schedule._ends_with)
    return value[-1] if isinstance(value, list) else value


def check_in_steps(schedule):
    """Raises if a schedule has shares, which no training has resolved."""
    shares = shares_of(schedule)
    if shares:
        raise ValueError(
            f"{type(schedule).__name__} must be in steps to be asked for one: "
            "call `schedule.resolve(total_steps)`, as pruners do when `fit` "
            f"starts. Received: {_told(shares)}"
        )


def in_steps(schedule, first_step, total_steps):
    """Returns the schedule of a training, without shares.

    Args:
        schedule: Any schedule.
        first_step: The step that the training begins with.
        total_steps: Its steps, or `None` where they are not known.

    Raises:
        ValueError: Shares of a training of unknown length, or of too few steps.
    """
    shares = shares_of(schedule)
    if not shares:
        return schedule
    if total_steps is None:
        raise ValueError(
            "A schedule in shares of the training must know its steps, which "
            "this data does not tell. Pass `steps_per_epoch` to `fit`, or give "
            f"the schedule in steps, integers. Received: {_told(shares)}"
        )
    return schedule.resolve(total_steps, first_step)


def told_in_steps(schedule, resolved):
    """Returns sentences on what the shares of a schedule are in steps."""
    told = [
        f"`{name}`, {value} of the training, is {getattr(resolved, name)}"
        for name, value in schedule.shares.items()
    ]
    ramp = hasattr(resolved, "frequency") and hasattr(resolved, "begin_step")
    length = resolved.end_step - resolved.begin_step if ramp else 0
    if ramp and resolved.frequency >= length > 1:
        told.append(
            f"`frequency`, {resolved.frequency} steps, leaves no update "
            "between the first and the last; it may be a share, too"
        )
    return told


def _shared(value):
    values = value if isinstance(value, list) else [value]
    return any(isinstance(each, float) for each in values)


def _step_of(name, value, total_steps, first_step):
    if not isinstance(value, float):
        return value
    if name in _LENGTHS:
        return max(_LENGTHS[name], math.floor(value * total_steps + _TINY))
    # Halves up: Python's `round` would bring two shares nearer to each other,
    # or further apart, than they are.
    return first_step + math.floor(value * total_steps + 0.5 + _TINY)


def _told(arguments):
    return ", ".join(f"{name}={value}" for name, value in arguments.items())
