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

from keras_app.regularizers.base import SparsityRegularizer
from keras_app.regularizers.entries import L1
from keras_app.regularizers.entries import NonNegativeL1
from keras_app.regularizers.groups import GroupL2
from keras_app.regularizers.groups import SparseGroup
from keras_app.regularizers.nuclear import Nuclear

__all__ = [
    "GroupL2",
    "L1",
    "NonNegativeL1",
    "Nuclear",
    "SparseGroup",
    "SparsityRegularizer",
]
