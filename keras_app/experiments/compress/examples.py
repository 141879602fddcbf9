"""What a user trains on, as epochs that a resumed run repeats."""

import hashlib

import numpy as np
from keras import tree

from keras_app import batches as batches_lib

_RULE = (
    "must be (x, y) with arrays, or batches (x, y) that can be walked through "
    "again, such as a tf.data.Dataset"
)


class Examples:
    """Examples to train on.

    Arrays are shuffled anew in each epoch; which order follows from the seed
    and the number of the epoch. Batches come as they are.

    Args:
        data: `(x, y)` with arrays, or dicts and lists of them; or batches
            `(x, y)` that can be walked through again.
        batch_size: Of arrays. Defaults to `None`: 128 of 10,000 examples or
            more, 32 of fewer.
        seed: Of the orders.
        name: What they are called. Defaults to `"own data"`.

    Attributes:
        name: What they are called.
        settings: What tells them from others.
        steps_per_epoch: Batches of an epoch.

    Raises:
        ValueError: Something else, arrays of several lengths, or no examples.
    """

    def __init__(self, data, batch_size=None, seed=0, name="own data"):
        self.name = name
        self._seed = seed
        self._arrays = as_arrays("data", data)
        if self._arrays is not None:
            count = count_of(self._arrays)
            self._size = batch_size or (128 if count >= 10_000 else 32)
            self._count = count
            self.steps_per_epoch = -(-count // self._size)
            self.settings = {
                "examples": count,
                "batch_size": self._size,
                "digest": _digest(self._arrays),
            }
            return
        self._batches = batches_lib.repeatable("data", data, _RULE)
        # Its own `len` where there is one; else they are counted.
        try:
            length = len(self._batches)
        except TypeError:
            length = sum(1 for _ in self._one_pass())
        if not length:
            raise ValueError(f"`data` {_RULE}. Received: no batches")
        self.steps_per_epoch = int(length)
        self.settings = {"steps_per_epoch": self.steps_per_epoch}

    def epochs(self, first, last):
        """Yields the batches of the epochs `first` to `last - 1`."""
        for number in range(first, last):
            if self._arrays is None:
                yield from self._one_pass()
                continue
            draw = np.random.default_rng((self._seed, number))
            order = draw.permutation(self._count)
            for start in range(0, self._count, self._size):
                ids = order[start : start + self._size]
                yield tree.map_structure(
                    lambda a, ids=ids: a[ids], self._arrays
                )

    def first(self, count):
        """Returns the inputs of the first `count` examples, as arrays."""
        return self.head(count)[0]

    def head(self, count):
        """Returns `(x, y)` of the first `count` examples."""
        if self._arrays is not None:
            return tree.map_structure(lambda a: a[:count], self._arrays)
        found, total = [], 0
        for x, y in self._one_pass():
            found.append((x, y))
            total += count_of((x, y))
            if total >= count:
                break
        return tree.map_structure(
            lambda *parts: np.concatenate(parts)[:count], *found
        )

    @property
    def targets(self):
        """All targets of arrays; of batches those of the first examples."""
        count = None if self._arrays is not None else 8
        return self.head(count)[1]

    def scoring(self, batches):
        """Returns a list of the first batches, of the first epoch."""
        epoch = self.epochs(0, 1)
        return [batch for batch, _ in zip(epoch, range(batches))]

    def _one_pass(self):
        for batch in self._batches:
            yield as_pair("data", batch)


def as_arrays(name, data):
    """Returns `(x, y)` as arrays, or `None` for batches.

    Raises:
        ValueError: Arrays of several lengths, or none.
    """
    # A list of two may be two batches.
    pair = isinstance(data, tuple) and len(data) == 2
    if not pair or not all(map(_is_arrays, data)):
        return None
    x, y = data
    arrays = tree.map_structure(_numpy, (x, y))
    lengths = {len(a) for a in tree.flatten(arrays)}
    if len(lengths) != 1 or 0 in lengths:
        shapes = [a.shape for a in tree.flatten(arrays)]
        raise ValueError(
            f"`{name}` must have as many inputs as targets, and at least one. "
            f"Received: shapes {shapes}"
        )
    return arrays


def as_pair(name, batch):
    """Returns a batch as `(x, y)` in arrays, or raises."""
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise ValueError(
            f"`{name}` {_RULE}. Received: batches of type "
            f"{type(batch).__name__} without targets"
        )
    if len(batch) > 2 and batch[2] is not None:
        raise ValueError(
            f"`{name}` {_RULE}, without sample weights, which are not used. "
            f"Received: batches of {len(batch)} parts"
        )
    return tree.map_structure(_numpy, tuple(batch[:2]))


def in_memory(name, data):
    """Returns `(x, y)` with all examples of some data, as arrays."""
    arrays = as_arrays(name, data)
    if arrays is not None:
        return arrays
    batches = [
        as_pair(name, batch)
        for batch in batches_lib.repeatable(name, data, _RULE)
    ]
    if not batches:
        raise ValueError(f"`{name}` {_RULE}. Received: no batches")
    return tree.map_structure(lambda *parts: np.concatenate(parts), *batches)


def count_of(arrays):
    """How many examples arrays hold."""
    return len(tree.flatten(arrays)[0])


def _is_arrays(value):
    return all(
        getattr(leaf, "ndim", 0) for leaf in tree.flatten(value)
    ) and bool(tree.flatten(value))


def _numpy(value):
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value)


def _digest(arrays):
    hashed = hashlib.sha256()
    for array in tree.flatten(arrays):
        hashed.update(f"{array.dtype}{array.shape}".encode())
        # The ends of it tell large arrays apart well enough.
        for part in (array[:64], array[-64:]):
            hashed.update(np.ascontiguousarray(part).tobytes())
    return hashed.hexdigest()[:16]
