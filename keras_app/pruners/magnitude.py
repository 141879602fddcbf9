"""Pruning by magnitude."""

import keras

from keras_app.hints import Arrays
from keras_app.hints import Variables
from keras_app.pruners.pruner import Pruner


@keras.saving.register_keras_serializable(package="keras_app")
class MagnitudePruner(Pruner):
    """Prunes the weights of smallest magnitude: score = `|w|`.

    With `PolynomialDecay` this is gradual magnitude pruning, the strongest
    simple baseline. It costs one pass over the weights at each update.

    Args:
        schedule, scope, structure, distribution, filters, custom_sparsity,
            on_miss: See `Pruner`.

    Example:

    >>> from keras_app.schedules import OneShot
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> pruner = MagnitudePruner(OneShot(0.5))
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(x, y, verbose=0, callbacks=[pruner])
    >>> pruner.report.sparsity
    0.5

    Reference: [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878).
    """

    takes_split = True

    def scores(self, variables: Variables) -> Arrays:
        """Returns `{path: |w|}`."""
        return self.magnitudes(variables)
