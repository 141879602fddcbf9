"""Tests of dynamic sparse training: what drops, what grows, and when."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_app import enforcement
from keras_app import masks
from keras_app.experiments import Train
from keras_app.experiments.data import Holdout
from keras_app.experiments.models import mlp
from keras_app.experiments.run.folder import RunFolder
from keras_app.pruners import RigL
from keras_app.pruners import SET
from keras_app.pruners.dynamic import drop_and_grow
from keras_app.schedules import ConstantSparsity

PATHS = ["hidden/kernel", "logits/kernel"]


def endless(sparsity, **kwargs):
    return ConstantSparsity(sparsity, 0, **kwargs)


def network(optimizer="sgd"):
    """Kernels of 200 and of 100 weights, the same on each backend."""
    inputs = keras.Input((10,))
    x = layers.Dense(20, activation="tanh", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(5, name="logits")(x))
    generator = np.random.default_rng(7)
    for layer in model.layers[1:]:
        shape = layer.kernel.shape
        layer.kernel.assign(generator.standard_normal(shape) * 0.3)
    model.compile(optimizer, "mse")
    return model


def examples(size=32):
    generator = np.random.default_rng(3)
    x = generator.standard_normal((size, 10)).astype("float32")
    return x, generator.standard_normal((size, 5)).astype("float32")


def make(method, schedule, **kwargs):
    if method is RigL:
        kwargs.setdefault("data", [examples()])
    return method(schedule, **kwargs)


def fit(model, pruner, epochs=1):
    """Four steps an epoch."""
    x, y = examples()
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[pruner],
    )


def updated(pruner, sparsity, times, model=None):
    """The masks of the first so many updates outside of a training."""
    pruner.set_model(model or network())
    found = []
    for _ in range(times):
        pruner.prune(sparsity)
        found.append(pruner.masks)
    return found


def kept(found):
    return [int(np.count_nonzero(found[path])) for path in PATHS]


def differ(one, two):
    return any((one[path] != two[path]).any() for path in one)


# ---- one update by hand ------------------------------------------------

# Kept, from the smallest magnitude on: 3, 1, 6, 5.
WEIGHTS = [0.0, 2.0, 0.0, -1.0, 0.0, 8.0, -3.0, 0.0]
MASK = [0, 1, 0, 1, 0, 1, 1, 0]
# The gradient of (w x)^2 is in proportion to x. From the largest on: 0, 5, 6,
# 4, 2, 7, 3, 1.
X = [9.0, -1.0, 4.0, 2.0, -5.0, 8.0, 7.0, 3.0]


def eight(pruner):
    """A model of the eight weights, under a pruner; returns its kernel."""
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(1, use_bias=False)(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    pruner.set_model(model)
    [kernel] = model.trainable_variables
    kernel.assign(np.reshape(WEIGHTS, (8, 1)))
    mask = np.reshape(MASK, (8, 1)).astype(bool)
    enforcement.state_of(model).set([(kernel, mask)])
    return kernel


def check_by_hand(pruner, expected):
    """One update of the eight weights."""
    kernel = eight(pruner)
    pruner.prune(0.5)
    [mask] = pruner.masks.values()
    assert mask.ravel().astype(int).tolist() == expected
    # What grows starts at zero, and what never left, where it was.
    after = ops.convert_to_numpy(kernel).ravel()
    assert after.tolist() == [
        w * m * n for w, m, n in zip(WEIGHTS, MASK, expected)
    ]


def row(*values):
    return np.reshape(values, (1, -1)).astype("float32")


@pytest.mark.parametrize(
    "drop_fraction, expected",
    [
        (0.0, [0, 1, 0, 1, 0, 1, 1, 0]),
        # Less than one of the four.
        (0.24, [0, 1, 0, 1, 0, 1, 1, 0]),
        # 3 drops, 0 grows.
        (0.25, [1, 1, 0, 0, 0, 1, 1, 0]),
        # 3 and 1 drop, 0 and 4 grow.
        (0.5, [1, 0, 0, 0, 1, 1, 1, 0]),
        # 3, 1 and 6 drop; 0, 6 and 4 grow.
        (0.75, [1, 0, 0, 0, 1, 1, 1, 0]),
    ],
)
def test_rigl_by_hand(drop_fraction, expected):
    data = [(row(*X), row(0.0))]
    pruner = RigL(endless(0.5), data=data, drop_fraction=drop_fraction)
    check_by_hand(pruner, expected)


@pytest.mark.parametrize(
    "drop_fraction, expected",
    [
        (0.0, [0, 1, 0, 1, 0, 1, 1, 0]),
        (0.24, [0, 1, 0, 1, 0, 1, 1, 0]),
        # 3 drops, 7 grows.
        (0.25, [0, 1, 0, 0, 0, 1, 1, 1]),
        # 3 and 1 drop, 1 and 7 grow.
        (0.5, [0, 1, 0, 0, 0, 1, 1, 1]),
        # 3, 1 and 6 drop; 1, 7 and 3 grow.
        (0.75, [0, 1, 0, 1, 0, 1, 0, 1]),
    ],
)
def test_set_by_hand(drop_fraction, expected):
    # The draws of seed 0 and step 0, rounded: 0.298, 0.678, 0.207, 0.310,
    # 0.222, 0.308, 0.084, 0.346. From the largest on: 1, 7, 3, 5, 0, 4, 2, 6.
    pruner = SET(endless(0.5), drop_fraction=drop_fraction)
    check_by_hand(pruner, expected)


def test_the_step_says_how_many_drop():
    # f(50) = 0.5 / 2 (1 + cos(pi / 2)) = 0.25.
    data = [(row(*X), row(0.0))]
    pruner = RigL(endless(0.5, end_step=100), data=data, drop_fraction=0.5)
    eight(pruner)
    pruner.model.optimizer.iterations.assign(50)
    pruner.prune(0.5)
    [mask] = pruner.masks.values()
    assert mask.ravel().astype(int).tolist() == [1, 1, 0, 0, 0, 1, 1, 0]


def test_rigl_looks_at_as_many_batches_as_it_is_told():
    data = [(row(*X), row(0.0)), (row(0, 0, 0, 0, 0, 0, 0, 99.0), row(1e4))]
    expected = {1: [1, 1, 0, 0, 0, 1, 1, 0], 2: [0, 1, 0, 0, 0, 1, 1, 1]}
    for count, mask in expected.items():
        pruner = RigL(
            endless(0.5),
            data=data,
            drop_fraction=0.25,
            batches_per_update=count,
        )
        eight(pruner)
        pruner.prune(0.5)
        [found] = pruner.masks.values()
        assert found.ravel().astype(int).tolist() == mask


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "step, share",
    [
        (0, 0.3),
        (250, 0.256066017),
        (500, 0.15),
        (750, 0.043933983),
        (1000, 0.0),
        (1001, 0.0),
    ],
)
def test_the_share_that_drops_decays_by_a_cosine(step, share):
    pruner = SET(endless(0.9, end_step=1000), drop_fraction=0.3)
    assert pruner.drop_fraction_at(step) == pytest.approx(share, abs=1e-9)


@pytest.mark.backend_free
def test_without_an_end_the_share_does_not_decay():
    pruner = SET(endless(0.9), drop_fraction=0.4)
    assert [pruner.drop_fraction_at(t) for t in (0, 10**6)] == [0.4, 0.4]


# ---- masks that move, at one density -----------------------------------


class Watch:
    """Mixed into a pruner: looks at each update of a training."""

    grown = 0
    counts = ()

    def prune(self, sparsity):
        old, before = self.masks, self._arrays()
        super().prune(sparsity)
        new, after = self.masks, self._arrays()
        self.counts = (*self.counts, kept(new))
        for path in PATHS:
            grown = new[path] & ~old[path]
            stayed = new[path] & old[path]
            (w_0, m_0), (w_1, m_1) = before[path], after[path]
            self.grown += int(grown.sum())
            # Stale until then: dormant weights have gradients, too.
            assert m_0[grown].any() or not grown.any()
            assert not m_1[grown].any() and not w_1[grown].any()
            np.testing.assert_array_equal(m_1[stayed], m_0[stayed])
            np.testing.assert_array_equal(w_1[stayed], w_0[stayed])
            assert not w_1[~new[path]].any()

    def _arrays(self):
        """`{path: (kernel, momentum)}`."""
        slots = {v.name: v for v in self.model.optimizer.variables}
        return {
            path: tuple(
                ops.convert_to_numpy(v).copy()
                for v in (
                    variable,
                    slots[f"{path.replace('/', '_')}_momentum"],
                )
            )
            for path, variable in self.variables.items()
        }


class WatchedSET(Watch, SET):
    pass


class WatchedRigL(Watch, RigL):
    pass


@pytest.mark.parametrize(
    "make_pruner, optimizer",
    [
        (WatchedSET, keras.optimizers.SGD(0.05, momentum=0.9)),
        (
            lambda *args: WatchedRigL(*args, data=[examples()]),
            keras.optimizers.Adam(0.01),
        ),
    ],
    ids=["SET", "RigL"],
)
def test_the_density_of_each_layer_is_constant_while_weights_move(
    make_pruner, optimizer
):
    # 0.2 * 300 = 60 = scale * (30 + 25), the sums of the dimensions. Pruned
    # are int((1 - scale * 30 / 200) * 200) = 167 and 72.
    pruner = make_pruner(endless(0.8, end_step=10, frequency=1))
    model = network(optimizer)
    fit(model, pruner, epochs=3)
    assert pruner.counts == ([33, 28],) * 11
    assert pruner.grown >= 15
    assert pruner.missed == []
    assert kept(pruner.masks) == [33, 28]
    for path, variable in pruner.variables.items():
        values = ops.convert_to_numpy(variable)
        assert not values[~pruner.masks[path]].any()


@pytest.mark.parametrize("method", [SET, RigL])
def test_a_training_that_was_saved_goes_on_as_if_it_had_not_stopped(
    method, tmp_path
):
    # Behind a dense layer all that grows has a gradient and leaves zero, so
    # that a file without masks says what was pruned.
    def pruner():
        schedule = endless(0.8, end_step=24, frequency=2)
        return make(method, schedule, filters="hidden", on_miss="ignore")

    whole, first, second = (pruner() for _ in range(3))
    fit(network("adam"), whole, epochs=4)
    model = network("adam")
    fit(model, first, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fit(loaded, second, epochs=2)
    assert differ(first.masks, second.masks)
    assert not differ(whole.masks, second.masks)


class Logged(SET):
    """Keeps the masks of each update."""

    def __init__(self, *args):
        super().__init__(*args)
        self.log = []

    def prune(self, sparsity):
        super().prune(sparsity)
        self.log.append(self.masks)


def test_nothing_moves_where_it_could_not_train_any_more():
    pruner = Logged(endless(0.5, frequency=1))
    fit(network(), pruner)
    # Before steps 0 to 3, and after the last.
    assert len(pruner.log) == 5
    moved = [differ(*pair) for pair in zip(pruner.log, pruner.log[1:])]
    assert moved == [True, True, True, False]
    pruner.prune(0.5)
    assert differ(*pruner.log[-2:])


# ERK over 200 = 10 x 20 and 100 = 20 x 5 weights: of 60 that are kept, shares
# as 30 to 25.
PRUNED = [int(200 - 60 * 30 / 55), int(100 - 60 * 25 / 55)]


def without_smallest(scores, count):
    """True but for so many of the smallest scores."""
    kept = np.ones(scores.size, bool)
    kept[np.argsort(scores.ravel(), kind="stable")[:count]] = False
    return kept.reshape(scores.shape)


def draws(kernels, stream):
    """Those of seed 4 at step 0."""
    return [
        np.random.default_rng([4, 0, position, stream]).random(kernel.shape)
        for position, kernel in enumerate(kernels)
    ]


def gradients(first, second):
    """|dL/dw| of the examples; no bias has moved."""
    x, y = examples()
    hidden = np.tanh(x @ first)
    error = hidden @ second - y
    back = error @ second.T * (1 - hidden**2)
    return [np.abs(x.T @ back), np.abs(hidden.T @ error)]


@pytest.mark.parametrize("method", [SET, RigL])
def test_two_updates_are_those_of_numpy(method):
    pruner = make(method, endless(0.8), seed=4)
    first, second = updated(pruner, 0.8, times=2)
    kernels = [layer.get_weights()[0] for layer in network().layers[1:]]
    drawn = draws(kernels, 0)
    masks = [without_smallest(*each) for each in zip(drawn, PRUNED)]
    if method is SET:
        grow = draws(kernels, 1)
    else:
        grow = gradients(*(w * mask for w, mask in zip(kernels, masks)))
    for i, path in enumerate(PATHS):
        np.testing.assert_array_equal(first[path], masks[i])
        # Of n kept, int(0.3 n) go.
        ranked = np.where(masks[i], np.abs(kernels[i]), -1.0)
        dropped = int(0.3 * masks[i].sum())
        left = without_smallest(ranked, PRUNED[i] + dropped)
        ranked = np.where(left, np.inf, grow[i])
        expected = without_smallest(ranked, PRUNED[i])
        np.testing.assert_array_equal(second[path], expected)


@pytest.mark.parametrize("method", [SET, RigL])
def test_another_seed_draws_other_masks(method):
    one, two = (
        updated(make(method, endless(0.8), seed=seed), 0.8, times=1)[0]
        for seed in (1, 2)
    )
    assert differ(one, two)


def test_another_seed_and_another_step_grow_elsewhere():
    found = []
    for seed, step in ((0, 0), (0, 1), (1, 0)):
        pruner = SET(endless(0.5), drop_fraction=0.75, seed=seed)
        eight(pruner)
        pruner.model.optimizer.iterations.assign(step)
        pruner.prune(0.5)
        [mask] = pruner.masks.values()
        found.append(mask.ravel().astype(int).tolist())
    # 5 stays. The draws, from the largest on: 1, 7, 3 at first; 2, 6, 7 at
    # the next step; 3, 6, 7 with the other seed.
    assert found == [
        [0, 1, 0, 1, 0, 1, 0, 1],
        [0, 0, 1, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 0, 1, 1, 1],
    ]


@pytest.mark.parametrize("method", [SET, RigL])
def test_a_drop_fraction_of_zero_is_static_sparse_training(method):
    # Nothing grows, so that no data are needed.
    pruner = method(endless(0.8), drop_fraction=0)
    first, second = updated(pruner, 0.8, times=2)
    assert kept(first) == [33, 28]
    assert not differ(first, second)


@pytest.mark.parametrize("method", [SET, RigL])
def test_in_the_global_scope_the_density_moves_between_layers(method):
    pruner = make(method, endless(0.8), scope="global")
    assert pruner.distribution == "uniform"
    first, second = updated(pruner, 0.8, times=2)
    assert sum(kept(first)) == sum(kept(second)) == 60
    assert kept(first) != kept(second)


@pytest.mark.parametrize("method", [SET, RigL])
def test_n_m_holds_in_each_group_while_weights_move(method):
    pruner = make(method, endless(0.75), structure=masks.NM(1, 4))
    first, second = updated(pruner, 0.75, times=2)
    for found in (first, second):
        groups = found["hidden/kernel"].reshape(-1, 4).sum(-1)
        assert (groups == 1).all()
        # Five columns: a group of four, and one of its own.
        assert kept(found) == [50, 40]
    assert differ(first, second)


@pytest.mark.parametrize("method", [SET, RigL])
def test_units_move_as_a_whole(method):
    pruner = make(method, endless(0.5), structure=masks.Channel(0))
    first, second = updated(pruner, 0.5, times=2)
    for found in (first, second):
        for mask in found.values():
            assert (mask.all(-1) == mask.any(-1)).all()
    assert kept(first) == kept(second)
    assert differ(first, second)


def test_a_schedule_may_raise_and_lower_the_sparsity():
    pruner = SET(endless(0.5), distribution="uniform")
    pruner.set_model(network())
    counts = []
    for sparsity in (0.0, 0.5, 0.8, 0.4):
        pruner.prune(sparsity)
        counts.append(kept(pruner.masks))
    assert counts == [[200, 100], [100, 50], [40, 20], [120, 60]]


@pytest.mark.backend_free
def test_equal_scores_drop_the_lower_index_and_grow_the_higher():
    found = drop_and_grow(
        {"w": np.array([True, True, False, False, True])},
        {"w": np.ones(5)},
        {"w": np.zeros(5)},
        0.4,
        0.4,
    )
    # 0 drops; 3, the last of the others, grows.
    assert found["w"].tolist() == [False, True, False, True, True]


# ---- arguments ---------------------------------------------------------


@pytest.mark.backend_free
@pytest.mark.parametrize("method", [SET, RigL])
@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"drop_fraction": 1.0}, ValueError),
        ({"drop_fraction": -0.1}, ValueError),
        ({"drop_fraction": "all"}, ValueError),
        ({"seed": -1}, ValueError),
        ({"seed": 0.5}, TypeError),
    ],
)
def test_bad_arguments(method, arguments, error):
    ((name, value),) = arguments.items()
    with pytest.raises(error, match=f"`{name}` must be .*{name}={value!r}"):
        method(endless(0.5), **arguments)


@pytest.mark.backend_free
def test_no_batches_are_no_gradient():
    with pytest.raises(ValueError, match="batches_per_update=0"):
        RigL(endless(0.5), batches_per_update=0)
    with pytest.raises(ValueError, match="batches_per_update=2, data=None"):
        eight(RigL(endless(0.5), batches_per_update=2))


def trained_without_data(pruner):
    """Three steps on two samples that disagree; the last but one is X."""
    kernel = eight(pruner)
    x = np.concatenate([row(0, 0, 0, 0, 0, 0, 0, 99.0), row(*X), row(*X)])
    pruner.model.optimizer.learning_rate = 0.0
    pruner.model.fit(
        x,
        np.zeros((3, 1)),
        batch_size=1,
        shuffle=False,
        verbose=0,
        callbacks=[pruner],
    )
    return kernel


def test_without_data_the_step_before_says_where_to_grow():
    # The same gradient as by hand; that of the first step would grow 7.
    schedule = ConstantSparsity(0.5, 2, frequency=100)
    pruner = RigL(schedule, drop_fraction=0.5)
    trained_without_data(pruner)
    [mask] = pruner.masks.values()
    expected = [1, 0, 0, 0, 1, 1, 1, 0]
    assert mask.ravel().astype(int).tolist() == expected


def test_gradients_are_kept_in_the_steps_before_updates_only():
    schedule = ConstantSparsity(0.5, 1000, frequency=100)
    pruner = RigL(schedule, drop_fraction=0.5, on_miss="ignore")
    kernel = trained_without_data(pruner)
    assert not enforcement.state_of(pruner.model).watched(kernel).any()


def test_no_gradient_yet_moves_nothing():
    pruner = RigL(endless(0.5), drop_fraction=0.5)
    eight(pruner)
    pruner.prune(0.5)
    [mask] = pruner.masks.values()
    assert mask.ravel().astype(int).tolist() == MASK


@pytest.mark.filterwarnings("always")
def test_watched_steps_without_a_gradient_are_reported_once():
    # As in a step that was compiled before the optimizer knew of RigL.
    pruner = RigL(endless(0.5, frequency=1), drop_fraction=0.5)
    eight(pruner)
    with pytest.warns(RuntimeWarning, match="no gradient") as caught:
        pruner.model.fit(
            np.zeros((4, 8)),
            np.zeros((4, 1)),
            batch_size=1,
            verbose=0,
            callbacks=[pruner],
        )
    found = [w for w in caught if w.category is RuntimeWarning]
    assert len(found) == 1
    assert "no gradient" in str(pruner.report)
    [mask] = pruner.masks.values()
    assert mask.ravel().astype(int).tolist() == MASK


def test_a_file_holds_no_gradients(tmp_path):
    pruner = RigL(ConstantSparsity(0.5, 2, frequency=100), drop_fraction=0.5)
    trained_without_data(pruner)
    pruner.model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == 3


def test_a_gradient_that_is_not_finite_is_refused():
    x, y = examples()
    pruner = RigL(endless(0.5), data=[(x * np.inf, y)])
    with pytest.raises(ValueError, match="NaN in 'hidden/kernel'"):
        updated(pruner, 0.5, times=2)


def experiment(path, **kwargs):
    """Two epochs of four steps; returns the pruner and the summary."""
    x = np.random.default_rng(1).normal(size=(60, 4, 4, 1)).astype("float32")
    y = np.arange(60) % 3
    pruner = RigL(ConstantSparsity(0.5, 0, end_step=8, frequency=1))
    training = Train(
        Holdout((x, y), test=(x, y), validation_fraction=0.2, batch_size=12),
        lambda input_shape, num_classes, mean, std, seed: mlp(
            input_shape, num_classes, hidden=(20,), seed=seed
        ),
        pruner=pruner,
        epochs=2,
    )
    return pruner, training.run(path, verbose=False, **kwargs)


class Killed(Exception):
    """Stands for a process that ends."""


def test_the_train_experiment_resumes_rigl_with_its_own_gradients(
    tmp_path, monkeypatch
):
    whole, summary = experiment(tmp_path / "whole")
    # Scoring all data at each update would cost many times the training.
    assert whole.data is None
    # Half of 320 + 60. ERK keeps the last layer dense, whose share would be
    # 190 * 23 / (36 + 23) > 60, and 130 of the others.
    [figures] = summary["methods"].values()
    assert sorted(figures["layers"].values()) == [130 / 320, 1.0]
    assert summary["method"] == "Adam + RigL"
    save = RunFolder.save_checkpoint

    def save_and_die(*args):
        save(*args)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "save_checkpoint", save_and_die)
        with pytest.raises(Killed):
            experiment(tmp_path / "killed")
    resumed, again = experiment(tmp_path / "killed", resume=True)
    assert again["methods"] == summary["methods"]
    assert not differ(whole.masks, resumed.masks)
