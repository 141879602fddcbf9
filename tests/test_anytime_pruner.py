"""Tests of Anytime Progressive Pruning: one update for each fit."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_app.masks import mask_from_scores
from keras_app.pruners import AnytimeProgressivePruner
from keras_app.schedules import AnytimeSchedule
from keras_app.schedules import OneShot
from tests.models import chain

CONVS = ["conv1/kernel", "conv2/kernel"]


def network(learning_rate=0.05):
    """The convolutions of the recorded runs: 162 and 540 weights."""
    model = chain(
        (6, 6, 3),
        layers.Conv2D(6, 3, padding="same", activation="relu", name="conv1"),
        layers.Conv2D(10, 3, padding="same", activation="relu", name="conv2"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10, name="logits"),
    )
    model.compile(
        keras.optimizers.SGD(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def perceptron(learning_rate=0.05):
    """Without convolutions the first two kernels count: 24 and 36 weights."""
    model = chain(
        (4,),
        layers.Dense(6, activation="tanh", name="a"),
        layers.Dense(6, activation="tanh", name="b"),
        layers.Dense(3, name="logits"),
    )
    model.compile(
        keras.optimizers.SGD(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def sample(model, seed, size=8):
    generator = np.random.default_rng(seed)
    shape = (size, *model.input_shape[1:])
    x = generator.standard_normal(shape).astype("float32")
    return x, np.arange(size) % model.output_shape[-1]


def arrive(model, pruner, seed=0, **kwargs):
    """One megabatch: one fit."""
    x, y = sample(model, seed)
    pruner.data = [(x, y)]
    model.fit(
        x,
        y,
        batch_size=8,
        shuffle=False,
        verbose=0,
        callbacks=[pruner],
        **kwargs,
    )


def copies(found):
    return {path: mask.copy() for path, mask in found.items()}


def zeros(masks):
    return sum(int(m.size - np.count_nonzero(m)) for m in masks.values())


def weights(model, paths):
    return {
        v.path: ops.convert_to_numpy(v).copy()
        for v in model.trainable_variables
        if v.path in paths
    }


def ranking(masks):
    """A scorer that ranks what `masks` prunes below what it keeps."""

    def scorer(model, variables, data, old):
        generator = np.random.default_rng(0)
        return [
            masks[v.path] + 0.5 * generator.random(masks[v.path].shape) + 0.1
            for v in variables
        ]

    return scorer


# ---- nested masks ------------------------------------------------------


def test_each_megabatch_prunes_to_its_density_and_masks_are_nested():
    model = network()
    pruner = AnytimeProgressivePruner(AnytimeSchedule(8, level=4.5))
    old = None
    for t, level in enumerate(np.linspace(1, 4.5, 8)):
        assert pruner.megabatch == t
        arrive(model, pruner, seed=t)
        masks = copies(pruner.masks)
        assert list(masks) == CONVS
        k = int((1.0 - float(np.power(0.8, [level])[0])) * 702)
        assert zeros(masks) == k
        for path, kernel in weights(model, CONVS).items():
            assert not kernel[~masks[path]].any()
            assert kernel[masks[path]].all()
            assert old is None or not (masks[path] & ~old[path]).any()
        old = masks
    assert zeros(old) == 444
    assert pruner.report.sparsity == pytest.approx(444 / 702)


def test_layer_scope_prunes_each_convolution_to_the_density():
    model = network()
    pruner = AnytimeProgressivePruner(
        AnytimeSchedule(3, level=3), scope="layer", scorer="magnitude"
    )
    for density in (0.8, 0.64, 0.512):
        arrive(model, pruner)
        counts = [zeros({path: pruner.masks[path]}) for path in CONVS]
        assert counts == [int((1 - density) * 162), int((1 - density) * 540)]


def test_the_trained_weights_are_scored():
    # Magnitudes after the first training, not those of the start.
    model = network(learning_rate=1.0)
    pruner = AnytimeProgressivePruner(
        AnytimeSchedule(2, level=4.5), scorer="magnitude"
    )
    arrive(model, pruner)
    old, trained = copies(pruner.masks), weights(model, CONVS)
    arrive(model, pruner)
    expected = mask_from_scores(
        {path: np.abs(w) for path, w in trained.items()},
        1.0 - 0.8**4.5,
        previous=old,
    )
    for path in CONVS:
        np.testing.assert_array_equal(pruner.masks[path], expected[path])


def test_the_mask_is_fixed_during_the_epochs_of_a_megabatch():
    class Watch(keras.callbacks.Callback):
        seen = []

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append(copies(pruner.masks))
            assert logs["sparsity"] == pytest.approx(140 / 702)

    model = network()
    pruner = AnytimeProgressivePruner(
        AnytimeSchedule(4, level=4.5), scorer="magnitude"
    )
    x, y = sample(model, 0)
    watch = Watch()
    model.fit(x, y, epochs=3, verbose=0, callbacks=[pruner, watch])
    assert len(watch.seen) == 3
    for path in CONVS:
        for masks in watch.seen:
            np.testing.assert_array_equal(masks[path], watch.seen[0][path])


def test_a_further_megabatch_keeps_the_last_mask():
    model = perceptron()
    pruner = AnytimeProgressivePruner(
        AnytimeSchedule(2, level=2), scorer="magnitude"
    )
    for _ in range(2):
        arrive(model, pruner)
    last = copies(pruner.masks)
    arrive(model, pruner)
    for path in last:
        np.testing.assert_array_equal(pruner.masks[path], last[path])
    assert pruner.megabatch == 3


def test_one_shot_prunes_before_the_first_megabatch_only():
    model = network()
    pruner = AnytimeProgressivePruner(OneShot(1.0 - 0.8**4.5))
    arrive(model, pruner, seed=0)
    first = copies(pruner.masks)
    assert zeros(first) == 444
    # No data is needed any more.
    x, y = sample(model, 1)
    pruner.data = None
    model.fit(x, y, verbose=0, callbacks=[pruner])
    for path in CONVS:
        np.testing.assert_array_equal(pruner.masks[path], first[path])


def test_scoring_in_several_passes_ends_at_the_same_count():
    # Pass e prunes to density d^(e/T); magnitudes do not change in between.
    model = network(learning_rate=0.0)
    one, ten = (
        AnytimeProgressivePruner(
            OneShot(0.6), scorer="magnitude", scoring_passes=passes
        )
        for passes in (1, 10)
    )
    one.set_model(model)
    one.prune(0.6)
    again = network()
    again.set_weights(model.get_weights())
    values = weights(again, CONVS)
    ten.set_model(again)
    ten.prune(0.6)
    assert zeros(one.masks) == zeros(ten.masks) == int(0.6 * 702)
    assert all(values[path].any() for path in CONVS)


def test_random_scores_differ_between_megabatches_and_seeds():
    def two_rounds(seed):
        model = perceptron()
        pruner = AnytimeProgressivePruner(
            AnytimeSchedule(2, level=4), scorer="random", seed=seed
        )
        pruner.set_model(model)
        scores = []
        for _ in range(2):
            scores.append(pruner.scores(pruner.variables))
            pruner.megabatch += 1
        return scores

    first, second = two_rounds(1)
    assert (first["a/kernel"] != second["a/kernel"]).all()
    assert (first["a/kernel"] == two_rounds(1)[0]["a/kernel"]).all()
    assert (first["a/kernel"] != two_rounds(2)[0]["a/kernel"]).all()


# ---- the other ways to update ------------------------------------------


def recorded(vectors, t, kind):
    return {
        f"{layer}/kernel": vectors[f"t{t}.{kind}_mask.{layer}"].astype(bool)
        for layer in ("conv1", "conv2")
    }


def test_recorded_runs_intersect_their_masks(golden):
    # A second witness of what "intersect" must do: the authors' own run.
    vectors = golden("app/trace_app_global.npz")
    old = None
    for t in range(1, 6):
        generated = recorded(vectors, t, "generated")
        effective = recorded(vectors, t, "effective")
        # k of 702 each time, so the density asked for is met.
        assert zeros(generated) == [140, 240, 321, 389, 444][t - 1]
        assert 1 - zeros(generated) / 702 == pytest.approx(
            float(vectors[f"t{t}.generated_density"]), abs=1e-12
        )
        assert 1 - zeros(effective) / 702 == pytest.approx(
            float(vectors[f"t{t}.effective_density"]), abs=1e-12
        )
        for path in CONVS:
            both = generated[path] & (True if old is None else old[path])
            np.testing.assert_array_equal(effective[path], both)
        old = effective


@pytest.mark.parametrize(
    "mask_update, kind", [("intersect", "effective"), ("replace", "generated")]
)
def test_the_recorded_rankings_give_the_recorded_masks(
    golden, mask_update, kind
):
    vectors = golden("app/trace_app_global.npz")
    model = network()
    pruner = AnytimeProgressivePruner(
        AnytimeSchedule(5, level=4.5), mask_update=mask_update
    )
    for t in range(1, 6):
        pruner.scorer = ranking(recorded(vectors, t, "generated"))
        arrive(model, pruner)
        expected = recorded(vectors, t, kind)
        for path in CONVS:
            np.testing.assert_array_equal(pruner.masks[path], expected[path])
        if kind == "effective":
            density = float(vectors[f"t{t}.effective_density"])
            assert pruner.report.effective_density == pytest.approx(density)


def test_the_recorded_one_shot_run_is_met_too(golden):
    vectors = golden("app/trace_osp.npz")
    model = network()
    pruner = AnytimeProgressivePruner(OneShot(1.0 - 0.8**4.5))
    for t in range(1, 5):
        if t == 1:
            pruner.scorer = ranking(recorded(vectors, 1, "generated"))
        arrive(model, pruner)
        expected = recorded(vectors, t, "effective")
        for path in CONVS:
            np.testing.assert_array_equal(pruner.masks[path], expected[path])


def test_replaced_weights_return_with_the_value_they_were_pruned_with():
    model = perceptron(learning_rate=0.0)
    paths = ["a/kernel", "b/kernel"]
    start = weights(model, paths)
    first = {path: np.ones(w.shape, bool) for path, w in start.items()}
    first["a/kernel"][:, :3] = False  # 12 of 60 weights
    second = {path: np.ones(w.shape, bool) for path, w in start.items()}
    second["b/kernel"][:2] = False  # 12 others
    pruner = AnytimeProgressivePruner(
        AnytimeSchedule(2, level=1), mask_update="replace"
    )
    assert int((1.0 - 0.8) * 60) == 11
    pruner.schedule = lambda megabatch: (True, 0.2)
    for masks in (first, second):
        pruner.scorer = ranking(masks)
        arrive(model, pruner)
        for path, kernel in weights(model, paths).items():
            np.testing.assert_array_equal(pruner.masks[path], masks[path])
            np.testing.assert_array_equal(kernel, start[path] * masks[path])


def test_replacing_scores_the_latent_weights():
    # The pruned weights compete with the values they had.
    model = perceptron(learning_rate=0.0)
    paths = ["a/kernel", "b/kernel"]
    start = weights(model, paths)
    pruner = AnytimeProgressivePruner(
        lambda megabatch: (True, [0.5, 0.25][megabatch]),
        scorer="magnitude",
        mask_update="replace",
    )
    arrive(model, pruner)
    assert zeros(pruner.masks) == 30
    arrive(model, pruner)
    expected = mask_from_scores({p: np.abs(w) for p, w in start.items()}, 0.25)
    for path in paths:
        np.testing.assert_array_equal(pruner.masks[path], expected[path])


def test_replacing_with_nothing_to_prune_keeps_the_mask():
    model = perceptron(learning_rate=0.0)
    pruner = AnytimeProgressivePruner(
        lambda megabatch: (True, [0.5, 0.01][megabatch]),
        scorer="magnitude",
        mask_update="replace",
        on_miss="ignore",
    )
    arrive(model, pruner)
    arrive(model, pruner)
    assert zeros(pruner.masks) == 30


def test_le_prunes_all_ties():
    model = perceptron(learning_rate=0.0)
    for name in ("a", "b"):
        kernel = model.get_layer(name).kernel
        kernel.assign(np.full(kernel.shape, 0.5))
    # One weight is larger than the others, which all tie.
    model.get_layer("a").kernel.assign(np.eye(4, 6) * 0.25 + 0.5)
    for ties, pruned in (("exact", 30), ("le", 56)):
        copy = perceptron()
        copy.set_weights(model.get_weights())
        pruner = AnytimeProgressivePruner(
            OneShot(0.5), scorer="magnitude", ties=ties
        )
        pruner.set_model(copy)
        pruner.prune(0.5)
        assert zeros(pruner.masks) == pruned


def test_reference_fresh_scores_newly_drawn_kernels():
    # Restated: He normal draws by NumPy, in the model's order, from the
    # second megabatch on; then the product of the masks.
    model = network(learning_rate=0.0)
    pruner = AnytimeProgressivePruner(
        AnytimeSchedule(2, level=4.5),
        scorer="magnitude",
        mask_update="intersect",
        score_weights="reference_fresh",
        ties="le",
        seed=5,
    )
    trained = weights(model, CONVS)
    arrive(model, pruner)
    old = copies(pruner.masks)
    expected = mask_from_scores(
        {path: np.abs(w) for path, w in trained.items()}, 1.0 - 0.8
    )
    for path in CONVS:
        np.testing.assert_array_equal(old[path], expected[path])
    kept = weights(model, CONVS)
    arrive(model, pruner)
    generator = np.random.default_rng([5, 1])
    fresh = {
        path: np.abs(generator.standard_normal(w.shape))
        * np.sqrt(2.0 / np.prod(w.shape[:3]))
        for path, w in trained.items()
    }
    generated = mask_from_scores(fresh, 1.0 - 0.8**4.5)
    for path in CONVS:
        both = generated[path] & old[path]
        np.testing.assert_array_equal(pruner.masks[path], both)
        # The draws serve the scores only.
        np.testing.assert_array_equal(
            weights(model, CONVS)[path], kept[path] * both
        )


# ---- what is pruned ----------------------------------------------------


def selected(model, **kwargs):
    pruner = AnytimeProgressivePruner(
        OneShot(0.5), scorer="magnitude", **kwargs
    )
    return pruner.select(model)


def test_convolutions_are_pruned_and_the_classifier_is_not():
    chosen = selected(network())
    assert list(chosen.variables) == CONVS
    assert "convolutions" in chosen.skipped["logits/kernel"]
    assert set(chosen.skipped) == {
        "conv1/bias",
        "conv2/bias",
        "logits/kernel",
        "logits/bias",
    }


def test_without_convolutions_all_dense_kernels_but_the_last_are_pruned():
    chosen = selected(perceptron())
    assert list(chosen.variables) == ["a/kernel", "b/kernel"]


def test_filters_add_the_classifier():
    chosen = selected(network(), filters="kernel")
    assert list(chosen.variables) == [*CONVS, "logits/kernel"]


def test_a_classifier_alone_is_refused():
    model = chain((4,), layers.Dense(3))
    with pytest.raises(ValueError, match="nothing to prune"):
        selected(model)


def test_custom_sparsity_that_matches_nothing_pruned_is_refused():
    model = network()
    model.compile("sgd", "mse")
    pruner = AnytimeProgressivePruner(
        OneShot(0.5), scorer="magnitude", custom_sparsity={"logits": 0.5}
    )
    with pytest.raises(ValueError, match="'logits'"):
        pruner.set_model(model)


# ---- degenerate scores -------------------------------------------------


def constant(value):
    return lambda model, variables, data, masks: [
        np.full(v.shape, value) for v in variables
    ]


@pytest.mark.parametrize(
    "value, said",
    [(0.0, "all scores are zero"), (np.nan, "finite"), (np.inf, "finite")],
)
def test_degenerate_scores_are_refused(value, said):
    pruner = AnytimeProgressivePruner(OneShot(0.5), scorer=constant(value))
    with pytest.raises(ValueError, match=said):
        arrive(perceptron(), pruner)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_degenerate_scores_keep_the_mask_if_asked_to(value):
    model = perceptron()
    pruner = AnytimeProgressivePruner(
        AnytimeSchedule(2, level=3), scorer="magnitude", on_degenerate="keep"
    )
    arrive(model, pruner)
    old = copies(pruner.masks)
    pruner.scorer = constant(value)
    with pytest.warns(UserWarning, match="megabatch 1 .*the mask is kept"):
        arrive(model, pruner)
    for path in old:
        np.testing.assert_array_equal(pruner.masks[path], old[path])


def test_equal_scores_are_no_degenerate_ones():
    pruner = AnytimeProgressivePruner(OneShot(0.5), scorer=constant(1.0))
    arrive(perceptron(), pruner)
    assert zeros(pruner.masks) == 30


# ---- interruptions -----------------------------------------------------


@pytest.mark.parametrize("mask_update", ["nested", "replace"])
def test_a_restored_pruner_goes_on_as_if_never_stopped(mask_update, tmp_path):
    def fresh():
        return AnytimeProgressivePruner(
            AnytimeSchedule(4, level=4.5),
            scorer="random",
            mask_update=mask_update,
        )

    model, pruner = perceptron(), fresh()
    for t in range(2):
        arrive(model, pruner, seed=t)
    model.save(tmp_path / "model.keras")
    state = pruner.state()
    for t in range(2, 4):
        arrive(model, pruner, seed=t)

    resumed = keras.saving.load_model(tmp_path / "model.keras")
    restored = fresh()
    restored.restore(*state)
    assert restored.megabatch == 2
    for t in range(2, 4):
        arrive(resumed, restored, seed=t)
    for path, mask in pruner.masks.items():
        np.testing.assert_array_equal(restored.masks[path], mask)
    for expected, value in zip(model.get_weights(), resumed.get_weights()):
        np.testing.assert_array_equal(value, expected)
    assert restored.megabatch == pruner.megabatch == 4
    assert restored.report.to_dict() == pruner.report.to_dict()


def test_within_a_megabatch_the_restored_pruner_does_not_prune_again():
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.state = pruner.state()

    model = perceptron()
    pruner = AnytimeProgressivePruner(
        AnytimeSchedule(3, level=4.5), scorer="magnitude"
    )
    interrupt = Interrupt()
    x, y = sample(model, 0)
    model.fit(x, y, verbose=0, callbacks=[pruner, interrupt])
    old = copies(pruner.masks)

    restored = AnytimeProgressivePruner(
        AnytimeSchedule(3, level=4.5), scorer=constant(0.0)
    )
    restored.restore(*interrupt.state)
    assert restored.megabatch == 0
    # A second update would meet the zero scores and raise.
    arrive(model, restored)
    for path in old:
        np.testing.assert_array_equal(restored.masks[path], old[path])
    assert restored.megabatch == 1


def test_a_state_does_not_change_afterwards():
    model = perceptron()
    pruner = AnytimeProgressivePruner(
        AnytimeSchedule(3, level=4.5), scorer="magnitude", mask_update="replace"
    )
    arrive(model, pruner)
    plain, latent = pruner.state()
    before = {k: v.copy() for k, v in latent.items()}
    arrive(model, pruner)
    assert plain["megabatch"] == 1
    for path, value in before.items():
        np.testing.assert_array_equal(latent[path], value)


# ---- bad arguments -----------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        dict(mask_update="product"),
        dict(ties="first"),
        dict(score_weights="fresh"),
        dict(on_degenerate="ignore"),
        dict(scope="local"),
    ],
)
def test_unknown_choices_are_refused_with_their_value(arguments):
    [(name, value)] = arguments.items()
    with pytest.raises(ValueError) as error:
        AnytimeProgressivePruner(OneShot(0.5), **arguments)
    assert f"`{name}` must be" in str(error.value)
    assert f"{name}={value!r}" in str(error.value)


@pytest.mark.parametrize("passes", [0, -1, 2.5])
def test_scoring_passes_must_be_a_positive_integer(passes):
    with pytest.raises(ValueError, match=f"scoring_passes={passes}"):
        AnytimeProgressivePruner(OneShot(0.5), scoring_passes=passes)


def test_missing_data_is_refused_when_fit_starts():
    pruner = AnytimeProgressivePruner(AnytimeSchedule(2, level=2))
    model = perceptron()
    x, y = sample(model, 0)
    with pytest.raises(ValueError, match="'snip' needs `data`"):
        model.fit(x, y, verbose=0, callbacks=[pruner])
    assert int(model.optimizer.iterations) == 0


def test_a_callable_scorer_is_refused_where_it_would_be_ignored():
    def scorer(model, variables, data, masks):
        return [np.ones(v.shape) for v in variables]

    with pytest.raises(ValueError, match="mask_update='replace'"):
        AnytimeProgressivePruner(
            OneShot(0.5), scorer=scorer, mask_update="replace"
        )
