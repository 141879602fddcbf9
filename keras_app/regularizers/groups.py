"""Regularizers of groups of weights: neurons, 2-D kernels, filters."""

import math
from collections.abc import Sequence
from typing import get_args
from typing import Literal

import keras
from keras import ops

from keras_app import host
from keras_app.hints import Shape
from keras_app.hints import Tensor
from keras_app.regularizers.base import check_strength
from keras_app.regularizers.base import SparsityRegularizer
from keras_app.regularizers.base import Strength
from keras_app.regularizers.entries import soft_threshold

Grouping = Literal["auto", "filter", "in_channel"]
Axes = Grouping | int | Sequence[int]


class _Grouped(SparsityRegularizer):
    """A regularizer whose entries are grouped along axes of the kernel."""

    def __init__(self, axes: Axes, **strengths: float) -> None:
        self.axes = _check_axes(axes)
        super().__init__(**strengths)

    def check_shape(self, shape: Shape, name: str = "x") -> None:
        """Raises a `ValueError` for a vector, or axes that it lacks."""
        rank = len(shape)
        kind = type(self).__name__
        if rank < 2:
            raise ValueError(
                f"{kind} needs a kernel of rank 2 or more. "
                f"Received: {name} of shape {tuple(shape)}"
            )
        if isinstance(self.axes, str):
            return
        inside = all(-rank <= axis < rank for axis in self.axes)
        if not inside or len({a % rank for a in self.axes}) < len(self.axes):
            raise ValueError(
                f"`axes` must be different axes of the kernel. Received: "
                f"axes={self.axes} for {name} of shape {tuple(shape)}"
            )

    def group_axes(self, shape: Shape) -> tuple[int, ...]:
        """Returns the axes that a group extends over, for a kernel's shape."""
        self.check_shape(shape)
        rank = len(shape)
        if self.axes == "auto":
            # Dense (in, out): what enters one neuron. Convolution (..., in,
            # out): one kernel from one input channel to one output channel.
            return (0,) if rank == 2 else tuple(range(rank - 2))
        if self.axes == "filter":
            return tuple(range(rank - 1))
        if self.axes == "in_channel":
            return (*range(rank - 2), rank - 1)
        return tuple(axis % rank for axis in self.axes)

    def _norms(self, x):
        """Norm of each group and sqrt(n), the weight of groups of n entries."""
        axes = self.group_axes(x.shape)
        squares = ops.sum(ops.square(x), axis=axes, keepdims=True)
        # The root has no finite derivative at 0: zero groups go around it.
        zero = squares <= 0
        roots = ops.sqrt(ops.where(zero, 1.0, squares))
        weight = math.sqrt(math.prod(x.shape[axis] for axis in axes))
        return ops.where(zero, 0.0, roots), weight

    def _group_value(self, x, lam):
        norms, weight = self._norms(x)
        return lam * weight * ops.sum(norms)

    def _group_prox(self, x, threshold):
        norms, weight = self._norms(x)
        limit = threshold * weight
        # Stated for the dormant groups, so that NaN counts as active and
        # shows. A product with 0 would leave -0 behind.
        dormant = norms <= limit
        shrunk = 1.0 - limit / ops.where(dormant, 1.0, norms)
        return ops.where(dormant, 0.0, x * shrunk)

    def _group_subgradient(self, x, lam):
        norms, weight = self._norms(x)
        return x * (lam * weight / ops.where(norms <= 0, 1.0, norms))


@keras.saving.register_keras_serializable(package="keras_app")
class GroupL2(_Grouped):
    """Whole groups of weights: neurons, 2-D kernels, filters.

        J(x) = lam sqrt(n) sum_G ||x_G||,  n the size of a group
        prox = x_G max(1 - t lam sqrt(n) / ||x_G||, 0)
        subgradient = lam sqrt(n) x_G / ||x_G||, 0 for zero groups

    Args:
        lam: Strength, >= 0.
        axes: What a group extends over. `"auto"`: the column of a dense
            kernel (all that enters one neuron), one spatial kernel of a
            convolution (all axes but the last two). `"filter"`: all axes but
            the last. `"in_channel"`: all axes but the second last. Or a tuple
            of axes, which kernels of `EinsumDense` and attention need.
            Defaults to `"auto"`.

    Example:

    >>> kernel = np.array([[3.0, 0.1], [4.0, 0.1]])  # two inputs, two neurons
    >>> shrunk = GroupL2(1 / 2**0.5).prox(kernel, 1.0)
    >>> print(keras.ops.convert_to_numpy(shrunk).round(4))
    [[2.4 0. ]
     [3.2 0. ]]
    """

    def __init__(self, lam: float, axes: Axes = "auto") -> None:
        super().__init__(axes, lam=lam)

    def __call__(self, x):
        return self._group_value(host.float32_or_more(x), self.live("lam"))

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """Returns `x` with every group shortened, short ones to zero."""
        return self._group_prox(
            host.float32_or_more(x), step * self.live("lam")
        )

    def subgradient(self, x: Tensor) -> Tensor:
        """Returns the groups of `x`, each of length `lam * sqrt(n)`."""
        return self._group_subgradient(
            host.float32_or_more(x), self.live("lam")
        )

    def support(self, x: Tensor) -> Tensor:
        """Returns which groups are active."""
        axes = self.group_axes(x.shape)
        return ops.any(ops.not_equal(x, 0), axis=axes, keepdims=True)

    def critical(self, x: Tensor) -> Tensor:
        """Returns `||x_G|| / sqrt(n)`."""
        norms, weight = self._norms(host.float32_or_more(x))
        return norms / weight


@keras.saving.register_keras_serializable(package="keras_app")
class SparseGroup(_Grouped):
    """Groups, and single weights within the groups that stay.

        J(x) = lam_1 ||x||_1 + lam_2 sqrt(n) sum_G ||x_G||
        prox = group prox with t lam_2 of the soft threshold with t lam_1
        subgradient = the sum of the two

    Args:
        lam_1: Strength on single weights, >= 0.
        lam_2: Strength on groups, >= 0.
        axes: See `GroupL2`. Defaults to `"auto"`.
        reference_double_lambda: Whether both terms act with the squares of
            their strengths and the value is 0, as in the authors' code.
            Defaults to `False`.

    Attribute `lam` is the sum of both; setting it keeps their ratio.

    Example:

    >>> kernel = np.array([[3.5, 0.2], [4.5, 0.2]])
    >>> shrunk = SparseGroup(0.5, 1 / 2**0.5).prox(kernel, 1.0)
    >>> print(keras.ops.convert_to_numpy(shrunk).round(4))
    [[2.4 0. ]
     [3.2 0. ]]
    """

    lam_1 = Strength()
    lam_2 = Strength()

    def __init__(
        self,
        lam_1: float,
        lam_2: float,
        axes: Axes = "auto",
        reference_double_lambda: bool = False,
    ) -> None:
        super().__init__(axes, lam_1=lam_1, lam_2=lam_2)
        self.reference_double_lambda = bool(reference_double_lambda)
        total = self.lam
        self._share = self.lam_1 / total if total else 0.5

    @property
    def lam(self) -> float:
        """`lam_1 + lam_2`."""
        return self.lam_1 + self.lam_2

    @lam.setter
    def lam(self, value: float) -> None:
        self.lam_1, self.lam_2 = self._split(check_strength("lam", value))

    def _split(self, lam):
        """`(lam_1, lam_2)` of a sum, in the ratio they have."""
        total = self.lam
        # From zero the strengths grow in the ratio they began with.
        share = self.lam_1 / total if total else self._share
        return share * lam, (1.0 - share) * lam

    def __call__(self, x):
        x = host.float32_or_more(x)
        lam_1, lam_2 = self._acting()
        value = lam_1 * ops.sum(ops.abs(x)) + self._group_value(x, lam_2)
        return 0.0 * value if self.reference_double_lambda else value

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """Returns the group prox of the soft threshold; the order matters."""
        lam_1, lam_2 = self._acting()
        x = soft_threshold(host.float32_or_more(x), step * lam_1)
        return self._group_prox(x, step * lam_2)

    def subgradient(self, x: Tensor) -> Tensor:
        """Returns the sum of both subgradients."""
        x = host.float32_or_more(x)
        lam_1, lam_2 = self._acting()
        return lam_1 * ops.sign(x) + self._group_subgradient(x, lam_2)

    def critical(self, x: Tensor) -> Tensor:
        """Returns the root of `||soft(x_G, lam_1)|| = lam_2 sqrt(n)`.

        In `lam`, with the ratio of the two as it is: by bisection, because
        the left side falls and the right side rises.
        """
        x = host.float32_or_more(x)
        low = ops.zeros_like(self._norms(x)[0])
        # One of the two has half of the sum or more, and zeroes alone.
        largest = ops.max(ops.abs(x))
        high = low + 2 * (largest + ops.sqrt(largest))
        for _ in range(64):
            middle = (low + high) / 2
            lam_1, lam_2 = self._act(*self._split(middle))
            norms, weight = self._norms(soft_threshold(x, lam_1))
            dead = norms <= lam_2 * weight
            low = ops.where(dead, low, middle)
            high = ops.where(dead, middle, high)
        return ops.where(self._norms(x)[0] <= 0, 0.0, high)

    def _acting(self):
        return self._act(self.live("lam_1"), self.live("lam_2"))

    def _act(self, lam_1, lam_2):
        if self.reference_double_lambda:
            return lam_1 * lam_1, lam_2 * lam_2
        return lam_1, lam_2


def _check_axes(axes):
    if isinstance(axes, str) and axes in get_args(Grouping):
        return axes
    axes = (axes,) if isinstance(axes, int) else axes
    whole = isinstance(axes, (tuple, list)) and all(
        isinstance(axis, int) and not isinstance(axis, bool) for axis in axes
    )
    if not whole or not axes:
        raise ValueError(
            f"`axes` must be one of {get_args(Grouping)} or a tuple of axes. "
            f"Received: axes={axes!r}"
        )
    return tuple(axes)
