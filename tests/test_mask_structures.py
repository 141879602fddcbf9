"""Tests of the structures that masks may have: channels, blocks, n:m."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from keras_app import masks
from keras_app.masks import Block
from keras_app.masks import Channel
from keras_app.masks import mask_from_scores
from keras_app.masks import NM
from keras_app.masks import Unstructured
from keras_app.pruners import MagnitudePruner
from keras_app.schedules import OneShot
from tests.helpers import assert_refused

pytestmark = pytest.mark.backend_free


# ---- structures --------------------------------------------------------


def test_unstructured_is_the_default():
    scores = np.array([3.0, 1.0, 2.0, 4.0])
    expected = mask_from_scores(scores, 0.5)
    result = mask_from_scores(scores, 0.5, structure=Unstructured())
    np.testing.assert_array_equal(result, expected)


def test_channel_prunes_the_weakest_sums():
    # Sums 4, 3, 8, 2: half of the channels go.
    scores = np.array([[1.0, 3.0, 4.0, 2.0], [3.0, 0.0, 4.0, 0.0]])
    mask = mask_from_scores(scores, 0.5, structure=Channel())
    assert mask.tolist() == [[True, False, True, False]] * 2


def test_channel_along_another_axis():
    # Sums over the rows: 4, 9, 1.
    scores = np.array([[1.0, 3.0], [9.0, 0.0], [0.0, 1.0]])
    mask = mask_from_scores(scores, 0.34, structure=Channel(axis=0))
    assert mask.tolist() == [[True, True], [True, True], [False, False]]


def test_channels_of_a_convolution():
    scores = np.ones((3, 3, 2, 4))
    scores[..., 1] = 0.5
    mask = mask_from_scores(scores, 0.25, structure=Channel())
    assert mask.shape == (3, 3, 2, 4)
    assert mask.all(axis=(0, 1, 2)).tolist() == [True, False, True, True]
    assert mask.any(axis=(0, 1, 2)).tolist() == [True, False, True, True]


def test_channels_count_over_all_tensors():
    scores = {"a": np.array([[5.0, 1.0, 4.0]]), "b": np.array([[2.0], [1.0]])}
    # Sums 5, 1, 4 and 3: two of the four channels go.
    result = mask_from_scores(scores, 0.5, structure=Channel())
    assert result["a"].tolist() == [[True, False, True]]
    assert result["b"].tolist() == [[False], [False]]


RAGGED = np.array(
    [
        [1.0, 2.0, 0.0, 8.0, 5.0],
        [3.0, 2.0, 0.0, 0.0, 1.0],
        [6.0, 0.0, 9.0, 1.0, 4.0],
    ]
)
# Blocks of 2x2 from 3x5. Averages: 2, 2, 3 / 3, 5, 4.
# Maxima: 3, 8, 5 / 6, 9, 4.


@pytest.mark.parametrize(
    "sparsity, block, expected",
    [
        pytest.param(
            0.34,
            Block((2, 2)),
            # The last average is 4 and not 4/4: the ragged corner stays. Of
            # the two averages of 2 both go.
            [[0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
            id="averages of the entries that exist",
        ),
        pytest.param(
            0.5,
            Block((2, 2)),
            # Averages of 3 tie: the upper right goes before the lower left.
            [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]],
            id="ties prune the earlier block",
        ),
        pytest.param(
            0.5,
            Block((2, 2), "max"),
            [[0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [1, 1, 1, 1, 0]],
            id="maxima",
        ),
    ],
)
def test_blocks_by_hand(sparsity, block, expected):
    mask = mask_from_scores(RAGGED, sparsity, structure=block)
    assert mask.astype(int).tolist() == expected


def test_block_maximum_of_negative_scores_ignores_the_missing_entries():
    scores = np.array([[-1.0, -1.0, -9.0]])
    mask = mask_from_scores(scores, 0.5, structure=Block((1, 2), "max"))
    assert mask.tolist() == [[True, True, False]]


def test_blocks_lie_over_the_last_two_axes():
    scores = np.arange(2 * 4 * 4, dtype=float).reshape(2, 1, 4, 4)
    mask = mask_from_scores(scores, 0.5, structure=Block((4, 2)))
    assert not mask[0].any() and mask[1].all()


@settings(deadline=None, max_examples=60)
@given(
    scores=npst.arrays(
        "float64",
        npst.array_shapes(min_dims=2, max_dims=4, max_side=6),
        elements=st.integers(0, 4).map(float),
    ),
    block=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pooling=st.sampled_from(["avg", "max"]),
    sparsity=st.floats(0, 1),
)
def test_block_equals_a_loop_over_blocks(scores, block, pooling, sparsity):
    pool = {"avg": np.mean, "max": np.max}[pooling]
    blocks = [
        (index, slice(r, r + block[0]), slice(c, c + block[1]))
        for index in np.ndindex(scores.shape[:-2])
        for r in range(0, scores.shape[-2], block[0])
        for c in range(0, scores.shape[-1], block[1])
    ]
    values = [round(float(pool(scores[i][r, c])), 9) for i, r, c in blocks]
    order = sorted(range(len(blocks)), key=lambda b: (values[b], b))
    k = int(sparsity * len(blocks))
    expected = np.ones(scores.shape, bool)
    for b in order[:k]:
        index, rows, columns = blocks[b]
        expected[index][rows, columns] = False
    mask = mask_from_scores(scores, sparsity, Block(block, pooling))
    pruned = [not mask[i][r, c].any() for i, r, c in blocks]
    assert sum(pruned) == k
    if len(set(values)) == len(values) or pooling == "max":
        # Averages that are equal on paper may differ in the last bit.
        np.testing.assert_array_equal(mask, expected)


def test_nm_keeps_n_of_every_m():
    scores = np.array([[4.0, 1.0, 3.0, 2.0, 9.0, 8.0, 7.0, 6.0]])
    mask = mask_from_scores(scores, 0.5, structure=NM(1, 4))
    # One is kept of four, not three.
    assert mask.astype(int).tolist() == [[1, 0, 0, 0, 1, 0, 0, 0]]
    mask = mask_from_scores(scores, 0.5, structure=NM(3, 4))
    assert mask.astype(int).tolist() == [[1, 0, 1, 1, 1, 1, 1, 0]]


@pytest.mark.parametrize("structure", [NM, Channel])
def test_numpy_integers_are_axes(structure):
    arguments = (1, 2) if structure is NM else ()
    made = structure(*arguments, axis=np.int64(-2))
    assert made == structure(*arguments, axis=-2)
    assert type(made.get_config()["axis"]) is int
    for axis in (-2.0, "-2", True):
        with pytest.raises(TypeError, match=f"axis={axis!r}"):
            structure(*arguments, axis=axis)


@pytest.mark.parametrize("structure", [NM(2, 4, axis=-3), Channel(axis=3)])
def test_an_axis_that_a_kernel_has_not_is_refused_with_its_path(structure):
    with pytest.raises(ValueError, match="has 2 axes"):
        mask_from_scores(np.ones((4, 4)), 0.5, structure)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    model.compile("sgd", "mse")
    pruner = MagnitudePruner(OneShot(0.5), structure=structure)
    with pytest.raises(ValueError) as error:
        pruner.set_model(model)
    assert "`axis` of the structure" in str(error.value)
    assert f"axis={structure.axis}" in str(error.value)
    assert "dense" in str(error.value) and "(4, 8)" in str(error.value)


@pytest.mark.parametrize("shape", [4, (4,), (1, 2, 3), None])
def test_a_block_has_two_sizes(shape):
    with pytest.raises(ValueError, match="`block_shape` must be two integers"):
        Block(shape)


def test_nm_along_the_input_axis():
    scores = np.array([[1.0, 9.0], [2.0, 8.0], [4.0, 1.0], [3.0, 2.0]])
    mask = mask_from_scores(scores, 0.5, structure=NM(1, 2, axis=0))
    assert mask.astype(int).tolist() == [[0, 1], [1, 0], [1, 0], [0, 1]]


def test_nm_of_a_ragged_last_group():
    # Groups of 4, 4, 2 and of 4, 1: the last keeps its n best, or all.
    mask = mask_from_scores(np.arange(10.0), 0.5, structure=NM(2, 4))
    assert mask.astype(int).tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 1, 1]
    mask = mask_from_scores(np.arange(5.0), 0.5, structure=NM(2, 4))
    assert mask.astype(int).tolist() == [0, 0, 1, 1, 1]
    assert NM(2, 4).sparsity_of((10,)) == pytest.approx(0.4)
    assert NM(2, 4).sparsity_of((3, 5)) == pytest.approx(0.4)


def test_nm_ties_prune_the_lower_index():
    mask = mask_from_scores(np.ones(4), 0.5, structure=NM(2, 4))
    assert mask.tolist() == [False, False, True, True]


def test_nm_ignores_how_much_is_asked_for_but_not_zero():
    scores = np.arange(8.0)
    expected = [0, 0, 1, 1, 0, 0, 1, 1]
    for sparsity in (0.01, 0.5, 1.0):
        mask = mask_from_scores(scores, sparsity, structure=NM(2, 4))
        assert mask.astype(int).tolist() == expected
    assert mask_from_scores(scores, 0.0, structure=NM(2, 4)).all()


def test_nm_of_pruned_weights_stays_pruned_and_fills_the_group():
    old = np.array([True, True, True, False])
    scores = np.array([1.0, 2.0, 3.0, 9.0])
    mask = mask_from_scores(scores, 0.5, NM(2, 4), previous=old)
    assert mask.tolist() == [False, True, True, False]
    mask = mask_from_scores(scores, 0.0, NM(2, 4), previous=old)
    assert mask.tolist() == old.tolist()


def test_nm_keeps_n_of_scores_of_minus_infinity_too():
    scores = np.full(5, -np.inf)
    mask = mask_from_scores(scores, 0.5, structure=NM(2, 4))
    assert mask.astype(int).tolist() == [0, 0, 1, 1, 1]
    old = np.array([True, False])
    mask = mask_from_scores(scores[:2], 0.5, NM(1, 2), previous=old)
    assert mask.tolist() == [True, False]


@settings(deadline=None, max_examples=60)
@given(
    scores=npst.arrays(
        "float32",
        npst.array_shapes(min_dims=1, max_dims=3, max_side=7),
        elements=st.integers(-3, 3).map(float),
    ),
    n=st.integers(1, 4),
    extra=st.integers(0, 3),
    axis=st.integers(-3, 2),
)
def test_nm_equals_a_loop_over_groups(scores, n, extra, axis):
    m = n + extra
    if not -scores.ndim <= axis < scores.ndim:
        with pytest.raises(ValueError, match="axis"):
            mask_from_scores(scores, 0.5, NM(n, m, axis))
        return
    mask = mask_from_scores(scores, 0.5, NM(n, m, axis))
    lines = np.moveaxis(scores, axis, -1).reshape(-1, scores.shape[axis])
    expected = np.zeros(lines.shape, bool)
    for line, keep in zip(lines, expected):
        for start in range(0, line.size, m):
            group = range(start, min(start + m, line.size))
            best = sorted(group, key=lambda i: (-line[i], -i))[:n]
            keep[best] = True
    moved = np.moveaxis(scores, axis, -1).shape
    expected = np.moveaxis(expected.reshape(moved), -1, axis)
    np.testing.assert_array_equal(mask, expected)


# ---- n:m of a kernel and of its transpose ------------------------------


def best_of_all(scores, n, alive):
    """The rule restated: every mask of a block, compared one by one.

    Most entries alive, then the largest sum, then the first entry that
    differs pruned.
    """
    height, width = scores.shape
    rows = [
        row for row in itertools.product((0, 1), repeat=width) if sum(row) <= n
    ]
    masks = [
        mask
        for mask in itertools.product(rows, repeat=height)
        if all(sum(column) <= n for column in zip(*mask))
    ]
    most = max(sum(map(sum, mask)) for mask in masks)

    def key(mask):
        kept = np.array(mask, bool) & alive
        return (
            kept.sum(),
            scores[kept].sum(),
            [-i for row in mask for i in row],
        )

    masks = [mask for mask in masks if sum(map(sum, mask)) == most]
    return np.array(max(masks, key=key), bool) & alive


def test_a_transposable_mask_by_hand():
    # Greedy by rows would keep 9, 8 in column 0; 8 + 7 beats 9 + 1.
    scores = np.array([[9.0, 8.0], [7.0, 1.0]])
    mask = mask_from_scores(scores, 0.5, NM(1, 2, transposable=True))
    assert mask.tolist() == [[False, True], [True, False]]


def test_transposable_masks_number_90_of_a_4_by_4_block():
    assert len(masks.n_m._patterns(2, 4, 4)) == 90
    assert (
        len(masks.n_m._patterns(1, 4, 4))
        == len(masks.n_m._patterns(3, 4, 4))
        == 24
    )


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 3),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    m=st.integers(2, 3),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["normal", "few", "equal", "infinite"]),
    kept=st.sampled_from([None, 0.8, 0.3]),
)
# 0 + 0.2 and 0.1 + 0.1 are equal as doubles, too.
@example(n=1, shape=(2, 6), m=2, seed=159, kind="few", kept=None)
def test_transposable_masks_are_the_best_of_all(n, shape, m, seed, kind, kept):
    n = min(n, m)
    generator = np.random.default_rng(seed)
    scores = generator.standard_normal(shape)
    if kind == "few":
        scores = generator.integers(0, 3, shape) * 0.1
    if kind == "equal":
        scores = np.full(shape, 0.1)
    if kind == "infinite":
        scores[generator.random(shape) < 0.3] = np.inf
    alive = generator.random(shape) < (kept or 1)
    structure = NM(n, m, transposable=True)
    mask = mask_from_scores(scores, 0.5, structure, previous=kept and alive)
    expected = np.zeros(shape, bool)
    # Tenths in whole numbers, because their sums would be rounded.
    exact = np.round(scores * 10) if kind in ("few", "equal") else scores
    exact = np.where(np.isinf(exact), 1e6, exact)
    for row in range(0, shape[0], m):
        for column in range(0, shape[1], m):
            block = np.s_[row : row + m, column : column + m]
            expected[block] = best_of_all(exact[block], n, alive[block])
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_transposable_masks_of_4_by_4_blocks_are_the_best_of_all(n):
    generator = np.random.default_rng(n)
    scores = generator.standard_normal((8, 7)).astype("float32")
    mask = mask_from_scores(scores, 0.5, NM(n, 4, transposable=True))
    for row, column in itertools.product((0, 4), (0, 4)):
        block = np.s_[row : row + 4, column : column + 4]
        alive = np.ones(scores[block].shape, bool)
        np.testing.assert_array_equal(
            mask[block],
            best_of_all(scores[block].astype("float64"), n, alive),
        )


def test_transposable_ties_prune_the_first_entries():
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    # Tenths: rounded sums of eight would differ with the order.
    for value in (0.1, 0.0, np.inf, -np.inf):
        mask = mask_from_scores(
            np.full((4, 4), value), 0.5, NM(2, 4, transposable=True)
        )
        assert mask.astype(int).tolist() == expected


@settings(deadline=None, max_examples=30)
@given(
    shape=npst.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=9),
    n=st.integers(1, 4),
    extra=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_transposable_masks_are_n_m_both_ways(shape, n, extra, seed):
    m = min(4, n + extra)
    structure = NM(n, m, transposable=True)
    scores = np.random.default_rng(seed).standard_normal(shape)
    mask = mask_from_scores(scores, 0.5, structure)
    for axis in (-1, -2):
        lines = np.moveaxis(mask, axis, -1).reshape(-1, shape[axis])
        for start in range(0, shape[axis], m):
            assert lines[:, start : start + m].sum(1).max() <= n
    inside = mask[..., : shape[-2] // m * m, : shape[-1] // m * m]
    assert np.count_nonzero(inside) * m == inside.size * n
    assert 1 - mask.mean() == pytest.approx(structure.sparsity_of(shape))


def test_transposable_blocks_in_more_than_one_chunk():
    scores = np.random.default_rng(0).standard_normal((32, 32))
    structure = NM(2, 4, transposable=True)
    expected = mask_from_scores(scores, 0.5, structure)
    chunk = masks.exact_k.CHUNK
    masks.exact_k.CHUNK = 7 * 90
    try:
        mask = mask_from_scores(scores, 0.5, structure)
    finally:
        masks.exact_k.CHUNK = chunk
    np.testing.assert_array_equal(mask, expected)


def test_a_transposable_mask_is_kept_by_the_next_update():
    generator = np.random.default_rng(0)
    structure = NM(2, 4, transposable=True)
    old = mask_from_scores(generator.random((8, 8)), 0.5, structure)
    # Others would win now, were they not pruned.
    scores = -generator.random((8, 8))
    new = mask_from_scores(scores, 0.5, structure, previous=old)
    np.testing.assert_array_equal(new, old)


def test_structured_updates_with_previous_masks_are_nested():
    old = np.ones((4, 6), bool)
    old[:, 2] = False
    scores = np.arange(24.0).reshape(4, 6)
    mask = mask_from_scores(scores, 0.5, Channel(), previous=old)
    assert mask.any(axis=0).tolist() == [False, False, False, True, True, True]


def test_a_structure_keeps_single_weights_pruned_that_were():
    # The channel survives, but an entry of it was pruned before.
    old = np.ones((2, 4), bool)
    old[0, 3] = False
    scores = np.arange(8.0).reshape(2, 4)
    mask = mask_from_scores(scores, 0.5, Channel(), previous=old)
    assert not (mask & ~old).any()


@pytest.mark.parametrize(
    "structure",
    [
        Unstructured(),
        Channel(0),
        Block((2, 3), "max"),
        NM(2, 4, axis=0),
        NM(2, 4, axis="inputs"),
        NM(2, 4, transposable=True),
    ],
)
def test_structures_round_trip_and_compare_by_value(structure):
    again = type(structure).from_config(structure.get_config())
    assert again == structure and hash(again) == hash(structure)
    stored = keras.saving.serialize_keras_object(structure)
    assert keras.saving.deserialize_keras_object(stored) == structure
    assert structure not in (Channel(-1), NM(2, 4))


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: NM(3, 2), ["`n` must be <= `m`", "n=3", "m=2"]),
        (lambda: NM(0, 2), ["`n`", "n=0"]),
        (
            lambda: NM(2, 8, transposable=True),
            ["`m` must be <= 4 with transposable=True", "m=8"],
        ),
        (
            lambda: NM(2, 4, axis=0, transposable=True),
            ["`axis` must be -1", "axis=0"],
        ),
        (
            lambda: mask_from_scores(
                np.ones(4), 0.5, NM(2, 4, transposable=True)
            ),
            ["rank 2", "(4,)"],
        ),
        (lambda: Block((0, 2)), ["`block_shape`", "block_shape=0"]),
        (lambda: Block((1, 2, 3)), ["`block_shape`", "(1, 2, 3)"]),
        (lambda: Block((1, 2), "mean"), ["`pooling`", "'mean'"]),
        (
            lambda: mask_from_scores(np.ones(4), 0.5, Block((1, 2))),
            ["rank 2", "(4,)"],
        ),
        (
            lambda: mask_from_scores(np.ones(4), 0.5, Channel(axis=1)),
            ["`axis`", "axis=1"],
        ),
        (
            lambda: mask_from_scores(np.ones(4), 0.5, NM(1, 2, axis=3)),
            ["`axis`", "axis=3"],
        ),
    ],
)
def test_bad_structures_are_refused_with_their_value(make, said):
    assert_refused(make, said)


def test_what_is_no_structure_is_refused():
    with pytest.raises((TypeError, ValueError), match="structure"):
        mask_from_scores(np.ones(4), 0.5, structure="channel")


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_inputs_are_no_axis_of_an_array(sparsity):
    structure = NM(2, 4, axis="inputs")
    with pytest.raises(ValueError, match="`axis` must be an integer.*'inputs'"):
        mask_from_scores(np.ones((4, 4)), sparsity, structure)
    with pytest.raises(ValueError, match="`axis` must be an integer.*'inputs'"):
        structure.sparsity_of((4, 4))
