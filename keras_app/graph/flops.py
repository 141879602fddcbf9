"""How often the kernels of a model are applied, and what that costs."""

import math

import keras
from keras import tree

from keras_app import layers
from keras_app import shares
from keras_app.graph import walking


def flops_per_sample(model: keras.Model) -> dict[int, int]:
    """`{id(kernel): forward FLOPs}` of the kernels whose uses are all known.

    Every call in the graph of the model counts, also those in nested models,
    and of recurrent layers each step.
    """
    model = shares.whole(model)
    if not walking.is_graph(model):
        return {}
    flops = {}
    for kernel, positions in _uses(model, model.inputs, {}, None, ()):
        more = math.nan
        if positions is not None and None not in positions:
            more = 2 * math.prod(kernel.shape) * math.prod(positions)
        flops[id(kernel)] = flops.get(id(kernel), 0) + more
    # Not a number: one of the uses is not known.
    return {key: count for key, count in flops.items() if count == count}


def _uses(layer, args, kwargs, output, times):
    """Yields `(kernel, how often it is applied per sample, as a shape)`.

    Args:
        layer: A layer, a model or an operation of `keras.ops`.
        args, kwargs: What it is called with, symbolic tensors.
        output: The first tensor that it returns.
        times: How often it is called per sample, as a shape.
    """
    inside = layers.exact_row_of(layer).inside
    if walking.is_graph(layer):
        # Keras calls it on the shapes that it was built for only.
        for call in _calls(layer):
            yield from _uses(*call, times)
    elif inside is not None:
        for inner, *call, more in inside(layer, args, kwargs, output):
            if call:
                yield from _uses(inner, *call, (*times, *more))
                continue
            for kernel in _kernels(inner):
                yield kernel, (*times, *more)
    else:
        for kernel in _kernels(layer):
            positions = _positions(layer, args, kwargs, output)
            known = positions is not None
            yield kernel, (*times, *positions) if known else None
        # How often it calls what is inside only its code knows.
        for inner in layers.inside.walk_layers(layer):
            if inner is not layer:
                for kernel in _kernels(inner):
                    yield kernel, None


def _calls(model):
    """`[(layer, args, kwargs, first output)]` in the graph of a model."""
    calls = []

    def call(node, args, kwargs):
        calls.append((node.operation, args, kwargs, node.outputs[0]))
        return node.outputs

    walking.walk(model, model.inputs, call)
    return calls


def _kernels(layer):
    """The kernels that a layer holds itself."""
    known = {kernel.name for kernel in layers.row_of(layer).kernels}
    return [
        value
        for name, value in vars(layer).items()
        if isinstance(value, keras.Variable)
        and (name.endswith("kernel") or name.lstrip("_") in known)
    ]


def _positions(layer, args, kwargs, output):
    """How often a kernel is applied per sample, as a shape."""
    first = next(
        x
        for x in tree.flatten((args, kwargs))
        if isinstance(x, keras.KerasTensor)
    )
    row = layers.row_of(layer)
    return row.positions(layer, first.shape, output.shape)
