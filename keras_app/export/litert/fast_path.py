"""Which rule keeps a LiteRT file from running sparse on ARM and WebAssembly.

XNNPACK, the runtime's default delegate, can compute 1x1 convolutions without
their zeros, if the whole region from the first convolution to the global
pooling is of a kind. On x86 with AVX it never does.

Reference: XNNPACK's subgraph rewriting to channels-first layout.
"""

import numpy as np

_LEAST_ZEROS = 2 / 3
# Unary activations, padding and resizing.
_PASSING = {
    "ABS",
    "CEIL",
    "ELU",
    "FLOOR",
    "HARD_SWISH",
    "LEAKY_RELU",
    "LOGISTIC",
    "NEG",
    "PAD",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "RESIZE_BILINEAR",
    "ROUND",
    "SQRT",
    "SQUARE",
    "TANH",
}
_BINARY = {"ADD", "MUL"}
_STORAGE = {"DENSIFY", "DEQUANTIZE"}
_VALID = 1


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
    try:
        _Region(file).check()
    except _Broken as rule:
        return str(rule)
    return None


class _Broken(Exception):
    """A rule, in a sentence."""


def _require(holds, rule):
    if not holds:
        raise _Broken(rule)


class _Region:
    """The rules, on the operations of one graph."""

    def __init__(self, file):
        self._file = file
        self._tensors = file.model.subgraphs[0].tensors
        self._weights = {w.index: w for w in file.weights() if w.graph == 0}
        self._pads = {  # output of a padding: its amounts
            int(operator.outputs[0]): file.constant(operator.inputs[1])
            for name, operator in file.operations()
            if name == "PAD"
        }
        self._pointwise = []

    def check(self):
        steps = [
            (name, operator)
            for name, operator in self._file.operations()
            if name not in _STORAGE
        ]
        names = [name for name, _ in steps]
        _require("CONV_2D" in names, "there is no convolution")
        first = names.index("CONV_2D")
        self._stem(steps[first][1], names[:first])
        for name, operator in steps[first + 1 :]:
            if name == "MEAN":
                self._pooling(operator)
                self._zeros()
                return
            self._step(name, operator)
        raise _Broken("the convolutions must end in a global average pooling")

    def _stem(self, operator, before):
        kernel = self._shape(operator.inputs[1])
        options = operator.builtinOptions
        strides = (options.strideH, options.strideW)
        _require(
            kernel[1:] == [3, 3, 3] and strides == (2, 2),
            "it must begin with a 3x3 convolution of stride 2 on 3 "
            f"channels, and begins with {kernel[1]}x{kernel[2]}, stride "
            f"{strides[0]}, {kernel[3]} channels",
        )
        for name in set(before) - {"PAD", "QUANTIZE"}:
            raise _Broken(f"{name} comes before the first convolution")
        _require(
            self._padding(operator, 3) == 1,
            "the first convolution must be padded by 1 on all sides: "
            "ZeroPadding2D(1) and padding='valid'",
        )

    def _step(self, name, operator):
        if name == "CONV_2D":
            self._convolution(operator)
        elif name == "DEPTHWISE_CONV_2D":
            self._depthwise(operator)
        elif name in _BINARY:
            ranks = {
                len(self._shape(i)) for i in operator.inputs if self._moves(i)
            }
            _require(ranks == {4}, f"{name} of other than 4-D tensors")
        else:
            _require(
                name in _PASSING,
                f"{name} lies between the first convolution and the pooling",
            )

    def _pooling(self, operator):
        axes = sorted(np.ravel(self._file.constant(operator.inputs[1])) % 4)
        _require(axes == [1, 2], "the pooling must be global")

    def _zeros(self):
        total = sum(w.values.size for w in self._pointwise)
        kept = sum(np.count_nonzero(w.values) for w in self._pointwise)
        _require(total, "there is no 1x1 convolution")
        _require(
            1 - kept / total > _LEAST_ZEROS,
            "more than 2/3 of the 1x1 weights must be zero, "
            f"{1 - kept / total:.2f} are",
        )
        for weight in self._pointwise:
            _require(weight.sparse, f"{weight.name} is not stored sparse")
        for weight in self._pointwise:
            floats = weight.values.dtype.kind == "f"
            _require(floats, "int8 weights are not computed sparse")

    def _convolution(self, operator):
        kernel = self._shape(operator.inputs[1])
        stride = operator.builtinOptions.strideH
        _require(
            kernel[1:3] == [1, 1] and stride == 1,
            f"a {kernel[1]}x{kernel[2]} convolution of stride {stride} "
            "comes after the first: only 1x1 of stride 1 may",
        )
        self._pointwise.append(self._stored(operator.inputs[1]))

    def _depthwise(self, operator):
        _, height, width, _ = self._shape(operator.inputs[1])
        _require(
            height == width and height in (3, 5),
            f"a depthwise convolution is {height}x{width}",
        )
        _require(
            operator.builtinOptions.depthMultiplier == 1,
            "a depthwise convolution has a multiplier",
        )
        _require(
            self._padding(operator, height) == height // 2,
            f"a {height}x{height} depthwise convolution must be padded by "
            f"{height // 2} on all sides (with stride 2: "
            "ZeroPadding2D and padding='valid')",
        )

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
