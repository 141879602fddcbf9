"""Tests of the report: zeros and FLOPs by hand, table, dict, picture."""

import json

import keras
import numpy as np
import pytest
from keras import layers

from keras_app import report
from keras_app.export import export_report
from keras_app.pruners import MagnitudePruner
from keras_app.schedules import OneShot
from tests.models import chain


def small():
    """Kernels of 3x3x2x4 with 12 zeros and of 64x10 with 160."""
    model = chain(
        (6, 6, 2),
        layers.Conv2D(4, 3, name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.Flatten(),
        layers.Dense(10, name="dense"),
    )
    conv = np.ones((3, 3, 2, 4))
    conv[:, :, 0, 0] = 0.0
    conv[0, :, 1, 3] = -0.0
    dense = np.ones((64, 10))
    dense[::4] = 0.0
    model.get_layer("conv").kernel.assign(conv)
    model.get_layer("dense").kernel.assign(dense)
    return model


def test_zeros_and_densities_by_hand():
    summary = report.summarize(small())
    rows = {row.path: row for row in summary.rows}
    assert list(rows) == [
        "conv/kernel",
        "conv/bias",
        "norm/gamma",
        "norm/beta",
        "dense/kernel",
        "dense/bias",
    ]
    conv, dense = rows["conv/kernel"], rows["dense/kernel"]
    assert (conv.shape, conv.parameters, conv.zeros) == ((3, 3, 2, 4), 72, 12)
    assert (dense.shape, dense.parameters, dense.zeros) == ((64, 10), 640, 160)
    assert conv.density == pytest.approx(5 / 6)
    assert conv.sparsity == pytest.approx(1 / 6)
    assert dense.density == 0.75
    assert conv.prunable and not rows["conv/bias"].prunable
    assert conv.asked_sparsity is None


def test_totals_by_hand():
    # Biases and beta start at zero: 4 + 4 + 10. All: 72+4+4+4+640+10.
    summary = report.summarize(small())
    assert summary.parameters == 734
    assert summary.zeros == 12 + 160 + 18
    assert summary.density == pytest.approx(1 - 190 / 734)
    assert summary.effective_density == pytest.approx(1 - 172 / 712)
    assert summary.sparsity == pytest.approx(172 / 712)


@pytest.mark.parametrize(
    "shape, layer, expected",
    [
        # Two for each multiply-add.
        ((4,), layers.Dense(5), {"kernel": 2 * 4 * 5}),
        # On each of seven positions.
        ((7, 4), layers.Dense(5), {"kernel": 2 * 4 * 5 * 7}),
        # Valid: 4x4 positions.
        (
            (6, 6, 2),
            layers.Conv2D(4, 3),
            {"kernel": 2 * 3 * 3 * 2 * 4 * 4 * 4},
        ),
        # Stride 2 with padding: 3x4 positions.
        (
            (6, 8, 2),
            layers.Conv2D(4, 3, strides=2, padding="same"),
            {"kernel": 2 * 72 * 3 * 4},
        ),
        # Two groups: each filter sees half of the channels.
        (
            (6, 6, 4),
            layers.Conv2D(4, 3, groups=2),
            {"kernel": 2 * 3 * 3 * 2 * 4 * 16},
        ),
        ((9, 2), layers.Conv1D(4, 3), {"kernel": 2 * 3 * 2 * 4 * 7}),
        (
            (4, 4, 4, 1),
            layers.Conv3D(2, 2),
            {"kernel": 2 * 8 * 2 * 27},
        ),
        # A transposed convolution is applied at each of 6x6 inputs.
        (
            (6, 6, 2),
            layers.Conv2DTranspose(4, 3, strides=2),
            {"kernel": 2 * 72 * 36},
        ),
        ((6, 6, 2), layers.DepthwiseConv2D(3), {"kernel": 2 * 9 * 2 * 16}),
        (
            (6, 6, 2),
            layers.SeparableConv2D(4, 3),
            {"depthwise_kernel": 2 * 18 * 16, "pointwise_kernel": 2 * 8 * 16},
        ),
        # "c" is summed over, "b" counts the applications.
        (
            (5, 4),
            layers.EinsumDense("abc,cd->abd", (5, 3)),
            {"kernel": 2 * 4 * 3 * 5},
        ),
        # One matrix for each "b".
        (
            (5, 4),
            layers.EinsumDense("abc,bcd->abd", (5, 3)),
            {"kernel": 2 * 5 * 4 * 3},
        ),
        ((4,), layers.EinsumDense("ab,bc->ac", 3), {"kernel": 2 * 4 * 3}),
    ],
)
def test_flops_by_hand(shape, layer, expected):
    model = chain(shape, layer)
    flops = report.flops_per_sample(model)
    names = {id(v): v.name for v in model.trainable_variables}
    assert {names[key]: value for key, value in flops.items()} == expected


def test_flops_of_an_einsum_whose_output_axis_is_free():
    # The usual way to write it; the five come from the input.
    model = chain((5, 4), layers.EinsumDense("abc,cd->abd", (None, 3)))
    assert list(report.flops_per_sample(model).values()) == [2 * 4 * 3 * 5]


def test_flops_of_zeros_are_left_out_of_the_sparse_ones():
    summary = report.summarize(small())
    dense, conv = 2 * 640, 2 * 72 * 16
    assert summary.flops == dense + conv
    assert summary.sparse_flops == pytest.approx(dense * 0.75 + conv * 5 / 6)


def test_layers_of_a_nested_model_have_flops():
    inner = chain((4,), layers.Dense(6, name="a"), layers.Dense(4, name="b"))
    model = chain((4,), inner, layers.Dense(3, name="c"))
    assert report.summarize(model).flops == 2 * (24 + 24 + 12)


def conv_at_its_second_shape():
    conv = layers.Conv2D(8, 3, padding="same", name="conv")
    conv(keras.Input((4, 4, 3)))
    return chain((16, 16, 3), conv)


def dense_inside_and_outside():
    shared = layers.Dense(8, name="shared")
    inner = chain((8,), shared, layers.Dense(4, name="inner"))
    x = keras.Input((8,))
    return keras.Model(x, [shared(x), inner(x)])


def dense_twice_in_a_sequential():
    shared = layers.Dense(8, name="shared")
    return keras.Sequential([keras.Input((8,)), shared, layers.ReLU(), shared])


def nested_model_called_twice():
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="in")])
    return chain((8,), inner, inner)


def each_step_of_a_video():
    frame = chain((8, 8, 3), layers.Conv2D(4, 3, name="conv"))
    return chain(
        (5, 8, 8, 3),
        layers.TimeDistributed(frame),
        layers.TimeDistributed(layers.TimeDistributed(layers.Dense(2))),
    )


def recurrent():
    return chain(
        (6, 8),
        layers.Bidirectional(layers.GRU(4, return_sequences=True, name="g")),
        layers.LSTM(3, name="l"),
    )


def attention_to_other_positions():
    x, y = keras.Input((5, 4)), keras.Input((7, 4))
    return keras.Model(
        [x, y], layers.MultiHeadAttention(2, 3)(x, key=y, value=y)
    )


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "make, expected",
    [
        (conv_at_its_second_shape, {"conv": 2 * 216 * 16 * 16}),
        (dense_inside_and_outside, {"shared": 2 * 2 * 64, "inner": 2 * 32}),
        (dense_twice_in_a_sequential, {"shared": 2 * 2 * 64}),
        (nested_model_called_twice, {"in": 2 * 2 * 64}),
        # Five frames, of 6x6 positions.
        (
            each_step_of_a_video,
            {"conv": 2 * 108 * 36 * 5, "dense": 2 * 8 * 36 * 5},
        ),
        # Two directions, six steps, three and four gates.
        (
            recurrent,
            {
                "forward_g": 2 * 6 * (8 + 4) * 12,
                "backward_g": 2 * 6 * (8 + 4) * 12,
                "l": 2 * 6 * (8 + 3) * 12,
            },
        ),
        # Five queries and seven keys and values, of two heads of three.
        (
            attention_to_other_positions,
            {
                "query": 2 * 24 * 5,
                "key": 2 * 24 * 7,
                "value": 2 * 24 * 7,
                "attention_output": 2 * 24 * 5,
            },
        ),
    ],
)
def test_flops_of_every_call_in_the_graph(make, expected):
    found = {}
    for row in report.summarize(make()).rows:
        parts = [p for p in row.path.split("/") if p.split("_")[-1] != "cell"]
        if "kernel" in parts[-1]:
            name = "dense" if "dense" in parts[-2] else parts[-2]
            found[name] = found.get(name, 0) + row.flops
    assert found == expected


class Hidden(layers.Layer):
    """Calls a layer as often as it likes."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(self.inner(x))


class Thrice(keras.Model):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(self.inner(self.inner(x)))


def within_a_layer_of_ones_own():
    # The call outside of it is known, but is not all of them.
    shared = layers.Dense(4)
    return chain((4,), shared, Hidden(shared))


def within_a_subclassed_model():
    model = Thrice(chain((4,), layers.Dense(4)))
    model(np.zeros((1, 4), "float32"))
    return model


def of_unknown_length():
    return chain((None, 4), layers.TimeDistributed(layers.Dense(3)))


def of_a_nested_model_for_images_of_any_size():
    inner = chain((None, None, 1), layers.Conv2D(2, 3))
    return chain((8, 8, 1), inner)


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "make",
    [
        within_a_layer_of_ones_own,
        within_a_subclassed_model,
        of_unknown_length,
        of_a_nested_model_for_images_of_any_size,
    ],
)
def test_flops_that_are_not_known_are_none(make):
    summary = report.summarize(make())
    assert [row.flops for row in summary.rows] == [None, None]
    assert summary.flops == 0


@pytest.mark.backend_free
def test_flops_of_a_distiller_are_those_of_its_student():
    model = keras.distillation.Distiller(
        teacher=chain((4,), layers.Dense(3)),
        student=chain((4,), layers.Dense(3, name="small")),
        distillation_losses=keras.distillation.LogitsDistillation(),
    )
    assert list(report.flops_per_sample(model).values()) == [2 * 4 * 3]


def test_the_table_shows_every_pruned_variable():
    text = str(report.summarize(small()))
    for words in (
        "conv/kernel",
        "3x3x2x4",
        "dense/kernel",
        "64x10",
        "640",
        "160",
        "0.2500",
        "0.1667",
        "all trainable",
        "734",
        "skipped conv/bias: a vector",
        "skipped norm/gamma: a vector",
    ):
        assert words in text


def test_the_table_of_a_pruner_shows_what_was_asked_for():
    model = small()
    model.compile("sgd", "mse")
    pruner = MagnitudePruner(OneShot(0.6), filters="dense")
    pruner.set_model(model)
    pruner.prune(0.6)
    [line] = [
        line
        for line in str(pruner.report).splitlines()
        if "dense/kernel" in line
    ]
    assert "0.6000" in line and "384" in line
    assert "skipped conv/kernel: not matched by `filters`" in str(pruner.report)


def test_long_paths_stay_in_one_piece():
    name = "a_block_of_a_very_deep_network_with_a_name_that_says_everything"
    inner = chain((4,), layers.Dense(3, name=f"{name}_two"))
    model = keras.Sequential([keras.Input((4,)), inner], name=f"{name}_one")
    x = keras.Input((4,))
    long = layers.Dense(3, name=f"{name}_and_{name}")(x)
    for each in (model, keras.Model(x, long)):
        summary = report.summarize(each)
        text = str(summary)
        for row in summary.rows:
            assert row.path in text


def test_brackets_are_no_markup():
    model = chain((4,), layers.Dense(3, name="stage[a]"))
    assert "stage[a]/kernel" in str(report.summarize(model))
    summary = report.PruningReport([], {"x": "as [b] says"}, ["see [red]"])
    assert "as [b] says" in str(summary) and "see [red]" in str(summary)


def test_the_dict_is_plain_and_complete():
    model = small()
    model.compile("sgd", "mse")
    pruner = MagnitudePruner(OneShot(0.5))
    pruner.set_model(model)
    pruner.prune(0.5)
    found = json.loads(json.dumps(pruner.report.to_dict()))
    assert found["parameters"] == 734
    assert found["effective_density"] == pytest.approx(0.5)
    assert set(found["skipped"]) == {
        "conv/bias",
        "norm/gamma",
        "norm/beta",
        "dense/bias",
    }
    [row] = [v for v in found["variables"] if v["path"] == "conv/kernel"]
    assert row["shape"] == [3, 3, 2, 4]
    assert row["zeros"] == 36
    assert row["asked_sparsity"] == 0.5
    assert row["flops"] == 2304
    assert row["density"] == 0.5


def test_the_plot_is_a_picture(tmp_path):
    report.summarize(small()).plot(tmp_path / "density.png")
    content = (tmp_path / "density.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 2000


def test_a_model_without_kernels_has_a_report():
    summary = report.summarize(chain((4,), layers.LayerNormalization(name="n")))
    assert summary.parameters == 8
    assert summary.effective_density == 1.0
    assert set(summary.skipped) == {"n/gamma", "n/beta"}
    assert "0.0000" in str(summary)


def test_a_model_that_is_not_built_is_refused():
    with pytest.raises(ValueError, match="built"):
        report.summarize(keras.Sequential([layers.Dense(2)]))


def test_a_shared_layer_counts_once():
    shared = layers.Dense(4, name="shared")
    x = keras.Input((4,))
    summary = report.summarize(keras.Model(x, shared(shared(x))))
    assert summary.parameters == 20


def test_a_shared_layer_costs_each_time():
    shared = layers.Dense(4, name="shared")
    x = keras.Input((4,))
    summary = report.summarize(keras.Model(x, shared(shared(x))))
    assert summary.rows[0].flops == 2 * 2 * 16


# ---- the whole model -------------------------------------------------------


def test_the_share_of_all_weights_counts_what_is_not_trained():
    summary = report.summarize(small())
    # 4 moving means are zero, 4 moving variances are not.
    assert summary.sparsity_all == pytest.approx((190 + 4) / (734 + 8))
    [line] = [x for x in str(summary).splitlines() if "all weights" in x]
    assert "742" in line and "194" in line and "0.2615" in line
    assert "not trained: norm (8 weights, 4 of them zero)" in str(summary)


def test_a_frozen_layer_is_in_the_report():
    model = small()
    model.get_layer("conv").trainable = False
    model.get_layer("norm").trainable = False
    summary = report.summarize(model)
    assert [row.path for row in summary.rows] == ["dense/kernel", "dense/bias"]
    assert [(row.path, row.zeros) for row in summary.untrained] == [
        ("conv/kernel", 12),
        ("conv/bias", 4),
        ("norm/gamma", 0),
        ("norm/beta", 4),
        ("norm/moving_mean", 4),
        ("norm/moving_variance", 0),
    ]
    assert summary.sparsity == 0.25
    assert summary.sparsity_all == pytest.approx(194 / 742)
    # What it computes counts, whether it is trained or not.
    assert summary.flops == 2 * 640 + 2 * 72 * 16
    found = json.loads(json.dumps(summary.to_dict()))
    assert found["sparsity_all"] == summary.sparsity_all
    assert found["untrained"][0]["path"] == "conv/kernel"
    assert "conv (76 weights, 16 of them zero)" in str(summary)


def many_layers():
    """104 vectors and 17 depthwise kernels, which nobody prunes by default."""
    x = inputs = keras.Input((2, 2, 3))
    for number in range(17):
        x = layers.DepthwiseConv2D(1, use_bias=False, name=f"deep_{number}")(x)
    for number in range(52):
        x = layers.BatchNormalization(name=f"norm_{number}")(x)
    return keras.Model(inputs, layers.Conv2D(2, 1, use_bias=False)(x))


@pytest.mark.backend_free
def test_long_lists_are_counted_in_the_table_and_whole_in_the_report():
    summary = report.summarize(many_layers())
    lines = str(summary).splitlines()
    assert [line for line in lines if line.startswith("skipped")] == [
        "skipped 17 depthwise kernels; name them with `filters` to prune them: "
        "deep_0/kernel, deep_1/kernel, deep_2/kernel, deep_3/kernel and 13 "
        "more",
        "skipped 104 vectors (bias, scale or offset): norm_0/gamma, "
        "norm_0/beta, norm_1/gamma, norm_1/beta and 100 more",
    ]
    assert len(summary.skipped) == 121
    assert summary.skipped["norm_51/beta"].startswith("a vector")


@pytest.mark.backend_free
def test_a_notebook_shows_the_table_with_names_as_they_are():
    model = chain((4,), layers.Dense(3, name="a<b>&c"))
    summary = report.summarize(model)
    page = summary._repr_html_()
    assert "a&lt;b&gt;&amp;c/kernel" in page and "<b>&c" not in page
    assert "4x3" in page and "all weights" in page
    assert "<summary>skipped (1)</summary>" in page
    assert "<script" not in page


@pytest.mark.backend_free
def test_an_export_counts_fused_and_dense_weights():
    fields = dict(format="litert", precision="int8", bytes=1)
    found = export_report.ExportReport(
        path="m.tflite",
        compressed_bytes=1,
        max_difference=0.0,
        dense_tensors={f"w{n};bias;relu": "too few zeros" for n in range(9)},
        repairs=("w0: other numbers; stored dense", "no name"),
        notes=("see there",),
        **fields,
    )
    assert found.remarks() == [
        "repaired: w0: other numbers; stored dense",
        "repaired: no name",
        "dense: w0 (fused with 2 more): too few zeros; the same for w1 (fused "
        "with 2 more), w2 (fused with 2 more), w3 (fused with 2 more), w4 "
        "(fused with 2 more) and 4 more",
        "note: see there",
    ]
