"""What a sweep folder holds for the page that shows its runs."""

import json

from keras_app import files
from keras_app.experiments.page.runs import has_run

SWEEP = "sweep.json"


def folders_and_notes(sweep_dir):
    """Returns the folders of a sweep's runs, and what to say of the others.

    Args:
        sweep_dir: A folder with `sweep.json`.

    Returns:
        `(folders, notes)`: those that hold a run, finished or not, and a
        sentence for each run that failed or has not begun.

    Raises:
        ValueError: `sweep.json` cannot be read.
    """
    sweep_dir = files.path(sweep_dir)
    try:
        runs = json.loads((sweep_dir / SWEEP).read_text())["runs"]
        told = [(run["label"], run["status"], run["message"]) for run in runs]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{sweep_dir / SWEEP} cannot be read: {error}"
        ) from error
    folders, notes = [], []
    for label, status, message in told:
        if has_run(sweep_dir / label):
            folders.append(sweep_dir / label)
        elif status == "waiting":
            notes.append(f"{label} has not begun")
        if status == "failed":
            notes.append(f"{label} failed: {message}")
    return folders, notes
