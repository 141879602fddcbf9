"""The sparsity toolkit for Keras 3: train any model sparse, in `model.fit`.

Train sparse, with a callback or an optimizer, on TensorFlow, JAX or PyTorch:

    pruner = keras_app.pruners.MagnitudePruner(
        keras_app.schedules.PolynomialDecay(0.0, 0.9, 0, end_step=2000)
    )
    model.fit(x, y, epochs=5, callbacks=[pruner])
    print(pruner.report)

What is where:

    pruners, schedules        callbacks that prune, and when
    masks                     what is pruned together: blocks, n:m, channels
    distributions, scorers    how much of each layer, and by which score
    optimizers, regularizers  LinBreg, AdaBreg, continuous sparsification, STR
    initializers              sparse starts
    callbacks                 the best epoch at the target sparsity
    prune                     once, in one call
    compress                  to half the time, or other targets, in one call
    sensitivity               which layers bear pruning, each alone
    enable_lora               adapters that keep the zeros of a pruned model
    lottery                   tickets and PrAC sets
    export                    smaller files, verified: LiteRT, ONNX, SavedModel
    report, budgets           what a model is worth (perplexity too), what fits
    experiments               what the command line runs, from data to page
    compat                    the names of tfmot

The command line: `keras-app --help`. The documentation: the folder `docs/`.
"""

import importlib
import sys
import types
import typing

from keras_app import cli
from keras_app.version import __version__

# First of all: under `python -m keras_app.train` TensorFlow's greetings must
# not reach the terminal, and it greets when Keras is imported.
cli.start_command()

# Keras finds our classes in a saved file only once they are imported.
from keras_app import budgets  # noqa: E402
from keras_app import callbacks  # noqa: E402
from keras_app import distributions  # noqa: E402
from keras_app import export  # noqa: E402
from keras_app import initializers  # noqa: E402
from keras_app import layers  # noqa: E402
from keras_app import lottery  # noqa: E402
from keras_app import masks  # noqa: E402
from keras_app import optimizers  # noqa: E402
from keras_app import pruners  # noqa: E402
from keras_app import regularizers  # noqa: E402
from keras_app import report  # noqa: E402
from keras_app import schedules  # noqa: E402
from keras_app import scorers  # noqa: E402
from keras_app.alone import sensitivity  # noqa: E402
from keras_app.enforcement import masks_of  # noqa: E402
from keras_app.lora import enable_lora  # noqa: E402
from keras_app.oneshot import prune  # noqa: E402

# Imported when they are asked for: a script that only prunes pays for neither
# data pipelines nor experiments. Editors and checkers look here.
if typing.TYPE_CHECKING:
    from keras_app import compat
    from keras_app import experiments
    from keras_app.experiments.compress import compress
_LAZY_ROOMS = ("compat", "experiments")
_LAZY_FUNCTIONS = {"compress": "keras_app.experiments.compress"}

# Functions of the package whose command lines are modules of the same name:
# `keras_app.prune(...)` and `python -m keras_app.prune`. The function lives
# elsewhere, and its name is imported here, or when it is asked for;
# `keras_app/prune.py` is an ordinary module that holds the command line.
_FUNCTIONS_WITH_DOORS = ("compress", "prune")


class _Package(types.ModuleType):
    """A package whose functions are not hidden by modules of their names.

    Python binds a submodule to its package when it is imported, by anyone. Here
    it does so for all but these: `import keras_app.prune` loads the module, and
    `keras_app.prune` stays the function.
    """

    def __setattr__(self, name, value):
        is_module = isinstance(value, types.ModuleType)
        if not (is_module and name in _FUNCTIONS_WITH_DOORS):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

__all__ = [
    "__version__",
    "budgets",
    "callbacks",
    "compat",
    "compress",
    "distributions",
    "enable_lora",
    "experiments",
    "export",
    "initializers",
    "layers",
    "lottery",
    "masks",
    "masks_of",
    "optimizers",
    "prune",
    "pruners",
    "regularizers",
    "report",
    "schedules",
    "scorers",
    "sensitivity",
]


def __dir__():
    return sorted(__all__)


# Checkers know the names, and that there are no others.
if not typing.TYPE_CHECKING:

    def __getattr__(name):
        if name in _LAZY_ROOMS:
            return importlib.import_module(f"keras_app.{name}")
        if name in _LAZY_FUNCTIONS:
            return getattr(importlib.import_module(_LAZY_FUNCTIONS[name]), name)
        raise AttributeError(f"module 'keras_app' has no attribute {name!r}")
