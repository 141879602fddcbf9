"""A `PruningReport` as text, as HTML for notebooks, and as a picture."""

import html
import io

from keras_app import selection

_COLUMNS = ("variable", "shape", "parameters", "zeros", "asked", "achieved")

# Notebooks are light or dark: colors are shades of the text's own.
_STYLE = (
    "border-collapse:collapse;font-variant-numeric:tabular-nums;"
    "color:inherit;background:transparent"
)
_RULE = "border-top:1px solid rgba(128,128,128,.6);"
_CELL = "padding:2px 12px 2px 0;color:inherit;background:transparent;"


def cells(report):
    """Returns `(rows, totals)`, each a list of as many texts as columns."""
    prunable = [row for row in report.rows if row.prunable]
    rows = [
        _cells(
            row.path,
            "x".join(map(str, row.shape)),
            [row],
            row.asked_sparsity,
        )
        for row in prunable
    ]
    totals = [
        _cells("prunable kernels", "", prunable, report.asked_sparsity),
        _cells("all trainable", "", report.rows),
        _cells("all weights", "", [*report.rows, *report.untrained]),
    ]
    return rows, totals


def _cells(name, shape, counted, asked=None):
    parameters = sum(row.parameters for row in counted)
    zeros = sum(row.zeros for row in counted)
    return [
        name,
        shape,
        f"{parameters:,}",
        f"{zeros:,}",
        "-" if asked is None else f"{asked:.4f}",
        f"{zeros / max(1, parameters):.4f}",
    ]


def remarks(report):
    """Returns what else there is to say, as `{topic: [line, ...]}`."""
    layers = {}
    for row in report.untrained:
        count, zeros = layers.get(row.layer, (0, 0))
        layers[row.layer] = count + row.parameters, zeros + row.zeros
    largest = sorted(layers.items(), key=lambda item: -item[1][0])
    untrained = [
        f"{layer} ({count:,} weights, {zeros:,} of them zero)"
        for layer, (count, zeros) in largest
    ]
    return {
        "not trained": [selection.some(untrained)] if untrained else [],
        "skipped": selection.grouped(report.skipped.items()),
        "note": list(report.notes),
    }


def as_text(report):
    """Returns the table and the remarks as text."""
    # Imported here: a library user who prints nothing needs no table.
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Pruning report", title_justify="left")
    # Paths are what one searches for: they are never broken.
    table.add_column(_COLUMNS[0], no_wrap=True)
    for name in _COLUMNS[1:]:
        table.add_column(name, justify="right")
    rows, totals = cells(report)
    for row in rows:
        table.add_row(*row)
    table.add_section()
    for row in totals:
        table.add_row(*row)
    out = io.StringIO()
    width = 80 + max((len(row.path) for row in report.rows), default=0)
    console = Console(
        file=out, width=width, no_color=True, markup=False, highlight=False
    )
    console.print(table)
    for topic, lines in remarks(report).items():
        between = " " if topic == "skipped" else ": "
        for line in lines:
            console.print(f"{topic}{between}{line}", soft_wrap=True)
    text = out.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in text)


def as_html(report):
    """Returns the table and the remarks as a piece of HTML."""
    rows, totals = cells(report)
    body = _row("th", _COLUMNS, "")
    for index, row in enumerate([*rows, *totals]):
        body += _row("td", row, _RULE if index in (0, len(rows)) else "")
    folded = "".join(
        f"<details><summary>{topic} ({len(lines)})</summary>"
        + "".join(f"<div>{html.escape(line)}</div>" for line in lines)
        + "</details>"
        for topic, lines in remarks(report).items()
        if lines
    )
    return (
        f'<div><b>Pruning report</b><table style="{_STYLE}">{body}</table>'
        f"{folded}</div>"
    )


def _row(tag, texts, style):
    parts = [
        f'<{tag} style="{_CELL}{style}text-align:'
        f'{"right" if index else "left"}">{html.escape(text)}</{tag}>'
        for index, text in enumerate(texts)
    ]
    return f"<tr>{''.join(parts)}</tr>"
