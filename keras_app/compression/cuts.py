"""What can be cut out of a model: groups of channels and heads, by widths."""

import keras
import numpy as np

from keras_app import graph
from keras_app import masks
from keras_app import selection
from keras_app.compression.plan import Group
from keras_app.compression.plan import Side
from keras_app.export.shrink import cut

_STRUCTURES = (masks.GraphChannel, masks.AttentionHead)


class Cuts:
    """The groups of a model that can be cut, and where its layers have them.

    Args:
        model: A built Sequential or functional `keras.Model`.
        multiple_of: Channels are taken so many at once; heads one by one.

    Attributes:
        shapes: `{group: number of units}`, over all structures.

    Raises:
        ValueError: A model whose graph is not known, or without anything that
            can be cut.
    """

    def __init__(self, model, multiple_of):
        check_graph(model)
        self.model = model
        self.multiple_of = multiple_of
        self._found, reasons = [], []
        for structure in (kind() for kind in _STRUCTURES):
            try:
                self._found.append((structure, units_of(structure, model)))
            except ValueError as error:
                reasons.append(str(error))
        if not self._found:
            raise ValueError(
                "`model` must have channels or heads that can be cut. "
                f"Received: model={model.name}. {reasons[0]}"
            )
        self.shapes = {
            name: shape[0]
            for _, units in self._found
            for name, shape in units.shapes.items()
        }

    def groups(self, scores):
        """Returns the `plan.Group`s.

        Args:
            scores: `{path: array}` of the importance of each weight.
        """
        found = []
        for structure, units in self._found:
            step = 1 if structure.heads else self.multiple_of
            for name, importance in units.pool(scores).items():
                found.append(
                    Group(name, importance, min(step, len(importance)))
                )
        return found

    def sets(self):
        """Returns `[(structure of keras_app.masks, names of its groups)]`."""
        return [
            (structure, list(units.shapes)) for structure, units in self._found
        ]

    @property
    def variables(self):
        """`{path: variable}` of all weights that are scored."""
        return {
            path: variable
            for _, units in self._found
            for path, variable in units.selection.variables.items()
        }

    def members(self, groups):
        """`{root of a unit: (group, its rank by importance)}`."""
        roots = {
            name: found
            for _, units in self._found
            for name, found in units.roots.items()
        }
        return {
            int(roots[group.name][unit]): (group.name, rank)
            for group in groups
            for rank, unit in enumerate(group.order)
        }

    def records(self):
        """The `graph.analysis.Record`s of the model."""
        return list(self.analysis.records.values())

    @property
    def analysis(self):
        """The `graph.Analysis` that the roots are of."""
        return self._found[0][1].analysis

    def side(self, channels, members):
        """Returns the `plan.Side` that some channels of a layer are.

        Args:
            channels: `keras_app.layers.passing.Channels`.
            members: As of `members`.
        """
        fixed, ranks = 0, {}
        for root in self.analysis.roots(channels.atoms).tolist():
            if root in members:
                name, rank = members[root]
                ranks.setdefault(name, []).append(rank)
            else:
                fixed += 1
        counts = {
            name: np.concatenate(
                [[0], np.cumsum(np.bincount(each, minlength=self.shapes[name]))]
            )
            for name, each in ranks.items()
        }
        return Side(fixed, counts)

    def smaller(self, widths, groups):
        """Returns the model with these widths; the most important units stay.

        It computes something else than the model, in the time of its widths.

        Args:
            widths: `{group: width}`.
            groups: The `plan.Group`s.
        """
        gone = {
            root
            for root, (name, rank) in self.members(groups).items()
            if rank >= widths[name]
        }
        return cut(self.model, self.analysis, _Kept(self.analysis, gone))


class _Kept:
    """All but some units stay, whatever their weights are.

    Args:
        analysis: The `graph.Analysis` of the model.
        gone: Roots of the units that go.
    """

    def __init__(self, analysis, gone):
        self._analysis = analysis
        self._gone = np.array(sorted(gone), "int64")

    def kept(self, channels):
        """Which positions stay, bool."""
        roots = self._analysis.roots(channels.atoms)
        return ~np.isin(roots, self._gone)

    def fold(self, record):
        """Nothing is added to the bias of a reader: they are no constants."""
        return np.zeros(len(record.outputs.atoms))


def check_graph(model):
    """Raises unless the graph of a model is known."""
    if not graph.is_graph(model):
        raise ValueError(
            "`model` must be a built Sequential or functional model: the graph "
            "of a subclassed one is not known, so that nothing can be cut. "
            "A target 'sparsity:...' needs no graph. "
            f"Received: model={model} of type {type(model).__name__}"
        )


def units_of(structure, model):
    """The `masks.joined.GraphUnits` of a structure in a model."""
    return structure.units(model, selection.select(model))


def widths_of(model):
    """`{layer: channels it gives}` of the layers with kernels, in order."""
    found = {}
    for layer in selection.walk_layers(model):
        for name in ("filters", "units", "num_heads"):
            if isinstance(layer, keras.Layer) and hasattr(layer, name):
                found[layer.name] = int(getattr(layer, name))
                break
    return found
