"""Regularizers of single weights."""

import keras
from keras import ops

from keras_app import host
from keras_app.hints import Tensor
from keras_app.regularizers.base import SparsityRegularizer


class _OfEntries(SparsityRegularizer):
    """lam sum |x_i|, where it is finite; a method says what its prox is."""

    elementwise = True

    def __init__(self, lam: float) -> None:
        super().__init__(lam=lam)

    def __call__(self, x):
        return self.live("lam") * ops.sum(ops.abs(host.float32_or_more(x)))

    def subgradient(self, x: Tensor) -> Tensor:
        """Returns `lam * sign(x)`."""
        return self.live("lam") * ops.sign(host.float32_or_more(x))

    def critical(self, x: Tensor) -> Tensor:
        """Returns `|x|`, of what is allowed."""
        return ops.abs(self.project(host.float32_or_more(x)))


@keras.saving.register_keras_serializable(package="keras_app")
class L1(_OfEntries):
    """Single weights: soft thresholding.

        J(x) = lam sum |x_i|
        prox = sign(x) max(|x| - t lam, 0)
        subgradient = lam sign(x)

    Args:
        lam: Strength, >= 0.

    Example:

    >>> weights = np.array([2.0, 0.2, -1.0])
    >>> print(keras.ops.convert_to_numpy(L1(0.5).prox(weights, 1.0)))
    [ 1.5  0.  -0.5]
    """

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """Returns the soft-thresholded `x`."""
        return soft_threshold(host.float32_or_more(x), step * self.live("lam"))


@keras.saving.register_keras_serializable(package="keras_app")
class NonNegativeL1(_OfEntries):
    """Single weights that must not be negative.

        J(x) = lam sum |x_i|, and infinite if any x_i < 0
        prox = max(x - t lam, 0)
        subgradient = lam sign(x)

    The value leaves the constraint out, so that it stays finite as a loss. An
    optimizer that starts from negative weights sets them to zero, and warns.

    Args:
        lam: Strength, >= 0.

    Example:

    >>> weights = np.array([2.0, 0.2, -1.0])
    >>> shrunk = NonNegativeL1(0.5).prox(weights, 1.0)
    >>> print(keras.ops.convert_to_numpy(shrunk))
    [1.5 0.  0. ]
    """

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """Returns `max(x - step * lam, 0)`."""
        shifted = host.float32_or_more(x) - step * self.live("lam")
        return ops.where(shifted <= 0, 0.0, shifted)

    def project(self, x: Tensor) -> Tensor:
        """Returns `max(x, 0)`."""
        return ops.relu(x)


def soft_threshold(x, threshold):
    """Returns `sign(x) max(|x| - threshold, 0)`."""
    # Not sign(x) max(|x| - t, 0), which leaves -0 behind.
    return x - ops.clip(x, -threshold, threshold)
