"""Tests of the budgets: by hand, and against what pruning really leaves."""

import functools
import itertools

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import layers

import keras_app
from keras_app import budgets
from keras_app import masks
from keras_app import pruners
from keras_app import report
from keras_app.schedules import OneShot
from tests.models import chain


def dense(rows=100, columns=50):
    return chain((rows,), layers.Dense(columns, name="only"))


def network():
    """Kernels of 432, 4608, 51200 and 1000 weights, and a depthwise one.

    They are applied 256, 64, 1 and 1 times.
    """
    return chain(
        (16, 16, 3),
        layers.Conv2D(16, 3, padding="same", name="conv"),
        layers.Conv2D(32, 3, padding="same", strides=2, name="strided"),
        layers.BatchNormalization(name="norm"),
        layers.DepthwiseConv2D(3, padding="same", name="depthwise"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(100, activation="relu", name="hidden"),
        layers.Dense(10, name="head"),
    )


def drawn(model):
    """No weight is zero by chance, as after a training."""
    generator = np.random.default_rng(5)
    model.set_weights(
        [generator.uniform(0.1, 1.0, w.shape) for w in model.get_weights()]
    )
    return model


def pruned(model, sparsity, **arguments):
    """The model after one update of a pruner, without a training."""
    model.compile("sgd", "mse")
    pruner = pruners.MagnitudePruner(OneShot(sparsity), **arguments)
    pruner.set_model(model)
    pruner.prune(sparsity)
    return model


def share_of_flops(model):
    found = report.summarize(model)
    return found.sparse_flops / found.flops


# ---- by hand ---------------------------------------------------------------


@pytest.mark.backend_free
def test_flops_of_one_layer_are_its_density():
    assert budgets.sparsity_for(dense(), "flops:0.25") == 0.75


@pytest.mark.backend_free
def test_flops_as_an_amount():
    # 5,000 weights, two operations each: 2,500 are 1,250 weights.
    assert budgets.sparsity_for(dense(), "flops:2_500") == 0.75


@pytest.mark.backend_free
def test_bytes_of_one_layer():
    # 200 for the bias, 625 for the bits, 4 for each of 1,250 weights kept.
    assert budgets.sparsity_for(dense(), "bytes:5825") == 0.75
    # One byte less is one weight less.
    assert budgets.sparsity_for(dense(), "bytes:5824") == 0.7502


@pytest.mark.backend_free
def test_bytes_as_a_share_of_the_dense_model():
    # Dense: 4 * 5,050. A share of 0.288366... is 5,825 of 20,200.
    share = 5825.01 / 20200
    assert budgets.sparsity_for(dense(), f"bytes:{share}") == 0.75


@pytest.mark.backend_free
def test_a_model_within_its_budget_stays_dense():
    for target in ("flops:1", "bytes:1.0", "bytes:20200", "flops:10_000"):
        assert budgets.sparsity_for(dense(), target) == 0.0


@pytest.mark.backend_free
def test_bits_do_not_pay_above_a_density_of_31_in_32():
    # 5,000 weights: 625 bytes of bits are 156.25 weights.
    assert budgets.sparsity_for(dense(), "bytes:20199") == 0.0314


@pytest.mark.backend_free
def test_flops_weigh_layers_by_their_positions():
    # Two kernels of 90 and 40 weights, at 9 * 16 and 1 positions. ERK gives
    # them other densities than uniform, so that equal FLOPs need another s.
    model = chain(
        (6, 6, 1),
        layers.Conv2D(10, 3, use_bias=False),
        layers.GlobalAveragePooling2D(),
        layers.Dense(4, use_bias=False),
    )
    shapes = {"conv": (3, 3, 1, 10), "dense": (10, 4)}
    found = budgets.sparsity_for(model, "flops:0.5", distribution="erk")
    spread = keras_app.distributions.erdos_renyi(shapes, found)
    kept = {
        name: np.prod(shape) - int(spread[name] * np.prod(shape))
        for name, shape in shapes.items()
    }
    total = 90 * 16 + 40
    assert kept["conv"] * 16 + kept["dense"] <= total / 2
    # One weight of the convolution more would be too many.
    assert (kept["conv"] + 1) * 16 + kept["dense"] > total / 2
    assert found != budgets.sparsity_for(model, "flops:0.5")


@pytest.mark.backend_free
def test_sparse_bytes_by_hand():
    model = dense(10, 4)
    kernel = np.arange(40.0).reshape(10, 4) % 2
    model.set_weights([kernel, np.ones(4)])
    # 5 bytes of bits, 20 ones; 4 ones of the bias, whose bits do not pay.
    assert budgets.sparse_bytes(model) == 5 + 80 + 16


@pytest.mark.backend_free
def test_sparse_bytes_of_half_precision():
    model = chain((10,), layers.Dense(4, use_bias=False, dtype="bfloat16"))
    model.set_weights([np.arange(40.0).reshape(10, 4) % 2])
    assert budgets.sparse_bytes(model) == 5 + 20 * 2
    assert budgets.sparsity_for(model, "bytes:45") == 0.5


# ---- what pruning leaves ---------------------------------------------------

STRUCTURES = [None, masks.Channel(), masks.Block((4, 2)), masks.Block((3, 2))]


@pytest.mark.parametrize("distribution", ["uniform", "erk"])
@pytest.mark.parametrize(
    "target, used, most",
    [
        ("flops:0.25", share_of_flops, 0.25),
        ("bytes:60_000", budgets.sparse_bytes, 60_000),
    ],
)
def test_a_pruned_model_uses_its_budget(target, used, most, distribution):
    model = drawn(network())
    sparsity = budgets.sparsity_for(model, target, distribution=distribution)
    pruned(model, sparsity, distribution=distribution)
    assert 0.99 * most <= used(model) <= most


def test_a_global_threshold_meets_a_budget_of_bytes():
    model = drawn(network())
    sparsity = budgets.sparsity_for(model, "bytes:60_000")
    pruned(model, sparsity, scope="global")
    assert 59_400 <= budgets.sparse_bytes(model) <= 60_000


@pytest.mark.parametrize("structure", STRUCTURES[1:], ids=str)
def test_a_structure_stays_within_the_budget(structure):
    model = drawn(network())
    for target in ("flops:0.4", "bytes:0.4"):
        sparsity = budgets.sparsity_for(model, target, structure=structure)
        clone = drawn(network())
        pruned(clone, sparsity, structure=structure)
        # A channel is a larger step than one percent.
        if target.startswith("flops"):
            assert 0.37 <= share_of_flops(clone) <= 0.4
        else:
            dense_bytes = 4 * clone.count_params()
            assert 0.37 <= budgets.sparse_bytes(clone) / dense_bytes <= 0.4


def test_a_budget_holds_if_the_smallest_blocks_go_first():
    # Of 16 + 4 columns, the 4 are the weakest of every row.
    model = chain((64,), layers.Dense(20, use_bias=False))
    kernel = np.ones((64, 20)) + np.arange(64)[:, None]
    kernel[:, 16:] = 0.1
    model.set_weights([kernel])
    structure = masks.Block((1, 16))
    sparsity = budgets.sparsity_for(model, "flops:0.5", structure=structure)
    pruned(model, sparsity, structure=structure)
    # 64 small blocks and 24 large ones: 384 + 256 of 1280.
    assert share_of_flops(model) == 0.5


def test_filters_choose_what_pays():
    model = drawn(network())
    sparsity = budgets.sparsity_for(model, "bytes:60_000", filters="hidden")
    pruned(model, sparsity, filters="hidden")
    assert 59_400 <= budgets.sparse_bytes(model) <= 60_000
    assert np.count_nonzero(model.get_layer("strided").kernel) == 4608


def test_a_distribution_of_ones_own():
    def first_dense(shapes, sparsity):
        return {
            path: 0.0 if path == "conv/kernel" else sparsity for path in shapes
        }

    model = drawn(network())
    sparsity = budgets.sparsity_for(
        model, "flops:0.5", distribution=first_dense
    )
    pruned(model, sparsity, distribution=first_dense)
    assert 0.495 <= share_of_flops(model) <= 0.5
    assert np.count_nonzero(model.get_layer("conv").kernel) == 432


@functools.cache
def perceptron(*sizes):
    stack = [layers.Dense(n, use_bias=False, name=f"d{n}") for n in sizes[1:]]
    return chain(sizes[:1], *stack)


@pytest.mark.backend_free
@settings(max_examples=60, deadline=None)
@given(
    sizes=st.sampled_from([(7, 5), (13, 40, 3), (33, 17, 29, 2)]),
    share=st.floats(0.05, 1.0),
    distribution=st.sampled_from(["uniform", "erk"]),
    structure=st.sampled_from(STRUCTURES),
    kind=st.sampled_from(["bytes", "flops"]),
)
def test_the_sparsity_is_the_smallest_that_fits(
    sizes, share, distribution, structure, kind
):
    shapes = {f"d{b}/kernel": (a, b) for a, b in itertools.pairwise(sizes)}
    spread = {
        "uniform": keras_app.distributions.uniform,
        "erk": keras_app.distributions.erdos_renyi,
    }[distribution]
    generator = np.random.default_rng(1)
    scores = {name: generator.random(shape) for name, shape in shapes.items()}

    def cost(sparsity):
        total = 0
        for name, each in spread(shapes, sparsity).items():
            mask = masks.mask_from_scores(scores[name], each, structure)
            full, kept = mask.size, np.count_nonzero(mask)
            if kind == "flops":
                total += 2 * kept
            else:
                total += min(4 * full, np.ceil(full / 8) + 4 * kept)
        return total

    try:
        found = budgets.sparsity_for(
            perceptron(*sizes),
            f"{kind}:{share!r}",
            structure=structure,
            distribution=distribution,
        )
    except ValueError as error:
        assert "cannot be met" in str(error)
        assert cost(0.999999) > share * cost(0.0) or structure is not None
        return
    assert cost(found) <= share * cost(0.0)
    if found > 0 and structure is None:
        assert cost(found - 1e-6) > share * cost(0.0)


# ---- what is refused -------------------------------------------------------


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "target",
    ["", "0.5", "bytes", "bytes:", "flops:-1", "flops:0", "flops:nan"]
    + ["macs:0.5", "bytes:inf", "bytes:3MB", None, 0.5],
)
def test_a_target_that_is_none_is_refused(target):
    with pytest.raises(ValueError) as error:
        budgets.sparsity_for(dense(2, 2), target)
    assert "`target` must be 'bytes:N' or 'flops:N'" in str(error.value)
    assert f"Received: target={target!r}" in str(error.value)


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "target, smallest",
    [
        ("flops:0.001", "flops:"),
        ("flops:2000", "flops:"),
        ("bytes:2000", "bytes:"),
        ("bytes:0.001", "bytes:"),
    ],
)
def test_an_impossible_budget_names_the_smallest_possible_one(target, smallest):
    model = network()
    with pytest.raises(ValueError) as error:
        budgets.sparsity_for(model, target)
    message = str(error.value)
    assert "`target` cannot be met by pruning" in message
    assert f"Received: target={target!r}" in message
    possible = message.split("still needs '")[1].split("'")[0]
    assert possible.startswith(smallest)
    assert budgets.sparsity_for(model, possible) > 0.99


@pytest.mark.backend_free
def test_the_smallest_possible_budget_by_hand():
    # One weight is left: 200 for the bias, 625 for the bits and 4.
    with pytest.raises(ValueError, match="still needs 'bytes:829'"):
        budgets.sparsity_for(dense(), "bytes:828")
    with pytest.raises(ValueError, match="still needs 'flops:2'"):
        budgets.sparsity_for(dense(), "flops:1.5")
    with pytest.raises(ValueError, match="still needs 'flops:0.0002'"):
        budgets.sparsity_for(dense(), "flops:0.0001")


@pytest.mark.backend_free
def test_n_m_has_no_sparsity_to_choose():
    with pytest.raises(ValueError, match=r"NM\(n=2, m=4, axis=-1"):
        budgets.sparsity_for(dense(), "flops:0.5", structure=masks.NM(2, 4))


@pytest.mark.backend_free
def test_an_unknown_distribution_is_refused():
    with pytest.raises(ValueError, match="distribution='erdos'"):
        budgets.sparsity_for(dense(), "flops:0.5", distribution="erdos")


@pytest.mark.backend_free
def test_flops_that_are_not_known_are_refused_and_bytes_are_not():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [layers.Dense(8), layers.Dense(4)]

        def call(self, x):
            return self.parts[1](self.parts[0](x))

    model = Subclassed()
    model(np.zeros((1, 16), "float32"))
    assert 0 < budgets.sparsity_for(model, "bytes:0.5") < 1
    with pytest.raises(ValueError, match="FLOPs are known of no weight"):
        budgets.sparsity_for(model, "flops:0.5")


@pytest.mark.backend_free
def test_flops_that_are_partly_known_are_warned_of():
    # Neither the length of the second input nor, so, that of the keys.
    x, y = keras.Input((6, 8)), keras.Input((None, 8))
    x = layers.Dense(8, name="outside")(x)
    model = keras.Model(
        [x, y], layers.MultiHeadAttention(2, 8, name="attention")(x, y)
    )
    said = "the rest .* applied: attention/key/kernel, attention/value/kernel$"
    with pytest.warns(UserWarning, match=said):
        assert budgets.sparsity_for(model, "flops:0.5") == 0.5


@pytest.mark.backend_free
def test_kernels_that_are_not_pruned_are_warned_of_too():
    model = chain((None, 4), layers.GRU(3, name="gru"), layers.Dense(2))
    with pytest.warns(UserWarning, match="gru_cell/recurrent_kernel$"):
        assert budgets.sparsity_for(model, "flops:0.5") == 0.5


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "structure", [masks.GraphChannel(), masks.TargetBlock("litert")]
)
def test_units_of_a_whole_model_have_no_size_by_shape(structure):
    with pytest.raises(ValueError) as error:
        budgets.sparsity_for(dense(), "bytes:0.5", structure=structure)
    assert "`structure` must be None, Block or Channel" in str(error.value)
    assert "depends on the model" in str(error.value)
    assert f"structure={structure!r}" in str(error.value)


def test_a_budget_is_one_of_the_whole_model_with_what_is_frozen():
    # Half of the FLOPs are frozen: a quarter less is half of the others.
    model = chain(
        (10,), layers.Dense(10, name="frozen"), layers.Dense(10, name="free")
    )
    model.get_layer("frozen").trainable = False
    sparsity = budgets.sparsity_for(model, "flops:0.75")
    assert sparsity == 0.5
    assert share_of_flops(pruned(drawn(model), sparsity)) == 0.75
    with pytest.raises(ValueError, match="still needs 'flops:0.5"):
        budgets.sparsity_for(model, "flops:0.25")
