"""Weights split over four devices are pruned where they lie, as on the host."""

import tempfile
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_app import enforcement
from keras_app import masks
from keras_app import pruners
from keras_app import schedules
from keras_app import split
from keras_app.masks import mask_from_scores
from tests import splitting

# ---- the choice itself ----------------------------------------------------

# Two zeros, numbers below the smallest normal one, neighbours, infinities.
VALUES = [0.0, -0.0, 1e-40, 2e-40, -1e-40, 1e-37, 1.0, 1.0078125, -1.0, 3e38]
VALUES += [float("inf"), float("-inf")]
SHAPES = [(8, 6), (4, 2, 3)]
AXES = [(None, "model"), ("model", "batch")]


def agrees(scores, sparsity, ties, previous):
    """The masks of split arrays are split, and those of the host."""
    expected = mask_from_scores(scores, sparsity, ties=ties, previous=previous)
    parts = [splitting.put(*pair) for pair in zip(scores, AXES)]
    before = previous and [splitting.put(*pair) for pair in zip(previous, AXES)]
    with splitting.fetches() as fetched:
        found = mask_from_scores(parts, sparsity, ties=ties, previous=before)
    assert fetched == []
    for part, mask, want in zip(parts, found, expected, strict=True):
        assert mask.sharding.is_equivalent_to(part.sharding, mask.ndim)
        np.testing.assert_array_equal(np.asarray(mask), want)


def the_choice_is_that_of_the_host():
    import ml_dtypes

    sizes = [int(np.prod(shape)) for shape in SHAPES]
    few = st.lists(st.sampled_from(VALUES), min_size=1, max_size=4)

    @settings(max_examples=120, deadline=None, database=None)
    @given(
        st.sampled_from(["float32", ml_dtypes.bfloat16]),
        few.flatmap(
            lambda some: st.lists(
                st.sampled_from(some),
                min_size=sum(sizes),
                max_size=sum(sizes),
            )
        ),
        st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])),
        st.sampled_from(["exact", "le"]),
        st.one_of(st.none(), st.integers(0, 99)),
    )
    def check(dtype, values, sparsity, ties, seed):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is too small, or large
            flat = np.array(values, "float32").astype(dtype)
        scores = [
            part.reshape(shape)
            for part, shape in zip(np.split(flat, sizes[:1]), SHAPES)
        ]
        previous = None
        if seed is not None:
            draw = np.random.default_rng(seed)
            previous = [draw.random(shape) < 0.6 for shape in SHAPES]
        agrees(scores, sparsity, ties, previous)

    check()


def draws_of_the_host_are_ranked_in_double_precision():
    # Equal in single precision.
    draws = 1 + np.arange(48.0).reshape(8, 6)[::-1] * 1e-12
    old = splitting.put(np.ones((8, 6), bool), AXES[0])
    found = mask_from_scores(draws, 0.4, previous=old)
    assert split.is_split(found)
    np.testing.assert_array_equal(found, mask_from_scores(draws, 0.4))


def scores_that_are_no_numbers_are_refused():
    scores = np.ones((8, 6), "float32")
    scores[7, 5] = np.nan
    with pytest.raises(masks.DegenerateScores, match="Received NaN in 'w'"):
        mask_from_scores({"w": splitting.put(scores, AXES[0])}, 0.5)


def small_numbers_are_no_zeros():
    # XLA takes them for zeros on a CPU, where it compares floats.
    values = splitting.put(
        np.array([[1e-40, -0.0], [0.0, 2.0]], "float32"), ("model",)
    )
    assert split.count(values) == 2
    np.testing.assert_array_equal(
        split.nonzero(values), [[True, False], [False, True]]
    )


# ---- whole trainings ------------------------------------------------------


def pruner_of(name, scope):
    if name == "magnitude":
        gradual = schedules.PolynomialDecay(0.0, 0.7, 0, 6, frequency=2)
        return pruners.MagnitudePruner(gradual, scope=scope)
    if name == "rigl":
        constant = schedules.ConstantSparsity(0.6, 0, 8, frequency=2)
        return pruners.RigL(constant, scope=scope)
    return pruners.AnytimeProgressivePruner(
        schedules.AnytimeSchedule(2, level=4),
        data=[splitting.data()],
        scope=scope,
        filters="kernel",
    )


TRAININGS = [
    (name, scope)
    for name in ("rigl", "magnitude", "app")
    for scope in ("layer", "global")
]


def trainings(optimizer=None):
    """`{case: (masks, weights, fetches)}`; one model, because it compiles."""
    found = {}
    model = splitting.model(optimizer)
    start = None
    for name, scope in TRAININGS:
        pruner = pruner_of(name, scope)
        with splitting.fetches() as fetched:
            pruner.set_model(model)
        state = [*model.variables, *model.optimizer.variables]
        if start is None:
            start = [np.array(split.gathered(v.value)) for v in state]
        for variable, value in zip(state, start, strict=True):
            variable.assign(value)
        with splitting.fetches() as more:
            for _ in range(2 if name == "app" else 1):
                splitting.fit(model, pruner)
            pruner.report.to_dict()
        if keras.distribution.distribution() is not None:
            check_layouts(model)
        arrays = [np.asarray(mask) for mask in pruner.masks.values()]
        found[name, scope] = arrays, model.get_weights(), [*fetched, *more]
    return found


def check_layouts(model):
    """What an optimizer keeps beside a weight lies as the weight does."""
    optimizer = model.optimizer
    state = enforcement.state_of(model)
    checked = 0
    for variable in model.trainable_variables:
        beside = [
            each
            for each in [*optimizer.variables, *state.own_variables]
            if tuple(each.shape) == tuple(variable.shape)
            and variable.path.replace("/", "_") in each.name
        ]
        for each in beside:
            layout = each.value.sharding
            assert layout.is_equivalent_to(
                variable.value.sharding, len(variable.shape)
            ), each.name
            checked += split.is_split(each)
    # Of two kernels: masks, what was watched, two moments; of a bias moments.
    assert checked >= 2 * 4 + 2


def trained_cases():
    """A case for each training, that says what is wrong."""
    whole = trainings()
    with splitting.distributed():
        parts = trainings()

    def case(key):
        def check():
            _, weights, fetched = parts[key]
            assert fetched == [], fetched
            for a, b in zip(whole[key][0], parts[key][0], strict=True):
                np.testing.assert_array_equal(a, b)
            for a, b in zip(whole[key][1], weights, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

        return check

    return {" ".join(key): case(key) for key in TRAININGS}


def what_needs_whole_arrays_says_so():
    with splitting.distributed():
        model = splitting.model()
        pruner = pruners.MagnitudePruner(
            schedules.OneShot(0.5), structure=masks.NM(2, 4, transposable=True)
        )
        with pytest.warns(UserWarning, match="gathered on the host .*NM"):
            pruner.set_model(model)
        with splitting.fetches() as fetched:
            pruner.prune(0.5)
    assert fetched
    assert [mask.mean() for mask in pruner.masks.values()] == [0.5] * 3


# ---- resuming -------------------------------------------------------------


class Stopped(pruners.MagnitudePruner):
    """Ends the training before its second epoch, if asked to."""

    stops = False

    def on_epoch_begin(self, epoch, logs=None):
        if self.stops and epoch == 1:
            raise ZeroDivisionError
        super().on_epoch_begin(epoch, logs)


def experiment():
    from keras_app import experiments
    from keras_app.experiments import data as data_lib

    x, y = splitting.data(64)

    def network(input_shape, num_classes, mean, std, seed):
        return splitting.model()

    def found(model):
        arrays = enforcement.masks_of(model).values()
        return {
            "weights": [weight.tolist() for weight in model.get_weights()],
            "masks": [mask.tolist() for mask in arrays],
        }

    schedule = schedules.PolynomialDecay(0.0, 0.7, 0, 10, frequency=2)
    return experiments.Train(
        data_lib.Holdout((x, y), 0.25, test=(x, y), batch_size=8),
        network,
        epochs=2,
        pruner=Stopped(schedule, scope="global"),
        discover=found,
    )


def scope_of(count):
    from keras_app.experiments import devices

    return devices.scope(
        "model_parallel",
        devices=count,
        model_devices=2,
        layout=splitting.LAYOUT,
    )


def a_run_goes_on_with_other_devices():
    with tempfile.TemporaryDirectory() as folder:
        with scope_of(4):
            whole = experiment().run(f"{folder}/whole")
            Stopped.stops = True
            with pytest.raises(ZeroDivisionError):
                experiment().run(f"{folder}/moved")
        Stopped.stops = False
        with scope_of(2):
            moved = experiment().run(f"{folder}/moved", resume=True)
    assert moved["masks"] == whole["masks"]
    assert 0.69 < 1 - moved["effective_density"] < 0.71
    for a, b in zip(moved["weights"], whole["weights"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def what_cannot_be_split_is_told_in_one_sentence():
    from keras_app.experiments import devices

    layout = {"hidden/kernel": (None, "model")}
    with pytest.raises(ValueError, match="for hidden/kernel of shape") as told:
        with devices.scope(
            "model_parallel", devices=3, model_devices=3, layout=layout
        ):
            splitting.model()
    assert "model_devices=3" in str(told.value)
    assert "(8, 16)" in str(told.value)


CHOICES = [
    the_choice_is_that_of_the_host,
    draws_of_the_host_are_ranked_in_double_precision,
    scores_that_are_no_numbers_are_refused,
    small_numbers_are_no_zeros,
    what_needs_whole_arrays_says_so,
    a_run_goes_on_with_other_devices,
    what_cannot_be_split_is_told_in_one_sentence,
]


def cases():
    """`{name: what a process with four devices runs}`."""
    return {case.__name__: case for case in CHOICES} | trained_cases()


# The cases of trainings train; here their names are enough.
test_on_four_devices = splitting.tests_of(
    __name__,
    [
        *(case.__name__ for case in CHOICES),
        *(" ".join(key) for key in TRAININGS),
    ],
)


def test_nothing_is_split_on_one_device():
    model = splitting.model()
    kernel = model.get_layer("hidden").kernel
    assert not split.is_split(kernel)
    assert isinstance(split.read(kernel), np.ndarray)
    assert split.count(split.read(kernel)) == 8 * 16
