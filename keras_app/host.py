"""What we ask of Keras beyond its public API: what it cannot train."""

import keras

WAY_OUT = (
    "Use the JAX backend with `keras.distribution.DataParallel` "
    "(keras_app.experiments.devices.scope('data_parallel'))"
)

# The scope over several devices that is open, or `None`: whoever opens one
# says so here. It has `check(model)`, which raises for what it cannot train,
# and `chosen`, a strategy or distribution that the scope lets Keras train.
open_scope = None


def check_model(model):
    """Raises if Keras cannot train a model under its distribution.

    Args:
        model: A compiled, built `keras.Model`.

    Raises:
        ValueError: The combination, and the way out.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> check_model(model)
    """
    if open_scope is not None:
        open_scope.check(model)
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync < 2:
        return
    kind = type(strategy).__name__
    if "MultiWorker" in kind and (
        open_scope is None or open_scope.chosen is not strategy
    ):
        refuse_multi_worker(kind)
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    trouble = {
        "gradient_accumulation_steps": optimizer.gradient_accumulation_steps,
        "ema_overwrite_frequency": optimizer.ema_overwrite_frequency
        if optimizer.use_ema
        else None,
        "steps_per_execution": model.steps_per_execution > 1,
        "jit_compile": model.jit_compile is True,
    }
    for name, value in trouble.items():
        if value:
            raise ValueError(
                f"Keras {keras.__version__} cannot train under {kind} with "
                f"`{name}`. Leave it out, or: {WAY_OUT}."
            )


def refuse_multi_worker(kind):
    """Raises, and names the two ways to train on several machines.

    Args:
        kind: Name of the strategy.
    """
    raise ValueError(
        f"Keras {keras.__version__} cannot `fit` under {kind}. {WAY_OUT}, or "
        "keras_app.experiments.devices.scope('multi_worker', mend_keras=True), "
        "which replaces two functions of Keras."
    )
