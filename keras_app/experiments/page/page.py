"""The run page: what came of one run, or of several, in one HTML file.

Every section shows itself only where its data are there, so that an experiment
this module has never heard of still gets its numbers and its curves.
"""

import functools
import os
import pathlib

from keras_app import files
from keras_app.experiments.page import charts
from keras_app.experiments.page import conclusion
from keras_app.experiments.page import front
from keras_app.experiments.page import maps
from keras_app.experiments.page import results
from keras_app.experiments.page import runs as runs_lib
from keras_app.experiments.page import searches
from keras_app.experiments.page import wording
from keras_app.export import export_report

PAGE = "report.html"
COMPARISON = "comparison.html"


def write_page(run_dirs, path=None, summaries=None, notes=()):
    """Writes one HTML file about one run, or about several side by side.

    The file stands alone: figures are embedded, nothing is loaded from
    elsewhere. A run without a summary (still going, or killed) is shown from
    its log and marked as unfinished. Runs that differ only by their seed also
    get rows with mean and standard deviation.

    Args:
        run_dirs: A run folder, or a list of them.
        path: File to write, replaced in one step. Defaults to `report.html`
            in the run folder; for several, `comparison.html` beside them, in
            the folder that holds them all.
        summaries: What `summary.json` holds, a dict for each of `run_dirs`,
            where it is loaded already. Defaults to reading the files.
        notes: Sentences to be read before the results, such as on runs that
            left no folder. Defaults to `()`.

    Returns:
        The `pathlib.Path` of the page.

    Raises:
        ValueError: There is no run, a folder holds none, or a summary cannot
            be read.

    Example:

    ```python
    write_page(["runs/seed-0", "runs/seed-1"], "comparison.html")
    ```
    """
    if isinstance(run_dirs, (str, os.PathLike)):
        run_dirs = [run_dirs]
    folders = [pathlib.Path(folder) for folder in run_dirs]
    if not folders:
        raise ValueError(
            "`run_dirs` must name at least one run folder. "
            f"Received: run_dirs={run_dirs}"
        )
    if summaries is None:
        # A run that is named twice is no second one.
        folders = list({each.resolve(): each for each in folders}.values())
        summaries = [None] * len(folders)
    if len(summaries) != len(folders):
        raise ValueError(
            "`summaries` must hold one dict for each of `run_dirs`. Received: "
            f"{len(summaries)} summaries for {len(folders)} folders"
        )
    runs = runs_lib.load(folders, summaries)
    path = pathlib.Path(path) if path else default_path(folders)
    files.write_bytes(path, _page(runs, notes).encode("utf-8", "replace"))
    return path


def default_path(folders):
    """Where the page of run folders goes: never over that of one of several."""
    if len(folders) == 1:
        return folders[0] / PAGE
    parents = [folder.resolve().parent for folder in folders]
    return pathlib.Path(os.path.commonpath(parents)) / COMPARISON


def _page(runs, notes):
    outcomes = front.outcomes(runs)
    several = len({run for found in outcomes for run in found.runs}) > 1
    return _template().render(
        title=wording.title(runs),
        runs=runs,
        statements=[(run.name, wording.statement(run)) for run in runs],
        warnings=_warnings(runs, notes),
        conclusions=conclusion.conclusions(runs),
        finished=all(run.finished for run in runs),
        results=results.table(runs),
        results_note=results.notes(runs),
        meanings=_meanings(runs) if len(runs) > 1 else [],
        front=front.table(outcomes) if several else None,
        front_title=front.TITLE,
        front_note=front.note(outcomes),
        front_charts=several and charts.density_accuracy(outcomes),
        tickets=searches.tickets(runs),
        examples=searches.examples(runs),
        rounds=searches.rounds(runs),
        discovered=maps.discovered(runs),
        over_megabatches=charts.over_megabatches(runs),
        over_layers=maps.over_layers(runs),
        over_epochs=charts.over_epochs(runs),
        losses=charts.loss_over_epochs(runs),
        has_stages=charts.has_stages(runs),
        exports=_exports(runs),
        remarks=_remarks(runs),
        megabatches=results.every_megabatch(runs),
        versions=_versions(runs),
    )


@functools.cache
def _template():
    # Here: pruners import this package for its tables, and need no pages.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.j2")


# ---- data of the sections --------------------------------------------------


def _warnings(runs, notes):
    """`[(text in bold, text, list of texts), ...]`."""
    found = [("", note, []) for note in notes]
    for run in runs:
        name = f"{run.name}: " if len(runs) > 1 else ""
        missed = [str(text) for text in run.summary.get("missed") or []]
        if missed:
            bold = f"{name}A pruner missed its target."
            text = "Judge the numbers below with this in mind."
            found.append((bold, text, missed))
        if not run.finished:
            found.append(("", wording.unfinished(run), []))
    return found


def _meanings(runs):
    """What the columns of the results are, `[(name, meaning), ...]`."""
    figures = results.shown_figures(runs).values()
    return [(figure.label, figure.note) for figure in figures if figure.note]


def _reports(runs):
    """`(name, report)` of all that was exported."""
    for run in runs:
        for report in export_report.read(run.path) if run.path else ():
            name = f"{run.name}: " if len(runs) > 1 else ""
            yield name + report.name, report


def _exports(runs):
    """A `Table` of what was exported, or `None`."""
    rows, titles = [], []
    for name, report in _reports(runs):
        titles = [title for title, _ in report.rows()]
        parts = [text.partition(", ") for _, text in report.rows()]
        cells = [results.Cell(figure, words) for figure, _, words in parts]
        rows.append(results.Row(results.Cell(name), cells))
    head = [results.Cell(text) for text in ["file", *titles]]
    return results.Table("Exports", head, rows) if rows else None


def _remarks(runs):
    """What is to be known about exports, `[(name, [text, ...]), ...]`."""
    found = [(name, report.remarks()) for name, report in _reports(runs)]
    return [(name, remarks) for name, remarks in found if remarks]


def _versions(runs):
    """What the runs were computed with."""
    names = {}
    for run in runs:
        names.setdefault(wording.versions(run), []).append(run.name)
    names.pop("", None)
    return [
        f"{text} ({wording.listed(those)})" if len(names) > 1 else text
        for text, those in names.items()
    ]
