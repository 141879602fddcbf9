"""Dynamic sparse training that grows at random: SET."""

import keras

from keras_app.hints import Arrays
from keras_app.hints import Variables
from keras_app.pruners.dynamic import DynamicPruner
from keras_app.pruners.dynamic import GROWTH


@keras.saving.register_keras_serializable(package="keras_app")
class SET(DynamicPruner):
    """Sparse evolutionary training: grow score = a uniform draw.

    Needs no data and no gradient of dormant weights, and is what `RigL` has to
    beat. With `drop_fraction=0` it is static sparse training, a random mask
    that stays. It costs one pass over the weights at each update.

    Args:
        schedule, scope, structure, distribution, filters, custom_sparsity,
            on_miss, drop_fraction, seed: See
            `keras_app.pruners.dynamic.DynamicPruner`.

    Example:

    >>> from keras_app.schedules import ConstantSparsity
    >>> schedule = ConstantSparsity(0.9, 0, end_step=1000, frequency=100)
    >>> pruner = SET(schedule, drop_fraction=0.3)
    >>> [round(pruner.drop_fraction_at(t), 3) for t in (0, 500, 1000)]
    [0.3, 0.15, 0.0]

    Reference: [Mocanu et al., 2018](https://arxiv.org/abs/1707.04780). Differs:
    updates follow the schedule instead of the epochs, and their share decays,
    as in the comparison of the RigL paper; the smallest magnitudes go whatever
    their sign, instead of a share of the positive and one of the negative
    weights; a weight dropped and grown in one update keeps its value.
    """

    def grow_scores(self, variables: Variables) -> Arrays:
        """Returns `{path: uniform draws}`."""
        return self.draws(variables, GROWTH)
