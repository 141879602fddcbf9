"""A polite end: SIGTERM is noted, and obeyed behind the next checkpoint.

Schedulers send it some time before they kill a process. What comes sooner, the
next checkpoint or the kill, ends the run; either way `--resume` goes on from
the last checkpoint.
"""

import contextlib
import signal
import threading

_noted = threading.Event()


class Interrupted(Exception):
    """The run was asked to stop, and stopped behind a checkpoint."""


@contextlib.contextmanager
def noticing_sigterm():
    """Inside, SIGTERM is noted instead of ending the process."""
    _noted.clear()
    # Only the main thread may say what a signal does.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: _noted.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def was_asked():
    """Returns whether SIGTERM has come."""
    return _noted.is_set()
