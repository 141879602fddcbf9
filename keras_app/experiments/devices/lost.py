"""What happens when another process of a training is lost.

The others cannot go on: they stop with `ProcessLost`, and all are started
again. On JAX that takes `explain_aborts`, too, because native code may end a
process before Python hears of anything, and `leaving`.
"""

import contextlib
import ctypes
import os
import re
import signal
import stat
import sys
import time

from keras_app import host
from keras_app.experiments.devices import processes

# What JAX says when another process is gone: Gloo (on CPUs), NCCL (on GPUs),
# and the service that watches over the processes.
_LOST = re.compile(
    "gloo/transport/"
    "|remote process exited"
    "|stopped sending heartbeats|heartbeat timeout"
    "|remote target coordination_service"
)
JAX_GAVE_UP = "JAX distributed service detected fatal errors"
_IS_GONE = "another process of this training is gone"
LAST_WORDS_SECONDS = 5


@contextlib.contextmanager
def naming_lost_processes():
    """Turns what the backend raises when another process is gone."""
    try:
        yield
    except Exception as error:
        if processes.process_count() == 1 or not means_lost(error):
            raise
        processes.lost = True
        raise processes.ProcessLost(f"{_IS_GONE}.") from error


def means_lost(error):
    """Whether an error of the backend says that another process is gone."""
    text = str(error)
    if host.BACKEND == "jax":
        # Of many types, ValueError among them.
        return bool(_LOST.search(text))
    import tensorflow as tf

    # Storage may be unavailable, too.
    return isinstance(error, tf.errors.UnavailableError) and (
        "Collective ops" in text or "/job:worker" in text
    )


def explain_aborts(say):
    """Has a function called before JAX aborts this process over another one.

    JAX's processes watch each other, in threads of native code. Where one of
    those finds the first process gone, any other silent for 100 seconds, or
    nobody at the meeting place, it aborts its own process, whatever Python is
    doing. `say` is then called in that thread and may end the process in
    its own way. An abort is JAX's if it says so at the end of the file behind
    file descriptor 2, which must be open for reading; any other goes on.

    Holds until the process ends. Does nothing on the other backends.

    Args:
        say: A callable of one argument, a sentence.

    Example:

    >>> explain_aborts(print)
    """
    global _handler
    if host.BACKEND != "jax":
        return

    def handle(signum):
        if JAX_GAVE_UP in fatal_line():
            meeting = processes.meeting
            say(meeting.failure() if meeting else f"{_IS_GONE}.")

    # Python's own handlers run in the main thread, when it is next in Python:
    # too late, because abort() ends the process when a handler returns.
    _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(_handler, ctypes.c_void_p))


_handler = None  # what C calls must stay alive


def fatal_line():
    """The line with which native code died, if it wrote one to a file."""
    status = os.fstat(2)
    if not stat.S_ISREG(status.st_mode):
        return ""
    count = 1 << 14  # more than a stack trace
    try:
        end = os.pread(2, count, max(0, status.st_size - count))
    except OSError:
        return ""  # open for writing only
    # An earlier run, which this one continues, may have left one as well.
    lines = re.findall(r"^F\d{4} .*", end.decode(errors="replace"), re.M)
    return lines[-1] if lines else ""


@contextlib.contextmanager
def leaving(together):
    """Ends a process as the other processes of its training need it.

    At its end JAX waits for all others. A process that failed alone would keep
    them waiting in a computation in which it no longer takes part, and itself
    for them. It must leave at once: that breaks its connections, and the
    others stop. But nobody outlives the first process, which therefore gives
    the others, who may have failed alike, a moment for their own last words.

    On TensorFlow only one that has lost another leaves like this. Does nothing
    for a single process.

    Args:
        together: The exit statuses with which all processes end together,
            0 among them.

    Example:

    >>> with leaving(together=(0,)):
    ...     print("done")
    done
    """
    try:
        yield
    except BaseException as error:
        jax = host.BACKEND == "jax"
        several = processes.lost or (jax and processes.process_count() > 1)
        status = 1
        if isinstance(error, SystemExit):
            status = error.code or 0
        if not several or (status in together and not processes.lost):
            raise
        if not isinstance(error, SystemExit):
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
        if not processes.lost and processes.is_chief():
            time.sleep(LAST_WORDS_SECONDS)
        os._exit(status)
