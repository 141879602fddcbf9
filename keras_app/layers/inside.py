"""Layers inside of layers, and how often they are called."""

import inspect

import keras
from keras import tree


def walk_layers(layer):
    """Yields `layer` and every layer inside it once, whatever its class."""
    seen = set()
    stack = [layer]
    while stack:
        item = stack.pop()
        if isinstance(item, (list, tuple)):
            stack.extend(reversed(item))
        elif isinstance(item, dict):
            stack.extend(reversed(list(item.values())))
        elif isinstance(item, keras.layers.Layer) and id(item) not in seen:
            seen.add(id(item))
            yield item
            stack.extend(reversed(list(vars(item).values())))


# The heads of attention.

_VALUES, _OUTPUT = "value", "attention_output"


def heads_of(layer):
    """Returns `[(name, variable, axis)]`: where attention has its heads.

    The name is that of the dense layer inside which has the variable.
    """
    found = []
    for dense in walk_layers(layer):
        if not isinstance(dense, keras.layers.EinsumDense):
            continue
        if dense.name == _OUTPUT:
            found.append((dense.name, dense.kernel, 0))
            continue
        found.append((dense.name, dense.kernel, -2))
        if dense.bias is not None:
            found.append((dense.name, dense.bias, -2))
    return found


# Column `inside`, for layers that call others.


def of_recurrent(layer, args, kwargs, output):
    """The cell, once for each step."""
    # The first by name may be a state.
    steps = tree.flatten(args)[0].shape[1] if args else None
    yield layer.cell, (steps,)


def of_time_distributed(layer, args, kwargs, output):
    """The layer inside, called on each slice of time."""
    slices = [
        _slice(x)
        for x in tree.flatten((args, kwargs))
        if isinstance(x, keras.KerasTensor)
    ]
    yield layer.layer, slices, {}, _slice(output), (output.shape[1],)


def _slice(tensor):
    """One step of a symbolic tensor whose second axis is time."""
    shape = (tensor.shape[0], *tensor.shape[2:])
    return keras.KerasTensor(shape, tensor.dtype)


def of_bidirectional(layer, args, kwargs, output):
    """Both directions, called on the same."""
    for each in (layer.forward_layer, layer.backward_layer):
        yield each, args, kwargs, output, ()


def of_attention(layer, args, kwargs, output):
    """The projections, at each position of what they project."""
    bound = inspect.signature(layer.call).bind(*args, **kwargs).arguments
    for dense in walk_layers(layer):
        # Keys are at the positions of the values; all else, the output too, is
        # at those of the queries.
        of_values = dense.name in ("key", _VALUES)
        source = bound["value" if of_values else "query"]
        yield dense, source.shape[1:-1]
