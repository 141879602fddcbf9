"""What every optimizer here does alike."""

from typing import TypedDict

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


class BaseArguments(TypedDict, total=False):
    """What Keras's base class takes, and every optimizer here, too."""

    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None


class BregmanArguments(BaseArguments, total=False):
    """And what those with a dual variable take."""

    support_update_freq: int


class AverageArguments(BaseArguments, total=False):
    """And what those without a latent state take."""

    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
