"""Sparsity regularizers: penalty, prox and subgradient side by side.

Each is a `keras.regularizers.Regularizer`, so it works as
`kernel_regularizer=` too, and has what the optimizers of `keras_app.optimizers`
need:

    value        J(x)                                       `regularizer(x)`
    prox         argmin_z  t J(z) + 0.5 ||z - x||^2         `.prox(x, t)`
    subgradient  one element of dJ(x), 0 at zeros           `.subgradient(x)`

For all of them `prox(x + t * subgradient(x), t) == x`, which is what keeps the
weights in place when the dual variable of a Bregman optimizer is initialized.

Arguments and results are tensors of one shape; float16 and bfloat16 are
computed in float32.

Reference: [Bungert et al., 2022](https://arxiv.org/abs/2105.04319).
"""

import abc
import math
import weakref

import keras
import numpy as np
from keras import ops

from keras_app import host
from keras_app.checks import check_number
from keras_app.config import Configured

GROUPINGS = ("auto", "filter", "in_channel")


class _Strength:
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
        value = _check_strength(self._name, value)
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
    lam = _Strength()

    def __init__(self, **strengths):
        self.strengths = {}
        self.optimizers = weakref.WeakSet()
        for name, value in strengths.items():
            setattr(self, name, value)

    # ---- what a regularizer says ---------------------------------------

    @abc.abstractmethod
    def __call__(self, x):
        """Returns J(x), a scalar."""

    @abc.abstractmethod
    def prox(self, x, step):
        """Returns argmin_z step * J(z) + 0.5 * ||z - x||^2.

        Args:
            x: Tensor.
            step: Float or scalar tensor, >= 0.
        """

    @abc.abstractmethod
    def subgradient(self, x):
        """Returns one element of dJ(x), with 0 where x, or its group, is 0."""

    def support(self, x):
        """Returns where x is active: a bool tensor that broadcasts to x."""
        return ops.not_equal(x, 0)

    def project(self, x):
        """Returns the nearest point where J is finite."""
        return x

    def check_shape(self, shape, name="x"):
        """Raises a `ValueError` for a shape that J is not defined on."""

    # ---- strengths -----------------------------------------------------

    def live(self, name):
        """Returns a strength as the formulas use it: a float or a variable."""
        return self.strengths[name]

    def variables(self):
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


class _OfEntries(SparsityRegularizer):
    """lam sum |x_i|, where it is finite; a method says what its prox is."""

    elementwise = True

    def __init__(self, lam):
        super().__init__(lam=lam)

    def __call__(self, x):
        return self.live("lam") * ops.sum(ops.abs(host.float32_or_more(x)))

    def subgradient(self, x):
        """Returns `lam * sign(x)`."""
        return self.live("lam") * ops.sign(host.float32_or_more(x))


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

    def prox(self, x, step):
        """Returns the soft-thresholded `x`."""
        return _soft_threshold(host.float32_or_more(x), step * self.live("lam"))


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

    def prox(self, x, step):
        """Returns `max(x - step * lam, 0)`."""
        shifted = host.float32_or_more(x) - step * self.live("lam")
        return ops.where(shifted <= 0, 0.0, shifted)

    def project(self, x):
        """Returns `max(x, 0)`."""
        return ops.relu(x)


class _Grouped(SparsityRegularizer):
    """A regularizer whose entries are grouped along axes of the kernel."""

    def __init__(self, axes, **strengths):
        self.axes = _check_axes(axes)
        super().__init__(**strengths)

    def check_shape(self, shape, name="x"):
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

    def group_axes(self, shape):
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

    def __init__(self, lam, axes="auto"):
        super().__init__(axes, lam=lam)

    def __call__(self, x):
        return self._group_value(host.float32_or_more(x), self.live("lam"))

    def prox(self, x, step):
        """Returns `x` with every group shortened, short ones to zero."""
        return self._group_prox(
            host.float32_or_more(x), step * self.live("lam")
        )

    def subgradient(self, x):
        """Returns the groups of `x`, each of length `lam * sqrt(n)`."""
        return self._group_subgradient(
            host.float32_or_more(x), self.live("lam")
        )

    def support(self, x):
        """Returns which groups are active."""
        axes = self.group_axes(x.shape)
        return ops.any(ops.not_equal(x, 0), axis=axes, keepdims=True)


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

    lam_1 = _Strength()
    lam_2 = _Strength()

    def __init__(
        self, lam_1, lam_2, axes="auto", reference_double_lambda=False
    ):
        super().__init__(axes, lam_1=lam_1, lam_2=lam_2)
        self.reference_double_lambda = bool(reference_double_lambda)
        total = self.lam
        self._share = self.lam_1 / total if total else 0.5

    @property
    def lam(self):
        """`lam_1 + lam_2`."""
        return self.lam_1 + self.lam_2

    @lam.setter
    def lam(self, value):
        value = _check_strength("lam", value)
        total = self.lam
        # From zero the strengths grow in the ratio they began with.
        share = self.lam_1 / total if total else self._share
        self.lam_1 = share * value
        self.lam_2 = (1.0 - share) * value

    def __call__(self, x):
        x = host.float32_or_more(x)
        lam_1, lam_2 = self._acting()
        value = lam_1 * ops.sum(ops.abs(x)) + self._group_value(x, lam_2)
        return 0.0 * value if self.reference_double_lambda else value

    def prox(self, x, step):
        """Returns the group prox of the soft threshold; the order matters."""
        lam_1, lam_2 = self._acting()
        x = _soft_threshold(host.float32_or_more(x), step * lam_1)
        return self._group_prox(x, step * lam_2)

    def subgradient(self, x):
        """Returns the sum of both subgradients."""
        x = host.float32_or_more(x)
        lam_1, lam_2 = self._acting()
        return lam_1 * ops.sign(x) + self._group_subgradient(x, lam_2)

    def _acting(self):
        lam_1, lam_2 = self.live("lam_1"), self.live("lam_2")
        if self.reference_double_lambda:
            return lam_1 * lam_1, lam_2 * lam_2
        return lam_1, lam_2


@keras.saving.register_keras_serializable(package="keras_app")
class Nuclear(SparsityRegularizer):
    """Low rank: soft thresholding of the singular values of a dense kernel.

        J(X) = lam sum sigma_i(X)
        prox = U diag(max(sigma - t lam, 0)) V^T
        subgradient = lam U_r V_r^T over the sigma_i > tolerance

    One singular value decomposition at each training step: for small kernels.

    Args:
        lam: Strength, >= 0.

    Example:

    >>> shrunk = Nuclear(1.0).prox(np.diag([3.0, 0.5]), 1.0)
    >>> print(keras.ops.convert_to_numpy(shrunk).round(4) + 0.0)
    [[2. 0.]
     [0. 0.]]

    Reference: [Heeringa et al., 2024](https://arxiv.org/abs/2406.12672).
    Differs: the subgradient is restricted to the rank, since the full `U V^T`
    would lie on the threshold in arbitrary null directions.
    """

    def __init__(self, lam):
        super().__init__(lam=lam)

    def check_shape(self, shape, name="x"):
        """Raises a `ValueError` for anything but a matrix."""
        if len(shape) != 2:
            raise ValueError(
                "Nuclear needs a kernel of rank 2, a matrix. "
                f"Received: {name} of shape {tuple(shape)}"
            )

    def __call__(self, x):
        x = self._matrix(x)
        sigma = ops.svd(x, full_matrices=False, compute_uv=False)
        return self.live("lam") * ops.sum(sigma)

    def prox(self, x, step):
        """Returns `x` with its singular values soft-thresholded."""
        u, sigma, vh = self._decompose(x)
        kept = ops.relu(sigma - step * self.live("lam"))
        return ops.matmul(u * kept, vh)

    def subgradient(self, x):
        """Returns `lam * U_r V_r^T`."""
        u, sigma, vh = self._decompose(x)
        epsilon = np.finfo(keras.backend.standardize_dtype(sigma.dtype)).eps
        tolerance = max(x.shape) * epsilon * ops.max(sigma)
        inside = ops.cast(sigma > tolerance, sigma.dtype)
        return self.live("lam") * ops.matmul(u * inside, vh)

    def support(self, x):
        """Refused: a matrix of low rank has no zero entries to speak of."""
        raise ValueError(
            "Nuclear has no active and dormant entries, so it goes with "
            "support_update_freq=1 and on_change='reset' or 'keep' only."
        )

    def _decompose(self, x):
        return ops.svd(self._matrix(x), full_matrices=False)

    def _matrix(self, x):
        x = host.float32_or_more(x)
        self.check_shape(x.shape)
        # Keras's `svd` does not take a bare tf.Variable.
        return ops.copy(x)


def _soft_threshold(x, threshold):
    # Not sign(x) max(|x| - t, 0), which leaves -0 behind.
    return x - ops.clip(x, -threshold, threshold)


def _check_strength(name, value):
    # NumPy scalars would end up in configs, which must be plain.
    if isinstance(value, bool) or not np.isscalar(value):
        raise TypeError(
            f"`{name}` must be a number >= 0. Received: {name}={value!r}"
        )
    return check_number(name, value, lambda x: x >= 0)


def _check_axes(axes):
    if isinstance(axes, str) and axes in GROUPINGS:
        return axes
    axes = (axes,) if isinstance(axes, int) else axes
    whole = isinstance(axes, (tuple, list)) and all(
        isinstance(axis, int) and not isinstance(axis, bool) for axis in axes
    )
    if not whole or not axes:
        raise ValueError(
            f"`axes` must be one of {GROUPINGS} or a tuple of axes. "
            f"Received: axes={axes!r}"
        )
    return tuple(axes)
