"""Anytime learning over megabatches: APP, one-shot pruning, and dense."""

import dataclasses

import keras
import numpy as np

from keras_app import host
from keras_app import report as report_lib
from keras_app.checks import check_int
from keras_app.enforcement import masks_of
from keras_app.enforcement import state_of
from keras_app.experiments import data as data_lib
from keras_app.experiments import devices
from keras_app.experiments import models
from keras_app.experiments.callbacks import BestWeights
from keras_app.experiments.callbacks import MilestoneLearningRate
from keras_app.experiments.callbacks import model_state
from keras_app.experiments.callbacks import Recorder
from keras_app.experiments.callbacks import restore_model_state
from keras_app.experiments.run_folder import MODEL
from keras_app.experiments.session import open_folder
from keras_app.experiments.session import plain
from keras_app.experiments.session import Session
from keras_app.experiments.session import settings_of
from keras_app.export import strip_pruning
from keras_app.optimizers import CoupledSGD
from keras_app.pruners import AnytimeProgressivePruner
from keras_app.schedules import AnytimeSchedule
from keras_app.schedules import OneShot

METHODS = ("app", "one_shot", "dense", "app_reference")


def anytime(
    megabatches,
    model,
    run_dir,
    *,
    test=None,
    methods=("app", "one_shot", "dense"),
    level=4.5,
    base=0.8,
    pruner=AnytimeProgressivePruner,
    optimizer=CoupledSGD,
    epochs=50,
    milestones=(20, 40),
    warmup_epochs=0,
    progressive_local=True,
    carry_optimizer_state=False,
    init_from_scratch=False,
    mean=None,
    std=None,
    seed=0,
    resume=False,
    on_start=None,
    verbose=True,
):
    """Trains on a stream of megabatches, with and without pruning.

    Each method starts from the same weights. Megabatch by megabatch it prunes
    (or not), restarts the learning rate, trains for `epochs` epochs, rolls
    back to the weights with the best validation accuracy, and is judged on
    the test set.

        CER = sum over t of the misclassified test examples after megabatch t

    Args:
        megabatches: An `experiments.data.Megabatches`, or a callable that
            makes one given `seed`.
        model: A callable `(input_shape, num_classes, mean, std, seed) ->
            keras.Model` giving logits, or a name for `experiments.models.get`.
        run_dir: Folder to write; see `docs/run_folder.md`.
        test: Pair `(images, labels)` of arrays. Defaults to the test split of
            the data set that `megabatches` names.
        methods: Some of `"app"`, `"one_shot"` (pruned once, before the first
            megabatch), `"dense"`, and `"app_reference"` (as the authors'
            released code prunes). The first is the run's main result.
        level: Sparsity level L, >= 1; the last density is `base ** level`.
            Defaults to `4.5`, which keeps 36.6 % of the prunable weights.
        base: Density per level, in (0, 1). Defaults to `0.8`.
        pruner: A callable with the arguments of `AnytimeProgressivePruner`,
            given `schedule` and `seed`.
        optimizer: A callable without arguments that makes the optimizer.
        epochs: Epochs per megabatch, >= 1. Defaults to `50`.
        milestones: Epochs at which the learning rate falls to a tenth.
            Defaults to `(20, 40)`.
        warmup_epochs: Epochs of linear warm-up. Defaults to `0`.
        progressive_local: With `scope="layer"`, whether the density falls from
            megabatch to megabatch; the authors' code prunes to the last
            density at once. Defaults to `True`.
        carry_optimizer_state: Whether momentum survives from one megabatch to
            the next, as in the authors' code. Defaults to `False`.
        init_from_scratch: Whether every megabatch starts from the initial
            weights (under the current mask). Defaults to `False`.
        mean, std: Normalization inside the model. Default to `None`.
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
    summary = anytime(
        Megabatches("fashion_mnist_mini", 4), "convnet", "runs/try", epochs=2
    )
    ```

    Reference: [Misra et al., 2022](https://arxiv.org/abs/2204.01640); the
    accounting of parameters and operations follows
    [Caccia et al., 2022](https://arxiv.org/abs/2106.09563).
    """
    folder, finished = open_folder(run_dir, resume)
    if finished is not None:
        return finished
    methods = _check_methods(methods)
    check_int("epochs", epochs, 1)
    check_int("warmup_epochs", warmup_epochs, 0)
    check_int("seed", seed, 0)
    keras.utils.set_random_seed(seed)
    data_lib.make_deterministic()
    if callable(megabatches):
        megabatches = megabatches(seed=seed)
    test_images, test_labels = _test_arrays(megabatches, test)
    settings = _Settings(
        megabatches=megabatches,
        make_model=models.factory(model),
        test_images=test_images,
        test_labels=test_labels,
        level=level,
        base=base,
        pruner=pruner,
        optimizer=optimizer,
        epochs=epochs,
        milestones=tuple(milestones),
        warmup_epochs=warmup_epochs,
        progressive_local=progressive_local,
        carry_optimizer_state=carry_optimizer_state,
        init_from_scratch=init_from_scratch,
        mean=mean,
        std=std,
        seed=seed,
    )
    # A model is built and thrown away, so that a mistake in any argument shows
    # before the first file is written.
    model = _Learner(methods[0], settings).build_model()
    if not isinstance(model.optimizer.learning_rate, keras.Variable):
        raise ValueError(
            "`optimizer` must have a number as its learning rate: `milestones` "
            "and `warmup_epochs` are the schedule here. Received: "
            f"{model.optimizer.get_config()['learning_rate']}"
        )
    for method in methods:
        _Learner(method, settings).check(model)
    fingerprint = settings.fingerprint(methods, model)
    with Session(folder, fingerprint, resume, verbose) as session:
        return _Run(session, methods, settings).go(on_start)


@dataclasses.dataclass(frozen=True)
class _Settings:
    megabatches: object
    make_model: object
    test_images: np.ndarray
    test_labels: np.ndarray
    level: float
    base: float
    pruner: object
    optimizer: object
    epochs: int
    milestones: tuple
    warmup_epochs: int
    progressive_local: bool
    carry_optimizer_state: bool
    init_from_scratch: bool
    mean: object
    std: object
    seed: int

    def fingerprint(self, methods, model):
        """Plain values that must be equal for a run to be continued."""
        pruner = _Learner(methods[0], self).make_pruner().get_config()
        return {
            "backend": keras.backend.backend(),
            "methods": list(methods),
            "data": self.megabatches.name,
            "num_megabatches": len(self.megabatches),
            "training_examples": int(
                sum(len(m.train_ids) for m in self.megabatches)
            ),
            "steps_per_epoch": self.megabatches[0].steps_per_epoch,
            **settings_of(self.megabatches, self.mean, self.std),
            "model": model.name,
            "parameters": int(model.count_params()),
            "level": float(self.level),
            "base": float(self.base),
            "pruner": plain(dict(sorted(pruner.items()))),
            "optimizer": plain(model.optimizer.get_config()),
            "epochs": self.epochs,
            "milestones": list(self.milestones),
            "warmup_epochs": self.warmup_epochs,
            "carry_optimizer_state": self.carry_optimizer_state,
            "init_from_scratch": self.init_from_scratch,
            "seed": self.seed,
        }


class _Learner:
    """What differs between the methods: the model's pruner, if any."""

    def __init__(self, method, settings):
        self.method = method
        self.settings = settings

    def build_model(self):
        s = self.settings
        keras.utils.set_random_seed(s.seed)
        model = s.make_model(
            input_shape=tuple(s.megabatches.image_shape),
            num_classes=s.megabatches.num_classes,
            mean=s.mean,
            std=s.std,
            seed=s.seed,
        )
        model.compile(
            s.optimizer(),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        host.check_model(model)
        model.optimizer.build(model.trainable_variables)
        return model

    def make_pruner(self):
        """The pruner; for the dense network one that is never attached."""
        s = self.settings
        schedule = AnytimeSchedule(len(s.megabatches), s.level, s.base)
        extra = {}
        if self.method == "one_shot":
            schedule = OneShot(1.0 - s.base**s.level)
        if self.method == "app_reference":
            schedule = AnytimeSchedule(
                len(s.megabatches), s.level, s.base, reference_compatible=True
            )
            extra = {
                "mask_update": "intersect",
                "score_weights": "reference_fresh",
                "ties": "le",
            }
        pruner = s.pruner(schedule=schedule, seed=s.seed, **extra)
        reference = self.method == "app_reference"
        constant = reference or not s.progressive_local
        if pruner.scope == "layer" and constant and self.method != "one_shot":
            pruner.schedule = AnytimeSchedule(
                len(s.megabatches), s.level, s.base, progressive=False
            )
        return pruner

    def check(self, model):
        """Raises what making the pruner and selecting raise."""
        pruner = self.make_pruner()
        pruner.data = self.settings.megabatches[0].scoring
        pruner.select(model)


class _Run:
    """One run over all methods, from the start or from a checkpoint."""

    def __init__(self, session, methods, settings):
        self.session = session
        self.methods = methods
        self.settings = settings

    def go(self, on_start):
        s = self.settings
        units = len(self.methods) * len(s.megabatches) * s.epochs
        first, state, done = 0, None, 0
        checkpoint = self.session.begin(on_start)
        if checkpoint is not None:
            arrays, meta = checkpoint
            first = meta["method"]
            # At a method's end the next one starts from weights of its own.
            state = checkpoint if arrays else None
            done = (
                first * len(s.megabatches) + meta["megabatch"]
            ) * s.epochs + meta["epoch"]
            self.session.terminal.line(
                f"resuming {self.methods[first]}, megabatch "
                f"{meta['megabatch'] + 1}, epoch {meta['epoch'] + 1}"
                if first < len(self.methods)
                else "resuming: all methods are trained"
            )
        with self.session.terminal.bar(units, done):
            for number in range(first, len(self.methods)):
                self._train(number, state)
                state = None
        return self._finish()

    def _train(self, number, state):
        s = self.settings
        method = self.methods[number]
        devices.clear_session()
        learner = _Learner(method, s)
        model = learner.build_model()
        pruner = learner.make_pruner()
        chosen = _selection_without_data(pruner, model)
        if method != "dense":
            pruner.data = s.megabatches[0].scoring
            pruner.set_model(model)
        fresh = model_state(model)
        best = BestWeights()
        epoch, megabatch = 0, 0
        if state is None:
            prunable = sum(
                int(np.prod(v.shape)) for v in chosen.variables.values()
            )
            self.session.terminal.line(
                f"[bold]{method}[/bold]: {model.name}, "
                f"{model.count_params():,} parameters, {prunable:,} prunable"
            )
        else:
            arrays, meta = state
            restore_model_state(model, arrays)
            megabatch, epoch = meta["megabatch"], meta["epoch"]
            _restore_best(best, arrays, meta["best"])
            pruner.restore(_join(meta["pruner"], arrays))
        self.session.open_events(method)
        for index in range(megabatch, len(s.megabatches)):
            self._train_megabatch(
                number, model, pruner, chosen, best, fresh, index, epoch
            )
            epoch = 0

    def _train_megabatch(
        self, number, model, pruner, chosen, best, fresh, index, epoch
    ):
        s = self.settings
        method = self.methods[number]
        megabatch = s.megabatches[index]
        if epoch == 0:
            best.reset()
            self._start_megabatch(model, fresh, index)
        callbacks = []
        if method != "dense":
            pruner.data = megabatch.scoring
            pruner.megabatch = index
            callbacks.append(pruner)
        rate = float(s.optimizer().get_config()["learning_rate"])
        callbacks.append(
            MilestoneLearningRate(rate, s.milestones, s.warmup_epochs)
        )
        callbacks.append(best)
        callbacks.append(
            Recorder(
                self.session.folder,
                lambda epoch, logs: self.epoch_done(
                    number, index, epoch, logs, model, pruner, best
                ),
            )
        )
        if epoch < s.epochs:
            model.fit(
                megabatch.epochs(epoch, s.epochs),
                steps_per_epoch=megabatch.steps_per_epoch,
                initial_epoch=epoch,
                epochs=s.epochs,
                validation_data=megabatch.validation,
                callbacks=callbacks,
                verbose=0,
                shuffle=False,
            )
        else:
            # Killed after the last epoch and before the judgement: only the
            # end of the training is left to do.
            for callback in callbacks:
                callback.set_model(model)
                callback.on_train_end()
        self._judge(number, model, pruner, chosen, best, megabatch)

    def _start_megabatch(self, model, fresh, index):
        """Resets what does not go on from the megabatch before.

        `fresh` is the model's state before any training. Masks, counters and
        the learning rate are never reset by it.
        """
        s = self.settings
        if index == 0:
            return
        reset = {}
        for name, value in fresh.items():
            slot = name.startswith("optimizer/") and value.ndim > 0
            if slot and value.dtype != bool and not s.carry_optimizer_state:
                reset[name] = value
            if name.startswith("model/") and s.init_from_scratch:
                reset[name] = value
        restore_model_state(model, {**model_state(model), **reset})
        state = state_of(model)
        if state is not None:
            state.zero()

    def _judge(self, number, model, pruner, chosen, best, megabatch):
        s = self.settings
        method = self.methods[number]
        index = megabatch.index
        report = report_lib.build(model, chosen)
        masks = masks_of(model)
        total = sum(row.parameters for row in report.rows if row.prunable)
        kept = (
            sum(int(np.count_nonzero(mask)) for mask in masks.values())
            if masks
            else total
        )
        logits = devices.predict(
            model, s.test_images, batch_size=256, verbose=0
        )
        missed = int(np.sum(np.argmax(logits, -1) != s.test_labels))
        n_test = len(s.test_labels)
        epochs = [
            event
            for event in self.session.results[method]
            if event["event"] == "epoch" and event["megabatch"] == index
        ]
        trained = len(megabatch.train_ids) * s.epochs
        density = kept / total
        row = {
            "event": "megabatch",
            "method": method,
            "megabatch": index,
            "target_density": _target(method, pruner, index),
            "density": density,
            "density_all": 1.0 - report.sparsity_all,
            "sparsity_all": report.sparsity_all,
            "kept_parameters": report.parameters - (total - kept),
            "misclassified": missed,
            "test_accuracy": (n_test - missed) / n_test,
            "best_epoch": best.epoch,
            "best_val_accuracy": best.best,
            "generalization_gap_last": epochs[-1]["generalization_gap"],
            "generalization_gap_best": epochs[best.epoch]["generalization_gap"],
            "training_examples": trained,
            "forward_flops": report.flops * trained,
            "forward_flops_sparse": report.sparse_flops * trained,
            "layers": {
                row.path: row.density for row in report.rows if row.prunable
            },
        }
        self.session.log(row)
        for name in ("test_accuracy", "density", "generalization_gap_last"):
            self.session.scalar(f"megabatch/{name}", row[name], index + 1)
        self.session.missed += [f"{method}: {text}" for text in pruner.missed]
        last = index + 1 == len(s.megabatches)
        if last:
            # Before the checkpoint that says this method is done.
            name = MODEL if number == 0 else f"model_{method}.keras"
            self.session.folder.save_model(strip_pruning(model), name)
            self.checkpoint(number + 1, 0, 0, {}, pruner, best)
        else:
            self.checkpoint(
                number, index + 1, 0, model_state(model), pruner, best
            )
        self.session.terminal.line(
            f"[bold]{method}[/bold] megabatch {index + 1}/{len(s.megabatches)}"
            f"  density {density:.4f}"
            f"  sparsity_all {report.sparsity_all:.4f}"
            f"  test accuracy {row['test_accuracy']:.4f}"
            f"  gap {row['generalization_gap_last']:.2f}"
        )

    def epoch_done(self, number, index, epoch, logs, model, pruner, best):
        """Logs one epoch and takes a checkpoint."""
        s = self.settings
        method = self.methods[number]
        gap = 100 * (logs["accuracy"] - logs["val_accuracy"])
        event = {
            "event": "epoch",
            "method": method,
            "megabatch": index,
            "epoch": epoch,
            "loss": logs["loss"],
            "accuracy": logs["accuracy"],
            "val_loss": logs["val_loss"],
            "val_accuracy": logs["val_accuracy"],
            "generalization_gap": gap,
            "learning_rate": logs["learning_rate"],
        }
        self.session.log(event)
        step = index * s.epochs + epoch + 1
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            self.session.scalar(f"epoch/{name}", event[name], step)
        self.session.check_losses(
            event, f"epoch {epoch + 1} of megabatch {index + 1}"
        )
        self.checkpoint(
            number, index, epoch + 1, model_state(model), pruner, best
        )
        self.session.terminal.line(
            f"{method} megabatch {index + 1} epoch {epoch + 1}/{s.epochs}  "
            f"loss {logs['loss']:.4f}  accuracy {logs['accuracy']:.4f}  "
            f"val_accuracy {logs['val_accuracy']:.4f}"
        )
        self.session.terminal.advance(f"{method}, megabatch {index + 1}")

    def checkpoint(self, number, index, epoch, state, pruner, best):
        """Writes everything that `go` needs to continue from here.

        `state` is the `model_state`, or empty at the start of a method.
        """
        arrays = dict(state)
        plain_state, latent = _split(pruner.state())
        if state:
            arrays.update(latent)
            for i, weight in enumerate(best.weights or ()):
                arrays[f"best/{i}"] = weight
        meta = {
            "method": number,
            "megabatch": index,
            "epoch": epoch,
            "best": {
                "value": best.best if best.epoch is not None else None,
                "epoch": best.epoch,
                "count": len(best.weights or ()),
            },
            "pruner": plain_state,
        }
        self.session.checkpoint(arrays, meta)

    def _finish(self):
        s = self.settings
        per_method = {m: self._summary_of(m) for m in self.methods}
        main = per_method[self.methods[0]]
        summary = {
            "experiment": "anytime",
            "method": self.methods[0],
            "accuracy": main["accuracy"],
            "effective_density": main["effective_density"],
            "sparsity_all": main["sparsity_all"],
            "cer": main["cer"],
            "seed": s.seed,
            "data": s.megabatches.name,
            "model": self.session.settings["model"],
            "num_megabatches": len(s.megabatches),
            "epochs": s.epochs,
            "level": float(s.level),
            "target_density": float(s.base**s.level),
            "test_examples": int(len(s.test_labels)),
            "methods": per_method,
        }
        return self.session.finish(
            summary,
            f"{len(s.megabatches)} megabatches of {s.megabatches.name}",
            ("method", "accuracy", "CER", "mean error", "gap", "density"),
            [
                (
                    method,
                    f"{row['accuracy']:.4f}",
                    f"{row['cer']}",
                    f"{row['mean_error_rate']:.4f}",
                    f"{row['generalization_gap']:.2f}",
                    f"{row['effective_density']:.4f}",
                )
                for method, row in per_method.items()
            ],
        )

    def _summary_of(self, method):
        n_test = len(self.settings.test_labels)
        rows = [
            e for e in self.session.results[method] if e["event"] == "megabatch"
        ]
        missed = [row["misclassified"] for row in rows]
        return {
            "accuracy": rows[-1]["test_accuracy"],
            "effective_density": rows[-1]["density"],
            "density_all": rows[-1]["density_all"],
            "sparsity_all": rows[-1]["sparsity_all"],
            "cer": sum(missed),
            "mean_error_rate": sum(missed) / (len(rows) * n_test),
            "anytime_relative_error": [
                (now - before) / n_test
                for before, now in zip(missed, missed[1:])
            ],
            "generalization_gap": rows[-1]["generalization_gap_last"],
            "generalization_gap_best": rows[-1]["generalization_gap_best"],
            "mean_generalization_gap": float(
                np.mean([row["generalization_gap_last"] for row in rows])
            ),
            "cumulative_kept_parameters": sum(
                row["kept_parameters"] for row in rows
            ),
            "cumulative_training_examples": sum(
                row["training_examples"] for row in rows
            ),
            "cumulative_forward_flops": sum(
                row["forward_flops"] for row in rows
            ),
            "cumulative_forward_flops_sparse": sum(
                row["forward_flops_sparse"] for row in rows
            ),
            "megabatches": rows,
        }


def _check_methods(methods):
    methods = (methods,) if isinstance(methods, str) else tuple(methods)
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods or len(set(methods)) != len(methods):
        raise ValueError(
            f"`methods` must be different ones of {METHODS}. "
            f"Received: methods={methods}"
        )
    return methods


def _test_arrays(megabatches, test):
    if test is None:
        if megabatches.name is None:
            raise ValueError(
                "`test` must be given, a pair (images, labels), when "
                "`megabatches` is made from arrays. Received: test=None"
            )
        split = data_lib.test_split(megabatches.name, megabatches.data_dir)
        test = data_lib.load_arrays(
            megabatches.name, split, megabatches.data_dir
        )
    images, labels = test
    if images.dtype == np.uint8:
        images = images.astype("float32") / 255.0
    return images, np.asarray(labels)


def _selection_without_data(pruner, model):
    """What the pruner would prune; the dense network is measured on it too."""
    data, pruner.data = pruner.data, ()
    chosen = pruner.select(model)
    pruner.data = data
    return chosen


def _target(method, pruner, index):
    if method == "dense":
        return 1.0
    return 1.0 - pruner.schedule(index)[1]


def _split(state):
    """Separates plain values from arrays: `(plain, {name: array})`."""
    latent = {f"latent/{k}": v for k, v in state["latent"].items()}
    return {k: v for k, v in state.items() if k != "latent"}, latent


def _join(plain, arrays):
    latent = {
        name.removeprefix("latent/"): value
        for name, value in arrays.items()
        if name.startswith("latent/")
    }
    return {**plain, "latent": latent}


def _restore_best(best, arrays, meta):
    best.reset()
    if meta["epoch"] is not None:
        best.best, best.epoch = meta["value"], meta["epoch"]
        best.weights = [arrays[f"best/{i}"] for i in range(meta["count"])]
