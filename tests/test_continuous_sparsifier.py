"""ContinuousSparsifier and ticket_search: rounds, rewinding, hardening."""

import warnings

import keras
import numpy as np
import pytest

from keras_app import batch_norm
from keras_app import experiments
from keras_app import pruners
from keras_app.experiments.data import Holdout
from keras_app.experiments.run.folder import RunFolder
from keras_app.optimizers import ContinuousSparsification
from tests.helpers import to_numpy
from tests.models import compiled
from tests.models import examples
from tests.models import fit
from tests.models import small_model


class Watch(keras.callbacks.Callback):
    """Notes, as each epoch begins, what the sparsifier left."""

    def __init__(self):
        super().__init__()
        self.temperatures, self.weights, self.logits = [], [], []

    def on_epoch_begin(self, epoch, logs=None):
        optimizer = self.model.optimizer
        self.temperatures.append(optimizer.temperature)
        latent = optimizer.weights_and_logits["net/hidden/kernel"]
        self.weights.append(latent[0].copy())
        self.logits.append(latent[1].copy())


def trained(sparsifier, epochs, s_init=0.0, rate=0.1, **kwargs):
    model = compiled(ContinuousSparsification(rate, s_init=s_init))
    watch = Watch()
    with warnings.catch_warnings():
        # Tiny networks may lose a layer.
        warnings.filterwarnings("ignore", message=".*layer collapse")
        fit(model, epochs=epochs, callbacks=[sparsifier, watch], **kwargs)
    return model, watch


# ---- temperature and rounds ----


def test_the_temperature_is_that_of_each_rounds_epochs(golden):
    recorded = golden("cs/schedules.npz")["E5_T200.0__closed_form"]
    _, watch = trained(pruners.ContinuousSparsifier(rounds=2), 10)
    np.testing.assert_allclose(
        watch.temperatures, np.tile(recorded, 2), rtol=1e-6
    )


def test_a_temperature_by_steps_ends_where_one_by_epochs_does():
    seen = []

    class Steps(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()
            seen.append(self.model.optimizer.temperature)

    sparsifier = pruners.ContinuousSparsifier(16.0, granularity="step")
    model = compiled(ContinuousSparsification())
    fit(model, epochs=2, callbacks=[sparsifier, Steps()])
    # Two epochs of four steps each.
    np.testing.assert_allclose(seen, 16.0 ** (np.arange(8) / 7), rtol=1e-6)


def test_no_annealing_is_a_temperature_of_one():
    _, watch = trained(pruners.ContinuousSparsifier(1.0), 3)
    assert watch.temperatures == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("released", [False, True])
def test_the_rule_between_rounds(released):
    sparsifier = pruners.ContinuousSparsifier(
        50.0, rounds=2, reference_code_prune=released
    )
    ends = []

    class End(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            latent = self.model.optimizer.weights_and_logits
            ends.append(latent["net/hidden/kernel"][1].copy())

    model = compiled(ContinuousSparsification(s_init=0.05))
    watch = Watch()
    fit(model, epochs=4, callbacks=[sparsifier, End(), watch])
    factor = np.float32(1.0 if released else 50.0)
    expected = np.minimum(factor * ends[1], np.float32(0.05))
    np.testing.assert_allclose(watch.logits[2], expected, rtol=1e-5)


def test_after_training_the_mask_is_final_and_holds():
    sparsifier = pruners.ContinuousSparsifier(rounds=1)
    model, _ = trained(sparsifier, 4)
    optimizer = model.optimizer
    assert optimizer.is_hard
    for path, mask in sparsifier.masks.items():
        variable = optimizer.masked_variables[path]
        np.testing.assert_array_equal(to_numpy(variable) != 0, mask)
    report = sparsifier.report
    assert report.effective_density == pytest.approx(optimizer.density)
    assert "net/hidden/bias" in report.skipped
    assert "net/hidden/kernel" in str(report)
    assert sparsifier.missed == []


def test_logs_hold_temperature_densities_and_hard_scores():
    x, y = examples()
    sparsifier = pruners.ContinuousSparsifier(validation_data=(x, y))
    model = compiled(ContinuousSparsification(s_init=0.1))
    logs = fit(model, epochs=2, callbacks=[sparsifier]).history
    assert logs["temperature"] == pytest.approx([1.0, 200.0])
    assert {"density", "soft_density", "hard_val_loss"} <= set(logs)
    assert [entry["round"] for entry in sparsifier.history] == [1]
    assert sparsifier.history[0]["density"] == logs["density"][-1]


def test_looking_at_hard_scores_changes_nothing():
    ends = []
    for data in (None, examples()):
        sparsifier = pruners.ContinuousSparsifier(validation_data=data)
        model, _ = trained(sparsifier, 3)
        ends.append(model.get_weights())
    for a, b in zip(*ends):
        np.testing.assert_allclose(a, b, atol=1e-6)


# ---- rewinding ----


def test_a_ticket_is_retrained_from_the_early_weights_under_its_mask():
    sparsifier = pruners.ContinuousSparsifier(
        rounds=1, retrain_epochs=2, ticket=True, rewind_epoch=1
    )
    model, watch = trained(sparsifier, 6)
    # Epochs 0-3 search, 4 and 5 retrain: 4 starts where 1 did.
    np.testing.assert_array_equal(watch.weights[4], watch.weights[1])
    assert (watch.weights[5] != watch.weights[1]).any()
    np.testing.assert_array_equal(watch.logits[5], watch.logits[4])
    kernel = to_numpy(model.get_layer("hidden").kernel)
    np.testing.assert_array_equal(kernel != 0, watch.logits[4] > 0)


def test_an_iterative_search_rewinds_every_round_and_keeps_the_logits():
    sparsifier = pruners.ContinuousSparsifier(
        rounds=2, rewind_epoch=1, rewind_between_rounds=True
    )
    _, watch = trained(sparsifier, 6)
    np.testing.assert_array_equal(watch.weights[3], watch.weights[1])
    assert (watch.logits[3] != watch.logits[1]).any()


def test_rewinding_by_hand_restores_moving_statistics_too():
    sparsifier = pruners.ContinuousSparsifier(rewind_epoch=0)
    model = compiled(ContinuousSparsification())
    before = [w.copy() for w in model.get_layer("norm").get_weights()]
    fit(model, epochs=2, callbacks=[sparsifier])
    sparsifier.rewind()
    for a, b in zip(model.get_layer("norm").get_weights(), before):
        np.testing.assert_array_equal(a, b)


def test_rewinding_without_early_weights_is_refused():
    sparsifier = pruners.ContinuousSparsifier()
    trained(sparsifier, 2)
    with pytest.raises(ValueError, match="rewind_epoch"):
        sparsifier.rewind()


# ---- what may go wrong ----


@pytest.mark.parametrize(
    "arguments",
    [
        {"final_temperature": 0.5},
        {"final_temperature": float("inf")},
        {"rounds": 0},
        {"retrain_epochs": -1},
        {"rewind_epoch": -1},
        {"granularity": "batch"},
        {"min_density": 1.5},
    ],
)
def test_bad_arguments_are_refused_with_name_and_value(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=name) as raised:
        pruners.ContinuousSparsifier(**arguments)
    assert str(value) in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "epochs", "match"),
    [
        ({"rounds": 3}, 4, "multiple of rounds=3.*epochs=4"),
        ({"rounds": 2}, 2, "two epochs or more"),
        ({"retrain_epochs": 4}, 4, "epochs=4"),
        ({"rewind_epoch": 2}, 2, "rewind_epoch=2"),
    ],
)
def test_epochs_that_do_not_fit_are_refused_before_training(
    arguments, epochs, match
):
    sparsifier = pruners.ContinuousSparsifier(**arguments)
    model = compiled(ContinuousSparsification())
    before = model.get_weights()
    with pytest.raises(ValueError, match=match):
        fit(model, epochs=epochs, callbacks=[sparsifier])
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_a_ticket_needs_weights_to_go_back_to():
    with pytest.raises(ValueError, match="rewind_epoch=None"):
        pruners.ContinuousSparsifier(ticket=True)


def test_another_optimizer_is_refused():
    model = compiled("sgd")
    with pytest.raises(ValueError, match="ContinuousSparsification.*SGD"):
        fit(model, callbacks=[pruners.ContinuousSparsifier()])


def test_training_that_ends_early_says_so_and_is_hard_nevertheless():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    sparsifier = pruners.ContinuousSparsifier(100.0)
    model = compiled(ContinuousSparsification(s_init=0.1))
    with pytest.warns(UserWarning, match="after 2 of 5 epochs"):
        fit(model, epochs=5, callbacks=[sparsifier, Stop()])
    assert model.optimizer.is_hard and len(sparsifier.missed) == 1


def test_a_collapsed_layer_is_said_and_min_density_prevents_it():
    def collapse(min_density):
        model = compiled(ContinuousSparsification(1e-6, s_init=-1.0))
        sparsifier = pruners.ContinuousSparsifier(2.0, min_density=min_density)
        fit(model, epochs=2, callbacks=[sparsifier])
        return sparsifier

    with pytest.warns(UserWarning) as said:
        sparsifier = collapse(0.0)
    assert any("layer collapse" in str(w.message) for w in said)
    assert "no weight is kept" in sparsifier.missed[0]
    kept = collapse(0.25).masks["net/hidden/kernel"]
    assert np.count_nonzero(kept) == np.ceil(0.25 * kept.size)


def test_config_round_trip():
    sparsifier = pruners.ContinuousSparsifier(
        9.0, 2, 3, True, 1, True, "step", True, True, 0.5
    )
    config = sparsifier.get_config()
    again = pruners.ContinuousSparsifier.from_config(config)
    assert again.get_config() == config
    assert (config["rounds"], config["min_density"]) == (2, 0.5)


# ---- moving statistics ----


def test_moving_statistics_are_those_of_the_data_and_nothing_else_moves():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3, use_bias=False, kernel_initializer="ones"),
            keras.layers.BatchNormalization(momentum=0.7),
        ]
    )
    model.layers[0].rate = 0.0
    seed = to_numpy(model.layers[0].seed_generator.state).copy()
    batches = [np.full((2, 3), 1.0), np.array([[1.0] * 3, [3.0] * 3])]
    count = batch_norm.reestimate_batch_norm(model, batches)
    norm = model.layers[2]
    # Sums of three: means 3 and 6, variances 0 and 9.
    np.testing.assert_allclose(to_numpy(norm.moving_mean), 4.5)
    np.testing.assert_allclose(to_numpy(norm.moving_variance), 4.5)
    assert (count, norm.momentum) == (2, 0.7)
    np.testing.assert_array_equal(
        to_numpy(model.layers[0].seed_generator.state), seed
    )
    np.testing.assert_array_equal(to_numpy(model.layers[1].kernel), 1.0)


def test_a_final_mask_gets_statistics_of_its_own():
    x, _ = examples()
    found = []
    for data in (None, [x]):
        sparsifier = pruners.ContinuousSparsifier(batch_norm_data=data)
        model, _ = trained(sparsifier, 3)
        norm = model.get_layer("norm")
        found.append(to_numpy(norm.moving_mean).copy())
        inputs = model.get_layer("conv")(x)
    expected = to_numpy(inputs).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(found[1], expected, atol=1e-5)
    assert np.abs(found[0] - expected).max() > 1e-3


def test_statistics_need_batches():
    with pytest.raises(ValueError, match="`data` must have batches"):
        batch_norm.reestimate_batch_norm(small_model(), [])
    with pytest.raises(ValueError, match="max_batches=0"):
        batch_norm.reestimate_batch_norm(small_model(), [], 0)


# ---- the experiment ----


def tiny_data(seed=0):
    x, y = examples(80)
    x = np.clip(x, 0, 1) + y[:, None, None, None]
    x = x.astype("float32")
    return Holdout(
        (x, y),
        validation_fraction=0.2,
        test=(x[:32], y[:32]),
        batch_size=16,
        seed=seed,
    )


def tiny_model(input_shape, num_classes, mean, std, seed):
    return small_model(seed=seed)


def search(folder, **kwargs):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*layer collapse")
        resume = kwargs.pop("resume", False)
        return experiments.TicketSearch(
            tiny_data,
            tiny_model,
            optimizer=lambda: ContinuousSparsification(0.1, s_init=0.02),
            milestones=(2,),
            rewind_epoch=1,
            **{"rounds": 2, "epochs": 3, **kwargs},
        ).run(folder, resume, verbose=False)


def test_a_ticket_search_tells_what_each_round_left(tmp_path):
    summary = search(tmp_path / "run", strategy="iterative")
    rounds = summary["rounds"]
    assert [entry["round"] for entry in rounds] == [1, 2]
    for entry in rounds:
        assert {"density", "val_accuracy", "hard_val_accuracy"} <= set(entry)
        assert entry["temperature"] == pytest.approx(200.0)
    # Two rounds and the ticket, of three epochs each.
    assert summary["epochs"] == 9
    assert summary["effective_density"] == pytest.approx(
        rounds[-1]["density"], abs=1e-6
    )
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Density after each round" in page and "temperature" in page
    saved = keras.models.load_model(tmp_path / "run" / "model.keras")
    kernel = to_numpy(saved.get_layer("hidden").kernel)
    assert np.mean(kernel != 0) == pytest.approx(
        summary["methods"]["ticket, iterative"]["layers"]["net/hidden/kernel"]
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    keras.utils.set_random_seed(0)
    return search(tmp_path_factory.mktemp("search") / "whole")


# Within the second round, and while the ticket is retrained.
@pytest.mark.parametrize("stop_after", [4, 7])
def test_a_search_that_was_cut_off_ends_bit_for_bit_alike(
    whole, stop_after, tmp_path, monkeypatch
):
    save = RunFolder.save_checkpoint

    def cut(folder, arrays, meta):
        save(folder, arrays, meta)
        if meta["epoch"] == stop_after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", cut)
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path)
    resumed = search(tmp_path, resume=True)
    assert resumed["methods"] == whole["methods"]
    assert resumed["rounds"] == whole["rounds"]


@pytest.mark.backend_free
def test_pruning_mode_measures_statistics_and_fine_tunes(tmp_path):
    summary = search(tmp_path, mode="prune", rounds=1, retrain_epochs=1)
    assert summary["epochs"] == 4
    assert summary["method"] == "prune, sequential"


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "search"},
        {"strategy": "parallel"},
        {"rounds": 0},
        {"epochs": 1},
        {"rewind_epoch": 3},
        {"retrain_epochs": -1},
    ],
)
def test_a_bad_search_is_refused_before_anything_is_written(
    tmp_path, arguments
):
    arguments = {"rewind_epoch": 0, **arguments}
    with pytest.raises(ValueError):
        experiments.TicketSearch(
            tiny_data,
            tiny_model,
            **{"rounds": 2, "epochs": 3, **arguments},
        ).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
