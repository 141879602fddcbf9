"""What an optimizer keeps beside each weight, and how a step writes it."""

import keras
from keras import ops

from keras_app import host

# What fits a CPU's cache: PyTorch computes one operation after another over
# the whole array, and in such pieces several times faster.
TORCH_CHUNK = 1 << 17


def add_latent(
    optimizer, variable, name, dtype=None, initializer="zeros", shape=None
):
    """Adds a variable to an optimizer, on the devices of a weight.

    Args:
        optimizer: A `keras.optimizers.Optimizer`, while it is being built.
        variable: The weight.
        name: What it is; it is called `{path of the weight}_{name}`.
        dtype: Its dtype. Defaults to `None`: that of the weight, but not below
            float32.
        initializer: What it holds at first. Defaults to `"zeros"`.
        shape: Its shape. Defaults to `None`: that of the weight.
    """
    if dtype is None:
        own = keras.backend.standardize_dtype(variable.dtype)
        dtype = keras.backend.result_type(own, "float32")
    layout = getattr(variable, "_layout", None) if shape is None else None
    with host.outside_the_graph(), host.placed_like(optimizer, variable):
        return optimizer.add_variable(
            shape=variable.shape if shape is None else shape,
            dtype=dtype,
            initializer=initializer,
            layout=layout,
            name=f"{flat_path(variable)}_{name}",
        )


def flat_path(variable):
    """The path of a weight, as the names of its slots hold it."""
    return getattr(variable, "path", variable.name).replace("/", "_")


def apply_rule(optimizer, rule, inputs, targets, in_pieces=True):
    """Writes `rule(*inputs)` to the variables `targets`, in a training step.

    Args:
        optimizer: The optimizer whose step it is.
        rule: Pure function of tensors of one shape; returns one for each of
            the targets.
        inputs: Tensors or variables.
        targets: Variables.
        in_pieces: Whether the rule may be given pieces of the tensors. On a
            CPU PyTorch computes one operation after another over the whole
            array; in pieces that fit the cache it is several times faster.
    """
    # Arithmetic of tensors is much quicker than that of Keras's variables.
    inputs = [host.as_tensor(each) for each in inputs]
    pieces = in_pieces and host.BACKEND == "torch"
    if pieces and _apply_in_pieces(rule, inputs, targets):
        return
    for target, value in zip(targets, rule(*inputs)):
        optimizer.assign(target, ops.cast(value, target.dtype))


def _apply_in_pieces(rule, inputs, targets):
    """Returns whether it did; PyTorch only."""
    import torch

    natives = [ops.convert_to_tensor(each) for each in targets]
    size = natives[0].numel()
    if natives[0].device.type != "cpu" or size <= TORCH_CHUNK:
        return False
    if not all(each.is_contiguous() for each in natives):
        return False
    with torch.no_grad():
        inputs = [each.reshape(-1) for each in inputs]
        natives = [each.view(-1) for each in natives]
        for start in range(0, size, TORCH_CHUNK):
            piece = slice(start, start + TORCH_CHUNK)
            values = rule(*(each[piece] for each in inputs))
            for native, value in zip(natives, values):
                native[piece].copy_(value)
    return True
