"""Marks on models and layers, and which weights they mean."""

import abc
import contextlib
import dataclasses
from collections.abc import Sequence
from typing import get_args
from typing import Literal
from typing import TypeVar

import keras

from keras_app import layers
from keras_app import masks as masks_lib
from keras_app.checks import check_choice
from keras_app.checks import check_schedule
from keras_app.checks import check_whole
from keras_app.hints import Schedule
from keras_app.schedules import ConstantSparsity
from keras_app.selection import paths_of
from keras_app.selection import walk_layers

Prunable = TypeVar(
    "Prunable",
    bound=keras.Model | keras.layers.Layer | Sequence[keras.layers.Layer],
)

BlockPooling = Literal["AVG", "MAX"]

# Reasons not to prune that need no one's attention.
_VECTOR = "a vector (bias, scale or offset)"
_LEFT_DENSE = "a bias or depthwise kernel, which tfmot leaves dense too"
_NOT_ALLOWED = "not allowed by `pruning_policy`"
FROZEN = "frozen (trainable=False)"
_EXPECTED = (_VECTOR, _LEFT_DENSE, _NOT_ALLOWED, FROZEN)

_TURNED_AROUND = "reverse_embeddings"

_MARK = "_tfmot_mark"


class PrunableLayer(abc.ABC):
    """A layer of one's own that names the weights to prune.

    Deriving from it is not required: any layer with the method will do.

    Example:

    >>> class Scaled(keras.layers.Dense, PrunableLayer):
    ...     def get_prunable_weights(self):
    ...         return [self.kernel, self.bias]
    >>> layer = prune_low_magnitude(Scaled(4))
    """

    @abc.abstractmethod
    def get_prunable_weights(self) -> list[keras.Variable]:
        """Returns the list of the layer's variables to prune."""


class PruningPolicy(abc.ABC):
    """Which layers of a model to prune.

    Deriving from it is not required: any object with the two methods will do.

    Example:

    >>> class Pointwise(PruningPolicy):
    ...     def allow_pruning(self, layer):
    ...         return getattr(layer, "kernel_size", None) == (1, 1)
    ...     def ensure_model_supports_pruning(self, model):
    ...         pass
    >>> conv = keras.layers.Conv2D(8, 1)
    >>> Pointwise().allow_pruning(conv)
    True
    """

    @abc.abstractmethod
    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        """Returns whether to prune `layer` and everything inside it.

        It is asked of the outermost layers with weights that are no models.
        """

    @abc.abstractmethod
    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raises a `ValueError` for a model that should not be pruned."""


@dataclasses.dataclass(frozen=True)
class Mark:
    """What `prune_low_magnitude` leaves on a model or a layer."""

    schedule: object
    structure: object
    policy: object


def prune_low_magnitude(
    to_prune: Prunable,
    pruning_schedule: Schedule = ConstantSparsity(0.5, 0),  # noqa: B008
    block_size: tuple[int, int] = (1, 1),
    block_pooling_type: BlockPooling = "AVG",
    pruning_policy: PruningPolicy | None = None,
    sparsity_m_by_n: tuple[int, int] | None = None,
) -> Prunable:
    """Marks a model or layers to be pruned by magnitude, and returns them.

    Nothing is wrapped or copied. Each weight has a threshold of its own. The
    weights are those tfmot prunes: kernels of dense, convolution and recurrent
    layers (recurrent kernels too), pointwise kernels, embeddings, attention,
    and what a layer's `get_prunable_weights` returns. The mark of a layer goes
    before that of the model around it; marking an object again replaces its
    mark. Layers of unknown type inside a model are skipped, and
    `UpdatePruningStep.report` lists them. Marks are not saved: mark a model
    again that comes from a file.

    Args:
        to_prune: A `keras.Model` of any kind, a `keras.layers.Layer`, or a
            list of layers.
        pruning_schedule: Maps step to `(should_prune, sparsity)`. Defaults to
            `ConstantSparsity(0.5, 0)`.
        block_size: `(height, width)` of the blocks pruned together, over the
            last two axes of a weight. Defaults to `(1, 1)`.
        block_pooling_type: `"AVG"` or `"MAX"`: how the magnitudes of a block
            become one. Defaults to `"AVG"`.
        pruning_policy: An object with the methods of `PruningPolicy`, or
            `None`: everything.
        sparsity_m_by_n: `(m, n)`: m **zeros** in every n consecutive weights
            along the input axis, 1 <= m < n, from the first step at which the
            schedule asks for any; for weights of rank 2 and 4. (`masks.NM`
            counts what is kept: `(1, 4)` is `NM(3, 4, axis=-2)`.) Defaults to
            `None`.

    Returns:
        `to_prune`.

    Raises:
        ValueError: Bad arguments; a layer by itself of a type that cannot be
            pruned (at the latest when `fit` starts, if it is not built yet).

    Example:

    >>> from keras_app.compat import tfmot
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> schedule = tfmot.ConstantSparsity(0.75, 0)
    >>> model = tfmot.prune_low_magnitude(model, schedule)
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> step = tfmot.UpdatePruningStep()
    >>> history = model.fit(x, y, verbose=0, callbacks=[step])
    >>> int(np.count_nonzero(tfmot.strip_pruning(model).get_weights()[0]))
    2

    Reference: the function of the same name in tfmot 0.8. Differs: see
    `docs/migrating_from_tfmot.md`.
    """
    check_schedule("pruning_schedule", pruning_schedule)
    for method in ("allow_pruning", "ensure_model_supports_pruning"):
        if pruning_policy is not None and not hasattr(pruning_policy, method):
            raise ValueError(
                f"`pruning_policy` must have a method `{method}`. "
                f"Received: pruning_policy={pruning_policy!r}"
            )
    structure = _structure(block_size, block_pooling_type, sparsity_m_by_n)
    mark = Mark(pruning_schedule, structure, pruning_policy)
    objects = to_prune if isinstance(to_prune, (list, tuple)) else [to_prune]
    for each in objects:
        if not isinstance(each, keras.layers.Layer):
            raise ValueError(
                "`to_prune` must be a Keras 3 model, a Keras 3 layer, or a "
                f"list of layers. Received: {each!r} of type {type(each)}"
            )
        if isinstance(each, keras.Model) and pruning_policy is not None:
            pruning_policy.ensure_model_supports_pruning(each)
    for each in objects:
        # A layer that is not built has no weights to judge it by.
        if each.built and not isinstance(each, keras.Model):
            refuse_unsupported(each, mark)
        setattr(each, _MARK, mark)
    return to_prune


def prune_scope() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which to load models; it changes nothing.

    tfmot needs it to find its wrappers. Files written here hold plain layers.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> prune_low_magnitude(model).save("model.keras")
    >>> with prune_scope():
    ...     model = keras.saving.load_model("model.keras")
    """
    return contextlib.nullcontext()


def _structure(block_size, block_pooling_type, sparsity_m_by_n):
    block = _two_integers("block_size", block_size)
    check_choice(
        "block_pooling_type", block_pooling_type, get_args(BlockPooling)
    )
    if sparsity_m_by_n is None:
        pooling = block_pooling_type.lower()
        return None if block == (1, 1) else masks_lib.Block(block, pooling)
    if block != (1, 1):
        raise ValueError(
            "`block_size` and `sparsity_m_by_n` exclude each other. Received: "
            f"block_size={block_size}, sparsity_m_by_n={sparsity_m_by_n}"
        )
    m, n = _two_integers("sparsity_m_by_n", sparsity_m_by_n)
    if m >= n:
        raise ValueError(
            "`sparsity_m_by_n` must be (m, n) with m < n: m zeros in every n. "
            f"Received: sparsity_m_by_n={sparsity_m_by_n}"
        )
    # Keras's kernels end in (inputs, outputs).
    return masks_lib.NM(n - m, n, axis=-2)


def _two_integers(name, value):
    try:
        first, second = (check_whole(name, each, 1) for each in value)
    except (TypeError, ValueError):
        raise ValueError(
            f"`{name}` must be two integers >= 1. Received: {name}={value!r}"
        ) from None
    return first, second


def marked_weights(root, mark=None):
    """What the marks in a built model, or layer, amount to.

    Args:
        root: The model or layer.
        mark: A mark for `root` in place of its own.

    Returns:
        `[(mark, {path: variable})]`, one for each schedule and structure, and
        `{path: reason}` of the other trainable variables and of frozen
        weights that the marks name.
    """
    # A layer may be met before one that it is inside of. The inner ones come
    # later here, and put what is theirs over that of the outer.
    nest = [(layer, list(walk_layers(layer))) for layer in walk_layers(root)]
    nest.sort(key=lambda pair: -len(pair[1]))
    marks, named, homes = {}, {}, {}
    for layer, inside in nest:
        own = mark if mark and layer is root else vars(layer).get(_MARK)
        if own is not None:
            refused = _refused_by(own.policy, layer)
            for each in inside:
                reason = _NOT_ALLOWED if id(each) in refused else None
                marks[id(each)] = (own, reason)
        if layer.built and hasattr(layer, "get_prunable_weights"):
            weights = {id(each) for each in layer.get_prunable_weights()}
            for each in inside:
                named[id(each)] = weights
        # Weights in lists and the like have no name; the innermost layer that
        # tracks them is theirs.
        for variable in layer.variables:
            homes[id(variable)] = [(layer, "")]
    # A tied weight has several owners; one that lets it be pruned is enough.
    owners = {}
    for layer, _ in nest:
        for name, value in vars(layer).items():
            if isinstance(value, keras.Variable):
                use = (layer, name.lstrip("_"))
                owners.setdefault(id(value), []).append(use)
    trainable = root.trainable_variables
    frozen = [weight for weight in root.weights if not weight.trainable]
    groups, skipped = {}, {}
    for path, variable in paths_of([*trainable, *frozen]).items():
        verdicts = []
        for layer, attribute in owners.get(id(variable), homes[id(variable)]):
            own, reason = marks.get(id(layer), (None, "not marked"))
            if reason is None:
                names = named.get(id(layer))
                reason = _reason_to_skip(variable, layer, attribute, names)
            if reason is None:
                reason = _misfit(own.structure, variable)
            verdicts.append((reason, own))
        reason, own = next((v for v in verdicts if v[0] is None), verdicts[0])
        if not variable.trainable:
            if reason is None:
                skipped[path] = FROZEN
        elif reason is not None:
            skipped[path] = reason
        else:
            key = (id(own.schedule), own.structure)
            groups.setdefault(key, (own, {}))[1][path] = variable
    return list(groups.values()), skipped


def _refused_by(policy, root):
    """Ids of the layers inside `root` that a policy does not let prune."""
    refused, seen = set(), set()
    if policy is None:
        return refused
    for layer in walk_layers(root):
        if isinstance(layer, keras.Model) or id(layer) in seen:
            continue
        inside = {id(each) for each in walk_layers(layer)}
        seen |= inside
        if layer.weights and not policy.allow_pruning(layer):
            refused |= inside
    return refused


def _reason_to_skip(variable, layer, attribute, named):
    if named is not None:
        wanted = id(variable) in named
        return None if wanted else "not among `get_prunable_weights`"
    kernel = layers.kernel_of(layer, attribute)
    # tfmot leaves depthwise kernels dense, and knows no table that is turned
    # around. Dense einsums, which it knows inside of attention only, are added.
    if kernel is not None and kernel.makes and attribute != _TURNED_AROUND:
        return None
    if len(variable.shape) < 2:
        return _VECTOR
    if layers.row_of(layer).kernels:
        return _LEFT_DENSE
    return (
        f"a weight of {type(layer).__name__}, a layer of unknown type; give it "
        "`get_prunable_weights`"
    )


def _misfit(structure, variable):
    rank = len(variable.shape)
    if structure is None:
        return None
    if structure.fixes_sparsity:
        if rank in (2, 4):
            return None
        return (
            f"m-by-n sparsity is for weights of rank 2 and 4, this has {rank}"
        )
    if rank < 2:
        return f"blocks are for weights of rank 2 or more, this has {rank}"
    return None


def refuse_unsupported(layer, mark):
    """Raises if nothing in a layer that was marked by itself can be pruned."""
    groups, skipped = marked_weights(layer, mark)
    reasons = [r for r in skipped.values() if r not in _EXPECTED]
    if not groups and reasons:
        raise ValueError(
            f"`to_prune` must be a layer that can be pruned. Received: "
            f"{layer.name!r} of type {type(layer).__name__} ({reasons[0]}). A "
            "model that is marked as a whole skips such layers."
        )


def marks_of(model):
    """`[(layer, mark)]`; raises if `fit` would find none or cannot tell."""
    marked = [
        (layer, vars(layer)[_MARK])
        for layer in walk_layers(model)
        if _MARK in vars(layer)
    ]
    if not marked:
        raise ValueError(
            "There is nothing to prune: no layer of the model is marked. Call "
            "`prune_low_magnitude(model, ...)` before `fit`; a copy, or a "
            "model from a file, has to be marked again."
        )
    if not model.built:
        raise ValueError(
            "The model must be built before its weights can be pruned. Call "
            "it once on a batch, or give it an `Input`."
        )
    return marked
