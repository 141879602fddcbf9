"""Drives continuous sparsification: temperature, rounds, hardening."""

import warnings
from typing import Any
from typing import get_args
from typing import Literal

import keras
from keras import ops

from keras_app import batch_norm
from keras_app import host
from keras_app import report as report_lib
from keras_app import selection
from keras_app import shares
from keras_app.checks import check_choice
from keras_app.checks import check_int
from keras_app.checks import check_number
from keras_app.config import Configured
from keras_app.hints import Arrays
from keras_app.hints import Data
from keras_app.hints import State
from keras_app.optimizers.continuous_sparsification import (
    ContinuousSparsification,
)
from keras_app.report.tables import PruningReport
from keras_app.steering import Steering

Granularity = Literal["epoch", "step"]


@keras.saving.register_keras_serializable(package="keras_app")
class ContinuousSparsifier(Configured, Steering):
    """Anneals the masks of `ContinuousSparsification` and makes them final.

    With E epochs a round, R rounds, and e the epoch within its round:

        beta = final_temperature ^ (e / (E - 1))           set at epoch begin
        s <- min(final_temperature s, s_init), beta <- 1   between two rounds
        theta <- c w 1[s > 0]                              after the last one

    The epochs of the `fit` are `R E + retrain_epochs`. In the retraining
    epochs the mask is fixed: they fine-tune the weights found, or, with
    `ticket=True`, start from those that the first round had after
    `rewind_epoch` epochs, moving statistics included, with fresh momenta.

    The sparsity is an outcome: see `s_init` of the optimizer.

    Args:
        final_temperature: Temperature of a round's last epoch, >= 1. Defaults
            to `200.0`.
        rounds: R, >= 1. Defaults to `1`.
        retrain_epochs: Epochs with the final mask, >= 0. Defaults to `0`.
        ticket: Whether retraining starts from the rewound weights. Defaults
            to `False`.
        rewind_epoch: Epochs of the first round after which weights to go back
            to are kept, in [0, E). Defaults to `None`: none are kept.
        rewind_between_rounds: Whether every round starts from the rewound
            weights (iterative search) instead of going on (sequential search).
            Defaults to `False`.
        granularity: `"epoch"` holds the temperature within an epoch, `"step"`
            raises it at each step. Defaults to `"epoch"`.
        reference_code_prune: Whether the rule between rounds is that of the
            authors' released code, `s <- min(s, s_init)`, after which dropped
            weights come back. Defaults to `False`.
        reset_momentum_between_rounds: Defaults to `False`, as in the authors'
            code. An iterative search always resets it.
        min_density: Share of every masked weight that is kept whatever its
            logits, in [0, 1]. Defaults to `0.0`.
        batch_norm_data: Batches to measure moving statistics on again once the
            mask is final, since those of the soft weights are not those of the
            hard ones; see `keras_app.batch_norm.reestimate_batch_norm`.
            Defaults to `None`: they are kept.
        validation_data: Pair of arrays or batches. With it the logs hold
            `hard_val_*`: what the model would score with its mask final.
            Defaults to `None`.

    Attributes `masks`, `report` and `missed` are those of the other pruners.
    `history` lists, for each finished round, its densities and scores.

    Raises:
        ValueError: Bad arguments, in the constructor. When `fit` starts: an
            optimizer that is not `ContinuousSparsification`, epochs that the
            rounds do not divide.

    Example:

    >>> sparsifier = ContinuousSparsifier(rounds=2, retrain_epochs=5)
    >>> sparsifier.epochs_per_round(25)
    10

    Reference: [Savarese et al., 2020](https://arxiv.org/abs/1912.04427),
    algorithms 1 and 2. Differs: moving statistics can be measured again.
    """

    not_configured = ("batch_norm_data", "validation_data")

    def __init__(
        self,
        final_temperature: float = 200.0,
        rounds: int = 1,
        retrain_epochs: int = 0,
        ticket: bool = False,
        rewind_epoch: int | None = None,
        rewind_between_rounds: bool = False,
        granularity: Granularity = "epoch",
        reference_code_prune: bool = False,
        reset_momentum_between_rounds: bool = False,
        min_density: float = 0.0,
        batch_norm_data: Data | None = None,
        validation_data: Data | None = None,
    ) -> None:
        super().__init__()
        self.final_temperature = check_number(
            "final_temperature", final_temperature, lambda x: x >= 1, ">= 1"
        )
        self.rounds = check_int("rounds", rounds, 1)
        self.retrain_epochs = check_int("retrain_epochs", retrain_epochs, 0)
        self.ticket = ticket
        self.rewind_epoch = rewind_epoch
        if rewind_epoch is not None:
            check_int("rewind_epoch", rewind_epoch, 0)
        elif ticket or rewind_between_rounds:
            raise ValueError(
                "`rewind_epoch` must say which weights `ticket` and "
                "`rewind_between_rounds` go back to. "
                "Received: rewind_epoch=None"
            )
        check_choice("granularity", granularity, get_args(Granularity))
        self.rewind_between_rounds = rewind_between_rounds
        self.granularity = granularity
        self.reference_code_prune = reference_code_prune
        self.reset_momentum_between_rounds = reset_momentum_between_rounds
        self.min_density = check_number(
            "min_density", min_density, lambda x: 0 <= x <= 1, "in [0, 1]"
        )
        self.batch_norm_data = batch_norm_data
        self.validation_data = validation_data
        self.history = []
        self.missed = []
        self._checkpoint = {}
        self._notes = []
        self._epoch = None

    # ---- results -------------------------------------------------------

    @property
    def masks(self) -> Arrays:
        """`{path: bool array}`, `True` where s > 0; empty before a `fit`."""
        optimizer = self._optimizer()
        return optimizer.masks if getattr(optimizer, "built", False) else {}

    @property
    def report(self) -> PruningReport:
        """A `PruningReport`: zeros achieved, what carries no mask and why."""
        if self._optimizer() is None:
            raise ValueError(
                "There is no report before the pruner has seen a model. Pass "
                "it to `model.fit(callbacks=[pruner])`."
            )
        chosen = self._selection(self.model)
        return report_lib.build(self.model, chosen, notes=self._notes)

    def _selection(self, model):
        masked = self._optimizer().masked_variables
        skipped = {
            path: "a variable without a mask, by the optimizer's `filters`"
            for path in selection.paths_of(model.trainable_variables)
            if path not in masked
        }
        return selection.Selection(masked, skipped)

    def epochs_per_round(self, epochs: int) -> int:
        """Returns E for a `fit` of so many epochs, or raises."""
        searched = epochs - self.retrain_epochs
        if searched < self.rounds or searched % self.rounds:
            raise ValueError(
                f"`epochs` must be {self.retrain_epochs} to retrain and, "
                f"before them, a multiple of rounds={self.rounds}. "
                f"Received: epochs={epochs}"
            )
        length = searched // self.rounds
        if length < 2 and self.final_temperature > 1:
            raise ValueError(
                "`epochs` must give each round two epochs or more, for the "
                f"temperature to rise from 1 to {self.final_temperature:g}. "
                f"Received: {length} a round"
            )
        if self.rewind_epoch is not None and self.rewind_epoch >= length:
            raise ValueError(
                "`rewind_epoch` must be an epoch of the first round, in "
                f"[0, {length}). Received: rewind_epoch={self.rewind_epoch}"
            )
        return length

    @property
    def is_at_target(self) -> bool:
        """Whether the mask is final: before, nothing is zero."""
        return self._optimizer().is_hard

    # ---- the callback --------------------------------------------------

    def set_model(self, model):
        """Refuses a model whose optimizer learns no masks."""
        super().set_model(model)
        optimizer = self._optimizer()
        if not isinstance(optimizer, ContinuousSparsification):
            raise ValueError(
                "ContinuousSparsifier drives the optimizer "
                "ContinuousSparsification. Received: a model compiled with "
                f"{type(optimizer).__name__}"
            )
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        left = shares.left_alone(
            model, self._selection(model), optimizer.filters
        )
        if left is not None:
            warnings.warn(f"{type(self).__name__}: {left}")

    def on_train_begin(self, logs=None):
        """Checks the epochs against the rounds."""
        self._length = self.epochs_per_round(self.params["epochs"])
        self._epoch = None
        self._notes = []
        self.missed = []

    def on_epoch_begin(self, epoch, logs=None):
        """Sets the temperature, and does what lies between two rounds."""
        self._epoch = epoch
        optimizer = self._optimizer()
        number, e = divmod(epoch, self._length)
        if number >= self.rounds:
            if epoch == self.rounds * self._length:
                self._make_final(retrain=True)
            return
        if epoch == 0:
            self.history = []
            optimizer.soften()
        if e == 0 and number > 0:
            self._between_rounds()
        optimizer.temperature = self._temperature(e, 0)
        if epoch == self.rewind_epoch:
            self._checkpoint = self._take_checkpoint()

    def on_train_batch_begin(self, batch, logs=None):
        """Raises the temperature within the epoch, if asked to."""
        number, e = divmod(self._epoch, self._length)
        if self.granularity == "step" and number < self.rounds:
            self._optimizer().temperature = self._temperature(e, batch)

    def on_epoch_end(self, epoch, logs=None):
        """Adds temperature, densities and hard scores to the logs.

        And `sparsity_all`, the zeros among all weights. There are none before
        the mask is final.
        """
        optimizer = self._optimizer()
        found = {"temperature": optimizer.temperature}
        found["density"] = optimizer.density
        if not optimizer.is_hard:
            found["soft_density"] = optimizer.soft_density
            found.update(self._hard_scores())
        if logs is not None:
            logs.update(found)
            shares.add_to_logs(logs, self.model)
        number, e = divmod(epoch, self._length)
        if number < self.rounds and e == self._length - 1:
            self._guard_against_collapse()
            scores = {k: float(v) for k, v in (logs or found).items()}
            self.history.append({"round": number + 1, **scores})

    def on_train_end(self, logs=None):
        """Makes the mask final, if retraining has not done it already."""
        if self._epoch is None:  # no epoch was run
            return
        asked = self.rounds * self._length + self.retrain_epochs
        if self._epoch + 1 < asked:
            self.missed = [
                f"training ended after {self._epoch + 1} of {asked} epochs, at "
                f"temperature {self._optimizer().temperature:.4g} of "
                f"{self.final_temperature:.4g}"
            ]
        if not self._optimizer().is_hard:
            self._make_final(retrain=False)
        if not any(mask.any() for mask in self.masks.values()):
            self.missed.append("no weight is kept: raise `s_init`")
        self._notes += self.missed
        for text in self.missed:
            warnings.warn(f"{type(self).__name__}: {text}")

    # ---- rounds --------------------------------------------------------

    def _temperature(self, e, step):
        if self.granularity == "epoch":
            done, last = e, self._length - 1
        else:
            steps = self.params["steps"]
            if steps is None:
                raise ValueError(
                    "`granularity` must be 'epoch' where the number of steps "
                    "is not known. Received: granularity='step'"
                )
            done, last = e * steps + step, self._length * steps - 1
        if self.final_temperature == 1.0:
            return 1.0
        return self.final_temperature ** (done / last)

    def _between_rounds(self):
        optimizer = self._optimizer()
        if self.reference_code_prune:
            optimizer.temperature = 1.0
        optimizer.prune_logits()
        optimizer.temperature = 1.0
        if self.rewind_between_rounds:
            self.rewind()
        elif self.reset_momentum_between_rounds:
            optimizer.reset_momentum()

    def _make_final(self, retrain):
        optimizer = self._optimizer()
        optimizer.harden()
        if retrain and self.ticket:
            self.rewind()
            return
        layers = batch_norm.batch_norm_layers(self.model)
        if self.batch_norm_data is not None:
            batch_norm.reestimate_batch_norm(self.model, self.batch_norm_data)
        elif layers and not retrain:
            self._notes.append(
                f"the moving statistics of {len(layers)} batch normalizations "
                "are those of the soft weights: pass `batch_norm_data`"
            )

    def _guard_against_collapse(self):
        optimizer = self._optimizer()
        optimizer.keep_at_least(self.min_density)
        collapsed = shares.collapsed(optimizer.masks)
        if collapsed:
            warnings.warn(
                f"{type(self).__name__}: {collapsed}. Raise `s_init`, or set "
                "`min_density`."
            )

    def _hard_scores(self):
        if self.validation_data is None:
            return {}
        optimizer = self._optimizer()
        data = self.validation_data
        x, y = data if isinstance(data, (tuple, list)) else (data, None)
        optimizer.harden()
        scores = self.model.evaluate(x, y, verbose=0, return_dict=True)
        optimizer.soften()
        return {f"hard_val_{name}": float(v) for name, v in scores.items()}

    # ---- the weights to go back to -------------------------------------

    def rewind(self) -> None:
        """Takes weights and moving statistics of `rewind_epoch`; keeps s.

        Call it after `fit` to retrain the ticket in a `fit` of its own,
        without this callback.

        Raises:
            ValueError: `rewind_epoch` was not reached.
        """
        if not self._checkpoint:
            raise ValueError(
                "There is nothing to rewind to: pass `rewind_epoch`, and train "
                "that far."
            )
        masked = self._optimizer().masked_variables
        variables = selection.paths_of(self.model.weights)
        for path, variable in variables.items():
            if path not in masked:
                variable.assign(self._checkpoint[path])
        self._optimizer().rewind({p: self._checkpoint[p] for p in masked})

    def _take_checkpoint(self):
        """`{path: array}` of all variables, w for those with a mask."""
        values = selection.paths_of(self.model.variables)
        latent = self._optimizer().weights_and_logits
        values |= {path: w for path, (w, _) in latent.items()}
        return {
            path: ops.convert_to_numpy(value).copy()
            for path, value in values.items()
        }

    # ---- resuming ------------------------------------------------------

    def state(self) -> State:
        """Returns `(plain values, {name: array})`, what `restore` needs."""
        return {"history": self.history}, dict(self._checkpoint)

    def restore(self, plain: dict[str, Any], arrays: Arrays) -> None:
        """Continues where `state()` was taken."""
        self.history = list(plain["history"])
        self._checkpoint = dict(arrays)

    # ---- inside --------------------------------------------------------

    def _optimizer(self):
        # On JAX a look at `model` brings its variables up to date.
        return host.inner_optimizer(self.model)
