"""What layers cost, as functions of how many channels they read and give."""

import math

from keras_app import graph
from keras_app import layers
from keras_app.compression.plan import Place

# Sums of this power follow the largest of their parts.
_POWER = 8


def flops(model):
    """Forward FLOPs of one sample; of a layer that is known, all of its uses.

    Args:
        model: A built Sequential or functional `keras.Model`.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> flops(model)
    24
    """
    return int(sum(graph.flops_per_sample(model).values()))


def flop_places(cuts, members):
    """Returns `(places, constant)` of the FLOPs, exactly.

    Args:
        cuts: The `cuts.Cuts` of a model.
        members: As of `Cuts.members`.
    """
    counted = graph.flops_per_sample(cuts.model)
    places = _places(
        cuts, members, lambda variable: counted.get(id(variable), 0)
    )
    return places, sum(counted.values()) - _dense(places, cuts)


def weight_places(cuts, members):
    """Returns `(places, constant)` of the number of weights, exactly."""
    places = _places(cuts, members, lambda variable: math.prod(variable.shape))
    return places, cuts.model.count_params() - _dense(places, cuts)


def activation_places(cuts, members):
    """Returns `(places, constant)` that follow the peak of activations.

    What a layer reads and gives is alive at once:

        sum over layers of (numbers read + numbers given)^8

    is ruled by the layer with the most, and falls with any of them. It leads
    to widths; what they need is measured on the file.
    """
    shapes = layer_shapes(cuts.model)
    places = []
    for record in cuts.records():
        read, given = shapes.get(id(record.layer), (None, None))
        if read is None or record.is_attention:
            continue
        before, after = _positions(read), _positions(given)

        def cost(inputs, outputs, before=before, after=after):
            return float(before * inputs + after * outputs) ** _POWER

        places.append(_place(cuts, members, record, cost))
    return places, 0.0


def _places(cuts, members, amount):
    """A `Place` for each layer whose weights are cut.

    Args:
        amount: A function `variable -> what all of it costs`.
    """
    found = []
    for record in cuts.records():
        parts = []
        for weight, variable in record.places():
            inputs, outputs = (
                None if axis is None else len(side.atoms)
                for axis, side in (
                    (weight.inputs, record.inputs),
                    (weight.outputs, record.outputs),
                )
            )
            parts.append((amount(variable), inputs, outputs))

        def cost(read, given, parts=parts):
            return sum(
                whole
                * (read / inputs if inputs else 1)
                * (given / outputs if outputs else 1)
                for whole, inputs, outputs in parts
            )

        found.append(_place(cuts, members, record, cost))
    return found


def _place(cuts, members, record, cost):
    return Place(
        record.layer.name,
        cuts.side(record.inputs, members),
        cuts.side(record.outputs, members),
        cost,
    )


def _dense(places, cuts):
    return sum(place.at(cuts.shapes) for place in places)


def layer_shapes(model):
    """`{id(layer): (shape read, shape given)}` of the first call of each."""
    found = {}

    def call(node, args, kwargs):
        operation = node.operation
        if graph.is_graph(operation):
            graph.walk(operation, operation.inputs, call)
        elif layers.exact_row_of(operation).weights and args:
            first = args[0]
            shape = getattr(first, "shape", None)
            found.setdefault(id(operation), (shape, node.outputs[0].shape))
        return node.outputs

    graph.walk(model, model.inputs, call)
    return found


def _positions(shape):
    """How often each channel occurs in a tensor of one sample."""
    return math.prod(length or 1 for length in shape[1:-1])
