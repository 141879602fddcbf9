"""Training that is compressed and decompressed in turn: AC/DC."""

import keras

from keras_app import masks as masks_lib
from keras_app.hints import Arrays
from keras_app.hints import Variables
from keras_app.masks.structures import Structure
from keras_app.pruners.pruner import Pruner


@keras.saving.register_keras_serializable(package="keras_app")
class ACDC(Pruner):
    """Alternates sparse and dense phases: score = `|w|`, of all weights again.

    Where the schedule's sparsity rises, the largest weights are kept and their
    mask is fixed; where it falls, pruned weights come back and train on, from
    zero and with momentum zero. The masks of two sparse phases differ, so that
    pruning errs less for good than in one go or gradually. The price is that
    the dense phases cost as much as dense training. It costs one pass over the
    weights at each change of phase.

        theta <- T_k(theta), then SGD on its support      sparse phase
        theta <- SGD on all of theta                      dense phase, warm-up

    T_k sets all but the k largest magnitudes to zero. A `fit` that stops in a
    dense phase has missed its target, and says so as `on_miss` asks.

    Args:
        schedule: `CyclicSparsity`, or any other whose sparsity rises and falls.
        scope: `"global"` takes the k largest of all weights, as most runs of
            the paper do, `"layer"` those of each weight, its uniform variant.
            Defaults to `"layer"`.
        structure, distribution, filters, custom_sparsity, on_miss: See
            `Pruner`. The paper has runs with n:m as well.

    Example:

    >>> from keras_app.schedules import CyclicSparsity
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> pruner = ACDC(CyclicSparsity(0.0, 0.5, 1, 5, period=2), scope="global")
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(x, y, epochs=6, verbose=0, callbacks=[pruner])
    >>> print(history.history["sparsity"])
    [0.0, 0.5, 0.0, 0.5, 0.0, 0.5]

    Reference: [Peste et al., 2021](https://arxiv.org/abs/2106.12379), algorithm
    1. Differs from the authors' code: when a dense phase begins, they reset the
    momentum of all weights, not only of those that come back.
    """

    revives = True
    takes_split = True

    def scores(self, variables: Variables) -> Arrays:
        """Returns `{path: |w|}`."""
        return self.magnitudes(variables)

    def combine(
        self,
        scores: Arrays,
        sparsity: float,
        old: Arrays,
        structure: Structure | None,
    ) -> Arrays:
        """Returns masks by scores alone: what was pruned may come back."""
        return masks_lib.mask_from_scores(scores, sparsity, structure)
