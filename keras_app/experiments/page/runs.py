"""What run folders hold, and which of the runs differ only by their seed."""

import collections
import dataclasses
import functools
import json
import math
import os
import pathlib
import re

from keras_app.export import export_report

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

    @functools.cached_property
    def dense(self):
        """The method that trained without any zeros, or `None`."""
        if DENSE in self.methods:
            return DENSE
        return next((m for m in self.methods if self._has_no_zeros(m)), None)

    def _has_no_zeros(self, method):
        figures = self.figures.get(method, {})
        names = ("initial_density", "effective_density")
        seen = [number(figures.get(name)) for name in names]
        if None in seen:
            return False
        seen += [number(e.get(names[1])) for e in self.epochs(method)]
        # A kernel may hold a zero by chance.
        return all(value is None or value > 0.9995 for value in seen)

    def megabatches(self, method):
        rows = self.figures.get(method, {}).get("megabatches", [])
        names = {
            "target_sparsity": "target_density",
            "sparsity": "density",
            "sparsity_all": "density_all",
        }
        return [
            {**{new: _rest(row.get(old)) for new, old in names.items()}, **row}
            for row in rows
            if isinstance(row, dict)
        ]

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


def finite(values):
    """Those of the numbers that are finite."""
    return [value for value in values if math.isfinite(value)]


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
    if DENSE not in figures:
        figures = {**figures, **_first_round(figures)}
    parameters = ((summary or {}).get("settings") or {}).get("parameters")
    known = {
        method: {
            **told,
            **_zeros(told, parameters),
            **_bytes(folder, method, i == 0),
        }
        for i, (method, told) in enumerate(figures.items())
        if isinstance(told, dict)
    }
    return Run(
        name=name,
        summary=summary or {},
        events=events,
        figures=known,
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
    for event in events:
        if number(event.get("effective_density")) is not None:
            keys = ("effective_density", "sparsity_all")
            found = {key: event.get(key) for key in keys}
            figures[_method(event, "run")] = found
    for method, seen in rows.items():
        values = {key: seen[-1].get(name) for key, name in names.items()}
        for key, name in sums.items():
            parts = [number(row.get(name)) for row in seen]
            values[key] = None if None in parts else sum(parts)
        figures[method] = {**values, "megabatches": seen}
    return figures


def _first_round(figures):
    """The dense network that a search for tickets begins with, if whole."""
    for told in figures.values():
        rounds = told.get("rounds") if isinstance(told, dict) else None
        for row in rounds if isinstance(rounds, list) else ():
            accuracy = number(row.get("test_accuracy"))
            whole = row.get("density") == 1 and not row.get("stopped_early")
            if whole and accuracy is not None:
                return {DENSE: {"accuracy": accuracy, "effective_density": 1.0}}
    return {}


def _zeros(told, parameters):
    """Zeros of the prunable weights and of the whole model, where known.

    `parameters` are the weights of the model, whose zeros `sparsity_all`
    counts.
    """
    found = {
        "sparsity": _rest(told.get("effective_density")),
        "initial_sparsity": _rest(told.get("initial_density")),
        "sparsity_all": number(told.get("sparsity_all")),
    }
    share = found["sparsity_all"]
    if share is not None and number(parameters) is not None:
        found["parameters"] = parameters
        found["zeros"] = round(share * parameters)
    elif share is None:
        found.update(_zeros_by_masks(told))
    return {key: value for key, value in found.items() if value is not None}


def _zeros_by_masks(told):
    """What older runs have instead: the weights that the masks keep."""
    found = {"sparsity_all": _rest(told.get("density_all"))}
    if found["sparsity_all"] is None and told.get("effective_density") == 1:
        found["sparsity_all"] = 0.0
    rows = told.get("megabatches")
    last = rows[-1] if isinstance(rows, list) and rows else {}
    kept, share = (
        number(last.get(k)) for k in ("kept_parameters", "density_all")
    )
    if kept and share:
        found["parameters"] = round(kept / share)
        found["zeros"] = found["parameters"] - kept
    return found


def _rest(density):
    density = number(density)
    return None if density is None else 1.0 - density


def _bytes(folder, method, main):
    """What the method's model takes on disk, and sparse if it was exported."""
    name = "model.keras" if main else f"model_{method}.keras"
    # A method's name may hold anything.
    path = folder / name if os.path.basename(name) == name else None
    found = {}
    if path is not None and path.is_file():
        found["model_bytes"] = path.stat().st_size
    for report in export_report.read(folder) if main else ():
        if report.format == "sparse":
            found["sparse_bytes"] = report.bytes
            if report.dense_bytes is not None:
                found["dense_bytes"] = report.dense_bytes
    return found


def settings(runs):
    """All runs by settings, the unfinished each alone."""
    unfinished = [[run] for run in runs if not run.finished]
    return [*groups(runs), *unfinished]


def group_name(group):
    """One name for equal runs: what their names share, or all of them."""
    names = [run.name for run in group]
    if len(names) == 1:
        return names[0]
    start = os.path.commonprefix(names)
    rest = [name[len(start) :] for name in names]
    end = os.path.commonprefix([name[::-1] for name in rest])[::-1]
    if len(start) + len(end) < 3:
        return ", ".join(names)
    inner = sorted(name[: len(name) - len(end)] for name in rest)
    return f"{start}{{{','.join(inner)}}}{end}"


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
