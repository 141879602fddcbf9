"""Moving statistics of batch normalization, measured again."""

import keras
import numpy as np
from keras import ops

from keras_app import selection


def batch_norm_layers(model):
    """Returns the batch-normalization layers of a model, nested ones too."""
    return [
        layer
        for layer in selection.walk_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def reestimate_batch_norm(model, data, max_batches=None):
    """Replaces moving means and variances by those of the weights as they are.

    After weights were set to zero the moving statistics still belong to the
    old ones, and inference suffers. This runs forward passes in training mode
    and averages the statistics of the batches, all with equal weight. No
    trainable weight moves.

    Args:
        model: A built `keras.Model`.
        data: An iterable of inputs `x`, or of batches `(x, ...)`.
        max_batches: Look at so many batches, >= 1. Defaults to `None`: all.

    Returns:
        The number of batches seen; 0 for a model without batch normalization,
        which is left alone.

    Raises:
        ValueError: `data` has no batches, or `max_batches` is below 1.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((1,)), keras.layers.BatchNormalization()]
    ... )
    >>> batches = [np.array([[1.0], [3.0]]), np.array([[3.0], [5.0]])]
    >>> reestimate_batch_norm(model, batches)
    2
    >>> print(keras.ops.convert_to_numpy(model.layers[0].moving_mean))
    [3.]
    """
    if max_batches is not None and max_batches < 1:
        raise ValueError(
            f"`max_batches` must be >= 1. Received: max_batches={max_batches}"
        )
    layers = batch_norm_layers(model)
    if not layers:
        return 0
    momenta = [layer.momentum for layer in layers]
    # Dropout draws in training mode; its seeds shall not move.
    seeds = [v for v in model.non_trainable_variables if _is_seed(v)]
    before = [ops.convert_to_numpy(seed).copy() for seed in seeds]
    count = 0
    try:
        for batch in data:
            x = batch[0] if isinstance(batch, (tuple, list)) else batch
            for layer in layers:
                # Makes the moving average the plain one of all so far.
                layer.momentum = count / (count + 1)
            model(keras.tree.map_structure(np.asarray, x), training=True)
            count += 1
            if count == max_batches:
                break
    finally:
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum
        for seed, value in zip(seeds, before):
            seed.assign(value)
    if not count:
        raise ValueError("`data` must have batches. Received: none")
    return count


def _is_seed(variable):
    return variable.name == "seed_generator_state"
