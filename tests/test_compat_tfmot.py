"""Tests of tfmot's pruning API on Keras 3.

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

from keras_app import masks_of
from keras_app import schedules
from keras_app.compat import tfmot
from keras_app.compat.tfmot import ConstantSparsity
from keras_app.compat.tfmot import PolynomialDecay
from keras_app.compat.tfmot import prune_low_magnitude
from keras_app.compat.tfmot import PruningSummaries
from keras_app.compat.tfmot import strip_pruning
from keras_app.compat.tfmot import UpdatePruningStep
from keras_app.pruners.pruner import PruningMissed

BACKEND = keras.backend.backend()
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "migrating_from_tfmot.md"

W64 = [
    [2, -22, 8, -18],
    [17, -24, 23, -16],
    [21, -12, 3, -13],
    [11, -4, 5, -6],
    [9, -1, 10, -15],
    [19, -14, 7, -20],
]
W73 = [
    [20, -15, 17],
    [-12, 13, -8],
    [7, -14, 16],
    [-3, 11, -1],
    [19, -21, 18],
    [-10, 6, -4],
    [5, -9, 2],
]


def chain(shape, *stack):
    """A functional model: its paths do not begin with the model's name."""
    x = inputs = keras.Input(shape)
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x)


def dense(values, **compile_args):
    """A model of one kernel, compiled."""
    values = np.asarray(values, "float32")
    model = chain(values.shape[:1], layers.Dense(values.shape[1], name="d"))
    model.get_layer("d").kernel.assign(values)
    compiled(model, **compile_args)
    return model


def compiled(model, **compile_args):
    model.compile(keras.optimizers.SGD(0.001), "mse", **compile_args)
    return model


def two(**compile_args):
    """Two kernels of 24 and 12 weights."""
    return compiled(
        chain((6,), layers.Dense(4, name="a"), layers.Dense(3, name="b")),
        **compile_args,
    )


def train(model, *callbacks, steps=2, epochs=1, **kwargs):
    """Trains `steps` batches in each epoch."""
    generator = np.random.default_rng(3)
    x = generator.standard_normal((steps * 2, *model.input_shape[1:]))
    y = generator.standard_normal((steps * 2, *model.output_shape[1:]))
    return model.fit(
        x.astype("float32"),
        y.astype("float32"),
        batch_size=2,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
        **kwargs,
    )


def pruned_now(model, sparsity=0.5):
    """The masks of one update outside of a training."""
    step = UpdatePruningStep()
    step.set_model(model)
    for pruner in step.pruners:
        pruner.prune(sparsity)
    return masks_of(model)


def selected(model):
    """The paths that would be pruned, and `{path: reason}` of the others."""
    step = UpdatePruningStep()
    step.set_model(model)
    return sorted(masks_of(model)), step.report.skipped


def zeros(array):
    array = ops.convert_to_numpy(array)
    return int(array.size - np.count_nonzero(array))


class Watch(keras.callbacks.Callback):
    """Zeros of every mask and weight before each batch but the first."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.masks = []

    def on_train_batch_begin(self, batch, logs=None):
        found = masks_of(self.model)
        self.masks.append(found)
        weights = {v.path: v for v in self.model.trainable_variables}
        for path, mask in found.items():
            assert not ops.convert_to_numpy(weights[path])[~mask].any()
        self.seen.append([zeros(mask) for mask in found.values()])


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


def rows(mask):
    return " ".join("".join(map(str, row.astype(int))) for row in mask)


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


# ---- what is marked ------------------------------------------------------


@keras.saving.register_keras_serializable(package="test_compat_tfmot")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(5, name="hidden")
        self.last = layers.Dense(2, name="last")

    def call(self, x):
        return self.last(self.hidden(x))


def sequential():
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="a"), layers.Dense(2)]
    )


def nested():
    inner = chain((4,), layers.Dense(6, name="a"), layers.Dense(4, name="b"))
    return chain((4,), inner, layers.Dense(2, name="c"))


def subclassed():
    model = Subclassed()
    model(np.ones((1, 4), "float32"))
    return model


@pytest.mark.parametrize("make", [sequential, nested, subclassed])
def test_a_whole_model_of_any_kind(make):
    model = make()
    assert prune_low_magnitude(model, ConstantSparsity(0.75, 0)) is model
    compiled(model)
    step = UpdatePruningStep()
    x, y = np.ones((4, 4), "float32"), np.ones((4, 2), "float32")
    model.fit(x, y, verbose=0, callbacks=[step])
    kernels = [v for v in model.trainable_variables if len(v.shape) == 2]
    assert len(kernels) == (3 if make is nested else 2)
    for kernel in kernels:
        assert zeros(kernel) == int(0.75 * np.prod(kernel.shape))
    assert len(step.pruners) == 1
    copy = strip_pruning(model)
    assert type(copy) is type(model)
    for new, old in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_layers_with_settings_of_their_own_in_one_training():
    late = ConstantSparsity(0.25, 2, frequency=1)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            prune_low_magnitude(
                layers.Dense(4, name="a"), ConstantSparsity(0.75, 0)
            ),
            layers.Dense(5, name="free"),
            prune_low_magnitude(layers.Dense(4, name="b"), late),
            prune_low_magnitude(layers.ReLU()),
            prune_low_magnitude(layers.Dense(4, name="c"), late),
            prune_low_magnitude(
                layers.Dense(8, name="d"), sparsity_m_by_n=(1, 4)
            ),
            prune_low_magnitude(layers.Dense(2, name="e"), late, (4, 1), "MAX"),
        ],
        name="net",
    )
    compiled(model)
    step, watch = UpdatePruningStep(), Watch()
    history = train(model, step, watch, steps=4)
    assert watch.seen == [[18, 0, 0, 8, 0]] * 2 + [[18, 5, 4, 8, 4]] * 2
    assert len(step.pruners) == 4
    assert history.history["sparsity"] == [pytest.approx(39 / 108)]
    report = step.report
    assert [
        (row.path, row.zeros, row.asked_sparsity)
        for row in report.rows
        if row.prunable
    ] == [
        ("net/a/kernel", 18, 0.75),
        ("net/b/kernel", 5, 0.25),
        ("net/c/kernel", 4, 0.25),
        ("net/d/kernel", 8, 0.25),
        ("net/e/kernel", 4, 0.25),
    ]
    assert report.skipped["net/free/kernel"] == "not marked"
    assert zeros(model.get_layer("free").kernel) == 0
    assert "skipped net/free/kernel: not marked" in str(report)


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_clone_model_marks_with_a_clone_function(kind):
    stack = [layers.Dense(5, name="a"), layers.Dense(2, name="b")]
    if kind == "sequential":
        base = keras.Sequential([keras.Input((4,)), *stack])
    else:
        base = chain((4,), *stack)
    before = base.get_weights()

    def prune_first(layer):
        return prune_low_magnitude(layer) if layer.name == "a" else layer

    model = keras.models.clone_model(base, clone_function=prune_first)
    assert model is not base
    for new, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)
    compiled(model)
    train(model, UpdatePruningStep())
    assert zeros(model.get_layer("a").kernel) == 10
    assert zeros(model.get_layer("b").kernel) == 0


def test_prune_low_magnitude_is_a_clone_function_itself():
    base = chain(
        (4, 4, 3), layers.Conv2D(2, 2), layers.ReLU(), layers.Flatten()
    )
    model = compiled(
        keras.models.clone_model(base, clone_function=prune_low_magnitude)
    )
    assert [zeros(mask) for mask in pruned_now(model).values()] == [12]


def test_a_list_of_layers():
    stack = [layers.Dense(4, name="a"), layers.Dropout(0.1)]
    assert prune_low_magnitude(stack, ConstantSparsity(0.75, 0)) is stack
    model = compiled(chain((6,), *stack))
    [mask] = pruned_now(model, 0.75).values()
    assert zeros(mask) == 18


def test_the_mark_of_a_layer_goes_before_that_of_the_model_around_it():
    model = two()
    prune_low_magnitude(model.get_layer("b"), ConstantSparsity(0.75, 0))
    prune_low_magnitude(model, ConstantSparsity(0.25, 0))
    train(model, UpdatePruningStep())
    assert zeros(model.get_layer("a").kernel) == 6
    assert zeros(model.get_layer("b").kernel) == 9


def test_the_mark_of_a_layer_goes_first_wherever_it_is_met():
    # The model reaches `shared` before the inner model that holds it too.
    shared = layers.Dense(6, name="shared")
    inner = chain((6,), shared, layers.Dense(6, name="last"))
    x = keras.Input((6,))
    model = keras.Model(x, layers.Add()([shared(x), inner(x)]))
    prune_low_magnitude(inner, ConstantSparsity(0.25, 0))
    prune_low_magnitude(shared, ConstantSparsity(0.75, 0))
    train(compiled(model), UpdatePruningStep())
    assert zeros(shared.kernel) == 27
    assert zeros(inner.get_layer("last").kernel) == 9


def test_marking_again_replaces_the_mark():
    model = two()
    prune_low_magnitude(model, ConstantSparsity(0.75, 0))
    prune_low_magnitude(model, ConstantSparsity(0.25, 0))
    step = UpdatePruningStep()
    step.set_model(model)
    assert [pruner.schedule.target_sparsity for pruner in step.pruners] == [
        0.25
    ]


class Block(layers.Layer):
    """A layer of one's own, of known layers and a weight."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense")

    def build(self, shape):
        self.table = self.add_weight(shape=(4, 4), name="table")
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x) @ self.table


class Own(layers.Layer):
    """A layer of unknown type."""

    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1], 4), name="table")

    def call(self, x):
        return x @ self.table


class Named(Own):
    def build(self, shape):
        super().build(shape)
        self.bias = self.add_weight(shape=(4,), name="bias", initializer="ones")

    def call(self, x):
        return super().call(x) + self.bias

    def get_prunable_weights(self):
        return [self.table, self.bias]


def test_layers_of_unknown_type_are_skipped_and_listed():
    model = chain(
        (4,),
        layers.Dense(4, name="a"),
        Own(name="own"),
        Block(name="block"),
        layers.BatchNormalization(name="norm"),
    )
    paths, skipped = selected(compiled(prune_low_magnitude(model)))
    assert paths == ["a/kernel", "block/dense/kernel"]
    assert skipped == {
        "a/bias": "a vector (bias, scale or offset)",
        "own/table": "a weight of Own, a layer of unknown type; give it "
        "`get_prunable_weights`",
        "block/dense/bias": "a vector (bias, scale or offset)",
        "block/table": "a weight of Block, a layer of unknown type; give it "
        "`get_prunable_weights`",
        "norm/gamma": "a vector (bias, scale or offset)",
        "norm/beta": "a vector (bias, scale or offset)",
    }


def test_a_layer_names_its_weights_biases_included():
    model = prune_low_magnitude(compiled(chain((6,), Named(name="own"))))
    train(model, UpdatePruningStep())
    found = masks_of(model)
    assert {path: zeros(mask) for path, mask in found.items()} == {
        "own/table": 12,
        "own/bias": 2,
    }
    assert zeros(model.get_layer("own").bias) == 2


class Listed(layers.Layer):
    """Keeps its weights in a list and a dict."""

    def build(self, shape):
        self.maps = [
            self.add_weight(shape=(4, 4), name=f"map{i}") for i in range(2)
        ]
        self.others = {"gain": self.add_weight(shape=(4,), name="gain")}

    def call(self, x):
        return x @ self.maps[0] @ self.maps[1] * self.others["gain"]


class ListedAndNamed(Listed):
    def get_prunable_weights(self):
        return [self.maps[1], self.others["gain"]]


def test_weights_kept_in_lists_and_dicts():
    model = chain((4,), ListedAndNamed(name="named"), Listed(name="not"))
    paths, skipped = selected(compiled(prune_low_magnitude(model)))
    assert paths == ["named/gain", "named/map1"]
    unknown = (
        "a weight of Listed, a layer of unknown type; give it "
        "`get_prunable_weights`"
    )
    assert skipped == {
        "named/map0": "not among `get_prunable_weights`",
        "not/map0": unknown,
        "not/map1": unknown,
        "not/gain": "a vector (bias, scale or offset)",
    }


def test_what_a_known_layer_names_goes_before_what_tfmot_prunes():
    class BiasOnly(layers.Dense, tfmot.PrunableLayer):
        def get_prunable_weights(self):
            return [self.bias]

    model = compiled(chain((6,), prune_low_magnitude(BiasOnly(4, name="own"))))
    paths, skipped = selected(model)
    assert paths == ["own/bias"]
    assert skipped == {"own/kernel": "not among `get_prunable_weights`"}


class OnlyConvolutions(tfmot.PruningPolicy):
    def __init__(self):
        self.models = []

    def allow_pruning(self, layer):
        assert not isinstance(layer, keras.Model)
        return isinstance(layer, (layers.Conv2D, layers.MultiHeadAttention))

    def ensure_model_supports_pruning(self, model):
        self.models.append(model)
        if "refused" in model.name:
            raise ValueError("refused, says the policy")


def test_a_policy_chooses_layers_with_all_that_is_in_them():
    x = keras.Input((4, 4, 3))
    inner = chain(
        (4, 4, 3), layers.Conv2D(4, 2, name="c"), layers.Dense(6, name="d")
    )
    y = layers.Reshape((9, 6))(inner(x))
    y = layers.MultiHeadAttention(1, 2, name="mha")(y, y)
    model = compiled(keras.Model(x, layers.Dense(2, name="e")(y)))
    policy = OnlyConvolutions()
    prune_low_magnitude(model, pruning_policy=policy)
    assert policy.models == [model]
    paths, skipped = selected(model)
    names = ("attention_output", "key", "query", "value")
    assert paths == ["c/kernel", *(f"mha/{name}/kernel" for name in names)]
    assert skipped["d/kernel"] == "not allowed by `pruning_policy`"
    assert skipped["e/kernel"] == "not allowed by `pruning_policy`"


def test_a_policy_can_refuse_a_model():
    model = keras.Sequential([layers.Dense(2)], name="refused")
    with pytest.raises(ValueError, match="refused, says the policy"):
        prune_low_magnitude(model, pruning_policy=OnlyConvolutions())


def test_m_by_n_leaves_weights_of_other_ranks_alone():
    model = chain((5, 4), layers.Conv1D(4, 2, name="c"), layers.Dense(2))
    prune_low_magnitude(model, sparsity_m_by_n=(2, 4))
    paths, skipped = selected(compiled(model))
    assert len(paths) == 1 and "dense" in paths[0]
    assert skipped["c/kernel"] == (
        "m-by-n sparsity is for weights of rank 2 and 4, this has 3"
    )


def test_blocks_of_a_convolution_lie_over_its_last_two_axes():
    model = compiled(chain((3, 3, 4), layers.Conv2D(2, 1, name="c")))
    kernel = np.reshape([1, 8, 1, 7, 5, 2, 5, 2], (1, 1, 4, 2))
    model.get_layer("c").kernel.assign(kernel)
    prune_low_magnitude(model, block_size=(2, 1))
    found = pruned_now(model)["c/kernel"].reshape(4, 2)
    assert rows(found) == "01 01 10 10"


def test_frozen_layers_are_named():
    model = two()
    model.get_layer("a").trainable = False
    compiled(prune_low_magnitude(model))
    step = UpdatePruningStep()
    with pytest.warns(UserWarning, match="a/kernel: marked, but frozen"):
        step.set_model(model)
    assert list(masks_of(model)) == ["b/kernel"]
    assert step.report.skipped["a/kernel"] == "frozen (trainable=False)"


# ---- time ----------------------------------------------------------------


def test_masks_change_when_the_schedule_says_so_and_never_after_its_end():
    schedule = PolynomialDecay(0.0, 0.75, 0, 6, power=1, frequency=2)
    model = prune_low_magnitude(dense(W64), schedule)
    watch = Watch()
    train(model, UpdatePruningStep(), watch, steps=5, epochs=2)
    # tfmot 0.8.1, which counts from 1, has these numbers one batch earlier.
    zeros_seen = [count for [count] in watch.seen]
    assert zeros_seen == [0, 0, 6, 6, 12, 12, 18, 18, 18, 18]
    masks = [found["d/kernel"] for found in watch.masks]
    for old, new in zip(masks, masks[1:]):
        assert not (new & ~old).any()
    for last in masks[6:]:
        np.testing.assert_array_equal(last, masks[6])
    assert zeros(model.get_layer("d").kernel) == 18


def test_a_training_shorter_than_the_frequency_is_pruned():
    # With tfmot nothing happens before step 100.
    model = prune_low_magnitude(dense(W64))
    train(model, UpdatePruningStep(), steps=1)
    assert zeros(model.get_layer("d").kernel) == 12


def decay():
    return PolynomialDecay(0.0, 0.75, 0, 6, power=1, frequency=2)


def test_stop_and_restart_equals_going_on(tmp_path):
    straight = prune_low_magnitude(dense(W64), decay())
    train(straight, UpdatePruningStep(), steps=4, epochs=2)
    model = prune_low_magnitude(dense(W64), decay())
    train(model, UpdatePruningStep("ignore"), steps=4)
    assert zeros(model.get_layer("d").kernel) == 12
    model.save(tmp_path / "model.keras")
    with tfmot.prune_scope():
        model = keras.saving.load_model(tmp_path / "model.keras")
    assert zeros(model.get_layer("d").kernel) == 12
    prune_low_magnitude(model, decay())
    watch = Watch()
    train(model, UpdatePruningStep(), watch, steps=4)
    assert watch.seen == [[12], [12], [18], [18]]
    for new, old in zip(
        model.get_weights(), straight.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(new, old)


def test_a_second_fit_goes_on_with_another_callback():
    model = prune_low_magnitude(dense(W64), decay())
    first, second = UpdatePruningStep("ignore"), UpdatePruningStep()
    train(model, first, steps=4)
    watch = Watch()
    train(model, second, watch, steps=4)
    assert watch.seen == [[12], [12], [18], [18]]


@pytest.mark.filterwarnings("error::UserWarning")
def test_compiling_again_keeps_masks_and_steps():
    model = prune_low_magnitude(dense(W64), decay())
    prune_low_magnitude(model.get_layer("d"), decay())
    train(model, UpdatePruningStep("ignore"), steps=4)
    for _ in range(2):
        compiled(model)
        before = ops.convert_to_numpy(model.get_layer("d").kernel) != 0
        watch = Watch()
        train(model, UpdatePruningStep(), watch, steps=2, epochs=2)
        assert not (watch.masks[0]["d/kernel"] & ~before).any()
        assert watch.seen[2:] == [[18], [18]]
    assert watch.seen[:2] == [[18], [18]]


def test_compiling_again_around_the_same_optimizer_counts_its_steps_once():
    # As it is with mixed precision.
    inner = keras.optimizers.SGD(0.001)
    model = prune_low_magnitude(dense(W64), decay())
    step, watch = UpdatePruningStep("ignore"), Watch()
    for _ in range(2):
        model.compile(keras.optimizers.LossScaleOptimizer(inner), "mse")
        train(model, step, watch, steps=3)
    assert watch.seen == [[0], [0], [6], [6], [12], [12]]


def test_a_weights_only_checkpoint_goes_on_in_a_built_optimizer(tmp_path):
    model = prune_low_magnitude(dense(W64), decay())
    train(model, UpdatePruningStep("ignore"), steps=4)
    model.save_weights(tmp_path / "model.weights.h5")
    model = prune_low_magnitude(dense(W64), decay())
    model.optimizer.build(model.trainable_variables)
    model.load_weights(tmp_path / "model.weights.h5")
    watch = Watch()
    train(model, UpdatePruningStep(), watch, steps=4)
    assert watch.seen == [[12], [12], [18], [18]]


def test_compiling_before_marking():
    model = two()
    prune_low_magnitude(model)
    train(model, UpdatePruningStep())
    assert zeros(model.get_layer("a").kernel) == 12


def test_a_schedule_past_the_end_warns_before_and_after():
    model = prune_low_magnitude(dense(W64), decay())
    with pytest.warns(UserWarning) as caught:
        train(model, UpdatePruningStep(), steps=4)
    said = [str(each.message) for each in caught]
    assert any(
        "ends at step 6, but this training stops after step 4" in text
        for text in said
    )
    assert any(
        "PruneLowMagnitude: training ended at sparsity 0.5000 of the "
        "schedule's 0.7500" in text
        for text in said
    )


def test_a_schedule_past_the_end_is_refused_if_asked_to():
    model = prune_low_magnitude(dense(W64), decay())
    with pytest.raises(ValueError, match="ends at step 6.*after step 4"):
        train(model, UpdatePruningStep(on_miss="raise"), steps=4)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    with pytest.raises(PruningMissed, match="0.5000 of the schedule's 0.7500"):
        train(model, UpdatePruningStep("raise"), Stop(), steps=4, epochs=2)


def test_a_schedule_that_is_over_already_is_refused():
    # Compiling starts the count anew, as long as nothing is pruned.
    model = dense(W64)
    train(model, steps=8)
    prune_low_magnitude(model, decay())
    with pytest.raises(ValueError, match="ended at step 6.*at step 8 already"):
        train(model, UpdatePruningStep(), steps=4)
    compiled(model)
    train(model, UpdatePruningStep(), steps=7)
    assert zeros(model.get_layer("d").kernel) == 18


@pytest.mark.filterwarnings("error::UserWarning")
def test_what_is_missed_can_be_ignored():
    model = prune_low_magnitude(dense(W64), decay())
    step = UpdatePruningStep(on_miss="ignore")
    train(model, step, steps=4)
    # Silent, and as far as the schedule had come.
    assert 0 < zeros(model.get_layer("d").kernel) < 18


# ---- defects of tfmot ----------------------------------------------------


def test_equal_weights_reach_the_target():
    # tfmot keeps all of them.
    model = prune_low_magnitude(dense(np.full((4, 5), 0.3)))
    assert zeros(pruned_now(model)["d/kernel"]) == 10


def test_a_kernel_95_percent_zero_stays_half_zero():
    # tfmot's mask keeps everything, and the zeros are trained away.
    values = np.zeros(40)
    values[::20] = 1.0, 2.0
    model = prune_low_magnitude(dense(values.reshape(8, 5)))
    train(model, UpdatePruningStep())
    mask = masks_of(model)["d/kernel"].ravel()
    assert zeros(mask) == 20
    assert mask[::20].all()
    assert zeros(model.get_layer("d").kernel) == 20


@pytest.mark.parametrize("marked", ["one", "other"])
def test_tied_weights_are_pruned_once_whichever_owner_is_marked(marked):
    class Reader(layers.Layer):
        """Multiplies with the transposed kernel of another layer."""

        def __init__(self, source):
            super().__init__(name="reader")
            self.source = source

        def call(self, x):
            return ops.matmul(x, ops.transpose(self.source.kernel))

    class Tied(layers.Dense):
        def build(self, shape):
            self._kernel = one.kernel
            self.bias = self.add_weight(shape=(4,), name="bias")

    one, other = layers.Dense(4, name="one"), Tied(4, name="other")
    x = keras.Input((6,))
    hidden = one(x)
    model = keras.Model(x, other(Reader(one)(hidden)))
    prune_low_magnitude(model.get_layer(marked))
    compiled(model)
    train(model, UpdatePruningStep())
    assert [zeros(mask) for mask in masks_of(model).values()] == [12]
    assert zeros(one.kernel) == 12


def test_shared_layers_are_pruned_once():
    shared = prune_low_magnitude(layers.Dense(4, name="shared"))
    x = keras.Input((4,))
    model = compiled(keras.Model(x, shared(shared(x))))
    train(model, UpdatePruningStep())
    assert list(masks_of(model)) == ["shared/kernel"]
    assert zeros(shared.kernel) == 8


def test_checkpoints_of_every_epoch_hold_the_zeros(tmp_path):
    model = prune_low_magnitude(dense(W64))
    keep = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5")
    keep.save_weights_only = True
    train(model, keep, UpdatePruningStep(), epochs=2)
    for epoch in (1, 2):
        other = dense(np.ones((6, 4)))
        other.load_weights(tmp_path / f"{epoch}.weights.h5")
        assert zeros(other.get_layer("d").kernel) == 12


# ---- loud where nothing happens ------------------------------------------


def test_a_fit_of_a_model_without_marks_is_refused():
    with pytest.raises(ValueError, match="no layer of the model is marked"):
        train(two(), UpdatePruningStep())


def test_a_model_that_is_not_built_is_refused_with_the_way_out():
    model = prune_low_magnitude(keras.Sequential([layers.Dense(2)]))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Call it once on a batch"):
        UpdatePruningStep().set_model(model)


def test_marks_that_cover_nothing_prunable_are_refused():
    model = compiled(chain((4,), Own(name="own"), layers.ReLU()))
    with pytest.raises(ValueError, match="(?s)nothing to prune.*own/table"):
        train(prune_low_magnitude(model), UpdatePruningStep())


def test_a_layer_of_unknown_type_by_itself_is_refused():
    layer = Own(name="own")
    model = compiled(chain((4,), layer, layers.Dense(2)))
    with pytest.raises(ValueError, match="'own' of type Own.*unknown type"):
        prune_low_magnitude(layer)
    with pytest.raises(ValueError, match="no layer of the model is marked"):
        UpdatePruningStep().set_model(model)
    # One that is not built yet cannot be judged.
    layer = prune_low_magnitude(Own(name="own"))
    model = compiled(chain((4,), layer, layers.Dense(2)))
    with pytest.raises(ValueError, match="'own' of type Own.*unknown type"):
        UpdatePruningStep().set_model(prune_low_magnitude(model))


def test_layers_without_prunable_weights_may_be_marked():
    for layer in (
        layers.Dropout(0.1),
        layers.BatchNormalization(),
        layers.DepthwiseConv2D(2),
    ):
        layer.build((None, 4, 4, 3))
        assert prune_low_magnitude(layer) is layer


def test_strip_pruning_warns_where_the_callback_was_forgotten():
    model = prune_low_magnitude(two())
    train(model)
    with pytest.warns(UserWarning, match="a/kernel, b/kernel.*not one weight"):
        copy = strip_pruning(model)
    assert zeros(copy.get_layer("a").kernel) == 0


def test_strip_pruning_warns_where_zeros_were_trained_away():
    model = prune_low_magnitude(two())
    prune_low_magnitude(model.get_layer("b"), ConstantSparsity(0.0, 0))
    train(model, UpdatePruningStep())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        strip_pruning(model)  # "b" is dense as it was asked for
    # The optimizer that had the masks is gone.
    compiled(model)
    kernel = np.ones((6, 4))
    kernel[0, :3] = 0.0
    model.get_layer("a").kernel.assign(kernel)
    with pytest.warns(UserWarning) as caught:
        strip_pruning(model)
    [said] = [str(w.message) for w in caught if w.category is UserWarning]
    assert "a/kernel (3 zeros of 12): weights that were pruned" in said
    assert "b/kernel" not in said


def test_the_custom_loop_of_tfmot_is_refused_with_the_way_out():
    model = prune_low_magnitude(two())
    step = UpdatePruningStep()
    step.set_model(model)
    step.on_train_begin()
    with pytest.raises(ValueError, match="keras_app.pruners.CustomLoop"):
        step.on_train_batch_begin(batch=-1)


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_stripped_copy_has_no_marks_and_the_model_keeps_its_own():
    model = prune_low_magnitude(two())
    train(model, UpdatePruningStep())
    copy = compiled(strip_pruning(model))
    assert zeros(copy.get_layer("a").kernel) == 12
    with pytest.raises(ValueError, match="no layer of the model is marked"):
        UpdatePruningStep().set_model(copy)
    train(model, UpdatePruningStep())
    assert zeros(model.get_layer("a").kernel) == 12
    strip_pruning(two())  # never marked: nothing to say


def test_there_is_no_report_before_a_model():
    with pytest.raises(ValueError, match="no report before"):
        _ = UpdatePruningStep().report


# ---- summaries -----------------------------------------------------------


def events(log_dir):
    """`{tag: [(step, value)]}` of a folder."""
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    reader = event_accumulator.EventAccumulator(str(log_dir))
    reader.Reload()
    return {
        tag: [
            (event.step, float(tensor_util.make_ndarray(event.tensor_proto)))
            for event in reader.Tensors(tag)
        ]
        for tag in reader.Tags()["tensors"]
    }


@pytest.mark.parametrize(
    "update_freq, steps", [("epoch", [0, 3, 6]), (2, [0, 2, 4, 6])]
)
def test_summaries_hold_sparsity_and_threshold(tmp_path, update_freq, steps):
    model = prune_low_magnitude(dense(W64), ConstantSparsity(0.5, 3))
    model.optimizer.learning_rate = 0.0
    summaries = PruningSummaries(str(tmp_path), update_freq)
    train(model, UpdatePruningStep(), summaries, steps=3, epochs=2)
    found = events(tmp_path / "metrics")
    assert sorted(found) == ["d/kernel/sparsity", "d/kernel/threshold"]
    # An epoch begins before its first batch prunes.
    last_dense = 3
    expected = [(s, 0.0 if s <= last_dense else 0.5) for s in steps]
    assert found["d/kernel/sparsity"] == expected
    expected = [(s, 1.0 if s <= last_dense else 13.0) for s in steps]
    assert found["d/kernel/threshold"] == expected


def test_summaries_without_a_pruner_are_refused(tmp_path):
    model = prune_low_magnitude(two())
    with pytest.raises(ValueError, match="UpdatePruningStep"):
        train(model, PruningSummaries(tmp_path))


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
