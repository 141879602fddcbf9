"""The pruning API of TensorFlow Model Optimization (tfmot), on Keras 3.

Replace `import tensorflow_model_optimization as tfmot` with
`from keras_app.compat import tfmot`; `tfmot.sparsity.keras` holds the names of
this module.

tfmot wraps layers, and the wrappers hold the masks. Here the optimizer does:
`prune_low_magnitude` only marks a model or a layer, and `UpdatePruningStep`
reads the marks when `fit` starts and prunes with a `MagnitudePruner` for each
setting it finds.
"""

import abc
import contextlib
import dataclasses
import os
import pathlib
import sys
import types
import warnings

import keras
import numpy as np
from keras import ops

from keras_app import enforcement
from keras_app import export
from keras_app import host
from keras_app import masks as masks_lib
from keras_app import report as report_lib
from keras_app import shares
from keras_app.checks import check_choice
from keras_app.checks import check_schedule
from keras_app.checks import check_whole
from keras_app.pruners.magnitude import MagnitudePruner
from keras_app.schedules import ConstantSparsity
from keras_app.schedules import PolynomialDecay
from keras_app.schedules import PruningSchedule
from keras_app.selection import paths_of
from keras_app.selection import Selection
from keras_app.selection import some
from keras_app.selection import walk_layers

__all__ = [
    "ConstantSparsity",
    "PolynomialDecay",
    "PrunableLayer",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "UpdatePruningStep",
    "prune_low_magnitude",
    "prune_scope",
    "sparsity",
    "strip_pruning",
]

# `tfmot.sparsity.keras.prune_low_magnitude` is how tfmot is called.
sparsity = types.SimpleNamespace(keras=sys.modules[__name__])

# What tfmot prunes, by layer and attribute; dense einsums, which it knows
# inside of attention only, are added.
_PRUNED_WEIGHTS = (
    (
        (
            keras.layers.Dense,
            keras.layers.EinsumDense,
            keras.layers.Conv1D,
            keras.layers.Conv2D,
            keras.layers.Conv3D,
            keras.layers.Conv1DTranspose,
            keras.layers.Conv2DTranspose,
            keras.layers.Conv3DTranspose,
        ),
        ("kernel",),
    ),
    (
        (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D),
        ("pointwise_kernel",),
    ),
    ((keras.layers.Embedding,), ("embeddings",)),
    (
        (
            keras.layers.GRUCell,
            keras.layers.LSTMCell,
            keras.layers.SimpleRNNCell,
        ),
        ("kernel", "recurrent_kernel"),
    ),
)
_DEPTHWISE_LAYERS = (
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)

# Reasons not to prune that need no one's attention.
_VECTOR = "a vector (bias, scale or offset)"
_LEFT_DENSE = "a bias or depthwise kernel, which tfmot leaves dense too"
_NOT_ALLOWED = "not allowed by `pruning_policy`"
_FROZEN = "frozen (trainable=False)"
_EXPECTED = (_VECTOR, _LEFT_DENSE, _NOT_ALLOWED, _FROZEN)


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
    def get_prunable_weights(self):
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
    def allow_pruning(self, layer):
        """Returns whether to prune `layer` and everything inside it.

        It is asked of the outermost layers with weights that are no models.
        """

    @abc.abstractmethod
    def ensure_model_supports_pruning(self, model):
        """Raises a `ValueError` for a model that should not be pruned."""


@dataclasses.dataclass(frozen=True)
class _Mark:
    """What `prune_low_magnitude` leaves on a model or a layer."""

    schedule: object
    structure: object
    policy: object


@dataclasses.dataclass(frozen=True)
class _Progress:
    """The optimizer of the last training, and the steps made before it."""

    optimizer: object
    before: int


_MARK = "_tfmot_mark"
_PROGRESS = "_tfmot_progress"


def prune_low_magnitude(
    to_prune,
    pruning_schedule=ConstantSparsity(0.5, 0),  # noqa: B008
    block_size=(1, 1),
    block_pooling_type="AVG",
    pruning_policy=None,
    sparsity_m_by_n=None,
):
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

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model = prune_low_magnitude(model, ConstantSparsity(0.75, 0))
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> history = model.fit(x, y, verbose=0, callbacks=[UpdatePruningStep()])
    >>> int(np.count_nonzero(strip_pruning(model).get_weights()[0]))
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
    mark = _Mark(pruning_schedule, structure, pruning_policy)
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
            _refuse_unsupported(each, mark)
        setattr(each, _MARK, mark)
    return to_prune


def prune_scope():
    """Returns a context in which to load models; it changes nothing.

    tfmot needs it to find its wrappers. Files written here hold plain layers.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> prune_low_magnitude(model).save("model.keras")
    >>> with prune_scope():
    ...     model = keras.saving.load_model("model.keras")
    """
    return contextlib.nullcontext()


def strip_pruning(model):
    """Returns an uncompiled copy of a model, without any trace of pruning.

    It warns of marked weights that have fewer zeros than the last training
    with `UpdatePruningStep` left them, or none at all: `fit` cannot know that
    the callback was forgotten, this function can.

    Args:
        model: A built `keras.Model`, marked or not.

    Returns:
        A `keras.Model` of the same class. `model` keeps its marks and masks,
        and can go on training.

    Raises:
        ValueError: Not a model; or a subclassed one that Keras cannot copy
            from its config.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> strip_pruning(model).count_params()
    9
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`model` must be a `keras.Model`. Received: {model!r}"
        )
    stripped = export.strip_pruning(model)
    if model.built:
        _warn_of_missing_zeros(model)
    return stripped


def _warn_of_missing_zeros(model):
    # The masks of the last training, whose optimizer may be gone since.
    trained = enforcement.state_of(vars(model).get(_PROGRESS))
    masked = trained.variables_with_masks() if trained else []
    pruned = {id(v): int(np.sum(~trained.get(v))) for v in masked}
    if not any(pruned.values()):  # it ended before the schedules began
        pruned = {}
    dense, lost = [], []
    for _, variables in _marked_weights(model)[0]:
        for path, variable in variables.items():
            values = ops.convert_to_numpy(variable)
            zeros = values.size - np.count_nonzero(values)
            asked = pruned.get(id(variable), 1)
            if zeros >= asked:
                continue
            if zeros == 0:
                dense.append(path)
            else:
                lost.append(f"{path} ({zeros} zeros of {asked})")
    if dense:
        warnings.warn(
            f"strip_pruning: {some(dense)}: marked by "
            "`prune_low_magnitude`, but not one weight is zero. Train with "
            "`fit(callbacks=[UpdatePruningStep()])`, up to the first step that "
            "the schedule prunes at."
        )
    if lost:
        warnings.warn(
            f"strip_pruning: {some(lost)}: weights that were pruned have "
            "been trained back. After `compile` every `fit` needs "
            "`callbacks=[UpdatePruningStep()]` again."
        )


class PruneLowMagnitude(MagnitudePruner):
    """Prunes the weights that share one setting; `UpdatePruningStep` runs it.

    Args:
        schedule, structure, on_miss: See `Pruner`.
        chosen: The `selection.Selection` of these weights.
        before: Steps made under earlier optimizers of the model, >= 0.
    """

    def __init__(self, schedule, structure, on_miss, chosen, before):
        super().__init__(schedule, structure=structure, on_miss=on_miss)
        self._chosen = chosen
        self._before = before

    def select(self, model):
        """Returns the weights it was made for."""
        return self._chosen

    def _warn_of_what_is_left(self, model):
        """The marks say what is pruned; `UpdatePruningStep` tells of others."""

    def check_reachable(self, last_step):
        """Warns of what the base class refuses, unless asked to raise.

        tfmot trains on, and the next `fit` may be the one that completes it.
        """
        last_step += self._before
        end = max(
            getattr(self.schedule, "begin_step", 0),
            getattr(self.schedule, "end_step", -1),
        )
        if self.on_miss == "warn" and end > last_step:
            warnings.warn(
                f"The pruning schedule ends at step {end}, but this training "
                f"stops after step {last_step}: unless another `fit` follows, "
                "the weights will not reach their final sparsity."
            )
        else:
            super().check_reachable(last_step)

    def on_epoch_begin(self, epoch, logs=None):
        """Counts on from the steps that earlier optimizers made."""
        super().on_epoch_begin(epoch)
        self._epoch_start += self._before * self._accumulation

    def on_train_batch_begin(self, batch, logs=None):
        """Prunes if the schedule names a step up to this one.

        Raises:
            ValueError: No epoch was begun, as in the custom loops of tfmot.
        """
        if self._next_step is None:
            raise ValueError(
                "`UpdatePruningStep` must be told of the epochs before the "
                "batches. In a training loop of your own use `loop = "
                "keras_app.pruners.CustomLoop(model, UpdatePruningStep(), "
                "steps_per_epoch, epochs)`: `loop.begin()`, `loop.step()` "
                "before each training step, `loop.end()`."
            )
        super().on_train_batch_begin(batch)

    @property
    def pruned(self):
        """Number of weights that the masks prune, as of the last update."""
        return (1.0 - self._density) * self.size

    @property
    def size(self):
        """Number of weights, pruned or not."""
        return sum(
            int(np.prod(variable.shape))
            for variable in self._chosen.variables.values()
        )

    def _updates(self):
        return self._before + super()._updates()


class UpdatePruningStep(keras.callbacks.Callback):
    """Prunes what `prune_low_magnitude` marked, while the model trains.

    Steps are updates of the optimizer, counted from 0; compiling a model again
    that was pruned already does not start the count again. After `fit`,
    `report` says what was asked, what was reached, and what was skipped and
    why. In a training loop of your own let `keras_app.pruners.CustomLoop` call
    it.

    Args:
        on_miss: What happens where a weight ends above its share of zeros, or
            the schedule cannot end within this `fit`: `"warn"`, `"raise"`
            (before training where that is known), or `"ignore"`. Defaults to
            `"warn"`.

    Attribute `pruners` lists the pruners of the last `fit`, one for each
    setting.

    Raises:
        ValueError: When `fit` starts: nothing is marked, or nothing that is
            marked can be pruned; before a batch: no epoch was begun.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model = prune_low_magnitude(model)
    >>> model.compile("sgd", "mse")
    >>> step = UpdatePruningStep()
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> history = model.fit(x, y, verbose=0, callbacks=[step])
    >>> step.report.sparsity
    0.5
    """

    def __init__(self, on_miss="warn"):
        super().__init__()
        check_choice("on_miss", on_miss, ("warn", "raise", "ignore"))
        self.on_miss = on_miss
        self.pruners = []
        self._selection = None
        self._before = 0

    @property
    def report(self):
        """A `PruningReport` over all settings."""
        if self._selection is None:
            raise ValueError(
                "There is no report before the callback has seen a model. "
                "Pass it to `model.fit(callbacks=[...])`."
            )
        reports = [pruner.report for pruner in self.pruners]
        asked = {
            row.path: row.asked_sparsity
            for report in reports
            for row in report.rows
            if row.asked_sparsity is not None
        }
        notes = dict.fromkeys(note for r in reports for note in r.notes)
        return report_lib.build(self.model, self._selection, asked, notes=notes)

    def set_model(self, model):
        """Reads the marks and gives the optimizer its masks."""
        super().set_model(model)
        for layer, mark in _marks_of(model):
            if not isinstance(layer, keras.Model):
                _refuse_unsupported(layer, mark)
        groups, skipped = _marked_weights(model)
        if not groups:
            raise ValueError(
                "There is nothing to prune: none of the weights that are "
                f"marked can be. Received: {dict(list(skipped.items())[:8])}"
            )
        frozen = [path for path, why in skipped.items() if why == _FROZEN]
        if frozen:
            warnings.warn(
                f"UpdatePruningStep: {some(frozen)}: marked, but frozen "
                "(trainable=False), and will not be pruned."
            )
        variables = {}
        for _, group in groups:
            variables.update(group)
        self._selection = Selection(variables, skipped)
        known = enforcement.state_of(model)
        fresh = known is None or not known.variables_with_masks()
        state = enforcement.attach(model, list(variables.values()))
        self._before = _steps_before(model)
        if fresh and self._before + host.updates(model.optimizer) > 0:
            # A file without masks, or a new optimizer: what is exactly zero
            # was pruned.
            state.set(
                [(v, ops.convert_to_numpy(v) != 0) for v in variables.values()]
            )
        self.pruners = []
        for mark, group in groups:
            chosen = Selection(group, {})
            pruner = PruneLowMagnitude(
                mark.schedule,
                mark.structure,
                self.on_miss,
                chosen,
                self._before,
            )
            pruner.set_model(model)
            self.pruners.append(pruner)

    def set_params(self, params):
        """Tells the pruners how long the training is."""
        super().set_params(params)
        for pruner in self.pruners:
            pruner.set_params(params)

    def on_train_begin(self, logs=None):
        """Begins a training."""
        for pruner in self.pruners:
            pruner.on_train_begin()

    def on_epoch_begin(self, epoch, logs=None):
        """Before the first: says so if a schedule cannot be completed."""
        for pruner in self.pruners:
            pruner.on_epoch_begin(epoch)
        # Only now that no pruner has refused to train.
        progress = _Progress(host.inner_optimizer(self.model), self._before)
        setattr(self.model, _PROGRESS, progress)

    def on_train_batch_begin(self, batch, logs=None):
        """Prunes where a schedule names this step."""
        for pruner in self.pruners:
            pruner.on_train_batch_begin(batch)

    def on_epoch_end(self, epoch, logs=None):
        """Adds `sparsity`, over all marked weights, to the logs.

        And `sparsity_all`, over all weights of the model.
        """
        for pruner in self.pruners:
            pruner.on_epoch_end(epoch)
        if logs is not None:
            pruned = sum(pruner.pruned for pruner in self.pruners)
            logs["sparsity"] = pruned / sum(p.size for p in self.pruners)
            shares.add_to_logs(logs, self.model)

    def on_train_end(self, logs=None):
        """Makes a last update that is due, and compares with the target."""
        for pruner in self.pruners:
            pruner.on_train_end()


class PruningSummaries(keras.callbacks.Callback):
    """Writes sparsities and thresholds to TensorBoard.

    For every weight with a mask: `{path}/sparsity`, the share its mask prunes,
    and `{path}/threshold`, the smallest magnitude it keeps; over the
    optimizer's steps, into `{log_dir}/metrics`. TensorFlow is not needed. For
    losses and metrics use `keras.callbacks.TensorBoard` beside it.

    Args:
        log_dir: Folder to write to.
        update_freq: When: `"epoch"`, at the beginning of every epoch;
            `"batch"`; or every so many batches. Always at the end of training
            too. Defaults to `"epoch"`.

    Raises:
        ValueError: Bad arguments; or, when `fit` starts, a model that nothing
            prunes.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model = prune_low_magnitude(model)
    >>> model.compile("sgd", "mse")
    >>> callbacks = [UpdatePruningStep(), PruningSummaries("logs")]
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> history = model.fit(x, y, verbose=0, callbacks=callbacks)
    """

    def __init__(self, log_dir, update_freq="epoch"):
        super().__init__()
        if not isinstance(log_dir, (str, os.PathLike)) or not str(log_dir):
            raise ValueError(
                "`log_dir` must be the path of a folder. "
                f"Received: log_dir={log_dir!r}"
            )
        if isinstance(update_freq, str):
            check_choice("update_freq", update_freq, ("epoch", "batch"))
        else:
            update_freq = check_whole("update_freq", update_freq, 1)
        self.log_dir = log_dir
        self.update_freq = update_freq
        self._batches = 0
        self._writer = None

    def on_train_begin(self, logs=None):
        """Opens the file."""
        # Imported here: who writes no summaries needs no TensorBoard.
        from tensorboard.summary import Writer

        if enforcement.state_of(self.model) is None:
            raise ValueError(
                "PruningSummaries needs a callback that prunes beside it: "
                "fit(callbacks=[UpdatePruningStep(), PruningSummaries(...)])."
            )
        self._batches = 0
        self._writer = Writer(str(pathlib.Path(self.log_dir) / "metrics"))

    def on_epoch_begin(self, epoch, logs=None):
        """Writes once, if that is asked for."""
        if self.update_freq == "epoch":
            self._write()

    def on_train_batch_begin(self, batch, logs=None):
        """Writes once, if that is asked for."""
        if self.update_freq == "epoch":
            return
        every = 1 if self.update_freq == "batch" else self.update_freq
        if self._batches % every == 0:
            self._write()
        self._batches += 1

    def on_train_end(self, logs=None):
        """Writes what was reached, and closes the file."""
        self._write()
        self._writer.close()

    def _write(self):
        masks = enforcement.masks_of(self.model)
        step = host.updates(self.model.optimizer)
        variables = paths_of(self.model.trainable_variables)
        for path, mask in masks.items():
            kept = np.abs(ops.convert_to_numpy(variables[path])[mask])
            share = float(1 - mask.mean())
            self._writer.add_scalar(f"{path}/sparsity", share, step)
            if kept.size:
                threshold = float(kept.min())
                self._writer.add_scalar(f"{path}/threshold", threshold, step)


def _structure(block_size, block_pooling_type, sparsity_m_by_n):
    block = _two_integers("block_size", block_size)
    check_choice("block_pooling_type", block_pooling_type, ("AVG", "MAX"))
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


def _marked_weights(root, mark=None):
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
                skipped[path] = _FROZEN
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
    known = isinstance(layer, _DEPTHWISE_LAYERS)
    for layers, attributes in _PRUNED_WEIGHTS:
        if isinstance(layer, layers):
            known = True
            if attribute in attributes:
                return None
    if len(variable.shape) < 2:
        return _VECTOR
    if known:
        return _LEFT_DENSE
    return (
        f"a weight of {type(layer).__name__}, a layer of unknown type; give it "
        "`get_prunable_weights`"
    )


def _misfit(structure, variable):
    rank = len(variable.shape)
    if isinstance(structure, masks_lib.NM) and rank not in (2, 4):
        return (
            f"m-by-n sparsity is for weights of rank 2 and 4, this has {rank}"
        )
    if isinstance(structure, masks_lib.Block) and rank < 2:
        return f"blocks are for weights of rank 2 or more, this has {rank}"
    return None


def _refuse_unsupported(layer, mark):
    """Raises if nothing in a layer that was marked by itself can be pruned."""
    groups, skipped = _marked_weights(layer, mark)
    reasons = [r for r in skipped.values() if r not in _EXPECTED]
    if not groups and reasons:
        raise ValueError(
            f"`to_prune` must be a layer that can be pruned. Received: "
            f"{layer.name!r} of type {type(layer).__name__} ({reasons[0]}). A "
            "model that is marked as a whole skips such layers."
        )


def _marks_of(model):
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


def _steps_before(model):
    """Steps a model made while it was pruned, before its last `compile`."""
    progress = vars(model).get(_PROGRESS)
    if progress is None:
        return 0
    if progress.optimizer is host.inner_optimizer(model):
        return progress.before
    return progress.before + host.updates(progress.optimizer)
