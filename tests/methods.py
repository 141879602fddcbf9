"""The catalogue of methods."""

import inspect

from keras_app import pruners
from keras_app.pruners.pruner import Pruner
from keras_app.schedules import OneShot
from tests.models import batches

METHODS = [
    cls
    for cls in (getattr(pruners, name) for name in pruners.__all__)
    if issubclass(cls, Pruner) and cls is not Pruner
]
NESTED = [cls for cls in METHODS if not cls.revives]


def make(method, schedule=None, **kwargs):
    arguments = inspect.signature(method).parameters
    if "data" in arguments:
        kwargs.setdefault("data", batches())
    kwargs.setdefault("filters", "kernel")
    kwargs.setdefault("distribution", "uniform")
    return method(schedule or OneShot(0.5), **kwargs)


def pruned_now(pruner, model, sparsity):
    """The masks of one update outside of a training."""
    pruner.set_model(model)
    pruner.prune(sparsity)
    return pruner.masks
