"""Networks and data that several benchmarks train."""

import pathlib
import sys
import time

import measure
import numpy as np

# A worker for tfmot runs where neither Keras 3 nor this package is installed:
# everything else is imported where it is used.

CLASSES = 1000
IMAGE = (32, 32, 3)
FEATURES = 1024


def perceptron(keras, widths):
    layers = keras.layers
    hidden = [layers.Dense(width, activation="relu") for width in widths]
    return keras.Sequential(
        [layers.InputLayer((FEATURES,)), *hidden, layers.Dense(CLASSES)]
    )


def convnet(keras):
    layers = keras.layers
    stack = [layers.InputLayer(IMAGE)]
    for width in (32, 64, 128, 256):
        for strides in (1, 2):
            stack += [
                layers.Conv2D(
                    width, 3, strides=strides, padding="same", use_bias=False
                ),
                layers.BatchNormalization(),
                layers.ReLU(),
            ]
    stack += [layers.GlobalAveragePooling2D(), layers.Dense(CLASSES)]
    return keras.Sequential(stack)


def build(keras, name):
    """An architecture, in Keras 3 and in tf_keras alike."""
    if name == "mlp":
        return perceptron(keras, (4096, 4096))
    return convnet(keras)


def compiled(keras, model, optimizer):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss)
    return model


def data(name, examples):
    generator = np.random.default_rng(0)
    shape = (FEATURES,) if name == "mlp" else IMAGE
    x = generator.standard_normal((examples, *shape), dtype=np.float32)
    y = generator.integers(0, CLASSES, examples).astype(np.int32)
    return x, y


def wait(keras, model):
    """Until the steps that a backend has in its queue are done."""
    keras.ops.convert_to_numpy(model.trainable_variables[-1])


def keras_versions(keras):
    return measure.versions("keras", keras.backend.backend(), "numpy")


def timed_pruner(keras, schedule, **arguments):
    """A `MagnitudePruner` that keeps the seconds of its updates."""
    from keras_app import host
    from keras_app.pruners import MagnitudePruner

    class TimedPruner(MagnitudePruner):
        seconds = []

        def prune(self, sparsity):
            # Steps that JAX has in its queue are no part of it.
            host.sync(self.model)
            wait(keras, self.model)
            start = time.perf_counter()
            super().prune(sparsity)
            self.seconds.append(time.perf_counter() - start)

    return TimedPruner(schedule, on_miss="ignore", **arguments)


def catalogue():
    """`tests/methods.py`, which lists all methods once."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    from tests import methods

    return methods


# ---- digits ----------------------------------------------------------------

BATCH_SIZE = 64


def digits(shape=(64,)):
    """scikit-learn's 8x8 digits: training and test images and labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("The digits come with scikit-learn: pip install scikit-learn")
    x, y = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(x))
    x, y = x[order] / 16.0, y[order].astype("int32")
    mean, std = x[:1437].mean(), x[:1437].std()
    x = ((x - mean) / std).astype("float32").reshape(-1, *shape)
    return x[:1437], y[:1437], x[1437:], y[1437:]


def fit_digits(model, data, seed, epochs, callbacks):
    """Trains on batches that are mixed in every epoch; the test accuracy."""
    train_x, train_y, test_x, test_y = data

    def batches():
        # With seeds set, Keras mixes arrays alike in all epochs on TensorFlow.
        generator = np.random.default_rng(seed)
        while True:
            order = generator.permutation(len(train_x))
            for begin in range(0, len(train_x), BATCH_SIZE):
                chosen = order[begin : begin + BATCH_SIZE]
                yield train_x[chosen], train_y[chosen]

    model.fit(
        batches(),
        steps_per_epoch=-(-len(train_x) // BATCH_SIZE),
        epochs=epochs,
        verbose=0,
        callbacks=callbacks,
    )
    return accuracy(model, test_x, test_y)


def accuracy(model, x, y):
    """In percent."""
    return 100 * np.mean(np.argmax(model.predict(x, verbose=0), -1) == y)
