"""Which channels belong together: what is cut must be cut of all of them."""

import numpy as np


class Atoms:
    """A forest, in which atoms that are cut together have the same root.

    Attributes:
        parents: The atom that each is joined to, or itself.
        pinned: The atoms that stay.
        pins: `[(channels, layer, reason)]`, why some of them do.
        ends: The atoms of inputs and outputs of the model.
    """

    def __init__(self):
        self.parents, self.pinned, self.pins, self.ends = [], [], [], []

    def new(self, size):
        """Returns atoms that nothing knows yet."""
        start = len(self.parents)
        self.parents.extend(range(start, start + size))
        return np.arange(start, start + size)

    def _root(self, atom):
        while self.parents[atom] != atom:
            self.parents[atom] = self.parents[self.parents[atom]]
            atom = self.parents[atom]
        return atom

    def roots(self, atoms):
        """The atom that stands for all those joined with each, int64."""
        return np.array([self._root(atom) for atom in atoms], "int64")

    def join(self, first, second):
        """Makes atoms be cut together, position by position."""
        for a, b in zip(first, second):
            self.parents[self._root(a)] = self._root(b)

    def pin(self, channels, layer=None, reason=None):
        """Makes channels stay."""
        if channels.atoms is not None:
            self.pinned.extend(channels.atoms)
            if layer is not None:
                self.pins.append((channels, layer, reason))

    def must_stay(self):
        """Returns `{root: why}` of the atoms that can never be cut."""
        reason_of_ends = "they are inputs or outputs of the model"
        reasons = dict.fromkeys(self.roots(self.ends).tolist(), reason_of_ends)
        for channels, layer, reason in self.pins:
            for root in self.roots(channels.atoms).tolist():
                reasons.setdefault(root, f"{layer.name}: {reason}")
        for root in self.roots(self.pinned).tolist():
            reasons.setdefault(root, "they meet channels that must")
        return reasons
