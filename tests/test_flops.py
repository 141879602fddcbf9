"""FLOPs of every kind of layer, against what PyTorch counts as it computes.

PyTorch counts its multiplications of matrices and its convolutions; Keras on
other backends computes the same layers.
"""

import re

import keras
import numpy as np
import pytest
from keras import layers

from keras_app.graph import flops_per_sample
from tests.helpers import BACKEND
from tests.models import chain

LINE, IMAGE, VOLUME = (9, 4), (8, 7, 4), (5, 6, 7, 2)
WIDE = {"padding": "same", "use_bias": False}

# {name: (shape of the inputs, function that makes the layer)}
CASES = {
    "Dense": ((6,), lambda: layers.Dense(5)),
    "Dense on a line": (LINE, lambda: layers.Dense(5)),
    "EinsumDense": (
        LINE,
        lambda: layers.EinsumDense("abc,cde->abde", (9, 3, 2)),
    ),
    "Conv1D": (LINE, lambda: layers.Conv1D(6, 3)),
    "Conv1D, causal": (LINE, lambda: layers.Conv1D(6, 3, padding="causal")),
    "Conv2D": (IMAGE, lambda: layers.Conv2D(6, (3, 2))),
    "Conv2D, strides": (IMAGE, lambda: layers.Conv2D(6, 3, 2, **WIDE)),
    "Conv2D, dilated": (IMAGE, lambda: layers.Conv2D(6, 2, dilation_rate=2)),
    "Conv2D, groups": (IMAGE, lambda: layers.Conv2D(6, 3, groups=2)),
    "Conv3D": (VOLUME, lambda: layers.Conv3D(3, 2)),
    "Conv1DTranspose": (LINE, lambda: layers.Conv1DTranspose(6, 3)),
    "Conv2DTranspose": (IMAGE, lambda: layers.Conv2DTranspose(6, 3)),
    "Conv2DTranspose, strides": (
        IMAGE,
        lambda: layers.Conv2DTranspose(6, 3, 2, **WIDE),
    ),
    "Conv3DTranspose": (VOLUME, lambda: layers.Conv3DTranspose(3, 2)),
    "DepthwiseConv1D": (LINE, lambda: layers.DepthwiseConv1D(3)),
    "DepthwiseConv2D": (
        IMAGE,
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
    ),
    "SeparableConv1D": (LINE, lambda: layers.SeparableConv1D(6, 3)),
    "SeparableConv2D": (
        IMAGE,
        lambda: layers.SeparableConv2D(6, 3, depth_multiplier=2),
    ),
    # In its loop Keras computes the first step twice.
    "SimpleRNN": (LINE, lambda: layers.SimpleRNN(5, unroll=True)),
    "LSTM": (LINE, lambda: layers.LSTM(5)),
    "GRU": (LINE, lambda: layers.GRU(5, return_sequences=True)),
    "Bidirectional": (LINE, lambda: layers.Bidirectional(layers.LSTM(5))),
    "TimeDistributed": (
        (3, *IMAGE),
        lambda: layers.TimeDistributed(layers.Conv2D(6, 3)),
    ),
}
ATTENTION = {
    "MultiHeadAttention": lambda: layers.MultiHeadAttention(3, 5, value_dim=6),
    "GroupQueryAttention": lambda: layers.GroupQueryAttention(5, 4, 2),
}
# Whose name says that they multiply, and that are not counted.
NOT_COUNTED = {
    **dict.fromkeys(["AdditiveAttention", "Attention"], "have no kernel"),
    **dict.fromkeys(
        ["ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "RNN"],
        "how often a cell of another kind multiplies is not known",
    ),
}


def test_every_kind_of_layer_is_here():
    found = {
        name
        for name in dir(keras.layers)
        if re.search(r"Conv\w*\dD|Dense$|LSTM|GRU|RNN$|Attention$", name)
        and getattr(keras.layers, name).__name__ == name
        and not name.endswith("Cell")
    }
    here = {name.partition(",")[0] for name in {*CASES, *ATTENTION}}
    assert found <= here | set(NOT_COUNTED)


def counted(model):
    """For one sample, and the outputs."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    shapes = [tensor.shape[1:] for tensor in model.inputs]
    generator = np.random.default_rng(0)
    x = [generator.standard_normal((1, *shape)) for shape in shapes]
    x = [torch.tensor(each, dtype=torch.float32) for each in x]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x if len(x) > 1 else x[0], training=False)
    return counter.get_total_flops()


only_torch = pytest.mark.skipif(BACKEND != "torch", reason="PyTorch counts")


@only_torch
@pytest.mark.parametrize("name", CASES)
def test_flops_are_what_pytorch_counts(name):
    shape, make = CASES[name]
    model = chain(shape, make())
    assert sum(flops_per_sample(model).values()) == counted(model) > 0


@only_torch
@pytest.mark.parametrize("name", ATTENTION)
def test_flops_of_attention_are_those_of_its_kernels(name):
    query, value = keras.Input((7, 8)), keras.Input((9, 8))
    layer = ATTENTION[name]()
    model = keras.Model([query, value], layer(query, value))
    grouped = name == "GroupQueryAttention"
    heads, key, size = (4, 5, 5) if grouped else (3, 5, 6)
    # Of queries and keys, and of weights and values, which have no kernel.
    # Where both are one operation, PyTorch does not count it.
    between = 2 * heads * 7 * 9 * (key + size)
    found = sum(flops_per_sample(model).values())
    assert found > 0 and counted(model) - found in (0, between)


def test_nested_models_and_layers_that_are_called_twice_count_each_call():
    layer = layers.Dense(4, use_bias=False)
    inner = chain((4,), layer, layers.Dense(3))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, inner(layer(inputs)))
    found = flops_per_sample(model)
    assert found[id(layer.kernel)] == 2 * 2 * 16
    assert sum(found.values()) == 2 * (16 + 16 + 12)
    if BACKEND == "torch":
        assert counted(model) == 2 * (16 + 16 + 12)
