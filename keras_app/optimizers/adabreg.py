"""AdaBreg: Bregman iterations with Adam's step."""

import math
from typing import get_args
from typing import Literal
from typing import Unpack

import keras
from keras import ops

from keras_app.checks import check_choice
from keras_app.checks import check_number
from keras_app.hints import LearningRate
from keras_app.hints import Tensor
from keras_app.optimizers.base import BregmanArguments
from keras_app.optimizers.bregman import BregmanOptimizer
from keras_app.optimizers.regularized import Regularizers

BiasCorrection = Literal["full", "second_only"]


@keras.saving.register_keras_serializable(package="keras_app")
class AdaBreg(BregmanOptimizer):
    """Adam that starts almost empty and activates what matters.

        m <- beta_1 m + (1 - beta_1) g
        q <- beta_2 q + (1 - beta_2) g^2
        v <- v - tau (m / (1 - beta_1^t))
                   / (sqrt(q) / sqrt(1 - beta_2^t) + epsilon)
        theta <- prox_{delta J}(delta v)

    The adaptive form of `LinBreg`, and the one to start with where one would
    take Adam: `lam / learning_rate` is about the number of steps after which
    a weight with a steady gradient wakes up. Three arrays beside each
    regularized weight, two beside each other one.

    Args:
        learning_rate: tau, a float >= 0 or a schedule. Defaults to `1e-3`, that
            of the paper's hundred epochs; in trainings of a few epochs `2e-2`
            was the best that was measured (docs/results/methods.md).
        beta_1, beta_2: Decay of the moments, in [0, 1). Default to `0.9` and
            `0.999`.
        epsilon: Added to the bias-corrected root, > 0; Keras's Adam adds it
            elsewhere. Defaults to `1e-8`.
        delta, regularizers, l2, support_update_freq: See `LinBreg`.
        bias_correction: `"full"`, or `"second_only"`: the first moment is used
            as it is, as in the authors' code before January 2024, which makes
            the first steps ten times smaller. Defaults to `"full"`.
        **kwargs: Keras's base arguments, such as `clipnorm`.

    Raises:
        ValueError: See `LinBreg`.

    Example:

    >>> from keras_app.regularizers import L1
    >>> weight = keras.Variable([[1.0, 0.0]])
    >>> optimizer = AdaBreg(learning_rate=0.25, regularizers=L1(0.5))
    >>> optimizer.apply([keras.ops.convert_to_tensor([[0.25, 0.25]])], [weight])
    >>> weight.numpy().round(4).tolist()
    [[0.75, 0.0]]

    Reference: [Bungert et al., 2022](https://arxiv.org/abs/2105.04319),
    algorithm 3. Differs: none known.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        delta: float = 1.0,
        regularizers: Regularizers = None,
        l2: float = 0.0,
        bias_correction: BiasCorrection = "full",
        name: str = "adabreg",
        **kwargs: Unpack[BregmanArguments],
    ) -> None:
        for argument, value in (("beta_1", beta_1), ("beta_2", beta_2)):
            check_number(argument, value, lambda x: 0 <= x < 1, "in [0, 1)")
        check_number("epsilon", epsilon, lambda x: x > 0, "> 0")
        check_choice(
            "bias_correction", bias_correction, get_args(BiasCorrection)
        )
        super().__init__(
            learning_rate, delta, regularizers, l2, name=name, **kwargs
        )
        self.beta_1 = float(beta_1)
        self.beta_2 = float(beta_2)
        self.epsilon = float(epsilon)
        self.bias_correction = bias_correction

    slot_names = ("first_moment", "second_moment")

    def step(
        self, gradient: Tensor, learning_rate: Tensor, m: Tensor, q: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns Adam's step and both moments."""
        g = gradient
        t = ops.cast(self.iterations + 1, g.dtype)
        m = self.beta_1 * m + (1 - self.beta_1) * g
        q = self.beta_2 * q + (1 - self.beta_2) * (g * g)
        # tau / (1 - beta_1^t) is one number, where m / (1 - beta_1^t) would be
        # one more pass over the array.
        tau = learning_rate
        if self.bias_correction == "full":
            tau = tau / _one_minus_power(self.beta_1, t)
        root = ops.sqrt(q) / ops.sqrt(_one_minus_power(self.beta_2, t))
        return tau * m / (root + self.epsilon), m, q


def _one_minus_power(beta, t):
    """1 - beta^t; taken literally it loses four digits in the first steps."""
    if beta == 0:
        return ops.ones_like(t)
    return -ops.expm1(t * math.log(beta))
