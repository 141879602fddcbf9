"""What `import keras_app` gives."""

import types

import pytest

import keras_app

pytestmark = pytest.mark.backend_free


@pytest.mark.parametrize("name", ["compress", "prune"])
def test_a_door_does_not_hide_the_function_of_its_name(name, monkeypatch):
    def function():
        return "the function"

    monkeypatch.setattr(keras_app, name, function, raising=False)
    # As the import of `keras_app.prune` does.
    setattr(keras_app, name, types.ModuleType(f"keras_app.{name}"))
    assert getattr(keras_app, name) is function


def test_other_modules_are_bound_to_the_package(monkeypatch):
    module = types.ModuleType("keras_app.other")
    monkeypatch.setattr(keras_app, "other", module, raising=False)
    assert keras_app.other is module
