"""Tests of the schedules: literals, tfmot's convention, recorded densities."""

import functools

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_app import schedules
from keras_app.schedules import AnytimeSchedule
from keras_app.schedules import ConstantSparsity
from keras_app.schedules import CosineDecay
from keras_app.schedules import CyclicSparsity
from keras_app.schedules import ExponentialDecay
from keras_app.schedules import OneShot
from keras_app.schedules import PiecewiseConstant
from keras_app.schedules import PolynomialDecay
from tests.helpers import assert_refused

pytestmark = pytest.mark.backend_free

EXAMPLES = [
    ConstantSparsity(0.5, 10, 50, 5),
    ConstantSparsity(0.0, 0),
    PolynomialDecay(0.1, 0.9, 3, 40, power=2, frequency=7),
    PolynomialDecay(0.0, 0.5, 0, 1),
    CosineDecay(0.1, 0.9, 3, 40, frequency=7),
    CosineDecay(0.0, 0.5, 0, 1),
    ExponentialDecay(0.1, 0.9, 3, 40, frequency=7),
    ExponentialDecay(0.9, 0.2, 0, 50),
    CyclicSparsity(0.0, 0.9, 4, 30, period=6),
    CyclicSparsity(0.25, 0.5, 0, 7, period=3, sparse_fraction=0.7),
    OneShot(0.9),
    OneShot(0.25, step=12),
    PiecewiseConstant([4, 20, 30], [0.3, 0.3, 0.8]),
    PiecewiseConstant((7,), (0.5,)),
    AnytimeSchedule(8, 4.5),
    AnytimeSchedule(1, 3, base=0.5, reference_compatible=True),
    AnytimeSchedule(3, 2.5, progressive=False),
]


def steps_that_prune(schedule, until=100):
    return [step for step in range(until) if schedule(step)[0]]


# ---- literals ----------------------------------------------------------


def test_constant_sparsity_prunes_from_begin_to_end_at_the_frequency():
    schedule = ConstantSparsity(0.5, begin_step=10, end_step=22, frequency=5)
    assert steps_that_prune(schedule) == [10, 15, 20]
    assert [schedule(step)[1] for step in (0, 10, 99)] == [0.5, 0.5, 0.5]


def test_constant_sparsity_without_an_end_goes_on():
    schedule = ConstantSparsity(0.5, begin_step=2, frequency=40)
    assert steps_that_prune(schedule, 130) == [2, 42, 82, 122]
    assert schedule.end_step == -1


def test_end_step_itself_prunes():
    assert ConstantSparsity(0.5, 0, 10, 5)(10)[0]
    assert PolynomialDecay(0.0, 0.5, 0, 10, frequency=5)(10)[0]


def test_default_frequency_is_100_steps():
    schedule = PolynomialDecay(0.0, 0.5, 0, 300)
    assert steps_that_prune(schedule, 400) == [0, 100, 200, 300]


@pytest.mark.parametrize(
    "schedule, steps, expected",
    [
        # s = 0.8 - 0.8 (1 - t)^3 at t = 0, 1/4, 1/2, 3/4, 1.
        (
            PolynomialDecay(0.0, 0.8, begin_step=100, end_step=500),
            (100, 200, 300, 400, 500),
            [0.0, 0.4625, 0.7, 0.7875, 0.8],
        ),
        # A line.
        (
            PolynomialDecay(0.2, 0.6, 0, 4, power=1),
            range(5),
            [0.2, 0.3, 0.4, 0.5, 0.6],
        ),
        # s = 0.8 (1 - cos(pi t)) / 2 at t = 0, 1/3, 1/2, 2/3, 1.
        (
            CosineDecay(0.0, 0.8, begin_step=100, end_step=700),
            (100, 300, 400, 500, 700),
            [0.0, 0.2, 0.4, 0.6, 0.8],
        ),
    ],
    ids=["polynomial, power 3", "polynomial, power 1", "cosine"],
)
def test_decay_by_hand(schedule, steps, expected):
    values = [schedule(step)[1] for step in steps]
    assert values == pytest.approx(expected, abs=1e-15)


def test_polynomial_decay_stays_constant_outside_its_interval():
    schedule = PolynomialDecay(0.2, 0.6, 10, 20, frequency=10)
    assert schedule(0) == (False, pytest.approx(0.2))
    assert schedule(40) == (False, pytest.approx(0.6))


def test_polynomial_decay_may_fall():
    schedule = PolynomialDecay(0.6, 0.2, 0, 2, power=1)
    assert [schedule(t)[1] for t in range(3)] == pytest.approx([0.6, 0.4, 0.2])


def test_exponential_decay_removes_the_same_share_at_each_update():
    # 1 - 0.992 = 0.2^3 is kept in the end, a fifth of the rest each time.
    schedule = ExponentialDecay(0.0, 0.992, 30, 60, frequency=10)
    densities = [1 - schedule(step)[1] for step in (30, 40, 50, 60)]
    assert densities == pytest.approx([1.0, 0.2, 0.04, 0.008], abs=1e-15)


def test_exponential_decay_starts_at_its_initial_density():
    # Densities 0.5, 0.25, 0.125.
    schedule = ExponentialDecay(0.5, 0.875, 0, 2)
    values = [schedule(step)[1] for step in (0, 1, 2)]
    assert values == pytest.approx([0.5, 0.75, 0.875], abs=1e-15)


@pytest.mark.parametrize(
    "ramp", [PolynomialDecay, CosineDecay, ExponentialDecay]
)
def test_a_ramp_prunes_from_begin_to_end_at_the_frequency(ramp):
    schedule = ramp(0.1, 0.9, 5, 20, frequency=5)
    assert steps_that_prune(schedule) == [5, 10, 15, 20]
    # The pruners add the last update themselves.
    assert steps_that_prune(ramp(0.1, 0.9, 5, 20, frequency=10)) == [5, 15]
    assert steps_that_prune(ramp(0.1, 0.9, 0, 300), 400) == [0, 100, 200, 300]


def test_piecewise_constant_prunes_at_its_steps_only():
    schedule = PiecewiseConstant([3, 10, 12], [0.25, 0.5, 0.75])
    assert steps_that_prune(schedule) == [3, 10, 12]
    values = [schedule(step)[1] for step in (0, 2, 3, 9, 10, 11, 12, 99)]
    assert values == [0.0, 0.0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]
    assert (schedule.begin_step, schedule.end_step) == (3, 12)


def test_cyclic_sparsity_by_hand():
    # Warm-up 0-2; sparse 3-4, dense 5-6, sparse 7-8, dense 9-10 and one step
    # more, because 12 is no whole period; sparse from 12 on.
    schedule = CyclicSparsity(0.1, 0.8, begin_step=3, end_step=12, period=4)
    assert steps_that_prune(schedule) == [3, 5, 7, 9, 12]
    sparse = [step for step in range(20) if schedule(step)[1] == 0.8]
    assert sparse == [3, 4, 7, 8, *range(12, 20)]
    dense = [step for step in range(20) if schedule(step)[1] == 0.1]
    assert dense == [0, 1, 2, 5, 6, 9, 10, 11]


def test_cyclic_sparsity_of_the_imagenet_runs_in_steps_of_an_epoch():
    # Compressed at these epochs, decompressed at those, of the authors' file.
    schedule = CyclicSparsity(0.0, 0.9, 10, 85, period=10)
    found = {step: schedule(step)[1] for step in steps_that_prune(schedule)}
    pruned = [*range(10, 71, 10), 85]
    restored = [*range(15, 66, 10), 75]
    assert found == {
        **dict.fromkeys(pruned, 0.9),
        **dict.fromkeys(restored, 0.0),
    }


@pytest.mark.parametrize("fraction, steps", [(0.5, 2), (0.9, 3), (0.01, 1)])
def test_the_sparse_fraction_of_a_period_is_rounded(fraction, steps):
    # Of 4 steps, one at least remains to each phase; a half rounds to even.
    schedule = CyclicSparsity(0.0, 0.5, 0, 4, 4, sparse_fraction=fraction)
    assert [schedule(step)[1] for step in range(4)] == (
        [0.5] * steps + [0.0] * (4 - steps)
    )


def test_one_shot_prunes_at_its_step_only():
    assert steps_that_prune(OneShot(0.9)) == [0]
    assert steps_that_prune(OneShot(0.9, step=7)) == [7]
    assert OneShot(0.9)(3) == (False, 0.9)
    assert OneShot(0.9, step=7).end_step == 7


def test_anytime_densities_by_hand():
    # Levels 1, 2, 3 of 0.8.
    schedule = AnytimeSchedule(3, level=3)
    assert schedule.densities == pytest.approx([0.8, 0.64, 0.512], abs=1e-15)
    assert steps_that_prune(schedule) == [0, 1, 2]
    assert schedule(1)[1] == pytest.approx(0.36)
    assert schedule.end_step == 2


def test_one_megabatch_gets_the_whole_level():
    assert AnytimeSchedule(1, 4.5).densities == pytest.approx(
        [0.3663573774335656], abs=1e-15
    )


def test_one_megabatch_reference_compatible_gets_the_base():
    schedule = AnytimeSchedule(1, 4.5, reference_compatible=True)
    assert schedule.densities == [0.8]


def test_level_1_is_constant():
    assert AnytimeSchedule(4, 1).densities == [0.8, 0.8, 0.8, 0.8]


def test_another_base():
    assert AnytimeSchedule(2, 3, base=0.5).densities == [0.5, 0.125]


def test_should_prune_and_sparsity_are_plain_values():
    # tfmot's users unpack a pair; bools and floats survive JSON and gin.
    for schedule in EXAMPLES:
        should_prune, sparsity = schedule(0)
        assert type(should_prune) is bool
        assert type(sparsity) is float


# ---- the authors' densities --------------------------------------------


def test_anytime_densities_match_the_recorded_ones(golden):
    vectors = golden("app/schedule.npz")
    assert vectors["n_cases"] == 6
    for c in range(6):
        n, level = int(vectors[f"c{c}.n"]), float(vectors[f"c{c}.L"])
        # With one megabatch the authors' code does not reach the level.
        schedule = AnytimeSchedule(n, level, reference_compatible=n == 1)
        np.testing.assert_allclose(
            schedule.densities, vectors[f"c{c}.density"], rtol=1e-14
        )
        np.testing.assert_allclose(
            np.log(schedule.densities) / np.log(0.8),
            vectors[f"c{c}.level"],
            rtol=1e-12,
        )


def test_pruned_counts_match_the_recorded_ones(golden):
    vectors = golden("app/schedule.npz")
    for c in range(6):
        n, level = int(vectors[f"c{c}.n"]), float(vectors[f"c{c}.L"])
        schedule = AnytimeSchedule(n, level, reference_compatible=n == 1)
        weights = int(vectors[f"c{c}.N"])
        counts = [int(schedule(t)[1] * weights) for t in range(n)]
        assert counts == vectors[f"c{c}.k"].tolist()


def test_without_progress_every_density_is_the_last(golden):
    vectors = golden("app/schedule.npz")
    for c in range(6):
        schedule = AnytimeSchedule(
            int(vectors[f"c{c}.n"]),
            float(vectors[f"c{c}.L"]),
            progressive=False,
        )
        np.testing.assert_allclose(
            schedule.densities, vectors[f"c{c}.local_density"], rtol=1e-14
        )


def test_one_shot_at_the_final_density_matches_the_recorded_count(golden):
    vectors = golden("app/schedule.npz")
    for c in range(6):
        density = 0.8 ** float(vectors[f"c{c}.L"])
        assert density == float(vectors[f"c{c}.osp_density"])
        k = int(OneShot(1.0 - density)(0)[1] * int(vectors[f"c{c}.N"]))
        assert k == int(vectors[f"c{c}.osp_k"])


# ---- errors ------------------------------------------------------------


@pytest.mark.parametrize(
    "make, said",
    [
        (
            lambda: PolynomialDecay(0.0, 90, 0, 10),
            [
                "`final_sparsity` must be in [0, 1)",
                "Received: final_sparsity=90",
                "Did you mean 0.9?",
            ],
        ),
        (
            lambda: PolynomialDecay(-0.1, 0.9, 0, 10),
            ["`initial_sparsity`", "Received: initial_sparsity=-0.1"],
        ),
        (
            lambda: ConstantSparsity(1.0, 0),
            ["`target_sparsity` must be in [0, 1)", "target_sparsity=1"],
        ),
        (lambda: OneShot(float("nan")), ["`sparsity`", "sparsity=nan"]),
        (lambda: OneShot(0.5, step=-3), ["`step`", "step=-3"]),
        (
            lambda: PolynomialDecay(0.0, 0.5, 10, 10),
            ["`end_step` must be > `begin_step`", "end_step=10"],
        ),
        (
            lambda: ConstantSparsity(0.5, 10, end_step=5),
            ["`end_step`", "end_step=5", "begin_step=10"],
        ),
        (lambda: ConstantSparsity(0.5, -1), ["`begin_step`", "begin_step=-1"]),
        (
            lambda: ConstantSparsity(0.5, 0, frequency=0),
            ["`frequency`", "frequency=0"],
        ),
        (
            lambda: PolynomialDecay(0.0, 0.5, 0, 10, power=0),
            ["`power` must be > 0", "power=0"],
        ),
        (
            lambda: CosineDecay(0.0, 80, 0, 10),
            ["`final_sparsity` must be in [0, 1)", "final_sparsity=80"],
        ),
        (
            lambda: ExponentialDecay(0.0, 1.0, 0, 10),
            ["`final_sparsity` must be in [0, 1)", "final_sparsity=1"],
        ),
        (
            lambda: CosineDecay(0.0, 0.5, 10, 3),
            ["`end_step` must be > `begin_step`", "end_step=3"],
        ),
        (
            lambda: ExponentialDecay(0.0, 0.5, 0, 10, frequency=0),
            ["`frequency`", "frequency=0"],
        ),
        (
            lambda: PiecewiseConstant([0, 10], [0.5]),
            ["`steps` and `sparsities` must be equally long", "[0, 10]"],
        ),
        (
            lambda: PiecewiseConstant([], []),
            ["not empty", "steps=[]"],
        ),
        (
            lambda: PiecewiseConstant([10, 10], [0.2, 0.5]),
            ["`steps` must rise", "steps=[10, 10]"],
        ),
        (
            lambda: PiecewiseConstant([-1, 10], [0.2, 0.5]),
            ["`steps` must be an integer >= 0", "steps=-1"],
        ),
        (
            # Densities, most likely.
            lambda: PiecewiseConstant([0, 10], [0.8, 0.5]),
            ["`sparsities` must not fall", "sparsities=[0.8, 0.5]"],
        ),
        (
            lambda: PiecewiseConstant([0], [90]),
            ["`sparsities` must be in [0, 1)", "Did you mean 0.9?"],
        ),
        (
            lambda: CyclicSparsity(0.9, 0.0, 0, 10, 5),
            ["`final_sparsity`", "final_sparsity=0.0", "initial_sparsity=0.9"],
        ),
        (
            lambda: CyclicSparsity(0.0, 0.9, 10, 19, 10),
            ["`end_step` must be >= `begin_step + period`", "end_step=19"],
        ),
        (
            lambda: CyclicSparsity(0.0, 0.9, 0, 10, 1),
            ["`period` must be an integer >= 2", "period=1"],
        ),
        (
            lambda: CyclicSparsity(0.0, 0.9, 0, 10, 5, sparse_fraction=1.0),
            ["`sparse_fraction` must be a number in (0, 1)", "=1.0"],
        ),
        (
            lambda: AnytimeSchedule(8, 0.5),
            ["`level` must be >= 1", "level=0.5"],
        ),
        (lambda: AnytimeSchedule(8, -2), ["`level`", "level=-2"]),
        (lambda: AnytimeSchedule(8, float("nan")), ["`level`", "level=nan"]),
        (lambda: AnytimeSchedule(8, float("inf")), ["`level`", "level=inf"]),
        (
            lambda: AnytimeSchedule(0, 4.5),
            ["`num_megabatches`", "num_megabatches=0"],
        ),
        (
            lambda: AnytimeSchedule(8, 4.5, base=1.0),
            ["`base` must be in (0, 1)", "base=1.0"],
        ),
    ],
)
def test_bad_values_are_refused_with_their_value(make, said):
    assert_refused(make, said)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: OneShot("0.5"), "sparsity=0.5"),
        (lambda: OneShot(True), "sparsity=True"),
        (lambda: OneShot(0.5, step="1"), "step='1'"),
        (lambda: ConstantSparsity(0.5, 0, frequency=True), "frequency=True"),
        (lambda: ConstantSparsity(0.5, np.bool_(1)), "begin_step=np.True_"),
        (lambda: PolynomialDecay(0, 0.5, 0, None), "end_step=None"),
        (lambda: AnytimeSchedule(2.5, 4.5), "num_megabatches=2.5"),
        (lambda: PiecewiseConstant(5, 0.5), "`steps` must be a list"),
        (
            lambda: PiecewiseConstant([[1], [2, 3]], [0.5, 0.8]),
            "Received: steps=[1]",
        ),
        (lambda: PiecewiseConstant([1], 0.5), "sparsities=0.5"),
    ],
)
def test_bad_types_are_refused_with_their_value(make, said):
    with pytest.raises(TypeError) as error:
        make()
    assert said in str(error.value)


def test_no_percentage_is_suggested_where_none_was_meant():
    with pytest.raises(ValueError) as error:
        OneShot(-0.2)
    assert "Did you mean" not in str(error.value)


def test_a_level_whose_density_vanishes_is_refused_at_once():
    # 1 - 0.8^200 is 1.0 in double precision: nothing would be kept.
    with pytest.raises(ValueError, match="level"):
        AnytimeSchedule(8, level=200)


def test_numpy_numbers_are_numbers():
    schedule = OneShot(np.float64(0.5), step=np.int64(3))
    assert schedule.get_config() == {"sparsity": 0.5, "step": 3}
    assert type(schedule.get_config()["step"]) is int


def test_the_abstract_schedule_cannot_be_made():
    with pytest.raises(TypeError):
        schedules.PruningSchedule()


# ---- configuration -----------------------------------------------------


@pytest.mark.parametrize("schedule", EXAMPLES)
def test_from_config_undoes_get_config(schedule):
    again = type(schedule).from_config(schedule.get_config())
    assert again.get_config() == schedule.get_config()
    assert [again(t) for t in range(60)] == [schedule(t) for t in range(60)]
    assert again.end_step == schedule.end_step


@pytest.mark.parametrize("schedule", EXAMPLES)
def test_keras_serialization_undoes_itself(schedule):
    stored = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(stored)
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()


# ---- properties --------------------------------------------------------

SPARSITIES = st.floats(0, 1, exclude_max=True)


RAMPS = st.sampled_from(
    [
        PolynomialDecay,
        functools.partial(PolynomialDecay, power=0.3),
        functools.partial(PolynomialDecay, power=1),
        CosineDecay,
        ExponentialDecay,
    ]
)


@given(
    ramp=RAMPS,
    initial=SPARSITIES,
    final=SPARSITIES,
    begin=st.integers(0, 100),
    length=st.integers(1, 1000),
    frequency=st.integers(1, 300),
)
def test_a_ramp_is_monotone_and_exact_at_its_ends(
    ramp, initial, final, begin, length, frequency
):
    end = begin + length
    schedule = ramp(initial, final, begin, end, frequency=frequency)
    assert schedule(0)[1] == schedule(begin)[1] == initial
    assert schedule(end)[1] == schedule(end + 9)[1] == final
    assert schedule(begin)[0] and schedule(end)[0] == (length % frequency == 0)
    assert not schedule(begin - 1)[0] and not schedule(end + frequency)[0]
    values = [schedule(step)[1] for step in range(begin, end + 1, 7)]
    low, high = min(initial, final), max(initial, final)
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in values)
    moves = np.diff([*values, final])
    assert np.all(moves * (1 if final >= initial else -1) >= -1e-12)


@given(power=st.floats(0.1, 8), step=st.integers(1, 99))
def test_a_polynomial_decay_is_between_its_ends_for_every_power(power, step):
    assert 0.2 <= PolynomialDecay(0.2, 0.7, 0, 100, power)(step)[1] <= 0.7


@given(
    initial=SPARSITIES,
    final=SPARSITIES,
    length=st.integers(1, 100),
    step=st.integers(0, 100),
)
def test_cosine_decay_is_symmetric_about_its_middle(
    initial, final, length, step
):
    # As far after the begin as before the end, the two make the sum.
    schedule = CosineDecay(initial, final, 0, length)
    total = schedule(step)[1] + schedule(length - step)[1]
    assert total == pytest.approx(initial + final, abs=1e-12)


@given(
    initial=st.floats(0, 0.999),
    final=st.floats(0, 0.999),
    length=st.integers(2, 100),
)
def test_exponential_decay_multiplies_the_density(initial, final, length):
    schedule = ExponentialDecay(initial, final, 0, length)
    densities = [1.0 - schedule(step)[1] for step in range(length + 1)]
    factors = np.divide(densities[1:], densities[:-1])
    np.testing.assert_allclose(factors, factors[0], rtol=1e-8)


@given(
    pairs=st.lists(
        st.tuples(st.integers(0, 60), SPARSITIES),
        min_size=1,
        max_size=8,
        unique_by=lambda pair: pair[0],
    ),
)
def test_piecewise_constant_is_the_last_value_reached(pairs):
    steps = sorted(step for step, _ in pairs)
    sparsities = sorted(sparsity for _, sparsity in pairs)
    schedule = PiecewiseConstant(steps, sparsities)
    assert steps_that_prune(schedule) == steps
    for step in range(70):
        reached = [s for at, s in zip(steps, sparsities) if at <= step]
        assert schedule(step)[1] == (reached[-1] if reached else 0.0)


@given(
    begin=st.integers(0, 20),
    length=st.integers(2, 80),
    period=st.integers(2, 40),
    fraction=st.floats(0.01, 0.99),
)
def test_cyclic_sparsity_prunes_where_it_changes_and_ends_sparse(
    begin, length, period, fraction
):
    period = min(period, length)
    schedule = CyclicSparsity(0.0, 0.9, begin, begin + length, period, fraction)
    values = [schedule(step)[1] for step in range(begin + length + 20)]
    changes = [t for t in range(1, len(values)) if values[t] != values[t - 1]]
    assert steps_that_prune(schedule, 150) == (
        changes if begin else [0, *changes]
    )
    assert len(changes) % 2 == (begin > 0)
    assert values[begin + length - 1] == 0.0
    assert set(values[begin + length :]) == {0.9}


@given(
    n=st.integers(1, 60),
    level=st.floats(1, 40),
    base=st.floats(0.05, 0.95),
)
def test_anytime_densities_fall_to_base_to_the_level(n, level, base):
    if base**level < 1e-12:
        return
    schedule = AnytimeSchedule(n, level, base)
    densities = schedule.densities
    assert len(densities) == n
    assert densities[-1] == pytest.approx(base**level, rel=1e-12)
    if n > 1:
        assert densities[0] == pytest.approx(base, rel=1e-12)
    assert np.all(np.diff(densities) <= 1e-15)
    assert all(0 <= schedule(t)[1] < 1 for t in range(n))


@given(
    begin=st.integers(0, 50),
    length=st.integers(0, 50),
    frequency=st.integers(1, 20),
)
def test_constant_sparsity_prunes_as_often_as_counted(begin, length, frequency):
    schedule = ConstantSparsity(0.5, begin, begin + length, frequency)
    expected = list(range(begin, begin + length + 1, frequency))
    assert steps_that_prune(schedule, 200) == expected
