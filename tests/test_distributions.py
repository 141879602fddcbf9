"""Tests of how one sparsity is spread over layers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_app.distributions import erdos_renyi
from keras_app.distributions import uniform

pytestmark = pytest.mark.backend_free


def kept(shapes, sparsities):
    return sum(
        (1.0 - sparsities[name]) * np.prod(shape)
        for name, shape in shapes.items()
    )


def test_uniform_gives_every_layer_the_same():
    shapes = {"b": (3, 3, 4, 8), "a": (10, 2)}
    result = uniform(shapes, 0.7)
    assert result == {"b": 0.7, "a": 0.7}
    assert list(result) == ["b", "a"]


def test_uniform_with_a_layer_of_its_own():
    assert uniform({"a": (2, 2), "b": (2, 2)}, 0.5, {"b": 0.9}) == {
        "a": 0.5,
        "b": 0.9,
    }


def test_erk_by_hand():
    # Raw densities 20/100 = 0.2, 50/400 = 0.125, 100/1600 = 0.0625. Kept
    # 0.25 * 2100 = 525 = scale * (20 + 50 + 100); scale 3.0882.
    shapes = {"a": (10, 10), "b": (10, 40), "c": (20, 80)}
    result = erdos_renyi(shapes, 0.75)
    scale = 525 / 170
    assert result == pytest.approx(
        {"a": 1 - scale * 0.2, "b": 1 - scale * 0.125, "c": 1 - scale * 0.0625}
    )


def test_erk_counts_the_spatial_dimensions():
    # a: (3+3+4+8)/288 = 0.0625; b: (1+1+8+16)/128 = 0.203125.
    # Kept 0.2 * 416 = 83.2 = scale * (18 + 26).
    shapes = {"a": (3, 3, 4, 8), "b": (1, 1, 8, 16)}
    scale = 83.2 / 44
    assert erdos_renyi(shapes, 0.8) == pytest.approx(
        {"a": 1 - scale * 0.0625, "b": 1 - scale * 0.203125}
    )


def test_er_counts_the_last_two_dimensions_only():
    # a: 12/32 = 0.375; b: 24/128 = 0.1875. scale * (108 + 24) = 83.2.
    shapes = {"a": (3, 3, 4, 8), "b": (1, 1, 8, 16)}
    scale = 83.2 / 132
    result = erdos_renyi(shapes, 0.8, include_kernel=False)
    assert result == pytest.approx(
        {"a": 1 - scale * 0.375, "b": 1 - scale * 0.1875}
    )


def test_a_small_layer_saturates_and_the_others_share_the_rest():
    # Raw 0.2 and 0.11: 0.5 * 1100 / 130 would give a 0.846 and b 0.465, so
    # none saturates at 0.5; at 0.3 a would exceed 1.
    shapes = {"a": (10, 10), "b": (100, 10)}
    result = erdos_renyi(shapes, 0.3)
    assert result["a"] == 0.0
    # 0.7 * 1100 = 770 = 100 + (1 - s) * 1000.
    assert result["b"] == pytest.approx(0.33)


def test_saturation_may_cascade():
    # Only after a is made dense does the surplus fill b too.
    shapes = {"a": (2, 2), "b": (6, 6), "c": (100, 100)}
    result = erdos_renyi(shapes, 0.9)
    assert result["a"] == 0.0 and result["b"] == 0.0
    assert kept(shapes, result) == pytest.approx(0.1 * 10040)


def test_power_0_is_uniform():
    shapes = {"a": (10, 10), "b": (100, 10)}
    assert erdos_renyi(shapes, 0.6, power=0.0) == pytest.approx(
        {"a": 0.6, "b": 0.6}
    )


def test_power_sharpens_the_difference():
    # Squares 0.04 and 0.0121; 0.1 * 1100 = 110 = scale * (4 + 12.1).
    shapes = {"a": (10, 10), "b": (100, 10)}
    scale = 110 / 16.1
    assert erdos_renyi(shapes, 0.9, power=2.0) == pytest.approx(
        {"a": 1 - scale * 0.04, "b": 1 - scale * 0.0121}
    )


def test_a_layer_of_its_own_takes_no_part_in_the_sharing():
    shapes = {"a": (10, 10), "own": (50, 50), "b": (10, 40)}
    result = erdos_renyi(shapes, 0.75, custom={"own": 0.5})
    alone = erdos_renyi({"a": (10, 10), "b": (10, 40)}, 0.75)
    assert result == {**alone, "own": 0.5}
    assert list(result) == ["a", "own", "b"]


@pytest.mark.parametrize("spread", [uniform, erdos_renyi])
def test_the_ends_of_the_range(spread):
    shapes = {"a": (3, 3, 1, 6), "b": (40, 40)}
    assert spread(shapes, 0.0) == {"a": 0.0, "b": 0.0}
    assert spread(shapes, 1.0) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("spread", [uniform, erdos_renyi])
def test_every_layer_of_its_own(spread):
    assert spread({"a": (2, 2)}, 0.5, custom={"a": 0.25}) == {"a": 0.25}


@pytest.mark.parametrize("spread", [uniform, erdos_renyi])
@pytest.mark.parametrize(
    "sparsity, custom, said",
    [
        (50, None, ["`sparsity` must be in [0, 1]", "sparsity=50", "0.5?"]),
        (-0.5, None, ["sparsity=-0.5"]),
        (0.5, {"c": 0.5}, ["`custom`", "'c'", "['a', 'b']"]),
        (0.5, {"a": 1.5}, ["custom['a']", "=1.5"]),
    ],
)
def test_bad_arguments_are_refused_with_their_value(
    spread, sparsity, custom, said
):
    with pytest.raises(ValueError) as error:
        spread({"a": (2, 2), "b": (2, 2)}, sparsity, custom)
    for words in said:
        assert words in str(error.value)


SHAPES = st.dictionaries(
    st.text(min_size=1, max_size=3),
    st.lists(st.integers(1, 64), min_size=2, max_size=4).map(tuple),
    min_size=1,
    max_size=8,
)


@settings(deadline=None)
@given(
    shapes=SHAPES,
    sparsity=st.floats(0, 1),
    include_kernel=st.booleans(),
    power=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)
def test_as_many_weights_are_kept_as_under_uniform(
    shapes, sparsity, include_kernel, power
):
    result = erdos_renyi(
        shapes, sparsity, include_kernel=include_kernel, power=power
    )
    assert list(result) == list(shapes)
    assert all(0.0 <= value <= 1.0 for value in result.values())
    assert (
        abs(kept(shapes, result) - kept(shapes, uniform(shapes, sparsity))) < 1
    )


@settings(deadline=None)
@given(shapes=SHAPES, sparsity=st.floats(0.01, 1))
def test_layers_that_do_not_saturate_keep_their_proportion(shapes, sparsity):
    result = erdos_renyi(shapes, sparsity)
    ratios = [
        (1.0 - result[name]) * np.prod(shape) / np.sum(shape)
        for name, shape in shapes.items()
        if 0.0 < result[name] < 1.0
    ]
    np.testing.assert_allclose(ratios, ratios[:1] * len(ratios), rtol=1e-6)
