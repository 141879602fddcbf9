"""A compressed checkpoint that stores the non-zeros only, bit for bit.

Keras itself writes and reads the state, in the folder form of its own format,
so that whatever a layer needs to come back (moving statistics, vocabularies)
does. Here that folder is packed and unpacked, together with the masks and the
states of random generators, which Keras leaves out:

    magic (8 bytes), version (4), SHA-256 of version and body (32), body

The body is one zstd frame: the length of a JSON description (8 bytes), the
description, the packed arrays. Numbers are little-endian. A packed array is a
bit for each entry, 1 where any bit of the entry is set, and the entries that
have one; or all entries, where that is shorter. Entries are stored by
significance, first the lowest bytes of all of them: signs and exponents repeat
themselves, the other bytes do not.

Private Keras names in use: `_trainable_variables`.
"""

import hashlib
import json
import math
import pathlib
import struct
import tempfile
import warnings

import h5py
import keras
import numpy as np
import zstandard
from keras import ops

from keras_app import enforcement
from keras_app import files
from keras_app import selection
from keras_app.report.exports import ExportReport
from keras_app.version import __version__

_MAGIC = b"KSPARSE\n"
_VERSION = 1
_HEADER = struct.Struct("<8sI32s")
_LENGTH = struct.Struct("<Q")
_WEIGHTS = "model.weights.h5"  # Keras's name for it
_SIDE_CAR = "sparsity"  # where the optimizer keeps its masks
# Higher levels take many times longer for a percent.
_LEVEL = 9


def save_sparse(model, path, optimizer=True):
    """Writes a model to a compressed checkpoint, atomically.

    Per array, with b = 1 where an entry has a bit that is set (-0.0 has one):

        stored = b as bits, then the entries with b = 1;   zstd of all

    About `size / 8` bits and the non-zeros, before zstd. The masks of a pruned
    model go along, so that its training continues, and so do the states of the
    model's random generators; not that of PyTorch's own, from which Keras
    draws dropout without a seed there. `load_sparse` reads the file on every
    backend.

    Args:
        model: A built `keras.Model`, compiled or not.
        path: File to write; the suffix is free. Its folder must exist.
        optimizer: Whether to keep the optimizer's state, which for most
            optimizers is dense and larger than the weights. Without it the
            model comes back compiled the same, with its masks, and with an
            optimizer at step 0. Defaults to `True`.

    Raises:
        ValueError: The model is not built, cannot be described by its
            configuration, or was given other trainable layers after it was
            compiled; what Keras itself would load as something else: layers
            with LoRA, float8 layers, a `Distiller`.
        OSError: The file cannot be written.

    Example:

    >>> import os
    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.sparse")
    ...     save_sparse(model, path)
    ...     load_sparse(path).count_params()
    9
    """
    path = pathlib.Path(path)
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {model!r}")
    if not model.built:
        raise ValueError(
            f"`model` must be built: {model.name} has no weights yet. Call it "
            "on some data first."
        )
    _check_restorable(model)
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
    # An optimizer that was never built has nothing to remember.
    keep = bool(optimizer and getattr(_optimizer(model), "built", False))
    masks = {}
    state = enforcement.state_of(model)
    if keep or state is not None:
        _check_trainable(model)
    if state is not None:
        # What pruned weights held is of use to the training alone.
        (state.save_own_variables if keep else state.save_masks)(masks)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        try:
            model.save(folder / "model", zipped=False)
        except (NotImplementedError, TypeError, ValueError) as error:
            raise ValueError(
                f"{type(model).__name__} cannot be described by its "
                f"configuration: {error} Give the class `get_config`."
            ) from error
        seeds = [ops.convert_to_numpy(each) for each in _seeds(model)]
        body = _pack(folder / "model", keep, masks, seeds)
    files.write_bytes(path, _seal(body))


def load_sparse(path):
    """Returns the model that `save_sparse` wrote, ready to train on.

    Args:
        path: The file, written on any backend.

    Returns:
        A `keras.Model`; compiled, with optimizer state and masks
        (`keras_app.masks_of`), if the saved one was.

    Raises:
        ValueError: The file is damaged, of another format or of a later
            version, or describes what this program does not know: classes and
            functions of one's own must be registered with Keras.
        OSError: The file is missing or cannot be read.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> save_sparse(model, "model.sparse")
    >>> load_sparse("model.sparse").output_shape
    (None, 2)
    """
    path = pathlib.Path(path)
    described, arrays = _read(_unseal(path.read_bytes(), path))
    # Keras drops an optimizer's state with a mere warning, and without a
    # state it warns for nothing.
    action = "error" if described["optimizer"] else "ignore"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings(action, "Skipping variable loading for optim")
        try:
            _unpack(described, arrays, pathlib.Path(folder))
            model = keras.saving.load_model(folder)
            masks = {key: arrays[i] for key, i in described["masks"].items()}
            if not _optimizer(model) and (described["optimizer"] or masks):
                raise ValueError(
                    "it holds the state of an optimizer, but the model does "
                    "not come back compiled."
                )
            seeds = [arrays[i] for i in described["seeds"]]
            for variable, value in zip(_seeds(model), seeds, strict=True):
                variable.assign(value)
            if masks:
                enforcement.attach(model).load_own_variables(masks)
        except (OSError, MemoryError):
            raise  # about this machine, not about the file
        except Exception as error:
            raise ValueError(
                f"{path} is whole, but cannot be loaded (written with "
                f"{described['versions']}): {error}"
            ) from error
    return model


def export_sparse(model, path):
    """Writes a sparse checkpoint without optimizer, and reads it back.

    Args:
        model: A built `keras.Model`.
        path: File to write.

    Returns:
        An `ExportReport`, also written to `<path>.report.json`. Dense are the
        bytes of the weights as they are in memory.

    Raises:
        ValueError: As `save_sparse`, or if what comes back is not bit for bit
            what was written.
    """
    save_sparse(model, path, optimizer=False)
    values = [ops.convert_to_numpy(v) for v in model.weights]
    loaded = [ops.convert_to_numpy(v) for v in load_sparse(path).weights]
    if [v.tobytes() for v in values] != [v.tobytes() for v in loaded]:
        pathlib.Path(path).unlink()
        raise ValueError(
            f"{path} did not come back as it was written, and was removed."
        )
    size = pathlib.Path(path).stat().st_size
    return ExportReport(
        path=str(path),
        format="sparse",
        precision=str(keras.backend.standardize_dtype(model.variable_dtype)),
        bytes=size,
        compressed_bytes=size,
        max_difference=0.0,
        compared_with="the model, bit by bit",
        dense_bytes=sum(v.nbytes for v in values),
        notes=("it is compressed, and dense are the weights in memory",),
    ).write()


def _check_restorable(model):
    """Refuses what Keras would save, and load as something else."""
    adapted = [layer.path for layer in selection.adapted_layers(model)]
    if adapted:
        raise ValueError(
            "`model` must have no layers with LoRA, which Keras merges when it "
            "saves: call `export.merge_lora(model)` first. "
            f"Received: LoRA in {selection.some(adapted)}"
        )
    if isinstance(model, keras.distillation.Distiller):
        raise ValueError(
            "`model` must not be a Distiller, which Keras loads without its "
            "optimizer: save `model.student`. "
            f"Received: {model.name}"
        )
    float8 = [
        layer.path
        for layer in selection.walk_layers(model)
        if layer.quantization_mode == "float8"
    ]
    if float8:
        raise ValueError(
            "`model` must not be in float8, which Keras loads with its "
            "variables in another order than they were trained in: save it "
            "with `model.save`; a pruner finds the zeros again. "
            f"Received: float8 in {selection.some(float8)}"
        )


def _optimizer(model):
    # A model that was never compiled lacks the attribute.
    return getattr(model, "optimizer", None)


def _seeds(model):
    """The states of the model's random generators, in its order."""
    weights = {id(variable) for variable in model.weights}
    return [v for v in model.variables if id(v) not in weights]


def _check_trainable(model):
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    known = [id(variable) for variable in optimizer._trainable_variables]
    if known != [id(variable) for variable in model.trainable_variables]:
        raise ValueError(
            f"The optimizer of {model.name} does not train the variables that "
            "are trainable now, and its state would fit no other model. "
            "Compile the model again after changing which layers are trainable."
        )


# ---- the file --------------------------------------------------------------


def _seal(body):
    version = struct.pack("<I", _VERSION)
    digest = hashlib.sha256(version + body).digest()
    return _HEADER.pack(_MAGIC, _VERSION, digest) + body


def _unseal(data, path):
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
    return body


def _pack(folder, keep_optimizer, masks, seeds):
    """The body: what Keras wrote to `folder`, and the rest."""
    writer = _Writer()
    groups, weights = {}, {}

    def visit(name, item):
        parts = name.split("/")
        # The masks are stored once, and also without the optimizer.
        if parts[0] == "optimizer" and not (
            keep_optimizer and _SIDE_CAR not in parts
        ):
            return
        if isinstance(item, h5py.Group):
            groups[name] = dict(item.attrs)
        else:
            weights[name] = [writer.add(item[()]), dict(item.attrs)]

    with h5py.File(folder / _WEIGHTS) as file:
        file.visititems(visit)
    others = {
        path.relative_to(folder).as_posix(): writer.add(
            np.frombuffer(path.read_bytes(), np.uint8)
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != _WEIGHTS
    }
    return writer.body(
        {
            "versions": {
                "keras_app": __version__,
                "keras": keras.__version__,
                "backend": keras.backend.backend(),
            },
            "optimizer": keep_optimizer,
            "groups": groups,
            "weights": weights,
            "masks": {key: writer.add(masks[key]) for key in masks},
            "seeds": [writer.add(seed) for seed in seeds],
            "files": others,
        }
    )


def _unpack(described, arrays, folder):
    """Writes the folder that Keras reads."""
    for name, index in described["files"].items():
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"a file in it leaves the folder: {name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(arrays[index].tobytes())
    with h5py.File(folder / _WEIGHTS, "w") as file:
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


def _read(body):
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
