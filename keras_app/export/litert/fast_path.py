"""Which rule keeps a LiteRT file from running sparse on ARM and WebAssembly.

XNNPACK, the runtime's default delegate, can compute 1x1 convolutions without
their zeros, if the whole region from the first convolution to the global
pooling is of a kind. On x86 with AVX it never does.

Reference: XNNPACK's subgraph rewriting to channels-first layout.
"""

import numpy as np

_LEAST_ZEROS = 2 / 3
_SYMMETRIC = {1: 0, 3: 1, 5: 2}
_UNARY = {
    "ABS",
    "CEIL",
    "ELU",
    "FLOOR",
    "HARD_SWISH",
    "LEAKY_RELU",
    "LOGISTIC",
    "NEG",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "ROUND",
    "SQRT",
    "SQUARE",
    "TANH",
}
_BINARY = {"ADD", "MUL"}
_STORAGE = {"DENSIFY", "DEQUANTIZE"}
_SAME, _VALID = 0, 1


def failing_rule(file):
    """Returns the first rule a file breaks, in a sentence; `None` if none.

    The rules: it begins with a 3x3 convolution of stride 2 on 3 channels,
    padded by 1 on all sides; then come only 1x1 convolutions of stride 1,
    depthwise ones (3x3 padded by 1 or 5x5 padded by 2, multiplier 1),
    additions and products of 4-D tensors, unary activations and bilinear
    resizing, up to a global average pooling; and more than two thirds of all
    1x1 weights there are zero, all stored sparse, in float32 or float16.

    Args:
        file: A `keras_app.export.litert.file.LiteRTFile`.

    Example:

    ```python
    failing_rule(LiteRTFile(pathlib.Path("model.tflite").read_bytes()))
    ```
    """
    weights = {w.index: w for w in file.weights() if w.graph == 0}
    region = _Region(file, weights)
    steps = [
        (name, operator)
        for name, operator in file.operations()
        if name not in _STORAGE
    ]
    first = next(
        (i for i, (name, _) in enumerate(steps) if name == "CONV_2D"), None
    )
    if first is None:
        return "there is no convolution"
    fault = region.stem(steps, first)
    if fault:
        return fault
    for name, operator in steps[first + 1 :]:
        if name == "MEAN":
            return region.pooling(operator) or region.zeros()
        fault = region.step(name, operator)
        if fault:
            return fault
    return "the convolutions must end in a global average pooling"


class _Region:
    """The rules, on the operations of one graph."""

    def __init__(self, file, weights):
        self._file = file
        self._tensors = file.model.subgraphs[0].tensors
        self._weights = weights
        self._pads = {}  # output of a padding: its amounts
        self._pointwise = []
        for name, operator in file.operations():
            if name == "PAD":
                amounts = file.constant(operator.inputs[1])
                self._pads[int(operator.outputs[0])] = amounts

    def stem(self, steps, first):
        _, operator = steps[first]
        kernel = self._shape(operator.inputs[1])
        options = operator.builtinOptions
        strides = (options.strideH, options.strideW)
        if kernel[1:] != [3, 3, 3] or strides != (2, 2):
            return (
                "it must begin with a 3x3 convolution of stride 2 on 3 "
                f"channels, and begins with {kernel[1]}x{kernel[2]}, stride "
                f"{strides[0]}, {kernel[3]} channels"
            )
        before = {name for name, _ in steps[:first]} - {"PAD", "QUANTIZE"}
        if before:
            return f"{before.pop()} comes before the first convolution"
        if self._padding(operator, 3) != 1:
            return (
                "the first convolution must be padded by 1 on all sides: "
                "ZeroPadding2D(1) and padding='valid'"
            )
        return None

    def step(self, name, operator):
        if name == "PAD" or name in _UNARY:
            return None
        if name in _BINARY:
            ranks = {
                len(self._shape(i)) for i in operator.inputs if self._moves(i)
            }
            return None if ranks == {4} else f"{name} of other than 4-D tensors"
        if name == "CONV_2D":
            return self._convolution(operator)
        if name == "DEPTHWISE_CONV_2D":
            return self._depthwise(operator)
        if name == "RESIZE_BILINEAR":
            return None
        return f"{name} lies between the first convolution and the pooling"

    def pooling(self, operator):
        axes = sorted(np.ravel(self._file.constant(operator.inputs[1])) % 4)
        return None if axes == [1, 2] else "the pooling must be global"

    def zeros(self):
        total = sum(w.values.size for w in self._pointwise)
        kept = sum(np.count_nonzero(w.values) for w in self._pointwise)
        if not total:
            return "there is no 1x1 convolution"
        if 1 - kept / total <= _LEAST_ZEROS:
            return (
                "more than 2/3 of the 1x1 weights must be zero, "
                f"{1 - kept / total:.2f} are"
            )
        dense = [w.name for w in self._pointwise if not w.sparse]
        if dense:
            return f"{dense[0]} is not stored sparse"
        if any(w.values.dtype.kind != "f" for w in self._pointwise):
            return "int8 weights are not computed sparse"
        return None

    def _convolution(self, operator):
        kernel = self._shape(operator.inputs[1])
        stride = operator.builtinOptions.strideH
        if kernel[1:3] != [1, 1] or stride != 1:
            return (
                f"a {kernel[1]}x{kernel[2]} convolution of stride {stride} "
                "comes after the first: only 1x1 of stride 1 may"
            )
        self._pointwise.append(self._stored(operator.inputs[1]))
        return None

    def _depthwise(self, operator):
        _, height, width, _ = self._shape(operator.inputs[1])
        if height != width or height not in (3, 5):
            return f"a depthwise convolution is {height}x{width}"
        if operator.builtinOptions.depthMultiplier != 1:
            return "a depthwise convolution has a multiplier"
        if self._padding(operator, height) != _SYMMETRIC[height]:
            return (
                f"a {height}x{height} depthwise convolution must be padded by "
                f"{_SYMMETRIC[height]} on all sides (with stride 2: "
                "ZeroPadding2D and padding='valid')"
            )
        return None

    def _padding(self, operator, size):
        """The padding if it is alike on all four sides, or `None`."""
        source = int(operator.inputs[0])
        options = operator.builtinOptions
        if options.padding == _VALID:
            amounts = self._pads.get(source)
            found = set() if amounts is None else set(np.ravel(amounts[1:3]))
            return int(found.pop()) if len(found) == 1 else None
        sides = set()
        for axis, stride in ((1, options.strideH), (2, options.strideW)):
            length = self._shape(source)[axis]
            missing = max(
                (-(-length // stride) - 1) * stride + size - length, 0
            )
            sides |= {missing // 2, missing - missing // 2}
        return sides.pop() if len(sides) == 1 else None

    def _shape(self, index):
        return [int(size) for size in self._tensors[index].shape]

    def _moves(self, index):
        """Whether a tensor depends on the input of the model."""
        return self._file.constant(index) is None

    def _stored(self, index):
        """The `Weight` behind a tensor, however it is unpacked."""
        for name, operator in self._file.operations():
            if name in _STORAGE and index == operator.outputs[0]:
                return self._stored(operator.inputs[0])
        return self._weights[int(index)]
