"""Strategies of TensorFlow, and what Keras lacks to train several workers.

Private Keras names in use, with `mend_keras=True` and inside the scope only:
`trainer.reduce_per_replica` and `TensorFlowTrainer._maybe_symbolic_build`.
"""

import contextlib
import functools
import os

import keras

from keras_app import host
from keras_app.experiments.devices import processes
from keras_app.experiments.devices.choice import choose


def strategy(name, devices):
    """The strategy of that name; see `scope`."""
    import tensorflow as tf

    if name == "mirrored":
        best = _tensorflow_devices("GPU") or _tensorflow_devices("CPU")
        hint = "`tf.config.set_logical_device_configuration` splits a device"
        known = [*best, *_tensorflow_devices("CPU")]
        names = choose(devices, best, known, hint)
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


@contextlib.contextmanager
def mended():
    """Lets Keras's TensorFlow trainer work under several workers."""
    trainer = host.trainer_module()
    kind = trainer.TensorFlowTrainer
    reduce = trainer.reduce_per_replica

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
    def build_later(self, *args, **kwargs):
        pass

    with (
        processes.replaced(kind, "_maybe_symbolic_build", build_later),
        processes.replaced(trainer, "reduce_per_replica", reduce_per_replica),
    ):
        yield
