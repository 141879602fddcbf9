"""The page's heat maps and bars: layers, and discovered architectures."""

import itertools
import math

import numpy as np

from keras_app.experiments.page import drawing
from keras_app.experiments.page import wording
from keras_app.experiments.page.runs import finite
from keras_app.experiments.page.runs import number

_SHARES = {"cmap": "Blues", "vmin": 0, "vmax": 100}


def over_layers(runs):
    """A map per run and pruned method: density by layer and megabatch."""
    maps = [
        _layer_map(run, method, len(runs) > 1)
        for run in runs
        for method in run.methods
        if method != run.dense
    ]
    return [chart for chart in maps if chart]


def _layer_map(run, method, with_name):
    rows = [
        row["layers"]
        for row in run.megabatches(method)
        if isinstance(row.get("layers"), dict) and row["layers"]
    ]
    if not rows:
        return None
    layers = list(rows[0])
    table = [
        [100 * (number(row.get(name)) or 0.0) for row in rows]
        for name in layers
    ]

    def draw(axes):
        image = _heat_map(axes, table, **_SHARES)
        ticks = range(0, len(rows), math.ceil(len(rows) / 12))
        axes.set_xticks(ticks, [tick + 1 for tick in ticks])
        axes.set_yticks(range(len(layers)), map(drawing.short, layers))
        axes.set_xlabel("megabatch")
        if len(rows) > 8:
            bar = axes.figure.colorbar(image, ax=axes)
            bar.set_label("density (%)")
        else:
            _write_values(axes, image, _short_percent)

    title = wording.capital(wording.label(method))
    title += f", {run.name}" if with_name else ""
    last = ", ".join(
        f"{name} {values[-1]:.1f} %" for name, values in zip(layers, table)
    )
    alt = f"Heat map of the density per layer and megabatch; at the end {last}."
    return drawing.chart(title, "", alt, draw, 0.8 + 0.3 * len(layers))


def discovered(runs):
    """What the runs found of their networks' architecture."""
    figures = []
    for run in runs:
        name = f", {run.name}" if len(runs) > 1 else ""
        connections = run.summary.get("connections")
        if isinstance(connections, dict):
            figures.append(_connection_map(connections, name))
        architecture = run.summary.get("architecture")
        if isinstance(architecture, dict):
            figures.append(_widths(run, architecture, name))
            figures.append(_skip_map(architecture, name))
    return figures


def _heat_map(axes, table, **look):
    """Draws rows of numbers; cells of nan are left out in grey."""
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_facecolor("#e4e6ea")
    return axes.imshow(table, aspect="auto", **look)


def _write_values(axes, image, show):
    """Writes each number of a heat map, as `show` has it, into its cell."""
    for (y, x), value in np.ndenumerate(image.get_array().filled(math.nan)):
        if math.isfinite(value):
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
            color = "white" if dark else "#1f2933"
            look = {"ha": "center", "va": "center", "fontsize": 8.5}
            axes.text(x, y, show(value), color=color, **look)


def _short_percent(value):
    # One decimal where whole percents would say too little.
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _exact_zero(show):
    """As `show`, but 0 stands for nothing else than zero."""
    return lambda value: show(value) if value else "0"


def _numbers(rows, scale=1):
    return [
        [math.nan if number(v) is None else scale * v for v in row]
        for row in rows
    ]


def _width(sources):
    """Inches for a map with these columns."""
    longest = max((len(drawing.short(name)) for name in sources), default=0)
    return 1.2 + len(sources) * max(0.45, 0.075 * longest)


def _connection_map(connections, name):
    sources, targets = connections["sources"], connections["targets"]
    table = _numbers(connections["density"], 100)

    def draw(axes):
        image = _heat_map(axes, table, **_SHARES)
        _write_values(axes, image, _exact_zero(_short_percent))
        axes.set_xticks(range(len(sources)), map(drawing.short, sources))
        axes.set_yticks(range(len(targets)), map(drawing.short, targets))
        axes.set_xlabel("from the maps of")
        axes.set_ylabel("to")

    rows = [
        f"to {target} "
        + ", ".join(
            f"{_exact_zero(_short_percent)(value)} from {source}"
            for source, value in zip(sources, values)
            if math.isfinite(value)
        )
        for target, values in zip(targets, table)
    ]
    alt = "Heat map of the connections that are left, in percent: "
    return drawing.chart(
        f"Connections{name}",
        "Share of the 2-D kernels that is not zero, in percent, from the maps "
        "that a unit adds to those of a later one. 0 is no kernel at all.",
        f"{alt}{'; '.join(rows)}.",
        draw,
        1.0 + 0.36 * len(targets),
        _width(sources),
    )


def _widths(run, architecture, name):
    units, widths = architecture["units"], architecture["active_rows"]
    numbers = range(1, len(widths) + 1)

    def draw(axes):
        axes.grid(False, axis="x")
        color = drawing.look(run.main, run.dense)["color"]
        bars = axes.bar(numbers, widths, color=color, width=0.7)
        axes.axhline(units, color="#777777", lw=1.2, ls=(0, (4, 2)), zorder=2)
        # White behind the numbers, where the dashed line would cross them.
        box = {"color": "white", "pad": 0.6}
        axes.bar_label(bars, padding=3, fontsize=8.5, bbox=box)
        # Room for the numbers above full bars.
        axes.set_ylim(0, 1.12 * units)
        drawing.finish(axes, "layer", "active units")

    return drawing.chart(
        f"Active units{name}",
        "Units with an incoming weight that is not zero; dashed is what a "
        f"layer has, {wording.count(units)}.",
        f"Bar chart of the active units per layer, of {units}: "
        f"{wording.listed([str(width) for width in widths])}.",
        draw,
        width=0.8 + 0.42 * len(widths),
    )


def _skip_map(architecture, name):
    table = _numbers(architecture["skips"])
    sources = ["input", *(f"layer {i}" for i in range(1, len(table)))]
    show = _exact_zero(lambda value: wording.fixed(value, 2))
    # Zero is in the middle of the colours.
    known = finite(itertools.chain(*table))
    limit = max(map(abs, known), default=0) or 1.0

    def draw(axes):
        look = {"cmap": "RdBu", "vmin": -limit, "vmax": limit}
        image = _heat_map(axes, table, **look)
        _write_values(axes, image, show)
        axes.set_xticks(range(len(sources)), sources)
        targets = [f"layer {i}" for i in range(1, len(table) + 1)]
        axes.set_yticks(range(len(table)), targets)
        axes.set_xlabel("from")
        axes.set_ylabel("added to")

    skips = [
        f"{source} to layer {k} {show(value)}"
        for k, values in enumerate(table, start=1)
        for source, value in zip(sources, values)
        if math.isfinite(value) and value
    ]
    return drawing.chart(
        f"Skips{name}",
        "Coefficient with which the output of one layer is added to that of a "
        "later one. 0 is no skip.",
        f"Heat map of the skip coefficients: {', '.join(skips) or 'all zero'}.",
        draw,
        1.0 + 0.36 * len(table),
        _width(sources),
    )
