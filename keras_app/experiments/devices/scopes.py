"""The scope that is open around a training, and what its name stands for."""

import contextlib
import re
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras

from keras_app import host
from keras_app.checks import check_choice
from keras_app.experiments.devices import jax_devices
from keras_app.experiments.devices import processes
from keras_app.experiments.devices import tensorflow_devices
from keras_app.hints import Inputs

# The backends that each name has a meaning on.
BACKENDS = {
    "none": ("tensorflow", "jax", "torch"),
    "mirrored": ("tensorflow",),
    "multi_worker": ("tensorflow",),
    "tpu": ("tensorflow", "jax"),
    "data_parallel": ("jax",),
    "model_parallel": ("jax",),
}
_SPELLED = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


@contextlib.contextmanager
def scope(
    name: str = "none",
    devices: int | Sequence[str] | None = None,
    model_devices: int = 1,
    layout: Mapping[str, Sequence[str | None]] | None = None,
    mend_keras: bool = False,
    job_addresses: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    wait_seconds: int = 300,
) -> Iterator[None]:
    """Trains what is made and fitted inside on several devices.

    Make the model inside, too. Pruners, optimizers and experiments need no
    change. A batch is that of all devices together: each takes its share.

    | `name` | backend | what it is |
    | --- | --- | --- |
    | `"none"` | all | one device |
    | `"mirrored"` | TensorFlow | `MirroredStrategy`: the devices of a machine |
    | `"multi_worker"` | TensorFlow | `MultiWorkerMirroredStrategy`: machines |
    | `"tpu"` | TensorFlow, JAX | all TPU devices |
    | `"data_parallel"` | JAX | `DataParallel`, on one machine or several |
    | `"model_parallel"` | JAX | `ModelParallel`: weights split, one machine |

    `"tpu"` calls what Keras documents and was never run by us.

    On JAX several machines are several processes with the same program. Say
    who they are with the three last arguments, or with Keras's variables
    `KERAS_DISTRIBUTION_JOB_ADDRESSES`, `KERAS_DISTRIBUTION_NUM_PROCESSES` and
    `KERAS_DISTRIBUTION_PROCESS_ID`, before anything else uses JAX. Every
    process reads all data, from its own disk. On TensorFlow `TF_CONFIG` says
    it.

    Keras 3.15 cannot `fit` under `MultiWorkerMirroredStrategy`. With
    `mend_keras=True` two of its functions are replaced while the scope is
    open: the step is built without a trial batch, and means of scalars over
    the workers are taken as such.

    On TensorFlow batch normalization looks at each device's share of the
    batch, on JAX at the whole batch, as one device does. A last batch that the
    number of devices does not divide is on JAX computed by every device; on
    TensorFlow its shares differ in size and count alike.

    Args:
        name: One of the names above. Defaults to `"none"`.
        devices: How many devices to use, or a list of their names, such as
            `["GPU:0", "GPU:1"]` (on JAX `["gpu:0", "gpu:1"]`). Defaults to
            `None`: all of the best kind.
        model_devices: With `"model_parallel"`: number of devices that one
            copy of the weights is split over; divides that of the devices.
            Defaults to `1`.
        layout: With `"model_parallel"`: `{regex: axes}`. The regex must match
            a whole `variable.path`; axes hold for each axis of the variable
            `"model"` (split) or `None`, such as `(None, "model")`. What no
            regex matches is not split. Defaults to `None`.
        mend_keras: See above. Defaults to `False`.
        job_addresses, num_processes, process_id: On JAX, as in
            `keras.distribution.initialize`: address of the first process with
            its port, how many there are, and which one this is. Default to
            `None`: the variables above, or a single process.
        wait_seconds: On JAX: how long to wait until all processes have come,
            >= 1; JAX takes some seconds more to give up. Defaults to `300`.

    Raises:
        ValueError: A name that the backend does not know, devices that there
            are not, or what Keras cannot do.
        ProcessLost: While all went on, another process ended.

    Example:

    >>> with scope("none"):
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.built
    True
    """
    check_choice("name", name, tuple(BACKENDS))
    _check_backend(name)
    _check_arguments(name, model_devices, layout, mend_keras)
    if name == "none":
        yield
        return
    if host.open_scope is not None:
        raise ValueError(
            "A distribution must not be opened inside another one. "
            f"Received: name={name!r} inside {host.open_scope.name!r}"
        )
    if host.BACKEND == "jax":
        processes.join(job_addresses, num_processes, process_id, wait_seconds)
        chosen = jax_devices.distribution(name, devices, model_devices, layout)
        mend = jax_devices.taking_whole_batches(chosen)
    else:
        chosen = tensorflow_devices.strategy(name, devices)
        mend = (
            tensorflow_devices.mended()
            if mend_keras
            else contextlib.nullcontext()
        )
    host.open_scope = _Open(name, chosen, dict(layout or {}))
    try:
        with mend, processes.naming_lost_processes():
            host.open_scope.enter()
            try:
                yield
            finally:
                host.open_scope.leave()
    finally:
        host.open_scope = None


class _Open:
    """The distribution whose scope is open."""

    def __init__(self, name, chosen, layout):
        self.name = name
        self.chosen = chosen
        self.layout = layout
        self.predicting = False

    def enter(self):
        self._context = self.chosen.scope()
        self._context.__enter__()

    def leave(self):
        self._check_open()
        self._context.__exit__(None, None, None)

    def check(self, model):
        """Raises for a model that cannot be trained in the scope."""
        self._check_open()
        paths = [variable.path for variable in model.variables]
        for pattern in self.layout:
            if not any(re.fullmatch(pattern, path) for path in paths):
                raise ValueError(
                    "`layout` must match whole paths of variables. Received: "
                    f"{pattern!r}, which matches none of {paths[:8]}"
                )

    def _check_open(self):
        """Raises if the scope was ended from inside."""
        if host.BACKEND == "jax":
            current = keras.distribution.distribution()
        else:
            import tensorflow as tf

            current = tf.distribute.get_strategy()
        if current is not self.chosen:
            raise ValueError(
                f"The scope of {self.name!r} was ended from inside, by another "
                "distribution or by `keras.utils.clear_session`. Call "
                "`keras_app.experiments.devices.clear_session` instead."
            )


def clear_session() -> None:
    """`keras.utils.clear_session`, which alone would end the open scope.

    Example:

    >>> clear_session()
    """
    if host.open_scope is None:
        keras.utils.clear_session()
        return
    host.open_scope.leave()
    keras.utils.clear_session()
    host.open_scope.enter()


def predict(model: keras.Model, inputs: Inputs, **arguments: Any) -> Any:
    """`model.predict`, which on JAX is good for one process only.

    With several, every process computes all outputs.

    Args:
        model: A built `keras.Model`.
        inputs, **arguments: Those of `model.predict`.

    Returns:
        The outputs for all inputs, on every process.

    Example:

    >>> layer = keras.layers.Dense(1, kernel_initializer="ones")
    >>> model = keras.Sequential([keras.Input((2,)), layer])
    >>> predict(model, np.array([[1.0, 2.0]]), verbose=0).tolist()
    [[3.0]]
    """
    if host.open_scope is None or host.BACKEND != "jax":
        return model.predict(inputs, **arguments)
    host.open_scope.predicting = processes.process_count() > 1
    try:
        return model.predict(inputs, **arguments)
    finally:
        host.open_scope.predicting = False


def _check_backend(name):
    backend = host.BACKEND
    if backend in BACKENDS[name]:
        return
    here = ", ".join(
        repr(n) for n, known in BACKENDS.items() if backend in known
    )
    elsewhere = " or ".join(_SPELLED[b] for b in BACKENDS[name])
    raise ValueError(
        f"`name` must be one of {here} on the {_SPELLED[backend]} backend. "
        f"Received: name={name!r}, which needs KERAS_BACKEND of {elsewhere}"
    )


def _check_arguments(name, model_devices, layout, mend_keras):
    if name == "model_parallel":
        if not isinstance(layout, dict) or not layout:
            raise ValueError(
                "`layout` must be a dict {regex: axes} that says which weights "
                f"are split. Received: layout={layout!r}"
            )
        for pattern, axes in layout.items():
            if not set(axes) <= {None, "model"}:
                raise ValueError(
                    "`layout` must hold 'model' or None for each axis. "
                    f"Received: {axes!r} for {pattern!r}"
                )
    elif layout is not None or model_devices != 1:
        raise ValueError(
            "`layout` and `model_devices` are for name='model_parallel'. "
            f"Received: name={name!r}"
        )
    if name == "multi_worker" and not mend_keras:
        host.refuse_multi_worker("MultiWorkerMirroredStrategy")
