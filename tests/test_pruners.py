"""Tests of the pruners: what every one of them must do, and when it does it."""

import hashlib
import inspect
import json
import warnings

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_app
from keras_app import masks
from keras_app import pruners
from keras_app.pruners.pruner import Pruner
from keras_app.schedules import ConstantSparsity
from keras_app.schedules import OneShot
from keras_app.schedules import PolynomialDecay

BACKEND = keras.backend.backend()
METHODS = [
    cls
    for cls in (getattr(pruners, name) for name in pruners.__all__)
    if issubclass(cls, Pruner) and cls is not Pruner
]
NESTED = [cls for cls in METHODS if not cls.revives]
KERNELS = ["conv/kernel", "dense/kernel"]


def chain(shape, *stack):
    """A functional model: its paths do not begin with the model's name."""
    x = inputs = keras.Input(shape)
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x)


def network(optimizer=None, **compile_args):
    """72 convolution weights and 640 dense ones, the same on each backend."""
    model = chain(
        (6, 6, 2),
        layers.Conv2D(4, 3, name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(10, name="dense"),
    )
    generator = np.random.default_rng(7)
    for name in ("conv", "dense"):
        kernel = model.get_layer(name).kernel
        kernel.assign(generator.standard_normal(kernel.shape) * 0.1)
    model.compile(
        optimizer or keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **compile_args,
    )
    return model


def dense(rows, columns, values=None, **compile_args):
    """One kernel. Training it is cheap."""
    model = chain((rows,), layers.Dense(columns, name="dense"))
    if values is not None:
        model.layers[1].kernel.assign(np.reshape(values, (rows, columns)))
    model.compile(
        keras.optimizers.SGD(compile_args.pop("learning_rate", 0.01)),
        "mse",
        **compile_args,
    )
    return model


def images(size=32):
    generator = np.random.default_rng(3)
    x = generator.standard_normal((size, 6, 6, 2)).astype("float32")
    return x, np.arange(size) % 10


def batches():
    x, y = images()
    return [(x[i : i + 8], y[i : i + 8]) for i in range(0, 32, 8)]


def train(model, pruner, epochs=1, batch_size=8, size=32, **kwargs):
    shape = model.input_shape
    if len(shape) == 4:
        x, y = images(size)
    else:
        generator = np.random.default_rng(3)
        x = generator.standard_normal((size, shape[1])).astype("float32")
        y = generator.standard_normal((size, *model.output_shape[1:]))
    return model.fit(
        x,
        y,
        epochs=epochs,
        batch_size=batch_size,
        shuffle=False,
        verbose=0,
        callbacks=[pruner, *kwargs.pop("callbacks", ())],
        **kwargs,
    )


def make(method, schedule=None, **kwargs):
    arguments = inspect.signature(method).parameters
    if "data" in arguments:
        kwargs.setdefault("data", batches())
    kwargs.setdefault("filters", "kernel")
    kwargs.setdefault("distribution", "uniform")
    return method(schedule or OneShot(0.5), **kwargs)


def pruned_now(pruner, model, sparsity):
    """The masks of one update outside of a training."""
    pruner.set_model(model)
    pruner.prune(sparsity)
    return pruner.masks


def zeros(mask):
    return int(mask.size - np.count_nonzero(mask))


def weights(model):
    return {
        v.path: ops.convert_to_numpy(v).astype("float32")
        for v in model.trainable_variables
    }


def digest(found):
    """Twelve digits that stand for all masks."""
    joined = np.concatenate([mask.ravel() for mask in found.values()])
    return hashlib.sha256(np.packbits(joined).tobytes()).hexdigest()[:12]


# ---- the contract of every method --------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_masks_after_training(method):
    model = network(keras.optimizers.AdamW(0.01, weight_decay=0.1))
    before = weights(model)
    pruner = make(method)
    train(model, pruner)
    found, after = pruner.masks, weights(model)
    assert sorted(found) == KERNELS
    for path, mask in found.items():
        assert mask.dtype == bool and mask.shape == after[path].shape
        assert not after[path][~mask].any()
        assert after[path][mask].all()
    # Within one weight of half of them, in each layer or in all.
    if pruner.scope == "layer":
        assert [zeros(found[path]) for path in KERNELS] == [36, 320]
    assert abs(sum(zeros(mask) for mask in found.values()) - 356) <= 1
    for path, mask in keras_app.masks_of(model).items():
        np.testing.assert_array_equal(mask, found[path])
    # Biases and normalization train on, and carry no mask.
    for path in ("conv/bias", "norm/gamma", "norm/beta", "dense/bias"):
        assert path not in found
        assert (after[path] != before[path]).any()
        assert after[path].all()


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_masks(method):
    first, second = (pruned_now(make(method), network(), 0.5) for _ in range(2))
    for path in KERNELS:
        np.testing.assert_array_equal(first[path], second[path])


@pytest.mark.parametrize("method", METHODS)
def test_sparsity_within_one_weight(method):
    for sparsity in (0.0, 0.123, 0.9, 0.99):
        found = pruned_now(make(method), network(), sparsity)
        asked = int(sparsity * 712)
        assert abs(sum(zeros(m) for m in found.values()) - asked) <= 1


@pytest.mark.parametrize("method", NESTED)
def test_masks_only_grow(method):
    pruner = make(method)
    pruner.set_model(network())
    old = pruner.masks
    assert all(mask.all() for mask in old.values())
    for sparsity in (0.2, 0.6, 0.4, 0.9):
        pruner.prune(sparsity)
        for path, mask in pruner.masks.items():
            assert not (mask & ~old[path]).any()
        old = pruner.masks
    assert sum(zeros(mask) for mask in old.values()) >= int(0.9 * 712) - 1


@pytest.mark.parametrize("method", METHODS)
def test_config_round_trip(method):
    pruner = make(
        method,
        PolynomialDecay(0.1, 0.5, 2, 40),
        structure=masks.Block((2, 1), "max"),
        filters=["conv", "dense"],
        custom_sparsity={"conv": 0.25},
        scope="layer",
        distribution="erk",
        on_miss="raise",
    )
    config = pruner.get_config()
    json.dumps(config)
    again = method.from_config(config)
    assert again.get_config() == config
    assert again.structure == pruner.structure
    assert again.schedule(7) == pruner.schedule(7)
    stored = keras.saving.serialize_keras_object(pruner)
    again = keras.saving.deserialize_keras_object(stored)
    assert type(again) is method and again.get_config() == config


@pytest.mark.parametrize("method", METHODS)
def test_defaults_round_trip(method):
    config = method(OneShot(0.5)).get_config()
    named = set(inspect.signature(method).parameters) - {"data"}
    assert set(config) == named
    assert method.from_config(config).get_config() == config


@pytest.mark.parametrize("method", METHODS)
def test_save_load_and_continue(method, tmp_path):
    model = network()
    pruner = make(method)
    train(model, pruner)
    saved = pruner.masks
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    continued = method.from_config(pruner.get_config())
    if hasattr(continued, "data"):
        continued.data = batches()
    with warnings.catch_warnings():
        # It is as sparse as asked: there is nothing to warn about.
        warnings.simplefilter("error", UserWarning)
        train(loaded, continued)
    assert sorted(continued.masks) == KERNELS
    for path, mask in continued.masks.items():
        np.testing.assert_array_equal(mask, saved[path])
        assert not weights(loaded)[path][~mask].any()


@pytest.mark.parametrize("method", METHODS)
def test_the_report_says_what_was_asked_and_what_came(method):
    pruner = make(method, filters="dense/kernel")
    pruned_now(pruner, network(), 0.5)
    report = pruner.report
    rows = {row.path: row for row in report.rows}
    assert rows["dense/kernel"].asked_sparsity == 0.5
    assert rows["dense/kernel"].sparsity == 0.5
    assert rows["conv/kernel"].asked_sparsity is None
    assert report.sparsity == 0.5
    assert set(report.skipped) == set(rows) - {"dense/kernel"}
    assert "filters" in report.skipped["conv/kernel"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "arguments, error, said",
    [
        (dict(scope="l"), ValueError, "scope='l'"),
        (dict(structure="nm"), TypeError, "structure='nm'"),
        (dict(structure=masks.NM), TypeError, "structure=<class"),
        (dict(custom_sparsity=["a"]), TypeError, "custom_sparsity=['a']"),
        (dict(distribution="er"), ValueError, "distribution='er'"),
        (
            dict(scope="global", distribution="erk"),
            ValueError,
            "distribution='erk'",
        ),
        (dict(on_miss="shrug"), ValueError, "on_miss='shrug'"),
        (dict(filters=3), TypeError, "filters=3"),
        (dict(filters="("), ValueError, "filters='('"),
        (
            dict(custom_sparsity={"conv": 50}),
            ValueError,
            "custom_sparsity['conv']=50",
        ),
        (dict(custom_sparsity={"(": 0.5}), ValueError, "'('"),
    ],
)
def test_bad_arguments_are_refused_in_the_constructor(
    method, arguments, error, said
):
    with pytest.raises(error) as caught:
        method(OneShot(0.5), **arguments)
    assert said in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_a_schedule_must_be_callable_and_say_when_and_how_much(method):
    with pytest.raises(TypeError, match=r"schedule=0\.5"):
        method(0.5)
    with pytest.raises(TypeError, match="schedule=<class"):
        method(OneShot)
    with pytest.raises(ValueError, match=r"returns 0\.5 for step 0"):
        method(lambda step: 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_there_is_no_report_before_a_model(method):
    pruner = make(method)
    assert pruner.masks == {}
    with pytest.raises(ValueError, match="before the pruner has seen a model"):
        _ = pruner.report


# ---- the same masks on every backend -----------------------------------


# Computed once, with NumPy alone where the scores are NumPy's.
@pytest.mark.parametrize(
    "method, scope, expected",
    [
        (pruners.MagnitudePruner, "layer", "658bc6de53bb"),
        (pruners.MagnitudePruner, "global", "6846c42250ca"),
        (pruners.RandomPruner, "layer", "76e4340d9a5d"),
        (pruners.RandomPruner, "global", "fbc2a0f65883"),
        (pruners.ACDC, "layer", "658bc6de53bb"),
        (pruners.WandaPruner, "layer", "cb4f5a0b1573"),
        (pruners.SaliencyPruner, "layer", "899828a910b4"),
        (pruners.SaliencyPruner, "global", "09602cffe3bf"),
        (pruners.AnytimeProgressivePruner, "global", "09602cffe3bf"),
        (pruners.SET, "layer", "9a227f6dfc65"),
        (pruners.SET, "global", "d7a3b577ce8e"),
        (pruners.RigL, "layer", "9a227f6dfc65"),
        (pruners.RigL, "global", "d7a3b577ce8e"),
        (pruners.STE, "global", "6846c42250ca"),
        (pruners.TopKAST, "layer", "658bc6de53bb"),
        (pruners.MovementPruner, "global", "6846c42250ca"),
    ],
)
def test_masks_are_the_same_on_every_backend(method, scope, expected):
    pruner = make(method, scope=scope)
    found = pruned_now(pruner, network(), 0.7)
    assert digest(found) == expected


def test_magnitude_masks_are_those_of_one_sort():
    model = network()
    w = weights(model)
    found = pruned_now(
        make(pruners.MagnitudePruner, scope="global"), model, 0.7
    )
    every = np.sort(np.concatenate([np.abs(w[p]).ravel() for p in KERNELS]))
    threshold = every[int(0.7 * 712) - 1]
    for path in KERNELS:
        np.testing.assert_array_equal(found[path], np.abs(w[path]) > threshold)


def test_random_masks_differ_between_seeds():
    one, two = (
        pruned_now(make(pruners.RandomPruner, seed=seed), network(), 0.5)
        for seed in (1, 2)
    )
    assert (one["dense/kernel"] != two["dense/kernel"]).any()


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


def test_custom_sparsity_in_the_layer_scope():
    pruner = pruners.MagnitudePruner(
        OneShot(0.5), custom_sparsity={"^conv": 0.25}
    )
    found = pruned_now(pruner, network(), 0.5)
    assert [zeros(found[path]) for path in KERNELS] == [18, 320]


def test_custom_sparsity_in_the_global_scope_has_its_own_threshold():
    pruner = pruners.MagnitudePruner(
        OneShot(0.5), scope="global", custom_sparsity={"^conv": 0.0}
    )
    found = pruned_now(pruner, network(), 0.5)
    assert [zeros(found[path]) for path in KERNELS] == [0, 320]


def test_custom_sparsity_follows_the_progress_of_the_schedule():
    schedule = PolynomialDecay(0.0, 0.8, 0, 10)
    pruner = pruners.MagnitudePruner(schedule, custom_sparsity={"conv": 0.5})
    pruner.set_model(network())
    pruner.prune(0.4)
    assert [zeros(pruner.masks[path]) for path in KERNELS] == [18, 256]
    pruner.prune(0.8)
    assert [zeros(pruner.masks[path]) for path in KERNELS] == [36, 512]


def test_custom_sparsity_together_with_erk():
    pruner = pruners.MagnitudePruner(
        OneShot(0.9), distribution="erk", custom_sparsity={"conv": 0.5}
    )
    found = pruned_now(pruner, network(), 0.9)
    # The dense kernel is alone in sharing.
    assert [zeros(found[path]) for path in KERNELS] == [36, 576]


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


# ---- time --------------------------------------------------------------


class Logged(pruners.MagnitudePruner):
    """Notes the sparsity of each update."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.log = []

    def prune(self, sparsity):
        self.log.append(sparsity)
        super().prune(sparsity)


def at(schedule, *steps):
    return pytest.approx([schedule(step)[1] for step in steps])


def test_updates_come_at_the_steps_of_the_schedule():
    schedule = PolynomialDecay(0.1, 0.8, 1, 7, frequency=2)
    pruner = Logged(schedule)
    train(dense(10, 10), pruner, epochs=2)
    assert pruner.log == at(schedule, 1, 3, 5, 7)


def test_a_frequency_that_does_not_divide_still_reaches_the_end():
    schedule = PolynomialDecay(0.1, 0.8, 0, 7, frequency=3)
    pruner = Logged(schedule)
    train(dense(10, 10), pruner, epochs=2)
    assert pruner.log == at(schedule, 0, 3, 6, 7)
    assert pruner.report.sparsity == 0.8


def test_an_update_due_after_the_last_step_is_made():
    schedule = PolynomialDecay(0.1, 0.8, 0, 8, frequency=4)
    pruner = Logged(schedule)
    model = dense(10, 10)
    train(model, pruner, epochs=2)
    assert pruner.log == at(schedule, 0, 4, 8)
    assert zeros(weights(model)["dense/kernel"]) == 80


def test_a_schedule_past_the_end_is_refused_before_training():
    pruner = Logged(PolynomialDecay(0.1, 0.8, 0, 9))
    model = dense(10, 10)
    with pytest.raises(ValueError) as error:
        train(model, pruner, epochs=2)
    assert "step 9" in str(error.value) and "step 8" in str(error.value)
    assert int(model.optimizer.iterations) == 0
    assert pruner.log == []


def test_a_schedule_that_begins_past_the_end_is_refused():
    pruner = pruners.MagnitudePruner(ConstantSparsity(0.5, 100))
    with pytest.raises(ValueError, match="step 100"):
        train(dense(10, 10), pruner)


def test_epochs_run_before_do_not_count_towards_the_end():
    # Epochs 3 and 4 of 4: eight steps, not sixteen.
    pruner = pruners.MagnitudePruner(PolynomialDecay(0.1, 0.8, 0, 12))
    with pytest.raises(ValueError, match="step 12"):
        train(dense(10, 10), pruner, epochs=4, initial_epoch=2)


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


def stopped_early(on_miss):
    pruner = Logged(
        PolynomialDecay(0.1, 0.8, 0, 8, frequency=1), on_miss=on_miss
    )
    train(dense(10, 10), pruner, epochs=2, callbacks=[Stop()])
    return pruner


def test_a_missed_target_warns():
    with pytest.warns(UserWarning, match="0.8000"):
        pruner = stopped_early("warn")
    assert any("0.8000" in note for note in pruner.report.notes)
    assert "0.8000" in str(pruner.report)


def test_a_missed_target_raises_if_asked_to():
    with pytest.raises(pruners.PruningMissed, match="0.8000"):
        stopped_early("raise")


def test_a_missed_target_can_be_ignored():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pruner = stopped_early("ignore")
    assert len(pruner.missed) == 1


def test_a_training_of_unknown_length_that_prunes_nothing_warns():
    def endless():
        while True:
            yield np.ones((4, 10), "float32"), np.ones((4, 10), "float32")

    pruner = pruners.MagnitudePruner(ConstantSparsity(0.5, begin_step=50))
    model = dense(10, 10)
    generator = (batch for batch, _ in zip(endless(), range(3)))
    with pytest.warns(UserWarning, match="nothing was pruned"):
        model.fit(generator, verbose=0, callbacks=[pruner])


@pytest.mark.parametrize("step", [4, 8])
def test_an_update_due_at_the_end_of_an_epoch_of_unknown_length_is_made(step):
    def batches_of_an_epoch():
        for _ in range(4):
            yield np.ones((8, 10), "float32"), np.ones((8, 10), "float32")

    from keras_app.experiments.data.tensorflow_pipeline import import_tensorflow

    tf = import_tensorflow()
    spec = tf.TensorSpec((8, 10), "float32")
    data = tf.data.Dataset.from_generator(
        batches_of_an_epoch, output_signature=(spec, spec)
    )
    model = dense(10, 10)
    pruner = pruners.MagnitudePruner(OneShot(0.75, step=step))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        warnings.filterwarnings("error", message="MagnitudePruner")
        model.fit(data, epochs=3, verbose=0, callbacks=[pruner])
    assert zeros(weights(model)["dense/kernel"]) == 75


def test_a_second_fit_goes_on_where_the_first_stopped():
    schedule = PolynomialDecay(0.1, 0.8, 0, 8, frequency=1)
    pruner = Logged(schedule, on_miss="ignore")
    model = dense(10, 10)
    train(model, pruner)
    assert zeros(pruner.masks["dense/kernel"]) == int(schedule(4)[1] * 100)
    train(model, pruner)
    # Step 4 falls due after the first fit and again before the second.
    assert sorted(set(pruner.log)) == at(schedule, *range(9))
    assert zeros(weights(model)["dense/kernel"]) == 80


def test_another_pruner_continues_with_the_masks_of_the_first():
    model = dense(10, 10)
    first = pruners.RandomPruner(OneShot(0.4))
    train(model, first)
    old = first.masks["dense/kernel"]
    second = pruners.MagnitudePruner(OneShot(0.7, step=4))
    train(model, second)
    new = second.masks["dense/kernel"]
    assert not (new & ~old).any()
    assert zeros(new) == 70


def test_accumulated_gradients_count_as_one_step():
    # Eight batches are four updates.
    schedule = PolynomialDecay(0.1, 0.8, 0, 4, frequency=1)
    model = dense(10, 10)
    model.compile(
        keras.optimizers.SGD(0.01, gradient_accumulation_steps=2), "mse"
    )
    pruner = Logged(schedule)
    train(model, pruner, epochs=2)
    assert pruner.log == at(schedule, 0, 1, 2, 3, 4)
    assert zeros(weights(model)["dense/kernel"]) == 80


def test_a_fit_may_end_within_an_accumulation():
    # Three batches a fit are three halves of an update.
    schedule = PolynomialDecay(0.1, 0.8, 0, 6, frequency=1)
    model = dense(10, 10)
    optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=2)
    model.compile(optimizer, "mse")
    pruner = Logged(schedule, on_miss="ignore")
    before = []

    class Batches(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            before.append(len(pruner.log))

    for _ in range(2):
        train(model, pruner, size=24, callbacks=[Batches()])
    # At batches 0, 2 and 4, and once more where the second fit goes on.
    assert pruner.log == at(schedule, 0, 1, 1, 2, 3)
    assert before == [1, 1, 2, 3, 4, 4]


def test_accumulated_gradients_count_in_the_refusal_too():
    model = dense(10, 10)
    model.compile(
        keras.optimizers.SGD(0.01, gradient_accumulation_steps=2), "mse"
    )
    pruner = Logged(PolynomialDecay(0.1, 0.8, 0, 5))
    with pytest.raises(ValueError, match="step 4"):
        train(model, pruner, epochs=2)


@pytest.mark.skipif(
    BACKEND == "torch", reason="Keras runs single steps on PyTorch"
)
def test_several_steps_per_execution_are_noted_and_reach_the_end():
    schedule = PolynomialDecay(0.1, 0.8, 0, 7, frequency=1)
    model = dense(10, 10, steps_per_execution=4)
    pruner = Logged(schedule)
    train(model, pruner, epochs=2)
    assert "steps_per_execution=4" in str(pruner.report)
    # Before steps 0 and 4; the last is made up for at the end.
    assert pruner.log == at(schedule, 0, 4, 7)
    assert zeros(weights(model)["dense/kernel"]) == 80


def test_the_sparsity_is_logged_each_epoch():
    schedule = PolynomialDecay(0.0, 0.8, 0, 8, power=1, frequency=4)
    history = train(dense(10, 10), pruners.MagnitudePruner(schedule), epochs=3)
    # After 4, 8 and 12 steps; step 4 prunes when the second epoch begins.
    assert history.history["sparsity"] == pytest.approx([0.0, 0.4, 0.8])


def test_pruned_weights_stay_zero_in_every_epoch():
    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if BACKEND == "jax":
                self.model.jax_state_sync()
            kernel = weights(self.model)["dense/kernel"]
            assert zeros(kernel) == 50

    watch = Watch()
    train(
        dense(10, 10),
        pruners.MagnitudePruner(OneShot(0.5)),
        2,
        callbacks=[watch],
    )


# ---- schedules of others -----------------------------------------------


class OfTfmot:
    """Answers as tfmot does: NumPy scalars of single precision, no end."""

    def __call__(self, step):
        return np.bool_(step == 0), np.float32(0.9)


class Scalar:
    """An eager tensor, as far as a schedule shows it."""

    def __init__(self, value):
        self.value = value

    def numpy(self):
        return self.value

    def __bool__(self):
        return bool(self.value)


class OfTensors:
    def __call__(self, step):
        return Scalar(np.bool_(step == 0)), Scalar(np.float32(0.9))


@pytest.mark.parametrize("schedule", [OfTfmot(), OfTensors()])
@pytest.mark.filterwarnings("error::UserWarning")
def test_schedules_of_tfmot_prune_what_they_say(schedule):
    # In single precision 0.9 of 1000 would be 899.
    model = dense(100, 10)
    pruner = pruners.MagnitudePruner(schedule)
    train(model, pruner, size=8)
    assert zeros(weights(model)["dense/kernel"]) == 900
    assert pruner.report.sparsity == pytest.approx(0.9)


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_end_of_a_tfmot_schedule_is_known():
    class Decay(OfTfmot):
        begin_step, end_step, frequency = 0, 7, 3

        def __call__(self, step):
            due = step <= 7 and step % 3 == 0
            return np.bool_(due), np.float32(min(step, 7) / 10)

    pruner = Logged(Decay())
    train(dense(10, 10), pruner, epochs=2)
    assert pruner.log == [0.0, 0.3, 0.6, 0.7]


# ---- what may go wrong -------------------------------------------------


def test_a_layer_that_loses_everything_is_named():
    model = network()
    kernel = model.get_layer("conv").kernel
    kernel.assign(ops.convert_to_numpy(kernel) * 1e-3)
    pruner = pruners.MagnitudePruner(OneShot(0.5), scope="global")
    with pytest.warns(UserWarning, match="conv/kernel.*layer collapse"):
        found = pruned_now(pruner, model, 0.5)
    assert not found["conv/kernel"].any()
    assert zeros(found["dense/kernel"]) == 356 - 72


# Also where an update that is due after the last step would hide them.
@pytest.mark.parametrize("frequency", [100, 1])
def test_weights_that_came_back_are_zeroed_and_named(frequency):
    class Revive(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            kernel = self.model.layers[1].kernel
            kernel.assign(ops.ones(kernel.shape))

    model = dense(10, 10)
    pruner = pruners.MagnitudePruner(
        ConstantSparsity(0.5, 0, frequency=frequency)
    )
    x = np.ones((8, 10), "float32")
    with pytest.warns(UserWarning, match="50 pruned weights had come back"):
        model.fit(x, x, verbose=0, callbacks=[Revive(), pruner])
    assert zeros(weights(model)["dense/kernel"]) == 50


def test_nan_weights_are_refused_with_their_name():
    model = dense(2, 2, [1.0, np.nan, 2.0, 3.0])
    with pytest.raises(ValueError, match="dense/kernel"):
        pruned_now(pruners.MagnitudePruner(OneShot(0.5)), model, 0.5)


def test_a_model_that_fit_builds_is_pruned_or_refused_with_the_way_out():
    # On TensorFlow, Keras builds it only within the first step.
    model = keras.Sequential([layers.Dense(10, name="dense")])
    model.compile("sgd", "mse")
    pruner = pruners.MagnitudePruner(OneShot(0.5))
    x = np.ones((4, 10), "float32")
    if BACKEND == "tensorflow":
        with pytest.raises(ValueError, match="Call it once on a batch"):
            model.fit(x, x, verbose=0, callbacks=[pruner])
        model(x)
    model.fit(x, x, verbose=0, callbacks=[pruner])
    assert [zeros(mask) for mask in pruner.masks.values()] == [50]


def test_a_model_that_is_not_compiled_is_refused():
    model = chain((3,), layers.Dense(2))
    with pytest.raises(ValueError, match="compile"):
        pruners.MagnitudePruner(OneShot(0.5)).set_model(model)


def test_a_sparsity_out_of_range_is_refused_at_the_update():
    pruner = pruners.MagnitudePruner(lambda step: (step == 0, 90))
    with pytest.raises(ValueError, match="sparsity=90"):
        train(dense(3, 2), pruner)


@pytest.mark.parametrize("scorer", ["snip", "grasp", "taylor"])
def test_a_saliency_pruner_without_its_data_is_refused_when_fit_starts(scorer):
    pruner = pruners.SaliencyPruner(OneShot(0.5), scorer=scorer)
    with pytest.raises(ValueError, match="data=None"):
        train(dense(3, 2), pruner)


def test_an_unknown_scorer_is_refused_in_the_constructor():
    for method in (pruners.SaliencyPruner, pruners.AnytimeProgressivePruner):
        with pytest.raises(ValueError, match="Did you mean 'grasp'"):
            method(OneShot(0.5), scorer="gasp")


def test_an_unknown_mode_is_refused_in_the_constructor():
    for method in (pruners.SaliencyPruner, pruners.AnytimeProgressivePruner):
        with pytest.raises(ValueError, match="bn_mode='eval'"):
            method(OneShot(0.5), bn_mode="eval")


@pytest.mark.parametrize("scorer", ["magnitude", "random", "taylor", "synflow"])
def test_every_scorer_can_be_chosen(scorer):
    pruner = make(pruners.SaliencyPruner, scorer=scorer)
    found = pruned_now(pruner, network(), 0.5)
    assert [zeros(found[path]) for path in KERNELS] == [36, 320]


@pytest.mark.parametrize(
    "policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"]
)
def test_other_dtype_policies(policy):
    model = chain(
        (10,),
        layers.Dense(20, dtype=policy, activation="relu", name="hidden"),
        layers.Dense(5, dtype=policy, name="logits"),
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    pruner = pruners.MagnitudePruner(OneShot(0.5), scope="global")
    train(model, pruner, epochs=2)
    if BACKEND == "jax":
        model.jax_state_sync()
    after = weights(model)
    counts = [zeros(after[path]) for path in pruner.masks]
    assert sum(counts) == 150
    assert sum(zeros(mask) for mask in pruner.masks.values()) == 150


def test_a_schedule_that_is_over_already_is_refused():
    model = dense(10, 10)
    train(model, pruners.MagnitudePruner(ConstantSparsity(0.0, 0)), epochs=2)
    late = pruners.MagnitudePruner(OneShot(0.5))
    with pytest.raises(ValueError, match="ended at step 0, but .* step 8"):
        train(model, late)
    train(model, pruners.MagnitudePruner(OneShot(0.5, step=8)))
    assert keras_app.report.summarize(model).sparsity == 0.5


def test_no_epoch_is_no_error():
    pruner = pruners.MagnitudePruner(OneShot(0.5))
    train(dense(10, 10), pruner, epochs=0)
    assert pruner.missed == []


def test_masks_survive_a_new_compile():
    model = dense(10, 10)
    pruner = pruners.MagnitudePruner(OneShot(0.5))
    train(model, pruner)
    [before] = pruner.masks.values()
    model.compile(keras.optimizers.Adam(), "mse")
    train(model, pruner)
    [after] = pruner.masks.values()
    np.testing.assert_array_equal(before, after)


def test_masks_of_a_layer_survive_its_being_frozen():
    model = network()
    pruner = pruners.MagnitudePruner(OneShot(0.5), filters="kernel")
    train(model, pruner)
    before = pruner.masks["conv/kernel"]
    model.get_layer("conv").trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    train(model, pruner)
    model.get_layer("conv").trainable = True
    model.compile("sgd", "sparse_categorical_crossentropy")
    pruner.set_model(model)
    np.testing.assert_array_equal(pruner.masks["conv/kernel"], before)


def test_a_ramp_that_dense_training_has_passed_is_pointed_at():
    model = dense(10, 10)
    x = np.ones((32, 10), "float32")
    model.fit(x, x, batch_size=8, verbose=0)
    pruner = pruners.MagnitudePruner(PolynomialDecay(0.1, 0.5, 0, 8))
    with pytest.warns(UserWarning, match="begins at step 0.*step 4 already"):
        train(model, pruner)


def test_an_optimizer_of_several_is_refused():
    model = dense(10, 10)
    several = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1))
    model.compile(keras.optimizers.MultiOptimizer(several), "mse")
    with pytest.raises(ValueError, match="MultiOptimizer.*one optimizer"):
        train(model, pruners.MagnitudePruner(OneShot(0.5)))


def sparse_model(share):
    values = np.arange(1.0, 101.0)
    values[: int(share * 100)] = 0
    return dense(10, 10, np.random.default_rng(0).permutation(values))


@pytest.mark.parametrize("method", [pruners.MagnitudePruner, pruners.SET])
def test_a_model_as_sparse_as_asked_keeps_its_zeros(method):
    model = sparse_model(0.8)
    before = weights(model)["dense/kernel"] != 0
    pruner = make(method, ConstantSparsity(0.8, 100), on_miss="ignore")
    pruner.set_model(model)
    np.testing.assert_array_equal(pruner.masks["dense/kernel"], before)


def test_a_model_less_sparse_than_asked_is_said_to_train_its_zeros():
    pruner = pruners.MagnitudePruner(PolynomialDecay(0.5, 0.9, 0, 4))
    with pytest.warns(UserWarning, match="80.0 % .* zero before the training"):
        pruner.set_model(sparse_model(0.8))
    assert pruner.masks["dense/kernel"].all()


# ---- shares ------------------------------------------------------------


def frozen_base():
    """A frozen kernel of 120x50, and a head of 50x2 that trains."""
    base = chain((120,), layers.Dense(50, name="inner"))
    base.name = "base"
    base.trainable = False
    return with_head(base, (120,))


def with_head(body, shape, units=2):
    """No bias is zero, so that zeros are those of kernels."""
    head = layers.Dense(units, name="head", bias_initializer="ones")
    model = chain(shape, body, head)
    for variable in model.weights:
        if len(variable.shape) < 2:
            variable.assign(np.ones(variable.shape))
    model.compile("sgd", "mse")
    return model


def logs_of(model, *callbacks):
    x = np.ones((8, *model.input_shape[1:]), "float32")
    y = np.ones((8, *model.output_shape[1:]), "float32")
    return model.fit(x, y, verbose=0, callbacks=list(callbacks)).history


def test_a_frozen_base_is_said_and_counted():
    model = frozen_base()
    pruner = pruners.MagnitudePruner(OneShot(0.5))
    with pytest.warns(UserWarning) as said:
        logs = logs_of(model, pruner)
    # 6,000 of 6,050 + 102; biases are no matrices.
    [text] = [str(w.message) for w in said if "not pruned" in str(w.message)]
    assert text == (
        "MagnitudePruner: 97.5 % of the model's weights are not pruned: base "
        "(97.5 %, frozen). `sparsity` is that of the weights to prune, "
        "`sparsity_all` that of the whole model. To prune what is frozen, make "
        "it trainable and compile."
    )
    assert logs["sparsity"] == [0.5]
    assert logs["sparsity_all"] == [pytest.approx(50 / 6152)]
    report = pruner.report
    assert report.sparsity_all == pytest.approx(50 / 6152)
    assert [(row.path, row.layer) for row in report.untrained] == [
        ("inner/kernel", "base"),
        ("inner/bias", "base"),
    ]
    assert "not trained: base (6,050 weights, 0 of them zero)" in str(report)


def test_a_recurrent_layer_that_is_left_out_is_said():
    # 2 * 80 * 240 + 2 * 240 weights, of 54,652 in all.
    gru = chain((4, 80), layers.GRU(80, name="gru"), layers.Dense(190))
    gru.name = "body"
    model = with_head(gru, (4, 80))
    pruner = pruners.MagnitudePruner(OneShot(0.5))
    with pytest.warns(UserWarning, match=r"71.1 % of .*a kernel of GRUCell"):
        logs = logs_of(model, pruner)
    assert logs["sparsity"] == [0.5]
    zeros_now = sum(zeros(values) for values in weights(model).values())
    assert logs["sparsity_all"] == [pytest.approx(zeros_now / 54652)]
    assert logs["sparsity_all"][0] < 0.16


@pytest.mark.filterwarnings("error::UserWarning")
def test_what_the_filters_do_not_name_is_no_surprise():
    pruner = pruners.MagnitudePruner(OneShot(0.5), filters="hea")
    logs = logs_of(frozen_base(), pruner)
    assert logs["sparsity"] == [0.5]
    assert list(pruner.masks) == ["head/kernel"]


def test_what_the_filters_name_and_is_frozen_is_said():
    pruner = pruners.MagnitudePruner(OneShot(0.5), filters="kernel")
    with pytest.warns(UserWarning, match="97.5 % .*frozen"):
        logs_of(frozen_base(), pruner)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("method", METHODS)
def test_small_shares_are_not_said(method):
    # A fifth is vectors, which nobody prunes.
    make(method, ConstantSparsity(0.5, 0)).set_model(network())
    model = chain((8,), layers.Embedding(10, 4), layers.Flatten())
    make(method).set_model(with_head(model, (8,), units=10))


def test_the_teacher_of_a_distiller_is_no_part_of_the_model():
    student = with_head(layers.Dense(50), (120,))
    teacher = chain((120,), layers.Dense(500), layers.Dense(2))
    model = keras.distillation.Distiller(
        teacher=teacher,
        student=student,
        distillation_losses=keras.distillation.LogitsDistillation(),
    )
    model.compile("sgd", "mse")
    pruner = pruners.MagnitudePruner(OneShot(0.5))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not pruned")
        x = np.ones((8, 120), "float32")
        history = model.fit(x, x[:, :2], verbose=0, callbacks=[pruner]).history
    assert history["sparsity_all"] == [pytest.approx(3050 / 6152)]


def test_two_pruners_in_one_fit_tell_one_share_of_the_model():
    model = with_head(layers.Dense(6, name="first"), (10,))
    callbacks = [
        pruners.MagnitudePruner(OneShot(sparsity), filters=name)
        for name, sparsity in (("first", 0.5), ("head", 0.75))
    ]
    logs = logs_of(model, *callbacks)
    assert logs["sparsity"] == [0.75]
    # 30 of 60 and 9 of 12; with 8 biases.
    assert logs["sparsity_all"] == [39 / 80]


def test_learned_masks_log_the_zeros_of_the_whole_model():
    model = with_head(layers.Dense(6, name="first"), (10,))
    model.layers[1].trainable = False
    model.layers[1].kernel.assign(np.eye(10, 6))
    optimizer = keras_app.optimizers.ContinuousSparsification(1e-6, s_init=-1.0)
    model.compile(optimizer, "mse")
    sparsifier = pruners.ContinuousSparsifier(1.0)
    with pytest.warns(UserWarning, match=r"75.0 % .*first \(75.0 %, frozen"):
        logs = logs_of(model, sparsifier)
    assert logs["density"] == [0.0]
    # No mask is final: 54 zeros are those of the frozen layer.
    assert logs["sparsity_all"] == [54 / 80]
    assert sparsifier.report.sparsity_all == (54 + 12) / 80


def test_controllers_log_the_zeros_of_the_whole_model():
    model = with_head(layers.Dense(6, name="first"), (10,))
    # Strong enough to leave nothing.
    regularizer = keras_app.regularizers.L1(1000.0)
    optimizer = keras_app.optimizers.ProxSGD(
        0.1, regularizers={"first/kernel": regularizer}
    )
    model.compile(optimizer, "mse")
    controller = pruners.LambdaController(regularizer)
    logs = logs_of(model, controller)
    assert logs["density"] == [0.0]
    assert logs["sparsity_all"] == [60 / 80]


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


@pytest.mark.parametrize("method", [pruners.MagnitudePruner, pruners.STE])
def test_a_file_from_the_middle_of_a_ramp_goes_on_from_its_zeros(
    method, tmp_path
):
    def ramp():
        schedule = PolynomialDecay(0.1, 0.8, 0, 40, frequency=3)
        return make(method, schedule, on_miss="ignore")

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


@pytest.mark.parametrize(
    "arguments, advice",
    [
        ({"scope": "global"}, "or use scope='layer'"),
        (
            {"distribution": lambda shapes, s: dict.fromkeys(shapes, 1.0)},
            "Let `distribution` give them less",
        ),
    ],
)
def test_the_advice_against_a_layer_collapse_fits_the_arguments(
    arguments, advice
):
    model = chain((4,), layers.Dense(4, name="a"), layers.Dense(50, name="b"))
    model.compile("sgd", "mse")
    model.get_layer("a").kernel.assign(np.full((4, 4), 1e-9))
    pruner = pruners.MagnitudePruner(OneShot(0.5), **arguments)
    pruner.set_model(model)
    with pytest.warns(UserWarning, match="layer collapse") as caught:
        pruner.prune(0.5)
    [said] = [str(w.message) for w in caught if "collapse" in str(w.message)]
    assert advice in said
    if arguments.get("scope") != "global":
        assert "scope" not in said
