"""The base of all experiments: from arguments to a run folder.

An `Experiment` holds the arguments. For each of its methods it makes a
`Learner`, which owns the model; a learner trains in `Stage`s, each one call of
`fit`. The `Runner` takes the learners through their stages, records every
epoch and goes on where a killed run stopped.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import ClassVar
from typing import Self

import keras
import numpy as np
import numpy.typing as npt

from keras_app import host
from keras_app.checks import check_choice
from keras_app.checks import check_int
from keras_app.checks import check_number
from keras_app.experiments import data as data_lib
from keras_app.experiments import devices
from keras_app.experiments import models
from keras_app.experiments.losses import SmoothedCrossentropy
from keras_app.experiments.models.whitening import wants_whitening
from keras_app.experiments.run.folder import RunFolder
from keras_app.experiments.run.interruption import StopPoints
from keras_app.experiments.run.progress import Terminal
from keras_app.experiments.run.runner import Runner
from keras_app.experiments.run.session import open_folder
from keras_app.experiments.run.session import Session
from keras_app.export import fresh_process
from keras_app.hints import FilePath
from keras_app.hints import Loss

# The closing table: its title, its columns, its rows.
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]

_POLICIES = (None, "float32", "mixed_bfloat16")
_WHITENED = 5000  # images that a whitening layer is made from


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """What the command line runs; `run` writes a run folder.

    A child is a frozen dataclass. Its fields are the arguments, what gin
    binds, and what a run must have in common with the one that it resumes.
    All children have `data`, `model`, `optimizer` and `epochs`, too.

    Args:
        seed: Seed of everything, >= 0. Defaults to `0`.
    """

    _: dataclasses.KW_ONLY
    seed: int = 0

    #: What `summary.json` calls it.
    kind: ClassVar[str | None] = None

    #: Fields that name objects; `settings` describes what came of them.
    _objects = frozenset({"data", "model", "optimizer", "pruner"})

    #: Fields that are integers, and their least values.
    _least = {"epochs": 1, "seed": 0}

    #: Fields that are words, and those there are.
    _choices = {}

    def __post_init__(self):
        """Raises on arguments out of their range; children add theirs."""
        for name, choices in self._choices.items():
            check_choice(name, getattr(self, name), choices)
        for name, least in self._least.items():
            check_int(name, getattr(self, name), least)

    def run(
        self,
        run_dir: FilePath,
        resume: bool = False,
        *,
        on_start: Callable[[RunFolder], object] | None = None,
        verbose: bool = True,
    ) -> dict[str, Any]:
        """Runs the experiment and writes its run folder.

        Args:
            run_dir: Folder to write; see `docs/run_folder.md`.
            resume: Whether to continue what is in `run_dir`. Defaults to
                `False`.
            on_start: Called with the `RunFolder` when everything is checked
                and before anything is trained. Defaults to `None`.
            verbose: Whether to print progress. Defaults to `True`.

        Returns:
            The summary, as in `summary.json`: a dict.

        Raises:
            ValueError: Bad arguments, before anything is written or trained.
        """
        folder, finished = open_folder(run_dir, resume)
        if finished is not None:
            return finished
        keras.utils.set_random_seed(self.seed)
        data_lib.make_deterministic()
        ready = self.resolved()
        # Everything that can be wrong shows before the first file is written.
        learner = ready.learner(ready.methods[0])
        ready.check(learner)
        settings = ready.settings(learner)
        # Some make and run many files, most of them in less time than a process
        # takes to start.
        with (
            fresh_process.kept(),
            Session(folder, settings, resume, verbose) as session,
        ):
            return Runner(ready, learner, session).go(on_start)

    # ---- what an experiment says ---------------------------------------

    def resolved(self) -> Self:
        """Returns the experiment with its data and its model made ready."""
        raise NotImplementedError

    def learner(self, method: str) -> "Learner":
        """Returns the `Learner` of a method, at its start."""
        raise NotImplementedError

    def check(self, learner: "Learner") -> None:
        """Raises what the learners of further methods would raise."""

    @property
    def total_epochs(self) -> int | None:
        """Epochs of all methods, for the progress bar; `None`: unknown."""
        return None

    def beside(self, learner: "Learner") -> dict[str, Any]:
        """Returns `{name: figures}` of what the methods are compared with."""
        return {}

    def figures(
        self, learner: "Learner | None", events: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Returns the figures of one method, a dict of plain values.

        Args:
            learner: Its learner, or `None` for a method that an earlier
                session of the run has finished.
            events: Everything that was logged about it.
        """
        raise NotImplementedError

    def summary(
        self, learner: "Learner", figures: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns what the summary holds beyond what all of them hold."""
        if self.average_flip:
            return {"averaged_over_flip": ["accuracy"]}
        return {}

    def table(self, figures: dict[str, Any]) -> Table:
        """Returns title, columns and rows of the closing table."""
        raise NotImplementedError

    # ---- shared --------------------------------------------------------

    def settings(self, learner: "Learner") -> dict[str, Any]:
        """Plain values that must be equal for a run to be continued."""
        own = {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in self._objects
        }
        # A data set without `settings` is known by its name and size alone.
        of_data = _plain(getattr(self.data, "settings", {}))
        return {
            "backend": host.BACKEND,
            "data": self.data.name,
            **{f"data.{name}": value for name, value in of_data.items()},
            "model": learner.model.name,
            "parameters": int(learner.model.count_params()),
            "optimizer": _plain(learner.model.optimizer.get_config()),
            **own,
            **_plain(learner.settings()),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class FromScratch(Experiment):
    """An experiment that makes its network.

    Args:
        mean, std: Normalization inside the model. Default to `None`.
        dtype_policy: What the layers compute in: `"float32"`,
            `"mixed_bfloat16"` (weights stay float32), or `None`, Keras's
            global policy. The global policy itself is left as it is.
            `"mixed_float16"` is not taken: it needs a scaled loss. Defaults
            to `None`.
        label_smoothing: Share of a target that is spread over all classes, in
            [0, 1); of the validation loss, too. Defaults to `0.0`.
        no_decay: Patterns of the names of variables which the optimizer's
            `weight_decay` leaves alone, such as `("bias", "beta")`. Defaults
            to `()`.
        average_flip: Whether test images are judged by the mean of the logits
            of the image and of its mirror image; figures of validation are
            never such means. Defaults to `False`.
        seed: See `Experiment`.
    """

    _: dataclasses.KW_ONLY
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    dtype_policy: str | None = None
    label_smoothing: float = 0.0
    no_decay: Sequence[str] = ()
    average_flip: bool = False

    def __post_init__(self):
        """Raises on arguments out of their range."""
        super().__post_init__()
        check_choice("dtype_policy", self.dtype_policy, _POLICIES)
        check_number(
            "label_smoothing",
            self.label_smoothing,
            lambda x: 0 <= x < 1,
            "in [0, 1)",
        )
        if isinstance(self.no_decay, str) or not all(
            isinstance(name, str) for name in self.no_decay
        ):
            raise TypeError(
                "`no_decay` must be names in a list. "
                f"Received: no_decay={self.no_decay!r}"
            )

    def resolved(self) -> Self:
        """Returns the experiment with its data and its model made ready."""
        data = made("data", self.data, self.seed)
        model = models.factory(self.model)
        ready = dataclasses.replace(self, data=data, model=model)
        ready.check_average_flip()
        return ready

    def build_model(
        self,
        loss: Loss | None = None,
        metrics: Sequence[str | keras.metrics.Metric] = ("accuracy",),
    ) -> keras.Model:
        """Returns the compiled, built model; equal for equal seeds."""
        keras.utils.set_random_seed(self.seed)
        with _policy(self.dtype_policy):
            model = self.model(
                input_shape=tuple(self.data.image_shape),
                num_classes=self.data.num_classes,
                mean=self.mean,
                std=self.std,
                seed=self.seed,
            )
        if wants_whitening(model):
            ids = self.data.train_ids[:_WHITENED]
            models.whiten(model, self.data.images(ids))
        self.prepare_weights(model)
        if loss is None:
            loss = (
                SmoothedCrossentropy(self.label_smoothing)
                if self.label_smoothing
                else keras.losses.SparseCategoricalCrossentropy(
                    from_logits=True
                )
            )
        optimizer = self.optimizer
        model.compile(
            optimizer if isinstance(optimizer, str) else optimizer(),
            loss,
            metrics=list(metrics),
        )
        host.check_model(model)
        self._leave_out_of_decay(host.inner_optimizer(model))
        model.optimizer.build(model.trainable_variables)
        return model

    def _leave_out_of_decay(self, optimizer):
        if not self.no_decay:
            return
        if optimizer.weight_decay is None:
            raise ValueError(
                "`no_decay` must be () with an optimizer that has no "
                f"decoupled weight decay. Received: no_decay={self.no_decay} "
                f"with {type(optimizer).__name__}"
            )
        optimizer.exclude_from_weight_decay(var_names=list(self.no_decay))

    def prepare_weights(self, model: keras.Model) -> None:
        """Changes the initial weights."""

    def test_outputs(
        self, model: keras.Model, inputs: npt.ArrayLike
    ) -> np.ndarray:
        """Returns what a model gives of test inputs, a NumPy array."""
        how = {"batch_size": 256, "verbose": 0, "callbacks": [StopPoints()]}
        outputs = devices.predict(model, inputs, **how)
        if not self.average_flip:
            return outputs
        mirrored = inputs[:, :, ::-1]
        outputs += devices.predict(model, mirrored, **how)
        return outputs / 2

    def check_average_flip(self) -> None:
        """Raises unless the data are images with classes, if it is asked."""
        if not self.average_flip:
            return
        if self.data.num_classes is None:
            raise ValueError(
                "`average_flip` must be left out where the targets are "
                "images. Received: average_flip=True"
            )
        if len(self.data.image_shape) != 3:
            raise ValueError(
                "`average_flip` must be False unless images have the shape "
                "(height, width, channels). Received: inputs of shape "
                f"{tuple(self.data.image_shape)}"
            )

    def check_classes(self) -> None:
        """Raises unless the data have classes."""
        if self.data.num_classes is None:
            raise ValueError(
                "`data` must have classes, which predictions are right or "
                f"wrong about. Received: {self.data.name}, whose targets are "
                "images"
            )


class Learner:
    """What one method trains: a model, and everything it has found so far.

    Attributes:
        method: Its name.
        model: The compiled, built model.
        introduction: A line for the terminal.
        terminal: The `Terminal` of the run that it learns in.
    """

    # Before there is a run nothing is shown.
    terminal = Terminal(verbose=False)

    #: Which figures of an epoch the terminal shows.
    shown = ("loss", "accuracy", "val_accuracy")

    def stages(self):
        """Yields every `Stage`, in order; lazily."""
        raise NotImplementedError

    def settings(self):
        """What must be equal for a run to be continued, beyond the fields."""
        return {}

    def prepare(self, stage):
        """Makes ready for a stage, one that a checkpoint was taken in too."""

    def begin(self, stage):
        """Before the first epoch of a stage."""

    def epoch_done(self, stage, epoch, logs):
        """After an epoch; returns further figures of it."""
        return {}

    def conclude(self, stage, epochs):
        """After a stage; returns an event to log, or `None`.

        Args:
            stage: The `Stage`.
            epochs: The logged events of its epochs.
        """
        raise NotImplementedError

    def missed(self):
        """Sentences on targets that the last stage did not reach."""
        return []

    def close(self, folder):
        """After the last stage: writes what the method found.

        Returns:
            Sentences on targets that were not reached, or `None`.
        """

    # ---- resuming ------------------------------------------------------

    def state(self):
        """Returns `(plain values, {name: array})`, besides the model's."""
        return {}, {}

    def restore(self, plain, arrays):
        """Continues where `state()` was taken."""

    @property
    def parts(self):
        """`{name: object with state and restore}`, as of the stage."""
        return {}


@dataclasses.dataclass
class Stage:
    """One training of a learner, a call of `fit`.

    Attributes:
        number: Its place among the learner's stages, from 0.
        epochs: For how many epochs.
        batches: A callable `(first, last) -> dataset` of these epochs.
        steps_per_epoch: Batches of one epoch.
        validation: A dataset.
        callbacks: Keras callbacks, in order.
        about: What the events of its epochs say about it.
        title: What people call it, such as `"megabatch 2"`.
        details: What else the learner keeps about it.
    """

    number: int
    epochs: int
    batches: object
    steps_per_epoch: int
    validation: object
    callbacks: list
    about: dict = dataclasses.field(default_factory=dict)
    title: str = ""
    details: object = None


@contextlib.contextmanager
def _policy(name):
    """Makes layers compute so inside; outside all is as it was."""
    before = keras.config.dtype_policy()
    try:
        if name is not None:
            keras.config.set_dtype_policy(name)
        yield
    finally:
        if name is not None:
            keras.config.set_dtype_policy(before)


def made(name, data, seed):
    """Returns a data set of `experiments.data`, or raises.

    Args:
        name: Name of the argument, for the message.
        data: The data set, or a callable that makes it given `seed`.
        seed: Seed of everything.
    """
    data = data(seed=seed) if callable(data) else data
    if not hasattr(data, "num_classes"):
        raise TypeError(
            f"`{name}` must be a data set of `experiments.data`, or a callable "
            f"that makes one given `seed`. Received: {name}={data!r}"
        )
    return data


def _plain(value):
    """A configuration as JSON can hold it, without names.

    Keras's names carry a counter that differs between processes.
    """
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k != "name"}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (str, bool, int, float, type(None))):
        return value
    try:
        return float(keras.ops.convert_to_numpy(value))
    except (TypeError, ValueError):
        return str(value)
