"""What optimizers share whose weights are the image of latent state."""

import math

import keras
import numpy as np
from keras import ops

from keras_app import host
from keras_app import split

# So many entries of a variable are compared with what the last step left, to
# notice that its weights were replaced from outside. With 1 % of the entries
# active, two different supports differ in all of them with odds of 1e-9.
_SAMPLE = 1024


class Watch:
    """Notices, inside compiled steps too, that weights were replaced.

    Loaded, set or sparsified weights disagree with latent state. A sample of
    each weight is kept among the optimizer's variables and compared.

    Args:
        optimizer: The optimizer, while it is being built.
        variables: Its trainable variables; `None` in the place of one that is
            not watched.
    """

    def __init__(self, optimizer, variables):
        self._optimizer = optimizer
        self._positions = [_positions(variable) for variable in variables]
        self._samples = [
            None
            if variable is None
            else optimizer.add_variable(
                (min(_SAMPLE, _size(variable)),),
                dtype=variable.dtype,
                name=f"{variable.name}_sample",
            )
            for variable in variables
        ]
        self._writes = [None] * len(variables)

    def remember(self, index, variable):
        """Call it when the optimizer has written a weight."""
        # A copy: JAX would make a vector and its sample one buffer.
        sample = ops.copy(split.whole(self._sample(index, variable)))
        self._optimizer.assign(self._samples[index], sample)
        self._writes[index] = host.count_of_writes(variable)

    def replaced(self, index, variable):
        """Whether somebody else wrote it: a bool, or a tensor of one."""
        writes = host.count_of_writes(variable)
        if writes is not None and writes == self._writes[index]:
            return False
        known = host.float32_or_more(self._samples[index])
        seen = host.float32_or_more(self._sample(index, variable))
        # Compilers may round the sample and the weights differently.
        dtype = keras.backend.standardize_dtype(self._samples[index].dtype)
        tolerance = 1e-2 if dtype in ("bfloat16", "float16") else 1e-4
        allowed = tolerance * ops.max(ops.abs(known)) + 1e-12
        return ops.any(ops.abs(seen - known) > allowed)

    def kept(self, index, variable, state, remake, or_if=False):
        """Latent state, made again where the weights were replaced.

        Args:
            index, variable: Of the weight.
            state: The variable that holds the latent state.
            remake: Makes it from the weights as they are.
            or_if: A bool tensor; remade where it is true, too, in compiled
                steps.
        """
        replaced = self.replaced(index, variable)
        if replaced is False:
            return state
        return ops.cond(
            ops.logical_or(replaced, or_if),
            remake,
            lambda: ops.convert_to_tensor(state),
        )

    def _sample(self, index, variable):
        flat = ops.reshape(variable, (-1,))
        positions = self._positions[index]
        return flat if positions is None else ops.take(flat, positions)


def refuse_base_arguments(kind, arguments):
    """Raises for arguments of Keras that act behind latent state's back.

    Args:
        kind: Name of the optimizer.
        arguments: `{name: value}`, what Keras's base class is to be given.
    """
    if arguments.get("weight_decay") is not None:
        raise ValueError(
            f"{kind} cannot have `weight_decay`, which acts on weights "
            "that the next prox overwrites. Use `l2`, which is added to "
            f"the gradient. Received: weight_decay={arguments['weight_decay']}"
        )
    if arguments.get("use_ema"):
        raise ValueError(
            f"{kind} cannot have `use_ema`: averaged weights are not "
            "sparse and disagree with the latent state. "
            "Received: use_ema=True"
        )


def refuse_constraint(kind, variable, way_out):
    """Raises if Keras would project a weight after each step."""
    if getattr(variable, "constraint", None) is not None:
        raise ValueError(
            f"{kind} cannot train a weight with a constraint, which would "
            f"disagree with its latent state: {way_out}. Received: "
            f"{variable.constraint!r} on {variable.path}"
        )


def _size(variable):
    return math.prod(variable.shape)


def _positions(variable):
    """Where a variable is sampled; `None` for everywhere."""
    if variable is None or _size(variable) <= _SAMPLE:
        return None
    drawn = np.random.default_rng(0).integers(0, _size(variable), _SAMPLE)
    return np.sort(drawn).astype("int32")
