"""What a LiteRT file can be written for: a row for each target."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Target:
    """What runs a file.

    Attributes:
        name: What it is called in sentences.
        refuses_sparse: Why it takes no weights that are stored sparse, or
            `None`.
        zeros: Why it multiplies by zeros.
        eight_bits: What it makes of int8.
    """

    name: str
    refuses_sparse: str | None
    zeros: str
    eight_bits: str = "used"


TargetName = Literal["cpu", "gpu", "npu", "micro"]

TARGETS: dict[TargetName, Target] = {
    "cpu": Target(
        "the CPU",
        None,
        "only what is stored in blocks is computed without its zeros; channels "
        "that are zero are cut out by `shrink`",
    ),
    "gpu": Target(
        "the GPU delegate",
        "the GPU delegate refuses sparse tensors",
        "the GPU delegate has no sparse kernels; channels that are zero are "
        "cut out by `shrink`",
        "computed in floats: the GPU delegate converts it",
    ),
    "npu": Target(
        "the NPU",
        "delegates and compilers of NPUs take dense tensors",
        "its delegates take dense tensors; channels that are zero are cut out "
        "by `shrink`",
    ),
    "micro": Target(
        "TensorFlow Lite Micro",
        "TensorFlow Lite Micro has no DENSIFY and no sparse kernels",
        "it has no sparse kernels; channels that are zero are cut out by "
        "`shrink`",
    ),
}
