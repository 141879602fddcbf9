"""Tests of how much is pruned, and where: targets, shares, structures."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

from keras_app import masks
from keras_app import pruners
from keras_app.schedules import ConstantSparsity
from keras_app.schedules import OneShot
from keras_app.schedules import PolynomialDecay
from tests.helpers import weights
from tests.helpers import zeros
from tests.models import chain
from tests.models import dense
from tests.models import KERNELS
from tests.models import logs_of
from tests.models import make
from tests.models import network
from tests.models import pruned_now
from tests.models import train

# ---- defects of others -------------------------------------------------


def test_all_equal_weights_reach_the_target():
    model = dense(10, 20, np.full(200, 0.3))
    pruner = pruners.MagnitudePruner(OneShot(0.75))
    found = pruned_now(pruner, model, 0.75)
    assert zeros(found["dense/kernel"]) == 150


def test_a_kernel_95_percent_zero_gets_the_sparsity_asked_for():
    values = np.zeros(200)
    values[::20] = np.arange(1, 11)
    model = dense(10, 20, values)
    found = pruned_now(pruners.MagnitudePruner(OneShot(0.5)), model, 0.5)
    assert zeros(found["dense/kernel"]) == 100
    assert found["dense/kernel"].ravel()[::20].all()


def test_a_kernel_of_zeros_reaches_the_target():
    found = pruned_now(
        pruners.MagnitudePruner(OneShot(0.5)), dense(10, 20, np.zeros(200)), 0.5
    )
    assert zeros(found["dense/kernel"]) == 100


def test_n_m_keeps_n():
    pruner = pruners.MagnitudePruner(OneShot(0.75), structure=masks.NM(1, 4))
    found = pruned_now(pruner, dense(8, 12), 0.75)["dense/kernel"]
    assert (found.reshape(8, 3, 4).sum(-1) == 1).all()


# ---- how sparsity is spread --------------------------------------------


def test_erk_by_hand():
    # Kept 0.1 * 712 = 71.2 = scale * (12 + 74), the sums of the dimensions.
    scale = 71.2 / 86
    pruner = pruners.MagnitudePruner(OneShot(0.9), distribution="erk")
    found = pruned_now(pruner, network(), 0.9)
    assert zeros(found["conv/kernel"]) == int((1 - scale * 12 / 72) * 72)
    assert zeros(found["dense/kernel"]) == int((1 - scale * 74 / 640) * 640)
    rows = {row.path: row for row in pruner.report.rows}
    assert rows["conv/kernel"].asked_sparsity == pytest.approx(
        1 - scale * 12 / 72
    )


def test_a_distribution_of_ones_own():
    def last_only(shapes, sparsity):
        assert shapes == {"conv/kernel": (3, 3, 2, 4), "dense/kernel": (64, 10)}
        return {"conv/kernel": 0.0, "dense/kernel": sparsity}

    pruner = pruners.MagnitudePruner(OneShot(0.5), distribution=last_only)
    found = pruned_now(pruner, network(), 0.5)
    assert [zeros(found[path]) for path in KERNELS] == [0, 320]


@pytest.mark.parametrize(
    "sparsity, arguments, expected",
    [
        pytest.param(
            0.5, {"custom_sparsity": {"^conv": 0.25}}, [18, 320], id="by layer"
        ),
        # It has its own threshold.
        pytest.param(
            0.5,
            {"custom_sparsity": {"^conv": 0.0}, "scope": "global"},
            [0, 320],
            id="global",
        ),
        # The dense kernel is alone in sharing.
        pytest.param(
            0.9,
            {"custom_sparsity": {"conv": 0.5}, "distribution": "erk"},
            [36, 576],
            id="erk",
        ),
    ],
)
def test_custom_sparsity(sparsity, arguments, expected):
    pruner = pruners.MagnitudePruner(OneShot(sparsity), **arguments)
    found = pruned_now(pruner, network(), sparsity)
    assert [zeros(found[path]) for path in KERNELS] == expected


def test_custom_sparsity_follows_the_progress_of_the_schedule():
    schedule = PolynomialDecay(0.0, 0.8, 0, 10)
    pruner = pruners.MagnitudePruner(schedule, custom_sparsity={"conv": 0.5})
    pruner.set_model(network())
    pruner.prune(0.4)
    assert [zeros(pruner.masks[path]) for path in KERNELS] == [18, 256]
    pruner.prune(0.8)
    assert [zeros(pruner.masks[path]) for path in KERNELS] == [36, 512]


def test_custom_sparsity_that_matches_nothing_is_refused():
    pruner = pruners.MagnitudePruner(
        OneShot(0.5), custom_sparsity={"attention": 0.5}
    )
    with pytest.raises(ValueError, match="'attention'"):
        pruner.set_model(network())


def test_filters_that_match_nothing_are_refused_when_fit_starts():
    pruner = pruners.MagnitudePruner(OneShot(0.5), filters="attention")
    model = dense(3, 2)
    with pytest.raises(ValueError, match="filters='attention'"):
        train(model, pruner)
    assert int(model.optimizer.iterations) == 0


def test_filters_choose_the_weights():
    pruner = pruners.MagnitudePruner(
        OneShot(0.5), filters=lambda variable: variable.shape[0] == 64
    )
    found = pruned_now(pruner, network(), 0.5)
    assert list(found) == ["dense/kernel"]
    assert list(pruner.report.skipped) == [
        "conv/kernel",
        "conv/bias",
        "norm/gamma",
        "norm/beta",
        "dense/bias",
    ]


# ---- structures --------------------------------------------------------


def test_channels():
    pruner = pruners.MagnitudePruner(
        OneShot(0.5), structure=masks.Channel(), filters="dense"
    )
    model = network()
    norms = np.abs(weights(model)["dense/kernel"]).sum(0)
    found = pruned_now(pruner, model, 0.5)["dense/kernel"]
    expected = np.zeros(10, bool)
    expected[np.argsort(norms)[5:]] = True
    np.testing.assert_array_equal(found, np.broadcast_to(expected, (64, 10)))


def test_blocks():
    pruner = pruners.MagnitudePruner(
        OneShot(0.5), structure=masks.Block((16, 5)), scope="global"
    )
    found = pruned_now(pruner, network(), 0.5)
    # Blocks of the convolution: 9 of 2x4. Of the dense kernel: 8.
    blocks = [
        *found["conv/kernel"].reshape(9, 8),
        *found["dense/kernel"]
        .reshape(4, 16, 2, 5)
        .swapaxes(1, 2)
        .reshape(8, 80),
    ]
    assert all(block.all() or not block.any() for block in blocks)
    assert sum(not block.any() for block in blocks) == 8


def test_n_m_leaves_dense_what_has_a_sparsity_of_zero():
    pruner = pruners.MagnitudePruner(
        OneShot(0.5), structure=masks.NM(2, 4), custom_sparsity={"^dense": 0.0}
    )
    found = pruned_now(pruner, network(), 0.5)
    assert zeros(found["conv/kernel"]) == 36
    assert zeros(found["dense/kernel"]) == 0


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "argument, value",
    [
        ("custom_sparsity", {"^dense": 0.75}),
        ("distribution", lambda shapes, sparsity: {}),
    ],
)
def test_n_m_fixes_the_sparsity(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` .*n:m.*{argument}="):
        pruners.MagnitudePruner(
            OneShot(0.5), structure=masks.NM(2, 4), **{argument: value}
        )


def test_n_m_reports_its_own_sparsity_as_asked():
    pruner = pruners.MagnitudePruner(
        OneShot(0.9), structure=masks.NM(2, 4), filters="dense"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        # The default axis is pointed out: it is not one that is summed over.
        warnings.filterwarnings("ignore", ".*do not sum over")
        train(network(), pruner)
    [row] = [row for row in pruner.report.rows if row.path == "dense/kernel"]
    # 10 = 4 + 4 + 2 columns: 4 of 10 go.
    assert row.asked_sparsity == pytest.approx(0.4)
    assert row.zeros == 256


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(
    "structure", [masks.Channel(0), masks.Block((3, 3)), masks.Block((1, 4))]
)
def test_structures_that_meet_their_target_do_not_warn(structure):
    pruner = pruners.MagnitudePruner(OneShot(0.7), structure=structure)
    train(dense(10, 7), pruner, size=8)
    assert pruner.missed == []


# ---- targets of several weights ----------------------------------------


def test_one_threshold_asks_nothing_of_a_single_weight():
    pruner = pruners.MagnitudePruner(
        OneShot(0.5), scope="global", custom_sparsity={"conv": 0.25}
    )
    model = network()
    pruned_now(pruner, model, 0.5)
    asked = {row.path: row.asked_sparsity for row in pruner.report.rows}
    # The only one left has a threshold of its own.
    assert asked["conv/kernel"] == 0.25 and asked["dense/kernel"] == 0.5
    pruner = pruners.MagnitudePruner(OneShot(0.5), scope="global")
    pruned_now(pruner, network(), 0.5)
    report = pruner.report
    assert {row.asked_sparsity for row in report.rows} == {None}
    assert report.asked_together == report.asked_sparsity == 0.5
    [line] = [x for x in str(report).splitlines() if "prunable kernels" in x]
    assert "712" in line and "356" in line and line.count("0.5000") == 2


def test_what_was_asked_of_all_is_the_mean_over_their_weights():
    pruner = pruners.MagnitudePruner(
        OneShot(0.5), custom_sparsity={"conv": 0.25}
    )
    pruned_now(pruner, network(), 0.5)
    expected = (0.25 * 72 + 0.5 * 640) / 712
    assert pruner.report.asked_sparsity == pytest.approx(expected)


def two_sizes():
    """4 rows of 30 large weights, and 30 rows of 3 small ones."""
    model = chain((4,), layers.Dense(30, name="a"), layers.Dense(3, name="b"))
    model.get_layer("a").kernel.assign(np.full((4, 30), 2.0))
    model.get_layer("b").kernel.assign(np.full((30, 3), 0.1))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def test_small_channels_that_met_the_count_are_a_miss():
    pruner = pruners.MagnitudePruner(
        OneShot(0.5), scope="global", structure=masks.Channel(axis=0)
    )
    with pytest.warns(
        UserWarning, match="0.5000, reached 0.2429: the 17 of 34"
    ):
        logs = logs_of(two_sizes(), pruner)
    # 17 rows of 3, of 210.
    assert logs["sparsity"] == [pytest.approx(51 / 210)]
    assert len(pruner.missed) == 1 and "scope='layer'" in pruner.missed[0]
    pruner.on_miss = "raise"
    with pytest.raises(pruners.PruningMissed, match="reached 0.2429"):
        logs_of(two_sizes(), pruner)


def ragged():
    """Blocks of 4x4 at the edges of which a half is missing."""
    model = chain(
        (10,),
        layers.Dense(30, name="a"),
        layers.Dense(50, name="b"),
        layers.Dense(6, name="c"),
    )
    generator = np.random.default_rng(0)
    for layer in model.layers[1:]:
        layer.kernel.assign(generator.standard_normal(layer.kernel.shape))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


@pytest.mark.parametrize(
    "arguments",
    [
        {"structure": masks.Block((4, 4))},
        {"structure": masks.Block((4, 4)), "scope": "global"},
        {"structure": masks.Block((4, 4), "max"), "distribution": "erk"},
        {"structure": masks.Channel(0)},
        {"structure": masks.Channel(-1), "custom_sparsity": {"a": 0.2}},
        {"structure": masks.TargetBlock("litert"), "scope": "global"},
        {"structure": masks.GraphChannel()},
        {"structure": masks.NM(2, 4), "scope": "global"},
        {"scope": "global", "custom_sparsity": {"a": 0.2}},
        {"distribution": "erk"},
    ],
)
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.8])
def test_what_the_size_of_units_explains_is_no_miss(arguments, sparsity):
    pruner = pruners.MagnitudePruner(
        OneShot(sparsity), on_miss="raise", **arguments
    )
    logs_of(ragged(), pruner)
    assert pruner.missed == []


def seen(words):
    """A linear model on a hundred words, trained on the first of them."""
    x = np.random.default_rng(0).integers(0, 2, (64, 100)).astype("float32")
    x[:, words:] = 0
    model = chain(
        (100,),
        layers.Dense(1, kernel_initializer="zeros", name="wide"),
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(x, x[:, :1], batch_size=16, epochs=4, verbose=0)
    return model


@pytest.mark.parametrize("live", [True, False], ids=["live", "compiled again"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_words_never_seen_are_not_taken_for_pruned(scope, live):
    model = seen(60)
    if not live:
        model.compile(keras.optimizers.Adam(0.01), "mse")
    assert zeros(weights(model)["wide/kernel"]) == 40
    pruner = pruners.MagnitudePruner(
        OneShot(0.1, step=30), scope=scope, on_miss="raise"
    )
    x = np.random.default_rng(1).integers(0, 2, (64, 100)).astype("float32")
    with pytest.warns(UserWarning, match="40.0 % .* zero before the training"):
        model.fit(
            x,
            x[:, -1:],
            batch_size=16,
            epochs=8,
            verbose=0,
            callbacks=[pruner],
        )
    assert zeros(pruner.masks["wide/kernel"]) == 10
    assert zeros(weights(model)["wide/kernel"]) == 10


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("live", [True, False], ids=["live", "compiled again"])
def test_a_head_that_starts_at_zero_is_not_taken_for_pruned(live):
    model = chain(
        (10,),
        layers.Dense(10, name="body"),
        layers.Dense(10, kernel_initializer="zeros", name="head"),
    )
    model.compile("sgd", "mse")
    if live:
        x = np.zeros((8, 10))
        model.fit(x, x, verbose=0)
    # As many zeros as asked for, if those of the head were counted.
    pruner = pruners.MagnitudePruner(
        ConstantSparsity(0.5, 1), scope="global", on_miss="ignore"
    )
    pruner.set_model(model)
    assert all(mask.all() for mask in pruner.masks.values())


def test_weights_that_a_constraint_holds_at_zero_are_not_taken_for_pruned():
    model = chain(
        (20,), layers.Dense(50, kernel_constraint="non_neg", name="dense")
    )
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).random((32, 20)).astype("float32")
    model.fit(x, np.zeros((32, 50)), batch_size=8, verbose=0)
    count = zeros(weights(model)["dense/kernel"])
    assert 300 < count < 700
    pruner = pruners.MagnitudePruner(PolynomialDecay(0.0, 0.2, 0, 9))
    with pytest.warns(UserWarning, match="zero before the training"):
        pruner.set_model(model)
    assert pruner.masks["dense/kernel"].all()


@pytest.mark.parametrize("name", ["magnitude", "ste"])
def test_a_file_from_the_middle_of_a_ramp_goes_on_from_its_zeros(
    name, tmp_path
):
    def ramp():
        schedule = PolynomialDecay(0.1, 0.8, 0, 40, frequency=3)
        return make(name, schedule, on_miss="ignore")

    model, first, second = network(), ramp(), ramp()
    train(model, first, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    second.set_model(loaded)
    assert 0.1 < 1 - np.mean(second.masks["dense/kernel"]) < 0.8
    for path, mask in first.masks.items():
        np.testing.assert_array_equal(second.masks[path], mask)


def test_zeros_that_were_spread_by_layer_are_taken_for_pruned_in_all():
    model = network()
    train(model, pruners.MagnitudePruner(OneShot(0.5)))
    before = weights(model)
    model.compile("sgd", "mse")
    pruner = pruners.MagnitudePruner(OneShot(0.5, 9), scope="global")
    pruner.set_model(model)
    assert [zeros(mask) for mask in pruner.masks.values()] == [36, 320]
    for path, mask in pruner.masks.items():
        np.testing.assert_array_equal(mask, before[path] != 0)


@pytest.mark.parametrize(
    "structure, pattern, taken",
    [
        # Two whole columns; as many zeros, scattered.
        (masks.Channel(), np.repeat([[0, 0, 1, 1]], 4, axis=0), True),
        (masks.Channel(), np.eye(4) + np.eye(4)[::-1], False),
        (masks.NM(2, 4, axis=-2), np.eye(4) + np.eye(4)[::-1], True),
        (masks.NM(2, 4, axis=-2), np.repeat([[0, 0, 1, 1]], 4, axis=0), False),
    ],
)
@pytest.mark.filterwarnings("ignore:.*zero before the training")
def test_zeros_are_taken_for_pruned_by_units_of_the_structure(
    structure, pattern, taken
):
    model = dense(4, 4, pattern * 0.5)
    pruner = pruners.MagnitudePruner(OneShot(0.5, 9), structure=structure)
    pruner.set_model(model)
    expected = pattern.astype(bool) if taken else np.ones((4, 4), bool)
    np.testing.assert_array_equal(pruner.masks["dense/kernel"], expected)


def test_what_grew_and_stayed_zero_is_not_counted_as_pruned():
    schedule = ConstantSparsity(0.5, 0, frequency=2)
    model = dense(10, 10)
    # Grown weights of inputs that are always zero have no gradient.
    x = np.ones((32, 10), "float32")
    x[:, 7:] = 0
    first = pruners.SET(schedule, drop_fraction=0.5)
    model.fit(x, x, batch_size=4, verbose=0, callbacks=[first])
    assert zeros(weights(model)["dense/kernel"]) > 50
    optimizer = keras.optimizers.SGD(0.01)
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    optimizer.iterations.assign(8)
    second = pruners.SET(schedule)
    second.set_model(model)
    assert zeros(second.masks["dense/kernel"]) == 50


def test_masks_are_not_put_back_on_weights_that_trained_without_them():
    model = dense(10, 10)
    pruner = pruners.MagnitudePruner(OneShot(0.5), on_miss="ignore")
    train(model, pruner)
    model.compile(keras.optimizers.Adam(), "mse")
    x = np.ones((8, 10))
    model.fit(x, x, verbose=0)
    assert zeros(weights(model)["dense/kernel"]) == 0
    pruner.set_model(model)
    assert pruner.masks["dense/kernel"].all()
