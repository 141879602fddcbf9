"""TensorFlow, as input pipelines on every backend need it."""

import functools

from keras_app import host


@functools.cache
def import_tensorflow():
    """Returns the module, kept off the accelerators of another backend.

    TensorFlow would otherwise reserve a GPU's memory for a few input batches,
    and leave none for JAX or PyTorch.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "The input pipelines need TensorFlow on every backend: `pip "
            "install tensorflow tensorflow-datasets`."
        ) from error
    if host.BACKEND != "tensorflow":
        try:
            tf.config.set_visible_devices([], "GPU")
        except RuntimeError:
            # Somebody used TensorFlow before; its devices are settled.
            pass
    return tf


def make_deterministic():
    """Makes TensorFlow's kernels deterministic, where it is the backend.

    Together with `keras.utils.set_random_seed` the same program then computes
    the same bits on every run of one machine. JAX and PyTorch are
    deterministic on CPUs as they are.
    """
    if host.BACKEND == "tensorflow":
        import_tensorflow().config.experimental.enable_op_determinism()
