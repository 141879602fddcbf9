"""Take a model back to the weights it had."""

import keras
import numpy as np
from keras import ops

from keras_app import enforcement
from keras_app import host
from keras_app.hints import Arrays
from keras_app.selection import paths_of


def snapshot(model: keras.Model) -> Arrays:
    """Copies the weights and moving statistics of a model, to rewind to.

    Not the optimizer, whose momentum is left behind at a rewind, and not the
    states of random generators.

    Args:
        model: A built `keras.Model`.

    Returns:
        `{path: array}` in the model's order.

    Raises:
        ValueError: The model is not built.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> [array.shape for array in snapshot(model).values()]
    [(4, 2), (2,)]
    """
    return {
        path: np.array(ops.convert_to_numpy(variable))
        for path, variable in _weights_of(model).items()
    }


def rewind(model: keras.Model, snapshot: Arrays) -> None:
    """Returns a model to a `snapshot`: weights and moving statistics.

    All layers return, prunable or not. Weights that the model's own masks
    prune are zero afterwards. The optimizer stays as it is: compile again for
    a new one, without momentum.

    Args:
        model: A `keras.Model` with the weights that the snapshot was taken
            of. They are matched in order, because Keras may number the
            layers of a model that is built again differently.
        snapshot: What `snapshot` returned.

    Raises:
        ValueError: The snapshot is of another architecture. The model is
            unchanged then.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> start = snapshot(model)
    >>> model.set_weights([np.ones((4, 2)), np.ones(2)])
    >>> rewind(model, start)
    >>> bool(np.all(model.get_weights()[1] == 0))
    True

    Reference: [Frankle et al., 2020](https://arxiv.org/abs/1912.05671).
    """
    variables = _weights_of(model)
    _check_architecture(variables, snapshot)
    for variable, array in zip(variables.values(), snapshot.values()):
        # A copy: backends may train on in the memory that they are handed.
        variable.assign(np.array(array))
    state = enforcement.state_of(model)
    if state is not None:
        state.zero()


def _weights_of(model):
    if not model.built:
        raise ValueError(
            "The model must be built before a snapshot is taken or returned "
            "to. Call it once on a batch, or give it an `Input`."
        )
    host.sync(model)
    return paths_of(model.weights)


def _check_architecture(variables, snapshot):
    if not isinstance(snapshot, dict):
        raise ValueError(
            "`snapshot` must be what `snapshot(model)` returned. "
            f"Received: {type(snapshot).__name__}"
        )

    def described(path, value):
        return f"{path.split('/')[-1]} of shape {tuple(value.shape)}"

    own = [described(path, v) for path, v in variables.items()]
    other = [described(path, np.asarray(v)) for path, v in snapshot.items()]
    for index, (here, there) in enumerate(zip(own, other)):
        if here != there:
            raise ValueError(
                "`snapshot` must be of the same architecture as `model`. "
                f"Received: at weight {index} a {there}, where the model has "
                f"a {here}"
            )
    if len(own) != len(other):
        raise ValueError(
            "`snapshot` must be of the same architecture as `model`. "
            f"Received: {len(other)} weights for a model of {len(own)}"
        )
