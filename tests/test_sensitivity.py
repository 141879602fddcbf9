"""`keras_app.sensitivity`: each layer pruned alone, and put back."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_app as ka
from keras_app import masks
from tests.helpers import to_numpy
from tests.models import batches
from tests.models import chain
from tests.models import images
from tests.models import network

X, Y = images()


def two_layers(**compile_args):
    model = chain(
        (4,),
        layers.Dense(3, name="first"),
        layers.Dropout(0.5),
        layers.Dense(2, name="second"),
    )
    generator = np.random.default_rng(5)
    for weight in model.trainable_weights:
        weight.assign(generator.standard_normal(weight.shape))
    if compile_args:
        model.compile(**compile_args)
    return model


def examples(count=300):
    generator = np.random.default_rng(1)
    x = generator.standard_normal((count, 4)).astype("float32")
    return x, generator.standard_normal((count, 2)).astype("float32")


def expected_loss(model, x, y, pruned=None, share=0.0):
    """The mean squared error with a kernel pruned by magnitude, in NumPy."""
    for name in ("first", "second"):
        kernel, bias = map(to_numpy, model.get_layer(name).weights)
        kernel = kernel.copy()
        if name == pruned:
            order = np.argsort(np.abs(kernel).ravel(), kind="stable")
            kernel.flat[order[: int(share * kernel.size)]] = 0
        x = x @ kernel + bias
    return np.mean((x - y) ** 2)


@pytest.mark.parametrize("loss", [None, "mse"])
def test_values_are_those_of_numpy(loss):
    model = two_layers(**({} if loss else {"loss": "mse"}))
    x, y = examples()
    found = ka.sensitivity(model, (x, y), (0.5, 0.75), loss=loss, verbose=0)
    dense = expected_loss(model, x, y)
    assert found.dense == {"loss": pytest.approx(dense, rel=1e-4)}
    asked = [(row.name, row.sparsity) for row in found.rows]
    assert asked == [
        ("first/kernel", 0.5),
        ("first/kernel", 0.75),
        ("second/kernel", 0.5),
        ("second/kernel", 0.75),
    ]
    for row in found.rows:
        value = expected_loss(model, x, y, row.name[:-7], row.sparsity)
        assert row.values["loss"] == pytest.approx(value, rel=1e-4)
        assert row.changes["loss"] == pytest.approx(value - dense, abs=1e-4)
    assert [row.parameters for row in found.rows] == [12, 12, 6, 6]
    assert [row.achieved for row in found.rows] == [0.5, 0.75, 0.5, 4 / 6]


def state(model):
    values = [*model.variables, *model.metrics_variables]
    if model.compiled and model.optimizer is not None:
        values += model.optimizer.variables
    return [to_numpy(value).copy() for value in values]


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "snip"])
def test_the_model_ends_as_it_was(method):
    model = network(optimizer="adam", metrics=["accuracy"])
    ka.prune(model, 0.5)
    model.fit(X, Y, verbose=0)
    optimizer, before = model.optimizer, state(model)
    known = ka.masks_of(model)
    found = ka.sensitivity(model, (X, Y), [0.8], method, verbose=0)
    assert len(found.rows) == 2 and found.rows[1].achieved == 0.8
    assert set(found.dense) == {"loss", "accuracy"}
    assert model.optimizer is optimizer
    after = state(model)
    assert len(before) == len(after)
    for old, new in zip(before, after):
        np.testing.assert_array_equal(new, old)
    for path, mask in ka.masks_of(model).items():
        np.testing.assert_array_equal(mask, known[path])
    # And trains on, under its masks.
    model.fit(X, Y, verbose=0)
    assert (to_numpy(model.get_layer("dense").kernel) != 0).sum() == 320


def test_a_model_that_was_never_evaluated_has_fresh_metrics():
    model = network(metrics=["accuracy"])
    weights = model.get_weights()
    ka.sensitivity(model, batches(), [0.5], verbose=0)
    for old, new in zip(weights, model.get_weights()):
        np.testing.assert_array_equal(new, old)
    assert not any(to_numpy(v).any() for v in model.metrics_variables)


def test_after_a_failure_the_model_is_as_it_was():
    def broken(model, variables, data, masks):
        if "dense" in variables[0].path:
            raise RuntimeError("a fault of the scorer")
        return [np.ones(v.shape) for v in variables]

    model = network()
    before = model.get_weights()
    with pytest.raises(RuntimeError, match="a fault"):
        ka.sensitivity(model, batches(), [0.5], broken, verbose=0)
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(new, old)


def test_joined_layers_are_pruned_together():
    inputs = keras.Input((4,))
    x = layers.Dense(6, name="a")(inputs)
    x = x + layers.Dense(6, name="b")(keras.ops.relu(x))
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    found = ka.sensitivity(
        model,
        examples(20),
        [0.5],
        structure=masks.GraphChannel(),
        loss="mse",
        verbose=0,
    )
    [row] = found.rows
    assert row.kernels == ("a/kernel", "b/kernel")
    assert row.parameters == 4 * 6 + 6 * 6
    assert "a/kernel: joined with b/kernel" in str(found)


def test_n_m_has_a_sparsity_of_its_own():
    structure = masks.NM(2, 4, axis="inputs")
    model = network()
    found = ka.sensitivity(model, batches(), structure=structure, verbose=0)
    assert [row.sparsity for row in found.rows] == [0.5, 0.5]
    with pytest.raises(ValueError, match="must be 0.5, or None"):
        ka.sensitivity(model, batches(), [0.8], structure=structure)


def test_table_dict_and_picture(tmp_path):
    model = network(metrics=["accuracy"])
    found = ka.sensitivity(model, batches(), [0.5, 0.9], verbose=0)
    text = str(found)
    for words in ("conv/kernel", "640", "0.9000", "accuracy", "change"):
        assert words in text
    assert text.count("dense/kernel") == 1
    plain = json.loads(json.dumps(found.to_dict()))
    assert len(plain["rows"]) == 4
    assert plain["rows"][0]["kernels"] == ["conv/kernel"]
    found.plot(tmp_path / "changes.png")
    found.plot(tmp_path / "loss.svg", "loss")
    assert (tmp_path / "changes.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "loss.svg").stat().st_size > 0
    with pytest.raises(ValueError, match="metric='f1'"):
        found.plot(tmp_path / "f1.png", "f1")


def test_a_bar_shows_how_far_it_is(capsys):
    ka.sensitivity(network(), batches(), [0.5])
    assert "2/2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"data": X}, "without labels"),
        ({"sparsities": 0.5}, "sparsities=0.5"),
        ({"sparsities": []}, r"sparsities=\[\]"),
        ({"sparsities": [50]}, "Did you mean 0.5"),
        ({"method": "wandaa"}, "Did you mean wanda"),
        ({"filters": "nothing"}, "filters='nothing'"),
        ({"loss": "no_loss"}, "no_loss"),
    ],
)
def test_bad_arguments_name_the_value(arguments, message):
    arguments = {"model": network(), "data": (X, Y), **arguments}
    with pytest.raises(ValueError, match=message):
        ka.sensitivity(**arguments)


def test_a_model_that_is_not_compiled_needs_a_loss():
    with pytest.raises(ValueError, match="loss=None"):
        ka.sensitivity(two_layers(), examples())
