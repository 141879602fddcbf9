"""The graph of layers that a Sequential or functional model is.

The private names of Keras that this needs are in this file: `arguments` and
`is_input` of a node, `_nodes_by_depth`, `_functional`.
"""

import functools

import keras
from keras import tree


@functools.cache
def _functional_class():
    """`Functional`, which has no public name."""
    inputs = keras.Input((1,))
    # Keras 3.13 wants a layer in between.
    outputs = keras.layers.Identity(name="identity")(inputs)
    return type(keras.Model(inputs, outputs))


def is_graph(layer):
    """Whether `layer` is a model that is nothing but its graph of layers."""
    if isinstance(layer, keras.Sequential):
        plain = type(layer).call is keras.Sequential.call
        return plain and layer._functional is not None
    functional = _functional_class()
    return isinstance(layer, functional) and (
        type(layer).call is functional.call
    )


def walk(model, values, call):
    """Runs the graph of `model`, with `call(node, args, kwargs)` at each node.

    Args:
        model: A model of which `is_graph` is true.
        values: One value for each of `model.inputs`.
        call: Gives the value of the outputs of a node, in their structure.

    Returns:
        The values of the outputs, flat.
    """
    graph = getattr(model, "_functional", None) or model
    known = {id(x): value for x, value in zip(graph.inputs, values)}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input or not all(
                id(x) in known for x in node.input_tensors
            ):
                continue
            args, kwargs = node.arguments.fill_in(known)
            outputs = tree.flatten(call(node, args, kwargs))
            known.update((id(x), y) for x, y in zip(node.outputs, outputs))
    return [known[id(x)] for x in graph.outputs]
