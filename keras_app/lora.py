"""LoRA on pruned weights: which zeros it fills.

`layer.enable_lora(rank)` of Keras freezes a kernel W and trains two adapters A
and B. The layer then computes with, and Keras's files hold, the dense product

    W + (alpha / rank) A B

where W keeps its zeros and A B fills them.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_app import layers
from keras_app import selection


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A weight that LoRA froze.

    Attributes:
        layer: Its layer.
        base: The weight, a `keras.Variable`.
        adapters: The two variables that are trained instead of it.
    """

    layer: keras.layers.Layer
    base: keras.Variable
    adapters: tuple

    @property
    def path(self):
        """The path of the weight."""
        return self.base.path

    @property
    def quantized(self):
        """Whether integers stand for the weight, in an order of their own."""
        return self.layer.quantization_mode is not None

    def merged(self):
        """W + (alpha / rank) A B, a NumPy array of the weight's type."""
        base, a, b = map(ops.convert_to_numpy, (self.base, *self.adapters))
        scale = self.layer.lora_alpha / self.layer.lora_rank
        return (base + scale * np.matmul(a, b)).astype(base.dtype)

    def merged_into_zeros(self):
        """The product where W is not zero, and 0 elsewhere."""
        merged = self.merged()
        kept = ops.convert_to_numpy(self.base) != 0
        return np.where(kept, merged, np.zeros((), merged.dtype))

    def filled(self):
        """How many zeros of the weight are none in the product, and of all."""
        zeros = ops.convert_to_numpy(self.base) == 0
        filled = np.count_nonzero(self.merged()[zeros])
        return int(filled), int(np.count_nonzero(zeros))


def adapted(model):
    """Returns the `Adapted` weights of a model, in the order of its layers.

    Args:
        model: A built `keras.Model`.
    """
    found = []
    for layer in selection.adapted_layers(model):
        base = base_of(layer)
        adapters = [getattr(layer, f"lora_{base.name}_{each}") for each in "ab"]
        found.append(Adapted(layer, base, tuple(adapters)))
    return found


def base_of(layer):
    """The weight of a layer that LoRA freezes, if it is enabled."""
    kernels = layers.row_of(layer).kernels
    name = kernels[0].name if kernels else "kernel"
    [base] = [v for v in layer.variables if v.name == name]
    return base


def filled_zeros(model):
    """A sentence on the zeros that LoRA fills, or `None` if it fills none.

    Args:
        model: A built `keras.Model`. Quantized weights are not looked into.
    """
    counts = {
        each.path: each.filled()
        for each in adapted(model)
        if not each.quantized
    }
    lost = {path: count for path, count in counts.items() if count[0]}
    if not lost:
        return None
    filled, zeros = map(sum, zip(*lost.values()))
    return (
        f"LoRA fills {filled:,} of the {zeros:,} zeros of "
        f"{selection.some(list(lost))} in what the layers compute and in "
        "Keras's files; `export.merge_lora(model)` returns a model that keeps "
        "them"
    )


def refuse_filled_zeros(model):
    """Raises if an export would hold weights where the model has zeros."""
    sentence = filled_zeros(model)
    if sentence is not None:
        raise ValueError(
            f"`model` must have no zeros that LoRA fills. {sentence}. To give "
            "them up, save the model with Keras and load it again, which "
            f"merges without them. Received: {model.name}"
        )
