"""Keras's callbacks that choose an epoch, among those at the target sparsity.

`keras.callbacks.ModelCheckpoint(save_best_only=True)` and `EarlyStopping` take
the best of all epochs. While a network gets sparser, that is most often one
before it is as sparse as it is to be. Here only the epochs count in which each
callback of `keras_app.pruners` has reached its target:

- a pruner: the schedule asks for its final sparsity, and the masks have it. In
  `ACDC` these are the sparse phases; in a `fit` of `AnytimeProgressivePruner`
  all epochs.
- `BregmanPruner`: the same. Between its updates weights come and go; so here it
  makes one more at the end of such an epoch, after the validation, as it always
  does after the last.
- `LambdaController`, `DensityController`: the density is at most the target's.
- `ContinuousSparsifier`: the mask is final: the `retrain_epochs`.
- none, but the optimizer holds masks of an earlier `fit`: all epochs.
"""

import inspect
import warnings
from typing import Any

import keras
import numpy as np

from keras_app import enforcement
from keras_app.hints import Arrays
from keras_app.hints import FilePath
from keras_app.hints import State
from keras_app.steering import Placed
from keras_app.steering import Steering
from keras_app.steering import steering


def _shows_arguments(cls):
    """Gives a constructor Keras's signature, for help, completion and gin."""
    theirs = inspect.signature(cls.__bases__[1].__init__)
    own = inspect.Parameter(
        "pruner",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Steering | None,
    )
    cls.__init__.__signature__ = theirs.replace(
        parameters=[*theirs.parameters.values(), own]
    )
    return cls


class _AtTarget(Placed):
    """Lets epochs count in which the model is at its target sparsity.

    Args:
        pruner: The callback that says so. Defaults to `None`: all of this
            `fit` that make the model sparse.
        kwargs: Of Keras's callback.
    """

    # What is lost if no epoch counts.
    _lost = None

    def __init__(
        self, *args: Any, pruner: Steering | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if pruner is not None and not isinstance(pruner, Steering):
            raise TypeError(
                "`pruner` must be None or a callback of keras_app.pruners. "
                f"Received: pruner={pruner!r}"
            )
        self.pruner = pruner
        self._steering = []
        self._epochs = self._counted = 0
        self._restored = None

    def on_train_begin(self, logs=None):
        """Begins to count, or goes on, by what makes the model sparse."""
        super().on_train_begin(logs)
        self._epochs = self._counted = 0
        if self._restored is not None:
            restored, self._restored = self._restored, None
            self._go_on(*restored)
        self._find()

    def _find(self):
        """Finds the callbacks that make the model sparse, or raises."""
        name = type(self).__name__
        others = steering(self)
        late = [type(p).__name__ for p in others if not self.comes_after(p)]
        if late:
            raise ValueError(
                f"{name} must come after {', '.join(late)} in `callbacks`: a "
                "pruner makes its last update when training ends."
            )
        if self.pruner is not None and self.pruner not in others:
            raise ValueError(
                f"`pruner` of {name} must be one of the `callbacks` of this "
                f"`fit`, before it. Received: pruner={self.pruner!r}"
            )
        self._steering = others if self.pruner is None else [self.pruner]
        masks = enforcement.masks_of(self.model).values()
        if not self._steering and all(mask.all() for mask in masks):
            raise ValueError(
                f"{name} counts epochs at a target sparsity, and nothing in "
                "this `fit` has one: put a callback of keras_app.pruners "
                "before it, such as BregmanPruner for LinBreg and AdaBreg, or "
                f"use keras.callbacks.{name.removeprefix('Sparse')}."
            )

    def on_epoch_end(self, epoch, logs=None):
        """Does what Keras's callback does, in an epoch that counts."""
        self._epochs += 1
        for each in self._steering:
            each.settle()
        if all(each.is_at_target for each in self._steering):
            self._counted += 1
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        """Says so if no epoch has counted."""
        super().on_train_end(logs)
        if self._epochs and not self._counted:
            warnings.warn(
                f"{type(self).__name__}: none of the epochs ended at the "
                f"target sparsity, so that {self._lost}. Let the schedule end "
                "an epoch or more before the training."
            )

    def state(self) -> State:
        """Returns `(plain values, {name: array})`, what `restore` needs."""
        best = None if self.best is None else float(self.best)
        counts = {"epochs": self._epochs, "counted": self._counted}
        return {"best": best, **counts}, {}

    def restore(self, plain: dict[str, Any], arrays: Arrays) -> None:
        """Continues where `state()` was taken, once the training begins."""
        self._restored = plain, arrays

    def _go_on(self, plain, arrays):
        self.best = plain["best"]
        self._epochs, self._counted = plain["epochs"], plain["counted"]


@_shows_arguments
class SparseModelCheckpoint(_AtTarget, keras.callbacks.ModelCheckpoint):
    """`keras.callbacks.ModelCheckpoint` that saves at the target sparsity only.

    With `save_best_only=True` the file holds the best of the epochs that count:
    see `keras_app.callbacks`. Put it after the pruner in `callbacks`.

    Args:
        filepath, monitor, verbose, save_best_only, save_weights_only, mode,
            save_freq, initial_value_threshold: See
            `keras.callbacks.ModelCheckpoint`; `save_freq` is `"epoch"`.
        pruner: The callback that says which epochs count. Defaults to `None`:
            all of this `fit` that make the model sparse.

    Raises:
        TypeError, ValueError: Bad arguments; when `fit` starts: nothing has a
            target, or the pruner comes later.

    Example:

    >>> from keras_app.pruners import MagnitudePruner
    >>> from keras_app.schedules import PolynomialDecay
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> pruner = MagnitudePruner(PolynomialDecay(0.0, 0.5, 0.0, 0.5))
    >>> best = SparseModelCheckpoint(
    ...     "best.keras", monitor="loss", save_best_only=True
    ... )
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(x, y, epochs=4, verbose=0, callbacks=[pruner, best])
    >>> kernel = keras.saving.load_model("best.keras").get_weights()[0]
    >>> int((kernel == 0).sum())
    10
    """

    _lost = "nothing was saved"

    def __init__(
        self,
        filepath: FilePath,
        *args: Any,
        pruner: Steering | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(filepath, *args, pruner=pruner, **kwargs)
        if self.save_freq != "epoch":
            raise ValueError(
                "`save_freq` must be 'epoch', at whose end the sparsity is "
                f"known. Received: save_freq={self.save_freq!r}"
            )


@_shows_arguments
class SparseEarlyStopping(_AtTarget, keras.callbacks.EarlyStopping):
    """`keras.callbacks.EarlyStopping` that waits for the target sparsity.

    Epochs before it count neither as the best nor towards `patience`: see
    `keras_app.callbacks`. With `restore_best_weights=True` the masks of the
    best epoch come back with its weights, where methods move them. Put it after
    the pruner in `callbacks`.

    Args:
        monitor, min_delta, patience, verbose, mode, baseline,
            restore_best_weights, start_from_epoch: See
            `keras.callbacks.EarlyStopping`.
        pruner: The callback that says which epochs count. Defaults to `None`:
            all of this `fit` that make the model sparse.

    Raises:
        TypeError: Bad arguments.
        ValueError: When `fit` starts: nothing has a target, or the pruner
            comes later.

    Example:

    >>> from keras_app.pruners import MagnitudePruner
    >>> from keras_app.schedules import PolynomialDecay
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile(keras.optimizers.SGD(0.0), "mse")
    >>> pruner = MagnitudePruner(PolynomialDecay(0.0, 0.5, 0.0, 0.5))
    >>> stop = SparseEarlyStopping(
    ...     "loss", patience=1, restore_best_weights=True
    ... )
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(x, y, epochs=9, verbose=0, callbacks=[pruner, stop])
    >>> len(history.epoch), pruner.report.sparsity
    (7, 0.5)
    """

    _lost = "the weights are those of the last one"

    def __init__(
        self, *args: Any, pruner: Steering | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, pruner=pruner, **kwargs)
        self._best_masks = {}

    def on_train_begin(self, logs=None):
        """Begins to wait, or goes on with it."""
        self._best_masks = {}
        super().on_train_begin(logs)

    def on_epoch_end(self, epoch, logs=None):
        """Keeps the masks of what is the best epoch so far, too."""
        before = self.best_weights
        super().on_epoch_end(epoch, logs)
        if self.best_weights is not before:
            self._best_masks = _masks_of(self.model)

    def on_train_end(self, logs=None):
        """Restores the best weights, with their masks, if asked to."""
        super().on_train_end(logs)
        if self.best_weights is None:
            return
        state = enforcement.state_of(self.model)
        if state is not None:
            state.load_own_variables(self._best_masks)
            state.zero()
        for each in steering(self):
            each.weights_restored()

    def state(self) -> State:
        """Returns `(plain values, {name: array})`, what `restore` needs."""
        plain, _ = super().state()
        plain |= {"wait": self.wait, "best_epoch": self.best_epoch}
        kept = enumerate(self.best_weights or ())
        return plain, {
            **{f"mask/{name}": a for name, a in self._best_masks.items()},
            **{f"weight/{i}": array for i, array in kept},
        }

    def _go_on(self, plain, arrays):
        super()._go_on(plain, arrays)
        self.wait, self.best_epoch = plain["wait"], plain["best_epoch"]
        self._best_masks = _under("mask", arrays)
        weights = _under("weight", arrays)
        order = sorted(weights, key=int)
        self.best_weights = [weights[i] for i in order] or None


def _masks_of(model):
    """What the optimizer keeps beside the weights, `{name: array}`."""
    state, store = enforcement.state_of(model), {}
    if state is not None:
        state.save_own_variables(store)
    return {name: np.array(array) for name, array in store.items()}


def _under(start, arrays):
    start += "/"
    return {
        name.removeprefix(start): array
        for name, array in arrays.items()
        if name.startswith(start)
    }
