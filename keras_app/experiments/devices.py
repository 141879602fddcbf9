"""Several devices, several machines: one context around a training.

What is inside `scope` trains distributed; nothing else changes. Batch sizes
are those of all devices together, so that the same batches, weights and masks
come out as on one device, up to rounding.

Private Keras names in use, inside the scope only: on JAX
`trainer._distribute_data`; on TensorFlow, with `mend_keras=True`,
`trainer.reduce_per_replica` and `TensorFlowTrainer._maybe_symbolic_build`.

When a process is lost, the others cannot go on: they stop with `ProcessLost`,
and all are started again. On JAX that takes `explain_aborts`, too, because
native code may end a process before Python hears of anything, and `leaving`.
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

import keras
import numpy as np

from keras_app import host
from keras_app.checks import check_choice
from keras_app.checks import check_whole

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
_JAX_PROCESSES = "KERAS_DISTRIBUTION_"  # how Keras's variables begin
# What JAX says when another process is gone: Gloo (on CPUs), NCCL (on GPUs),
# and the service that watches over the processes.
_LOST = re.compile(
    "gloo/transport/"
    "|remote process exited"
    "|stopped sending heartbeats|heartbeat timeout"
    "|remote target coordination_service"
)
_JAX_GAVE_UP = "JAX distributed service detected fatal errors"
_IS_GONE = "another process of this training is gone"
# JAX's own, except for the end: the first process may export for long, and
# the others wait for it. One that is gone is noticed all the same.
_HEARTBEAT_SECONDS = 100
_SHUTDOWN_SECONDS = 24 * 60 * 60
_LAST_WORDS_SECONDS = 5


class ProcessLost(RuntimeError):
    """Another process is gone, or never came; all must be started again.

    Example:

    >>> try:
    ...     raise ProcessLost("another process is gone.")
    ... except ProcessLost as error:
    ...     print(error, "Start all of them again.")
    another process is gone. Start all of them again.
    """


@contextlib.contextmanager
def scope(
    name="none",
    devices=None,
    model_devices=1,
    layout=None,
    mend_keras=False,
    job_addresses=None,
    num_processes=None,
    process_id=None,
    wait_seconds=300,
):
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
    >>> is_chief()
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
    if keras.backend.backend() == "jax":
        _join(job_addresses, num_processes, process_id, wait_seconds)
        chosen = _jax_distribution(name, devices, model_devices, layout)
        mend = _taking_whole_batches(chosen)
    else:
        chosen = _strategy(name, devices)
        mend = _mended() if mend_keras else contextlib.nullcontext()
    host.open_scope = _Open(name, chosen, dict(layout or {}))
    try:
        with mend, _naming_lost_processes():
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
        if keras.backend.backend() == "jax":
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


def clear_session():
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


# ---- several processes --------------------------------------------------


def is_chief():
    """Whether this process writes files and talks: the first one, or all.

    Returns:
        `True` in the first of several processes and in a single one.

    Example:

    >>> is_chief()
    True
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        # Asking for the index would start the backend too early.
        return not jax.distributed.is_initialized() or jax.process_index() == 0
    if backend == "tensorflow" and host.open_scope is not None:
        return bool(host.open_scope.chosen.extended.should_checkpoint)
    return True


def predict(model, inputs, **arguments):
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
    if host.open_scope is None or keras.backend.backend() != "jax":
        return model.predict(inputs, **arguments)
    host.open_scope.predicting = _process_count() > 1
    try:
        return model.predict(inputs, **arguments)
    finally:
        host.open_scope.predicting = False


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
    if _process_count() == 1:
        return [number]
    if keras.backend.backend() == "jax":
        from jax.experimental import multihost_utils

        numbers = multihost_utils.process_allgather(np.asarray(number))
    else:
        import tensorflow as tf

        here = tf.constant([number], "int64")
        strategy = host.open_scope.chosen
        numbers = strategy.gather(strategy.run(lambda: here), axis=0)
    return np.ravel(numbers).tolist()


def _process_count():
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.process_count() if jax.distributed.is_initialized() else 1
    scope = host.open_scope
    if scope is not None and scope.name == "multi_worker":
        workers = scope.chosen.cluster_resolver.cluster_spec().as_dict()
        return sum(len(addresses) for addresses in workers.values())
    return 1


def _join(job_addresses, num_processes, process_id, wait_seconds):
    """Meets the other processes of a JAX program, if there are any."""
    import jax

    global _meeting, _lost
    wait_seconds = check_whole("wait_seconds", wait_seconds, 1)
    given = [x is not None for x in (job_addresses, num_processes, process_id)]
    said = any(key.startswith(_JAX_PROCESSES) for key in os.environ)
    if jax.distributed.is_initialized() or not (any(given) or said):
        return
    address = job_addresses or os.environ.get(f"{_JAX_PROCESSES}JOB_ADDRESSES")
    _meeting = _Meeting(address)
    try:
        with _waiting(wait_seconds):
            keras.distribution.initialize(
                job_addresses, num_processes, process_id
            )
    except jax.errors.JaxRuntimeError as error:
        _lost = True
        raise ProcessLost(f"{_meeting.failure()} JAX says: {error}") from error
    except RuntimeError as error:
        raise ValueError(
            "The processes of a JAX program must meet before it computes "
            f"anything: open the scope first. JAX says: {error}"
        ) from error
    finally:
        _meeting = None


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


_meeting = None  # while this process waits


# ---- when a process is lost ---------------------------------------------


@contextlib.contextmanager
def _naming_lost_processes():
    """Turns what the backend raises when another process is gone."""
    global _lost
    try:
        yield
    except Exception as error:
        if _process_count() == 1 or not _means_lost(error):
            raise
        _lost = True
        raise ProcessLost(f"{_IS_GONE}.") from error


_lost = False  # from then on no process can be asked anything


def _means_lost(error):
    text = str(error)
    if keras.backend.backend() == "jax":
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
    if keras.backend.backend() != "jax":
        return

    def handle(signum):
        if _JAX_GAVE_UP in _fatal_line():
            say(_IS_GONE + "." if _meeting is None else _meeting.failure())

    # Python's own handlers run in the main thread, when it is next in Python:
    # too late, because abort() ends the process when a handler returns.
    _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(_handler, ctypes.c_void_p))


_handler = None  # what C calls must stay alive


def _fatal_line():
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
        jax = keras.backend.backend() == "jax"
        several = _lost or (jax and _process_count() > 1)
        status = 1
        if isinstance(error, SystemExit):
            status = error.code or 0
        if not several or (status in together and not _lost):
            raise
        if not isinstance(error, SystemExit):
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
        if not _lost and is_chief():
            time.sleep(_LAST_WORDS_SECONDS)
        os._exit(status)


# ---- what the names stand for -------------------------------------------


def _check_backend(name):
    backend = keras.backend.backend()
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


def _strategy(name, devices):
    import tensorflow as tf

    if name == "mirrored":
        best = _tensorflow_devices("GPU") or _tensorflow_devices("CPU")
        hint = "`tf.config.set_logical_device_configuration` splits a device"
        known = [*best, *_tensorflow_devices("CPU")]
        names = _choose(devices, best, known, hint)
        return _once("MirroredStrategy", tuple(names))
    if devices is not None:
        raise ValueError(
            f"`devices` must be None for name={name!r}, which takes all. "
            f"Received: devices={devices!r}"
        )
    if name == "multi_worker":
        if "TF_CONFIG" not in os.environ:
            raise ValueError(
                "name='multi_worker' needs the variable TF_CONFIG, which says "
                "who the workers are. Received: none"
            )
        return _once("MultiWorkerMirroredStrategy")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise ValueError(
            f"name='tpu' needs a TPU. TensorFlow finds none: {error}"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


@functools.cache
def _once(kind, *arguments):
    """The strategy of that kind, the same one for every scope.

    A second one would number its messages from the start, and TensorFlow,
    which remembers how large each number was, refuses those of another model.
    """
    import tensorflow as tf

    return getattr(tf.distribute, kind)(*arguments)


def _tensorflow_devices(kind):
    import tensorflow as tf

    return [
        device.name.removeprefix("/device:")
        for device in tf.config.list_logical_devices(kind)
    ]


def _jax_distribution(name, devices, model_devices, layout):
    kind = "tpu" if name == "tpu" else None
    try:
        best = keras.distribution.list_devices(kind)
    except RuntimeError as error:
        raise ValueError(
            f"name='tpu' needs a TPU. JAX finds none: {error}"
        ) from error
    several = _process_count() > 1
    if several and devices is not None:
        raise ValueError(
            "`devices` must be None with several processes, which take all. "
            f"Received: devices={devices!r}"
        )
    if several and name == "model_parallel":
        # A pruner reads whole weights; a process sees its own shards only.
        raise ValueError(
            "name='model_parallel' splits weights over the devices of one "
            "process. Received: several processes. Use 'data_parallel'."
        )
    hint = "XLA_FLAGS=--xla_force_host_platform_device_count=4 splits a CPU"
    known = [*best, *keras.distribution.list_devices("cpu")]
    names = _choose(devices, best, known, hint)
    # Every process reads whole batches; see `_taking_whole_batches`.
    whole = {"auto_shard_dataset": False}
    if name != "model_parallel":
        return keras.distribution.DataParallel(devices=names, **whole)
    model_devices = check_whole("model_devices", model_devices, 1)
    if len(names) % model_devices:
        raise ValueError(
            f"`model_devices` must divide the number of devices, {len(names)}. "
            f"Received: model_devices={model_devices}"
        )
    mesh = keras.distribution.DeviceMesh(
        (len(names) // model_devices, model_devices), ("batch", "model"), names
    )
    layouts = keras.distribution.LayoutMap(mesh)
    for pattern, axes in layout.items():
        layouts[pattern] = tuple(axes)
    return keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch", **whole
    )


def _choose(devices, best, known, hint):
    """Names of devices from what the user said; `best` for `None`."""
    if devices is None:
        return best
    if isinstance(devices, (list, tuple)) and devices:
        strangers = [device for device in devices if device not in known]
        if not strangers and len(set(devices)) == len(devices):
            return list(devices)
        rule = f"different ones of {known}"
    else:
        if isinstance(devices, int) and 1 <= devices <= len(best):
            return best[:devices]
        rule = f"a list of names, or a number in [1, {len(best)}]"
    raise ValueError(
        f"`devices` must be {rule}: there are no others. "
        f"Received: devices={devices!r} ({hint})"
    )


# ---- what is mended -----------------------------------------------------


@contextlib.contextmanager
def _taking_whole_batches(distribution):
    """Makes Keras's JAX trainer lay out whole batches, of any size.

    Keras wants each process to bring its share, cut from batches of a fixed
    size, and takes the layout of the first batch for all. Here every process
    brings the whole batch, as it drew it from the same seed; JAX takes from it
    what the devices of the process need. What cannot be cut evenly, such as a
    last batch, goes to all devices whole.
    """
    import jax
    from keras.src.backend.jax import trainer

    replicas = distribution.num_model_replicas

    def place(part):
        if part is None:
            return None
        part = np.asarray(part)
        layout = distribution.get_data_layout(part.shape)
        if host.open_scope.predicting or part.shape[0] % replicas:
            layout = keras.distribution.TensorLayout(
                [None] * part.ndim, distribution.device_mesh
            )
        return jax.make_array_from_process_local_data(
            layout.backend_layout, part, part.shape
        )

    def place_all(data, layouts=None):
        return keras.tree.map_structure(place, data)

    before = trainer._distribute_data
    trainer._distribute_data = place_all
    try:
        yield
    finally:
        trainer._distribute_data = before


@contextlib.contextmanager
def _mended():
    """Lets Keras's TensorFlow trainer work under several workers."""
    from keras.src.backend.tensorflow import trainer

    kind = trainer.TensorFlowTrainer
    build, reduce = kind._maybe_symbolic_build, trainer.reduce_per_replica

    def reduce_per_replica(values, strategy, reduction):
        def one(value):
            here = strategy.experimental_local_results(value)[0]
            if reduction in ("auto", "mean") and here.shape.rank == 0:
                # Keras asks for a mean along an axis that a scalar lacks.
                return strategy.reduce("MEAN", value, axis=None)
            return reduce(value, strategy, reduction)

        return keras.tree.map_structure(one, values)

    # It takes the mean of a batch over the workers, integers included. The
    # experiments build model and optimizer, and the rest builds as it traces.
    kind._maybe_symbolic_build = lambda self, *args, **kwargs: None
    trainer.reduce_per_replica = reduce_per_replica
    try:
        yield
    finally:
        kind._maybe_symbolic_build = build
        trainer.reduce_per_replica = reduce
