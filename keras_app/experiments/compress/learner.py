"""From a trained model to a small one: decided, pruned, cut, trained on."""

import dataclasses
import pathlib
import tempfile

import numpy as np

from keras_app import report as report_lib
from keras_app.batch_norm import reestimate_batch_norm
from keras_app.compression import files
from keras_app.compression.cuts import widths_of
from keras_app.compression.decide import Decision
from keras_app.enforcement import attach
from keras_app.enforcement import state_of
from keras_app.experiments.callbacks import TriangularLearningRate
from keras_app.experiments.compress import measured
from keras_app.experiments.compress import ways
from keras_app.experiments.experiment import Learner
from keras_app.experiments.experiment import Stage
from keras_app.export import copies
from keras_app.export import export_litert
from keras_app.export import export_report
from keras_app.export import strip_pruning

_BN_BATCHES = 64
_UNTIL = 0.8  # of its training a network is pruned, and then recovers


class Compressing(Learner):
    """One compression.

    Args:
        experiment: The `Compress`, resolved.

    Attributes:
        decisions: The `Decision`s, one for each time that it is pruned; of a
            sparsity none.
        front: `[{"name", "accuracy", "milliseconds", ...}]` of what was passed.
        dense: Figures of the dense file.
        reached: Figures of the file in the end.
    """

    method = "compressed"

    def __init__(self, experiment):
        self.experiment = e = experiment
        self.target = e.parsed
        self.model = self._whole()
        self.way = ways.way_of(e)
        self.is_small = False
        self.dense = self.decisions = self.reached = None
        self.front = []
        self._good = None  # weights that the accuracy was still right with
        self._contents = {}
        self.shown = ("loss", "accuracy", "val_loss", "val_accuracy")
        self.introduction = (
            f"[bold]{e.model.name}[/bold]: {e.model.count_params():,} "
            f"parameters, target {self.target}"
        )
        if self.way.cuts and self.target.quantity in ("latency", "accuracy"):
            self.introduction += "; layers are timed before the first epoch"

    def settings(self):
        """What must be equal for a run to be continued."""
        weights = np.concatenate(
            [w.reshape(-1)[:64] for w in self.experiment.model.get_weights()]
        )
        return {
            **self.experiment.recipe.settings,
            "weights": float(np.abs(weights.astype("float64")).sum()),
            "structure": repr(self.experiment.structure),
        }

    # ---- the stages ------------------------------------------------------

    def stages(self):
        """Prunes, once or in steps; then trains what is left."""
        e = self.experiment
        if self.dense is None:
            self.decisions = self.way.decide(self)
            self.dense = measured.of_dense(self)
            self.front = [{"name": "dense", **measured.point(self.dense)}]
        number = 0
        epochs = self.way.pruning_epochs(e.epochs)
        for number, _ in enumerate(self.way.steps(self)):
            yield self._stage(
                number,
                epochs,
                self.way.pruners(self, number, *self._span(number, epochs)),
                "pruning",
            )
            if self._is_too_much(number):
                break
        number += 1
        if not self.is_small:
            self._go_on_small()
        yield self._stage(
            number, self.way.training_epochs(e.epochs), [], "training"
        )

    def _stage(self, number, epochs, callbacks, title):
        e = self.experiment
        if e.recipe.rate is not None and title == "training":
            rate = TriangularLearningRate(
                e.recipe.rate, start=1.0, end=0.0, rise=1e-9
            )
            callbacks = [*callbacks, rate]
        return Stage(
            number,
            epochs,
            e.data.epochs,
            e.data.steps_per_epoch,
            e.validation_data,
            callbacks,
            {"stage": number, "part": title},
            title,
        )

    def _span(self, number, epochs):
        """First and last training step of a ramp of sparsity."""
        steps = epochs * self.experiment.data.steps_per_epoch
        first = number * steps
        return first, first + max(1, round(_UNTIL * steps))

    def _is_too_much(self, number):
        """Whether a step lost more accuracy than it may; told from `front`."""
        if self.target.quantity != "accuracy":
            return False
        # Of what the front holds the first is the dense model.
        before, after = (self.front[i]["accuracy"] for i in (0, number + 1))
        return after < self._least(before)

    def _least(self, accuracy):
        return accuracy + self.target.value / 100

    def _go_on_small(self):
        """The pruned model becomes the small one, which is trained on."""
        if self.way.cuts and self.decided is None:
            # No step kept the accuracy: the model stays as it was.
            self.model = self._whole()
        elif self.way.cuts:
            pruned = self.model
            if self._good is not None:
                # The masks of the model are those of a later step.
                pruned = copies.copy(self.experiment.model)
                pruned.set_weights(self._good)
            small = self.way.cut(pruned, self.experiment.data)
            self.model = self.experiment.recipe.compile(small)
            self._measure_statistics(self.model)
        self._good, self.is_small = None, True

    def _whole(self):
        return self.experiment.recipe.compile(
            copies.copy(self.experiment.model)
        )

    def _measure_statistics(self, model):
        batches = self.experiment.data.scoring(_BN_BATCHES)
        reestimate_batch_norm(model, [x for x, _ in batches])

    @property
    def decided(self):
        """The `Decision` that holds in the end, or `None`."""
        if not self.decisions:
            return None
        if self.target.quantity != "accuracy":
            return self.decisions[-1]
        passed = [
            decision
            for number, decision in enumerate(self.decisions)
            if number + 1 < len(self.front) and not self._is_too_much(number)
        ]
        return passed[-1] if passed else None

    # ---- what comes of it ------------------------------------------------

    def epoch_done(self, stage, epoch, logs):
        """The share of zeros."""
        report = report_lib.summarize(self.model)
        return {"sparsity_all": report.sparsity_all}

    def conclude(self, stage, epochs):
        """Judges a step toward an accuracy through its file."""
        if stage.title != "pruning":
            return None
        last = epochs[-1]
        found = {"name": f"pruned, step {stage.number + 1}"}
        if self.target.quantity == "accuracy":
            weights = self.model.get_weights()
            small = self.way.cut(self.model, self.experiment.data)
            self._measure_statistics(small)
            content = self._content_of(small)
            found["accuracy"] = measured.accuracy_of(self, content, small)
            decision = self.decisions[stage.number]
            found["share"] = decision.amount / decision.dense
            self.front.append(found)
            if not self._is_too_much(stage.number):
                self._good = weights
        elif "val_accuracy" in last:
            found["name"] = "pruned"
            found["accuracy"] = last["val_accuracy"]
            if self.target.quantity == "latency":
                decision = self.decisions[-1]
                found["share"] = decision.amount / decision.dense
            self.front.append(found)
        return {"event": "step", "method": self.method, **found}

    def close(self, folder):
        """Exports, measures and compares the result.

        Returns:
            Sentences on what was not reached.
        """
        e = self.experiment
        exports = folder.path / export_report.FOLDER
        name = f"model_{e.quantize}" if e.quantize else "model"
        with tempfile.TemporaryDirectory() as elsewhere:
            place = exports if folder.writes else pathlib.Path(elsewhere)
            place.mkdir(exist_ok=True)
            path = place / f"{name}.tflite"
            exported = export_litert(
                strip_pruning(self.model),
                path,
                e.data.first(200),
                quantize=e.quantize,
                sparse=False if self.way.cuts else "auto",
            )
            content = path.read_bytes()
            self.dense, self.reached = measured.of_both(self, content)
            measured.as_reported(exported, self).write()
        # All times are those of the last timing, in which both took turns.
        for point in self.front:
            if "share" in point:
                share = point.pop("share")
                point["milliseconds"] = share * self.dense["milliseconds"]
        self.front[0].update(measured.point(self.dense))
        end = {"name": "compressed", **measured.point(self.reached)}
        self.front.append(end)
        report = e.report(self)
        if report.is_reached:
            return []
        return [f"asked for {report.target}, reached {report.reached:.4g}"]

    def dense_content(self):
        """The file of the dense model, of the same precision."""
        if "dense" not in self._contents:
            model = self.experiment.model
            self._contents["dense"] = self._content_of(copies.copy(model))
        return self._contents["dense"]

    def _content_of(self, model):
        e = self.experiment
        return files.content_of(model, e.quantize, e.data.first(200))

    def widths(self):
        """`[[layer, before, after], ...]` of the layers with kernels."""
        before = widths_of(self.experiment.model)
        after = widths_of(self.model)
        return [
            [name, width, after.get(name)] for name, width in before.items()
        ]

    # ---- resuming ---------------------------------------------------------

    @property
    def parts(self):
        """None: pruners keep what they know in the masks."""
        return {}

    def state(self):
        """What was decided, and the weights to go back to."""
        plain = {
            "decisions": [dataclasses.asdict(d) for d in self.decisions or ()],
            "dense": self.dense,
            "front": self.front,
            "is_small": self.is_small,
            "masked": state.order if (state := state_of(self.model)) else [],
        }
        good = {str(i): w for i, w in enumerate(self._good or ())}
        return plain, good

    def restore(self, plain, arrays):
        """Continues where `state()` was taken; the model may be a small one."""
        self.decisions = [Decision(**each) for each in plain["decisions"]]
        self.dense, self.front = plain["dense"], plain["front"]
        if arrays:
            self._good = [arrays[str(i)] for i in range(len(arrays))]
        self.is_small = plain["is_small"]
        if self.is_small and self.decided is not None:
            small = self.way.small(self.decided)
            self.model = self.experiment.recipe.compile(small)
        if masked := plain["masked"]:
            # What follows may have no pruner that brings them.
            weights = self.model.trainable_variables
            attach(self.model, [weights[index] for index in masked])
