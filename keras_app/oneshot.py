"""Pruning in one call: once, in place, without `fit`."""

import dataclasses
from typing import Any
from typing import Literal

import keras
import numpy as np
from keras import ops

from keras_app import batches
from keras_app import cli
from keras_app import enforcement
from keras_app import pruners
from keras_app import scorers
from keras_app.checks import check_model
from keras_app.checks import check_sparsity
from keras_app.hints import Data
from keras_app.hints import Filters
from keras_app.hints import Scope
from keras_app.masks.structures import Structure
from keras_app.report.tables import PruningReport
from keras_app.schedules import OneShot

# See `prune`.
Method = Literal["wanda", "sparsegpt"] | scorers.Scorer

_PRUNERS = {
    "magnitude": pruners.MagnitudePruner,
    "wanda": pruners.WandaPruner,
    "sparsegpt": pruners.SparseGPTPruner,
}
METHODS = tuple(dict.fromkeys((*_PRUNERS, *scorers.NAMES)))

_NOT_KEPT = (
    "the model is not compiled, so that nothing keeps the zeros in a training. "
    "Compile it before you prune, or train it with a pruner that begins at "
    "this sparsity: it goes on from the zeros"
)


def prune(
    model: keras.Model,
    sparsity: float | None,
    method: Method = "magnitude",
    data: Data | None = None,
    structure: Structure | None = None,
    scope: Scope = "layer",
    filters: Filters = None,
    **options: Any,
) -> PruningReport:
    """Prunes a model once, in place, without training it.

    It does what the pruner of the method does at one update. Weights that are
    zero already count as pruned, before all others.

    A compiled model keeps its masks: they are in `keras_app.masks_of(model)`,
    and a `fit` that follows trains the weights that are left, with a pruner or
    without. A model that was never compiled has no optimizer to keep masks in.
    It is pruned as well, but a `fit` trains the zeros, unless with a pruner
    that begins at this sparsity, which goes on from them. The same goes for one
    that `keras.saving.load_model` read; pruned again, as it was, it holds them.

    Args:
        model: A built `keras.Model`, compiled or not.
        sparsity: Share of the weights, or of the units of `structure`, to
            prune, in [0, 1). With `NM` it is that of n:m, or `None`.
        method: `"magnitude"`; with `data` `"wanda"`, and `"sparsegpt"`, which
            also moves the weights that are kept; or one of the scorers of
            `keras_app.scorers`: `"random"`, `"synflow"`, and with `data`
            `"snip"`, `"taylor"` and `"grasp"`, which take the gradient of the
            loss; or a callable in their place. Defaults to `"magnitude"`.
        data: Examples to score on, a few hundred: an array `x`, a tuple `(x,
            y)` of arrays, or batches `(x, y)` or `(x, None)` in anything that
            can be iterated over again. Defaults to `None`.
        structure: What is pruned together: `None` (single weights), or a
            structure of `keras_app.masks`. Defaults to `None`.
        scope: `"layer"` gives each weight its own threshold, `"global"` one to
            all. Defaults to `"layer"`.
        filters: Which weights: see `keras_app.selection.select`. Defaults to
            `None`, the kernels of dense, attention and convolution layers.
        **options: Other arguments of the method's pruner, such as
            `distribution`, `custom_sparsity`, and of scorers `bn_mode` and
            `seed`.

    Returns:
        A `PruningReport`; `print` shows what was pruned, and what was not and
        why.

    Raises:
        ValueError: A bad argument, a method without the data or the loss that
            it needs, or nothing to prune.
        TypeError: An argument of the wrong type, or that the pruner of the
            method does not have.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> report = keras_app.prune(model, 0.5)
    >>> report.sparsity
    0.5
    """
    check_model(model)
    sparsity = checked_sparsity(sparsity, structure)
    if data is not None:
        data = batches.as_batches(data)
        batches.check_fit(data, model)
    pruner = pruner_for(
        method,
        sparsity,
        data,
        structure=structure,
        scope=scope,
        filters=filters,
        **options,
    )
    with enforcement.lent_optimizer(model) as is_lent:
        prune_by(pruner, model, sparsity)
        report = pruner.report
    if not is_lent:
        return report
    return dataclasses.replace(report, notes=[*report.notes, _NOT_KEPT])


def pruner_for(method, sparsity, data, **arguments):
    """Returns the pruner that a method's name stands for.

    Args:
        method: See `prune`.
        sparsity: In [0, 1).
        data: What `batches.as_batches` returns, or `None`.
        arguments: Those of the pruner.
    """
    if not callable(method) and method not in METHODS:
        raise ValueError(
            f"`method` must be one of {', '.join(METHODS)}, or a callable as "
            "in keras_app.scorers. "
            f"Received: method={method!r}."
            + cli.did_you_mean(str(method), METHODS)
        )
    schedule = OneShot(sparsity)
    if not callable(method) and method in _PRUNERS:
        kind = _PRUNERS[method]
        if kind is not pruners.MagnitudePruner:
            arguments["data"] = data
        pruner = kind(schedule, **arguments)
    else:
        pruner = pruners.SaliencyPruner(
            schedule, scorer=method, data=data, **arguments
        )
    if callable(method):  # whoever wrote it knows what it needs
        return pruner
    if pruner.needs_data:
        raise ValueError(
            f"`data` must hold examples for method={method!r}, which scores "
            "on them. Received: data=None"
        )
    if method in scorers.NEEDS_DATA and not batches.has_labels(data):
        raise ValueError(
            f"`data` must be (x, y) for method={method!r}, which takes the "
            "gradient of the loss. Received: data without labels"
        )
    return pruner


def prune_by(pruner, model, sparsity):
    """Lets a pruner make one update of a model that has an optimizer.

    Args:
        pruner: A pruner that has seen no model.
        model: The model.
        sparsity: In [0, 1).
    """
    chosen = pruner.select(model)
    # Before the pruner sees the model: it would ask whether a schedule made
    # these zeros, and let them train otherwise. Here nothing trains.
    held = _hold_zeros(
        model, pruner.units_of(model, chosen).selection.variables
    )
    try:
        pruner.set_model(model)
        pruner.prune(sparsity)
    except BaseException:
        # Nothing was pruned, so that a `fit` trains what it trained before.
        if held:
            enforcement.state_of(model).set(
                [(v, np.ones_like(mask)) for v, mask in held]
            )
        raise
    pruner.finish(sparsity)


def _hold_zeros(model, variables):
    """Takes the zeros of some weights that have no masks for pruned.

    Returns `[(variable, mask)]` of those that have zeros.
    """
    state = enforcement.state_of(model)
    masks = []
    for variable in variables.values():
        mask = ops.convert_to_numpy(variable) != 0
        known = state is not None and state.record(variable) is not None
        # All zero is how some layers start.
        if not known and mask.any() and not mask.all():
            masks.append((variable, mask))
    if masks:
        enforcement.attach(model, [v for v, _ in masks]).set(masks)
    return masks


def checked_sparsity(sparsity, structure):
    """Returns the sparsity as a float; that of n:m, where it is `None`.

    Raises:
        ValueError: It is none, or not that of n:m.
        TypeError: It is no number.
    """
    fixed = getattr(structure, "sparsity", None)
    if sparsity is None and fixed is not None:
        return fixed
    sparsity = check_sparsity("sparsity", sparsity)
    if fixed is not None and not np.isclose(sparsity, fixed):
        raise ValueError(
            f"`sparsity` must be {fixed:g}, or None, with "
            f"structure={structure!r}, which fixes it. "
            f"Received: sparsity={sparsity:g}"
        )
    return sparsity
