"""The base of Bregman optimizers: a dual variable beside each kernel."""

import abc
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_app import enforcement
from keras_app import host
from keras_app import split
from keras_app.checks import check_number
from keras_app.checks import check_whole
from keras_app.hints import Arrays
from keras_app.hints import LearningRate
from keras_app.hints import Tensor
from keras_app.optimizers import latent
from keras_app.optimizers.regularized import OnChange
from keras_app.optimizers.regularized import RegularizedOptimizer
from keras_app.optimizers.regularized import Regularizers
from keras_app.regularizers import SparsityRegularizer

_PENALTIES_OF_KERAS = (
    keras.regularizers.L1,
    keras.regularizers.L1L2,
    keras.regularizers.L2,
)


class BregmanOptimizer(RegularizedOptimizer):
    """Steps on a dual variable v, whose prox is the weight.

        v <- v - step(gradient)
        theta <- prox_{delta J}(delta v)

    Initially `v = theta / delta + subgradient(theta)`, from the weights present
    when training starts. A weight that is zero wakes up once its accumulated
    gradient exceeds `lam`; an active one descends without a bias.

    Weights that were replaced since the last step (loaded, set, sparsified)
    are noticed at the next one, which then starts from them with a dual
    variable made again. That goes for compiled steps too.

    Args:
        delta: Elastic-net parameter, > 0.
        l2: Coupled weight decay, >= 0: `l2 * theta` is added to the gradient.
        support_update_freq: The support may change at every so many steps;
            in between only active weights move, >= 1.
        learning_rate, regularizers, **kwargs: See `RegularizedOptimizer`.
    """

    # A mask would change weights behind the dual variable's back.
    finds_zeros = True

    def __init__(
        self,
        learning_rate: LearningRate,
        delta: float,
        regularizers: Regularizers,
        l2: float,
        support_update_freq: int = 1,
        **kwargs: Any,
    ) -> None:
        delta = check_number("delta", delta, lambda x: x > 0, "> 0")
        l2 = check_number("l2", l2, lambda x: x >= 0)
        check_whole("support_update_freq", support_update_freq, 1)
        latent.refuse_base_arguments(type(self).__name__, kwargs)
        super().__init__(learning_rate, regularizers, **kwargs)
        self.delta = delta
        self.l2 = l2
        self.support_update_freq = int(support_update_freq)

    # ---- what a method says --------------------------------------------

    # Names of the arrays of zeros that a method keeps for each variable.
    slot_names: tuple[str, ...] = ()

    @abc.abstractmethod
    def step(
        self, gradient: Tensor, learning_rate: Tensor, *slots: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns what is subtracted from v, and the new slots: a tuple.

        A rule for single entries: it is also given pieces of a variable.
        """

    # ---- state ---------------------------------------------------------

    def build(self, variables):
        """Makes the dual variables, from the weights as they are now."""
        if self.built:
            return
        super().build(variables)
        self._refuse(variables)
        self._slots = [
            [enforcement.add_latent(self, v, name) for v in variables]
            for name in self.slot_names
        ]
        self._duals = [
            None
            if regularizer is None
            else enforcement.add_latent(self, variable, "subgradient")
            for regularizer, variable in zip(self._regularizer_of, variables)
        ]
        self._watch = latent.Watch(
            self,
            [
                None if dual is None else variable
                for dual, variable in zip(self._duals, variables)
            ],
        )
        self.reset_subgradients()

    @property
    def subgradients(self) -> Arrays:
        """The dual variables, `{variable.path: float array}`."""
        if not self.built:
            return {}
        return {
            variable.path: ops.convert_to_numpy(self._duals[index])
            for index, variable in self._regularized()
        }

    def reset_subgradients(self) -> None:
        """Makes the dual variables again from the weights as they are.

        A step does it by itself where weights were replaced; call it to look
        at `subgradients` before.
        """
        with host.outside_the_graph():
            for index, variable in self._regularized():
                regularizer = self._regularizer_of[index]
                theta = ops.stop_gradient(ops.convert_to_tensor(variable))
                allowed = regularizer.project(theta)
                refused = _count(allowed != theta)
                if refused:
                    warnings.warn(
                        f"{variable.path} holds weights that "
                        f"{type(regularizer).__name__} does not allow; "
                        f"{refused} of them are set to zero."
                    )
                    variable.assign(allowed)
                self._warn_of_strength(variable.path, regularizer, allowed)
                self._duals[index].assign(self._consistent(index, allowed))
                self._watch.remember(index, variable)

    def set_strength(
        self,
        regularizer: SparsityRegularizer,
        lam: float,
        on_change: OnChange = "reset",
    ) -> None:
        """Sets `regularizer.lam` without moving its weights.

        Args:
            regularizer: A regularizer of this optimizer.
            lam: The new strength, >= 0.
            on_change: `"reset"`: dual variables are made again, dormant weights
                lose what they have accumulated. `"rescale"`: dormant ones keep
                their progress, `v <- v * lam / old lam`. `"keep"`: dual
                variables stay, and active weights jump at the next step.
        """
        members = self.members(regularizer)
        old = regularizer.lam
        regularizer.lam = lam
        if on_change == "keep":
            return
        factor = lam / old if old > 0 else 0.0
        for index, variable in members:
            theta = ops.stop_gradient(ops.convert_to_tensor(variable))
            v = self._consistent(index, theta)
            if on_change == "rescale":
                active = regularizer.support(theta)
                v = ops.where(active, v, factor * self._duals[index])
            self._duals[index].assign(v)

    # ---- one step ------------------------------------------------------

    def update_step(self, gradient, variable, learning_rate):
        """One step of the equations above."""
        index = self._get_variable_index(variable)
        regularizer = self._regularizer_of[index]
        theta = host.float32_or_more(variable)
        tau = ops.cast(learning_rate, theta.dtype)
        g = ops.cast(host.as_tensor(gradient), theta.dtype)
        slots = [held[index] for held in self._slots]
        if regularizer is None:

            def rule(theta, g, *slots):
                # Without J, v is theta / delta, and need not be stored.
                step, *slots = self._step(theta, g, tau, slots)
                return theta - self.delta * step, *slots

            enforcement.apply_rule(
                self, rule, [theta, g, *slots], [variable, *slots]
            )
            return
        v = self._dual(index, variable, theta)
        due = ops.equal(self.iterations % self.support_update_freq, 0)

        def rule(theta, v, g, *slots):
            step, *slots = self._step(theta, g, tau, slots)
            if self.support_update_freq > 1:
                free = ops.logical_or(due, regularizer.support(theta))
                step = ops.where(free, step, 0.0)
            v = v - step
            dv = v if self.delta == 1 else self.delta * v
            return regularizer.prox(dv, self.delta), v, *slots

        enforcement.apply_rule(
            self,
            rule,
            [theta, v, g, *slots],
            [variable, self._duals[index], *slots],
            in_pieces=regularizer.elementwise,
        )
        self._watch.remember(index, variable)

    def _step(self, theta, g, tau, slots):
        if self.l2:
            g = g + self.l2 * theta
        return self.step(g, tau, *slots)

    def refresh(self, index: int, variable: keras.Variable) -> None:
        """Makes v again if the weight was replaced."""
        theta = ops.stop_gradient(host.float32_or_more(variable))
        self._duals[index].assign(self._dual(index, variable, theta))

    def point(self, index: int) -> tuple[Tensor, Tensor]:
        """Returns `(delta v, delta)`."""
        v = host.as_tensor(self._duals[index])
        return (v if self.delta == 1 else self.delta * v), self.delta

    def latent(self, index: int) -> keras.Variable:
        """Returns v."""
        return self._duals[index]

    def after_write(self, index: int, variable: keras.Variable) -> None:
        """Notices that the weight is its own."""
        if host.updates(self) == 0:
            # The first step makes v again: here too, on every backend.
            theta = ops.stop_gradient(host.float32_or_more(variable))
            self._duals[index].assign(self._consistent(index, theta))
        self._watch.remember(index, variable)

    def _dual(self, index, variable, theta):
        """v, made again if the weights are not those of the last step."""
        return self._watch.kept(
            index,
            variable,
            self._duals[index],
            lambda: self._consistent(index, theta),
            or_if=ops.equal(self.iterations, 0),
        )

    def _consistent(self, index, theta):
        """`theta / delta + subgradient(theta)`, which leaves theta in place."""
        regularizer = self._regularizer_of[index]
        dtype = self._duals[index].dtype
        theta = ops.cast(regularizer.project(theta), dtype)
        return theta / self.delta + regularizer.subgradient(theta)

    # ---- what cannot work ----------------------------------------------

    def _refuse(self, variables):
        for variable, regularizer in zip(variables, self._regularizer_of):
            if regularizer is None:
                continue
            kind, path = type(self).__name__, variable.path
            latent.refuse_constraint(
                kind, variable, "put it into the regularizer (NonNegativeL1)"
            )
            penalty = getattr(variable, "regularizer", None)
            if isinstance(penalty, _PENALTIES_OF_KERAS):
                warnings.warn(
                    f"{path} has a kernel_regularizer ({penalty!r}) besides "
                    f"{kind}'s; both act, the former through the gradient."
                )
            if self.support_update_freq > 1:
                regularizer.support(ops.zeros(variable.shape))

    def _warn_of_strength(self, path, regularizer, theta):
        zeros = _count(theta == 0)
        if regularizer.lam == 0 and zeros:
            warnings.warn(
                f"{path} starts with {zeros} zeros, but lam is 0: they will "
                "not last."
            )
        largest = float(ops.max(ops.abs(theta)))
        jump = float(ops.max(ops.abs(regularizer.subgradient(theta))))
        lost = np.finfo("float32").eps * self.delta * jump
        if largest and lost > 1e-3 * largest:
            warnings.warn(
                f"lam={regularizer.lam:g} is so large that float32 cannot hold "
                f"the weights of {path} beside it; they will change at the "
                "first step. Lower lam, or set them to zero."
            )


def _count(condition):
    return split.count(split.read(condition))
