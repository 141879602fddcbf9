"""Which layers bear pruning: each of them pruned alone, and put back."""

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_app import batches as batches_lib
from keras_app import enforcement
from keras_app import host
from keras_app import oneshot
from keras_app import shares
from keras_app.checks import check_model
from keras_app.hints import Data
from keras_app.hints import Filters
from keras_app.hints import Loss
from keras_app.masks.structures import Structure
from keras_app.oneshot import Method
from keras_app.report.sensitivity import Alone
from keras_app.report.sensitivity import Sensitivity

_SPARSITIES = (0.5, 0.7, 0.9)


def sensitivity(
    model: keras.Model,
    data: Data,
    sparsities: Sequence[float] = _SPARSITIES,
    method: Method = "magnitude",
    structure: Structure | None = None,
    loss: Loss | None = None,
    filters: Filters = None,
    calibration: Data | None = None,
    verbose: bool | int = 1,
    **options: Any,
) -> Sensitivity:
    """Measures what pruning one layer alone costs, layer by layer.

    Each layer, or with `GraphChannel` and `AttentionHead` each set of layers
    that are joined, is pruned as by `keras_app.prune`, evaluated, and put back.
    It costs an evaluation on `data` for each layer at each sparsity. The model
    ends as it was: weights, moving statistics, seeds, metrics and optimizer.

    Layers that lose little may be pruned more: `custom_sparsity` of pruners,
    and of `prune`, says so. The costs of layers that are pruned together do not
    just add up.

    Args:
        model: A built `keras.Model`, compiled unless `loss` is given.
        data: Examples with labels to evaluate on, in the forms of `prune`; best
            such that it was not trained on.
        sparsities: In [0, 1). With `NM` that of n:m. Defaults to `(0.5, 0.7,
            0.9)`.
        method: See `prune`. Defaults to `"magnitude"`.
        structure: See `prune`. Defaults to `None`.
        loss: `(y, outputs) -> scalar`, or a Keras loss or its name, in place of
            the model's loss and metrics. Defaults to `None`.
        filters: Which weights: see `keras_app.selection.select`. Defaults to
            `None`.
        calibration: Examples that methods with data score on. Defaults to
            `None`: `data`.
        verbose: Whether a bar shows how far it is. Defaults to `1`.
        **options: As in `prune`.

    Returns:
        A `Sensitivity`: `print` shows a row for each layer at each sparsity
        with loss, metrics, and their change against the model as it is; the
        attributes, `.to_dict()` and `.plot(path)` have the same.

    Raises:
        ValueError: A bad argument, data without labels, a model without a
            loss, or nothing to prune.
        TypeError: An argument of the wrong type.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile(loss="mse")
    >>> x, y = np.ones((8, 4)), np.ones((8, 1))
    >>> found = sensitivity(model, (x, y), [0.5], verbose=0)
    >>> [row.achieved for row in found.rows]
    [0.5]
    """
    check_model(model)
    data = batches_lib.as_batches(data, 128)
    batches_lib.check_fit(data, model)
    if not batches_lib.has_labels(data):
        raise ValueError(
            "`data` must be (x, y): a loss needs labels. Received: data "
            "without labels"
        )
    if loss is None and not model.compiled:
        raise ValueError(
            "`loss` must be given for a model that is not compiled. "
            "Received: loss=None"
        )
    examples = data
    if calibration is not None:
        examples = batches_lib.as_batches(calibration)
        batches_lib.check_fit(examples, model, "calibration")
    sparsities = _checked(sparsities, structure)

    def pruner_for(sparsity, filters):
        return oneshot.pruner_for(
            method,
            sparsity,
            examples,
            structure=structure,
            filters=filters,
            **options,
        )

    groups = _groups(pruner_for(sparsities[0], filters), model)
    bar = keras.utils.Progbar(len(groups) * len(sparsities), verbose=verbose)
    rows = []
    with _put_back(model) as put_back:
        dense = _evaluate(model, data, loss)
        for name, members in groups.items():
            for sparsity in sparsities:
                pruner = pruner_for(sparsity, _is_one_of(members))
                with enforcement.lent_optimizer(model, always=True):
                    oneshot.prune_by(pruner, model, sparsity)
                total = sum(map(shares.size, members.values()))
                zeros = sum(map(shares.count_zeros, members.values()))
                values = _evaluate(model, data, loss)
                put_back()
                changes = {x: values[x] - dense[x] for x in dense}
                rows.append(
                    Alone(
                        name,
                        tuple(members),
                        total,
                        sparsity,
                        zeros / total,
                        values,
                        changes,
                    )
                )
                bar.add(1)
    return Sensitivity(dense, rows)


def _checked(sparsities, structure):
    if not isinstance(sparsities, (list, tuple)) or not sparsities:
        raise ValueError(
            "`sparsities` must be a list of numbers in [0, 1), one at least. "
            f"Received: sparsities={sparsities!r}"
        )
    if sparsities == _SPARSITIES and hasattr(structure, "sparsity"):
        sparsities = [None]
    return [oneshot.checked_sparsity(s, structure) for s in sparsities]


def _groups(pruner, model):
    """`{name: {path: variable}}` of what is pruned together."""
    units = pruner.units_of(model, pruner.select(model))
    variables = units.selection.variables
    return {
        name: {path: variables[path] for path in paths}
        for name, paths in units.kernels.items()
    }


def _is_one_of(members):
    return lambda variable: any(variable is v for v in members.values())


def _evaluate(model, data, loss):
    """`{"loss": number, metric: number}`."""
    if loss is None:
        arrays = (keras.tree.map_structure(np.asarray, b) for b in data)
        found = model.evaluate(arrays, verbose=0, return_dict=True)
        return {name: float(value) for name, value in found.items()}
    loss = keras.losses.get(loss)
    total = count = 0
    for x, y in data:
        x, y = keras.tree.map_structure(np.asarray, (x, y))
        labels = keras.tree.map_structure(ops.convert_to_tensor, y)
        with host.without_gradients():
            value = ops.mean(loss(labels, model(x, training=False)))
        size = len(keras.tree.flatten(y)[0])
        total += float(ops.convert_to_numpy(value)) * size
        count += size
    return {"loss": total / count}


@contextlib.contextmanager
def _put_back(model):
    """Yields what puts all values of a model back; done at the end anyway."""
    host.sync(model)
    before = {
        id(variable): (variable, ops.convert_to_numpy(variable).copy())
        for variable in [*model.variables, *model.metrics_variables]
    }
    step = getattr(model, "train_function", None)

    def put_back():
        for variable, values in before.values():
            variable.assign(values)

    try:
        # A layer that loses everything is what one asks about here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield put_back
    finally:
        # Metrics that were first evaluated here have no values to go back to.
        model.reset_metrics()
        put_back()
        # The optimizer that was lent is no part of it.
        model.train_function = step
