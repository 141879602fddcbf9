"""Pruning at random, the baseline that every method has to beat."""

import keras

from keras_app import scorers
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

    def __init__(self, schedule, *, seed=0, **kwargs):
        super().__init__(schedule, **kwargs)
        self.seed = seed

    def scores(self, variables):
        """Returns `{path: standard normal draws}`."""
        # What is pruned stays pruned, so that one draw ranks for all time.
        return scorers.score("random", self.model, variables, seed=self.seed)
