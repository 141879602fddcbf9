"""Callbacks without `fit`: the pruners in a training loop of one's own."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_app import host
from keras_app.checks import check_int


class CustomLoop:
    """Calls callbacks as `fit` would, while you do the training steps.

    Call `begin` before the first training step, `step` before each of them,
    and `end` after the last. Every callback of `keras_app.pruners` works, and
    so does any other that asks neither for logs, which are empty here, nor for
    the ends of batches.

        begin                  on_train_begin
        step, first of epoch   on_epoch_end of the one before, on_epoch_begin
        step                   on_train_batch_begin
        end                    on_epoch_end, on_train_end

    A pruner keeps its masks in the optimizer that the model was compiled with,
    and that optimizer keeps the zeros: update with `model.optimizer`. What
    compiles a step (`tf.function`, `jax.jit`) must see the step for the first
    time after `begin`, when the masks are there.

    Loops with `model.train_on_batch`, and those that change variables in
    place, as on TensorFlow and PyTorch, need nothing more. A JAX loop that
    carries its state along starts with the one that `begin` returns and lets
    each `step` exchange it: `state = loop.step(state)`. Nothing is copied as
    long as no callback asks for the weights. Variables of the model are out of
    date in between, or gone if the step donates its state; `sync` updates them
    for an evaluation or a file, and `end` for good.

    Args:
        model: A built `keras.Model` that was compiled. Only pruners that take
            gradients, such as `RigL`, need a loss in it.
        callbacks: A pruner or another callback, or a list of them.
        steps_per_epoch: Training steps in an epoch, >= 1.
        epochs: Epochs, >= 1. Defaults to `1`.

    Example:

    >>> from keras_app.pruners import MagnitudePruner
    >>> from keras_app.schedules import OneShot
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> pruner = MagnitudePruner(OneShot(0.5))
    >>> loop = CustomLoop(model, pruner, steps_per_epoch=3)
    >>> state = loop.begin()
    >>> for _ in range(3):
    ...     _ = loop.step()
    ...     loss = model.train_on_batch(np.ones((8, 4)), np.ones((8, 5)))
    >>> loop.end()
    >>> pruner.report.sparsity
    0.5
    """

    def __init__(
        self,
        model: keras.Model,
        callbacks: keras.callbacks.Callback
        | Sequence[keras.callbacks.Callback],
        steps_per_epoch: int,
        epochs: int = 1,
    ) -> None:
        self.model = model
        self.callbacks = callbacks
        self.steps_per_epoch = check_int("steps_per_epoch", steps_per_epoch, 1)
        self.epochs = check_int("epochs", epochs, 1)
        self._list = None  # while the loop runs
        self._steps = 0
        self._first_update = 0

    def begin(self) -> tuple[Any, ...]:
        """Begins a training.

        Returns:
            The state that a JAX loop carries, `(trainable_variables,
            non_trainable_variables, optimizer_variables)`, each a list of
            values. Other loops have no use for it.

        Raises:
            ValueError: The model is not compiled or not built, or what a
                callback refuses when `fit` starts.
        """
        running = keras.callbacks.CallbackList(
            self.callbacks,
            model=self.model,
            epochs=self.epochs,
            steps=self.steps_per_epoch,
        )
        running.on_train_begin()
        self._list = running
        self._steps = 0
        self._first_update = self._updates()
        return self._state()

    def step(
        self, state: tuple[Any, ...] | None = None
    ) -> tuple[Any, ...] | None:
        """Prunes, if a schedule asks for it before the next training step.

        Args:
            state: On JAX, what the last training step returned: a tuple that
                begins with the entries that `begin` returns. More entries are
                left alone. Defaults to `None`: the model's variables are up
                to date.

        Returns:
            The state to go on with; `None` for `None`.

        Raises:
            ValueError: More steps than were announced; a state of another
                form; or what a callback refuses at the begin of an epoch.
        """
        self._check_running()
        if self._steps == self.epochs * self.steps_per_epoch:
            raise ValueError(
                f"The loop has made its epochs={self.epochs} of "
                f"steps_per_epoch={self.steps_per_epoch}. Call `end`."
            )
        epoch, batch = divmod(self._steps, self.steps_per_epoch)
        self._lend(state)
        if batch == 0:
            # As in `fit`, variables are up to date between two epochs.
            host.sync(self.model)
            self._end_epoch()
            self._list.on_epoch_begin(epoch)
        self._list.on_train_batch_begin(batch)
        self._steps += 1
        return self._take_back(state)

    def end(self, state: tuple[Any, ...] | None = None) -> None:
        """Ends the training: a last update, the check of what was reached.

        A loop may end before all its steps are made. The variables of the
        model hold the result, with `use_ema` the averages, as after `fit`; a
        state is out of date from here on.

        Args:
            state: On JAX, what the last training step returned.
        """
        self._check_running()
        self._lend(state)
        host.sync(self.model)
        self._take_back(state)
        self._end_epoch()
        # As `fit` does: under `use_ema` the weights become their averages.
        self.model.optimizer.finalize_variable_values(
            self.model.trainable_variables
        )
        running, self._list = self._list, None
        running.on_train_end()

    def sync(self, state: tuple[Any, ...]) -> None:
        """Writes a state to the variables of the model. The loop goes on.

        Args:
            state: On JAX, what the last training step returned. It is copied,
                so that neither the next training step nor an evaluation in
                between can donate what the other one needs.
        """
        copies = [[ops.copy(value) for value in part] for part in state[:3]]
        self._lend(copies)
        host.sync(self.model)
        self._take_back(copies)

    # ---- inside --------------------------------------------------------

    def _end_epoch(self):
        if self._steps == 0:
            return
        self._warn_if_idle()
        self._list.on_epoch_end((self._steps - 1) // self.steps_per_epoch, {})

    def _warn_if_idle(self):
        optimizer = host.inner_optimizer(self.model)
        expected = self._steps // (optimizer.gradient_accumulation_steps or 1)
        if expected and self._updates() == self._first_update:
            warnings.warn(
                f"CustomLoop: {self._steps} steps were made, but "
                "`model.optimizer` has counted no update, so that no mask was "
                "kept. Update with `model.optimizer`, and on JAX hand over the "
                "state: `state = loop.step(state)`, `loop.end(state)`."
            )

    def _check_running(self):
        if self._list is None:
            raise ValueError("The loop is not running. Call `begin` first.")

    def _updates(self):
        return host.updates(self.model.optimizer)

    def _state(self):
        return tuple(
            [variable.value for variable in variables]
            for variables in self._variables()
        )

    def _variables(self):
        return (
            self.model.trainable_variables,
            self.model.non_trainable_variables,
            self.model.optimizer.variables,
        )

    # In a loop as in `fit`, the variables are written once a callback looks at
    # its `model`, which calls `jax_state_sync`.

    def _lend(self, state):
        if state is None:
            return
        if host.BACKEND != "jax":
            raise ValueError(
                "`state` is for loops on JAX. On "
                f"{host.BACKEND} call `step()` and `end()`."
            )
        expected = [len(variables) for variables in self._variables()]
        if [len(values) for values in state[:3]] != expected:
            raise ValueError(
                "`state` must begin with the values of the trainable, the "
                "non-trainable and the optimizer's variables, as `begin` "
                f"returns them: lists of {expected}. Received: "
                f"{[len(values) for values in state[:3]]}"
            )
        host.lend(self.model, dict(zip(host.carried(self.model), state[:3])))

    def _take_back(self, state):
        if state is None:
            return None
        written = host.take_back(self.model)
        return (*self._state(), *state[3:]) if written else state
