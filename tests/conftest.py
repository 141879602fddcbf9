"""What every test module shares.

The backend is chosen by KERAS_BACKEND, as everywhere in Keras; `python -m
tests` runs the suite once for each backend that is installed.
"""

import gc
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import pytest

GOLDEN = pathlib.Path(__file__).parent / "golden"


def pytest_collection_modifyitems(config, items):
    """Leaves whole trainings out unless they are asked for with -m."""
    if "slow" in (config.option.markexpr or ""):
        return
    skip = pytest.mark.skip(reason="a whole training; run with -m slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def pytest_collection_finish(session):
    """Collections of garbage leave out what the imports made, which stays."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_start():
    """Every test starts from the same seeds, whatever ran before it."""
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs_end():
    """Those of JAX take gigabytes by the end of the suite, in each worker."""
    yield
    if keras.backend.backend() == "jax":
        import jax

        jax.clear_caches()


@pytest.fixture
def golden():
    """Loads recorded vectors: `golden("app/schedule.npz")`."""
    return lambda name: np.load(GOLDEN / name)


@pytest.fixture
def policy():
    """Sets the global dtype policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.fixture
def elsewhere():
    """Asked for by what is to be done in another process, as ever."""


@pytest.fixture
def done_here(request, monkeypatch):
    """Exports work in this process, without the start of another."""
    from keras_app.export import fresh_process

    def do(folder, *_):
        fresh_process.answer(folder)

    if "elsewhere" not in request.fixturenames:
        monkeypatch.setattr(fresh_process, "_do", do)
