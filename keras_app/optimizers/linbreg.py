"""Linearized Bregman iterations (LinBreg), with momentum."""

from typing import Unpack

import keras

from keras_app.checks import check_number
from keras_app.hints import LearningRate
from keras_app.hints import Tensor
from keras_app.optimizers.base import BregmanArguments
from keras_app.optimizers.bregman import BregmanOptimizer
from keras_app.optimizers.regularized import Regularizers


@keras.saving.register_keras_serializable(package="keras_app")
class LinBreg(BregmanOptimizer):
    """Gradient descent that starts almost empty and activates what matters.

        v <- v - tau g                                       (LinBreg)
        theta <- prox_{delta J}(delta v)

    and with momentum

        b <- beta b + (1 - beta) tau g
        v <- v - b

    Start from a sparse network (`keras_app.initializers.sparsify`). A dormant
    weight wakes up once `|sum of tau g| > lam`, so that `lam / learning_rate`
    is the time scale of growth: a larger `lam` or an earlier stop is sparser.
    Active weights descend plainly, with step `delta * tau`. Variables without
    a regularizer are trained by SGD with that step. One array beside each
    regularized weight, two with momentum.

    Args:
        learning_rate: tau, a float >= 0 or a schedule. Defaults to `0.1`, that
            of the paper's hundred epochs; in trainings of a few epochs `1.0`
            with momentum was the best that was measured
            (docs/results/methods.md).
        momentum: beta, in [0, 1). The buffer holds the learning rate and the
            factor 1 - beta; not Keras's momentum. Defaults to `0.0`; `0.9`
            was better.
        delta: Elastic-net parameter, > 0; scales the step. Defaults to `1.0`.
        regularizers: One regularizer of `keras_app.regularizers` for all
            kernels, `{regex or layer: regularizer}`, or a callable `variable
            -> regularizer or None`. Defaults to `None`: plain SGD.
        l2: Coupled weight decay, >= 0, added to the gradient. Defaults to
            `0.0`.
        support_update_freq: Weights may wake up at every so many steps only,
            as in multilevel training; in between the active ones move. Saves
            counted operations, not time on dense hardware. Defaults to `1`.
        **kwargs: Keras's base arguments, such as `clipnorm`.

    Raises:
        ValueError: An argument out of its range; `weight_decay` or `use_ema`,
            which would act on weights behind the dual variable's back; when
            training starts, a rule in `regularizers` that matches nothing or
            contradicts another.

    Example:

    >>> from keras_app.regularizers import L1
    >>> weight = keras.Variable([[1.0, 0.0]])
    >>> optimizer = LinBreg(learning_rate=1.0, regularizers=L1(0.5))
    >>> optimizer.apply([keras.ops.convert_to_tensor([[0.25, 0.25]])], [weight])
    >>> weight.numpy().round(4).tolist()  # the second is below the threshold
    [[0.75, 0.0]]

    Reference: [Bungert et al., 2022](https://arxiv.org/abs/2105.04319),
    algorithms 1 and 2. Differs: none known.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.1,
        momentum: float = 0.0,
        delta: float = 1.0,
        regularizers: Regularizers = None,
        l2: float = 0.0,
        name: str = "linbreg",
        **kwargs: Unpack[BregmanArguments],
    ) -> None:
        beta = check_number(
            "momentum", momentum, lambda x: 0 <= x < 1, "in [0, 1)"
        )
        super().__init__(
            learning_rate, delta, regularizers, l2, name=name, **kwargs
        )
        self.momentum = beta

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the arrays kept for each variable."""
        return ("momentum",) if self.momentum else ()

    def step(
        self, gradient: Tensor, learning_rate: Tensor, *slots: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns tau g, or the momentum buffer."""
        if not self.momentum:
            return (learning_rate * gradient,)
        (b,) = slots
        beta = self.momentum
        b = beta * b + (1 - beta) * learning_rate * gradient
        return b, b
