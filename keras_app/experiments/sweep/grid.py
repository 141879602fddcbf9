"""Grids of gin bindings: what a sweep varies, and what its runs are called."""

import ast
import collections
import itertools
import re

_LONGEST_LABEL = 120


def parse(text):
    """Reads one `--grid`.

    Args:
        text: `"binding=[value, ...]"`, the values as Python literals.

    Returns:
        `(binding, values)`, the list with at least one value.

    Raises:
        ValueError: It is nothing like that, or a value stands there twice.

    Example:

    >>> parse("regularizers.L1.lam=[0.1, 0.3]")
    ('regularizers.L1.lam', [0.1, 0.3])
    """
    binding, _, literal = map(str.strip, text.partition("="))
    try:
        values = ast.literal_eval(literal)
    except (ValueError, SyntaxError):
        values = None
    if not re.fullmatch(r"[\w./]+", binding) or not isinstance(values, list):
        raise ValueError(
            "`--grid` must be a binding and a list of Python literals, such "
            f'as "regularizers.L1.lam=[0.1, 0.3]". Received: --grid={text}'
        )
    if not values:
        raise ValueError(
            f"`--grid` must list at least one value. Received: --grid={text}"
        )
    told = [repr(value) for value in values]
    twice = next((value for value in told if told.count(value) > 1), None)
    if twice is not None:
        raise ValueError(
            f"`--grid` must list each value once. Received: --grid={text}, "
            f"with {twice} twice"
        )
    return binding, values


def points(grids):
    """Returns all combinations, the values of the last grid varying fastest.

    Args:
        grids: `[(binding, values), ...]`, as `parse` returns them.

    Returns:
        A list of dicts `{binding: value}`.

    Example:

    >>> points([("a.x", [1, 2]), ("a.y", [3])])
    [{'a.x': 1, 'a.y': 3}, {'a.x': 2, 'a.y': 3}]
    """
    bindings = [binding for binding, _ in grids]
    values = itertools.product(*(values for _, values in grids))
    return [dict(zip(bindings, combination)) for combination in values]


def labels(points):
    """Names points by what they bind, so that a folder can be called so.

    Args:
        points: Dicts `{binding: value}` with the same bindings.

    Returns:
        A different text for each point, with letters, digits and `.,=+-_~`.

    Example:

    >>> labels([{"L1.lam": 0.1, "mlp.hidden": (20, 10)}])
    ['lam=0.1,hidden=20_10']
    """
    names = {binding: binding.rpartition(".")[2] for binding in points[0]}
    if len(set(names.values())) < len(names):
        names = {binding: binding.replace("/", "_") for binding in names}
    times, found = collections.Counter(), []
    for point in points:
        parts = [
            f"{names[key]}={_shown(value)}" for key, value in point.items()
        ]
        text = ",".join(parts)[:_LONGEST_LABEL]
        # Some file systems take capital and small letters for the same.
        times[text.casefold()] += 1
        number = times[text.casefold()]
        found.append(text if number == 1 else f"{text}~{number}")
    return found


def _shown(value):
    text = value if isinstance(value, str) else repr(value)
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_")
