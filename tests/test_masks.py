"""Tests of the mask rules: exact counts, ties, nested updates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from keras_app import masks
from keras_app.masks import mask_from_scores
from tests.helpers import assert_masks
from tests.helpers import zeros

pytestmark = pytest.mark.backend_free


def sorted_rule(arrays, sparsity, ties="exact", previous=None):
    """The rule restated with one sort of everything.

    Order: what is pruned already, then the score, then the tensor, then the
    flat index; the first k go.
    """
    gone = [np.zeros(a.shape, bool) for a in arrays]
    if previous is not None:
        gone = [~p for p in previous]
    kept = ~np.concatenate([g.ravel() for g in gone])
    values = np.concatenate([a.ravel().astype(np.float64) for a in arrays])
    tensor = np.concatenate([np.full(a.size, i) for i, a in enumerate(arrays)])
    index = np.concatenate([np.arange(a.size) for a in arrays])
    order = np.lexsort((index, tensor, values, kept))
    k = int(sparsity * values.size)
    keep = kept.copy()
    if k > np.count_nonzero(~kept):
        keep[order[:k]] = False
        if ties == "le":
            keep &= values > values[order[k - 1]]
    ends = np.cumsum([a.size for a in arrays])[:-1]
    return [m.reshape(a.shape) for m, a in zip(np.split(keep, ends), arrays)]


# ---- the authors' rule -------------------------------------------------

CASES = [
    *(
        f"plain_{scope}_{density}"
        for scope in "gl"
        for density in ("0.8", "0.5", "0.25", "0.0", "1.0")
    ),
    *(f"ties_{scope}_{d}" for scope in "gl" for d in ("0.8", "0.6", "0.9")),
    "allequal_g",
    "regrow_g",
    "float_k_1000",
    "negative_scores_g",
]


def tensors(vectors, case, kind):
    names = [f"{case}.{kind}{i}" for i in range(2)]
    return [vectors[name] for name in names if name in vectors.files]


def ranked(vectors, case, ties):
    """`[masks of the tensors that are ranked together]`."""
    scores = tensors(vectors, case, "score")
    sparsity = 1.0 - float(vectors[f"{case}.density"])
    together = str(vectors[f"{case}.scope"]) == "global"
    groups = [scores] if together else [[s] for s in scores]
    return [mask_from_scores(group, sparsity, ties=ties) for group in groups]


@pytest.mark.parametrize("case", CASES)
def test_masks_match_the_recorded_ones(golden, case):
    vectors = golden("app/mask_rules.npz")
    result = [mask for group in ranked(vectors, case, "le") for mask in group]
    expected = [m.astype(bool) for m in tensors(vectors, case, "mask")]
    assert_masks(result, expected)


@pytest.mark.parametrize("case", CASES)
def test_exact_ties_prune_the_recorded_count(golden, case):
    vectors = golden("app/mask_rules.npz")
    groups = ranked(vectors, case, "exact")
    counts = [sum(zeros(mask) for mask in group) for group in groups]
    assert counts == vectors[f"{case}.k"].tolist()


@pytest.mark.parametrize("ties", ["exact", "le"])
def test_nothing_to_prune_keeps_the_recorded_old_mask(golden, ties):
    vectors = golden("app/mask_rules.npz")
    case = "k0_keeps_old_mask_g"
    old = [m.astype(bool) for m in tensors(vectors, case, "init")]
    assert any(zeros(m) for m in old)
    result = mask_from_scores(
        tensors(vectors, case, "score"),
        1.0 - float(vectors[f"{case}.density"]),
        ties=ties,
        previous=old,
    )
    assert_masks(result, [m > 0 for m in tensors(vectors, case, "mask")])


def test_recorded_nan_scores_are_refused(golden):
    scores = tensors(golden("app/mask_rules.npz"), "nan_g", "score")
    with pytest.raises(ValueError, match="NaN"):
        mask_from_scores(scores, 0.5)


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("kind", ["distinct", "ties"])
def test_nested_updates_match_the_recorded_ones(golden, kind, scope):
    vectors = golden("app/nested_update.npz")
    old = [
        np.ones(vectors[f"{kind}.{scope}.t1.score{i}"].shape, bool)
        for i in range(3)
    ]
    for t, density in enumerate(vectors["density"], start=1):
        key = f"{kind}.{scope}.t{t}"
        scores = [vectors[f"{key}.score{i}"] for i in range(3)]
        sparsity = 1.0 - float(density)
        if scope == "global":
            new = mask_from_scores(scores, sparsity, previous=old)
        else:
            new = [
                mask_from_scores(s, sparsity, previous=o)
                for s, o in zip(scores, old)
            ]
        expected = [vectors[f"{key}.mask{i}"].astype(bool) for i in range(3)]
        assert_masks(new, expected)
        old = new


# ---- counts and ties ---------------------------------------------------


def test_k_is_the_integer_part_in_double_precision():
    # (1.0 - 0.8) * 1000 is 199.99999999999997.
    scores = np.arange(1000.0)
    assert zeros(mask_from_scores(scores, 1.0 - 0.8)) == 199
    assert zeros(mask_from_scores(scores, 0.2)) == 200


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.25, 0.5, 0.9, 0.99, 1.0])
def test_all_equal_scores_reach_the_target_exactly(sparsity):
    # A threshold alone prunes all of them or none.
    mask = mask_from_scores(np.full((10, 20), 0.25), sparsity)
    assert zeros(mask) == int(sparsity * 200)


def test_a_tensor_of_zeros_reaches_the_target_exactly():
    assert zeros(mask_from_scores(np.zeros((10, 10)), 0.5)) == 50


def test_a_tensor_already_95_percent_zero_gets_the_sparsity_asked_for():
    # The 50th smallest of its scores is 0: elsewhere "keep what is at or
    # above the threshold" then keeps all.
    scores = np.zeros(100)
    scores[:5] = [3.0, 1.0, 4.0, 1.5, 9.0]
    mask = mask_from_scores(scores, 0.5)
    assert zeros(mask) == 50
    assert mask[:5].all()


def test_tied_scores_at_the_threshold_are_pruned_up_to_the_count():
    mask = mask_from_scores(np.array([1.0, 1.0, 1.0, 2.0]), 0.5)
    assert mask.tolist() == [False, False, True, True]


def test_le_prunes_every_tie():
    mask = mask_from_scores(np.array([1.0, 1.0, 1.0, 2.0]), 0.5, ties="le")
    assert mask.tolist() == [False, False, False, True]


def test_ties_prune_the_lower_flat_index_first():
    mask = mask_from_scores(np.ones((2, 3)), 0.5)
    assert mask.tolist() == [[False, False, False], [True, True, True]]


def test_ties_prune_the_earlier_tensor_first():
    result = mask_from_scores({"b": np.ones(2), "a": np.ones(2)}, 0.5)
    assert result["b"].tolist() == [False, False]
    assert result["a"].tolist() == [True, True]


def test_the_order_of_a_dict_counts_and_not_its_names():
    result = mask_from_scores({"z": np.ones(3), "a": np.ones(3)}, 0.5)
    assert list(result) == ["z", "a"]
    assert result["z"].tolist() == [False, False, False]


def test_flat_order_is_row_major_for_transposed_arrays_too():
    scores = np.ones((3, 2)).T
    mask = mask_from_scores(scores, 0.5)
    assert mask.tolist() == [[False, False, False], [True, True, True]]


def test_minus_zero_ties_with_zero():
    for first, second in ((-0.0, 0.0), (0.0, -0.0)):
        mask = mask_from_scores(np.array([1.0, first, second, 2.0]), 0.25)
        assert mask.tolist() == [True, False, True, True]


def test_one_threshold_over_several_tensors():
    result = mask_from_scores(
        {"a": np.array([0.1, 0.4]), "b": np.array([[0.3, 0.2]])}, 0.5
    )
    assert result["a"].tolist() == [False, True]
    assert result["b"].tolist() == [[True, False]]


def test_negative_scores_rank_below_zero():
    mask = mask_from_scores(np.array([0.0, -2.0, 1.0, -1.0]), 0.5)
    assert mask.tolist() == [True, False, True, False]


def test_infinite_scores_are_the_extremes():
    scores = np.array([np.inf, -np.inf, 0.0, np.inf, -np.inf, 1.0])
    expected = {
        1: [True, False, True, True, True, True],
        2: [True, False, True, True, False, True],
        4: [True, False, False, True, False, False],
        5: [False, False, False, True, False, False],
    }
    for k, mask in expected.items():
        assert mask_from_scores(scores, k / 6 + 1e-9).tolist() == mask


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "int32", "bool"]
)
def test_dtypes_rank_alike(dtype):
    scores = np.array([1, 0, 1, 1, 0, 1]).astype(dtype)
    mask = mask_from_scores(scores, 0.5)
    assert mask.tolist() == [False, False, True, True, False, True]


def test_half_precision_scores_do_not_overflow_or_round():
    # Neighbours in float16, among them its smallest and largest.
    scores = np.array([65504.0, 6e-8, 1.0, 1.001, 0.0], "float16")
    mask = mask_from_scores(scores, 0.6)
    assert mask.tolist() == [True, False, False, True, False]


def test_bfloat16_scores_are_accepted():
    import ml_dtypes

    scores = np.array([3.0, 1.0, 2.0, 1e38]).astype(ml_dtypes.bfloat16)
    assert mask_from_scores(scores, 0.5).tolist() == [True, False, False, True]


def test_float64_scores_keep_their_precision():
    scores = np.array([1.0 + 2e-16, 1.0, 1.0 + 4e-16])
    assert mask_from_scores(scores, 0.4).tolist() == [True, False, True]


def test_a_scalar_and_an_empty_tensor_do_not_break_the_rule():
    result = mask_from_scores([np.ones(()), np.zeros((0, 3)), np.zeros(1)], 0.5)
    assert [m.shape for m in result] == [(), (0, 3), (1,)]
    assert result[0].all() and not result[2].any()


def test_the_scores_are_not_changed():
    scores = np.array([3.0, 1.0, 2.0])
    mask_from_scores(scores, 0.5)
    assert scores.tolist() == [3.0, 1.0, 2.0]


# ---- containers --------------------------------------------------------


def test_the_container_of_the_scores_comes_back():
    scores = np.array([2.0, 1.0])
    assert isinstance(mask_from_scores(scores, 0.5), np.ndarray)
    assert isinstance(mask_from_scores([scores], 0.5), list)
    assert isinstance(mask_from_scores((scores, scores), 0.5), tuple)
    result = mask_from_scores({"a": scores, 7: scores}, 0.5)
    assert list(result) == ["a", 7]


def test_previous_may_be_a_dict_in_another_order():
    result = mask_from_scores(
        {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])},
        0.5,
        previous={"b": np.array([True, False]), "a": np.array([True, True])},
    )
    assert result["a"].tolist() == [False, True]
    assert result["b"].tolist() == [True, False]


# ---- previous masks ----------------------------------------------------


def test_what_is_pruned_counts_as_the_first_of_the_k():
    mask = mask_from_scores(
        np.array([1.0, 2.0, 3.0, 9.0]),
        0.5,
        previous=np.array([True, True, True, False]),
    )
    assert mask.tolist() == [False, True, True, False]


def test_a_lower_sparsity_keeps_the_previous_mask():
    old = np.array([False, False, False, True])
    mask = mask_from_scores(np.arange(4.0), 0.5, previous=old)
    assert mask.tolist() == old.tolist()
    mask[0] = True
    assert old.tolist() == [False, False, False, True]


def test_without_previous_masks_the_scores_alone_decide():
    assert mask_from_scores(np.arange(4.0), 0.5).tolist() == [
        False,
        False,
        True,
        True,
    ]


def test_nan_is_refused_where_the_weight_is_pruned_too():
    with pytest.raises(ValueError, match="NaN"):
        mask_from_scores(
            np.array([1.0, np.nan]), 0.5, previous=np.array([True, False])
        )


# ---- errors ------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, said",
    [
        (dict(sparsity=90), ["`sparsity`", "sparsity=90", "0.9?"]),
        (dict(sparsity=-0.5), ["`sparsity`", "sparsity=-0.5"]),
        (dict(ties="first"), ["`ties`", "ties='first'"]),
        (
            dict(previous=np.ones(3, bool)),
            ["`previous`", "(3,)", "(4,)"],
        ),
        (dict(previous={"a": np.ones(4, bool)}), ["`previous`", "dict"]),
    ],
)
def test_bad_arguments_are_refused_with_their_value(arguments, said):
    arguments = {"sparsity": 0.5, **arguments}
    with pytest.raises(ValueError) as error:
        mask_from_scores(np.arange(4.0), **arguments)
    for words in said:
        assert words in str(error.value)


def test_nan_is_refused_with_the_name_of_its_tensor():
    with pytest.raises(ValueError, match="conv/kernel"):
        mask_from_scores({"a": np.ones(2), "conv/kernel": [np.nan]}, 0.5)


def test_previous_masks_of_other_tensors_are_refused():
    with pytest.raises(ValueError, match="previous"):
        mask_from_scores(
            {"a": np.ones(2)}, 0.5, previous={"b": np.ones(2, bool)}
        )


# ---- against one sort of everything ------------------------------------

VALUES = st.one_of(
    st.floats(allow_nan=False, width=32),
    st.integers(-2, 2).map(float),
)


@st.composite
def small_problems(draw):
    shapes = draw(st.lists(npst.array_shapes(max_side=5), max_size=4))
    shapes = shapes or [(3,)]
    dtype = draw(st.sampled_from(["float32", "float64"]))
    arrays = [
        draw(npst.arrays(dtype, shape, elements=VALUES)) for shape in shapes
    ]
    previous = draw(
        st.one_of(
            st.none(),
            st.tuples(*[npst.arrays(bool, shape) for shape in shapes]).map(
                list
            ),
        )
    )
    return arrays, previous


@settings(deadline=None, max_examples=200)
@given(
    problem=small_problems(),
    sparsity=st.floats(0, 1),
    ties=st.sampled_from(["exact", "le"]),
)
def test_small_problems_equal_one_sort_of_everything(problem, sparsity, ties):
    arrays, previous = problem
    result = mask_from_scores(arrays, sparsity, ties=ties, previous=previous)
    assert_masks(result, sorted_rule(arrays, sparsity, ties, previous))


def large_scores(generator, kind, size):
    if kind == "normal":
        return generator.standard_normal(size).astype("float32")
    if kind == "few values":
        return generator.integers(0, 5, size).astype("float32")
    if kind == "mostly zero":
        values = generator.standard_normal(size)
        return np.where(generator.random(size) < 0.97, 0.0, values)
    if kind == "sorted":
        return np.arange(size, dtype="float64") // 3
    if kind == "infinite":
        values = generator.standard_normal(size).astype("float32")
        values[: size // 3] = -np.inf
        values[-size // 3 :] = np.inf
        return values
    return np.full(size, 7.0, "float32")


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    kinds=st.lists(
        st.sampled_from(
            ["normal", "few values", "mostly zero", "sorted", "infinite", "one"]
        ),
        min_size=1,
        max_size=3,
    ),
    size=st.integers(66_000, 120_000),
    sparsity=st.one_of(
        st.floats(0, 1), st.sampled_from([1e-5, 0.5, 0.9, 0.99999, 1.0])
    ),
    kept=st.sampled_from([None, 0.999, 0.9, 0.5]),
    ties=st.sampled_from(["exact", "le"]),
)
def test_large_problems_equal_one_sort_of_everything(
    seed, kinds, size, sparsity, kept, ties
):
    generator = np.random.default_rng(seed)
    arrays = [
        large_scores(generator, kind, size + 17 * i)
        for i, kind in enumerate(kinds)
    ]
    previous = kept and [generator.random(a.shape) < kept for a in arrays]
    result = mask_from_scores(arrays, sparsity, ties=ties, previous=previous)
    assert_masks(result, sorted_rule(arrays, sparsity, ties, previous))


@pytest.mark.parametrize("kind", ["normal", "few values", "one"])
def test_more_than_one_chunk_equals_one_sort_of_everything(kind):
    generator = np.random.default_rng(1)
    arrays = [
        large_scores(generator, kind, 600_000).reshape(600, 1000),
        large_scores(generator, kind, 70_001),
    ]
    for sparsity in (0.01, 0.5, 0.98):
        result = mask_from_scores(arrays, sparsity)
        assert_masks(result, sorted_rule(arrays, sparsity))


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(30, 2000),
    share=st.floats(0, 1),
    kept=st.sampled_from([None, 0.9, 0.3, 0.02]),
    integers=st.booleans(),
)
def test_the_sample_never_decides_the_result(seed, size, share, kept, integers):
    # With small limits the sample is tiny, misleads often, and may miss what
    # is still in play altogether. A network of 25M weights pruned to 99.7 %
    # draws samples as small as these.
    generator = np.random.default_rng(seed)
    arrays = [generator.standard_normal(size), generator.standard_normal(7)]
    if integers:
        arrays = [np.round(a) for a in arrays]
    previous = kept and [generator.random(a.shape) < kept for a in arrays]
    sparsity = 1.0 - share * (kept or 1.0)
    small, chunk = masks.exact_k._SMALL, masks.exact_k.CHUNK
    masks.exact_k._SMALL, masks.exact_k.CHUNK = 8, 64
    try:
        result = mask_from_scores(arrays, sparsity, previous=previous)
    finally:
        masks.exact_k._SMALL, masks.exact_k.CHUNK = small, chunk
    assert_masks(result, sorted_rule(arrays, sparsity, "exact", previous))


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    sparsities=st.lists(st.floats(0, 1), min_size=2, max_size=5).map(sorted),
)
def test_updates_with_previous_masks_are_nested_and_exact(seed, sparsities):
    generator = np.random.default_rng(seed)
    old = {"a": np.ones((20, 5), bool), "b": np.ones(33, bool)}
    for sparsity in sparsities:
        scores = {k: generator.integers(0, 9, m.shape) for k, m in old.items()}
        new = mask_from_scores(scores, sparsity, previous=old)
        assert all(not (new[k] & ~old[k]).any() for k in old)
        assert sum(zeros(m) for m in new.values()) == int(sparsity * 133)
        old = new


@settings(deadline=None, max_examples=50)
@given(
    scores=npst.arrays("float32", 50, elements=VALUES), sparsity=st.floats(0, 1)
)
def test_survivors_outrank_the_pruned(scores, sparsity):
    mask = mask_from_scores(scores, sparsity)
    if mask.any() and not mask.all():
        assert scores[mask].min() >= scores[~mask].max()
