"""The arrays that a pruner computes with: NumPy's, or split over devices."""

import keras

from keras_app import host
from keras_app import split
from keras_app.hints import Arrays
from keras_app.hints import Tensor
from keras_app.hints import Variables
from keras_app.selection import by_path
from keras_app.selection import some


class Reading:
    """What a pruner reads of its weights and masks.

    Where `keras.distribution` splits a weight over devices, its values, scores
    and masks stay split alike, and only numbers come to the host. A method that
    takes nothing but NumPy gets whole arrays, gathered, and its user is told.
    """

    #: Whether `scores` and `combine` take arrays that are split over devices.
    takes_split = False

    _gathers = False

    def begin_to_read(self) -> list[str]:
        """Decides how; returns a list with a sentence if weights are gathered.

        Needs `variables`.
        """
        paths = [p for p, v in self.variables.items() if split.is_split(v)]
        fits = self.structure is None or self.structure.takes_split
        self._gathers = bool(paths) and not (fits and self.takes_split)
        if not self._gathers:
            return []
        what = "the method" if fits else repr(self.structure)
        return [
            f"{some(paths)}: split over devices, and gathered on the host at "
            f"each update, where {what} is computed; docs/distribution.md says "
            "what is computed on the devices"
        ]

    def read(self, variable: keras.Variable) -> Tensor:
        """Returns a variable's values: see `keras_app.split.read`.

        In NumPy always, if the method or the structure takes nothing else.
        """
        return self.here(split.read(variable))

    def here(self, array: Tensor) -> Tensor:
        """Returns an array as `read` returns values."""
        return split.gathered(array) if self._gathers else array

    def magnitudes(self, variables: Variables) -> Arrays:
        """Returns `{path: |w|}`."""
        return by_path(lambda v: abs(self.read(v)), variables)

    @property
    def _masks(self):
        """`masks`, as `read` returns values."""
        if self._units is None or self._state is None:
            # None yet, or those of a method without masks in the optimizer.
            return self.masks
        host.sync(self.model)
        record = self._state.record
        return by_path(lambda v: self.read(record(v).mask), self.variables)
