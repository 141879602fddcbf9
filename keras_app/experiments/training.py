"""One model on one data set, with any optimizer and any pruner."""

import math

import keras
import numpy as np

from keras_app import host
from keras_app import report as report_lib
from keras_app.checks import check_int
from keras_app.experiments import data as data_lib
from keras_app.experiments import devices
from keras_app.experiments import models
from keras_app.experiments.callbacks import model_state
from keras_app.experiments.callbacks import Recorder
from keras_app.experiments.callbacks import restore_model_state
from keras_app.experiments.run_folder import MODEL
from keras_app.experiments.session import open_folder
from keras_app.experiments.session import plain
from keras_app.experiments.session import Session
from keras_app.experiments.session import settings_of
from keras_app.export import strip_pruning


def train(
    data,
    model,
    run_dir,
    *,
    optimizer="adam",
    pruner=None,
    callbacks=(),
    sparsify=None,
    epochs=10,
    mean=None,
    std=None,
    discover=None,
    label=None,
    seed=0,
    resume=False,
    on_start=None,
    verbose=True,
):
    """Trains one model, sparse or dense, and judges it on the test set.

    Data with classes are learned with cross-entropy and judged by accuracy;
    data whose targets are images (`experiments.data.Restoration`) with the mean
    squared error, judged by it and by the peak signal-to-noise ratio. What is
    judged are the weights after the last epoch.

    Args:
        data: An `experiments.data.Holdout` or `Restoration`, or a callable
            that makes one given `seed`.
        model: A callable `(input_shape, num_classes, mean, std, seed) ->
            keras.Model`, or a name for `experiments.models.get`.
        run_dir: Folder to write; see `docs/run_folder.md`.
        optimizer: An optimizer's name, or a callable without arguments that
            makes one. Defaults to `"adam"`.
        pruner: One of `keras_app.pruners`. Its steps are training steps. One
            that needs `data` and has none is given the training part, not
            augmented and always in the same order. Defaults to `None`.
        callbacks: Further Keras callbacks, such as controllers and learning
            rate rules. Those with `state()` and `restore(state)` (plain
            values), or `arrays()` and `restore_arrays(arrays)`, go on exactly
            when a run is resumed. Defaults to `()`.
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
        seed: Seed of everything, >= 0. Defaults to `0`.
        resume: Whether to continue what is in `run_dir`. Defaults to `False`.
        on_start: Called with the `RunFolder` when everything is checked and
            before anything is trained. Defaults to `None`.
        verbose: Whether to print progress. Defaults to `True`.

    Returns:
        The summary, as in `summary.json`: a dict.

    Raises:
        ValueError: Bad arguments, before anything is written or trained.

    Example:

    ```python
    summary = train(
        Holdout("fashion_mnist_mini"), "mlp", "runs/try", epochs=2
    )
    ```
    """
    folder, finished = open_folder(run_dir, resume)
    if finished is not None:
        return finished
    check_int("epochs", epochs, 1)
    check_int("seed", seed, 0)
    keras.utils.set_random_seed(seed)
    data_lib.make_deterministic()
    data = data(seed=seed) if callable(data) else data
    keras.utils.set_random_seed(seed)
    model = models.factory(model)(
        input_shape=tuple(data.image_shape),
        num_classes=data.num_classes,
        mean=mean,
        std=std,
        seed=seed,
    )
    if sparsify is not None:
        sparsify(model, seed=seed)
    model.compile(
        optimizer if isinstance(optimizer, str) else optimizer(),
        **_objective(data),
    )
    host.check_model(model)
    if getattr(pruner, "needs_data", False):
        pruner.data = data.in_order(data.train_ids)
    # Everything that can be wrong shows before the first file is written.
    model.optimizer.build(model.trainable_variables)
    callbacks = [*([pruner] if pruner is not None else []), *callbacks]
    for callback in callbacks:
        callback.set_model(model)
    label = label or _label(model, pruner)
    settings = {
        "backend": keras.backend.backend(),
        "data": data.name,
        "training_examples": len(data.train_ids),
        "batch_size": data.batch_size,
        **settings_of(data, mean, std),
        "model": model.name,
        "parameters": int(model.count_params()),
        "method": label,
        "optimizer": plain(model.optimizer.get_config()),
        "callbacks": [
            [type(c).__name__, plain(getattr(c, "get_config", dict)())]
            for c in callbacks
        ],
        "epochs": epochs,
        "seed": seed,
    }
    with Session(folder, settings, resume, verbose) as session:
        run = _Run(session, data, model, pruner, callbacks, label, epochs)
        return run.go(on_start, discover)


def _objective(data):
    if data.num_classes is None:
        return {"loss": "mean_squared_error"}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {"loss": loss, "metrics": ["accuracy"]}


def _label(model, pruner):
    optimizer = model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    parts = [type(optimizer).__name__]
    if pruner is not None:
        parts.append(type(pruner).__name__)
    return " + ".join(parts)


class _Run:
    """The training, from the start or from a checkpoint."""

    def __init__(self, session, data, model, pruner, callbacks, label, epochs):
        self.session = session
        self.data = data
        self.model = model
        self.pruner = pruner
        self.callbacks = callbacks
        self.label = label
        self.epochs = epochs

    def go(self, on_start, discover):
        first = 0
        checkpoint = self.session.begin(on_start)
        if checkpoint is not None:
            first = self._restore(*checkpoint)
        report = report_lib.summarize(self.model)
        if checkpoint is None:
            self.initial_density = report.effective_density
            self.flops_share = 0.0
        self._densities = [_flops_density(report)]
        self.session.terminal.line(
            f"[bold]{self.label}[/bold]: {self.model.name}, "
            f"{report.parameters:,} parameters, density "
            f"{self.initial_density:.4f} of the kernels"
        )
        self.session.open_events(self.label)
        with self.session.terminal.bar(self.epochs, first):
            self.model.fit(
                self.data.epochs(first, self.epochs),
                steps_per_epoch=self.data.steps_per_epoch,
                initial_epoch=first,
                epochs=self.epochs,
                validation_data=self.data.validation,
                callbacks=[
                    *self.callbacks,
                    Recorder(self.session.folder, self.epoch_done),
                ],
                verbose=0,
                shuffle=False,
            )
        if self.pruner is not None:
            self.session.missed += self.pruner.missed
        return self._finish(discover)

    # ---- epochs --------------------------------------------------------

    def epoch_done(self, epoch, logs):
        """Logs one epoch and takes a checkpoint."""
        report = report_lib.summarize(self.model)
        self._count_operations(report)
        event = {
            "event": "epoch",
            "method": self.label,
            "epoch": epoch,
            **{name: float(value) for name, value in logs.items()},
            "learning_rate": float(
                keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
            ),
            "effective_density": report.effective_density,
            "sparsity_all": report.sparsity_all,
        }
        self.session.log(event)
        for name, value in event.items():
            if isinstance(value, float):
                self.session.scalar(f"epoch/{name}", value, epoch + 1)
        self.session.check_losses(event, f"epoch {epoch + 1}")
        if epoch + 1 < self.epochs:
            # A run that is cut off later repeats its last epoch, and with it
            # what callbacks do when training ends.
            self._checkpoint(epoch + 1)
        shown = {
            "loss": event["loss"],
            "val_accuracy": event.get("val_accuracy"),
            "val_loss": event["val_loss"],
            "density": event.get("density", event["effective_density"]),
            "sparsity_all": event["sparsity_all"],
        }
        self.session.terminal.line(
            f"epoch {epoch + 1}/{self.epochs}  "
            + "  ".join(
                f"{k} {v:.4f}" for k, v in shown.items() if v is not None
            )
        )
        self.session.terminal.advance(self.label)

    def _checkpoint(self, epoch):
        states = {
            str(index): callback.state()
            for index, callback in enumerate(self.callbacks)
            if hasattr(callback, "state")
        }
        arrays = {
            f"callback/{index}/{name}": array
            for index, callback in enumerate(self.callbacks)
            if hasattr(callback, "arrays")
            for name, array in callback.arrays().items()
        }
        self.session.checkpoint(
            {**model_state(self.model), **arrays},
            {
                "epoch": epoch,
                "callbacks": states,
                "initial_density": self.initial_density,
                "flops_share": self.flops_share,
            },
        )

    def _restore(self, arrays, meta):
        restore_model_state(self.model, arrays)
        for index, state in meta["callbacks"].items():
            self.callbacks[int(index)].restore(state)
        for index, callback in enumerate(self.callbacks):
            if hasattr(callback, "restore_arrays"):
                start = f"callback/{index}/"
                callback.restore_arrays(
                    {
                        name.removeprefix(start): array
                        for name, array in arrays.items()
                        if name.startswith(start)
                    }
                )
        self.initial_density = meta["initial_density"]
        self.flops_share = meta["flops_share"]
        self.session.terminal.line(f"resuming at epoch {meta['epoch'] + 1}")
        return meta["epoch"]

    # ---- figures -------------------------------------------------------

    def _count_operations(self, report):
        """Adds an epoch's share of the operations of dense training.

        A step costs three forward passes: one, one for the gradient of the
        activations, one for that of the weights. Zero weights are left out of
        the first two, and of the third where the support cannot change.
        """
        self._densities.append(_flops_density(report))
        density = sum(self._densities[-2:]) / 2
        optimizer = self.model.optimizer
        freq = getattr(optimizer, "support_update_freq", 1)
        every_weight = 1 / freq + (1 - 1 / freq) * density
        share = (2 * density + every_weight) / 3
        self.flops_share += share / self.epochs

    def _finish(self, discover):
        report = report_lib.summarize(self.model)
        figures = {
            **self._judge(),
            "effective_density": report.effective_density,
            "density_all": 1.0 - report.sparsity_all,
            "sparsity_all": report.sparsity_all,
            "initial_density": self.initial_density,
            "training_flops_share": self.flops_share,
            "layers": {r.path: r.density for r in report.rows if r.prunable},
        }
        self.session.folder.save_model(strip_pruning(self.model), MODEL)
        summary = {
            "experiment": "train",
            "method": self.label,
            "accuracy": figures["accuracy"],
            "effective_density": figures["effective_density"],
            "sparsity_all": figures["sparsity_all"],
            "seed": self.session.settings["seed"],
            "data": self.data.name,
            "model": self.model.name,
            "epochs": self.epochs,
            "test_examples": len(self.data.test[0]),
            "methods": {self.label: figures},
            **(discover(self.model) if discover is not None else {}),
        }
        shown = {k: v for k, v in figures.items() if isinstance(v, float)}
        return self.session.finish(
            summary,
            f"{self.model.name} on {self.data.name}",
            ("figure", self.label),
            [(name, f"{value:.4f}") for name, value in shown.items()],
        )

    def _judge(self):
        inputs, targets = self.data.test
        outputs = devices.predict(self.model, inputs, batch_size=256, verbose=0)
        if self.data.num_classes is None:
            error = float(np.mean((outputs - targets) ** 2))
            before = float(np.mean((inputs - targets) ** 2))
            return {
                "accuracy": None,
                "mean_squared_error": error,
                "psnr": -10 * math.log10(error),
                "psnr_of_input": -10 * math.log10(before),
            }
        return {"accuracy": float(np.mean(np.argmax(outputs, -1) == targets))}


def _flops_density(report):
    """Forward operations of the kept weights, relative to all."""
    return report.sparse_flops / report.flops if report.flops else 1.0
