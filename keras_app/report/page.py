"""The run page: what came of one run, or of several, in one HTML file.

Every section shows itself only where its data are there, so that an experiment
this module has never heard of still gets its numbers and its curves.
"""

import base64
import collections
import dataclasses
import html
import io
import json
import math
import os
import pathlib
import re
import statistics

PAGE = "report.html"

_SUMMARY = "summary.json"
_METRICS = "metrics.jsonl"
_CONFIG = "config.gin"
_DENSE = "dense"


def write_page(run_dirs, path=None, summaries=None):
    """Writes one HTML file about one run, or about several side by side.

    The file stands alone: figures are embedded, nothing is loaded from
    elsewhere. A run without a summary (still going, or killed) is shown from
    its log and marked as unfinished. Runs that differ only by their seed also
    get rows with mean and standard deviation.

    Args:
        run_dirs: A run folder, or a list of them.
        path: File to write, replaced in one step. Defaults to `report.html`
            in the first run folder.
        summaries: What `summary.json` holds, a dict for each of `run_dirs`,
            where it is loaded already. Defaults to reading the files.

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
    names = _names(folders)
    runs = [_load(*known) for known in zip(names, folders, summaries)]
    path = pathlib.Path(path) if path else folders[0] / PAGE
    temporary = path.with_name(f".writing-{path.name}")
    try:
        temporary.write_bytes(_page(runs).encode("utf-8", "replace"))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


# ---- reading a run ---------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Run:
    """One run; `figures` is {method: {name of a figure: value}}."""

    name: str
    summary: dict
    events: list
    figures: dict
    config: str | None
    finished: bool

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


def _method(event, default):
    return str(event.get("method") or default)


def _names(folders):
    """Folder names; whole paths where these alone would be ambiguous."""
    short = [folder.resolve().name or str(folder) for folder in folders]
    names = [
        name if short.count(name) == 1 else str(folder)
        for name, folder in zip(short, folders)
    ]
    # Names that are no valid text still have to be drawn.
    return [name.encode("utf-8", "replace").decode() for name in names]


def _load(name, folder, summary):
    if summary is None:
        summary = _read_summary(folder)
    log, config = folder / _METRICS, folder / _CONFIG
    if summary is None and not log.is_file():
        raise ValueError(
            f"{folder} is no run folder: it holds neither {_SUMMARY} nor "
            f"{_METRICS}"
        )
    events = _read_log(log) if log.is_file() else []
    finished = summary is not None
    summary = dict(summary or {})
    if not finished:
        figures = _figures_so_far(events)
    elif isinstance(summary.get("methods"), dict):
        figures = summary["methods"]
    else:
        figures = {str(summary.get("method") or "run"): summary}
    return _Run(
        name=name,
        summary=summary,
        events=events,
        figures=figures,
        config=config.read_text() if config.is_file() else None,
        finished=finished,
    )


def _read_summary(folder):
    path = folder / _SUMMARY
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
            parts = [_number(row.get(name)) for row in seen]
            values[key] = None if None in parts else sum(parts)
        figures[method] = {**values, "megabatches": seen}
    return figures


def _settings(run):
    """What two runs must share to differ only by their seed."""
    if run.config is not None:
        lines = [line.strip() for line in run.config.splitlines()]
        return tuple(
            line for line in lines if not re.match(r"[\w./@]*\bseed\s*=", line)
        )
    known = {key for figures in run.figures.values() for key in figures}
    results = {"seed", "seconds", "missed", "methods", *known}
    plain = {k: v for k, v in run.summary.items() if k not in results}
    methods = [run.methods, run.summary.get("level")]
    return json.dumps([plain, methods], sort_keys=True, default=str)


def _groups(runs):
    """Finished runs by settings: `[[run, ...], ...]`, each of equal ones."""
    groups = collections.defaultdict(list)
    for run in runs:
        if run.finished:
            groups[_settings(run)].append(run)
    # The same seed twice is no second observation.
    return [
        part
        for group in groups.values()
        for part in (
            [group]
            if len({run.summary.get("seed") for run in group}) == len(group)
            else [[run] for run in group]
        )
    ]


# ---- numbers ---------------------------------------------------------------

_SPACE = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"
_NOTHING = "\N{EN DASH}"
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def _number(value):
    """A finite number, or `None` for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) else None


def _fixed(value, digits):
    text = f"{abs(value):,.{digits}f}"
    negative = value < 0 and float(text.replace(",", "")) != 0
    return (_MINUS if negative else "") + text


def _with_spread(value, spread, digits):
    text = _fixed(value, digits)
    return text if spread is None else f"{text} ± {_fixed(spread, digits)}"


def _percent(value, spread=None):
    spread = None if spread is None else 100 * spread
    return _with_spread(100 * value, spread, 1) + _SPACE + "%"


def _points(value, spread=None):
    return _with_spread(value, spread, 1)


def _count(value, spread=None):
    if abs(value) >= 1e6:
        return _large(value, spread)
    whole = spread is None and float(value).is_integer()
    return _with_spread(value, spread, 0 if whole else 1)


def _large(value, spread=None):
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            spread = None if spread is None else spread / size
            text = _with_spread(value / size, spread, 2)
            return text + _SPACE + prefix
    return _with_spread(value, spread, 0)


def _plain(value, spread=None):
    return _with_spread(value, spread, 0 if isinstance(value, int) else 4)


def _signed(value, digits=0):
    text = _fixed(value, digits)
    return text if value <= 0 or not re.search("[1-9]", text) else "+" + text


def _by_points(value, dense):
    return _signed(100 * (value - dense), 1)


def _by_points_of_gap(value, dense):
    return _signed(value - dense, 1)


def _by_count(value, dense):
    return _signed(value - dense, 0 if float(value - dense).is_integer() else 1)


def _by_share(value, dense):
    return _percent(value / dense) + " of dense" if dense else ""


@dataclasses.dataclass(frozen=True)
class _Figure:
    """One headline number: its words, its format, its comparison to dense."""

    key: str
    label: str
    note: str
    show: object
    compare: object = None
    best: object = None


_FIGURES = (
    _Figure(
        "accuracy",
        "Test accuracy",
        "at the end; higher is better",
        _percent,
        _by_points,
        max,
    ),
    _Figure(
        "cer",
        "CER",
        "misclassified test examples, summed over the megabatches; lower is "
        "better",
        _count,
        _by_count,
        min,
    ),
    _Figure(
        "mean_error_rate",
        "Mean error rate",
        "over the megabatches; lower is better",
        _percent,
        _by_points,
        min,
    ),
    _Figure(
        "generalization_gap",
        "Gap, last epoch",
        "training minus validation accuracy in points, last megabatch",
        _points,
        _by_points_of_gap,
    ),
    _Figure(
        "generalization_gap_best",
        "Gap, best epoch",
        "the same at the epoch with the best validation accuracy",
        _points,
        _by_points_of_gap,
    ),
    _Figure(
        "mean_generalization_gap",
        "Gap, mean",
        "last epochs, over the megabatches",
        _points,
        _by_points_of_gap,
    ),
    _Figure(
        "effective_density",
        "Density, prunable",
        "share of the prunable kernels that is kept",
        _percent,
    ),
    _Figure(
        "density_all",
        "Density, all",
        "share of all parameters that is kept",
        _percent,
    ),
    _Figure(
        "cumulative_kept_parameters",
        "Kept parameters",
        "summed over the megabatches",
        _count,
        _by_share,
    ),
    _Figure(
        "cumulative_training_examples",
        "Training examples",
        "seen, all epochs and megabatches",
        _count,
        _by_share,
    ),
    _Figure(
        "cumulative_forward_flops",
        "Forward FLOPs",
        "in training, as a dense network computes",
        _large,
        _by_share,
    ),
    _Figure(
        "cumulative_forward_flops_sparse",
        "Forward FLOPs, kept",
        "the same, without those of pruned weights: a count, not a time",
        _large,
        _by_share,
    ),
)


def _shown_figures(runs):
    """The known figures that any method has, then those nobody described."""
    found = {}
    for run in runs:
        for figures in run.figures.values():
            for key, value in figures.items():
                if _number(value) is not None:
                    found[key] = value
        if run.figures and run.summary in run.figures.values():
            # A summary without methods: its settings are not its results.
            for key in ("seed", "seconds", "epochs", "num_megabatches"):
                found.pop(key, None)
    known = [figure for figure in _FIGURES if figure.key in found]
    extra = sorted(set(found) - {figure.key for figure in _FIGURES})
    return known + [_Figure(key, key, "", _plain) for key in extra]


# ---- words -----------------------------------------------------------------

_LABELS = {
    "app": "APP",
    "one_shot": "one-shot",
    "dense": "dense",
    "app_reference": "APP reference",
}
_PHRASES = {
    "one_shot": "one-shot pruning",
    "dense": "the dense network",
    "app_reference": "the APP reference",
}


def _label(method):
    return _LABELS.get(method, method)


def _phrase(method):
    return _PHRASES.get(method, _label(method))


def _listed(words):
    words = list(words)
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + " and " + words[-1]


def _capital(text):
    return text[:1].upper() + text[1:]


def _mean(values):
    return sum(values) / len(values)


class _Comparison:
    """What one run, or equal runs with several seeds, say in words."""

    def __init__(self, runs):
        self.runs = runs
        methods = [m for m in runs[0].figures if m in runs[0].methods]
        main = runs[0].main
        pruned = [m for m in methods if m != _DENSE]
        if main == _DENSE and pruned:
            main = pruned[0]
        others = [m for m in methods if m != main]
        self.subject = main
        self.others = sorted(others, key=lambda method: method != _DENSE)
        self.methods = methods

    def values(self, method, key):
        """One number per run; empty if any run lacks it."""
        values = [
            _number(run.figures.get(method, {}).get(key)) for run in self.runs
        ]
        return [] if None in values else values

    def sentences(self):
        found = [self.against(other) for other in self.others]
        found += [self.winners(), self.cost(), self.chance()]
        return [sentence for sentence in found if sentence]

    def against(self, other):
        """The subject beside one other method."""
        parts = [self.accuracy_against(other), self.cer_against(other)]
        parts = [part for part in parts if part]
        if not parts:
            return ""
        return _capital(_phrase(self.subject)) + " " + "; ".join(parts) + "."

    def accuracy_against(self, other):
        ours = self.values(self.subject, "accuracy")
        theirs = self.values(other, "accuracy")
        if not ours or not theirs:
            return ""
        differences = [100 * (a - b) for a, b in zip(ours, theirs)]
        difference = _mean(differences)
        size = _fixed(abs(difference), 1)
        side = "below" if difference < 0 else "above"
        where = f"{size} points {side}"
        if size == "0.0":
            where = "level with"
        text = (
            f"ends {where} {_phrase(other)} ({_percent(_mean(ours))} against "
            f"{_percent(_mean(theirs))})"
        )
        text += self.density_against(other)
        if len(differences) > 1 and size == "0.0":
            text += f" on average over {len(differences)} seeds"
        elif len(differences) > 1:
            same = sum(1 for d in differences if d * difference > 0)
            text += (
                f" on average over {len(differences)} seeds, {side} it in "
                f"{same} of them, with a standard deviation of the difference "
                f"of {_fixed(statistics.stdev(differences), 1)} points"
            )
        return text

    def density_against(self, other):
        ours = self.values(self.subject, "effective_density")
        theirs = self.values(other, "effective_density")
        if not ours or not theirs:
            return ""
        ours, theirs = _percent(_mean(ours)), _percent(_mean(theirs))
        if ours == theirs:
            return f" at the same density of {ours}"
        text = f" with {ours} of the prunable weights"
        return text if other == _DENSE else f"{text} against {theirs}"

    def cer_against(self, other):
        ours, theirs = (
            self.values(self.subject, "cer"),
            self.values(other, "cer"),
        )
        if not ours or not theirs:
            return ""
        ours, theirs = _mean(ours), _mean(theirs)
        numbers = f"({_count(ours)} against {_count(theirs)})"
        if ours == theirs:
            return f"its CER is the same {numbers}"
        size = _count(abs(ours - theirs))
        if ours < theirs:
            return f"its CER is better, lower by {size} {numbers}"
        return f"its CER is worse, higher by {size} {numbers}"

    def winners(self):
        """Which method comes first, by each figure that has a direction."""
        found = []
        for key, words, show, best in (
            ("accuracy", "Highest final accuracy", _percent, max),
            ("cer", "Lowest CER", _count, min),
        ):
            means = {m: self.values(m, key) for m in self.methods}
            means = {m: _mean(v) for m, v in means.items() if v}
            if len(means) > 1:
                top = best(means.values())
                names = [_label(m) for m, v in means.items() if v == top]
                found.append(f"{words}: {_listed(names)} ({show(top)}).")
        return " ".join(found)

    def cost(self):
        key = "cumulative_forward_flops_sparse"
        dense = self.values(_DENSE, key)
        if not dense or not _mean(dense):
            return ""
        shares = [
            f"{_label(method)} {_percent(_mean(values) / _mean(dense))}"
            for method in self.methods
            if method != _DENSE and (values := self.values(method, key))
        ]
        if not shares:
            return ""
        return (
            "Forward operations in training, counting kept weights only, "
            f"relative to dense: {', '.join(shares)}."
        )

    def chance(self):
        """How large a difference one test set and one seed can make."""
        examples = _number(self.runs[0].summary.get("test_examples"))
        ours = self.values(self.subject, "accuracy")
        if len(self.runs) > 1 or not examples or not ours or not self.others:
            return ""
        within, largest = [], 0.0
        for other in self.others:
            theirs = self.values(other, "accuracy")
            if not theirs:
                continue
            p = (ours[0] + theirs[0]) / 2
            # Two standard errors of a difference of two proportions, taken as
            # independent; they share the test set, so this is on the safe side.
            limit = 2 * math.sqrt(2 * p * (1 - p) / examples)
            largest = max(largest, limit)
            if abs(ours[0] - theirs[0]) < limit:
                within.append(_phrase(other))
        text = (
            f"With {_count(examples)} test examples and one seed, a difference "
            f"in final accuracy below about {_fixed(100 * largest, 1)} points "
            "can be chance"
        )
        if within:
            verb = "is" if len(within) == 1 else "are"
            noun = "difference" if len(within) == 1 else "differences"
            return f"{text}; the {noun} to {_listed(within)} {verb} that small."
        return text + "." if largest else ""


def _statement(run):
    """One sentence on what was run."""
    summary = run.summary
    text = _listed(_label(method) for method in run.methods)
    text = _capital(text) or "Nothing yet"
    if summary.get("data"):
        text += f" on {summary['data']}"
    if summary.get("model"):
        text += f", model {summary['model']}"
    parts = []
    megabatches, epochs = summary.get("num_megabatches"), summary.get("epochs")
    if megabatches and epochs:
        parts.append(
            f"{_several(megabatches, 'megabatch', 'megabatches')} of "
            f"{_several(epochs, 'epoch', 'epochs')} each"
        )
    elif epochs:
        parts.append(_several(epochs, "epoch", "epochs"))
    if _number(summary.get("level")) is not None:
        level = f"level {summary['level']:g}"
        if _number(summary.get("target_density")) is not None:
            level += f" (target density {_percent(summary['target_density'])})"
        parts.append(level)
    if summary.get("test_examples"):
        parts.append(f"{_count(summary['test_examples'])} test examples")
    if summary.get("seed") is not None:
        parts.append(f"seed {summary['seed']}")
    if _number(summary.get("seconds")) is not None:
        parts.append(f"{_duration(summary['seconds'])}")
    if not run.finished:
        parts.append("unfinished")
    return text + (": " if parts else "") + ", ".join(parts) + "."


def _several(number, one, many):
    return f"{number} {one if number == 1 else many}"


def _duration(seconds):
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def _versions(run):
    versions = dict(run.summary.get("versions") or {})
    backend = versions.pop("backend", None)
    text = " · ".join(f"{name} {value}" for name, value in versions.items())
    return f"{backend} backend · {text}" if backend else text


def _unfinished(run):
    epochs = sum(len(run.epochs(method)) for method in run.methods)
    rows = []
    for method in run.methods:
        number = len(run.megabatches(method))
        rows.append(
            f"{_label(method)} {_several(number, 'megabatch', 'megabatches')}"
        )
    done = f" ({', '.join(rows)})" if rows else ""
    return (
        f"{run.name} is unfinished: it has no {_SUMMARY}. Shown is what its "
        f"log holds so far, {_several(epochs, 'epoch', 'epochs')}{done}. "
        "Methods that have not come equally far cannot be compared."
    )


# ---- the page --------------------------------------------------------------


def _page(runs):
    title = _title(runs)
    sections = [
        _warnings(runs),
        _conclusion(runs),
        _results(runs),
        _over_megabatches(runs),
        _over_layers(runs),
        _over_epochs(runs),
        _details(runs),
        _about(runs),
    ]
    names = ", ".join(run.name for run in runs)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(title)} – {_escape(names)}</title>\n"
        f"<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        f'<header>\n<p class="names">{_escape(names)}</p>\n'
        f"<h1>{_escape(title)}</h1>\n{_statements(runs)}</header>\n"
        + "".join(sections)
        + "</main>\n</body>\n</html>\n"
    )


def _escape(value):
    return html.escape(str(value), quote=True)


def _title(runs):
    kinds = dict.fromkeys(run.summary.get("experiment") for run in runs)
    data = dict.fromkeys(run.summary.get("data") for run in runs)
    kinds = [str(kind).replace("_", " ") for kind in kinds if kind]
    data = [str(name) for name in data if name]
    title = _capital(_listed(kinds)) or "Unfinished run"
    if data:
        title += f" on {_listed(data)}"
    return title if len(runs) == 1 else f"{title}, {len(runs)} runs"


def _statements(runs):
    if len(runs) == 1:
        return f"<p>{_escape(_statement(runs[0]))}</p>\n"
    items = "".join(
        f"<li><b>{_escape(run.name)}</b>: {_escape(_statement(run))}</li>\n"
        for run in runs
    )
    return f"<ul>{items}</ul>\n"


def _section(title, body, note=""):
    if not body:
        return ""
    note = f'<p class="note">{_escape(note)}</p>\n' if note else ""
    return f"<section>\n<h2>{_escape(title)}</h2>\n{note}{body}</section>\n"


def _warnings(runs):
    boxes = ""
    for run in runs:
        name = f"{run.name}: " if len(runs) > 1 else ""
        missed = run.summary.get("missed") or []
        if missed:
            items = "".join(f"<li>{_escape(text)}</li>" for text in missed)
            boxes += (
                '<div class="warning" role="alert"><b>'
                f"{_escape(name)}A pruner missed its target.</b> Judge the "
                f"numbers below with this in mind.<ul>{items}</ul></div>\n"
            )
        if not run.finished:
            boxes += f'<p class="warning">{_escape(_unfinished(run))}</p>\n'
    return boxes


def _conclusion(runs):
    body = ""
    for group in _groups(runs):
        sentences = _Comparison(group).sentences()
        if not sentences:
            continue
        if len(runs) > 1:
            names = _listed(run.name for run in group)
            body += f"<h3>{_escape(names)}</h3>\n"
        items = "".join(f"<li>{_escape(text)}</li>\n" for text in sentences)
        body += f'<ul class="conclusion">\n{items}</ul>\n'
    return _section("In short", body)


def _cell(figure, value, dense):
    """A number and, in small print, how it compares to the dense network."""
    value, dense = _number(value), _number(dense)
    if value is None:
        return _NOTHING
    text = f"<b>{_escape(figure.show(value))}</b>"
    if dense is not None and figure.compare:
        compared = _escape(figure.compare(value, dense))
        text += f"<small>{compared}</small>" if compared else ""
    return text


def _best(figure, values):
    values = [value for value in map(_number, values) if value is not None]
    return figure.best(values) if figure.best and len(values) > 1 else None


def _table(head, rows, label, name=""):
    """`rows` of `(class, cells)`, cells ready HTML; the first is a header."""
    cells = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = ""
    for row_name, (first, *rest) in rows:
        # A cell may come with a class of its own.
        rest = [
            cell if isinstance(cell, tuple) else (cell, "") for cell in rest
        ]
        body += f'<tr class="{row_name}"><th scope="row">{first}</th>'
        body += "".join(
            f'<td class="{mark}">{cell}</td>' if mark else f"<td>{cell}</td>"
            for cell, mark in rest
        )
        body += "</tr>\n"
    return (
        f'<div class="scroll {name}" tabindex="0" role="region" '
        f'aria-label="{_escape(label)}"><table>\n'
        f"<thead><tr>{cells}</tr></thead>\n<tbody>\n{body}</tbody>\n"
        "</table></div>\n"
    )


def _results(runs):
    figures = _shown_figures(runs)
    if not figures:
        return ""
    table = _result_of_one if len(runs) == 1 else _results_of_several
    note = ""
    if any(_DENSE in run.figures and run.finished for run in runs):
        note = "Small print: the difference to the dense network"
        note += " of the same run. " if len(runs) > 1 else ". "
    note += (
        "± is the standard deviation over seeds (n - 1). "
        if any(len(group) > 1 for group in _groups(runs))
        else ""
    )
    if any(len(run.figures) > 1 and run.finished for run in runs):
        note += "Green marks the best method of a run."
    title = "Results" if all(r.finished for r in runs) else "Results so far"
    return _section(title, table(runs, figures), note.strip())


def _result_of_one(runs, figures):
    """Figures down, methods across: it fits a phone, and explains itself."""
    (run,) = runs
    rows = []
    for figure in figures:
        values = [f.get(figure.key) for f in run.figures.values()]
        best = _best(figure, values) if run.finished else None
        dense = run.figures.get(_DENSE, {}).get(figure.key)
        # Half a method compared to a whole one would mislead.
        dense = dense if run.finished else None
        cells = [
            (
                _cell(figure, value, None if method == _DENSE else dense),
                "best" if best is not None and value == best else "",
            )
            for method, value in zip(run.figures, values)
        ]
        note = f"<small>{_escape(figure.note)}</small>" if figure.note else ""
        rows.append(("", [_escape(figure.label) + note, *cells]))
    head = ["", *(_escape(_label(method)) for method in run.figures)]
    return _table(head, rows, "Results per method")


def _results_of_several(runs, figures):
    rows = []
    for group in _groups(runs):
        if len(group) > 1:
            rows += _rows_over_seeds(group, figures)
    for run in runs:
        mark = "" if run.finished else ' <span class="tag">unfinished</span>'
        # Half a method compared to a whole one would mislead.
        dense = run.figures.get(_DENSE, {}) if run.finished else {}
        for method, values in run.figures.items():
            cells = []
            for figure in figures:
                column = [f.get(figure.key) for f in run.figures.values()]
                best = _best(figure, column) if run.finished else None
                value = values.get(figure.key)
                base = None if method == _DENSE else dense.get(figure.key)
                mark_best = best is not None and value == best
                text = _cell(figure, value, base)
                cells.append((text, "best" if mark_best else ""))
            first = method == next(iter(run.figures))
            name = f"{_escape(run.name)}{mark}, {_escape(_label(method))}"
            rows.append(("first" if first else "", [name, *cells]))
    head = [
        "run, method",
        *(
            f'<abbr title="{_escape(f.note)}">{_escape(f.label)}</abbr>'
            if f.note
            else _escape(f.label)
            for f in figures
        ),
    ]
    return _table(head, rows, "Results per run and method", "several")


def _rows_over_seeds(group, figures):
    comparison = _Comparison(group)
    rows = []
    for method in comparison.methods:
        cells = []
        for figure in figures:
            values = comparison.values(method, figure.key)
            text = _NOTHING
            if values:
                spread = statistics.stdev(values)
                text = f"<b>{_escape(figure.show(_mean(values), spread))}</b>"
                dense = comparison.values(_DENSE, figure.key)
                if dense and method != _DENSE and figure.compare:
                    compared = figure.compare(_mean(values), _mean(dense))
                    text += f"<small>{_escape(compared)}</small>"
            cells.append(text)
        name = (
            f"{_escape(_label(method))}, mean of {len(group)} seeds"
            f"<small>{_escape(', '.join(run.name for run in group))}</small>"
        )
        rows.append(("mean first" if not rows else "mean", [name, *cells]))
    return rows


def _over_megabatches(runs):
    gaps = (
        "Training minus validation accuracy, in points. Training accuracy is "
        "taken while the epoch runs, so that early gaps can be negative."
    )
    limits = _limits(
        runs, ("generalization_gap_last", "generalization_gap_best")
    )
    charts = [
        _line_chart(
            runs,
            "Test accuracy",
            "After each megabatch, with the weights of the best epoch.",
            "test_accuracy",
            "test accuracy (%)",
            scale=100,
        ),
        _line_chart(
            runs,
            "Density",
            "Share of the prunable kernels that is kept: line and marks are "
            "what was achieved, dashes what was asked for.",
            "density",
            "density (%)",
            scale=100,
            target="target_density",
            limits=(0, 105),
        ),
        _line_chart(
            runs,
            "Generalization gap, last epoch",
            gaps,
            "generalization_gap_last",
            "points",
            limits=limits,
            zero=True,
        ),
        _line_chart(
            runs,
            "Generalization gap, best epoch",
            "The same at the epoch with the best validation accuracy, whose "
            "weights are kept.",
            "generalization_gap_best",
            "points",
            limits=limits,
            zero=True,
        ),
        _line_chart(
            runs,
            "Misclassified",
            "Test examples that are wrong after each megabatch.",
            "misclassified",
            "test examples",
        ),
        _line_chart(
            runs,
            "CER so far",
            "The same, summed up from the first megabatch; lower is better.",
            "misclassified",
            "test examples",
            cumulative=True,
        ),
        _line_chart(
            runs,
            "CER so far, beside dense",
            "The same, less that of the dense network of the same run: below "
            "zero is better than dense.",
            "misclassified",
            "test examples",
            cumulative=True,
            zero=True,
            beside=_DENSE,
        ),
    ]
    return _section("Megabatch by megabatch", _grid(charts))


def _grid(charts):
    charts = "".join(charts)
    return f'<div class="grid">\n{charts}</div>\n' if charts else ""


def _folded(title, body):
    if not body:
        return ""
    return f"<details><summary>{_escape(title)}</summary>\n{body}</details>\n"


def _over_layers(runs):
    maps = [
        _layer_map(run, method, len(runs) > 1)
        for run in runs
        for method in run.methods
        if method != _DENSE
    ]
    maps = [chart for chart in maps if chart]
    body = _grid(maps)
    if len(maps) > 4:
        body = _folded(f"Show all {len(maps)} maps", body)
    return _section(
        "Layer by layer",
        body,
        "Density of each pruned kernel after each megabatch, in percent.",
    )


def _over_epochs(runs):
    charts = _epoch_charts(
        runs, "accuracy", "val_accuracy", "accuracy (%)", 100
    )
    more = _epoch_charts(runs, "loss", "val_loss", "loss", 1)
    for key in ("density", "effective_density", "sparsity"):
        charts += _epoch_charts(runs, key, None, f"{key} (%)", 100)
    body = _grid(charts)
    body += (
        _folded("Loss over all epochs", _grid(more)) if body else _grid(more)
    )
    return _section(
        "Epoch by epoch",
        body,
        "All epochs in order; a vertical line begins a megabatch.",
    )


_ROW_COLUMNS = (
    ("target_density", "target density", _percent),
    ("density", "density", _percent),
    ("kept_parameters", "kept parameters", _count),
    ("test_accuracy", "test accuracy", _percent),
    ("misclassified", "misclassified", _count),
    ("best_epoch", "best epoch", lambda value: _count(value + 1)),
    ("best_val_accuracy", "best val. accuracy", _percent),
    ("generalization_gap_last", "gap, last", _points),
    ("generalization_gap_best", "gap, best", _points),
    ("training_examples", "training examples", _count),
)


def _details(runs):
    body = ""
    for run in runs:
        rows = []
        for method in run.methods:
            for number, row in enumerate(run.megabatches(method)):
                cells = [f"{_escape(_label(method))} {number + 1}"]
                for key, _, show in _ROW_COLUMNS:
                    value = _number(row.get(key))
                    cells.append(
                        _NOTHING if value is None else _escape(show(value))
                    )
                rows.append(("first" if number == 0 else "", cells))
        if rows:
            head = ["megabatch", *(label for _, label, _ in _ROW_COLUMNS)]
            title = "Every megabatch in numbers"
            title += f": {run.name}" if len(runs) > 1 else ""
            body += _folded(title, _table(head, rows, title))
    return body


def _about(runs):
    lines = {}
    for run in runs:
        text = _versions(run)
        if text:
            lines.setdefault(text, []).append(run.name)
    body = "".join(
        f"<p>{_escape(text)}"
        + (f" ({_escape(_listed(names))})" if len(lines) > 1 else "")
        + "</p>\n"
        for text, names in lines.items()
    )
    return f"<footer>\n{body}</footer>\n" if body else ""


# ---- charts ----------------------------------------------------------------

# Okabe and Ito's colours, which stay apart for colour-blind readers, each with
# a mark of its own for print in grey. A method looks the same everywhere.
_LOOKS = {
    "app": ("#0072B2", "o"),
    "one_shot": ("#D55E00", "s"),
    "dense": ("#4d4d4d", "D"),
    "app_reference": ("#009E73", "^"),
}
_SPARE_LOOKS = (
    ("#CC79A7", "v"),
    ("#E69F00", "P"),
    ("#56B4E9", "X"),
    ("#0072B2", "<"),
    ("#D55E00", ">"),
    ("#009E73", "h"),
)
# Runs differ by their dashes.
_DASHES = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1.2)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (3, 3)),
    (0, (6, 1.5, 1, 1.5, 1, 1.5)),
)
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a8f98",
    "axes.grid": True,
    "axes.labelcolor": "#333333",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": "#e4e6ea",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    # The same page from the same numbers, byte for byte.
    "svg.hashsalt": "keras_app",
    # A run may be named "$x$": names are text, not mathematics.
    "text.parse_math": False,
    "text.usetex": False,
    "xtick.color": "#555b66",
    "ytick.color": "#555b66",
}


def _look(method, runs):
    if method in _LOOKS:
        return _LOOKS[method]
    names = dict.fromkeys(m for run in runs for m in run.methods)
    spare = [name for name in names if name not in _LOOKS]
    return _SPARE_LOOKS[spare.index(method) % len(_SPARE_LOOKS)]


def _short(name, length=28):
    name = name if len(name) <= length else name[: length - 1] + "…"
    # Matplotlib hides legend entries that begin with an underscore.
    return " " + name if name.startswith("_") else name


def _chart(title, note, alt, draw, height=3.1):
    """A figure element; `draw(figure, axes)` does the drawing."""
    import matplotlib
    from matplotlib.figure import Figure

    file = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, height), layout="constrained")
        draw(figure, figure.subplots())
        figure.savefig(file, format="svg", metadata={"Date": None})
    data = base64.b64encode(file.getvalue()).decode()
    note = f" <span>{_escape(note)}</span>" if note else ""
    return (
        f"<figure>\n<figcaption><b>{_escape(title)}</b>{note}</figcaption>\n"
        f'<img src="data:image/svg+xml;base64,{data}" alt="{_escape(alt)}">\n'
        "</figure>\n"
    )


def _legend(figure, runs, methods, extra=()):
    from matplotlib.lines import Line2D

    handles = []
    for method in methods:
        color, mark = _look(method, runs)
        label = _short(_label(method))
        handles.append(Line2D([], [], color=color, marker=mark, label=label))
    if len(runs) > 1:
        for run, dashes in zip(runs, _all_dashes(runs)):
            label = _short(run.name)
            handles.append(
                Line2D([], [], color="#777777", linestyle=dashes, label=label)
            )
    handles += [Line2D([], [], **look) for look in extra]
    columns = min(4 if len(runs) == 1 else 3, max(1, len(handles)))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        fontsize=8.5,
        columnspacing=1.4,
    )


def _all_dashes(runs):
    return [_DASHES[i % len(_DASHES)] for i in range(len(runs))]


def _series(run, method, key, scale, cumulative=False):
    """`(numbers of the megabatches from 1, values)` of what is known."""
    xs, ys, total = [], [], 0
    for index, row in enumerate(run.megabatches(method)):
        value = _number(row.get(key))
        if value is None:
            continue
        total += value
        number = _number(row.get("megabatch"))
        xs.append((index if number is None else number) + 1)
        ys.append(scale * (total if cumulative else value))
    return xs, ys


def _limits(runs, keys):
    """Common limits, so that neighbouring charts can be compared by eye."""
    values = [
        value
        for run in runs
        for method in run.methods
        for key in keys
        for value in _series(run, method, key, 1.0)[1]
    ]
    if not values:
        return None
    low, high = min(0, *values), max(0, *values)
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def _line_chart(
    runs,
    title,
    note,
    key,
    label,
    *,
    scale=1.0,
    cumulative=False,
    target=None,
    limits=None,
    zero=False,
    beside=None,
):
    """One line per run and method over the megabatches.

    With `target`, the name of another figure is drawn dashed; with `beside`,
    the values are differences to those of that method.
    """
    from matplotlib.ticker import MaxNLocator

    series = []
    for run, dashes in zip(runs, _all_dashes(runs)):
        for method in run.methods:
            xs, ys = _series(run, method, key, scale, cumulative)
            if beside:
                base = dict(zip(*_series(run, beside, key, scale, cumulative)))
                both = [(x, y - base[x]) for x, y in zip(xs, ys) if x in base]
                xs, ys = map(list, zip(*both)) if both else ([], [])
            if xs and method != beside:
                series.append((dashes, run, method, xs, ys))
    if not series:
        return ""
    methods = list(dict.fromkeys(line[2] for line in series))
    groups = [group for group in _groups(runs) if len(group) > 1]

    def draw(figure, axes):
        for dashes, run, method, xs, ys in series:
            color, mark = _look(method, runs)
            asked = _series(run, method, target, scale) if target else None
            one_of_many = any(run is other for g in groups for other in g)
            axes.plot(
                xs,
                ys,
                color=color,
                marker="" if one_of_many else mark,
                linestyle=dashes,
                # Under its dashed target, or its mean, a line steps back.
                alpha=0.45 if asked or one_of_many else 1.0,
                linewidth=1.0 if one_of_many else 3.0 if asked else 1.6,
                clip_on=False,
            )
            if asked:
                axes.plot(*asked, color=color, linestyle=(0, (4, 2)), lw=1.2)
        for group, dashes in zip(groups, _all_dashes(groups)):
            for method in methods:
                color, mark = _look(method, runs)
                mean = _mean_line(group, method, series)
                axes.plot(*mean, color=color, marker=mark, ls=dashes, lw=2.2)
        if zero:
            axes.axhline(0, color="#8a8f98", linewidth=0.8, zorder=1)
        if limits:
            axes.set_ylim(*limits)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("megabatch")
        axes.set_ylabel(label)
        extra = []
        if target:
            extra = [{"color": "#777777", "ls": (0, (4, 2)), "label": "target"}]
        for group, dashes in zip(groups, _all_dashes(groups)):
            name = _short("mean of " + ", ".join(run.name for run in group))
            look = {"color": "#333333", "ls": dashes, "lw": 2.2, "label": name}
            extra.append(look)
        _legend(figure, runs, methods, extra)

    ends = [
        (f"{run.name}, " if len(runs) > 1 else "")
        + f"{_label(method)} from {_fixed(ys[0], 1)} to {_fixed(ys[-1], 1)}"
        for _, run, method, xs, ys in series
    ]
    alt = f"Line chart, {title.lower()}, {label}: {'; '.join(ends)}."
    return _chart(title, note, alt, draw)


def _mean_line(group, method, series):
    """The mean over equal runs, where all of them have a value."""
    values = collections.defaultdict(list)
    for _, run, name, xs, ys in series:
        if name == method and any(run is other for other in group):
            for x, y in zip(xs, ys):
                values[x].append(y)
    xs = sorted(x for x in values if len(values[x]) == len(group))
    return xs, [_mean(values[x]) for x in xs]


def _layer_map(run, method, with_name):
    rows = [
        row
        for row in run.megabatches(method)
        if isinstance(row.get("layers"), dict) and row["layers"]
    ]
    if not rows:
        return ""
    layers = list(rows[0]["layers"])
    table = [
        [100 * (_number(row["layers"].get(name)) or 0.0) for row in rows]
        for name in layers
    ]

    def draw(figure, axes):
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        image = axes.imshow(
            table, cmap="Blues", vmin=0, vmax=100, aspect="auto"
        )
        step = math.ceil(len(rows) / 12)
        axes.set_xticks(
            range(0, len(rows), step), range(1, len(rows) + 1, step)
        )
        axes.set_yticks(range(len(layers)), [_short(name) for name in layers])
        axes.set_xlabel("megabatch")
        if len(rows) > 12:
            figure.colorbar(image, ax=axes)
            return
        for y, values in enumerate(table):
            for x, value in enumerate(values):
                # One decimal where whole percents would say too little.
                axes.text(
                    x,
                    y,
                    f"{value:.1f}" if value < 9.95 else f"{value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if value > 60 else "#1f2933",
                )

    title = _capital(_label(method))
    title += f", {run.name}" if with_name else ""
    last = ", ".join(
        f"{name} {values[-1]:.1f} %" for name, values in zip(layers, table)
    )
    alt = f"Heat map of the density per layer and megabatch; at the end {last}."
    return _chart(title, "", alt, draw, 0.8 + 0.3 * len(layers))


def _epoch_charts(runs, key, val_key, label, scale):
    """One chart per method, so that training and validation stay readable."""
    lines = collections.defaultdict(list)
    for run, dashes in zip(runs, _all_dashes(runs)):
        for method in run.methods:
            events = run.epochs(method)
            curves = []
            for name in (key, val_key):
                values = [_number(event.get(name)) for event in events]
                curves.append(
                    [math.nan if v is None else scale * v for v in values]
                )
            if any(math.isfinite(v) for curve in curves for v in curve):
                lines[method].append((dashes, run, events, *curves))
    everything = [
        value
        for found in lines.values()
        for *_, train, val in found
        for value in [*train, *val]
        if math.isfinite(value)
    ]
    if not everything:
        return []
    room = 0.04 * (max(everything) - min(everything)) or 1.0
    limits = min(everything) - room, max(everything) + room
    return [
        _epoch_chart(runs, method, found, val_key, label, limits)
        for method, found in lines.items()
    ]


def _epoch_chart(runs, method, lines, val_key, label, limits):
    from matplotlib.ticker import MaxNLocator

    color, _ = _look(method, runs)
    most = max((events for _, _, events, _, _ in lines), key=len)
    starts = [
        number + 0.5
        for number in range(1, len(most))
        if most[number].get("megabatch") != most[number - 1].get("megabatch")
    ]

    def draw(figure, axes):
        axes.grid(False, axis="x")
        for start in starts:
            axes.axvline(start, color="#d5d8de", linewidth=0.8, zorder=1)
        for dashes, _, events, train, val in lines:
            steps = range(1, len(events) + 1)
            # A single epoch is a point, which a line alone would not show.
            mark = "o" if len(events) == 1 else None
            axes.plot(
                steps,
                train,
                color=color,
                alpha=0.4 if val_key else 1.0,
                lw=2.2 if val_key else 1.6,
                ls=dashes,
                marker=mark,
            )
            if val_key:
                axes.plot(
                    steps, val, color=color, lw=1.3, ls=dashes, marker=mark
                )
        axes.set_ylim(*limits)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        extra = []
        if val_key:
            extra = [
                {"color": color, "alpha": 0.4, "lw": 2.2, "label": "training"},
                {"color": color, "lw": 1.3, "label": "validation"},
            ]
        _legend(figure, runs, [], extra)

    ends = []
    for _, run, _, train, val in lines:
        name = f"{run.name}: " if len(runs) > 1 else ""
        text = f"{name}ends at {train[-1]:.2f}"
        ends.append(
            f"{text} in training and {val[-1]:.2f} in validation"
            if val_key
            else text
        )
    alt = f"Line chart of {label} over the epochs, {_label(method)}; "
    return _chart(
        f"{_capital(_label(method))}: {label.removesuffix(' (%)')}",
        "",
        alt + "; ".join(ends) + ".",
        draw,
        2.7,
    )


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
