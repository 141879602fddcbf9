"""How one target sparsity is spread over the layers of a network."""

from collections.abc import Mapping

import numpy as np

from keras_app.checks import check_sparsity
from keras_app.hints import Shapes

__all__ = ["erdos_renyi", "uniform"]


def uniform(
    shapes: Shapes, sparsity: float, custom: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Gives every layer the same sparsity.

    Args:
        shapes: `{name: shape}`.
        sparsity: Sparsity of every layer, in [0, 1].
        custom: `{name: sparsity}`, layers with a sparsity of their own.

    Returns:
        `{name: sparsity}` in the order of `shapes`.

    Example:

    >>> uniform({"a": (3, 4), "b": (4, 2)}, 0.5, custom={"b": 0.0})
    {'a': 0.5, 'b': 0.0}
    """
    sparsity = check_sparsity("sparsity", sparsity, allow_one=True)
    custom = _check_custom(shapes, custom)
    return {name: custom.get(name, sparsity) for name in shapes}


def erdos_renyi(
    shapes: Shapes,
    sparsity: float,
    custom: Mapping[str, float] | None = None,
    include_kernel: bool = True,
    power: float = 1.0,
) -> dict[str, float]:
    """Keeps more of small layers and less of large ones (ER and ERK).

        density_l  proportional to  ((sum of the dimensions of l) / |l|)^power

    scaled so that as many weights are kept in all as `uniform` keeps. Layers
    whose density would exceed 1 stay dense, and the others share the rest.

    Args:
        shapes: `{name: shape}`.
        sparsity: Sparsity over all layers that are not in `custom`, in [0, 1].
        custom: `{name: sparsity}`, layers with a sparsity of their own; they
            take no part in the sharing.
        include_kernel: Whether the spatial dimensions of a convolution count
            (ERK); `False` uses its last two dimensions only (ER). Defaults to
            `True`.
        power: Exponent; 0 gives uniform densities. Defaults to `1.0`.

    Returns:
        `{name: sparsity}` in the order of `shapes`.

    Example:

    >>> erdos_renyi({"a": (10, 10), "b": (100, 10)}, 0.5)
    {'a': 0.153846153846, 'b': 0.534615384615}

    Reference: [Mocanu et al., 2018](https://arxiv.org/abs/1707.04780), eq. 4;
    [Evci et al., 2020](https://arxiv.org/abs/1911.11134), section 3.
    """
    sparsity = check_sparsity("sparsity", sparsity, allow_one=True)
    custom = _check_custom(shapes, custom)
    shared = [name for name in shapes if name not in custom]
    size = {name: float(np.prod(shapes[name])) for name in shared}
    budget = (1.0 - sparsity) * sum(size.values())
    raw = {}
    for name in shared:
        dims = shapes[name] if include_kernel else shapes[name][-2:]
        raw[name] = float((np.sum(dims) / np.prod(dims)) ** power)
    dense = set()
    scale = 0.0
    # Each round makes the layers dense whose share exceeds 1. Their surplus
    # goes to the others, which may then exceed 1 in turn.
    while True:
        left = budget - sum(size[name] for name in dense)
        divisor = sum(raw[n] * size[n] for n in shared if n not in dense)
        scale = left / divisor if divisor else 0.0
        full = {n for n in shared if n not in dense and scale * raw[n] > 1.0}
        if not full:
            break
        dense |= full
    result = {}
    for name in shapes:
        if name in custom:
            result[name] = custom[name]
        elif name in dense:
            result[name] = 0.0
        else:
            # Rounding may leave -1e-17, which is no sparsity.
            result[name] = round(min(1.0, max(0.0, 1 - scale * raw[name])), 12)
    return result


DISTRIBUTIONS = {"uniform": uniform, "erk": erdos_renyi}


def check_distribution(distribution: object) -> None:
    """Raises unless it is the name of one, or a callable.

    Example:

    >>> check_distribution("uniform")
    """
    if not callable(distribution) and distribution not in DISTRIBUTIONS:
        raise ValueError(
            "`distribution` must be 'uniform', 'erk' or a callable. "
            f"Received: distribution={distribution!r}"
        )


def _check_custom(shapes, custom):
    custom = dict(custom or {})
    for name, value in custom.items():
        if name not in shapes:
            raise ValueError(
                "`custom` must name layers of `shapes`. "
                f"Received: {name!r}, known: {list(shapes)}"
            )
        custom[name] = check_sparsity(f"custom[{name!r}]", value, True)
    return custom
