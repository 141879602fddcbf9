"""SGD as the papers write it."""

from typing import Unpack

import keras
from keras import ops

from keras_app.hints import LearningRate
from keras_app.optimizers.base import AverageArguments
from keras_app.optimizers.base import ConfiguredOptimizer


@keras.saving.register_keras_serializable(package="keras_app")
class CoupledSGD(ConfiguredOptimizer):
    """SGD with momentum, the weight decay inside the gradient.

        v <- momentum v + (g + weight_decay w)
        w <- w - learning_rate v

    This is the form of the reference implementations. Keras's own `SGD` keeps
    the learning rate inside `v` and the decay outside, and so moves otherwise
    whenever the learning rate changes. The decay acts on every trainable
    variable, offsets and normalization included.

    Args:
        learning_rate: Step size, a float or a schedule. Defaults to `0.1`.
        momentum: In [0, 1). Defaults to `0.9`.
        weight_decay: Strength of the L2 term, >= 0. Defaults to `1e-4`.
        **kwargs: Keras's base arguments, such as `clipnorm`.

    Example:

    >>> weight = keras.Variable([1.0])
    >>> optimizer = CoupledSGD(learning_rate=0.5, weight_decay=0.2)
    >>> optimizer.apply([keras.ops.ones(1)], [weight])
    >>> round(float(weight.numpy()[0]), 4)
    0.4

    Reference: [Misra et al., 2022](https://arxiv.org/abs/2204.01640), the
    optimizer of the authors' code. Differs: none known.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        name: str = "coupled_sgd",
        **kwargs: Unpack[AverageArguments],
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(
                f"`momentum` must be in [0, 1). Received: momentum={momentum}"
            )
        if not weight_decay >= 0:
            raise ValueError(
                "`weight_decay` must be >= 0. "
                f"Received: weight_decay={weight_decay}"
            )
        # The base class would apply a decay of its own, decoupled.
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.coupled_decay = weight_decay

    def build(self, variables):
        """Makes one velocity for each variable."""
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "momentum")

    def update_step(self, gradient, variable, learning_rate):
        """One step of the equations above."""
        v = self._velocities[self._get_variable_index(variable)]
        lr = ops.cast(learning_rate, variable.dtype)
        g = ops.cast(gradient, variable.dtype) + self.coupled_decay * variable
        self.assign(v, self.momentum * v + g)
        self.assign_sub(variable, lr * v)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "weight_decay": self.coupled_decay}
