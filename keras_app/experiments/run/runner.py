"""Takes an experiment through its stages, and back into the middle of one."""

import itertools

import keras
import numpy as np
from keras import ops

from keras_app.experiments.callbacks import learning_rate_of
from keras_app.experiments.run import interruption
from keras_app.experiments.run.folder import MODEL
from keras_app.export import strip_pruning


class Runner:
    """One run over all methods, from the start or from a checkpoint.

    There is a checkpoint after every epoch but the last of a stage, and one
    between two stages or methods. A run that was killed after the last epoch
    of a stage repeats it, and with it what callbacks do when training ends.

    Args:
        experiment: The `Experiment`, resolved.
        learner: The learner of its first method.
        session: The `Session`, not begun.
    """

    def __init__(self, experiment, learner, session):
        self.experiment = experiment
        self.learner = learner
        self.session = session

    def go(self, on_start):
        """Trains what is still to be trained; returns the summary.

        Args:
            on_start: See `Experiment.run`.
        """
        methods, session = self.experiment.methods, self.session
        checkpoint = session.begin(on_start)
        first = checkpoint[1]["method"] if checkpoint else 0
        done = len(self._epochs())
        with session.terminal.bar(self.experiment.total_epochs, done):
            for number in range(first, len(methods)):
                self._learn(number, checkpoint)
                checkpoint = None
        return self._finish()

    def _learn(self, number, checkpoint):
        session = self.session
        if number:
            self.learner = self.experiment.learner(
                self.experiment.methods[number]
            )
        learner = self.learner
        learner.terminal = session.terminal
        self._number = number
        session.open_events(learner.method)
        arrays, meta = checkpoint or ({}, {})
        first, epoch = meta.get("stage", 0), meta.get("epoch", 0)
        if arrays:
            # It may be another model by now.
            learner.restore(*_unpacked("learner", arrays, meta))
            restore_model_state(learner.model, arrays)
        else:
            session.terminal.line(learner.introduction)
        for stage in learner.stages():
            if stage.number < first:
                continue
            if stage.number > first:
                self._checkpoint(stage, 0)
            learner.prepare(stage)
            interruption.pass_point()
            if arrays and stage.number == first:
                where = f"{learner.method} {stage.title}".strip()
                session.terminal.line(f"resuming {where} epoch {epoch + 1}")
            if epoch:
                for name, part in learner.parts.items():
                    part.restore(*_unpacked(name, arrays, meta))
            else:
                learner.begin(stage)
            self._train(stage, epoch)
            epoch = 0
        name = MODEL if number == 0 else f"model_{learner.method}.keras"
        session.folder.save_model(strip_pruning(learner.model), name)
        session.missed += learner.close(session.folder) or []
        if number + 1 < len(self.experiment.methods):
            session.checkpoint({}, {"method": number + 1})

    def _train(self, stage, epoch):
        learner = self.learner
        learner.model.fit(
            stage.batches(epoch, stage.epochs),
            steps_per_epoch=stage.steps_per_epoch,
            initial_epoch=epoch,
            epochs=stage.epochs,
            validation_data=stage.validation,
            callbacks=[
                interruption.StopPoints(),
                *stage.callbacks,
                _Recorder(self, stage),
            ],
            verbose=0,
            shuffle=False,
        )
        self.session.missed += learner.missed()
        epochs = self._epochs(method=learner.method, **stage.about)
        row = learner.conclude(stage, epochs)
        if row is not None:
            self._record(
                row,
                stage.number + 1,
                f"[bold]{learner.method}[/bold] {stage.title}",
                ("density", "sparsity_all", "test_accuracy"),
            )

    # ---- what is recorded ----------------------------------------------

    def epoch_done(self, stage, epoch, logs):
        """Logs one epoch and takes a checkpoint.

        Args:
            stage: The `Stage`.
            epoch: Its number within the stage, from 0.
            logs: What Keras and the callbacks say of it.
        """
        learner, session = self.learner, self.session
        of = f" of {stage.title}" if stage.title else ""
        session.check_losses(logs, f"epoch {epoch + 1}{of}")
        event = {
            "event": "epoch",
            "method": learner.method,
            **stage.about,
            "epoch": epoch,
            **{name: _plain(value) for name, value in logs.items()},
        }
        if "learning_rate" not in event:
            event["learning_rate"] = learning_rate_of(learner.model)
        event.update(learner.epoch_done(stage, epoch, logs))
        where = f"{learner.method} {stage.title}".strip()
        self._record(
            event,
            len(self._epochs(method=learner.method)) + 1,
            f"{where} epoch {epoch + 1}/{stage.epochs}",
            learner.shown,
        )
        session.terminal.advance(where)
        last = epoch + 1 == stage.epochs or learner.model.stop_training
        if not last:
            self._checkpoint(stage, epoch + 1)

    def _epochs(self, **about):
        """The logged epochs that say this about themselves."""
        wanted = {"event": "epoch", **about}.items()
        logged = itertools.chain(*self.session.results.values())
        return [event for event in logged if wanted <= event.items()]

    def _record(self, event, step, where, shown):
        """Logs an event, adds its figures to the curves, and shows some."""
        self.session.log(event)
        for name, value in event.items():
            if isinstance(value, float):
                self.session.scalar(f"{event['event']}/{name}", value, step)
        figures = [
            f"{name.replace('_', ' ')} {event[name]:.4f}"
            for name in shown
            if name in event
        ]
        self.session.terminal.line(f"{where}  {'  '.join(figures)}")

    def _checkpoint(self, stage, epoch):
        learner = self.learner
        arrays, plain = model_state(learner.model), {}
        parts = {"learner": learner, **(learner.parts if epoch else {})}
        for name, part in parts.items():
            plain[name], own = part.state()
            arrays.update({f"{name}/{key}": own[key] for key in own})
        self.session.checkpoint(
            arrays,
            {
                "method": self._number,
                "stage": stage.number,
                "epoch": epoch,
                "parts": plain,
            },
        )

    # ---- the end -------------------------------------------------------

    def _finish(self):
        experiment, session = self.experiment, self.session
        figures = {
            method: experiment.figures(self.learner, events)
            for method, events in session.results.items()
        }
        method, main = next(iter(figures.items()))
        figures = {**figures, **experiment.beside(self.learner)}
        summary = {
            "experiment": experiment.kind,
            "method": method,
            "accuracy": main["accuracy"],
            "effective_density": main.get("effective_density"),
            "sparsity_all": main.get("sparsity_all"),
            "seed": experiment.seed,
            "data": experiment.data.name,
            "model": session.settings["model"],
            "epochs": experiment.epochs,
            "methods": figures,
            **experiment.summary(self.learner, figures),
        }
        return session.finish(summary, *experiment.table(figures))


class _Recorder(keras.callbacks.Callback):
    """Hands each epoch to the runner, after all other callbacks."""

    def __init__(self, runner, stage):
        super().__init__()
        self._folder = runner.session.folder
        self._done = lambda epoch, logs: runner.epoch_done(stage, epoch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        # Nothing has refused to train.
        self._folder.trained = True

    def on_epoch_end(self, epoch, logs=None):
        self._done(epoch, logs)


def _plain(value):
    """A number, or a list of them: some metrics give one for each class."""
    array = np.asarray(ops.convert_to_numpy(value), "float64")
    return array.tolist()


def _unpacked(name, arrays, meta):
    """What `state` gave for one part of a checkpoint."""
    start = f"{name}/"
    own = {
        key.removeprefix(start): array
        for key, array in arrays.items()
        if key.startswith(start)
    }
    return meta["parts"][name], own


def model_state(model):
    """Every variable of a model and its optimizer, `{name: array}`.

    Masks, seeds and counters are among them: assigning these back restores a
    training bit for bit.
    """
    variables = _state_variables(model)
    return {name: ops.convert_to_numpy(v) for name, v in variables.items()}


def restore_model_state(model, arrays, names=None):
    """Assigns what `model_state` returned to a model built alike.

    Args:
        model, arrays: The model, and what was returned.
        names: Of which variables. Defaults to `None`: all.
    """
    variables = _state_variables(model)
    if names is None:
        # Masks that nobody has attached would be lost, for one.
        names = [n for n in arrays if n.startswith(("model/", "optimizer/"))]
        names = dict.fromkeys([*variables, *names])
    for name in names:
        variable = variables.get(name)
        fits = variable is not None and name in arrays
        if not fits or arrays[name].shape != tuple(variable.shape):
            where = name if variable is None else variable.path
            raise ValueError(
                f"The checkpoint does not fit the model at {where}: "
                "was it written with another configuration?"
            )
        variable.assign(arrays[name])


def _state_variables(model):
    return {
        **{f"model/{i}": v for i, v in enumerate(model.variables)},
        **{
            f"optimizer/{i}": v for i, v in enumerate(model.optimizer.variables)
        },
    }
