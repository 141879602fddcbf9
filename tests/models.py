"""Small networks and data that several test files train."""

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_app import enforcement
from keras_app import regularizers
from keras_app.schedules import OneShot
from tests import methods
from tests.helpers import to_numpy

# ---- 712 weights -------------------------------------------------------

KERNELS = ["conv/kernel", "dense/kernel"]


def chain(shape, *stack, name=None, **input_arguments):
    """A functional model: its paths do not begin with the model's name."""
    x = inputs = keras.Input(shape, **input_arguments)
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def network(optimizer=None, **compile_args):
    """72 convolution weights and 640 dense ones, the same on each backend."""
    model = chain(
        (6, 6, 2),
        layers.Conv2D(4, 3, name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(10, name="dense"),
    )
    generator = np.random.default_rng(7)
    for name in ("conv", "dense"):
        kernel = model.get_layer(name).kernel
        kernel.assign(generator.standard_normal(kernel.shape) * 0.1)
    model.compile(
        optimizer or keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **compile_args,
    )
    return model


def dense(rows, columns, values=None, **compile_args):
    """One kernel. Training it is cheap."""
    model = chain((rows,), layers.Dense(columns, name="dense"))
    if values is not None:
        model.layers[1].kernel.assign(np.reshape(values, (rows, columns)))
    model.compile(
        keras.optimizers.SGD(compile_args.pop("learning_rate", 0.01)),
        "mse",
        **compile_args,
    )
    return model


def images(size=32):
    generator = np.random.default_rng(3)
    x = generator.standard_normal((size, 6, 6, 2)).astype("float32")
    return x, np.arange(size) % 10


def batches():
    x, y = images()
    return [(x[i : i + 8], y[i : i + 8]) for i in range(0, 32, 8)]


def train(model, pruner=None, epochs=1, batch_size=8, size=32, **kwargs):
    shape = model.input_shape
    if len(shape) == 4:
        x, y = images(size)
    else:
        generator = np.random.default_rng(3)
        x = generator.standard_normal((size, shape[1])).astype("float32")
        y = generator.standard_normal((size, *model.output_shape[1:]))
    return model.fit(
        x,
        y,
        epochs=epochs,
        batch_size=batch_size,
        shuffle=False,
        verbose=0,
        callbacks=[*([pruner] if pruner else []), *kwargs.pop("callbacks", ())],
        **kwargs,
    )


def make(name, schedule=None, **arguments):
    """A pruner of the catalogue for `network`."""
    arguments = {"filters": "kernel", "distribution": "uniform", **arguments}
    if name == "grasp":
        arguments["samples_per_class"] = 3  # of 32 images of ten classes
    return methods.PRUNERS[name].make(
        schedule or OneShot(0.5), batches(), **arguments
    )


def pruned_now(pruner, model, sparsity):
    """The masks of one update outside of a training."""
    pruner.set_model(model)
    pruner.prune(sparsity)
    return pruner.masks


def randomize(model, seed=0):
    """Biases and moving statistics that are not the initial zeros and ones."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        if "seed" not in weight.path:
            value = generator.uniform(0.2, 0.8, weight.shape)
            sign = 1 if "variance" in weight.path else -1
            flip = generator.random(weight.shape) < 0.5
            weight.assign(np.where(flip, sign * value, value))
    return model


# ---- subclassed --------------------------------------------------------


class OneDense(keras.Model):
    """Keras cannot look into it."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


class Mute(keras.Model):
    """Has an argument, and no `get_config` that tells it."""

    def __init__(self, width):
        super().__init__()
        self.last = layers.Dense(width)

    def call(self, inputs):
        return self.last(inputs)


# ---- networks of every kind --------------------------------------------


@keras.saving.register_keras_serializable(package="test_enforcement")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Dense(16, activation="tanh")
        self.blocks = [keras.layers.Dense(4), keras.layers.Dense(4)]

    def call(self, x):
        x = self.first(x)
        return self.blocks[0](x) + self.blocks[1](x)


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 8), "float32"))
    return model, None, 3


def nested():
    def inner():
        inputs = keras.Input((8,))
        outputs = keras.layers.Dense(8, activation="tanh", name="same")(inputs)
        return keras.Model(inputs, outputs)

    first, second = inner(), inner()
    inputs = keras.Input((8,))
    outputs = keras.layers.Dense(4)(second(first(inputs)))
    paths = [v.path for v in first.variables + second.variables]
    assert len(set(paths)) == 2, "the point of this case: equal paths"
    return keras.Model(inputs, outputs), None, 3


def shared():
    layer = keras.layers.Dense(8, activation="tanh")
    inputs = keras.Input((8,))
    outputs = keras.layers.Dense(4)(layer(layer(inputs)))
    return keras.Model(inputs, outputs), None, 2


def attention():
    inputs = keras.Input((8,))
    x = keras.layers.Reshape((4, 2))(inputs)
    x = keras.layers.MultiHeadAttention(2, 4)(x, x)
    outputs = keras.layers.Dense(4)(keras.layers.Flatten()(x))
    return keras.Model(inputs, outputs), None, 5


def einsum():
    inputs = keras.Input((8,))
    x = keras.layers.Reshape((4, 2))(inputs)
    x = keras.layers.EinsumDense("abc,cd->abd", output_shape=(4, 6))(x)
    outputs = keras.layers.Dense(4)(keras.layers.Flatten()(x))
    return keras.Model(inputs, outputs), None, 2


def convolution():
    inputs = keras.Input((8,))
    x = keras.layers.Reshape((2, 2, 2))(inputs)
    x = keras.layers.Conv2D(8, 2, padding="same", activation="tanh")(x)
    x = keras.layers.BatchNormalization()(x)
    outputs = keras.layers.Dense(4)(keras.layers.Flatten()(x))
    return keras.Model(inputs, outputs), None, 2


def depthwise():
    inputs = keras.Input((8,))
    x = keras.layers.Reshape((2, 2, 2))(inputs)
    x = keras.layers.DepthwiseConv2D(
        2, depth_multiplier=2, padding="same", name="depthwise"
    )(x)
    outputs = keras.layers.Dense(4)(keras.layers.Flatten()(x))
    return keras.Model(inputs, outputs), "depthwise/.*kernel", 1


def recurrent(kind):
    def build():
        inputs = keras.Input((8,))
        x = keras.layers.Reshape((4, 2))(inputs)
        outputs = keras.layers.Dense(4)(kind(5)(x))
        return keras.Model(inputs, outputs), "kernel", 3

    return build


def embedding():
    inputs = keras.Input((8,))
    # Whole numbers from 0 to 2, so that each of three rows is looked up.
    rows = keras.layers.Rescaling(1.0)(inputs)
    rows = keras.layers.Discretization([-0.4, 0.4], output_mode="int")(rows)
    x = keras.layers.Embedding(3, 6)(rows)
    outputs = keras.layers.Dense(4)(keras.layers.Flatten()(x))
    return keras.Model(inputs, outputs), "embeddings|kernel", 2


MODELS = {
    "subclassed": subclassed,
    "nested": nested,
    "shared": shared,
    "attention": attention,
    "einsum": einsum,
    "convolution": convolution,
    "depthwise": depthwise,
    "lstm": recurrent(keras.layers.LSTM),
    "gru": recurrent(keras.layers.GRU),
    "embedding": embedding,
}


def logs_of(model, *callbacks):
    """What one step on ones leaves in the history."""
    x = np.ones((8, *model.input_shape[1:]), "float32")
    y = np.ones((8, *model.output_shape[1:]), "float32")
    return model.fit(x, y, verbose=0, callbacks=list(callbacks)).history


# ---- a classifier of images ----------------------------------------------


def small_model(normalize=True, seed=0):
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Flatten(),
        keras.layers.Dense(6, activation="relu", name="hidden"),
        keras.layers.Dense(3, name="head"),
    ]
    if not normalize:
        del layers[2]
    return keras.Sequential(layers, name="net")


def examples(count=64):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, 8, 8, 1)).astype("float32")
    return x, generator.integers(0, 3, count).astype("int32")


def three_classes(count, seed):
    """Images of three classes that differ in their mean image."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = generator.normal(size=(count, 6, 6, 1)) * 0.5
    images += labels[:, None, None, None] * np.eye(6)[None, :, :, None]
    return images.astype("float32"), labels.astype("int32")


def compiled(optimizer, model=None, **kwargs):
    model = model or small_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **kwargs)
    return model


def fit(model, epochs=2, batch_size=16, **kwargs):
    x, y = examples()
    return model.fit(
        x,
        y,
        epochs=epochs,
        batch_size=batch_size,
        shuffle=False,
        verbose=0,
        **kwargs,
    )


def apply(optimizer, variable, gradient):
    """One step by hand."""
    optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
    return to_numpy(variable)


# ---- eight weights -------------------------------------------------------

# Of the largest magnitudes, four of eight: 5, 0, 2, 3.
EIGHT = [4.0, 1.0, -3.0, 2.0, 0.5, -5.0, 1.5, -0.25]
X_OF_EIGHT = [1.0, 2.5, 0.0, -1.0, 1.0, 1.0, -2.0, 4.0]


def train_eight(pruner, x, targets):
    """Steps of w <- w - (w x - target) x / 4; returns kernel and state."""
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(1, use_bias=False)(inputs))
    # The gradient of the squared error is 2 (w x - target) x.
    model.compile(keras.optimizers.SGD(0.125), "mse")
    [kernel] = model.trainable_variables
    kernel.assign(np.reshape(EIGHT, (8, 1)))
    model.fit(
        np.tile(np.asarray(x, "float32"), (len(targets), 1)),
        np.reshape(targets, (-1, 1)).astype("float32"),
        batch_size=1,
        shuffle=False,
        verbose=0,
        callbacks=[pruner],
    )
    return kernel, enforcement.state_of(model)


def flat(values):
    return ops.convert_to_numpy(values).ravel().tolist()


# ---- regularizers of recorded runs -------------------------------------

# The recorded tables group as "auto" does. The reference multiplies both
# strengths of the sparse group by themselves.
RECORDED = {
    "none": lambda lam: None,
    "l1": regularizers.L1,
    "l1_pos": regularizers.NonNegativeL1,
    "l1_l2": regularizers.GroupL2,
    "l1_l2_conv": regularizers.GroupL2,
    "l1_l1_l2": lambda lam: regularizers.SparseGroup(lam**2, lam**2),
    "nuclear": regularizers.Nuclear,
}
