"""What the command line runs: plain functions that write a run folder."""

import importlib

from keras_app.experiments.anytime import anytime
from keras_app.experiments.callbacks import MilestoneLearningRate
from keras_app.experiments.callbacks import PlateauLearningRate
from keras_app.experiments.lottery import lottery
from keras_app.experiments.tickets import ticket_search
from keras_app.experiments.training import train

# An experiment imports those that it needs.
_LAZY_ROOMS = ("data", "devices", "models")

__all__ = [
    "MilestoneLearningRate",
    "PlateauLearningRate",
    *_LAZY_ROOMS,
    "anytime",
    "lottery",
    "ticket_search",
    "train",
]


def __getattr__(name):
    if name in _LAZY_ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
