"""The sparsity toolkit for Keras 3: train any model sparse, in `model.fit`."""

import importlib

from keras_app import cli
from keras_app.version import __version__

_ROOMS = (
    "distributions",
    "export",
    "masks",
    "optimizers",
    "pruners",
    "report",
    "schedules",
    "scorers",
)
# A script that only prunes pays for neither data pipelines nor experiments.
_LAZY_ROOMS = ("data", "experiments", "models")

__all__ = ["__version__", "masks_of", *_ROOMS, *_LAZY_ROOMS]


def __getattr__(name):
    if name in _LAZY_ROOMS:
        return importlib.import_module(f"keras_app.{name}")
    raise AttributeError(f"module 'keras_app' has no attribute {name!r}")


# First of all: under `python -m keras_app.train` TensorFlow's greetings must
# not reach the terminal, and it greets when Keras is imported.
cli.start_command()

# Keras finds our classes in a saved file only once they are imported.
for _room in _ROOMS:
    importlib.import_module(f"keras_app.{_room}")

masks_of = importlib.import_module("keras_app.enforcement").masks_of
