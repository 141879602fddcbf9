"""A `PruningReport` as text, and as HTML for notebooks."""

import io
import pathlib

from keras_app import selection

_COLUMNS = ("variable", "shape", "parameters", "zeros", "asked", "achieved")


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
    # Here: a library user who prints nothing needs no table.
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
    lines = [
        f"{topic}{' ' if topic == 'skipped' else ': '}{line}"
        for topic, lines in remarks(report).items()
        for line in lines
    ]
    width = 80 + max((len(row.path) for row in report.rows), default=0)
    return printed([table, *lines], width)


def printed(parts, width):
    """Returns what a terminal shows of tables and lines, without colours."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(
        file=out, width=width, no_color=True, markup=False, highlight=False
    )
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def as_html(report):
    """Returns the table and the remarks as a piece of HTML."""
    import jinja2

    template = pathlib.Path(__file__).with_name("table.html.j2").read_text()
    rows, totals = cells(report)
    return jinja2.Template(template, autoescape=True).render(
        columns=_COLUMNS, rows=rows, totals=totals, remarks=remarks(report)
    )
