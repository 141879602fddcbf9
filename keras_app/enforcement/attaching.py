"""Masks as optimizer state: re-zero after each update, save and restore.

The weights a mask prunes are exactly zero in the kernel variable itself. The
optimizer's collective update is wrapped, per instance, so that the zeros are
restored inside the compiled step. That one place comes after weight decay,
clipping, gradient accumulation and loss scaling, and before the moving average
of the weights, which therefore averages zeros.

The masks are optimizer variables, because that is the only state the JAX
trainer carries through its compiled step besides the model's own. They are kept
out of the optimizer's own file entry: Keras refuses a file whose number of
variables differs, and so a checkpoint still loads where this package is not
installed. A side-car at `optimizer.sparsity` stores them bit-packed instead.

Beside the masks there may be *dormant values*, what pruned weights held. They
are zero in the kernel and so in the forward and the backward pass, and train
all the same: for the optimizer's update, and for that alone, they wake up.

Private Keras names in use: `_backend_update_step`, `_distribution_strategy`,
`_get_variable_index`, `_layout`, `_model_variables_moving_average`,
`_trainable_variables`, `_untrack_variable`, `_variables`.
"""

import contextlib

import keras

from keras_app import host
from keras_app.enforcement.sidecar import FILE_METHODS
from keras_app.enforcement.sidecar import without_masks
from keras_app.enforcement.state import MaskState
from keras_app.hints import Arrays
from keras_app.selection import paths_of

# Keras has it from 3.15 on.
_MULTI_OPTIMIZER = getattr(keras.optimizers, "MultiOptimizer", ())


def attach(model, variables=()):
    """Makes `model`'s optimizer keep masks for `variables`; returns the state.

    Calling it again adds variables to the state that is there.

    Args:
        model: A compiled, built `keras.Model`.
        variables: Trainable variables of the model.

    Raises:
        ValueError: The model is not compiled; it was given other trainable
            variables since; or the combination of optimizer and distribution
            is one that Keras itself cannot train.
    """
    optimizer = host.inner_optimizer(model)
    if optimizer is None:
        raise ValueError(
            "The model must be compiled with an optimizer before it can be "
            "pruned. Call `model.compile(...)` first."
        )
    _refuse_what_keeps_no_masks(optimizer)
    host.check_model(model)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    _check_knows(optimizer, model)
    state = state_of(model)
    if state is None:
        state = MaskState(optimizer)
        _wrap(optimizer, model.optimizer, state)
        optimizer.sparsity = state
    if state.add(variables):
        # A step compiled before knows nothing of the new masks.
        model.train_function = None
    host.unalias(model)
    return state


@contextlib.contextmanager
def lent_optimizer(model, always=False):
    """While open, a model that was not compiled has an optimizer.

    Masks are the state of one, and pruning once needs a place for them while
    it lasts. Nothing of it stays in the model.

    Args:
        model: A `keras.Model`.
        always: Whether the optimizer that a model has is put aside. Defaults to
            `False`: the model is left alone.

    Yields:
        Whether the optimizer is lent, so that the masks go with it.
    """
    if host.inner_optimizer(model) is not None and not always:
        yield False
        return
    # Past Keras, which would track what is set.
    held = vars(model)
    before = {"optimizer": held["optimizer"]} if "optimizer" in held else {}
    held["optimizer"] = keras.optimizers.SGD()
    try:
        yield True
    finally:
        del held["optimizer"]
        held.update(before)


def detach(model):
    """Ends the enforcement; the zeros stay until the next training step."""
    state = state_of(model)
    if state is None:
        return
    optimizer = host.inner_optimizer(model)
    for owner in {id(o): o for o in (optimizer, model.optimizer)}.values():
        for name in ("update_step", "_backend_update_step", *FILE_METHODS):
            owner.__dict__.pop(name, None)
    for variable in state.own_variables:
        optimizer._untrack_variable(variable)
    del optimizer.sparsity
    model.train_function = None


def state_of(model):
    """Returns the `MaskState` of the model's optimizer, or `None`."""
    state = getattr(host.inner_optimizer(model), "sparsity", None)
    return state if isinstance(state, MaskState) else None


def masks_of(model: keras.Model) -> Arrays:
    """Returns the masks that a model trains under.

    Args:
        model: A compiled `keras.Model`.

    Returns:
        `{variable.path: bool array}`, `True` kept; empty for a dense model.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> masks_of(model)
    {}
    """
    state = state_of(model)
    if state is None:
        return {}
    host.sync(model)
    masks = {
        path: state.get(variable)
        for path, variable in paths_of(model.trainable_variables).items()
    }
    return {path: mask for path, mask in masks.items() if mask is not None}


def _check_knows(optimizer, model):
    """Raises where Keras would fail in the middle of the first step."""
    known = {id(variable) for variable in optimizer._trainable_variables}
    new = [v.path for v in model.trainable_variables if id(v) not in known]
    if new:
        raise ValueError(
            f"The optimizer {optimizer.name!r} was built without "
            f"{', '.join(new[:4])}. Compile the model again after changing "
            "which layers are trainable, after `quantize` and after "
            "`enable_lora`."
        )


def _wrap(optimizer, owner, state):
    update, update_one = optimizer._backend_update_step, optimizer.update_step
    # PyTorch updates some optimizers' variables all at once. On TensorFlow
    # the devices' gradients are summed only when one variable is updated.
    at_once = host.BACKEND == "torch"

    def update_step(gradient, variable, learning_rate):
        gradient = state.before(gradient, variable)
        update_one(gradient, variable, learning_rate)
        state.after(variable)

    def update_and_zero(grads, trainable_variables, learning_rate):
        if at_once:
            pairs = zip(grads, trainable_variables)
            grads = [state.before(*pair) for pair in pairs]
        update(grads, trainable_variables, learning_rate)
        if at_once:
            for variable in trainable_variables:
                state.after(variable)
        state.enforce(trainable_variables)

    if not at_once:
        object.__setattr__(optimizer, "update_step", update_step)
    object.__setattr__(optimizer, "_backend_update_step", update_and_zero)
    # A LossScaleOptimizer writes its inner optimizer's variables too.
    for each in {id(o): o for o in (optimizer, owner)}.values():
        for name in FILE_METHODS:
            method = without_masks(getattr(each, name), optimizer, state)
            object.__setattr__(each, name, method)


def _refuse_what_keeps_no_masks(optimizer):
    if isinstance(optimizer, _MULTI_OPTIMIZER):
        raise ValueError(
            "MultiOptimizer hands the variables to optimizers of its own, so "
            "that no mask would be kept. Train with one optimizer, such as "
            "keras.optimizers.Adam, to prune."
        )
    if getattr(optimizer, "finds_zeros", False):
        kind = type(optimizer).__name__
        raise ValueError(
            f"{kind} decides by itself which weights are zero, and a mask "
            "would disagree with its latent state. Train with another "
            "optimizer, or without a pruner."
        )
