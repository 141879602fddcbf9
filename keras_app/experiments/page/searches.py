"""The page's charts of ticket searches: rounds, sets, tickets, examples.

Each function returns a list of figures, without those that lack their data.
"""

import math

import numpy as np

from keras_app.experiments.page import drawing
from keras_app.experiments.page import lines
from keras_app.experiments.page import wording
from keras_app.experiments.page.runs import number

HARDEST = "hardest.npz"


def rounds(runs):
    """What the rounds of continuous sparsification left."""
    figures = []
    for title, note, axis, limits, keys in (
        (
            "Density after each round",
            "Share of the masked weights that the final mask would keep.",
            "density (%)",
            lambda values: drawing.PERCENT,
            {"density": "kept", "soft_density": "mean of the soft mask"},
        ),
        (
            "Accuracy after each round",
            "With the soft mask, which is what was trained, and with the mask "
            "made final; on the validation data.",
            "accuracy (%)",
            drawing.shares,
            {"val_accuracy": "soft mask", "hard_val_accuracy": "final mask"},
        ),
    ):
        figures += _over_rounds(runs, title, note, axis, limits, keys)
    return figures


def _over_rounds(runs, title, note, axis, limits, keys):
    shown = {key: lines.lines(runs, _of_rounds(key)) for key in keys}
    drawn = [line for those in shown.values() for line in those]
    if not drawn:
        return []
    looks = dict(zip(keys, ({}, {"alpha": 0.45, "marker": ""})))

    def draw(axes):
        for key, those in shown.items():
            for line in those:
                line.plot(axes, **looks[key])
        axes.set_ylim(*limits([y for line in drawn for y in line.values()]))
        drawing.finish(axes, "round", axis)
        extra = [
            {"color": "#333333", **looks[key], "label": label}
            for key, label in keys.items()
        ]
        return lines.entries(runs, drawn, extra)

    told = "; ".join(
        f"{line.name} {keys[key]} "
        + wording.listed([wording.fixed(y, 1) for y in line.mean()[1]])
        for key, those in shown.items()
        for line in those
    )
    alt = f"Line chart, {title.lower()}, in percent: {told}."
    return [drawing.chart(title, note, alt, draw)]


def _of_rounds(key):
    def curve(run, method):
        rows = run.summary.get("rounds")
        rows = rows if isinstance(rows, list) and method == run.main else []
        values = [number(row.get(key)) for row in rows]
        if None in values:
            return [], []
        return range(1, len(rows) + 1), [100 * value for value in values]

    return curve


def tickets(runs):
    """Accuracy over sparsity, set sizes and cost of lottery tickets."""
    return [*_accuracies(runs), *_costs(runs), *_set_sizes(runs)]


def _tickets_of(run, method):
    rows = run.figures.get(method, {}).get("tickets")
    return rows if isinstance(rows, list) else []


def _accuracies(runs):
    def curve(run, method):
        rows = _tickets_of(run, method)
        xs = [100 * (1 - row["density"]) for row in rows]
        return xs, [100 * row["accuracy"] for row in rows]

    drawn = lines.lines(runs, curve)
    if not drawn:
        return []

    def draw(axes):
        for line in drawn:
            line.plot(axes)
            if len(line.group) == 1:
                rows = _tickets_of(line.group[0], line.method)
                spread = [100 * _deviation(row["accuracies"]) for row in rows]
                color = line.look["color"]
                look = {"fmt": "none", "capsize": 2, "ecolor": color}
                axes.errorbar(*line.curves[0], spread, **look)
        for run in runs:
            # The network that the search begins with.
            accuracy = run.figures.get(run.dense, {}).get("accuracy")
            if not _tickets_of(run, run.dense) and accuracy is not None:
                look = drawing.look(run.dense, run.dense)
                axes.plot([0], [100 * accuracy], **look, ls="", zorder=1)
        axes.set_xlim(*drawing.PERCENT)
        axes.set_ylim(*drawing.shares([y for x in drawn for y in x.values()]))
        axes.set_xlabel("sparsity (%)")
        axes.set_ylabel("test accuracy (%)")
        return lines.entries(runs, drawn)

    told = "; ".join(
        f"{line.name}, {line.label} "
        + ", ".join(
            f"{wording.fixed(y, 1)} % at density {wording.fixed(100 - x, 1)} %"
            for x, y in zip(*line.mean())
        )
        for line in drawn
    )
    return [
        drawing.chart(
            "Accuracy of the tickets",
            "Each trained from its early weights on all data. Bars: standard "
            "deviation, where a ticket was trained several times.",
            f"Line chart of the test accuracy over the sparsity: {told}.",
            draw,
            3.2,
        )
    ]


def _deviation(values):
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _costs(runs):
    def curve(run, method):
        account = run.figures.get(method, {}).get("account")
        ys = account["cumulative"] if isinstance(account, dict) else []
        return range(1, len(ys) + 1), ys

    drawn = lines.lines(runs, curve)
    if not drawn:
        return []

    def draw(axes):
        for line in drawn:
            line.plot(axes)
        axes.set_ylim(
            *drawing.from_zero([y for x in drawn for y in x.values()])
        )
        drawing.finish(axes, "prunings", "training iterations")
        return lines.entries(runs, drawn)

    told = "; ".join(
        f"{line.name}, {line.label} {wording.count(line.mean()[1][-1])}"
        for line in drawn
        if line.mean()[1]
    )
    return [
        drawing.chart(
            "Cost of finding them",
            "Training iterations until a ticket of so many prunings is found, "
            "without those that judge it.",
            f"Line chart of the iterations over the prunings, in the end: "
            f"{told}.",
            draw,
        )
    ]


def _set_sizes(runs):
    figures = []
    for run in runs:
        for method in run.figures:
            rows = run.figures[method].get("rounds")
            rows = rows if isinstance(rows, list) else []
            sizes = [row["set_size"] for row in rows if row.get("set_size")]
            if len(set(sizes)) > 1:
                name = f", {run.name}" if len(runs) > 1 else ""
                figures.append(_set_size_bars(run, method, sizes, name))
    return figures


def _set_size_bars(run, method, sizes, name):
    def draw(axes):
        axes.grid(False, axis="x")
        color = drawing.look(method, run.dense)["color"]
        numbers = range(1, len(sizes) + 1)
        bars = axes.bar(numbers, sizes, color=color, width=0.7)
        axes.bar_label(bars, padding=2, fontsize=8.5)
        axes.set_ylim(0, 1.1 * max(sizes))
        drawing.finish(axes, "round", "training examples")

    return drawing.chart(
        f"Examples of each round{name}",
        "Those that training forgot, or that pruning changes the prediction "
        "of.",
        "Bar chart of the training examples per round: "
        f"{wording.listed([wording.count(size) for size in sizes])}.",
        draw,
    )


def examples(runs):
    """The examples that a network forgot most often, as a picture."""
    figures = []
    for run in runs:
        stored = run.path / HARDEST if run.path is not None else None
        if stored is None or not stored.is_file():
            continue
        with np.load(stored) as file:
            images, labels = file["images"], file["labels"]
            ids, counts = file["ids"], file["counts"]
        if images.ndim != 4 or images.shape[-1] not in (1, 3):
            continue
        name = f", {run.name}" if len(runs) > 1 else ""
        figures.append(_pictures(images, labels, ids, counts, name))
    return figures


def _pictures(images, labels, ids, counts, name):
    columns = 8
    rows = math.ceil(len(images) / columns)
    height, width, channels = images.shape[1:]
    gap = 2
    canvas = np.ones((rows * (height + gap), columns * (width + gap), channels))
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        top, left = row * (height + gap), column * (width + gap)
        canvas[top : top + height, left : left + width] = image

    def draw(axes):
        axes.axis("off")
        axes.imshow(canvas.squeeze(), cmap="gray", vmin=0, vmax=1)
        for i, label in enumerate(labels):
            row, column = divmod(i, columns)
            place = (column * (width + gap) + 1, row * (height + gap) + 1)
            axes.annotate(
                str(label),
                place,
                va="top",
                fontsize=7,
                color="white",
                bbox={"color": "#333333", "pad": 0.8, "alpha": 0.7},
            )

    told = ", ".join(
        f"{i} of class {label} ({_times(count)})"
        for i, label, count in zip(ids, labels, counts)
    )
    return drawing.chart(
        f"The hardest examples{name}",
        "With their class: never right, or forgotten most often, while the "
        "dense network was trained.",
        f"Pictures of training examples: {told}.",
        draw,
        0.3 + 0.58 * rows * height / width,
    )


def _times(count):
    return "never right" if count >= 200_000 else f"forgotten {count} times"
