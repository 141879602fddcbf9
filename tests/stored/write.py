"""Writes what test_stored.py loads, with the code of an earlier commit.

    git worktree add /tmp/old 3e96768
    cp tests/stored/write.py /tmp/old
    cd /tmp/old && KERAS_BACKEND=jax python write.py files FOLDER

wrote `magnitude.keras`, `magnitude.weights.h5`, `magnitude.sparse` and
`ste.weights.h5`. On PyTorch Keras stores an optimizer that it loads nowhere
else. The run folders are of commit bf236b2, because experiments
were functions before and had other settings; a run stays with its backend:

    KERAS_BACKEND=torch python write.py run FOLDER
"""

import pathlib
import sys

import keras
import numpy as np

from keras_app import pruners
from keras_app import schedules

# Of each kernel, the half with the smaller magnitude is pruned.
HIDDEN = np.array(
    [
        [1, -22, 8, -18],
        [17, -24, 23, -16],
        [21, -12, 3, -13],
        [11, -4, 5, -6],
        [9, -2, 10, -15],
        [19, -14, 7, -20],
    ],
    "float32",
)
HEAD = np.array([[1, -8, 11], [-2, 9, 5], [-12, 3, -7], [10, -4, 6]], "float32")


def network(*_, **__):
    inputs = keras.Input((6,))
    x = keras.layers.Dense(4, activation="tanh", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x), name="m")
    for name, values in (("hidden", HIDDEN), ("head", HEAD)):
        model.get_layer(name).kernel.assign(values / 16)
    return model


def compiled(optimizer):
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # The file keeps it, and to compile takes PyTorch minutes.
    model.compile(optimizer, loss, jit_compile=False)
    return model


def arrays(count=48):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((count, 6)).astype("float32")
    return x, (np.arange(count) % 3).astype("int32")


def fit(model, *callbacks):
    x, y = arrays()
    model.fit(
        x, y, batch_size=8, shuffle=False, verbose=0, callbacks=list(callbacks)
    )


def write_files(folder):
    from keras_app.export import save_sparse

    model = compiled(keras.optimizers.Adam(0.01))
    fit(model, pruners.MagnitudePruner(schedules.OneShot(0.5)))
    model.save(folder / "magnitude.keras")
    model.save_weights(folder / "magnitude.weights.h5")
    save_sparse(model, folder / "magnitude.sparse")
    # No step: dormant weights stay what they were.
    model = compiled(keras.optimizers.SGD(0.0))
    fit(model, pruners.STE(schedules.OneShot(0.5)))
    model.save_weights(folder / "ste.weights.h5")


class Killed(Exception):
    """Stands for a process that ends."""


def experiment():
    from keras_app import experiments
    from keras_app.experiments.data import Holdout

    data = Holdout(arrays(), 0.25, test=arrays(12), batch_size=8)
    schedule = schedules.PolynomialDecay(0.0, 0.5, 0, 12, frequency=2)
    return experiments.Train(
        data, network, pruner=pruners.MagnitudePruner(schedule), epochs=4
    )


def write_run(folder):
    """A run of four epochs that is killed after the second."""
    from keras_app.experiments.run.folder import RunFolder

    save = RunFolder.save_checkpoint

    def killed(self, arrays, meta):
        save(self, arrays, meta)
        if meta["epoch"] == 2:
            raise Killed

    RunFolder.save_checkpoint = killed
    try:
        experiment().run(
            folder / f"run_{keras.backend.backend()}", verbose=False
        )
    except Killed:
        pass


if __name__ == "__main__":
    {"files": write_files, "run": write_run}[sys.argv[1]](
        pathlib.Path(sys.argv[2])
    )
