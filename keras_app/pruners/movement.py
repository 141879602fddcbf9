"""Pruning by movement: what training drives away from zero stays."""

import keras

from keras_app import split
from keras_app.hints import Arrays
from keras_app.hints import Variables
from keras_app.pruners.dormant import DormantPruner
from keras_app.selection import by_path


@keras.saving.register_keras_serializable(package="keras_app")
class MovementPruner(DormantPruner):
    """Prunes the weights that training moves towards zero.

    The score adds up, over all training steps, how far the gradient would move
    a weight away from zero; a pruned weight keeps its value and goes on
    collecting, so that it comes back if it should not have gone.

        S <- S - (dL/dw at m * w) * w
        m = top-v of S

    Choose it to fine-tune a network that was trained on something else, where
    magnitudes say what mattered there. Score and value take two arrays beside
    each weight, and one pass over them in each step.

    Before the first step was made no score is known, and magnitudes decide.
    Let a gradual schedule start after some steps. A weight whose gradient is
    always zero (a dead input) keeps the score 0 and outranks all that move
    towards zero.

    Args:
        schedule: Usually a cubic ramp: `PolynomialDecay`.
        scope: `"layer"` or `"global"`; the paper uses both. Defaults to
            `"layer"`.
        structure, distribution, filters, custom_sparsity, on_miss: See
            `Pruner`.

    Example:

    >>> from keras_app.schedules import OneShot
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> pruner = MovementPruner(OneShot(0.5, step=2))
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(x, y, epochs=3, verbose=0, callbacks=[pruner])
    >>> pruner.report.sparsity
    0.5

    Reference: [Sanh et al., 2020](https://arxiv.org/abs/2005.07683),
    hard movement pruning. Differs: masks follow the schedule instead of every
    step; the scores are summed as the equation says, with a rate of 1, which
    ranks nothing, instead of by an optimizer of their own; pruned weights stay
    exactly what they are, also under momentum, which starts at zero when they
    come back.
    """

    learning = False

    def set_model(self, model):
        """Selects the weights and gives the optimizer masks and scores."""
        super().set_model(model)
        if self._state.watch(
            self.variables.values(), _add_movement, store=True
        ):
            model.train_function = None
        self._state.watch_next(self.variables.values(), True)

    def scores(self, variables: Variables) -> Arrays:
        """Returns `{path: S}`; `{path: |w|}` before the first step."""
        record = self._state.record
        found = by_path(lambda v: self.read(record(v).watched), variables)
        if any(map(split.any_of, found.values())):
            return found
        return self.magnitudes(variables)


def _add_movement(score, gradient, weight):
    return score - gradient * weight
