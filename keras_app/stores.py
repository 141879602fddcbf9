"""Paths of object stores, such as `s3://bucket/run`, through fsspec.

What the package asks of a `pathlib.Path`, of something that has no folders, no
renaming and no appending: an object is put whole, or not at all. epath, which
TensorFlow Datasets brings, is no help: beside an installed TensorFlow it asks
TensorFlow's own file system, which knows no S3.
"""

import contextlib
import fnmatch
import functools
import io
import logging
import pathlib
import posixpath
import re
import types
import uuid

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE | re.DOTALL)
_EXTRA = "`pip install 'keras_app[cloud]'`"
_OURS = ("s3", "gs", "gcs")
# What the store finds damaged on arrival is refused: S3 by the checksum that
# its client sends along, Google Cloud Storage if it is asked to compare.
_OPTIONS = {
    "gs": {"consistency": "crc32c"},
    "gcs": {"consistency": "crc32c"},
}


def scheme_of(text):
    """Returns `"s3"` of `"s3://bucket/run"`; `None` for a path on a disk."""
    found = _URL.match(str(text))
    scheme = found.group(1).lower() if found else None
    return None if scheme == "file" else scheme


def _told(method):
    """Clients have exceptions of their own, in sentences of many lines."""

    @functools.wraps(method)
    def asked(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self}: {_reason(error)}") from error
        except FileExistsError:
            raise
        except PermissionError as error:
            raise PermissionError(f"{self}: {_reason(error)}") from error
        except Exception as error:
            raise OSError(f"{self}: {_reason(error)}") from error

    return asked


def _reason(error):
    # An error of the operating system has its sentence beside its number.
    text = getattr(error, "strerror", None) or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


class StorePath(pathlib.PurePosixPath):
    """A path in an object store, used as a `pathlib.Path` is.

    Folders are there as long as something is in them, and need not be made.

    Args:
        *parts: The first one with a scheme, such as `"s3://bucket/run"`.
    """

    @staticmethod
    def of(text):
        """Returns the path of a text with a scheme.

        Raises:
            ValueError: No such scheme, or no bucket.
            ImportError: What the scheme needs is not installed.
        """
        path = StorePath(str(text))
        rule = "a path must be on a disk, or of a store such as s3:// or gs://"
        if len(path.parts) < 2:
            raise ValueError(f"{rule}, with a bucket. Received: {text}")
        import fsspec

        scheme = scheme_of(text)
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            # fsspec says what the stores of others need.
            how = _EXTRA if scheme in _OURS else _reason(error)
            raise ImportError(
                f"{scheme}:// needs packages that are not installed: {how}. "
                f"Received: {text}"
            ) from error
        except ValueError as error:
            raise ValueError(f"{rule}. Received: {text}") from error
        # It logs each error that it raises, with its traceback.
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
        return path

    def __str__(self):
        scheme, *rest = self.parts
        return f"{scheme}//{'/'.join(rest)}"

    def __fspath__(self):
        return str(self)

    @property
    def file_system(self):
        """fsspec's; without listings that it remembers, which grow old."""
        import fsspec

        scheme = self.parts[0].removesuffix(":").lower()
        more = _OPTIONS.get(scheme, {})
        # It keeps one itself, and makes another one in a forked process.
        return fsspec.filesystem(scheme, use_listings_cache=False, **more)

    def resolve(self):
        """Itself: there is no shorter way."""
        return self

    def relative_to(self, other):
        """The rest, which is a path of no store."""
        return pathlib.PurePosixPath(*super().relative_to(other).parts)

    # ---- what is there ---------------------------------------------------

    @_told
    def info(self):
        """What fsspec knows of it; `None` if it is not there."""
        try:
            return self.file_system.info(str(self))
        except FileNotFoundError:
            return None

    def exists(self):
        return self.info() is not None

    def is_file(self):
        return (self.info() or {}).get("type") == "file"

    def is_dir(self):
        return (self.info() or {}).get("type") == "directory"

    def stat(self):
        """An object with `st_size`."""
        return types.SimpleNamespace(st_size=self._found()["size"])

    @_told
    def modified(self):
        """When it was put, by the clock of the store."""
        return self.file_system.modified(str(self))

    def _found(self):
        found = self.info()
        if found is None:
            raise FileNotFoundError(f"{self}: no such file")
        return found

    @_told
    def iterdir(self):
        names = self.file_system.ls(str(self), detail=False)
        # Some programs leave an empty object in the place of a folder.
        names = {posixpath.basename(name.rstrip("/")) for name in names}
        return iter([self / name for name in sorted(names - {self.name, ""})])

    def glob(self, pattern):
        """Those of the folder; none if there is no such folder."""
        try:
            found = list(self.iterdir())
        except FileNotFoundError:
            found = []
        return iter([x for x in found if fnmatch.fnmatchcase(x.name, pattern)])

    @_told
    def rglob(self, pattern):
        """The files of the folder and of those in it."""
        found = [self / name for name in self.sizes()]
        return iter([x for x in found if fnmatch.fnmatchcase(x.name, pattern)])

    @_told
    def sizes(self):
        """`{name: bytes}` of the files of the folder and of those in it."""
        top = self.file_system._strip_protocol(str(self)).rstrip("/")
        found = self.file_system.find(str(self), detail=True)
        return {x[len(top) + 1 :]: found[x]["size"] for x in found if x != top}

    # ---- reading and writing ---------------------------------------------

    @_told
    def read_bytes(self):
        return self.file_system.cat_file(str(self))

    def read_text(self, encoding="utf-8", errors="strict"):
        return self.read_bytes().decode(encoding, errors)

    def open(self, mode="rb"):
        """What it holds, as a file to read bytes from."""
        if mode != "rb":
            raise ValueError(f"`mode` must be 'rb'. Received: mode={mode!r}")
        return io.BytesIO(self.read_bytes())

    @_told
    def write_bytes(self, data):
        """Puts it whole, or not at all."""
        self.file_system.pipe_file(str(self), bytes(data))
        self._check_size(len(data))

    def write_text(self, text):
        self.write_bytes(text.encode())

    @_told
    def create(self, data):
        """As `write_bytes`, by one of all who try at once.

        Raises:
            FileExistsError: It is there already.
        """
        self.file_system.pipe_file(str(self), data, mode="create")

    @_told
    def upload(self, file):
        """Puts a file of this disk, whole or not at all.

        Args:
            file: A `pathlib.Path`.
        """
        self.file_system.put_file(str(file), str(self))
        self._check_size(file.stat().st_size)

    @_told
    def download(self, file):
        """Gets it, or a whole folder.

        Args:
            file: The `pathlib.Path` to write; its folder must exist.
        """
        if self.is_dir():
            for each in self.rglob("*"):
                there = file / each.relative_to(self)
                there.parent.mkdir(parents=True, exist_ok=True)
                each.download(there)
            return
        size = self._found()["size"]
        self.file_system.get_file(str(self), str(file))
        if file.stat().st_size != size:
            raise OSError(f"{file.stat().st_size} of {size} bytes have arrived")

    def _check_size(self, size):
        there = self._found()["size"]
        if there != size:
            raise OSError(f"{there} of {size} bytes have arrived")

    @_told
    def unlink(self, missing_ok=False):
        try:
            self.file_system.rm_file(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    @_told
    def rmtree(self):
        """Removes what begins with it; nothing if there is none."""
        with contextlib.suppress(FileNotFoundError):
            self.file_system.rm(str(self), recursive=True)

    def mkdir(self, parents=False, exist_ok=False):
        """Nothing: what is put in a folder makes it."""

    @_told
    def check_writable(self):
        """Raises an `OSError` unless something can be put there and removed."""
        probe = f"{self}/.probe-{uuid.uuid4().hex}"
        self.file_system.pipe_file(probe, b"")
        self.file_system.rm_file(probe)
