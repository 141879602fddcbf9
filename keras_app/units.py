"""What is pruned together in a model, for the pruners.

Most structures of `masks.py` say of an array by itself what is pruned together.
`GraphChannel`, `AttentionHead` and `TargetBlock` say it of a model: their units
turn scores and masks of weights into those of units, and back.
"""

import abc
import math

import keras
import numpy as np
from keras import ops

from keras_app import graph
from keras_app import layers
from keras_app import masks as masks_lib
from keras_app import selection


def units_of(structure, model, chosen):
    """Returns the `Units` of a structure in a model.

    Args:
        structure: A structure of `keras_app.masks`, or `None`.
        model: A built `keras.Model`.
        chosen: The `selection.Selection` to prune.

    Raises:
        ValueError: A model whose graph cannot be known, or in which there are
            no such units.
    """
    if isinstance(structure, masks_lib.TargetBlock):
        return BlockUnits(structure, model, chosen)
    if isinstance(structure, GRAPH_STRUCTURES):
        return GraphUnits(structure, model, chosen)
    if isinstance(structure, masks_lib.NM):
        along_inputs = structure.axis == masks_lib.INPUTS
        kind = InputUnits if along_inputs else AxisUnits
        units = kind(structure, model, chosen)
        dense = [
            path
            for path, shape in units.shapes.items()
            if units.structure.sparsity_of(shape) == 0
        ]
        if dense:
            units.notes = [
                *units.notes,
                f"{structure!r} leaves {selection.some(dense)} dense: no more "
                f"than {structure.n} weights lie along the axis",
            ]
        return units
    return ArrayUnits(structure, chosen)


GRAPH_STRUCTURES = (masks_lib.GraphChannel, masks_lib.AttentionHead)


class Units(abc.ABC):
    """Units in sets; those of a set compete if each layer does by itself.

    Attributes:
        selection: The `selection.Selection` of the weights that are scored.
        shapes: `{name of a set: shape}` for what spreads a sparsity over sets.
        kernels: `{name of a set: [paths of the weights that make it]}`.
        followers: `{path: variable}` of weights that are not scored, and are
            pruned with their units.
        structure: What is left to say, of an array of pooled scores, about
            what is pruned together; `None` if they are of units already.
        notes: Sentences about what the user may not expect of them.
    """

    selection: selection.Selection
    shapes: dict
    kernels: dict
    followers: dict
    structure = None
    notes = ()

    @abc.abstractmethod
    def pool(self, scores):
        """Returns `{name of a set: scores of its units}`."""

    @abc.abstractmethod
    def pool_masks(self, masks):
        """Returns `{name of a set: which units still keep anything}`."""

    @abc.abstractmethod
    def spread(self, units):
        """Returns `{path: mask}` of scored weights and followers."""

    @abc.abstractmethod
    def settle(self, units):
        """Adapts what is no weight to the units that are pruned."""

    def expand(self, units, old):
        """Returns the masks of the scored weights.

        What is kept of a unit that stays is what was kept of it before.

        Args:
            units: `{name of a set: which units are kept}`.
            old: `{path: mask}` before the update.
        """
        new, before = self.spread(units), self.spread(self.pool_masks(old))
        return {path: new[path] & (old[path] | ~before[path]) for path in old}


class ArrayUnits(Units):
    """Units that a structure knows by the array; every weight is a set.

    Scores and masks stay those of weights, for the functions of `masks`.
    """

    def __init__(self, structure, chosen):
        self.structure = structure
        self.selection = chosen
        self.followers = {}
        self.shapes = {
            path: tuple(variable.shape)
            for path, variable in chosen.variables.items()
        }
        self.kernels = {path: [path] for path in self.shapes}
        if structure is not None:
            for path, shape in self.shapes.items():
                structure.check(shape, path)

    def pool(self, scores):
        """Returns the scores."""
        return scores

    def pool_masks(self, masks):
        """Returns the masks."""
        return masks

    def spread(self, units):
        """Returns the masks."""
        return units

    def settle(self, units):
        """Nothing but weights is pruned."""


class AxisUnits(ArrayUnits):
    """Groups of n:m along one axis, the same for all layers."""

    def __init__(self, structure, model, chosen):
        super().__init__(structure, chosen)
        elsewhere = [
            path
            for path, (_, axes) in _contracted(model, chosen).items()
            if axes is not None
            and not structure.axes_of(len(self.shapes[path])) & {*axes}
        ]
        if elsewhere:
            self.notes = [
                f"{structure!r} groups {selection.some(elsewhere)} along axes "
                "that their layers do not sum over, so that hardware for n:m "
                f"skips nothing there; axis={masks_lib.INPUTS!r} finds the "
                "right ones"
            ]


class MatrixUnits(ArrayUnits):
    """Units of kernels that are seen as matrices, rows first.

    Args:
        chosen: The `selection.Selection` to prune.
        rows: `{path: axes that are the rows}`; with `None` a kernel stays as
            it is.
    """

    def __init__(self, chosen, rows):
        super().__init__(None, chosen)
        self._rows = rows
        self._arrays = self.shapes

    def pool(self, scores):
        """Returns `{path: matrix of scores}`."""
        return {
            path: _as_matrix(values, self._rows[path])
            for path, values in scores.items()
        }

    def pool_masks(self, masks):
        """Returns `{path: matrix of the mask}`."""
        return self.pool(masks)

    def spread(self, units):
        """Returns `{path: mask}`."""
        return {
            path: _from_matrix(kept, self._rows[path], self._arrays[path])
            for path, kept in units.items()
        }


class InputUnits(MatrixUnits):
    """Groups of n:m along all that a layer sums over."""

    def __init__(self, structure, model, chosen):
        rows, skipped = {}, {}
        for path, (layer, axes) in _contracted(model, chosen).items():
            kind = "an unknown layer" if layer is None else type(layer).__name__
            if axes:
                rows[path] = axes
            elif axes is None:
                skipped[path] = (
                    f"of {kind}, of which n:m along the inputs is not known; "
                    "give NM an integer as `axis`"
                )
            else:
                skipped[path] = f"of {kind}: it sums over no inputs"
        chosen = chosen.without(skipped)
        if not chosen.variables:
            raise ValueError(
                f"There is nothing to prune with structure={structure!r}: "
                + "; ".join(f"{path}: {why}" for path, why in skipped.items())
            )
        super().__init__(chosen, rows)
        self.structure = structure.of_matrix
        self.shapes = {
            path: _matrix_shape(shape, rows[path])
            for path, shape in self._arrays.items()
        }


class BlockUnits(MatrixUnits):
    """Blocks whose axes depend on the layer; every weight is a set."""

    def __init__(self, structure, model, chosen):
        owners = selection.owners_of(model)
        blocks = {
            path: _block_of(structure, variable, owners.get(id(variable)))
            for path, variable in chosen.variables.items()
        }
        super().__init__(chosen, {p: rows for p, (_, rows) in blocks.items()})
        self._blocks = {path: block for path, (block, _) in blocks.items()}

    def pool(self, scores):
        """Returns `{path: scores of its blocks}`."""
        return {
            path: self._blocks[path].pool(matrix)
            for path, matrix in super().pool(scores).items()
        }

    def pool_masks(self, masks):
        """Returns `{path: which blocks still keep anything}`."""
        return {
            path: self._blocks[path].pool_mask(matrix)
            for path, matrix in super().pool(masks).items()
        }

    def spread(self, units):
        """Returns `{path: mask}`."""
        return super().spread(
            {
                path: self._blocks[path].expand(
                    kept, _matrix_shape(self._arrays[path], self._rows[path])
                )
                for path, kept in units.items()
            }
        )


def _contracted(model, chosen):
    """`{path: (layer, axes that it sums over)}`; `None` if not known."""
    owners = selection.owners_of(model)
    found = {}
    for path, variable in chosen.variables.items():
        layer, name = owners.get(id(variable), (None, ""))
        rank = len(variable.shape)
        found[path] = layer, layers.contracted_axes(layer, name, rank)
    return found


def _block_of(structure, kernel, owner):
    """A structure, and the axes of the kernel that are its rows, if any."""
    layer, name = owner or (None, "")
    rows = _summed_over(layer) if name == "kernel" else ()
    if rows:
        inputs = math.prod(kernel.shape[axis] for axis in rows)
        if inputs % structure.of_matrix.block_shape[0] == 0:
            return structure.of_matrix, rows
        return masks_lib.Unstructured(), None
    pointwise = (
        isinstance(layer, keras.layers.Conv2D)
        and tuple(layer.kernel_size) == (1, 1)
        or isinstance(layer, keras.layers.SeparableConv2D)
    )
    if pointwise and name in ("kernel", "pointwise_kernel"):
        return structure.of_pointwise, None
    return masks_lib.Unstructured(), None


def _summed_over(layer):
    """The axes of a kernel that are summed over; none if it is no matrix."""
    if isinstance(layer, keras.layers.Dense):
        return (0,)
    if not isinstance(layer, keras.layers.EinsumDense):
        return ()
    given, kernel, result = layer.equation.replace("->", ",").split(",")
    if set(kernel) & set(given) & set(result):
        return ()  # a batch of products
    return layers.einsum_contracted(layer.equation)


def _matrix_shape(shape, rows):
    if rows is None:
        return shape
    height = math.prod(shape[axis] for axis in rows)
    return height, math.prod(shape) // height


def _rows_first(rank, rows):
    return [*rows, *(axis for axis in range(rank) if axis not in rows)]


def _as_matrix(array, rows):
    """Puts the axes `rows` first, and makes a matrix of two kinds of axes."""
    if rows is None:
        return array
    order = _rows_first(array.ndim, rows)
    return array.transpose(order).reshape(_matrix_shape(array.shape, rows))


def _from_matrix(matrix, rows, shape):
    """Undoes `_as_matrix` of an array of this shape."""
    if rows is None:
        return matrix
    order = _rows_first(len(shape), rows)
    array = matrix.reshape([shape[axis] for axis in order])
    return np.ascontiguousarray(array.transpose(np.argsort(order)))


class GraphUnits(Units):
    """Channels, or heads, that the graph of the model joins.

    A set holds what the layers make whose outputs are joined, under the path
    of the first of their kernels.
    """

    def __init__(self, structure, model, chosen):
        if not graph.is_graph(model):
            raise ValueError(
                f"`structure={structure!r}` needs the graph of a built "
                "Sequential or functional model. Use `masks.Channel()` for a "
                "subclassed one: it prunes each layer by itself. "
                f"Received: model={model} of type {type(model).__name__}"
            )
        analysis = graph.Analysis(model)
        heads = isinstance(structure, masks_lib.AttentionHead)
        members = [
            (member, analysis.roots(member.atoms))
            for member in analysis.members(heads)
        ]
        paths = selection.paths_of(model.trainable_variables)
        path_of = {id(variable): path for path, variable in paths.items()}
        blocked = analysis.must_stay()
        scored = {id(variable) for variable in chosen.variables.values()}
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
        # Where the units are in the weights: (path, axis, root of each place).
        self._places = [
            (path_of[id(member.variable)], member.axis, roots)
            for member, roots in members
            if not blocked.keys() >= set(roots.tolist())
        ]
        self._atoms = 1 + max((r.max() for *_, r in self._places), default=0)
        makers = [
            (path_of[id(member.variable)], roots)
            for member, roots in members
            if member.makes and id(member.variable) in path_of
        ]
        sets = _sets_of(makers, blocked)
        self.kernels = {name: made_by for name, (made_by, _) in sets.items()}
        self._roots = {name: np.array(list(r)) for name, (_, r) in sets.items()}
        self.shapes = {name: each.shape for name, each in self._roots.items()}
        placed = {path for path, *_ in self._places}
        self._shapes = {path: tuple(paths[path].shape) for path in placed}
        self.followers = {
            path: variable
            for path, variable in paths.items()
            if path in placed and id(variable) not in scored
        }
        self.selection = selection.Selection(
            {p: v for p, v in chosen.variables.items() if p in placed},
            {p: why for p, why in chosen.skipped.items() if p not in placed},
        )
        why_not = _Reasons(structure, model, analysis, members, blocked)
        self.selection.skipped.update(
            (path, why_not(variable))
            for path, variable in chosen.variables.items()
            if path not in placed
        )
        if not self.selection.variables:
            raise ValueError(
                f"There is nothing to prune with structure={structure!r}: "
                + "; ".join(
                    f"{path}: {self.selection.skipped[path]}"
                    for path in list(chosen.variables)[:8]
                )
            )
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
        for path, axis, roots in self._places:
            if path in scores:
                others = _all_but(axis, scores[path].ndim)
                sums = scores[path].sum(others, dtype=np.float64)
                np.add.at(totals, roots, sums)
        return {name: totals[roots] for name, roots in self._roots.items()}

    def pool_masks(self, masks):
        """Returns `{name of a set: which units still keep anything}`."""
        alive = np.zeros(self._atoms, bool)
        for path, axis, roots in self._places:
            if path in masks:
                found = masks[path].any(_all_but(axis, masks[path].ndim))
                alive[roots[found]] = True
        return {name: alive[roots] for name, roots in self._roots.items()}

    def spread(self, units):
        """Returns `{path: mask}` of scored weights and followers."""
        kept = self._kept(units)
        masks = {path: np.ones(s, bool) for path, s in self._shapes.items()}
        for path, axis, roots in self._places:
            view = [1] * masks[path].ndim
            view[axis] = len(roots)
            masks[path] &= kept[roots].reshape(view)
        return masks

    def settle(self, units):
        """Gives dead channels the mean of a constant zero."""
        kept = self._kept(units)
        for mean, roots in self._means:
            values = ops.convert_to_numpy(mean)
            mean.assign(np.where(kept[roots], values, np.zeros_like(values)))

    def _kept(self, units):
        kept = np.ones(self._atoms, bool)
        for name, roots in self._roots.items():
            kept[roots] = units[name]
        return kept


def _all_but(axis, rank):
    return tuple(i for i in range(rank) if i != axis % rank)


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


class _Reasons:
    """Why a weight has no units."""

    def __init__(self, structure, model, analysis, members, blocked):
        self._structure = structure
        self._owners = selection.owners_of(model)
        self._blocked = {
            id(member.variable): blocked[roots[0]]
            for member, roots in members
            if member.makes and roots[0] in blocked
        }
        self._uncut = {
            id(inner): reason
            for layer, reason in analysis.uncut.values()
            for inner in selection.walk_layers(layer)
        }

    def __call__(self, variable):
        layer, _ = self._owners.get(id(variable), (None, ""))
        reason = self._blocked.get(id(variable), self._uncut.get(id(layer)))
        if reason is not None:
            return f"what it makes must stay: {reason}"
        if isinstance(self._structure, masks_lib.AttentionHead):
            return "of no attention layer; see masks.GraphChannel"
        return (
            "of no layer whose channels the graph shows; of attention, see "
            "masks.AttentionHead"
        )
