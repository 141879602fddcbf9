"""What a machine of kinetic does: one training, its folder in a bucket.

`keras_kinetic.py` sends this file along with the package. The run folder is a
local one: what a bucket holds already is fetched first, and what changes is
sent while the training goes on, so that `--resume` goes on from it.
"""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading

OUTPUT = "KINETIC_OUTPUT_DIR"  # what kinetic says of the bucket's folder
SEND_SECONDS = 30
STOPPED = 75
_SUMMARY = "summary.json"
_OWN = (".lock", ".writing-")  # files that mean nothing elsewhere


def train(label, arguments):
    """Trains; returns the exit status of `keras_app.train`.

    Args:
        label: The folder below the output folder, or `""`.
        arguments: Those of the command, but for the run folder.

    Raises:
        RuntimeError: The training was stopped, or killed: started again it goes
            on.
    """
    here = pathlib.Path(__file__).parent
    folder = pathlib.Path(tempfile.mkdtemp()) / "run"
    target = "/".join(filter(None, (os.environ[OUTPUT].rstrip("/"), label)))
    mirror = Mirror(folder, target)
    mirror.fetch()
    children, told = [], threading.Event()

    def stop(*_):
        told.set()
        for each in children:
            each.terminate()

    # The notice that a machine is taken away comes to this process alone.
    signal.signal(signal.SIGTERM, stop)
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "keras_app.train", *arguments),
            *(f"--run_dir={folder}", "--resume"),
        ],
        cwd=here,
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(here)},
    )
    children.append(child)
    if told.is_set():
        child.terminate()
    over = threading.Event()
    sending = threading.Thread(target=mirror.send_until, args=(over,))
    sending.start()
    try:
        status = child.wait()
    finally:
        over.set()
        sending.join()
    mirror.send()
    if status == STOPPED or status < 0:
        raise RuntimeError(f"the training ended with exit status {status}")
    return status


class Mirror:
    """A folder, and what is like it in a bucket.

    Args:
        folder: The path of the folder.
        target: `gs://bucket/name`.
    """

    def __init__(self, folder, target):
        from google.cloud import storage

        self.folder = folder
        bucket, _, name = target.removeprefix("gs://").partition("/")
        self._name = f"{name.strip('/')}/"
        self._bucket = storage.Client().bucket(bucket)
        self._sent = {}  # {name: time and size of what was sent}

    def fetch(self):
        """Makes the folder hold what the bucket does."""
        for blob in self._bucket.list_blobs(prefix=self._name):
            name = blob.name.removeprefix(self._name)
            if not name or name.endswith("/"):
                continue
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            blob.download_to_filename(str(path))
            self._sent[name] = _state(path)

    def send_until(self, over):
        """Sends again and again, until an event is set."""
        while not over.wait(SEND_SECONDS):
            try:
                self.send()
            except Exception as error:
                # The next time, or the last one, may do.
                print(f"not sent to the bucket: {error}", file=sys.stderr)

    def send(self):
        """Makes the bucket hold what the folder does."""
        found = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and not path.name.startswith(_OWN):
                found[name] = path
        # A summary says that all is there.
        for name in sorted(found, key=lambda name: (name == _SUMMARY, name)):
            try:
                state = _state(found[name])
                if self._sent.get(name) == state:
                    continue
                blob = self._bucket.blob(self._name + name)
                blob.upload_from_filename(str(found[name]))
            except FileNotFoundError:
                continue  # a checkpoint that was just dropped
            self._sent[name] = state
        for name in set(self._sent) - set(found):
            self._bucket.blob(self._name + name).delete()
            del self._sent[name]


def _state(path):
    state = path.stat()
    return state.st_mtime_ns, state.st_size
