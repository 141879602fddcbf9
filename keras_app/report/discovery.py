"""Which architecture a training has found: read off the zeros it left."""

from typing import Any

import keras
from keras import ops


def connection_matrix(model: keras.Model) -> dict[str, Any]:
    """Tells how much of each connection between units is left.

    A 2-D kernel `[:, :, i, o]` of a convolution connects one input map with
    one output map, and counts as kept if any entry is not zero:

        density[i][j] = kept kernels / all kernels, from the maps that j adds
                        to those of unit i + 1; j = 0 is the stem

    Args:
        model: A `keras_app.experiments.models.densenet_design`.

    Returns:
        `{"connections": {"sources": [...], "targets": [...], "density":
        [...]}}`, as JSON can hold it. `sources` are the names of the stem and
        all units but the last, `targets` those of all units; `density` has a
        row per target of a number in [0, 1] per source, or of `None` where
        the source comes after the target.

    Raises:
        ValueError: `model` has no layer `unit1_conv`.

    Example:

    >>> from keras_app.experiments import models
    >>> model = models.densenet_design((8, 8, 1), 10, units=1, growth=2)
    >>> kernel = np.ones((3, 3, 4, 1), "float32")
    >>> kernel[:, :, 3] = 0
    >>> _ = model.get_layer("unit2_conv").kernel.assign(kernel)
    >>> connection_matrix(model)["connections"]["density"]
    [[1.0, None], [1.0, 0.5]]
    """
    kernels = _weights(model, "unit{}_conv", "kernel", "densenet_design")
    # The first unit sees the stem alone.
    growths = [kernels[0].shape[2]]
    density = []
    for kernel in kernels:
        kept = (kernel != 0).any(axis=(0, 1))
        row, begin = [], 0
        for growth in growths:
            row.append(float(kept[begin : begin + growth].mean()))
            begin += growth
        density.append(row)
        growths.append(kernel.shape[-1])
    names = [f"unit {i}" for i in range(1, len(kernels) + 1)]
    return {
        "connections": {
            "sources": ["stem", *names[:-1]],
            "targets": names,
            "density": _square(density),
        }
    }


def widths_and_skips(model: keras.Model) -> dict[str, Any]:
    """Tells how wide each layer is, and which skips there are.

    A unit is active if any of its incoming weights is not zero, so a layer is
    as wide as its kernel has columns with a non-zero entry. Biases do not
    count.

    Args:
        model: A `keras_app.experiments.models.skip_encoder`.

    Returns:
        `{"architecture": {"units": n, "active_rows": [...], "skips":
        [...]}}`, as JSON can hold it. `active_rows` counts the active units
        of each layer, out of `units`; `skips[k][i]` is the coefficient with
        which layer k + 1 adds the output of layer i (0 is the input) to its
        own, or `None` where i comes after k.

    Raises:
        ValueError: `model` has no layer `layer1` or `skip1`.

    Example:

    >>> from keras_app.experiments import models
    >>> model = models.skip_encoder((2, 2, 1), depth=2)
    >>> widths_and_skips(model)["architecture"]["active_rows"]
    [4, 4]
    >>> widths_and_skips(model)["architecture"]["skips"]
    [[0.0, None], [0.0, 0.0]]
    """
    kernels = _weights(model, "layer{}", "kernel", "skip_encoder")
    skips = _weights(model, "skip{}", "coefficients", "skip_encoder")
    return {
        "architecture": {
            "units": kernels[0].shape[1],
            "active_rows": [
                int((kernel != 0).any(axis=0).sum()) for kernel in kernels
            ],
            # Adding 0 turns a negative zero into the one that JSON should show.
            "skips": _square([(row + 0.0).tolist() for row in skips]),
        }
    }


def _weights(model, pattern, weight, network):
    """The weights of the layers that `pattern` numbers from 1, as arrays."""
    names = {layer.name for layer in model.layers}
    found = []
    while (name := pattern.format(len(found) + 1)) in names:
        found.append(getattr(model.get_layer(name), weight))
    if not found:
        raise ValueError(
            f"`model` must be a `{network}`, with a layer {name!r}. "
            f"Received: model={model.name!r}"
        )
    return [ops.convert_to_numpy(value) for value in found]


def _square(rows):
    """As many columns as rows, those after the end of a row `None`."""
    return [row + [None] * (len(rows) - len(row)) for row in rows]
