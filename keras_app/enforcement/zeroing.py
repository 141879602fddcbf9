"""Zeros where a mask prunes, written within a training step."""

import keras
from keras import ops

from keras_app import host
from keras_app.enforcement.latent import TORCH_CHUNK


def zero_in_step(optimizer, pairs, compiled):
    """Zeroes what is pruned, in place.

    Args:
        optimizer: The optimizer whose step it is.
        pairs: List of `(variable, variable of its mask)`.
        compiled: A dict that keeps what was compiled from step to step.
    """
    if host.BACKEND == "tensorflow":
        _zero_on_tensorflow(optimizer, pairs, compiled)
    elif host.BACKEND == "torch":
        _zero_on_torch(pairs)
    else:
        for variable, mask in pairs:
            zero = ops.zeros((), dtype=variable.dtype)
            variable.assign(ops.where(mask.value, variable.value, zero))


def _zero_on_tensorflow(optimizer, pairs, compiled):
    import tensorflow as tf

    natives = [
        # A loop that calls `apply_gradients` itself may pass tf.Variables.
        (v.value if isinstance(v, keras.Variable) else v, mask.value)
        for v, mask in pairs
    ]

    def zero(value, mask):
        value.assign(tf.where(mask, value, tf.zeros((), value.dtype)))

    strategy = optimizer._distribution_strategy
    if strategy.num_replicas_in_sync == 1:
        # Op by op, `where` and `assign` write the weights twice. Compiled
        # they do it once and in place, in less than half the time.
        key = tuple(id(variable) for variable, _ in pairs)
        if key not in compiled:

            @tf.function(jit_compile=True)
            def zero_all():
                for value, mask in natives:
                    zero(value, mask)

            compiled[key] = zero_all
        compiled[key]()
        return

    def update(strategy, natives):
        for value, mask in natives:
            strategy.extended.update(value, zero, args=(mask,), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(
        update, strategy, natives
    )


def _zero_on_torch(pairs):
    import torch

    # A product alone leaves -0.0 behind, a sign that files would have to
    # store; adding 0 makes it 0.0, as on the other backends. On a CPU floats
    # are multiplied by bools without vector instructions: converting a piece
    # that fits the cache is five times faster, and the mask still takes one
    # byte a weight.
    with torch.no_grad():
        for variable, mask in pairs:
            value, keep = variable.value, mask.value
            if value.device.type != "cpu" or value.numel() <= TORCH_CHUNK:
                value.mul_(keep).add_(0.0)
                continue
            flat, flat_keep = value.view(-1), keep.view(-1)
            for start in range(0, flat.numel(), TORCH_CHUNK):
                piece = flat[start : start + TORCH_CHUNK]
                kept = flat_keep[start : start + TORCH_CHUNK]
                piece.mul_(kept.to(piece.dtype)).add_(0.0)
