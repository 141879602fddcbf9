"""Tests of the masks: what is pruned stays exactly zero, whatever trains it.

Most tests draw their own random masks, hand them over in the middle of a
training, and compare the weights with what they drew. The second draw brings
weights back that the first one pruned.
"""

import json
import os
import pathlib
import subprocess
import sys
import textwrap
import warnings

import h5py
import keras
import numpy as np
import pytest

from keras_app import enforcement
from keras_app import pruners
from keras_app import schedules
from keras_app import selection

BACKEND = keras.backend.backend()
ROOT = pathlib.Path(__file__).parents[1]

tensorflow_only = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="tf.distribute"
)
jax_only = pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution")
not_torch = pytest.mark.skipif(
    BACKEND == "torch", reason="a compiled step: TensorFlow and JAX"
)


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


def sync(model):
    if BACKEND == "jax":
        model.jax_state_sync()


def to_numpy(variable):
    return keras.ops.convert_to_numpy(variable)


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


@pytest.fixture
def policy():
    """Sets the global dtype policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


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


# ---- optimizers ------------------------------------------------------------

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


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_stay_zero_under(name):
    model = compiled(OPTIMIZERS[name]())
    masking = Masking()
    fit(model, masking)
    check(masking)


@pytest.mark.parametrize(
    "name", ["adam", "muon", "ema", "ema_overwrite", "gradient_accumulation"]
)
def test_a_second_fit_keeps_the_masks_and_takes_new_ones(name):
    model = compiled(OPTIMIZERS[name]())
    first = Masking()
    fit(model, first)
    ended_at = [to_numpy(v).copy() for v in first.variables]
    again = Masking(plan=[])
    again.masks, again.start = first.masks, ended_at
    fit(model, again)
    check(again)
    third = Masking(plan=[(2, 0.5)], seed=7)
    fit(model, third)
    check(third)


@pytest.mark.parametrize("name", ["adam", "sgd_momentum"])
def test_training_without_the_callback_keeps_the_zeros(name):
    model = compiled(OPTIMIZERS[name]())
    masking = Masking()
    fit(model, masking)
    fit(model)
    check(masking)


def test_masks_may_come_after_a_dense_fit():
    # The step that this compiled knows nothing of masks.
    model = compiled(keras.optimizers.Adam(0.01))
    fit(model, epochs=1)
    masking = Masking()
    fit(model, masking)
    check(masking)


def test_masked_sgd_is_the_projected_step():
    # One linear layer, mean squared error: the gradient by hand.
    x, y = data(outputs=3)
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(3, use_bias=False)]
    )
    compiled(keras.optimizers.SGD(0.1), model)
    masking = Masking(plan=[(0, 0.5)])
    kernel = to_numpy(model.trainable_variables[0]).astype("float64")
    fit(model, masking, inputs=(x, y), epochs=1)
    mask = masking.masks[0]
    kernel = kernel * mask
    for start in range(0, 32, 8):
        inputs, targets = x[start : start + 8], y[start : start + 8]
        gradient = 2 / (8 * 3) * inputs.T @ (inputs @ kernel - targets)
        kernel = (kernel - 0.1 * gradient) * mask
    found = to_numpy(model.trainable_variables[0])
    np.testing.assert_allclose(found, kernel, rtol=1e-4, atol=1e-6)


def test_the_moving_average_of_the_weights_averages_zeros():
    model = compiled(keras.optimizers.SGD(0.05, use_ema=True))
    masking = Masking()
    fit(model, masking)
    check(masking)
    for variable, mask in zip(masking.variables, masking.masks):
        average = to_numpy(slot(model.optimizer, variable, "average"))
        assert not average[~mask].any()
        assert average[mask].all()


def test_an_unmasked_variable_trains_as_without_masks():
    x, y = data(outputs=3)
    kernels = []
    for attach in (False, True):
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [keras.Input((8,)), keras.layers.Dense(3, name="only")]
        )
        compiled("adam", model)
        if attach:
            enforcement.attach(model, [model.layers[0].kernel])
        fit(model, inputs=(x, y))
        kernels.append(to_numpy(model.layers[0].kernel))
    np.testing.assert_allclose(kernels[0], kernels[1], rtol=1e-6)


# ---- precision and compilation ---------------------------------------------


@pytest.mark.parametrize("name", ["adam", "sgd_momentum", "ema"])
def test_zeros_stay_zero_under_loss_scaling(policy, name):
    policy("mixed_float16")
    model = compiled(OPTIMIZERS[name]())
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    masking = Masking()
    fit(model, masking)
    check(masking)
    assert np.isfinite(to_numpy(model.optimizer.dynamic_scale))


def test_zeros_stay_zero_when_loss_scaling_skips_steps(policy):
    policy("mixed_float16")
    # Gradients times 2 ** 22 overflow float16: the first steps are skipped.
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=2.0**22
    )
    model = compiled(optimizer)
    masking = Masking(plan=[(0, 0.3), (2, 0.6)])
    fit(model, masking, epochs=5)
    check(masking)
    assert 0 < int(to_numpy(optimizer.iterations)) < 20


@pytest.mark.parametrize("name", ["mixed_bfloat16", "bfloat16"])
def test_zeros_stay_zero_in(policy, name):
    policy(name)
    # Keras's Adam does not move bfloat16 weights at all: its beta_2 = 0.999
    # rounds to 1 there.
    model = compiled(keras.optimizers.SGD(0.2, momentum=0.9))
    masking = Masking()
    fit(model, masking)
    check(masking)


@not_torch
@pytest.mark.parametrize("name", ["adam", "ema_overwrite"])
def test_zeros_stay_zero_with_several_steps_per_execution(name):
    model = compiled(OPTIMIZERS[name](), steps_per_execution=4)
    masking = Masking(plan=[(0, 0.3), (4, 0.6)])
    fit(model, masking, epochs=3)
    check(masking)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"jit_compile": True}, id="jit", marks=not_torch),
        pytest.param({"jit_compile": False}, id="no_jit"),
        pytest.param({"run_eagerly": True}, id="eager"),
        pytest.param(
            {"jit_compile": True, "steps_per_execution": 4},
            id="jit_and_steps",
            marks=not_torch,
        ),
    ],
)
def test_zeros_stay_zero_when_the_step_is(arguments):
    model = compiled(keras.optimizers.Adam(0.01), **arguments)
    masking = Masking(plan=[(0, 0.3), (4, 0.6)])
    fit(model, masking, epochs=3)
    check(masking)


# ---- models ----------------------------------------------------------------


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


@pytest.mark.parametrize("name", MODELS)
def test_zeros_stay_zero_in_a_model_with(name):
    model, filters, count = MODELS[name]()
    compiled(keras.optimizers.Adam(0.02), model)
    masking = Masking(filters, plan=[(0, 0.2), (3, 0.4)])
    fit(model, masking)
    assert len(masking.variables) == count
    check(masking)
    assert len(enforcement.masks_of(model)) == count


def test_a_custom_train_step_keeps_the_zeros():
    class Custom(keras.Model):
        calls = 0

        def train_step(self, *args):
            type(self).calls += 1
            return super().train_step(*args)

    plain = perceptron()
    model = Custom(plain.inputs, plain.outputs)
    compiled("adam", model)
    masking = Masking()
    fit(model, masking)
    check(masking)
    assert Custom.calls


def test_frozen_layers_are_left_alone():
    model = perceptron()
    model.get_layer("hidden").trainable = False
    compiled("adam", model)
    masking = Masking()
    fit(model, masking)
    assert [v.path for v in masking.variables] == ["head/kernel"]
    check(masking)


# ---- the state -------------------------------------------------------------


def test_regrown_weights_start_without_momentum():
    model, masking = pruned(keras.optimizers.SGD(0.05, momentum=0.9))
    before = slots(model.optimizer)
    old = masking.masks
    new = [np.ones_like(mask) for mask in old]
    masking.state.set(list(zip(masking.variables, new)))
    for variable, mask in zip(masking.variables, old):
        momentum = slot(model.optimizer, variable, "momentum")
        was = before[momentum.path]
        assert was[~mask].all(), "the case needs momentum of pruned weights"
        assert not to_numpy(momentum)[~mask].any()
        np.testing.assert_array_equal(to_numpy(momentum)[mask], was[mask])
        assert not to_numpy(variable)[~mask].any()


@pytest.mark.parametrize(
    "optimizer, names",
    [
        (lambda: keras.optimizers.Adam(0.01), ["velocity"]),
        (lambda: keras.optimizers.Ftrl(0.05), ["accumulator"]),
        (lambda: keras.optimizers.Adagrad(0.05), ["accumulator"]),
    ],
    ids=["adam", "ftrl", "adagrad"],
)
def test_a_change_of_masks_leaves_sums_of_squares(optimizer, names):
    model, masking = pruned(optimizer())
    before = slots(model.optimizer)
    masking.draw(0.4)
    for variable in masking.variables:
        for name in names:
            kept = slot(model.optimizer, variable, name)
            np.testing.assert_array_equal(to_numpy(kept), before[kept.path])
            assert to_numpy(kept).any()
    fit(model)
    check(masking)


def test_momentum_of_a_layer_of_the_same_name_is_not_reset():
    model, _, _ = nested()
    compiled(keras.optimizers.SGD(0.05, momentum=0.9), model)
    masking = Masking(plan=[(0, 0.5)])
    fit(model, masking, epochs=1)
    first, second = masking.variables[:2]
    assert first.path == second.path
    momentums = [
        v for v in model.optimizer.variables if v.name == "same_kernel_momentum"
    ]
    assert len(momentums) == 2
    before = [to_numpy(m).copy() for m in momentums]
    pruned_before = ~masking.masks[1]
    masking.state.set([(second, np.ones(tuple(second.shape), bool))])
    np.testing.assert_array_equal(to_numpy(momentums[0]), before[0])
    assert not to_numpy(momentums[1])[pruned_before].any()
    assert to_numpy(momentums[1])[~pruned_before].all()


def test_set_zeroes_at_once_and_get_returns_what_was_set():
    model = compiled()
    kernel = model.get_layer("hidden").kernel
    state = enforcement.attach(model, [kernel])
    mask = np.arange(128).reshape(8, 16) % 3 == 0
    before = to_numpy(kernel).copy()
    state.set([(kernel, mask)])
    np.testing.assert_array_equal(state.get(kernel), mask)
    assert state.get(kernel).dtype == bool
    np.testing.assert_array_equal(to_numpy(kernel), np.where(mask, before, 0))
    assert state.get(model.get_layer("head").kernel) is None


def test_masks_start_as_ones():
    model = compiled()
    state = enforcement.attach(model, [model.get_layer("hidden").kernel])
    assert state.get(model.get_layer("hidden").kernel).all()
    assert state.leaks() == {}


def test_attaching_again_adds_variables_and_keeps_masks():
    model, masking = pruned("adam")
    hidden, head = masking.variables
    with_bias = enforcement.attach(
        model, [head, model.get_layer("hidden").bias]
    )
    assert with_bias is masking.state
    np.testing.assert_array_equal(with_bias.get(hidden), masking.masks[0])
    assert with_bias.get(model.get_layer("hidden").bias).all()
    fit(model)
    check(masking)


def test_variables_with_masks_follow_the_order_of_the_model():
    model = compiled()
    hidden, head = (layer.kernel for layer in dense_layers(model))
    state = enforcement.attach(model, [head])
    assert state.add([hidden]) == [hidden]
    assert state.add([hidden, head]) == []
    assert [v.path for v in state.variables_with_masks()] == [
        "hidden/kernel",
        "head/kernel",
    ]


def test_leaks_counts_and_zero_repairs():
    model, masking = pruned("adam")
    variable, mask = masking.variables[0], masking.masks[0]
    values = to_numpy(variable).copy()
    values[tuple(np.argwhere(~mask)[0])] = 1.0
    values[tuple(np.argwhere(~mask)[1])] = np.nan
    variable.assign(values)
    assert masking.state.leaks() == {"hidden/kernel": 2}
    masking.state.zero()
    assert masking.state.leaks() == {}
    assert not to_numpy(variable)[~mask].any()


def test_masks_of_a_dense_model_are_empty():
    assert enforcement.masks_of(perceptron()) == {}
    assert enforcement.masks_of(compiled()) == {}
    assert enforcement.state_of(compiled()) is None


def test_masks_of_gives_the_masks_by_path():
    model, masking = pruned("adam")
    masks = enforcement.masks_of(model)
    assert list(masks) == ["hidden/kernel", "head/kernel"]
    np.testing.assert_array_equal(masks["head/kernel"], masking.masks[1])


@pytest.mark.parametrize("name", ["adam", "muon", "ema"])
def test_detach_leaves_nothing_behind(name):
    dense = compiled(OPTIMIZERS[name]())
    fit(dense, epochs=1)
    model, masking = pruned(OPTIMIZERS[name]())
    masked = len(model.optimizer.variables)
    assert masked == len(dense.optimizer.variables) + 2
    enforcement.detach(model)
    assert [v.name for v in model.optimizer.variables] == [
        v.name for v in dense.optimizer.variables
    ]
    assert enforcement.state_of(model) is None
    assert enforcement.masks_of(model) == {}
    assert vars(model.optimizer).keys() == vars(dense.optimizer).keys()
    if name == "ema":
        return  # Dense Keras cannot fit twice with use_ema on JAX.
    fit(model, epochs=1)
    revived = to_numpy(masking.variables[0])[~masking.masks[0]]
    assert np.count_nonzero(revived) > 0.9 * revived.size


def test_detach_under_loss_scaling_and_attach_again(policy):
    policy("mixed_float16")
    model, masking = pruned("adam")
    inner = model.optimizer.inner_optimizer
    count = len(model.optimizer.variables)
    enforcement.detach(model)
    assert len(model.optimizer.variables) == count - 2
    for optimizer in (model.optimizer, inner):
        assert "save_own_variables" not in vars(optimizer)
        assert "_backend_update_step" not in vars(optimizer)
    again = Masking()
    fit(model, again)
    check(again)


def test_detach_of_a_dense_model_does_nothing():
    for model in (compiled(), perceptron()):
        enforcement.detach(model)
        assert enforcement.state_of(model) is None


# ---- dormant values --------------------------------------------------------


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


@pytest.mark.parametrize(
    "share, decay", [(1.0, (0.0, 0.0)), (0.5, (0.2, 0.6))], ids=["all", "some"]
)
def test_dormant_weights_follow_the_gradient_at_the_masked_ones(share, decay):
    # One linear layer, mean squared error: gradient and momentum by hand.
    x, y = data(outputs=3)
    inputs = keras.Input((8,))
    outputs = keras.layers.Dense(3, use_bias=False)(inputs)
    model = compiled(
        keras.optimizers.SGD(0.1, momentum=0.9), keras.Model(inputs, outputs)
    )
    dormant = Dormant(share, decay, plan=[(0, 0.5), (2, 0.4)])
    w = to_numpy(model.trainable_variables[0]).astype("float64")
    fit(model, dormant, inputs=(x, y), epochs=1)
    random = np.random.default_rng(0)
    v, learned = np.zeros(w.shape), np.ones(w.shape, bool)
    for step, start in enumerate(range(0, 32, 8)):
        if step in (0, 2):
            mask = random.random(w.shape) >= (0.5 if step == 0 else 0.4)
            learning = mask | (random.random(w.shape) < share)
            v[learning & ~learned] = 0
            learned = learning
        inputs, targets = x[start : start + 8], y[start : start + 8]
        g = 2 / (8 * 3) * inputs.T @ (inputs @ (mask * w) - targets)
        g += np.where(mask, *decay) * w
        v = 0.9 * v - 0.1 * g
        w = np.where(learning, w + v, w)
    variable = model.trainable_variables[0]
    found = dormant.state.dense(variable)
    np.testing.assert_allclose(found, w, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(to_numpy(variable), found * mask)
    check_dormant(dormant)


@pytest.mark.parametrize("name", ["muon", "ema_overwrite", "all_at_once"])
def test_dormant_weights_train_under(name):
    model = compiled(OPTIMIZERS[name]())
    dormant = Dormant(share=0.6)
    fit(model, dormant)
    check_dormant(dormant)


def test_dormant_weights_train_under_loss_scaling(policy):
    policy("mixed_float16")
    model = compiled(keras.optimizers.Adam(0.01))
    dormant = Dormant(share=0.6)
    fit(model, dormant)
    check_dormant(dormant)


@not_torch
def test_dormant_weights_train_in_several_compiled_steps():
    model = compiled(
        keras.optimizers.Adam(0.01), jit_compile=True, steps_per_execution=4
    )
    dormant = Dormant(share=0.6, plan=[(0, 0.3), (4, 0.6)])
    fit(model, dormant, epochs=3)
    check_dormant(dormant)


def test_what_comes_back_has_its_value_its_average_and_its_momentum():
    model = compiled(keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True))
    dormant = Dormant(plan=[(0, 0.5)])
    fit(model, dormant, epochs=1)
    held = [dormant.state.dense(v) for v in dormant.variables]
    before = slots(model.optimizer)
    ones = [np.ones_like(mask) for mask in dormant.masks]
    dormant.state.set(list(zip(dormant.variables, ones)))
    for variable, mask, values in zip(dormant.variables, dormant.masks, held):
        assert values[~mask].all()
        np.testing.assert_array_equal(to_numpy(variable), values)
        average = to_numpy(slot(model.optimizer, variable, "average"))
        np.testing.assert_array_equal(average[~mask], values[~mask])
        momentum = slot(model.optimizer, variable, "momentum")
        was = before[momentum.path]
        assert was[~mask].all()
        np.testing.assert_array_equal(to_numpy(momentum), was)


def test_kept_weights_may_be_set_from_outside():
    model = compiled(keras.optimizers.SGD(0.0))
    dormant = Dormant(plan=[(0, 0.5)])
    fit(model, dormant, epochs=1)
    variable, mask = dormant.variables[0], dormant.masks[0]
    held = dormant.state.dense(variable)
    variable.assign(np.where(mask, 7.0, 0.0))
    fit(model, epochs=1)
    found = dormant.state.dense(variable)
    np.testing.assert_array_equal(found, np.where(mask, 7.0, held))
    assert dormant.state.leaks() == {}


def test_frozen_dormant_weights_stay_what_they_are_until_they_come_back():
    model = compiled(keras.optimizers.SGD(0.05, momentum=0.9))
    masking = Masking(plan=[(2, 0.5)])
    masking.set_model(model)
    assert masking.state.keep_dormant(masking.variables, learning=False)
    assert not masking.state.keep_dormant(masking.variables, learning=False)
    # Nothing is pruned before the third step: the same weights as without.
    expected = compiled(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.models.clone_model(model),
    )
    expected.set_weights(model.get_weights())
    x, y = data()
    fit(expected, inputs=(x[:16], y[:16]), epochs=1)
    fit(model, masking, epochs=1)
    check(masking)
    for variable, mask, layer in zip(
        masking.variables, masking.masks, dense_layers(expected)
    ):
        held = to_numpy(layer.kernel)
        found = masking.state.dense(variable)
        np.testing.assert_allclose(found[~mask], held[~mask], rtol=1e-5)
        np.testing.assert_array_equal(masking.state.learning(variable), mask)
        masking.state.set([(variable, np.ones_like(mask))])
        np.testing.assert_array_equal(to_numpy(variable), found)
        momentum = to_numpy(slot(model.optimizer, variable, "momentum"))
        assert not momentum[~mask].any() and momentum[mask].all()


def test_learning_entries_of_another_shape_are_refused():
    model = compiled()
    kernel = model.get_layer("hidden").kernel
    state = enforcement.attach(model, [kernel])
    state.keep_dormant([kernel], learning=True)
    with pytest.raises(ValueError, match=r"learning entries of .*\(16, 8\)"):
        state.learn([(kernel, np.ones((16, 8), bool))])


def sum_of_products(watched, gradient, weight):
    return watched + gradient * weight


def test_a_rule_adds_up_gradients_at_the_masked_weights_times_the_dense():
    x, y = data(outputs=3)
    inputs = keras.Input((8,))
    outputs = keras.layers.Dense(3, use_bias=False)(inputs)
    model = compiled(keras.optimizers.SGD(0.1), keras.Model(inputs, outputs))
    dormant = Dormant(plan=[(0, 0.5)])
    dormant.set_model(model)
    [variable] = dormant.variables
    assert dormant.state.watch([variable], sum_of_products)
    assert not dormant.state.watch([variable], sum_of_products)
    dormant.state.watch_next(dormant.variables, True)
    w = to_numpy(variable).astype("float64")
    fit(model, dormant, inputs=(x, y), epochs=1)
    [mask], expected = dormant.masks, np.zeros(w.shape)
    for start in range(0, 32, 8):
        inputs, targets = x[start : start + 8], y[start : start + 8]
        g = 2 / (8 * 3) * inputs.T @ (inputs @ (mask * w) - targets)
        expected += g * w
        w = w - 0.1 * g
    found = dormant.state.watched(variable)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    # Another rule starts from zero, and an end of watching ends it.
    assert dormant.state.watch([variable])
    dormant.state.watch_next(dormant.variables, False)
    fit(model, inputs=(x, y), epochs=1)
    assert not dormant.state.watched(variable).any()


def test_rules_decays_and_when_to_watch_are_each_weights_own():
    model = compiled(keras.optimizers.SGD(0.0))
    first, second = (layer.kernel for layer in dense_layers(model)[:2])
    state = enforcement.attach(model, [first, second])
    state.keep_dormant([first], learning=True, decay=(0.0, 1.0))
    state.keep_dormant([second], learning=True, decay=(0.0, 5.0))
    assert not state.keep_dormant([first], learning=True, decay=(0.0, 1.0))
    state.watch([first])
    state.watch([second], lambda watched, gradient, weight: watched + 1.0)
    state.watch_next([second], True)
    fit(model, epochs=1)
    assert not state.watched(first).any()
    assert (state.watched(second) == 4.0).all()


@pytest.mark.parametrize(
    "optimizer, kind",
    [
        (lambda: keras.optimizers.SGD(0.1, momentum=0.9), "momentum"),
        (lambda: keras.optimizers.Ftrl(0.1), "linear"),
    ],
)
def test_momentum_is_forgotten_where_two_paths_make_one_name(optimizer, kind):
    inputs = keras.Input((4,))
    inner = keras.Sequential([keras.layers.Dense(4, name="b")], name="a")
    outputs = inner(keras.layers.Dense(4, name="a_b")(inputs))
    model = compiled(optimizer(), keras.Model(inputs, outputs))
    kernel = inner.layers[0].kernel
    state = enforcement.attach(model, [kernel])
    half = np.arange(16).reshape(4, 4) % 2 == 0
    state.set([(kernel, half)])
    x, _ = data(outputs=4)
    model.fit(x[:, :4], x[:, :4], verbose=0)
    state.set([(kernel, np.ones((4, 4), bool))])
    found = [
        to_numpy(variable)
        for variable in model.optimizer.variables
        if variable.name == f"a_b_kernel_{kind}"
    ]
    kernels = [v for v in model.trainable_variables if len(v.shape) == 2]
    assert len(found) == 2
    for values, variable in zip(found, kernels):
        assert values[half].any()
        assert values[~half].any() == (variable is not kernel)


def test_clipping_by_value_makes_gradients_alike():
    model = compiled(keras.optimizers.SGD(0.1, clipvalue=0.5))
    kernel = dense_layers(model)[0].kernel
    state = enforcement.attach(model, [kernel])
    with pytest.warns(UserWarning, match="clipvalue=0.5"):
        state.watch([kernel])


def test_load_weights_restores_dormant_values_and_what_was_watched(tmp_path):
    def prepared(**arguments):
        model = compiled(keras.optimizers.Adam(0.01))
        dormant = Dormant(share=0.6, **arguments)
        dormant.set_model(model)
        dormant.state.watch(dormant.variables, sum_of_products, store=True)
        dormant.state.watch_next(dormant.variables, True)
        return model, dormant

    model, dormant = prepared(plan=[(0, 0.5)])
    fit(model, dormant, epochs=1)
    model.save_weights(tmp_path / "a.weights.h5")
    other, fresh = prepared(plan=[])
    other.load_weights(tmp_path / "a.weights.h5")
    fit(model, epochs=1)
    fit(other, epochs=1)
    assert_same_weights(model, other)
    own = zip(dormant.state.own_variables, fresh.state.own_variables)
    for a, b in own:
        assert a.name == b.name
        np.testing.assert_array_equal(to_numpy(a), to_numpy(b), a.name)
    model.save(tmp_path / "model.keras")
    assert_same_weights(model, load(tmp_path / "model.keras"))
    enforcement.detach(model)
    # Steps, learning rate, and two slots of each of four variables.
    assert len(model.optimizer.variables) == 10
    assert "update_step" not in vars(model.optimizer)


# ---- what is refused -------------------------------------------------------


def test_a_model_without_optimizer_is_refused():
    with pytest.raises(ValueError, match="must be compiled with an optimizer"):
        enforcement.attach(perceptron())


def test_a_mask_of_another_shape_is_refused():
    model, masking = pruned("adam")
    with pytest.raises(
        ValueError, match=r"hidden/kernel.*\(8, 16\).*\(16, 8\)"
    ):
        masking.state.set([(masking.variables[0], np.ones((16, 8), bool))])


def test_a_variable_the_optimizer_does_not_know_is_refused():
    model = compiled()
    other = keras.layers.Dense(3, name="stranger")
    other.build((None, 2))
    with pytest.raises(ValueError, match="stranger/kernel is no trainable"):
        enforcement.attach(model, [other.kernel])


def test_several_workers_are_refused(monkeypatch):
    # `fit` under two real workers ends in an error of Keras before any
    # callback is asked, so that this sees only who attaches by hand.
    class MultiWorkerMirroredStrategy:
        num_replicas_in_sync = 2

    model = compiled()
    strategy = MultiWorkerMirroredStrategy()
    monkeypatch.setattr(
        type(model), "distribute_strategy", strategy, raising=False
    )
    with pytest.raises(ValueError) as caught:
        enforcement.attach(model)
    assert "cannot `fit` under MultiWorkerMirroredStrategy" in str(caught.value)
    assert "JAX backend with `keras.distribution" in str(caught.value)


def test_an_optimizer_of_other_layers_is_explained():
    model, _ = pruned("adam")
    extra = keras.layers.Dense(4, name="extra")
    grown = keras.Model(model.inputs, extra(model.outputs[0]))
    grown.compile(model.optimizer, "mse")
    with pytest.raises(ValueError, match="Compile the model again"):
        enforcement.attach(grown, [extra.kernel])


# ---- files -----------------------------------------------------------------


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


FILED = ["adam", "muon", "ftrl", "ema", "gradient_accumulation"]


@pytest.mark.parametrize("name", FILED)
def test_a_keras_file_holds_weights_and_all_optimizer_state(name, tmp_path):
    model = compiled(OPTIMIZERS[name]())
    masking = Masking()
    fit(model, masking)
    model.save(tmp_path / "model.keras")
    loaded = load(tmp_path / "model.keras")
    assert_same_weights(model, loaded)
    assert_same_slots(model, loaded)
    assert enforcement.state_of(loaded) is None
    # Saving must not disturb what goes on.
    assert len(enforcement.masks_of(model)) == 2
    fit(model, Masking(plan=[]))
    check(masking)


def test_a_keras_file_holds_all_state_under_loss_scaling(policy, tmp_path):
    policy("mixed_float16")
    model, masking = pruned("adam")
    model.save(tmp_path / "model.keras")
    loaded = load(tmp_path / "model.keras")
    assert_same_weights(model, loaded)
    assert_same_slots(model, loaded)
    fit(model)
    check(masking)


@pytest.mark.parametrize("name", ["adam", "sgd_momentum", "muon"])
def test_training_goes_on_from_a_keras_file(name, tmp_path):
    model = compiled(OPTIMIZERS[name]())
    fit(model, pruner())
    masks = enforcement.masks_of(model)
    model.save(tmp_path / "model.keras")
    loaded = load(tmp_path / "model.keras")
    start = [to_numpy(layer.kernel).copy() for layer in dense_layers(loaded)]
    fit(loaded, pruner(on_miss="ignore"))
    fit(model)
    found = enforcement.masks_of(loaded)
    for layer, before in zip(dense_layers(loaded), start):
        mask = found[layer.kernel.path]
        np.testing.assert_array_equal(mask, masks[layer.kernel.path])
        values = to_numpy(layer.kernel)
        assert not values[~mask].any()
        assert (values[mask] != before[mask]).all()
    # The same as if it had never been to the disk.
    assert_same_weights(model, loaded)


def test_a_keras_file_loads_where_this_package_is_not(tmp_path):
    model = compiled(keras.optimizers.AdamW(0.01))
    fit(model, pruner())
    model.save(tmp_path / "model.keras")
    script = """
        import json, sys, warnings
        warnings.filterwarnings("error", message=".*[Ss]kipping variable.*")
        import keras, numpy as np
        model = keras.models.load_model("model.keras")
        zeros = [int((np.array(w) == 0).sum()) for w in model.get_weights()]
        x, y = np.ones((8, 8), "float32"), np.ones((8, 4), "float32")
        state = [
            float(np.abs(keras.ops.convert_to_numpy(v)).sum())
            for v in model.optimizer.variables
        ]
        model.fit(x, y, verbose=0)
        print(json.dumps({
            "zeros": zeros,
            "state": state,
            "steps": int(model.optimizer.iterations),
            "imported": [m for m in sys.modules if m.startswith("keras_app")],
        }))
    """
    found = json.loads(run(script, cwd=tmp_path, path=None)[-1])
    assert found["imported"] == []
    assert found["steps"] == 9
    # 70 percent of 8 x 16 and of 16 x 4 weights, rounded down.
    assert found["zeros"][0::2] == [89, 44]
    state = [np.abs(v).sum() for v in slots(model.optimizer).values()]
    np.testing.assert_allclose(found["state"], state, rtol=1e-5)


def test_load_weights_restores_the_masks(tmp_path):
    model, masking = pruned("adam")
    model.save_weights(tmp_path / "a.weights.h5")
    other = compiled()
    fresh = Masking(plan=[])
    fresh.set_model(other)
    other.load_weights(tmp_path / "a.weights.h5")
    assert_same_weights(model, other)
    assert_same_slots(model, other)
    masks = enforcement.masks_of(other)
    np.testing.assert_array_equal(masks["hidden/kernel"], masking.masks[0])
    np.testing.assert_array_equal(masks["head/kernel"], masking.masks[1])
    fresh.masks = masking.masks
    fresh.start = [to_numpy(v).copy() for v in fresh.variables]
    fit(other)
    check(fresh)


def test_load_weights_adds_masks_that_only_the_file_has(tmp_path):
    model, masking = pruned("adam")
    model.save_weights(tmp_path / "a.weights.h5")
    other = compiled()
    state = enforcement.attach(other)
    assert state.variables_with_masks() == []
    other.load_weights(tmp_path / "a.weights.h5")
    fit(other)
    for variable, mask in zip(state.variables_with_masks(), masking.masks):
        np.testing.assert_array_equal(state.get(variable), mask)
        assert not to_numpy(variable)[~mask].any()
    assert len(state.variables_with_masks()) == 2


def test_load_weights_restores_masks_after_a_training_step(tmp_path):
    # The step that was compiled before must see the restored masks.
    model, masking = pruned("adam")
    model.save_weights(tmp_path / "a.weights.h5")
    masking.draw(0.1)
    fit(model)
    model.load_weights(tmp_path / "a.weights.h5")
    masks = enforcement.masks_of(model)
    assert 0.4 < 1 - masks["hidden/kernel"].mean() < 0.6
    fit(model)
    for variable in masking.variables:
        assert not to_numpy(variable)[~masks[variable.path]].any()


def test_a_stored_mask_of_another_shape_is_refused(tmp_path):
    model, _ = pruned("adam")
    path = tmp_path / "a.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "r+") as file:
        shape = file["optimizer/sparsity/vars/shape_0"]
        assert shape[()].tolist() == [8, 16]
        shape[...] = [16, 8]
    with pytest.raises(
        ValueError, match=r"mask of hidden/kernel has shape \(16, 8\)"
    ):
        model.load_weights(path)


def test_masks_take_one_bit_a_weight_in_the_file(tmp_path):
    model, _ = pruned("adam")
    model.save_weights(tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "a.weights.h5") as file:
        stored = file["optimizer/sparsity/vars/mask_0"]
        assert stored.dtype == "uint8"
        assert stored.shape == (8 * 16 // 8,)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_model_checkpoint_keeps_each_epochs_zeros(suffix, tmp_path):
    model = compiled(keras.optimizers.Adam(0.01))
    checkpoint = keras.callbacks.ModelCheckpoint(
        str(tmp_path / ("{epoch}" + suffix)),
        save_weights_only=suffix == ".weights.h5",
    )
    fit(model, pruner(), checkpoint)
    zeros = []
    for epoch in (1, 2):
        path = tmp_path / f"{epoch}{suffix}"
        if suffix == ".keras":
            loaded = load(path)
        else:
            loaded = compiled(keras.optimizers.Adam(0.01))
            enforcement.attach(loaded)
            loaded.load_weights(path)
            masks = enforcement.masks_of(loaded)
            for layer in dense_layers(loaded):
                np.testing.assert_array_equal(
                    masks[layer.kernel.path], to_numpy(layer.kernel) != 0
                )
        zeros.append(
            [
                int((to_numpy(layer.kernel) == 0).sum())
                for layer in dense_layers(loaded)
            ]
        )
    # After step 3 of 7: 0.7 - 0.5 (4 / 7) ** 3 = 0.6067; then 0.7.
    assert zeros == [[77, 38], [89, 44]]
    assert_same_slots(model, loaded)


class Crash(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "name, order",
    [
        ("adam", "pruner_first"),
        ("ema", "backup_first"),
        ("gradient_accumulation", "pruner_first"),
    ],
)
def test_backup_and_restore_ends_as_if_never_interrupted(name, order, tmp_path):
    def run_to_the_end(directory, *more):
        keras.utils.set_random_seed(5)
        model = compiled(OPTIMIZERS[name]())
        last = 8 if name == "gradient_accumulation" else 16
        schedule = schedules.PolynomialDecay(0.2, 0.7, 0, last, frequency=3)
        callbacks = [
            pruners.RandomPruner(schedule, seed=4),
            keras.callbacks.BackupAndRestore(str(directory)),
        ]
        if order == "backup_first":
            callbacks.reverse()
        fit(model, *callbacks, *more, epochs=4)
        return model

    expected = run_to_the_end(tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        run_to_the_end(tmp_path / "crashed", Crash())
    found = run_to_the_end(tmp_path / "crashed")
    steps = int(to_numpy(found.optimizer.iterations))
    assert steps == (8 if name == "gradient_accumulation" else 16)
    masks = enforcement.masks_of(found)
    for path, mask in enforcement.masks_of(expected).items():
        np.testing.assert_array_equal(masks[path], mask)
    assert_same_weights(expected, found)
    assert_same_slots(expected, found)
    assert enforcement.state_of(found).leaks() == {}


# ---- distribution ----------------------------------------------------------


def run(script, cwd=ROOT, path=ROOT, **environment):
    """Runs Python code in a process of its own; returns its lines."""
    environment = {**os.environ, "KERAS_BACKEND": BACKEND, **environment}
    environment.pop("PYTHONPATH", None)
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()


# Runs each case and prints `{case: "ok" or what went wrong}`.
RUNNER = """
    import json, traceback
    results = {}
    for name, case in cases.items():
        try:
            results[name] = case() or "ok"
        except Exception:
            results[name] = traceback.format_exc()
    print(json.dumps(results))
"""

MIRRORED = (
    """
    import sys, tempfile
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    import keras
    from keras_app import enforcement
    from tests import test_enforcement as tests
    O = keras.optimizers
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2

    def train(optimizer, policy=None, kind=tests.Masking):
        def case():
            if policy:
                keras.config.set_dtype_policy(policy)
            with strategy.scope():
                model = tests.compiled(optimizer())
            keras.config.set_dtype_policy("float32")
            masking = kind()
            tests.fit(model, masking)
            tests.check(masking)
            if kind is tests.Dormant:
                tests.check_dormant(masking)
                for own in masking.state.own_variables:
                    a, b = strategy.experimental_local_results(own.value)
                    assert (a.numpy() == b.numpy()).all(), own.name
            for variable, mask in zip(masking.variables, masking.masks):
                copies = strategy.experimental_local_results(variable.value)
                assert len(copies) == 2
                for copy in copies:
                    assert not copy.numpy()[~mask].any(), "a replica"
                state = enforcement.state_of(model)
                held = state._masks[state._index(variable)].value
                for copy in strategy.experimental_local_results(held):
                    assert (copy.numpy() == mask).all(), "a replica's mask"
        return case

    def files():
        with strategy.scope():
            model = tests.compiled(O.Adam(0.01))
        masking = tests.Masking()
        tests.fit(model, masking)
        with tempfile.TemporaryDirectory() as folder:
            model.save(folder + "/a.keras")
            model.save_weights(folder + "/a.weights.h5")
            plain = tests.load(folder + "/a.keras")
            tests.assert_same_weights(model, plain)
            tests.assert_same_slots(model, plain)
            with strategy.scope():
                other = tests.compiled(O.Adam(0.01))
                fresh = tests.Masking(plan=[])
                fresh.set_model(other)
                other.load_weights(folder + "/a.weights.h5")
        fresh.masks = masking.masks
        fresh.start = [tests.to_numpy(v).copy() for v in fresh.variables]
        tests.fit(other)
        tests.check(fresh)

    def refuse(optimizer, **arguments):
        def case():
            with strategy.scope():
                model = tests.compiled(optimizer(), **arguments)
            before = model.get_weights()
            try:
                tests.fit(model, tests.Masking())
            except ValueError as error:
                assert all((a == b).all() for a, b in
                           zip(before, model.get_weights()))
                return str(error)
            return "not refused"
        return case

    cases = {
        "sgd_momentum": train(lambda: O.SGD(0.05, momentum=0.9)),
        "adamw_clipped": train(lambda: O.AdamW(0.01, global_clipnorm=0.5)),
        "ema": train(lambda: O.Adam(0.01, use_ema=True)),
        "loss_scale": train(lambda: O.Adam(0.01), "mixed_float16"),
        "dormant": train(lambda: O.Adam(0.01), kind=tests.Dormant),
        "files": files,
        "gradient_accumulation_steps":
            refuse(lambda: O.Adam(gradient_accumulation_steps=2)),
        "ema_overwrite_frequency":
            refuse(lambda: O.Adam(use_ema=True, ema_overwrite_frequency=2)),
        "steps_per_execution": refuse(lambda: O.Adam(), steps_per_execution=2),
        "jit_compile": refuse(lambda: O.Adam(), jit_compile=True),
    }
"""
    + RUNNER
)


@pytest.fixture(scope="module")
def mirrored():
    return json.loads(run(MIRRORED)[-1])


@tensorflow_only
@pytest.mark.parametrize(
    "case",
    [
        "sgd_momentum",
        "adamw_clipped",
        "ema",
        "loss_scale",
        "dormant",
        "files",
    ],
)
def test_zeros_stay_zero_on_two_mirrored_devices(mirrored, case):
    assert mirrored[case] == "ok", mirrored[case]


@tensorflow_only
@pytest.mark.parametrize(
    "name",
    [
        "gradient_accumulation_steps",
        "ema_overwrite_frequency",
        "steps_per_execution",
        "jit_compile",
    ],
)
def test_what_keras_cannot_mirror_is_refused_before_training(mirrored, name):
    message = mirrored[name]
    assert f"cannot train under MirroredStrategy with `{name}`" in message
    assert "Leave it out" in message
    assert "keras.distribution.DataParallel" in message


MESH = (
    """
    import os, sys
    import jax
    import keras
    from keras_app import enforcement
    from tests import test_enforcement as tests
    O = keras.optimizers
    devices = jax.devices()
    assert len(devices) == 4, devices
    names = keras.distribution.list_devices()

    def train(distribution, optimizer, kind=tests.Masking, **arguments):
        def case():
            keras.distribution.set_distribution(distribution)
            model = tests.compiled(optimizer(), **arguments)
            masking = kind(plan=[(0, 0.3), (4, 0.6)])
            tests.fit(model, masking, epochs=3)
            tests.check(masking)
            if kind is tests.Dormant:
                tests.check_dormant(masking)
            state = masking.state
            for variable, mask in zip(masking.variables, masking.masks):
                held = state._masks[state._index(variable)].value
                assert len(variable.value.sharding.device_set) == 4
                assert held.sharding.is_equivalent_to(
                    variable.value.sharding, 2), (held.sharding,
                                                  variable.value.sharding)
                for shard in variable.value.addressable_shards:
                    pruned = ~mask[shard.index]
                    assert not tests.to_numpy(shard.data)[pruned].any()
            # With the callback: a second fit after `use_ema` ends in a
            # segmentation fault in Keras, unless the weights are copied.
            tests.fit(model, tests.Masking(plan=[]))
            tests.check(masking)
        return case

    data = keras.distribution.DataParallel(devices=names)
    mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"], names)
    layouts = keras.distribution.LayoutMap(mesh)
    layouts["hidden/kernel"] = (None, "model")
    layouts["hidden/bias"] = ("model",)
    layouts["head/kernel"] = ("model", None)
    model = keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch")
    def momentum(**more):
        return lambda: O.SGD(0.05, momentum=0.9, **more)

    def adam(**more):
        return lambda: O.Adam(0.01, **more)

    cases = {
        "data_adam": train(data, adam()),
        "data_ema": train(data, momentum(use_ema=True)),
        "data_steps": train(data, adam(), steps_per_execution=4),
        "model_adam": train(model, adam()),
        "model_muon": train(model, lambda: O.Muon(0.01)),
        "model_dormant": train(model, adam(), tests.Dormant),
        "model_accumulation":
            train(model, adam(gradient_accumulation_steps=2)),
    }
"""
    + RUNNER
)


@pytest.fixture(scope="module")
def mesh():
    flags = "--xla_force_host_platform_device_count=4"
    return json.loads(run(MESH, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")[-1])


@jax_only
@pytest.mark.parametrize(
    "case",
    [
        "data_adam",
        "data_ema",
        "data_steps",
        "model_adam",
        "model_muon",
        "model_dormant",
        "model_accumulation",
    ],
)
def test_zeros_stay_zero_on_four_devices(mesh, case):
    assert mesh[case] == "ok", mesh[case]


# ---- Keras's private names -------------------------------------------------

PRIVATE = [
    "_backend_update_step",
    "_get_variable_index",
    "_trainable_variables",
    "_untrack_variable",
    "_variables",
]


@pytest.mark.parametrize("name", PRIVATE)
@pytest.mark.parametrize("kind", ["Adam", "Muon", "LossScaleOptimizer"])
def test_keras_optimizers_still_have(kind, name):
    optimizer = keras.optimizers.Adam()
    if kind == "LossScaleOptimizer":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    elif kind == "Muon":
        optimizer = keras.optimizers.Muon()
    assert hasattr(optimizer, name), (
        f"Keras {keras.__version__}: {kind} has no `{name}` any more. "
        "keras_app/enforcement.py builds on it: masks are not enforced."
    )


def test_keras_still_calls_the_private_hook_with_three_arguments():
    seen = []
    model = compiled("sgd", run_eagerly=True)
    update = model.optimizer._backend_update_step

    def record(*args):
        seen.append(len(args))
        return update(*args)

    object.__setattr__(model.optimizer, "_backend_update_step", record)
    fit(model, epochs=1)
    assert set(seen) == {3}, (
        f"Keras {keras.__version__} no longer updates through the instance's "
        "`_backend_update_step(grads, trainable_variables, learning_rate)`: "
        "masks are not enforced."
    )


def test_keras_still_keeps_moving_averages_by_variable():
    optimizer = keras.optimizers.Adam(use_ema=True)
    model = compiled(optimizer)
    optimizer.build(model.trainable_variables)
    averages = getattr(optimizer, "_model_variables_moving_average", None)
    assert averages is not None and len(averages) == 4, (
        f"Keras {keras.__version__} has no list "
        "`_model_variables_moving_average` any more: the averages keep what "
        "a new mask prunes, and `use_ema` brings it back."
    )


@jax_only
def test_keras_variables_still_have_a_layout():
    assert hasattr(keras.Variable(np.zeros((2, 2))), "_layout"), (
        f"Keras {keras.__version__}: variables have no `_layout` any more. "
        "Masks of sharded weights are no longer sharded alike."
    )


@tensorflow_only
def test_keras_optimizers_still_know_their_strategy():
    assert hasattr(keras.optimizers.Adam(), "_distribution_strategy"), (
        f"Keras {keras.__version__}: optimizers have no "
        "`_distribution_strategy` any more. Masks under tf.distribute would "
        "not be mirrored, and nothing would be refused."
    )


@tensorflow_only
def test_tensorflow_still_merges_calls_of_replicas():
    import tensorflow as tf

    assert hasattr(tf.__internal__.distribute.interim, "maybe_merge_call"), (
        "TensorFlow's `maybe_merge_call` is gone: no update under a strategy."
    )
