"""What the result of a compression must be: `"latency:0.5"`, `"bytes:9e4"`."""

import dataclasses
import math

_SECONDS = {"ms": 1.0, "us": 1e-3, "s": 1e3}  # in milliseconds
_EXAMPLES = {
    "latency": "latency:0.5 (of the dense model) or latency:3ms",
    "bytes": "bytes:0.25 (of the dense file) or bytes:300_000",
    "ram": "ram:0.5 (of the dense model) or ram:64_000 (bytes)",
    "flops": "flops:0.5 (of the dense model) or flops:2e6",
    "sparsity": "sparsity:0.9 (share of zeros)",
    "accuracy": "accuracy:-1.0 (points that may be lost)",
}
#: What can be asked for.
QUANTITIES = tuple(_EXAMPLES)


@dataclasses.dataclass(frozen=True)
class Target:
    """One demand on the result.

    Attributes:
        quantity: One of `QUANTITIES`.
        value: The number: a share of the dense model, or an amount
            (milliseconds, bytes, FLOPs); of `"accuracy"` the points of
            accuracy that may change, not above 0.
        is_share: Whether it is a share of the dense model.
    """

    quantity: str
    value: float
    is_share: bool

    @property
    def is_of_time(self):
        """Whether it is a time that is to be made short."""
        return self.quantity in ("latency", "accuracy")

    def limit(self, dense):
        """The amount not to exceed, given that of the dense model."""
        return self.value * dense if self.is_share else self.value

    def of(self, amount, dense):
        """An amount in the terms of the target: its share, or itself."""
        return amount / dense if self.is_share else amount

    def text(self, value):
        """A target of the same kind with another value, as one types it."""
        if self.quantity == "latency" and not self.is_share:
            return f"latency:{value:.3g}ms"
        if self.is_share or self.quantity in ("sparsity", "accuracy"):
            return f"{self.quantity}:{value:.3g}"
        return f"{self.quantity}:{math.ceil(value)}"

    def __str__(self):
        return self.text(self.value)


def parse(target):
    """Reads a target.

    Args:
        target: A text, `"<quantity>:<number>"`. Shares of the dense model lie
            between 0 and 1 and have no unit; a latency in milliseconds ends
            with `ms` (`us` and `s` do, too); what is 1 or more counts bytes or
            FLOPs.

    Returns:
        A `Target`.

    Raises:
        ValueError: Anything else; the message shows what there is.
        TypeError: It is no text.

    Example:

    >>> parse("latency:0.5")
    Target(quantity='latency', value=0.5, is_share=True)
    >>> parse("bytes:300_000").value
    300000.0
    """
    if not isinstance(target, str):
        raise TypeError(
            "`target` must be a text such as 'latency:0.5'. "
            f"Received: target={target!r}"
        )
    quantity, colon, number = (part.strip() for part in target.partition(":"))
    if quantity not in QUANTITIES or not colon:
        raise ValueError(
            f"`target` must be one of {'; '.join(_EXAMPLES.values())}. "
            f"Received: target={target!r}"
        )
    scale, unit = 1.0, ""
    if quantity == "latency":
        for ending, milliseconds in _SECONDS.items():
            if number.endswith(ending):
                scale, unit = milliseconds, ending
                break
    try:
        value = float(number.removesuffix(unit)) * scale
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _wrong(quantity, target, "a number")
    if quantity == "accuracy":
        if not -100 < value <= 0:
            raise _wrong(quantity, target, "points, from -100 to 0")
        return Target(quantity, value, False)
    if value <= 0:
        raise _wrong(quantity, target, "above 0")
    if quantity == "sparsity":
        if value >= 1:
            raise _wrong(quantity, target, "a share below 1")
        return Target(quantity, value, False)
    if quantity == "latency":
        if not unit and value >= 1:
            hint = f" Did you mean latency:{number}ms?"
            raise _wrong(quantity, target, "a share below 1", hint)
        return Target(quantity, value, not unit)
    if value == 1:
        raise _wrong(quantity, target, "a share below 1 or an amount above it")
    return Target(quantity, value, value < 1)


def _wrong(quantity, target, rule, hint=""):
    return ValueError(
        f"`target` must be {rule}, as in {_EXAMPLES[quantity]}. "
        f"Received: target={target!r}.{hint}"
    )
