"""Small networks that are pruned as tfmot prunes, and what it made of them."""

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_app import masks_of
from keras_app.compat.tfmot import UpdatePruningStep
from tests.helpers import zeros
from tests.models import chain

W64 = [
    [2, -22, 8, -18],
    [17, -24, 23, -16],
    [21, -12, 3, -13],
    [11, -4, 5, -6],
    [9, -1, 10, -15],
    [19, -14, 7, -20],
]
W73 = [
    [20, -15, 17],
    [-12, 13, -8],
    [7, -14, 16],
    [-3, 11, -1],
    [19, -21, 18],
    [-10, 6, -4],
    [5, -9, 2],
]


def dense(values, **compile_args):
    """A model of one kernel, compiled."""
    values = np.asarray(values, "float32")
    model = chain(values.shape[:1], layers.Dense(values.shape[1], name="d"))
    model.get_layer("d").kernel.assign(values)
    compiled(model, **compile_args)
    return model


def compiled(model, **compile_args):
    model.compile(keras.optimizers.SGD(0.001), "mse", **compile_args)
    return model


def two(**compile_args):
    """Two kernels of 24 and 12 weights."""
    return compiled(
        chain((6,), layers.Dense(4, name="a"), layers.Dense(3, name="b")),
        **compile_args,
    )


def train(model, *callbacks, steps=2, epochs=1, **kwargs):
    """Trains `steps` batches in each epoch."""
    generator = np.random.default_rng(3)
    x = generator.standard_normal((steps * 2, *model.input_shape[1:]))
    y = generator.standard_normal((steps * 2, *model.output_shape[1:]))
    return model.fit(
        x.astype("float32"),
        y.astype("float32"),
        batch_size=2,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
        **kwargs,
    )


def pruned_now(model, sparsity=0.5):
    """The masks of one update outside of a training."""
    step = UpdatePruningStep()
    step.set_model(model)
    for pruner in step.pruners:
        pruner.prune(sparsity)
    return masks_of(model)


def selected(model):
    """The paths that would be pruned, and `{path: reason}` of the others."""
    step = UpdatePruningStep()
    step.set_model(model)
    return sorted(masks_of(model)), step.report.skipped


class Watch(keras.callbacks.Callback):
    """Zeros of every mask and weight before each batch but the first."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.masks = []

    def on_train_batch_begin(self, batch, logs=None):
        found = masks_of(self.model)
        self.masks.append(found)
        weights = {v.path: v for v in self.model.trainable_variables}
        for path, mask in found.items():
            assert not ops.convert_to_numpy(weights[path])[~mask].any()
        self.seen.append([zeros(mask) for mask in found.values()])


def rows(mask):
    return " ".join("".join(map(str, row.astype(int))) for row in mask)


class Own(layers.Layer):
    """A layer of unknown type."""

    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1], 4), name="table")

    def call(self, x):
        return x @ self.table
