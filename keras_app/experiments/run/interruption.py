"""SIGTERM is noted, and obeyed after the next checkpoint.

Schedulers send it some time before they kill a process. What comes sooner, the
next checkpoint or the kill, ends the run; either way `--resume` goes on from
the last checkpoint. A sweep hands it on to its runs.
"""

import contextlib
import signal
import threading

_noted = threading.Event()


class Interrupted(Exception):
    """The run was asked to stop, and stopped after a checkpoint."""


@contextlib.contextmanager
def noticing_sigterm(then=lambda *_: None):
    """Inside, SIGTERM is noted instead of ending the process.

    Args:
        then: What else to do when it comes, a handler as `signal.signal`
            takes it; may raise. Defaults to nothing.
    """

    def note(*signal_and_frame):
        _noted.set()
        then(*signal_and_frame)

    _noted.clear()
    with keeping_handler():
        _handle(note)
        yield


@contextlib.contextmanager
def keeping_handler():
    """At the end SIGTERM does what it did before."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        _handle(before)


def _handle(handler):
    # Only the main thread may say what a signal does.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def was_asked():
    """Returns whether SIGTERM has come."""
    return _noted.is_set()
