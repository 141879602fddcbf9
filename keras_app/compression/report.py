"""What came of a compression, before and after, in one table."""

import dataclasses
from collections.abc import Mapping
from typing import Any
from typing import Self

from keras_app.report.rendering import printed

# What a target is compared with, among the figures.
_FIGURES = {
    "latency": "milliseconds",
    "bytes": "bytes",
    "ram": "ram_bytes",
    "flops": "flops",
}
#: How far a measured time may lie above what was asked: clocks are not exact.
TIMING = 0.05

_ROWS = (
    ("accuracy", "accuracy", "{:.2%}"),
    ("loss", "loss", "{:.4f}"),
    ("milliseconds", "milliseconds", "{:.3f}"),
    ("bytes", "bytes", "{:,}"),
    ("activations at once, bytes", "ram_bytes", "{:,}"),
    ("FLOPs", "flops", "{:,}"),
    ("parameters", "parameters", "{:,}"),
)


@dataclasses.dataclass(frozen=True)
class CompressionReport:
    """A compressed model beside the dense one; `print` shows it.

    Both are files for LiteRT of the same precision. Accuracies are those of
    the files on the validation data; times are the least of many turns in
    which both were run, one inference in one thread on this machine.

    Attributes:
        target: What was asked for, as text.
        asked: Its number.
        reached: The same of the result.
        is_reached: Whether that fulfils it; a measured time may be 5 % above.
        before, after: Figures of the dense and of the compressed file:
            `accuracy`, `loss`, `milliseconds`, `bytes`, `ram_bytes` (the peak
            of activations that are alive at once), `flops` and `parameters`
            (of the model); `None` where there is no such number.
        widths: `[[layer, before, after], ...]`.
        front: `[{"name", "accuracy", "milliseconds"}, ...]` of what was passed
            on the way.
        layers: `[[layer, milliseconds before, after], ...]`, as they were
            timed one by one; empty where no time was asked for.
        quantize: What the files hold; `None` stands for float32.
        validated: On how many examples the accuracies were measured.
    """

    target: str
    asked: float
    reached: float
    is_reached: bool
    before: dict[str, Any]
    after: dict[str, Any]
    widths: list[list[Any]]
    front: list[dict[str, Any]]
    layers: list[list[Any]]
    quantize: str | None
    validated: int

    @classmethod
    def of(cls, target, before, after, layers, **more):
        """Makes one of a `targets.Target` and figures.

        Args:
            target: The `Target`.
            before, after, layers: See the attributes; of `after` also the
                `sparsity` is looked at.
            **more: The other attributes.
        """
        reached, is_reached = _compare(target, before, after)
        after = {k: v for k, v in after.items() if k != "sparsity"}
        return cls(
            target=str(target),
            asked=target.value,
            reached=reached,
            is_reached=is_reached,
            before=before,
            after=after,
            layers=[row for row in layers if max(row[1:]) > 0],
            **more,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Makes one of what holds, among others, its attributes."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: values[name] for name in names})

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain Python values, ready for JSON."""
        return dataclasses.asdict(self)

    @property
    def verdict(self) -> str:
        """One line on what was asked and reached."""
        verdict = "reached" if self.is_reached else "missed"
        return (
            f"asked {self.target}, {verdict}: {self.reached:.4g} (LiteRT, "
            f"{self.quantize or 'float32'})"
        )

    def __str__(self):
        from rich.table import Table

        table = Table("", "dense", "compressed", "ratio")
        for row in rows_of(self.before, self.after):
            table.add_row(*row)
        widths = Table("layer", "before", "after")
        for name, old, new in self.widths:
            if old != new:
                widths.add_row(name, str(old), str(new))
        lines = [f"Compression: {self.verdict}", table]
        if self.validated:
            lines.append(
                f"Accuracy of the files on {self.validated:,} validation "
                "examples."
            )
        else:
            lines.append("Accuracy: not measured, no validation data.")
        if widths.rows:
            lines.append(widths)
        return printed(lines, width=100)


def _compare(target, before, after):
    """`(what was reached, whether it fulfils the target)`."""
    if target.quantity == "sparsity":
        reached = after["sparsity"]
        # Structures count whole units, and so does rounding.
        return reached, reached >= target.value - 0.005
    if target.quantity == "accuracy":
        reached = 100 * (after["accuracy"] - before["accuracy"])
        return reached, reached >= target.value
    name = _FIGURES[target.quantity]
    reached = target.of(after[name], before[name])
    slack = TIMING if target.quantity == "latency" else 0.0
    return reached, reached <= target.value * (1 + slack)


def rows_of(before, after):
    """Returns `[(what, before, after, ratio)]` as text.

    Args:
        before, after: Figures, as of a `CompressionReport`.
    """
    found = []
    for name, key, form in _ROWS:
        old, new = before.get(key), after.get(key)
        if old is None or new is None:
            continue
        if key == "accuracy":
            share = f"{100 * (new - old):+.2f} points"
        else:
            share = f"{new / old:.3f}" if old else "-"
        found.append((name, form.format(old), form.format(new), share))
    return found
