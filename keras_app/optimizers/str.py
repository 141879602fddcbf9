"""Soft threshold reparameterization: thresholds learned by descent."""

from typing import Unpack

import keras
from keras import ops

from keras_app import enforcement
from keras_app import host
from keras_app.checks import check_number
from keras_app.hints import Arrays
from keras_app.hints import Filters
from keras_app.hints import LearningRate
from keras_app.hints import Tensor
from keras_app.optimizers.base import BaseArguments
from keras_app.optimizers.learned import LearnedSparsity


@keras.saving.register_keras_serializable(package="keras_app")
class STR(LearnedSparsity):
    """Learns weights w and one threshold for each; the kernel holds the rest.

        theta = sign(w) relu(|w| - t),   t = sigmoid(s)

        g_w = g 1[theta != 0] + weight_decay w
        g_s = -t (1 - t) sum(g sign(w) 1[theta != 0]) + weight_decay s
        b <- momentum b + g_x;   x <- x - learning_rate b

    for x = w, s, with g the gradient at theta and one number s for each kernel.
    The layers are left alone: the forward pass costs nothing extra, and any
    model can be trained. What is not kept is exactly zero, and comes back when
    the threshold falls.

    The density is an outcome, `optimizer.density`, and so is its share of each
    layer. The weight decay makes both: it shrinks the weights and brings s
    toward 0, that is t toward 1/2, until the gradient of the loss resists. More
    weight decay is sparser. `s_init` says how long the network stays dense:
    while t is nothing at all, each step leaves about the share
    exp(-weight_decay learning_rate / (1 - momentum)) of s.

    Other variables are trained by the same rule without t. Two arrays and two
    numbers beside each kernel, one array beside each other variable. Clipping
    acts on g, not on (g_w, g_s).

    Args:
        learning_rate: For w and s, a float > 0 or a schedule. Defaults to
            `0.1`.
        momentum: In [0, 1). Its buffers hold no learning rate; not Keras's
            momentum. Defaults to `0.9`.
        weight_decay: Coupled, on w, on s and on all other variables, >= 0.
            Defaults to `1e-4`.
        s_init: Initial s, < 0. Below -20 or so t is nothing at all, and s moves
            by its decay alone. Defaults to `-200.0`.
        filters: Which variables get a threshold: a regex or a list of regexes,
            searched in `variable.path`; a callable `variable -> bool`.
            Defaults to `None`: all kernels.
        strict: Whether a `kernel_regularizer` on one of them is an error
            instead of a warning: its gradient at theta is an additional
            pressure on s. Defaults to `False`.
        **kwargs: Keras's base arguments, such as `clipnorm`.

    Raises:
        ValueError: An argument out of its range, `use_ema`; when training
            starts: filters that match nothing, a weight with a threshold and a
            constraint.
        RuntimeError: Latent state asked for before the optimizer is built.

    Example:

    >>> kernel = keras.Variable([[0.75, -2.0]], name="kernel")
    >>> optimizer = STR(1.0, momentum=0.0, weight_decay=0.5, s_init=-20.0)
    >>> for _ in range(4):  # s: -10, -5, -2.5, -1.25
    ...     optimizer.apply([keras.ops.zeros((1, 2))], [kernel])
    >>> print(keras.ops.convert_to_numpy(kernel), optimizer.density)
    [[0. 0.]] 0.0

    Reference: [Kusupati et al., 2020](https://arxiv.org/abs/2002.03231), eq. 4
    to 6, g = sigmoid. Differs: w and s live in the optimizer, which is the same
    method (chain rule); w starts so that the kernel is what it was, not the
    kernel shrunk by sigmoid(s_init).
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        s_init: float = -200.0,
        filters: Filters = None,
        strict: bool = False,
        name: str = "str",
        **kwargs: Unpack[BaseArguments],
    ) -> None:
        super().__init__(
            learning_rate,
            momentum,
            weight_decay,
            filters,
            strict,
            name=name,
            **kwargs,
        )
        self.s_init = check_number("s_init", s_init, lambda x: x < 0, "< 0")

    # ---- state ---------------------------------------------------------

    def add_state(self, variables: list[keras.Variable]) -> None:
        """Adds w and s of each kernel, and the momenta of everything."""
        self._weights = self.slots("weight", variables, self._masked)
        self._s = self.slots("s", variables, self._masked, shape=())
        self._momenta = self.slots("momentum", variables)
        self._s_momenta = self.slots(
            "s_momentum", variables, self._masked, shape=()
        )

    def start(self, index: int, variable: keras.Variable) -> None:
        """Begins at `s_init`, with w whose image the weight is."""
        s = self._s[index]
        s.assign(ops.full((), self.s_init, s.dtype))
        self._weights[index].assign(self.consistent(index, variable))

    def consistent(self, index: int, variable: keras.Variable) -> Tensor | None:
        """Returns theta + sign(theta) t; where it is zero, w within t."""
        t = ops.sigmoid(host.as_tensor(self._s[index]))
        w = host.as_tensor(self._weights[index])
        theta = ops.stop_gradient(ops.cast(variable, w.dtype))
        within = ops.clip(w, -t, t)
        return ops.where(theta == 0, within, theta + ops.sign(theta) * t)

    # ---- what users look at --------------------------------------------

    @property
    def masks(self) -> Arrays:
        """`{variable.path: bool array}`: `True` where it is not zero."""
        return {
            path: ops.convert_to_numpy(variable) != 0
            for path, variable in self.masked_variables.items()
        }

    @property
    def thresholds(self) -> dict[str, float]:
        """`{variable.path: t}`, floats in [0, 1)."""
        return {
            path: float(ops.convert_to_numpy(ops.sigmoid(self._s[index])))
            for path, (index, _) in zip(self.masked_variables, self.members())
        }

    # ---- one step ------------------------------------------------------

    def update_step(self, gradient, variable, learning_rate):
        """One step of the equations above."""
        index = self._get_variable_index(variable)
        b_w = self._momenta[index]
        g = ops.cast(host.as_tensor(gradient), b_w.dtype)
        tau = ops.cast(learning_rate, b_w.dtype)

        def descend(x, g, b):
            b = self.momentum * b + g + self.coupled_decay * x
            return x - tau * b, b

        if not self._masked[index]:
            theta = ops.cast(variable, b_w.dtype)
            enforcement.apply_rule(
                self, descend, [theta, g, b_w], [variable, b_w]
            )
            return
        w = host.as_tensor(
            self.watch.kept(
                index,
                variable,
                self._weights[index],
                lambda: self.consistent(index, variable),
            )
        )
        s = host.as_tensor(self._s[index])
        b_s = host.as_tensor(self._s_momenta[index])
        t = ops.sigmoid(s)
        along = ops.sum(ops.where(ops.abs(w) > t, g * ops.sign(w), 0.0))
        # sigmoid(-s) is 1 - sigmoid(s) without cancellation.
        s, b_s = descend(s, -t * ops.sigmoid(-s) * along, b_s)
        new_t = ops.sigmoid(s)

        def rule(w, g, b_w):
            w, b_w = descend(w, ops.where(ops.abs(w) > t, g, 0.0), b_w)
            theta = ops.where(ops.abs(w) > new_t, w - ops.sign(w) * new_t, 0.0)
            return theta, w, b_w

        enforcement.apply_rule(
            self, rule, [w, g, b_w], [variable, self._weights[index], b_w]
        )
        self.assign(self._s[index], s)
        self.assign(self._s_momenta[index], b_s)
        self.watch.remember(index, variable)
