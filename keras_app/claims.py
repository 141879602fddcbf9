"""Who writes to a folder: one process, and no other.

On a disk it holds a lock, which goes with the process. An object store has no
locks, but of several who create the same object only one succeeds: that object
is the claim. Its owner writes it again every few seconds. Whoever finds a claim
takes the folder over if the owner was a process of the same machine that is no
more, or if the claim was not written for a minute, by creating the claim with
the next number; the earlier owner sees it, and writes no more.
"""

import contextlib
import fcntl
import functools
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid

LOCK = ".lock"
CLAIM = ".claim-"

_BEAT_SECONDS = 10.0
_EXPIRES_SECONDS = 60.0
_GLANCE_SECONDS = 2.0


class InUse(Exception):
    """Another process writes to the folder."""


class Lock:
    """The claim of a folder on a disk; given back with the process.

    Args:
        folder: A `pathlib.Path`, which exists.

    Raises:
        InUse: Another process holds it.
    """

    def __init__(self, folder):
        # Held open: closing it would give the lock back. It is one of the
        # process, which may start again in the folder where it failed.
        self._file = open(folder / LOCK, "a+")
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise InUse from error
        except OSError:
            pass  # a file system without locks

    def check(self):
        """Nothing: nobody can take it away."""

    def finish(self):
        """Nothing: what the process still does is its own."""

    def release(self):
        self._file.close()


class Claim:
    """The claim of a folder in an object store.

    Args:
        folder: A `stores.StorePath`.

    Raises:
        InUse: Another process writes its claim.
    """

    def __init__(self, folder):
        self._folder = folder
        self._said = {"token": uuid.uuid4().hex, **_this_process()}
        self._beats = 0
        self._lost = None
        self._end = threading.Event()
        self._lock = threading.Lock()
        number = self._newest()
        if number:
            self._wait_for(self._path(number))
        self._number = number + 1
        try:
            self._path(self._number).create(self._text())
        except FileExistsError as error:
            raise InUse("by one that came a moment earlier") from error
        self._remove(below=self._number)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def check(self):
        """Raises an `OSError` if another process has taken the folder over."""
        if self._lost is None:
            with self._lock:
                self._look()
        if self._lost is not None:
            raise OSError(f"{self._folder} was taken over by {self._lost}.")

    def finish(self):
        """Gives the folder to others."""
        self._end.set()
        self._thread.join()
        if self._lost is None:
            # Otherwise it would expire all the same.
            with contextlib.suppress(OSError):
                self._path(self._number).unlink(missing_ok=True)

    release = finish

    def _path(self, number):
        return self._folder / f"{CLAIM}{number:06d}"

    def _newest(self):
        found = self._folder.glob(f"{CLAIM}[0-9]*")
        return max((_number(path) for path in found), default=0)

    def _text(self):
        return json.dumps({**self._said, "beat": self._beats}).encode()

    def _beat(self):
        while not self._end.wait(_BEAT_SECONDS):
            # The next one may come through; others wait for longer than one.
            with contextlib.suppress(OSError), self._lock:
                self._look()
                if self._lost is not None:
                    return
                self._beats += 1
                self._path(self._number).write_bytes(self._text())

    def _look(self):
        newest = self._newest()
        if newest > self._number:
            self._lost = _words(_read(self._path(newest)))
            return
        # Who took it over removed it, and may have ended since. Where a store
        # creates an object twice, the later one has it.
        now = _read(self._path(self._number))
        if now is None or now["token"] != self._said["token"]:
            self._lost = _words(now)

    def _remove(self, below):
        for path in self._folder.glob(f"{CLAIM}[0-9]*"):
            if _number(path) < below:
                path.unlink(missing_ok=True)

    def _wait_for(self, path):
        """Returns when the owner of a claim is no more."""
        owner = _read(path)
        if owner is None or _is_over(owner):
            return
        here = owner["machine"] == self._said["machine"]
        left = 0.0 if here else _EXPIRES_SECONDS - self._age(path)
        if left > 0:
            print(
                f"{self._folder} was claimed by {_words(owner)}: waiting "
                f"{left:.0f} s for a sign of life.",
                file=sys.stderr,
            )
        end = time.monotonic() + left
        while not here and time.monotonic() < end:
            time.sleep(min(_GLANCE_SECONDS, max(0.0, end - time.monotonic())))
            now = _read(path)
            if now is None or now["token"] != owner["token"]:
                return
            here = now["beat"] != owner["beat"]
        if here:
            raise InUse(f"by {_words(owner)}")

    def _age(self, path):
        """Seconds since a claim was written, by the clock of the store."""
        probe = self._folder / f".probe-{uuid.uuid4().hex}"
        probe.write_bytes(b"")
        try:
            return (probe.modified() - path.modified()).total_seconds()
        except FileNotFoundError:
            return _EXPIRES_SECONDS
        finally:
            probe.unlink(missing_ok=True)


def _number(path):
    digits = path.name.removeprefix(CLAIM)
    return int(digits) if digits.isdigit() else 0


def _read(path):
    """What a claim says; `None` if it is gone, or says nothing."""
    try:
        said = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    known = {"token", "machine", "host", "process", "started", "beat"}
    return said if isinstance(said, dict) and said.keys() >= known else None


def _words(owner):
    if owner is None:
        return "another process"
    return f"process {owner['process']} on {owner['host']}"


def _is_over(owner):
    """Whether it was this process itself, or one here that has ended."""
    ours = _this_process()
    if owner["machine"] != ours["machine"]:
        return False
    if owner["process"] == ours["process"]:
        return True
    return owner["started"] != _started(owner["process"])


def _this_process():
    process = os.getpid()
    return {
        "machine": _machine(),
        "host": socket.gethostname(),
        "process": process,
        "started": _started(process),
    }


@functools.cache
def _machine():
    """What sees the same processes; other containers see their own."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()
        seen = os.readlink("/proc/self/ns/pid")
    except OSError:
        # Without a way to ask for processes none is known to have ended.
        boot, seen = uuid.uuid4().hex, ""
    return f"{socket.gethostname()}/{boot.strip()}/{seen}"


def _started(process):
    """When a process began, which tells it from later ones of its number."""
    try:
        text = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    # The name of the program, in brackets, may hold spaces.
    state, *rest = text.rpartition(")")[2].split()
    return None if state in "ZX" else rest[18]
