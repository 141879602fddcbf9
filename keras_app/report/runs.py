"""What run folders hold, and which of the runs differ only by their seed."""

import collections
import dataclasses
import json
import math
import pathlib
import re

DENSE = "dense"
SUMMARY = "summary.json"
_METRICS = "metrics.jsonl"
_CONFIG = "config.gin"


# Two runs are equal only if they are one: what they hold is no identity.
@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run; `figures` is {method: {name of a figure: value}}."""

    name: str
    summary: dict
    events: list
    figures: dict
    config: str | None
    finished: bool
    path: pathlib.Path | None = None

    @property
    def main(self):
        """The method that is the run's main result."""
        return self.summary.get("method") or next(iter(self.figures), "run")

    @property
    def methods(self):
        """All methods, those that have only begun too."""
        begun = [_method(event, self.main) for event in self.events]
        return list(dict.fromkeys([*self.figures, *begun]))

    def megabatches(self, method):
        rows = self.figures.get(method, {}).get("megabatches", [])
        return [row for row in rows if isinstance(row, dict)]

    def epochs(self, method):
        return [
            event
            for event in self.events
            if event.get("event") == "epoch"
            and _method(event, self.main) == method
        ]


def number(value):
    """A finite number, or `None` for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) else None


def has_run(folder):
    """Returns whether a folder holds a run, finished or not."""
    return any((folder / name).is_file() for name in (SUMMARY, _METRICS))


def load(folders, summaries):
    """`Run`s of folders; a summary that is `None` is read from its folder.

    Raises:
        ValueError: A folder holds no run, or a summary cannot be read.
    """
    short = [folder.resolve().name or str(folder) for folder in folders]
    runs = []
    for name, folder, summary in zip(short, folders, summaries):
        # Whole paths where names alone would be ambiguous.
        name = name if short.count(name) == 1 else str(folder)
        # Names that are no valid text still have to be drawn.
        name = name.encode("utf-8", "replace").decode()
        runs.append(_load(name, folder, summary))
    return runs


def _load(name, folder, summary):
    summary = _read_summary(folder / SUMMARY) if summary is None else summary
    log, config = folder / _METRICS, folder / _CONFIG
    if summary is None and not has_run(folder):
        raise ValueError(
            f"{folder} is no run folder: it holds neither {SUMMARY} nor "
            f"{_METRICS}"
        )
    events = _read_log(log) if log.is_file() else []
    if summary is None:
        figures = _figures_so_far(events)
    elif isinstance(summary.get("methods"), dict):
        figures = summary["methods"]
    else:
        figures = {str(summary.get("method") or "run"): summary}
    return Run(
        name=name,
        summary=summary or {},
        events=events,
        figures=figures,
        config=config.read_text() if config.is_file() else None,
        finished=summary is not None,
        path=folder,
    )


def _read_summary(path):
    if not path.is_file():
        return None
    try:
        summary = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(summary, dict):
        raise ValueError(f"{path} cannot be read: it holds no JSON object")
    return summary


def _read_log(path):
    events = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            # A run that is being written, or was killed, ends in mid-line.
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def _method(event, default):
    return str(event.get("method") or default)


def _figures_so_far(events):
    """What a summary would say if the run ended here."""
    rows = collections.defaultdict(list)
    for event in events:
        if event.get("event") == "megabatch":
            rows[_method(event, "run")].append(event)
    names = {
        "accuracy": "test_accuracy",
        "effective_density": "density",
        "density_all": "density_all",
        "generalization_gap": "generalization_gap_last",
        "generalization_gap_best": "generalization_gap_best",
    }
    sums = {
        "cer": "misclassified",
        "cumulative_kept_parameters": "kept_parameters",
        "cumulative_training_examples": "training_examples",
        "cumulative_forward_flops": "forward_flops",
        "cumulative_forward_flops_sparse": "forward_flops_sparse",
    }
    figures = {}
    for method, seen in rows.items():
        values = {key: seen[-1].get(name) for key, name in names.items()}
        for key, name in sums.items():
            parts = [number(row.get(name)) for row in seen]
            values[key] = None if None in parts else sum(parts)
        figures[method] = {**values, "megabatches": seen}
    return figures


def groups(runs):
    """Finished runs by settings: `[[run, ...], ...]`, each of equal ones."""
    equal = collections.defaultdict(list)
    for run in runs:
        if run.finished:
            equal[_settings(run)].append(run)
    found = []
    for group in equal.values():
        seeds = {run.summary.get("seed") for run in group}
        # The same seed twice is no second observation.
        several = len(seeds) == len(group)
        found += [group] if several else [[run] for run in group]
    return found


def _settings(run):
    """What two runs must share to differ only by their seed."""
    if run.config is not None:
        lines = [line.strip() for line in run.config.splitlines()]
        return tuple(
            line for line in lines if not re.match(r"[\w./@]*\bseed\s*=", line)
        )
    if run.summary.get("settings"):
        told = [run.summary.get("experiment"), run.summary["settings"]]
    else:
        known = {key for figures in run.figures.values() for key in figures}
        known |= {"seconds", "missed", "methods"}
        plain = {k: v for k, v in run.summary.items() if k not in known}
        told = [plain, run.methods, run.summary.get("level")]
    return json.dumps(_without_seeds(told), sort_keys=True, default=str)


def _without_seeds(value):
    if isinstance(value, dict):
        return {k: _without_seeds(v) for k, v in value.items() if k != "seed"}
    if isinstance(value, (list, tuple)):
        return [_without_seeds(part) for part in value]
    return value
