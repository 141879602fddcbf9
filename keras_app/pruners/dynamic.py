"""The base of dynamic sparse training: drop, and grow elsewhere."""

import abc
import math
from typing import Unpack

import numpy as np

from keras_app import masks as masks_lib
from keras_app import split
from keras_app.checks import check_int
from keras_app.checks import check_number
from keras_app.hints import Arrays
from keras_app.hints import Distribution
from keras_app.hints import Schedule
from keras_app.hints import Variables
from keras_app.masks import applied
from keras_app.pruners.arguments import DynamicArguments
from keras_app.pruners.clock import begin_and_end
from keras_app.pruners.pruner import Pruner
from keras_app.selection import by_path

# One stream of random numbers per use.
FIRST_MASKS, GROWTH = range(2)


class DynamicPruner(Pruner):
    """Trains at one density, with masks that move. Subclasses say where to.

    The first update draws the masks at random, at the schedule's sparsity.
    Every later one drops the kept weights of smallest magnitude and grows as
    many elsewhere, so that the density stays what it was, to the weight:

        f(t) = drop_fraction / 2 (1 + cos(pi t / T_end))
        drop: of the n weights kept, the int(f(t) n) with the smallest |w|
        grow: as many with the largest grow scores, of all not kept now

    t is the training step and T_end the schedule's `end_step`, both counted
    from the begin of the `fit` where it is in shares of it; a schedule
    without an end (-1) drops `drop_fraction` for ever. What was just dropped
    may grow again at once and then stays as it was, value and momentum. All
    other weights that grow start at zero with momentum zero. An update due
    after the last step of a `fit` drops nothing, because what grows there
    could not train; the next `fit` makes it.

    The masks are the same on every backend and after a run is resumed: random
    numbers follow from the seed, the step, and the position of the weight. A
    file read by `keras.saving.load_model` brings no masks; there, weights that
    grew and never left zero count as pruned until the next update that moves
    weights, which grows others for them. Under a schedule whose sparsity
    rises, the smallest magnitudes go first, to its sparsity.

    Args:
        schedule: Its steps are the updates and its `end_step` is T_end:
            usually `ConstantSparsity`.
        scope: `"layer"` drops and grows in each weight by itself, `"global"`
            over all of them, so that the density moves between layers as
            well. Defaults to `"layer"`.
        structure: As in `Pruner`: units are dropped and grown. Under n:m,
            single weights are dropped and each group is filled up to n.
            Defaults to `None`.
        distribution: As in `Pruner`. Defaults to `None`: `"erk"`, or
            `"uniform"` with `scope="global"`.
        filters, custom_sparsity, on_miss: See `Pruner`.
        drop_fraction: Share of the kept weights that the first updates
            replace, in [0, 1). With 0 the first masks stay: static sparse
            training. Defaults to `0.3`.
        seed: Integer seed of all that is random, >= 0. Defaults to `0`.
    """

    revives = True
    takes_split = True

    def __init__(
        self,
        schedule: Schedule,
        *,
        distribution: Distribution | None = None,
        drop_fraction: float = 0.3,
        seed: int = 0,
        **kwargs: Unpack[DynamicArguments],
    ) -> None:
        if distribution is None:
            by_layer = kwargs.get("scope", "layer") == "layer"
            distribution = "erk" if by_layer else "uniform"
        super().__init__(schedule, distribution=distribution, **kwargs)
        self.drop_fraction = check_number(
            "drop_fraction", drop_fraction, lambda x: 0 <= x < 1, "in [0, 1)"
        )
        self.seed = check_int("seed", seed, 0)
        self._at_the_end = False

    @abc.abstractmethod
    def grow_scores(self, variables: Variables) -> Arrays | None:
        """Returns `{path: scores}` for `{path: variable}`; larger grows.

        `None` moves nothing.
        """

    def are_first_masks(self) -> bool:
        """Whether the next masks are the first, which are drawn at random."""
        return not any(split.any_of(~mask) for mask in self._masks.values())

    def drop_fraction_at(self, step: int) -> float:
        """Returns f(t), the share of the kept weights dropped at `step`."""
        _, end = begin_and_end(self.schedule_in_steps)
        if end < 0:
            return self.drop_fraction
        if step >= end:
            return 0.0
        passed = (step - self._first) / (end - self._first)
        return self.drop_fraction / 2 * (1 + math.cos(math.pi * passed))

    def draws(self, variables: Variables, stream: int) -> Arrays:
        """Returns `{path: uniform draws}` that belong to the current step.

        Args:
            variables: `{path: variable}`.
            stream: `FIRST_MASKS` or `GROWTH`, what they are for.
        """
        step = self._updates()
        return {
            path: np.random.default_rng(
                [self.seed, step, position, stream]
            ).random(tuple(variable.shape))
            for position, (path, variable) in enumerate(variables.items())
        }

    def scores(self, variables: Variables) -> Arrays:
        """Returns `{path: |w|}`; random scores where nothing is pruned yet."""
        if self.are_first_masks():
            return self.draws(variables, FIRST_MASKS)
        return self.magnitudes(variables)

    def propose(self, sparsity: float) -> Arrays | None:
        """Returns the masks that `prune` would set, and changes nothing.

        Args:
            sparsity: Sparsity over the selected weights, in [0, 1).

        Returns:
            `{path: bool array}`, `True` kept.
        """
        is_first = self.are_first_masks()
        kept = super().propose(sparsity)
        fraction = self.drop_fraction_at(self._updates())
        if is_first or self._at_the_end or fraction == 0:
            return kept
        variables = self.variables
        magnitudes = self.scores(variables)
        grow = self.grow_scores(variables)
        if grow is None:
            return kept
        growing = self._units.pool(by_path(self.here, grow))

        def combine(magnitudes, target, kept, structure):
            return drop_and_grow(
                kept, magnitudes, growing, fraction, target, structure
            )

        return self.by_units(combine, sparsity, magnitudes, kept)

    def on_train_end(self, logs=None):
        """As in `Pruner`, but what is due now neither drops nor grows."""
        self._at_the_end = True
        try:
            super().on_train_end(logs)
        finally:
            self._at_the_end = False


def drop_and_grow(kept, magnitudes, grow, fraction, sparsity, structure=None):
    """Moves a share of what is kept, in tensors that are ranked together.

    Args:
        kept: `{path: bool array}`, `True` kept.
        magnitudes: `{path: array}`; of the kept, the smallest are dropped.
        grow: `{path: array}`; of all the others, the largest are grown.
        fraction: Share of the kept units to drop, in [0, 1), rounded down.
        sparsity: Sparsity to grow to, over all of them.
        structure: What is dropped and grown together.

    Returns:
        New masks, `{path: bool array}`.

    Example:

    >>> magnitudes = {"w": np.array([4.0, 1.0, 2.0, 3.0])}
    >>> grow = {"w": np.array([0.0, 0.1, 0.3, 0.2])}
    >>> kept = {"w": np.array([True, True, False, False])}
    >>> drop_and_grow(kept, magnitudes, grow, 0.5, 0.5)
    {'w': array([ True, False,  True, False])}
    """
    structure = structure or masks_lib.Unstructured()
    # Within an n:m group of n = 1 there is no smaller share to drop.
    loose = structure.fixes_sparsity
    dropped_together = masks_lib.Unstructured() if loose else structure
    units = [applied.pool_mask(structure, mask) for mask in kept.values()]
    total = sum(unit.size for unit in units)
    alive = sum(map(split.count, units))
    dropped = int(fraction * alive)
    if dropped == 0:
        return kept
    # Half a unit more cannot be rounded below the number meant.
    left = masks_lib.mask_from_scores(
        {path: magnitudes[path] for path in kept},
        (total - alive + dropped + 0.5) / total,
        dropped_together,
        previous=kept,
    )
    # What is left outranks all candidates.
    ranked = {path: _where(left[path], np.inf, grow[path]) for path in left}
    return masks_lib.mask_from_scores(ranked, sparsity, structure)


def _where(condition, value, others):
    # Draws are in double precision.
    with split.precisely(condition):
        others = split.like(others, condition)
        return split.numpy_of(condition).where(condition, value, others)
