"""What the process that writes a file is asked for, as the model says."""

import numpy as np
from keras import ops

from keras_app import selection
from keras_app.export import portable
from keras_app.export import signature
from keras_app.export import verification
from keras_app.export.litert import evaluation
from keras_app.export.litert.request import batches
from keras_app.export.litert.request import Request

# Largest difference to what the file is compared with, of the largest output,
# beyond the model's own rounding. Halves keep eleven bits; int8, compared with
# dense int8, may round activations by a step or two; dynamic rounds them all.
_TOLERANCES = {"float32": 0.0, "float16": 5e-3, "int8": 0.05, "dynamic": 0.2}

_SAMPLES = 4
_CALIBRATION = 200


def request(model, data, evaluate=None, quantize=None, **choices):
    """Returns the `Request` of a file: what it has to hold and to give.

    Args:
        model: A built `keras.Model`.
        data, evaluate, quantize: As for `export_litert`.
        **choices: Other fields of `Request`.
    """
    count = _CALIBRATION if quantize == "int8" else _SAMPLES
    samples = _samples(model, data, count)
    batch_size = signature.batch_size(model) or 1
    # Of the batches that calibrate, a few are enough to compare.
    compared = batches(samples, batch_size)[: -(-_SAMPLES // batch_size)]
    values = [ops.convert_to_numpy(each) for each in model.variables]
    expected = _expected(model, compared)
    return Request(
        samples,
        batch_size,
        quantize,
        evaluate=_evaluated(model, evaluate, expected),
        expected=expected,
        tolerance=max(
            _TOLERANCES[quantize or "float32"],
            verification.tolerance_for(model),
        ),
        nonzeros=[(x.size, np.count_nonzero(x)) for x in values if x.ndim >= 2],
        # And operations of Keras between them.
        layers=[
            each.name
            for layer in selection.walk_layers(model)
            for each in (layer, *getattr(layer, "operations", ()))
        ],
        **choices,
    )


def _samples(model, data, count):
    """`{input: array}` in the order of their names, as the file takes them."""
    given = signature.inputs_for(model, data, count, one_batch=False)
    arrays = signature.in_order(model, given)
    _, dtypes = signature.specs(model, arrays)
    if "string" in dtypes:
        raise ValueError(
            "The model must take numbers to become a LiteRT file, and takes "
            "strings. Cut it after its look-up layers, and look up before."
        )
    words = [array.dtype for array in arrays if array.dtype.kind not in "biuf"]
    if words:
        raise ValueError(
            "`data` must hold the numbers that the model takes, after all that "
            "prepares them, such as the `preprocessor` of a KerasHub task. "
            f"Received: {words[0]}"
        )
    names = signature.names(model)
    return {
        name: array.astype(portable.float32(dtype))
        for name, array, dtype in zip(names, arrays, dtypes, strict=True)
    }


def _expected(model, compared):
    """What the model gives, flat; of each output, all batches in one array.

    A difference is judged by the largest output of all samples.
    """
    found = [
        verification.outputs_of(
            model, signature.packed(model, batch.values()), "a LiteRT file"
        )
        for batch in compared
    ]
    return [np.stack(each) for each in zip(*found)]


def _evaluated(model, evaluate, expected):
    """Inputs by name, and the classes to be found for them."""
    if evaluate is None:
        return None
    if not isinstance(evaluate, (tuple, list)) or len(evaluate) != 2:
        raise ValueError(
            "`evaluate` must be (x, y), inputs and their classes. Received: "
            f"evaluate of {type(evaluate).__name__}"
        )
    x, y = evaluate
    arrays = signature.in_order(model, signature.checked(x, "evaluate"))
    if len(expected) != 1:
        raise ValueError(
            "`evaluate` must be given for a model with one output of classes. "
            f"Received: {model.name}, which has {len(expected)} outputs"
        )
    # Without the axes of batches and of samples.
    y = evaluation.classes(y, expected[0].shape[2:])
    lengths = {len(each) for each in (*arrays, y)}
    if len(lengths) != 1:
        raise ValueError(
            "`evaluate` must be (x, y) with as many inputs as classes. "
            f"Received: lengths {sorted(lengths)}"
        )
    return {"x": dict(zip(signature.names(model), arrays)), "y": y}
