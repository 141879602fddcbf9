"""Pruning methods, each a `keras.callbacks.Callback`."""

from keras_app.optimizers.continuous_sparsifier import ContinuousSparsifier
from keras_app.optimizers.controllers import DensityController
from keras_app.optimizers.controllers import LambdaController
from keras_app.pruners.acdc import ACDC
from keras_app.pruners.anytime import AnytimeProgressivePruner
from keras_app.pruners.bregman import BregmanPruner
from keras_app.pruners.custom_loop import CustomLoop
from keras_app.pruners.granet import GraNet
from keras_app.pruners.magnitude import MagnitudePruner
from keras_app.pruners.movement import MovementPruner
from keras_app.pruners.pruner import Pruner
from keras_app.pruners.pruner import PruningMissed
from keras_app.pruners.random import RandomPruner
from keras_app.pruners.rigl import RigL
from keras_app.pruners.saliency import SaliencyPruner
from keras_app.pruners.set import SET
from keras_app.pruners.sparsegpt import SparseGPTPruner
from keras_app.pruners.ste import STE
from keras_app.pruners.top_kast import TopKAST
from keras_app.pruners.wanda import WandaPruner

__all__ = [
    "ACDC",
    "AnytimeProgressivePruner",
    "BregmanPruner",
    "ContinuousSparsifier",
    "CustomLoop",
    "DensityController",
    "GraNet",
    "LambdaController",
    "MagnitudePruner",
    "MovementPruner",
    "Pruner",
    "PruningMissed",
    "RandomPruner",
    "RigL",
    "SET",
    "STE",
    "SaliencyPruner",
    "SparseGPTPruner",
    "TopKAST",
    "WandaPruner",
]
