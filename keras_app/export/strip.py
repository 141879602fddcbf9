"""Ordinary copies of a pruned model: nothing of pruning but the zeros."""

import warnings

import keras

from keras_app import enforcement
from keras_app import lora
from keras_app import selection
from keras_app.export import copies
from keras_app.export import original

_PACKAGE = __name__.partition(".")[0] + "."


def strip_pruning(model: keras.Model) -> keras.Model:
    """Returns an ordinary, uncompiled copy of a pruned model.

    The copy has the model's architecture, weights and zeros, and what its
    layers hold besides: vocabularies, tokenizers, adapted statistics, functions
    and the states of random generators. It has no optimizer, no masks and none
    of this package's regularizers: its file loads where the package is not
    installed, unless it has layers of it (`experiments.models.SkipSum`).
    Classes and functions that Keras does not know are taken as they are in
    memory; to load a file they must be registered, as always. The model itself
    can go on training. Pruned weights that came back after the training are
    zeroed in both, with a `RuntimeWarning`.

    Args:
        model: A built `keras.Model`.

    Returns:
        A `keras.Model` of the same class.

    Raises:
        ValueError: A class that cannot be made from its configuration, or
            zeros that LoRA fills (see `merge_lora`).

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> strip_pruning(model).count_params()
    9
    """
    make_ready(model)
    copy = copies.copy(model, lambda config: copies.edited(config, _not_ours))
    return original.carry(copy, model)


def make_ready(model):
    """Zeroes what the masks prune, and raises if LoRA fills zeros of it.

    Args:
        model: A built `keras.Model`, pruned or not.
    """
    lora.refuse_filled_zeros(model)
    zero_pruned(model)


def zero_pruned(model):
    """Zeroes what the masks prune, and warns if something of it had come back.

    The masks hold in every training step, and nobody can keep other weights
    from being set after the last.

    Args:
        model: A `keras.Model`, pruned or not.
    """
    state = enforcement.state_of(model)
    if state is None:
        return
    leaks = state.leaks()
    state.zero()
    if leaks:
        warnings.warn(
            f"{sum(leaks.values())} pruned weights of {model.name} were not "
            "zero and have been zeroed, so that it computes something else "
            "than before: evaluate it again. Weights set after the training, "
            "as by `EarlyStopping(restore_best_weights=True)`, may be of a "
            "time before the last masks: keras_app.callbacks."
            f"SparseEarlyStopping knows better. Zeroed: {leaks}",
            RuntimeWarning,
        )


def merge_lora(model: keras.Model) -> keras.Model:
    """Returns an uncompiled copy with LoRA merged into the zeros of pruning.

    `layer.enable_lora` of Keras adds the product of two adapters A and B to a
    frozen weight W, and fills its zeros. Here they stay:

        W <- (W + (alpha / rank) A B) * [W != 0]

    After `keras_app.enable_lora` the copy computes what `model` does, and
    trains what that had frozen. So it does without zeros in W. After
    `enable_lora` of Keras, and with zeros, it lacks what A B had put there, so
    that it computes something else than `model`: evaluate it, and train it on
    for a little if it lost too much. The copy has no adapters; to prune it on,
    or to keep its zeros while it trains, compile it and use a pruner as on any
    model.

    Args:
        model: A built `keras.Model` with LoRA enabled in some layers, left as
            it is.

    Returns:
        A `keras.Model` of the same class.

    Raises:
        ValueError: No layer has LoRA enabled; one of them is quantized; or a
            class that cannot be made from its configuration.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> kernel = np.array([[1, 0, 2], [0, 3, 0]])
    >>> model.set_weights([kernel, np.zeros(3)])
    >>> model.layers[0].enable_lora(1, b_initializer="ones")
    >>> (merge_lora(model).get_weights()[0] != 0).astype(int)
    array([[1, 0, 1],
           [0, 1, 0]])

    Reference: [Hu et al., 2022](https://openreview.net/forum?id=nZeVKeeFYf9),
    eq. 3. Differs: the product is masked.
    """
    adapted = lora.adapted(model)
    if not adapted:
        raise ValueError(
            "`model` must have layers with LoRA enabled. "
            f"Received: {model.name}, which has none"
        )
    quantized = [each.path for each in adapted if each.quantized]
    if quantized:
        raise ValueError(
            "`model` must not be quantized where LoRA is enabled: merge "
            f"first, and quantize what comes of it. Received: {quantized}"
        )
    copy = copies.copy(model, lambda config: copies.edited(config, _no_lora))
    # Keras merged what it copied. The copy has the same layers.
    walks = map(selection.walk_layers, (model, copy))
    twins = {id(old): new for old, new in zip(*walks, strict=True)}
    for old in filter(lora.is_frozen, selection.walk_layers(model)):
        twins[id(old)].trainable = True
    for each in adapted:
        new = lora.base_of(twins[id(each.layer)])
        new.assign(each.merged_into_zeros())
    return original.carry(copy, model)


def _no_lora(config):
    """A configuration without the arguments that enable LoRA."""
    return {
        key: value
        for key, value in config.items()
        if key not in ("lora_rank", "lora_alpha")
    }


def _not_ours(config):
    """`None` for what only this package could load, layers excepted.

    A layer computes, and so stays. A regularizer and the like only train.
    """
    name = config.get("registered_name")
    found = keras.saving.get_registered_object(name) if name else None
    if not isinstance(found, type) or issubclass(found, keras.layers.Layer):
        return config
    ours = any(each.__module__.startswith(_PACKAGE) for each in found.__mro__)
    return None if ours else config
