"""What every optimizer here does alike."""

import keras

from keras_app.config import arguments_of
from keras_app.config import Configured


class ConfiguredOptimizer(keras.optimizers.Optimizer, Configured):
    """An optimizer whose configuration follows from its constructor.

    Each argument of the constructor that Keras does not know is an attribute
    of the same name.
    """

    def get_config(self):
        """Returns the constructor's arguments, serialized."""
        config = super().get_config()
        own = set(arguments_of(type(self))) - {*config, *self.not_configured}
        return {**config, **{name: getattr(self, name) for name in sorted(own)}}
