"""Tests of schedules in shares of the training, alone and in pruners."""

import warnings

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_app import pruners
from keras_app import schedules
from keras_app.compat import tfmot
from keras_app.schedules import ConstantSparsity
from keras_app.schedules import CyclicSparsity
from keras_app.schedules import OneShot
from keras_app.schedules import PiecewiseConstant
from keras_app.schedules import PolynomialDecay
from tests.helpers import assert_refused
from tests.helpers import BACKEND
from tests.helpers import weights
from tests.helpers import zeros
from tests.methods import PRUNERS
from tests.models import dense
from tests.models import make
from tests.models import network
from tests.models import train

# ---- schedules ---------------------------------------------------------


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "schedule, total, first, expected",
    [
        (
            PolynomialDecay(0.0, 0.9, 0.1, 0.75, frequency=0.01),
            2000,
            0,
            {"begin_step": 200, "end_step": 1500, "frequency": 20},
        ),
        # Shares count from the first step of a training, integers do not.
        (
            PolynomialDecay(0.0, 0.9, 90, 1.0, frequency=45),
            100,
            300,
            {"begin_step": 90, "end_step": 400, "frequency": 45},
        ),
        # 2.5 and 7.5 are halves; a frequency is rounded down, to 1 at least.
        (
            ConstantSparsity(0.5, 0.25, 0.75, 0.1),
            10,
            0,
            {"begin_step": 3, "end_step": 8, "frequency": 1},
        ),
        (
            ConstantSparsity(0.5, 0.5, frequency=0.0),
            10,
            5,
            {"begin_step": 10, "end_step": -1, "frequency": 1},
        ),
        (OneShot(0.5, 1.0), 7, 3, {"step": 10, "end_step": 10}),
        (OneShot(0.5, 0.29), 100, 0, {"step": 29, "end_step": 29}),
        (
            PiecewiseConstant([0, 0.5, 1.0], [0.1, 0.2, 0.3]),
            9,
            0,
            {"steps": [0, 5, 9], "begin_step": 0, "end_step": 9},
        ),
        # 2.7, 13.5 and 16.2: the period fits in between once rounded, too.
        (
            CyclicSparsity(0.0, 0.9, 0.1, 0.6, period=0.5),
            27,
            0,
            {"begin_step": 3, "end_step": 16, "period": 13},
        ),
    ],
)
def test_shares_become_steps(schedule, total, first, expected):
    given = schedule.get_config()
    resolved = schedule.resolve(total, first)
    assert {name: getattr(resolved, name) for name in expected} == expected
    assert all(
        type(value) is int
        for value in expected.values()
        if not isinstance(value, list)
    )
    assert type(resolved) is type(schedule) and resolved.shares == {}
    # The one that was given stays what it was, and in a file too.
    assert schedule.get_config() == given
    assert type(schedule).from_config(given).get_config() == given


@pytest.mark.backend_free
def test_a_schedule_in_steps_is_its_own_resolution():
    for schedule in (OneShot(0.5, 1), schedules.AnytimeSchedule(3, 2)):
        assert schedule.shares == {} and schedule.resolve(10) is schedule


PERCENT = st.integers(0, 100)


def of_percent(kind, a, b, c, unit):
    """A schedule whose times are percents, times a unit."""
    begin, end = sorted((a * unit, b * unit))
    if kind == "constant":
        return ConstantSparsity(0.5, begin, end, frequency=c * unit)
    if kind == "cyclic":
        return CyclicSparsity(0.1, 0.5, begin, end, (b - a) * unit, 0.3)
    if kind == "once":
        return OneShot(0.5, begin)
    if kind == "list":
        return PiecewiseConstant([begin, end], [0.2, 0.6])
    return getattr(schedules, kind)(0.2, 0.7, begin, end, frequency=c * unit)


@pytest.mark.backend_free
@given(
    kind=st.sampled_from(
        ["constant", "cyclic", "once", "list"]
        + ["PolynomialDecay", "CosineDecay", "ExponentialDecay"]
    ),
    ends=st.tuples(PERCENT, PERCENT).filter(lambda pair: pair[0] < pair[1]),
    frequency=st.integers(1, 100),
    hundreds=st.integers(2, 30),
    first=st.integers(0, 500),
)
def test_a_resolved_schedule_is_the_one_in_steps(
    kind, ends, frequency, hundreds, first
):
    # Of whole hundreds of steps, percents are whole steps.
    shares = of_percent(kind, *ends, frequency, 0.01)
    resolved = shares.resolve(100 * hundreds, first)
    steps = of_percent(kind, *ends, frequency, hundreds)
    assert resolved.end_step == steps.end_step + first
    for step in range(0, 100 * hundreds + 10, 7):
        assert resolved(step + first) == steps(step)
    end = steps.end_step
    assert resolved(end + first) == steps(end)


@pytest.mark.backend_free
@given(
    begin=st.floats(0, 1),
    period=st.floats(0, 1),
    end=st.floats(0, 1),
    total=st.integers(100, 10_000),
)
def test_a_period_that_fits_in_shares_fits_in_steps(begin, period, end, total):
    if begin + period > end or period * total < 2:
        return
    resolved = CyclicSparsity(0.0, 0.9, begin, end, period).resolve(total)
    assert 0 <= resolved.begin_step <= resolved.end_step <= total


@pytest.mark.backend_free
@pytest.mark.parametrize("number", [np.float64(0.25), np.float32(0.25)])
def test_numpy_floats_are_shares(number):
    schedule = OneShot(0.5, step=number)
    assert schedule.shares == {"step": 0.25}
    assert type(schedule.get_config()["step"]) is float


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "make, said",
    [
        (
            lambda: OneShot(0.5, step=1.5),
            ["`step`", "integer >= 0", "from 0.0 to 1.0", "step=1.5"],
        ),
        (
            lambda: ConstantSparsity(0.5, 0, frequency=2.0),
            ["frequency=2.0", "Did you mean 2?"],
        ),
        (
            lambda: ConstantSparsity(0.5, 0, end_step=-1.0),
            ["end_step=-1.0", "Did you mean -1?"],
        ),
        (
            lambda: PolynomialDecay(0, 0.5, -0.1, 0.5),
            ["`begin_step`", "begin_step=-0.1"],
        ),
        (
            lambda: PolynomialDecay(0, 0.5, 0.0, float("nan")),
            ["`end_step`", "end_step=nan"],
        ),
        (
            lambda: PolynomialDecay(0, 0.5, 0.5, 0.5),
            ["`end_step` must be > `begin_step`", "end_step=0.5"],
        ),
        (
            lambda: ConstantSparsity(0.5, 0.5, 0.4),
            ["`end_step`", "end_step=0.4", "begin_step=0.5"],
        ),
        (
            lambda: PiecewiseConstant([0.5, 0.5], [0.1, 0.2]),
            ["`steps` must rise", "[0.5, 0.5]"],
        ),
        (
            lambda: PiecewiseConstant([5, 7.5], [0.1, 0.2]),
            ["`steps`", "steps=7.5"],
        ),
        (
            lambda: CyclicSparsity(0.0, 0.9, 0.5, 0.8, 0.4),
            ["`end_step` must be >= `begin_step + period`", "period=0.4"],
        ),
        (
            lambda: PolynomialDecay(0, 0.5, 0.1, 0.12).resolve(10),
            ["longer", "begin_step=0.1", "10 steps", "begin_step=1, end_st"],
        ),
        (
            lambda: PolynomialDecay(0, 0.5, 500, 0.75).resolve(100),
            ["longer", "end_step=0.75", "end_step=75, begin_step=500"],
        ),
        (lambda: OneShot(0.5, 0.5).resolve(0), ["total_steps=0"]),
        (lambda: OneShot(0.5, 0.5).resolve(9, -1), ["first_step=-1"]),
        (
            lambda: PolynomialDecay(0, 0.5, 0.1, 0.75)(10),
            ["schedule.resolve(total_steps)", "begin_step=0.1, end_step=0.75"],
        ),
        *(
            (lambda schedule=schedule: schedule(0), ["resolve(total_steps)"])
            for schedule in (
                OneShot(0.5, 0.0),
                ConstantSparsity(0.5, 0, frequency=0.1),
                PiecewiseConstant([0, 0.5], [0.1, 0.2]),
                CyclicSparsity(0.0, 0.9, 0, 0.8, period=2),
            )
        ),
        (
            lambda: pruners.AnytimeProgressivePruner(OneShot(0.5, 0.5)),
            ["megabatches", "'step': 0.5"],
        ),
    ],
)
def test_what_is_no_share_is_refused_in_a_sentence(make, said):
    assert_refused(make, said)


# ---- pruners -----------------------------------------------------------


class Logged(pruners.MagnitudePruner):
    """Notes the step and the sparsity of each update."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.log = []

    def prune(self, sparsity):
        self.log.append((self._clock.next, round(sparsity, 6)))
        super().prune(sparsity)

    @property
    def ends(self):
        return (
            self.schedule_in_steps.begin_step,
            self.schedule_in_steps.end_step,
        )


def ramp(**arguments):
    arguments = {"frequency": 0.25, "power": 1, **arguments}
    return PolynomialDecay(0.0, 0.8, 0.25, 0.75, **arguments)


# The same, of 20 steps, in shares and in steps.
SCHEDULES = {
    "gradual": (
        PolynomialDecay(0.0, 0.5, 0.1, 0.75, frequency=0.1),
        PolynomialDecay(0.0, 0.5, 2, 15, frequency=2),
    ),
    "constant": (
        ConstantSparsity(0.5, 0.1, 0.75, 0.1),
        ConstantSparsity(0.5, 2, 15, 2),
    ),
    "once": (OneShot(0.5, 0.25), OneShot(0.5, 5)),
    "cyclic": (
        CyclicSparsity(0.0, 0.5, 0.1, 0.8, period=0.2),
        CyclicSparsity(0.0, 0.5, 2, 16, period=4),
    ),
}


@pytest.mark.parametrize(
    "name", [n for n, row in PRUNERS.items() if row.schedule in SCHEDULES]
)
def test_every_pruner_ends_as_with_the_same_steps(name):
    found = []
    for schedule in SCHEDULES[PRUNERS[name].schedule]:
        model, pruner = network(), make(name, schedule)
        again = type(pruner).from_config(pruner.get_config())
        assert again.schedule.get_config() == schedule.get_config()
        train(model, pruner, epochs=5)
        assert pruner.missed == []
        assert pruner.get_config() == again.get_config()
        found.append(weights(model))
    for path, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][path])


def test_a_bregman_pruner_ends_as_with_the_same_steps():
    from keras_app import optimizers
    from keras_app import regularizers

    found = []
    for schedule in SCHEDULES["gradual"]:
        optimizer = optimizers.LinBreg(0.1, regularizers=regularizers.L1(0.01))
        model = network(optimizer)
        pruner = pruners.BregmanPruner(schedule)
        train(model, pruner, epochs=5)
        assert pruner.missed == []
        found.append(weights(model))
    for path, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][path])


def test_the_report_says_which_steps_the_shares_were():
    pruner = Logged(ramp())
    train(dense(10, 10), pruner, epochs=2)
    assert pruner.log == [(2, 0.0), (4, 0.4), (6, 0.8)]
    assert "`end_step`, 0.75 of the training, is 6" in pruner.report.notes
    assert not any("no update" in note for note in pruner.report.notes)
    assert pruner.schedule.shares == {
        "begin_step": 0.25,
        "end_step": 0.75,
        "frequency": 0.25,
    }


def test_a_frequency_in_steps_that_jumps_to_the_end_is_told():
    pruner = Logged(PolynomialDecay(0.0, 0.8, 0.25, 0.75))
    train(dense(10, 10), pruner, epochs=2)
    assert pruner.log == [(2, 0.0), (6, 0.8)]
    assert any("`frequency`, 100 steps" in x for x in pruner.report.notes)


def test_the_end_of_the_training_is_its_last_update():
    pruner = Logged(OneShot(0.8, 1.0))
    model = dense(10, 10)
    train(model, pruner, epochs=2)
    assert pruner.log == [(8, 0.8)] and pruner.missed == []
    assert zeros(weights(model)["dense/kernel"]) == 80


def test_a_second_fit_is_a_training_of_its_own():
    pruner, model = Logged(ramp(power=1)), dense(10, 10)
    train(model, pruner, epochs=2)
    assert pruner.ends == (2, 6)
    train(model, pruner, epochs=3)
    assert pruner.ends == (8 + 3, 8 + 9)
    assert pruner.log[3:] == [(11, 0.0), (14, 0.4), (17, 0.8)]
    # What was pruned stays pruned.
    assert zeros(weights(model)["dense/kernel"]) == 80
    assert pruner.missed == []


def test_a_schedule_serves_pruners_of_trainings_of_different_lengths():
    schedule = ramp()
    one, two = Logged(schedule), Logged(schedule)
    train(dense(10, 10), one, epochs=2)
    train(dense(10, 10), two, epochs=4)
    assert one.ends == (2, 6) and two.ends == (4, 12)
    assert schedule.begin_step == 0.25


def test_epochs_before_the_initial_one_are_of_the_training():
    whole, parts = Logged(ramp()), [Logged(ramp()) for _ in range(2)]
    model = dense(10, 10)
    train(model, whole, epochs=4)
    again = dense(10, 10)
    for pruner, last, first in ((parts[0], 2, 0), (parts[1], 4, 2)):
        if first == 0:
            pruner.schedule, pruner.on_miss = ramp().resolve(16), "ignore"
        train(again, pruner, epochs=last, initial_epoch=first)
    # The second knows of the first two epochs by their number alone.
    assert parts[1].ends == whole.ends == (4, 12)
    # What is due between the two is done by both.
    assert parts[0].log[-1] == parts[1].log[0] == (8, 0.4)
    assert parts[0].log + parts[1].log[1:] == whole.log


def test_a_new_optimizer_knows_of_no_epochs_before():
    pruner = Logged(ramp())
    train(dense(10, 10), pruner, epochs=4, initial_epoch=2)
    assert pruner.ends == (2, 6)


@pytest.mark.parametrize("lost", [-2, 3])
def test_steps_that_were_not_counted_move_nothing(lost):
    # Batches whose gradients are no numbers; a file of mid-epoch.
    pruner, model = Logged(ramp()), dense(10, 10)
    model.optimizer.build(model.trainable_variables)
    model.optimizer._iterations.assign(8 + lost)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(model, pruner, epochs=4, initial_epoch=2)
    assert pruner.ends == (4, 12)


def test_a_training_that_keras_restores_goes_on_with_its_steps(tmp_path):
    class Killed(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise Killed

    def backed_up(*callbacks):
        pruner, model = Logged(ramp()), dense(10, 10, np.arange(100.0))
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        try:
            train(model, pruner, 4, callbacks=[backup, *callbacks])
        except Killed:
            pass
        return pruner, weights(model)["dense/kernel"]

    killed, _ = backed_up(Kill())
    resumed, after = backed_up()
    whole, expected = backed_up()
    assert killed.ends == resumed.ends == whole.ends == (4, 12)
    assert killed.log + resumed.log == whole.log
    np.testing.assert_array_equal(after, expected)


def test_steps_are_updates_where_gradients_are_accumulated():
    model = dense(10, 10)
    model.compile(
        keras.optimizers.SGD(0.01, gradient_accumulation_steps=2), "mse"
    )
    pruner = Logged(ramp(frequency=1))
    train(model, pruner, epochs=4)
    assert pruner.ends == (2, 6)
    assert pruner.log[0] == (2, 0.0) and pruner.log[-1] == (6, 0.8)


@pytest.mark.skipif(
    BACKEND == "torch", reason="Keras runs single steps on PyTorch"
)
def test_several_steps_per_execution():
    pruner = Logged(ramp())
    train(dense(10, 10, steps_per_execution=4), pruner, epochs=4)
    assert pruner.ends == (4, 12) and pruner.missed == []
    assert [sparsity for _, sparsity in pruner.log] == [0.0, 0.4, 0.8]


def test_data_of_unknown_length_is_refused_before_training():
    def batches():
        while True:
            yield np.ones((4, 10), "float32"), np.ones((4, 10), "float32")

    def generator():
        return (batch for batch, _ in zip(batches(), range(8)))

    model, pruner = dense(10, 10), Logged(ramp())
    with pytest.raises(ValueError) as error:
        model.fit(generator(), verbose=0, callbacks=[pruner])
    assert "steps_per_epoch" in str(error.value)
    assert "begin_step=0.25, end_step=0.75" in str(error.value)
    assert int(model.optimizer.iterations) == 0
    model.fit(generator(), steps_per_epoch=8, verbose=0, callbacks=[pruner])
    assert pruner.ends == (2, 6)


def test_a_training_too_short_for_the_shares_is_refused():
    model = dense(10, 10)
    with pytest.raises(ValueError, match="must be longer"):
        train(model, Logged(PolynomialDecay(0, 0.5, 0.5, 0.51)))
    assert int(model.optimizer.iterations) == 0


def test_a_loop_of_ones_own():
    model, pruner = dense(10, 10), Logged(ramp())
    x = np.ones((8, 10), "float32")
    loop = pruners.CustomLoop(model, pruner, steps_per_epoch=4, epochs=2)
    loop.begin()
    for _ in range(8):
        loop.step()
        model.train_on_batch(x, x)
    loop.end()
    assert pruner.log == [(2, 0.0), (4, 0.4), (6, 0.8)]
    assert pruner.missed == []


def test_marks_of_tfmot():
    model = dense(10, 10)
    model = tfmot.prune_low_magnitude(model, ramp())
    model.compile("sgd", "mse")
    step = tfmot.UpdatePruningStep(on_miss="raise")
    train(model, step, epochs=2)
    [pruner] = step.pruners
    assert pruner.schedule_in_steps.end_step == 6
    assert zeros(weights(model)["dense/kernel"]) == 80
    # Compiled again it goes on counting: 8 steps and 8 more.
    model.compile("sgd", "mse")
    train(model, step, epochs=4, initial_epoch=2)
    [pruner] = step.pruners
    assert pruner.schedule_in_steps.end_step == 12


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("stop, asked", [(1, 0), (2, 40)])
def test_zeros_of_a_file_are_taken_for_what_was_asked_by_then(
    stop, asked, tmp_path
):
    model = dense(10, 10, np.arange(1.0, 101.0))
    first = Logged(ramp(frequency=1).resolve(16), on_miss="ignore")
    train(model, first, epochs=stop)
    model.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    before = zeros(weights(model)["dense/kernel"])
    pruner = Logged(ramp(frequency=1))
    pruner.set_model(model)
    assert pruner.masks["dense/kernel"].all()
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(zeros(pruner.masks["dense/kernel"]))

    train(model, pruner, 4, callbacks=[Watch()], initial_epoch=stop)
    assert seen[0] == before == asked
    assert zeros(weights(model)["dense/kernel"]) == 80


def test_drops_decay_over_the_training_that_they_are_shares_of():
    schedule = ConstantSparsity(0.5, 0.0, 0.75, frequency=0.25)
    pruner, model = pruners.SET(schedule, drop_fraction=0.4), dense(10, 10)
    for first in (0, 8):
        train(model, pruner, epochs=2)
        # Halfway to step 6 the cosine is 0.
        drops = [pruner.drop_fraction_at(first + t) for t in (0, 3, 6)]
        assert drops == pytest.approx([0.4, 0.2, 0.0])
