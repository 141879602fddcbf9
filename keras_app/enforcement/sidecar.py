"""The masks in Keras's files, beside the entry of the optimizer.

Keras refuses a file whose number of variables differs. So the optimizer's own
entry stays as Keras writes it, and loads where this package is not installed.

    shape_{i}, mask_{i}     the mask of the i-th trainable variable, as bits
    dormant_{i}             what its pruned entries hold
    learning_{i}            which of its entries train, as bits
    watched_{i}             what a rule made of its gradients
"""

import math

import numpy as np
from keras import ops

FILE_METHODS = ("save_own_variables", "load_own_variables")


def save_masks(records, store):
    """Stores masks of `{index: record}`."""
    for index, record in sorted(records.items()):
        store[f"shape_{index}"] = np.asarray(record.mask.shape, np.int64)
        store[f"mask_{index}"] = _as_bits(record.mask)


def save(records, store):
    """Stores all that a training needs to go on."""
    save_masks(records, store)
    for index, record in sorted(records.items()):
        if record.dormant is not None:
            store[f"dormant_{index}"] = ops.convert_to_numpy(record.dormant)
        if record.learning is not None:
            store[f"learning_{index}"] = _as_bits(record.learning)
        if record.is_watch_stored:
            store[f"watched_{index}"] = ops.convert_to_numpy(record.watched)


def load(state, variables, store):
    """Restores what a file has; a mask of another shape is an error.

    Args:
        state: The `MaskState` to restore to.
        variables: All trainable variables of its optimizer.
        store: What `save` filled.
    """
    keys = set(store.keys())
    for index, variable in enumerate(variables):
        if f"mask_{index}" not in keys:
            continue
        shape = tuple(int(d) for d in np.asarray(store[f"shape_{index}"]))
        if shape != tuple(variable.shape):
            raise ValueError(
                f"The stored mask of {variable.path} has shape {shape}, "
                f"but the variable has {tuple(variable.shape)}."
            )
        state.add([variable])
        record = state.record(variable)
        _assign_bits(record.mask, store[f"mask_{index}"])
        if f"dormant_{index}" in keys:
            learning = f"learning_{index}" in keys
            record.keep_dormant(learning)
            record.dormant.assign(np.asarray(store[f"dormant_{index}"]))
            if learning:
                _assign_bits(record.learning, store[f"learning_{index}"])
        if f"watched_{index}" in keys:
            record.make_room_to_watch()
            record.is_watch_stored = True
            record.watched.assign(np.asarray(store[f"watched_{index}"]))


def without_masks(method, optimizer, state):
    """Lets a method of an optimizer see only the variables that Keras made."""

    def call(store):
        own = {id(variable) for variable in state.own_variables}
        everything = optimizer._variables
        plain = [v for v in everything if id(v) not in own]
        object.__setattr__(optimizer, "_variables", plain)
        try:
            method(store)
        finally:
            object.__setattr__(optimizer, "_variables", everything)

    return call


def _as_bits(variable):
    return np.packbits(ops.convert_to_numpy(variable).reshape(-1))


def _assign_bits(variable, bits):
    shape = tuple(variable.shape)
    found = np.unpackbits(np.asarray(bits, np.uint8), count=math.prod(shape))
    variable.assign(found.reshape(shape).astype(bool))
