"""TensorFlow Lite Micro: what it computes."""

from keras_app.export.litert.conversion import layer_of

# The built-in operators of https://github.com/tensorflow/tflite-micro, as its
# Python package 0.dev20261023182759 (23 October 2026) has them registered:
# each was asked for in a file of one operation. A firmware links those that
# its own `MicroMutableOpResolver` adds.
OPERATORS = frozenset(
    """
    ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL
    BATCH_TO_SPACE_ND BROADCAST_ARGS BROADCAST_TO CALL_ONCE CAST CEIL
    CONCATENATION CONV_2D COS CUMSUM DEPTHWISE_CONV_2D DEPTH_TO_SPACE
    DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP
    EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND
    GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU
    LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX
    MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD
    PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX REDUCE_MIN RELU
    RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND
    RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH
    SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM
    SVDF TANH TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK
    VAR_HANDLE WHILE ZEROS_LIKE
    """.split()
)


def check_operators(file, layers):
    """Raises if TensorFlow Lite Micro lacks an operator of a file.

    Args:
        file: A `keras_app.export.litert.file.LiteRTFile`.
        layers: Names of the model's layers.
    """
    lacking = {}
    for name, scope in _places(file):
        if name not in OPERATORS:
            layer = layer_of(scope, layers)
            known = lacking.setdefault(name, [])
            known += [layer] if layer and layer not in known else []
    if not lacking:
        return
    found = [
        f"{name} of layer {', '.join(where)}" if where else name
        for name, where in sorted(lacking.items())
    ]
    raise ValueError(
        "`target` must not be 'micro' for this model: TensorFlow Lite Micro "
        f"lacks {'; '.join(found)}. Express it by other operations. Received: "
        "target='micro'"
    )


def _places(file):
    """Yields `(operation, path of its first output)` over all graphs."""
    for number, graph in enumerate(file.model.subgraphs):
        for name, operator in file.operations(number):
            tensors = [i for i in operator.outputs if i >= 0]
            label = graph.tensors[tensors[0]].name if tensors else b""
            # The converter joins the paths of what it fused; the last one is
            # that of the output.
            yield name, (label or b"").decode().replace(";", "/")
