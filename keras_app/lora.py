"""LoRA on pruned weights: adapters that keep zeros, and zeros that are filled.

`layer.enable_lora(rank)` of Keras freezes a kernel W and trains two adapters A
and B. The layer then computes with, and Keras's files hold, the dense product

    W + (alpha / rank) A B

where W keeps its zeros and A B fills them. With `enable_lora(model, rank)` of
this package it computes, and the files hold,

    (W + (alpha / rank) A B) * [W != 0]
"""

import dataclasses
import functools

import keras
import numpy as np
from keras import ops

from keras_app import layers
from keras_app import selection
from keras_app.checks import check_int
from keras_app.checks import check_model
from keras_app.checks import check_number
from keras_app.hints import Filters

_FROZEN = "_frozen_by_keras_app"


def enable_lora(
    model: keras.Model,
    rank: int,
    lora_alpha: float | None = None,
    filters: Filters = None,
) -> list[str]:
    """Enables LoRA that keeps the zeros of a pruned model; freezes the rest.

    As `enable_lora` of Keras's layers and of KerasHub's backbones, but a layer
    computes, and trains its adapters A and B, with

        (W + (alpha / rank) A B) * [W != 0]

    so that what is trained is what `keras_app.export.merge_lora` returns, with
    the zeros of W. All else is frozen until they are merged, but the biases of
    the chosen layers. Costs one more pass over each kernel in each step.
    Compile the model after it. A file that Keras saves holds the product with
    its zeros; whoever loads it has Keras's own LoRA, or none.

    Args:
        model: A built `keras.Model`, pruned; changed in place.
        rank: Columns of A and rows of B, >= 1.
        lora_alpha: Scale of the product, > 0. Defaults to `None`: `rank`.
        filters: Which weights: see `keras_app.selection.select`. Defaults to
            `None`: the kernels of dense, attention and convolution layers.
            `"(query|value)/kernel"` are the two of each attention that
            KerasHub adapts.

    Returns:
        The paths of the weights that have adapters, a list.

    Raises:
        ValueError: A bad argument; LoRA is enabled already; or `filters` name
            the weights of layers that have no LoRA.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> report = keras_app.prune(model, 0.5)
    >>> paths = enable_lora(model, 1)
    >>> len(paths), len(model.trainable_variables)  # A, B and the bias
    (1, 3)

    Reference: [Hu et al., 2022](https://openreview.net/forum?id=nZeVKeeFYf9),
    eq. 3. Differs: the product is masked.
    """
    check_model(model)
    check_int("rank", rank, 1)
    if lora_alpha is not None:
        check_number("lora_alpha", lora_alpha, lambda x: x > 0, "> 0")
    before = [layer.path for layer in selection.adapted_layers(model)]
    if before:
        raise ValueError(
            "`model` must have no layers with LoRA yet: call "
            "`export.merge_lora(model)` first. "
            f"Received: LoRA in {selection.some(before)}"
        )
    chosen = _layers_to_adapt(model, filters)
    _freeze_others(model, chosen.values())
    for layer in chosen.values():
        _keep_zeros(layer)
        layer.enable_lora(rank, lora_alpha=lora_alpha)
    return list(chosen)


def _freeze_others(model, chosen):
    """Freezes all layers but some, and those that these are in."""
    chosen = {id(layer) for layer in chosen}
    for layer in selection.walk_layers(model):
        inside = {id(each) for each in selection.walk_layers(layer)}
        if layer.trainable and not inside & chosen:
            layer.trainable = False
            object.__setattr__(layer, _FROZEN, True)
    # What a layer around a chosen one has itself.
    owners = selection.owners_of(model)
    for variable in model.trainable_variables:
        layer, _ = owners.get(id(variable), (None, None))
        if id(layer) not in chosen:
            variable.trainable = False


def is_frozen(layer):
    """Whether `enable_lora` froze a layer, which trained before."""
    return _FROZEN in vars(layer)


def _layers_to_adapt(model, filters):
    """`{path: layer}` of the weights that `filters` choose."""
    owners = selection.owners_of(model)
    chosen, refused = {}, []
    for path, variable in selection.select(model, filters).variables.items():
        layer, attribute = owners.get(id(variable), (None, None))
        if hasattr(layer, "enable_lora") and base_of(layer) is variable:
            chosen[path] = layer
        else:
            refused.append(path)
    if refused and (filters is not None or not chosen):
        raise ValueError(
            "`filters` must name weights that Keras has LoRA for: kernels of "
            "Dense, EinsumDense, attention and convolutions, and embeddings. "
            f"Received: {selection.some(refused)}"
        )
    return chosen


class _KeepsZeros:
    """What the types of layers share whose LoRA keeps the zeros."""


def _keep_zeros(layer):
    """Changes what a layer computes with; the layer stays the same object."""
    # Past Keras, which would track it, and PyTorch, which would call it a
    # module. PyTorch's parametrizations change a module's type so, too.
    kind = _keeping(type(layer), base_of(layer).name)
    object.__setattr__(layer, "__class__", kind)


@functools.cache
def _keeping(kind, name):
    """A type of layers whose weight of this name keeps its zeros.

    Keras reads the weight as a property, which adds the adapters to it, in
    `call` and where it writes files: that property is all that differs.
    """
    product = getattr(kind, name)

    def masked(self):
        found = product.fget(self)
        if not self.lora_enabled:
            return found
        # Derived from the weight, so that no mask has to be kept and saved.
        zero = ops.equal(layers.variable_of(self, name), 0)
        return ops.where(zero, ops.zeros_like(found), found)

    members = {
        name: property(masked),
        # What asks for the class, as Keras does for the names in its files,
        # is told the one it knows.
        "__class__": property(lambda self: kind),
        "__doc__": kind.__doc__,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
    }
    return type(kind)(kind.__name__, (_KeepsZeros, kind), members)


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
        """What the layer computes with, a NumPy array of the weight's type."""
        base, a, b = map(ops.convert_to_numpy, (self.base, *self.adapters))
        scale = self.layer.lora_alpha / self.layer.lora_rank
        merged = (base + scale * np.matmul(a, b)).astype(base.dtype)
        if isinstance(self.layer, _KeepsZeros):
            merged[base == 0] = 0
        return merged

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
