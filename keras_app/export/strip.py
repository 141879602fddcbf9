"""Ordinary copies of a pruned model: nothing of pruning but the zeros."""

import pathlib
import tempfile
import warnings

from keras import ops

from keras_app import enforcement
from keras_app import lora


def strip_pruning(model):
    """Returns an ordinary, uncompiled copy of a pruned model.

    The copy has the model's architecture, weights and zeros; no optimizer, no
    masks, nothing that needs this package to load. The model itself can go on
    training. Pruned weights that came back after the training are zeroed in
    both, with a `RuntimeWarning`.

    Args:
        model: A built `keras.Model`.

    Returns:
        A `keras.Model` of the same class.

    Raises:
        ValueError: A subclassed model that Keras cannot copy from its config,
            or zeros that LoRA fills (see `merge_lora`).

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> strip_pruning(model).count_params()
    9
    """
    lora.refuse_filled_zeros(model)
    zero_pruned(model)
    return _copy(model, model.get_config, _move_weights)


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
            f"time before the last masks. Zeroed: {leaks}",
            RuntimeWarning,
        )


def merge_lora(model):
    """Returns an uncompiled copy with LoRA merged into the zeros of pruning.

    `layer.enable_lora` of Keras adds the product of two adapters A and B to a
    frozen weight W, and fills its zeros. Here they stay:

        W <- (W + (alpha / rank) A B) * [W != 0]

    Without zeros in W this is exact. With zeros the copy lacks what A B had
    put in their places, and so computes something else than `model`: evaluate
    it, and train it on for a little if it lost too much. The copy has no
    adapters; to prune it on, or to keep its zeros while it trains, compile it
    and use a pruner as on any model.

    Args:
        model: A built `keras.Model` with LoRA enabled in some layers, left as
            it is.

    Returns:
        A `keras.Model` of the same class.

    Raises:
        ValueError: No layer has LoRA enabled; one of them is quantized; or a
            subclassed model that Keras cannot copy from its config.

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
    merged = {id(each.base): each.merged_into_zeros() for each in adapted}
    adapters = {id(v) for each in adapted for v in each.adapters}
    weights = [
        merged.get(id(v), ops.convert_to_numpy(v))
        for v in model.weights
        if id(v) not in adapters
    ]
    return _copy(
        model,
        lambda: _without_lora(model.get_config()),
        lambda _, copy: copy.set_weights(weights),
    )


def _copy(model, config, move_weights):
    try:
        # Not `clone_model`, which compiles the copy too.
        copy = type(model).from_config(config())
        if not copy.built:
            copy.build_from_config(model.get_build_config())
        move_weights(model, copy)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"{type(model).__name__} cannot be copied from its configuration: "
            f"{error} Give the class `get_config` and `from_config`."
        ) from error
    return copy


def _move_weights(model, copy):
    if [v.name for v in copy.weights] == [v.name for v in model.weights]:
        copy.set_weights(model.get_weights())
        return
    # A layer that was quantized after it was built has its variables in another
    # order than one built so; Keras's files name them.
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.weights.h5"
        model.save_weights(path)
        copy.load_weights(path)


def _without_lora(config):
    """A configuration without the arguments that enable LoRA."""
    if isinstance(config, dict):
        return {
            key: _without_lora(value)
            for key, value in config.items()
            if key not in ("lora_rank", "lora_alpha")
        }
    if isinstance(config, (list, tuple)):
        return type(config)(map(_without_lora, config))
    return config
