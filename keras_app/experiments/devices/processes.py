"""The processes of one training: how they meet, agree, and miss another one.

Where one is lost the others cannot go on: they stop with `ProcessLost`, and
all are started again. On JAX that takes `explain_aborts`, too, because native
code may end a process before Python hears of anything, and `leaving`.
"""

import contextlib
import ctypes
import functools
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

import keras
import numpy as np

from keras_app import host
from keras_app.checks import check_whole

_JAX_PROCESSES = "KERAS_DISTRIBUTION_"  # how Keras's variables begin
# JAX's own, except for the end: the first process may export for long, and
# the others wait for it. One that is gone is noticed all the same.
_HEARTBEAT_SECONDS = 100
_SHUTDOWN_SECONDS = 24 * 60 * 60

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

meeting = None  # while this process waits for the others
lost = False  # from then on no process can be asked anything


class ProcessLost(RuntimeError):
    """Another process is gone, or never came; all must be started again.

    Example:

    >>> try:
    ...     raise ProcessLost("another process is gone.")
    ... except ProcessLost as error:
    ...     print(error, "Start all of them again.")
    another process is gone. Start all of them again.
    """


def is_chief() -> bool:
    """Whether this process writes files and talks: the first one, or all.

    Returns:
        `True` in the first of several processes and in a single one.

    Example:

    >>> is_chief()
    True
    """
    backend = host.BACKEND
    if backend == "jax":
        import jax

        # Asking for the index would start the backend too early.
        return not jax.distributed.is_initialized() or jax.process_index() == 0
    if backend == "tensorflow" and host.open_scope is not None:
        return bool(host.open_scope.chosen.extended.should_checkpoint)
    return True


def check_agreement(what: str, number: int) -> None:
    """Raises unless all processes have the same number.

    Args:
        what: What it is, for the message.
        number: An integer. All processes must call.

    Example:

    >>> check_agreement("number of epochs", 3)
    """
    numbers = _gather(number)
    if len(set(numbers)) > 1:
        raise ValueError(
            f"All processes must have the same {what}: do they share the run "
            f"folder? Received: {numbers}"
        )


def anywhere(flag: bool) -> bool:
    """Whether something is true in any process. All processes must call.

    Example:

    >>> anywhere(False)
    False
    """
    return any(_gather(int(flag)))


def _gather(number):
    """The integers of all processes, in a list."""
    if process_count() == 1:
        return [number]
    if host.BACKEND == "jax":
        from jax.experimental import multihost_utils

        numbers = multihost_utils.process_allgather(np.asarray(number))
    else:
        import tensorflow as tf

        here = tf.constant([number], "int64")
        strategy = host.open_scope.chosen
        numbers = strategy.gather(strategy.run(lambda: here), axis=0)
    return np.ravel(numbers).tolist()


def process_count():
    """How many processes train together."""
    backend = host.BACKEND
    if backend == "jax":
        import jax

        return jax.process_count() if jax.distributed.is_initialized() else 1
    scope = host.open_scope
    if scope is not None and scope.name == "multi_worker":
        workers = scope.chosen.cluster_resolver.cluster_spec().as_dict()
        return sum(len(addresses) for addresses in workers.values())
    return 1


def join(job_addresses, num_processes, process_id, wait_seconds):
    """Meets the other processes of a JAX program, if there are any."""
    import jax

    global meeting, lost
    wait_seconds = check_whole("wait_seconds", wait_seconds, 1)
    given = [x is not None for x in (job_addresses, num_processes, process_id)]
    said = any(key.startswith(_JAX_PROCESSES) for key in os.environ)
    if jax.distributed.is_initialized() or not (any(given) or said):
        return
    address = job_addresses or os.environ.get(f"{_JAX_PROCESSES}JOB_ADDRESSES")
    meeting = _Meeting(address)
    try:
        # Keras has no arguments for the time limits.
        with replaced(
            jax.distributed,
            "initialize",
            functools.partial(
                jax.distributed.initialize,
                initialization_timeout=wait_seconds,
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
            ),
        ):
            keras.distribution.initialize(
                job_addresses, num_processes, process_id
            )
    except jax.errors.JaxRuntimeError as error:
        lost = True
        raise ProcessLost(f"{meeting.failure()} JAX says: {error}") from error
    except RuntimeError as error:
        raise ValueError(
            "The processes of a JAX program must meet before it computes "
            f"anything: open the scope first. JAX says: {error}"
        ) from error
    finally:
        meeting = None


class _Meeting:
    """Where the processes of a JAX program wait for each other."""

    def __init__(self, address):
        self._address = address or "the address that JAX found by itself"
        self._started = time.monotonic()

    def failure(self):
        """What to say if they do not meet."""
        waited = time.monotonic() - self._started
        return (
            f"the processes of this training did not meet at {self._address}: "
            f"waited {waited:.0f} seconds."
        )


@contextlib.contextmanager
def replaced(owner, name, value):
    """Inside, an attribute of a module or class has another value."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


# ---- a lost process -----------------------------------------------------


@contextlib.contextmanager
def naming_lost_processes():
    """Turns what the backend raises when another process is gone."""
    global lost
    try:
        yield
    except Exception as error:
        if process_count() == 1 or not means_lost(error):
            raise
        lost = True
        raise ProcessLost(f"{_IS_GONE}.") from error


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


def explain_aborts(say: Callable[[str], object]) -> None:
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
def leaving(together: Iterable[int]) -> Iterator[None]:
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
        several = lost or (jax and process_count() > 1)
        status = 1
        if isinstance(error, SystemExit):
            status = error.code or 0
        if not several or (status in together and not lost):
            raise
        if not isinstance(error, SystemExit):
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
        if not lost and is_chief():
            time.sleep(LAST_WORDS_SECONDS)
        os._exit(status)
