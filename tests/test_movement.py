"""Tests of movement pruning: what moves away from zero stays."""

from keras import ops

from keras_app import pruners
from keras_app.schedules import ConstantSparsity
from tests.models import flat
from tests.models import train_eight
from tests.models import X_OF_EIGHT


def test_movement_by_hand():
    pruner = pruners.MovementPruner(ConstantSparsity(0.5, 1, frequency=1))
    kernel, state = train_eight(pruner, X_OF_EIGHT, [0.0, 17.25])
    # Dense at first: w x = -4, the gradient is -8 x, and S = 8 x w =
    # 32, 20, 0, -16, 4, -40, -24, -8. w <- w + x, and 0, 1, 4 and 2 stay:
    # w x = 5 + 8.75 + 0 + 1.5 = 15.25, 2 too little. S <- S + 4 x w with the
    # pruned at 1, -4, -0.5 and 3.75, where they remain; w <- w + x / 2.
    scores = [52.0, 55.0, 0.0, -20.0, 10.0, -56.0, -20.0, 52.0]
    assert flat(state.watched(kernel)) == scores
    dense = [5.5, 4.75, -3.0, 1.0, 2.0, -4.0, -0.5, 3.75]
    assert flat(state.dense(kernel)) == dense
    # 7, which training would move away from zero, comes back.
    [mask] = pruner.masks.values()
    assert mask.ravel().astype(int).tolist() == [1, 1, 0, 0, 1, 0, 0, 1]
    assert flat(kernel) == [5.5, 4.75, 0.0, 0.0, 2.0, 0.0, 0.0, 3.75]
    assert pruner.report.sparsity == 0.5 and pruner.missed == []


def test_before_the_first_step_magnitudes_decide():
    pruner = pruners.MovementPruner(ConstantSparsity(0.5, 0, frequency=100))
    train_eight(pruner, X_OF_EIGHT, [0.0])
    [mask] = pruner.masks.values()
    assert mask.ravel().astype(int).tolist() == [1, 0, 1, 1, 0, 1, 0, 0]


def test_a_second_fit_adds_to_the_scores():
    pruner = pruners.MovementPruner(
        ConstantSparsity(0.5, 100), on_miss="ignore"
    )
    kernel, state = train_eight(pruner, X_OF_EIGHT, [0.0])
    first = flat(state.watched(kernel))
    assert first == [32.0, 20.0, 0.0, -16.0, 4.0, -40.0, -24.0, -8.0]
    pruner.set_model(pruner.model)
    assert flat(state.watched(kernel)) == first
    flags = [v for v in state.own_variables if v.name.endswith("watching")]
    assert [bool(ops.convert_to_numpy(flag)) for flag in flags] == [True]
