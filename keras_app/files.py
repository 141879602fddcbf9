"""Files that are whole or not there."""

import contextlib
import os


@contextlib.contextmanager
def replacing(target):
    """Yields a path to write to, which becomes `target` at the end.

    Whatever happens, a reader finds either the old or the new file.

    Args:
        target: A `pathlib.Path`.
    """
    # Keras chooses the format by the suffix, so that it stays last.
    temporary = target.with_name(f".writing-{target.name}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(target, data):
    """Writes a file atomically: a temporary name, then a rename.

    Args:
        target: A `pathlib.Path`.
        data: Bytes.
    """
    with replacing(target) as temporary:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
