"""How good outputs are, whoever computed them."""

import keras
import numpy as np


def accuracy(outputs, targets, loss=None):
    """Share of samples, or of positions, that are right; `None` if unknown.

    Classes are what the last axis of the outputs has the largest number for;
    one output for two classes is right on its side of 0.5 (of 0 where the loss
    takes logits).

    Args:
        outputs: Array of what a model gives.
        targets: Array of classes, as numbers or one-hot.
        loss: The loss of the model. Defaults to `None`: one that takes
            probabilities.

    Example:

    >>> accuracy(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    0.5
    """
    loss = only(loss)
    outputs, targets = np.asarray(outputs), np.asarray(targets)
    classes = outputs.shape[-1] if outputs.ndim > 1 else 1
    if classes > 1:
        if targets.shape == outputs.shape:
            if not _is_one_hot(targets):
                return None
            targets = targets.argmax(-1)
        elif targets.shape == (*outputs.shape[:-1], 1):
            targets = targets[..., 0]
        is_whole = targets.dtype.kind in "iub" or (targets % 1 == 0).all()
        if targets.shape != outputs.shape[:-1] or not is_whole:
            return None
        counts = ~is_ignored(targets, loss)
        if not counts.any():
            return None
        return float(np.mean((outputs.argmax(-1) == targets)[counts]))
    outputs = outputs.reshape(len(outputs), -1)
    targets = targets.reshape(len(targets), -1)
    two = np.isin(targets, (0, 1)).all() and "crossentropy" in name_of(loss)
    if targets.shape != outputs.shape or not two:
        return None
    bound = 0.0 if getattr(loss, "_from_logits", _logits(loss)) else 0.5
    return float(np.mean((outputs > bound) == (targets == 1)))


def is_ignored(targets, loss):
    """Which targets a loss leaves out, as an array of bool."""
    ignored = getattr(only(loss), "ignore_class", None)
    if ignored is None:
        return np.zeros(np.shape(targets), bool)
    return np.asarray(targets) == ignored


def only(value):
    """What a list or dict of one holds; anything else as it is."""
    flat = keras.tree.flatten(value)
    return flat[0] if len(flat) == 1 else value


def _is_one_hot(targets):
    return bool(np.isin(targets, (0, 1)).all() and (targets.sum(-1) == 1).all())


def _logits(loss):
    config = loss.get_config() if hasattr(loss, "get_config") else {}
    return bool(config.get("from_logits", False))


def name_of(loss):
    """The name of a loss, in lower case without underscores."""
    loss = only(loss)
    text = loss if isinstance(loss, str) else getattr(loss, "__name__", "")
    text = text or type(loss).__name__
    return text.lower().replace("_", "")


def mean_loss(loss, outputs, targets):
    """The mean loss of outputs, a float.

    Args:
        loss: What a model was compiled with.
        outputs, targets: Arrays.
    """
    values = keras.losses.get(only(loss))(targets, outputs)
    return float(np.mean(keras.ops.convert_to_numpy(values)))
