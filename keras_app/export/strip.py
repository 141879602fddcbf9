"""A copy of a pruned model without any trace of pruning but the zeros."""

from keras_app import enforcement


def strip_pruning(model):
    """Returns an ordinary, uncompiled copy of a pruned model.

    The copy has the model's architecture, weights and zeros; no optimizer, no
    masks, nothing that needs this package to load. The model itself can go on
    training.

    Args:
        model: A built `keras.Model`.

    Returns:
        A `keras.Model` of the same class.

    Raises:
        ValueError: A subclassed model that Keras cannot copy from its config.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> strip_pruning(model).count_params()
    9
    """
    state = enforcement.state_of(model)
    if state is not None:
        state.zero()
    try:
        # Not `clone_model`, which compiles the copy too.
        copy = type(model).from_config(model.get_config())
        if not copy.built:
            copy.build_from_config(model.get_build_config())
        copy.set_weights(model.get_weights())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"{type(model).__name__} cannot be copied from its configuration: "
            f"{error} Give the class `get_config` and `from_config`."
        ) from error
    return copy
