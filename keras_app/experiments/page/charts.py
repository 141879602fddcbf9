"""The page's charts over megabatches, epochs, and densities.

Each function returns a list of charts, without those that lack their data.
"""

import collections
import dataclasses
import math

from keras_app.experiments.page import drawing
from keras_app.experiments.page import lines
from keras_app.experiments.page import wording
from keras_app.experiments.page.runs import DENSE
from keras_app.experiments.page.runs import finite
from keras_app.experiments.page.runs import number

_GREY = "#777777"
_DASHED = {"ls": (0, (4, 2)), "lw": 1.2}
_FRONT = {"color": "#333333", "label": "front", **_DASHED}


# ---- over megabatches ------------------------------------------------------


def over_megabatches(runs):
    """Accuracy, density, gaps and errors, a line per setting and method."""
    last, best = "generalization_gap_last", "generalization_gap_best"
    gaps = [
        value
        for run in runs
        for method in run.methods
        for key in (last, best)
        for value in _series(run, method, key)[1]
    ]
    # Common limits, so that neighbouring charts can be compared by eye.
    gaps = drawing.limits([0, *gaps], drawing.LEAST_POINTS)
    charts = [
        _over_megabatches(
            runs,
            "Test accuracy",
            "After each megabatch, with the weights of the best epoch.",
            ("test_accuracy", "test accuracy (%)"),
            drawing.shares,
        ),
        _over_megabatches(
            runs,
            "Density",
            "Share of the prunable kernels that is kept: line and marks are "
            "what was achieved, dashes what was asked for.",
            ("density", "density (%)"),
            lambda values: drawing.PERCENT,
        ),
        _over_megabatches(
            runs,
            "Generalization gap, last epoch",
            "Training minus validation accuracy, in points. Training accuracy "
            "is taken while the epoch runs, so that early gaps can be "
            "negative.",
            (last, "points"),
            lambda values: gaps,
        ),
        _over_megabatches(
            runs,
            "Generalization gap, best epoch",
            "The same at the epoch with the best validation accuracy, whose "
            "weights are kept.",
            (best, "points"),
            lambda values: gaps,
        ),
        _over_megabatches(
            runs,
            "Misclassified",
            "Test examples that are wrong after each megabatch.",
            ("misclassified", "test examples"),
            drawing.from_zero,
        ),
        _over_megabatches(
            runs,
            "CER so far",
            "The same, summed up from the first megabatch; lower is better.",
            ("misclassified", "test examples"),
            drawing.from_zero,
            curve=_summed,
        ),
        _over_megabatches(
            runs,
            "CER so far, beside dense",
            "The same, less that of the dense network of the same run: below "
            "zero is better than dense.",
            ("misclassified", "test examples"),
            _around_zero(runs),
            curve=_beside_dense,
        ),
    ]
    return [chart for chart in charts if chart]


def _series(run, method, key, scale=1):
    """`(numbers of the megabatches from 1, values)` of what is known."""
    xs, ys = [], []
    for index, row in enumerate(run.megabatches(method)):
        value = number(row.get(key))
        if value is None:
            continue
        megabatch = number(row.get("megabatch"))
        xs.append((index if megabatch is None else megabatch) + 1)
        ys.append(scale * value)
    return xs, ys


def _summed(run, method, key, scale):
    xs, ys = _series(run, method, key, scale)
    return xs, [sum(ys[: i + 1]) for i in range(len(ys))]


def _beside_dense(run, method, key, scale):
    base = dict(zip(*_summed(run, DENSE, key, scale)))
    xs, ys = _summed(run, method, key, scale)
    known = [x for x in xs if x in base and method != DENSE]
    return known, [y - base[x] for x, y in zip(xs, ys) if x in known]


def _around_zero(runs):
    """Limits of differences that are small beside what they differ in."""
    totals = [
        sum(_series(run, method, "misclassified")[1])
        for run in runs
        for method in run.methods
    ]
    least = 0.05 * max(totals, default=0)
    return lambda values: drawing.limits([0, *values], least)


def _over_megabatches(runs, title, note, of, limits, curve=_series):
    """What the log has as the target of a key is drawn dashed."""
    key, axis = of
    scale = 100 if axis.endswith("(%)") else 1
    drawn = lines.lines(runs, lambda r, method: curve(r, method, key, scale))
    if not drawn:
        return None
    asked = {
        line: lines.mean(
            [
                _series(r, line.method, f"target_{key}", scale)
                for r in line.group
            ]
        )
        for line in drawn
    }

    def draw(axes):
        for line, target in asked.items():
            # Under its dashed target a line steps back.
            under = {"lw": 3.0, "alpha": 0.45} if target[0] else {}
            line.plot(axes, clip_on=False, **under)
            if target[0]:
                axes.plot(*target, color=line.look["color"], **_DASHED)
        low, high = limits([y for line in drawn for y in line.values()])
        if low < 0 < high:
            axes.axhline(0, color="#8a8f98", linewidth=0.8, zorder=1)
        axes.set_ylim(low, high)
        drawing.finish(axes, "megabatch", axis)
        target = {"color": _GREY, "label": "target", **_DASHED}
        extra = [target] if any(xs for xs, _ in asked.values()) else []
        return lines.entries(runs, drawn, extra)

    ends = []
    for line in drawn:
        ys = line.mean()[1] or [math.nan]
        name = f"{line.name}, " if len(runs) > 1 else ""
        start, end = wording.fixed(ys[0], 1), wording.fixed(ys[-1], 1)
        ends.append(f"{name}{line.label} from {start} to {end}")
    alt = f"Line chart, {title.lower()}, {axis}: {'; '.join(ends)}."
    return drawing.chart(title, note, alt, draw)


# ---- density and accuracy --------------------------------------------------


def density_accuracy(outcomes):
    """All outcomes by their place in the table, and their front.

    `outcomes` are those of `front.outcomes`, in the table's order.
    """
    xs = [100 * outcome.density for outcome in outcomes]
    ys = [100 * outcome.accuracy for outcome in outcomes]
    front = [i for i, outcome in enumerate(outcomes) if outcome.on_front]
    singles = [100 * y for outcome in outcomes for y in outcome.accuracies]

    def draw(axes):
        from matplotlib.ticker import LogLocator
        from matplotlib.ticker import NullLocator

        axes.step(
            [*(xs[i] for i in front), max(xs)],
            [*(ys[i] for i in front), ys[front[-1]]],
            where="post",
            **_FRONT,
        )
        for i, outcome in enumerate(outcomes):
            look = drawing.look(outcome.method, outcome.runs[0].dense)
            color = look["color"]
            if len(outcome.runs) > 1:
                each = [
                    [100 * value for value in values]
                    for values in (outcome.densities, outcome.accuracies)
                ]
                dots = {"marker": "o", "ms": 2.5, "alpha": 0.35, "ls": ""}
                axes.plot(*each, color=color, **dots)
                errors = {"yerr": 100 * outcome.accuracy_spread, "capsize": 2}
                errors["xerr"] = 100 * outcome.density_spread
                axes.errorbar(xs[i], ys[i], lw=1, color=color, **errors)
            axes.plot(xs[i], ys[i], **look)
            axes.annotate(
                str(i + 1),
                (xs[i], ys[i]),
                xytext=(3, 4),
                textcoords="offset points",
                fontsize=8.5,
                fontweight="bold" if outcome.on_front else "normal",
            )
        axes.set_xlim(*drawing.from_zero(xs))
        if min(xs) > 0 and max(xs) >= 10 * min(xs):
            axes.set_xscale("log")
            axes.set_xlim(0.8 * min(xs), 1.3 * max(xs))
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(*drawing.shares([*ys, *singles]))
        axes.set_xlabel("density of the prunable weights (%)")
        axes.set_ylabel("test accuracy (%)")
        looks = {
            outcome.label: drawing.look(outcome.method, outcome.runs[0].dense)
            for outcome in outcomes
        }
        marks = [{**x, "ls": "", "label": k} for k, x in looks.items()]
        return [*marks, _FRONT]

    told = [
        f"{i + 1} {outcome.name}, {outcome.label} "
        f"{wording.percent(outcome.accuracy)} at "
        f"{wording.percent(outcome.density)}"
        for i, outcome in enumerate(outcomes)
    ]
    members = wording.listed([str(i + 1) for i in front])
    seeds = " Small dots are single seeds, bars their standard deviation."
    several = any(len(outcome.runs) > 1 for outcome in outcomes)
    return [
        drawing.chart(
            "Accuracy over density",
            "Numbered as in the table. Above the line there is no run."
            + (seeds if several else ""),
            "Scatter chart of the test accuracy over the density: "
            f"{'; '.join(told)}. On the front: {members}.",
            draw,
            3.4,
        )
    ]


# ---- over epochs -----------------------------------------------------------


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
        lambda values: drawing.PERCENT,
        pruned=True,
    ),
    _Kind(
        "density of the mask",
        "density (%)",
        {
            "soft mask": _logged("soft_density", 100),
            "mask made final": _mask_density,
        },
        lambda values: drawing.PERCENT,
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


def _loss_limits(values):
    """From zero, unless all are far from it, up to what is usual."""
    values = sorted(finite(values))
    usual = values[int(0.9 * (len(values) - 1))]
    high = values[-1] if values[-1] <= 4 * abs(usual) else 2 * abs(usual)
    return min(0, values[0]), 1.05 * high or 1.0


_LOSS = _Kind(
    "loss",
    "loss",
    {"training": _logged("loss"), "validation": _logged("val_loss")},
    _loss_limits,
)


def over_epochs(runs):
    """Charts of what the epochs logged, one for each method."""
    return [chart for kind in _KINDS for chart in _over_epochs(runs, kind)]


def loss_over_epochs(runs):
    """The same of the loss."""
    return _over_epochs(runs, _LOSS)


def _curve(read):
    def curve(run, method):
        values = [read(event) for event in run.epochs(method)]
        values = [math.nan if value is None else value for value in values]
        return range(1, len(values) + 1), values

    return curve


def _over_epochs(runs, kind):
    found = collections.defaultdict(dict)
    for name, read in kind.curves.items():
        for line in lines.lines(runs, _curve(read)):
            dense = line.method == line.group[0].dense
            if not (dense and kind.pruned):
                found[line.label].setdefault(name, []).append(line)
    values = finite(
        value
        for curves in found.values()
        for those in curves.values()
        for line in those
        for value in line.values()
    )
    if not values or (kind.log and min(values) <= 0):
        return []
    limits = kind.limits(values)
    over = max(values)
    note = f"The highest, {over:.4g}, is outside." if over > limits[1] else ""
    return [
        _epoch_chart(runs, label, curves, kind, limits, note)
        for label, curves in found.items()
    ]


# How curves of one chart differ: the last is what is looked at.
_CURVES = ({"alpha": 0.4, "lw": 2.4}, {"lw": 1.3})


def _epoch_chart(runs, label, curves, kind, limits, note):
    """The chart of one method; `curves` is {name: [Line, ...]}."""
    looks = dict(zip(curves, _CURVES[2 - len(curves) :]))
    drawn = [line for those in curves.values() for line in those]
    longest = max(
        (run.epochs(line.method) for line in drawn for run in line.group),
        key=len,
    )
    stages = [_stage(event) for event in longest]

    def draw(axes):
        axes.grid(False, axis="x")
        for epoch in range(1, len(stages)):
            if stages[epoch] != stages[epoch - 1]:
                axes.axvline(epoch + 0.5, color="#d5d8de", lw=0.8, zorder=1)
        for name, those in curves.items():
            for line in those:
                # A single epoch is a point, which a line would not show.
                mark = "o" if len(line.mean()[0]) == 1 else ""
                line.plot(axes, marker=mark, **looks[name])
        if kind.log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(*limits)
        drawing.finish(axes, "epoch", kind.axis)
        if kind.log:
            from matplotlib.ticker import LogLocator

            axes.yaxis.set_major_locator(LogLocator())
        # The title names the method.
        settings = lines.entries(runs, drawn)[1:]
        look = {"color": drawn[0].look["color"]}
        look["ls"] = "-" if settings else drawn[0].style["ls"]
        names = [{**look, "label": name, **x} for name, x in looks.items()]
        return (names if len(kind.curves) > 1 else []) + settings

    ends = collections.defaultdict(list)
    for name, those in curves.items():
        for line in those:
            ys = line.mean()[1]
            if ys:
                ends[line.name].append(f"{ys[-1]:.2f} {name}")
    told = [
        (f"{name}: " if len(runs) > 1 else "")
        + f"ends at {wording.listed(parts)}"
        for name, parts in ends.items()
    ]
    name = wording.capital(label)
    if len(ends) == 1 and len(runs) > len(drawn[0].group):
        note = f"{drawn[0].name}. {note}".strip()
    alt = f"Line chart of {kind.axis} over the epochs, {name}; "
    alt += f"{'; '.join(told)}."
    return drawing.chart(f"{name}: {kind.title}", note, alt, draw, 2.6)


def _stage(event):
    """The megabatch of an epoch, or the training under one mask."""
    return event.get("megabatch", event.get("stage"))


def has_stages(runs):
    """Whether any run has megabatches or trainings under several masks."""
    return any(
        len({_stage(event) for event in run.epochs(method)}) > 1
        for run in runs
        for method in run.methods
    )
