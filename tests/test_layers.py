"""Tests of the catalogue: a row of one's own is read everywhere."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_app import export
from keras_app import initializers
from keras_app import layers as catalogue
from keras_app import masks
from keras_app import pruners
from keras_app import report
from keras_app import selection
from keras_app.schedules import OneShot


class Turned(layers.Layer):
    """A dense layer without a bias whose matrix has the outputs first."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.matrix = self.add_weight(shape=(self.units, shape[-1]))

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.matrix))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


ROW = catalogue.LayerType(
    (catalogue.Kernel("matrix", outputs=0, inputs=1),),
    channels=catalogue.passing.mixing,
    size="units",
    inputs=lambda layer, values: values.reshape(1, -1, values.shape[-1]),
)


@pytest.fixture(autouse=True)
def row(monkeypatch):
    monkeypatch.setitem(catalogue.CATALOGUE, Turned, ROW)


def network(**kwargs):
    x = keras.Input((4,))
    y = layers.Dense(3, name="a", **kwargs)(x)
    y = Turned(2, name="turned")(y)
    return keras.Model(x, layers.Dense(5, name="b")(y))


def test_its_kernel_is_pruned_and_its_flops_are_counted():
    chosen = selection.select(network())
    assert list(chosen.variables)[1].startswith("turned/")
    assert report.summarize(network()).flops == 2 * (4 * 3 + 3 * 2 + 2 * 5)


def test_n_m_lies_along_its_inputs():
    model = network()
    model.compile("sgd", "mse")
    structure = masks.NM(1, 3, axis="inputs")
    pruner = pruners.MagnitudePruner(OneShot(0.5), structure=structure)
    pruner.set_model(model)
    pruner.prune(0.5)
    mask = list(pruner.masks.values())[1]
    assert mask.sum(axis=1).tolist() == [1, 1]


def test_its_first_weights_count_its_inputs():
    model = keras.Sequential([keras.Input((50,)), Turned(400)])
    initializers.sparsify(model, 1.0, seed=0)
    deviation = np.std(ops.convert_to_numpy(model.layers[0].matrix))
    assert deviation == pytest.approx(np.sqrt(2 / 50), rel=0.02)


def test_wanda_knows_what_it_multiplies():
    model = keras.Sequential([keras.Input((3,)), Turned(1)])
    model.compile("sgd", "mse")
    model.layers[0].matrix.assign([[2.0, 1.0, 3.0]])
    data = [np.array([[1.0, 4.0, 1.0]], "float32")]
    pruner = pruners.WandaPruner(OneShot(0.67), data=data)
    pruner.set_model(model)
    pruner.prune(0.67)
    [mask] = pruner.masks.values()
    assert mask.tolist() == [[False, True, False]]


@pytest.mark.parametrize("bias, kept", [(0.0, 2), (0.5, 3)])
def test_without_a_bias_only_zeros_are_cut(bias, kept):
    model = network()
    kernel, constants = np.ones((4, 3)), np.ones(3)
    kernel[:, 1], constants[1] = 0, bias
    model.get_layer("a").set_weights([kernel, constants])
    if bias:
        with pytest.warns(UserWarning, match="turned: 1 constant .* no bias"):
            smaller = export.shrink(model)
    else:
        smaller = export.shrink(model)
    assert smaller.get_layer("turned").matrix.shape == (2, kept)


def test_a_subclass_has_its_kernels_but_keeps_its_channels():
    class Own(Turned):
        pass

    x = keras.Input((4,))
    y = Own(3, name="own")(layers.Dense(3, name="a")(x))
    model = keras.Model(x, layers.Dense(2)(y))
    model.get_layer("a").kernel.assign(np.eye(4, 3) * [1, 0, 1])
    assert any("own" in path for path in selection.select(model).variables)
    smaller = export.shrink(model)
    assert smaller.get_layer("a").units == 3
