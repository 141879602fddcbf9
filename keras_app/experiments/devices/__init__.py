"""Several devices, several machines: one context around a training.

What is inside `scope` trains distributed; nothing else changes. Batch sizes
are those of all devices together, so that the same batches, weights and masks
come out as on one device, up to rounding.
"""

from keras_app.experiments.devices.board import board
from keras_app.experiments.devices.processes import anywhere
from keras_app.experiments.devices.processes import check_agreement
from keras_app.experiments.devices.processes import explain_aborts
from keras_app.experiments.devices.processes import is_chief
from keras_app.experiments.devices.processes import leaving
from keras_app.experiments.devices.processes import ProcessLost
from keras_app.experiments.devices.scopes import clear_session
from keras_app.experiments.devices.scopes import predict
from keras_app.experiments.devices.scopes import scope

__all__ = [
    "ProcessLost",
    "anywhere",
    "board",
    "check_agreement",
    "clear_session",
    "explain_aborts",
    "is_chief",
    "leaving",
    "predict",
    "scope",
]
