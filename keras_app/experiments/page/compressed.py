"""A compressed model beside the dense one: time, accuracy, widths."""

from keras_app.experiments.page import charts
from keras_app.experiments.page import drawing
from keras_app.experiments.page import wording
from keras_app.experiments.page.runs import number
from keras_app.experiments.page.sections import Cell
from keras_app.experiments.page.sections import Row
from keras_app.experiments.page.sections import Section
from keras_app.experiments.page.sections import Table

KIND = "compress"
_OLD, _NEW = drawing.look("dense", "dense")["color"], "#0072B2"


def is_one(run):
    """Whether a run is a finished compression."""
    return run.summary.get("experiment") == KIND and "before" in run.summary


def section(runs):
    """What was passed on the way, where time went, and which widths stay."""
    shown, rows = [], []
    for run in filter(is_one, runs):
        name = wording.run_name(run, runs)
        shown += [_front(run, name), _layers(run, name)]
        rows += _width_rows(run, name)
    folded = []
    if rows:
        head = [Cell("layer"), Cell("before"), Cell("after")]
        table = Table("Channels, neurons and heads", head, rows)
        folded = [Section("Widths of the layers", table=table)]
    return Section(
        "What was cut" if rows else "",
        "Channels, neurons or heads of each layer, and the time they took.",
        charts=[chart for chart in shown if chart is not None],
        folded=folded,
    )


def conclusions(run):
    """Sentences on what was asked and what came of it."""
    told = run.summary
    before, after = told["before"], told["after"]
    precision = told["quantize"] or "float32"
    verdict = "was reached" if told["is_reached"] else "was missed"
    found = [
        f"The target {told['target']} {verdict}: {told['reached']:.4g}. Both "
        f"files are {precision}."
    ]
    shares = [
        f"{wording.percent(after[key] / before[key])} of the {what}"
        for key, what in (
            ("milliseconds", "time"),
            ("bytes", "bytes"),
            ("ram_bytes", "activations"),
            ("flops", "FLOPs"),
        )
        if number(before[key]) and number(after[key]) is not None
    ]
    found.append(f"The result takes {wording.listed(shares)} of the dense one.")
    old, new = number(before["accuracy"]), number(after["accuracy"])
    if old is None or new is None:
        found.append(
            "Its accuracy was not measured: there were no validation data, or "
            "none with classes."
        )
    else:
        found.append(
            f"Its file is right on {wording.percent(new)} of "
            f"{wording.count(told['validated'])} validation examples, that of "
            f"the dense model on {wording.percent(old)}."
        )
    return found


def _front(run, name):
    """Accuracy over time, of all that was measured on the way."""
    points = [
        (point["milliseconds"], 100 * point["accuracy"], point["name"])
        for point in run.summary["front"]
        if number(point.get("milliseconds")) is not None
        and number(point.get("accuracy")) is not None
    ]
    if len(points) < 2:
        return None
    words = charts.words("compression_front", name)

    def draw(axes):
        xs, ys, names = zip(*points)
        axes.plot(xs[:-1], ys[:-1], color=_OLD, marker="o", **charts.DASHED)
        axes.plot(xs[-1], ys[-1], color=_NEW, marker="D", ms=7)
        for x, y, text in points:
            end = text in (names[0], names[-1])
            if end:
                axes.annotate(
                    text,
                    (x, y),
                    xytext=(0, 7),
                    textcoords="offset points",
                    fontsize=8.5,
                    ha="right" if x > max(xs) / 2 else "left",
                )
        axes.set_xlim(*drawing.from_zero(xs))
        axes.set_ylim(*drawing.shares(ys))
        charts.name_axes(axes, words)

    told = "; ".join(
        f"{text} {wording.fixed(y, 1)} % in {wording.fixed(x, 3)} ms"
        for x, y, text in points
    )
    alt = f"Chart of the accuracy over the milliseconds: {told}."
    return drawing.chart(words.title, words.note, alt, draw)


def _layers(run, name):
    """Milliseconds of each layer, before and after."""
    rows = run.summary["layers"]
    if not rows:
        return None
    words = charts.words("compression_layers", name)

    def draw(axes):
        axes.grid(False, axis="y")
        places = range(len(rows))
        axes.barh(places, [r[1] for r in rows], color="#c9ccd3", height=0.8)
        axes.barh(places, [r[2] for r in rows], color=_NEW, height=0.45)
        names = [drawing.short(row[0]) for row in rows]
        axes.set_yticks(places, names, fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        charts.name_axes(axes, words)
        return [
            {"color": "#c9ccd3", "lw": 5, "label": "dense"},
            {"color": _NEW, "lw": 3, "label": "compressed"},
        ]

    told = ", ".join(
        f"{layer} {wording.fixed(old, 3)} to {wording.fixed(new, 3)}"
        for layer, old, new in rows
    )
    alt = f"Bar chart of the milliseconds of each layer: {told}."
    height = 1.0 + 0.2 * len(rows)
    return drawing.chart(words.title, words.note, alt, draw, height)


def _width_rows(run, name):
    found = []
    for layer, old, new in run.summary["widths"]:
        share = "" if old == new else f"{wording.percent(new / old)} of before"
        head = Cell(f"{name}: {layer}" if name else layer)
        found.append(Row(head, [Cell(str(old)), Cell(str(new), share)]))
    return found
