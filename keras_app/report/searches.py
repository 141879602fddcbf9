"""The page's charts of ticket searches: rounds, sets, tickets, examples.

Each function returns a list of figures, without those that lack their data.
"""

import math

import numpy as np

from keras_app.report import drawing
from keras_app.report import wording
from keras_app.report.runs import number

HARDEST = "hardest.npz"


def rounds(runs):
    """What the rounds of continuous sparsification left."""
    figures = []
    lines = {}
    for run in runs:
        entries = run.summary.get("rounds")
        if isinstance(entries, list) and entries:
            lines[run] = entries
    if not lines:
        return []
    for title, note, axis, keys in (
        (
            "Density after each round",
            "Share of the masked weights that the final mask would keep.",
            "density (%)",
            {"density": "kept", "soft_density": "mean of the soft mask"},
        ),
        (
            "Accuracy after each round",
            "With the soft mask, which is what was trained, and with the mask "
            "made final; on the validation data.",
            "accuracy (%)",
            {"val_accuracy": "soft mask", "hard_val_accuracy": "final mask"},
        ),
    ):
        figures += _over_rounds(runs, lines, title, note, axis, keys)
    return figures


def _over_rounds(runs, lines, title, note, axis, keys):
    shown = {
        (run, key): [number(entry.get(key)) for entry in entries]
        for run, entries in lines.items()
        for key in keys
    }
    shown = {
        k: [100 * y for y in ys] for k, ys in shown.items() if None not in ys
    }
    if not shown:
        return []
    dashes = dict(drawing.dashed(runs))
    alphas = dict(zip(keys, (1.0, 0.45)))

    def draw(figure, axes):
        for (run, key), ys in shown.items():
            look = drawing.look(run.main, runs)
            style = {"ls": dashes[run], "alpha": alphas[key]}
            axes.plot(range(1, len(ys) + 1), ys, **look, **style)
        extra = [
            {"color": "#333333", "alpha": alphas[key], "label": label}
            for key, label in keys.items()
        ]
        methods = list(dict.fromkeys(run.main for run in lines))
        drawing.finish(figure, axes, "round", axis, runs, methods, extra)

    told = "; ".join(
        f"{run.name} {keys[key]} "
        + wording.listed([wording.fixed(y, 1) for y in ys])
        for (run, key), ys in shown.items()
    )
    alt = f"Line chart, {title.lower()}, in percent: {told}."
    return [drawing.chart(title, note, alt, draw)]


def tickets(runs):
    """Accuracy over sparsity, set sizes and cost of lottery tickets."""
    found = [
        (run, dashes, method, figures)
        for run, dashes in drawing.dashed(runs)
        for method, figures in run.figures.items()
        if isinstance(figures.get("tickets"), list) and figures["tickets"]
    ]
    if not found:
        return []
    figures = [_accuracies(runs, found), _costs(runs, found)]
    sizes = _set_sizes(runs, found)
    return figures + sizes


def _accuracies(runs, found):
    def draw(figure, axes):
        for _, dashes, method, figures in found:
            rows = figures["tickets"]
            xs = [100 * (1 - row["density"]) for row in rows]
            ys = [100 * row["accuracy"] for row in rows]
            error = [100 * _deviation(row["accuracies"]) for row in rows]
            look = drawing.look(method, runs)
            axes.errorbar(xs, ys, error, ls=dashes, capsize=2, **look)
        methods = list(dict.fromkeys(method for _, _, method, _ in found))
        axis = "test accuracy (%)"
        drawing.finish(figure, axes, "sparsity (%)", axis, runs, methods, [])

    told = "; ".join(
        f"{run.name}, {wording.label(method)} "
        + ", ".join(
            f"{wording.percent(row['accuracy'])} at density "
            f"{wording.percent(row['density'])}"
            for row in figures["tickets"]
        )
        for run, _, method, figures in found
    )
    return drawing.chart(
        "Accuracy of the tickets",
        "Each trained from its early weights on all data. Bars: standard "
        "deviation, where a ticket was trained several times.",
        f"Line chart of the test accuracy over the sparsity: {told}.",
        draw,
        3.4,
    )


def _deviation(values):
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _costs(runs, found):
    def draw(figure, axes):
        for _, dashes, method, figures in found:
            ys = figures["account"]["cumulative"]
            look = drawing.look(method, runs)
            axes.plot(range(1, len(ys) + 1), ys, ls=dashes, **look)
        methods = list(dict.fromkeys(method for _, _, method, _ in found))
        axes.set_ylim(bottom=0)
        axis = "training iterations"
        drawing.finish(figure, axes, "prunings", axis, runs, methods, [])

    told = "; ".join(
        f"{run.name}, {wording.label(method)} "
        f"{wording.count(figures['account']['cumulative'][-1])}"
        for run, _, method, figures in found
    )
    return drawing.chart(
        "Cost of finding them",
        "Training iterations until a ticket of so many prunings is found, "
        "without those that judge it.",
        f"Line chart of the iterations over the prunings, in the end: {told}.",
        draw,
    )


def _set_sizes(runs, found):
    figures = []
    for run, _, method, shown in found:
        rows = [r for r in shown["rounds"] if r["set_size"]]
        if len({row["set_size"] for row in rows}) < 2:
            continue
        numbers = range(1, len(rows) + 1)
        sizes = [row["set_size"] for row in rows]

        def draw(figure, axes, numbers=numbers, sizes=sizes, method=method):
            axes.grid(False, axis="x")
            color = drawing.look(method, runs)["color"]
            bars = axes.bar(numbers, sizes, color=color, width=0.7)
            axes.bar_label(bars, padding=2, fontsize=8.5)
            axes.set_xlabel("round")
            axes.set_ylabel("training examples")
            axes.set_ylim(0, 1.1 * max(sizes))

        name = f", {run.name}" if len(runs) > 1 else ""
        figures.append(
            drawing.chart(
                f"Examples of each round{name}",
                "Those that training forgot, or that pruning changes the "
                "prediction of.",
                "Bar chart of the training examples per round: "
                f"{wording.listed([wording.count(size) for size in sizes])}.",
                draw,
            )
        )
    return figures


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
    lines = math.ceil(len(images) / columns)
    height, width, channels = images.shape[1:]
    gap = 2
    canvas = np.ones(
        (lines * (height + gap), columns * (width + gap), channels)
    )
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        top, left = row * (height + gap), column * (width + gap)
        canvas[top : top + height, left : left + width] = image

    def draw(figure, axes):
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
        0.4 + 0.68 * lines * height / width,
    )


def _times(count):
    return "never right" if count >= 200_000 else f"forgotten {count} times"
