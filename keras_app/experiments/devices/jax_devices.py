"""Distributions of JAX, and how batches are laid out on their devices.

Private Keras name in use, inside the scope only: `trainer._distribute_data`.
"""

import keras
import numpy as np

from keras_app import host
from keras_app.checks import check_whole
from keras_app.experiments.devices import processes
from keras_app.experiments.devices.choice import choose


def distribution(name, devices, model_devices, layout):
    """The `keras.distribution` of that name; see `scope`."""
    kind = "tpu" if name == "tpu" else None
    try:
        best = keras.distribution.list_devices(kind)
    except RuntimeError as error:
        raise ValueError(
            f"name='tpu' needs a TPU. JAX finds none: {error}"
        ) from error
    several = processes.process_count() > 1
    if several and devices is not None:
        raise ValueError(
            "`devices` must be None with several processes, which take all. "
            f"Received: devices={devices!r}"
        )
    if several and name == "model_parallel":
        # A pruner reads whole weights; a process sees its own shards only.
        raise ValueError(
            "name='model_parallel' splits weights over the devices of one "
            "process. Received: several processes. Use 'data_parallel'."
        )
    hint = "XLA_FLAGS=--xla_force_host_platform_device_count=4 splits a CPU"
    known = [*best, *keras.distribution.list_devices("cpu")]
    names = choose(devices, best, known, hint)
    # Every process reads whole batches; see `taking_whole_batches`.
    whole = {"auto_shard_dataset": False}
    if name != "model_parallel":
        return keras.distribution.DataParallel(devices=names, **whole)
    model_devices = check_whole("model_devices", model_devices, 1)
    if len(names) % model_devices:
        raise ValueError(
            f"`model_devices` must divide the number of devices, {len(names)}. "
            f"Received: model_devices={model_devices}"
        )
    mesh = keras.distribution.DeviceMesh(
        (len(names) // model_devices, model_devices), ("batch", "model"), names
    )
    layouts = keras.distribution.LayoutMap(mesh)
    for pattern, axes in layout.items():
        layouts[pattern] = tuple(axes)
    return _Split(layout_map=layouts, batch_dim_name="batch", **whole)


class _Split(keras.distribution.ModelParallel):
    """Says in the words of `scope` what cannot be split."""

    def get_variable_layout(self, variable):
        layout = super().get_variable_layout(variable)
        count = self.device_mesh.shape[1]
        for size, axis in zip(variable.shape, layout.axes):
            if axis == "model" and size % count:
                raise ValueError(
                    "`layout` must split axes into equal parts, one for each "
                    f"of model_devices={count}. Received: {layout.axes} for "
                    f"{variable.path} of shape {tuple(variable.shape)}"
                )
        return layout


def taking_whole_batches(distribution):
    """Inside, Keras's JAX trainer lays out whole batches, of any size.

    Keras wants each process to bring its share, cut from batches of a fixed
    size, and takes the layout of the first batch for all. Here every process
    brings the whole batch, as it drew it from the same seed; JAX takes from it
    what the devices of the process need. What cannot be cut evenly, such as a
    last batch, goes to all devices whole.
    """
    import jax

    mesh = distribution.device_mesh
    replicas = mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]

    def place(part):
        if part is None:
            return None
        part = np.asarray(part)
        layout = distribution.get_data_layout(part.shape)
        if host.open_scope.predicting or part.shape[0] % replicas:
            layout = keras.distribution.TensorLayout([None] * part.ndim, mesh)
        return jax.make_array_from_process_local_data(
            layout.backend_layout, part, part.shape
        )

    def place_all(data, layouts=None):
        return keras.tree.map_structure(place, data)

    trainer = host.trainer_module()
    return processes.replaced(trainer, "_distribute_data", place_all)
