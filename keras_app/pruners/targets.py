"""How a sparsity is spread over the weights, or their units, in a model."""

import re
from typing import get_args

from keras_app import masks
from keras_app import report as report_lib
from keras_app import selection
from keras_app.checks import check_choice
from keras_app.checks import check_sparsity
from keras_app.distributions import check_distribution
from keras_app.distributions import DISTRIBUTIONS
from keras_app.hints import Scope
from keras_app.pruners.clock import final_sparsity


def check_spread(scope, structure, distribution, custom_sparsity):
    """Raises unless the arguments of a pruner go together."""
    check_choice("scope", scope, get_args(Scope))
    if structure is not None and not isinstance(structure, masks.Structure):
        raise TypeError(
            "`structure` must be None or a structure of keras_app.masks: "
            "NM, Block, Channel, TargetBlock, GraphChannel, AttentionHead. "
            f"Received: structure={structure!r}"
        )
    check_distribution(distribution)
    if scope == "global" and distribution != "uniform":
        raise ValueError(
            "`distribution` spreads a sparsity over layers and has no "
            "meaning with scope='global'. "
            f"Received: distribution={distribution!r}"
        )
    _check_custom_sparsity(custom_sparsity)


def _check_custom_sparsity(custom_sparsity):
    """Raises unless it is `{regex: sparsity}` or `None`."""
    if not isinstance(custom_sparsity or {}, dict):
        raise TypeError(
            "`custom_sparsity` must be {regex: sparsity} or None. "
            f"Received: custom_sparsity={custom_sparsity!r}"
        )
    for pattern, sparsity in (custom_sparsity or {}).items():
        selection.check_filters(pattern)
        check_sparsity(f"custom_sparsity[{pattern!r}]", sparsity)


class Targets:
    """What a pruner's arguments ask of each set of units.

    Args:
        pruner: The pruner: its `scope`, `distribution` and `custom_sparsity`.
        units: The `Units` of its structure in the model.

    Raises:
        ValueError: A pattern of `custom_sparsity` that matches nothing, or that
            divides what is joined.
    """

    def __init__(self, pruner, units):
        self._pruner = pruner
        self._units = units
        self._own = {}  # sparsities of weights' own; the last pattern decides
        paths = list(units.selection.variables)
        for pattern, sparsity in (pruner.custom_sparsity or {}).items():
            matched = [path for path in paths if re.search(pattern, path)]
            if not matched:
                raise ValueError(
                    "`custom_sparsity` must match weights that are pruned. "
                    f"Received: {pattern!r}, which matches none of {paths[:8]}"
                )
            self._own.update(dict.fromkeys(matched, sparsity))
        for joined in units.kernels.values():
            asked = {path: self._own.get(path) for path in joined}
            if len({*asked.values()} - {None}) > 1:
                raise ValueError(
                    "`custom_sparsity` must agree for layers whose channels "
                    f"are joined. Received: {asked}"
                )

    def groups(self, sparsity, scope=None):
        """`[(names of sets that share a threshold, their sparsity)]`.

        Args:
            sparsity: Sparsity over all, in [0, 1).
            scope: Defaults to `None`: that of the pruner.
        """
        shapes, structure = self._units.shapes, self._units.structure
        custom = self._custom(sparsity)
        if structure.fixes_sparsity and sparsity > 0:
            spread = {
                # A sparsity of its own can only be 0.
                path: custom.get(path, structure.sparsity_of(shape))
                for path, shape in shapes.items()
            }
        elif (scope or self._pruner.scope) == "global":
            shared = [path for path in shapes if path not in custom]
            groups = [(shared, sparsity)] if shared else []
            return groups + [([path], s) for path, s in custom.items()]
        elif callable(self._pruner.distribution):
            spread = {**self._pruner.distribution(shapes, sparsity), **custom}
        else:
            distribution = DISTRIBUTIONS[self._pruner.distribution]
            spread = distribution(shapes, sparsity, custom)
        return [([path], spread[path]) for path in shapes]

    def asked(self, sparsity):
        """`({path: sparsity}, sparsity of all that share a threshold)`."""
        own, together = {}, None
        for group, target in self.groups(sparsity):
            if len(group) == 1:
                paths = self._units.kernels[group[0]]
                own.update(dict.fromkeys(paths, target))
            else:
                together = target
        return own, together

    def report(self, model, sparsity, notes):
        """Returns the `PruningReport` of a model.

        Args:
            model: The model.
            sparsity: What was asked for last, or `None`.
            notes: Sentences beside those on the units.
        """
        notes = [*self._units.notes, *notes]
        followers = list(self._units.followers)
        if followers:
            notes.append(f"pruned along: {selection.some(followers, 16)}")
        asked, together = {}, None
        if sparsity is not None:
            asked, together = self.asked(sparsity)
        return report_lib.build(
            model, self._units.selection, asked, together, notes, followers
        )

    def against_collapse(self):
        """Returns advice for where a sparsity leaves nothing of a weight."""
        if self._pruner.scope == "global":
            return "Lower the sparsity, or use scope='layer'."
        if callable(self._pruner.distribution):
            return "Let `distribution` give them less."
        return "Lower the sparsity, or that of these in `custom_sparsity`."

    def _custom(self, sparsity):
        """Sparsities of sets' own, in proportion to the schedule's progress."""
        if not self._own:
            return {}
        final = final_sparsity(self._pruner.schedule) or sparsity
        progress = min(1.0, sparsity / final) if final else 1.0
        return {
            name: self._own[path] * progress
            for name in self._units.shapes
            for path in self._units.kernels[name]
            if path in self._own
        }
