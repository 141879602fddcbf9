"""Files that are whole or not there."""

import contextlib
import os


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


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
