"""Checks of arguments: one error, naming argument, rule and value."""

import math
import numbers

import keras
import numpy as np


def check_choice(name, value, choices):
    """Raises unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, choices))}. "
            f"Received: {name}={value!r}"
        )


def check_number(name, value, rule, words=">= 0"):
    """Raises unless `value` is a finite number that fulfils `rule`."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not rule(value):
        raise ValueError(
            f"`{name}` must be a number {words}. Received: {name}={value!r}"
        )
    return float(value)


def check_whole(name, value, minimum):
    """Returns `value` as an int of at least `minimum`, or raises.

    Whole numbers of any type will do: NumPy scalars, arrays of rank 0, and
    floats such as a count that was read from a file.
    """
    try:
        whole = int(value)
        valid = not isinstance(value, (str, bool, np.bool_)) and whole == value
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid or whole < minimum:
        raise ValueError(
            f"`{name}` must be an integer >= {minimum}. "
            f"Received: {name}={value!r}"
        )
    return whole


def check_sparsity(name, value, allow_one=False):
    """Returns `value` as a float, or raises the one error for bad sparsities.

    Args:
        name: Name of the argument, for the message.
        value: The number to check; must lie in [0, 1), or in [0, 1].
        allow_one: Whether exactly 1 (nothing kept) is allowed.
    """
    top = "1]" if allow_one else "1)"
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(
            f"`{name}` must be a number in [0, {top}. Received: {name}={value}"
        )
    value = float(value)
    inside = 0 <= value <= 1 if allow_one else 0 <= value < 1
    if not inside:
        hint = (
            f" Did you mean {value / 100:g}? Sparsities are fractions, not "
            "percentages."
            if 1 < value < 100
            else ""
        )
        raise ValueError(
            f"`{name}` must be in [0, {top}. Received: {name}={value:g}.{hint}"
        )
    return value


def check_int(name, value, minimum):
    """Returns `value` as an int of at least `minimum`, or raises."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(
            f"`{name}` must be an integer >= {minimum}. "
            f"Received: {name}={value!r}"
        )
    if value < minimum:
        raise ValueError(
            f"`{name}` must be an integer >= {minimum}. "
            f"Received: {name}={value}"
        )
    return int(value)


def check_list(name, values, check, **rules):
    """Returns the entries of a list, each as a check makes it, or raises."""
    # Entries of a list are checked one by one, whatever they are.
    if not isinstance(values, (list, tuple)) and np.ndim(values) != 1:
        raise TypeError(
            f"`{name}` must be a list, with an entry for each update. "
            f"Received: {name}={values!r}"
        )
    return [check(name, value, **rules) for value in values]


def check_model(model):
    """Raises unless `model` is a `keras.Model` with weights."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {model!r}")
    if not model.built:
        raise ValueError(
            f"`model` must be built: {model.name} has no weights yet. Call it "
            "on some data first."
        )


def check_schedule(name, schedule):
    """Raises unless `schedule` maps steps to `(should_prune, sparsity)`."""
    rule = f"`{name}` must be a callable step -> (should_prune, sparsity)"
    # A class can be called, too, and would take the step for its argument.
    if isinstance(schedule, type) or not callable(schedule):
        raise TypeError(f"{rule}. Received: {name}={schedule!r}")
    if getattr(schedule, "shares", None):
        return  # of a training, which has not begun: ours, and well made
    told = schedule(0)
    if not isinstance(told, (tuple, list)) or len(told) != 2:
        raise ValueError(
            f"{rule}. Received: {name}={schedule!r}, which returns {told!r} "
            "for step 0"
        )
