"""What a language model is worth: its perplexity."""

import keras
import numpy as np
from keras import ops

from keras_app import batches as batches_lib
from keras_app import host
from keras_app.checks import check_choice
from keras_app.checks import check_model
from keras_app.hints import Data


def perplexity(
    model: keras.Model, data: Data, from_logits: bool | None = None
) -> float:
    """Measures the perplexity of a model on tokens, in inference.

        exp(-sum_i w_i log p(y_i) / sum_i w_i)

    over all tokens of all batches, so that the batch size does not matter. 1 is
    certainty; guessing among all tokens alike gives the size of the
    vocabulary. Perplexities of two tokenizers cannot be compared. Nothing of
    the model changes.

    Args:
        model: A built `keras.Model` that gives a row of logits or of
            probabilities for each token, shape `(batch, ..., vocabulary)`;
            compiled or not. Of KerasHub's tasks, such as `GPT2CausalLM`, what
            `task.preprocessor` returns is data.
        data: A tuple `(x, y)` or `(x, y, w)` of arrays, or batches of such in
            anything that can be iterated over again. `y` are the tokens to
            predict, integers `(batch, ...)`; `w` are their weights, 0 for
            padding. Defaults to 1 for all. A padding mask within `x` is not
            looked at.
        from_logits: Whether the model gives logits. Defaults to `None`: unless
            its first outputs are probabilities, which add up to 1.

    Returns:
        A float; NaN where the model gives it, infinite where a token has
        the probability 0.

    Raises:
        ValueError: Data that the model does not take, tokens that are no
            integers or not in the vocabulary, weights of another shape than
            the tokens, or none above 0.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> model.set_weights([np.zeros((4, 8)), np.zeros(8)])  # guesses
    >>> x, y = np.ones((3, 4)), np.array([0, 5, 7])
    >>> round(perplexity(model, (x, y)), 4)
    8.0

    Reference: [Jelinek et al., 1977](https://doi.org/10.1121/1.2016299).
    """
    check_model(model)
    check_choice("from_logits", from_logits, (None, True, False))
    batches = batches_lib.as_batches(data, weights=True)
    batches_lib.check_fit(batches, model)
    lost = total = 0.0
    with host.without_gradients():
        for x, y, w in batches:
            x = keras.tree.map_structure(ops.convert_to_numpy, x)
            outputs = model(x, training=False)
            tokens, weights = _checked(y, w, outputs)
            if from_logits is None:
                from_logits = not _are_probabilities(outputs)
            losses = _losses(tokens, outputs, from_logits)
            # A weight of 0 leaves out even what is infinite.
            lost += float(np.sum(weights * losses, where=weights > 0))
            total += float(weights.sum())
    if total == 0:
        raise ValueError(
            "`data` must have weights above 0, one at least. Received: all 0"
        )
    return float(np.exp(lost / total))


def _losses(tokens, outputs, from_logits):
    """-log p of each token, an array of float64."""
    outputs = host.float32_or_more(outputs)
    logs = ops.log_softmax(outputs) if from_logits else ops.log(outputs)
    found = ops.take_along_axis(logs, ops.expand_dims(tokens, -1), axis=-1)
    return -ops.convert_to_numpy(found)[..., 0].astype("float64")


def _are_probabilities(outputs):
    """Whether all are at least 0, and add up to 1 for each token."""
    outputs = ops.convert_to_numpy(ops.cast(outputs, "float32"))
    # Half precision adds up to 1 within a hundredth.
    near = np.abs(outputs.sum(axis=-1) - 1) < 0.01
    return bool((outputs >= 0).all() and near.all())


def _checked(y, w, outputs):
    """Returns tokens (int32) and their weights (float64), or raises."""
    if y is None:
        raise ValueError(
            "`data` must be (x, y): y are the tokens to predict. Received: "
            "data without y"
        )
    if not hasattr(outputs, "shape"):
        raise ValueError(
            "`model` must give one output, logits or probabilities of tokens. "
            f"Received: outputs of type {type(outputs).__name__}"
        )
    tokens = np.asarray(ops.convert_to_numpy(y))
    *places, vocabulary = map(int, outputs.shape)
    # As in Keras's losses.
    if tokens.shape == (*places, 1):
        tokens = tokens[..., 0]
    if tokens.shape != tuple(places):
        raise ValueError(
            "`data` must have one token for each row of the model's outputs, "
            f"in the shape {tuple(places)}. Received: y of shape "
            f"{tokens.shape} for outputs of shape {tuple(outputs.shape)}"
        )
    if not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(
            "`data` must have integer tokens as y. Received: y of dtype "
            f"{tokens.dtype}"
        )
    if w is None:
        weights = np.ones(tokens.shape)
    else:
        weights = np.asarray(ops.convert_to_numpy(w), "float64")
        if weights.shape == (*places, 1):
            weights = weights[..., 0]
        if weights.shape != tokens.shape or not (weights >= 0).all():
            raise ValueError(
                "`data` must have weights of at least 0 in the shape of the "
                f"tokens, {tokens.shape}. Received: weights of shape "
                f"{weights.shape} from {weights.min()} to {weights.max()}"
            )
    # Padding may be any number.
    tokens = np.where(weights > 0, tokens, 0)
    if tokens.size and not (0 <= tokens.min() and tokens.max() < vocabulary):
        raise ValueError(
            f"`data` must have tokens from 0 to {vocabulary - 1}, as the model "
            f"has outputs. Received: from {tokens.min()} to {tokens.max()}"
        )
    return tokens.astype("int32"), weights
