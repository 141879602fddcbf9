"""Which channels of a functional model belong together, and which are dead.

Channels are followed through the graph as `keras_app.layers.passing` says: a
layer that mixes channels (`Dense`, convolutions) starts new atoms; one that
keeps them apart (activations, batch normalization, pooling) passes them on; a
merge joins the atoms of its inputs, a concatenation lines them up, and a
flattening repeats them, once per position in space.

An atom is live if it reaches an output of the model, or a layer that cannot be
cut, or a nonzero weight toward a live channel, except that a constant is not
read but folded into the bias of the reader, where that is exact. All others
can go.

The heads of an attention layer are atoms of their own, which no other layer
sees. A head is live if neither its values nor what reads them are all zero.
"""

import dataclasses
import math

import keras
import numpy as np
from keras import tree

from keras_app import layers
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


def count_dead(model):
    """Returns how many channels, neurons and heads `shrink` would cut.

    Args:
        model: A model of which `is_graph` is true.
    """
    analysis = Analysis(model)
    analysis.find_live()
    return sum(
        int(np.count_nonzero(~analysis.kept(record.outputs)))
        for record in analysis.records.values()
        if record.reader is not None or record.is_attention
    )


class Analysis:
    """The atoms of a model and, after `find_live`, which of them are live.

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

    def kept(self, channels):
        """Which positions stay, bool."""
        return self._live[self.roots(channels.atoms)]

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

    def must_stay(self):
        """Returns `{root: why}` of the atoms that can never be cut."""
        ends = "they are inputs or outputs of the model"
        reasons = dict.fromkeys(self.roots(self._ends).tolist(), ends)
        for channels, layer, reason in self._pins:
            for root in self.roots(channels.atoms).tolist():
                reasons.setdefault(root, f"{layer.name}: {reason}")
        for root in self.roots(self._pinned).tolist():
            reasons.setdefault(root, "they meet channels that must")
        return reasons

    def fold(self, record):
        """What the constants that go add to the bias of a reader."""
        gone = ~self.kept(record.inputs)
        constants = np.where(gone, record.inputs.constants, 0.0)
        return np.nan_to_num(constants, nan=0.0) @ record.reader.sums

    def notes(self):
        """What looks dead and was kept, `{name of the layer: reason}`."""
        notes = {}
        ends = np.isin(np.arange(len(self._parents)), self.roots(self._ends))
        for channels, layer, reason in self._pins:
            # Nobody expects the model to lose an input or output.
            inside = ~ends[self.roots(channels.atoms)]
            dead = np.count_nonzero(channels.known & inside)
            if dead:
                notes[layer.name] = f"{dead} constant channels kept: {reason}"
        for layer, reason in self.uncut.values():
            zeros = any(
                len(weight.shape) > 1 and not numpy_of(weight).all()
                for weight in getattr(layer, "weights", ())
            )
            if zeros:
                notes.setdefault(layer.name, f"its zeros stay: {reason}")
        for record in self.records.values():
            if record.reader is None or record.reader.only_zeros is None:
                continue
            constants = record.inputs.constants
            held = record.inputs.known & (constants != 0)
            read = record.reader.reads[:, self.kept(record.outputs)].any(axis=1)
            if (held & read).any():
                notes[record.layer.name] = (
                    f"{np.count_nonzero(held & read)} constant channels kept: "
                    f"they are not zero, and {record.reader.only_zeros}"
                )
        for layer, channels, normed in self.grouped:
            dead = channels.known & np.isnan(normed)
            if dead.any():
                notes[layer.name] = (
                    f"{np.count_nonzero(dead)} constant channels kept: "
                    "normalized together with channels that vary"
                )
        return notes

    # Atoms: a forest in which joined atoms have the same root.

    def new(self, size):
        """Returns atoms that nothing knows yet."""
        start = len(self._parents)
        self._parents.extend(range(start, start + size))
        return np.arange(start, start + size)

    def _root(self, atom):
        while self._parents[atom] != atom:
            self._parents[atom] = self._parents[self._parents[atom]]
            atom = self._parents[atom]
        return atom

    def roots(self, atoms):
        """The atom that stands for all those joined with each, int64."""
        return np.array([self._root(atom) for atom in atoms], "int64")

    def join(self, first, second):
        """Makes atoms be cut together, position by position."""
        for a, b in zip(first, second):
            self._parents[self._root(a)] = self._root(b)

    def pin(self, channels, layer=None, reason=None):
        """Makes channels stay."""
        if channels.atoms is not None:
            self._pinned.extend(channels.atoms)
            if layer is not None:
                self._pins.append((channels, layer, reason))

    # The way forward through the graph.

    def _fresh(self, tensor):
        """Channels that no one knows anything of."""
        shape = tensor.shape
        if len(shape) < 2 or shape[-1] is None:
            return Channels(None)
        return Channels(self.new(shape[-1]), np.full(shape[-1], np.nan))

    def _follow(self, model):
        self._parents, self._pinned = [], []
        self._pins, self.grouped, self._ends = [], [], []
        self.records, self.model_inputs = {}, {}
        inputs = [self._fresh(tensor) for tensor in model.inputs]
        outputs = self._enter(model, inputs)
        for channels in [*inputs, *outputs]:
            self.pin(channels)
            if channels.atoms is not None:
                self._ends.extend(channels.atoms)

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

    # The way back.

    def find_live(self, multiple_of=1):
        """Finds what stays.

        Args:
            multiple_of: Layers keep a multiple of this many channels if they
                can. Defaults to `1`.
        """
        self._live = np.zeros(len(self._parents), bool)
        self._live[self.roots(self._pinned)] = True
        readers = [
            (
                record.reader.reads,
                self.roots(record.inputs.atoms),
                self.roots(record.outputs.atoms),
                record.reader.folds(record.inputs.constants),
            )
            for record in self.records.values()
            if record.reader is not None
        ]
        producers = [
            self.roots(record.outputs.atoms)
            for record in self.records.values()
            if record.row.makes
        ]
        for record in self.records.values():
            if record.is_attention:
                heads = self.roots(record.outputs.atoms)
                self._live[heads[np.isnan(record.outputs.constants)]] = True
                self._round_up(heads, 1)
        while True:
            before = np.count_nonzero(self._live)
            for reads, inputs, outputs, foldable in readers:
                needed = reads[:, self._live[outputs]].any(axis=1) & ~foldable
                self._live[inputs[needed]] = True
            if np.count_nonzero(self._live) != before:
                continue
            for atoms in producers:
                self._round_up(atoms, multiple_of)
            if np.count_nonzero(self._live) == before:
                return

    def _round_up(self, atoms, multiple_of):
        """Brings dead channels back; a layer keeps one at the least."""
        kept = np.count_nonzero(self._live[atoms])
        target = max(1, math.ceil(kept / multiple_of)) * multiple_of
        for atom in atoms:
            if np.count_nonzero(self._live[atoms]) >= target:
                return
            self._live[atom] = True


def _dead_heads(layer, count):
    """Which heads give zero, because of their values or of what reads them."""
    alive = {}
    for name, variable, axis in layers.inside.heads_of(layer):
        heads = np.moveaxis(numpy_of(variable), axis, 0)
        nonzero = heads.reshape(count, -1).any(axis=1)
        alive[name] = alive.get(name, False) | nonzero
    return ~(alive["value"] & alive["attention_output"])
