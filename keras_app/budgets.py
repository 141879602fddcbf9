"""Budgets: the sparsity at which a model fits so many bytes or FLOPs.

A budget is a string, `"bytes:N"` or `"flops:N"`. With N above 1 it is an
amount, `"bytes:300_000"`; with N up to 1 a share of the dense model,
`"flops:0.25"`. It is resolved before training: what a sparsity makes of each
weight is known from shapes alone.
"""

import bisect
import math
import warnings

import keras
import numpy as np
from keras import ops

from keras_app import graph
from keras_app import selection
from keras_app.distributions import check_distribution
from keras_app.distributions import DISTRIBUTIONS
from keras_app.hints import Distribution
from keras_app.hints import Filters
from keras_app.masks.structures import Structure

# Sparsities are found to a millionth: short enough to copy into a
# configuration, and not lost in float32.
_STEPS = 1_000_000


def sparsity_for(
    model: keras.Model,
    target: str,
    filters: Filters = None,
    structure: Structure | None = None,
    distribution: Distribution = "uniform",
) -> float:
    """Returns the smallest sparsity that brings a model within a budget.

    Pass it on as the final sparsity of a schedule, with the same `filters`,
    `structure` and `distribution` to the pruner:

        minimize s  subject to  cost(s) <= N

        bytes: sum over all weights of what `sparse_bytes` counts
        flops: sum over kernels of density * FLOPs, `report.sparse_flops`

    All else counts as dense. FLOPs are those of kernels; where it is not known
    how often one is applied, it is left out, with a warning. The search halves
    the interval of sparsities, 20 times, so that any distribution will do that
    keeps less of every layer as the sparsity rises.

    It holds for pruners with `scope="layer"`, to the weight. With
    `scope="global"` a sparsity above 1/32 that was found under `"uniform"`
    also meets a budget of bytes. It need not meet one of FLOPs, because the
    training decides which layers lose their weights.

    Args:
        model: A built `keras.Model`.
        target: `"bytes:N"` or `"flops:N"`. N in (0, 1] is a share of the dense
            model, above 1 bytes, or FLOPs per sample in the forward pass, two
            for each multiply-add.
        filters: Which weights are pruned: see `keras_app.selection.select`.
            Defaults to `None`.
        structure: What is pruned together: `None`, or `Block` or `Channel` of
            `keras_app.masks`. What the others leave of a weight does not
            follow from its shape and a sparsity. Defaults to `None`.
        distribution: `"uniform"`, `"erk"`, or a callable `(shapes, sparsity)
            -> {path: sparsity}`, as for a pruner. A callable is also the way
            to give single weights a sparsity of their own, because this
            function knows nothing of `custom_sparsity`. Defaults to
            `"uniform"`.

    Returns:
        A sparsity in [0, 1), a multiple of 1e-6.

    Raises:
        ValueError: A bad argument; FLOPs that are known of no prunable weight;
            a budget that no sparsity meets, with the smallest that one does.

    Example:

    >>> from keras_app.pruners import MagnitudePruner
    >>> from keras_app.schedules import PolynomialDecay
    >>> model = keras.Sequential([keras.Input((90,)), keras.layers.Dense(50)])
    >>> sparsity = sparsity_for(model, "flops:0.25")
    >>> sparsity
    0.75
    >>> pruner = MagnitudePruner(PolynomialDecay(0.0, sparsity, 0, 1000))
    """
    kind, amount = _parse(target)
    if structure is not None and (reason := _not_by_shape(structure)):
        raise ValueError(
            f"`structure` must be None, Block or Channel: {reason}. "
            f"Received: structure={structure!r}"
        )
    check_distribution(distribution)
    variables = selection.select(model, filters).variables
    spread = DISTRIBUTIONS.get(distribution, distribution)
    shapes = {path: tuple(v.shape) for path, v in variables.items()}
    zeros = {path: _zeros(shape, structure) for path, shape in shapes.items()}
    cost_of = _COSTS[kind](model, variables)

    def cost(step):
        sparsities = spread(shapes, step / _STEPS)
        return cost_of(
            {
                path: count[int(sparsities[path] * (len(count) - 1))]
                for path, count in zeros.items()
            }
        )

    unit = cost(0) if amount <= 1 else 1
    step = bisect.bisect_left(
        range(_STEPS), True, key=lambda step: cost(step) <= amount * unit
    )
    if step == _STEPS:
        least = cost(_STEPS - 1) / unit
        digits = 6 if amount <= 1 else 0
        least = math.ceil(least * 10**digits) / 10**digits
        raise ValueError(
            "`target` cannot be met by pruning: at the highest sparsity the "
            f"model still needs '{kind}:{least:.16g}'. "
            f"Received: target={target!r}"
        )
    return step / _STEPS


def sparse_bytes(model: keras.Model) -> int:
    """Counts the bytes of a model whose zeros are not stored.

        bytes = sum over weights of min(size b, ceil(size / 8) + nonzeros b)

    with b bytes for a number: one bit for each entry and the entries that are
    not zero, or all entries where that is shorter. This is what
    `keras_app.export.save_sparse` writes for the weights, before it compresses
    them and adds masks and a description of the model.

    Args:
        model: A built `keras.Model`. All its weights count, moving statistics
            too; the optimizer's do not.

    Returns:
        An int.

    Example:

    >>> model = keras.Sequential([keras.Input((32,)), keras.layers.Dense(2)])
    >>> model.set_weights([np.eye(32, 2), np.ones(2)])
    >>> sparse_bytes(model)  # 64 bits and two ones; a bias of two
    24
    """
    return sum(
        _stored(v, np.count_nonzero(ops.convert_to_numpy(v) == 0))
        for v in model.weights
    )


def _parse(target):
    kind, _, amount = str(target).partition(":")
    try:
        amount = float(amount)
    except ValueError:
        amount = math.nan
    if kind not in _COSTS or not 0 < amount < math.inf:
        raise ValueError(
            "`target` must be 'bytes:N' or 'flops:N', N in (0, 1] for a share "
            "of the dense model, or above 1 for an amount. "
            f"Received: target={target!r}"
        )
    return kind, amount


def _not_by_shape(structure):
    """Why a sparsity does not say what is left of a weight, if it does not."""
    if getattr(structure, "fixes_sparsity", False):
        return "n:m fixes the sparsity by itself"
    if getattr(structure, "is_of_arrays", False):
        return None
    return (
        "what another one leaves of a weight depends on the model around it, "
        "not on its shape alone"
    )


def _zeros(shape, structure):
    """A sequence: how many entries are zero, at least, without k units."""
    if structure is None:
        return range(math.prod(shape) + 1)
    units = structure.pool_mask(np.ones(shape, bool))
    numbers = np.arange(units.size).reshape(units.shape)
    # Blocks at a ragged edge are smaller. Nobody knows which ones will go:
    # the budget has to hold if these do.
    sizes = np.sort(np.bincount(structure.expand(numbers, shape).ravel()))
    return np.concatenate([[0], np.cumsum(sizes)]).tolist()


def _bytes(model, variables):
    chosen = {id(variable) for variable in variables.values()}
    dense = sum(_stored(v, 0) for v in model.weights if id(v) not in chosen)

    def cost(zeros):
        counts = zeros.items()
        return dense + sum(_stored(variables[path], n) for path, n in counts)

    return cost


def _stored(variable, zeros):
    size = math.prod(variable.shape)
    dtype = np.dtype(keras.backend.standardize_dtype(variable.dtype))
    kept = -(-size // 8) + (size - int(zeros)) * dtype.itemsize
    return min(size * dtype.itemsize, kept)


def _flops(model, variables):
    known = graph.flops_per_sample(model)
    unknown = [path for path, v in variables.items() if id(v) not in known]
    if len(unknown) == len(variables):
        raise ValueError(
            "`target` must be a budget of bytes for this model: how often its "
            "layers are applied is not known, so that FLOPs are known of no "
            "weight that is pruned. Build it with `keras.Sequential` or "
            f"`keras.Model(inputs, outputs)`. Unknown: {unknown[:8]}"
        )
    chosen = {id(v) for v in variables.values()}
    unknown += [
        path
        for path, v in selection.paths_of(model.trainable_variables).items()
        if selection.is_kernel(v) and id(v) not in {*known, *chosen}
    ]
    if unknown:
        warnings.warn(
            "The budget of FLOPs, a share or an amount, is one of the rest of "
            "the model. Left out, because it is not known how often they are "
            f"applied: {selection.some(unknown)}"
        )
    total = sum(known.get(id(v), 0) for v in model.weights)
    # FLOPs for each entry, a whole number.
    each = {
        path: known[id(v)] // math.prod(v.shape)
        for path, v in variables.items()
        if id(v) in known
    }
    return lambda zeros: total - sum(each[path] * zeros[path] for path in each)


_COSTS = {"bytes": _bytes, "flops": _flops}
