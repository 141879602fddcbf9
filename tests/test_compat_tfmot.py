"""Tests of tfmot's pruning API on Keras 3: schedules, masks, arguments.

Literals marked so were computed with tensorflow-model-optimization 0.8.1 on
tf_keras 2.21, from the same weights.
"""

import pathlib
import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_app import schedules
from keras_app.compat import tfmot
from keras_app.compat.tfmot import ConstantSparsity
from keras_app.compat.tfmot import PolynomialDecay
from keras_app.compat.tfmot import prune_low_magnitude
from keras_app.compat.tfmot import PruningSummaries
from keras_app.compat.tfmot import strip_pruning
from keras_app.compat.tfmot import UpdatePruningStep
from tests.helpers import BACKEND
from tests.helpers import zeros
from tests.models import chain
from tests.tfmot import compiled
from tests.tfmot import dense
from tests.tfmot import pruned_now
from tests.tfmot import rows
from tests.tfmot import selected
from tests.tfmot import train
from tests.tfmot import W64
from tests.tfmot import W73

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "migrating_from_tfmot.md"


# ---- schedules -----------------------------------------------------------


@pytest.mark.backend_free
def test_the_names_are_where_tfmot_has_them():
    for name in (
        "prune_low_magnitude",
        "strip_pruning",
        "prune_scope",
        "UpdatePruningStep",
        "PruningSummaries",
        "PruningSchedule",
        "ConstantSparsity",
        "PolynomialDecay",
        "PrunableLayer",
        "PruningPolicy",
    ):
        assert getattr(tfmot.sparsity.keras, name) is getattr(tfmot, name)
        assert name in tfmot.__all__
    assert tfmot.PolynomialDecay is schedules.PolynomialDecay


@pytest.mark.backend_free
def test_constant_sparsity_prunes_at_the_steps_of_tfmot():
    schedule = ConstantSparsity(0.5, 2, 11, 3)
    # From tfmot.
    due = [step for step in range(14) if schedule(step)[0]]
    assert due == [2, 5, 8, 11]
    assert {schedule(step)[1] for step in range(14)} == {0.5}


@pytest.mark.backend_free
def test_polynomial_decay_has_the_values_of_tfmot():
    schedule = PolynomialDecay(0.2, 0.8, 10, 110, frequency=25)
    # From tfmot, in single precision.
    expected = [
        0.2,
        0.2,
        0.2,
        0.28557503,
        0.36260006,
        0.43152496,
        0.4928,
        0.546875,
        0.5942,
        0.63522506,
        0.6704,
        0.700175,
        0.725,
        0.745325,
        0.7616,
        0.774275,
        0.7838,
        0.79062504,
        0.7952,
        0.797975,
        0.79940003,
        0.799925,
        0.8,
        0.8,
        0.8,
    ]
    steps = range(0, 125, 5)
    found = [schedule(step)[1] for step in steps]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert [s for s in range(140) if schedule(s)[0]] == [10, 35, 60, 85, 110]


@pytest.mark.backend_free
def test_polynomial_decay_of_power_1_has_the_values_of_tfmot():
    schedule = PolynomialDecay(0.0, 0.9, 0, 10, power=1, frequency=4)
    # From tfmot, in single precision.
    expected = [0.0, 0.09, 0.18, 0.27, 0.36, 0.45, 0.54, 0.63, 0.72, 0.81, 0.9]
    found = [schedule(step)[1] for step in range(11)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert [s for s in range(14) if schedule(s)[0]] == [0, 4, 8]


class Halves(tfmot.PruningSchedule):
    """Written as one writes them for tfmot."""

    def __init__(self, begin_step, end_step, frequency):
        self.begin_step = begin_step
        self.end_step = end_step
        self.frequency = frequency

    def __call__(self, step):
        return (
            self._should_prune_in_step(
                step, self.begin_step, self.end_step, self.frequency
            ),
            np.float32(0.5),
        )

    def get_config(self):
        return {
            "begin_step": self.begin_step,
            "end_step": self.end_step,
            "frequency": self.frequency,
        }


def test_a_schedule_written_for_tfmot():
    schedule = Halves(2, 8, 3)
    assert [s for s in range(12) if schedule(s)[0]] == [2, 5, 8]
    assert [s for s in range(12) if Halves(2, -1, 4)(s)[0]] == [2, 6, 10]
    assert (
        zeros(pruned_now(prune_low_magnitude(dense(W64), schedule))["d/kernel"])
        == 12
    )


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "schedule",
    [
        ConstantSparsity(0.5, 2, 11, 3),
        PolynomialDecay(0.2, 0.8, 10, 110, 2, 25),
        Halves(2, 8, 3),
    ],
)
def test_from_config_undoes_get_config(schedule):
    again = type(schedule).from_config(schedule.get_config())
    assert type(again) is type(schedule)
    for step in range(0, 120):
        assert again(step) == schedule(step)


# ---- which weights, in masks of tfmot ------------------------------------


@pytest.mark.parametrize(
    "sparsity, expected",
    [
        # From tfmot.
        (0.25, "0111 1111 1101 1000 1011 1111"),
        (0.5, "0101 1111 1001 0000 0001 1101"),
        (0.75, "0100 0110 1000 0000 0000 1001"),
    ],
)
def test_single_weights(sparsity, expected):
    model = prune_low_magnitude(dense(W64), ConstantSparsity(sparsity, 0))
    assert rows(pruned_now(model, sparsity)["d/kernel"]) == expected


@pytest.mark.parametrize(
    "block_size, block_pooling_type, expected",
    [
        # From tfmot.
        ((2, 2), "AVG", "1111 1111 0000 0000 0011 0011"),
        ((2, 2), "MAX", "1111 1111 1100 1100 0000 0000"),
        ((3, 1), "AVG", "1101 1101 1101 0001 0001 0001"),
        ([3, 1], "MAX", "1110 1110 1110 0001 0001 0001"),
    ],
)
def test_blocks(block_size, block_pooling_type, expected):
    model = prune_low_magnitude(
        dense(W64),
        block_size=block_size,
        block_pooling_type=block_pooling_type,
    )
    assert rows(pruned_now(model)["d/kernel"]) == expected


@pytest.mark.parametrize(
    "m_by_n, expected",
    [
        # From tfmot: zeros are counted, along the inputs. The last three rows
        # are a shorter group.
        ((2, 4), "111 100 011 000 111 101 010"),
        ((1, 4), "111 111 111 000 111 111 111"),
        ([3, 4], "111 000 000 000 111 000 000"),
    ],
)
def test_m_by_n_counts_zeros_along_the_inputs(m_by_n, expected):
    model = prune_low_magnitude(dense(W73), sparsity_m_by_n=m_by_n)
    assert rows(pruned_now(model)["d/kernel"]) == expected


@pytest.mark.parametrize(
    "m_by_n, expected",
    [
        # From tfmot.
        ((2, 4), "01 00 10 11 00 11 10 01"),
        ((1, 4), "11 00 11 11 00 11 11 11"),
    ],
)
def test_m_by_n_of_a_convolution(m_by_n, expected):
    model = compiled(chain((3, 3, 4), layers.Conv2D(2, (1, 2), name="c")))
    kernel = [12, 16, 10, 2, 13, 3, 15, 11, 1, 5, 8, 7, 14, 6, 4, 9]
    kernel = np.multiply(kernel, [1, -1] * 8).reshape(1, 2, 4, 2)
    model.get_layer("c").kernel.assign(kernel)
    prune_low_magnitude(model, sparsity_m_by_n=m_by_n)
    assert rows(pruned_now(model)["c/kernel"].reshape(8, 2)) == expected


@pytest.mark.parametrize(
    "layer, shape, expected",
    [
        (layers.Conv1D(2, 2), (4, 3), ["conv1d/kernel"]),
        (
            layers.Conv2DTranspose(2, 2),
            (4, 4, 3),
            ["conv2d_transpose/kernel"],
        ),
        (
            layers.SeparableConv2D(2, 2),
            (4, 4, 3),
            ["separable_conv2d/pointwise_kernel"],
        ),
        (layers.Embedding(7, 3), (4,), ["embedding/embeddings"]),
        (
            layers.Bidirectional(layers.GRU(3)),
            (4, 3),
            [
                "bidirectional/backward_gru/gru_cell/kernel",
                "bidirectional/backward_gru/gru_cell/recurrent_kernel",
                "bidirectional/forward_gru/gru_cell/kernel",
                "bidirectional/forward_gru/gru_cell/recurrent_kernel",
            ],
        ),
        (
            layers.RNN([layers.LSTMCell(2), layers.SimpleRNNCell(3)]),
            (4, 3),
            [
                "rnn/stacked_rnn_cells/lstm_cell/kernel",
                "rnn/stacked_rnn_cells/lstm_cell/recurrent_kernel",
                "rnn/stacked_rnn_cells/simple_rnn_cell/kernel",
                "rnn/stacked_rnn_cells/simple_rnn_cell/recurrent_kernel",
            ],
        ),
        (
            layers.TimeDistributed(layers.Dense(2)),
            (4, 3),
            ["time_distributed/dense/kernel"],
        ),
    ],
)
def test_the_weights_that_tfmot_prunes(layer, shape, expected):
    # Names are counted up from test to test.
    layer = type(layer).from_config(layer.get_config())
    paths, skipped = selected(
        prune_low_magnitude(compiled(chain(shape, layer)))
    )
    assert [re.sub(r"_\d+\b", "", path) for path in paths] == expected
    assert all("rank" not in reason for reason in skipped.values())


def test_attention():
    x = keras.Input((4, 6))
    attention = layers.MultiHeadAttention(2, 3, name="mha")
    model = compiled(keras.Model(x, attention(x, x)))
    paths, skipped = selected(prune_low_magnitude(model))
    names = ("attention_output", "key", "query", "value")
    assert paths == [f"mha/{name}/kernel" for name in names]
    assert skipped["mha/attention_output/bias"] == (
        "a vector (bias, scale or offset)"
    )
    # The other biases have one row for each head.
    assert skipped["mha/query/bias"] == (
        "a bias or depthwise kernel, which tfmot leaves dense too"
    )


# ---- bad arguments -------------------------------------------------------


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "arguments, said",
    [
        (
            {"block_pooling_type": "MIN"},
            "`block_pooling_type` must be one of 'AVG', 'MAX'. "
            "Received: block_pooling_type='MIN'",
        ),
        (
            {"block_size": (2, 0)},
            "`block_size` must be two integers >= 1. "
            "Received: block_size=(2, 0)",
        ),
        ({"block_size": 4}, "Received: block_size=4"),
        ({"block_size": (1, 2, 3)}, "Received: block_size=(1, 2, 3)"),
        (
            {"sparsity_m_by_n": (4, 2)},
            "`sparsity_m_by_n` must be (m, n) with m < n: m zeros in every n. "
            "Received: sparsity_m_by_n=(4, 2)",
        ),
        ({"sparsity_m_by_n": (2.5, 4)}, "Received: sparsity_m_by_n=(2.5, 4)"),
        ({"sparsity_m_by_n": (0, 4)}, "Received: sparsity_m_by_n=(0, 4)"),
        (
            {"sparsity_m_by_n": (2, 4), "block_size": (2, 2)},
            "`block_size` and `sparsity_m_by_n` exclude each other. Received: "
            "block_size=(2, 2), sparsity_m_by_n=(2, 4)",
        ),
        ({"pruning_schedule": 0.5}, "Received: pruning_schedule=0.5"),
        (
            {"pruning_schedule": ConstantSparsity},
            "Received: pruning_schedule=<class",
        ),
        (
            {"pruning_schedule": lambda step: 0.25},
            ", which returns 0.25 for step 0",
        ),
        (
            {"pruning_policy": "1x1"},
            "`pruning_policy` must have a method `allow_pruning`. "
            "Received: pruning_policy='1x1'",
        ),
    ],
)
def test_bad_arguments_are_refused_with_their_value(arguments, said):
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        prune_low_magnitude(layers.Dense(2), **arguments)


@pytest.mark.backend_free
@pytest.mark.parametrize("wrong", [object(), "model", [layers.ReLU(), 3]])
def test_only_models_and_layers_can_be_marked(wrong):
    with pytest.raises(ValueError, match="(?s)`to_prune` must be a Keras 3"):
        prune_low_magnitude(wrong)


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: UpdatePruningStep(on_miss="no"), "on_miss='no'"),
        (lambda: PruningSummaries(""), "log_dir=''"),
        (lambda: PruningSummaries(None), "log_dir=None"),
        (lambda: PruningSummaries("x", "step"), "update_freq='step'"),
        (lambda: PruningSummaries("x", 0), "update_freq=0"),
        (lambda: strip_pruning(layers.Dense(2)), "must be a `keras.Model`"),
    ],
)
def test_bad_arguments_of_the_others_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# ---- the page ------------------------------------------------------------


@pytest.mark.backend_free
def test_the_new_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    old = [b for b in blocks if "tensorflow_model_optimization" in b]
    new = [b for b in blocks if b not in old]
    assert len(old) == 5 and len(new) == 10
    names = {}
    for block in new:
        # Elsewhere the conversion starts another process, and takes long.
        if "export_litert" in block and BACKEND != "tensorflow":
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            exec(compile(block, PAGE.name, "exec"), names)
    assert "hidden/kernel" in capsys.readouterr().out
    stripped = keras.saving.load_model("model.keras")
    kernel = ops.convert_to_numpy(stripped.get_layer("hidden").kernel)
    groups = kernel.reshape(4, 4, 32)
    assert (np.count_nonzero(groups == 0, axis=1) == 2).all()


def test_the_logs_tell_the_share_of_the_marked_and_of_all_weights():
    model = dense(W64)
    model = prune_low_magnitude(model, ConstantSparsity(0.5, 0))
    history = train(model, UpdatePruningStep()).history
    kernel, *others = [ops.convert_to_numpy(v) for v in model.weights]
    zeros = kernel.size // 2 + sum(int(np.sum(v == 0)) for v in others)
    total = kernel.size + sum(v.size for v in others)
    assert history["sparsity"] == [0.5]
    assert history["sparsity_all"] == [pytest.approx(zeros / total)]
