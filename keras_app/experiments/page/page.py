"""The run page: what came of one run, or of several, in one HTML file.

Run folders are read, their figures compared, and put into sections, which the
template shows. Every section is there only where its data are, so that an
experiment this module has never heard of still gets its numbers and its curves.
"""

import functools
import os
import pathlib

from keras_app import files
from keras_app.experiments.page import compressed
from keras_app.experiments.page import conclusion
from keras_app.experiments.page import discovered
from keras_app.experiments.page import epochs
from keras_app.experiments.page import exports
from keras_app.experiments.page import front
from keras_app.experiments.page import megabatches
from keras_app.experiments.page import results
from keras_app.experiments.page import runs as runs_lib
from keras_app.experiments.page import tickets
from keras_app.experiments.page import wording

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
        The path of the page.

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
    folders = [files.path(folder) for folder in run_dirs]
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
    path = files.path(path) if path else default_path(folders)
    files.write_bytes(path, _page(runs, notes).encode("utf-8", "replace"))
    return path


def default_path(folders):
    """Where the page of run folders goes: never over that of one of several."""
    if len(folders) == 1:
        return folders[0] / PAGE
    parents = [folder.resolve().parent for folder in folders]
    shared = files.common_folder(parents)
    if shared is None:
        raise ValueError(
            "`run_dirs` must share a bucket, or a disk, unless the place of "
            f"the page is said. Received: {', '.join(map(str, folders))}"
        )
    return shared / COMPARISON


# In the order of the page.
_SECTIONS = (
    results.section,
    compressed.section,
    front.section,
    tickets.section,
    tickets.examples,
    tickets.rounds,
    discovered.section,
    megabatches.section,
    megabatches.layers,
    epochs.section,
    exports.section,
    megabatches.in_numbers,
)


def _page(runs, notes):
    sections = [section(runs) for section in _SECTIONS]
    return _template().render(
        title=wording.title(runs),
        runs=runs,
        statements=[(run.name, wording.statement(run)) for run in runs],
        warnings=_warnings(runs, notes),
        conclusions=conclusion.conclusions(runs),
        sections=[section for section in sections if not section.is_empty],
        versions=_versions(runs),
    )


@functools.cache
def _template():
    # Here: experiments import this module, and write their page at the end.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.j2")


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
