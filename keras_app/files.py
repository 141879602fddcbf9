"""Files that are whole or not there, and models in them."""

import contextlib
import os

import keras


@contextlib.contextmanager
def replacing(target):
    """Yields a path to write to, which becomes `target` at the end.

    Whatever happens, to the process or to the machine's power, a reader finds
    either the old or the new file.

    Args:
        target: A `pathlib.Path`.
    """
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


def check_target(path):
    """Raises unless `path`, a `pathlib.Path`, can become a file."""
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(
            "`path` must name a file in a folder that exists. "
            f"Received: path={path}"
        )


def write_bytes(target, data):
    """Writes a file atomically: a temporary name, then a rename.

    Args:
        target: A `pathlib.Path`.
        data: Bytes.
    """
    with replacing(target) as temporary:
        temporary.write_bytes(data)


def load_model(path, compile=True):
    """Loads a model, or raises one error that names the file.

    Args:
        path: A `pathlib.Path` of a `.keras` file.
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
        return keras.saving.load_model(path, compile=compile)
    # Keras has an exception of its own for each part of a file.
    except Exception as error:
        raise ValueError(f"{path} does not load: {error}") from error


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
