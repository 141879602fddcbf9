"""How often the kernels of a model are applied, and what that costs."""

import inspect
import math
import re

import keras
from keras import tree

from keras_app import selection
from keras_app import shares
from keras_app.graph import walking


def flops_per_sample(model):
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
    given = [
        x
        for x in tree.flatten((args, kwargs))
        if isinstance(x, keras.KerasTensor)
    ]
    if walking.is_graph(layer):
        # Keras calls it on the shapes that it was built for only.
        for call in _calls(layer):
            yield from _uses(*call, times)
    elif type(layer) is keras.layers.TimeDistributed:
        slices = [_slice(x) for x in given]
        times = (*times, output.shape[1])
        yield from _uses(layer.layer, slices, {}, _slice(output), times)
    elif type(layer) is keras.layers.Bidirectional:
        for each in (layer.forward_layer, layer.backward_layer):
            yield from _uses(each, args, kwargs, output, times)
    elif type(layer) in _RECURRENT:
        # The first by name may be a state.
        steps = given[0].shape[1] if args else None
        for kernel in _kernels(layer.cell):
            yield kernel, (*times, steps)
    elif type(layer) in _ATTENTION:
        bound = inspect.signature(layer.call).bind(*args, **kwargs).arguments
        for dense in selection.walk_layers(layer):
            # Keys are at the positions of the values; all else, the output
            # too, is at those of the queries.
            of_values = dense.name in ("key", "value")
            source = bound["value" if of_values else "query"]
            for kernel in _kernels(dense):
                yield kernel, (*times, *source.shape[1:-1])
    else:
        for kernel in _kernels(layer):
            positions = _positions(layer, given[0].shape, output.shape)
            known = positions is not None
            yield kernel, (*times, *positions) if known else None
        # How often it calls what is inside only its code knows.
        for inner in selection.walk_layers(layer):
            if inner is not layer:
                for kernel in _kernels(inner):
                    yield kernel, None


_RECURRENT = (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)
_ATTENTION = (
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
)


def _calls(model):
    """`[(layer, args, kwargs, first output)]` in the graph of a model."""
    calls = []

    def call(node, args, kwargs):
        calls.append((node.operation, args, kwargs, node.outputs[0]))
        return node.outputs

    walking.walk(model, model.inputs, call)
    return calls


def _slice(tensor):
    """One step of a symbolic tensor whose second axis is time."""
    shape = (tensor.shape[0], *tensor.shape[2:])
    return keras.KerasTensor(shape, tensor.dtype)


def _kernels(layer):
    """The kernels that a layer holds itself."""
    return [
        value
        for name, value in vars(layer).items()
        if isinstance(value, keras.Variable) and name.endswith("kernel")
    ]


def _positions(layer, inputs, outputs):
    """How often a kernel is applied per sample, as a shape."""
    if isinstance(layer, keras.layers.Dense):
        return outputs[1:-1]
    if isinstance(layer, keras.layers.EinsumDense):
        if "..." in layer.equation:
            return None
        given, weight, result = re.split(",|->", layer.equation)
        sizes = dict(zip(given, inputs))
        return [sizes.get(x) for x in result[1:] if x not in weight]
    if not hasattr(layer, "kernel_size"):
        return None
    # A transposed convolution applies its kernel at every input position.
    shape = inputs if "Transpose" in type(layer).__name__ else outputs
    first = layer.data_format == "channels_first"
    return shape[2:] if first else shape[1:-1]
