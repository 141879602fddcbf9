"""Two ways to a target: cutting channels, and zeros where they are."""

import dataclasses

import numpy as np
from keras import ops

from keras_app import schedules
from keras_app import scorers
from keras_app.compression import cuts as cuts_lib
from keras_app.compression.decide import decide
from keras_app.export import copies
from keras_app.export.shrink import shrink
from keras_app.pruners import MagnitudePruner

_SCORING_BATCHES = 16
_UPDATES = 30  # of the masks, in a ramp


def way_of(experiment):
    """Returns the way that a target and a structure ask for."""
    if experiment.parsed.quantity == "sparsity":
        return Zeros(experiment)
    return Cutting(experiment)


class Zeros:
    """A share of zeros: single weights, blocks, n:m; nothing is cut.

    Args:
        experiment: The `Compress`.
    """

    cuts = False

    def __init__(self, experiment):
        self._sparsity = experiment.parsed.value
        given = experiment.structure
        self._structure = None if given == "auto" else given

    def decide(self, learner):
        """There is nothing to choose."""
        return []

    def steps(self, learner):
        """One ramp."""
        return [None]

    def pruning_epochs(self, epochs):
        """Half of them."""
        return max(1, epochs // 2)

    def training_epochs(self, epochs):
        """The rest."""
        return epochs - self.pruning_epochs(epochs)

    def pruners(self, learner, number, begin, end):
        """Gradual pruning by magnitude, with one threshold for all."""
        schedule = schedules.PolynomialDecay(
            0.0,
            self._sparsity,
            begin,
            end,
            frequency=max(1, (end - begin) // _UPDATES),
        )
        scope = "global" if self._structure is None else "layer"
        return [
            MagnitudePruner(schedule, scope=scope, structure=self._structure)
        ]


class Cutting:
    """Channels and heads that go, in the time, bytes or FLOPs they cost.

    Args:
        experiment: The `Compress`.
    """

    cuts = True

    def __init__(self, experiment):
        self._experiment = experiment
        self._cuts = cuts_lib.Cuts(experiment.model, experiment.multiple_of)
        self._is_stepwise = experiment.parsed.quantity == "accuracy"

    def decide(self, learner):
        """Returns the `Decision`s; each goes on from the one before."""
        e = self._experiment
        scores = self._scores(learner.model)
        return decide(
            e.model,
            e.parsed,
            scores,
            e.multiple_of,
            e.quantize,
            e.data.first(8),
            learner.terminal.part,
        )

    def _scores(self, model):
        """Taylor scores on the training data, of all that can be cut."""
        found = scorers.score(
            "taylor",
            model,
            cuts_lib.Cuts(model, 1).variables,
            self._experiment.data.scoring(_SCORING_BATCHES),
            "inference",
        )
        # Of the copy that is trained; its order is that of the model.
        return dict(zip(self._cuts.variables, found.values(), strict=True))

    def steps(self, learner):
        """One for each decision."""
        return learner.decisions

    def pruning_epochs(self, epochs):
        """Of each step."""
        if self._is_stepwise:
            return max(1, epochs // 5)
        return max(1, epochs // 2)

    def training_epochs(self, epochs):
        """Of the small model."""
        if self._is_stepwise:
            return epochs
        return epochs - self.pruning_epochs(epochs)

    def pruners(self, learner, number, begin, end):
        """A pruner for each structure of which anything goes."""
        before = (
            learner.decisions[number - 1].widths
            if number
            else self._cuts.shapes
        )
        after = learner.decisions[number].widths
        found = []
        for structure, names in self._cuts.sets():
            ramp = Ramp(
                [self._cuts.shapes[name] for name in names],
                [before[name] for name in names],
                [after[name] for name in names],
            )
            if ramp.final <= ramp.initial:
                continue
            schedule = schedules.PolynomialDecay(
                ramp.initial,
                ramp.final,
                begin,
                end,
                frequency=max(1, (end - begin) // _UPDATES),
            )
            found.append(
                MagnitudePruner(
                    schedule, structure=structure, distribution=ramp
                )
            )
        return found

    def cut(self, model, data):
        """Returns a pruned model without what is pruned; verified."""
        return shrink(model, data.first(32))

    def small(self, decision):
        """Returns a model of the widths of a decision, to load weights into."""
        made = copies.copy(self._experiment.model)
        for structure, names in self._cuts.sets():
            units = cuts_lib.units_of(structure, made)
            kept = {
                own: np.arange(self._cuts.shapes[name]) < decision.widths[name]
                for own, name in zip(units.shapes, names, strict=True)
            }
            held = {**units.selection.variables, **units.followers}
            spread = units.spread(kept, held)
            for path, variable in held.items():
                variable.assign(ops.convert_to_numpy(variable) * spread[path])
            units.settle(kept)
        return shrink(made, self._experiment.data.first(4))


@dataclasses.dataclass
class Ramp:
    """Spreads a sparsity that rises so that each set ends at its own width.

    Sets that are cut more are cut faster; each goes from its width before to
    the one after as the sparsity over all goes from its start to its end.

    Args:
        sizes: Units of each set, in their order.
        before, after: How many are left of each.
    """

    sizes: list
    before: list
    after: list

    @property
    def initial(self):
        """The sparsity over all sets before."""
        return 1 - sum(self.before) / sum(self.sizes)

    @property
    def final(self):
        """The sparsity over all sets after."""
        return 1 - sum(self.after) / sum(self.sizes)

    def __call__(self, shapes, sparsity):
        """Returns `{name of a set: its sparsity}`."""
        span = self.final - self.initial
        share = (sparsity - self.initial) / span if span > 0 else 1.0
        share = min(1.0, max(0.0, share))
        found = {}
        for name, size, old, new in zip(
            shapes, self.sizes, self.before, self.after, strict=True
        ):
            # Rounding must not make one less of a whole number.
            gone = int((size - old) + share * (old - new) + 1e-6)
            found[name] = min(1.0 - 1e-9, (gone + 1e-6) / size) if gone else 0.0
        return found
