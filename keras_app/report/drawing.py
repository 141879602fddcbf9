"""How charts of the run page look, and how they become HTML figures."""

import base64
import io
import itertools
from html import escape

from keras_app.report import wording

# Okabe and Ito's colours, which stay apart for colour-blind readers, each with
# a mark of its own for print in grey. A method looks the same everywhere.
LOOKS = {
    "app": ("#0072B2", "o"),
    "one_shot": ("#D55E00", "s"),
    "dense": ("#4d4d4d", "D"),
    "app_reference": ("#009E73", "^"),
}
_SPARE_LOOKS = (
    ("#CC79A7", "v"),
    ("#E69F00", "P"),
    ("#56B4E9", "X"),
    ("#0072B2", "<"),
    ("#D55E00", ">"),
    ("#009E73", "h"),
)
# Runs differ by their dashes.
_DASHES = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1.2)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (3, 3)),
    (0, (6, 1.5, 1, 1.5, 1, 1.5)),
)
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a8f98",
    "axes.grid": True,
    "axes.labelcolor": "#333333",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": "#e4e6ea",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    # The same page from the same numbers, byte for byte.
    "svg.hashsalt": "keras_app",
    # A run may be named "$x$": names are text, not mathematics.
    "text.parse_math": False,
    "text.usetex": False,
    "xtick.color": "#555b66",
    "ytick.color": "#555b66",
}


def limits(values, share):
    """Limits with some room beyond the values, that share of their range."""
    low, high = min(values), max(values)
    room = share * (high - low) or 1.0
    return low - room, high + room


def dashed(runs):
    """`[(run, dashes), ...]`: runs differ by their dashes."""
    return list(zip(runs, itertools.cycle(_DASHES)))


def look(method, runs):
    """Colour and mark of a method, the same in every chart of a page."""
    names = dict.fromkeys(m for run in runs for m in run.methods)
    spare = [name for name in names if name not in LOOKS]
    looks = {**dict(zip(spare, itertools.cycle(_SPARE_LOOKS))), **LOOKS}
    return dict(zip(("color", "marker"), looks[method]))


def short(name, length=28):
    """A name as a legend or an axis can show it."""
    name = name if len(name) <= length else name[: length - 1] + "…"
    # Matplotlib hides legend entries that begin with an underscore.
    return " " + name if name.startswith("_") else name


def chart(title, note, alt, draw, height=3.1):
    """A figure element; `draw(figure, axes)` does the drawing."""
    import matplotlib
    from matplotlib.figure import Figure

    file = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, height), layout="constrained")
        draw(figure, figure.subplots())
        figure.savefig(file, format="svg", metadata={"Date": None})
    data = base64.b64encode(file.getvalue()).decode()
    note = f" <span>{escape(note)}</span>" if note else ""
    return (
        f"<figure>\n<figcaption><b>{escape(title)}</b>{note}</figcaption>\n"
        f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(alt)}">\n'
        "</figure>\n"
    )


def finish(figure, axes, x, y, runs, methods, extra):
    """Names the axes; below, methods, runs if several, and `extra` lines."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    entries = method_entries(methods, runs)
    # More runs than dashes could not be told apart.
    for run, dashes in dashed(runs) if 1 < len(runs) <= len(_DASHES) else ():
        name = short(run.name)
        entries.append({"color": "#777777", "ls": dashes, "label": name})
    legend(figure, entries + extra, 4 if len(runs) == 1 else 3)


def method_entries(methods, runs):
    """Entries of `legend` for methods."""
    return [
        {**look(method, runs), "label": short(wording.label(method))}
        for method in methods
    ]


def legend(figure, entries, columns):
    """A legend below the axes, an entry for each look with its label."""
    from matplotlib.lines import Line2D

    figure.legend(
        handles=[Line2D([], [], **look) for look in entries],
        loc="outside lower center",
        ncols=min(columns, max(1, len(entries))),
        fontsize=8.5,
        columnspacing=1.4,
    )
