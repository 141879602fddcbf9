"""How charts of the run page look: colours, dashes, limits, legends."""

import base64
import dataclasses
import io
import math
import textwrap
import zlib

from keras_app.experiments.page.runs import finite
from keras_app.experiments.page.runs import group_name
from keras_app.experiments.page.runs import settings

# A method has one colour and one mark on every page: those named here by
# their place, others by their name. Okabe and Ito's colours, then Tol's, stay
# apart for colour-blind readers; marks tell methods apart in grey.
_COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#332288", "#882255", "#999933", "#AA4499", "#44AA99", "#8C564B"),
    *("#7570B3", "#E7298A", "#66A61E", "#A6761D", "#17BECF", "#BCBD22"),
    *("#4363D8", "#B15928", "#6A3D9A", "#F58231", "#1B7837", "#FB6A4A"),
)
_MARKS = ("o", "s", "^", "v", "P", "X", "<", ">", "h", "p", "*")
_DENSE = {"color": "#4d4d4d", "marker": "D"}
_KNOWN = (
    *("app", "one_shot", "app_reference", "prac", "vanilla", "random"),
    *("RigL", "SET", "TopKAST", "ACDC", "MagnitudePruner", "MovementPruner"),
    *("AdaBreg", "LinBreg", "ProxSGD", "STE", "WandaPruner", "RandomPruner"),
    *("ticket, sequential", "ticket, iterative", "prune, sequential"),
    *("SaliencyPruner", "prune, iterative"),
)
_ALIKE = {"AnytimeProgressivePruner": "app"}
# Settings differ by their dashes.
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
# Inches; on a phone its text is still 10 pixels high.
_WIDTH = 4.5
_PIXELS_PER_INCH = 76

# Limits of an axis of shares: a line at 0 or 100 can be seen.
PERCENT = (-2, 105)
# What noise may fill: less than this many points is drawn within them.
LEAST_POINTS = 10.0


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure of the page: its words, its picture, its legend.

    `legend` holds what `_swatch` returns; `least` is the width in pixels below
    which the picture scrolls, for those that are wide.
    """

    title: str
    note: str
    alt: str
    source: str
    legend: list
    least: int | None


def chart(title, note, alt, draw, height=2.9, width=_WIDTH):
    """Returns a `Chart`; `draw(axes)` draws, and returns its legend's entries.

    An entry is how a line looks, with its `label`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    width = max(width, _WIDTH)
    file = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        entries = draw(figure.subplots()) or ()
        figure.savefig(file, format="svg", metadata={"Date": None})
    data = base64.b64encode(file.getvalue()).decode()
    return Chart(
        title=title,
        note=note,
        alt=alt,
        source=f"data:image/svg+xml;base64,{data}",
        legend=[_swatch(entry) for entry in entries],
        least=round(_PIXELS_PER_INCH * width) if width > _WIDTH else None,
    )


# ---- looks -----------------------------------------------------------------


def look(method, dense=None):
    """Colour and mark of a method, the same on every page.

    `dense` is the run's method that is the dense network, if any.
    """
    if method == dense:
        return dict(_DENSE)
    name = method.rpartition(" + ")[2]
    name = _ALIKE.get(name, name)
    if name in _KNOWN:
        place = _KNOWN.index(name)
    else:
        place = zlib.crc32(name.encode("utf-8", "replace"))
    return {
        "color": _COLORS[place % len(_COLORS)],
        "marker": _MARKS[place % len(_MARKS)],
    }


def look_of(side):
    """The look of a `Side`."""
    return look(side.method, side.runs[0].dense)


def styles(runs):
    """`[(equal runs, style), ...]` by name.

    Settings of one method differ by their dashes and, where these do not
    suffice, by their tone too, from light to dark.
    """
    found = sorted(settings(runs), key=group_name)
    mains = [group[0].main for group in found]
    styled = []
    for i, (group, main) in enumerate(zip(found, mains)):
        place, count = mains[:i].count(main), mains.count(main)
        tone = 0.0
        if count > len(_DASHES):
            tone = 0.6 * (1 - place / (count - 1))
        dashes = _DASHES[place % len(_DASHES)]
        styled.append((group, {"ls": dashes, "tone": tone}))
    return styled


def toned(look, style):
    """`look` with the dashes and the tone of `style`; grey stays as it is."""
    color = look["color"]
    if color != _DENSE["color"]:
        parts = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        mixed = [round(x + style["tone"] * (255 - x)) for x in parts]
        color = "#" + "".join(f"{part:02x}" for part in mixed)
    return {**look, "color": color, "ls": style["ls"]}


def entries(runs, shown):
    """Entries of a legend: methods, and settings where there are several.

    `shown` holds the `Side`s that were drawn.
    """
    found = {side.label: look_of(side) for side in shown}
    color = "#777777"
    if len(found) == 1:
        color = next(iter(found.values()))["color"]
    found = [{**kind, "label": label} for label, kind in found.items()]
    drawn = [side.runs for side in shown]
    groups = [pair for pair in styles(runs) if pair[0] in drawn]
    for group, style in groups if len(groups) > 1 else ():
        seeds = f" ({len(group)} seeds)" if len(group) > 1 else ""
        label = group_name(group) + seeds
        found.append({**toned({"color": color}, style), "label": label})
    return found


def _swatch(entry):
    """What the page's template draws beside a legend's label."""
    from matplotlib.markers import MarkerStyle

    dashes = entry.get("ls", "-")
    width = entry.get("lw", 1.6)
    shapes = []
    if entry.get("marker"):
        style = MarkerStyle(entry["marker"])
        path = style.get_path().transformed(style.get_transform())
        for polygon in path.to_polygons():
            points = [(16 + 8 * x, 7 - 8 * y) for x, y in polygon]
            shapes.append(" ".join(f"{x:.1f},{y:.1f}" for x, y in points))
    return {
        "label": entry["label"],
        "color": entry["color"],
        "opacity": entry.get("alpha", 1),
        "width": 1.3 * width if dashes != "" else 0,
        "dashes": ""
        if isinstance(dashes, str)
        else " ".join(f"{1.3 * width * part:.1f}" for part in dashes[1]),
        "shapes": shapes,
    }


def short(name, length=26):
    """A name as an axis can show it: in two lines, its middle left out."""
    if len(name) <= length:
        return name
    if len(name) > 2 * length:
        half = length - 1
        name = f"{name[:half]}…{name[-half:]}"
    return "\n".join(textwrap.wrap(name, max(length, len(name) // 2 + 1)))


# ---- axes ------------------------------------------------------------------


def limits(values, least=0.0, within=(-math.inf, math.inf)):
    """Limits of an axis with room, which do not blow noise up.

    They span at least `least`, and the values lie in the middle of that
    unless it would leave `within`, where no value can be.
    """
    values = finite(values) or [0.0]
    low, high = min(values), max(values)
    more = max(0.0, (least or 1e-9) - (high - low)) / 2
    low, high = low - more, high + more
    least_value, largest_value = within
    if high > largest_value:
        low, high = low - (high - largest_value), largest_value
    if low < least_value:
        low, high = least_value, high + (least_value - low)
    room = 0.05 * (high - low)
    return low - room, high + room


def whole(values):
    """Limits of an axis of shares, in percent: all that there can be."""
    return PERCENT


def shares(values):
    """Limits of an axis in percent of what was right or wrong."""
    return limits(values, LEAST_POINTS, (0, 100))


def from_zero(values, least=0.0):
    """Limits of an axis of amounts: from zero to above the largest."""
    return 0, 1.08 * max([*finite(values), least]) or 1.0
