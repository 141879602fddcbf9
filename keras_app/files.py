"""Files that are whole or not there, on a disk or in an object store.

Every path that a person gives comes through `path`. On a disk a file is written
beside its place, forced to the disk and renamed. An object store puts a file
whole, or not at all: what libraries can only write to a disk is written there
first, and put when it is complete.
"""

import atexit
import contextlib
import hashlib
import os
import pathlib
import shutil
import tempfile
import zipfile

import keras
import numpy as np

from keras_app import claims
from keras_app.stores import scheme_of
from keras_app.stores import StorePath


def path(text):
    """Returns the path that a person means.

    Args:
        text: A text or a path: a place on this disk, or in an object store,
            such as `"s3://bucket/run"` or `"gs://bucket/run"`.

    Returns:
        A `pathlib.Path`, or a `stores.StorePath`, which is used like one.

    Raises:
        ValueError: No such store, or no bucket.
        ImportError: What the store needs is not installed.
    """
    if isinstance(text, (pathlib.Path, StorePath)):
        return text
    if scheme_of(text) is not None:
        return StorePath.of(text)
    return pathlib.Path(str(text).removeprefix("file://"))


def is_stored(text):
    """Returns whether a text or path is one of an object store."""
    return scheme_of(text) is not None


# ---- writing -----------------------------------------------------------


@contextlib.contextmanager
def replacing(target):
    """Yields a path to write to, which becomes `target` at the end.

    Whatever happens, to the process or to the machine's power, a reader finds
    either the old or the new file.

    Args:
        target: What `path` returned. The path to write to is on this disk.
    """
    if is_stored(target):
        with tempfile.TemporaryDirectory(prefix="keras_app-") as folder:
            temporary = pathlib.Path(folder) / target.name
            yield temporary
            target.upload(temporary)
        return
    # Keras chooses the format by the suffix, so that it stays last.
    temporary = target.with_name(f".writing-{target.name}")
    try:
        yield temporary
        # The name must not reach the disk before the content does.
        _sync(temporary)
        os.replace(temporary, target)
        # Some file systems cannot do this with a folder.
        with contextlib.suppress(OSError):
            _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(target, mark):
    """Yields a folder to write, which becomes `target` at the end.

    On a disk an older one steps aside for the moment of a rename, and comes
    back if it fails. In an object store its mark goes first, and comes last.

    Args:
        target: What `path` returned.
        mark: Name of the file without which the folder is none.
    """
    if is_stored(target):
        with tempfile.TemporaryDirectory(prefix="keras_app-") as place:
            folder = pathlib.Path(place) / target.name
            yield folder
            _put_folder(folder, target, mark)
        return
    temporary = target.with_name(f".writing-{target.name}")
    replaced = target.with_name(f".replaced-{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        if not target.exists():
            os.rename(temporary, target)
            return
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(target, replaced)
        try:
            os.rename(temporary, target)
        except OSError:
            os.rename(replaced, target)
            raise
        shutil.rmtree(replaced)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_folder(folder, target, mark):
    """Puts the files of a folder in the place of those that were there."""
    (target / mark).unlink(missing_ok=True)
    remove_folder(target)
    names = [f.relative_to(folder) for f in folder.rglob("*") if f.is_file()]
    for name in sorted(names, key=lambda name: str(name) == mark):
        (target / name.as_posix()).upload(folder / name)


def remove_folder(target):
    """Removes a folder with what is in it, if it is there."""
    if is_stored(target):
        target.rmtree()
    elif target.exists():
        shutil.rmtree(target)


def check_target(path):
    """Raises unless `path`, of the function above, can become a file."""
    if not has_place(path) or path.is_dir():
        raise ValueError(
            "`path` must name a file in a folder that exists. "
            f"Received: path={path}"
        )


def has_place(target):
    """Returns whether the folder is there that `target` is to be in.

    Raises:
        OSError: An object store, where folders need not be, refuses it.
    """
    if is_stored(target):
        target.parent.check_writable()
        return True
    return target.parent.is_dir()


def check_writable(folder):
    """Raises an `OSError` unless files can be written in a folder.

    Args:
        folder: What `path` returned; need not exist.
    """
    if is_stored(folder):
        folder.check_writable()
        return
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"{existing}: no permission to write")


def write_bytes(target, data):
    """Writes a file atomically.

    Args:
        target: What `path` returned.
        data: Bytes.
    """
    with replacing(target) as temporary:
        temporary.write_bytes(data)


def append_text(target, text):
    """Adds to the end of a file. In an object store it is put again.

    Args:
        target: What `path` returned.
        text: What to add.
    """
    if is_stored(target):
        before = target.read_bytes() if target.is_file() else b""
        target.write_bytes(before + text.encode())
        return
    with open(target, "a") as file:
        file.write(text)


def claim(folder):
    """Keeps other processes out of a folder; returns what does.

    Args:
        folder: What `path` returned.

    Raises:
        claims.InUse: Another process writes there.
    """
    kind = claims.Claim if is_stored(folder) else claims.Lock
    return kind(folder)


class Mirror:
    """A folder on this disk for what grows, such as TensorBoard's events.

    Args:
        target: The folder that is meant, which `path` returned.

    Attributes:
        local: The `pathlib.Path` to write to: `target` itself on a disk.
    """

    def __init__(self, target):
        self._target = target
        self._put = {}
        self.local = target
        if is_stored(target):
            self._place = tempfile.TemporaryDirectory(prefix="keras_app-")
            self.local = pathlib.Path(self._place.name)

    def push(self):
        """Puts the files that have grown, where `target` is in a store."""
        if self.local is self._target:
            return
        for file in self.local.rglob("*"):
            name = file.relative_to(self.local)
            size = file.stat().st_size
            if file.is_file() and self._put.get(name) != size:
                # As it is now: it may grow while it is put.
                data = file.read_bytes()
                (self._target / name.as_posix()).write_bytes(data)
                self._put[name] = len(data)


def open_log(target):
    """Opens a file to append bytes to, for as long as the process lives.

    Args:
        target: What `path` returned. In an object store the file is put when
            the process ends.
    """
    if not is_stored(target):
        return open(target, "a+b")
    mirror = Mirror(target.parent)
    atexit.register(mirror.push)
    return open(mirror.local / target.name, "a+b")


# ---- reading -----------------------------------------------------------


@contextlib.contextmanager
def local(source):
    """Yields a path of this disk with what `source` holds.

    Args:
        source: What `path` returned: itself on a disk.
    """
    if not is_stored(source):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="keras_app-") as folder:
        there = pathlib.Path(folder) / source.name
        source.download(there)
        yield there


def copy_of(folder):
    """Returns a copy on this disk of a folder in an object store, kept there.

    It is made once, in the user's cache, and again if the names or sizes of
    the files have changed.

    Args:
        folder: A `stores.StorePath` of a folder.
    """
    place = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    copy = cache() / "copies" / place / folder.name
    if copy.is_dir() and _sizes(copy) == _sizes(folder):
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=copy.parent) as temporary:
        arrived = pathlib.Path(temporary) / folder.name
        folder.download(arrived)
        remove_folder(copy)
        # Another process may have put it there in the meantime.
        with contextlib.suppress(OSError):
            os.rename(arrived, copy)
    return copy


def _sizes(folder):
    if is_stored(folder):
        return folder.sizes()
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in found
    }


def cache():
    """Returns our folder in the user's cache (`XDG_CACHE_HOME`)."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "keras_app"


def common_folder(folders):
    """Returns the folder that holds all of these, or `None`."""
    if not any(map(is_stored, folders)):
        return pathlib.Path(os.path.commonpath(folders))
    shared = os.path.commonprefix([folder.parts for folder in folders])
    return StorePath(*shared) if len(shared) > 1 else None


def load_model(path, compile=True):
    """Loads a model, or raises one error that names the file.

    Args:
        path: The path of a `.keras` file, as the function `path` returns it.
        compile: Whether to compile the model as it was. Defaults to `True`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It does not load.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"the model must be a .keras file. Received: {path}"
        )
    try:
        with local(path) as file:
            return keras.saving.load_model(file, compile=compile)
    # Keras has an exception of its own for each part of a file.
    except Exception as error:
        raise ValueError(f"{path} does not load: {error}") from error


def load_arrays(path):
    """Loads the arrays of a file, or raises one error that names the file.

    Args:
        path: The path of a `.npz` file, as the function `path` returns it.

    Returns:
        `{name: array}`.

    Raises:
        OSError: There is no such file.
        ValueError: It does not load.
    """
    try:
        with (
            path.open("rb") as opened,
            np.load(opened, allow_pickle=False) as file,
        ):
            return {name: file[name] for name in file.files}
    # A TypeError: it holds one array without a name, as a .npy file does.
    except (ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} does not load: {error}") from error


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
