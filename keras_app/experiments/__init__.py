"""What the command line runs: plain functions that write a run folder."""

from keras_app.experiments.anytime import anytime
from keras_app.experiments.callbacks import MilestoneLearningRate
from keras_app.experiments.callbacks import PlateauLearningRate
from keras_app.experiments.lottery import lottery
from keras_app.experiments.tickets import ticket_search
from keras_app.experiments.training import train

__all__ = [
    "MilestoneLearningRate",
    "PlateauLearningRate",
    "anytime",
    "lottery",
    "ticket_search",
    "train",
]
