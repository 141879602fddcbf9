"""Weights split over four devices, and what of them is fetched to the host."""

import contextlib
import functools
import json
import pathlib
import traceback
from unittest import mock

import keras
import numpy as np
import pytest

from tests.helpers import jax_only
from tests.helpers import run

LAYOUT = {
    "hidden/kernel": (None, "model"),
    "hidden/bias": ("model",),
    "second/kernel": ("model", None),
}


_SCRIPT = """
    import json, traceback
    from tests import {} as tests
    results = {{}}
    for name, case in tests.cases().items():
        try:
            results[name] = case() or "ok"
        except BaseException:
            results[name] = traceback.format_exc()
    print(json.dumps(results))
"""


def tests_of(module, names):
    """The test of each of a module's `cases`, by their names."""

    @jax_only
    @pytest.mark.parametrize("case", names)
    def test_on_four_devices(case):
        found = on_four_devices(module)[case]
        assert found == "ok", found

    return test_on_four_devices


@functools.cache
def on_four_devices(module):
    """`{name: "ok", or what failed}` of the `cases` of a module of tests.

    In a process of their own, because devices are there from the start.
    """
    flags = "--xla_force_host_platform_device_count=4"
    name = module.rpartition(".")[2]
    script = _SCRIPT.format(name)
    return json.loads(run(script, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")[-1])


def put(array, axes):
    """Splits an array over the devices."""
    import jax

    mesh = jax.sharding.Mesh(
        np.array(jax.devices()).reshape(2, 2), ("batch", "model")
    )
    spec = jax.sharding.PartitionSpec(*axes)
    return jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))


@contextlib.contextmanager
def fetches(shapes=((8, 16), (16, 12))):
    """Lists where split arrays, or whole ones of these shapes, are fetched.

    Each way from a `jax.Array` to the host (`np.asarray`, `float`, `tolist`,
    Keras's `convert_to_numpy`) goes through one property of it, whatever the
    devices: jax's transfer guard lets a CPU's devices copy freely.
    """
    from jax._src.array import ArrayImpl

    found, whole = [], ArrayImpl._value.fget

    def fetch(array):
        several = len(array.sharding.device_set) > 1
        if several and (not array.is_fully_replicated or array.shape in shapes):
            where = [
                f"{pathlib.Path(frame.filename).name}:{frame.lineno}"
                for frame in traceback.extract_stack()
                if "/keras_app/" in frame.filename
            ]
            found.append(f"{array.shape} {' > '.join(where)}")
        return whole(array)

    with mock.patch.object(ArrayImpl, "_value", property(fetch)):
        yield found


@contextlib.contextmanager
def distributed(layout=LAYOUT, names=None, model_devices=2):
    """Models made inside have split weights."""
    names = names or keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh(
        (len(names) // model_devices, model_devices), ["batch", "model"], names
    )
    layouts = keras.distribution.LayoutMap(mesh)
    for pattern, axes in layout.items():
        layouts[pattern] = axes
    distribution = keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch"
    )
    with distribution.scope():
        yield


def model(optimizer=None, dtype=None):
    """A perceptron whose last kernel lies whole on each device."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    x = inputs
    for name, width in (("hidden", 16), ("second", 12)):
        x = keras.layers.Dense(
            width, activation="tanh", name=name, dtype=dtype
        )(x)
    outputs = keras.layers.Dense(4, name="head")(x)
    made = keras.Model(inputs, outputs, name="perceptron")
    made.compile(
        optimizer or keras.optimizers.Adam(0.02),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return made


def data(count=32):
    random = np.random.default_rng(0)
    x = random.standard_normal((count, 8)).astype("float32")
    return x, (np.arange(count) % 4).astype("int32")


def fit(made, *callbacks, epochs=2):
    x, y = data()
    made.fit(
        x,
        y,
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )
