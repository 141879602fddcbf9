"""A smaller model with the same outputs, without the dead channels."""

import warnings

import keras
import numpy as np
from keras import ops
from keras import tree

from keras_app import graph
from keras_app import selection
from keras_app.checks import check_int
from keras_app.export import copies
from keras_app.export import original
from keras_app.export import signature
from keras_app.export import strip
from keras_app.export import verification
from keras_app.hints import Inputs


def shrink(
    model: keras.Model, data: Inputs | None = None, multiple_of: int = 1
) -> keras.Model:
    """Returns a smaller, ordinary model with the same outputs.

    A masked model is as slow as a dense one. This cuts out of the weights what
    the outputs do not depend on: channels and neurons that are always the same
    number, because their weights (or their scale in a batch normalization) are
    zero, and those that nothing reads. The number that a dead channel always
    gives, its bias after normalization and activation, moves into the bias
    of the layers that read it:

        b_j <- b_j + sum over dead i of (c_i * sum over positions of W_ij)

    Where a padded convolution reads it the border would show, so it is cut
    only if it is zero. Channels that are added, multiplied or otherwise
    merged are cut together or not at all, as are those of a residual stream.
    A layer keeps one channel at the least. Inputs and outputs of the model
    stay as they are.

    Layers that are cut: `Dense`, `Embedding`, convolutions (transposed,
    depthwise and separable ones too), `BatchNormalization`,
    `GroupNormalization` by whole groups, `PReLU`, `MultiHeadAttention` and
    `GroupQueryAttention` by whole heads. Activations, pooling, padding,
    merges, `Concatenate`, `Flatten` and the like pass the cut on, in nested
    models too. All other layers, those with channels first, and convolutions
    in groups keep all of their channels. One warning names the layers where
    zeros stayed for such a reason.

    The structures that prune so that all of it can be cut are
    `keras_app.masks.GraphChannel` and `keras_app.masks.AttentionHead`.

    Args:
        model: A built Sequential or functional `keras.Model`; it is left as
            it is, except that masked weights are zero.
        data: Sample inputs, an array or what else the model takes, on which
            both models are compared; the first 32 are used. Needed where
            random inputs make no sense. Defaults to random inputs.
        multiple_of: Layers keep a multiple of this many channels, if they
            have as many; 8 or 16 is fast on most hardware. Defaults to `1`.

    Returns:
        An uncompiled `keras.Model` whose layers have the same names, and the
        same regularizers, for a training that goes on; `strip_pruning` removes
        those of this package. Until it is saved it remembers the size of
        `model`, for the reports of its exports.

    Raises:
        ValueError: A subclassed model, whose graph cannot be known (shrink
            its functional parts); or outputs that differ by more than 1e-5 of
            the largest one (1e-2 for layers that compute in half precision).

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((2,)), keras.layers.Dense(8), keras.layers.Dense(3)])
    >>> kernel = np.array([[1.0] * 3 + [0.0] * 5] * 2)
    >>> model.layers[0].set_weights([kernel, np.zeros(8)])
    >>> shrink(model).count_params()
    21
    """
    multiple_of = check_int("multiple_of", multiple_of, 1)
    if not graph.is_graph(model):
        raise ValueError(
            "`model` must be a built Sequential or functional model: the graph "
            "of a subclassed one is not known. Shrink its functional parts. "
            f"Received: model={model} of type {type(model).__name__}"
        )
    strip.zero_pruned(model)
    analysis = graph.Analysis(model)
    live = graph.Live(analysis, multiple_of)
    smaller = cut(model, analysis, live)
    _check_same(model, smaller, data)
    original.remember(smaller, model)
    notes = live.notes()
    if notes:
        lines = selection.grouped(notes.items())
        warnings.warn("`shrink` could not cut all.\n" + "\n".join(lines))
    return smaller


def cut(model, analysis, live):
    """Returns the model with what is to stay of it, whatever that computes.

    Args:
        model: A model of which `graph.is_graph` is true.
        analysis: Its `graph.Analysis`.
        live: What stays, as `graph.Live` says it: `kept` and `fold`.
    """
    return _Builder(analysis, live).build(model)


class _Builder:
    """Makes the layers of the smaller model, each once."""

    def __init__(self, analysis, live):
        self.analysis = analysis
        self.live = live
        self.copies = {}
        self.weights = []
        self.moves = []

    def build(self, model):
        result = self._model(model)
        # Only now is every layer built.
        for layer, values, bias in self.weights:
            weights = layer.weights
            if bias is not None:
                layer.bias.assign(bias)
                weights = [each for each in weights if each is not layer.bias]
            for weight, value in zip(weights, values, strict=True):
                weight.assign(value)
        for move, old, new in self.moves:
            move(old, new)
        return result

    def _model(self, model):
        inputs = []
        channels = self.analysis.model_inputs[id(model)]
        for tensor, known in zip(model.inputs, channels):
            shape = list(tensor.shape)
            if known.atoms is not None:
                shape[-1] = int(self.live.kept(known).sum())
            inputs.append(
                keras.Input(
                    batch_shape=shape,
                    dtype=tensor.dtype,
                    sparse=tensor.sparse,
                    name=tensor.name,
                )
            )
        if isinstance(model, keras.Sequential):
            stack = [self._copy(layer) for layer in model.layers]
            return keras.Sequential([*inputs, *stack], name=model.name)

        def call(node, args, kwargs):
            return self._copy(node.operation)(*args, **kwargs)

        outputs = graph.walk(model, inputs, call)
        return keras.Model(
            tree.pack_sequence_as(model.input, inputs),
            tree.pack_sequence_as(model.output, outputs),
            name=model.name,
        )

    def _copy(self, layer):
        if id(layer) not in self.copies:
            self.copies[id(layer)] = self._new(layer)
        return self.copies[id(layer)]

    def _new(self, layer):
        record = self.analysis.records.get(id(layer))
        uncut = id(layer) in self.analysis.uncut
        if graph.is_graph(layer) and not uncut:
            return self._model(layer)
        if record is None:
            new = copies.recreate(layer)
            if isinstance(layer, keras.Layer):
                self.moves.append((copies.move_state, layer, new))
            return new
        changes, values, bias = self._cut(record)
        new = copies.recreate(
            layer,
            lambda config: {
                **config,
                "config": {**config["config"], **changes},
            },
        )
        self.weights.append((new, values, bias))
        self.moves.append((copies.move_seeds, layer, new))
        return new

    def _cut(self, record):
        """What is left of a layer.

        Returns:
            Changes of its configuration, its weights, and the bias, which is
            not among them then, if it is one that constants were folded into.
        """
        layer = record.layer
        inputs = self.live.kept(record.inputs)
        outputs = self.live.kept(record.outputs)
        values = {id(v): ops.convert_to_numpy(v) for v in layer.weights}
        for weight, variable in record.places():
            sides = (weight.inputs, inputs), (weight.outputs, outputs)
            for axis, kept in sides:
                if axis is not None:
                    value = values[id(variable)]
                    # There may be several rows for each channel.
                    kept = np.repeat(kept, value.shape[axis] // len(kept))
                    values[id(variable)] = value.compress(kept, axis)
        changes = record.row.resized(layer, int(outputs.sum()), len(outputs))
        if record.reader is None:
            return changes, list(values.values()), None
        bias = self.live.fold(record)[outputs]
        own = values.pop(id(getattr(layer, "bias", None)), None)
        if own is not None:
            bias = bias + own.astype("float64")
        elif bias.any():
            changes["use_bias"] = True
        else:
            bias = None
        return changes, list(values.values()), bias


# The proof.


def _check_same(model, smaller, data):
    """Raises unless both models give the same outputs."""
    count = 4 if data is None else 32
    samples = signature.inputs_for(model, data, count)
    try:
        expected = verification.outputs_of(model, samples)
    except Exception as error:
        if data is not None:
            raise
        raise ValueError(
            "The model does not take random inputs, on which the smaller one "
            f"would be compared: {error} Pass some inputs as `data`."
        ) from error
    tolerance = verification.tolerance_for(model)
    received = verification.outputs_of(smaller, samples)
    difference = verification.largest_difference(expected, received)
    if difference > tolerance:
        raise ValueError(
            "The smaller model must give the outputs of the model to "
            f"{tolerance:g} of the largest. Received: a difference of "
            f"{difference:g} (infinite stands for NaN). If the samples are at "
            "fault, unlike real inputs, pass others as `data`."
        )
