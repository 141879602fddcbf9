"""Files that earlier code wrote still load, hold their masks, and train on.

`stored/write.py` wrote them, and says with which commit.
"""

import json
import pathlib
import shutil
import warnings

import keras
import numpy as np
import pytest

import keras_app
from keras_app import enforcement
from keras_app import pruners
from keras_app import schedules
from keras_app.export import load_sparse
from tests.helpers import BACKEND
from tests.helpers import KERAS
from tests.helpers import to_numpy
from tests.stored import write

STORED = pathlib.Path(__file__).parent / "stored"

# The larger half of the magnitudes in write.HIDDEN and write.HEAD.
HIDDEN = ["0101", "1111", "1001", "0000", "0001", "1101"]
HEAD = ["011", "010", "101", "100"]


of_newer_keras = pytest.mark.skipif(
    KERAS < (3, 15), reason="Keras 3.15 wrote it, and no earlier one reads it"
)


def bits(mask):
    return ["".join(map(str, row.astype(int))) for row in mask]


def masks_in(model):
    """What is not zero, and no bias."""
    kernels = [model.get_layer(n).kernel for n in ("hidden", "head")]
    return [bits(to_numpy(kernel) != 0) for kernel in kernels]


def check_trains_on(model, pruner=None):
    before = model.get_weights()
    steps = int(model.optimizer.iterations)
    write.fit(model, *([] if pruner is None else [pruner]))
    assert int(model.optimizer.iterations) == steps + 6
    assert masks_in(model) == [HIDDEN, HEAD]
    for old, new in zip(before, model.get_weights()):
        assert (new != old)[old != 0].all()


@of_newer_keras
def test_a_keras_file_loads_and_brings_its_zeros_back():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = keras.saving.load_model(STORED / "magnitude.keras")
    assert masks_in(model) == [HIDDEN, HEAD]
    assert int(model.optimizer.iterations) == 6
    pruner = pruners.MagnitudePruner(schedules.OneShot(0.5, step=6))
    check_trains_on(model, pruner)
    assert [bits(mask) for mask in pruner.masks.values()] == [HIDDEN, HEAD]


def test_weights_load_with_their_masks():
    model = write.compiled(keras.optimizers.Adam(0.01))
    enforcement.attach(model)
    model.load_weights(STORED / "magnitude.weights.h5")
    found = keras_app.masks_of(model)
    assert [bits(mask) for mask in found.values()] == [HIDDEN, HEAD]
    check_trains_on(model)


def test_dormant_weights_load_with_their_values():
    model = write.compiled(keras.optimizers.SGD(0.0))
    pruner = pruners.STE(schedules.OneShot(0.5, step=9))
    pruner.set_model(model)
    model.load_weights(STORED / "ste.weights.h5")
    assert masks_in(model) == [HIDDEN, HEAD]
    state = enforcement.state_of(model)
    for name, values in (("hidden", write.HIDDEN), ("head", write.HEAD)):
        kernel = model.get_layer(name).kernel
        np.testing.assert_array_equal(state.dense(kernel), values / 16)


@of_newer_keras
def test_a_sparse_checkpoint_loads():
    model = load_sparse(STORED / "magnitude.sparse")
    stored = keras.saving.load_model(STORED / "magnitude.keras", compile=False)
    for a, b in zip(model.get_weights(), stored.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert masks_in(model) == [HIDDEN, HEAD]
    model.compile("adam", "sparse_categorical_crossentropy")
    enforcement.attach(model)


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    shutil.copytree(STORED / f"run_{BACKEND}", tmp_path / "run")
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    summary = write.experiment().run(
        tmp_path / "run", resume=True, verbose=False
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert lines.startswith(log)
    assert [json.loads(x)["epoch"] for x in lines.splitlines()] == [0, 1, 2, 3]
    assert summary["effective_density"] == 0.5
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert [int(np.sum(w == 0)) for w in model.get_weights()[::2]] == [12, 6]
