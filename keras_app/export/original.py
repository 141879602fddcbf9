"""What a model was before channels were cut out of it.

A shrunk model remembers, as long as the object lives: a `.keras` file holds
what Keras knows, and so forgets.
"""

import dataclasses

from keras import ops

from keras_app import graph

_ATTRIBUTE = "_keras_app_original"


@dataclasses.dataclass(frozen=True)
class Figures:
    """The size of a model.

    Attributes:
        parameters: How many weights it has.
        bytes: What they take in memory.
        flops: Of the kernels, forward, for one sample, zeros included; `None`
            where the graph is not known.
    """

    parameters: int
    bytes: int
    flops: int | None


def figures(model):
    """Returns the `Figures` of a built model."""
    flops = sum(graph.flops_per_sample(model).values())
    weights = [ops.convert_to_numpy(each) for each in model.weights]
    return Figures(
        sum(each.size for each in weights),
        sum(each.nbytes for each in weights),
        int(flops) or None,
    )


def of(model):
    """Returns the `Figures` of what a model was cut from, or `None`."""
    return getattr(model, _ATTRIBUTE, None)


def remember(model, old):
    """Makes a model remember the original of `old`, or `old` itself."""
    setattr(model, _ATTRIBUTE, of(old) or figures(old))


def carry(model, old):
    """Hands on what `old` remembers; returns `model`."""
    if of(old):
        setattr(model, _ATTRIBUTE, of(old))
    return model


def described(model):
    """Returns what an `ExportReport` says of a model and its original."""
    own = figures(model)
    known = of(model)
    return {
        "parameters": own.parameters,
        "flops": own.flops,
        "original": dataclasses.asdict(known) if known else None,
    }
