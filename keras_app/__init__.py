"""The sparsity toolkit for Keras 3: train any model sparse, in `model.fit`."""

import importlib
import sys

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
    if name in (*_ROOMS, *_LAZY_ROOMS):
        return importlib.import_module(f"keras_app.{name}")
    if name == "masks_of":
        return importlib.import_module("keras_app.enforcement").masks_of
    raise AttributeError(f"module 'keras_app' has no attribute {name!r}")


# Keras finds our classes in a saved file only once they are imported. Under
# `python -m keras_app.train` (where Python sets argv to this for the time of
# the import) the command says first where TensorFlow's greetings go.
if sys.argv[:1] != ["-m"]:
    for _room in _ROOMS:
        importlib.import_module(f"keras_app.{_room}")
