"""SGD with coupled weight decay: worked by hand, and saved with the model."""

import keras
import numpy as np
import pytest

from keras_app.optimizers import CoupledSGD


def test_two_steps_by_hand_with_a_falling_learning_rate():
    weight = keras.Variable([1.0, -2.0])
    optimizer = CoupledSGD(learning_rate=0.5, momentum=0.5, weight_decay=0.1)
    gradient = keras.ops.convert_to_tensor([1.0, 0.0])
    optimizer.apply([gradient], [weight])
    # v = (1 + 0.1, 0 - 0.2); w = (1 - 0.55, -2 + 0.1)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(weight), [0.45, -1.9], rtol=1e-6
    )
    optimizer.learning_rate = 0.05
    optimizer.apply([gradient], [weight])
    # v = 0.5 (1.1, -0.2) + (1.045, -0.19); the rate is not inside v.
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(weight),
        [0.45 - 0.05 * 1.595, -1.9 + 0.05 * 0.29],
        rtol=1e-6,
    )


def test_a_trajectory_follows_the_restated_rule():
    generator = np.random.default_rng(0)
    w = generator.normal(size=(3, 4)).astype("float32")
    weight = keras.Variable(w)
    optimizer = CoupledSGD(0.1, momentum=0.9, weight_decay=0.01)
    v = np.zeros_like(w)
    for step in range(10):
        g = generator.normal(size=w.shape).astype("float32")
        rate = 0.1 if step < 5 else 0.01
        optimizer.learning_rate = rate
        optimizer.apply([keras.ops.convert_to_tensor(g)], [weight])
        v = 0.9 * v + (g + 0.01 * w)
        w = w - rate * v
    # Ten float32 updates of numbers near one.
    np.testing.assert_allclose(keras.ops.convert_to_numpy(weight), w, atol=2e-6)


def test_config_and_file_round_trips(tmp_path):
    optimizer = CoupledSGD(0.3, momentum=0.8, weight_decay=0.02, clipnorm=1.0)
    again = CoupledSGD.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(optimizer, "mse")
    x, y = np.ones((8, 3), "float32"), np.ones((8, 2), "float32")
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(x, y, epochs=2, verbose=0, shuffle=False)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(momentum=1.0), "`momentum` must be in .*momentum=1.0"),
        (dict(weight_decay=-1), "`weight_decay` must be >= 0.*=-1"),
    ],
)
def test_bad_arguments_name_the_rule_and_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        CoupledSGD(**arguments)
