"""The folder of one run: atomic files, verified checkpoints, one log.

Whatever happens to the process, a reader finds either the old or the new
version of a file, and a checkpoint is used only if its checksum is right.
Checkpoints are written by a thread, while the training goes on. The folder may
be in an object store: `keras_app.files` knows how.
"""

import concurrent.futures
import contextlib
import hashlib
import importlib
import io
import json
import pathlib
import tempfile
import zipfile

import keras
import ml_dtypes  # noqa: F401  NumPy then knows bfloat16 by its name
import numpy as np

from keras_app import claims
from keras_app import files
from keras_app import host
from keras_app.experiments import devices
from keras_app.version import __version__

METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
MODEL = "model.keras"
CHECKPOINTS = "checkpoints"


class RunFolder:
    """The files of one run; nothing is written before `begin`.

    Of several processes, which see the same folder, only the first one writes.

    Args:
        path: The folder, on a disk or in an object store; made by `begin`.
        keep: Number of checkpoints to keep, >= 1. The one before the newest
            is the way out when the newest is damaged. Defaults to `2`.

    Attributes:
        writes: Whether this process does.
        before_summary: Called without arguments when everything is written
            but the summary, which says that the folder is finished.
        trained: Whether training steps were taken; `None` where an experiment
            does not tell.
    """

    def __init__(self, path, keep=2):
        self.path = files.path(path)
        self.keep = keep
        self.writes = devices.is_chief()
        self.before_summary = lambda: None
        self.trained = None
        self._is_new = False
        self._claim = None
        self._writer = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._written = None  # the future of the last checkpoint

    def check(self, resume):
        """Raises if the folder holds another run, or cannot be written.

        Args:
            resume: Whether what is there is to be continued.
        """
        if not self.writes:
            # The first process may have begun already.
            return
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(
                f"`run_dir` must be a folder. Received: run_dir={self.path}, "
                "which is a file"
            )
        if not resume and self.path.exists() and any(self.path.iterdir()):
            raise ValueError(
                f"`run_dir` holds files already: {self.path}. Continue that "
                "run with --resume, or choose another folder."
            )
        try:
            files.check_writable(self.path)
        except OSError as error:
            raise ValueError(
                f"`run_dir` must be writable. Received: run_dir={self.path} "
                f"({error})"
            ) from error

    def begin(self):
        """Makes the folder; from here on there is something to resume."""
        if self.writes:
            self._is_new = not self.path.exists()
            (self.path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            self._keep_out()

    def release(self):
        """Waits for the last checkpoint, and lets other processes in."""
        try:
            self.flush()
        finally:
            if self._claim is not None:
                self._claim.finish()

    def discard(self):
        """Removes the folder if `begin` made it: nothing was trained."""
        self.flush()
        if self._is_new:
            files.remove_folder(self.path)

    def _keep_out(self):
        try:
            self._claim = files.claim(self.path)
        except claims.InUse as error:
            by = f" ({error})" if str(error) else ""
            raise ValueError(
                "`run_dir` must not be in use by another process. "
                f"Received: run_dir={self.path}{by}"
            ) from error

    # ---- single files --------------------------------------------------

    def write_text(self, name, text):
        """Writes a text file atomically: a temporary name, then a rename."""
        with self.replacing(name) as path:
            path.write_bytes(text.encode())

    @contextlib.contextmanager
    def replacing(self, name):
        """A context with a path to write to; it becomes `name` at the end."""
        if self.writes:
            with files.replacing(self.path / name) as path:
                yield path
            return
        with tempfile.TemporaryDirectory() as elsewhere:
            yield pathlib.Path(elsewhere) / name

    def write_json(self, name, value):
        """Writes a JSON file atomically."""
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def read_json(self, name):
        """Returns a JSON file's content, or `None` if there is no such file."""
        path = self.path / name
        return json.loads(path.read_text()) if path.exists() else None

    def save_model(self, model, name=MODEL):
        """Writes a Keras model atomically."""
        if self.writes:
            with self.replacing(name) as temporary:
                model.save(temporary)

    # ---- the log -------------------------------------------------------

    def log(self, event):
        """Appends one line to the metrics, a dict of plain values."""
        if self.writes:
            files.append_text(self.path / METRICS, json.dumps(event) + "\n")

    def write_log(self, events):
        """Replaces the log: what was logged after a checkpoint is forgotten.

        Args:
            events: Dicts of plain values, as `log` takes them.
        """
        lines = [json.dumps(event) + "\n" for event in events]
        self.write_text(METRICS, "".join(lines))

    # ---- checkpoints ---------------------------------------------------

    def save_checkpoint(self, arrays, meta):
        """Takes one checkpoint, which a thread writes; drops the oldest.

        Everything is copied before this returns. At most one is being written:
        the next one waits for it.

        Args:
            arrays: `{name: NumPy array}`, any dtype, kept bit for bit.
            meta: Plain values, ready for JSON.

        Raises:
            OSError: The checkpoint before could not be written.
        """
        if not self.writes:
            return
        self.flush()
        if self._claim is not None:
            self._claim.check()
        # Backends may hand out the very memory that the next step changes.
        arrays = {n: np.array(a, order="C") for n, a in arrays.items()}
        described = _describe(arrays, meta)
        self._written = self._writer.submit(
            self._write_checkpoint, list(arrays.values()), described
        )

    def flush(self):
        """Waits until the last checkpoint is on the disk.

        Raises:
            OSError: It could not be written. The one before is still there.
        """
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def wait(self):
        """The same from another thread, and without its error."""
        self._writer.submit(lambda: None).result()

    def _write_checkpoint(self, arrays, described):
        number = max((n for n, _ in self._checkpoints()), default=-1) + 1
        path = self.path / CHECKPOINTS / f"{number:06d}.ckpt"
        with files.replacing(path) as temporary:
            _pack(temporary, arrays, described)
        self.drop_old_checkpoints()

    def drop_old_checkpoints(self):
        """Leaves the newest `keep`; a run may have been killed before it."""
        for _, old in self._checkpoints()[: -self.keep]:
            old.unlink()

    def load_checkpoint(self):
        """Returns `(arrays, meta, skipped)` of the newest good checkpoint.

        `skipped` names the damaged ones that were passed over. `None` if there
        are no checkpoints.

        Raises:
            ValueError: All checkpoints are damaged.
        """
        self.flush()
        skipped = []
        for _, path in reversed(self._checkpoints()):
            try:
                return (*_unpack(path.read_bytes()), skipped)
            except (ValueError, KeyError, zipfile.BadZipFile, OSError):
                skipped.append(str(path))
        if skipped:
            raise ValueError(
                "No checkpoint can be read: all are damaged "
                f"({', '.join(skipped)}). Start again in another folder."
            )
        return None

    @property
    def newest_checkpoint(self):
        """Its path, or `None`; see `flush`."""
        return max(self._checkpoints(), default=(0, None))[1]

    def _checkpoints(self):
        found = (self.path / CHECKPOINTS).glob("[0-9]*.ckpt")
        return sorted((int(path.stem), path) for path in found)


def versions():
    """Returns the versions a result depends on, `{package: version}`."""
    return {
        "keras_app": __version__,
        "keras": keras.__version__,
        "backend": host.BACKEND,
        "numpy": np.__version__,
        host.BACKEND: importlib.import_module(host.BACKEND).__version__,
    }


_DIGEST_BYTES = hashlib.sha256().digest_size


def _describe(arrays, meta):
    described = {
        name: [index, str(array.dtype), list(array.shape)]
        for index, (name, array) in enumerate(arrays.items())
    }
    return json.dumps({"arrays": described, "meta": meta})


def _pack(path, arrays, described):
    """A checksum, then a zip of raw arrays and one JSON description."""
    with open(path, "wb") as file:
        file.write(bytes(_DIGEST_BYTES))  # until it is known
        body = _Hashed(file)
        with zipfile.ZipFile(body, "w") as archive:
            for index, array in enumerate(arrays):
                entry = zipfile.ZipInfo(str(index))
                entry.file_size = array.nbytes
                with archive.open(entry, "w") as raw:
                    raw.write(array.reshape(-1).view("uint8"))
            archive.writestr("meta.json", described)
        file.seek(0)
        file.write(body.digest.digest())


class _Hashed:
    """Hashes what passes on its way to a file.

    It cannot seek, so that an archive is written from front to back, without
    a copy of it in memory.
    """

    def __init__(self, file):
        self.digest = hashlib.sha256()
        self._file = file

    def write(self, data):
        self.digest.update(data)
        return self._file.write(data)

    def flush(self):
        self._file.flush()


def _unpack(data):
    digest, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("The checksum does not match.")
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        text = json.loads(archive.read("meta.json"))
        arrays = {}
        for name, (index, dtype, shape) in text["arrays"].items():
            raw = archive.read(str(index))
            array = np.frombuffer(raw, np.dtype(dtype)).reshape(shape)
            arrays[name] = array.copy()
    return arrays, text["meta"]
