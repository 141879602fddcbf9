"""What an export is worth, measured on the file itself."""

import dataclasses
import json
import pathlib

import zstandard

from keras_app import files
from keras_app import selection
from keras_app.report.rendering import printed

FOLDER = "exports"  # of a run folder
_SUFFIX = ".report.json"

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
            the same precision, median of interleaved runs in one thread on
            this machine; `None` if it was not measured.
        notes: Sentences on what the reader should know.
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
    sparse_tensors: tuple = ()
    blocked_tensors: tuple = ()
    dense_tensors: dict = dataclasses.field(default_factory=dict)
    repairs: tuple = ()
    latency_ratio: float | None = None
    notes: tuple = ()

    def to_dict(self):
        """Returns everything as plain Python values, ready for JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values):
        """Builds the report that `to_dict` described."""
        names = ("sparse_tensors", "blocked_tensors", "repairs", "notes")
        lists = {name: tuple(values.get(name, ())) for name in names}
        return cls(**{**values, **lists})

    @property
    def name(self):
        """Name of the file, without its folder."""
        return pathlib.Path(self.path).name

    def rows(self):
        """Returns `[(what, value)]` as text, alike for all reports."""
        sparse, time = "-", "-"
        if self.format == "litert":
            blocked = len(self.blocked_tensors)
            sparse = f"{len(self.sparse_tensors)}, {blocked} of them in blocks"
        if self.latency_ratio is not None:
            time = f"{self.latency_ratio:.2f}, of dense"
        difference = (
            f"{self.max_difference:.1e}, of the largest output, to "
            f"{self.compared_with}"
        )
        return [
            ("format", f"{self.format}, {self.precision}"),
            ("bytes", _size(self.bytes, self.dense_bytes)),
            (
                "compressed",
                _size(self.compressed_bytes, self.dense_compressed_bytes),
            ),
            ("sparse tensors", sparse),
            ("largest difference", difference),
            ("time of an inference", time),
        ]

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

    def remarks(self):
        """Returns repairs, weights left dense and notes, as sentences.

        Long lists are shortened; the attributes hold them whole.
        """
        repairs = [text.split(": ", 1) for text in self.repairs]
        named = [parts for parts in repairs if len(parts) == 2]
        return [
            *(f"repaired: {line}" for line in _grouped(named)),
            *(f"repaired: {x[0]}" for x in repairs if len(x) == 1),
            *(f"dense: {x}" for x in _grouped(self.dense_tensors.items())),
            *(f"note: {text}" for text in self.notes),
        ]

    def write(self):
        """Writes the report beside the file, and returns it."""
        target = pathlib.Path(f"{self.path}{_SUFFIX}")
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
    if dense is None:
        return f"{size:,}"
    return f"{size:,}, {size / dense:.3f} of {dense:,} dense"


def compressed_size(data):
    """Returns the length of bytes after zstd, level 9."""
    return len(zstandard.ZstdCompressor(level=_LEVEL).compress(data))


def sizes(path):
    """Returns `(bytes, compressed bytes)` of a file or folder."""
    path = pathlib.Path(path)
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
    report = pathlib.Path(f"{path}{_SUFFIX}")
    if not report.is_file() or not pathlib.Path(path).exists():
        return None
    return _read(report)


def read(run_dir):
    """Returns the `ExportReport`s of a run folder, in the order of names."""
    found = (pathlib.Path(run_dir) / FOLDER).glob(f"*{_SUFFIX}")
    return [_read(report) for report in sorted(found)]


def _read(report):
    return ExportReport.from_dict(json.loads(report.read_text()))
