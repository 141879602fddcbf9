"""The catalogue in methods.py holds every method that is public."""

import pytest

import keras_app
from tests import methods

pytestmark = pytest.mark.backend_free

LISTED = {
    *(row.kind for row in methods.PRUNERS.values()),
    *(row.kind for row in methods.OPTIMIZERS.values()),
    *(row.callback for row in methods.OPTIMIZERS.values()),
    *methods.NO_METHODS,
}


@pytest.mark.parametrize("package", ["pruners", "optimizers"])
def test_every_method_is_in_the_catalogue(package):
    public = set(getattr(keras_app, package).__all__)
    missing = sorted(public - LISTED)
    assert not missing, (
        f"keras_app.{package} has {missing}, which no row of tests/methods.py "
        "names. Add one to PRUNERS or OPTIMIZERS (a callback that steers an "
        "optimizer: to its row), and the tests of all methods run on it; what "
        "is no method goes to NO_METHODS, with the reason."
    )


def test_the_catalogue_names_nothing_that_is_gone():
    public = {*keras_app.pruners.__all__, *keras_app.optimizers.__all__}
    assert LISTED - {None} <= public


def test_every_search_is_a_small_run():
    assert set(methods.SEARCHES) <= set(methods.RUNS)
