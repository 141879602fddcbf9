"""Tests of Wanda: scores by hand, inputs of every layer, masks per output."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_app import masks
from keras_app import pruners
from keras_app.schedules import OneShot
from keras_app.schedules import PolynomialDecay
from tests.helpers import zeros
from tests.models import chain
from tests.models import dense
from tests.models import network
from tests.models import train


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def compiled(model):
    model.compile("sgd", "mse")
    return model


def masks_of(model, data, sparsity=0.5, **arguments):
    pruner = pruners.WandaPruner(OneShot(sparsity), data=data, **arguments)
    pruner.set_model(model)
    pruner.prune(sparsity)
    return pruner.masks


def input_norms(model, data):
    """`{path: ||x||, of the kernel's shape}`."""
    pruner = pruners.WandaPruner(OneShot(0.5), data=data)
    pruner.set_model(model)
    variables = pruner.select(model).variables
    squares = pruner._squared_inputs(variables)
    norms = {}
    for path, matrices in pruner.matrices(variables).items():
        ones = matrices.of(np.ones(variables[path].shape))
        norms[path] = matrices.back(np.sqrt(squares[path]) * ones)
    return norms


# ---- by hand -----------------------------------------------------------


def test_scores_by_hand():
    # Norms of the inputs: 5, 2, 1, 0.1. Each output loses the two of its
    # inputs whose product is smallest.
    x = np.array([[3.0, 2.0, 1.0, 0.1], [4.0, 0.0, 0.0, 0.0]], "float32")
    model = dense(4, 2, [0.1, -0.3, 0.4, 1.0, -0.6, 2.0, 9.0, -9.0])
    # Products: 0.5 0.8 0.6 0.9 and 1.5 2.0 2.0 0.9.
    [mask] = masks_of(model, [(x, None)]).values()
    assert mask.astype(int).T.tolist() == [[0, 1, 0, 1], [0, 1, 1, 0]]


def test_ties_within_an_output_prune_the_lower_index():
    # The second output: 2, 2, 2, 0.5; two of four go.
    model = dense(4, 1, [2.0, 2.0, 2.0, 0.5])
    [mask] = masks_of(model, [np.ones((1, 4), "float32")]).values()
    assert mask.astype(int).ravel().tolist() == [0, 1, 1, 0]


def test_every_output_loses_as_many_inputs():
    model = dense(10, 7, draw(70) * np.arange(1, 8).repeat(10))
    for sparsity, counts in ((0.3, {3}), (0.55, {5, 6}), (0.7, {7})):
        [mask] = masks_of(model, [draw(5, 10)], sparsity).values()
        assert zeros(mask) == int(sparsity * 70)
        assert set((~mask).sum(0)) == counts


def test_a_second_update_keeps_outputs_level_where_inputs_are_zero():
    # Dead inputs score zero, as pruned weights do.
    x = draw(5, 8)
    x[:, :3] = 0
    pruner = pruners.WandaPruner(PolynomialDecay(0.0, 0.5, 0, 2), data=[x])
    pruner.set_model(dense(8, 6))
    for sparsity, count in ((0.25, 2), (0.5, 4)):
        pruner.prune(sparsity)
        [mask] = pruner.masks.values()
        assert set((~mask).sum(0)) == {count}
    assert not mask[:3].any()


def test_a_fit_prunes_behind_the_training():
    model = dense(8, 4)
    pruner = pruners.WandaPruner(OneShot(0.5, step=4), data=[draw(6, 8)])
    train(model, pruner)
    assert pruner.missed == []
    assert set((~pruner.masks["dense/kernel"]).sum(0)) == {4}


# ---- structures --------------------------------------------------------


def test_n_m_along_the_inputs():
    # Norms 1, 1, 10, 1, ...: the weak third weight of a group stays.
    x = np.ones((1, 8), "float32")
    x[0, [2, 6]] = 10
    values = np.tile([[0.4], [0.3], [0.2], [0.1]], (2, 3))
    structure = masks.NM(2, 4, axis=-2)
    [mask] = masks_of(dense(8, 3, values), [x], structure=structure).values()
    assert mask[:, 0].astype(int).tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    assert (mask == mask[:, :1]).all()


def test_channels_are_compared_by_their_scores():
    # Ranks within outputs would tie.
    model = dense(2, 3, [1.0, 5.0, 2.0, 1.0, 5.0, 2.0])
    [mask] = masks_of(
        model, [np.ones((1, 2))], 0.34, structure=masks.Channel()
    ).values()
    assert mask.astype(int).tolist() == [[0, 1, 1], [0, 1, 1]]


# ---- the inputs of each layer ------------------------------------------

# A weight alone, set to one, puts out the values that it multiplies: the norm
# of the output is the norm of its inputs.
LAYERS = [
    ((5,), layers.Dense(2)),
    ((3, 4, 5), layers.Dense(2)),
    ((3, 4), layers.EinsumDense("abc,cd->abd", (None, 2))),
    ((3, 4), layers.EinsumDense("abc,cde->abde", (None, 2, 3))),
    ((3, 2, 4), layers.EinsumDense("abcd,cde->abe", (None, 5))),
    ((3, 4), layers.EinsumDense("abc,bcd->abd", (3, 2))),
    ((3, 4), layers.EinsumDense("...x,xy->...y", 2)),
    ((3, 4), layers.EinsumDense("ab...,cb->ac...", (2, None))),
    ((7, 3), layers.Conv1D(2, 3, strides=2, padding="same")),
    ((8, 3), layers.Conv1D(2, 3, dilation_rate=2, padding="causal")),
    ((6, 5, 2), layers.Conv2D(3, (3, 2), strides=(2, 1))),
    ((6, 7, 4), layers.Conv2D(4, (3, 4), padding="same", groups=2)),
    ((6, 7, 2), layers.Conv2D(2, 2, strides=2, padding="same")),
    ((7, 7, 2), layers.Conv2D(2, 3, dilation_rate=2, padding="same")),
    ((3, 4, 3, 2), layers.Conv3D(2, (2, 3, 1))),
]


@pytest.mark.parametrize("shape, layer", LAYERS)
def test_norms_are_those_of_the_outputs_of_single_weights(shape, layer):
    layer = type(layer).from_config({**layer.get_config(), "name": "it"})
    model = compiled(chain(shape, layer))
    x = draw(2, *shape)
    [norms] = input_norms(model, [x[:1], (x[1:], None)]).values()
    generator = np.random.default_rng(1)
    for _ in range(6):
        place = tuple(generator.integers(0, layer.kernel.shape))
        one = np.zeros(layer.kernel.shape, "float32")
        one[place] = 1
        layer.kernel.assign(one)
        alone = np.linalg.norm(ops.convert_to_numpy(layer(x)))
        assert norms[place] == pytest.approx(alone, rel=1e-5)


def test_attention_is_calibrated_on_what_its_projections_see():
    inputs = keras.Input((5, 6))
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    model = compiled(keras.Model(inputs, attention(inputs, inputs)))
    x = draw(4, 5, 6)
    norms = input_norms(model, [x])
    expected = np.linalg.norm(x.reshape(-1, 6), axis=0)
    for name in ("query", "key", "value"):
        [found] = [n for path, n in norms.items() if f"/{name}/" in path]
        np.testing.assert_allclose(found[:, 1, 2], expected, rtol=1e-5)
    found = masks_of(model, [x])
    for path, mask in found.items():
        # Inputs: 6 features, or 2 heads of 3 in the projection behind them.
        lines = mask.reshape(6, -1)
        assert set((~lines).sum(0)) == {3}, path


def test_a_layer_called_twice_sums_over_its_calls():
    inputs = keras.Input((4,))
    shared = layers.Dense(4, activation="relu", use_bias=False, name="shared")
    model = compiled(keras.Model(inputs, shared(shared(inputs))))
    x = draw(3, 4)
    [norms] = input_norms(model, [x]).values()
    hidden = np.maximum(x @ ops.convert_to_numpy(shared.kernel), 0)
    both = np.concatenate([x, hidden])
    expected = np.linalg.norm(both, axis=0)
    np.testing.assert_allclose(norms[:, 0], expected, rtol=1e-5)


def test_a_kernel_of_two_layers_sums_over_both():
    inputs = keras.Input((4,))
    first, second = (layers.Dense(4, use_bias=False) for _ in range(2))
    model = keras.Model(inputs, second(first(inputs)))
    vars(second)["_kernel"] = first._kernel
    x = draw(3, 4)
    [norms] = input_norms(compiled(model), [x]).values()
    both = np.concatenate([x, x @ ops.convert_to_numpy(first.kernel)])
    expected = np.linalg.norm(both, axis=0)
    np.testing.assert_allclose(norms[:, 0], expected, rtol=1e-5)


def test_a_layer_called_once_for_each_step_sums_over_the_steps():
    layer = layers.TimeDistributed(layers.Dense(2))
    x = draw(2, 3, 4)
    [norms] = input_norms(compiled(chain((3, 4), layer)), [x]).values()
    expected = np.linalg.norm(x.reshape(-1, 4), axis=0)
    np.testing.assert_allclose(norms[:, 0], expected, rtol=1e-5)


class Subclassed(keras.Model):
    """Layers in a list and a model within, called without `training`."""

    def __init__(self):
        super().__init__()
        self.parts = [
            layers.Dense(4, name="one"),
            chain((4,), layers.Dropout(0.5), layers.Dense(4, name="two")),
        ]

    def call(self, inputs):
        return self.parts[1](self.parts[0](inputs["x"]))


def test_nested_and_subclassed_models_and_inputs_in_a_dict():
    model = compiled(Subclassed())
    x = draw(6, 4)
    model({"x": x})
    found = input_norms(model, [({"x": x}, None)])
    one, two = sorted(found.items())
    expected = np.linalg.norm(x, axis=0)
    np.testing.assert_allclose(one[1][:, 0], expected, rtol=1e-5)
    # In inference, without dropout.
    hidden = ops.convert_to_numpy(model.parts[0](x))
    expected = np.linalg.norm(hidden, axis=0)
    np.testing.assert_allclose(two[1][:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_half_precision_does_not_overflow(policy):
    # Its squares are beyond float16.
    model = compiled(chain((4,), layers.Dense(3, dtype=policy, name="it")))
    x = np.full((2, 4), 1000.0, "float32")
    [norms] = input_norms(model, [x]).values()
    np.testing.assert_allclose(norms, 1000 * np.sqrt(2), rtol=1e-2)


def test_a_lora_layer_is_left_alone():
    lora = layers.Dense(4, name="lora")
    model = chain((4,), lora, layers.Dense(3, name="it"))
    lora.enable_lora(2)
    with pytest.warns(UserWarning, match="LoRA has frozen"):
        found = masks_of(compiled(model), [draw(2, 4)])
    assert list(found) == ["it/kernel"]


# ---- what is left as it was --------------------------------------------


def test_layers_and_weights_are_left_as_they_were():
    model = network()
    before = model.get_weights()
    norms = input_norms(model, [draw(2, 6, 6, 2)])
    assert sorted(norms) == ["conv/kernel", "dense/kernel"]
    assert all("call" not in vars(layer) for layer in model.layers)
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_layers_are_left_as_they_were_after_an_error():
    model = network()
    layer = model.get_layer("dense")
    ours = layer.call
    vars(layer)["call"] = ours
    with contextlib.suppress(Exception):
        masks_of(model, [draw(2, 5, 5, 2)])
    assert vars(layer)["call"] is ours
    assert "call" not in vars(model.get_layer("conv"))


# ---- what is left out and refused --------------------------------------


def mixed():
    return compiled(
        chain(
            (8, 8, 2),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Conv2DTranspose(3, 3, name="transposed"),
            layers.Flatten(),
            layers.Dense(2, name="dense"),
        )
    )


def test_other_layers_are_left_out_with_a_reason():
    pruner = pruners.WandaPruner(OneShot(0.5), data=[draw(2, 8, 8, 2)])
    pruner.set_model(mixed())
    pruner.prune(0.5)
    assert list(pruner.masks) == ["dense/kernel"]
    assert "MagnitudePruner" in pruner.report.skipped["transposed/kernel"]
    assert "depthwise" in pruner.report.skipped["depthwise/kernel"]


def test_other_layers_named_by_a_filter_are_refused():
    pruner = pruners.WandaPruner(
        OneShot(0.5), data=[draw(2, 8, 8, 2)], filters="kernel"
    )
    with pytest.raises(ValueError) as error:
        pruner.set_model(mixed())
    for words in ("transposed/kernel", "MagnitudePruner", "filters='kernel'"):
        assert words in str(error.value)


def test_a_model_without_such_layers_is_refused():
    model = compiled(chain((8, 8, 2), layers.Conv2DTranspose(3, 3, name="it")))
    with pytest.raises(ValueError, match="nothing to prune.*it/kernel"):
        masks_of(model, [draw(2, 8, 8, 2)])


def test_the_global_scope_is_refused():
    with pytest.raises(ValueError, match="scope='global'"):
        pruners.WandaPruner(OneShot(0.5), scope="global")


def test_no_data_is_refused():
    with pytest.raises(ValueError, match="data=None"):
        train(dense(3, 2), pruners.WandaPruner(OneShot(0.5)))
    with pytest.raises(ValueError, match="at least one batch"):
        masks_of(dense(3, 2), [])


def test_a_layer_that_inference_does_not_call_is_named():
    class Auxiliary(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = layers.Dense(3, name="head")
            self.extra = layers.Dense(3, name="extra")

        def call(self, x, training=False):
            return self.head(x) + (self.extra(x) if training else 0)

    model = compiled(Auxiliary())
    model(draw(2, 4), training=True)
    with pytest.raises(ValueError, match="not in inference.*extra/kernel"):
        masks_of(model, [draw(2, 4)])


class InALoop(layers.Layer):
    """Calls a layer within a loop that is traced."""

    def __init__(self):
        super().__init__()
        self.inner = layers.Dense(2, name="inner")

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, x):
        return ops.vectorized_map(lambda row: self.inner(row[None])[0], x)


def test_a_layer_in_a_compiled_loop_is_named():
    model = compiled(chain((4,), InALoop()))
    with pytest.raises(ValueError, match="inner.* in a compiled loop"):
        masks_of(model, [draw(2, 4)])
