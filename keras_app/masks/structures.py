"""What is pruned together: single weights, channels, blocks.

A structure says what the units of an array are, what they are in a model, and
which pruners it goes with.
"""

import numbers
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import get_args
from typing import Literal

import keras
import numpy as np
import numpy.typing as npt

from keras_app import split
from keras_app.checks import check_choice
from keras_app.checks import check_int
from keras_app.checks import check_sparsity
from keras_app.config import Configured
from keras_app.hints import Shape
from keras_app.hints import Ties
from keras_app.masks import applied
from keras_app.masks import exact_k
from keras_app.masks import on_devices
from keras_app.selection import Selection

Pooling = Literal["avg", "max"]

# Of one tensor, or of several in a dict or a list.
ArraysOf = npt.ArrayLike | Mapping[Any, npt.ArrayLike] | Sequence[npt.ArrayLike]


def mask_from_scores(
    scores: ArraysOf,
    sparsity: float,
    structure: "Structure | None" = None,
    ties: Ties = "exact",
    previous: ArraysOf | None = None,
) -> Any:
    """Prunes the `int(sparsity * N)` entries with the smallest scores.

    One tensor, or several with one threshold for all of them. A mask is a bool
    array of its weight's shape, `True` where the weight is kept.

    Args:
        scores: Array of one tensor, or a dict or list of arrays; larger is
            kept. Any real dtype.
        sparsity: Fraction to prune, in [0, 1]. `N` counts the entries of all
            tensors, or their units where a `structure` is given.
        structure: `None` (every entry by itself), or one of `NM`, `Block`,
            `Channel`.
        ties: `"exact"` prunes exactly k entries; among equal scores the
            earlier tensor goes first, then the lower flat index. `"le"`
            prunes every score at or below the k-th smallest, which can be
            more. Defaults to `"exact"`.
        previous: Masks in the same container. What they prune stays pruned
            and counts as the first of the k; a k below their number keeps
            them as they are. Defaults to `None`: scores alone decide.

    Returns:
        Bool masks, `True` kept, in the container of `scores`. NumPy arrays; of
        scores that are split over devices, as `keras.distribution` splits
        weights on JAX, arrays that are split alike. Those are never gathered,
        unless a `structure` does not take them.

    Raises:
        ValueError: For NaN scores, unknown `ties`, a sparsity outside [0, 1],
            or `previous` masks of another shape.

    Example:

    >>> mask_from_scores(np.array([0.3, 0.1, 0.2, 0.4]), 0.5)
    array([ True, False, False,  True])
    """
    sparsity = check_sparsity("sparsity", sparsity, allow_one=True)
    check_choice("ties", ties, get_args(Ties))
    structure = Unstructured() if structure is None else structure
    if not isinstance(structure, Structure) or not structure.is_of_arrays:
        raise TypeError(
            "`structure` must be None, or one of NM, Block, Channel; what is "
            "pruned together in a model only a pruner knows. "
            f"Received: structure={structure!r}"
        )
    named = by_name(scores)
    previous = _check_previous(named, scores, previous)
    if not structure.takes_split:
        named = {name: split.gathered(array) for name, array in named.items()}
        previous = [split.gathered(old) for old in previous]
    arrays = _as_scores(named, previous)
    masks = structure.prune(arrays, sparsity, ties, previous)
    # A unit that is kept may hold single weights that were pruned before.
    masks = [
        mask if old is None else mask & old
        for mask, old in zip(masks, previous)
    ]
    return in_container(scores, masks)


def by_name(container, single="scores"):
    """Returns `{name: array}` for a dict, list or tuple, or a single array."""
    if isinstance(container, dict):
        return container
    if isinstance(container, (list, tuple)):
        return dict(enumerate(container))
    return {single: container}


def in_container(container, arrays):
    """Returns arrays, in the order of `by_name`, in a container like it."""
    if isinstance(container, dict):
        return dict(zip(container, arrays))
    if isinstance(container, (list, tuple)):
        return type(container)(arrays)
    [array] = arrays
    return array


def _as_scores(named, previous):
    """Scores without a NaN: on the host, or where one or its mask is split."""
    found = []
    for (name, array), old in zip(named.items(), previous):
        if split.is_split(array) or split.is_split(old):
            found.append(on_devices.as_scores(name, array, old))
        else:
            found.append(exact_k.as_scores(name, array))
    return found


def _check_previous(named, scores, previous):
    """The masks before, in the order of the scores."""
    if previous is None:
        return [None] * len(named)
    if isinstance(scores, dict) != isinstance(previous, dict):
        raise ValueError(
            "`previous` must be in the same container as `scores`. "
            f"Received: {type(previous).__name__}"
        )
    if isinstance(scores, dict):
        if set(previous) != set(named):
            raise ValueError(
                "`previous` must have the names of `scores`. Received: "
                f"{list(previous)} for scores of {list(named)}"
            )
        olds = [previous[name] for name in named]
    else:
        olds = by_name(previous).values()
    olds = [
        old if split.is_split(old) else np.asarray(old).astype(bool, copy=False)
        for old in olds
    ]
    shapes = [tuple(np.shape(array)) for array in named.values()]
    if [old.shape for old in olds] != shapes:
        raise ValueError(
            "`previous` must have the shapes of `scores`. Received: "
            f"{[old.shape for old in olds]} for scores of {shapes}"
        )
    return olds


class Structure(Configured):
    """What is pruned together. Value objects: equal if their configs are.

    A structure of one's own says what the units of an array are, by two
    methods:

        pool(scores)              the score of each unit, an array
        expand(unit_mask, shape)  the mask of an array of that shape

    and by `pool_mask(mask)`, which units still keep anything, where that is not
    `pool(mask) > 0`. Each argument of its constructor is an attribute of the
    same name. One that says `takes_split = True` is also asked about weights
    that are split over devices: its methods are then compiled by JAX.

    Example:

    >>> class Rows(Structure):
    ...     def pool(self, scores):
    ...         return scores.sum(-1)
    ...     def expand(self, unit_mask, shape):
    ...         return np.broadcast_to(unit_mask[..., None], shape).copy()
    >>> mask_from_scores(np.array([[1, 1], [3, 0]]), 0.5, structure=Rows())
    array([[False, False],
           [ True,  True]])
    """

    #: Whether the units of an array can be told without its model.
    is_of_arrays = True

    #: Whether its methods can be compiled, for arrays split over devices.
    takes_split = False

    #: Whether units are more than single weights.
    pools = True

    #: Whether it fixes the sparsity of what it prunes, whatever is asked.
    fixes_sparsity = False

    def check(self, pruner: keras.callbacks.Callback) -> None:
        """Raises unless it goes with a pruner and with its other arguments."""

    def check_shape(self, shape: Shape, path: str = "a weight") -> None:
        """Raises unless a weight of this shape has the structure's axis."""
        axis = getattr(self, "axis", -1)
        if not -len(shape) <= axis < len(shape):
            raise ValueError(
                "`axis` of the structure must be an axis of the weight. "
                f"Received: axis={axis} for {path} of shape {tuple(shape)}, "
                f"which has {len(shape)} axes"
            )

    def pool_mask(self, mask: np.ndarray) -> np.ndarray:
        """Returns which units still keep anything."""
        return self.pool(mask.astype("float32")) > 0

    def prune(
        self,
        arrays: list[np.ndarray],
        sparsity: float,
        ties: Ties,
        previous: Sequence[np.ndarray | None],
    ) -> list[np.ndarray]:
        """Returns masks of arrays of scores that share one threshold.

        Args:
            arrays: List of arrays of float32 or float64.
            sparsity: Fraction of all their units to prune, in [0, 1].
            ties: `"exact"` or `"le"`, as in `mask_from_scores`.
            previous: List of the masks before, or of `None`.
        """
        units = [applied.pool(self, array) for array in arrays]
        before = [
            None if old is None else applied.pool_mask(self, old)
            for old in previous
        ]
        exact = on_devices if any(map(split.is_split, units)) else exact_k
        unit_masks = exact.prune_smallest(units, sparsity, ties, before)
        return [
            applied.expand(self, mask, array.shape, split.layout(array))
            for mask, array in zip(unit_masks, arrays)
        ]

    def units(self, model: keras.Model, chosen: Selection) -> "Units":
        """Returns the `Units` of what is to be pruned in a model.

        Args:
            model: A built `keras.Model`.
            chosen: The `selection.Selection` to prune.

        Raises:
            ValueError: A model whose graph cannot be known, or in which there
                are no such units.
        """
        return Units(self, chosen)

    def __eq__(self, other):
        return (
            type(self) is type(other)
            and self.get_config() == other.get_config()
        )

    def __hash__(self):
        return hash((type(self), str(self.get_config())))

    def __repr__(self):
        args = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({args})"


class Units:
    """The units of a structure in a model; those of a set compete.

    Here every weight is a set, and its units are left to the structure: scores
    and masks stay those of weights. Where only a model tells the units, they
    are pooled already.

    Args:
        structure: What is left to say, of an array of pooled scores, about
            what is pruned together.
        chosen: The `selection.Selection` to prune.

    Attributes:
        selection: The `selection.Selection` of the weights that are scored.
        shapes: `{name of a set: shape}` for what spreads a sparsity over sets.
        kernels: `{name of a set: [paths of the weights that make it]}`.
        followers: `{path: variable}` of weights that are not scored, and are
            pruned with their units.
        notes: Sentences about what the user may not expect of them.
    """

    def __init__(self, structure, chosen):
        self.structure = structure
        self.selection = chosen
        self.shapes = {
            path: tuple(variable.shape)
            for path, variable in chosen.variables.items()
        }
        self.kernels = {path: [path] for path in self.shapes}
        self.followers = {}
        self.notes = []
        for path, shape in self.shapes.items():
            structure.check_shape(shape, path)

    def pool(self, scores):
        """Returns `{name of a set: scores of its units}`."""
        return scores

    def pool_masks(self, masks):
        """Returns `{name of a set: which units still keep anything}`."""
        return masks

    def spread(self, units, beside):
        """Returns `{path: mask}` of scored weights and followers.

        Args:
            units: `{name of a set: which units are kept}`.
            beside: `{path: array}` of the scored weights: where it is split
                over devices, the mask is.
        """
        return units

    def settle(self, units):
        """Adapts what is no weight to the units that are pruned."""

    def kept(self, masks):
        """Returns `{name of a set: which units keep anything}`, all pooled."""
        return {
            name: applied.pool_mask(self.structure, mask)
            for name, mask in self.pool_masks(masks).items()
        }

    def expand(self, units, old):
        """Returns the masks of the scored weights.

        What is kept of a unit that stays is what was kept of it before.

        Args:
            units: `{name of a set: which units are kept}`.
            old: `{path: mask}` before the update.
        """
        new = self.spread(units, old)
        before = self.spread(self.pool_masks(old), old)
        return {path: new[path] & (old[path] | ~before[path]) for path in old}


@keras.saving.register_keras_serializable(package="keras_app")
class Unstructured(Structure):
    """Every weight by itself."""

    takes_split = True
    pools = False

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """Returns the score of each unit: here each entry's own."""
        return scores

    def pool_mask(self, mask: np.ndarray) -> np.ndarray:
        """Returns which units still keep anything."""
        return mask

    def expand(self, unit_mask: np.ndarray, shape: Shape) -> np.ndarray:
        """Returns the mask of shape `shape` for the units that are kept."""
        return unit_mask


@keras.saving.register_keras_serializable(package="keras_app")
class Channel(Structure):
    """Whole channels, scored by the sum of the scores over the channel.

    Each weight by itself: `GraphChannel` prunes the channels of all layers that
    only go together.

    Args:
        axis: Axis of the channels. Defaults to `-1`, the output channels or
            neurons of Keras's kernels.

    Example:

    >>> scores = np.array([[1.0, 5.0, 2.0], [1.0, 5.0, 2.0]])
    >>> mask_from_scores(scores, 0.34, structure=Channel())
    array([[False,  True,  True],
           [False,  True,  True]])
    """

    takes_split = True

    def __init__(self, axis: int = -1) -> None:
        self.axis = check_axis(axis)

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """Returns the sum of the scores over each channel."""
        self.check_shape(scores.shape)
        # Accumulated in double: the order of a float32 sum differs between
        # platforms and would move the threshold.
        others = _all_but(self.axis, scores.ndim)
        return split.widened(scores).sum(others, dtype=np.float64)

    def pool_mask(self, mask: np.ndarray) -> np.ndarray:
        """Returns which channels still keep anything."""
        return mask.any(_all_but(self.axis, mask.ndim))

    def expand(self, unit_mask: np.ndarray, shape: Shape) -> np.ndarray:
        """Returns the mask of shape `shape` for the channels kept."""
        view = [1] * len(shape)
        view[self.axis] = unit_mask.size
        broadcast_to = split.numpy_of(unit_mask).broadcast_to
        return broadcast_to(unit_mask.reshape(view), shape).copy()


@keras.saving.register_keras_serializable(package="keras_app")
class Block(Structure):
    """Blocks over the last two axes of a kernel.

    Blocks at a ragged edge are smaller and are pooled over the entries that
    exist, so that a padding never makes them look weak. `TargetBlock` takes
    the shape and the axes that a runtime wants.

    Args:
        block_shape: `(rows, columns)` of a block, both >= 1.
        pooling: `"avg"` or `"max"`: how the scores of a block become one.
            Defaults to `"avg"`.

    Example:

    >>> scores = np.array([[1.0, 1.0, 9.0], [1.0, 1.0, 9.0]])
    >>> mask_from_scores(scores, 0.5, structure=Block((2, 2)))
    array([[False, False,  True],
           [False, False,  True]])
    """

    takes_split = True

    def __init__(
        self, block_shape: tuple[int, int], pooling: Pooling = "avg"
    ) -> None:
        if np.shape(block_shape) != (2,):
            raise ValueError(
                "`block_shape` must be two integers. "
                f"Received: block_shape={block_shape!r}"
            )
        self.block_shape = tuple(
            check_int("block_shape", size, 1) for size in block_shape
        )
        check_choice("pooling", pooling, get_args(Pooling))
        self.pooling = pooling

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """Returns the pooled score of each block."""
        check_rank("Block", scores.shape)
        is_mean = self.pooling == "avg"
        pooled = split.widened(scores)
        pooled = pooled.astype("float64") if is_mean else pooled
        for axis, size in zip((-2, -1), self.block_shape):
            pooled = applied.reduced(pooled, size, axis, is_mean)
        if is_mean:
            height, width = (
                np.diff(np.append(np.arange(0, length, size), length))
                for length, size in zip(scores.shape[-2:], self.block_shape)
            )
            pooled = pooled / np.outer(height, width)
        return pooled

    def expand(self, unit_mask: np.ndarray, shape: Shape) -> np.ndarray:
        """Returns the mask of shape `shape` for the blocks kept."""
        rows, columns = self.block_shape
        repeat = split.numpy_of(unit_mask).repeat
        mask = repeat(unit_mask, rows, axis=-2)[..., : shape[-2], :]
        return repeat(mask, columns, axis=-1)[..., : shape[-1]].copy()


def check_axis(axis, rule="an integer"):
    """Returns an axis as an int, or raises."""
    if not isinstance(axis, numbers.Integral) or isinstance(axis, bool):
        raise TypeError(f"`axis` must be {rule}. Received: axis={axis!r}")
    return int(axis)


def check_rank(name, shape):
    """Raises unless a weight of this shape has two axes to prune along."""
    if len(shape) < 2:
        raise ValueError(
            f"`{name}` needs weights of rank 2 or more. "
            f"Received: a weight of shape {shape}"
        )


def _all_but(axis, rank):
    """All axes of an array of this rank but one."""
    return tuple(i for i in range(rank) if i != axis % rank)
