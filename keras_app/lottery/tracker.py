"""Records, while a model trains, which examples it gets right.

Private Keras name in use: `_metrics`, because a built model takes no metric
in any other way.
"""

import contextlib
import itertools
import math
import threading
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_app import host
from keras_app.checks import check_number
from keras_app.checks import check_whole
from keras_app.config import Configured
from keras_app.hints import Arrays
from keras_app.hints import State
from keras_app.lottery.prac import ABSENT
from keras_app.lottery.prac import forgetting_counts

# In the recorder: an outcome plus 1, so that what was not seen is 0.
_WRONG = 1
_RIGHT = 2


@keras.saving.register_keras_serializable(package="keras_app")
class ForgettingTracker(Configured, keras.callbacks.Callback):
    """Records for each example whether training got it right, epoch by epoch.

    What counts is the forward pass that trains: training mode, augmented
    input, before the step's update. Nothing is predicted twice; a step writes
    one byte for each example of its batch, inside the compiled step, and the
    host reads them when the epoch ends.

    Ids travel as the third component of a batch, `(x, y, ids)`, as from
    `keras_app.experiments.data.Megabatches(with_ids=True)` or
    `fit(x, y, sample_weight=ids)`. There Keras expects sample weights; the
    tracker takes the ids out before the loss and the metrics see them.
    Integers in that place of validation batches are taken out, too, and not
    recorded. There is no room for sample weights and class weights beside the
    ids.

    The model must have one output that names one class for each example:
    `(batch, classes)`, the largest wins, with labels that are classes or
    one-hot; or `(batch, 1)`, above the threshold is class 1.

    Works with shuffling, several calls of `fit`, `steps_per_execution`,
    `MirroredStrategy` and `keras.distribution`. Every call of `fit` compiles
    its step again.

    Args:
        num_examples: Ids are in [0, num_examples). All examples that exist
            count, not only those of the round.
        threshold: Of an output with a single unit. Defaults to `None`: 0 or
            0.5, as the cross-entropy that the model was compiled with is of
            logits or of probabilities.

    Attributes: `history`, an int8 array `(num_examples, epochs)`, 1 right, 0
    wrong, -1 absent; `counts`, the `forgetting_counts` of it. Epochs add up
    over calls of `fit` until `reset()`, which begins a new round.

    Raises:
        ValueError: Bad arguments. When training starts: a distribution that
            cannot be followed; batches without ids; outputs that name no
            class. When an epoch ends: ids out of range, or one that came
            twice in the epoch.

    Example:

    >>> units = keras.layers.Dense(2, "softmax", kernel_initializer="identity")
    >>> model = keras.Sequential([keras.Input((2,)), units])
    >>> model.compile("sgd", "sparse_categorical_crossentropy")
    >>> tracker = ForgettingTracker(num_examples=4)
    >>> x, labels, ids = np.eye(2), np.array([0, 0]), np.array([3, 1])
    >>> _ = model.fit(x, labels, sample_weight=ids, callbacks=[tracker],
    ...               verbose=0)
    >>> tracker.history.tolist()
    [[-1], [0], [-1], [1]]

    Reference: [Zhang et al., 2021](https://arxiv.org/abs/2106.03225); first
    in [Toneva et al., 2019](https://arxiv.org/abs/1812.05159).
    """

    def __init__(
        self, num_examples: int, threshold: float | None = None
    ) -> None:
        super().__init__()
        self.num_examples = check_whole("num_examples", num_examples, 1)
        if threshold is not None:
            threshold = check_number(
                "threshold", threshold, np.isfinite, "that is finite, or None"
            )
        self.threshold = threshold
        self._recorder = None
        self.reset()

    def reset(self) -> None:
        """Forgets all epochs: a new round begins."""
        self.history = np.empty((self.num_examples, 0), "int8")

    @property
    def counts(self) -> np.ndarray:
        """The `forgetting_counts` of the history."""
        return forgetting_counts(self.history)

    # ---- the callback --------------------------------------------------

    def set_model(self, model):
        """Refuses a model whose training cannot be followed."""
        super().set_model(model)
        _refuse_what_cannot_be_followed(model)

    def on_train_begin(self, logs=None):
        """Hangs a recorder on the model."""
        self.detach()
        with _scope(self.model):
            self._recorder = _Recorder(
                self.num_examples, self._threshold_of(self.model.loss)
            )
        self._recorder.attach(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        """Refuses to share the model with another tracker."""
        if _recorder_of(self.model) is not self._recorder:
            raise ValueError(
                "A `fit` must have at most one ForgettingTracker. "
                "Received: callbacks with several"
            )

    def on_epoch_end(self, epoch, logs=None):
        """Reads what the epoch recorded."""
        codes, seen = self._recorder.take(self.model)
        codes, unknown = codes[:-1], codes[-1]
        distinct = np.count_nonzero(codes)
        if unknown or seen != distinct:
            self.detach()
        if unknown:
            raise ValueError(
                f"ids must be in [0, num_examples={self.num_examples}). "
                f"Received: others in epoch {epoch}"
            )
        if seen != distinct:
            raise ValueError(
                "Every id must come at most once in an epoch. Received: "
                f"{seen} examples with {distinct} different ids in epoch "
                f"{epoch}"
            )
        outcomes = codes + np.int8(ABSENT)
        self.history = np.column_stack([self.history, outcomes])

    def on_train_end(self, logs=None):
        """Takes the recorder off the model."""
        self.detach()

    def detach(self) -> None:
        """Takes the recorder off the model, at the end of every `fit`.

        To be called by hand only where a `fit` was interrupted and the next
        one has no tracker.
        """
        recorder = _recorder_of(self.model)
        if recorder is not None:
            recorder.detach(self.model)

    def _threshold_of(self, loss):
        """Where a single unit says class 1; `None` if nobody knows."""
        if self.threshold is not None:
            return self.threshold
        if hasattr(loss, "from_logits"):
            return 0.0 if loss.from_logits else 0.5
        name = loss if isinstance(loss, str) else getattr(loss, "__name__", "")
        return 0.5 if "crossentropy" in name.lower() else None

    # ---- configuration and state ---------------------------------------

    def state(self) -> State:
        """Returns `(plain values, {name: array})`, what `restore` needs.

        Two bits for each example and epoch.
        """
        bits = np.packbits([self.history != ABSENT, self.history == 1])
        num_examples, epochs = self.history.shape
        return {"num_examples": num_examples, "epochs": epochs}, {
            "history": bits
        }

    def restore(self, plain: dict[str, Any], arrays: Arrays) -> None:
        """Continues where `state()` was taken.

        Raises:
            ValueError: The state is of another number of examples.
        """
        if plain["num_examples"] != self.num_examples:
            raise ValueError(
                "`plain` must be of a tracker with num_examples="
                f"{self.num_examples}. Received: {plain['num_examples']}"
            )
        shape = (2, self.num_examples, plain["epochs"])
        bits = np.unpackbits(arrays["history"], count=math.prod(shape))
        present, right = bits.reshape(shape).astype("int8")
        self.history = np.where(present == 1, right, np.int8(ABSENT))


class _Recorder(keras.metrics.Metric):
    """What the batches of an epoch record.

    A metric, because besides the model's and the optimizer's own variables
    those of metrics are what trainers carry through a compiled step. It has no
    result, and its state outlives the validation, before which Keras resets
    all metrics.
    """

    def __init__(self, num_examples, threshold):
        super().__init__(name="forgetting")
        self.num_examples = num_examples
        self.threshold = threshold
        # The last place is that of ids out of range: a compiled step cannot
        # raise.
        self.codes = self.add_variable(
            (num_examples + 1,), "zeros", dtype="int8", name="codes"
        )
        self.seen = self.add_variable((), "zeros", dtype="int32", name="seen")
        # Mirrored replicas trace one step in several threads, in turns.
        self._step = threading.local()
        self._before = {}

    # ---- on and off ----------------------------------------------------

    def attach(self, model):
        """Follows the steps of `model` from now on."""
        model._metrics.append(self)
        for name, wrap in (
            ("train_step", self._without_ids_in_training),
            ("test_step", self._without_ids_in_validation),
            ("compute_metrics", self._before_metrics),
        ):
            self._before[name] = model.__dict__.get(name)
            object.__setattr__(model, name, wrap(getattr(model, name)))
        model.test_function = None
        model.make_train_function(force=True)
        model.train_function = _giving_back(model, model.train_function)

    def detach(self, model):
        """Leaves `model` as it was."""
        for name, method in self._before.items():
            model.__dict__.pop(name)
            if method is not None:
                object.__setattr__(model, name, method)
        model._metrics.remove(self)
        model.test_function = None
        model.train_function = None

    def take(self, model):
        """Returns the epoch's `(codes, examples seen)`, and clears both."""
        strategy = getattr(model, "distribute_strategy", None)
        taken = []
        for variable in (self.codes, self.seen):
            copies = [variable]
            if strategy is not None:
                # Every replica records the examples of its own share.
                copies = strategy.experimental_local_results(variable.value)
            taken.append(sum(ops.convert_to_numpy(copy) for copy in copies))
            variable.assign(ops.zeros(variable.shape, variable.dtype))
        return taken

    # ---- in the compiled step ------------------------------------------

    def _without_ids_in_training(self, step):
        def train_step(*arguments):
            *state, data = arguments
            x, y, ids = keras.utils.unpack_x_y_sample_weight(data)
            if y is None or not _are_ids(ids):
                raise ValueError(
                    "ForgettingTracker needs batches (x, y, ids) with integer "
                    "ids, such as `fit(x, y, sample_weight=ids)`. Received: "
                    f"{_described(y)} as y and {_described(ids)} as ids. "
                    "(Where an interrupted `fit` left the tracker on the "
                    "model, call its `detach()`.)"
                )
            self._step.ids = ids
            try:
                data = keras.utils.pack_x_y_sample_weight(x, y)
                result = step(*state, data)
                recorded = self._step.ids is None
            finally:
                self._step.ids = None
            if not recorded:
                raise ValueError(
                    "ForgettingTracker learns the outputs of a training step "
                    "from `compute_metrics`. Call it in your own `train_step`."
                )
            return result

        return train_step

    def _without_ids_in_validation(self, step):
        def test_step(*arguments):
            *state, data = arguments
            x, y, ids = keras.utils.unpack_x_y_sample_weight(data)
            if _are_ids(ids):
                data = keras.utils.pack_x_y_sample_weight(x, y)
            return step(*state, data)

        return test_step

    def _before_metrics(self, compute_metrics):
        def record_and_compute(x, y, y_pred, sample_weight=None):
            self.update_state(y, y_pred)
            return compute_metrics(x, y, y_pred, sample_weight)

        return record_and_compute

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Records a batch, the first time that a training step says so."""
        ids = getattr(self._step, "ids", None)
        if ids is None:
            return
        self._step.ids = None
        ids = ops.reshape(ids, (-1,))
        inside = ops.logical_and(ids >= 0, ids < self.num_examples)
        ids = ops.cast(ops.where(inside, ids, self.num_examples), "int32")
        right = _are_right(y_true, y_pred, self.threshold)
        codes = ops.cast(ops.where(right, _RIGHT, _WRONG), "int8")
        self.codes.assign(
            ops.scatter_update(self.codes, ops.expand_dims(ids, 1), codes)
        )
        self.seen.assign_add(ops.cast(ops.shape(ids)[0], "int32"))

    def result(self):
        """Adds nothing to the logs."""
        return {}

    def reset_state(self):
        """Nothing: `take` clears, at the end of an epoch."""


def _recorder_of(model):
    for metric in model._metrics if model is not None else ():
        if isinstance(metric, _Recorder):
            return metric
    return None


def _scope(model):
    strategy = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def _refuse_what_cannot_be_followed(model):
    if keras.config.is_nnx_enabled():
        raise ValueError(
            "ForgettingTracker cannot follow the training of Flax modules. "
            "Start with KERAS_NNX_ENABLED=false."
        )
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync < 2:
        return
    kind = type(strategy).__name__
    if kind != "MirroredStrategy":
        raise ValueError(
            f"ForgettingTracker cannot follow the training under {kind}. Use "
            "MirroredStrategy, or the JAX backend with `keras.distribution`."
        )


def _giving_back(model, function):
    """Makes a training function that fails leave the model its values.

    On JAX a `fit` takes them out of the variables, and they would be lost.
    """

    def train_function(*arguments):
        try:
            return function(*arguments)
        except ValueError:
            *state, _ = arguments  # no state but on JAX
            carried = host.carried(model).values()
            variables = itertools.chain.from_iterable(carried)
            for variable, value in zip(variables, keras.tree.flatten(state)):
                variable.assign(value)
            raise

    return train_function


def _are_ids(third):
    dtype = getattr(third, "dtype", None)
    return dtype is not None and "int" in keras.backend.standardize_dtype(dtype)


def _described(value):
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return type(value).__name__
    return f"{keras.backend.standardize_dtype(dtype)} of shape {value.shape}"


def _are_right(y_true, y_pred, threshold):
    """Which examples of a batch are right: bool `(batch,)`."""
    y_true, y_pred = keras.tree.flatten(y_true), keras.tree.flatten(y_pred)
    shapes = [tuple(y.shape) for y in (*y_true, *y_pred)]
    labels, outputs = y_true[0], y_pred[0]
    single = len(shapes) == 2
    # A label column is as good as a list of labels.
    in_list = shapes[0][1:] in ((), (1,))
    if single and len(shapes[1]) == 2 and shapes[1][1] != 1:
        classes = ops.argmax(outputs, axis=-1)
        if in_list:
            labels = ops.reshape(labels, (-1,))
            return ops.equal(ops.cast(labels, classes.dtype), classes)
        if shapes[0][1:] == shapes[1][1:]:
            return ops.equal(ops.argmax(labels, axis=-1), classes)
    if single and in_list and shapes[1][1:] in ((), (1,)):
        if threshold is None:
            raise ValueError(
                "`threshold` must be given for outputs with a single unit, "
                "unless the loss is a cross-entropy. Received: threshold=None"
            )
        positive = ops.reshape(outputs, (-1,)) > threshold
        labels = ops.cast(ops.reshape(labels, (-1,)), "float32")
        return ops.equal(positive, labels > 0.5)
    raise ValueError(
        "ForgettingTracker needs one output of the shape (batch, classes) or "
        "(batch, 1), and labels that are classes or one-hot. Received: shapes "
        f"{shapes[: len(y_true)]} and {shapes[len(y_true) :]}"
    )
