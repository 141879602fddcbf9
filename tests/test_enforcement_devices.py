"""Tests of masks on several devices: the zeros hold on each of them."""

import json

import pytest

from tests.helpers import jax_only
from tests.helpers import run
from tests.helpers import RUNNER
from tests.helpers import tensorflow_only

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
    from tests import masking as tests
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
                held = state.record(variable).mask.value
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
    from tests import masking as tests
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
                held = state.record(variable).mask.value
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
