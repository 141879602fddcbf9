"""What was exported: sizes, times and remarks."""

from keras_app.experiments.page.sections import Cell
from keras_app.experiments.page.sections import Row
from keras_app.experiments.page.sections import Section
from keras_app.experiments.page.sections import Table
from keras_app.export import export_report


def section(runs):
    """A table of all exported files, and what is to be known about them."""
    rows, remarks, titles = [], [], []
    for run in runs:
        for report in export_report.read(run.path) if run.path else ():
            name = f"{run.name}: " if len(runs) > 1 else ""
            name += report.name
            titles = [title for title, _ in report.rows()]
            parts = [text.partition(", ") for _, text in report.rows()]
            cells = [Cell(figure, words) for figure, _, words in parts]
            rows.append(Row(Cell(name), cells))
            remarks.append((name, report.remarks()))
    remarks = [(name, texts) for name, texts in remarks if texts]
    head = [Cell(text) for text in ["file", *titles]]
    return Section(
        "Exports",
        "Dense is the same export without sparse encoding; times were taken on "
        "the machine that exported.",
        table=Table("Exports", head, rows) if rows else None,
        folded=[Section("Repairs and notes", lists=remarks)] * bool(remarks),
    )
