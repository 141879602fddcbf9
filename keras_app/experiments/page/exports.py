"""What was exported: sizes, times and remarks."""

from keras_app.experiments.page import wording
from keras_app.experiments.page.sections import Cell
from keras_app.experiments.page.sections import Row
from keras_app.experiments.page.sections import Section
from keras_app.experiments.page.sections import Table
from keras_app.export import export_report


def section(runs):
    """A table of all exported files, and what is to be known about them."""
    files, remarks = [], []
    for run in runs:
        for report in export_report.read(run.path) if run.path else ():
            name = f"{run.name}: " if len(runs) > 1 else ""
            name += report.name
            parts = [
                (what, *text.partition(", ")) for what, text in report.rows()
            ]
            figures = {what: Cell(text, more) for what, text, _, more in parts}
            files.append((name, figures))
            remarks.append((name, report.remarks()))
    remarks = [(name, texts) for name, texts in remarks if texts]
    head = [Cell(""), *(Cell(name) for name, _ in files)]
    rows = []
    for what in dict.fromkeys(what for _, found in files for what in found):
        cells = [figures.get(what, Cell("-")) for _, figures in files]
        if any(cell.text != "-" for cell in cells):
            rows.append(Row(Cell(wording.capital(what)), cells))
    return Section(
        "Exports",
        "Dense is the same export without sparse encoding; times were taken on "
        "the machine that exported.",
        table=Table("Exports", head, rows) if rows else None,
        folded=[Section("Repairs and notes", lists=remarks)] * bool(remarks),
    )
