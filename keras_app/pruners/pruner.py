"""The base of all pruners: when to prune, how much, and what came of it."""

import abc
import re
import warnings

import keras
import numpy as np
from keras import ops

from keras_app import enforcement
from keras_app import host
from keras_app import masks as masks_lib
from keras_app import report as report_lib
from keras_app import scorers
from keras_app import selection
from keras_app import shares
from keras_app.checks import check_schedule
from keras_app.checks import check_sparsity
from keras_app.config import Configured
from keras_app.distributions import DISTRIBUTIONS


class PruningMissed(RuntimeError):
    """A pruner ended without the sparsity it was asked for."""


class Pruner(Configured, keras.callbacks.Callback, abc.ABC):
    """A Keras callback that prunes on a schedule. Subclasses give the scores.

    Masks go into the optimizer's state when `fit` starts; at every step the
    schedule names, the weights with the smallest scores lose their place. The
    steps are training steps (optimizer updates), counted from the optimizer's
    own counter, so that a second `fit` or a restored model goes on where the
    first stopped. With `steps_per_execution=K` updates land on multiples of K.
    An update due exactly after the last step is made when training ends.

    `EarlyStopping(restore_best_weights=True)` brings back the weights of an
    epoch in which fewer may have been pruned: give it a `start_from_epoch`
    after the schedule's end.

    Args:
        schedule: A `keras_app.schedules.PruningSchedule`, or any callable
            `step -> (should_prune, sparsity)`, such as a tfmot schedule.
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
        schedule,
        scope="layer",
        structure=None,
        distribution="uniform",
        filters=None,
        custom_sparsity=None,
        on_miss="warn",
    ):
        super().__init__()
        check_schedule("schedule", schedule)
        if scope not in ("layer", "global"):
            raise ValueError(
                "`scope` must be 'layer' or 'global'. "
                f"Received: scope={scope!r}"
            )
        if structure is not None and not isinstance(
            structure, masks_lib.Structure
        ):
            raise TypeError(
                "`structure` must be None or a structure of keras_app.masks: "
                "NM, Block, Channel, TargetBlock, GraphChannel, AttentionHead. "
                f"Received: structure={structure!r}"
            )
        if not callable(distribution) and distribution not in DISTRIBUTIONS:
            raise ValueError(
                "`distribution` must be 'uniform', 'erk' or a callable. "
                f"Received: distribution={distribution!r}"
            )
        if scope == "global" and distribution != "uniform":
            raise ValueError(
                "`distribution` spreads a sparsity over layers and has no "
                "meaning with scope='global'. "
                f"Received: distribution={distribution!r}"
            )
        if on_miss not in ("warn", "raise", "ignore"):
            raise ValueError(
                "`on_miss` must be 'warn', 'raise' or 'ignore'. "
                f"Received: on_miss={on_miss!r}"
            )
        selection.check_filters(filters)
        if not isinstance(custom_sparsity or {}, dict):
            raise TypeError(
                "`custom_sparsity` must be {regex: sparsity} or None. "
                f"Received: custom_sparsity={custom_sparsity!r}"
            )
        for pattern, sparsity in (custom_sparsity or {}).items():
            selection.check_filters(pattern)
            check_sparsity(f"custom_sparsity[{pattern!r}]", sparsity)
        self.schedule = schedule
        self.scope = scope
        self.structure = structure
        self.distribution = distribution
        self.filters = filters
        self.custom_sparsity = custom_sparsity
        self.on_miss = on_miss
        if structure is not None:
            structure.check(self)
        self._selection = None
        self._units = None  # what is pruned together in the model
        self._sparsity = None  # what the schedule asked for last
        self._next_step = None  # the first step not looked at yet
        self._density = 1.0
        self._last = []  # [(variable, mask)] at the end of earlier fits
        self._notes = []
        self.missed = []
        self._batches = 0
        self._epoch_start = 0
        self._accumulation = 1  # batches whose gradients make one update

    # ---- what a method says --------------------------------------------

    @abc.abstractmethod
    def scores(self, variables):
        """Returns `{path: scores}` for `{path: variable}`; larger is kept.

        `None` keeps the masks as they are.
        """

    def combine(self, scores, sparsity, old, structure):
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
    def masks(self):
        """`{path: bool array}`, `True` kept; empty before the first `fit`."""
        if self._selection is None or self._state is None:
            return {}
        host.sync(self.model)
        return {
            path: self._state.get(variable)
            for path, variable in self._selection.variables.items()
        }

    @property
    def variables(self):
        """`{path: variable}` of the weights that `masks` are of."""
        return dict(self._selection.variables)

    @property
    def report(self):
        """A `PruningReport`: asked, achieved, and what was skipped and why."""
        if self._selection is None:
            raise ValueError(
                "There is no report before the pruner has seen a model. Pass "
                "it to `model.fit(callbacks=[pruner])`."
            )
        host.sync(self.model)
        notes = [*self._units.notes, *self._notes]
        followers = list(self._units.followers)
        if followers:
            notes.append(f"pruned along: {selection.some(followers, 16)}")
        return report_lib.build(
            self.model, self._selection, *self._asked(), notes, followers
        )

    @property
    def _state(self):
        return enforcement.state_of(self.model)

    # ---- the callback --------------------------------------------------

    def set_model(self, model):
        """Selects the weights and gives the optimizer its masks."""
        super().set_model(model)
        chosen = self.select(model)
        structure = self.structure or masks_lib.Unstructured()
        self._units = structure.units(model, chosen)
        self._selection = self._units.selection
        for note in self._units.notes:
            warnings.warn(f"{type(self).__name__}: {note}.")
        self._check_custom_sparsity()
        followers = list(self._units.followers.values())
        adapted = [each.path for each in selection.adapted_layers(model)]
        if adapted:
            warnings.warn(
                f"{type(self).__name__}: LoRA has frozen the weights of "
                f"{selection.some(adapted)}, which are not pruned. Prune "
                "before `enable_lora`."
            )
        self._warn_of_what_is_left(model)
        known = enforcement.state_of(model)
        masked = known.variables_with_masks() if known else []
        variables = list(self._selection.variables.values())
        # Another pruner may have put masks on weights of its own.
        before = any(v is w for v in variables for w in masked)
        state = enforcement.attach(model, [*variables, *followers])
        if not before:
            state.set(self._masks_to_start_from(variables))
        if followers and not before:
            self.apply(self.masks)
        # Kept here, because on JAX every look at `self.model` in the middle
        # of an epoch writes all variables back.
        optimizer = host.inner_optimizer(model)
        self._accumulation = optimizer.gradient_accumulation_steps or 1

    def _warn_of_what_is_left(self, model):
        """Says which large part of the model is not pruned."""
        left = shares.left_alone(model, self._selection, self.filters)
        if left is not None:
            warnings.warn(f"{type(self).__name__}: {left}")

    def _masks_to_start_from(self, variables):
        """`[(variable, mask)]` for an optimizer that holds no masks yet.

        Zeros alone say little: words never seen, constraints and initializers
        make them too.
        """
        # Compiling again made a new optimizer; the zeros are still ours. One
        # that has trained since may have brought them back.
        fresh = self._updates() == 0
        ours = [
            (v, mask)
            for v, mask in self._last
            if any(v is w for w in variables)
            and (fresh or not ops.convert_to_numpy(v)[~mask].any())
        ]
        if ours:
            return ours
        found = {
            path: ops.convert_to_numpy(variable) != 0
            for path, variable in self._selection.variables.items()
        }
        # All zero is how some layers start.
        found = {p: mask if mask.any() else ~mask for p, mask in found.items()}
        units = self._units.kept(found).values()
        zeros = 1 - sum(map(np.count_nonzero, units)) / sum(
            mask.size for mask in units
        )
        if zeros == 0:
            return []
        masks = self._masks_of_pruned(found)
        if masks is None:
            self._warn_of_zeros(zeros)
            return []
        return [(self._selection.variables[p], m) for p, m in masks.items()]

    def _masks_of_pruned(self, found):
        """Takes zeros for pruned if this pruner would have made as many.

        That is, to prune by the zeros themselves, as the schedule has asked or
        will ask in the end, prunes zeros, and all of them.

        Args:
            found: `{path: what is not zero}`.

        Returns:
            `{path: mask}`, or `None`.
        """

        def combine(scores, sparsity, old, structure):
            return masks_lib.mask_from_scores(scores, sparsity, structure)

        dense = {path: np.ones_like(mask) for path, mask in found.items()}
        scores = {path: mask.astype("float32") for path, mask in found.items()}
        before = self._units.kept(found)
        zeros = sum(np.count_nonzero(~kept) for kept in before.values())
        # Whatever spread it over the weights has rounded in each.
        rounding = min(len(before), zeros // 10)
        for sparsity, was_asked in self._sparsities_by_now():
            # In all, too: whoever spread it over the layers.
            for scope in dict.fromkeys((self.scope, "global")):
                masks = self.by_units(combine, sparsity, scores, dense, scope)
                after = self._units.kept(masks)
                wrong = sum((before[n] & ~after[n]).sum() for n in before)
                # What a method brings back starts from zero, and may be zero
                # still.
                if not (was_asked and self.revives):
                    wrong += sum((after[n] & ~before[n]).sum() for n in before)
                if wrong <= rounding:
                    return {path: masks[path] | found[path] for path in masks}
        return None

    def _sparsities_by_now(self):
        """`[(sparsity, whether it was asked for already)]`, none of them 0.

        What the schedule named last, and with it what it names for the step
        that comes next, which may have been made; last what it ends with.
        """
        now = self._updates()
        done = now - max(1, self.model.steps_per_execution)
        asked = []
        begin = getattr(self.schedule, "begin_step", 0)
        end = getattr(self.schedule, "end_step", -1)
        for step in range(now if end < 0 else min(now, end), begin - 1, -1):
            sparsity = self._due_at(step)
            if sparsity is not None:
                asked.append((sparsity, step < now))
                if step <= done:
                    break
        asked.append((self._final_sparsity(), False))
        return [each for each in dict.fromkeys(asked) if each[0] > 0]

    def _warn_of_zeros(self, share):
        if share <= min(0.1, self._final_sparsity() / 2):
            return
        advice = (
            ""
            if self._units.structure.fixes_sparsity
            else f", or begin the schedule at their sparsity, {share:.6g}"
        )
        what = "weights" if self.structure is None else "units"
        warnings.warn(
            f"{type(self).__name__}: {100 * share:.1f} % of the {what} to "
            "prune are zero before the training. They are not what this "
            "pruner's arguments ask for, so that nothing says that they were "
            "pruned, and they train. To go on from them, use the pruner that "
            f"made them, or a file of `export.save_sparse`{advice}."
        )

    def select(self, model):
        """Returns the `selection.Selection` of a model."""
        return selection.select(model, self.filters)

    def _check_custom_sparsity(self):
        paths = list(self._selection.variables)
        for pattern in self.custom_sparsity or {}:
            if not any(re.search(pattern, path) for path in paths):
                raise ValueError(
                    "`custom_sparsity` must match weights that are pruned. "
                    f"Received: {pattern!r}, which matches none of {paths[:8]}"
                )
        for joined in self._units.kernels.values():
            asked = {path: self._custom_sparsity_of(path) for path in joined}
            if len({*asked.values()} - {None}) > 1:
                raise ValueError(
                    "`custom_sparsity` must agree for layers whose channels "
                    f"are joined. Received: {asked}"
                )

    def _custom_sparsity_of(self, path):
        """The sparsity of a weight's own, by the last pattern; or `None`."""
        for pattern, sparsity in reversed((self.custom_sparsity or {}).items()):
            if re.search(pattern, path):
                return sparsity
        return None

    def on_train_begin(self, logs=None):
        """Forgets what the last `fit` noted."""
        self._next_step = None
        self._notes = []
        if self.model.steps_per_execution > 1:
            self._notes.append(
                "mask updates land on multiples of steps_per_execution="
                f"{self.model.steps_per_execution}"
            )

    def check_reachable(self, last_step):
        """Raises unless the schedule can be completed by `last_step`."""
        end = getattr(self.schedule, "end_step", -1)
        begin = getattr(self.schedule, "begin_step", 0)
        if self.on_miss != "ignore" and max(begin, end) > last_step:
            raise ValueError(
                f"The schedule ends at step {max(begin, end)}, but training "
                f"stops after step {last_step}. Lower `end_step`, train "
                "longer, or pass on_miss='ignore' if another fit follows."
            )
        over = 0 <= end < self._updates() and self._density == 1.0
        if self.on_miss != "ignore" and over and self._final_sparsity() > 0:
            raise ValueError(
                f"The schedule ended at step {end}, but the optimizer is at "
                f"step {self._updates()} already and has no masks. Move "
                "the schedule's steps after that, or call `model.compile` "
                "again, which starts the count over."
            )
        self._warn_if_late(begin)

    def _warn_if_late(self, begin):
        """Dense training counts: a ramp would be entered in its middle."""
        late = range(begin, self._updates())
        if self._density < 1.0 or self.revives:
            return
        missed = (self.schedule(step) for step in late)
        if any(bool(due) and _exact(sparsity) > 0 for due, sparsity in missed):
            warnings.warn(
                f"{type(self).__name__}: the schedule begins at step {begin}, "
                f"but the optimizer is at step {self._updates()} already and "
                "nothing is pruned. It goes on from there; call "
                "`model.compile` again to start at its begin."
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Before the first: refuses a schedule that cannot be completed.

        Only now the first epoch is known, and what other callbacks loaded.
        """
        if self._next_step is None:
            self._density = self._density_of(self.masks)
            self._batches = host.batches_seen(self.model)
            self._next_step = self._updates()
            epochs, steps = self.params.get("epochs"), self.params.get("steps")
            if epochs is not None and steps is not None:
                batches = self._batches + (epochs - epoch) * steps
                self.check_reachable(batches // self._accumulation)
        self._epoch_start = self._batches

    def on_train_batch_begin(self, batch, logs=None):
        """Prunes if the schedule names a step up to this one."""
        self._batches = self._epoch_start + batch
        self._advance(self._batches // self._accumulation)

    def on_epoch_end(self, epoch, logs=None):
        """Adds `sparsity`, over the prunable weights, to the logs.

        And `sparsity_all`, over all weights of the model.
        """
        # Batches with gradients that are no numbers do not count, and data
        # may end before the steps that were announced.
        self._batches = host.batches_seen(self.model)
        if logs is not None:
            logs["sparsity"] = 1.0 - self._density
            shares.add_to_logs(logs, self.model)

    def on_train_end(self, logs=None):
        """Makes a last update that is due, and compares with the target."""
        if self._next_step is None:  # no epoch was run
            return
        host.sync(self.model)
        # An update would hide them.
        problems = self._zero_leaks()
        self._advance(self._updates())
        self.finish(self._final_sparsity(), problems)

    def _zero_leaks(self):
        """Returns, in sentences, what was not zero and is again."""
        leaks = self._state.leaks()
        if not leaks:
            return []
        self._state.zero()
        return [
            f"{sum(leaks.values())} pruned weights had come back and were "
            "zeroed again after training: "
            + selection.some([f"{path} ({n})" for path, n in leaks.items()])
        ]

    def finish(self, target, problems=()):
        """Says so, loudly, if zeros were lost or `target` was not reached.

        Args:
            target: The sparsity asked for; `None` for none.
            problems: Sentences about what else went wrong.
        """
        state = self._state
        host.unalias(self.model)
        chosen = self._selection.variables.values()
        # What is frozen for this fit keeps the mask that it had.
        others = [
            (v, mask)
            for v, mask in self._last
            if any(v is w for w in self.model.variables)
            and not any(v is w for w in chosen)
        ]
        self._last = others + [(v, state.get(v)) for v in chosen]
        problems = [*problems, *self._zero_leaks(), *self._shortfall(target)]
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
        if self._sparsity is None and self._density == 1.0:
            return [
                f"nothing was pruned (target sparsity {target:.4f}): the "
                "schedule names none of this training's steps"
            ]
        if self._sparsity is None:
            # Restored after the last update: the masks are those of before.
            self._sparsity = target
        if self._sparsity < target - 1e-9:
            return [
                f"training ended at sparsity {self._sparsity:.4f} of the "
                f"schedule's {target:.4f}"
            ]
        problems = []
        kept = self._units.kept(self.masks)
        for group, sparsity in self._targets(self._sparsity):
            total = sum(kept[name].size for name in group)
            pruned = total - sum(np.count_nonzero(kept[name]) for name in group)
            if pruned < int(sparsity * total):
                problems.append(
                    f"{selection.some(group)}: asked for sparsity "
                    f"{sparsity:.4f}, reached {pruned / total:.4f}"
                )
                continue
            reached, unit = self._reached(group, kept)
            # A target counts units. One of them is what rounding may cost, and
            # a twentieth what smaller blocks at ragged edges may.
            if reached + unit < 0.95 * sparsity:
                problems.append(
                    f"{selection.some(group)}: asked for sparsity "
                    f"{sparsity:.4f}, reached {reached:.4f}: the {pruned} of "
                    f"{total} units that are pruned are the small ones. With "
                    "scope='layer' every weight gets the sparsity"
                )
        return problems

    def _reached(self, names, kept):
        """The sparsity of the weights under one threshold.

        Args:
            names: Weights, or sets of units.
            kept: `{name: which units keep anything}`.

        Returns:
            The sparsity, and the share of the weights that the largest unit
            holds. Within a weight units count alike: whoever asks for blocks
            knows that those at a ragged edge are smaller.
        """
        masks = self.masks
        total = zeros = even = largest = 0
        for name in names:
            mine = [masks[path] for path in self._units.kernels[name]]
            size = sum(mask.size for mask in mine)
            units = kept[name].size
            pruned = units - np.count_nonzero(kept[name])
            total += size
            zeros += size - sum(int(np.count_nonzero(m)) for m in mine)
            even += size * pruned / units
            largest = max(largest, size / units)
        return max(zeros, even) / total, largest / total

    # ---- pruning -------------------------------------------------------

    def prune(self, sparsity):
        """Scores the weights and prunes to `sparsity`, now.

        Args:
            sparsity: Sparsity over the selected weights, in [0, 1).
        """
        new = self.propose(sparsity)
        if new is None:
            return
        self.apply(new)
        self._sparsity = float(sparsity)
        self._density = self._density_of(new)
        emptied = [path for path, mask in new.items() if not mask.any()]
        if emptied:
            warnings.warn(
                f"{type(self).__name__}: nothing is kept of "
                f"{selection.some(emptied)} (layer collapse). "
                f"{self._against_collapse()}"
            )

    def _against_collapse(self):
        if self.scope == "global":
            return "Lower the sparsity, or use scope='layer'."
        if callable(self.distribution):
            return "Let `distribution` give them less."
        return "Lower the sparsity, or that of these in `custom_sparsity`."

    def apply(self, masks):
        """Sets the masks of all `variables`, now.

        Args:
            masks: `{path: bool array}`, `True` kept.
        """
        variables = self._selection.variables
        pairs = [(variables[path], masks[path]) for path in variables]
        kept = self._units.pool_masks(masks)
        spread = self._units.spread(kept)
        pairs += [
            (variable, spread[path])
            for path, variable in self._units.followers.items()
        ]
        self._units.settle(kept)
        self._state.set(pairs)
        host.hand_to_trainer(self.model)

    def propose(self, sparsity):
        """Returns the masks that `prune` would set, and changes nothing.

        Args:
            sparsity: Sparsity over the selected weights, in [0, 1).

        Returns:
            `{path: bool array}`, `True` kept; `None` if the method keeps its
            masks as they are.
        """
        host.sync(self.model)
        sparsity = check_sparsity("sparsity", sparsity)
        old = self.masks
        scores = self.scores(self._selection.variables)
        if scores is None:
            return None
        scorers.check_scores(type(self).__name__, scores, self.variables)
        return self.by_units(self.combine, sparsity, scores, old)

    def by_units(self, combine, sparsity, scores, old, scope=None):
        """Combines scores and masks of what shares a threshold.

        Where only the model knows the units, both are of units already.

        Args:
            combine: As the method `combine`.
            sparsity: Sparsity over the selected weights, in [0, 1).
            scores: `{path: array}`.
            old: `{path: mask}` before the update.
            scope: Which units share a threshold. Defaults to `None`: those of
                the pruner's own scope.

        Returns:
            `{path: mask}` of all weights.
        """
        scores = self._units.pool(scores)
        before = self._units.pool_masks(old)
        new = {}
        for group, target in self._targets(sparsity, scope):
            new.update(
                combine(
                    {path: scores[path] for path in group},
                    target,
                    {path: before[path] for path in group},
                    self._units.structure,
                )
            )
        return self._units.expand(new, old)

    @staticmethod
    def _density_of(masks):
        kept = sum(int(np.count_nonzero(mask)) for mask in masks.values())
        return kept / sum(mask.size for mask in masks.values())

    def _targets(self, sparsity, scope=None):
        """`[(paths, or sets of units, of one threshold, their sparsity)]`."""
        shapes = self._units.shapes
        custom = self._custom_targets(shapes, sparsity)
        structure = self._units.structure
        if structure.fixes_sparsity and sparsity > 0:
            return [
                # A sparsity of its own can only be 0.
                ([path], custom.get(path, structure.sparsity_of(shape)))
                for path, shape in shapes.items()
            ]
        if (scope or self.scope) == "global":
            shared = [path for path in shapes if path not in custom]
            groups = [(shared, sparsity)] if shared else []
            return groups + [([path], s) for path, s in custom.items()]
        if callable(self.distribution):
            spread = {**self.distribution(shapes, sparsity), **custom}
        else:
            spread = DISTRIBUTIONS[self.distribution](shapes, sparsity, custom)
        return [([path], spread[path]) for path in shapes]

    def _asked(self):
        """`({path: sparsity}, sparsity of all that share a threshold)`."""
        own, together = {}, None
        if self._sparsity is None:
            return own, together
        for group, target in self._targets(self._sparsity):
            if len(group) == 1:
                paths = self._units.kernels[group[0]]
                own.update(dict.fromkeys(paths, target))
            else:
                together = target
        return own, together

    def _custom_targets(self, shapes, sparsity):
        final = self._final_sparsity() or sparsity
        progress = min(1.0, sparsity / final) if final else 1.0
        return {
            name: sparsity * progress
            for name in shapes
            for path in self._units.kernels[name]
            if (sparsity := self._custom_sparsity_of(path)) is not None
        }

    # ---- time ----------------------------------------------------------

    def _advance(self, step):
        """Looks at the steps up to `step`; the last one due decides."""
        due = None
        while self._next_step <= step:
            sparsity = self._due_at(self._next_step)
            due = due if sparsity is None else sparsity
            self._next_step += 1
        if due is not None:
            self.prune(due)

    def _due_at(self, step):
        """The sparsity that the schedule asks for at a step, or `None`."""
        should_prune, sparsity = self.schedule(step)
        # A frequency that does not divide the interval would otherwise stop
        # short of the final sparsity.
        last = step == getattr(self.schedule, "end_step", -1)
        return _exact(sparsity) if bool(should_prune) or last else None

    def _final_sparsity(self):
        end = getattr(self.schedule, "end_step", -1)
        if end < 0:
            end = getattr(self.schedule, "begin_step", 0)
        return _exact(self.schedule(end)[1])

    def _updates(self):
        return host.updates(self.model.optimizer)


def _exact(sparsity):
    """A schedule's sparsity as a Python float.

    tfmot returns float32, whose 0.9 is below the double 0.9 and would prune
    one weight less than asked; its shortest decimal form is what was meant.
    """
    value = getattr(sparsity, "numpy", lambda: sparsity)()
    if isinstance(value, np.floating) and value.dtype == np.float32:
        return float(str(value))
    return float(value)
