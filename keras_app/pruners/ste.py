"""The straight-through estimator: pruned weights train on."""

from typing import Unpack

import keras

from keras_app.checks import check_number
from keras_app.hints import Schedule
from keras_app.pruners.arguments import PrunerArguments
from keras_app.pruners.dormant import DormantPruner


@keras.saving.register_keras_serializable(package="keras_app")
class STE(DormantPruner):
    """Sparse forward and backward, dense updates: score = `|w|`.

    The network computes with m * w, and the gradient there moves all weights,
    pruned ones too, as if the mask was not there. A weight that was pruned too
    early grows, dormant, until the next update brings it back.

        w <- w - learning_rate (dL/dw at m * w + lam (1 - m) w)

    written for plain gradient descent; any Keras optimizer takes the bracket.
    With lam > 0 and n:m this is SR-STE: dormant weights shrink, so that masks
    settle down. Choose it to train a network sparse from the start, or for n:m.
    It costs a value and a bool beside each weight, and three passes over the
    weights in each step.

    Args:
        schedule: When the masks are chosen again, and at which sparsity.
            `frequency=1` does so at every step, as the references do. Between
            two updates dormant weights grow unchecked: at high
            sparsity and with momentum, rare updates can ruin the network.
        lam: Strength of the decay of dormant weights, >= 0. Defaults to `0.0`.
        scope, structure, distribution, filters, custom_sparsity, on_miss: See
            `Pruner`.

    Example:

    >>> from keras_app.masks import NM
    >>> from keras_app.schedules import ConstantSparsity
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> model.compile("sgd", "mse")
    >>> schedule = ConstantSparsity(0.5, 0, frequency=1)
    >>> pruner = STE(schedule, lam=2e-4, structure=NM(2, 4, axis="inputs"))
    >>> x, y = np.ones((8, 4)), np.ones((8, 8))
    >>> history = model.fit(x, y, epochs=3, verbose=0, callbacks=[pruner])
    >>> pruner.report.sparsity
    0.5

    Reference: [Bengio et al., 2013](https://arxiv.org/abs/1308.3432), the
    estimator; [Zhou et al., 2021](https://arxiv.org/abs/2102.04010), SR-STE.
    Differs: masks follow the schedule instead of every step; with an
    optimizer of the user's choice the decay goes through its momentum, as in
    the authors' code.
    """

    def __init__(
        self,
        schedule: Schedule,
        lam: float = 0.0,
        **kwargs: Unpack[PrunerArguments],
    ) -> None:
        super().__init__(schedule, **kwargs)
        self.lam = check_number("lam", lam, lambda x: x >= 0)

    def decay(self) -> tuple[float, float]:
        """Returns `(of kept, of dormant weights)`: times w, in the gradient."""
        return 0.0, self.lam
