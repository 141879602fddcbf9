"""Tests that Keras's own quantization leaves the zeros of pruning alone."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_app import enforcement
from keras_app.export import strip_pruning

# Largest error of a weight, of the largest one: a step of the integers.
STEPS = {"int8": 1 / 127, "int4": 2 / 15}

# What Keras quantizes, with where its weights are.
WEIGHTS = {
    "embedding": "embeddings",
    "dense": "kernel",
    "split": "kernel",
    "join": "kernel",
}

TOKENS = np.random.default_rng(0).integers(0, 9, (4, 6)).astype("int32")


def network():
    # More than 128 inputs, which int4 scales by groups of 128, and an odd
    # number of outputs, which it packs in pairs.
    stack = [
        layers.Embedding(9, 130, name="embedding"),
        layers.Dense(5, name="dense"),
        layers.EinsumDense("abc,cde->abde", (None, 3, 7), name="split"),
        layers.EinsumDense("abde,def->abf", (None, 8), name="join"),
    ]
    return keras.Sequential([keras.Input((6,), dtype="int32"), *stack])


def hard_to_quantize(shape):
    """Weights whose outputs are skewed to one side, tiny, or all alike."""
    generator = np.random.default_rng(len(shape) + shape[-1])
    values = generator.uniform(-1, 1, shape)
    values[..., 0] = np.abs(values[..., 0])
    values[..., 1] = -np.abs(values[..., 1])
    values[..., 2] *= 1e-6
    values[..., 3] = 0.7
    return values


def pruned():
    """A compiled model with masks, and its weights `{layer: array}`."""
    model = network()
    model.compile("sgd", "mse")
    variables = {
        name: getattr(model.get_layer(name), attribute)
        for name, attribute in WEIGHTS.items()
    }
    state = enforcement.attach(model, list(variables.values()))
    generator = np.random.default_rng(1)
    masks = []
    for variable in variables.values():
        variable.assign(hard_to_quantize(tuple(variable.shape)))
        mask = generator.random(variable.shape) < 0.4
        mask[..., 4] = False
        masks.append((variable, mask))
    state.set(masks)
    return model, {n: ops.convert_to_numpy(v) for n, v in variables.items()}


def effective(layer, shape):
    """The weights that a layer computes with, told from its outputs."""
    if isinstance(layer, layers.Embedding):
        return ops.convert_to_numpy(layer(np.arange(shape[0])[None]))[0]
    rank = {"dense": 1, "split": 1, "join": 2}[layer.name]
    size = int(np.prod(shape[:rank]))
    unit = np.eye(size, dtype="float32").reshape(1, size, *shape[:rank])
    outputs = [ops.convert_to_numpy(layer(x)) for x in (unit, 0 * unit)]
    return (outputs[0] - outputs[1]).reshape(shape)


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have")
@pytest.mark.parametrize(
    ("mode", "strip"),
    [
        ("int8", False),
        pytest.param("int8", True, marks=pytest.mark.backend_free),
        pytest.param("int4", True, marks=pytest.mark.backend_free),
    ],
)
def test_quantization_keeps_every_zero(mode, strip):
    model, weights = pruned()
    if strip:
        model = strip_pruning(model)
    model.quantize(mode)
    for name, old in weights.items():
        layer = model.get_layer(name)
        assert layer.quantization_mode == mode
        new = effective(layer, old.shape)
        assert np.count_nonzero(old == 0) > 0.5 * old.size
        np.testing.assert_array_equal(new[old == 0], 0)
        error = np.abs(new - old).max() / np.abs(old).max()
        assert 0 < error < STEPS[mode]
    assert np.isfinite(ops.convert_to_numpy(model(TOKENS))).all()
