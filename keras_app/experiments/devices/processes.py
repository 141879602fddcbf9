"""The processes of one training: how they meet, who they are, what they say."""

import contextlib
import functools
import os
import time

import keras
import numpy as np

from keras_app import host
from keras_app.checks import check_whole

_JAX_PROCESSES = "KERAS_DISTRIBUTION_"  # how Keras's variables begin
# JAX's own, except for the end: the first process may export for long, and
# the others wait for it. One that is gone is noticed all the same.
_HEARTBEAT_SECONDS = 100
_SHUTDOWN_SECONDS = 24 * 60 * 60

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


def is_chief():
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


def check_agreement(what, number):
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


def anywhere(flag):
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
        with _waiting(wait_seconds):
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


@contextlib.contextmanager
def _waiting(wait_seconds):
    """Gives JAX the time limits that Keras has no arguments for."""
    import jax

    before = jax.distributed.initialize
    jax.distributed.initialize = functools.partial(
        before,
        initialization_timeout=wait_seconds,
        heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )
    try:
        yield
    finally:
        jax.distributed.initialize = before


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
