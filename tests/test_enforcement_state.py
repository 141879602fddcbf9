"""Tests of the state that holds the masks, and of Keras's private names."""

import keras
import numpy as np
import pytest

from keras_app import enforcement
from tests.helpers import jax_only
from tests.helpers import tensorflow_only
from tests.helpers import to_numpy
from tests.masking import check
from tests.masking import compiled
from tests.masking import dense_layers
from tests.masking import fit
from tests.masking import Masking
from tests.masking import OPTIMIZERS
from tests.masking import perceptron
from tests.masking import pruned
from tests.masking import slot
from tests.masking import slots
from tests.models import nested

# ---- the state -------------------------------------------------------------


def test_regrown_weights_start_without_momentum():
    model, masking = pruned(keras.optimizers.SGD(0.05, momentum=0.9))
    before = slots(model.optimizer)
    old = masking.masks
    new = [np.ones_like(mask) for mask in old]
    masking.state.set(list(zip(masking.variables, new)))
    for variable, mask in zip(masking.variables, old):
        momentum = slot(model.optimizer, variable, "momentum")
        was = before[momentum.path]
        assert was[~mask].all(), "the case needs momentum of pruned weights"
        assert not to_numpy(momentum)[~mask].any()
        np.testing.assert_array_equal(to_numpy(momentum)[mask], was[mask])
        assert not to_numpy(variable)[~mask].any()


@pytest.mark.parametrize(
    "optimizer, names",
    [
        (lambda: keras.optimizers.Adam(0.01), ["velocity"]),
        (lambda: keras.optimizers.Ftrl(0.05), ["accumulator"]),
        (lambda: keras.optimizers.Adagrad(0.05), ["accumulator"]),
    ],
    ids=["adam", "ftrl", "adagrad"],
)
def test_a_change_of_masks_leaves_sums_of_squares(optimizer, names):
    model, masking = pruned(optimizer())
    before = slots(model.optimizer)
    masking.draw(0.4)
    for variable in masking.variables:
        for name in names:
            kept = slot(model.optimizer, variable, name)
            np.testing.assert_array_equal(to_numpy(kept), before[kept.path])
            assert to_numpy(kept).any()
    fit(model)
    check(masking)


def test_momentum_of_a_layer_of_the_same_name_is_not_reset():
    model, _, _ = nested()
    compiled(keras.optimizers.SGD(0.05, momentum=0.9), model)
    masking = Masking(plan=[(0, 0.5)])
    fit(model, masking, epochs=1)
    first, second = masking.variables[:2]
    assert first.path == second.path
    momentums = [
        v for v in model.optimizer.variables if v.name == "same_kernel_momentum"
    ]
    assert len(momentums) == 2
    before = [to_numpy(m).copy() for m in momentums]
    pruned_before = ~masking.masks[1]
    masking.state.set([(second, np.ones(tuple(second.shape), bool))])
    np.testing.assert_array_equal(to_numpy(momentums[0]), before[0])
    assert not to_numpy(momentums[1])[pruned_before].any()
    assert to_numpy(momentums[1])[~pruned_before].all()


def test_set_zeroes_at_once_and_get_returns_what_was_set():
    model = compiled()
    kernel = model.get_layer("hidden").kernel
    state = enforcement.attach(model, [kernel])
    mask = np.arange(128).reshape(8, 16) % 3 == 0
    before = to_numpy(kernel).copy()
    state.set([(kernel, mask)])
    np.testing.assert_array_equal(state.get(kernel), mask)
    assert state.get(kernel).dtype == bool
    np.testing.assert_array_equal(to_numpy(kernel), np.where(mask, before, 0))
    assert state.get(model.get_layer("head").kernel) is None


def test_masks_start_as_ones():
    model = compiled()
    state = enforcement.attach(model, [model.get_layer("hidden").kernel])
    assert state.get(model.get_layer("hidden").kernel).all()
    assert state.leaks() == {}


def test_attaching_again_adds_variables_and_keeps_masks():
    model, masking = pruned("adam")
    hidden, head = masking.variables
    with_bias = enforcement.attach(
        model, [head, model.get_layer("hidden").bias]
    )
    assert with_bias is masking.state
    np.testing.assert_array_equal(with_bias.get(hidden), masking.masks[0])
    assert with_bias.get(model.get_layer("hidden").bias).all()
    fit(model)
    check(masking)


def test_variables_with_masks_follow_the_order_of_the_model():
    model = compiled()
    hidden, head = (layer.kernel for layer in dense_layers(model))
    state = enforcement.attach(model, [head])
    assert state.add([hidden]) == [hidden]
    assert state.add([hidden, head]) == []
    assert [v.path for v in state.variables_with_masks()] == [
        "hidden/kernel",
        "head/kernel",
    ]


def test_leaks_counts_and_zero_repairs():
    model, masking = pruned("adam")
    variable, mask = masking.variables[0], masking.masks[0]
    values = to_numpy(variable).copy()
    values[tuple(np.argwhere(~mask)[0])] = 1.0
    values[tuple(np.argwhere(~mask)[1])] = np.nan
    variable.assign(values)
    assert masking.state.leaks() == {"hidden/kernel": 2}
    masking.state.zero()
    assert masking.state.leaks() == {}
    assert not to_numpy(variable)[~mask].any()


def test_masks_of_a_dense_model_are_empty():
    assert enforcement.masks_of(perceptron()) == {}
    assert enforcement.masks_of(compiled()) == {}
    assert enforcement.state_of(compiled()) is None


def test_masks_of_gives_the_masks_by_path():
    model, masking = pruned("adam")
    masks = enforcement.masks_of(model)
    assert list(masks) == ["hidden/kernel", "head/kernel"]
    np.testing.assert_array_equal(masks["head/kernel"], masking.masks[1])


@pytest.mark.parametrize("name", ["adam", "muon", "ema"])
def test_detach_leaves_nothing_behind(name):
    dense = compiled(OPTIMIZERS[name]())
    fit(dense, epochs=1)
    model, masking = pruned(OPTIMIZERS[name]())
    masked = len(model.optimizer.variables)
    assert masked == len(dense.optimizer.variables) + 2
    enforcement.detach(model)
    assert [v.name for v in model.optimizer.variables] == [
        v.name for v in dense.optimizer.variables
    ]
    assert enforcement.state_of(model) is None
    assert enforcement.masks_of(model) == {}
    assert vars(model.optimizer).keys() == vars(dense.optimizer).keys()
    if name == "ema":
        return  # Dense Keras cannot fit twice with use_ema on JAX.
    fit(model, epochs=1)
    revived = to_numpy(masking.variables[0])[~masking.masks[0]]
    assert np.count_nonzero(revived) > 0.9 * revived.size


def test_detach_under_loss_scaling_and_attach_again(policy):
    policy("mixed_float16")
    model, masking = pruned("adam")
    inner = model.optimizer.inner_optimizer
    count = len(model.optimizer.variables)
    enforcement.detach(model)
    assert len(model.optimizer.variables) == count - 2
    for optimizer in (model.optimizer, inner):
        assert "save_own_variables" not in vars(optimizer)
        assert "_backend_update_step" not in vars(optimizer)
    again = Masking()
    fit(model, again)
    check(again)


def test_detach_of_a_dense_model_does_nothing():
    for model in (compiled(), perceptron()):
        enforcement.detach(model)
        assert enforcement.state_of(model) is None


# ---- Keras's private names -------------------------------------------------

PRIVATE = [
    "_backend_update_step",
    "_get_variable_index",
    "_trainable_variables",
    "_untrack_variable",
    "_variables",
]


@pytest.mark.parametrize("name", PRIVATE)
@pytest.mark.parametrize("kind", ["Adam", "Muon", "LossScaleOptimizer"])
def test_keras_optimizers_still_have(kind, name):
    optimizer = keras.optimizers.Adam()
    if kind == "LossScaleOptimizer":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    elif kind == "Muon":
        optimizer = keras.optimizers.Muon()
    assert hasattr(optimizer, name), (
        f"Keras {keras.__version__}: {kind} has no `{name}` any more. "
        "keras_app/enforcement builds on it: masks are not enforced."
    )


def test_keras_still_calls_the_private_hook_with_three_arguments():
    seen = []
    model = compiled("sgd", run_eagerly=True)
    update = model.optimizer._backend_update_step

    def record(*args):
        seen.append(len(args))
        return update(*args)

    object.__setattr__(model.optimizer, "_backend_update_step", record)
    fit(model, epochs=1)
    assert set(seen) == {3}, (
        f"Keras {keras.__version__} no longer updates through the instance's "
        "`_backend_update_step(grads, trainable_variables, learning_rate)`: "
        "masks are not enforced."
    )


def test_keras_still_keeps_moving_averages_by_variable():
    optimizer = keras.optimizers.Adam(use_ema=True)
    model = compiled(optimizer)
    optimizer.build(model.trainable_variables)
    averages = getattr(optimizer, "_model_variables_moving_average", None)
    assert averages is not None and len(averages) == 4, (
        f"Keras {keras.__version__} has no list "
        "`_model_variables_moving_average` any more: the averages keep what "
        "a new mask prunes, and `use_ema` brings it back."
    )


@jax_only
def test_keras_variables_still_have_a_layout():
    assert hasattr(keras.Variable(np.zeros((2, 2))), "_layout"), (
        f"Keras {keras.__version__}: variables have no `_layout` any more. "
        "Masks of sharded weights are no longer sharded alike."
    )


@tensorflow_only
def test_keras_optimizers_still_know_their_strategy():
    assert hasattr(keras.optimizers.Adam(), "_distribution_strategy"), (
        f"Keras {keras.__version__}: optimizers have no "
        "`_distribution_strategy` any more. Masks under tf.distribute would "
        "not be mirrored, and nothing would be refused."
    )


@tensorflow_only
def test_tensorflow_still_merges_calls_of_replicas():
    import tensorflow as tf

    assert hasattr(tf.__internal__.distribute.interim, "maybe_merge_call"), (
        "TensorFlow's `maybe_merge_call` is gone: no update under a strategy."
    )
