"""The callbacks that prune what is marked, and the copy without marks."""

import os
import pathlib
import typing
import warnings
from typing import get_args
from typing import Literal

import keras
import numpy as np
from keras import ops

from keras_app import enforcement
from keras_app import export
from keras_app import host
from keras_app import report as report_lib
from keras_app import shares
from keras_app.checks import check_choice
from keras_app.checks import check_whole
from keras_app.compat.tfmot import marks
from keras_app.hints import FilePath
from keras_app.hints import OnMiss
from keras_app.pruners.clock import begin_and_end
from keras_app.pruners.clock import Steps
from keras_app.pruners.magnitude import MagnitudePruner
from keras_app.report.tables import PruningReport
from keras_app.selection import paths_of
from keras_app.selection import Selection
from keras_app.selection import some

UpdateFrequency = Literal["epoch", "batch"] | int

_PROGRESS = "_tfmot_progress"


class _Progress(typing.NamedTuple):
    """The optimizer of the last training, and the steps made before it."""

    optimizer: object
    before: int


def strip_pruning(model: keras.Model) -> keras.Model:
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
    for _, variables in marks.marked_weights(model)[0]:
        for path, variable in variables.items():
            zeros = shares.count_zeros(variable)
            asked = pruned.get(id(variable), 1)
            if zeros == 0 < asked:
                dense.append(path)
            elif zeros < asked:
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
        self._clock = Steps(before)
        self.size = sum(map(shares.size, chosen.variables.values()))

    def select(self, model):
        """Returns the weights it was made for."""
        return self._chosen

    def _warn_of_what_is_left(self, model):
        """The marks say what is pruned; `UpdatePruningStep` tells of others."""

    def check_reachable(self, last_step):
        """Warns of what the base class refuses, unless asked to raise.

        tfmot trains on, and the next `fit` may be the one that completes it.
        """
        end = max(begin_and_end(self.schedule_in_steps))
        if self.on_miss == "warn" and end > last_step:
            warnings.warn(
                f"The pruning schedule ends at step {end}, but this training "
                f"stops after step {last_step}: unless another `fit` follows, "
                "the weights will not reach their final sparsity."
            )
        else:
            super().check_reachable(last_step)

    def on_train_batch_begin(self, batch, logs=None):
        """Prunes if the schedule names a step up to this one.

        Raises:
            ValueError: No epoch was begun, as in the custom loops of tfmot.
        """
        if self._clock.next is None:
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
    >>> model = marks.prune_low_magnitude(model)
    >>> model.compile("sgd", "mse")
    >>> step = UpdatePruningStep()
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> history = model.fit(x, y, verbose=0, callbacks=[step])
    >>> step.report.sparsity
    0.5
    """

    def __init__(self, on_miss: OnMiss = "warn") -> None:
        super().__init__()
        check_choice("on_miss", on_miss, get_args(OnMiss))
        self.on_miss = on_miss
        self.pruners = []
        self._selection = None
        self._before = 0

    @property
    def report(self) -> PruningReport:
        """A `PruningReport` over all settings."""
        if self._selection is None:
            raise ValueError(
                "There is no report before the callback has seen a model. "
                "Pass it to `model.fit(callbacks=[...])`."
            )
        asked, notes = {}, {}
        for pruner in self.pruners:
            report = pruner.report
            notes |= dict.fromkeys(report.notes)
            for row in report.rows:
                if row.asked_sparsity is not None:
                    asked[row.path] = row.asked_sparsity
        return report_lib.build(self.model, self._selection, asked, notes=notes)

    def set_model(self, model):
        """Reads the marks and gives the optimizer its masks."""
        super().set_model(model)
        for layer, mark in marks.marks_of(model):
            if not isinstance(layer, keras.Model):
                marks.refuse_unsupported(layer, mark)
        groups, skipped = marks.marked_weights(model)
        if not groups:
            raise ValueError(
                "There is nothing to prune: none of the weights that are "
                f"marked can be. Received: {dict(list(skipped.items())[:8])}"
            )
        frozen = [path for path, why in skipped.items() if why == marks.FROZEN]
        if frozen:
            warnings.warn(
                f"UpdatePruningStep: {some(frozen)}: marked, but frozen "
                "(trainable=False), and will not be pruned."
            )
        variables = {
            path: variable
            for _, group in groups
            for path, variable in group.items()
        }
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
        self.pruners = [
            PruneLowMagnitude(
                mark.schedule,
                mark.structure,
                self.on_miss,
                Selection(group, {}),
                self._before,
            )
            for mark, group in groups
        ]
        for pruner in self.pruners:
            pruner.set_model(model)

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
    >>> model = marks.prune_low_magnitude(model)
    >>> model.compile("sgd", "mse")
    >>> callbacks = [UpdatePruningStep(), PruningSummaries("logs")]
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> history = model.fit(x, y, verbose=0, callbacks=callbacks)
    """

    def __init__(
        self, log_dir: FilePath, update_freq: UpdateFrequency = "epoch"
    ) -> None:
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
        self._every = {"epoch": 0, "batch": 1}.get(update_freq, update_freq)
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
        if not self._every:
            self._write()

    def on_train_batch_begin(self, batch, logs=None):
        """Writes once, if that is asked for."""
        if self._every and self._batches % self._every == 0:
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


def _steps_before(model):
    """Steps a model made while it was pruned, before its last `compile`."""
    progress = vars(model).get(_PROGRESS)
    if progress is None:
        return 0
    if progress.optimizer is host.inner_optimizer(model):
        return progress.before
    return progress.before + host.updates(progress.optimizer)
