"""Pruning at random, the baseline that every method has to beat."""

from typing import Unpack

import keras

from keras_app import scorers
from keras_app.hints import Arrays
from keras_app.hints import Schedule
from keras_app.hints import Variables
from keras_app.pruners.arguments import PrunerArguments
from keras_app.pruners.pruner import Pruner


@keras.saving.register_keras_serializable(package="keras_app")
class RandomPruner(Pruner):
    """Prunes weights drawn at random: score = a standard normal draw.

    The draws do not depend on the backend.

    Args:
        seed: Integer seed of the draws. Defaults to `0`.
        schedule, scope, structure, distribution, filters, custom_sparsity,
            on_miss: See `Pruner`.

    Example:

    >>> from keras_app.schedules import OneShot
    >>> RandomPruner(OneShot(0.5), seed=1).seed
    1
    """

    takes_split = True

    def __init__(
        self,
        schedule: Schedule,
        *,
        seed: int = 0,
        **kwargs: Unpack[PrunerArguments],
    ) -> None:
        super().__init__(schedule, **kwargs)
        self.seed = seed

    def scores(self, variables: Variables) -> Arrays:
        """Returns `{path: standard normal draws}`."""
        # What is pruned stays pruned, so that one draw ranks for all time.
        return scorers.score("random", self.model, variables, seed=self.seed)
