"""What the processes of one training tell each other beside their computations.

A computation of all needs all of them to take part in it. Here one leaves a
word, and the others find it when they look: on JAX and TensorFlow in the
service with which the processes have met. Private names in use:
`jax._src.distributed.global_state` and `tensorflow.python.eager.context`.
"""

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
        if host.BACKEND == "jax":
            import jax

            self.rank = jax.process_index()
        else:
            self.rank = host.open_scope.chosen.cluster_resolver.task_id

    def write(self, name, text):
        """Leaves a word; the first one under a name stays."""
        name = f"{self._folder}/{name}"
        if host.BACKEND == "jax":
            from jax._src import distributed

            _try(distributed.global_state.client.key_value_set, name, text)
        else:
            from tensorflow.python.eager import context

            _try(context.context().set_config_key_value, name, text)

    def read(self, name):
        """Returns the word under a name, or `None`."""
        name = f"{self._folder}/{name}"
        if host.BACKEND == "jax":
            from jax._src import distributed

            return _try(distributed.global_state.client.key_value_try_get, name)
        from tensorflow.python.eager import context

        return _try(
            context.context().get_config_key_value, name, _LOOK_MILLISECONDS
        )


def _try(call, *arguments):
    """The result, or `None` where the service has none or is gone.

    A process that is gone is noticed elsewhere; what is raised for it here
    depends on the backend and its version.
    """
    try:
        return call(*arguments)
    except Exception:
        return None
