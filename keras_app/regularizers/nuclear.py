"""The regularizer of low rank."""

import keras
import numpy as np
from keras import ops

from keras_app import host
from keras_app.hints import Shape
from keras_app.hints import Tensor
from keras_app.regularizers.base import SparsityRegularizer


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

    def __init__(self, lam: float) -> None:
        super().__init__(lam=lam)

    def check_shape(self, shape: Shape, name: str = "x") -> None:
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

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """Returns `x` with its singular values soft-thresholded."""
        u, sigma, vh = self._decompose(x)
        kept = ops.relu(sigma - step * self.live("lam"))
        return ops.matmul(u * kept, vh)

    def subgradient(self, x: Tensor) -> Tensor:
        """Returns `lam * U_r V_r^T`."""
        u, sigma, vh = self._decompose(x)
        epsilon = np.finfo(keras.backend.standardize_dtype(sigma.dtype)).eps
        tolerance = max(x.shape) * epsilon * ops.max(sigma)
        inside = ops.cast(sigma > tolerance, sigma.dtype)
        return self.live("lam") * ops.matmul(u * inside, vh)

    def support(self, x: Tensor) -> Tensor:
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
