"""Tests of training loops without `fit`: they end where `fit` ends.

The loops are those of Keras's own guides for each backend.
"""

import functools

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_app
from keras_app import masks
from keras_app import optimizers
from keras_app import pruners
from keras_app.schedules import ConstantSparsity
from keras_app.schedules import OneShot
from keras_app.schedules import PolynomialDecay

BACKEND = keras.backend.backend()
jax_only = pytest.mark.skipif(BACKEND != "jax", reason="a loop with a state")
not_jax = pytest.mark.skipif(BACKEND == "jax", reason="a loop without a state")

loss_of = keras.losses.MeanSquaredError()


def network(optimizer=None):
    """576 weights, a moving average, the same on each backend."""
    x = inputs = keras.Input((8,))
    x = layers.Dense(32, activation="tanh", name="hidden")(x)
    x = layers.BatchNormalization(name="norm")(x)
    model = keras.Model(inputs, layers.Dense(10, name="head")(x))
    generator = np.random.default_rng(7)
    for name in ("hidden", "head"):
        kernel = model.get_layer(name).kernel
        kernel.assign(generator.standard_normal(kernel.shape) * 0.3)
    # The optimizer alone: a loop of one's own has its own loss.
    model.compile(optimizer or keras.optimizers.SGD(0.05, momentum=0.9))
    return model


def batches():
    generator = np.random.default_rng(3)
    x = generator.standard_normal((32, 8)).astype("float32")
    y = generator.standard_normal((32, 10)).astype("float32")
    return [(x[i : i + 8], y[i : i + 8]) for i in range(0, 32, 8)]


# ---- a training step for each backend ----------------------------------


def tensorflow_step(model):
    import tensorflow as tf

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        return loss

    return train_step


def torch_step(model):
    import torch

    def train_step(x, y):
        model.zero_grad()
        loss = loss_of(torch.tensor(y), model(torch.tensor(x), training=True))
        loss.backward()
        gradients = [v.value.grad for v in model.trainable_variables]
        with torch.no_grad():
            model.optimizer.apply(gradients, model.trainable_variables)
        return loss

    return train_step


def jax_step(model):
    import jax

    def loss_and_updates(trainable, non_trainable, x, y):
        outputs, non_trainable = model.stateless_call(
            trainable, non_trainable, x, training=True
        )
        return loss_of(y, outputs), non_trainable

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state, x, y):
        trainable, non_trainable, optimizer = state
        derivative = jax.value_and_grad(loss_and_updates, has_aux=True)
        (_, non_trainable), gradients = derivative(
            trainable, non_trainable, x, y
        )
        trainable, optimizer = model.optimizer.stateless_apply(
            optimizer, gradients, trainable
        )
        return trainable, non_trainable, optimizer

    return train_step


def run(loop, model, epochs=1, until=None):
    """A whole loop, as a reader of the documentation would write it."""
    data = batches() * epochs
    state = loop.begin()
    train_step = globals()[f"{BACKEND}_step"](model)
    for x, y in data[:until]:
        if BACKEND == "jax":
            state = loop.step(state)
            state = train_step(state, x, y)
        else:
            loop.step()
            train_step(x, y)
    loop.end(state) if BACKEND == "jax" else loop.end()


def begun():
    """A model, a loop over two epochs that has begun, and its state."""
    model = network()
    loop = pruners.CustomLoop(model, gradual(), steps_per_epoch=4, epochs=2)
    return model, loop, loop.begin()


def custom(model, callbacks, epochs=1, **kwargs):
    loop = pruners.CustomLoop(
        model, callbacks, steps_per_epoch=4, epochs=epochs
    )
    run(loop, model, epochs, **kwargs)
    return loop


def fit(model, callbacks, epochs=1):
    model.compile(model.optimizer, loss_of)
    x, y = (np.concatenate(parts) for parts in zip(*batches()))
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )


def values(model):
    return [
        ops.convert_to_numpy(v)
        for v in (*model.weights, *model.optimizer.variables)
    ]


def assert_same(model, expected):
    """Compares weights, optimizer state and, exactly, the masks in it."""
    masked = keras_app.masks_of(model)
    assert masked.keys() == {"hidden/kernel", "head/kernel"}
    for a, b in zip(values(model), expected, strict=True):
        if a.dtype == bool:
            np.testing.assert_array_equal(a, b)
            continue
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


# ---- as `fit` ----------------------------------------------------------


def gradual():
    schedule = PolynomialDecay(0.2, 0.8, 1, 7, frequency=2)
    return pruners.MagnitudePruner(schedule, scope="global")


@functools.cache
def fitted():
    """What `fit` makes of `network()` and `gradual()`."""
    model = network()
    fit(model, [gradual()], epochs=2)
    return values(model)


METHODS = {
    "magnitude": gradual,
    "snip": lambda: pruners.SaliencyPruner(
        OneShot(0.5, step=3), "snip", batches()
    ),
    "rigl": lambda: pruners.RigL(
        ConstantSparsity(0.5, 0, 6, frequency=3), batches()
    ),
    "ste": lambda: pruners.STE(
        ConstantSparsity(0.5, 0, 6, frequency=3), lam=0.1
    ),
    "movement": lambda: pruners.MovementPruner(
        PolynomialDecay(0.0, 0.5, 2, 7, frequency=2)
    ),
    "blocks_at_the_end": lambda: pruners.MagnitudePruner(
        OneShot(0.5, step=8), structure=masks.Block((2, 2))
    ),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("error::UserWarning")
def test_a_custom_loop_ends_where_fit_ends(name):
    expected, found = network(), network()
    if name in ("snip", "rigl"):
        # Their gradients are those of the loss that the model knows.
        found.compile(found.optimizer, loss_of)
    reference, pruner = METHODS[name](), METHODS[name]()
    fit(expected, [reference], epochs=2)
    custom(found, pruner, epochs=2)
    assert_same(found, values(expected))
    assert pruner.report.sparsity == reference.report.sparsity > 0.49
    assert pruner.missed == []


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_custom_loop_ends_where_fit_ends_with_all_that_keras_adds():
    def optimizer():
        return keras.optimizers.AdamW(
            0.01,
            weight_decay=0.1,
            gradient_accumulation_steps=2,
            use_ema=True,
            ema_overwrite_frequency=3,
        )

    schedule = PolynomialDecay(0.2, 0.8, 1, 4, frequency=1)
    expected, found = network(optimizer()), network(optimizer())
    fit(expected, [pruners.MagnitudePruner(schedule)], epochs=2)
    custom(found, pruners.MagnitudePruner(schedule), epochs=2)
    assert_same(found, values(expected))


def test_callbacks_that_count_epochs_see_them():
    def sparsified(train):
        model = network(optimizers.ContinuousSparsification(0.1, s_init=0.05))
        callback = pruners.ContinuousSparsifier(
            retrain_epochs=1, granularity="step"
        )
        train(model, [callback], epochs=3)
        assert model.optimizer.is_hard
        assert len(callback.history) == 1
        return model

    found, expected = sparsified(custom), sparsified(fit)
    assert 0 < found.optimizer.density < 1
    for a, b in zip(values(found), values(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_train_on_batch_is_a_custom_loop_too():
    model = network()
    model.compile(model.optimizer, loss_of)
    loop = pruners.CustomLoop(model, gradual(), steps_per_epoch=4, epochs=2)
    loop.begin()
    for x, y in batches() * 2:
        assert loop.step() is None
        model.train_on_batch(x, y)
    loop.end()
    assert_same(model, fitted())


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_second_loop_goes_on_where_the_first_stopped():
    model = network()
    schedule = PolynomialDecay(0.2, 0.8, 1, 7, frequency=2)
    pruner = pruners.MagnitudePruner(schedule, scope="global", on_miss="ignore")
    loop = custom(model, pruner)
    # By hand, at steps 1 and 3: 0.2 and 0.8 - 0.6 (4 / 6)^3. The next at 5.
    assert pruner.report.sparsity == pytest.approx(0.6222, abs=2e-3)
    run(loop, model)
    assert_same(model, fitted())


# ---- the state of a JAX loop -------------------------------------------


@jax_only
def test_a_state_is_exchanged_only_when_a_callback_asks_for_the_weights():
    model = network()
    pruner = pruners.MagnitudePruner(OneShot(0.5, step=2))
    loop = pruners.CustomLoop(model, pruner, steps_per_epoch=4)
    state = loop.begin()
    train_step = jax_step(model)
    exchanged = []
    for x, y in batches():
        before = (*state, "more")
        after = loop.step(before)
        exchanged.append(after is not before)
        assert after[3:] == ("more",)
        state = train_step(after[:3], x, y)
    loop.end(state)
    # The first step of an epoch, as in `fit`, and the one that prunes.
    assert exchanged == [True, False, True, False]
    assert pruner.report.sparsity == 0.5


@jax_only
def test_sync_writes_the_state_to_the_model():
    model, loop, state = begun()
    train_step = jax_step(model)
    for i, (x, y) in enumerate(batches() * 2):
        state = loop.step(state)
        state = train_step(state, x, y)
        if i == 5:
            loop.sync(state)
            kept = ops.convert_to_numpy(model.get_layer("hidden").kernel)
            np.testing.assert_array_equal(kept, state[0][0])
            assert model.predict(x, verbose=0).shape == (8, 10)
    loop.end(state)
    assert_same(model, fitted())


@jax_only
def test_a_state_of_another_form_is_refused():
    _, loop, (trainable, non_trainable, optimizer) = begun()
    with pytest.raises(ValueError, match=r"lists of \[6, 2, 10\]"):
        loop.step((trainable, optimizer, non_trainable))
    with pytest.raises(ValueError, match="`state` must begin with"):
        loop.end((trainable, non_trainable))


@jax_only
def test_a_state_that_is_not_handed_over_is_warned_of():
    model, loop, state = begun()
    train_step = jax_step(model)
    with pytest.warns(UserWarning, match="hand over the state"):
        for x, y in batches() * 2:
            loop.step()
            state = train_step([[v + 0 for v in part] for part in state], x, y)
        loop.end()


@not_jax
def test_a_state_is_refused_where_there_is_none():
    _, loop, state = begun()
    with pytest.raises(ValueError, match=f"On {BACKEND} call `step"):
        loop.step(state)
    with pytest.raises(ValueError, match="`state` is for loops on JAX"):
        loop.end(state)


# ---- what goes wrong ---------------------------------------------------


def test_a_loop_that_ends_early_says_what_was_missed():
    model = network()
    pruner = gradual()
    with pytest.warns(UserWarning, match="ended at sparsity"):
        custom(model, pruner, epochs=2, until=5)
    assert len(pruner.missed) == 1


def test_a_schedule_past_the_end_is_refused_at_the_first_step():
    loop = pruners.CustomLoop(network(), gradual(), steps_per_epoch=4)
    state = loop.begin()
    with pytest.raises(ValueError, match="The schedule ends at step 7"):
        loop.step(*[state] if BACKEND == "jax" else [])


def test_more_steps_than_announced_are_refused():
    model = network()
    loop = pruners.CustomLoop(
        model, pruners.MagnitudePruner(OneShot(0.5)), steps_per_epoch=3
    )
    with pytest.raises(ValueError, match="epochs=1 of steps_per_epoch=3"):
        run(loop, model)


def test_a_loop_that_does_not_run_is_refused():
    model = network()
    loop = pruners.CustomLoop(model, gradual(), 4, epochs=2)
    for call in (loop.step, loop.end):
        with pytest.raises(ValueError, match="Call `begin` first"):
            call()
    run(loop, model, epochs=2)
    with pytest.raises(ValueError, match="Call `begin` first"):
        loop.step()


def test_another_optimizer_than_the_models_is_warned_of():
    model = network()
    other = keras.optimizers.SGD(0.05)
    other.build(model.trainable_variables)
    pruner = pruners.MagnitudePruner(OneShot(0.5))
    loop = pruners.CustomLoop(model, pruner, steps_per_epoch=4)
    loop.begin()
    with pytest.warns(UserWarning) as warned:
        for _ in batches():
            loop.step()
            other.apply([ops.ones(v.shape) for v in model.trainable_variables])
        loop.end()
    text = " ".join(str(each.message) for each in warned)
    assert "`model.optimizer` has counted no update" in text
    assert "pruned weights had come back" in text


def test_a_model_that_is_not_compiled_is_refused():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    loop = pruners.CustomLoop(model, gradual(), steps_per_epoch=4)
    with pytest.raises(ValueError, match="must be compiled with an optimizer"):
        loop.begin()


@pytest.mark.parametrize(
    "name, value", [("steps_per_epoch", 0), ("epochs", 0), ("epochs", -1)]
)
def test_numbers_out_of_range_are_refused(name, value):
    arguments = {"steps_per_epoch": 4, name: value}
    with pytest.raises(ValueError, match=f"{name}={value}"):
        pruners.CustomLoop(None, [], **arguments)
