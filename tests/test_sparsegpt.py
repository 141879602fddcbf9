"""SparseGPT: pruning layer by layer, with an update of what is kept."""

import math

import keras
import numpy as np
import pytest
from keras import layers

import keras_app as ka
from keras_app import masks
from keras_app import pruners
from keras_app.masks import DegenerateScores
from keras_app.pruners import reconstruction
from keras_app.schedules import OneShot
from keras_app.schedules import PolynomialDecay
from tests.helpers import to_numpy
from tests.helpers import zeros
from tests.models import batches
from tests.models import chain
from tests.models import compiled
from tests.models import dense
from tests.models import images
from tests.models import network
from tests.models import train

NM = masks.NM(2, 4, axis="inputs")


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def pruner_of(model, data, sparsity=0.5, **arguments):
    pruner = pruners.SparseGPTPruner(OneShot(sparsity), data=data, **arguments)
    pruner.set_model(model)
    return pruner


# ---- restated ----------------------------------------------------------


def restated(w, h, sparsity, size=128, n_m=None, dampening=0.01):
    """Optimal brain surgery with the inverse of what is left, from scratch.

    Input by input: the weight goes, or stays, and those after it make up for
    it by w_F <- w_F - w_i / [H_F^-1]_00 [H_F^-1]_:0, F the inputs from i on.
    """
    w = w.astype("float64").copy()
    size = min(size, math.ceil(len(h) / 16))
    h = h + dampening * np.mean(np.diag(h)) * np.eye(len(h))
    inverses = [np.linalg.inv(h[i:, i:]) for i in range(len(h))]
    kept = np.ones(w.shape, bool)
    gone, total = 0, int(sparsity * w.size)
    for i, inverse in enumerate(inverses):
        step = n_m[1] if n_m else size
        if i % step == 0:
            rows = range(i, min(i + step, len(h)))
            # Rows within a block have seen what was pruned up to its first.
            cost = np.stack([w[j] ** 2 / inverses[j][0, 0] for j in rows])
            if n_m:
                order = np.argsort(cost, axis=0, kind="stable")
                for output in range(w.shape[1]):
                    drop = order[: len(cost) - n_m[0], output]
                    kept[i + drop, output] = False
            else:
                count = total * (i + len(cost)) // len(h) - gone
                gone += count
                flat = np.argsort(cost.ravel(), kind="stable")[:count]
                kept[i + flat // w.shape[1], flat % w.shape[1]] = False
        for output in np.flatnonzero(~kept[i]):
            change = w[i, output] / inverse[0, 0] * inverse[:, 0]
            w[i:, output] -= change
            w[i, output] = 0
    return w, kept


def lost(x, w, new):
    """The sum of squares of what the outputs change by."""
    return np.sum((x.astype("float64") @ (w - new)) ** 2)


# Inputs that are mixtures of each other, so that there is much to make up for.
def mixed(count, size, seed=0):
    x = draw(count, size, seed=seed)
    return x @ draw(size, size, seed=seed + 1) / np.sqrt(size)


@pytest.mark.parametrize(
    "sparsity, size, structure",
    [
        (0.5, 128, None),  # blocks of four, a sixteenth
        (0.7, 3, None),
        (0.33, 2, None),
        (0.5, 128, NM),
        (0.5, 3, NM),
        (0.5, 128, masks.NM(4, 8, axis="inputs")),
    ],
)
def test_weights_are_those_of_numpy(sparsity, size, structure):
    w, x = draw(64, 7), mixed(150, 64)
    model = dense(64, 7, w)
    pruner = pruner_of(
        model,
        [x[:25], (x[25:], None)],
        sparsity,
        structure=structure,
        block_size=size,
    )
    pruner.prune(sparsity)
    n_m = None if structure is None else (structure.n, structure.m)
    h = x.astype("float64").T @ x
    expected, kept = restated(w, h, sparsity, size, n_m)
    [mask] = pruner.masks.values()
    np.testing.assert_array_equal(mask, kept)
    found = to_numpy(model.layers[1].kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert not found[~kept].any() and zeros(found) == zeros(kept)


# ---- what it promises --------------------------------------------------


@pytest.mark.parametrize("structure", [None, NM], ids=["single", "2:4"])
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.97])
@pytest.mark.parametrize("seed", range(4))
def test_no_layer_loses_more_than_by_magnitude_or_wanda(
    seed, sparsity, structure
):
    if structure is not None and sparsity != 0.5:
        pytest.skip("2:4 is a sparsity of its own")
    # Few examples and few outputs, too, where moving weights may do harm.
    examples, outputs = [(90, 20), (30, 3), (200, 1), (9, 6)][seed]
    w = draw(64, outputs, seed=seed)
    x = mixed(examples, 64, seed) if seed % 2 else draw(examples, 64, seed=9)
    found = {}
    for method in ("magnitude", "wanda", "sparsegpt"):
        model = dense(64, outputs, w)
        data = None if method == "magnitude" else x
        ka.prune(model, sparsity, method, data, structure)
        kernel = to_numpy(model.layers[1].kernel)
        assert zeros(kernel) == int(sparsity * w.size)
        found[method] = lost(x, w, kernel)
    assert found["sparsegpt"] <= found["magnitude"] * (1 + 1e-5)
    assert found["sparsegpt"] <= found["wanda"] * (1 + 1e-5)


def test_where_moving_weights_harms_they_stay():
    # Found by trying seeds: SparseGPT alone loses a fifth more here.
    w = draw(80, 5, seed=0).astype("float64")[None]
    x = draw(70, 80, seed=13)
    h = (x.T @ x).astype("float64")[None]
    kept = np.ones(w.shape, bool)
    arguments = h, 0.95, None, kept, 128, 0.01
    alone = reconstruction._solved(w, *arguments)
    new, mask = reconstruction.reconstructed(w, *arguments)
    assert lost(x, w[0], new[0]) < lost(x, w[0], alone[0][0])
    np.testing.assert_array_equal(new[mask], w[mask])


def test_much_is_made_up_for():
    w, x = draw(64, 20), mixed(300, 64)
    model = dense(64, 20, w)
    ka.prune(model, 0.5, "sparsegpt", x)
    moved = lost(x, w, to_numpy(model.layers[1].kernel))
    model = dense(64, 20, w)
    ka.prune(model, 0.5, "wanda", x)
    assert moved < 0.7 * lost(x, w, to_numpy(model.layers[1].kernel))


@pytest.mark.parametrize("n, m", [(2, 4), (4, 8)])
def test_n_of_m_are_kept_exactly(n, m):
    model = dense(32, 9, draw(32, 9))
    structure = masks.NM(n, m, axis="inputs")
    ka.prune(model, None, "sparsegpt", mixed(80, 32), structure)
    kernel = to_numpy(model.layers[1].kernel)
    assert ((kernel.reshape(32 // m, m, 9) != 0).sum(1) == n).all()


def test_fewer_inputs_in_the_last_group():
    model = dense(10, 3, draw(10, 3))
    ka.prune(model, None, "sparsegpt", mixed(40, 10), NM)
    kernel = to_numpy(model.layers[1].kernel)
    assert [zeros(kernel[i : i + 4]) for i in (0, 4, 8)] == [6, 6, 0]


def test_inputs_that_are_always_zero_go_first():
    x = mixed(50, 8)
    x[:, [2, 5]] = 0
    model = dense(8, 3, draw(8, 3))
    ka.prune(model, 0.5, "sparsegpt", x)
    kernel = to_numpy(model.layers[1].kernel)
    assert not kernel[[2, 5]].any() and zeros(kernel) == 12
    # Nothing but zeros: by magnitude.
    model = dense(4, 1, [1.0, 4.0, -3.0, 2.0])
    ka.prune(model, 0.5, "sparsegpt", np.zeros((3, 4)))
    assert to_numpy(model.layers[1].kernel).ravel().tolist() == [0, 4, -3, 0]


def test_a_second_update_keeps_what_was_pruned():
    x = mixed(100, 32)
    pruner = pruners.SparseGPTPruner(
        PolynomialDecay(0.0, 0.75, 0, 2), data=[x], block_size=8
    )
    model = dense(32, 6, draw(32, 6))
    pruner.set_model(model)
    pruner.prune(0.5)
    [first] = pruner.masks.values()
    pruner.prune(0.75)
    [second] = pruner.masks.values()
    assert not (second & ~first).any()
    assert zeros(to_numpy(model.layers[1].kernel)) == 144


# ---- layer by layer ----------------------------------------------------


def test_a_layer_sees_the_network_pruned_before_it():
    first = layers.Dense(12, activation="relu", name="first")
    model = compiled("sgd", chain((9,), first, layers.Dense(4, name="second")))
    x = mixed(70, 9)
    w = to_numpy(model.get_layer("second").kernel)
    ka.prune(model, 0.5, "sparsegpt", x)
    hidden = to_numpy(first(x))
    expected, _ = restated(w, hidden.astype("float64").T @ hidden, 0.5)
    found = to_numpy(model.get_layer("second").kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_the_order_is_that_of_the_calls():
    late, early = layers.Dense(5, name="a_late"), layers.Dense(5, name="z")

    class Backwards(keras.Model):
        def __init__(self):
            super().__init__()
            self.late, self.early = late, early

        def call(self, x):
            return self.late(self.early(x))

    model = Backwards()
    model(draw(2, 5))
    model.compile("sgd", "mse")
    pruner = pruner_of(model, [draw(2, 5)])
    order = pruner._in_order(pruner.variables)
    assert [path.split("/")[-2] for path in order] == ["z", "a_late"]


# A kernel as a matrix, restated for layers whose product is a plain one.
def test_a_convolution_is_a_product_with_its_patches():
    conv = layers.Conv2D(9, (3, 2), strides=(2, 1), padding="same", name="it")
    model = compiled("sgd", chain((6, 7, 3), conv))
    # Neighbours are alike, as in images.
    x = draw(8, 6, 7, 3).cumsum(1).cumsum(2)
    w = draw(*conv.kernel.shape)
    # Each weight alone puts out what it multiplies.
    columns = []
    for place in np.ndindex(3, 2, 3):
        one = np.zeros(w.shape, "float32")
        one[(*place, 0)] = 1
        conv.kernel.assign(one)
        columns.append(to_numpy(conv(x))[..., 0].ravel())
    conv.kernel.assign(w)
    patches = np.stack(columns, axis=1).astype("float64")
    ka.prune(model, 0.5, "sparsegpt", x)
    expected, _ = restated(w.reshape(18, 9), patches.T @ patches, 0.5)
    found = to_numpy(conv.kernel).reshape(18, 9)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


LAYERS = [
    ((3, 4, 5), layers.Dense(2)),
    ((3, 8), layers.EinsumDense("abc,cde->abde", (None, 2, 3))),
    ((3, 2, 4), layers.EinsumDense("abcd,cde->abe", (None, 5))),
    ((3, 8), layers.EinsumDense("abc,bcd->abd", (3, 4))),
    ((4, 8), layers.EinsumDense("abc,cd->ad", (6,))),
    ((9, 4), layers.Conv1D(3, 3, dilation_rate=2, padding="causal")),
    ((6, 7, 4), layers.Conv2D(4, (3, 2), padding="same", groups=2)),
    ((4, 4, 3, 2), layers.Conv3D(2, (2, 3, 1))),
]


@pytest.mark.parametrize("shape, layer", LAYERS)
@pytest.mark.parametrize("structure", [None, NM], ids=["single", "2:4"])
def test_the_error_is_that_of_the_outputs(shape, layer, structure):
    config = {**layer.get_config(), "name": "it", "activation": "linear"}
    layer = type(layer).from_config(config)
    model = compiled("sgd", chain(shape, layer))
    x = draw(6, *shape)
    before, w = to_numpy(model(x)), to_numpy(layer.kernel).copy()
    pruner = pruner_of(model, [x[:4], x[4:]], structure=structure)
    [path], [variable] = zip(*pruner.variables.items())
    hessians = pruner._hessians(path, variable)
    matrices = pruner.matrices({path: variable})[path]
    pruner.prune(0.5)
    change = matrices.of(to_numpy(layer.kernel) - w).astype("float64")
    expected = np.sum((to_numpy(model(x)) - before).astype("float64") ** 2)
    found = reconstruction.error(change, hessians)
    assert found == pytest.approx(expected, rel=1e-3)
    if structure is None:
        assert zeros(layer.kernel) == w.size // 2


def test_attention():
    inputs = keras.Input((5, 8))
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    model = compiled("sgd", keras.Model(inputs, attention(inputs, inputs)))
    x = mixed(200, 8).reshape(40, 5, 8)
    dense_outputs = to_numpy(model(x))
    weights = model.get_weights()
    lost = {}
    for method in ("magnitude", "sparsegpt"):
        model.set_weights(weights)
        model.compile("sgd")
        ka.prune(model, 0.5, method, x)
        lost[method] = np.sum((to_numpy(model(x)) - dense_outputs) ** 2)
        for kernel in ka.masks_of(model).values():
            assert zeros(kernel) == 32
    assert lost["sparsegpt"] < lost["magnitude"]


def test_a_layer_called_twice_adds_up_its_calls():
    inputs = keras.Input((4,))
    shared = layers.Dense(4, activation="relu", use_bias=False, name="shared")
    model = compiled("sgd", keras.Model(inputs, shared(shared(inputs))))
    x = draw(3, 4)
    pruner = pruner_of(model, [x])
    [(path, variable)] = pruner.variables.items()
    hidden = np.maximum(x @ to_numpy(shared.kernel), 0)
    both = np.concatenate([x, hidden])
    np.testing.assert_allclose(
        pruner._hessians(path, variable)[0], both.T @ both, rtol=1e-4
    )


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_half_precision_does_not_overflow(policy):
    model = chain((4,), layers.Dense(3, dtype=policy, name="it"))
    model.compile("sgd", "mse")
    ka.prune(model, 0.5, "sparsegpt", np.full((2, 4), 1000.0, "float32"))
    kernel = to_numpy(model.get_layer("it").kernel).astype("float32")
    assert zeros(kernel) == 6 and np.isfinite(kernel).all()


# ---- as a pruner -------------------------------------------------------


def test_to_propose_changes_nothing():
    model = network()
    before = model.get_weights()
    pruner = pruner_of(model, batches())
    proposed = pruner.propose(0.5)
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)
    pruner.prune(0.5)
    for path, mask in pruner.masks.items():
        np.testing.assert_array_equal(mask, proposed[path])


def test_a_failure_in_the_middle_leaves_the_model_as_it_was(monkeypatch):
    model = network()
    before = model.get_weights()
    pruner = pruner_of(model, batches())
    hessians = pruner._hessians

    def broken(path, variable):
        if "dense" in path:
            raise MemoryError
        return hessians(path, variable)

    monkeypatch.setattr(pruner, "_hessians", broken)
    with pytest.raises(MemoryError):
        pruner.prune(0.5)
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_in_a_fit_the_other_weights_move_and_train_on():
    model = network()
    pruner = pruners.SparseGPTPruner(OneShot(0.5, step=2), data=batches())
    train(model, pruner)
    assert pruner.missed == []
    assert zeros(model.get_layer("dense").kernel) == 320


def test_other_weights_are_left_as_they_were():
    model = network()
    before = {w.path: to_numpy(w).copy() for w in model.weights}
    ka.prune(model, 0.5, "sparsegpt", images()[0], filters="dense")
    for weight in model.weights:
        if weight.path != "dense/kernel":
            np.testing.assert_array_equal(to_numpy(weight), before[weight.path])


def test_scores_are_what_one_weight_alone_costs():
    w, x = draw(6, 2), mixed(30, 6)
    pruner = pruner_of(dense(6, 2, w), [x])
    [scores] = pruner.scores(pruner.variables).values()
    h = x.astype("float64").T @ x
    h += 0.01 * np.mean(np.diag(h)) * np.eye(6)
    expected = w**2 / np.diag(np.linalg.inv(h))[:, None]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


# ---- what is refused ---------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"scope": "global"}, "scope='global'"),
        ({"structure": masks.Channel()}, "Channel"),
        ({"structure": masks.NM(2, 4)}, r"axis=-1"),
        (
            {"structure": masks.NM(2, 4, axis="inputs", transposable=True)},
            "transposable=True",
        ),
        ({"block_size": 0}, "block_size=0"),
        ({"dampening": 0}, "dampening=0"),
    ],
)
def test_bad_arguments_name_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        pruners.SparseGPTPruner(OneShot(0.5), **arguments)


def test_a_batch_without_examples_is_nothing():
    x = draw(32, 6, 6, 2)
    model, other = network(), network()
    for each, data in ((model, [x, x[:0]]), (other, [x])):
        pruner_of(each, data).prune(0.5)
    for one, two in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(one, two)


def test_data_that_are_none():
    with pytest.raises(ValueError, match="SparseGPTPruner needs `data`"):
        train(dense(3, 2), pruners.SparseGPTPruner(OneShot(0.5)))
    with pytest.raises(ValueError, match="at least one batch"):
        pruner_of(dense(3, 2), []).prune(0.5)
    x = np.array([[1.0, np.inf, 1.0]])
    with pytest.raises(DegenerateScores, match="dense/kernel.*finite"):
        pruner_of(dense(3, 2), [x]).prune(0.5)
