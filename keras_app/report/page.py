"""The run page: what came of one run, or of several, in one HTML file.

Every section shows itself only where its data are there, so that an experiment
this module has never heard of still gets its numbers and its curves.
"""

import os
import pathlib
from html import escape

from keras_app import files
from keras_app.report import charts
from keras_app.report import exports
from keras_app.report import front
from keras_app.report import runs as runs_lib
from keras_app.report import searches
from keras_app.report import wording
from keras_app.report.runs import DENSE
from keras_app.report.runs import number

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
    title = escape(wording.title(runs))
    names = escape(", ".join(run.name for run in runs))
    sections = [
        _warnings(runs, notes),
        _conclusion(runs),
        _results(runs),
        _front(runs),
        _section("Tickets", _grid(searches.tickets(runs))),
        _section("The examples that matter", _grid(searches.examples(runs))),
        _section("Round by round", _grid(searches.rounds(runs))),
        _section("Discovered architecture", _grid(charts.discovered(runs))),
        _section(
            "Megabatch by megabatch", _grid(charts.over_megabatches(runs))
        ),
        _over_layers(runs),
        _over_epochs(runs),
        _exports(runs),
        _details(runs),
        _about(runs),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} – {names}</title>\n"
        f"<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        f'<header>\n<p class="names">{names}</p>\n'
        f"<h1>{title}</h1>\n{_statements(runs)}</header>\n"
        + "".join(sections)
        + "</main>\n</body>\n</html>\n"
    )


# ---- pieces of HTML --------------------------------------------------------


def _section(title, body, note=""):
    if not body:
        return ""
    note = f'<p class="note">{escape(note)}</p>\n' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{note}{body}</section>\n"


def _folded(title, body):
    if not body:
        return ""
    return f"<details><summary>{escape(title)}</summary>\n{body}</details>\n"


def _grid(figures):
    return f'<div class="grid">\n{"".join(figures)}</div>\n' if figures else ""


def _small(text):
    return f"<small>{escape(text)}</small>" if text else ""


def _table(head, rows, label, name=""):
    """A table of ready HTML; `rows` of `(class, header, [cells])`."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr class="{row_name}"><th scope="row">{first}</th>'
        f"{''.join(cells)}</tr>\n"
        for row_name, first, cells in rows
    )
    return (
        f'<div class="scroll {name}" tabindex="0" role="region" '
        f'aria-label="{escape(label)}"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n"
        "</table></div>\n"
    )


# ---- sections --------------------------------------------------------------


def _statements(runs):
    if len(runs) == 1:
        return f"<p>{escape(wording.statement(runs[0]))}</p>\n"
    items = ""
    for run in runs:
        text = escape(wording.statement(run))
        items += f"<li><b>{escape(run.name)}</b>: {text}</li>\n"
    return f"<ul>{items}</ul>\n"


def _warnings(runs, notes):
    boxes = "".join(f'<p class="warning">{escape(x)}</p>\n' for x in notes)
    for run in runs:
        name = f"{run.name}: " if len(runs) > 1 else ""
        missed = run.summary.get("missed") or []
        if missed:
            items = "".join(f"<li>{escape(str(text))}</li>" for text in missed)
            boxes += (
                '<div class="warning" role="alert"><b>'
                f"{escape(name)}A pruner missed its target.</b> Judge the "
                f"numbers below with this in mind.<ul>{items}</ul></div>\n"
            )
        if not run.finished:
            text = wording.unfinished(run)
            boxes += f'<p class="warning">{escape(text)}</p>\n'
    return boxes


def _conclusion(runs):
    body = ""
    for group in runs_lib.groups(runs):
        sentences = wording.Comparison(group).sentences()
        if not sentences:
            continue
        if len(runs) > 1:
            names = wording.listed([run.name for run in group])
            body += f"<h3>{escape(names)}</h3>\n"
        items = "".join(f"<li>{escape(text)}</li>\n" for text in sentences)
        body += f'<ul class="conclusion">\n{items}</ul>\n'
    return _section("In short", body)


def _results(runs):
    figures = wording.shown_figures(runs)
    if not figures:
        return ""
    notes = []
    if any(DENSE in run.figures and run.finished for run in runs):
        where = " of the same run" if len(runs) > 1 else ""
        notes.append(
            f"Small print: the difference to the dense network{where}."
        )
    if any(len(group) > 1 for group in runs_lib.groups(runs)):
        notes.append("± is the standard deviation over seeds (n - 1).")
    if any(len(run.figures) > 1 and run.finished for run in runs):
        notes.append("Green marks the best method of a run.")
    title = "Results" if all(r.finished for r in runs) else "Results so far"
    table = _results_of_one if len(runs) == 1 else _results_of_several
    return _section(title, table(runs, figures), " ".join(notes))


def _results_of_one(runs, figures):
    """Figures down, methods across: it fits a phone, and explains itself."""
    results = wording.Comparison(runs)
    rows = [
        ("", escape(f.label) + _small(f.note), _cells(results, key, f))
        for key, f in figures.items()
    ]
    head = ["", *(escape(wording.label(method)) for method in results.methods)]
    return _table(head, rows, "Results per method")


def _results_of_several(runs, figures):
    """Runs and methods down; before them, the means over seeds."""
    several = [group for group in runs_lib.groups(runs) if len(group) > 1]
    rows = []
    for group in several + [[run] for run in runs]:
        results = wording.Comparison(group)
        names = escape(", ".join(run.name for run in group))
        if not group[0].finished:
            names += ' <span class="tag">unfinished</span>'
        marks = ["mean"] if len(group) > 1 else []
        lines = zip(*(_cells(results, *item) for item in figures.items()))
        for method, cells in zip(results.methods, lines):
            name = escape(wording.label(method))
            mean = f"{name}, mean of {len(group)} seeds<small>{names}</small>"
            name = mean if len(group) > 1 else f"{names}, {name}"
            first = [] if method != results.methods[0] else ["first"]
            rows.append((" ".join(marks + first), name, cells))
    head = ["run, method"]
    for figure in figures.values():
        name = escape(figure.label)
        note = f'<abbr title="{escape(figure.note)}">{name}</abbr>'
        head.append(note if figure.note else name)
    return _table(head, rows, "Results per run and method", "several")


def _cells(results, key, figure):
    """One figure of equal runs, a cell per method; one run's best is marked.

    In small print is how it compares to the dense network.
    """
    means = {method: results.mean(method, key) for method in results.methods}
    known = [mean for mean in means.values() if mean is not None]
    best = dense = None
    # Half a method compared to a whole one would mislead.
    if results.runs[0].finished:
        dense = means.get(DENSE)
        if figure.best and len(known) > 1 and len(results.runs) == 1:
            best = figure.best(known)
    cells = []
    for method, mean in means.items():
        text, mark = wording.NOTHING, ""
        if mean is not None:
            shown = figure.show(mean, results.spread(method, key))
            text = f"<b>{escape(shown)}</b>"
            mark = ' class="best"' if mean == best else ""
            if figure.compare and dense is not None and method != DENSE:
                text += _small(figure.compare(mean, dense))
        cells.append(f"<td{mark}>{text}</td>")
    return cells


def _front(runs):
    """What accuracy each density came to, over several runs."""
    outcomes = front.outcomes(runs)
    if len({outcome.run for outcome in outcomes}) < 2:
        return ""
    several = len({outcome.method for outcome in outcomes}) > 1
    rows = []
    for place, outcome in enumerate(outcomes, start=1):
        name = f"{place} {outcome.run.name}"
        name += f", {wording.label(outcome.method)}" if several else ""
        cells = [
            f"<td>{wording.percent(outcome.density)}</td>",
            f"<td>{wording.percent(outcome.accuracy)}</td>",
            '<td class="best"><b>front</b></td>'
            if outcome.on_front
            else "<td></td>",
        ]
        rows.append(("", escape(name), cells))
    title = "Density and accuracy"
    head = ["run, method" if several else "run", "density, prunable"]
    table = _table([*head, "test accuracy", ""], rows, title, "several")
    note = (
        "By rising density. A run is on the front if no other has as few "
        "weights and as much accuracy, and more of either."
    )
    if any(len(group) > 1 for group in runs_lib.groups(runs)):
        note += " These are single runs: a lucky seed counts here."
    return _section(
        title, _grid([*charts.density_accuracy(outcomes), table]), note
    )


def _over_layers(runs):
    maps = charts.over_layers(runs)
    body = _grid(maps)
    if len(maps) > 4:
        body = _folded(f"Show all {len(maps)} maps", body)
    note = "Density of each pruned kernel after each megabatch, in percent."
    return _section("Layer by layer", body, note)


def _over_epochs(runs):
    shown = charts.over_epochs(runs, "accuracy", "val_accuracy", "accuracy (%)")
    for key in ("density", "effective_density", "sparsity"):
        shown += charts.over_epochs(runs, key, None, f"{key} (%)")
    for key in ("lam", "temperature"):
        shown += charts.over_epochs(runs, key, None, key)
    loss = _grid(charts.over_epochs(runs, "loss", "val_loss", "loss"))
    body = _grid(shown)
    body += _folded("Loss over all epochs", loss) if body else loss
    note = "All epochs in order."
    if any(run.megabatches(method) for run in runs for method in run.methods):
        note = "All epochs in order; a vertical line begins a megabatch."
    return _section("Epoch by epoch", body, note)


_COLUMNS = (
    ("target_density", "target density", wording.percent),
    ("density", "density", wording.percent),
    ("kept_parameters", "kept parameters", wording.count),
    ("test_accuracy", "test accuracy", wording.percent),
    ("misclassified", "misclassified", wording.count),
    ("best_epoch", "best epoch", lambda value: wording.count(value + 1)),
    ("best_val_accuracy", "best val. accuracy", wording.percent),
    ("generalization_gap_last", "gap, last", wording.points),
    ("generalization_gap_best", "gap, best", wording.points),
    ("training_examples", "training examples", wording.count),
)


def _exports(runs):
    """What was exported, where a run folder holds reports on it."""
    rows, remarks, titles = [], "", []
    for run in runs:
        for report in exports.read(run.path) if run.path else ():
            name = report.name
            if len(runs) > 1:
                name = f"{run.name}: {name}"
            titles = [title for title, _ in report.rows()]
            cells = []
            for _, text in report.rows():
                figure, _, words = text.partition(", ")
                cells.append(f"<td><b>{escape(figure)}</b>{_small(words)}</td>")
            rows.append(("", escape(name), cells))
            items = "".join(f"<li>{escape(x)}</li>" for x in report.remarks())
            if items:
                remarks += f"<p>{escape(name)}</p>\n<ul>{items}</ul>\n"
    if not rows:
        return ""
    note = (
        "Dense is the same export without sparse encoding; times were taken "
        "on the machine that exported."
    )
    table = _table(["file", *titles], rows, "Exports")
    return _section(
        "Exports", table + _folded("Repairs and notes", remarks), note
    )


def _details(runs):
    body = ""
    for run in runs:
        rows = []
        for method in run.methods:
            for index, row in enumerate(run.megabatches(method)):
                cells = []
                for key, _, show in _COLUMNS:
                    value = number(row.get(key))
                    text = wording.NOTHING if value is None else show(value)
                    cells.append(f"<td>{escape(text)}</td>")
                name = f"{escape(wording.label(method))} {index + 1}"
                rows.append(("" if index else "first", name, cells))
        if rows:
            head = ["megabatch", *(label for _, label, _ in _COLUMNS)]
            title = "Every megabatch in numbers"
            title += f": {run.name}" if len(runs) > 1 else ""
            body += _folded(title, _table(head, rows, title))
    return body


def _about(runs):
    names = {}
    for run in runs:
        names.setdefault(wording.versions(run), []).append(run.name)
    names.pop("", None)
    body = ""
    for text, those in names.items():
        if len(names) > 1:
            text += f" ({wording.listed(those)})"
        body += f"<p>{escape(text)}</p>\n"
    return f"<footer>\n{body}</footer>\n" if body else ""


_CSS = """
:root { --ink: #1f2933; --soft: #5c6773; --line: #dfe3e8; --paper: #ffffff;
  --panel: #f5f7f9; --accent: #0072b2; --good: #e3f3ec; --warn: #fff4e0;
  --warn-line: #d98200; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Liberation Sans", Arial, sans-serif; overflow-wrap: break-word; }
main { max-width: 70rem; margin: 0 auto; padding: 1.5rem 1.25rem 3rem; }
h1 { font-size: 1.65rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
header p, header ul { max-width: 52rem; margin: .3rem 0; }
header ul { padding-left: 1.2rem; }
.names { color: var(--soft); font-size: .9rem; }
.note, footer, figcaption span { color: var(--soft); font-size: .88rem; }
.note { margin: 0 0 .6rem; max-width: 52rem; }
.warning { background: var(--warn); border-left: 5px solid var(--warn-line);
  padding: .7rem 1rem; margin: 1rem 0; }
.warning ul { margin: .4rem 0 0; padding-left: 1.2rem; }
.conclusion { margin: 0; padding: .8rem 1rem .8rem 2.1rem; list-style: disc;
  background: var(--panel); border-left: 5px solid var(--accent); }
.conclusion li { margin: .25rem 0; max-width: 56rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .7rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--line); }
th:first-child { text-align: left; }
tbody th { white-space: normal; min-width: 9.5rem; max-width: 30rem; }
td b { font-weight: 400; display: block; }
td small, th small { display: block; color: var(--soft); font-weight: 400;
  font-size: .8rem; line-height: 1.35; }
td.best { background: var(--good); }
td.best b { font-weight: 700; }
tr.first > * { border-top: 2px solid var(--line); }
tr.mean > * { background: var(--panel); }
.several tbody th { min-width: 13rem; }
abbr { text-decoration: none; cursor: help; }
.tag { background: var(--warn); border: 1px solid var(--warn-line);
  border-radius: 3px; font-size: .75rem; padding: 0 .3rem; }
.grid { display: grid; gap: 1.4rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; max-width: 36rem; break-inside: avoid; }
figcaption { font-size: .95rem; min-height: 2.9em; }
figcaption b { margin-right: .3rem; }
img { display: block; width: 100%; height: auto; background: #fff; }
details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
footer { margin-top: 2.5rem; padding-top: .6rem;
  border-top: 1px solid var(--line); }
footer p { margin: .2rem 0; }
@media (max-width: 40rem) {
  main { padding: 1rem .8rem 2rem; }
  th, td { padding: .35rem .4rem; }
  tbody th { min-width: 7.5rem; }
  table { font-size: .86rem; }
  figcaption { min-height: 0; }
}
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e3e7ec; --soft: #a3adb8; --line: #38414b; --paper: #171b20;
    --panel: #20262d; --accent: #56b4e9; --good: #1d3b30; --warn: #3d3015; }
  img { border-radius: 4px; }
}
@media print {
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  .scroll { overflow: visible; }
  .several table { font-size: 6.5pt; }
  .several th, .several td { padding: .2rem; min-width: 0; }
  .grid { grid-template-columns: 1fr 1fr; gap: .8rem 1rem; }
}
"""
