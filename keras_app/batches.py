"""Data as users have it, as batches that can be walked through again."""

import collections.abc

import keras
import numpy as np
from keras import ops

from keras_app import cli
from keras_app import host

_RULE = (
    "must be an array x, a tuple (x, y) of arrays, or batches (x, y), "
    "(x, None) or x in a list, a tf.data.Dataset or anything else that can be "
    "iterated over again"
)


def as_batches(data, batch_size=32, weights=False):
    """Returns a re-iterable of batches `(x, y)`; `y` is `None` without labels.

    Args:
        data: An array `x`, or several in a dict; a tuple `(x, y)`, each of
            which may be several arrays in a list, tuple or dict; or batches: a
            list, a `tf.data.Dataset`, a `keras.utils.PyDataset`, a
            `DataLoader`. Sample weights, which may be third, are left out.
        batch_size: Size of the batches that arrays are cut into. Defaults to
            `32`.
        weights: Whether batches are `(x, y, sample weights)`; those, too, may
            be `None`. Defaults to `False`.

    Raises:
        ValueError: Something else, arrays of several lengths, or no examples.

    Example:

    >>> x, y = np.zeros((70, 4)), np.zeros(70)
    >>> [len(labels) for _, labels in as_batches((x, y))]
    [32, 32, 6]
    """
    if isinstance(data, tuple) and len(data) in (2, 3) and _is_arrays(data[0]):
        parts = (*data, None)[:3]
        return _Slices(parts if weights else parts[:2], batch_size)
    # A list is one of batches.
    if not isinstance(data, list) and _is_arrays(data):
        return _Slices((data, None, None)[: 3 if weights else 2], batch_size)
    return _Batches(repeatable("data", data, _RULE), weights)


def cut(data):
    """Returns arrays as `as_batches` does, and anything else as it is.

    Example:

    >>> [len(y) for _, y in cut((np.zeros((70, 4)), np.zeros(70)))]
    [32, 32, 6]
    >>> batches = [(np.zeros((8, 4)), np.zeros(8))]
    >>> cut(batches) is batches
    True
    """
    # Batches, too, may lie in a tuple.
    first = data[0] if isinstance(data, tuple) and data else data
    whole = not isinstance(first, (tuple, list)) and _is_arrays(first)
    return as_batches(data) if whole else data


def repeatable(name, data, rule):
    """Returns batches that can be walked through again, and end.

    Args:
        name: Name of the argument, for the message.
        data: Batches as somebody else makes them.
        rule: What they must be, for the message: "must be ...".

    Raises:
        ValueError: Something else.

    Example:

    >>> batches = [(np.zeros((8, 4)), np.zeros(8))]
    >>> repeatable("data", batches, "must be batches") is batches
    True
    """
    rule = f"`{name}` {rule}"
    kind = f"Received: {name} of type {type(data).__name__}"
    if _is_endless(data):
        raise ValueError(f"{rule}, and ends. {kind} without an end")
    if isinstance(data, keras.utils.PyDataset):
        return _Indexed(data)
    if isinstance(data, collections.abc.Iterator):
        raise ValueError(
            f"{rule}; make a list of what can be walked through once. {kind}"
        )
    if not hasattr(data, "__iter__") or isinstance(data, (str, dict)):
        raise ValueError(f"{rule}. Received: {name}={data!r:.200}")
    return data


def has_labels(batches):
    """Whether the first of some batches has labels.

    Args:
        batches: What `as_batches` returns.
    """
    return next(iter(batches))[1] is not None


def is_empty(x):
    """Whether the inputs of a batch hold no example.

    Args:
        x: An array, or several in a dict or tuple.

    Example:

    >>> is_empty(np.zeros((0, 4))), is_empty({"a": np.zeros((2, 4))})
    (True, False)
    """
    leaves = keras.tree.flatten(x)
    return any(tuple(getattr(x, "shape", ()))[:1] == (0,) for x in leaves)


def check_fit(batches, model, name="data"):
    """Raises unless a model takes the examples of the first batch.

    Args:
        batches: What `as_batches` returns.
        model: A built `keras.Model`.
        name: Name of the argument, for the message. Defaults to `"data"`.
    """
    x = next(iter(batches))[0]
    taken = getattr(model, "input_shape", None)
    # Not of several inputs, or of a subclassed model.
    if isinstance(taken, tuple) and all(
        size is None or isinstance(size, int) for size in taken
    ):
        _check_shape(x, taken, name)
    try:
        arrays = keras.tree.map_structure(ops.convert_to_numpy, x)
        with host.without_gradients():
            model(arrays, training=False)
    # Each backend has exceptions of its own.
    except Exception as error:
        raise ValueError(
            f"`{name}` must hold examples that the model takes. On the first "
            f"batch it fails: {cli.one_line(error):.300}"
        ) from error


def _check_shape(x, taken, name):
    """Raises unless a batch has the shape that a model takes."""
    if isinstance(x, dict) and len(x) == 1:
        [x] = x.values()  # Keras knows its name
    rule = f"`{name}` must hold examples that the model takes, of shape {taken}"
    if not hasattr(x, "shape"):
        raise ValueError(
            f"{rule}. Received: batches of type {type(x).__name__}"
        )
    found = tuple(x.shape)
    # Keras adds a last axis of size 1, and takes one away.
    shapes = [found, (*found, 1)]
    if found[-1:] == (1,):
        shapes.append(found[:-1])
    if not any(
        len(shape) == len(taken)
        and all(size in (None, here) for size, here in zip(taken, shape))
        for shape in shapes
    ):
        raise ValueError(f"{rule}. Received: batches of shape {found}")


def _is_arrays(value):
    """Whether it is an array, or several in a container, with examples."""
    leaves = keras.tree.flatten(value)
    return bool(leaves) and all(
        len(getattr(leaf, "shape", ())) > 0 for leaf in leaves
    )


def _is_endless(data):
    """Whether it is a `tf.data.Dataset` or a `PyDataset` that never ends."""
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    # TensorFlow need not be there; what it calls infinite is -1.
    cardinality = getattr(data, "cardinality", None)
    return callable(cardinality) and int(cardinality()) == -1


def _as_array(labels):
    """An array of labels that are numbers in a list."""
    if isinstance(labels, list) and not _is_arrays(labels):
        return np.asarray(labels)
    return labels


class _Slices:
    """Batches of arrays."""

    def __init__(self, parts, size):
        x, *others = parts
        parts = x, *map(_as_array, others)
        lengths = {
            leaf.shape[0]
            for leaf in keras.tree.flatten(parts)
            if leaf is not None
        }
        if len(lengths) > 1 or 0 in lengths:
            raise ValueError(
                "`data` must hold as many labels as examples, and one at "
                f"least. Received: lengths {sorted(lengths)}"
            )
        [self._length] = lengths
        self._parts = parts
        self._size = size

    def __iter__(self):
        for start in range(0, self._length, self._size):
            here = slice(start, start + self._size)
            yield keras.tree.map_structure(
                lambda part, here=here: None if part is None else part[here],
                self._parts,
            )


class _Batches:
    """Batches as somebody else makes them."""

    def __init__(self, source, weights):
        self._source = source
        self._length = 3 if weights else 2

    def __iter__(self):
        empty = True
        for batch in self._source:
            parts = keras.utils.unpack_x_y_sample_weight(batch)
            if not is_empty(parts[0]):
                empty = False
                yield parts[: self._length]
        if empty:
            raise ValueError(
                "`data` must hold at least one batch with examples. Received "
                "none."
            )


class _Indexed:
    """A `PyDataset`, which has a length and does not end."""

    def __init__(self, dataset):
        self._dataset = dataset

    def __len__(self):
        return self._dataset.num_batches

    def __iter__(self):
        for index in range(len(self)):
            yield self._dataset[index]
