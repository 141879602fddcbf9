"""Masks from scores: exact counts, ties, structures, fast selection.

Pure functions on NumPy arrays. A mask is a bool array of its weight's shape,
`True` where the weight is kept. Whether a score is kept, how many survive and
who wins a tie is decided here and nowhere else.
"""

import functools
import numbers

import keras
import numpy as np

from keras_app.checks import check_choice
from keras_app.checks import check_int
from keras_app.checks import check_sparsity
from keras_app.config import Configured

# Entries handled at a time. The temporaries of one chunk stay in the cache
# and far below the size of the scores, whatever the model's size.
_CHUNK = 1 << 18

# The axis of `NM` that depends on the layer.
INPUTS = "inputs"

# Up to here a threshold is found by partitioning everything.
_SMALL = 1 << 16


class DegenerateScores(ValueError):
    """Scores that say nothing, most often of a training that diverged."""


def mask_from_scores(
    scores, sparsity, structure=None, ties="exact", previous=None
):
    """Prunes the `int(sparsity * N)` entries with the smallest scores.

    One tensor, or several with one threshold for all of them. The cost is two
    passes over the scores and one to write the masks, without a sort and
    without a concatenation.

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
        Bool masks, `True` kept, in the container of `scores`.

    Raises:
        ValueError: For NaN scores, unknown `ties`, a sparsity outside [0, 1],
            or `previous` masks of another shape.

    Example:

    >>> mask_from_scores(np.array([0.3, 0.1, 0.2, 0.4]), 0.5)
    array([ True, False, False,  True])
    """
    sparsity = check_sparsity("sparsity", sparsity, allow_one=True)
    if ties not in ("exact", "le"):
        raise ValueError(
            f"`ties` must be 'exact' or 'le'. Received: ties={ties!r}"
        )
    structure = Unstructured() if structure is None else structure
    if not isinstance(structure, Structure) or isinstance(structure, _OfModel):
        raise TypeError(
            "`structure` must be None, or one of NM, Block, Channel; what is "
            "pruned together in a model only a pruner knows. "
            f"Received: structure={structure!r}"
        )
    names, arrays = _unpack(scores)
    arrays = [_as_scores(name, array) for name, array in zip(names, arrays)]
    previous = _check_previous(names, arrays, scores, previous)
    if isinstance(structure, NM):
        masks = [
            structure.mask(array, sparsity, old)
            for array, old in zip(arrays, previous)
        ]
        return _pack(scores, masks)
    units = [structure.pool(array) for array in arrays]
    old_units = [
        None if old is None else structure.pool_mask(old) for old in previous
    ]
    unit_masks = _prune_smallest(units, sparsity, ties, old_units)
    masks = [
        structure.expand(mask, array.shape)
        for mask, array in zip(unit_masks, arrays)
    ]
    # A unit that is kept may hold single weights that were pruned before.
    masks = [
        mask if old is None else mask & old
        for mask, old in zip(masks, previous)
    ]
    return _pack(scores, masks)


def _unpack(container):
    if isinstance(container, dict):
        return list(container), list(container.values())
    if isinstance(container, (list, tuple)):
        return list(range(len(container))), list(container)
    return ["scores"], [container]


def _pack(container, values):
    if isinstance(container, dict):
        return dict(zip(container, values))
    if isinstance(container, (list, tuple)):
        return type(container)(values)
    return values[0]


def _as_scores(name, array):
    if not isinstance(array, np.ndarray):
        array = keras.ops.convert_to_numpy(array)
    if array.dtype not in (np.float32, np.float64):
        # Half precisions and integers embed exactly in these two.
        wide = np.float32 if array.dtype.itemsize <= 2 else np.float64
        array = array.astype(wide)
    # A chunk with a NaN has a NaN minimum; no mask of that size is made.
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        if np.isnan(np.min(flat[start : start + _CHUNK])):
            raise DegenerateScores(
                f"`scores` must not contain NaN. Received NaN in {name!r}; did "
                "the training diverge, or the loss overflow?"
            )
    return array


def _check_previous(names, arrays, scores, previous):
    if previous is None:
        return [None] * len(arrays)
    if isinstance(scores, dict) != isinstance(previous, dict):
        raise ValueError(
            "`previous` must be in the same container as `scores`. "
            f"Received: {type(previous).__name__}"
        )
    if isinstance(scores, dict):
        if set(previous) != set(names):
            raise ValueError(
                "`previous` must have the names of `scores`. Received: "
                f"{list(previous)} for scores of {names}"
            )
        olds = [previous[name] for name in names]
    else:
        olds = _unpack(previous)[1]
    olds = [np.asarray(old).astype(bool, copy=False) for old in olds]
    shapes = [array.shape for array in arrays]
    if [old.shape for old in olds] != shapes:
        raise ValueError(
            "`previous` must have the shapes of `scores`. Received: "
            f"{[old.shape for old in olds]} for scores of {shapes}"
        )
    return olds


def _prune_smallest(arrays, sparsity, ties, previous):
    total = sum(array.size for array in arrays)
    # In double precision and this order: (1 - 0.8) * 1000 prunes 199.
    k = int(sparsity * total)
    gone = sum(
        old.size - int(np.count_nonzero(old))
        for old in previous
        if old is not None
    )
    if k <= gone:
        return [
            np.ones(array.shape, bool) if old is None else old.copy()
            for array, old in zip(arrays, previous)
        ]
    flats = [array.reshape(-1) for array in arrays]
    plays = [None if old is None else old.reshape(-1) for old in previous]
    threshold, below = _kth_smallest(flats, plays, k - gone)
    ties_to_prune = k - gone - below
    masks = []
    for array, flat, play in zip(arrays, flats, plays):
        mask = flat > threshold
        if play is not None:
            mask &= play
        if ties == "exact":
            ties_to_prune = _keep_later_ties(
                mask, flat, play, threshold, ties_to_prune
            )
        masks.append(mask.reshape(array.shape))
    return masks


def _keep_later_ties(mask, flat, play, threshold, ties_to_prune):
    """Keeps all ties but the first `ties_to_prune`; returns how many remain."""
    for start in range(0, flat.size, _CHUNK):
        here = slice(start, start + _CHUNK)
        tied = flat[here] == threshold
        if play is not None:
            tied &= play[here]
        count = int(np.count_nonzero(tied))
        if 0 < ties_to_prune < count:
            tied[np.flatnonzero(tied)[:ties_to_prune]] = False
        if count > ties_to_prune:
            mask[here] |= tied
        ties_to_prune = max(0, ties_to_prune - count)
    return ties_to_prune


def _chunks(flats, plays):
    for flat, play in zip(flats, plays):
        for start in range(0, flat.size, _CHUNK):
            chunk = flat[start : start + _CHUNK]
            if play is not None:
                chunk = chunk[play[start : start + _CHUNK]]
            yield chunk


def _kth_smallest(flats, plays, k):
    """The k-th smallest value in play (1-based), and how many are below it.

    The quantiles of a sample bracket the k-th; only what lies between them,
    a few entries in a hundred, is gathered and partitioned. The bracket
    is checked by counting, so that chance decides the cost and never the
    result.
    """
    low, high = _bracket(flats, plays, k)
    found = _gather(flats, plays, low, high)
    if not found[0] < k <= found[0] + found[1]:
        low, high = -np.inf, np.inf
        found = _gather(flats, plays, low, high)
    below, inside, candidates = found
    if low == high:
        return low, below
    position = k - below - 1
    candidates.partition(position)
    threshold = candidates[position]
    below += int(np.count_nonzero(candidates[:position] < threshold))
    return threshold, below


def _bracket(flats, plays, k):
    in_play = sum(
        flat.size if play is None else int(np.count_nonzero(play))
        for flat, play in zip(flats, plays)
    )
    total = sum(flat.size for flat in flats)
    if in_play <= _SMALL:
        return -np.inf, np.inf
    # Balances sorting the sample against gathering what it brackets.
    size = int(in_play ** (2 / 3))
    generator = np.random.default_rng(0)
    parts = []
    for flat, play in zip(flats, plays):
        # At random places: a stride could fall in step with the channels.
        share = max(1, round(size * flat.size / total))
        places = generator.integers(0, flat.size, share)
        part = flat[places]
        parts.append(part if play is None else part[play[places]])
    sample = np.sort(np.concatenate(parts))
    if not sample.size:
        return -np.inf, np.inf
    # Five standard deviations of a sampled rank on either side.
    rank = sample.size * (k - 0.5) / in_play
    margin = 5 * np.sqrt(rank * (1 - rank / sample.size)) + 5
    first, last = int(rank - margin), int(rank + margin)
    low = sample[first] if first >= 0 else -np.inf
    high = sample[last] if last < sample.size else np.inf
    return low, high


def _gather(flats, plays, low, high):
    """Count below `low`; count and values of what lies in [low, high]."""
    below = 0
    inside = 0
    for chunk in _chunks(flats, plays):
        at_least = chunk >= low
        below += chunk.size - int(np.count_nonzero(at_least))
        at_least &= chunk <= high
        inside += int(np.count_nonzero(at_least))
    if low == high:
        # All of them are equal: there is nothing to partition.
        return below, inside, None
    # Counted first, so that the values are held once.
    dtype = np.result_type(*[flat.dtype for flat in flats])
    candidates = np.empty(inside, dtype)
    filled = 0
    for chunk in _chunks(flats, plays):
        found = chunk[(chunk >= low) & (chunk <= high)]
        candidates[filled : filled + found.size] = found
        filled += found.size
    return below, inside, candidates


class Structure(Configured):
    """What is pruned together. Value objects: equal if their configs are.

    A structure of one's own says what the units of an array are, by three
    methods:

        pool(scores)              the score of each unit, an array
        pool_mask(mask)           which units still keep anything, a bool array
        expand(unit_mask, shape)  the mask of an array of that shape

    Each argument of its constructor is an attribute of the same name.

    Example:

    >>> class Rows(Structure):
    ...     def pool(self, scores):
    ...         return scores.sum(-1)
    ...     def pool_mask(self, mask):
    ...         return mask.any(-1)
    ...     def expand(self, unit_mask, shape):
    ...         return np.broadcast_to(unit_mask[..., None], shape).copy()
    >>> mask_from_scores(np.array([[1, 1], [3, 0]]), 0.5, structure=Rows())
    array([[False, False],
           [ True,  True]])
    """

    def check(self, shape, path="a weight"):
        """Raises unless a weight of this shape has the structure's axis."""
        axis = getattr(self, "axis", -1)
        if not -len(shape) <= axis < len(shape):
            raise ValueError(
                "`axis` of the structure must be an axis of the weight. "
                f"Received: axis={axis} for {path} of shape {tuple(shape)}, "
                f"which has {len(shape)} axes"
            )

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


def _as_axis(axis, rule="an integer"):
    if not isinstance(axis, numbers.Integral) or isinstance(axis, bool):
        raise TypeError(f"`axis` must be {rule}. Received: axis={axis!r}")
    return int(axis)


@keras.saving.register_keras_serializable(package="keras_app")
class Unstructured(Structure):
    """Every weight by itself."""

    def pool(self, scores):
        """Returns the score of each unit: here each entry's own."""
        return scores

    def pool_mask(self, mask):
        """Returns which units still keep anything."""
        return mask

    def expand(self, unit_mask, shape):
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

    def __init__(self, axis=-1):
        self.axis = _as_axis(axis)

    def _other_axes(self, shape):
        self.check(shape)
        rank = len(shape)
        return tuple(i for i in range(rank) if i != self.axis % rank)

    def pool(self, scores):
        """Returns the sum of the scores over each channel."""
        # Accumulated in double: the order of a float32 sum differs between
        # platforms and would move the threshold.
        return scores.sum(self._other_axes(scores.shape), dtype=np.float64)

    def pool_mask(self, mask):
        """Returns which channels still keep anything."""
        return mask.any(self._other_axes(mask.shape))

    def expand(self, unit_mask, shape):
        """Returns the mask of shape `shape` for the channels kept."""
        view = [1] * len(shape)
        view[self.axis] = shape[self.axis]
        return np.broadcast_to(unit_mask.reshape(view), shape).copy()


class _OfModel(Structure):
    """What only a model can tell: pruners find the units, in `units.py`."""


@keras.saving.register_keras_serializable(package="keras_app")
class GraphChannel(_OfModel):
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


@keras.saving.register_keras_serializable(package="keras_app")
class AttentionHead(_OfModel):
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


@keras.saving.register_keras_serializable(package="keras_app")
class TargetBlock(_OfModel):
    """Blocks that a runtime computes faster, along the right axes by layer.

    | target | `Dense`, `EinsumDense`, attention | 1x1 `Conv2D` |
    | --- | --- | --- |
    | `"litert"` (float32) | 4 inputs to an output | 4 outputs of an input |
    | `"litert_int8"` | 16 inputs to an output | single weights |

    A kernel of more than two axes is seen as the matrix that the runtime
    multiplies by: the axes that are summed over are its inputs. All other
    kernels are pruned by single weights, as are matrices whose number of inputs
    is no multiple of the block, which LiteRT's converter stores wrongly. The
    blocks of convolutions are those
    of the sparse kernels that LiteRT has on ARM and in browsers, for networks
    of the kind that docs/export.md names.

    Args:
        target: `"litert"` or `"litert_int8"`.
        pooling: As in `Block`. Defaults to `"avg"`.

    Example:

    >>> from keras_app.pruners import MagnitudePruner
    >>> from keras_app.schedules import OneShot
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    >>> model.compile("sgd", "mse")
    >>> pruner = MagnitudePruner(OneShot(0.5), structure=TargetBlock("litert"))
    >>> pruner.set_model(model)
    >>> pruner.prune(0.5)
    >>> [mask] = pruner.masks.values()
    >>> print(mask.reshape(2, 4, 2).sum(axis=1).ravel() % 4)
    [0 0 0 0]
    """

    def __init__(self, target, pooling="avg"):
        check_choice("target", target, tuple(_TARGETS))
        check_choice("pooling", pooling, ("avg", "max"))
        self.target = target
        self.pooling = pooling

    @property
    def of_matrix(self):
        """The `Block` of a matrix `(inputs, outputs)`."""
        return Block((_TARGETS[self.target][0], 1), self.pooling)

    @property
    def of_pointwise(self):
        """The `Block` of a 1x1 convolution."""
        return Block((1, _TARGETS[self.target][1]), self.pooling)


# Inputs of a matrix, and outputs of a 1x1 convolution, to a block.
_TARGETS = {"litert": (4, 4), "litert_int8": (16, 1)}


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

    def __init__(self, block_shape, pooling="avg"):
        if np.shape(block_shape) != (2,):
            raise ValueError(
                "`block_shape` must be two integers. "
                f"Received: block_shape={block_shape!r}"
            )
        self.block_shape = tuple(
            check_int("block_shape", size, 1) for size in block_shape
        )
        if pooling not in ("avg", "max"):
            raise ValueError(
                f"`pooling` must be 'avg' or 'max'. Received: {pooling!r}"
            )
        self.pooling = pooling

    def _starts(self, shape):
        if len(shape) < 2:
            raise ValueError(
                "`Block` needs weights of rank 2 or more. "
                f"Received: a weight of shape {shape}"
            )
        rows, columns = self.block_shape
        return (
            np.arange(0, shape[-2], rows),
            np.arange(0, shape[-1], columns),
        )

    def pool(self, scores):
        """Returns the pooled score of each block."""
        rows, columns = self._starts(scores.shape)
        reduce = np.add if self.pooling == "avg" else np.maximum
        wide = np.float64 if self.pooling == "avg" else scores.dtype
        pooled = reduce.reduceat(scores.astype(wide), rows, axis=-2)
        pooled = reduce.reduceat(pooled, columns, axis=-1)
        if self.pooling == "avg":
            height = np.diff(np.append(rows, scores.shape[-2]))
            width = np.diff(np.append(columns, scores.shape[-1]))
            pooled = pooled / np.outer(height, width)
        return pooled

    def pool_mask(self, mask):
        """Returns which blocks still keep anything."""
        rows, columns = self._starts(mask.shape)
        pooled = np.logical_or.reduceat(mask, rows, axis=-2)
        return np.logical_or.reduceat(pooled, columns, axis=-1)

    def expand(self, unit_mask, shape):
        """Returns the mask of shape `shape` for the blocks kept."""
        rows, columns = self.block_shape
        mask = np.repeat(unit_mask, rows, axis=-2)[..., : shape[-2], :]
        return np.repeat(mask, columns, axis=-1)[..., : shape[-1]].copy()


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
            which they differ; sums are taken to 2^-48 of the largest score of a
            block. Defaults to `False`.

    Example:

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

    def __init__(self, n, m, axis=-1, transposable=False):
        self.m = check_int("m", m, 1)
        self.n = check_int("n", n, 1)
        if self.n > self.m:
            raise ValueError(
                "`n` must be <= `m`: n entries are kept of every m. "
                f"Received: n={n}, m={m}"
            )
        if not (isinstance(axis, str) and axis == INPUTS):
            axis = _as_axis(axis, f"an integer or {INPUTS!r}")
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
    def of_matrix(self):
        """The `NM` of a matrix `(inputs, outputs)`."""
        axis = -1 if self.transposable else 0
        return NM(self.n, self.m, axis, self.transposable)

    def axes_of(self, rank):
        """Returns the axes that have groups, in a kernel of so many axes."""
        return {rank - 2, rank - 1} if self.transposable else {self.axis % rank}

    def check(self, shape, path="a weight"):
        """Raises unless a weight of this shape has the structure's axes."""
        if self.axis == INPUTS:
            raise ValueError(
                "`axis` must be an integer for an array: only a pruner, which "
                "knows the layers, can find the axes of their inputs. "
                f"Received: axis={self.axis!r} for {path} of shape "
                f"{tuple(shape)}"
            )
        super().check(shape, path)

    def sparsity_of(self, shape):
        """Returns the sparsity that n:m gives a weight of this shape."""
        self.check(shape)
        if self.transposable:
            kept = sum(
                blocks * int(_patterns(self.n, *block)[0].sum())
                for _, block, blocks in self._regions(shape)
            )
            return 1.0 - kept / (shape[-2] * shape[-1])
        length = shape[self.axis]
        full, rest = divmod(length, self.m)
        return 1.0 - (full * self.n + min(rest, self.n)) / length

    def mask(self, scores, sparsity, previous=None):
        """Returns the n:m mask of one tensor."""
        self.check(scores.shape)
        if sparsity == 0:
            return (
                np.ones(scores.shape, bool)
                if previous is None
                else previous.copy()
            )
        if self.transposable:
            return self._transposable_mask(scores, previous)
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
        mask = np.ascontiguousarray(np.moveaxis(mask, -1, self.axis))
        if previous is not None:
            mask &= previous
        return mask

    def _regions(self, shape):
        """`[(slices of the last two axes, their block, number of blocks)]`."""
        if len(shape) < 2:
            raise ValueError(
                "`NM(transposable=True)` needs weights of rank 2 or more. "
                f"Received: a weight of shape {shape}"
            )
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
            split = (
                *region.shape[:-2],
                region.shape[-2] // height,
                height,
                region.shape[-1] // width,
                width,
            )
            ranked = _flat_blocks(region, split)
            alive = (
                np.ones(ranked.shape, bool)
                if previous is None
                else _flat_blocks(previous[where], split)
            )
            kept = np.empty(ranked.shape, bool)
            size = _CHUNK // len(patterns)
            for start in range(0, len(ranked), size):
                here = slice(start, start + size)
                kept[here] = _best_patterns(patterns, ranked[here], alive[here])
            kept = kept.reshape(
                *split[:-4], split[-4], split[-2], height, width
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


def _flat_blocks(region, split):
    blocks = region.reshape(split).swapaxes(-3, -2)
    return blocks.reshape(-1, split[-3] * split[-1])


def _best_patterns(patterns, scores, alive):
    """The pattern of the largest sum for each block, without what was pruned.

    As many as possible of those alive are kept, then as many infinite scores.
    """
    counts = alive & np.isfinite(scores)
    chosen = patterns.T.astype(np.float64)
    # Whole numbers of up to 48 bits: sums of 16 of them are exact in double
    # precision, in whatever order they are added, so that ties are ties.
    values = np.where(counts, scores, 0.0).astype(np.float64)
    exponent = np.frexp(np.abs(values).max(1, keepdims=True))[1]
    sums = np.rint(np.ldexp(values, 48 - exponent)) @ chosen
    if not counts.all():
        # 33 is more than what the infinite of 16 entries can add up to.
        level = alive * (33.0 + np.where(counts, 0.0, np.sign(scores)))
        levels = level @ chosen
        sums[levels < levels.max(1, keepdims=True)] = -np.inf
    return patterns[sums.argmax(1)].astype(bool) & alive
