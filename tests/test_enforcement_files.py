"""Tests of masks in files: saved, loaded, and training that goes on."""

import json

import h5py
import keras
import numpy as np
import pytest

from keras_app import enforcement
from keras_app import pruners
from keras_app import schedules
from tests.helpers import run
from tests.helpers import to_numpy
from tests.masking import assert_same_slots
from tests.masking import assert_same_weights
from tests.masking import check
from tests.masking import compiled
from tests.masking import dense_layers
from tests.masking import fit
from tests.masking import load
from tests.masking import Masking
from tests.masking import OPTIMIZERS
from tests.masking import pruned
from tests.masking import pruner
from tests.masking import slots

FILED = ["adam", "muon", "ftrl", "ema", "gradient_accumulation"]


@pytest.mark.parametrize("name", FILED)
def test_a_keras_file_holds_weights_and_all_optimizer_state(name, tmp_path):
    model = compiled(OPTIMIZERS[name]())
    masking = Masking()
    fit(model, masking)
    model.save(tmp_path / "model.keras")
    loaded = load(tmp_path / "model.keras")
    assert_same_weights(model, loaded)
    assert_same_slots(model, loaded)
    assert enforcement.state_of(loaded) is None
    # Saving must not disturb what goes on.
    assert len(enforcement.masks_of(model)) == 2
    fit(model, Masking(plan=[]))
    check(masking)


def test_a_keras_file_holds_all_state_under_loss_scaling(policy, tmp_path):
    policy("mixed_float16")
    model, masking = pruned("adam")
    model.save(tmp_path / "model.keras")
    loaded = load(tmp_path / "model.keras")
    assert_same_weights(model, loaded)
    assert_same_slots(model, loaded)
    fit(model)
    check(masking)


@pytest.mark.parametrize("name", ["adam", "sgd_momentum", "muon"])
def test_training_goes_on_from_a_keras_file(name, tmp_path):
    model = compiled(OPTIMIZERS[name]())
    fit(model, pruner())
    masks = enforcement.masks_of(model)
    model.save(tmp_path / "model.keras")
    loaded = load(tmp_path / "model.keras")
    start = [to_numpy(layer.kernel).copy() for layer in dense_layers(loaded)]
    fit(loaded, pruner(on_miss="ignore"))
    fit(model)
    found = enforcement.masks_of(loaded)
    for layer, before in zip(dense_layers(loaded), start):
        mask = found[layer.kernel.path]
        np.testing.assert_array_equal(mask, masks[layer.kernel.path])
        values = to_numpy(layer.kernel)
        assert not values[~mask].any()
        assert (values[mask] != before[mask]).all()
    # The same as if it had never been to the disk.
    assert_same_weights(model, loaded)


def test_a_keras_file_loads_where_this_package_is_not(tmp_path):
    model = compiled(keras.optimizers.AdamW(0.01))
    fit(model, pruner())
    model.save(tmp_path / "model.keras")
    script = """
        import json, sys, warnings
        warnings.filterwarnings("error", message=".*[Ss]kipping variable.*")
        import keras, numpy as np
        model = keras.models.load_model("model.keras")
        zeros = [int((np.array(w) == 0).sum()) for w in model.get_weights()]
        x, y = np.ones((8, 8), "float32"), np.ones((8, 4), "float32")
        state = [
            float(np.abs(keras.ops.convert_to_numpy(v)).sum())
            for v in model.optimizer.variables
        ]
        model.fit(x, y, verbose=0)
        print(json.dumps({
            "zeros": zeros,
            "state": state,
            "steps": int(model.optimizer.iterations),
            "imported": [m for m in sys.modules if m.startswith("keras_app")],
        }))
    """
    found = json.loads(run(script, cwd=tmp_path, path=None)[-1])
    assert found["imported"] == []
    assert found["steps"] == 9
    # 70 percent of 8 x 16 and of 16 x 4 weights, rounded down.
    assert found["zeros"][0::2] == [89, 44]
    state = [np.abs(v).sum() for v in slots(model.optimizer).values()]
    np.testing.assert_allclose(found["state"], state, rtol=1e-5)


def test_load_weights_restores_the_masks(tmp_path):
    model, masking = pruned("adam")
    model.save_weights(tmp_path / "a.weights.h5")
    other = compiled()
    fresh = Masking(plan=[])
    fresh.set_model(other)
    other.load_weights(tmp_path / "a.weights.h5")
    assert_same_weights(model, other)
    assert_same_slots(model, other)
    masks = enforcement.masks_of(other)
    np.testing.assert_array_equal(masks["hidden/kernel"], masking.masks[0])
    np.testing.assert_array_equal(masks["head/kernel"], masking.masks[1])
    fresh.masks = masking.masks
    fresh.start = [to_numpy(v).copy() for v in fresh.variables]
    fit(other)
    check(fresh)


def test_load_weights_adds_masks_that_only_the_file_has(tmp_path):
    model, masking = pruned("adam")
    model.save_weights(tmp_path / "a.weights.h5")
    other = compiled()
    state = enforcement.attach(other)
    assert state.variables_with_masks() == []
    other.load_weights(tmp_path / "a.weights.h5")
    fit(other)
    for variable, mask in zip(state.variables_with_masks(), masking.masks):
        np.testing.assert_array_equal(state.get(variable), mask)
        assert not to_numpy(variable)[~mask].any()
    assert len(state.variables_with_masks()) == 2


def test_load_weights_restores_masks_after_a_training_step(tmp_path):
    # The step that was compiled before must see the restored masks.
    model, masking = pruned("adam")
    model.save_weights(tmp_path / "a.weights.h5")
    masking.draw(0.1)
    fit(model)
    model.load_weights(tmp_path / "a.weights.h5")
    masks = enforcement.masks_of(model)
    assert 0.4 < 1 - masks["hidden/kernel"].mean() < 0.6
    fit(model)
    for variable in masking.variables:
        assert not to_numpy(variable)[~masks[variable.path]].any()


def test_a_stored_mask_of_another_shape_is_refused(tmp_path):
    model, _ = pruned("adam")
    path = tmp_path / "a.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "r+") as file:
        shape = file["optimizer/sparsity/vars/shape_0"]
        assert shape[()].tolist() == [8, 16]
        shape[...] = [16, 8]
    with pytest.raises(
        ValueError, match=r"mask of hidden/kernel has shape \(16, 8\)"
    ):
        model.load_weights(path)


def test_masks_take_one_bit_a_weight_in_the_file(tmp_path):
    model, _ = pruned("adam")
    model.save_weights(tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "a.weights.h5") as file:
        stored = file["optimizer/sparsity/vars/mask_0"]
        assert stored.dtype == "uint8"
        assert stored.shape == (8 * 16 // 8,)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_model_checkpoint_keeps_each_epochs_zeros(suffix, tmp_path):
    model = compiled(keras.optimizers.Adam(0.01))
    checkpoint = keras.callbacks.ModelCheckpoint(
        str(tmp_path / ("{epoch}" + suffix)),
        save_weights_only=suffix == ".weights.h5",
    )
    fit(model, pruner(), checkpoint)
    zeros = []
    for epoch in (1, 2):
        path = tmp_path / f"{epoch}{suffix}"
        if suffix == ".keras":
            loaded = load(path)
        else:
            loaded = compiled(keras.optimizers.Adam(0.01))
            enforcement.attach(loaded)
            loaded.load_weights(path)
            masks = enforcement.masks_of(loaded)
            for layer in dense_layers(loaded):
                np.testing.assert_array_equal(
                    masks[layer.kernel.path], to_numpy(layer.kernel) != 0
                )
        zeros.append(
            [
                int((to_numpy(layer.kernel) == 0).sum())
                for layer in dense_layers(loaded)
            ]
        )
    # After step 3 of 7: 0.7 - 0.5 (4 / 7) ** 3 = 0.6067; then 0.7.
    assert zeros == [[77, 38], [89, 44]]
    assert_same_slots(model, loaded)


class Crash(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "name, order",
    [
        ("adam", "pruner_first"),
        ("ema", "backup_first"),
        ("gradient_accumulation", "pruner_first"),
    ],
)
def test_backup_and_restore_ends_as_if_never_interrupted(name, order, tmp_path):
    def run_to_the_end(directory, *more):
        keras.utils.set_random_seed(5)
        model = compiled(OPTIMIZERS[name]())
        last = 8 if name == "gradient_accumulation" else 16
        schedule = schedules.PolynomialDecay(0.2, 0.7, 0, last, frequency=3)
        callbacks = [
            pruners.RandomPruner(schedule, seed=4),
            keras.callbacks.BackupAndRestore(str(directory)),
        ]
        if order == "backup_first":
            callbacks.reverse()
        fit(model, *callbacks, *more, epochs=4)
        return model

    expected = run_to_the_end(tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        run_to_the_end(tmp_path / "crashed", Crash())
    found = run_to_the_end(tmp_path / "crashed")
    steps = int(to_numpy(found.optimizer.iterations))
    assert steps == (8 if name == "gradient_accumulation" else 16)
    masks = enforcement.masks_of(found)
    for path, mask in enforcement.masks_of(expected).items():
        np.testing.assert_array_equal(masks[path], mask)
    assert_same_weights(expected, found)
    assert_same_slots(expected, found)
    assert enforcement.state_of(found).leaks() == {}
