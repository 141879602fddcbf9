"""Tests of Top-KAST: what computes, what trains, what stays what it is."""

import pytest

from keras_app import masks
from keras_app import pruners
from keras_app.schedules import ConstantSparsity
from keras_app.schedules import OneShot
from tests.models import EIGHT
from tests.models import flat
from tests.models import train_eight


def both(pruner):
    [forward] = pruner.masks.values()
    [backward] = pruner.backward_masks.values()
    return [m.ravel().astype(int).tolist() for m in (forward, backward)]


def test_top_kast_by_hand():
    pruner = pruners.TopKAST(
        ConstantSparsity(0.75, 0, frequency=1), backward_sparsity=0.5, lam=0.5
    )
    x = [1.0, 2.5, -2.0, -1.0, 1.0, 1.0, -2.0, 4.0]
    kernel, state = train_eight(pruner, x, [3.0])
    # Of 4, 1, -3, 2, 0.5, -5, 1.5, -0.25, A = {0, 5} and B = {0, 2, 3, 5}:
    # w x = 4 - 5 = -1, which is 4 too little, and w <- w + x in B, less the
    # penalty's gradient over 8: w / 8 in A and, with D = 1 / 4, w / 2 beside.
    dense = [4.5, 1.0, -3.5, 0.0, 0.5, -3.375, 1.5, -0.25]
    assert flat(state.dense(kernel)) == dense
    # 2 takes the place of 5, and 6 that of 3.
    assert both(pruner) == [[1, 0, 1, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 1, 1, 0]]
    assert flat(kernel) == [4.5, 0.0, -3.5, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert pruner.report.sparsity == 0.75 and pruner.missed == []


def test_a_backward_set_is_never_smaller_than_the_forward_set():
    pruner = pruners.TopKAST(OneShot(0.25), backward_sparsity=0.5, lam=0.0)
    kernel, state = train_eight(pruner, [1.0] * 8, [0.5])
    # 7 and 4 are out. w x = 0.5: nothing to learn.
    assert both(pruner) == [[1, 1, 1, 1, 0, 1, 1, 0]] * 2
    assert flat(state.dense(kernel)) == EIGHT


@pytest.mark.backend_free
def test_backward_sparsity_is_checked():
    with pytest.raises(ValueError, match="backward_sparsity=80.*mean 0.8"):
        pruners.TopKAST(OneShot(0.9), backward_sparsity=80)


@pytest.mark.backend_free
def test_n_m_is_refused():
    with pytest.raises(ValueError, match=r"structure=NM\(n=2, m=4"):
        pruners.TopKAST(OneShot(0.5), structure=masks.NM(2, 4))


@pytest.mark.backend_free
def test_there_is_no_backward_set_before_a_model():
    assert pruners.TopKAST(OneShot(0.5)).backward_masks == {}
