"""Masks drawn at random in the middle of a training, and what must hold after.

Most tests of enforcement draw their own masks, hand them over while a model
trains, and compare the weights with what they drew. The second draw brings
weights back that the first one pruned.
"""

import warnings

import keras
import numpy as np

from keras_app import enforcement
from keras_app import pruners
from keras_app import schedules
from keras_app import selection
from tests.helpers import sync
from tests.helpers import to_numpy


class Masking(keras.callbacks.Callback):
    """Draws random masks at given batches and knows what must be zero."""

    def __init__(self, filters=None, plan=((0, 0.3), (3, 0.6)), seed=0):
        super().__init__()
        self.filters = filters
        self.plan = list(plan)
        self.random = np.random.default_rng(seed)
        self.variables, self.masks, self.start = [], [], []
        self.seen = 0

    def set_model(self, model):
        super().set_model(model)
        chosen = selection.select(model, self.filters).variables
        self.variables = list(chosen.values())
        self.state = enforcement.attach(model, self.variables)

    def on_train_batch_begin(self, batch, logs=None):
        if self.plan and self.seen >= self.plan[0][0]:
            sync(self.model)
            self.draw(self.plan.pop(0)[1])
        self.seen += self.model.steps_per_execution

    def draw(self, sparsity):
        self.masks = [
            self.random.random(tuple(v.shape)) >= sparsity
            for v in self.variables
        ]
        self.state.set(list(zip(self.variables, self.masks)))
        self.start = [to_numpy(v).copy() for v in self.variables]

    def on_epoch_end(self, epoch, logs=None):
        sync(self.model)
        for variable, mask in zip(self.variables, self.masks):
            assert not to_numpy(variable)[~mask].any(), variable.path


def check(masking, moved=0.9):
    """The zeros are the ones drawn, and all the rest has trained."""
    assert not masking.plan, "the plan was not carried out"
    assert masking.variables
    for variable, mask, start in zip(
        masking.variables, masking.masks, masking.start
    ):
        values = to_numpy(variable).astype("float64")
        assert np.isfinite(values).all(), variable.path
        assert not values[~mask].any(), variable.path
        # -0.0 is a zero too, but one whose sign a file has to store.
        assert not np.signbit(values[~mask]).any(), variable.path
        assert 0 < mask.mean() < 1
        np.testing.assert_array_equal(masking.state.get(variable), mask)
        share = np.mean(values[mask] != start[mask].astype("float64"))
        assert share >= moved, f"{variable.path}: only {share:.2f} have moved"
    assert masking.state.leaks() == {}
    assert enforcement.state_of(masking.model) is masking.state


def data(shape=(8,), outputs=4, count=32):
    random = np.random.default_rng(1)
    x = random.standard_normal((count, *shape)).astype("float32")
    return x, random.standard_normal((count, outputs)).astype("float32")


def perceptron():
    # A functional model's paths hold no counter, unlike a Sequential's.
    inputs = keras.Input((8,))
    x = keras.layers.Dense(16, activation="tanh", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(4, name="head")(x))


def dense_layers(model):
    return [model.get_layer("hidden"), model.get_layer("head")]


def fit(model, *callbacks, inputs=None, epochs=2, **arguments):
    x, y = data() if inputs is None else inputs
    return model.fit(
        x,
        y,
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
        **arguments,
    )


def compiled(optimizer="adam", model=None, **arguments):
    model = perceptron() if model is None else model
    model.compile(optimizer, "mse", **arguments)
    return model


def pruned(optimizer, sparsity=0.5):
    """A small trained model, and the callback that knows its masks."""
    model = compiled(optimizer)
    masking = Masking(plan=[(0, sparsity)])
    fit(model, masking, epochs=1)
    return model, masking


def slot(optimizer, variable, name):
    """The optimizer's own state for a variable, by Keras's naming."""
    wanted = f"{variable.path.replace('/', '_')}_{name}"
    (found,) = [v for v in optimizer.variables if v.name == wanted]
    return found


def slots(optimizer):
    return {
        v.path: to_numpy(v)
        for v in optimizer.variables
        if not v.name.endswith("_mask")
    }


O = keras.optimizers  # noqa: E741
OPTIMIZERS = {
    "sgd": lambda: O.SGD(0.05),
    "sgd_momentum": lambda: O.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: O.Adam(0.01),
    "adamw": lambda: O.AdamW(0.01),
    "rmsprop": lambda: O.RMSprop(0.01, momentum=0.9, centered=True),
    "muon": lambda: O.Muon(0.01),
    "ftrl": lambda: O.Ftrl(0.05),
    "lamb": lambda: O.Lamb(0.01),
    "lion": lambda: O.Lion(0.01),
    "adafactor": lambda: O.Adafactor(0.01),
    "schedule_free_adamw": lambda: O.ScheduleFreeAdamW(0.01),
    "weight_decay": lambda: O.SGD(0.05, momentum=0.9, weight_decay=0.1),
    "global_clipnorm": lambda: O.Adam(0.01, global_clipnorm=0.1),
    "gradient_accumulation": lambda: O.Adam(
        0.01, gradient_accumulation_steps=2
    ),
    "ema": lambda: O.Adam(0.01, use_ema=True, ema_momentum=0.5),
    "ema_overwrite": lambda: O.Adam(
        0.01, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2
    ),
    "all_at_once": lambda: O.AdamW(
        0.01,
        weight_decay=0.1,
        global_clipnorm=1.0,
        gradient_accumulation_steps=2,
        use_ema=True,
        ema_momentum=0.5,
    ),
    "learning_rate_schedule": lambda: O.Adam(
        O.schedules.CosineDecay(0.01, 100)
    ),
}


class Dormant(Masking):
    """Keeps what it prunes, and lets a share of it train."""

    def __init__(self, share=1.0, decay=None, **arguments):
        super().__init__(**arguments)
        self.share, self.decay = share, decay
        self.learning, self.values = [], []

    def set_model(self, model):
        super().set_model(model)
        if self.state.keep_dormant(self.variables, True, self.decay):
            model.train_function = None

    def draw(self, sparsity):
        super().draw(sparsity)
        self.learning = [
            mask | (self.random.random(mask.shape) < self.share)
            for mask in self.masks
        ]
        self.state.learn(list(zip(self.variables, self.learning)))
        self.values = [self.state.dense(v).copy() for v in self.variables]


def check_dormant(dormant):
    """Beyond `check`: exactly what learns has moved, asleep or not."""
    check(dormant)
    for variable, mask, learning, values in zip(
        dormant.variables, dormant.masks, dormant.learning, dormant.values
    ):
        found = dormant.state.dense(variable)
        assert np.isfinite(found.astype("float64")).all()
        np.testing.assert_array_equal(found[mask], to_numpy(variable)[mask])
        np.testing.assert_array_equal(found[~learning], values[~learning])
        asleep = learning & ~mask
        assert np.mean(found[asleep] != values[asleep]) >= 0.9


def pruner(**arguments):
    return pruners.MagnitudePruner(
        schedules.PolynomialDecay(0.2, 0.7, 0, 7, frequency=3), **arguments
    )


def load(path):
    """Loads a model and fails where Keras drops state with a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*[Ss]kipping variable.*")
        return keras.models.load_model(path)


def assert_same_weights(model, other):
    for a, b in zip(model.variables, other.variables, strict=True):
        np.testing.assert_array_equal(to_numpy(a), to_numpy(b), a.path)


def assert_same_slots(model, other):
    expected = [
        v for v in model.optimizer.variables if not v.name.endswith("_mask")
    ]
    found = [
        v for v in other.optimizer.variables if not v.name.endswith("_mask")
    ]
    for a, b in zip(expected, found, strict=True):
        assert a.name == b.name
        np.testing.assert_array_equal(to_numpy(a), to_numpy(b), a.path)
