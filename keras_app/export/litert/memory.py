"""How much memory the activations of a LiteRT file need at the least."""

import math

import numpy as np

from keras_app.export.litert.file import LiteRTFile
from keras_app.export.litert.file import TYPE_BYTES

# What they make of a constant is a weight still, unpacked.
_UNPACKING = {"DENSIFY", "DEQUANTIZE"}


def peak_activations(content):
    """Returns the bytes of activations that are alive at once, at the most.

    The operations run in the order of the file. A tensor lives from the
    operation that writes it to the last one that reads it; inputs live from
    the start, outputs to the end, and variables, such as states of recurrent
    layers, always. Weights are left out. An arena as TensorFlow Lite Micro's
    needs this at the least: alignment, scratch buffers of kernels and its own
    records come on top.

    Args:
        content: The bytes of a LiteRT file.

    Example:

    ```python
    peak_activations(pathlib.Path("model.tflite").read_bytes())
    ```
    """
    return _peak(LiteRTFile(content), 0)


def _peak(file, number):
    graph = file.model.subgraphs[number]
    operators = [operator for _, operator in file.operations(number)]
    lives = _lives(file, number)
    peak = 0
    # One step more: a graph without operations hands its inputs on.
    for step in range(max(1, len(operators))):
        alive = sum(
            _bytes(graph.tensors[index])
            for index, (first, last) in lives.items()
            if first <= step <= last
        )
        inner = [_peak(file, each) for each in _called(operators[step:][:1])]
        peak = max(peak, alive + max(inner, default=0))
    return peak


def _lives(file, number):
    """`{tensor: (first step, last step)}` of what is computed."""
    graph = file.model.subgraphs[number]
    operations = file.operations(number)
    end = len(operations)
    unpacked = _unpacked_weights(file, number)
    lives = {int(index): [0, 0] for index in graph.inputs}
    for index, tensor in enumerate(graph.tensors):
        if tensor.isVariable:
            lives[index] = [0, end]
    for step, (_, operator) in enumerate(operations):
        for index in operator.outputs:
            if index >= 0 and index not in unpacked:
                lives.setdefault(int(index), [step, step])
        for index in operator.inputs:
            if index in lives:
                lives[int(index)][1] = max(lives[int(index)][1], step)
    for index in graph.outputs:
        if index in lives:
            lives[int(index)][1] = end
    return lives


def _unpacked_weights(file, number):
    found = set()
    for name, operator in file.operations(number):
        source = int(operator.inputs[0]) if len(operator.inputs) else -1
        if name in _UNPACKING and (
            source in found or file.is_constant(source, number)
        ):
            found.add(int(operator.outputs[0]))
    return found


def _called(operators):
    """The graphs that operations of loops and branches run."""
    names = ("condSubgraphIndex", "bodySubgraphIndex")
    names += ("thenSubgraphIndex", "elseSubgraphIndex", "subgraph")
    return [
        value
        for operator in operators
        for name in names
        if isinstance(value := getattr(operator.builtinOptions, name, 0), int)
        and value > 0
    ]


def _bytes(tensor):
    lengths = [] if tensor.shape is None else np.maximum(tensor.shape, 1)
    return math.ceil(math.prod(map(int, lengths)) * TYPE_BYTES[tensor.type])
