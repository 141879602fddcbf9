"""The file of a compressed checkpoint: what a folder of Keras holds, packed.

    magic (8 bytes), version (4), SHA-256 of version and body (32), body

The body is one zstd frame: the length of a JSON description (8 bytes), the
description, the packed arrays. Numbers are little-endian. A packed array is a
bit for each entry, 1 where any bit of the entry is set, and the entries that
have one; or all entries, where that is shorter. Entries are stored by
significance, first the lowest bytes of all of them: signs and exponents repeat
themselves, the other bytes do not.
"""

import hashlib
import json
import math
import struct

import h5py
import keras
import numpy as np
import zstandard

from keras_app import host
from keras_app.version import __version__

WEIGHTS = "model.weights.h5"  # Keras's name for it
_MAGIC = b"KSPARSE\n"
_VERSION = 1
_HEADER = struct.Struct("<8sI32s")
_LENGTH = struct.Struct("<Q")
_SIDE_CAR = "sparsity"  # where the optimizer keeps its masks
# Higher levels take many times longer for a percent.
_LEVEL = 9


def _sealed(body):
    version = struct.pack("<I", _VERSION)
    digest = hashlib.sha256(version + body).digest()
    return _HEADER.pack(_MAGIC, _VERSION, digest) + body


def read(path):
    """Returns the description and the arrays of a file.

    Raises:
        ValueError: It is damaged, of another format or of a later version.
    """
    data = path.read_bytes()
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise ValueError(
            f"{path} is no sparse checkpoint, or its beginning is damaged."
        )
    _, version, digest = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    found = hashlib.sha256(struct.pack("<I", version) + body).digest()
    if found != digest:
        raise ValueError(f"{path} is damaged: its checksum does not match.")
    if version != _VERSION:
        raise ValueError(
            f"{path} has format {version}, but keras_app {__version__} reads "
            f"format {_VERSION}. Read it with the version that wrote it."
        )
    return _arrays_of(body)


def pack(folder, dropped, keep_optimizer, masks, seeds):
    """Returns the bytes of a file.

    Args:
        folder: What Keras wrote, a `pathlib.Path`.
        dropped: Names of the model's attributes whose state is left out.
        keep_optimizer: Whether the file has the state of the optimizer.
        masks: `{key: array}`.
        seeds: List of arrays.
    """
    writer = _Writer()
    groups, weights = {}, {}

    def visit(name, item):
        parts = name.split("/")
        # The masks are stored once, and also without the optimizer.
        if parts[0] in dropped or (
            parts[0] == "optimizer" and _SIDE_CAR in parts
        ):
            return
        if isinstance(item, h5py.Group):
            groups[name] = dict(item.attrs)
        else:
            weights[name] = [writer.add(item[()]), dict(item.attrs)]

    with h5py.File(folder / WEIGHTS) as file:
        file.visititems(visit)
    others = {
        path.relative_to(folder).as_posix(): writer.add(
            np.frombuffer(path.read_bytes(), np.uint8)
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != WEIGHTS
    }
    body = writer.body(
        {
            "versions": {
                "keras_app": __version__,
                "keras": keras.__version__,
                "backend": host.BACKEND,
            },
            "optimizer": keep_optimizer,
            "groups": groups,
            "weights": weights,
            "masks": {key: writer.add(masks[key]) for key in masks},
            "seeds": [writer.add(seed) for seed in seeds],
            "files": others,
        }
    )
    return _sealed(body)


def unpack(described, arrays, folder):
    """Writes the folder that Keras reads."""
    for name, index in described["files"].items():
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"a file in it leaves the folder: {name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(arrays[index].tobytes())
    with h5py.File(folder / WEIGHTS, "w") as file:
        for name, attributes in described["groups"].items():
            file.require_group(name).attrs.update(attributes)
        for name, (index, attributes) in described["weights"].items():
            item = file.create_dataset(name, data=arrays[index])
            item.attrs.update(attributes)


class _Writer:
    """Collects arrays, equal ones once: a loss scaler repeats its optimizer."""

    def __init__(self):
        self._described = []
        self._packed = []
        self._known = {}

    def add(self, array):
        """Returns the number of `array` in the file."""
        array = np.asarray(array)
        if array.dtype.hasobject:
            raise ValueError(
                "A layer stores text or objects among its variables, which a "
                "sparse checkpoint cannot hold."
            )
        kind = [array.dtype.str, list(array.shape)]
        data = array.tobytes()
        key = (*map(str, kind), hashlib.sha256(data).digest())
        if key not in self._known:
            sparse, packed = _encode(data, array.dtype.itemsize)
            self._known[key] = len(self._packed)
            self._described.append([*kind, sparse, len(packed)])
            self._packed.append(packed)
        return self._known[key]

    def body(self, described):
        """Returns everything as one compressed frame."""
        described = {**described, "arrays": self._described}
        text = json.dumps(described).encode()
        data = b"".join([_LENGTH.pack(len(text)), text, *self._packed])
        return zstandard.ZstdCompressor(level=_LEVEL).compress(data)


def _arrays_of(body):
    """The description and the arrays of a body."""
    data = memoryview(zstandard.ZstdDecompressor().decompress(body))
    start = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    described = json.loads(bytes(data[_LENGTH.size : start]))
    arrays = []
    for dtype, shape, sparse, length in described["arrays"]:
        dtype = np.dtype(dtype)
        rows = _decode(
            data[start : start + length],
            math.prod(shape),
            dtype.itemsize,
            sparse,
        )
        arrays.append(rows.reshape(-1).view(dtype).reshape(shape))
        start += length
    return described, arrays


def _encode(data, size):
    """Returns whether only non-zeros are stored, and the packed entries."""
    rows = np.frombuffer(data, np.uint8).reshape(-1, size)
    filled = np.bitwise_or.reduce(rows, axis=1) != 0
    bits = np.packbits(filled)
    kept = rows[filled]
    if bits.size + kept.size < rows.size:
        return True, bits.tobytes() + kept.T.tobytes()
    return False, rows.T.tobytes()


def _decode(packed, count, size, sparse):
    """Returns the bytes of the entries, uint8 of shape `(count, size)`."""
    packed = np.frombuffer(packed, np.uint8)
    if not sparse:
        return np.ascontiguousarray(packed.reshape(size, count).T)
    length = -(-count // 8)
    filled = np.unpackbits(packed[:length], count=count).astype(bool)
    rows = np.zeros((count, size), np.uint8)
    rows[filled] = packed[length:].reshape(size, -1).T
    return rows
