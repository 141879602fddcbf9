"""Sparse weights to start from, for training that grows a network."""

import math
import numbers
import random
from typing import get_args
from typing import Literal

import keras
import numpy as np

from keras_app import host
from keras_app.checks import check_int
from keras_app.hints import Filters
from keras_app.layers import sum_axes
from keras_app.selection import owners_of
from keras_app.selection import select

Groups = Literal["auto", "neuron"]


def sparsify(
    model: keras.Model,
    density: float,
    gain: float | None = None,
    seed: int | None = None,
    filters: Filters = None,
    groups: Groups | None = "auto",
    replacement: bool = False,
    ensure_nonempty: bool = True,
    bias_gain: float | None = None,
) -> dict[str, float]:
    """Redraws the kernels of a built model, most of their weights zero.

    The start of the Bregman optimizers, which then activate what the training
    needs. With the default gain the variance of the activations is that of
    dense He initialization:

        W ~ gain * Normal(0, sqrt(2 / fan_in)) * mask
        mask ~ Bernoulli(density), or ceil(density * in * out) 2-D kernels
        bias ~ Uniform(0, bias_gain / sqrt(fan_in))

    `fan_in` counts the inputs of one output: `in` of a dense kernel, `height *
    width * in` of a convolution (`in` per group), plain or transposed, `height
    * width` of a depthwise kernel, the summed axes of an einsum.

    A neuron without inputs returns its bias: a ReLU layer that is empty and
    has biases of zero passes nothing on and no gradient back, and so never
    wakes up. Very sparse networks want `bias_gain=1` for that reason; the
    authors use 1, and 10 in a network of convolutions. Biases are as Keras
    made them, zeros, unless it is given.

    An optimizer of the model that follows the weights with a dual variable
    (`reset_subgradients`) and is built already is reset to the new weights.

    Args:
        model: A built `keras.Model`, changed in place.
        density: Share of each kernel that is not zero, in (0, 1]. Bernoulli
            masks meet it on average.
        gain: Factor > 0 on the weights. Defaults to `None`: `1 /
            sqrt(density)`. The authors also use `0.7 / sqrt(density)` and
            `0.5 / sqrt(density)`.
        seed: Integer >= 0. The i-th kernel is drawn with NumPy from
            `default_rng([seed, i])`, normal numbers first, and so is the same
            on every backend. Defaults to `None`: chosen by Python's
            generator, which `keras.utils.set_random_seed` seeds.
        filters: Which variables, see `keras_app.selection.select`. Defaults
            to `None`: the kernels of dense, einsum, attention and convolution
            layers.
        groups: What is zero or not as a whole. `"auto"`: 2-D kernels of
            convolutions (for each input and output channel one), single
            weights of other layers. `"neuron"`: 2-D kernels of convolutions,
            all weights that enter a neuron of other layers (a column of a
            dense kernel). `None`: single weights everywhere. Defaults to
            `"auto"`.
        replacement: Whether the 2-D kernels are drawn with replacement, as in
            the authors' code, so that fewer than `ceil(density * in * out)`
            remain. Defaults to `False`.
        ensure_nonempty: Whether a mask that came out empty gets one active
            weight or group. Defaults to `True`.
        bias_gain: Number >= 0. Redraws the vector `bias` of the layers whose
            kernels are redrawn. Defaults to `None`: biases stay.

    Returns:
        `{path: density}` as drawn, in the model's order.

    Raises:
        ValueError: An argument is out of its range, the model is not built, or
            nothing is selected.

    Example:

    >>> inputs = keras.Input((8, 8, 4))
    >>> outputs = keras.layers.Conv2D(10, 3, name="conv")(inputs)
    >>> model = keras.Model(inputs, outputs)
    >>> sparsify(model, density=0.1, seed=0)  # 4 of 40 2-D kernels
    {'conv/kernel': 0.1}
    >>> int(np.count_nonzero(model.get_weights()[0]))
    36

    Reference: [Bungert et al., 2022](https://arxiv.org/abs/2105.04319), and
    the authors' code. Differs: kernels are drawn without replacement unless
    asked, and no mask is empty.
    """
    _check_number("density", density, "in (0, 1]", lambda p: 0 < p <= 1)
    gain = 1 / math.sqrt(density) if gain is None else gain
    _check_number("gain", gain, "> 0", lambda r: 0 < r < math.inf)
    if bias_gain is not None:
        _check_number(
            "bias_gain", bias_gain, ">= 0", lambda r: 0 <= r < math.inf
        )
    if groups not in (None, *get_args(Groups)):
        raise ValueError(
            f"`groups` must be one of {(*get_args(Groups), None)}. "
            f"Received: groups={groups!r}"
        )
    seed = (
        random.getrandbits(32) if seed is None else check_int("seed", seed, 0)
    )
    variables = select(model, filters).variables
    owners = owners_of(model)
    densities = {}
    for i, (path, variable) in enumerate(variables.items()):
        generator = np.random.default_rng([seed, i])
        owner = owners.get(id(variable), (None, ""))
        shape = tuple(variable.shape)
        inputs = sum_axes(*owner, len(shape))
        fan_in = math.prod(shape[axis] for axis in inputs)
        normal = generator.standard_normal(shape, dtype="float32")
        # Convolutions have a kernel size, whatever their class.
        if hasattr(owner[0], "kernel_size") and groups is not None:
            mask_shape = _group_shape(shape, range(len(shape) - 2))
            mask = _draw_count(generator, mask_shape, density, replacement)
        else:
            grouped = inputs if groups == "neuron" else ()
            mask = generator.random(_group_shape(shape, grouped)) < density
            if ensure_nonempty and not mask.any():
                mask.flat[generator.integers(mask.size)] = True
        scale = np.float32(gain * math.sqrt(2 / fan_in))
        variable.assign(np.where(mask, scale * normal, np.float32(0)))
        densities[path] = float(mask.mean())
        bias = getattr(owner[0], "bias", None)
        if bias_gain is not None and bias is not None and len(bias.shape) == 1:
            top = bias_gain / math.sqrt(fan_in)
            bias.assign(top * generator.random(bias.shape, dtype="float32"))
    optimizer = host.inner_optimizer(model)
    # One that is not built yet will start from the new weights by itself.
    if hasattr(optimizer, "reset_subgradients") and optimizer.built:
        optimizer.reset_subgradients()
    return densities


def _group_shape(shape, axes):
    return tuple(1 if axis in axes else n for axis, n in enumerate(shape))


def _draw_count(generator, shape, density, replacement):
    slots = math.prod(shape)
    # In floats 0.07 * 100 is above 7, and must not ask for an eighth.
    count = math.ceil(density * slots * (1 - 1e-12))
    mask = np.zeros(shape, bool)
    mask.flat[generator.choice(slots, count, replace=replacement)] = True
    return mask


def _check_number(name, value, rule, holds):
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(
            f"`{name}` must be a number {rule}. Received: {name}={value!r}"
        )
    if not holds(value):
        raise ValueError(f"`{name}` must be {rule}. Received: {name}={value}")
