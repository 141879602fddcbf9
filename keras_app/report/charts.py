"""The charts of the run page: HTML figures with an SVG picture inside.

Each function returns a list of figures, without those that lack their data.
"""

import collections
import functools
import itertools
import math
import statistics

import numpy as np

from keras_app.report import drawing
from keras_app.report import wording
from keras_app.report.runs import DENSE
from keras_app.report.runs import groups
from keras_app.report.runs import number

_SHARES = {"cmap": "Blues", "vmin": 0, "vmax": 100}
_FRONT = {"color": "#333333", "ls": (0, (4, 2)), "lw": 1.2, "label": "front"}


def over_megabatches(runs):
    """Accuracy, density, gaps and errors, a line per run and method."""
    line = functools.partial(_line_chart, runs)
    last, best = "generalization_gap_last", "generalization_gap_best"
    gaps = [
        value
        for run in runs
        for method in run.methods
        for key in (last, best)
        for value in _series(run, method, key)[1]
    ]
    # Common limits, so that neighbouring charts can be compared by eye.
    limits = drawing.limits([0, *gaps], 0.06)
    charts = [
        line(
            "Test accuracy",
            "After each megabatch, with the weights of the best epoch.",
            "test_accuracy",
            "test accuracy (%)",
        ),
        line(
            "Density",
            "Share of the prunable kernels that is kept: line and marks are "
            "what was achieved, dashes what was asked for.",
            "density",
            "density (%)",
            limits=(0, 105),
        ),
        line(
            "Generalization gap, last epoch",
            "Training minus validation accuracy, in points. Training accuracy "
            "is taken while the epoch runs, so that early gaps can be "
            "negative.",
            last,
            "points",
            limits=limits,
        ),
        line(
            "Generalization gap, best epoch",
            "The same at the epoch with the best validation accuracy, whose "
            "weights are kept.",
            best,
            "points",
            limits=limits,
        ),
        line(
            "Misclassified",
            "Test examples that are wrong after each megabatch.",
            "misclassified",
            "test examples",
        ),
        line(
            "CER so far",
            "The same, summed up from the first megabatch; lower is better.",
            "misclassified",
            "test examples",
            cumulative=True,
        ),
        line(
            "CER so far, beside dense",
            "The same, less that of the dense network of the same run: below "
            "zero is better than dense.",
            "misclassified",
            "test examples",
            cumulative=True,
            beside=DENSE,
        ),
    ]
    return [chart for chart in charts if chart]


def density_accuracy(outcomes):
    """All outcomes by their place in the table, and their front.

    `outcomes` are those of `front.outcomes`, in the table's order.
    """
    runs = list(dict.fromkeys(outcome.run for outcome in outcomes))
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    xs = [100 * outcome.density for outcome in outcomes]
    ys = [100 * outcome.accuracy for outcome in outcomes]
    front = [i for i, outcome in enumerate(outcomes) if outcome.on_front]

    def draw(figure, axes):
        from matplotlib.ticker import LogLocator
        from matplotlib.ticker import NullLocator

        axes.step(
            [*(xs[i] for i in front), max(xs)],
            [*(ys[i] for i in front), ys[front[-1]]],
            where="post",
            **_FRONT,
        )
        for i, outcome in enumerate(outcomes):
            axes.plot(xs[i], ys[i], **drawing.look(outcome.method, runs))
            axes.annotate(
                str(i + 1),
                (xs[i], ys[i]),
                xytext=(3, 4),
                textcoords="offset points",
                fontsize=8.5,
                fontweight="bold" if outcome.on_front else "normal",
            )
        if min(xs) > 0 and max(xs) >= 10 * min(xs):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("density (%)")
        axes.set_ylabel("test accuracy (%)")
        marks = [{**x, "ls": ""} for x in drawing.method_entries(methods, runs)]
        drawing.legend(figure, [*marks, _FRONT], 3)

    told = [
        f"{i + 1} {outcome.run.name}, {wording.label(outcome.method)} "
        f"{wording.percent(outcome.accuracy)} at "
        f"{wording.percent(outcome.density)}"
        for i, outcome in enumerate(outcomes)
    ]
    members = wording.listed([str(i + 1) for i in front])
    return [
        drawing.chart(
            "Accuracy over density",
            "Numbered as in the table. Above the line there is no run.",
            "Scatter chart of the test accuracy over the density: "
            f"{'; '.join(told)}. On the front: {members}.",
            draw,
            3.6,
        )
    ]


def over_layers(runs):
    """A map per run and pruned method: density by layer and megabatch."""
    maps = [
        _layer_map(run, method, len(runs) > 1)
        for run in runs
        for method in run.methods
        if method != DENSE
    ]
    return [chart for chart in maps if chart]


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
            figures.append(_widths(architecture, name))
            figures.append(_skip_map(architecture, name))
    return figures


def over_epochs(runs, key, val_key, axis):
    """A chart per method, so that training and validation stay readable.

    `key` and `val_key` name figures that each epoch logs; where the latter is
    `None`, a run has one line. `axis` ends in "(%)" where they are shares.
    """
    lines = collections.defaultdict(list)
    for run, dashes in drawing.dashed(runs):
        for method in run.methods:
            train, val = (
                _curve(run, method, name, _scale(axis))
                for name in (key, val_key)
            )
            if any(map(math.isfinite, train + val)):
                lines[method].append((run, dashes, train, val))
    found = [c for those in lines.values() for line in those for c in line[2:]]
    finite = list(filter(math.isfinite, itertools.chain(*found)))
    limits = drawing.limits(finite, 0.04) if finite else None
    return [
        _epoch_chart(runs, method, those, val_key, axis, limits)
        for method, those in lines.items()
    ]


def _curve(run, method, key, scale):
    values = [number(event.get(key)) for event in run.epochs(method)]
    return [math.nan if value is None else scale * value for value in values]


def _scale(axis):
    return 100 if axis.endswith("(%)") else 1


def _series(run, method, key, scale=1, cumulative=False):
    """`(numbers of the megabatches from 1, values)` of what is known."""
    xs, ys, total = [], [], 0
    for index, row in enumerate(run.megabatches(method)):
        value = number(row.get(key))
        if value is None:
            continue
        total += value
        megabatch = number(row.get("megabatch"))
        xs.append((index if megabatch is None else megabatch) + 1)
        ys.append(scale * (total if cumulative else value))
    return xs, ys


def _line_chart(
    runs, title, note, key, axis, cumulative=False, limits=None, beside=None
):
    """One line per run and method over the megabatches.

    What the log has as the target of `key` is drawn dashed. With `beside`, the
    values are differences to those of that method.
    """
    scale = _scale(axis)
    series = []
    for run, dashes in drawing.dashed(runs):
        for method in run.methods:
            xs, ys = _series(run, method, key, scale, cumulative)
            if beside:
                base = dict(zip(*_series(run, beside, key, scale, cumulative)))
                ys = [y - base[x] for x, y in zip(xs, ys) if x in base]
                xs = [x for x in xs if x in base]
            if xs and method != beside:
                series.append((run, dashes, method, xs, ys))
    if not series:
        return ""
    methods = list(dict.fromkeys(line[2] for line in series))
    means = drawing.dashed([group for group in groups(runs) if len(group) > 1])
    averaged = {run for group, _ in means for run in group}

    def draw(figure, axes):
        extra = []
        for run, dashes, method, xs, ys in series:
            look = drawing.look(method, runs)
            asked = _series(run, method, f"target_{key}", scale)
            thin = run in averaged
            # Under its dashed target, or its mean, a line steps back.
            alpha = 0.45 if thin or asked[0] else 1.0
            width = 1.0 if thin else 3.0 if asked[0] else 1.6
            look["marker"] = "" if thin else look["marker"]
            style = {"ls": dashes, "lw": width, "alpha": alpha}
            axes.plot(xs, ys, clip_on=False, **look, **style)
            if asked[0]:
                target = {"ls": (0, (4, 2)), "label": "target"}
                axes.plot(*asked, color=look["color"], lw=1.2, **target)
                extra = [{"color": "#777777", **target}]
        for group, dashes in means:
            style = {"ls": dashes, "lw": 2.2}
            for method in methods:
                mean = _mean_line(group, method, series)
                axes.plot(*mean, **drawing.look(method, runs), **style)
            name = drawing.short(
                "mean of " + ", ".join(run.name for run in group)
            )
            extra.append({"color": "#333333", "label": name, **style})
        if beside or (limits and limits[0] < 0):
            axes.axhline(0, color="#8a8f98", linewidth=0.8, zorder=1)
        if limits:
            axes.set_ylim(*limits)
        drawing.finish(figure, axes, "megabatch", axis, runs, methods, extra)

    ends = [
        (f"{run.name}, " if len(runs) > 1 else "")
        + f"{wording.label(method)} from {wording.fixed(ys[0], 1)} to "
        + wording.fixed(ys[-1], 1)
        for run, _, method, _, ys in series
    ]
    alt = f"Line chart, {title.lower()}, {axis}: {'; '.join(ends)}."
    return drawing.chart(title, note, alt, draw)


def _mean_line(group, method, series):
    """The mean over equal runs, where all of them have a value."""
    values = collections.defaultdict(list)
    for run, _, name, xs, ys in series:
        if name == method and run in group:
            for x, y in zip(xs, ys):
                values[x].append(y)
    xs = sorted(x for x in values if len(values[x]) == len(group))
    return xs, [statistics.fmean(values[x]) for x in xs]


def _layer_map(run, method, with_name):
    rows = [
        row["layers"]
        for row in run.megabatches(method)
        if isinstance(row.get("layers"), dict) and row["layers"]
    ]
    if not rows:
        return ""
    layers = list(rows[0])
    table = [
        [100 * (number(row.get(name)) or 0.0) for row in rows]
        for name in layers
    ]

    def draw(figure, axes):
        image = _heat_map(axes, table, **_SHARES)
        ticks = range(0, len(rows), math.ceil(len(rows) / 12))
        axes.set_xticks(ticks, [tick + 1 for tick in ticks])
        axes.set_yticks(
            range(len(layers)), [drawing.short(name) for name in layers]
        )
        axes.set_xlabel("megabatch")
        if len(rows) > 12:
            figure.colorbar(image, ax=axes)
        else:
            _write_values(axes, image, _short_percent)

    title = wording.capital(wording.label(method))
    title += f", {run.name}" if with_name else ""
    last = ", ".join(
        f"{name} {values[-1]:.1f} %" for name, values in zip(layers, table)
    )
    alt = f"Heat map of the density per layer and megabatch; at the end {last}."
    return drawing.chart(title, "", alt, draw, 0.8 + 0.3 * len(layers))


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
            look = {"ha": "center", "va": "center", "fontsize": 8}
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


def _connection_map(connections, name):
    sources, targets = connections["sources"], connections["targets"]
    table = _numbers(connections["density"], 100)

    def draw(figure, axes):
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
    )


def _widths(architecture, name):
    units, widths = architecture["units"], architecture["active_rows"]
    numbers = range(1, len(widths) + 1)

    def draw(figure, axes):
        axes.grid(False, axis="x")
        bars = axes.bar(
            numbers, widths, color=drawing.LOOKS["app"][0], width=0.7
        )
        axes.axhline(units, color="#777777", lw=1.2, ls=(0, (4, 2)), zorder=2)
        # White behind the numbers, where the dashed line would cross them.
        box = {"color": "white", "pad": 0.6}
        axes.bar_label(bars, padding=3, fontsize=8.5, bbox=box)
        # Room for the numbers above full bars.
        axes.set_ylim(0, 1.12 * units)
        axes.set_xlabel("layer")
        axes.set_ylabel("active units")

    return drawing.chart(
        f"Active units{name}",
        "Units with an incoming weight that is not zero; dashed is what a "
        f"layer has, {wording.count(units)}.",
        f"Bar chart of the active units per layer, of {units}: "
        f"{wording.listed([str(width) for width in widths])}.",
        draw,
    )


def _skip_map(architecture, name):
    table = _numbers(architecture["skips"])
    sources = ["input", *(f"layer {i}" for i in range(1, len(table)))]
    show = _exact_zero(lambda value: wording.fixed(value, 2))
    # Zero is in the middle of the colours.
    known = filter(math.isfinite, itertools.chain(*table))
    limit = max(map(abs, known), default=0) or 1.0

    def draw(figure, axes):
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
    )


def _epoch_chart(runs, method, lines, val_key, axis, limits):
    color = drawing.look(method, runs)["color"]
    looks = [{"color": color}]
    if val_key:
        looks = [
            {"color": color, "alpha": 0.4, "lw": 2.2, "label": "training"},
            {"color": color, "lw": 1.3, "label": "validation"},
        ]
    longest = max((run.epochs(method) for run, *_ in lines), key=len)
    numbers = [event.get("megabatch") for event in longest]

    def draw(figure, axes):
        axes.grid(False, axis="x")
        for epoch in range(1, len(numbers)):
            if numbers[epoch] != numbers[epoch - 1]:
                axes.axvline(epoch + 0.5, color="#d5d8de", lw=0.8, zorder=1)
        for _, dashes, *curves in lines:
            for ys, look in zip(curves, looks):
                # A single epoch is a point, which a line would not show.
                mark = "o" if len(ys) == 1 else None
                xs = range(1, len(ys) + 1)
                axes.plot(xs, ys, ls=dashes, marker=mark, **look)
        axes.set_ylim(*limits)
        extra = looks if val_key else []
        drawing.finish(figure, axes, "epoch", axis, runs, [], extra)

    ends = []
    for run, _, train, val in lines:
        text = f"{run.name}: " if len(runs) > 1 else ""
        text += f"ends at {train[-1]:.2f}"
        if val_key:
            text += f" in training and {val[-1]:.2f} in validation"
        ends.append(text)
    name = wording.label(method)
    alt = f"Line chart of {axis} over the epochs, {name}; {'; '.join(ends)}."
    title = f"{wording.capital(name)}: {axis.removesuffix(' (%)')}"
    return drawing.chart(title, "", alt, draw, 2.7)
