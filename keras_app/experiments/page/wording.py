"""Numbers as text, and the words that names and keys become on a page."""

import pathlib
import re
import tomllib

from keras_app.experiments.page.runs import number
from keras_app.experiments.page.runs import SUMMARY

# What there is to say of methods, figures and charts.
WORDS = tomllib.loads(
    pathlib.Path(__file__).with_name("words.toml").read_text("utf-8")
)
NOTHING = "\N{EN DASH}"
_SPACE = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))

# ---- numbers ---------------------------------------------------------------


def fixed(value, digits):
    """`value` with so many decimals, and a proper minus sign."""
    text = f"{abs(value):,.{digits}f}"
    negative = value < 0 and float(text.replace(",", "")) != 0
    return (_MINUS if negative else "") + text


def signed(value, digits=1):
    """As `fixed`, with a plus sign where it is more than zero."""
    text = fixed(value, digits)
    return text if value <= 0 or not re.search("[1-9]", text) else "+" + text


def _with_spread(value, spread, digits):
    text = fixed(value, digits)
    return text if spread is None else f"{text} ± {fixed(spread, digits)}"


def percent(value, spread=None):
    """A share in [0, 1] in percent."""
    return hundredths(100 * value, None if spread is None else 100 * spread)


def hundredths(value, spread=None):
    """A number that is in percent already."""
    return points(value, spread) + _SPACE + "%"


def points(value, spread=None):
    """A difference that is in percentage points already."""
    return _with_spread(value, spread, 1)


def count(value, spread=None):
    """How many, whole where it is; millions and more get a prefix."""
    if abs(value) >= 1e6:
        return large(value, spread)
    whole = spread is None and float(value).is_integer()
    return _with_spread(value, spread, 0 if whole else 1)


def large(value, spread=None):
    """A number that matters by its size; millions and more get a prefix."""
    return _in_units(value, spread, 2, _PREFIXES)


def nbytes(value, spread=None):
    """Bytes, in the unit that leaves few digits."""
    return _in_units(value, spread, 1, _BYTES, _SPACE + "bytes")


def milliseconds(value, spread=None):
    """Milliseconds, with digits that tell short times apart."""
    return _with_spread(value, spread, 3 if value < 10 else 1) + f"{_SPACE}ms"


def _in_units(value, spread, digits, units, single=""):
    for size, unit in units:
        if abs(value) >= size:
            spread = None if spread is None else spread / size
            text = _with_spread(value / size, spread, digits)
            return text + _SPACE + unit
    return _with_spread(value, spread, 0) + single


def plain(value, spread=None):
    """A number nothing is known about."""
    return _with_spread(value, spread, 0 if isinstance(value, int) else 4)


# ---- names -----------------------------------------------------------------


def humanised(key):
    """A name out of code as words: `my_figure` is "My figure"."""
    return capital(str(key).replace("_", " ").strip())


def label(method):
    """A method's name in tables and charts."""
    return WORDS["labels"].get(method, str(method).replace("_", " ").strip())


def label_of(run, method):
    """The same, which also tells a dense network by what it holds."""
    text = label(method)
    dense = method == run.dense and text != "dense"
    return f"{text} (dense)" if dense else text


def phrase(method):
    """A method's name in a sentence."""
    return WORDS["phrases"].get(method, label(method))


def listed(words):
    """`a, b and c`."""
    *first, last = words or [""]
    return f"{', '.join(first)} and {last}" if first else last


def capital(text):
    """`text` with a capital first letter, the others as they are."""
    return text[:1].upper() + text[1:]


def run_name(run, runs):
    """The name of one of several runs; of a single one there is no need."""
    return run.name if len(runs) > 1 else ""


def several(how_many, one, many):
    """`1 seed` or `2 seeds`."""
    return f"{how_many} {one if how_many == 1 else many}"


def _megabatches(how_many):
    return several(how_many, "megabatch", "megabatches")


# ---- what was run ----------------------------------------------------------


def title(runs):
    """What the page is about, in a few words."""
    kinds, data = (
        [
            WORDS[known].get(name, str(name).replace("_", " "))
            for name in dict.fromkeys(run.summary.get(key) for run in runs)
            if name
        ]
        for key, known in (("experiment", "experiments"), ("data", "data_sets"))
    )
    text = capital(listed(kinds)) or "Unfinished run"
    text += f" on {listed(data)}" if data else ""
    return text if len(runs) == 1 else f"{text}, {len(runs)} runs"


def statement(run):
    """One sentence on what was run."""
    told = run.summary
    labels = [label_of(run, method) for method in run.methods]
    text = capital(listed(labels)) or "Nothing yet"
    text += f" on {told['data']}" if told.get("data") else ""
    text += f", model {told['model']}" if told.get("model") else ""
    parts = []
    if told.get("epochs"):
        parts.append(several(told["epochs"], "epoch", "epochs"))
        if told.get("num_megabatches"):
            times = _megabatches(told["num_megabatches"])
            parts = [f"{times} of {parts[0]} each"]
    if number(told.get("level")) is not None:
        parts.append(f"level {told['level']:g}")
        if number(told.get("target_density")) is not None:
            density = percent(told["target_density"])
            parts[-1] += f" (target density {density})"
    if told.get("test_examples"):
        parts.append(f"{count(told['test_examples'])} test examples")
    if told.get("seed") is not None:
        parts.append(f"seed {told['seed']}")
    if number(told.get("seconds")) is not None:
        parts.append(_duration(told["seconds"]))
    if not run.finished:
        parts.append("unfinished")
    return text + (": " if parts else "") + ", ".join(parts) + "."


def _duration(seconds):
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def versions(run):
    """What the run was computed with; empty if it does not say."""
    found = dict(run.summary.get("versions") or {})
    backend = found.pop("backend", None)
    text = " · ".join(f"{name} {value}" for name, value in found.items())
    return f"{backend} backend · {text}" if backend else text


def progress(run):
    """How far an unfinished run is."""
    epochs = sum(len(run.epochs(method)) for method in run.methods)
    rows = [
        f"{label(method)} {_megabatches(len(run.megabatches(method)))}"
        for method in run.methods
    ]
    begun = any(run.megabatches(method) for method in run.methods)
    done = f" ({', '.join(rows)})" if begun else ""
    return f"{several(epochs, 'epoch', 'epochs')}{done}"


def unfinished(run):
    """A warning that the run is unfinished, and how far it is."""
    return (
        f"{run.name} is unfinished: it has no {SUMMARY}. Shown is what its "
        f"log holds so far, {progress(run)}. "
        "Methods that are not equally far cannot be compared."
    )
