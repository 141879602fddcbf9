"""The base of dynamic sparse training that grows by the gradient."""

import itertools
import warnings
from typing import Unpack

from keras_app import batches
from keras_app import host
from keras_app import scorers
from keras_app import split
from keras_app.checks import check_int
from keras_app.hints import Arrays
from keras_app.hints import Data
from keras_app.hints import Schedule
from keras_app.hints import Variables
from keras_app.pruners.arguments import GradientArguments
from keras_app.pruners.dynamic import DynamicPruner
from keras_app.selection import by_path


class GradientGrowth(DynamicPruner):
    """Grows where the gradient is large: grow score = |dL/dw|.

    The gradients are those of the training step before the update, of the batch
    it trained on, which costs one array beside each weight; or those of `data`,
    which costs a gradient of each batch, at updates only.

    Args:
        data: Arrays `(x, y)`, or a re-iterable of such batches, whose
            gradients, taken in training mode, say where to grow. A data set
            that mixes itself again shows others at each update. Not part of the
            configuration: set `pruner.data` after `from_config`. Defaults to
            `None`: the gradients of the training itself.
        batches_per_update: How many of them, counted from the first, each
            update looks at, >= 1; without `data` an error when `fit` starts,
            and in `keras_app.experiments.Train` a request for the training
            part. Defaults to `None`: all of `data`.
        schedule, scope, structure, distribution, filters, custom_sparsity,
            on_miss, drop_fraction, seed: See
            `keras_app.pruners.dynamic.DynamicPruner`.
    """

    not_configured = ("data",)

    def __init__(
        self,
        schedule: Schedule,
        data: Data | None = None,
        *,
        batches_per_update: int | None = None,
        **kwargs: Unpack[GradientArguments],
    ) -> None:
        super().__init__(schedule, **kwargs)
        if batches_per_update is not None:
            check_int("batches_per_update", batches_per_update, 1)
        self.data = data
        self.batches_per_update = batches_per_update
        self._compiled = {}
        self._is_watching = False
        self._steps_per_execution = 1

    @property
    def needs_data(self) -> bool:
        """Whether batches are to be looked at, and there are none."""
        return self.data is None and self.batches_per_update is not None

    def set_model(self, model):
        """Selects the weights and gives the optimizer its masks."""
        if self.needs_data:
            raise ValueError(
                "`batches_per_update` counts batches of `data`; without them "
                "it must be None. Received: batches_per_update="
                f"{self.batches_per_update}, data=None"
            )
        if self.data is not None and self.drop_fraction > 0:
            scorers.check_model("snip", model)
        super().set_model(model)
        # Asked for once: on JAX each look at the model writes its state back.
        self._steps_per_execution = model.steps_per_execution
        self._is_watching = None  # as an earlier fit left it
        if self.data is None and self.drop_fraction > 0:
            if self._state.watch(self.variables.values()):
                model.train_function = None

    def on_train_batch_begin(self, batch, logs=None):
        """Prunes if it is time, and looks out for the step before the next."""
        super().on_train_batch_begin(batch, logs)
        if self.data is None and self.drop_fraction > 0:
            self._watch(self._is_due_next())

    def _is_due_next(self):
        """Whether an update comes right after the steps that now begin."""
        first = self._clock.next
        return any(
            bool(self.schedule_in_steps(step)[0])
            for step in range(first, first + self._steps_per_execution)
        )

    def _watch(self, wanted):
        if wanted != self._is_watching:
            host.sync(self.model)
            self._state.watch_next(self.variables.values(), wanted)
            self._is_watching = wanted
            host.hand_to_trainer(self.model)

    def grow_scores(self, variables: Variables) -> Arrays | None:
        """Returns `{path: |dL/dw|}`, of `data` up to one common factor.

        `None` before a gradient was seen.
        """
        if self.data is None:
            record = self._state.record
            seen = by_path(
                lambda v: abs(self.read(record(v).watched)), variables
            )
            if any(map(split.any_of, seen.values())):
                return seen
            if self._is_watching:
                self._warn_of_nothing_seen()
            return None
        stored = {
            path: self.read(variable).astype("float32")
            for path, variable in variables.items()
        }
        # SNIP scores |dL/d(m w) w| for masks m. With the weights in the place
        # of m and ones in that of w, this is the gradient at the weights.
        return scorers.score(
            "snip",
            self.model,
            variables,
            itertools.islice(batches.cut(self.data), self.batches_per_update),
            masks=stored,
            weights=by_path(lambda w: split.numpy_of(w).ones_like(w), stored),
            compiled=self._compiled,
        )

    def _warn_of_nothing_seen(self):
        problem = (
            "no gradient of the training reached the update, so that nothing "
            "moved"
        )
        if problem in self._notes:
            return
        self._notes.append(problem)
        kind = type(self).__name__
        warnings.warn(
            f"{kind}: {problem}. Either all gradients were zero, or the step "
            f"was compiled (`tf.function`, `jax.jit`) before {kind} was there: "
            "make it again after `CustomLoop.begin`, or pass `data`.",
            RuntimeWarning,
        )
