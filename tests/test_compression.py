"""What can be asked of a compression, and which widths fulfil it."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers

from keras_app.compression import costs
from keras_app.compression import decide
from keras_app.compression import latency_table
from keras_app.compression import plan
from keras_app.compression import scoring
from keras_app.compression import targets
from keras_app.compression.cuts import Cuts
from keras_app.compression.report import CompressionReport
from tests.helpers import to_numpy

# ---- targets -----------------------------------------------------------------


@pytest.mark.parametrize(
    "text, quantity, value, is_share",
    [
        ("latency:0.5", "latency", 0.5, True),
        ("latency:3ms", "latency", 3.0, False),
        ("latency: 0.5 ms", "latency", 0.5, False),
        ("latency:250us", "latency", 0.25, False),
        ("latency:0.002s", "latency", 2.0, False),
        ("bytes:0.25", "bytes", 0.25, True),
        ("bytes:300_000", "bytes", 300_000.0, False),
        ("ram:64_000", "ram", 64_000.0, False),
        ("flops:0.5", "flops", 0.5, True),
        ("flops:2e6", "flops", 2e6, False),
        ("sparsity:0.9", "sparsity", 0.9, False),
        ("accuracy:-1.0", "accuracy", -1.0, False),
        ("accuracy:0", "accuracy", 0.0, False),
    ],
)
def test_targets_are_read(text, quantity, value, is_share):
    found = targets.parse(text)
    assert (found.quantity, found.is_share) == (quantity, is_share)
    assert found.value == pytest.approx(value)
    # What it is written as means the same.
    again = targets.parse(str(found))
    assert again.quantity == quantity
    assert again.value == pytest.approx(value, rel=1e-2)


@pytest.mark.parametrize(
    "text, words",
    [
        ("speed:2", "must be one of latency:0.5"),
        ("latency", "must be one of"),
        ("latency:fast", "must be a number"),
        ("latency:nan", "must be a number"),
        ("latency:3", "Did you mean latency:3ms?"),
        ("latency:0", "must be above 0"),
        ("latency:-1ms", "must be above 0"),
        ("bytes:1", "a share below 1 or an amount above it"),
        ("sparsity:90", "a share below 1"),
        ("accuracy:1.0", "from -100 to 0"),
        ("accuracy:-100", "from -100 to 0"),
    ],
)
def test_what_is_no_target_is_refused(text, words):
    with pytest.raises(ValueError) as error:
        targets.parse(text)
    assert words in str(error.value)
    assert f"Received: target={text!r}" in str(error.value)


def test_a_target_is_a_text():
    with pytest.raises(TypeError, match="Received: target=0.5"):
        targets.parse(0.5)


def test_limits_are_shares_of_the_dense_model_or_amounts():
    assert targets.parse("latency:0.5").limit(8.0) == 4.0
    assert targets.parse("latency:3ms").limit(8.0) == 3.0


# ---- the planner -------------------------------------------------------------


def a_planner():
    """Two groups of four units, which cost 10 and 2 each; and 5 that stay.

    The units of `a` have the importances 8 4 2 1, those of `b` 4 4 1 1.
    """
    groups = [
        plan.Group("a", np.array([1.0, 8.0, 4.0, 2.0]), 1),
        plan.Group("b", np.array([4.0, 1.0, 4.0, 1.0]), 1),
    ]
    counts = np.arange(5)
    places = [
        plan.Place(
            "first",
            plan.Side(3, {}),
            plan.Side(0, {"a": counts}),
            lambda read, given: 10.0 * given,
        ),
        plan.Place(
            "second",
            plan.Side(1, {"b": counts}),
            plan.Side(7, {}),
            lambda read, given: 2.0 * read,
        ),
    ]
    return plan.Planner(groups, places, constant=5.0)


def test_all_channels_cost_what_they_cost():
    planner = a_planner()
    # 10 * 4 + 2 * (1 + 4) + 5
    assert planner.cost({"a": 4, "b": 4}) == 55.0
    assert planner.least == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    "budget, expected",
    [
        (55, {"a": 4, "b": 4}),
        # 1 / 10 of a costs less importance than 1 / 2 of b.
        (45, {"a": 3, "b": 4}),
        # 2 / 10 is the next.
        (40, {"a": 2, "b": 4}),
        # 4 / 10 of a comes before 1 / 2 of b; b would not be enough.
        (26, {"a": 1, "b": 4}),
        (23, {"a": 1, "b": 3}),
        (19, {"a": 1, "b": 1}),
        # Less than the least.
        (1, {"a": 1, "b": 1}),
    ],
)
def test_the_least_importance_for_what_it_costs_goes_first(budget, expected):
    assert a_planner().plan(budget) == expected


def test_what_was_taken_too_much_comes_back():
    # From 100 each: b is cheap in importance for its cost, so that it goes
    # first, down to 1; then one step of a is far more than what is missing.
    groups = [
        plan.Group("a", np.array([3.0, 3.0]), 1),
        plan.Group("b", np.array([0.5, 0.5, 0.5]), 1),
    ]
    counts = np.arange(4)

    def place(name, price):
        return plan.Place(
            name,
            plan.Side(0, {}),
            plan.Side(0, {name: counts}),
            lambda read, given: price * given,
        )

    planner = plan.Planner(groups, [place("a", 50.0), place("b", 10.0)])
    # 130 in all; at 105 two of b are gone and it does not suffice; then one
    # of a is, and both of b come back: 80.
    assert planner.plan(105) == {"a": 1, "b": 3}


def test_widths_are_multiples_and_all():
    group = plan.Group("a", np.ones(20), 8)
    assert group.widths() == [8, 16, 20]
    assert plan.Group("a", np.ones(8), 8).widths() == [8]


def test_ties_keep_the_lower_index():
    group = plan.Group("a", np.array([1.0, 2.0, 1.0, 2.0]), 1)
    assert group.order.tolist() == [1, 3, 0, 2]
    assert group.lost(3) == 1.0


# ---- the search --------------------------------------------------------------


def measured(planner, amount):
    calls = []

    def measure(widths):
        calls.append(dict(widths))
        return plan.Found(dict(widths), amount(planner.cost(widths)), 100.0)

    return measure, calls


def test_the_search_corrects_what_costs_get_wrong():
    planner = a_planner()
    # The true amount is far from proportional: 60 stay whatever is cut.
    measure, calls = measured(planner, lambda cost: 60 + 40 * (cost / 55))
    found = plan.search(planner, measure, targets.parse("latency:0.9"), 0.0)
    # 90 = 60 + 40 * cost / 55: a cost of 41.25; the widest within has 41.
    assert planner.cost(found.widths) == 35.0 or found.amount <= 90
    assert found.amount == max(
        60 + 40 * planner.cost(each) / 55
        for each in calls
        if 60 + 40 * planner.cost(each) / 55 <= 90
    )
    assert len(calls) <= 7


def test_an_unreachable_target_names_the_nearest():
    planner = a_planner()
    measure, _ = measured(planner, lambda cost: 100 * cost / 55)
    with pytest.raises(ValueError) as error:
        plan.search(planner, measure, targets.parse("latency:0.1"), 0.0)
    # The least costs 19 of 55, and a hundredth is added for safety.
    assert "the nearest that can is 'latency:0.349'" in str(error.value)
    nearest = targets.parse("latency:0.349")
    found = plan.search(planner, measure, nearest, 0.0)
    assert found.widths == {"a": 1, "b": 1}


def test_a_target_that_is_met_already_is_refused():
    planner = a_planner()
    measure, _ = measured(planner, lambda cost: 100 * cost / 55)
    with pytest.raises(ValueError, match="bytes:100 already"):
        plan.search(planner, measure, targets.parse("bytes:200"), 0.0)


# ---- what layers cost --------------------------------------------------------


def residual():
    """Joined channels, a concatenation, a flattening, a depthwise kernel."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", name="stem")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    y = layers.Conv2D(24, 3, padding="same", name="inner")(layers.ReLU()(x))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    y = layers.Conv2D(16, 1, name="outer")(y)
    x = layers.Concatenate()([layers.Add()([x, y]), y])
    x = layers.Flatten()(layers.MaxPooling2D(4)(x))
    return keras.Model(inputs, layers.Dense(5, name="logits")(x))


def planned(model, multiple_of=8):
    cuts = Cuts(model, multiple_of)
    scores = {
        path: np.abs(to_numpy(variable))
        for path, variable in cuts.variables.items()
    }
    groups = cuts.groups(scores)
    return cuts, groups, cuts.members(groups)


def by_size(cuts, stem, inner):
    """Widths of the groups, which have 16 and 24 channels."""
    names = {size: name for name, size in cuts.shapes.items()}
    return {names[16]: stem, names[24]: inner}


@pytest.mark.parametrize("widths", [(16, 24), (8, 24), (16, 8), (8, 16)])
def test_costs_are_those_of_the_smaller_model(widths):
    model = residual()
    cuts, groups, members = planned(model)
    chosen = by_size(cuts, *widths)
    smaller = cuts.smaller(chosen, groups)
    assert smaller.get_layer("stem").filters == widths[0]
    assert smaller.get_layer("inner").filters == widths[1]
    assert smaller.get_layer("logits").kernel.shape == (4 * 2 * widths[0], 5)
    found = {}
    for name, places in {
        "flops": costs.flop_places(cuts, members),
        "weights": costs.weight_places(cuts, members),
    }.items():
        planner = plan.Planner(groups, *places)
        found[name] = round(planner.cost(chosen))
    assert found["weights"] == smaller.count_params()
    stem, inner = widths
    assert found["flops"] == 2 * (
        64 * (27 * stem + 9 * stem * inner + 9 * inner + inner * stem)
        + 8 * stem * 5
    )
    # The model itself is left alone.
    assert model.get_layer("stem").filters == 16


def test_heads_are_cut_one_by_one():
    inputs = keras.Input((6, 8))
    attention = layers.MultiHeadAttention(4, 2, name="attention")
    x = inputs + attention(inputs, inputs)
    x = x + layers.Dense(8)(layers.Dense(16, name="hidden")(x))
    model = keras.Model(inputs, x)
    cuts, groups, members = planned(model)
    assert sorted(cuts.shapes.values()) == [4, 16]
    widths = {g.name: 3 if g.size == 4 else 8 for g in groups}
    smaller = cuts.smaller(widths, groups)
    assert smaller.get_layer("attention").num_heads == 3
    assert smaller.get_layer("hidden").units == 8
    planner = plan.Planner(groups, *costs.weight_places(cuts, members))
    assert round(planner.cost(widths)) == smaller.count_params()


def test_narrower_widths_need_less_memory():
    cuts, groups, members = planned(residual())
    planner = plan.Planner(groups, *costs.activation_places(cuts, members))
    wide, narrow = by_size(cuts, 16, 24), by_size(cuts, 8, 8)
    assert planner.cost(narrow) < planner.cost(wide)


def test_a_subclassed_model_cannot_be_cut():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="Received: model=.* of type Own"):
        Cuts(Own(), 8)


# ---- the table of times ------------------------------------------------------


def a_table(tmp_path, monkeypatch):
    """A `Table` of invented times: 1 + read * given / 100."""
    calls = []

    def time_layers(specs, quantize, begun):
        calls.append(len(specs))
        for count in range(len(specs)):
            begun(count)
        return [
            1 + spec["shape"][-1] * spec["config"].get("filters", 1) / 100
            for spec in specs
        ]

    monkeypatch.setattr(latency_table, "time_layers", time_layers)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return calls


def test_times_are_measured_once_and_interpolated(tmp_path, monkeypatch):
    calls = a_table(tmp_path, monkeypatch)
    cuts, groups, members = planned(residual())
    places, constant = latency_table.latency_places(cuts, members, groups)
    by_name = {place.name: place for place in places}
    assert constant == 0.0
    inner = by_name["inner"]
    for stem, given in ((16, 24), (8, 16), (16, 16)):
        at = inner.at(by_size(cuts, stem, given))
        assert at == pytest.approx(1 + stem * given / 100)
    [measured] = calls
    latency_table.latency_places(cuts, members, groups)
    assert calls == [measured]
    [file] = (tmp_path / "keras_app").iterdir()
    stored = json.loads(file.read_text())
    assert len(stored["milliseconds"]) == measured
    assert stored["machine"]["runtime"]


def test_every_timing_is_said_and_the_last_when_it_is_done(
    tmp_path, monkeypatch
):
    a_table(tmp_path, monkeypatch)
    monkeypatch.setattr(latency_table, "_CHUNK", 4)
    table, told = latency_table.Table(), []
    specs = {
        table.key(spec): spec
        for spec in [{"shape": [i], "config": {}} for i in range(6)]
    }
    table.measure(specs, lambda *call: told.append(call))
    assert told == [("timings of layers", i, 6) for i in range(7)]
    # What is known takes no time.
    table.measure(specs, lambda *call: told.append(call))
    assert len(told) == 7


# ---- how far the search is ---------------------------------------------------


def decided(target, monkeypatch):
    """What is said while widths are searched whose files take no time."""
    model, told = residual(), []
    cuts = Cuts(model, 8)

    def content(measuring, widths):
        return b"." * sum(widths.values())

    def latency(measuring, widths):
        return plan.Found(widths, float(sum(widths.values())), 40.0)

    monkeypatch.setattr(decide._Measuring, "_content", content)
    monkeypatch.setattr(decide._Measuring, "_latency", latency)
    decide.decide_here(
        model,
        dataclasses.asdict(targets.parse(target)),
        [np.ones(v.shape) for v in cuts.variables.values()],
        8,
        None,
        {},
        lambda *call: told.append(call),
    )
    return told


@pytest.mark.parametrize("target", ["latency:0.5", "bytes:0.5"])
def test_a_search_says_how_many_networks_it_measured(
    target, tmp_path, monkeypatch
):
    a_table(tmp_path, monkeypatch)
    told = decided(target, monkeypatch)
    timed = [call for call in told if call[0] == "timings of layers"]
    assert bool(timed) == (target == "latency:0.5")
    measured = told[len(timed) :]
    *counted, (what, done, total) = measured
    # It found them before it had to look at as many as it may.
    assert counted == [("networks measured", i, 7) for i in range(done + 1)]
    assert what == "networks measured" and 2 <= done == total < 7


def test_steps_toward_an_accuracy_are_counted_before(tmp_path, monkeypatch):
    a_table(tmp_path, monkeypatch)
    told = decided("accuracy:-1", monkeypatch)
    measured = [call for call in told if call[0] == "networks measured"]
    steps = len(measured) - 1
    assert steps >= 2
    assert measured == [
        ("networks measured", i, steps) for i in range(steps + 1)
    ]


def test_flops_are_counted_without_a_word(monkeypatch):
    assert decided("flops:0.5", monkeypatch) == []


# ---- accuracies --------------------------------------------------------------


@pytest.mark.parametrize(
    "outputs, given, loss, expected",
    [
        ([[0, 1], [2, 1], [0, 3], [1, 0]], [1, 0, 0, 1], None, 0.5),
        ([[0, 1], [2, 1]], [[0, 1], [0, 1]], None, 0.5),
        ([[0, 1], [2, 1]], [[1], [1]], None, 0.5),
        ([[0.7], [0.2]], [1, 1], "binary_crossentropy", 0.5),
        ([[0.7], [0.2]], [[1.5], [1]], "mse", None),
        ([[0, 1], [2, 1]], [[0.5, 1], [0, 1]], "mse", None),
    ],
)
def test_accuracies_of_outputs(outputs, given, loss, expected):
    assert scoring.accuracy(outputs, given, loss) == expected


def test_logits_of_two_classes_are_right_on_their_side_of_zero():
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    assert scoring.accuracy([[0.2], [-0.2]], [1, 1], loss) == 0.5


# ---- the report --------------------------------------------------------------


def a_report(target, **after):
    dense = {"milliseconds": 2.0, "bytes": 1000, "accuracy": 0.9, "flops": 50}
    return CompressionReport.of(
        target=targets.parse(target),
        before=dense,
        after={**dense, "sparsity": 0.0, **after},
        widths=[["a", 16, 8], ["b", 4, 4]],
        front=[],
        layers=[["a", 1.0, 0.5], ["norm", 0.0, 0.0]],
        quantize=None,
        validated=100,
    )


@pytest.mark.parametrize(
    "target, after, reached, is_reached",
    [
        ("latency:0.5", {"milliseconds": 1.0}, 0.5, True),
        ("latency:0.5", {"milliseconds": 1.04}, 0.52, True),
        ("latency:0.5", {"milliseconds": 1.2}, 0.6, False),
        ("latency:1ms", {"milliseconds": 0.5}, 0.5, True),
        ("bytes:500", {"bytes": 501}, 501, False),
        ("accuracy:-1", {"accuracy": 0.895}, -0.5, True),
        ("accuracy:-1", {"accuracy": 0.88}, -2.0, False),
        ("sparsity:0.9", {"sparsity": 0.9}, 0.9, True),
    ],
)
def test_a_report_says_what_was_reached(target, after, reached, is_reached):
    report = a_report(target, **after)
    assert report.reached == pytest.approx(reached)
    assert report.is_reached is is_reached
    assert ("reached" if is_reached else "missed") in str(report)
    assert CompressionReport.from_dict(report.to_dict()) == report
    assert [row[0] for row in report.layers] == ["a"]


def test_a_report_shows_before_after_and_ratio():
    text = str(a_report("latency:0.5", milliseconds=1.0, accuracy=0.89))
    assert "-1.00 points" in text and "0.500" in text
    # Only what changed.
    assert "16" in text and "b  " not in text
