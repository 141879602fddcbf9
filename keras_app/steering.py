"""What callbacks that make a model sparse have in common: a target."""

import itertools
import weakref

import keras

# All that a `fit` may have been given. They go when nobody holds them.
_known = weakref.WeakSet()

_places = itertools.count()


class Placed(keras.callbacks.Callback):
    """A callback that knows which others come before it in its `fit`."""

    _place = -1

    def set_model(self, model):
        """Takes the next place: Keras gives callbacks the model in order."""
        super().set_model(model)
        self._place = next(_places)

    def comes_after(self, other: "Placed") -> bool:
        """Whether `other` comes before this one."""
        return self._place > other._place


class Steering(Placed):
    """A callback that brings the weights of a model to a sparsity."""

    def set_model(self, model):
        """Makes itself known."""
        super().set_model(model)
        _known.add(self)

    @property
    def is_at_target(self) -> bool:
        """Whether the weights are now as sparse as they are to end."""
        raise NotImplementedError

    def settle(self) -> None:
        """Called at the end of an epoch that is to be judged: a last touch."""

    def weights_restored(self) -> None:
        """Called once weights and masks of an earlier epoch are back."""


def steering(callback):
    """Returns the `Steering` callbacks of the `fit` that a callback is in.

    Example:

    >>> steering(keras.callbacks.Callback())
    []
    """
    # Keras hands all callbacks of a `fit` one and the same dictionary.
    params = callback.params
    found = [each for each in _known if params and each.params is params]
    return sorted(found, key=lambda each: each._place)
