"""What we ask of Keras beyond its public API, and of one backend alone.

The optimizer behind a loss scale, what a training step on JAX carries, how a
value leaves the graph of TensorFlow, what Keras writes to files, and what it
cannot train. Private Keras names in use: `_distribution_strategy`,
`_iterations`, `_jax_state`, `_jax_state_synced`, `patch_tf2onnx`, the modules
of its trainers, and of its saving library `DiskIOStore`, `H5IOStore`,
`ObjectSharingScope`, `_load_state`, `_save_state`.
"""

import contextlib
import importlib
import tempfile

import keras
from keras import ops
from keras.src.saving import saving_lib
from keras.src.saving import serialization_lib

BACKEND = keras.config.backend()

# Within it, what several layers share is one object in their configurations.
ObjectSharingScope = serialization_lib.ObjectSharingScope

WAY_OUT = (
    "Use the JAX backend with `keras.distribution.DataParallel` "
    "(keras_app.experiments.devices.scope('data_parallel'))"
)

# The scope over several devices that is open, or `None`: whoever opens one
# says so here. It has `check(model)`, which raises for what it cannot train,
# and `chosen`, a strategy or distribution that the scope lets Keras train.
open_scope = None


# ---- the optimizer ----------------------------------------------------------


def inner_optimizer(model):
    """The optimizer that updates the weights of a model, or `None`.

    With mixed precision Keras wraps it in a `LossScaleOptimizer`, in another
    one at each `compile`.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> sgd = keras.optimizers.SGD()
    >>> model.compile(keras.optimizers.LossScaleOptimizer(sgd), "mse")
    >>> type(inner_optimizer(model)).__name__
    'SGD'
    """
    optimizer = getattr(model, "optimizer", None)
    return getattr(optimizer, "inner_optimizer", optimizer)


def updates(optimizer):
    """How many updates an optimizer has made.

    Example:

    >>> updates(keras.optimizers.Adam())
    0
    """
    return int(ops.convert_to_numpy(optimizer.iterations))


def batches_seen(model):
    """How many batches the model's optimizer has had gradients of.

    With gradient accumulation there are several to an update, and a `fit` may
    end between two updates.
    """
    return int(ops.convert_to_numpy(inner_optimizer(model)._iterations))


# ---- the state of a fit on JAX ----------------------------------------------


def sync(model):
    """Makes a model's variables hold what they are in the middle of a `fit`.

    On JAX they are empty until asked for. A callback need not ask: each look
    at its `model` does.
    """
    if BACKEND == "jax":
        model.jax_state_sync()


def carried(model):
    """What JAX carries through a training step: `{name: variables}`."""
    return {
        "trainable_variables": model.trainable_variables,
        "non_trainable_variables": model.non_trainable_variables,
        "optimizer_variables": model.optimizer.variables,
        "metrics_variables": model.metrics_variables,
    }


def hand_to_trainer(model):
    """Tells Keras's trainer what was written in the middle of an epoch.

    With data of unknown length Keras begins a batch to find out that there is
    none. On JAX it then writes the state of the last step back to the
    variables, which would undo it.
    """
    state = getattr(model, "_jax_state", None)
    if state:
        for name, variables in carried(model).items():
            state[name] = [variable.value for variable in variables]


def lend(model, state):
    """Hands a model on JAX the `{name: values}` that a loop holds.

    As in `fit`, the variables are written when they are asked for.
    """
    model._jax_state = state
    model._jax_state_synced = False


def take_back(model):
    """Ends `lend`; returns whether the variables were written meanwhile."""
    written = model._jax_state_synced
    model._jax_state = None
    model._jax_state_synced = True
    return written


def unalias(model):
    """Copies weights that share a buffer with their moving average.

    Keras ends a fit with `use_ema` by assigning the averages to the weights,
    which on JAX makes them one buffer; the next fit donates it twice and dies.
    """
    if BACKEND == "jax" and inner_optimizer(model).use_ema:
        for variable in model.trainable_variables:
            variable.assign(ops.copy(variable.value))


# ---- values, inside and outside of a step -----------------------------------


def as_tensor(value):
    """The value of a variable, or of a gradient, as a dense tensor."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        # Keras hands out the tf.Variable itself, which cannot leave a branch
        # of a condition, and keeps the sparse gradients of embeddings.
        return tf.convert_to_tensor(value)
    return ops.convert_to_tensor(value, sparse=False)


def float32_or_more(value):
    """A tensor of a dtype in which steps and norms are computed.

    Example:

    >>> half = ops.ones(3, "float16")
    >>> keras.backend.standardize_dtype(float32_or_more(half).dtype)
    'float32'
    """
    value = ops.convert_to_tensor(value)
    dtype = keras.backend.standardize_dtype(value.dtype)
    return ops.cast(value, keras.backend.result_type(dtype, "float32"))


def known(variable):
    """A scalar variable's value as a Python value, where steps see values.

    `None` inside the compiled steps of TensorFlow and JAX. PyTorch computes
    step by step and can leave out what a flag says is not needed.
    """
    return variable.value.item() if BACKEND == "torch" else None


def count_of_writes(variable):
    """How often a variable was written, or `None` where nobody counts.

    PyTorch counts; there, steps are not compiled, and every look at the
    weights that can be spared counts too.
    """
    return variable.value._version if BACKEND == "torch" else None


def outside_the_graph():
    """A context in which assignments happen now, once.

    On TensorFlow Keras builds an optimizer while it traces the step, where an
    assignment would become part of it.
    """
    if BACKEND != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.init_scope()


def without_gradients():
    """A context in which PyTorch keeps nothing for a backward pass.

    Nor do the others, unless asked to.
    """
    if BACKEND != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


@contextlib.contextmanager
def placed_like(optimizer, variable):
    """Creates variables on the devices, or replicas, of `variable`."""
    strategy = getattr(optimizer, "_distribution_strategy", None)
    if strategy is None:
        yield
        return
    native = getattr(variable, "value", variable)
    with strategy.scope(), strategy.extended.colocate_vars_with(native):
        yield


def trainer_module():
    """The module in which Keras trains on this backend.

    Example:

    >>> trainer_module().__name__ == f"keras.src.backend.{BACKEND}.trainer"
    True
    """
    return importlib.import_module(f"keras.src.backend.{BACKEND}.trainer")


def is_of_keras(kind, part=""):
    """Whether a class is one of Keras's own.

    Args:
        kind: The class.
        part: The part of Keras, such as `"ops"`. Defaults to all.

    Example:

    >>> is_of_keras(keras.layers.Dense), is_of_keras(keras.layers.Dense, "ops")
    (True, False)
    """
    return f"{kind.__module__}.".startswith(f"keras.src.{part and part + '.'}")


# ---- what Keras writes to files ---------------------------------------------


def move_saved(layer, made, skipped, skipped_too):
    """Gives a layer what a file would hold of another one, assets included.

    Args:
        layer, made: Layers of the same configuration.
        skipped, skipped_too: Ids of the objects in each that are left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        weights, assets = f"{folder}/state.weights.h5", f"{folder}/assets"
        with _stores(weights, assets, "w") as stores:
            saving_lib._save_state(layer, *stores, "", skipped)
        errors = {}
        with _stores(weights, assets, "r") as stores:
            saving_lib._load_state(
                made,
                *stores,
                inner_path="",
                visited_saveables=skipped_too,
                failed_saveables=set(),
                error_msgs=errors,
            )
    for _, error in errors.values():
        raise error


@contextlib.contextmanager
def _stores(weights, assets, mode):
    with (
        contextlib.closing(saving_lib.H5IOStore(weights, mode=mode)) as first,
        contextlib.closing(saving_lib.DiskIOStore(assets, mode=mode)) as second,
    ):
        yield first, second


def patch_tf2onnx():
    """Makes tf2onnx take the files of this TensorFlow."""
    from keras.src.export.tf2onnx_lib import patch_tf2onnx

    patch_tf2onnx()


# ---- what Keras cannot train ------------------------------------------------


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
    optimizer = inner_optimizer(model)
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
