"""PrAC sets, stop rule, pruning and accounts: pure functions on arrays."""

import json
from fractions import Fraction

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from keras_app.lottery import check_ids
from keras_app.lottery import critical_for_pruning
from keras_app.lottery import critical_for_training
from keras_app.lottery import forgetting_counts
from keras_app.lottery import ForgettingTracker
from keras_app.lottery import hardest_examples
from keras_app.lottery import iteration_account
from keras_app.lottery import mask_distance
from keras_app.lottery import MaskDistanceStop
from keras_app.lottery import overlap_rate
from keras_app.lottery import prac_set
from keras_app.lottery import prune_remaining
from keras_app.lottery import scale_schedule

pytestmark = pytest.mark.backend_free

quick = settings(deadline=None, max_examples=50)


def assert_refused(call, *said):
    """Asserts one ValueError whose message holds all of `said`."""
    with pytest.raises(ValueError) as caught:
        call()
    for words in said:
        assert words in str(caught.value), str(caught.value)


# ---- forgetting --------------------------------------------------------


def test_recorded_histories_give_the_recorded_counts(golden):
    data = golden("prac/forgetting.npz")
    counts = forgetting_counts(data["history"])
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, data["forget_count"])
    for threshold in (0, 1, 2):
        np.testing.assert_array_equal(
            critical_for_training(counts, threshold),
            data[f"zero_out.th{threshold}.selected_sorted"],
        )


def test_the_hand_made_histories_count_as_they_should():
    counts = forgetting_counts(
        [
            [0, 0, 0, 0, 0],  # never right: the sentinel
            [1, 1, 1, 1, 1],
            [0, 1, 0, 1, 0],
            [1, 0, 1, 0, 1],
            [0, 0, 0, 0, 1],  # wrong before it was ever right: no forgetting
            [1, 0, 0, 0, 0],
            [-1, -1, -1, -1, -1],
            [1, -1, 0, -1, 1],  # a gap hides no forgetting and makes none
            [-1, 1, 0, 1, 0],  # joined too late to belong to the round
        ]
    )
    assert counts.tolist() == [200000, 0, 2, 2, 0, 1, -1, 1, -1]


def counted_by_walking(row):
    if row[0] == -1:
        return -1
    seen = [outcome for outcome in row if outcome != -1]
    if 1 not in seen:
        return 200000
    return "".join(map(str, seen)).count("10")


@quick
@given(
    npst.arrays(
        "int8",
        st.tuples(st.integers(0, 6), st.integers(1, 8)),
        elements=st.integers(-1, 1),
    )
)
def test_counts_equal_a_walk_along_each_row(history):
    expected = [counted_by_walking(row) for row in history.tolist()]
    assert forgetting_counts(history).tolist() == expected
    as_floats = history.astype("float32")
    assert forgetting_counts(as_floats).tolist() == expected


@pytest.mark.parametrize(
    "history, said",
    [
        ([0, 1], "shape (2,)"),
        (np.zeros((3, 0)), "shape (3, 0)"),
        ([[0.0, np.nan]], "nan"),
        ([[1, 2]], "Received: 2"),
    ],
)
def test_what_is_no_history_is_refused(history, said):
    assert_refused(lambda: forgetting_counts(history), "`history`", said)


def test_nothing_forgotten_selects_nothing(golden):
    data = golden("prac/forgetting.npz")
    counts = forgetting_counts(data["empty_case.history"])
    chosen = critical_for_training(counts)
    assert chosen.size == data["empty_case.correct_selected"].size == 0
    # The released code takes everything here.
    assert data["empty_case.reference_selected_sorted"].size == len(counts)


@pytest.mark.parametrize("rate, state", [("0.2", 1), ("0.2", 3), ("0.35", 2)])
def test_a_fixed_number_is_taken_from_the_hard_end(golden, rate, state):
    data = golden("prac/forgetting.npz")
    counts = forgetting_counts(data["history"])
    case = f"constant.rate{rate}.state{state}"
    size = int(len(counts) * (1 - float(rate)) ** state)
    assert size == data[f"{case}.k"]
    chosen = hardest_examples(counts, size)
    np.testing.assert_array_equal(
        chosen, data[f"{case}.selected_stable_sorted"]
    )
    np.testing.assert_array_equal(
        np.sort(counts[chosen]), data[f"{case}.counts_of_selected_sorted"]
    )
    assert set(data[f"{case}.must_include_sorted"]) <= set(chosen)


def test_equal_counts_keep_the_higher_ids():
    assert hardest_examples([1, 1, 1, -1, 5], 3).tolist() == [1, 2, 4]


def test_bad_counts_and_sizes_are_refused():
    assert_refused(lambda: critical_for_training([1], -1), "`threshold`", "-1")
    assert_refused(lambda: critical_for_training([0.5]), "`counts`", "float64")
    assert_refused(lambda: critical_for_training([[1]]), "`counts`", "(1, 1)")
    assert_refused(
        lambda: hardest_examples([1, -1], 2), "`num_examples`", "2 of 1"
    )
    assert_refused(lambda: hardest_examples([1, -1], 0), "num_examples=0")


# ---- sets --------------------------------------------------------------


@pytest.mark.parametrize("case", ["identity", "permuted"])
def test_recorded_sets_and_their_overlap(golden, case):
    data = golden("prac/prac_set.npz")
    positions = critical_for_pruning(data["pred_dense"], data["pred_pruned"])
    np.testing.assert_array_equal(positions, data["disagree_positions"])
    # Position p of the evaluation is the example split[p].
    pruning_ids = data[f"{case}.split"][positions]
    np.testing.assert_array_equal(pruning_ids, data[f"{case}.cep_ids"])
    training_ids = data[f"{case}.cet_ids"]
    allowed = data[f"{case}.split"][: int(data["n_train"])]
    chosen = prac_set(training_ids, pruning_ids, within=allowed)
    np.testing.assert_array_equal(chosen, data[f"{case}.prac_ids_sorted"])
    rate = overlap_rate(training_ids, pruning_ids)
    assert rate == pytest.approx(float(data[f"{case}.overlap_rate"]))


def test_outputs_stand_for_their_largest_class():
    dense = np.array([[0.1, 0.9], [0.7, 0.3], [0.5, 0.5]])
    sparse = np.array([[3.0, 4.0], [-1.0, 2.0], [0.0, 0.0]])
    assert critical_for_pruning(dense, sparse).tolist() == [1]
    assert critical_for_pruning(dense, np.array([1, 0, 1])).tolist() == [2]


def test_what_are_no_predictions_is_refused():
    assert_refused(
        lambda: critical_for_pruning([1, 2], [1]), "2 and 1 examples"
    )
    assert_refused(
        lambda: critical_for_pruning([0, 1], [0.2, 0.8]),
        "`sparse_predictions`",
        "float64",
    )
    assert_refused(
        lambda: critical_for_pruning([[0.0, np.nan]], [[0.0, 1.0]]),
        "`dense_predictions`",
        "NaN",
    )
    # One unit: the class depends on a threshold nobody knows here.
    assert_refused(
        lambda: critical_for_pruning([[0.2]], [[0.8]]), "shape (1, 1)"
    )


ids = st.sets(st.integers(0, 30), max_size=12)


@quick
@given(ids, ids, st.randoms())
def test_sets_are_unions_whatever_the_order(first, second, random):
    shuffled = [random.sample(sorted(s), len(s)) for s in (first, second)]
    if not first | second:
        assert_refused(lambda: prac_set(*shuffled), "both be empty")
        return
    chosen = prac_set(*shuffled)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == sorted(first | second)
    if second:
        share = len(first & second) / len(second)
        assert overlap_rate(*shuffled) == pytest.approx(share)


def test_an_empty_set_raises_or_keeps_the_examples_of_the_round():
    assert_refused(lambda: prac_set([], []), "no example was forgotten")
    kept = prac_set([], [], on_empty="keep", current_ids=[4, 1])
    assert kept.tolist() == [1, 4]
    # Not used where there is something to take.
    kept = prac_set([7], [], on_empty="keep", current_ids=[4, 1])
    assert kept.tolist() == [7]
    assert_refused(lambda: prac_set([], [], on_empty="keep"), "`current_ids`")
    assert_refused(
        lambda: prac_set([1], [], on_empty="all"), "`on_empty`", "'all'"
    )


@pytest.mark.parametrize(
    "bad, said",
    [
        ([3, 1, 3], "3 more than once"),
        ([-2, 1], "-2"),
        ([0.5], "float64"),
        ([[1, 2]], "(1, 2)"),
    ],
)
def test_bad_ids_are_refused(bad, said):
    assert_refused(lambda: prac_set(bad, [1]), "`training_ids`", said)
    assert_refused(lambda: prac_set([1], bad), "`pruning_ids`", said)
    assert_refused(lambda: overlap_rate([1], bad), "`pruning_ids`", said)


def test_ids_of_validation_examples_are_refused():
    train_ids = np.array([5, 3, 1])
    assert check_ids("ids", [5, 1], within=train_ids).tolist() == [1, 5]
    assert_refused(
        lambda: prac_set([1], [4, 6], within=train_ids),
        "`pruning_ids`",
        "4 and 1 others",
        "no validation examples",
    )
    assert_refused(lambda: overlap_rate([1], []), "`pruning_ids`", "empty")


# ---- mask distance and the stop rule -----------------------------------


def stop_rule(distances, **arguments):
    """Runs the rule; `(epoch it stops after or -1, recordings, queues)`."""
    stop = MaskDistanceStop(**arguments)
    recordings, queues = [], []
    for epoch, distance in enumerate(distances, 1):
        stopped = stop.update(distance)
        assert isinstance(stopped, bool)
        recordings.append(stop.recording)
        queues.append(list(stop.queue))
        if stopped:
            return epoch, recordings, queues
    return -1, recordings, queues


def assert_recorded(data, case, found):
    epoch, recordings, queues = found
    assert epoch == data[f"{case}.stop_epoch"]
    assert recordings == data[f"{case}.recording"].tolist()
    np.testing.assert_allclose(queues, data[f"{case}.queue"], rtol=1e-6)


@pytest.mark.parametrize("case", ["dense_round", "later_round"])
def test_recorded_masks_give_distances_and_stops(golden, case):
    data = golden("prac/mask_distance.npz")
    count = int(data[f"{case}.n_weights"])
    masks = np.unpackbits(data[f"{case}.masks"], axis=1, count=count)
    remaining = data[f"{case}.remain"]
    assert remaining == np.count_nonzero(data[f"{case}.prior_mask"])
    distances = [
        mask_distance(new, old, remaining)
        for old, new in zip(masks[:-1], masks[1:])
    ]
    np.testing.assert_allclose(distances, data[f"{case}.distance"], rtol=1e-6)
    for eps in (0.07, 0.08, 0.03):
        for warmup in (0, 3):
            found = stop_rule(distances, eps=eps, warmup_epochs=warmup)
            assert_recorded(data, f"{case}.eps{eps}.warmup{warmup}", found)


@pytest.mark.parametrize(
    "name",
    [
        "decay",
        "never_above",
        "spike_resets",
        "equal_eps_is_not_below",
        "late_spike_starts_recording",
    ],
)
@pytest.mark.parametrize("warmup", [0, 2])
def test_recorded_scenarios_stop_where_they_did(golden, name, warmup):
    data = golden("prac/mask_distance.npz")
    distances = data[f"scenario.{name}.distance"]
    found = stop_rule(distances, eps=0.08, warmup_epochs=warmup)
    assert_recorded(data, f"scenario.{name}.warmup{warmup}", found)


def test_the_plain_reading_of_the_paper_stops_at_the_first_small_distance():
    plain = {"eps": 0.1, "queue_length": 1, "require_first_exceed": False}
    assert stop_rule([0.3, 0.1, 0.09, 0.0], **plain)[0] == 3
    assert stop_rule([0.05], **plain)[0] == 1
    assert stop_rule([0.05] * 9, eps=0.1, queue_length=1)[0] == -1


@quick
@given(
    distances=st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.2]), max_size=14),
    length=st.integers(1, 4),
    warmup=st.integers(0, 4),
    first=st.booleans(),
)
def test_the_rule_equals_a_look_at_the_whole_sequence(
    distances, length, warmup, first
):
    def stops_after(epoch):
        above = [e for e, d in enumerate(distances[:epoch], 1) if d > 0.1]
        if first and not above:
            return False
        begin = max(above[0] if first else 1, warmup + 1)
        recorded = distances[begin - 1 : epoch]
        return len(recorded) >= length and max(recorded[-length:]) < 0.1

    expected = [e for e in range(1, len(distances) + 1) if stops_after(e)]
    epoch, _, _ = stop_rule(
        distances,
        eps=0.1,
        queue_length=length,
        warmup_epochs=warmup,
        require_first_exceed=first,
    )
    assert epoch == (expected or [-1])[0]


def test_a_stopped_run_goes_on_with_the_rule_as_it_was():
    distances = [0.3, 0.05, 0.2, 0.05, 0.04, 0.03]
    arguments = {"queue_length": 2, "warmup_epochs": 1}
    whole, first = (MaskDistanceStop(**arguments) for _ in range(2))
    expected = [whole.update(d) for d in distances]
    found = [first.update(d) for d in distances[:3]]
    second = MaskDistanceStop(**arguments)
    plain, arrays = first.state()
    second.restore(json.loads(json.dumps(plain)), arrays)
    found += [second.update(d) for d in distances[3:]]
    assert found == expected
    assert expected.index(True) == 4
    second.reset()
    assert second.state() == MaskDistanceStop(**arguments).state()


def test_the_rule_round_trips_through_its_config():
    stop = MaskDistanceStop(0.07, 3, 2, False)
    stored = keras.saving.serialize_keras_object(stop)
    again = keras.saving.deserialize_keras_object(stored)
    assert (
        again.get_config()
        == stop.get_config()
        == {
            "eps": 0.07,
            "queue_length": 3,
            "warmup_epochs": 2,
            "require_first_exceed": False,
        }
    )


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"eps": 0}, "eps=0"),
        ({"eps": -0.1}, "eps=-0.1"),
        ({"eps": 1.5}, "eps=1.5"),
        ({"eps": float("nan")}, "eps=nan"),
        ({"eps": "0.1"}, "eps='0.1'"),
        ({"queue_length": 0}, "queue_length=0"),
        ({"queue_length": 2.5}, "queue_length=2.5"),
        ({"warmup_epochs": -1}, "warmup_epochs=-1"),
    ],
)
def test_bad_arguments_of_the_rule_are_refused(arguments, said):
    assert_refused(lambda: MaskDistanceStop(**arguments), said)


def test_bad_distances_are_refused():
    stop = MaskDistanceStop()
    for bad in (-0.1, float("nan"), None):
        assert_refused(lambda: stop.update(bad), "`distance`", str(bad))  # noqa: B023
    assert stop.state() == MaskDistanceStop().state()


masks_of_two = st.lists(st.booleans(), min_size=12, max_size=12).map(
    lambda bits: {
        "a": np.array(bits[:8]).reshape(2, 4),
        "b": np.array(bits[8:]),
    }
)


@quick
@given(masks_of_two, masks_of_two)
def test_distance_counts_over_all_tensors(a, b):
    differ = sum(
        x != y
        for x, y in zip(
            [*a["a"].flat, *a["b"].flat], [*b["a"].flat, *b["b"].flat]
        )
    )
    assert mask_distance(a, b, 7) == pytest.approx(differ / 7)
    assert mask_distance(b, a, 7.0) == mask_distance(a, b, 7)
    as_numbers = [a["a"].astype("uint8"), a["b"].astype("float32")]
    assert mask_distance(as_numbers, list(b.values()), 7) == mask_distance(
        a, b, 7
    )
    assert mask_distance(a["a"], a["a"], 1) == 0


def test_masks_that_cannot_be_compared_are_refused():
    one = np.ones(3, bool)
    assert_refused(lambda: mask_distance(one, one, 0), "remaining=0")
    assert_refused(lambda: mask_distance(one, one, 0.5), "remaining=0.5")
    assert_refused(lambda: mask_distance(one, one[:2], 3), "(3,) and (2,)")
    assert_refused(
        lambda: mask_distance({"a": one}, {"b": one}, 3), "['a'] and ['b']"
    )
    assert_refused(lambda: mask_distance(one, [0.5, 1, 1], 3), "same tensors")
    assert_refused(
        lambda: mask_distance(one, np.array([0.5, 1, 1]), 3), "`b`", "0.5"
    )


# ---- pruning what remains ----------------------------------------------


@pytest.mark.parametrize("kind", ["lt", "rewind_lt", "pt"])
def test_recorded_rounds_prune_the_recorded_weights(golden, kind):
    data = golden("prac/imp_rounds.npz")
    names = ["conv1", "conv2"]
    masks = {name: np.ones(data[f"init.{name}"].shape) for name in names}
    for level in range(3):
        case = f"{kind}.r{level}"
        # The weights at pruned places are latent: large, and to be ignored.
        trained = {name: data[f"{case}.trained.{name}"] for name in names}
        before = sum(np.count_nonzero(m) for m in masks.values())
        masks = prune_remaining(trained, masks, float(data["rate"]))
        after = sum(np.count_nonzero(m) for m in masks.values())
        assert before - after == data[f"{case}.n_pruned"]
        assert after == data[f"{case}.remaining"]
        for name in names:
            assert masks[name].dtype == bool
            np.testing.assert_array_equal(
                masks[name], data[f"{case}.mask_after.{name}"]
            )


def test_halves_are_rounded_to_the_even_number():
    for remaining, pruned in ((5, 2), (7, 4), (3, 2)):
        mask = prune_remaining(np.arange(1.0, 9), np.arange(8) < remaining, 0.5)
        assert np.count_nonzero(mask) == remaining - pruned


def test_ties_prune_the_earlier_tensor_and_the_lower_index():
    # The dict says which tensor is earlier, not the alphabet.
    weights = {"b": np.array([1.0, -1.0]), "a": np.array([[-1.0], [1.0]])}
    masks = {"a": np.ones((2, 1), bool), "b": np.ones(2, bool)}
    pruned = prune_remaining(weights, masks, 0.75)
    assert list(pruned) == ["b", "a"]
    assert pruned["b"].tolist() == [False, False]
    assert pruned["a"].tolist() == [[False], [True]]
    pruned = prune_remaining(weights, masks, 0.25)
    assert pruned["b"].tolist() == [False, True]


tensors = st.lists(
    npst.arrays(
        "float32",
        npst.array_shapes(min_dims=0, max_dims=3, max_side=4),
        elements=st.integers(-3, 3).map(float),
    ),
    min_size=1,
    max_size=3,
)


@quick
@given(tensors, st.randoms(), st.floats(0.01, 0.99))
def test_pruning_equals_one_sort_of_all_kept_weights(weights, random, rate):
    masks = [
        np.array([random.random() < 0.7 for _ in range(w.size)], bool).reshape(
            w.shape
        )
        for w in weights
    ]
    kept = [
        (abs(float(w[i])), t, n, i)
        for t, (w, m) in enumerate(zip(weights, masks))
        for n, i in enumerate(np.ndindex(w.shape))
        if m[i]
    ]
    k = round(rate * len(kept))
    if not k:
        assert_refused(
            lambda: prune_remaining(weights, masks, rate),
            f"{len(kept)} remaining weights",
        )
        return
    expected = [m.copy() for m in masks]
    for _, t, _, i in sorted(kept)[:k]:
        expected[t][i] = False
    before = [m.copy() for m in masks]
    pruned = prune_remaining(weights, masks, rate)
    assert isinstance(pruned, list)
    for got, want, old, same in zip(pruned, expected, masks, before):
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(old, same)


@pytest.mark.parametrize("size", [10**6 - 1, 123457])
def test_counts_are_exact_for_many_weights(size):
    weights = np.random.default_rng(0).standard_normal(size)
    masks, remaining = np.ones(size, bool), size
    for _ in range(4):
        masks = prune_remaining(weights, masks, 0.2)
        remaining -= round(0.2 * remaining)
        assert np.count_nonzero(masks) == remaining
    assert np.abs(weights[masks]).min() > np.abs(weights[~masks]).max()


@pytest.mark.parametrize("rate", [0, 1, -0.2, 20, float("nan"), "0.2", True])
def test_bad_rates_are_refused(rate):
    assert_refused(
        lambda: prune_remaining(np.ones(4), np.ones(4, bool), rate),
        "`rate` must be a number in (0, 1)",
        repr(rate),
    )


def test_weights_that_cannot_be_pruned_are_refused():
    one = np.ones(4, bool)
    assert_refused(
        lambda: prune_remaining(np.ones(4), one, 0.1),
        "rate=0.1 of 4 remaining weights",
    )
    assert_refused(
        lambda: prune_remaining(
            {"a": np.array([1.0, np.nan])}, {"a": one[:2]}, 0.5
        ),
        "`weights`",
        "'a'",
    )
    # What is pruned already may hold anything.
    hidden = prune_remaining(
        np.array([np.nan, 2.0, 1.0]), np.array([False, True, True]), 0.5
    )
    assert hidden.tolist() == [False, True, False]
    assert_refused(
        lambda: prune_remaining(np.ones(3), one, 0.5), "(3,) and (4,)"
    )
    assert_refused(
        lambda: prune_remaining({"a": np.ones(4)}, {"b": one}, 0.5),
        "`weights` and `masks`",
    )
    assert_refused(
        lambda: prune_remaining(np.ones(4), np.ones(4) * 2, 0.5), "`masks`"
    )


# ---- schedules and accounts --------------------------------------------


def test_recorded_sizes_scale_the_schedule(golden):
    data = golden("prac/prac_set.npz")
    for size, epochs, milestones, warmup in zip(
        data["scale.sizes"],
        data["scale.epochs"],
        data["scale.milestones"].tolist(),
        data["scale.warmup"],
    ):
        found = scale_schedule(
            size,
            data["n_train"],
            data["scale.base_epochs"],
            data["scale.base_milestones"],
            data["scale.base_warmup"],
        )
        # One example gives the milestones 1 and 1: the rate falls once.
        assert found == (epochs, sorted(set(milestones)), warmup)
        assert all(isinstance(each, int) for each in (found[0], found[2]))


def test_a_tiny_set_trains_for_one_epoch_without_milestones():
    assert scale_schedule(1, 1000, 182, [91, 136], 15) == (1, [], 0)
    assert scale_schedule(6, 1000, 182, (91, 136, 170), 15) == (1, (1,), 0)
    assert scale_schedule(1000, 1000, 182, (0, 91), 15) == (182, (91,), 15)


@quick
@given(
    n=st.integers(1, 60000),
    data=st.data(),
    epochs=st.integers(1, 400),
    milestones=st.lists(st.integers(0, 400), max_size=4),
    warmup=st.integers(0, 30),
)
def test_scaling_is_exact_truncation(n, data, epochs, milestones, warmup):
    size = data.draw(st.integers(1, n))
    share = Fraction(size, n)
    found = scale_schedule(size, n, epochs, milestones, warmup)
    assert found[0] == max(1, int(epochs * share))
    assert found[1] == sorted({int(m * share) for m in milestones} - {0})
    assert found[2] == int(warmup * share)


def test_recorded_accounts(golden):
    data = golden("prac/accounting.npz")
    base = [data[n] for n in ("batch_size", "n_train", "base_epochs")]
    account = iteration_account(data["set_size"], data["epochs_run"], *base)
    for name, recorded in (
        ("iterations", "iters"),
        ("iterations_vanilla", "iters_vanilla"),
        ("cumulative", "cum_iters"),
    ):
        assert account[name].dtype == np.int64
        np.testing.assert_array_equal(account[name], data[recorded])
    np.testing.assert_allclose(
        account["saving_percent"], data["saving_pct"], rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(account["set_fraction"], data["set_fraction"])
    planned = iteration_account(data["set_size"], data["epochs_planned"], *base)
    np.testing.assert_array_equal(
        planned["iterations"], data["iters_no_early_stop"]
    )
    np.testing.assert_allclose(
        planned["saving_percent"],
        data["saving_pct_no_early_stop"],
        rtol=0,
        atol=1e-9,
    )


def test_the_papers_448_thousand_iterations():
    account = iteration_account([45000] * 7, [182] * 7, 128, 45000, 182)
    assert account["cumulative"].tolist()[-1] == 448448
    assert account["saving_percent"].tolist() == [0.0] * 7


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: scale_schedule(0, 10, 5, [], 0), "set_size=0"),
        (lambda: scale_schedule(11, 10, 5, [], 0), "set_size=11"),
        (lambda: scale_schedule(5, 0, 5, [], 0), "num_train=0"),
        (lambda: scale_schedule(5, 10, 0, [], 0), "epochs=0"),
        (lambda: scale_schedule(5, 10, 5, [-1], 0), "milestones=-1"),
        (lambda: scale_schedule(5, 10, 5, [], -1), "warmup_epochs=-1"),
        (lambda: iteration_account([5], [1, 2], 2, 10, 5), "1 and 2 entries"),
        (lambda: iteration_account([11], [1], 2, 10, 5), "11 with"),
        (lambda: iteration_account([5], [0], 2, 10, 5), "epochs_run=0"),
        (lambda: iteration_account([5], [1], 0, 10, 5), "batch_size=0"),
        (lambda: ForgettingTracker(0), "num_examples=0"),
        (lambda: ForgettingTracker(3, threshold=np.nan), "threshold=nan"),
    ],
)
def test_numbers_out_of_range_are_refused(call, said):
    assert_refused(call, said)


# ---- a whole recorded run ----------------------------------------------


def test_a_recorded_run_replays_without_training(golden):
    """From histories, distances and sets to schedules, stops and costs."""
    data = golden("prac/trace_rewind_lt.npz")
    num_train, batch_size = int(data["n_train"]), int(data["batch_size"])
    train_ids = np.arange(num_train)
    remaining, sizes, runs = 405, [], []
    for level in range(4):
        get = lambda name: data[f"r{level}.{name}"]  # noqa: B023, E731
        ids = get("train_ids")
        epochs, milestones, _ = scale_schedule(
            len(ids), num_train, 24, (12, 18), 0
        )
        assert epochs == get("epochs_planned")
        found = stop_rule(
            get("mask_distance"),
            eps=float(data["eps"]),
            queue_length=int(data["queue_length"]),
        )
        run = found[0] + 1 if found[0] > 0 else epochs
        assert run == get("epochs_run")
        np.testing.assert_allclose(
            [
                0.05 * 0.1 ** sum(m <= epoch for m in milestones)
                for epoch in range(run)
            ],
            get("lr_per_epoch"),
        )
        assert remaining == get("remain_before")
        remaining -= round(float(data["rate"]) * remaining)

        counts = forgetting_counts(get("history"))
        assert np.flatnonzero(counts != -1).tolist() == sorted(ids)
        training_ids = critical_for_training(counts)
        np.testing.assert_array_equal(training_ids, get("cet_sorted"))
        pruning_ids = get("cep_sorted") if level else []
        following = prac_set(training_ids, pruning_ids, within=train_ids)
        np.testing.assert_array_equal(following, get("next_ids_sorted"))
        if level < 3:
            np.testing.assert_array_equal(
                following, np.sort(data[f"r{level + 1}.train_ids"])
            )
        sizes.append(len(ids))
        runs.append(run)
    account = iteration_account(sizes, runs, batch_size, num_train, 24)
    np.testing.assert_array_equal(
        account["iterations"], data["iterations_per_round"]
    )
