"""The pruning API of TensorFlow Model Optimization (tfmot), on Keras 3.

Replace `import tensorflow_model_optimization as tfmot` with
`from keras_app.compat import tfmot`; `tfmot.sparsity.keras` holds the names of
this module.

tfmot wraps layers, and the wrappers hold the masks. Here the optimizer does:
`prune_low_magnitude` only marks a model or a layer (`marks`), and
`UpdatePruningStep` reads the marks when `fit` starts and prunes with a
`MagnitudePruner` for each setting it finds (`callbacks`).
"""

import sys
import types

from keras_app.compat.tfmot.callbacks import PruningSummaries
from keras_app.compat.tfmot.callbacks import strip_pruning
from keras_app.compat.tfmot.callbacks import UpdatePruningStep
from keras_app.compat.tfmot.marks import PrunableLayer
from keras_app.compat.tfmot.marks import prune_low_magnitude
from keras_app.compat.tfmot.marks import prune_scope
from keras_app.compat.tfmot.marks import PruningPolicy
from keras_app.schedules import ConstantSparsity
from keras_app.schedules import PolynomialDecay
from keras_app.schedules import PruningSchedule

__all__ = [
    "ConstantSparsity",
    "PolynomialDecay",
    "PrunableLayer",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "UpdatePruningStep",
    "prune_low_magnitude",
    "prune_scope",
    "sparsity",
    "strip_pruning",
]

# `tfmot.sparsity.keras.prune_low_magnitude` is how tfmot is called.
sparsity = types.SimpleNamespace(keras=sys.modules[__name__])
