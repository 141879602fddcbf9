"""What all regularizers share: strengths, and the formulas they owe."""

import abc
import weakref

import keras
import numpy as np
from keras import ops

from keras_app.checks import check_number
from keras_app.config import Configured
from keras_app.hints import Shape
from keras_app.hints import Tensor


class Strength:
    """A factor >= 0, a Python float to the outside.

    Once an optimizer is built the number lives in a variable among the
    optimizer's, so that compiled steps see a change and files keep it.
    """

    def __set_name__(self, owner, name):
        self._name = name

    def __get__(self, regularizer, owner=None):
        if regularizer is None:
            return self
        # The variable is float32; its shortest decimal form is what was set.
        value = regularizer.live(self._name)
        if isinstance(value, float):
            return value
        return float(str(np.float32(ops.convert_to_numpy(value))))

    def __set__(self, regularizer, value):
        value = check_strength(self._name, value)
        held = regularizer.strengths
        if isinstance(held.get(self._name), keras.Variable):
            held[self._name].assign(value)
        else:
            held[self._name] = value


class SparsityRegularizer(Configured, keras.regularizers.Regularizer, abc.ABC):
    """What all regularizers here share. Subclasses give the three formulas.

    Attributes:
        lam: Strength, >= 0. Setting it acts on the next training step, in
            compiled steps too. On JAX, call `model.jax_state_sync()` first
            where it is set between two batches, as for a learning rate.
        elementwise: Whether J is a sum over single entries.
        strengths: `{name: float or keras.Variable}`.
        optimizers: The optimizers it was handed to.
    """

    elementwise = False
    lam = Strength()

    def __init__(self, **strengths: float) -> None:
        self.strengths = {}
        self.optimizers = weakref.WeakSet()
        for name, value in strengths.items():
            setattr(self, name, value)

    # ---- what a regularizer says ---------------------------------------

    @abc.abstractmethod
    def __call__(self, x):
        """Returns J(x), a scalar."""

    @abc.abstractmethod
    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """Returns argmin_z step * J(z) + 0.5 * ||z - x||^2.

        Args:
            x: Tensor.
            step: Float or scalar tensor, >= 0.
        """

    @abc.abstractmethod
    def subgradient(self, x: Tensor) -> Tensor:
        """Returns one element of dJ(x), with 0 where x, or its group, is 0."""

    def support(self, x: Tensor) -> Tensor:
        """Returns where x is active: a bool tensor that broadcasts to x."""
        return ops.not_equal(x, 0)

    def critical(self, x: Tensor) -> Tensor:
        """Returns the strength from which on each entry, or group, is zero.

        `prox(t x, t)` is zero there for every `lam` that is not smaller,
        whatever t > 0.

        Args:
            x: Tensor.

        Returns:
            Float tensor >= 0 that broadcasts to x, with one entry for each
            entry or group.

        Raises:
            NotImplementedError: J makes no entries zero (`Nuclear`).
        """
        raise NotImplementedError

    def group_axes(self, shape: Shape) -> tuple[int, ...]:
        """Returns the axes of a kernel that a group extends over."""
        return ()

    def project(self, x: Tensor) -> Tensor:
        """Returns the nearest point where J is finite."""
        return x

    def check_shape(self, shape: Shape, name: str = "x") -> None:
        """Raises a `ValueError` for a shape that J is not defined on."""

    # ---- strengths -----------------------------------------------------

    def live(self, name: str) -> float | keras.Variable:
        """Returns a strength as the formulas use it: a float or a variable."""
        return self.strengths[name]

    def variables(self) -> list[keras.Variable]:
        """Returns the strengths as variables, for an optimizer to keep."""
        for name, value in self.strengths.items():
            if not isinstance(value, keras.Variable):
                self.strengths[name] = keras.Variable(
                    value,
                    dtype="float32",
                    trainable=False,
                    aggregation="only_first_replica",
                    name=name,
                )
        return list(self.strengths.values())


def check_strength(name, value):
    """Returns a strength as a float, or raises."""
    # NumPy scalars would end up in configs, which must be plain.
    if isinstance(value, bool) or not np.isscalar(value):
        raise TypeError(
            f"`{name}` must be a number >= 0. Received: {name}={value!r}"
        )
    return check_number(name, value, lambda x: x >= 0)
