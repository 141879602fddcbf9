"""Which share of a model is zero, and which share pruning leaves alone.

All weights of a model are here `model.weights`, those that Keras counts in
`model.count_params()`: trainable and frozen ones, biases and moving statistics,
no variables of optimizers, metrics or seeds. A `Distiller` is its student.
"""

import math

import keras

from keras_app import selection
from keras_app import split

# Of a model whose other weights are a quarter, a sparsity of 0.9 is one of
# 0.68: no longer what the figure seems to say.
_LARGE = 0.25

_FROZEN = "frozen"


def whole(model):
    """Returns the model whose weights count: of a `Distiller` its student."""
    if isinstance(model, keras.distillation.Distiller):
        return model.student
    return model


def size(variable):
    """Returns the number of entries of a variable."""
    return math.prod(variable.shape)


def count_zeros(variable):
    """Returns how many entries of a variable are exactly zero."""
    # NumPy reads the CPU's memory in place: 0.2 s for the 25M weights of a
    # ResNet-50. The backends' own operations take 1 to 30 s, because they make
    # temporaries or are compiled for each shape.
    return size(variable) - split.count(split.read(variable))


def sparsity_all(model):
    """Returns the share of exact zeros among all weights of a model.

    Args:
        model: A built `keras.Model`, whose variables are up to date.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.set_weights([np.eye(4, 2), np.ones(2)])
    >>> sparsity_all(model)
    0.6
    """
    weights = whole(model).weights
    zeros = sum(count_zeros(variable) for variable in weights)
    return zeros / max(1, sum(map(size, weights)))


def add_to_logs(logs, model):
    """Adds `sparsity_all` to the logs of an epoch.

    Of several callbacks in one `fit` the first counts.
    """
    if logs is not None and "sparsity_all" not in logs:
        logs["sparsity_all"] = sparsity_all(model)


def homes(model):
    """Returns `{id(weight): name of the layer of the model it is in}`."""
    found = {}
    for layer in whole(model).layers:
        for variable in layer.weights:
            found.setdefault(id(variable), layer.name)
    return found


def density_of(masks):
    """Returns the share that `{path: mask}` keep."""
    kept = sum(map(split.count, masks.values()))
    return kept / sum(mask.size for mask in masks.values())


def collapsed(masks):
    """A sentence on the weights that nothing is kept of, or `None`.

    Args:
        masks: `{path: mask}`.
    """
    emptied = [p for p, mask in masks.items() if not split.any_of(mask)]
    if not emptied:
        return None
    return f"nothing is kept of {selection.some(emptied)} (layer collapse)"


def left_alone(model, chosen, filters=None):
    """A sentence on the matrices that are not pruned, if they are a large part.

    What LoRA froze is left out, which pruners tell of themselves.

    Args:
        model: A built `keras.Model`.
        chosen: The `selection.Selection` of what is pruned.
        filters: The filters that chose it. What they do not match nobody
            expects to be pruned. Defaults to `None`.

    Returns:
        The sentence, or `None`.
    """
    reasons = {
        id(variable): chosen.skipped.get(path)
        for path, variable in selection.paths_of(
            model.trainable_variables
        ).items()
    }
    model = whole(model)
    adapted = {
        id(variable)
        for layer in selection.adapted_layers(model)
        for variable in layer.weights
    }
    layers, left, nameable = homes(model), {}, False
    for variable in model.weights:
        reason = reasons.get(id(variable), _FROZEN)
        if (
            reason is None
            or len(variable.shape) < 2
            or id(variable) in adapted
            or filters is not None
            and not selection.matches(variable, filters)
        ):
            continue
        layer = layers.get(id(variable), variable.path)
        nameable = nameable or "with `filters`" in reason
        key = layer, reason.partition(";")[0]
        left[key] = left.get(key, 0) + size(variable)
    total = sum(map(size, model.weights))
    if sum(left.values()) < _LARGE * total:
        return None
    share = 100 * sum(left.values()) / total
    parts = [
        f"{layer} ({100 * count / total:.1f} %, {reason})"
        for (layer, reason), count in sorted(left.items(), key=lambda x: -x[1])
    ]
    hints = ""
    if any(reason == _FROZEN for _, reason in left):
        hints += " To prune what is frozen, make it trainable and compile."
    if nameable:
        hints += " To prune what is skipped, name all to prune with `filters`."
    return (
        f"{share:.1f} % of the model's weights are not pruned: "
        f"{selection.some(parts)}. `sparsity` is that of the weights to prune, "
        f"`sparsity_all` that of the whole model.{hints}"
    )
