"""Epoch by epoch: charts of what the log holds, one for each method."""

import collections
import dataclasses
import math

from keras_app.experiments.page import charts
from keras_app.experiments.page import drawing
from keras_app.experiments.page import wording
from keras_app.experiments.page.runs import finite
from keras_app.experiments.page.runs import number
from keras_app.experiments.page.sections import Section

# How curves of one chart differ: the last is what is looked at.
_CURVES = ({"alpha": 0.4, "lw": 2.4}, {"lw": 1.3})


def section(runs):
    """All that was logged; the loss is folded where there is more."""
    shown = [chart for kind in _KINDS for chart in _charts(runs, kind)]
    losses = _charts(runs, _LOSS)
    fold = bool(shown and losses)
    note = "All epochs in order"
    if _has_stages(runs):
        note += "; a vertical line begins a megabatch or a round"
    return Section(
        "Epoch by epoch",
        f"{note}.",
        charts=shown or losses,
        folded=[Section("Loss over all epochs", charts=losses)] * fold,
    )


# ---- what is drawn ---------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What is drawn over the epochs.

    `curves` maps names to functions `event -> number or None`; `limits` makes
    the axis's limits of all values; `pruned` leaves the dense network out.
    """

    title: str
    axis: str
    curves: dict
    limits: object
    log: bool = False
    pruned: bool = False


def _logged(key, scale=1):
    def read(event):
        value = number(event.get(key))
        return None if value is None else scale * value

    return read


def _sparsity(event):
    value = number(event.get("sparsity"))
    density = number(event.get("effective_density"))
    value = value if density is None else 1.0 - density
    return None if value is None else 100 * value


def _mask_density(event):
    """The density of masks that the weights do not show yet."""
    soft = number(event.get("soft_density"))
    return None if soft is None else _logged("density", 100)(event)


def _loss_limits(values):
    """From zero, unless all are far from it, up to what is usual."""
    values = sorted(finite(values))
    usual = values[int(0.9 * (len(values) - 1))]
    high = values[-1] if values[-1] <= 4 * abs(usual) else 2 * abs(usual)
    return min(0, values[0]), 1.05 * high or 1.0


_KINDS = (
    _Kind(
        "accuracy",
        "accuracy (%)",
        {
            "training": _logged("accuracy", 100),
            "validation": _logged("val_accuracy", 100),
        },
        drawing.shares,
    ),
    _Kind(
        "sparsity",
        "zeros (%)",
        {
            "whole model": _logged("sparsity_all", 100),
            "prunable weights": _sparsity,
        },
        drawing.whole,
        pruned=True,
    ),
    _Kind(
        "density of the mask",
        "density (%)",
        {
            "soft mask": _logged("soft_density", 100),
            "mask made final": _mask_density,
        },
        drawing.whole,
    ),
    _Kind(
        "strength of the regularizer",
        "strength",
        {"strength": _logged("lam")},
        drawing.from_zero,
    ),
    _Kind(
        "temperature",
        "temperature",
        {"temperature": _logged("temperature")},
        lambda values: (0.8 * min(values), 1.3 * max(values)),
        log=True,
    ),
)
_LOSS = _Kind(
    "loss",
    "loss",
    {"training": _logged("loss"), "validation": _logged("val_loss")},
    _loss_limits,
)


# ---- how -------------------------------------------------------------------


def _curve(read):
    def curve(run, method):
        values = [read(event) for event in run.epochs(method)]
        values = [math.nan if value is None else value for value in values]
        return range(1, len(values) + 1), values

    return curve


def _charts(runs, kind):
    found = collections.defaultdict(dict)
    for name, read in kind.curves.items():
        for line in charts.lines(runs, _curve(read)):
            if not (line.is_dense and kind.pruned):
                found[line.label].setdefault(name, []).append(line)
    values = finite(
        value
        for curves in found.values()
        for those in curves.values()
        for line in those
        for value in line.numbers()
    )
    if not values or (kind.log and min(values) <= 0):
        return []
    # The same for all methods.
    limits = kind.limits(values)
    over = max(values)
    note = f"The highest, {over:.4g}, is outside." if over > limits[1] else ""
    return [
        _chart(runs, wording.capital(label), curves, kind, limits, note)
        for label, curves in found.items()
    ]


def _chart(runs, label, curves, kind, limits, note):
    """The chart of one method; `curves` is {name: [Line, ...]}."""
    looks = dict(zip(curves, _CURVES[2 - len(curves) :]))
    drawn, ends = {}, collections.defaultdict(list)
    for name, those in curves.items():
        for line in those:
            xs, ys = line.points()
            # A single epoch is a point, which a line would not show.
            mark = "o" if len(xs) == 1 else ""
            drawn[line] = {"marker": mark, **looks[name]}
            if ys:
                ends[line.name].append(f"{ys[-1]:.2f} {name}")
    told = [
        (f"{name}: " if len(runs) > 1 else "")
        + f"ends at {wording.listed(parts)}"
        for name, parts in ends.items()
    ]
    first, *_ = drawn
    if len(ends) == 1 and len(runs) > len(first.runs):
        note = f"{first.name}. {note}".strip()

    def draw_stages(axes):
        axes.grid(False, axis="x")
        longest = max(
            (run.epochs(line.method) for line in drawn for run in line.runs),
            key=len,
        )
        stages = [_stage(event) for event in longest]
        for epoch in range(1, len(stages)):
            if stages[epoch] != stages[epoch - 1]:
                axes.axvline(epoch + 0.5, color="#d5d8de", lw=0.8, zorder=1)
        if kind.log:
            from matplotlib.ticker import LogLocator

            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_major_locator(LogLocator())

    def legend(entries):
        """Names of the curves, and of settings: the title has the method's."""
        settings = entries[1:]
        look = {"color": first.look["color"]}
        look["ls"] = "-" if settings else first.style["ls"]
        names = [{**look, "label": name, **x} for name, x in looks.items()]
        return (names if len(kind.curves) > 1 else []) + settings

    return charts.over(
        runs,
        charts.Words(f"{label}: {kind.title}", note, "epoch", kind.axis),
        drawn,
        f"Line chart of {kind.axis} over the epochs, {label}; "
        f"{'; '.join(told)}.",
        lambda values: limits,
        last=draw_stages,
        legend=legend,
        height=2.6,
    )


def _stage(event):
    """The megabatch of an epoch, or the training under one mask."""
    return event.get("megabatch", event.get("stage"))


def _has_stages(runs):
    return any(
        len({_stage(event) for event in run.epochs(method)}) > 1
        for run in runs
        for method in run.methods
    )
