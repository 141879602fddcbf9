"""What an export is worth, measured on the file itself."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any
from typing import Self

import zstandard

from keras_app import files
from keras_app import selection
from keras_app.report.rendering import printed

FOLDER = "exports"  # of a run folder
_SUFFIX = ".report.json"

# What the files beside it are called in the report.
_NAMES = {"dense": "dense", "float32": "float32", "baseline": "the baseline"}

# Of zstd, which stands in for whatever compresses a download.
_LEVEL = 9


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """Size, speed and faithfulness of one exported file; `print` shows them.

    It is also written beside the file, as `<file>.report.json`.

    Attributes:
        path: The file, or folder.
        format: `"litert"`, `"saved_model"`, `"sparse"` or `"onnx"`.
        precision: How weights are stored: `"float32"`, `"float16"`,
            `"dynamic"` (int8 weights, float activations), `"int8"`, or what
            the model has.
        bytes: Size of the file, or of all files of the folder.
        compressed_bytes: The same after zstd, level 9: a download.
        max_difference: Largest difference to what the file is compared with,
            relative to the largest output; 0 for a checkpoint, which is
            compared bit by bit.
        compared_with: What that is.
        dense_bytes: Size of the same export without any sparse encoding, at
            the same precision; `None` where there is no such thing.
        dense_compressed_bytes: The same, compressed.
        sparse_tensors: Names of the weights that are stored sparse.
        blocked_tensors: Those of them that are stored in blocks, which the
            runtime computes without their zeros on every processor.
        dense_tensors: `{name: reason}` of weights with many zeros that are
            stored dense.
        repairs: What had to be mended in the converter's file, in sentences.
        latency_ratio: Time of one inference relative to the dense export at
            the same precision; `None` if the file is that export.
        notes: Sentences on what the reader should know.
        target: What a LiteRT file was written for, such as `"micro"`.
        io_dtype: What a LiteRT file takes and gives for floats.
        latency_ms: Milliseconds of one inference on this machine's CPU, the
            median over rounds in which all `references` take turns; `None`
            if it was not measured.
        latency_spread_ms: Their interquartile range.
        latency_least_ms: The least of them. What else a busy machine does only
            adds to times: those relative to `references` are of the least.
        threads: How many threads the runtime had.
        accuracy: Share of right classes, of the file itself, in [0, 1];
            `None` if it was not measured.
        evaluated: Of how many samples.
        activation_bytes: What the activations need at once, at the least: the
            RAM of a microcontroller, whose flash holds `bytes`.
        references: `{name: figures}` of the files that were measured beside
            it: `"dense"`, of the same precision; `"float32"`; `"baseline"`.
            Figures are `bytes`, `median_ms`, `spread_ms`, `least_ms`,
            `threads`, `rounds` and, where it was measured, `accuracy`.
        unused: What of the file its target does not use, in sentences.
        parameters: How many weights the model has.
        flops: Floating point operations of its kernels for one sample, zeros
            included; `None` where the graph is not known.
        original: `parameters`, `bytes` (of the weights in memory) and `flops`
            of the model that it was cut from by `shrink`, or of a baseline
            that is a model; `None` where there is none.
        dense_twin: Path of the same file without sparse weights, or `None`.
    """

    path: str
    format: str
    precision: str
    bytes: int
    compressed_bytes: int
    max_difference: float
    compared_with: str = "the model"
    dense_bytes: int | None = None
    dense_compressed_bytes: int | None = None
    sparse_tensors: tuple[str, ...] = ()
    blocked_tensors: tuple[str, ...] = ()
    dense_tensors: dict[str, str] = dataclasses.field(default_factory=dict)
    repairs: tuple[str, ...] = ()
    latency_ratio: float | None = None
    notes: tuple[str, ...] = ()
    target: str | None = None
    io_dtype: str | None = None
    latency_ms: float | None = None
    latency_spread_ms: float | None = None
    latency_least_ms: float | None = None
    threads: int | None = None
    accuracy: float | None = None
    evaluated: int | None = None
    activation_bytes: int | None = None
    references: dict[str, Any] = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()
    parameters: int | None = None
    flops: int | None = None
    original: dict[str, Any] | None = None
    dense_twin: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain Python values, ready for JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds the report that `to_dict` described, of this version or not.

        What an earlier version did not say is `None` or empty, and what only
        a later one says is left out.
        """
        names = ("sparse_tensors", "blocked_tensors", "repairs", "notes")
        names += ("unused",)
        lists = {name: tuple(values.get(name, ())) for name in names}
        known = {field.name for field in dataclasses.fields(cls)}
        values = {key: each for key, each in values.items() if key in known}
        return cls(**{**values, **lists})

    @property
    def name(self) -> str:
        """Name of the file, without its folder."""
        return pathlib.PurePath(self.path).name

    def rows(self) -> list[tuple[str, str]]:
        """Returns `[(what, value)]` as text, alike for all reports."""
        kind = f"{self.format}, {self.precision}"
        if self.target:
            ends = f", {self.io_dtype} at its ends"
            kind += f"{ends * (self.io_dtype == 'int8')}, for {self.target}"
        sparse = "-"
        if self.format == "litert":
            blocked = len(self.blocked_tensors)
            sparse = f"{len(self.sparse_tensors)}, {blocked} of them in blocks"
        difference = (
            f"{self.max_difference:.1e}, of the largest output, to "
            f"{self.compared_with}"
        )
        return [
            ("format", kind),
            ("bytes", self._bytes()),
            (
                "compressed",
                _size(self.compressed_bytes, self.dense_compressed_bytes),
            ),
            ("sparse tensors", sparse),
            ("largest difference", difference),
            ("time of an inference", self._time()),
            ("accuracy", self._accuracy()),
            ("RAM of activations", _bytes_or_more(self.activation_bytes)),
            ("parameters", self._of_original("parameters")),
            ("FLOPs", self._of_original("flops")),
        ]

    def _bytes(self):
        parts = [_size(self.bytes, self.dense_bytes)]
        if self.target == "micro":
            parts.append("in flash")
        for name, other in self.references.items():
            if name != "dense":  # said already
                ratio = self.bytes / other["bytes"]
                parts.append(
                    f"{ratio:.3f} of {_NAMES[name]} ({other['bytes']:,})"
                )
        if self.original:
            whole = self.original["bytes"]
            parts.append(
                f"{self.bytes / whole:.3f} of the original's weights "
                f"({whole:,})"
            )
        return ", ".join(parts)

    def _time(self):
        if self.latency_ms is None:
            if self.latency_ratio is None:
                return "-"
            return f"{self.latency_ratio:.2f}, of dense"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        parts = [
            f"{self.latency_ms:.3g} ms",
            f"quartiles {self.latency_spread_ms:.2g} ms apart",
            threads,
        ]
        for name, other in self.references.items():
            # Not there in a report of an earlier version.
            own, least = self.latency_least_ms, other.get("least_ms")
            share = f"{own / least:.2f} of " if own and least else ""
            parts.append(f"{share}{_NAMES[name]} ({other['median_ms']:.3g} ms)")
        if self.references and self.latency_least_ms:
            parts.append("shares of the least times")
        return ", ".join(parts)

    def _accuracy(self):
        if self.accuracy is None:
            return "-"
        parts = [f"{self.accuracy:.4f}", f"{self.evaluated:,} samples"]
        parts += [
            f"{_NAMES[name]} {other['accuracy']:.4f}"
            for name, other in self.references.items()
            if "accuracy" in other
        ]
        return ", ".join(parts)

    def _of_original(self, what):
        own = getattr(self, what)
        whole = (self.original or {}).get(what)
        if own is None:
            return "-"
        if whole is None or whole == own:
            return f"{own:,}"
        return f"{own:,}, {own / whole:.3f} of the original, {whole:,}"

    def __str__(self):
        from rich.table import Table

        # A title would be broken at the width of the table.
        table = Table(show_header=False)
        table.add_column(no_wrap=True)
        table.add_column()
        for name, value in self.rows():
            if value != "-":
                table.add_row(name, value)
        title = f"Export: {self.path}"
        return printed([title, table, *self.remarks()], width=100)

    def remarks(self) -> list[str]:
        """Returns repairs, weights left dense, notes and more, as sentences.

        Long lists are shortened; the attributes hold them whole.
        """
        repairs = [text.split(": ", 1) for text in self.repairs]
        named = [parts for parts in repairs if len(parts) == 2]
        return [
            *(f"repaired: {line}" for line in _grouped(named)),
            *(f"repaired: {x[0]}" for x in repairs if len(x) == 1),
            *(f"dense: {x}" for x in _grouped(self.dense_tensors.items())),
            *(f"not used: {text}" for text in self.unused),
            *(f"note: {text}" for text in self.notes),
            *([f"dense twin: {self.dense_twin}"] if self.dense_twin else []),
        ]

    def write(self) -> Self:
        """Writes the report beside the file, and returns it."""
        target = files.path(f"{self.path}{_SUFFIX}")
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        files.write_bytes(target, text.encode())
        return self


def _grouped(reasons):
    """As `selection.grouped`, with short names for fused operators."""
    short = []
    for name, reason in reasons:
        # The converter joins the names of all operators that it fused.
        first, *others = name.split(";")
        fused = f" (fused with {len(others)} more)" if others else ""
        short.append((first + fused, reason))
    return selection.grouped(short)


def _size(size, dense):
    # The dense file itself is no share of anything.
    if dense is None or size == dense:
        return f"{size:,}"
    return f"{size:,}, {size / dense:.3f} of {dense:,} dense"


def _bytes_or_more(count):
    return "-" if count is None else f"{count:,} bytes, at the least"


def compressed_size(data):
    """Returns the length of bytes after zstd, level 9."""
    return len(zstandard.ZstdCompressor(level=_LEVEL).compress(data))


def sizes(path):
    """Returns `(bytes, compressed bytes)` of a file or folder."""
    path = files.path(path)
    parts = sorted(p for p in path.rglob("*") if p.is_file()) or [path]
    contents = [part.read_bytes() for part in parts]
    return sum(map(len, contents)), sum(map(compressed_size, contents))


def write_report(path, **figures):
    """Writes and returns the `ExportReport` of a file or folder.

    Args:
        path: What was exported.
        **figures: What the report says beside its path and sizes.
    """
    size, compressed = sizes(path)
    found = {"bytes": size, "compressed_bytes": compressed, **figures}
    return ExportReport.from_dict({"path": str(path), **found}).write()


def read_one(path):
    """Returns the `ExportReport` of an exported file or folder.

    `None` if it is not whole: the report is written last of all.
    """
    report = files.path(f"{path}{_SUFFIX}")
    if not report.is_file() or not files.path(path).exists():
        return None
    return _read(report)


def read(run_dir):
    """Returns the `ExportReport`s of a run folder, in the order of names."""
    found = (files.path(run_dir) / FOLDER).glob(f"*{_SUFFIX}")
    return [_read(report) for report in sorted(found)]


def _read(report):
    return ExportReport.from_dict(json.loads(report.read_text()))
