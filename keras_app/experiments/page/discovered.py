"""Discovered architecture: connections, widths and skips that were left."""

import itertools
import math

from keras_app.experiments.page import charts
from keras_app.experiments.page import drawing
from keras_app.experiments.page import wording
from keras_app.experiments.page.runs import finite
from keras_app.experiments.page.sections import Section


def section(runs):
    """What the runs found of their networks' architecture."""
    shown = []
    for run in runs:
        name = wording.run_name(run, runs)
        connections = run.summary.get("connections")
        if isinstance(connections, dict):
            shown.append(_connection_map(connections, name))
        architecture = run.summary.get("architecture")
        if isinstance(architecture, dict):
            shown.append(_widths(run, architecture, name))
            shown.append(_skip_map(architecture, name))
    return Section("Discovered architecture", charts=shown)


def _square_map(words, alt, table, sources, targets, show, look=None):
    """A heat map from sources to targets, as large as their names need."""
    longest = max((len(drawing.short(name)) for name in sources), default=0)
    return charts.heat_map(
        words,
        alt,
        table,
        sources,
        targets,
        show,
        look,
        height=1.0 + 0.36 * len(targets),
        width=1.2 + len(sources) * max(0.45, 0.075 * longest),
    )


def _exact_zero(show):
    """As `show`, but 0 stands for nothing else than zero."""
    return lambda value: show(value) if value else "0"


def _connection_map(connections, name):
    sources, targets = connections["sources"], connections["targets"]
    table = charts.numbers(connections["density"], 100)
    show = _exact_zero(charts.short_percent)
    rows = [
        f"to {target} "
        + ", ".join(
            f"{show(value)} from {source}"
            for source, value in zip(sources, values)
            if math.isfinite(value)
        )
        for target, values in zip(targets, table)
    ]
    words = charts.words("connections", name)
    alt = "Heat map of the connections that are left, in percent: "
    alt += f"{'; '.join(rows)}."
    return _square_map(words, alt, table, sources, targets, show)


def _widths(run, architecture, name):
    units, widths = architecture["units"], architecture["active_rows"]
    return charts.bars(
        charts.words("widths", name, units=wording.count(units)),
        f"Bar chart of the active units per layer, of {units}: "
        f"{wording.listed([str(width) for width in widths])}.",
        widths,
        drawing.look(run.main, run.dense)["color"],
        # Room for the numbers above full bars.
        1.12 * units,
        dashed=units,
        width=0.8 + 0.42 * len(widths),
    )


def _skip_map(architecture, name):
    table = charts.numbers(architecture["skips"])
    targets = [f"layer {i}" for i in range(1, len(table) + 1)]
    sources = ["input", *targets[:-1]]
    show = _exact_zero(lambda value: wording.fixed(value, 2))
    # Zero is in the middle of the colours.
    known = finite(itertools.chain(*table))
    limit = max(map(abs, known), default=0) or 1.0
    skips = [
        f"{source} to {target} {show(value)}"
        for target, values in zip(targets, table)
        for source, value in zip(sources, values)
        if math.isfinite(value) and value
    ]
    words = charts.words("skips", name)
    alt = (
        f"Heat map of the skip coefficients: {', '.join(skips) or 'all zero'}."
    )
    look = {"cmap": "RdBu", "vmin": -limit, "vmax": limit}
    return _square_map(words, alt, table, sources, targets, show, look)
