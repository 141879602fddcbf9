"""Searches for tickets: rounds, sets of examples, tickets, their costs."""

import math

import numpy as np

from keras_app.experiments.page import charts
from keras_app.experiments.page import drawing
from keras_app.experiments.page import wording
from keras_app.experiments.page.runs import number
from keras_app.experiments.page.sections import Section

HARDEST = "hardest.npz"


def section(runs):
    """Accuracy over sparsity, set sizes and cost of lottery tickets."""
    shown = [_accuracies(runs), _costs(runs), *_set_sizes(runs)]
    return Section("Tickets", charts=list(filter(None, shown)))


def _tickets_of(run, method):
    rows = run.figures.get(method, {}).get("tickets")
    return rows if isinstance(rows, list) else []


def _accuracies(runs):
    def curve(run, method):
        rows = _tickets_of(run, method)
        xs = [100 * (1 - row["density"]) for row in rows]
        return xs, [100 * row["accuracy"] for row in rows]

    def draw_spread(axes, line):
        if len(line.runs) == 1:
            rows = _tickets_of(line.runs[0], line.method)
            spread = [100 * _deviation(row["accuracies"]) for row in rows]
            color = line.look["color"]
            look = {"fmt": "none", "capsize": 2, "ecolor": color}
            axes.errorbar(*line.curves[0], spread, **look)

    def draw_dense(axes):
        axes.set_xlim(*drawing.PERCENT)
        for run in runs:
            # The network that the search begins with.
            accuracy = run.figures.get(run.dense, {}).get("accuracy")
            if not _tickets_of(run, run.dense) and accuracy is not None:
                look = drawing.look(run.dense, run.dense)
                axes.plot([0], [100 * accuracy], **look, ls="", zorder=1)

    drawn = charts.lines(runs, curve)
    told = "; ".join(
        f"{line.name}, {line.label} "
        + ", ".join(
            f"{wording.fixed(y, 1)} % at density {wording.fixed(100 - x, 1)} %"
            for x, y in zip(*line.points())
        )
        for line in drawn
    )
    return charts.over(
        runs,
        charts.words("tickets"),
        dict.fromkeys(drawn, {}),
        f"Line chart of the test accuracy over the sparsity: {told}.",
        drawing.shares,
        each=draw_spread,
        last=draw_dense,
        height=3.2,
    )


def _deviation(values):
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _costs(runs):
    def curve(run, method):
        account = run.figures.get(method, {}).get("account")
        ys = account["cumulative"] if isinstance(account, dict) else []
        return range(1, len(ys) + 1), ys

    drawn = charts.lines(runs, curve)
    told = "; ".join(
        f"{line.name}, {line.label} {wording.count(line.points()[1][-1])}"
        for line in drawn
        if line.points()[1]
    )
    return charts.over(
        runs,
        charts.words("costs"),
        dict.fromkeys(drawn, {}),
        f"Line chart of the iterations over the prunings, in the end: {told}.",
        drawing.from_zero,
    )


def _set_sizes(runs):
    for run in runs:
        for method, told in run.figures.items():
            rows = told.get("rounds")
            rows = rows if isinstance(rows, list) else []
            sizes = [row["set_size"] for row in rows if row.get("set_size")]
            if len(set(sizes)) > 1:
                counts = wording.listed([wording.count(x) for x in sizes])
                yield charts.bars(
                    charts.words("set_sizes", wording.run_name(run, runs)),
                    f"Bar chart of the training examples per round: {counts}.",
                    sizes,
                    drawing.look(method, run.dense)["color"],
                    1.1 * max(sizes),
                )


# ---- the hardest examples --------------------------------------------------


def examples(runs):
    """The examples that a network forgot most often, as a picture."""
    shown = []
    for run in runs:
        stored = run.path / HARDEST if run.path is not None else None
        if stored is None or not stored.is_file():
            continue
        with stored.open("rb") as opened, np.load(opened) as file:
            images, labels = file["images"], file["labels"]
            told = ", ".join(
                f"{i} of class {label} ({_times(count)})"
                for i, label, count in zip(file["ids"], labels, file["counts"])
            )
        if images.ndim == 4 and images.shape[-1] in (1, 3):
            words = charts.words("hardest", wording.run_name(run, runs))
            shown.append(_pictures(images, labels, told, words))
    return Section("The examples that matter", charts=shown)


def _pictures(images, labels, told, words):
    columns = 8
    rows = math.ceil(len(images) / columns)
    height, width, channels = images.shape[1:]
    gap = 2
    canvas = np.ones((rows * (height + gap), columns * (width + gap), channels))
    corners = []
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        top, left = row * (height + gap), column * (width + gap)
        canvas[top : top + height, left : left + width] = image
        corners.append((left + 1, top + 1))

    def draw(axes):
        axes.axis("off")
        axes.imshow(canvas.squeeze(), cmap="gray", vmin=0, vmax=1)
        box = {"color": "#333333", "pad": 0.8, "alpha": 0.7}
        look = {"va": "top", "fontsize": 7, "color": "white", "bbox": box}
        for label, corner in zip(labels, corners):
            axes.annotate(str(label), corner, **look)

    return drawing.chart(
        words.title,
        words.note,
        f"Pictures of training examples: {told}.",
        draw,
        0.3 + 0.58 * rows * height / width,
    )


def _times(count):
    return "never right" if count >= 200_000 else f"forgotten {count} times"


# ---- rounds of continuous sparsification -----------------------------------


def rounds(runs):
    """What the rounds of continuous sparsification left."""
    shown = [
        _over_rounds(
            runs,
            charts.words("round_density"),
            drawing.whole,
            {"density": "kept", "soft_density": "mean of the soft mask"},
        ),
        _over_rounds(
            runs,
            charts.words("round_accuracy"),
            drawing.shares,
            {"val_accuracy": "soft mask", "hard_val_accuracy": "final mask"},
        ),
    ]
    return Section("Round by round", charts=list(filter(None, shown)))


def _over_rounds(runs, words, limits, keys):
    def curve_of(key):
        def curve(run, method):
            rows = run.summary.get("rounds")
            known = isinstance(rows, list) and method == run.main
            values = [number(row.get(key)) for row in rows] if known else []
            if None in values:
                return [], []
            return range(1, len(values) + 1), [100 * x for x in values]

        return curve

    looks = dict(zip(keys, ({}, {"alpha": 0.45, "marker": ""})))
    drawn, told = {}, []
    for key, label in keys.items():
        for line in charts.lines(runs, curve_of(key)):
            drawn[line] = looks[key]
            ends = [wording.fixed(y, 1) for y in line.points()[1]]
            told.append(f"{line.name} {label} {wording.listed(ends)}")
    entries = [
        {"color": "#333333", **looks[key], "label": label}
        for key, label in keys.items()
    ]
    return charts.over(
        runs,
        words,
        drawn,
        f"Line chart, {words.title.lower()}, in percent: {'; '.join(told)}.",
        limits,
        legend=lambda found: [*found, *entries],
    )
