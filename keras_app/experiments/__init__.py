"""What the command line runs: each experiment writes a run folder."""

from keras_app.experiments import data
from keras_app.experiments import devices
from keras_app.experiments import models
from keras_app.experiments.anytime import Anytime
from keras_app.experiments.callbacks import MilestoneLearningRate
from keras_app.experiments.callbacks import PlateauLearningRate
from keras_app.experiments.callbacks import TriangularLearningRate
from keras_app.experiments.compress import Compress
from keras_app.experiments.continuous import TicketSearch
from keras_app.experiments.exporting import export_run
from keras_app.experiments.lottery import Lottery
from keras_app.experiments.training import Train

__all__ = [
    "Anytime",
    "Compress",
    "Lottery",
    "MilestoneLearningRate",
    "PlateauLearningRate",
    "TicketSearch",
    "Train",
    "TriangularLearningRate",
    "data",
    "devices",
    "export_run",
    "models",
]
