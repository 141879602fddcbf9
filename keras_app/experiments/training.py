"""One model on one data set, with any optimizer and any pruner."""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import Self

import keras
import numpy as np

from keras_app import host
from keras_app import report as report_lib
from keras_app.experiments import devices
from keras_app.experiments.data.holdout import Parts as Source
from keras_app.experiments.experiment import FromScratch
from keras_app.experiments.experiment import Learner
from keras_app.experiments.experiment import Stage
from keras_app.experiments.experiment import Table
from keras_app.pruners import Pruner

# What a learner sums over the epochs.
_SUMMED = ("initial_density", "flops_share", "before")


@dataclasses.dataclass(frozen=True, eq=False)
class Train(FromScratch):
    """Trains one model, sparse or dense, and judges it on the test set.

    Data with classes are learned with cross-entropy and judged by accuracy, and
    text (`experiments.data.Text`) by perplexity, too; data whose targets are
    images (`experiments.data.Restoration`) with the mean squared error, judged
    by it and by the peak signal-to-noise ratio. What is judged are the weights
    after the last epoch.

    Args:
        data: An `experiments.data.Holdout`, `Restoration` or `Text`, or a
            callable that makes one given `seed`.
        model: A callable `(input_shape, num_classes, mean, std, seed) ->
            keras.Model`, or a name for `keras_app.experiments.models.get`.
        optimizer: An optimizer's name, or a callable without arguments that
            makes one. Defaults to `"adam"`.
        pruner: One of `keras_app.pruners`. Its steps are training steps. One
            that needs `data` and has none is given the training part, not
            augmented and always in the same order. Defaults to `None`.
        callbacks: Further Keras callbacks, such as controllers and learning
            rate rules. Those with `state() -> (plain values, {name: array})`
            and `restore(plain, arrays)` go on exactly when a run is resumed.
            Defaults to `()`.
        sparsify: A callable `(model, seed=...)` that changes the initial
            weights, such as `keras_app.initializers.sparsify` with its density
            bound. Defaults to `None`.
        epochs: Epochs, >= 1. Defaults to `10`.
        mean, std: Normalization inside the model. Default to `None`.
        discover: A callable `model -> dict` whose entries go into the
            summary, such as `keras_app.report.connection_matrix`. Defaults to
            `None`.
        label: Name of the method in tables. Defaults to the optimizer's
            class, and the pruner's.
        average_flip: Whether test images are judged by the mean of the logits
            of the image and of its mirror image. The summary then lists the
            figures that are such means in `averaged_over_flip`, and has
            `accuracy_unflipped` too. Defaults to `False`.
        seed: Seed of everything, >= 0. Defaults to `0`.
        dtype_policy: What the layers compute in: `"float32"`,
            `"mixed_bfloat16"` (weights stay float32), or `None`, Keras's
            global policy. See `docs/choosing.md` for when it is faster.
            Defaults to `None`.
        label_smoothing: Share of a target that is spread over all classes, in
            [0, 1). Defaults to `0.0`.
        no_decay: Patterns of the names of variables which the optimizer's
            `weight_decay` leaves alone, such as `("bias", "beta")`. Defaults
            to `()`.

    Raises:
        ValueError: Bad arguments, here or when it is run, before anything is
            written or trained.

    Example:

    ```python
    data = keras_app.experiments.data.Holdout("fashion_mnist_mini")
    summary = Train(data, "mlp", epochs=2).run("runs/try")
    ```
    """

    data: Source | Callable[..., Source]
    model: str | Callable[..., keras.Model]
    _: dataclasses.KW_ONLY
    optimizer: str | Callable[[], keras.optimizers.Optimizer] = "adam"
    pruner: Pruner | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    sparsify: Callable[..., object] | None = None
    epochs: int = 10
    discover: Callable[[keras.Model], dict[str, Any]] | None = None
    label: str | None = None

    kind = "train"
    methods = (None,)  # the learner names itself
    _objects = FromScratch._objects | {
        "callbacks",
        "sparsify",
        "discover",
        "label",
    }

    def __post_init__(self):
        """Raises on arguments out of their range."""
        super().__post_init__()
        given = [] if self.pruner is None else [self.pruner]
        if not isinstance(self.callbacks, (list, tuple)):
            raise TypeError(
                "`callbacks` must be a list. "
                f"Received: callbacks={self.callbacks!r}"
            )
        for each in (*given, *self.callbacks):
            if not isinstance(each, keras.callbacks.Callback):
                raise TypeError(
                    "`pruner` and `callbacks` must be callbacks, made by their "
                    "class: in gin with its parentheses, such as "
                    f"@pruners.RigL(). Received: {each!r}"
                )

    @property
    def total_epochs(self) -> int | None:
        """Epochs of all methods, for the progress bar."""
        return self.epochs

    def resolved(self) -> Self:
        """Returns the experiment with its data and its model made ready."""
        ready = super().resolved()
        if self.label_smoothing and ready.data.num_classes is None:
            raise ValueError(
                "`label_smoothing` must be left out where the targets are "
                f"images. Received: label_smoothing={self.label_smoothing}"
            )
        return ready

    def prepare_weights(self, model: keras.Model) -> None:
        """Changes the initial weights."""
        if self.sparsify is not None:
            self.sparsify(model, seed=self.seed)

    def learner(self, method: str) -> Learner:
        """Returns the learner."""
        return _Learner(self)

    def figures(
        self, learner: Learner | None, events: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """What the trained network is worth, and what it cost."""
        return learner.figures

    def summary(
        self, learner: Learner, figures: dict[str, Any]
    ) -> dict[str, Any]:
        """Test examples, and what `discover` finds in the model."""
        found = self.discover(learner.model) if self.discover else {}
        return {
            "test_examples": len(self.data.test[0]),
            **super().summary(learner, figures),
            **found,
        }

    def table(self, figures: dict[str, Any]) -> Table:
        """Title, columns and rows of the closing table."""
        ((label, figures),) = figures.items()
        rows = [
            (name, f"{value:.4f}")
            for name, value in figures.items()
            if isinstance(value, float)
        ]
        return f"{label} on {self.data.name}", ("figure", label), rows


class _Learner(Learner):
    """One training, with all its callbacks."""

    def __init__(self, experiment):
        self.experiment = e = experiment
        classes = e.data.num_classes is not None
        self.model = e.build_model(
            *(() if classes else ("mean_squared_error", ()))
        )
        if getattr(e.pruner, "needs_data", False):
            e.pruner.data = e.data.in_order(e.data.train_ids)
        pruners = [] if e.pruner is None else [e.pruner]
        self.callbacks = [*pruners, *e.callbacks]
        for callback in self.callbacks:
            callback.set_model(self.model)
        self.method = e.label or _label(self.model, e.pruner)
        report = report_lib.summarize(self.model)
        self.initial_density = report.effective_density
        self.flops_share = 0.0
        self.before = _flops_density(report)
        self.introduction = (
            f"[bold]{self.method}[/bold]: {self.model.name}, "
            f"{report.parameters:,} parameters, density "
            f"{self.initial_density:.4f} of the kernels"
        )
        self.shown = (
            "loss",
            "val_accuracy" if classes else "val_loss",
            "effective_density",
            "sparsity_all",
        )

    def settings(self):
        """The data, the method and its callbacks."""
        data = self.experiment.data
        return {
            "training_examples": len(data.train_ids),
            "batch_size": data.batch_size,
            "method": self.method,
            "callbacks": [
                [type(c).__name__, getattr(c, "get_config", dict)()]
                for c in self.callbacks
            ],
        }

    def stages(self):
        """The whole training is one."""
        e = self.experiment
        yield Stage(
            0,
            e.epochs,
            e.data.epochs,
            e.data.steps_per_epoch,
            e.data.validation,
            self.callbacks,
        )

    def epoch_done(self, stage, epoch, logs):
        """Counts what the epoch cost; returns its density.

        A step costs three forward passes: one, one for the gradient of the
        activations, one for that of the weights. Zero weights are left out of
        the first two, and of the third where the support cannot change.
        """
        report = report_lib.summarize(self.model)
        before, self.before = self.before, _flops_density(report)
        density = (before + self.before) / 2
        optimizer = self.model.optimizer
        freq = getattr(optimizer, "support_update_freq", 1)
        every_weight = 1 / freq + (1 - 1 / freq) * density
        share = (2 * density + every_weight) / 3
        self.flops_share += share / self.experiment.epochs
        return {
            "effective_density": report.effective_density,
            "sparsity_all": report.sparsity_all,
        }

    def conclude(self, stage, epochs):
        """Judges the network on the test set."""
        report = report_lib.summarize(self.model)
        self.figures = {
            **self._judge(),
            "effective_density": report.effective_density,
            "density_all": 1.0 - report.sparsity_all,
            "sparsity_all": report.sparsity_all,
            "initial_density": self.initial_density,
            "training_flops_share": self.flops_share,
            "layers": {r.path: r.density for r in report.rows if r.prunable},
        }

    def _judge(self):
        data = self.experiment.data
        inputs, targets = data.test
        outputs = self.experiment.test_outputs(self.model, inputs)
        if data.num_classes is not None:

            def share_right(logits):
                return float(np.mean(np.argmax(logits, -1) == targets))

            if targets.ndim > 1:
                return {
                    "accuracy": share_right(outputs),
                    "perplexity": report_lib.perplexity(
                        self.model, data.test, from_logits=True
                    ),
                }
            if not self.experiment.average_flip:
                return {"accuracy": share_right(outputs)}
            straight = devices.predict(
                self.model, inputs, batch_size=256, verbose=0
            )
            return {
                "accuracy": share_right(outputs),
                "accuracy_unflipped": share_right(straight),
            }
        error = float(np.mean((outputs - targets) ** 2))
        before = float(np.mean((inputs - targets) ** 2))
        return {
            "accuracy": None,
            "mean_squared_error": error,
            "psnr": -10 * math.log10(error),
            "psnr_of_input": -10 * math.log10(before),
        }

    def missed(self):
        """What the pruner says."""
        pruner = self.experiment.pruner
        return [] if pruner is None else pruner.missed

    # ---- resuming ------------------------------------------------------

    @property
    def parts(self):
        """The callbacks that have a state."""
        return {
            f"callback/{index}": callback
            for index, callback in enumerate(self.callbacks)
            if hasattr(callback, "state")
        }

    def state(self):
        """The figures that are summed over the epochs."""
        return {name: getattr(self, name) for name in _SUMMED}, {}

    def restore(self, plain, arrays):
        """Continues where `state()` was taken."""
        for name in _SUMMED:
            setattr(self, name, plain[name])


def _flops_density(report):
    """Forward operations of the kept weights, relative to all."""
    return report.sparse_flops / report.flops if report.flops else 1.0


def _label(model, pruner):
    parts = [type(host.inner_optimizer(model)).__name__]
    if pruner is not None:
        parts.append(type(pruner).__name__)
    return " + ".join(parts)
