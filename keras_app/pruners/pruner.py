"""The base of all pruners: when to prune, how much, and what came of it."""

import abc
import warnings
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import get_args

import keras

from keras_app import enforcement
from keras_app import host
from keras_app import masks as masks_lib
from keras_app import scorers
from keras_app import selection
from keras_app import shares
from keras_app import timing
from keras_app.checks import check_choice
from keras_app.checks import check_schedule
from keras_app.checks import check_sparsity
from keras_app.config import Configured
from keras_app.hints import Arrays
from keras_app.hints import Distribution
from keras_app.hints import Filters
from keras_app.hints import OnMiss
from keras_app.hints import Schedule
from keras_app.hints import Scope
from keras_app.hints import Variables
from keras_app.masks.structures import Units
from keras_app.pruners import audit
from keras_app.pruners import clock
from keras_app.pruners import takeover
from keras_app.pruners.audit import PruningMissed
from keras_app.pruners.reading import Reading
from keras_app.pruners.targets import check_spread
from keras_app.pruners.targets import Targets
from keras_app.report.tables import PruningReport
from keras_app.steering import Steering


class Pruner(Configured, Reading, Steering, abc.ABC):
    """A Keras callback that prunes on a schedule. Subclasses give the scores.

    Masks go into the optimizer's state when `fit` starts; at every step the
    schedule names, the weights with the smallest scores lose their place. The
    steps are training steps (optimizer updates), counted from the optimizer's
    own counter, so that a second `fit` or a restored model goes on where the
    first stopped. With `steps_per_execution=K` updates land on multiples of K.
    An update due exactly after the last step is made when training ends.

    `EarlyStopping(restore_best_weights=True)` brings back the weights of an
    epoch in which fewer may have been pruned, and `ModelCheckpoint` may save
    them: use those of `keras_app.callbacks`.

    Args:
        schedule: A `keras_app.schedules.PruningSchedule`, whose steps may be
            shares of the training, or any callable `step -> (should_prune,
            sparsity)`, such as a tfmot schedule.
        scope: `"layer"` gives each weight its own threshold, `"global"` one
            threshold to all. Defaults to `"layer"`.
        structure: What is pruned together: `None` (single weights), or a
            structure of `keras_app.masks`. With `NM` sparsity, scope and
            distribution follow from it.
        distribution: With `scope="layer"`, how the sparsity is spread:
            `"uniform"`, `"erk"`, or a callable `(shapes, sparsity) ->
            {path: sparsity}`. Defaults to `"uniform"`. With `GraphChannel`
            and `AttentionHead` a callable gets `(number of units,)` for each
            set of layers that are joined; `"erk"` has no meaning there.
        filters: Which weights: see `keras_app.selection.select`.
        custom_sparsity: `{regex: sparsity}` searched in `variable.path`; these
            weights get a final sparsity of their own, in proportion to the
            schedule's progress. With `NM` it must be 0: such kernels stay
            dense. Defaults to `None`.
        on_miss: What happens when training ends below the target: `"warn"`,
            `"raise"` a `PruningMissed`, or `"ignore"` (another `fit` follows).
            `"ignore"` also allows a schedule that ends after this `fit`.
            Defaults to `"warn"`.

    Attributes `masks` and `report` hold the results; `missed` lists, in
    sentences, what the last `fit` failed to reach.

    Raises:
        ValueError: Bad arguments, in the constructor. When `fit` starts:
            nothing selected, or a schedule that this training cannot complete.
    """

    #: Whether weights that were pruned may come back.
    revives = False

    #: Whether it cannot work without `data`, and has none.
    needs_data = False

    def __init__(
        self,
        schedule: Schedule,
        scope: Scope = "layer",
        structure: masks_lib.Structure | None = None,
        distribution: Distribution = "uniform",
        filters: Filters = None,
        custom_sparsity: Mapping[str, float] | None = None,
        on_miss: OnMiss = "warn",
    ) -> None:
        super().__init__()
        check_schedule("schedule", schedule)
        check_spread(scope, structure, distribution, custom_sparsity)
        check_choice("on_miss", on_miss, get_args(OnMiss))
        selection.check_filters(filters)
        self.schedule = schedule
        self.scope = scope
        self.structure = structure
        self.distribution = distribution
        self.filters = filters
        self.custom_sparsity = custom_sparsity
        self.on_miss = on_miss
        if structure is not None:
            structure.check(self)
        self._clock = clock.Steps()
        self._in_steps, self._first = None, 0  # of a schedule with shares
        self._waits = False  # for steps, before it takes zeros for pruned
        self._units = None  # what is pruned together in the model
        self._targets = None  # how a sparsity is spread over them
        self._sparsity = None  # what the schedule asked for last
        self._density = 1.0
        self._last = []  # [(variable, mask)] at the end of earlier fits
        self._notes = []
        self.missed: list[str] = []

    # ---- what a method says --------------------------------------------

    @abc.abstractmethod
    def scores(self, variables: Variables) -> Arrays | None:
        """Returns `{path: scores}` for `{path: variable}`; larger is kept.

        `None` keeps the masks as they are.
        """

    def combine(
        self,
        scores: Arrays,
        sparsity: float,
        old: Arrays,
        structure: masks_lib.Structure | None,
    ) -> Arrays:
        """Returns new masks for tensors that share one threshold.

        By default what is pruned stays pruned.

        Args:
            scores: `{path: array}`.
            sparsity: Sparsity over all of them.
            old: `{path: mask}` before the update.
            structure: What is pruned together.
        """
        return masks_lib.mask_from_scores(
            scores, sparsity, structure, previous=old
        )

    # ---- results -------------------------------------------------------

    @property
    def schedule_in_steps(self) -> Schedule:
        """`schedule`; its shares are steps from the begin of a `fit` on."""
        return self.schedule if self._in_steps is None else self._in_steps

    @property
    def masks(self) -> Arrays:
        """`{path: bool array}`, `True` kept; empty before the first `fit`."""
        if self._units is None or self._state is None:
            return {}
        host.sync(self.model)
        return selection.by_path(self._state.get, self.variables)

    @property
    def variables(self) -> Variables:
        """`{path: variable}` of the weights that `masks` are of."""
        return dict(self._units.selection.variables)

    @property
    def report(self) -> PruningReport:
        """A `PruningReport`: asked, achieved, and what was skipped and why."""
        if self._units is None:
            raise ValueError(
                "There is no report before the pruner has seen a model. Pass "
                "it to `model.fit(callbacks=[pruner])`."
            )
        host.sync(self.model)
        return self._targets.report(self.model, self._sparsity, self._notes)

    @property
    def _state(self):
        return enforcement.state_of(self.model)

    # ---- the callback --------------------------------------------------

    def set_model(self, model):
        """Selects the weights and gives the optimizer its masks."""
        super().set_model(model)
        chosen = self.select(model)
        self._units = self.units_of(model, chosen)
        notes = [*self._units.notes, *audit.adapted(model)]
        for note in [*notes, *self.begin_to_read()]:
            warnings.warn(f"{type(self).__name__}: {note}.")
        self._targets = Targets(self, self._units)
        self._warn_of_what_is_left(model)
        self.hold(model)

    def units_of(
        self, model: keras.Model, chosen: selection.Selection
    ) -> Units:
        """Returns the `Units`: what is pruned together in a model."""
        structure = self.structure or masks_lib.Unstructured()
        return structure.units(model, chosen)

    def hold(self, model: keras.Model) -> None:
        """Gives the optimizer its masks, which hold the zeros."""
        followers = list(self._units.followers.values())
        variables = list(self.variables.values())
        known = enforcement.state_of(model)
        masked = known.variables_with_masks() if known else []
        enforcement.attach(model, [*variables, *followers])
        # Another pruner may have put masks on weights of its own.
        if any(v is w for v in variables for w in masked):
            return
        fresh = self._updates() == 0
        ours = takeover.still_ours(self._last, variables, fresh)
        # What was asked for by now is known once shares are steps.
        self._waits = not ours and bool(timing.shares_of(self.schedule))
        if not self._waits:
            self._begin_with(ours)

    def _warn_of_what_is_left(self, model):
        """Says which large part of the model is not pruned."""
        left = shares.left_alone(model, self._units.selection, self.filters)
        if left is not None:
            warnings.warn(f"{type(self).__name__}: {left}")

    def _begin_with(self, masks):
        """Sets the first masks: those given, or of zeros that are there."""
        if not masks:
            found = takeover.masks_of_zeros(
                self, self._units, self._sparsities_by_now
            )
            masks = [(self.variables[p], mask) for p, mask in found.items()]
        self._state.set(masks)
        if self._units.followers:
            self.apply(self._masks)

    def _sparsities_by_now(self):
        """`[(sparsity, whether it was asked for already)]`, none of them 0."""
        return takeover.sparsities_around(
            self.schedule_in_steps,
            self._updates(),
            self.model.steps_per_execution,
        )

    def select(self, model: keras.Model) -> selection.Selection:
        """Returns the `selection.Selection` of a model."""
        return selection.select(model, self.filters)

    def on_train_begin(self, logs=None):
        """Forgets what the last `fit` noted."""
        self._notes = self._clock.begin_fit(self.model)

    def check_reachable(self, last_step: int) -> None:
        """Raises unless the schedule can be completed by `last_step`."""
        updates, is_dense = self._updates(), self._density == 1.0
        problem = audit.unreachable(
            self.schedule_in_steps, last_step, updates, is_dense
        )
        if problem and self.on_miss != "ignore":
            raise ValueError(problem)
        if is_dense and not self.revives:
            late = audit.late(self.schedule_in_steps, updates)
            if late:
                warnings.warn(f"{type(self).__name__}: {late}")

    def on_epoch_begin(self, epoch, logs=None):
        """Before the first: refuses a schedule that cannot be completed.

        Only now the first epoch is known, and what other callbacks loaded.
        """
        begins = self._clock.next is None
        self._clock.begin_epoch(self.model)
        if not begins:
            return
        epochs, steps = self.params.get("epochs"), self.params.get("steps")
        known = epochs is not None and steps is not None
        first, total = 0, None
        if known:
            first, total = self._clock.training(epoch, epochs, steps)
        self._resolve(first, total)
        self._density = shares.density_of(self._masks)
        if self._waits and self._density == 1.0:
            self._begin_with(())
            self._density = shares.density_of(self._masks)
        self._waits = False
        if known:
            self.check_reachable(first + total)

    def _resolve(self, first, total):
        """Makes shares of the training steps."""
        self._in_steps, self._first = None, 0
        if timing.shares_of(self.schedule):
            self._in_steps = timing.in_steps(self.schedule, first, total)
            self._first = first
            self._notes += timing.told_in_steps(self.schedule, self._in_steps)

    def on_train_batch_begin(self, batch, logs=None):
        """Prunes if the schedule names a time up to this one."""
        self._advance(self._clock.at(batch))

    def on_epoch_end(self, epoch, logs=None):
        """Logs `sparsity` of what is prunable, `sparsity_all` of the model."""
        if logs is not None:
            logs["sparsity"] = 1.0 - self._density
            shares.add_to_logs(logs, self.model)

    def on_train_end(self, logs=None):
        """Makes a last update that is due, and compares with the target."""
        if self._clock.next is None:  # no epoch was run
            return
        host.sync(self.model)
        # An update would hide them.
        problems = self.restored_zeros()
        self._advance(self._clock.at_end(self.model))
        self.finish(self._target(), problems)

    def restored_zeros(self) -> list[str]:
        """Makes zero what is pruned and was not; returns sentences on it."""
        return audit.restored_zeros(self._state)

    def _target(self):
        """The sparsity that a `fit` should end with; `None` for any."""
        return clock.final_sparsity(self.schedule)

    def finish(
        self, target: float | None, problems: Iterable[str] = ()
    ) -> None:
        """Says so, loudly, if zeros were lost or `target` was not reached.

        `problems` are sentences about what else went wrong.
        """
        host.unalias(self.model)
        self._remember_masks()
        if target is not None and self._is_restored():
            self._sparsity = target
        problems = [
            *problems,
            *self.restored_zeros(),
            *self._shortfall(target),
        ]
        self._notes += problems
        self.missed = problems
        if not problems or self.on_miss == "ignore":
            return
        message = f"{type(self).__name__}: " + "; ".join(problems)
        if self.on_miss == "raise":
            raise PruningMissed(message)
        warnings.warn(message)

    def _shortfall(self, target):
        if target is None:
            return []
        asked = target if self._is_restored() else self._sparsity
        if asked is None or asked < target - 1e-9:
            return [audit.short_of(target, asked)]
        groups = self._targets.groups(asked)
        return audit.shortfalls(groups, self._units, self._masks)

    def _is_restored(self):
        """Whether the masks are of before: no update was made here."""
        return self._sparsity is None and self._density < 1.0

    def _remember_masks(self):
        self._last = takeover.remembered(
            self._last, self.model, self.variables, self._masks
        )

    @property
    def is_at_target(self) -> bool:
        """Whether the masks are now as sparse as the schedule ends."""
        return not self._shortfall(self._target())

    def weights_restored(self) -> None:
        """Takes the masks, which are of an earlier epoch, for those to keep."""
        self._remember_masks()
        self._density = shares.density_of(self._masks)

    # ---- pruning -------------------------------------------------------

    def prune(self, sparsity: float) -> None:
        """Scores the weights and prunes to `sparsity`, in [0, 1), now."""
        new = self.propose(sparsity)
        if new is not None:
            self.adopt(new, sparsity)

    def adopt(self, new: Arrays, sparsity: float) -> None:
        """Sets masks that a sparsity led to, and warns of empty layers."""
        self.apply(new)
        self._sparsity = float(sparsity)
        self._density = shares.density_of(new)
        collapsed = shares.collapsed(new)
        if collapsed:
            warnings.warn(
                f"{type(self).__name__}: {collapsed}. "
                f"{self._targets.against_collapse()}"
            )

    def apply(self, masks: Arrays) -> None:
        """Sets the masks of all `variables`, now; `True` is kept."""
        variables = self.variables
        pairs = [(variables[path], masks[path]) for path in variables]
        kept = self._units.pool_masks(masks)
        spread = self._units.spread(kept, masks)
        pairs += [
            (variable, spread[path])
            for path, variable in self._units.followers.items()
        ]
        self._units.settle(kept)
        self._state.set(pairs)
        host.hand_to_trainer(self.model)

    def propose(self, sparsity: float) -> Arrays | None:
        """Returns the masks that `prune` would set, and changes nothing.

        Args:
            sparsity: Sparsity over the selected weights, in [0, 1).

        Returns:
            `{path: bool array}`, `True` kept; `None` if the method keeps its
            masks as they are.
        """
        host.sync(self.model)
        sparsity = check_sparsity("sparsity", sparsity)
        old = self._masks
        scores = self.scores(self.variables)
        if scores is None:
            return None
        scorers.check_scores(type(self).__name__, scores, self.variables)
        scores = selection.by_path(self.here, scores)
        return self.by_units(self.combine, sparsity, scores, old)

    def by_units(
        self,
        combine: Callable[..., Arrays],
        sparsity: float,
        scores: Arrays,
        old: Arrays,
        scope: Scope | None = None,
    ) -> Arrays:
        """Combines scores and masks of what shares a threshold.

        Where only the model knows the units, both are of units already.

        Args:
            combine: As the method `combine`.
            sparsity, scores, old: Those of all weights, see `combine`.
            scope: Which units share a threshold. Defaults to `None`: those of
                the pruner's own scope.
        """
        scores = self._units.pool(scores)
        before = self._units.pool_masks(old)
        new = {}
        for group, target in self._targets.groups(sparsity, scope):
            new.update(
                combine(
                    {path: scores[path] for path in group},
                    target,
                    {path: before[path] for path in group},
                    self._units.structure,
                )
            )
        return self._units.expand(new, old)

    # ---- time ----------------------------------------------------------

    def _advance(self, time):
        """Looks at the times up to `time`; the last one due decides."""
        due = None
        for each in range(self._clock.next, time + 1):
            sparsity = self._due_at(each)
            due = due if sparsity is None else sparsity
        if due is not None:
            self.prune(due)
        self._clock.next = max(self._clock.next, time + 1)

    def _due_at(self, time):
        """The sparsity that the schedule asks for at a time, or `None`."""
        return clock.due_at(self.schedule_in_steps, time)

    def _updates(self):
        return self._clock.updates(self.model)
