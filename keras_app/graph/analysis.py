"""Following the channels of a functional model through its graph.

`keras_app.layers.passing` says how: a layer that mixes channels (`Dense`,
convolutions) starts new atoms; one that keeps them apart (activations, batch
normalization, pooling) passes them on; a merge joins the atoms of its inputs, a
concatenation lines them up, and a flattening repeats them, once per position in
space.

The heads of an attention layer are atoms of their own, which no other layer
sees.
"""

import dataclasses

import keras
import numpy as np
from keras import tree

from keras_app import layers
from keras_app.graph.atoms import Atoms
from keras_app.graph.walking import is_graph
from keras_app.graph.walking import walk
from keras_app.layers.passing import Call
from keras_app.layers.passing import Channels
from keras_app.layers.passing import check_plain
from keras_app.layers.passing import lookup
from keras_app.layers.passing import numpy_of
from keras_app.layers.passing import Reader
from keras_app.layers.passing import Uncut


@dataclasses.dataclass
class Record:
    """One layer, over all of its calls; of attention, its heads."""

    layer: object
    row: layers.LayerType
    inputs: Channels
    outputs: Channels
    reader: Reader | None = None

    @property
    def is_attention(self):
        """Whether its inputs and outputs are heads, not channels."""
        return self.row.heads is not None

    def places(self):
        """Yields `(Weight, variable)`: where weights have these channels."""
        if self.is_attention:
            for name, variable, axis in layers.inside.heads_of(self.layer):
                kind = (
                    layers.Kernel if len(variable.shape) > 2 else layers.Weight
                )
                yield kind(name, outputs=axis, inputs=None), variable
            return
        for weight in self.row.weights:
            variable = getattr(self.layer, weight.name, None)
            if variable is not None:
                yield weight, variable

    def members(self):
        """Yields a `Member` for each axis of a weight that holds atoms."""
        for weight, variable in self.places():
            if not weight.follows:
                continue
            side, axis = self.outputs, weight.outputs
            if axis is None:
                side, axis = self.inputs, weight.inputs
            # Several queries share a head of keys and values.
            shared = variable.shape[axis] // len(side.atoms)
            atoms = np.repeat(side.atoms, shared)
            yield Member(variable, axis, atoms, weight.makes)


@dataclasses.dataclass
class Member:
    """Where a weight has the atoms of a record.

    Attributes:
        variable: The weight.
        axis: Its axis.
        atoms: The atom of each position along this axis.
        makes: Whether the weight makes these channels, rather than change
            what others made.
    """

    variable: object
    axis: int
    atoms: np.ndarray
    makes: bool


class Analysis(Atoms):
    """The channels of a model, followed through its graph.

    Args:
        model: A model of which `is_graph` is true.
    """

    def __init__(self, model):
        # A layer that cannot be cut in one of its calls cannot in another:
        # start again with what is known by then.
        self.uncut = {}
        while True:
            known = len(self.uncut)
            self._follow(model)
            if len(self.uncut) == known:
                break

    def members(self, heads=False):
        """Returns a `Member` for each axis of a weight that holds atoms.

        Args:
            heads: Whether of attention heads, or of channels. Defaults to
                `False`.
        """
        return [
            member
            for record in self.records.values()
            if record.is_attention == heads
            for member in record.members()
        ]

    def _fresh(self, tensor):
        """Channels that no one knows anything of."""
        shape = tensor.shape
        if len(shape) < 2 or shape[-1] is None:
            return Channels(None)
        return Channels(self.new(shape[-1]), np.full(shape[-1], np.nan))

    def _follow(self, model):
        super().__init__()
        self.records, self.model_inputs, self.grouped = {}, {}, []
        inputs = [self._fresh(tensor) for tensor in model.inputs]
        outputs = self._enter(model, inputs)
        for channels in [*inputs, *outputs]:
            self.pin(channels)
            if channels.atoms is not None:
                self.ends.extend(channels.atoms)

    def _enter(self, model, inputs):
        before = self.model_inputs.setdefault(id(model), inputs)
        for new, old in zip(inputs, before):
            if new.atoms is not None:
                self.join(new.atoms, old.atoms)
        return walk(model, inputs, self._visit)

    def _visit(self, node, args, kwargs):
        layer = node.operation
        inputs = [
            x for x in tree.flatten((args, kwargs)) if isinstance(x, Channels)
        ]
        # A mask is no channel: what is masked is so in all of them.
        others = {name: x for name, x in kwargs.items() if name != "mask"}
        if id(layer) not in self.uncut:
            try:
                return self._cuttable(layer, node, args, others)
            except Uncut as error:
                self.uncut[id(layer)] = (layer, str(error))
        for channels in inputs:
            self.pin(channels, layer, self.uncut[id(layer)][1])
        return self._held(node)

    def _held(self, node):
        """Outputs of which all channels stay."""
        outputs = [self._fresh(tensor) for tensor in node.outputs]
        for channels in outputs:
            self.pin(channels)
        return outputs

    def _cuttable(self, layer, node, args, others):
        row = layers.exact_row_of(layer)
        call = Call(self, layer, row, node)
        if row.heads is not None:
            return self._attention(call, [*args, *others.values()])
        if any(x is not None and x is not False for x in others.values()):
            raise Uncut("called with arguments beside its input")
        inputs = [x for x in tree.flatten(args) if isinstance(x, Channels)]
        if any(channels.atoms is None for channels in inputs):
            if row.channels is not lookup:  # whose inputs are no channels
                raise Uncut("the number of its channels is not known")
        if is_graph(layer):
            shapes = [x.shape for x in tree.flatten(node.arguments.args)]
            own = [x.shape for x in layer.inputs]
            if [(len(s), s[-1]) for s in shapes] != [
                (len(s), s[-1]) for s in own
            ]:
                raise Uncut("called on another shape than it was built for")
            return self._enter(layer, inputs)
        check_plain(layer)
        if isinstance(row.channels, str):
            raise Uncut(row.channels.format(type(layer).__name__))
        if row.several:
            # Operators take several arguments, layers a list.
            given = args[0] if isinstance(layer, keras.Layer) else args
            return row.channels(call, given)
        if len(args) != 1 or not isinstance(args[0], Channels):
            raise Uncut("called on several inputs")
        return row.channels(call, args[0])

    def _attention(self, call, values):
        """The channels around attention stay; its heads are by themselves."""
        layer, arguments = call.layer, call.node.arguments
        mask = arguments.kwargs.get("attention_mask")
        scores = arguments.kwargs.get("return_attention_scores")
        if scores or len(arguments.args) > 3:
            raise Uncut("called for more than its output")
        # A mask of rank 3 is the same for all heads.
        if mask is not None and len(mask.shape) != 3:
            raise Uncut("called with a mask that may differ between heads")
        for dense in layers.inside.walk_layers(layer):
            check_plain(dense)
        for channels in values:
            if isinstance(channels, Channels):
                self.pin(channels, layer, "attention reads all channels")
        if id(layer) not in self.records:
            count = getattr(layer, call.row.heads)
            dead = np.where(_dead_heads(layer, count), 0.0, np.nan)
            heads = Channels(self.new(count), dead)
            call.record(heads, heads)
        return self._held(call.node)

    def record(self, call, inputs, outputs, reader=None):
        """Notes a layer that changes with its channels; joins its calls."""
        key = id(call.layer)
        old = self.records.get(key)
        if old is None:
            self.records[key] = Record(
                call.layer, call.row, inputs, outputs, reader
            )
            return
        if len(old.inputs.atoms) != len(inputs.atoms):
            raise Uncut("called on different numbers of channels")
        self.join(inputs.atoms, old.inputs.atoms)
        self.join(outputs.atoms, old.outputs.atoms)
        # Two calls with different constants cannot fold into one bias.
        same = inputs.constants == old.inputs.constants
        old.inputs = old.inputs.replace(
            np.where(same, inputs.constants, np.nan)
        )


def _dead_heads(layer, count):
    """Which heads give zero, because of their values or of what reads them."""
    alive = {}
    for name, variable, axis in layers.inside.heads_of(layer):
        heads = np.moveaxis(numpy_of(variable), axis, 0)
        nonzero = heads.reshape(count, -1).any(axis=1)
        alive[name] = alive.get(name, False) | nonzero
    return ~(alive["value"] & alive["attention_output"])
