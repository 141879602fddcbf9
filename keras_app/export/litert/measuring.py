"""What a LiteRT file is worth beside others: time, bytes, accuracy, memory."""

from keras_app.export.litert import evaluation
from keras_app.export.litert import memory
from keras_app.export.litert import timing

_SLOWER = 1.05  # less is noise
# Those that compute something else than the file.
_EVALUATED = ("float32", "baseline")


def measured(content, references, request):
    """Returns figures of a file, as an `ExportReport` has them.

    Args:
        content: The bytes of the file.
        references: `{name: bytes}` of the files that it is compared with,
            timed in turns with it.
        request: A `Request`.
    """
    files = {"file": content, **references}
    times = timing.take_turns(list(files.values()))
    rows = {}
    for (name, each), latency in zip(files.items(), times, strict=True):
        rows[name] = {"bytes": len(each), **latency}
        if request.evaluate and name in ("file", *_EVALUATED):
            rows[name]["accuracy"] = evaluation.accuracy(
                each, **request.evaluate, what=name
            )
    own = rows.pop("file")
    return {
        "latency_ms": own["median_ms"],
        "latency_spread_ms": own["spread_ms"],
        "latency_least_ms": own["least_ms"],
        "threads": own["threads"],
        "accuracy": own.get("accuracy"),
        "evaluated": len(request.evaluate["y"]) if request.evaluate else None,
        "activation_bytes": memory.peak_activations(content),
        "references": rows,
    }


def ratio(figures, name):
    """Returns the time of the file over that of a reference.

    Of the least of each: what else a busy machine does only adds, and doubles
    medians.
    """
    other = figures["references"][name]["least_ms"]
    return figures["latency_least_ms"] / other


def clearly_slower(figures, name):
    """Whether a file takes longer than a reference, beyond what varies."""
    other = figures["references"][name]
    more = figures["latency_ms"] - other["median_ms"]
    varies = max(figures["latency_spread_ms"], other["spread_ms"])
    return ratio(figures, name) > _SLOWER and more > varies


def slower_than_float(figures, precision):
    """Returns a sentence, in a list, if eight bits cost time here."""
    if "float32" not in figures["references"]:
        return []
    if not clearly_slower(figures, "float32"):
        return []
    return [
        f"{precision} is slower than float32 here, "
        f"{ratio(figures, 'float32'):.1f} times the time: for speed on this "
        "machine export without `quantize`"
    ]
