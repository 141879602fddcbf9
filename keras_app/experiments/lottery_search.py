"""How tickets are searched: the rounds of one method, and what they find."""

import dataclasses
import math

import numpy as np

from keras_app import lottery as lottery_lib
from keras_app import selection
from keras_app import shares
from keras_app.experiments import devices
from keras_app.experiments.comparison import MethodLearner
from keras_app.experiments.experiment import Stage
from keras_app.experiments.page.tickets import HARDEST
from keras_app.experiments.run.interruption import StopPoints
from keras_app.pruners import RandomPruner

SETS = "prac_sets.npz"
_IDS = ("ids", "training_ids", "pruning_ids")
_NONE = np.empty(0, "int64")
_SHOWN_EXAMPLES = 40


@dataclasses.dataclass
class _Plan:
    """What a stage is for: a round of the search, or a ticket to judge."""

    prunings: int  # how often the network was pruned before
    ids: np.ndarray  # what is trained on
    judged: bool  # not part of the search


class Search(MethodLearner):
    """A method's model and everything it has found so far."""

    shown = ("loss", "val_accuracy", "mask_distance")

    def __init__(self, experiment, method):
        super().__init__(experiment, method)
        e = experiment
        self.reduces_data = method == "prac"
        random = method == "random"
        self.pruner = (RandomPruner if random else e.pruner)(
            schedule=_never,
            scope="global",
            filters=e.filters or _convolutions(self.model),
            on_miss="ignore",
            **({"seed": e.seed} if random else {}),
        )
        if getattr(self.pruner, "data", ()) is None:
            self.pruner.data = e.data.in_order(e.data.train_ids)
        self.pruner.set_model(self.model)
        self.variables = self.pruner.variables
        self.total = sum(math.prod(v.shape) for v in self.variables.values())
        # After k prunings: {path: mask}.
        self.masks = [
            {p: np.ones(v.shape, bool) for p, v in self.variables.items()}
        ]
        self.start = lottery_lib.snapshot(self.model)
        self.ids = [e.data.train_ids]
        self.training_ids, self.pruning_ids = [], []
        self.dense_predictions = None
        self.forgotten = None  # how often each example was, in round 0
        self._last = None  # the trial mask of the epoch before
        self.introduce(f"{self.total:,} prunable weights")

    def settings(self):
        """The data, the pruner and the sets."""
        data, sets = self.experiment.data, self.experiment.sets
        return {
            "training_examples": len(data.train_ids),
            "batch_size": data.batch_size,
            "prunable": self.total,
            "pruner": self.pruner.get_config(),
            "sets": None if sets is None else sets.fingerprint,
        }

    # ---- masks ---------------------------------------------------------

    def remaining(self, prunings):
        """Number of weights that so many prunings left."""
        return sum(int(m.sum()) for m in self.masks[prunings].values())

    def candidate(self, prunings):
        """The mask that one more pruning would give now."""
        rate = self.experiment.rate
        if self.pruner.structure is not None:
            # Units are not weights: their share is what falls.
            return self.pruner.propose(1 - (1 - rate) ** (prunings + 1))
        sparsity = lottery_lib.trial_masks.next_sparsity(
            rate, self.remaining(prunings), self.total
        )
        return self.pruner.propose(min(sparsity, 1 - 1e-12))

    # ---- stages --------------------------------------------------------

    def stages(self):
        """Every training of the method, the rounds first; lazily."""
        e = self.experiment
        for r in range(e.rounds):
            # Only now the round before has said which examples are critical.
            yield self._stage(r, _Plan(r, self.ids[r], judged=False))
        runs = e.evaluation_runs
        for i in range(len(e.evaluate) * runs if self.reduces_data else 0):
            plan = _Plan(e.evaluate[i // runs], e.data.train_ids, judged=True)
            yield self._stage(e.rounds + i, plan)

    def _stage(self, number, plan):
        e = self.experiment
        epochs, milestones, warmup = e.epochs, e.milestones, e.warmup_epochs
        if not plan.judged and e.iteration_scaling == "epochs":
            epochs, milestones, warmup = lottery_lib.scale_schedule(
                len(plan.ids), len(e.data.train_ids), epochs, milestones, warmup
            )
        if number == 0 and e.ticket == "rewind_lt":
            epochs = max(epochs, e.rewind_epoch + 1)
        finds_sets = self.reduces_data and not plan.judged
        self.stop = self.tracker = None
        if finds_sets and e.early_stop:
            self.stop = e.stop_rule(warmup)
        if finds_sets and e.sets is None:
            self.tracker = lottery_lib.ForgettingTracker(e.data.num_examples)
        rewinds = e.lr_rewind
        if rewinds is None:
            rewinds = not self.reduces_data and e.ticket == "rewind_lt"
        if rewinds and number and not plan.judged:
            # The learning rate is rewound too.
            milestones = tuple(m - e.rewind_epoch for m in milestones)
            warmup = max(0, warmup - e.rewind_epoch)
        # The order of the data follows from the number of the epoch.
        first = number * e.epochs
        return Stage(
            number,
            epochs,
            lambda begin, end: e.data.epochs(
                first + begin,
                first + end,
                plan.ids,
                with_ids=self.tracker is not None,
            ),
            e.data.steps(plan.ids),
            e.data.validation,
            [
                e.learning_rate(milestones, warmup),
                *([self.tracker] if self.tracker else []),
                self.best,
            ],
            about={"stage": number, "prunings": plan.prunings},
            title=f"ticket {plan.prunings}"
            if plan.judged
            else f"round {number + 1}",
            details=plan,
        )

    def begin(self, stage):
        """Early weights, the mask, and an optimizer without momentum."""
        self.best.reset()
        self._last = None
        self.reset(lambda kind, value: kind == "optimizer")
        self.pruner.apply(self.masks[stage.details.prunings])
        # After the new mask: the old one may prune what it keeps.
        lottery_lib.rewind(self.model, self.start)

    def epoch_done(self, stage, epoch, logs):
        """Keeps the start, tries a mask, and stops once it has settled."""
        e, prunings = self.experiment, stage.details.prunings
        keeps_a_start = stage.number == 0 and e.ticket == "rewind_lt"
        if keeps_a_start and epoch == e.rewind_epoch:
            self.start = lottery_lib.snapshot(self.model)
        if stage.details.judged:
            return {}
        last, self._last = self._last, self.candidate(prunings)
        if last is None:
            return {}
        distance = lottery_lib.mask_distance(
            self._last, last, self.remaining(prunings)
        )
        if self.stop is not None and self.stop.update(distance):
            early = keeps_a_start and epoch < e.rewind_epoch
            self.model.stop_training = not early
        return {"mask_distance": distance}

    # ---- the end of a stage --------------------------------------------

    def conclude(self, stage, epochs):
        """The model holds its best weights; says what they are worth."""
        plan = stage.details
        _, judged = self.judged(*self.experiment.data.test)
        row = {
            "event": "ticket" if plan.judged else "round",
            "method": self.method,
            "prunings": plan.prunings,
            "density": self.remaining(plan.prunings) / self.total,
            "sparsity_all": shares.sparsity_all(self.model),
            **judged,
            "epochs_run": len(epochs),
        }
        return row if plan.judged else {**row, **self._next_round(stage)}

    def _next_round(self, stage):
        """Mask, start and examples of the next round; figures of this one."""
        e = self.experiment
        self.masks.append(self._last)
        if e.ticket == "pt" and stage.number == 0:
            self.start = lottery_lib.snapshot(self.model)
        row = {
            "round": stage.number,
            "set_size": len(stage.details.ids),
            "stopped_early": bool(self.model.stop_training),
            "overhead_samples": 0,
        }
        if stage.number == e.rounds - 1:  # nobody will train on them
            return row
        ids, training, pruning = e.data.train_ids, _NONE, _NONE
        if self.tracker is not None:
            training = self._critical_for_training(stage)
            if e.use_pruning_examples:
                pruning, found = self._critical_for_pruning(stage, training)
                row.update(found)
            ids = lottery_lib.prac_set(
                training,
                pruning,
                e.on_empty,
                current_ids=stage.details.ids,
                within=e.data.train_ids,
            )
            row["critical_for_training"] = len(training)
            row["critical_for_pruning"] = len(pruning)
            row["next_set_size"] = len(ids)
        elif self.reduces_data:
            ids = e.sets.for_round(stage.number + 1, e.set_mode)
        self.ids.append(ids)
        self.training_ids.append(training)
        self.pruning_ids.append(pruning)
        return row

    def _critical_for_training(self, stage):
        e, counts = self.experiment, self.tracker.counts
        if stage.number == 0:
            self.forgotten = counts
        if e.select_examples == "threshold":
            return lottery_lib.critical_for_training(
                counts, e.forgetting_threshold
            )
        share = (1 - e.data_rate) ** (stage.number + 1)
        wanted = int(len(e.data.train_ids) * share)
        return lottery_lib.hardest_examples(counts, wanted)

    def _critical_for_pruning(self, stage, training):
        """Ids on which the dense and the pruned network disagree; figures."""
        data = self.experiment.data
        # Classes of the whole training set, in the order of its ids.
        logits = devices.predict(
            self.model,
            data.in_order(data.train_ids),
            verbose=0,
            callbacks=[StopPoints()],
        )
        predictions = np.argmax(logits, axis=-1)
        figures = {"overhead_samples": len(data.train_ids)}
        if stage.number == 0:
            self.dense_predictions = predictions
            return _NONE, figures
        changed = lottery_lib.critical_for_pruning(
            self.dense_predictions, predictions
        )
        pruning = data.train_ids[changed]
        figures["overlap"] = (
            lottery_lib.overlap_rate(training, pruning)
            if len(pruning)
            else None
        )
        return pruning, figures

    def close(self, folder):
        """Writes the sets, and the examples that were forgotten most often."""
        e = self.experiment
        if not self.reduces_data:
            return
        about = {
            "eps": e.eps,
            "forgetting_threshold": e.forgetting_threshold,
            "rate": e.rate,
            "model": self.model.name,
        }
        with folder.replacing(SETS) as path:
            lottery_lib.PracSets(
                e.data.fingerprint,
                e.data.train_ids,
                self.ids,
                self.training_ids,
                self.pruning_ids,
                about,
            ).save(path)
        if self.forgotten is None:
            return
        counts, ids = self.forgotten, e.data.train_ids
        ids = ids[np.argsort(-counts[ids], kind="stable")][:_SHOWN_EXAMPLES]
        images, labels = next(e.data.in_order(ids).as_numpy_iterator())
        ids = ids[: len(images)]  # a batch may be smaller
        with folder.replacing(HARDEST) as path:
            np.savez_compressed(
                path, ids=ids, counts=counts[ids], images=images, labels=labels
            )

    # ---- resuming ------------------------------------------------------

    @property
    def parts(self):
        """What watches the training of a stage."""
        parts = {"stop": self.stop, "tracker": self.tracker}
        there = {name: each for name, each in parts.items() if each is not None}
        return {**super().parts, **there}

    def state(self):
        """Masks, the weights to return to, and the sets."""
        arrays = {f"start/{i}": a for i, a in enumerate(self.start.values())}
        masks = dict(enumerate(self.masks))
        if self._last is not None:
            masks["last"] = self._last
        for k, each in masks.items():
            for i, mask in enumerate(each.values()):
                arrays[f"mask/{k}/{i}"] = np.packbits(mask)
        for name in _IDS:
            for r, ids in enumerate(getattr(self, name)):
                arrays[f"{name}/{r}"] = ids
        for name in ("dense_predictions", "forgotten"):
            if getattr(self, name) is not None:
                arrays[name] = getattr(self, name)
        plain = {
            "masks": list(masks),
            **{name: len(getattr(self, name)) for name in _IDS},
        }
        return plain, arrays

    def restore(self, plain, arrays):
        """Continues where `state()` was taken."""
        self.start = {
            path: arrays[f"start/{i}"] for i, path in enumerate(self.start)
        }
        masks = {
            k: {
                path: _unpacked(arrays[f"mask/{k}/{i}"], variable.shape)
                for i, (path, variable) in enumerate(self.variables.items())
            }
            for k in plain["masks"]
        }
        self._last = masks.pop("last", None)
        self.masks = list(masks.values())
        for name in _IDS:
            count = plain[name]
            setattr(self, name, [arrays[f"{name}/{r}"] for r in range(count)])
        self.dense_predictions = arrays.get("dense_predictions")
        self.forgotten = arrays.get("forgotten")


def _convolutions(model):
    """A pattern for each convolution kernel, which a file can hold."""
    variables = model.trainable_variables
    chosen = selection.convolution_kernels(model)
    return [
        selection.pattern_of(variable, variables)
        for variable in variables
        if chosen(variable)
    ]


def _never(step):
    """A schedule that leaves it to the rounds when to prune."""
    return False, 0.0


def _unpacked(bits, shape):
    shape = tuple(shape)
    return np.unpackbits(bits, count=math.prod(shape)).reshape(shape) == 1
