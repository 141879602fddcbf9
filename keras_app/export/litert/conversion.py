"""TensorFlow's converter to LiteRT, and what it says if it refuses.

Native code, which may end the process that it is in.
"""

import re
import warnings

from keras_app.cli import one_line


def convert(folder, request, sparse):
    """Returns what TensorFlow's converter makes of a SavedModel, as bytes."""
    import tensorflow as tf

    quantize = request.quantize
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if quantize else []
    if sparse:
        converter.optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        converter.representative_dataset = lambda: iter(request.batches)
    if request.io_dtype == "int8":
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    try:
        with warnings.catch_warnings():
            # Calibration uses an interpreter of TensorFlow's own.
            warnings.filterwarnings("ignore", ".*tf.lite.Interpreter")
            return converter.convert()
    except Exception as error:
        text = one_line(error)
        raise ValueError(_refusal(text, request.layers)) from error


def _refusal(text, layers):
    """What the converter does not take, in a sentence."""
    faults = re.findall(r"'tf\.(\w+)' op is neither a custom op", text)
    found = {name: _layer_said(name, text, layers) for name in faults}
    if not found:
        operation = re.search(r'fused\["(\w+):"', text)
        place = _layer_said(operation[1], text, layers) if operation else ""
        # What stands between the first place and the next.
        reason = re.search(r"\]\)+: (.*?)(?: <unknown>|$)", text)
        reason = reason[1] if reason else text
        return (
            "TensorFlow's converter does not take this model"
            f"{place.replace(' of', ', at')}: {reason[:300]}"
        )
    places = ", ".join(f"{name}{place}" for name, place in found.items())
    return (
        "TensorFlow's converter does not take this model: LiteRT cannot "
        f"compute {places}. Express it by other operations or types, or leave "
        "it to the code around the file."
    )


def _layer_said(operation, text, layers):
    """Which layer an operation came from, as far as the message says."""
    scopes = re.findall(rf'"{operation}:", "([^"@]*)/[^"@/]*@', text)
    found = layer_of(scopes[0], layers) if scopes else None
    return f" of layer {found}" if found else ""


def layer_of(scope, layers):
    """The innermost layer that a path of TensorFlow's names, or `None`.

    Args:
        scope: Such as `"model_1/block_1/dense_2_1"`.
        layers: Names of layers.
    """
    # TensorFlow numbers the names that come again.
    names = [
        name
        for part in scope.split("/")
        for name in (part, re.sub(r"_\d+$", "", part))
        if name in layers
    ]
    return names[-1] if names else None
