"""Optimizers, each a `keras.optimizers.Optimizer`."""

from keras_app.optimizers.adabreg import AdaBreg
from keras_app.optimizers.continuous_sparsification import (
    ContinuousSparsification,
)
from keras_app.optimizers.coupled_sgd import CoupledSGD
from keras_app.optimizers.linbreg import LinBreg
from keras_app.optimizers.proxsgd import ProxSGD
from keras_app.optimizers.str import STR

__all__ = [
    "AdaBreg",
    "ContinuousSparsification",
    "CoupledSGD",
    "LinBreg",
    "ProxSGD",
    "STR",
]
