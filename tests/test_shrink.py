"""Tests of the smaller model: what goes, what stays, and the same outputs."""

import warnings

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import layers
from keras import ops

from keras_app.experiments import models
from keras_app.export import shrink
from keras_app.masks import Channel
from keras_app.optimizers import LinBreg
from keras_app.pruners import MagnitudePruner
from keras_app.regularizers import GroupL2
from keras_app.schedules import OneShot
from tests.models import chain
from tests.models import OneDense
from tests.models import randomize


def array(variable):
    return ops.convert_to_numpy(variable)


def kill(layer, dead, axis=-1, bias=0.0, kernel="kernel"):
    """Makes some output channels of a layer constant."""
    value = array(getattr(layer, kernel)).copy()
    np.moveaxis(value, axis, 0)[dead] = 0
    getattr(layer, kernel).assign(value)
    if getattr(layer, "bias", None) is not None:
        value = array(layer.bias).copy()
        value[dead] = bias
        layer.bias.assign(value)


def same_outputs(model, smaller, inputs=None):
    if inputs is None:
        generator = np.random.default_rng(7)
        inputs = [
            generator.standard_normal((4, *x.shape[1:])).astype("float32")
            for x in model.inputs
        ]
        inputs = inputs if len(inputs) > 1 else inputs[0]
    old = keras.tree.flatten(model(inputs, training=False))
    new = keras.tree.flatten(smaller(inputs, training=False))
    for a, b in zip(old, new):
        a, b = array(a), array(b)
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * np.abs(a).max())


def shrunk(model, inputs=None, **kwargs):
    """The smaller model, which keeps its outputs and warns of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        smaller = shrink(model, **kwargs)
    same_outputs(model, smaller, inputs)
    return smaller


def shape(model, name, weight="kernel"):
    return tuple(getattr(model.get_layer(name), weight).shape)


def test_dead_neurons_go_and_their_constants_move_into_the_next_bias():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(3, activation="relu", name="a"),
            layers.Dense(1, use_bias=False, name="b"),
        ]
    )
    model.get_layer("a").set_weights(
        [
            np.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]]),
            np.array([0.5, 2.0, -1.0]),
        ]
    )
    model.get_layer("b").set_weights([np.array([[1.0], [10.0], [100.0]])])
    smaller = shrunk(model)
    # relu(2) * 10 + relu(-1) * 100
    np.testing.assert_array_equal(array(smaller.get_layer("b").bias), [20.0])
    np.testing.assert_array_equal(
        array(smaller.get_layer("a").kernel), [[1.0], [2.0]]
    )
    assert type(smaller) is keras.Sequential
    assert not smaller.compiled
    assert smaller.name == model.name
    # The model itself is as it was.
    assert shape(model, "a") == (2, 3)


@pytest.mark.backend_free
def test_neurons_that_nothing_reads_go_with_all_that_only_they_read():
    model = randomize(
        chain(
            (4,),
            layers.Dense(5, name="a"),
            layers.Dense(6, name="b"),
            layers.Dense(2, name="c"),
        )
    )
    kernel = array(model.get_layer("c").kernel).copy()
    kernel[:3] = 0
    model.get_layer("c").kernel.assign(kernel)
    kernel = array(model.get_layer("b").kernel).copy()
    kernel[4, 3:] = 0
    model.get_layer("b").kernel.assign(kernel)
    smaller = shrunk(model)
    assert shape(smaller, "b") == (4, 3)
    assert shape(smaller, "a") == (4, 4)


CONVOLUTIONS = {
    "Conv1D": lambda: layers.Conv1D(6, 3, name="a"),
    "Conv1D_causal": lambda: layers.Conv1D(6, 3, padding="causal", name="a"),
    "Conv2D": lambda: layers.Conv2D(6, 3, name="a"),
    "Conv2D_same": lambda: layers.Conv2D(6, 3, padding="same", name="a"),
    "Conv2D_strided": lambda: layers.Conv2D(6, 3, strides=2, name="a"),
    "Conv3D": lambda: layers.Conv3D(6, 2, name="a"),
    "Conv1DTranspose": lambda: layers.Conv1DTranspose(6, 3, name="a"),
    "Conv2DTranspose": lambda: layers.Conv2DTranspose(6, 3, name="a"),
    "Conv3DTranspose": lambda: layers.Conv3DTranspose(6, 2, name="a"),
    "SeparableConv1D": lambda: layers.SeparableConv1D(
        6, 3, depth_multiplier=2, name="a"
    ),
    "SeparableConv2D": lambda: layers.SeparableConv2D(
        6, 3, padding="same", name="a"
    ),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_are_cut_on_both_sides(kind):
    rank = int(kind.split("D")[0][-1])
    kernel = "pointwise_kernel" if "Separable" in kind else "kernel"
    axis = -2 if "Transpose" in kind else -1
    model = randomize(
        chain(
            (5,) * rank + (2,),
            layers.Dense(4, name="before"),
            CONVOLUTIONS[kind](),
            layers.Dense(3, name="after"),
        )
    )
    # A constant 0 may be cut under any padding, another one behind it.
    kill(model.get_layer("before"), [1, 2])
    kill(model.get_layer("a"), [0, 5], axis, 0.7, kernel)
    smaller = shrunk(model)
    assert shape(smaller, "before") == (2, 2)
    assert shape(smaller, "after") == (4, 3)
    old, new = shape(model, "a", kernel), shape(smaller, "a", kernel)
    assert new[axis] == 4
    assert np.prod(old) == 3 * np.prod(new)


def test_a_constant_moves_through_an_unpadded_convolution():
    model = randomize(
        chain(
            (6, 6, 2),
            layers.Conv2D(4, 3, activation="relu", name="a"),
            layers.Conv2D(3, 3, name="b"),
        )
    )
    kill(model.get_layer("a"), [1], bias=0.4)
    assert shape(shrunk(model), "b") == (3, 3, 3, 3)


@pytest.mark.backend_free
def test_a_constant_at_a_padded_border_stays_and_is_named():
    model = randomize(
        chain(
            (6, 6, 2),
            layers.Conv2D(4, 3, name="a"),
            layers.Conv2D(3, 3, padding="same", name="b"),
        )
    )
    kill(model.get_layer("a"), [1], bias=0.4)
    kill(model.get_layer("a"), [2])
    with pytest.warns(UserWarning, match="b: 1 constant channels kept.*pad"):
        smaller = shrink(model)
    same_outputs(model, smaller)
    assert shape(smaller, "b") == (3, 3, 3, 3)


def test_a_constant_before_zero_padding_stays():
    model = randomize(
        chain(
            (6, 6, 2),
            layers.Conv2D(4, 3, name="a"),
            layers.ZeroPadding2D(),
            layers.Conv2D(3, 3, name="b"),
        )
    )
    kill(model.get_layer("a"), [1], bias=0.4)
    kill(model.get_layer("a"), [2])
    smaller = shrink(model)
    same_outputs(model, smaller)
    assert shape(smaller, "a") == (3, 3, 2, 3)


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("rank", [1, 2])
def test_depthwise_convolutions_follow_their_input(rank, multiplier):
    depthwise = getattr(layers, f"DepthwiseConv{rank}D")
    model = randomize(
        chain(
            (6,) * rank + (2,),
            layers.Dense(5, name="a"),
            depthwise(3, depth_multiplier=multiplier, name="depthwise"),
            layers.ReLU(),
            layers.Dense(3, name="b"),
        )
    )
    kill(model.get_layer("a"), [1], bias=0.3)
    # A depthwise kernel that is zero makes its channel a constant too.
    kill(model.get_layer("depthwise"), [4], axis=-2)
    smaller = shrunk(model)
    assert shape(smaller, "a") == (2, 3)
    assert shape(smaller, "b") == (3 * multiplier, 3)
    assert shape(smaller, "depthwise") == (3,) * rank + (3, multiplier)


def test_batch_norm_gives_dead_channels_their_constant():
    model = randomize(
        chain(
            (5, 5, 2),
            layers.Conv2D(4, 3, use_bias=False, name="a"),
            layers.BatchNormalization(name="norm"),
            layers.Activation("silu"),
            layers.Conv2D(3, 1, padding="same", name="b"),
        )
    )
    kill(model.get_layer("a"), [0])
    gamma = array(model.get_layer("norm").gamma).copy()
    gamma[3] = 0
    model.get_layer("norm").gamma.assign(gamma)
    smaller = shrunk(model)
    assert shape(smaller, "a") == (3, 3, 2, 2)
    assert shape(smaller, "norm", "moving_mean") == (2,)


@pytest.mark.backend_free
def test_group_norm_loses_whole_groups():
    model = randomize(
        chain(
            (5, 5, 2),
            layers.Conv2D(6, 3, name="a"),
            layers.GroupNormalization(3, name="norm"),
            layers.Conv2D(3, 3, name="b"),
        )
    )
    kill(model.get_layer("a"), [2, 3], bias=[0.2, 0.9])
    kill(model.get_layer("a"), [4])
    with pytest.warns(UserWarning, match="norm: 1 constant channels kept"):
        smaller = shrink(model)
    same_outputs(model, smaller)
    assert smaller.get_layer("norm").groups == 2
    assert shape(smaller, "b") == (3, 3, 4, 3)


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "layer",
    [layers.LayerNormalization, layers.UnitNormalization, layers.Softmax],
)
def test_what_looks_at_all_channels_keeps_them_and_is_named(layer):
    model = randomize(
        chain(
            (4,),
            layers.Dense(6, name="a"),
            layer(name="norm"),
            layers.Dense(5, name="b"),
            layers.Dense(2),
        )
    )
    kill(model.get_layer("a"), [1])
    kill(model.get_layer("b"), [1, 2])
    with pytest.warns(UserWarning, match="norm: 1 constant channels kept"):
        smaller = shrink(model)
    same_outputs(model, smaller)
    assert shape(smaller, "b") == (6, 3)


@pytest.mark.parametrize(
    "between",
    [
        lambda: [layers.MaxPooling2D(padding="same")],
        lambda: [layers.AveragePooling2D(2), layers.LeakyReLU()],
        lambda: [layers.UpSampling2D(), layers.Cropping2D()],
        lambda: [layers.PReLU(shared_axes=[1, 2]), layers.Dropout(0.5)],
        lambda: [layers.ELU(), layers.Reshape((3, 12, 6))],
        lambda: [layers.Permute((2, 1, 3)), layers.GaussianNoise(1.0)],
        lambda: [layers.GlobalAveragePooling2D(keepdims=True)],
        lambda: [layers.Rescaling(2.0, 1.0), layers.Identity()],
    ],
)
def test_layers_that_keep_channels_apart_pass_the_cut_on(between):
    model = randomize(
        chain(
            (6, 6, 2),
            layers.Conv2D(6, 1, name="a"),
            *between(),
            layers.Dense(3, name="b"),
        )
    )
    kill(model.get_layer("a"), [0, 3], bias=[0.5, -0.5])
    smaller = shrunk(model)
    assert shape(smaller, "b") == (4, 3)


@pytest.mark.parametrize(
    "flat", [layers.Flatten, lambda: layers.Reshape((-1,))]
)
def test_a_flattened_channel_owns_interleaved_rows(flat):
    model = randomize(
        chain(
            (3, 3, 2),
            layers.Conv2D(4, 2, name="a"),
            flat(),
            layers.Dense(3, name="b"),
        )
    )
    kill(model.get_layer("a"), [2], bias=0.5)
    kernel = array(model.get_layer("b").kernel).copy()
    kernel[0::4] = 0  # Nothing reads channel 0, anywhere.
    kernel[1] = 0  # Channel 1 is read elsewhere.
    model.get_layer("b").kernel.assign(kernel)
    smaller = shrunk(model)
    np.testing.assert_array_equal(
        array(smaller.get_layer("b").kernel),
        kernel[[1, 3, 5, 7, 9, 11, 13, 15]],
    )


def merged(merge):
    inputs = keras.Input((4,))
    a = layers.Dense(6, name="a")(inputs)
    b = layers.Dense(6, name="b")(inputs)
    outputs = layers.Dense(2, name="c")(layers.ReLU()(merge(a, b)))
    return randomize(keras.Model(inputs, outputs))


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "merge",
    [
        lambda a, b: layers.Add()([a, b]),
        lambda a, b: layers.Subtract()([a, b]),
        lambda a, b: layers.Average()([a, b]),
        lambda a, b: layers.Maximum()([a, b]),
        lambda a, b: layers.Minimum()([a, b]),
        lambda a, b: a + b,
        lambda a, b: ops.relu(2.0 * a) - b,
    ],
)
def test_merged_channels_go_only_together(merge):
    model = merged(merge)
    kill(model.get_layer("a"), [0, 1], bias=[0.5, 0.25])
    kill(model.get_layer("b"), [1, 2], bias=[0.75, 0.5])
    smaller = shrunk(model)
    assert shape(smaller, "a") == (4, 5)
    assert shape(smaller, "b") == (4, 5)


@pytest.mark.backend_free
def test_a_zero_factor_makes_the_product_dead():
    model = merged(lambda a, b: layers.Multiply()([a, b]))
    kill(model.get_layer("a"), [0, 1], bias=[0.5, 0.0])
    assert shape(shrunk(model), "b") == (4, 5)


@pytest.mark.backend_free
def test_concatenated_channels_go_each_by_itself():
    model = merged(lambda a, b: layers.Concatenate()([a, b]))
    kill(model.get_layer("a"), [0, 1], bias=[0.5, 0.25])
    kill(model.get_layer("b"), [1], bias=0.75)
    smaller = shrunk(model)
    assert shape(smaller, "a") == (4, 4)
    assert shape(smaller, "b") == (4, 5)
    assert shape(smaller, "c") == (9, 2)


@pytest.mark.backend_free
def test_squeeze_and_excitation_is_cut_with_its_stream():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, activation="relu", name="stem")(inputs)
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Dense(4, activation="relu", name="squeeze")(gate)
    gate = layers.Dense(8, activation="sigmoid", name="excite")(gate)
    gate = layers.Reshape((1, 1, 8))(gate)
    x = layers.Multiply()([x, gate])
    model = randomize(keras.Model(inputs, layers.Conv2D(3, 3, name="b")(x)))
    kill(model.get_layer("stem"), [1, 5, 6])
    kill(model.get_layer("squeeze"), [3], bias=0.5)
    smaller = shrunk(model)
    assert shape(smaller, "squeeze") == (5, 3)
    assert shape(smaller, "excite") == (3, 5)


@pytest.mark.backend_free
def test_a_residual_stream_keeps_one_set_of_channels():
    model = models.resnet20((8, 8, 3), 4, seed=0)
    convolutions = [x for x in model.layers if isinstance(x, layers.Conv2D)]
    for layer in convolutions:
        kill(layer, [0, 3])
    kill(model.get_layer("stage1_block1_conv1"), [5])
    smaller = shrunk(model)
    assert {x.filters for x in convolutions} == {16, 32, 64}
    new = [x for x in smaller.layers if isinstance(x, layers.Conv2D)]
    assert {x.filters for x in new} == {13, 14, 30, 62}
    assert [x.name for x in smaller.layers] == [x.name for x in model.layers]
    # With nonzero shifts in its batch normalizations the stream cannot
    # be cut, as its next convolutions pad.
    norms = [x for x in model.layers if hasattr(x, "beta")]
    for norm in norms:
        norm.beta.assign(np.full(norm.beta.shape, 0.5))
    with pytest.warns(UserWarning, match="stage1_block1_conv1: 2 constant"):
        same_outputs(model, shrink(model))


def nested():
    block = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(6, activation="relu", name="in"),
            layers.BatchNormalization(name="norm"),
        ],
        name="block",
    )
    inner_inputs = keras.Input((6,))
    inner = keras.Model(
        inner_inputs,
        layers.Add()([block(inner_inputs), inner_inputs]),
        name="inner",
    )
    return randomize(
        keras.Sequential(
            [
                keras.Input((3,)),
                layers.Dense(6, name="stem"),
                inner,
                layers.Dense(2, name="head"),
            ]
        )
    )


def test_nested_models_are_cut_inside_and_stay_nested(tmp_path):
    model = nested()
    kill(model.get_layer("stem"), [0, 2], bias=[0.5, 0.25])
    block = model.get_layer("inner").get_layer("block")
    kill(block.get_layer("in"), [2, 3], bias=[0.75, 0.5])
    smaller = shrunk(model)
    assert shape(smaller, "stem") == (3, 5)
    inner = smaller.get_layer("inner")
    assert shape(inner.get_layer("block"), "in") == (5, 5)
    assert shape(smaller, "head") == (5, 2)
    smaller.save(tmp_path / "smaller.keras")
    same_outputs(model, keras.models.load_model(tmp_path / "smaller.keras"))


def test_a_shared_layer_is_cut_for_all_of_its_calls():
    shared = layers.Dense(5, name="shared")
    first, second = keras.Input((3,)), keras.Input((4,))
    a = shared(layers.Dense(4, name="a")(first))
    b = shared(layers.Dense(4, name="b")(second))
    head = layers.Dense(2, name="head")(layers.Concatenate()([a, b]))
    model = randomize(keras.Model([first, second], head))
    # 0: the same constant in both, 1: another one in each, 2: in one only.
    kill(model.get_layer("a"), [0, 1, 2], bias=[0.5, 0.2, 0.5])
    kill(model.get_layer("b"), [0, 1], bias=[0.5, 0.3])
    kill(shared, [4], bias=0.5)
    smaller = shrunk(model)
    assert shape(smaller, "shared") == (3, 4)
    assert shape(smaller, "head") == (8, 2)


@pytest.mark.backend_free
@pytest.mark.parametrize(("multiple_of", "kept"), [(1, 9), (4, 12), (8, 16)])
def test_kept_channels_are_rounded_up(multiple_of, kept):
    model = randomize(
        chain(
            (5, 5, 2),
            layers.Conv2D(20, 3, name="a"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(3, 3, name="b"),
        )
    )
    kill(model.get_layer("a"), np.arange(11), bias=0.5)
    smaller = shrunk(model, multiple_of=multiple_of)
    assert shape(smaller, "a") == (3, 3, 2, kept)
    # What has fewer channels keeps them.
    assert shape(smaller, "b") == (3, 3, kept, 3)


@pytest.mark.backend_free
def test_a_dead_layer_keeps_one_channel():
    model = randomize(
        chain((4,), layers.Dense(6, name="a"), layers.Dense(2, name="b"))
    )
    kill(model.get_layer("a"), np.arange(6), bias=0.5)
    assert shape(shrunk(model), "a") == (4, 1)


@pytest.mark.parametrize("mask_zero", [False, True])
def test_embeddings_lose_constant_columns(mask_zero):
    model = randomize(
        chain(
            (4,),
            layers.Embedding(7, 5, mask_zero=mask_zero, name="table"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2, name="head"),
            dtype="int32",
        )
    )
    table = array(model.get_layer("table").embeddings).copy()
    table[:, 2] = 0.5
    model.get_layer("table").embeddings.assign(table)
    smaller = shrunk(model, inputs=np.array([[0, 1, 5, 6]], "int32"))
    assert shape(smaller, "table", "embeddings") == (7, 4)


@pytest.mark.backend_free
def test_layers_that_are_not_known_keep_all_and_their_zeros_are_named():
    model = randomize(
        chain(
            (5, 4),
            layers.Dense(6, name="a"),
            layers.LSTM(3, name="memory"),
            layers.Dense(4, name="b"),
            layers.Dense(2),
        )
    )
    kill(model.get_layer("a"), [1])
    kill(model.get_layer("b"), [0])
    kernel = model.get_layer("memory").cell.kernel
    kernel.assign(array(kernel) * (np.arange(12) > 3))
    with pytest.warns(UserWarning, match="memory: .*LSTM is not known"):
        smaller = shrink(model)
    same_outputs(model, smaller)
    assert shape(smaller, "a") == (4, 6)
    assert shape(smaller, "b") == (3, 3)


@pytest.mark.backend_free
def test_channels_first_and_grouped_convolutions_stay_and_are_named():
    model = randomize(
        chain(
            (5, 5, 4),
            layers.Conv2D(4, 1, groups=2, name="grouped"),
            layers.GlobalAveragePooling2D(data_format="channels_first"),
            layers.Dense(2),
        )
    )
    kill(model.get_layer("grouped"), [0])
    with pytest.warns(UserWarning, match="grouped: its zeros stay: .*groups"):
        smaller = shrink(model)
    same_outputs(model, smaller)
    assert smaller.count_params() == model.count_params()


@pytest.mark.backend_free
def test_an_activation_over_all_channels_keeps_them():
    model = randomize(
        chain(
            (4,),
            layers.Dense(5, activation="softmax", name="a"),
            layers.Dense(2, name="b"),
        )
    )
    kill(model.get_layer("a"), [0])
    with pytest.warns(UserWarning, match="a: 1 constant channels kept"):
        smaller = shrink(model)
    assert shape(smaller, "a") == (4, 5)


@pytest.mark.backend_free
def test_several_outputs_by_name_stay_as_they_are():
    inputs = {"image": keras.Input((4,), name="image")}
    x = layers.Dense(6, name="a")(inputs["image"])
    outputs = {
        "one": layers.Dense(3, name="one")(x),
        "two": layers.Dense(2, name="two")(x),
    }
    model = randomize(keras.Model(inputs, outputs))
    kill(model.get_layer("a"), [0, 1], bias=0.5)
    kill(model.get_layer("one"), [1])
    data = {"image": np.ones((3, 4), "float32")}
    smaller = shrunk(model, inputs=data, data=data)
    assert shape(smaller, "one") == (4, 3)
    assert set(smaller.output) == {"one", "two"}


@pytest.mark.backend_free
def test_bad_arguments_are_refused():
    model = OneDense()
    model(np.ones((1, 3), "float32"))
    with pytest.raises(ValueError, match="subclassed.*OneDense"):
        shrink(model)
    with pytest.raises(ValueError, match="built Sequential"):
        shrink(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(ValueError, match="`multiple_of`.*multiple_of=0"):
        shrink(chain((2,), layers.Dense(2)), multiple_of=0)


@pytest.mark.backend_free
def test_outputs_that_are_not_numbers_are_refused():
    model = chain((2,), layers.Dense(2, name="a"))
    model.get_layer("a").bias.assign([np.nan, 0.0])
    with pytest.raises(ValueError, match="a difference of inf .*NaN"):
        shrink(model)


def trained(model, optimizer, callbacks):
    generator = np.random.default_rng(1)
    x = generator.standard_normal((64, 8, 8, 1)).astype("float32")
    y = generator.integers(0, 3, 64)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    model.fit(x, y, epochs=2, batch_size=32, callbacks=callbacks, verbose=0)
    return x


@pytest.mark.backend_free
def test_a_model_pruned_by_channels_shrinks_to_what_is_read():
    pruner = MagnitudePruner(
        OneShot(0.5), structure=Channel(axis=-1), filters="conv.*kernel"
    )
    model = models.convnet((8, 8, 1), 3, filters=(8, 16), seed=0)
    x = trained(model, "adam", [pruner])
    with warnings.catch_warnings():
        # The shifts of the batch normalizations may hold channels back.
        warnings.simplefilter("ignore")
        smaller = shrink(model, data=x)
    same_outputs(model, smaller, x)
    assert shape(smaller, "conv2")[-1] == 8
    assert smaller.count_params() < model.count_params()
    assert model.compiled and not smaller.compiled


@pytest.mark.backend_free
def test_a_model_trained_with_linbreg_shrinks():
    model = models.convnet((8, 8, 1), 3, filters=(8, 16), seed=0)
    kill(model.get_layer("conv2"), np.arange(10))
    optimizer = LinBreg(0.1, regularizers=GroupL2(1.0, axes="filter"))
    x = trained(model, optimizer, [])
    kernel = array(model.get_layer("conv2").kernel)
    alive = np.count_nonzero(kernel.any(axis=(0, 1, 2)))
    assert 0 < alive < 16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smaller = shrink(model, data=x)
    same_outputs(model, smaller, x)
    assert shape(smaller, "conv2")[-1] == alive


@pytest.mark.backend_free
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_random_graphs_keep_their_outputs(seed):
    generator = np.random.default_rng(seed)
    inputs = keras.Input((6, 6, 2))
    ends = [layers.Conv2D(4, 3, padding="same")(inputs)]
    for _ in range(generator.integers(2, 6)):
        x = ends[generator.integers(len(ends))]
        y = ends[generator.integers(len(ends))]
        kind = generator.integers(7)
        if kind == 0:
            padding = generator.choice(["same", "valid"])
            width = x.shape[-1] if padding == "same" else 4
            size = 3 if padding == "same" else 1
            x = layers.Conv2D(width, size, padding=padding)(x)
        elif kind == 1:
            x = layers.Activation("sigmoid")(layers.BatchNormalization()(x))
        elif kind == 2 and x.shape == y.shape:
            x = layers.Add()([x, y])
        elif kind == 3:
            x = layers.Concatenate()([x, y])
        elif kind == 4:
            x = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
        elif kind == 5:
            x = layers.AveragePooling2D(3, strides=1, padding="same")(x)
        elif kind == 6:
            x = layers.GroupNormalization(2)(x)
        ends.append(x)
    x = layers.Flatten()(layers.Concatenate()(ends[-2:]))
    model = randomize(keras.Model(inputs, layers.Dense(3)(x)), seed)
    for layer in model.layers:
        if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D)):
            axis = -1 if layer.kernel.shape[-1] > 1 else -2
            dead = generator.random(layer.kernel.shape[axis]) < 0.5
            kill(layer, dead, axis, generator.choice([0.0, 0.5]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smaller = shrink(model, multiple_of=1 + seed % 3)
    same_outputs(model, smaller)
