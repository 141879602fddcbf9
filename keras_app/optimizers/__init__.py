"""Optimizers, each a `keras.optimizers.Optimizer`."""

from keras_app.optimizers.coupled_sgd import CoupledSGD

__all__ = ["CoupledSGD"]
