"""Data: by name, megabatches, held-out parts, text, a small shipped set."""

from keras_app.experiments.data.holdout import Holdout
from keras_app.experiments.data.holdout import Restoration
from keras_app.experiments.data.loading import DatasetInfo
from keras_app.experiments.data.loading import info
from keras_app.experiments.data.loading import load
from keras_app.experiments.data.loading import load_arrays
from keras_app.experiments.data.loading import make_deterministic
from keras_app.experiments.data.loading import test_split
from keras_app.experiments.data.megabatches import Megabatch
from keras_app.experiments.data.megabatches import Megabatches
from keras_app.experiments.data.splits import few_shot
from keras_app.experiments.data.splits import split_megabatches
from keras_app.experiments.data.text import Text

__all__ = [
    "DatasetInfo",
    "Holdout",
    "Megabatch",
    "Megabatches",
    "Restoration",
    "Text",
    "few_shot",
    "info",
    "load",
    "load_arrays",
    "make_deterministic",
    "split_megabatches",
    "test_split",
]
