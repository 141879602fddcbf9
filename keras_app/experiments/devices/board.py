"""What the processes of one training tell each other beside their computations.

A computation of all needs all of them to take part in it. Here one leaves a
word, and the others find it when they look: on JAX and TensorFlow in the
service with which the processes have met. Private names in use:
`jax._src.distributed.global_state` and `tensorflow.python.eager.context`.
"""

import functools
import itertools

from keras_app import host
from keras_app.experiments.devices import processes

_numbers = itertools.count()
_LOOK_MILLISECONDS = 50  # TensorFlow waits for a word; the least it may


def board() -> "Board | None":
    """Returns a `Board`, or `None` for a single process.

    All processes must call, as often as each other.

    Example:

    >>> board() is None
    True
    """
    count = processes.process_count()
    return Board(count) if count > 1 else None


class Board:
    """Words under names. Nothing is raised when the service is gone.

    Args:
        count: How many processes there are.

    Attributes:
        count: The same.
        rank: The number of this one, from 0.
    """

    def __init__(self, count):
        self.count = count
        # A training of the same processes before this one had its own.
        self._folder = f"keras_app/{next(_numbers)}"
        # Taken once: the backend forgets its service when it shuts down, while
        # a thread may still be looking.
        if host.BACKEND == "jax":
            import jax
            from jax._src import distributed

            client = distributed.global_state.client
            self.rank = jax.process_index()
            self._set = client.key_value_set
            self._get = client.key_value_try_get
        else:
            from tensorflow.python.eager import context

            service = context.context()
            self.rank = host.open_scope.chosen.cluster_resolver.task_id
            self._set = service.set_config_key_value
            self._get = functools.partial(
                service.get_config_key_value, timeout_in_ms=_LOOK_MILLISECONDS
            )

    def write(self, name, text):
        """Leaves a word; the first one under a name stays."""
        _try(self._set, f"{self._folder}/{name}", text)

    def read(self, name):
        """Returns the word under a name, or `None`."""
        return _try(self._get, f"{self._folder}/{name}")


def _try(call, *arguments):
    """The result, or `None` where the service has none or is gone.

    A process that is gone is noticed elsewhere; what is raised for it here
    depends on the backend and its version.
    """
    try:
        return call(*arguments)
    except Exception:
        return None
