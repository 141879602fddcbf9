"""Tests of structures that a model tells: joined channels, heads, blocks."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_app import masks
from keras_app import masks_of
from keras_app.export import export_litert
from keras_app.export import shrink
from keras_app.pruners import ACDC
from keras_app.pruners import AnytimeProgressivePruner
from keras_app.pruners import MagnitudePruner
from keras_app.pruners import RigL
from keras_app.pruners import SaliencyPruner
from keras_app.pruners import STE
from keras_app.pruners import WandaPruner
from keras_app.schedules import ConstantSparsity
from keras_app.schedules import OneShot
from tests.models import OneDense
from tests.models import randomize

CHANNELS = masks.GraphChannel()
HEADS = masks.AttentionHead()


def array(variable):
    return ops.convert_to_numpy(variable)


def conv_norm(x, filters, name, size=3, **kwargs):
    x = layers.Conv2D(
        filters, size, padding="same", name=name, **kwargs.pop("conv", {})
    )(x)
    return layers.BatchNormalization(name=f"{name}_norm", **kwargs)(x)


def residual():
    x = inputs = keras.Input((6, 6, 2))
    x = stream = layers.ReLU()(conv_norm(x, 8, "stem"))
    x = layers.ReLU()(conv_norm(x, 6, "inner"))
    x = layers.ReLU()(conv_norm(x, 8, "outer") + stream)
    x = layers.ReLU()(conv_norm(x, 10, "down", conv={"strides": 2}))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def mobilenet():
    x = inputs = keras.Input((6, 6, 3))
    x = stream = conv_norm(x, 4, "stem")
    x = layers.ReLU(6.0)(conv_norm(x, 12, "expand", 1))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    # Without a scale, as in networks whose next layer is linear.
    x = conv_norm(x, 4, "project", 1, scale=False) + stream
    x = layers.ReLU()(conv_norm(x, 6, "last", scale=False))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def densenet():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    y = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(4, 3, padding="same", name="grown")(y)
    x = layers.Concatenate()([x, y])
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = conv_norm(x, 6, "top")
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def flattened():
    return keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            layers.Conv2D(6, 3, name="conv", activation="relu"),
            layers.Flatten(),
            layers.Dense(10, name="hidden", activation="gelu"),
            layers.Dense(3, name="head"),
        ]
    )


def transformer():
    inputs = keras.Input((5, 2))
    x = layers.Dense(8, name="embed")(inputs)
    y = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(4, 3, name="attention")(y, y)
    y = layers.LayerNormalization()(x)
    y = layers.Dense(16, activation="gelu", name="up")(y)
    x = x + layers.Dense(8, name="down")(y)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def attending(attend):
    x = inputs = keras.Input((5, 4))
    x = layers.Dense(6)(attend(x))
    model = keras.Model(inputs, x)
    model.compile("sgd", "mse")
    return model


def fit(model, *pruners):
    """Trains from weights and statistics that are nowhere zero."""
    generator = np.random.default_rng(0)
    randomize(model, generator)
    x = generator.standard_normal((32, *model.input_shape[1:]))
    y = generator.integers(0, 3, 32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, 0.9), loss)
    model.fit(x, y, batch_size=8, callbacks=pruners, verbose=0)
    return x


def pruned(model):
    pruner = MagnitudePruner(OneShot(0.5, 1), structure=CHANNELS)
    return pruner, fit(model, pruner)


def shrunk(model, x):
    """The smaller model, with the same outputs and with nothing left over."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        smaller = shrink(model, data=x)
    old, new = array(model(x)), array(smaller(x))
    np.testing.assert_allclose(new, old, rtol=0, atol=1e-5 * np.abs(old).max())
    return smaller


def widths(model):
    kinds = (layers.Dense, layers.Conv2D)
    return {
        layer.name: layer.kernel.shape[-1]
        for layer in model.layers
        if isinstance(layer, kinds)
        and not isinstance(layer, layers.DepthwiseConv2D)
    }


# ---- channels ----------------------------------------------------------------


def test_half_the_channels_of_a_residual_network_go():
    model = residual()
    pruner, x = pruned(model)
    smaller = shrunk(model, x)
    assert widths(smaller) == {
        "stem": 4,
        "inner": 3,
        "outer": 4,
        "down": 5,
        "head": 3,
    }
    # What is pruned was at work until the second step, and is joined.
    first, second = (
        pruner.masks[f"{name}/kernel"].any((0, 1, 2))
        for name in ("stem", "outer")
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(masks_of(model)["outer_norm/beta"], second)
    assert pruner.missed == []
    assert "outer_norm/gamma" in str(pruner.report.notes)
    assert "outer_norm/gamma" not in pruner.report.skipped
    assert "outputs of the model" in pruner.report.skipped["head/kernel"]


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            mobilenet,
            {"stem": 2, "expand": 6, "project": 2, "last": 3},
        ),
        (densenet, {"stem": 4, "grown": 2, "top": 3}),
        (flattened, {"conv": 3, "hidden": 5}),
    ],
)
def test_half_the_channels_go_in_other_networks(make, expected):
    model = make()
    smaller = shrunk(model, pruned(model)[1])
    assert widths(smaller) == {**expected, "head": 3}


def two_dense():
    x = inputs = keras.Input((2,))
    a = layers.Dense(4, name="a")(x)
    b = layers.Dense(4, name="b")(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(a + b))
    model.compile("sgd", "mse")
    model.get_layer("a").kernel.assign([[1.0, 5.0, 2.0, 1.0], [1.0, 0, 0, 2]])
    model.get_layer("b").kernel.assign([[3.0, -1, 2.0, 3.0], [3.0, 1, 1, 2]])
    return model


def bound(model, structure=CHANNELS, **kwargs):
    pruner = MagnitudePruner(OneShot(0.5), structure=structure, **kwargs)
    pruner.set_model(model)
    return pruner


@pytest.mark.backend_free
def test_a_joined_channel_is_scored_by_the_sum_over_its_layers():
    model = two_dense()
    pruner = bound(model)
    # 8, 7, 5 and 8.
    pruner.prune(0.5)
    expected = np.array([[True, False, False, True]] * 2)
    for name in ("a", "b"):
        np.testing.assert_array_equal(pruner.masks[f"{name}/kernel"], expected)
        np.testing.assert_array_equal(
            masks_of(model)[f"{name}/bias"], expected[0]
        )
    assert pruner.report.sparsity == 0.5


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("kwargs", "kept"),
    [
        # int(0.5 * 15) = 7 of all, wherever they are.
        ({"scope": "global"}, [4, 4]),
        ({"custom_sparsity": {"^b/": 0.25}}, [8, 3]),
        (
            {
                "distribution": lambda shapes, s: {
                    "a/kernel": 0.9,
                    "c/kernel": 0.2,
                }
            },
            [1, 4],
        ),
    ],
)
def test_what_competes_is_counted_exactly(kwargs, kept):
    inputs = keras.Input((2,))
    x = layers.Dense(10, name="a")(inputs) + layers.Dense(10, name="b")(inputs)
    x = layers.Dense(5, name="c")(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    model.compile("sgd", "mse")
    values = np.arange(20.0).reshape(2, 10)
    for name in ("a", "b"):
        model.get_layer(name).kernel.assign(values)
    model.get_layer("c").kernel.assign(np.full((10, 5), 4.25))
    pruner = bound(model, **kwargs)
    pruner.prune(0.5)
    found = [pruner.masks[f"{name}/kernel"].any(0).sum() for name in "abc"]
    assert found == [kept[0], kept[0], kept[1]]


@pytest.mark.backend_free
def test_what_is_joined_to_a_kernel_left_out_is_left_alone():
    model = two_dense()
    with pytest.raises(ValueError, match="b/kernel, which makes them too, is "):
        bound(model, filters="^a/")
    x = inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, name="free")(x)
    x = conv_norm(x, 4, "held")
    model = keras.Model(inputs, layers.Conv2D(2, 1)(x))
    model.get_layer("held_norm").trainable = False
    model.compile("sgd", "mse")
    pruner = bound(model)
    assert list(pruner.variables) == ["free/kernel"]
    assert "held_norm/gamma is frozen" in pruner.report.skipped["held/kernel"]


@pytest.mark.backend_free
def test_saliency_and_app_prune_whole_groups():
    generator = np.random.default_rng(1)
    data = [(generator.random((8, 2)), generator.random((8, 3)))]
    for pruner in (
        SaliencyPruner(OneShot(0.5), "taylor", data, structure=CHANNELS),
        AnytimeProgressivePruner(
            OneShot(0.5), data=data, structure=CHANNELS, filters="kernel"
        ),
    ):
        model = two_dense()
        pruner.set_model(model)
        pruner.prune(0.5)
        found = [mask.any(0) for mask in pruner.masks.values()]
        found.append(masks_of(model)["a/bias"])
        assert [mask.sum() for mask in found] == [2, 2, 2]
        assert (found[0] == found).all()


@pytest.mark.backend_free
def test_the_channels_of_an_earlier_fit_stay_pruned_after_compiling_again():
    model = two_dense()
    pruner = bound(model)
    pruner.prune(0.5)
    pruner.finish(0.5)
    model.compile("sgd", "mse")
    pruner.set_model(model)
    for name in ("a/kernel", "b/kernel", "a/bias", "b/bias"):
        mask = masks_of(model)[name]
        np.testing.assert_array_equal(
            mask, np.broadcast_to([True, False, False, True], mask.shape)
        )


@pytest.mark.backend_free
def test_two_pruners_both_go_on_after_compiling_again():
    model = two_dense()
    pruners = [
        MagnitudePruner(OneShot(0.5), structure=masks.Channel(), filters=name)
        for name in ("^a/", "^b/")
    ]
    for pruner in pruners:
        pruner.set_model(model)
        pruner.prune(0.5)
        pruner.finish(0.5)
    model.compile("sgd", "mse")
    for pruner in pruners:
        pruner.set_model(model)
    assert [mask.sum() for mask in masks_of(model).values()] == [4, 4]


@pytest.mark.backend_free
def test_joined_layers_have_one_sparsity():
    different = {"^a/": 0.25, "^b/": 0.5}
    with pytest.raises(ValueError, match="must agree .*0.25.*0.5"):
        bound(two_dense(), custom_sparsity=different)
    bound(two_dense(), custom_sparsity={**different, "^(a|b)/": 0.5})


@pytest.mark.backend_free
def test_bad_arguments_are_refused():
    model = OneDense()
    model(np.ones((1, 3), "float32"))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"Channel\(\)`.*type OneDense"):
        bound(model)
    with pytest.raises(TypeError, match="only a pruner knows.*GraphChannel"):
        masks.mask_from_scores(np.ones((2, 2)), 0.5, CHANNELS)
    for pruner, kwargs in (
        (ACDC, {}),
        (RigL, {}),
        (AnytimeProgressivePruner, {"mask_update": "replace"}),
    ):
        with pytest.raises(ValueError, match="brings them back.*Received: .*"):
            pruner(OneShot(0.5), structure=HEADS, **kwargs)
    with pytest.raises(ValueError, match="`distribution` must be.*'erk'"):
        MagnitudePruner(OneShot(0.5), structure=CHANNELS, distribution="erk")
    with pytest.raises(ValueError, match="`target` must be.*'cuda'"):
        masks.TargetBlock("cuda")


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "structure", [CHANNELS, HEADS, masks.TargetBlock("litert_int8", "max")]
)
def test_structures_survive_their_configuration(structure):
    pruner = MagnitudePruner(OneShot(0.5), structure=structure)
    again = MagnitudePruner.from_config(pruner.get_config())
    assert again.structure == structure


# ---- heads -------------------------------------------------------------------


def test_half_the_heads_go_and_the_neurons_beside_them():
    model = transformer()
    neurons = MagnitudePruner(OneShot(0.25, 1), structure=CHANNELS)
    heads = MagnitudePruner(OneShot(0.5, 1), structure=HEADS)
    smaller = shrunk(model, fit(model, heads, neurons))
    assert smaller.get_layer("attention").num_heads == 2
    assert smaller.get_layer("attention").value_dense.kernel.shape == (8, 2, 3)
    assert widths(smaller)["up"] == 12
    skipped = neurons.report.skipped
    assert "normalizes over all channels" in skipped["down/kernel"]
    assert "AttentionHead" in skipped["attention/value/kernel"]
    assert list(heads.variables) == [
        f"attention/{name}/kernel"
        for name in ("query", "key", "value", "attention_output")
    ]
    assert masks_of(model)["attention/key/bias"].sum() == 2 * 3


@pytest.mark.backend_free
def test_heads_of_grouped_queries_go_with_their_queries():
    attention = layers.GroupQueryAttention(3, 8, 4, use_gate=True, name="gqa")
    model = attending(lambda x: attention(x, x, use_causal_mask=True))
    bound(model, HEADS).prune(0.5)
    x = np.random.default_rng(0).standard_normal((4, 5, 4))
    new = shrunk(model, x).get_layer("gqa")
    assert (new.num_query_heads, new.num_key_value_heads) == (4, 2)


@pytest.mark.backend_free
def test_heads_that_are_seen_from_outside_stay():
    attention = layers.MultiHeadAttention(2, 3, name="attention")

    def attend(x):
        out, scores = attention(x, x, return_attention_scores=True)
        return out * ops.mean(scores)

    with pytest.raises(ValueError, match="more than its output"):
        bound(attending(attend), HEADS)


@pytest.mark.backend_free
@pytest.mark.parametrize("read", [[1], []])
def test_heads_that_nothing_reads_go_and_one_stays(read):
    attention = layers.MultiHeadAttention(4, 3, name="attention")
    model = attending(lambda x: attention(x, x))
    kernel = np.zeros((4, 3, 4))
    kernel[read] = 1.0
    attention.output_dense.kernel.assign(kernel)
    x = np.random.default_rng(0).standard_normal((4, 5, 4))
    assert shrunk(model, x).get_layer("attention").num_heads == 1


# ---- blocks for a runtime ----------------------------------------------------


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("target", "inputs", "outputs"), [("litert", 4, 4), ("litert_int8", 16, 1)]
)
def test_blocks_lie_along_what_the_runtime_sums_over(target, inputs, outputs):
    x = start = keras.Input((4, 4, 6))
    x = layers.Conv2D(16, 1, name="point")(x)
    x = layers.Conv2D(16, 3, name="wide")(x)
    x = layers.Reshape((4, 16))(x)
    x = layers.EinsumDense("abc,cde->abde", (None, 2, 8), name="split")(x)
    x = layers.EinsumDense("abde,dec->abc", (None, 16), name="join")(x)
    x = layers.EinsumDense("abc,dc->abd", (None, 16), name="turned")(x)
    x = layers.Dense(18, name="dense")(x)
    # 18 inputs are neither a multiple of 4 nor of 16.
    model = keras.Model(start, layers.Dense(2, name="odd")(x))
    model.compile("sgd", "mse")
    bound(model, masks.TargetBlock(target)).prune(0.5)
    found = {path.split("/")[0]: m for path, m in masks_of(model).items()}
    for matrix in (
        found["split"].reshape(16, 16),
        found["join"].reshape(16, 16),
        found["turned"].T,
        found["dense"],
    ):
        blocks = matrix.reshape(16 // inputs, inputs, -1)
        assert (blocks.all(1) == blocks.any(1)).all()
        assert matrix.sum() == matrix.size // 2
    blocks = found["point"].reshape(6, 16 // outputs, outputs)
    assert (blocks.all(2) == blocks.any(2)).all()
    expected = {"point": 6 * 16 // 2, "wide": 9 * 16 * 16 // 2, "odd": 18}
    assert {name: found[name].sum() for name in expected} == expected


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="the converter is TensorFlow's; other backends start a process",
)
def test_litert_stores_the_blocks_of_einsum_kernels(tmp_path):
    x = inputs = keras.Input((4, 16))
    x = layers.EinsumDense("abc,cde->abde", (None, 2, 8))(x)
    x = layers.EinsumDense("abde,dec->abc", (None, 16))(x)
    model = keras.Model(inputs, x)
    model.compile("sgd", "mse")
    structure = masks.TargetBlock("litert")
    pruner = MagnitudePruner(OneShot(0.8), structure=structure)
    pruner.set_model(model)
    pruner.prune(0.8)
    x = np.random.default_rng(0).standard_normal((4, 4, 16))
    report = export_litert(model, tmp_path / "model.tflite", data=x)
    assert len(report.blocked_tensors) == 2


def _mixed_by(kernel, axes):
    """The kernel as the matrix (inputs, outputs) that its layer multiplies."""
    others = [axis for axis in range(kernel.ndim) if axis not in axes]
    rows = int(np.prod([kernel.shape[axis] for axis in axes]))
    return np.transpose(kernel, [*axes, *others]).reshape(rows, -1)


def zoo():
    """Layers of each kind, their kernels and the axes that are summed over."""
    x = inputs = keras.Input((6, 6, 8))
    x = layers.Conv2D(8, 3, name="conv")(x)
    x = layers.Conv2D(4, 2, groups=2, name="grouped")(x)
    x = layers.Conv2DTranspose(8, 2, name="transpose")(x)
    x = layers.DepthwiseConv2D(2, name="depthwise")(x)
    x = layers.SeparableConv2D(8, 2, name="separable")(x)
    x = layers.Reshape((4, 8))(x)
    x = layers.MultiHeadAttention(2, 6, name="mha")(x, x)
    x = layers.GroupQueryAttention(6, 4, 2, name="gqa")(x, x)
    # Batches of products, and inputs that stand behind the outputs.
    x = layers.EinsumDense("abc,dec->abde", (None, 2, 8), name="back")(x)
    x = layers.EinsumDense("abde,def->abdf", (None, 2, 4), name="batch")(x)
    x = layers.EinsumDense("...de,def->...f", (8,), name="both")(x)
    x = layers.LSTM(4, name="lstm")(x)
    return keras.Model(inputs, layers.Dense(6, name="dense")(x))


SUMMED = {
    "conv/kernel": (0, 1, 2),
    "grouped/kernel": (0, 1, 2),
    "transpose/kernel": (3,),
    "separable/pointwise_kernel": (0, 1, 2),
    "mha/query/kernel": (0,),
    "mha/key/kernel": (0,),
    "mha/value/kernel": (0,),
    "mha/attention_output/kernel": (0, 1),
    "gqa/query/kernel": (0,),
    "gqa/key/kernel": (0,),
    "gqa/value/kernel": (0,),
    "gqa/attention_output/kernel": (0, 1),
    "back/kernel": (2,),
    "batch/kernel": (1,),
    "both/kernel": (0, 1),
    "lstm/lstm_cell/kernel": (0,),
    "lstm/lstm_cell/recurrent_kernel": (0,),
    "dense/kernel": (0,),
}


@pytest.mark.filterwarnings("error::UserWarning")
def test_n_m_along_the_inputs_is_along_what_each_layer_sums_over():
    pruner = MagnitudePruner(
        OneShot(0.5), structure=masks.NM(2, 4, axis="inputs"), filters="kernel"
    )
    model = zoo()
    model.compile("sgd", "mse")
    dense = {v.path: array(v).copy() for v in model.trainable_variables}
    x = np.random.default_rng(0).random((4, 6, 6, 8))
    model.optimizer.learning_rate = 0.0
    model.fit(x, np.ones((4, 6)), verbose=0, callbacks=[pruner])
    assert list(pruner.masks) == list(SUMMED)
    for path, mask in pruner.masks.items():
        rows = _mixed_by(mask, SUMMED[path])
        weights = _mixed_by(np.abs(dense[path]), SUMMED[path])
        for start in range(0, len(rows), 4):
            kept, values = rows[start : start + 4], weights[start : start + 4]
            assert (kept.sum(axis=0) == min(2, len(kept))).all(), path
            best = np.sort(values, axis=0)[-2:].sum(axis=0)
            np.testing.assert_allclose((values * kept).sum(axis=0), best, 1e-6)
    assert "sums over no inputs" in pruner.report.skipped["depthwise/kernel"]
    assert (
        "sums over no inputs"
        in pruner.report.skipped["separable/depthwise_kernel"]
    )
    assert pruner.missed == []


def test_n_m_along_the_inputs_of_dense_layers_is_that_of_axis_minus_2():
    kept = []
    for axis in (-2, "inputs"):
        model = keras.Sequential([keras.Input((8,)), layers.Dense(6)])
        model.compile("sgd", "mse")
        kernel = np.random.default_rng(0).normal(size=(8, 6))
        model.layers[0].kernel.assign(kernel)
        structure = masks.NM(2, 4, axis=axis)
        pruner = STE(
            ConstantSparsity(0.5, 0, frequency=1), 2e-4, structure=structure
        )
        x = np.random.default_rng(1).random((16, 8))
        model.fit(
            x, x[:, :6], epochs=3, batch_size=4, verbose=0, callbacks=[pruner]
        )
        kept += pruner.masks.values()
    np.testing.assert_array_equal(*kept)


@pytest.mark.parametrize("method", [RigL, ACDC, WandaPruner])
def test_n_m_along_the_inputs_goes_with_other_methods(method):
    x = inputs = keras.Input((5, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    model = keras.Model(inputs, x)
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).random((8, 5, 8))
    data = {"data": [(x, x)]} if method is WandaPruner else {}
    structure = masks.NM(1, 4, axis="inputs")
    pruner = method(OneShot(0.75), structure=structure, **data)
    model.fit(x, x, verbose=0, callbacks=[pruner])
    for path, mask in pruner.masks.items():
        axes = (0, 1) if "output" in path else (0,)
        groups = _mixed_by(mask, axes).reshape(-1, 4, np.size(mask) // 8)
        assert (groups.sum(axis=1) == 1).all(), path
    assert pruner.missed == []
    again = method.from_config(pruner.get_config())
    assert again.structure == structure


def test_transposable_n_m_along_the_inputs_is_of_the_whole_matrix():
    x = inputs = keras.Input((5, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    model = keras.Model(inputs, x)
    model.compile("sgd", "mse")
    structure = masks.NM(2, 4, axis="inputs", transposable=True)
    pruner = MagnitudePruner(OneShot(0.5), structure=structure)
    pruner.set_model(model)
    pruner.prune(0.5)
    for path, mask in pruner.masks.items():
        matrix = _mixed_by(mask, (0, 1) if "output" in path else (0,))
        assert (matrix.reshape(2, 4, 8).sum(axis=1) == 2).all()
        assert (matrix.reshape(8, 2, 4).sum(axis=2) == 2).all()


def test_a_tied_embedding_is_n_m_along_what_the_logits_sum_over():
    words = keras.Input((3,), dtype="int32")
    table = layers.ReversibleEmbedding(6, 8, name="table")
    model = keras.Model(words, table(table(words), reverse=True))
    model.compile("sgd", "mse")
    structure = masks.NM(2, 4, axis="inputs")
    pruner = MagnitudePruner(OneShot(0.5), "layer", structure, filters="table")
    pruner.set_model(model)
    pruner.prune(0.5)
    [mask] = pruner.masks.values()
    assert (mask.reshape(6, 2, 4).sum(axis=2) == 2).all()


def test_n_m_along_inputs_that_nobody_knows_is_refused():
    words = keras.Input((3,), dtype="int32")
    model = keras.Model(words, layers.Embedding(6, 8, name="table")(words))
    model.compile("sgd", "mse")
    structure = masks.NM(2, 4, axis="inputs")
    pruner = MagnitudePruner(OneShot(0.5), "layer", structure, filters="table")
    with pytest.raises(ValueError, match="Embedding: it sums over no inputs"):
        pruner.set_model(model)

    class Own(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

        def call(self, x):
            return x @ self.kernel

    inputs = keras.Input((8,))
    hidden = layers.Dense(8, name="known")(inputs)
    model = keras.Model(inputs, Own(name="own")(hidden))
    model.compile("sgd", "mse")
    pruner = MagnitudePruner(OneShot(0.5), "layer", structure, filters="kernel")
    pruner.set_model(model)
    assert list(pruner.masks) == ["known/kernel"]
    assert "of Own, of which" in pruner.report.skipped["own/kernel"]


def test_n_m_along_an_axis_that_is_not_summed_over_is_pointed_out():
    model = zoo()
    model.compile("sgd", "mse")
    pruner = MagnitudePruner(OneShot(0.5), structure=masks.NM(2, 4, axis=-2))
    with pytest.warns(UserWarning, match="do not sum over") as caught:
        pruner.set_model(model)
    [said] = [str(w.message) for w in caught if "sum over" in str(w.message)]
    assert "axis='inputs'" in said
    # Queries, keys and values, a transposed convolution, a kernel whose
    # inputs stand last; four are named.
    assert "transpose/kernel, mha/query/kernel" in said
    assert "and 4 more" in said
    assert "dense/kernel" not in said and "conv/kernel" not in said
    assert said.split("groups ")[1].rstrip(".") in str(pruner.report)


def test_kernels_that_n_m_leaves_dense_are_named():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(8, name="short")])
    model.compile("sgd", "mse")
    pruner = MagnitudePruner(OneShot(0.5), structure=masks.NM(2, 4, axis=-2))
    with pytest.warns(
        UserWarning, match="leaves .*short/kernel dense: no more"
    ):
        pruner.set_model(model)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("arguments", [{"axis": -2}, {"transposable": True}])
def test_n_m_along_axes_that_are_summed_over_is_not_pointed_out(arguments):
    x = inputs = keras.Input((4, 4, 4))
    x = layers.Conv2D(4, 2)(x)
    x = layers.Dense(4)(layers.Flatten()(x))
    model = keras.Model(inputs, x)
    model.compile("sgd", "mse")
    pruner = MagnitudePruner(
        OneShot(0.5), structure=masks.NM(2, 4, **arguments)
    )
    pruner.set_model(model)
    assert "sum over" not in str(pruner.report)
