"""What is to be said of a LiteRT file, in sentences."""

import numpy as np

from keras_app.export.litert import fast_path
from keras_app.export.litert.file import LiteRTFile
from keras_app.export.litert.mending import FEW_ZEROS
from keras_app.export.litert.targets import TARGETS

_FEW = 0.01  # below, zeros are not worth a sentence


def unused(file, request):
    """Returns sentences on what of a file its target does not use.

    Args:
        file: A `keras_app.export.litert.file.LiteRTFile`.
        request: A `Request`.
    """
    target = TARGETS[request.target]
    weights = file.weights()
    total = sum(weight.values.size for weight in weights)
    idle = sum(
        weight.values.size - np.count_nonzero(weight.values)
        for weight in weights
        if weight.zeros > FEW_ZEROS and not weight.block
    )
    found = []
    if idle > _FEW * total:
        found.append(
            f"{idle / total:.0%} of the weights are zeros that {target.name} "
            f"multiplies by: {target.zeros}"
        )
    if request.precision in ("int8", "dynamic") and target.eight_bits != "used":
        found.append(f"int8 is {target.eight_bits}")
    return found


def on_target(request):
    """Returns sentences on what a target makes of such a file."""
    found = []
    if request.target != "cpu":
        found.append(
            f"times are of this machine's CPU, not of "
            f"{TARGETS[request.target].name}"
        )
    if request.target == "micro":
        found.append(
            "its operations are known to TensorFlow Lite Micro; whether its "
            "kernels take their types only a run there tells"
        )
    if request.target == "npu" and request.precision != "int8":
        found.append(
            "some NPUs compute int8 only and leave floats to the CPU: "
            "`quantize='int8'`"
        )
    return found


def on_sparse_speed(ratio, slower, mended, request):
    """Sentences on where the zeros make the file faster, and where not.

    Args:
        ratio: The time over that of the dense file.
        slower: Whether it is clearly longer.
        mended: A `mending.Mended`.
        request: A `Request`.
    """
    rule = fast_path.failing_rule(LiteRTFile(mended.content))
    elsewhere = (
        "on ARM and in browsers its 1x1 convolutions qualify for sparse kernels"
        if rule is None
        else f"on ARM and in browsers no convolution runs sparse: {rule}"
    )
    if ratio < 0.95:
        return [elsewhere]
    if slower:
        return [
            f"slower than dense {request.precision} here, {ratio:.1f} times "
            "the time: for speed export with sparse=False",
            elsewhere,
        ]
    why = (
        "no weight is stored in blocks, and others are put back to dense when "
        "the file is loaded"
        if not any(w.block for w in mended.sparse)
        else "its blocks are too dense, or too small a part of the work"
    )
    return [f"sparsity brings no speed on this machine: {why}", elsewhere]
