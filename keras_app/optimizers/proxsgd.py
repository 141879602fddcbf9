"""Proximal gradient descent, the baseline of the Bregman optimizers."""

from typing import Unpack

import keras
from keras import ops

from keras_app import enforcement
from keras_app import host
from keras_app.hints import LearningRate
from keras_app.hints import Tensor
from keras_app.optimizers import latent
from keras_app.optimizers.base import BaseArguments
from keras_app.optimizers.regularized import RegularizedOptimizer
from keras_app.optimizers.regularized import Regularizers


@keras.saving.register_keras_serializable(package="keras_app")
class ProxSGD(RegularizedOptimizer):
    """Gradient descent that shrinks weights, and sets small ones to zero.

        theta <- prox_{tau J}(theta - tau g)

    It starts dense and shrinks every weight by `tau * lam` at each step, the
    surviving ones too. There is neither dual variable nor momentum.

    Args:
        learning_rate: tau, a float >= 0 or a schedule. Defaults to `0.1`.
        regularizers: See `LinBreg`. Defaults to `None`: plain SGD.
        **kwargs: Keras's base arguments, such as `clipnorm`.

    Raises:
        ValueError: See `LinBreg`.

    Example:

    >>> from keras_app.regularizers import L1
    >>> weight = keras.Variable([[1.0, 0.1]])
    >>> optimizer = ProxSGD(learning_rate=1.0, regularizers=L1(0.5))
    >>> optimizer.apply([keras.ops.convert_to_tensor([[0.25, 0.25]])], [weight])
    >>> weight.numpy().round(4).tolist()
    [[0.25, 0.0]]

    Reference: [Bungert et al., 2022](https://arxiv.org/abs/2105.04319).
    Differs: none known.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.1,
        regularizers: Regularizers = None,
        name: str = "proxsgd",
        **kwargs: Unpack[BaseArguments],
    ) -> None:
        super().__init__(learning_rate, regularizers, name=name, **kwargs)

    def build(self, variables):
        """Makes room for what the weights are the prox of."""
        if self.built:
            return
        super().build(variables)
        mine = dict(self._regularized())
        self._points = [
            enforcement.add_latent(self, variable, "point")
            if index in mine
            else None
            for index, variable in enumerate(variables)
        ]
        self._watch = latent.Watch(
            self, [mine.get(index) for index in range(len(variables))]
        )

    def update_step(self, gradient, variable, learning_rate):
        """One step of the equation above."""
        index = self._get_variable_index(variable)
        regularizer = self._regularizer_of[index]
        theta = host.float32_or_more(variable)
        tau = ops.cast(learning_rate, theta.dtype)
        theta = theta - tau * ops.cast(gradient, theta.dtype)
        if regularizer is not None:
            point, theta = theta, regularizer.prox(theta, tau)
            self.assign(self._points[index], point)
        self.assign(variable, ops.cast(theta, variable.dtype))
        if regularizer is not None:
            self._watch.remember(index, variable)

    def refresh(self, index: int, variable: keras.Variable) -> None:
        """Starts from the weight if it was replaced, and at first."""
        theta = ops.stop_gradient(host.float32_or_more(variable))
        point = self._watch.kept(
            index,
            variable,
            self._points[index],
            lambda: theta,
            or_if=ops.equal(self.iterations, 0),
        )
        self._points[index].assign(point)

    def point(self, index: int) -> tuple[Tensor, Tensor]:
        """Returns `(theta - tau g, tau)` of the last step."""
        tau = float(ops.convert_to_numpy(self.learning_rate))
        return host.as_tensor(self._points[index]), tau

    def latent(self, index: int) -> keras.Variable:
        """Returns `theta - tau g`."""
        return self._points[index]

    def after_write(self, index: int, variable: keras.Variable) -> None:
        """Notices that the weight is its own."""
        if host.updates(self) == 0:
            self._points[index].assign(host.float32_or_more(variable))
        self._watch.remember(index, variable)
