"""What is pruned together in several layers: joined channels, heads."""

import keras
import numpy as np
from keras import ops

from keras_app import graph
from keras_app import selection
from keras_app import split
from keras_app.masks import applied
from keras_app.masks.structures import Channel
from keras_app.masks.structures import Structure
from keras_app.masks.structures import Units
from keras_app.masks.structures import Unstructured
from keras_app.selection import Selection


class _Joined(Structure):
    """What the graph of a model joins, in all layers."""

    is_of_arrays = False
    takes_split = True

    #: Whether heads of attention are joined, or channels.
    heads: bool

    #: Why a weight has no units, where nothing else is known.
    unseen: str

    def check(self, pruner: keras.callbacks.Callback) -> None:
        """Raises unless the pruner leaves dead what is dead."""
        if pruner.revives:
            raise ValueError(
                "`structure` must not join channels or heads for a pruner "
                "that brings them back: with all of its weights at zero "
                "one has no gradient. Use MagnitudePruner. Received: "
                f"structure={self!r} for {type(pruner).__name__}"
            )
        if pruner.distribution == "erk":
            raise ValueError(
                "`distribution` must be 'uniform' or a callable for "
                "channels and heads that the graph joins: ERK knows single "
                f"kernels. Received: distribution={pruner.distribution!r}, "
                f"structure={self!r}"
            )

    def units(self, model: keras.Model, chosen: Selection) -> Units:
        """Returns the channels, or heads, that the graph joins."""
        return GraphUnits(self, model, chosen)


@keras.saving.register_keras_serializable(package="keras_app")
class GraphChannel(_Joined):
    """Channels and neurons that can only be cut together, in all layers.

    In a network with additions, depthwise convolutions or normalizations a
    channel is not the business of one layer. A pruner with this structure
    follows the channels through the graph of the model, as
    `keras_app.export.shrink` does, and prunes a channel wherever it is:

        score of a channel = sum of the scores of all weights that make it

    over the kernels of all layers whose outputs are joined, one mask for all
    of them. The biases, scales and shifts of the channel and its depthwise
    kernels are zero from then on too, so that it is always zero and
    `keras_app.export.shrink` cuts it.

    With `scope="layer"` the channels that the same layer makes compete, and
    with it those of every layer joined to it: `int(sparsity * N)` of N are
    pruned. With `scope="global"` all channels do. Inputs and outputs of the
    model are left alone, as is what meets a layer that cannot be cut, such as
    the stream of a transformer (its feed-forward neurons are pruned), and what
    is joined to a kernel that `filters` leave out. `report.skipped` says why.

    It needs a Sequential or functional model, and a pruner that brings nothing
    back: a channel whose weights are all zero has no gradient.

    Example:

    >>> from keras_app.pruners import MagnitudePruner
    >>> from keras_app.schedules import OneShot
    >>> inputs = keras.Input((4,))
    >>> x = keras.layers.Dense(6, name="a")(inputs)
    >>> x = x + keras.layers.Dense(6, name="b")(keras.ops.relu(x))
    >>> model = keras.Model(inputs, keras.layers.Dense(2)(x))
    >>> model.compile("sgd", "mse")
    >>> pruner = MagnitudePruner(OneShot(0.5), structure=GraphChannel())
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> history = model.fit(x, y, verbose=0, callbacks=[pruner])
    >>> smaller = keras_app.export.shrink(model)
    >>> smaller.get_layer("a").units, smaller.get_layer("b").units
    (3, 3)
    """

    heads = False
    unseen = (
        "of no layer whose channels the graph shows; of attention, see "
        "masks.AttentionHead"
    )


@keras.saving.register_keras_serializable(package="keras_app")
class AttentionHead(_Joined):
    """Whole heads of `MultiHeadAttention` and `GroupQueryAttention`.

    Of a head go its slices of the query, key, value and gate kernels and
    biases, and of the kernel that reads it, so that
    `keras_app.export.shrink` cuts it:

        score of a head = sum of the scores of its slices of the kernels

    With `scope="layer"` the heads of a layer compete, with `scope="global"`
    all heads. Under grouped queries a head of keys and values goes with the
    queries that share it. Other kernels are left alone; a second pruner, with
    `GraphChannel`, can prune the feed-forward neurons in the same `fit`.

    It needs a Sequential or functional model, and a pruner that brings nothing
    back.

    Example:

    >>> from keras_app.pruners import MagnitudePruner
    >>> from keras_app.schedules import OneShot
    >>> x = inputs = keras.Input((5, 8))
    >>> attention = keras.layers.MultiHeadAttention(4, 2, name="attention")
    >>> model = keras.Model(inputs, attention(x, x))
    >>> model.compile("sgd", "mse")
    >>> pruner = MagnitudePruner(OneShot(0.5), structure=AttentionHead())
    >>> x = np.ones((8, 5, 8))
    >>> history = model.fit(x, x, verbose=0, callbacks=[pruner])
    >>> keras_app.export.shrink(model).get_layer("attention").num_heads
    2
    """

    heads = True
    unseen = "of no attention layer; see masks.GraphChannel"


class GraphUnits(Units):
    """Channels, or heads, that the graph of the model joins.

    A set holds what the layers make whose outputs are joined, under the path
    of the first of their kernels.

    Attributes:
        analysis: The `graph.Analysis` of the model.
        roots: `{name of a set: the atom of the analysis that each unit is}`.
    """

    def __init__(self, structure, model, chosen):
        if not graph.is_graph(model):
            raise ValueError(
                f"`structure={structure!r}` needs the graph of a built "
                "Sequential or functional model. Use `masks.Channel()` for a "
                "subclassed one: it prunes each layer by itself. "
                f"Received: model={model} of type {type(model).__name__}"
            )
        self.analysis = analysis = graph.Analysis(model)
        members = [
            (member, analysis.roots(member.atoms))
            for member in analysis.members(structure.heads)
        ]
        paths = selection.paths_of(model.trainable_variables)
        path_of = {id(variable): path for path, variable in paths.items()}
        scored = {id(variable) for variable in chosen.variables.values()}
        blocked = _blocked(analysis, members, path_of, scored)
        # The units of each weight, and the root of each.
        self._places = [
            (path_of[id(member.variable)], Channel(member.axis), roots)
            for member, roots in members
            if not blocked.keys() >= set(roots.tolist())
        ]
        self._atoms = 1 + max((r.max() for *_, r in self._places), default=0)
        placed = {path for path, *_ in self._places}
        why_not = _reasons_by_id(model, analysis, members, blocked)
        kept = {p: v for p, v in chosen.variables.items() if p in placed}
        skipped = {p: r for p, r in chosen.skipped.items() if p not in placed}
        for path, variable in chosen.variables.items():
            if path not in placed:
                reason = why_not.get(id(variable))
                skipped[path] = (
                    f"what it makes must stay: {reason}"
                    if reason
                    else structure.unseen
                )
        self.selection = selection.Selection(kept, skipped)
        if not self.selection.variables:
            raise ValueError(
                f"There is nothing to prune with structure={structure!r}: "
                + "; ".join(
                    f"{path}: {self.selection.skipped[path]}"
                    for path in list(chosen.variables)[:8]
                )
            )
        makers = [
            (path_of[id(member.variable)], roots)
            for member, roots in members
            if member.makes and id(member.variable) in path_of
        ]
        sets = _sets_of(makers, blocked)
        self.structure = Unstructured()
        self.notes = []
        self.kernels = {name: made_by for name, (made_by, _) in sets.items()}
        self.roots = {name: np.array(list(r)) for name, (_, r) in sets.items()}
        self.shapes = {name: each.shape for name, each in self.roots.items()}
        self._shapes = {path: tuple(paths[path].shape) for path in placed}
        self.followers = {
            path: variable
            for path, variable in paths.items()
            if path in placed and id(variable) not in scored
        }
        # Without a scale, what a dead channel gives in inference hangs on the
        # mean that was recorded of it while it was alive.
        self._means = [
            (record.layer.moving_mean, analysis.roots(record.outputs.atoms))
            for record in analysis.records.values()
            if isinstance(record.layer, keras.layers.BatchNormalization)
            and not record.layer.scale
        ]

    def pool(self, scores):
        """Returns `{name of a set: sums of the scores of its units}`."""
        totals = np.zeros(self._atoms)
        for path, channels, roots in self._places:
            if path in scores:
                found = applied.pool(channels, scores[path])
                np.add.at(totals, roots, found)
        return {name: totals[roots] for name, roots in self.roots.items()}

    def pool_masks(self, masks):
        """Returns `{name of a set: which units still keep anything}`."""
        alive = np.zeros(self._atoms, bool)
        for path, channels, roots in self._places:
            if path in masks:
                found = applied.pool_mask(channels, masks[path])
                alive[roots[found]] = True
        return {name: alive[roots] for name, roots in self.roots.items()}

    def spread(self, units, beside):
        """Returns `{path: mask}` of scored weights and followers."""
        kept = self._kept(units)
        masks = {}
        for path, channels, roots in self._places:
            layout = split.layout(beside.get(path))
            mask = applied.expand(
                channels, kept[roots], self._shapes[path], layout
            )
            masks[path] = masks[path] & mask if path in masks else mask
        return masks

    def settle(self, units):
        """Gives dead channels the mean of a constant zero."""
        kept = self._kept(units)
        for mean, roots in self._means:
            values = ops.convert_to_numpy(mean)
            mean.assign(np.where(kept[roots], values, np.zeros_like(values)))

    def _kept(self, units):
        kept = np.ones(self._atoms, bool)
        for name, roots in self.roots.items():
            kept[roots] = units[name]
        return kept


def _blocked(analysis, members, path_of, scored):
    """`{root: why}` of what must stay, in the model or by the selection."""
    blocked = analysis.must_stay()
    for member, roots in members:
        path = path_of.get(id(member.variable))
        if path is None:
            reason = f"{member.variable.path} is frozen"
        elif member.makes and id(member.variable) not in scored:
            reason = f"{path}, which makes them too, is not selected"
        else:
            continue
        for root in roots.tolist():
            blocked.setdefault(root, reason)
    return blocked


def _sets_of(makers, blocked):
    """`{first path: (paths, roots)}` of weights that share a root.

    Args:
        makers: `[(path, roots of its channels)]`.
        blocked: Roots that are in no set.
    """
    sets = {}
    for path, roots in makers:
        free = dict.fromkeys(r for r in roots.tolist() if r not in blocked)
        if not free:
            continue
        parts = [
            sets.pop(name)
            for name, (_, others) in list(sets.items())
            if others.keys() & free.keys()
        ]
        made_by = [each for part, _ in parts for each in part] + [path]
        sets[made_by[0]] = (
            made_by,
            {root: None for _, part in parts for root in part} | free,
        )
    return sets


def _reasons_by_id(model, analysis, members, blocked):
    """`{id(variable): why}` of what it makes, where that must stay."""
    uncut = {
        id(inner): reason
        for layer, reason in analysis.uncut.values()
        for inner in selection.walk_layers(layer)
    }
    reasons = {
        variable: uncut[id(layer)]
        for variable, (layer, _) in selection.owners_of(model).items()
        if id(layer) in uncut
    }
    for member, roots in members:
        if member.makes and roots[0] in blocked:
            reasons[id(member.variable)] = blocked[roots[0]]
    return reasons
