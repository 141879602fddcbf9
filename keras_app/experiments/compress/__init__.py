"""A trained model, made as small or fast as asked."""

from keras_app.experiments.compress.experiment import Compress
from keras_app.experiments.compress.function import compress
from keras_app.experiments.compress.function import Compressed

__all__ = ["Compress", "Compressed", "compress"]
