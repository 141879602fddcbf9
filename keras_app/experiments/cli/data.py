"""What `--data` names: a data set, a file of arrays, or a function."""

import dataclasses
import importlib
import re

import keras

from keras_app import files
from keras_app.experiments import data as data_lib

WORDS = (
    "a data set by name, such as cifar10 (images in [0, 1]); arrays.npz with x "
    "and y, and x_val and y_val if it likes; or module:function, which returns "
    "(x, y) or a tf.data.Dataset, or a tuple of two such: to learn from and to "
    "validate on"
)

# No version of a data set, such as `mnist:3.0.1`, looks like that.
_FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


@dataclasses.dataclass(frozen=True)
class Data:
    """Examples to learn from, and others to validate on.

    Attributes:
        train: What `fit` takes: `(x, y)`, with `y` `None` where there are no
            labels, or a `tf.data.Dataset` or other batches.
        validation: The same of other examples, or `None` where none are given.
    """

    train: object
    validation: object = None

    def first(self, count):
        """Returns the first examples to learn from; batches as they are."""
        if not isinstance(self.train, tuple):
            return self.train
        return keras.tree.map_structure(
            lambda part: None if part is None else part[:count], self.train
        )


def read(text):
    """Reads what the flag `--data` names.

    Of a data set the training part is used, of which the 5 % that
    `data.Holdout` holds out are for validation; its test part is left alone.

    Args:
        text: The value of the flag.

    Returns:
        A `Data`.

    Raises:
        ValueError: No such data set or function, a file without the arrays, or
            a function that fails or returns something else.
        OSError: No such file, or data that cannot be downloaded.
    """
    if text.endswith(".npz"):
        return _from_file(files.path(text))
    match = _FUNCTION.fullmatch(text)
    if match:
        return _from_function(text, *match.groups())
    parts = data_lib.Holdout(text)
    return Data(
        parts.arrays(parts.train_ids), parts.arrays(parts.validation_ids)
    )


def _from_file(path):
    found = files.load_arrays(path)
    known = {"x", "y", "x_val", "y_val"}
    if "x" not in found or found.keys() - known:
        raise ValueError(
            "--data must name a file with the arrays x and y, and x_val and "
            f"y_val if it likes. Received: {path} with {sorted(found)}"
        )
    train = _pair(path, found, "x", "y")
    if not found.keys() & {"x_val", "y_val"}:
        return Data(train)
    if not found.keys() >= {"x_val", "y_val"}:
        raise ValueError(
            "--data must name a file with both of x_val and y_val, or none of "
            f"them. Received: {path} with {sorted(found)}"
        )
    return Data(train, _pair(path, found, "x_val", "y_val"))


def _pair(path, found, x, y):
    x_and_y = found[x], found.get(y)
    shapes = {name: found[name].shape for name in (x, y) if name in found}
    counts = {shape[:1] for shape in shapes.values()}
    if len(counts) > 1 or counts & {(), (0,)}:
        raise ValueError(
            f"--data must name a file with as many {y} as {x}, and one at "
            f"least. Received: {path} with shapes {shapes}"
        )
    return x_and_y


def _from_function(text, module, name):
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            "--data must name a module that Python finds from here and a "
            f"function in it. Received: --data={text}: {error}"
        ) from error
    # They are the user's, and whatever they raise belongs in the one line.
    except Exception as error:
        raise _failed(text, error) from error
    if not callable(function):
        raise ValueError(
            f"--data must name a function. Received: --data={text}, which is "
            f"of type {type(function).__name__}"
        )
    try:
        result = function()
    except Exception as error:
        raise _failed(text, error) from error
    if result is None:
        raise ValueError(
            "--data must name a function that returns (x, y) or batches. "
            f"Received: --data={text}, which returned None"
        )
    # As `keras.datasets` returns them: ((x, y), (x_val, y_val)). A list of two
    # may be two batches.
    if isinstance(result, tuple) and len(result) == 2:
        if not any(map(_is_arrays, result)):
            return Data(*result)
    return Data(result)


def _failed(text, error):
    return ValueError(f"--data={text} failed: {type(error).__name__}: {error}")


def _is_arrays(value):
    """Whether it is an array or a dict of arrays, rather than batches."""
    return hasattr(value, "shape") or isinstance(value, dict) or value is None
