"""Continuous sparsification: which weights to keep, learned by descent."""

import math
from typing import get_args
from typing import Literal
from typing import Unpack

import keras
import numpy as np
from keras import ops

from keras_app import enforcement
from keras_app import host
from keras_app import selection
from keras_app.checks import check_choice
from keras_app.checks import check_number
from keras_app.hints import Arrays
from keras_app.hints import Filters
from keras_app.hints import LearningRate
from keras_app.hints import Tensor
from keras_app.optimizers.base import BaseArguments
from keras_app.optimizers.learned import LearnedSparsity

PenaltyOn = Literal["scaled", "sigmoid"]
DecayOn = Literal["all", "kernels"]

# The rule between rounds multiplies logits again and again; far below zero
# they need not grow until float32 overflows.
_LOWEST_LOGIT = -1e6

# Where the soft mask is smaller, a weight cannot be told from its product.
_SMALLEST_MASK = 1e-6


@keras.saving.register_keras_serializable(package="keras_app")
class ContinuousSparsification(LearnedSparsity):
    """Learns weights w and mask logits s; the kernel holds their product.

        theta = w m,   m = c sigmoid(beta s),   c = 1 / sigmoid(s_init)

        g_w = g m + weight_decay w
        g_s = (g w + lam) c beta sigmoid(beta s) sigmoid(-beta s)
        b <- momentum b + g_x;   x <- x - learning_rate (g_x + momentum b)

    for x = w, s, with g the gradient at theta. The layers are left alone: the
    forward pass costs nothing extra, and any model can be trained. While the
    temperature beta grows (`keras_app.pruners.ContinuousSparsifier` moves it)
    the sigmoid becomes a step; `harden` replaces it by one, after which
    `theta = c w 1[s > 0]` and only w is trained.

    The sparsity is an outcome, steered by `s_init`. Variables without a mask
    are trained by the same rule without m. Four arrays beside each masked
    weight, one beside each other.

    Clipping acts on g, not on (g_w, g_s).

    Args:
        learning_rate: For w and s, a float > 0 or a schedule. Defaults to
            `0.1`.
        momentum: Nesterov momentum, in [0, 1). Its buffers hold no learning
            rate; not Keras's momentum. Defaults to `0.9`.
        weight_decay: Coupled, on w and on variables without a mask, never on s,
            >= 0. Defaults to `1e-4`.
        lam: Strength of the penalty on the mask, >= 0. Defaults to `1e-8`.
        s_init: Initial logit, in [-10, 10]; larger is denser. Defaults to
            `0.0`.
        filters: Which variables get a mask: a regex or a list of regexes,
            searched in `variable.path`; a callable `variable -> bool`, such as
            `keras_app.selection.spatial_kernels`, which makes the authors'
            choice (no classifier, no 1x1 projections). Defaults to `None`: all
            kernels.
        penalty_on: `"scaled"` penalizes m, as the authors' code;
            `"sigmoid"` penalizes m / c. Defaults to `"scaled"`.
        decay_on: `"all"` decays every variable, as the authors' code;
            `"kernels"` spares biases and normalization. Defaults to `"all"`.
        strict: Whether a `kernel_regularizer` on a masked weight is an error
            instead of a warning: its gradient at theta is an additional
            pressure on s. Defaults to `False`.
        **kwargs: Keras's base arguments, such as `clipnorm`.

    Raises:
        ValueError: An argument out of its range, `use_ema`; when training
            starts: filters that match nothing, a masked weight with a
            constraint.
        RuntimeError: Latent state asked for before the optimizer is built.

    Example:

    >>> kernel = keras.Variable([[1.0, -2.0]], name="kernel")
    >>> optimizer = ContinuousSparsification(0.5, momentum=0.0, weight_decay=0)
    >>> gradient = keras.ops.convert_to_tensor([[1.0, 1.0]])
    >>> optimizer.apply([gradient], [kernel])  # both move to a smaller product
    >>> (w, s), = optimizer.weights_and_logits.values()
    >>> print(w, s)
    [[ 0.5 -2.5]] [[-0.25  0.5 ]]
    >>> optimizer.harden()
    >>> print(keras.ops.convert_to_numpy(kernel) + 0.0)
    [[ 0. -5.]]

    Reference: [Savarese et al., 2020](https://arxiv.org/abs/1912.04427),
    algorithm 1. Differs: the masks live in the optimizer, which is the same
    method (chain rule, theta = w m is elementwise).
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        lam: float = 1e-8,
        s_init: float = 0.0,
        filters: Filters = None,
        penalty_on: PenaltyOn = "scaled",
        decay_on: DecayOn = "all",
        strict: bool = False,
        name: str = "continuous_sparsification",
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
        lam = check_number("lam", lam, lambda x: x >= 0)
        s_init = check_number(
            "s_init", s_init, lambda x: abs(x) <= 10, "in [-10, 10]"
        )
        check_choice("penalty_on", penalty_on, get_args(PenaltyOn))
        check_choice("decay_on", decay_on, get_args(DecayOn))
        self.lam = lam
        self.s_init = s_init
        self.penalty_on = penalty_on
        self.decay_on = decay_on
        self.scale = 1.0 + math.exp(-s_init)
        self._first_temperature = 1.0

    # ---- state ---------------------------------------------------------

    def build(self, variables):
        """Makes w, s and their momenta, from the weights as they are now."""
        if self.built:
            return
        super().build(variables)
        if self._first_temperature != 1.0:
            with host.outside_the_graph():
                self._temperature.assign(self._first_temperature)
                self._write_kernels()

    def add_state(self, variables: list[keras.Variable]) -> None:
        """Adds w, s, their momenta, the temperature and whether m is a step."""
        self._weights = self.slots("weight", variables, self._masked)
        self._logits = self.slots("logit", variables, self._masked)
        self._weight_momenta = self.slots("momentum", variables)
        self._logit_momenta = self.slots(
            "logit_momentum", variables, self._masked
        )
        with host.outside_the_graph():
            self._temperature = self.add_variable(
                (), initializer="ones", dtype="float32", name="temperature"
            )
            self._hard = self.add_variable(
                (), initializer="zeros", dtype="bool", name="hard"
            )

    def start(self, index: int, variable: keras.Variable) -> None:
        """Begins with w at the weight, and s at `s_init`."""
        # A copy: JAX would make both one buffer and donate it twice.
        self._weights[index].assign(ops.copy(variable))
        logits = self._logits[index]
        logits.assign(ops.full(logits.shape, self.s_init, logits.dtype))

    # ---- what users look at and move -----------------------------------

    @property
    def weights_and_logits(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """`{variable.path: (w, s)}`, arrays of the variable's shape."""
        array = ops.convert_to_numpy
        return {
            path: (array(self._weights[index]), array(self._logits[index]))
            for path, (index, _) in zip(self.masked_variables, self.members())
        }

    @property
    def masks(self) -> Arrays:
        """`{variable.path: bool array}`: `True` where s > 0, strictly."""
        return {path: s > 0 for path, (_, s) in self.weights_and_logits.items()}

    @property
    def soft_density(self) -> float:
        """Mean of sigmoid(beta s) over the masked weights, in [0, 1]."""
        logits = [s.ravel() for _, s in self.weights_and_logits.values()]
        x = self.temperature * np.concatenate(logits)
        return float(np.mean(ops.convert_to_numpy(ops.sigmoid(x))))

    @property
    def is_hard(self) -> bool:
        """Whether the mask is a step, and only w is trained."""
        self.members()
        return bool(ops.convert_to_numpy(self._hard))

    @property
    def temperature(self) -> float:
        """beta, a float >= 1. Setting it rewrites the kernels."""
        if not self.built:
            return self._first_temperature
        return float(ops.convert_to_numpy(self._temperature))

    @temperature.setter
    def temperature(self, value: float) -> None:
        value = check_number("temperature", value, lambda x: x >= 1, ">= 1")
        if not self.built:
            self._first_temperature = value
            return
        self._follow_model()
        self._temperature.assign(value)
        # Otherwise the next gradient is taken at the old product.
        self._write_kernels()

    def harden(self) -> None:
        """Makes the mask a step: kernels become c w 1[s > 0]."""
        self._set_hard(True)

    def soften(self) -> None:
        """Makes the mask a sigmoid again, and trains it."""
        self._set_hard(False)

    def _set_hard(self, hard):
        self._follow_model()
        self._hard.assign(hard)
        self._write_kernels()

    def prune_logits(self) -> None:
        """The rule between rounds: s <- min(temperature s, s_init).

        What the round decided to drop starts the next one far below zero, and
        what it kept has to win again. Call it before the temperature is set
        back to 1; at temperature 1 it is what the authors' code executes.
        """
        self._follow_model()
        for index, _ in self.members():
            s = self._logits[index]
            scaled = ops.minimum(self._temperature * s, self.s_init)
            s.assign(ops.maximum(scaled, _LOWEST_LOGIT))
        self._write_kernels()

    def keep_at_least(self, min_density: float) -> None:
        """Lifts the largest logits of each emptied weight just above zero.

        Args:
            min_density: Share of each masked weight to keep, in [0, 1].
        """
        check_number("min_density", min_density, lambda x: 0 <= x <= 1)
        for index, _ in self.members():
            s = ops.convert_to_numpy(self._logits[index])
            wanted = math.ceil(min_density * s.size)
            if np.count_nonzero(s > 0) >= wanted:
                continue
            lifted = s.ravel().copy()
            top = np.argsort(-lifted, kind="stable")[:wanted]
            lifted[top] = np.maximum(lifted[top], np.float32(_SMALLEST_MASK))
            self._logits[index].assign(lifted.reshape(s.shape))
        self._write_kernels()

    def rewind(self, weights: Arrays) -> None:
        """Sets w and forgets the momenta; the logits stay.

        Args:
            weights: `{variable.path: array}` for every masked weight.
        """
        for path, (index, _) in zip(self.masked_variables, self.members()):
            self._weights[index].assign(weights[path])
        self._write_kernels()
        self.reset_momentum()

    def reset_momentum(self) -> None:
        """Sets every momentum to zero."""
        self.members()
        for slot in (*self._weight_momenta, *self._logit_momenta):
            if slot is not None:
                slot.assign(ops.zeros(slot.shape, slot.dtype))

    def _follow_model(self):
        replaced = [
            self.watch.replaced(index, variable)
            for index, variable in self.members()
        ]
        if any(bool(ops.convert_to_numpy(each)) for each in replaced):
            self.sync_from_model()

    def _write_kernels(self):
        for index, variable in self.members():
            s = ops.convert_to_tensor(self._logits[index])
            theta = self._weights[index] * self._mask(s)
            variable.assign(ops.cast(theta, variable.dtype))
            self.watch.remember(index, variable)

    # ---- one step ------------------------------------------------------

    def update_step(self, gradient, variable, learning_rate):
        """One step of the equations above."""
        index = self._get_variable_index(variable)
        b_w = self._weight_momenta[index]
        g = ops.cast(host.as_tensor(gradient), b_w.dtype)
        tau = ops.cast(learning_rate, b_w.dtype)
        mu = self.momentum
        known = self._trainable_variables[index]
        decays = self.decay_on == "all" or selection.is_kernel(known)
        decay = self.coupled_decay if decays else 0.0

        def descend(x, g, b, mu=mu, tau=tau):
            b = mu * b + g if self.momentum else g
            return x - tau * (g + mu * b), b

        if not self._masked[index]:

            def rule(theta, g, b):
                return descend(theta, g + decay * theta, b)

            theta = ops.cast(variable, b_w.dtype)
            enforcement.apply_rule(self, rule, [theta, g, b_w], [variable, b_w])
            return
        c = self.scale
        beta = ops.cast(self._temperature, b_w.dtype)
        lam = self.lam if self.penalty_on == "scaled" else self.lam / c
        # Under a hard mask s rests. Numbers say so, because a condition would
        # keep compilers from computing everything in one pass.
        hard = host.as_tensor(self._hard)
        slope = ops.where(hard, 0.0, c * beta)
        resting = {
            "mu": ops.where(hard, 1.0, mu),
            "tau": ops.where(hard, 0.0, tau),
        }

        def rule(w, s, g, b_w, b_s):
            x = beta * s
            gate = self._gate(s, ops.sigmoid(x))
            g = g * gate
            # sigmoid(-x) is 1 - sigmoid(x) without cancellation.
            g_s = slope * (g * w + lam * gate) * ops.sigmoid(-x)
            w, b_w = descend(w, c * g + decay * w, b_w)
            s, b_s = descend(s, g_s, b_s, **resting)
            theta = self._gate(s, ops.sigmoid(beta * s)) * (c * w)
            return theta, w, s, b_w, b_s

        w = self.watch.kept(
            index,
            variable,
            self._weights[index],
            lambda: self.consistent(index, variable),
        )
        s, b_s = self._logits[index], self._logit_momenta[index]
        enforcement.apply_rule(
            self,
            rule,
            [w, s, g, b_w, b_s],
            [variable, self._weights[index], s, b_w, b_s],
        )
        self.watch.remember(index, variable)

    def _gate(self, s, sigmoid):
        """The unscaled mask: a step at s > 0 if it is hard, or the sigmoid."""
        hard = host.known(self._hard)
        if hard is False:
            return sigmoid
        step = ops.cast(s > 0, s.dtype)
        if hard is True:
            return step
        return ops.where(host.as_tensor(self._hard), step, sigmoid)

    def _mask(self, s):
        """m at the tensor s."""
        beta = ops.cast(self._temperature, s.dtype)
        return self.scale * self._gate(s, ops.sigmoid(beta * s))

    def consistent(self, index: int, variable: keras.Variable) -> Tensor | None:
        """Returns theta / m where m > 1e-6, and w elsewhere."""
        w = ops.convert_to_tensor(self._weights[index])
        theta = ops.stop_gradient(ops.cast(variable, w.dtype))
        m = self._mask(ops.convert_to_tensor(self._logits[index]))
        known = m > _SMALLEST_MASK
        return ops.where(known, theta / ops.where(known, m, 1.0), w)
