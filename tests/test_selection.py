"""Tests of which variables are pruned, and why the others are not."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from keras_app import masks_of
from keras_app import pruners
from keras_app import schedules
from keras_app import selection
from tests.models import chain


@functools.cache
def everything():
    """Convolutions, attention, recurrence and embeddings, to read only."""
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, name="conv")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.SeparableConv2D(4, 3, name="separable")(x)
    x = layers.Conv2DTranspose(4, 2, name="transpose")(x)
    x = layers.GlobalAveragePooling2D()(x)
    words = keras.Input((5,), dtype="int32", name="words")
    e = layers.Embedding(10, 4, name="embedding")(words)
    e = layers.MultiHeadAttention(2, 2, name="attention")(e, e)
    e = layers.LayerNormalization(name="layer_norm")(e)
    e = layers.EinsumDense("abc,cd->abd", (None, 6), name="einsum")(e)
    e = layers.LSTM(3, name="lstm")(e)
    outputs = layers.Dense(2, name="dense")(layers.Concatenate()([x, e]))
    return keras.Model([image, words], outputs)


def small(**kwargs):
    return chain(
        (6, 6, 1),
        layers.Conv2D(2, 3, name="conv", **kwargs),
        layers.Flatten(),
        layers.Dense(4, name="hidden"),
        layers.Dense(3, name="logits"),
    )


def test_default_selects_dense_einsum_attention_and_convolution_kernels():
    assert set(selection.select(everything()).variables) == {
        "conv/kernel",
        "separable/pointwise_kernel",
        "transpose/kernel",
        "attention/query/kernel",
        "attention/key/kernel",
        "attention/value/kernel",
        "attention/attention_output/kernel",
        "einsum/kernel",
        "dense/kernel",
    }


def test_the_variables_come_in_the_models_order():
    model = everything()
    chosen = selection.select(model).variables
    order = [v.path for v in model.trainable_variables if v.path in chosen]
    assert list(chosen) == order


def test_every_other_trainable_variable_has_a_reason():
    model = everything()
    chosen = selection.select(model)
    paths = [v.path for v in model.trainable_variables]
    assert sorted([*chosen.variables, *chosen.skipped]) == sorted(paths)
    assert all(len(reason) > 5 for reason in chosen.skipped.values())


@pytest.mark.parametrize(
    "path, words",
    [
        ("conv/bias", "a vector"),
        ("norm/gamma", "a vector"),
        ("depthwise/kernel", "depthwise"),
        ("separable/depthwise_kernel", "depthwise"),
        ("embedding/embeddings", "an embedding"),
        ("lstm/lstm_cell/kernel", "LSTMCell"),
        ("lstm/lstm_cell/recurrent_kernel", "LSTMCell"),
        # Its variables have the rank of the attention's heads.
        ("attention/query/bias", "a weight of EinsumDense"),
    ],
)
def test_reasons_say_what_the_variable_is(path, words):
    assert words in selection.select(everything()).skipped[path]


def test_the_variables_are_the_models_own():
    model = small()
    chosen = selection.select(model).variables
    assert chosen["conv/kernel"] is model.get_layer("conv").kernel


@pytest.mark.parametrize(
    "layer, shape",
    [
        (layers.Conv1D(2, 3), (8, 3)),
        (layers.Conv3D(2, 2), (4, 4, 4, 3)),
        (layers.Conv1DTranspose(2, 3), (8, 3)),
        (layers.Conv3DTranspose(2, 2), (4, 4, 4, 3)),
        (layers.SeparableConv1D(2, 3), (8, 3)),
        (layers.GroupQueryAttention(4, 2, 1), None),
    ],
)
def test_further_kinds_of_layers_are_known(layer, shape):
    if shape is None:
        x = keras.Input((5, 4))
        model = keras.Model(x, layer(x, x))
    else:
        model = chain(shape, layer)
    chosen = selection.select(model)
    assert all("kernel" in path for path in chosen.variables)


def test_layers_of_subclassed_models_and_of_lists_are_found():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [layers.Dense(3, name=f"block{i}") for i in range(2)]
            self.parts = {"last": layers.Dense(2, name="last")}

        def call(self, x):
            for block in self.blocks:
                x = block(x)
            return self.parts["last"](x)

    model = Net()
    model(np.ones((1, 4), "float32"))
    names = [path.split("/")[-2] for path in selection.select(model).variables]
    assert names == ["block0", "block1", "last"]


def test_a_subclass_of_a_known_layer_is_known():
    class Special(layers.Dense):
        pass

    model = chain((3,), Special(2, name="special"))
    assert list(selection.select(model).variables) == ["special/kernel"]


def test_a_kernel_of_an_unknown_layer_is_skipped_with_its_class():
    class Odd(layers.Layer):
        def build(self, shape):
            self.matrix = self.add_weight(shape=(shape[-1], 2), name="matrix")

        def call(self, x):
            return keras.ops.matmul(x, self.matrix)

    model = chain((3,), Odd(), layers.Dense(2))
    [reason] = [
        reason
        for path, reason in selection.select(model).skipped.items()
        if path.endswith("matrix")
    ]
    assert "Odd" in reason and "`filters`" in reason


def test_frozen_weights_are_neither_selected_nor_skipped():
    model = small(trainable=False)
    chosen = selection.select(model)
    assert list(chosen.variables) == ["hidden/kernel", "logits/kernel"]
    assert "conv/kernel" not in chosen.skipped


def test_a_shared_layer_is_selected_once():
    shared = layers.Dense(4, name="shared")
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2, name="top")(shared(shared(x))))
    assert list(selection.select(model).variables) == [
        "shared/kernel",
        "top/kernel",
    ]


def twins():
    """Two nested models whose layers have the same path."""

    def branch(name):
        x = keras.Input((4,))
        return keras.Model(x, layers.Dense(4, name="dense")(x), name=name)

    x = keras.Input((4,))
    return keras.Model(x, branch("right")(branch("left")(x)))


def test_equal_paths_get_a_number():
    model = twins()
    assert [v.path for v in model.trainable_variables] == [
        "dense/kernel",
        "dense/bias",
    ] * 2
    chosen = selection.select(model)
    assert list(chosen.variables) == ["dense/kernel", "dense/kernel#2"]
    assert list(chosen.skipped) == ["dense/bias", "dense/bias#2"]
    first, second = chosen.variables.values()
    assert first is model.trainable_variables[0]
    assert second is model.trainable_variables[2]


def test_masks_of_names_equal_paths_as_the_pruner_does():
    model = twins()
    model.compile("sgd", "mse")
    second = model.trainable_variables[2]
    pruner = pruners.MagnitudePruner(
        schedules.OneShot(0.5), filters=lambda variable: variable is second
    )
    x = np.ones((4, 4), "float32")
    model.fit(x, x, verbose=0, callbacks=[pruner])
    assert list(pruner.masks) == ["dense/kernel#2"]
    assert list(masks_of(model)) == ["dense/kernel#2"]


# ---- filters -----------------------------------------------------------


def test_a_regex_is_searched_in_the_path():
    chosen = selection.select(small(), "idd")
    assert list(chosen.variables) == ["hidden/kernel"]
    assert chosen.skipped["conv/kernel"] == "not matched by `filters`"


def test_a_list_of_regexes_matches_any():
    chosen = selection.select(small(), ["^conv", "logits/k"])
    assert list(chosen.variables) == ["conv/kernel", "logits/kernel"]


def test_a_callable_is_asked_for_each_variable():
    chosen = selection.select(small(), lambda v: v.shape[-1] == 4)
    assert list(chosen.variables) == ["hidden/kernel"]


def test_filters_reach_what_the_default_leaves_out():
    filters = ["depthwise/", "embedding", "recurrent_kernel"]
    assert set(selection.select(everything(), filters).variables) == {
        "depthwise/kernel",
        "embedding/embeddings",
        "lstm/lstm_cell/recurrent_kernel",
    }


def test_a_broad_filter_leaves_biases_and_normalization_alone():
    chosen = selection.select(small(), ".")
    assert list(chosen.variables) == [
        "conv/kernel",
        "hidden/kernel",
        "logits/kernel",
    ]


@pytest.mark.parametrize("filters", ["nothing", [], ["a^"], lambda v: False])
def test_filters_that_match_nothing_are_refused(filters):
    with pytest.raises(ValueError, match="nothing to prune") as error:
        selection.select(small(), filters)
    assert "conv/kernel" in str(error.value)
    assert f"filters={filters!r}" in str(error.value)


def test_a_model_without_kernels_is_refused():
    model = chain((4,), layers.LayerNormalization())
    with pytest.raises(ValueError, match="nothing to prune"):
        selection.select(model)


def test_a_model_that_is_not_built_is_refused():
    with pytest.raises(ValueError, match="built"):
        selection.select(keras.Sequential([layers.Dense(2)]))


@pytest.mark.parametrize(
    "filters, error", [(3, TypeError), (["a", 3], TypeError), ("(", ValueError)]
)
def test_bad_filters_are_refused_with_their_value(filters, error):
    with pytest.raises(error) as caught:
        selection.check_filters(filters)
    assert "`filters`" in str(caught.value)
    assert "Received: filters=" in str(caught.value)


# ---- the paper's choice ------------------------------------------------


def filtered(model):
    filters = selection.convolution_kernels(model)
    return list(selection.select(model, filters).variables)


def test_the_papers_choice_is_the_convolutions():
    assert filtered(small()) == ["conv/kernel"]
    assert set(filtered(everything())) == {
        "conv/kernel",
        "separable/pointwise_kernel",
        "transpose/kernel",
    }


def test_without_convolutions_it_is_all_dense_kernels_but_the_last():
    model = chain((4,), *[layers.Dense(3, name=n) for n in "abc"])
    assert filtered(model) == ["a/kernel", "b/kernel"]


@keras.saving.register_keras_serializable(package="test_selection")
class Referring(layers.Wrapper):
    """Keeps the kernel of what it wraps, under a name of its own."""

    def build(self, input_shape=None):
        super().build(input_shape)
        self.anything = self.layer.kernel

    def call(self, x):
        return self.layer(x)


@keras.saving.register_keras_serializable(package="test_selection")
class Watching(layers.Layer):
    """Refers to the kernel of a layer that is not inside."""

    def __init__(self, of=None, **kwargs):
        super().__init__(**kwargs)
        self.watched = of.kernel

    def call(self, x):
        return x


def wrapped():
    x = inputs = keras.Input((4, 8, 2))
    conv = layers.Conv1D(4, 3, name="conv")
    x = layers.TimeDistributed(layers.SpectralNormalization(conv))(x)
    x = layers.SpectralNormalization(
        layers.SpectralNormalization(layers.Conv2D(4, 2, name="twice"))
    )(x)
    x = layers.Reshape((15, 4))(x)
    x = layers.Bidirectional(layers.LSTM(3, name="lstm"))(x)
    x = Referring(layers.Dense(5, name="referred"))(x)
    watched = layers.Dense(3, name="watched")
    watched.build((None, 5))
    return keras.Model(inputs, watched(Watching(watched)(x)))


def test_a_kernel_is_of_the_layer_that_made_it_whatever_refers_to_it():
    model = wrapped()
    chosen = selection.select(model)
    ends = [path.split("/")[-2] for path in chosen.variables]
    assert ends == ["conv", "twice", "referred", "watched"]
    reasons = {why.split(";")[0] for why in chosen.skipped.values()}
    assert "a kernel of LSTMCell" in reasons
    assert not any("SpectralNormalization" in why for why in reasons)


def test_an_embedding_stays_one_in_a_wrapper_that_calls_it_a_kernel():
    x = inputs = keras.Input((5,), dtype="int32")
    x = layers.SpectralNormalization(layers.Embedding(9, 4, name="words"))(x)
    outputs = layers.Dense(2, name="head")(x)
    chosen = selection.select(keras.Model(inputs, outputs))
    assert [path.split("/")[-2] for path in chosen.variables] == ["head"]
    [reason] = [w for p, w in chosen.skipped.items() if "words" in p]
    assert reason.startswith("an embedding")


@pytest.mark.parametrize("again", ["load", "clone"])
def test_a_copy_of_a_model_with_wrappers_has_the_same_owners(again, tmp_path):
    model = chain((4,), Referring(layers.Dense(3, name="in")))
    if again == "load":
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
    else:
        model = keras.models.clone_model(model)
    owners = selection.owners_of(model)
    kernel = model.trainable_variables[0]
    layer, attribute = owners[id(kernel)]
    assert (layer.name, attribute) == ("in", "kernel")


def test_spectral_normalization_keeps_the_zeros_that_it_rescales():
    model = chain(
        (6, 6, 2),
        layers.SpectralNormalization(layers.Conv2D(4, 3)),
        layers.Flatten(),
        layers.SpectralNormalization(layers.Dense(6)),
        layers.Dense(2),
    )
    model.compile("adam", "mse")
    pruner = pruners.MagnitudePruner(schedules.OneShot(0.5), on_miss="raise")
    x = np.random.default_rng(0).random((16, 6, 6, 2))
    model.fit(x, np.ones((16, 2)), batch_size=4, verbose=0, callbacks=[pruner])
    assert len(pruner.masks) == 3
    for path, variable in pruner.variables.items():
        values = keras.ops.convert_to_numpy(variable)
        assert np.count_nonzero(values) == -(-values.size // 2)
        assert not values[~pruner.masks[path]].any()
