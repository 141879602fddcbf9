"""n of every m consecutive weights."""

import functools
from collections.abc import Sequence
from typing import Literal

import keras
import numpy as np

from keras_app import selection
from keras_app import split
from keras_app.checks import check_int
from keras_app.hints import Shape
from keras_app.hints import Ties
from keras_app.masks import exact_k
from keras_app.masks import on_devices
from keras_app.masks.matrices import contracted
from keras_app.masks.matrices import MatrixUnits
from keras_app.masks.structures import check_axis
from keras_app.masks.structures import check_rank
from keras_app.masks.structures import Structure
from keras_app.masks.structures import Units
from keras_app.selection import Selection

# The axis of `NM` that depends on the layer.
INPUTS = "inputs"


@keras.saving.register_keras_serializable(package="keras_app")
class NM(Structure):
    """Keeps `n` of every `m` consecutive entries along an axis.

    The ratio is fixed: any sparsity above 0 gives n:m, 0 keeps everything.
    Where m does not divide the axis, the shorter last group keeps its `n`
    best as well (all of them, if it has no more).

    With `transposable=True` the mask is n:m along both of the last two axes, so
    that hardware for n:m multiplies by the weight and, in the backward pass, by
    its transpose. Of all such masks, each m x m block gets the one with the
    largest sum of scores, by trying them all (90 of 2:4). Smaller blocks at a
    ragged edge keep as many entries as n to a row and to a column allow.

    Args:
        n: Entries **kept** in each group, 1 <= n <= m.
        m: Size of a group, >= 1; at most 4 with `transposable=True`.
        axis: Axis along which groups lie. Hardware that computes n:m wants
            those that a layer sums over: `"inputs"` finds them for each kernel.
            It is then seen as the matrix `(inputs, outputs)` that the layer
            multiplies by, all axes that are summed over as one, in the order
            of the kernel: of a convolution positions and channels, of the last
            kernel of attention heads and sizes. Where m does not divide their
            number, the last group is shorter, as on any axis. Kernels that
            mix no inputs (depthwise, embeddings) are left dense, and kernels of
            layers whose axes are not known. Pruners take `"inputs"`; functions
            of arrays need an integer. Defaults to `-1`, the outputs.
        transposable: Whether the last two axes both have groups; `axis` is then
            `-1`, or `"inputs"` for those of the matrix. Of blocks with equal
            sums the one is taken that prunes the first entry, in flat order, at
            which they differ; sums are taken to 2^-58 of the largest score of a
            block. Defaults to `False`.

    Example:

    >>> from keras_app.masks import mask_from_scores
    >>> mask_from_scores(np.array([4.0, 1.0, 3.0, 2.0]), 0.5, NM(2, 4))
    array([ True, False,  True, False])
    >>> scores = np.array([[9.0, 8.0], [7.0, 1.0]])
    >>> mask_from_scores(scores, 0.5, NM(1, 2))
    array([[ True, False],
           [ True, False]])
    >>> mask_from_scores(scores, 0.5, NM(1, 2, transposable=True))
    array([[False,  True],
           [ True, False]])

    Reference, of transposable masks: [Hubara et al.,
    2021](https://arxiv.org/abs/2102.08124). Differs: the best masks are found
    by enumeration, not as a flow or by its approximation.
    """

    pools = False
    fixes_sparsity = True

    def __init__(
        self,
        n: int,
        m: int,
        axis: int | Literal["inputs"] = -1,
        transposable: bool = False,
    ) -> None:
        self.m = check_int("m", m, 1)
        self.n = check_int("n", n, 1)
        if self.n > self.m:
            raise ValueError(
                "`n` must be <= `m`: n entries are kept of every m. "
                f"Received: n={n}, m={m}"
            )
        if not (isinstance(axis, str) and axis == INPUTS):
            axis = check_axis(axis, f"an integer or {INPUTS!r}")
        if not isinstance(transposable, bool):
            raise TypeError(
                "`transposable` must be True or False. "
                f"Received: transposable={transposable!r}"
            )
        if transposable and self.m > 4:
            raise ValueError(
                "`m` must be <= 4 with transposable=True, which tries all "
                f"masks of a block. Received: m={m}"
            )
        if transposable and axis not in (-1, INPUTS):
            raise ValueError(
                "`axis` must be -1 or 'inputs' with transposable=True, which "
                f"groups two axes. Received: axis={axis}"
            )
        self.axis = axis
        self.transposable = transposable

    @property
    def takes_split(self) -> bool:
        """Whether groups lie along one axis: masks of blocks are tried out."""
        return not self.transposable

    @property
    def sparsity(self) -> float:
        """The share that is pruned of every whole group."""
        return 1.0 - self.n / self.m

    def check(self, pruner: keras.callbacks.Callback) -> None:
        """Raises where a sparsity is asked for: the ratio is one."""
        custom = pruner.custom_sparsity or {}
        if any(sparsity != 0 for sparsity in custom.values()):
            raise ValueError(
                "`custom_sparsity` must be 0 with n:m, which fixes the "
                "sparsity of what it prunes. Received: custom_sparsity="
                f"{custom}, structure={self!r}"
            )
        if callable(pruner.distribution):
            raise ValueError(
                "`distribution` has no meaning with n:m, which fixes the "
                "sparsity of each kernel. Keep kernels dense with "
                "custom_sparsity={regex: 0}. "
                f"Received: distribution={pruner.distribution!r}"
            )

    def check_shape(self, shape: Shape, path: str = "a weight") -> None:
        """Raises unless a weight of this shape has the structure's axes."""
        if self.axis == INPUTS:
            raise ValueError(
                "`axis` must be an integer for an array: only a pruner, which "
                "knows the layers, can find the axes of their inputs. "
                f"Received: axis={self.axis!r} for {path} of shape "
                f"{tuple(shape)}"
            )
        super().check_shape(shape, path)

    def sparsity_of(self, shape: Shape) -> float:
        """Returns the sparsity that n:m gives a weight of this shape."""
        self.check_shape(shape)
        if self.transposable:
            kept = sum(
                blocks * int(_patterns(self.n, *block)[0].sum())
                for _, block, blocks in self._regions(shape)
            )
            return 1.0 - kept / (shape[-2] * shape[-1])
        length = shape[self.axis]
        full, rest = divmod(length, self.m)
        return 1.0 - (full * self.n + min(rest, self.n)) / length

    def pool_mask(self, mask: np.ndarray) -> np.ndarray:
        """Returns the mask: n:m is counted by single weights."""
        return mask

    def prune(
        self,
        arrays: list[np.ndarray],
        sparsity: float,
        ties: Ties,
        previous: Sequence[np.ndarray | None],
    ) -> list[np.ndarray]:
        """Returns the n:m mask of each array by itself; 0 keeps all."""
        for array in arrays:
            self.check_shape(array.shape)
        if sparsity == 0:
            return [
                split.numpy_of(array).ones_like(array, dtype=bool)
                for array in arrays
            ]
        mask = self._transposable_mask if self.transposable else self._mask
        return [mask(array, old) for array, old in zip(arrays, previous)]

    def units(self, model: keras.Model, chosen: Selection) -> Units:
        """Returns the groups of n:m, of kernels or of their matrices."""
        axes_of = contracted(model, chosen)
        if self.axis == INPUTS:
            units = self._along_inputs(chosen, axes_of)
        else:
            units = Units(self, chosen)
            units.notes += self._elsewhere(units.shapes, axes_of)
        dense = [
            path
            for path, shape in units.shapes.items()
            if units.structure.sparsity_of(shape) == 0
        ]
        if dense:
            units.notes.append(
                f"{self!r} leaves {selection.some(dense)} dense: no more "
                f"than {self.n} weights lie along the axis"
            )
        return units

    def _along_inputs(self, chosen, axes_of):
        rows, skipped = {}, {}
        for path, (layer, axes) in axes_of.items():
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
                f"There is nothing to prune with structure={self!r}: "
                + "; ".join(f"{path}: {why}" for path, why in skipped.items())
            )
        axis = -1 if self.transposable else 0
        of_matrix = NM(self.n, self.m, axis, self.transposable)
        units = MatrixUnits(of_matrix, chosen, rows)
        units.shapes = {p: each.shape for p, each in units.matrices.items()}
        return units

    def _elsewhere(self, shapes, axes_of):
        """A sentence on kernels whose groups no hardware can use."""
        elsewhere = []
        for path, (_, axes) in axes_of.items():
            rank = len(shapes[path])
            grouped = {self.axis % rank}
            if self.transposable:
                grouped = {rank - 2, rank - 1}
            if axes is not None and not grouped & {*axes}:
                elsewhere.append(path)
        if not elsewhere:
            return []
        return [
            f"{self!r} groups {selection.some(elsewhere)} along axes that "
            "their layers do not sum over, so that hardware for n:m skips "
            f"nothing there; axis={INPUTS!r} finds the right ones"
        ]

    def _mask(self, scores, previous):
        if split.is_split(scores):
            choose = split.method_for(scores.sharding, self, "_best_of_groups")
            return choose(scores, previous)
        # The padding below is -inf and must lose to every score.
        ranked = np.maximum(scores, -np.finfo(np.float64).max)
        if previous is not None:
            ranked[~previous] = -np.inf
        rows = np.moveaxis(ranked, self.axis, -1)
        length = rows.shape[-1]
        padding = -length % self.m
        # Padding ranks below everything, so that it never takes a place.
        rows = np.concatenate(
            [rows, np.full((*rows.shape[:-1], padding), -np.inf)], axis=-1
        )
        groups = rows.reshape(-1, self.m)
        # Stable: of equal scores the lower index is pruned, as everywhere.
        pruned = np.argsort(groups, axis=-1, kind="stable")
        pruned = pruned[:, : self.m - self.n]
        mask = np.ones(groups.shape, bool)
        np.put_along_axis(mask, pruned, False, axis=-1)
        mask = mask.reshape(rows.shape)[..., :length]
        return np.ascontiguousarray(np.moveaxis(mask, -1, self.axis))

    def _best_of_groups(self, scores, previous):
        return on_devices.best_of_groups(
            scores, previous, self.n, self.m, self.axis
        )

    def _regions(self, shape):
        """`[(slices of the last two axes, their block, number of blocks)]`."""
        check_rank("NM(transposable=True)", shape)
        # Along each axis: whole groups, and the shorter one at the end.
        parts = [
            [
                (slice(0, length - length % self.m), self.m, length // self.m),
                (slice(length - length % self.m, length), length % self.m, 1),
            ]
            for length in shape[-2:]
        ]
        return [
            ((..., rows, columns), (height, width), down * across)
            for rows, height, down in parts[0]
            for columns, width, across in parts[1]
            if down * across and height * width
        ]

    def _transposable_mask(self, scores, previous):
        mask = np.empty(scores.shape, bool)
        for where, (height, width), _ in self._regions(scores.shape):
            patterns = _patterns(self.n, height, width)
            region = scores[where]
            # The two axes of a block, made the last one.
            parts = (
                *region.shape[:-2],
                region.shape[-2] // height,
                height,
                region.shape[-1] // width,
                width,
            )
            ranked = _flat_blocks(region, parts)
            alive = (
                np.ones(ranked.shape, bool)
                if previous is None
                else _flat_blocks(previous[where], parts)
            )
            kept = np.empty(ranked.shape, bool)
            size = exact_k.CHUNK // len(patterns)
            for start in range(0, len(ranked), size):
                here = slice(start, start + size)
                kept[here] = _best_patterns(patterns, ranked[here], alive[here])
            kept = kept.reshape(
                *parts[:-4], parts[-4], parts[-2], height, width
            )
            mask[where] = kept.swapaxes(-3, -2).reshape(region.shape)
        return mask


@functools.cache
def _patterns(n, height, width):
    """All masks that a block may get, flat, the preferred first."""
    codes = np.arange(1 << height * width)[:, None]
    # The first entry is the highest bit: of two masks the smaller number
    # prunes the first entry at which they differ.
    bits = codes >> np.arange(height * width)[::-1] & 1
    masks = bits.reshape(-1, height, width)
    valid = (masks.sum(1).max(1) <= n) & (masks.sum(2).max(1) <= n)
    counts = masks.sum((1, 2)) * valid
    return bits[counts == counts.max()]


def _flat_blocks(region, parts):
    blocks = region.reshape(parts).swapaxes(-3, -2)
    return blocks.reshape(-1, parts[-3] * parts[-1])


def _best_patterns(patterns, scores, alive):
    """The pattern of the largest sum for each block, without what was pruned.

    As many as possible of those alive are kept, then as many infinite scores.
    """
    counts = alive & np.isfinite(scores)
    chosen = patterns.T
    # Whole numbers of up to 58 bits: doubles are not rounded unless they are
    # small beside the largest, and sums of 16 are exact. So ties are ties.
    values = np.where(counts, scores, 0.0).astype(np.float64)
    exponent = np.frexp(np.abs(values).max(1, keepdims=True))[1]
    whole = np.rint(np.ldexp(values, 58 - exponent)).astype(np.int64)
    sums = whole @ chosen
    if not counts.all():
        # 33 is more than what the infinite of 16 entries can add up to.
        level = alive * (33.0 + np.where(counts, 0.0, np.sign(scores)))
        levels = level @ chosen
        sums[levels < levels.max(1, keepdims=True)] = np.iinfo(np.int64).min
    return patterns[sums.argmax(1)].astype(bool) & alive
