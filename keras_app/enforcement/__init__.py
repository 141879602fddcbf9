"""Masks as optimizer state, and latent state beside weights in general."""

from keras_app.enforcement.attaching import attach
from keras_app.enforcement.attaching import detach
from keras_app.enforcement.attaching import lent_optimizer
from keras_app.enforcement.attaching import masks_of
from keras_app.enforcement.attaching import state_of
from keras_app.enforcement.latent import add_latent
from keras_app.enforcement.latent import apply_rule
from keras_app.enforcement.state import MaskState

__all__ = [
    "MaskState",
    "add_latent",
    "apply_rule",
    "attach",
    "detach",
    "lent_optimizer",
    "masks_of",
    "state_of",
]
