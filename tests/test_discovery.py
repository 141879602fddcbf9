"""Tests of what is read off trained networks: zeros by hand, shares out."""

import json

import keras
import numpy as np
import pytest

from keras_app.experiments import models
from keras_app.report import connection_matrix
from keras_app.report import widths_and_skips


def a_densenet():
    """Stem of 2 maps, units of 2, 2 and 1; no kernel is zero."""
    model = models.densenet_design((4, 4, 1), 3, seed=0, units=2, growth=2)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.kernel.assign(np.ones(layer.kernel.shape))
    return model


def a_skip_encoder():
    return models.skip_encoder((2, 2, 1), seed=0, depth=3)


def zero(variable, *positions):
    """Makes slices of a variable zero."""
    value = np.array(keras.ops.convert_to_numpy(variable))
    for position in positions:
        value[position] = 0
    variable.assign(value)


def test_untouched_network_has_all_connections():
    assert connection_matrix(a_densenet()) == {
        "connections": {
            "sources": ["stem", "unit 1", "unit 2"],
            "targets": ["unit 1", "unit 2", "unit 3"],
            "density": [[1.0, None, None], [1.0, 1.0, None], [1.0, 1.0, 1.0]],
        }
    }


def test_zero_kernels_count_for_the_units_they_connect():
    model = a_densenet()
    every = slice(None)
    # 2 of 2 * 2 from the stem to unit 1; of the 2 * 2 from unit 1 to unit 2
    # (input maps 2 and 3) one; all from unit 2 (4 and 5) to unit 3, whose one
    # output map leaves 1 of 2 from the stem.
    zero(model.get_layer("unit1_conv").kernel, (every, every, 0))
    zero(model.get_layer("unit2_conv").kernel, (every, every, 3, 0))
    zero(
        model.get_layer("unit3_conv").kernel,
        (every, every, slice(4, 6)),
        (every, every, 1),
    )
    assert connection_matrix(model)["connections"]["density"] == [
        [0.5, None, None],
        [1.0, 0.75, None],
        [0.5, 1.0, 0.0],
    ]


def test_kernel_with_a_single_entry_left_is_kept():
    model = a_densenet()
    kernel = np.zeros((3, 3, 2, 2))
    kernel[2, 0, 1, 0] = -1e-30
    model.get_layer("unit1_conv").kernel.assign(kernel)
    density = connection_matrix(model)["connections"]["density"]
    assert density[0] == [0.25, None, None]


def test_full_size_network_has_a_matrix_of_six_by_six():
    model = models.densenet_design((28, 28, 1), 10, seed=0)
    found = connection_matrix(model)["connections"]
    assert found["sources"][-1] == "unit 5" and found["targets"][-1] == "unit 6"
    assert [[cell is None for cell in row] for row in found["density"]] == [
        [j > i for j in range(6)] for i in range(6)
    ]


def test_columns_of_the_kernels_are_the_units():
    model = a_skip_encoder()
    every = slice(None)
    zero(model.get_layer("layer1").kernel, (every, 0), (every, 2))
    # A row is an input: without it every unit is active still.
    zero(model.get_layer("layer2").kernel, 1)
    zero(model.get_layer("layer3").kernel, every)
    model.get_layer("layer3").bias.assign(np.ones(4))
    found = widths_and_skips(model)["architecture"]
    assert found["units"] == 4
    assert found["active_rows"] == [2, 4, 0]


def test_skips_are_listed_by_the_layer_that_they_lead_to():
    model = a_skip_encoder()
    model.get_layer("skip2").coefficients.assign([0.5, -0.0])
    model.get_layer("skip3").coefficients.assign([0.0, -2.0, 0.25])
    found = widths_and_skips(model)["architecture"]["skips"]
    assert found == [[0.0, None, None], [0.5, 0.0, None], [0.0, -2.0, 0.25]]
    assert "-0.0" not in json.dumps(found)


@pytest.mark.parametrize(
    ("read", "network"),
    [(connection_matrix, a_densenet), (widths_and_skips, a_skip_encoder)],
)
def test_result_survives_json(read, network):
    found = read(network())
    assert json.loads(json.dumps(found)) == found


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="`densenet_design`.*'skip_encoder'"):
        connection_matrix(a_skip_encoder())
    with pytest.raises(ValueError, match="`skip_encoder`.*'densenet_design'"):
        widths_and_skips(a_densenet())
