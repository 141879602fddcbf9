"""Which channels are dead.

An atom is live if it reaches an output of the model, or a layer that cannot be
cut, or a nonzero weight toward a live channel, except that a constant is not
read but folded into the bias of the reader, where that is exact. All others
can go.

A head of attention is live if neither its values nor what reads them are all
zero.
"""

import math

import numpy as np

from keras_app.graph.analysis import Analysis
from keras_app.layers.passing import numpy_of


def count_dead(model):
    """Returns how many channels, neurons and heads `shrink` would cut.

    Args:
        model: A model of which `is_graph` is true.
    """
    analysis = Analysis(model)
    live = Live(analysis)
    return sum(
        int(np.count_nonzero(~live.kept(record.outputs)))
        for record in analysis.records.values()
        if record.reader is not None or record.is_attention
    )


class Live:
    """What stays of a model.

    Args:
        analysis: The `Analysis` of the model.
        multiple_of: Layers keep a multiple of this many channels if they can.
            Defaults to `1`.
    """

    def __init__(self, analysis, multiple_of=1):
        self._analysis, roots = analysis, analysis.roots
        records = analysis.records.values()
        self._live = np.zeros(len(analysis.parents), bool)
        self._live[roots(analysis.pinned)] = True
        readers = [
            (
                record.reader.reads,
                roots(record.inputs.atoms),
                roots(record.outputs.atoms),
                record.reader.folds(record.inputs.constants),
            )
            for record in records
            if record.reader is not None
        ]
        producers = [
            roots(record.outputs.atoms)
            for record in records
            if record.row.makes
        ]
        for record in records:
            if record.is_attention:
                heads = roots(record.outputs.atoms)
                self._live[heads[np.isnan(record.outputs.constants)]] = True
                self._round_up(heads, 1)
        while True:
            before = np.count_nonzero(self._live)
            for reads, inputs, outputs, foldable in readers:
                needed = reads[:, self._live[outputs]].any(axis=1) & ~foldable
                self._live[inputs[needed]] = True
            if np.count_nonzero(self._live) != before:
                continue
            for atoms in producers:
                self._round_up(atoms, multiple_of)
            if np.count_nonzero(self._live) == before:
                return

    def _round_up(self, atoms, multiple_of):
        """Brings dead channels back; a layer keeps one at the least."""
        kept = np.count_nonzero(self._live[atoms])
        target = max(1, math.ceil(kept / multiple_of)) * multiple_of
        for atom in atoms:
            if np.count_nonzero(self._live[atoms]) >= target:
                return
            self._live[atom] = True

    def kept(self, channels):
        """Which positions stay, bool."""
        return self._live[self._analysis.roots(channels.atoms)]

    def fold(self, record):
        """What the constants that go add to the bias of a reader."""
        gone = ~self.kept(record.inputs)
        constants = np.where(gone, record.inputs.constants, 0.0)
        return np.nan_to_num(constants, nan=0.0) @ record.reader.sums

    def notes(self):
        """What looks dead and was kept, `{name of the layer: reason}`."""
        analysis, roots = self._analysis, self._analysis.roots
        notes = {}

        def note(layer, which, reason):
            count = np.count_nonzero(which)
            if count:
                notes[layer.name] = f"{count} constant channels kept: {reason}"

        ends = np.isin(np.arange(len(analysis.parents)), roots(analysis.ends))
        for channels, layer, reason in analysis.pins:
            # Nobody expects the model to lose an input or output.
            note(layer, channels.known & ~ends[roots(channels.atoms)], reason)
        for layer, reason in analysis.uncut.values():
            zeros = any(
                len(weight.shape) > 1 and not numpy_of(weight).all()
                for weight in getattr(layer, "weights", ())
            )
            if zeros:
                notes.setdefault(layer.name, f"its zeros stay: {reason}")
        for record in analysis.records.values():
            reader = record.reader
            if reader is None or reader.only_zeros is None:
                continue
            held = record.inputs.known & (record.inputs.constants != 0)
            read = reader.reads[:, self.kept(record.outputs)].any(axis=1)
            why = f"they are not zero, and {reader.only_zeros}"
            note(record.layer, held & read, why)
        for layer, channels, normed in analysis.grouped:
            why = "normalized together with channels that vary"
            note(layer, channels.known & np.isnan(normed), why)
        return notes
