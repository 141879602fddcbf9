"""The accuracy of a LiteRT file, of the file itself."""

import numpy as np

from keras_app.export.litert import runtime

_RULE = (
    "`evaluate` must be (x, y) with y the classes, as integers or one-hot, of "
    "a model with one output of classes"
)


def classes(labels, output_shape):
    """Returns the classes to be found, one integer for each place.

    Args:
        labels: Integers, of the output's shape without its last axis (or with
            1 there); one-hot, of its whole shape; 0 and 1 where the output has
            one number for each place.
        output_shape: The shape of the model's one output, without the batch.

    Raises:
        ValueError: Anything else, such as the targets of a regression.
    """
    labels = np.asarray(labels)
    received = f"{_RULE}. Received: y of {labels.dtype}, shape {labels.shape}"
    # A number for each sample without an axis of its own has no classes.
    *places, count = output_shape or (0,)
    places = tuple(places)
    shape = labels.shape[1:]
    fits = shape in (places, (*places, 1))
    one_hot = count > 1 and shape == (*places, count)
    if not count or not labels.size or labels.dtype.kind not in "biuf":
        raise ValueError(received)
    if one_hot and not fits:
        marks = np.isin(labels, (0, 1)).all() and (labels.sum(-1) == 1).all()
        if not marks:
            raise ValueError(f"{received}, which is not one-hot")
        return labels.argmax(-1).astype("int64")
    if not fits:
        raise ValueError(f"{received}, for outputs of shape {output_shape}")
    highest = max(count, 2) - 1
    whole = labels == np.round(labels)
    if not (whole & (labels >= 0) & (labels <= highest)).all():
        raise ValueError(f"{received}, with others than 0 to {highest}")
    return labels.reshape(len(labels), *places).astype("int64")


def accuracy(content, x, y, what="file"):
    """Returns the share of the places whose class a file finds.

    The class is the largest output; of an output with one number, whether it
    is above 0.5, as in Keras's `accuracy`.

    Args:
        content: The bytes of the file, with one output.
        x: `{input: array}`, the first axis the samples.
        y: As of `classes`.
        what: What to call the file in an error.

    Raises:
        ValueError: The file takes something else, or gives one number for each
            place that is no probability.
    """
    runner = runtime.Runner(content)
    x = _by_name(runner, x, what)
    [output] = runner.outputs
    right = start = 0
    for outputs in runner.over(x):
        found = _classes_of(outputs[output])
        wanted = y[start : start + len(found)]
        start += len(found)
        if found.shape != wanted.shape:
            raise ValueError(
                f"The {what} must give what `evaluate` holds classes for. "
                f"Received: outputs for {found.shape}, y of {wanted.shape}"
            )
        right += int((found == wanted).sum())
    return right / y.size


def _by_name(runner, x, what):
    """The arrays by the file's own names."""
    arrays = runner.named(x)
    shapes = {
        name: tuple(map(int, details["shape"][1:]))
        for name, details in runner.inputs.items()
    }
    given = {name: values.shape[1:] for name, values in arrays.items()}
    if shapes != given or len(x) != len(shapes) or len(runner.outputs) != 1:
        raise ValueError(
            f"The {what} must take what the model takes, and give one output. "
            f"Received: inputs {shapes}, {len(runner.outputs)} outputs"
        )
    return arrays


def _classes_of(outputs):
    if outputs.shape[-1] > 1:
        return outputs.argmax(-1)
    found = outputs[..., 0]
    # Room for the rounding of eight bits.
    if not (np.abs(found - 0.5) < 0.6).all():
        raise ValueError(
            "`evaluate` must not be given for an output of one number that is "
            "no probability: where it splits the classes is not known. End "
            f"the model in a sigmoid. Received: {found.max():g}"
        )
    return (found > 0.5).astype("int64")
