"""Anytime Progressive Pruning (APP)."""

import warnings
from typing import Any
from typing import get_args
from typing import Literal
from typing import Unpack

import keras
import numpy as np
from keras import ops

from keras_app import masks as masks_lib
from keras_app import selection
from keras_app import split
from keras_app.checks import check_choice
from keras_app.checks import check_whole
from keras_app.hints import Arrays
from keras_app.hints import Data
from keras_app.hints import Schedule
from keras_app.hints import Scope
from keras_app.hints import State
from keras_app.hints import Ties
from keras_app.hints import Variables
from keras_app.masks.structures import Structure
from keras_app.pruners.arguments import ScoredArguments
from keras_app.pruners.clock import Megabatches
from keras_app.pruners.scored import ScoredPruner
from keras_app.scorers import Scorer
from keras_app.selection import Selection
from keras_app.timing import shares_of

MaskUpdate = Literal["nested", "intersect", "replace"]
ScoreWeights = Literal["trained", "reference_fresh"]
OnDegenerate = Literal["raise", "keep"]


@keras.saving.register_keras_serializable(package="keras_app")
class AnytimeProgressivePruner(ScoredPruner):
    """Prunes a little more whenever a new megabatch of data arrives.

    Each call of `fit` is one megabatch. When it starts, the weights trained so
    far are scored on a sample of the data and pruned to the schedule's next
    density; during the epochs that follow the mask is fixed.

        scores_t = score(theta_(t-1), sample_t)
        m_t = keep the (1 - k_t/N) best of m_(t-1),  k_t = int((1 - d_t) N)

    One-shot pruning, the baseline, is the same callback with
    `schedule=OneShot(sparsity)`: it prunes before the first megabatch only.

    Args:
        schedule: Maps the index of the megabatch, from 0, to `(should_prune,
            sparsity)`: `AnytimeSchedule`, or `OneShot` for the baseline.
        scorer: See `keras_app.scorers.score`. Defaults to `"snip"`.
        data: The scoring sample, a re-iterable of `(x, y)` batches. Set
            `pruner.data` before each `fit`; not part of the configuration.
        scope: `"global"` or `"layer"`. Defaults to `"global"`.
        structure, distribution, custom_sparsity, on_miss: See `Pruner`.
        filters: See `keras_app.selection.select`. Defaults to `None`:
            convolution kernels; in a network without any, the dense kernels
            but the last.
        mask_update: `"nested"`: what is pruned stays pruned and counts, so
            that the density is the schedule's. `"intersect"`: all weights are
            scored, and the new mask is combined with the old one; the density
            ends far below the schedule's. `"replace"`: the new mask alone
            counts and weights may return, with the value they had when they
            were pruned. Defaults to `"nested"`.
        ties: See `keras_app.masks.mask_from_scores`. Defaults to `"exact"`.
        score_weights: `"trained"`, or `"reference_fresh"`: from the second
            megabatch on the kernels are drawn again for the scoring, as the
            authors' code does. Defaults to `"trained"`.
        bn_mode: See `keras_app.scorers.score`.
        scoring_passes: Number of scoring passes T; pass e prunes to density
            `d^(e/T)`. SynFlow wants 20 or more. Defaults to `1`.
        on_degenerate: When all scores are zero or some are not finite:
            `"raise"`, or `"keep"` the mask with a warning. Defaults to
            `"raise"`.
        samples_per_class: Size of GraSP's samples. Defaults to `10`.
        seed: Seed of the `"random"` scorer and of `"reference_fresh"`.
            Defaults to `0`.

    Reference compatible: `mask_update="intersect"`, `ties="le"`,
    `score_weights="reference_fresh"`.

    Example:

    >>> from keras_app.schedules import AnytimeSchedule
    >>> pruner = AnytimeProgressivePruner(AnytimeSchedule(8, level=4.5))
    >>> pruner.megabatch
    0

    Reference: [Misra et al., 2022](https://arxiv.org/abs/2204.01640). Differs
    from the authors' code: it scores the trained weights, and its masks are
    nested.
    """

    def __init__(
        self,
        schedule: Schedule,
        scorer: Scorer = "snip",
        data: Data | None = None,
        *,
        scope: Scope = "global",
        mask_update: MaskUpdate = "nested",
        ties: Ties = "exact",
        score_weights: ScoreWeights = "trained",
        scoring_passes: int = 1,
        on_degenerate: OnDegenerate = "raise",
        **kwargs: Unpack[ScoredArguments],
    ) -> None:
        self.revives = mask_update == "replace"
        super().__init__(schedule, scorer, data, scope=scope, **kwargs)
        for name, value, known in (
            ("mask_update", mask_update, MaskUpdate),
            ("ties", ties, Ties),
            ("score_weights", score_weights, ScoreWeights),
            ("on_degenerate", on_degenerate, OnDegenerate),
        ):
            check_choice(name, value, get_args(known))
        shares = shares_of(schedule)
        if shares:
            raise ValueError(
                "`schedule` must be in integers here, where its steps are "
                f"megabatches, no shares of a training. Received: {shares}"
            )
        reference = (mask_update, score_weights) != ("nested", "trained")
        if callable(scorer) and reference:
            raise ValueError(
                "A callable `scorer` scores the stored weights, so it goes "
                "with mask_update='nested' and score_weights='trained' only. "
                f"Received: mask_update={mask_update!r}, "
                f"score_weights={score_weights!r}"
            )
        self.mask_update = mask_update
        self.ties = ties
        self.score_weights = score_weights
        self.scoring_passes = check_whole("scoring_passes", scoring_passes, 1)
        self.on_degenerate = on_degenerate
        self._clock = Megabatches()
        self._latent = {}

    @property
    def takes_split(self) -> bool:
        """Whether neither scorer nor rule keeps values beside the weights."""
        return super().takes_split and not self._scores_others

    @property
    def _scores_others(self):
        """Whether it scores others than the stored weights."""
        nested = self.mask_update == "nested"
        return not (nested and self.score_weights == "trained")

    @property
    def megabatch(self) -> int:
        """The index of the megabatch that trains, or comes next."""
        return self._clock.now

    @megabatch.setter
    def megabatch(self, value: float) -> None:
        self._clock.now = value

    def select(self, model: keras.Model) -> Selection:
        """Returns the selection; refuses a scorer that lacks data or a loss."""
        is_new = self._clock.next <= self.megabatch
        if is_new and self._due_at(self.megabatch) is not None:
            self.check_scorer(model)
        if self.filters is not None:
            return super().select(model)
        chosen = selection.select(model)
        kernels = selection.convolution_kernels(model)
        skipped = {
            path: "the APP paper prunes convolutions; name it with `filters`"
            for path, variable in chosen.variables.items()
            if not kernels(variable)
        }
        chosen = chosen.without(skipped)
        if not chosen.variables:
            raise ValueError(
                "There is nothing to prune: the model has no convolution and "
                "only one dense layer. Name weights with `filters`."
            )
        return chosen

    # ---- one megabatch for each fit ------------------------------------

    def _due_at(self, megabatch):
        should_prune, sparsity = self.schedule(megabatch)
        return sparsity if should_prune else None

    def _sparsities_by_now(self):
        """Those of what was restored, and of the megabatch that arrives."""
        named = (1.0 - self._density, self.schedule(self.megabatch)[1])
        return [(sparsity, False) for sparsity in named if sparsity > 0]

    def _target(self):
        """What was pruned to last: the schedule goes on in other fits."""
        return self._sparsity

    def on_train_begin(self, logs=None):
        """Prunes for the megabatch that arrives now; the mask is then fixed."""
        super().on_train_begin(logs)
        self._advance(self.megabatch)

    def on_train_end(self, logs=None):
        """Compares with the target, and waits for the next megabatch."""
        super().on_train_end(logs)
        self.megabatch += 1

    def state(self) -> State:
        """Returns `(plain values, {name: array})`, what `restore` needs."""
        plain = {
            "megabatch": self.megabatch,
            "pruned": self._clock.next - 1,
            "sparsity": self._sparsity,
            "density": self._density,
        }
        return plain, dict(self._latent)

    def restore(self, plain: dict[str, Any], arrays: Arrays) -> None:
        """Continues where `state()` was taken, within a megabatch too."""
        self.megabatch = plain["megabatch"]
        self._clock.next = plain["pruned"] + 1
        self._sparsity = plain["sparsity"]
        self._density = plain["density"]
        self._latent = dict(arrays)

    # ---- scores and masks ----------------------------------------------

    def prune(self, sparsity: float) -> None:
        """Scores and prunes to `sparsity`, in `scoring_passes` passes."""
        before = self._masks
        density = 1.0 - sparsity
        for e in range(1, self.scoring_passes):
            super().prune(1.0 - density ** (e / self.scoring_passes))
        super().prune(sparsity)
        if self.mask_update == "replace":
            self._revive(before)

    def _revive(self, before):
        """Gives weights that return the value they were pruned with."""
        after = self._masks
        for path, variable in self.variables.items():
            returned = after[path] & ~before[path]
            if returned.any():
                stored = ops.convert_to_numpy(variable)
                variable.assign(np.where(returned, self._latent[path], stored))

    def scores(self, variables: Variables) -> Arrays | None:
        """Returns `{path: scores}` on the scoring sample."""
        scores = super().scores(
            variables,
            weights=self._weights_to_score(variables),
            seed=[self.seed, self.megabatch],
        )
        finite = all(map(split.all_finite, scores.values()))
        if finite and any(map(split.any_of, scores.values())):
            return scores
        problem = (
            "all scores are zero" if finite else "some scores are not finite"
        )
        if self.on_degenerate == "raise":
            raise masks_lib.DegenerateScores(
                f"At megabatch {self.megabatch} {problem}, so they say nothing "
                "about which weights matter. Score on more data, or pass "
                "on_degenerate='keep' to keep the mask."
            )
        warnings.warn(
            f"At megabatch {self.megabatch} {problem}: the mask is kept."
        )
        return None

    def combine(
        self,
        scores: Arrays,
        sparsity: float,
        old: Arrays,
        structure: Structure | None,
    ) -> Arrays:
        """Returns new masks as `mask_update` says."""
        nested = self.mask_update == "nested"
        new = masks_lib.mask_from_scores(
            scores, sparsity, structure, self.ties, old if nested else None
        )
        if nested:
            return new
        total = sum(mask.size for mask in old.values())
        if self.mask_update == "replace":
            # With nothing to prune the rule leaves the mask as it was.
            return old if int(sparsity * total) < 1 else new
        return {path: new[path] & old[path] for path in new}

    def _weights_to_score(self, variables):
        if not self._scores_others:
            return None
        masks = self._masks
        for path, variable in variables.items():
            stored = ops.convert_to_numpy(variable)
            old = self._latent.get(path, stored)
            self._latent[path] = np.where(masks[path], stored, old)
        if self.score_weights == "trained" or self.megabatch == 0:
            return self._latent
        generator = np.random.default_rng([self.seed, self.megabatch])
        return {
            path: _he_normal(generator, variable)
            for path, variable in variables.items()
        }


def _he_normal(generator, variable):
    fan_in = int(np.prod(variable.shape[:-1]))
    draws = generator.standard_normal(variable.shape)
    return (draws * np.sqrt(2.0 / fan_in)).astype(np.float32)
