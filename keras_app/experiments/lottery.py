"""Lottery tickets by iterative pruning, on all data or on PrAC sets."""

import dataclasses
import math

import keras
import numpy as np

from keras_app import lottery as lottery_lib
from keras_app import selection
from keras_app import shares
from keras_app.checks import check_choice
from keras_app.checks import check_int
from keras_app.checks import check_number
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
from keras_app.pruners import MagnitudePruner
from keras_app.pruners import RandomPruner
from keras_app.report.searches import HARDEST

METHODS = ("vanilla", "prac", "random")
TICKETS = ("lt", "rewind_lt", "pt")
SETS = "prac_sets.npz"


def lottery(
    data,
    model,
    run_dir,
    *,
    prac=False,
    methods=None,
    optimizer=CoupledSGD,
    pruner=MagnitudePruner,
    filters=None,
    ticket="rewind_lt",
    rounds=16,
    rate=0.2,
    epochs=182,
    milestones=(91, 136),
    warmup_epochs=0,
    rewind_epoch=2,
    lr_rewind=None,
    select_examples="threshold",
    forgetting_threshold=0,
    data_rate=0.2,
    use_pruning_examples=True,
    early_stop=True,
    eps=0.08,
    queue_length=5,
    require_first_exceed=True,
    iteration_scaling="epochs",
    on_empty="raise",
    sets=None,
    set_mode="per_round",
    evaluate=None,
    evaluation_runs=1,
    mean=None,
    std=None,
    seed=0,
    resume=False,
    on_start=None,
    verbose=True,
):
    """Searches winning tickets: train, prune a share of what remains, rewind.

    Round r trains under the mask of r prunings; then `round(rate *
    remaining)` more weights go, all over the network, and the rest returns to
    its early values. With PrAC sets a round trains only on examples that the
    one before forgot or that pruning changes the prediction of, for a number
    of epochs in proportion, and ends once the mask has settled.

    A ticket is judged by training it from its early values on all data:
    test accuracy with the weights of the best validation epoch. On all data
    (`"vanilla"`, `"random"`) the rounds themselves do that.

    Args:
        data: An `experiments.data.Holdout` with classes, or a callable that
            makes one given `seed`.
        model: See `train`.
        run_dir: Folder to write; see `docs/run_folder.md`.
        prac: Whether to search on PrAC sets. Defaults to `False`.
        methods: Searches to make, from the same initial weights: any of
            `"vanilla"`, `"prac"`, `"random"` (random weights are pruned).
            Defaults to `("prac",)` with `prac`, else `("vanilla",)`.
        optimizer: A callable without arguments that makes an optimizer; every
            round has a new one. Defaults to `CoupledSGD`.
        pruner: A callable that makes one of `keras_app.pruners` given
            `schedule`, `scope`, `filters` and `on_miss`; its scores and
            structure decide what goes. Defaults to `MagnitudePruner`.
        filters: What is pruned, see `keras_app.selection.select`. Defaults to
            `None`: all convolution kernels.
        ticket: Where tickets start: `"lt"`, the initial weights;
            `"rewind_lt"`, those after `rewind_epoch + 1` epochs; `"pt"`, the
            best of the dense network. Defaults to `"rewind_lt"`.
        rounds: R, >= 1. Defaults to `16`.
        rate: Share of the remaining weights to prune in a round, in (0, 1).
            Defaults to `0.2`.
        epochs: Epochs of a round on all data, >= 1. Defaults to `182`.
        milestones: Epochs at which the learning rate falls to a tenth.
            Defaults to `(91, 136)`.
        warmup_epochs: Epochs of warm-up, >= 0. Defaults to `0`.
        rewind_epoch: Counted from 0; its end is returned to. Defaults to `2`.
        lr_rewind: Whether later rounds skip the first `rewind_epoch` epochs of
            the learning rate's schedule. Defaults to `None`: only where
            vanilla tickets are rewound, as in the released code.
        select_examples: `"threshold"`: those forgotten more than
            `forgetting_threshold` times; `"constant"`: the hardest, `(1 -
            data_rate)^(r + 1)` of the training set. Defaults to
            `"threshold"`.
        forgetting_threshold: >= 0. Defaults to `0`.
        data_rate: In (0, 1). Defaults to `0.2`.
        use_pruning_examples: Whether examples on which the dense and the
            sparse network disagree are critical too. Defaults to `True`.
        early_stop, eps, queue_length, require_first_exceed: Whether and when a
            round on PrAC sets ends early, see
            `keras_app.lottery.MaskDistanceStop`.
        iteration_scaling: `"epochs"`: fewer examples and fewer epochs, as the
            released code; `"linear"`: fewer examples only, as the paper.
            Defaults to `"epochs"`.
        on_empty: What happens where no example is critical: `"raise"`, or
            `"keep"` the set. Defaults to `"raise"`.
        sets: `prac_sets.npz` of another run on the same data, whose sets are
            used instead of finding new ones. Defaults to `None`.
        set_mode: `"per_round"` or `"final"`, see
            `keras_app.lottery.PracSets.for_round`. Defaults to `"per_round"`.
        evaluate: Numbers of prunings whose tickets `"prac"` judges. Defaults
            to `None`: all from 1 to `rounds - 1`.
        evaluation_runs: Trainings whose mean judges a ticket, >= 1. Defaults
            to `1`.
        mean, std, seed, resume, on_start, verbose: See `train`.

    Returns:
        The summary, as in `summary.json`: a dict.

    Raises:
        ValueError: Bad arguments, before anything is written or trained;
            later: no critical examples, or a rate that prunes nothing.

    Example:

    ```python
    summary = lottery(
        Holdout("fashion_mnist_mini"), "convnet", "runs/prac", prac=True,
        rounds=4, epochs=10, milestones=(6, 8), rewind_epoch=0
    )
    ```

    Reference: [Zhang et al., 2021](https://arxiv.org/abs/2106.03225); vanilla
    is [Frankle et al., 2020](https://arxiv.org/abs/1912.05671). Differs: see
    `on_empty`; ids are those of the samples, never positions.
    """
    folder, finished = open_folder(run_dir, resume)
    if finished is not None:
        return finished
    methods = _check_methods(methods, prac)
    check_choice("ticket", ticket, TICKETS)
    check_choice("select_examples", select_examples, ("threshold", "constant"))
    check_choice("iteration_scaling", iteration_scaling, ("epochs", "linear"))
    check_choice("on_empty", on_empty, ("raise", "keep"))
    check_int("rounds", rounds, 1)
    check_int("epochs", epochs, 1)
    check_int("warmup_epochs", warmup_epochs, 0)
    check_int("rewind_epoch", rewind_epoch, 0)
    check_int("evaluation_runs", evaluation_runs, 1)
    check_int("seed", seed, 0)
    inside = {"rule": lambda x: 0 < x < 1, "words": "in (0, 1)"}
    check_number("rate", rate, **inside)
    check_number("data_rate", data_rate, **inside)
    check_number("forgetting_threshold", forgetting_threshold, lambda x: x >= 0)
    lottery_lib.MaskDistanceStop(eps, queue_length)
    if ticket == "rewind_lt" and epochs <= rewind_epoch:
        raise ValueError(
            "`epochs` must be more than `rewind_epoch`, which would never be "
            f"reached. Received: epochs={epochs}, rewind_epoch={rewind_epoch}"
        )
    if ticket == "pt" and "prac" in methods:
        raise ValueError(
            "`ticket` must be 'lt' or 'rewind_lt' on PrAC sets. "
            "Received: ticket='pt'"
        )
    if evaluate is None:
        evaluate = range(1, rounds)
    evaluate = tuple(evaluate) if "prac" in methods else ()
    for number in evaluate:
        if not 0 <= number <= rounds:
            raise ValueError(
                f"`evaluate` must hold numbers of prunings, in [0, {rounds}]. "
                f"Received: evaluate={evaluate}"
            )
    keras.utils.set_random_seed(seed)
    data_lib.make_deterministic()
    data = data(seed=seed) if callable(data) else data
    if data.num_classes is None:
        raise ValueError(
            "`data` must have classes, which predictions are right or wrong "
            f"about. Received: {data.name}, whose targets are images"
        )
    if sets is not None:
        sets = lottery_lib.PracSets.load(sets)
        sets.check(data.fingerprint, data.train_ids)
        sets.for_round(0, set_mode)
    settings = _Settings(
        data=data,
        make_model=models.factory(model),
        optimizer=optimizer,
        pruner=pruner,
        filters=filters,
        ticket=ticket,
        rounds=rounds,
        rate=float(rate),
        schedule=_Schedule(epochs, tuple(milestones), warmup_epochs),
        rewind_epoch=rewind_epoch,
        lr_rewind=lr_rewind,
        select_examples=select_examples,
        forgetting_threshold=forgetting_threshold,
        data_rate=data_rate,
        use_pruning_examples=use_pruning_examples,
        early_stop=early_stop,
        eps=eps,
        queue_length=queue_length,
        require_first_exceed=require_first_exceed,
        iteration_scaling=iteration_scaling,
        on_empty=on_empty,
        sets=sets,
        set_mode=set_mode,
        evaluate=evaluate,
        evaluation_runs=evaluation_runs,
        mean=mean,
        std=std,
        seed=seed,
    )
    fingerprint = settings.fingerprint(methods)
    with Session(folder, fingerprint, resume, verbose) as session:
        return _Run(session, methods, settings).go(on_start)


@dataclasses.dataclass(frozen=True)
class _Schedule:
    epochs: int
    milestones: tuple
    warmup_epochs: int


@dataclasses.dataclass(frozen=True)
class _Settings:
    data: object
    make_model: object
    optimizer: object
    pruner: object
    filters: object
    ticket: str
    rounds: int
    rate: float
    schedule: _Schedule
    rewind_epoch: int
    lr_rewind: bool | None
    select_examples: str
    forgetting_threshold: float
    data_rate: float
    use_pruning_examples: bool
    early_stop: bool
    eps: float
    queue_length: int
    require_first_exceed: bool
    iteration_scaling: str
    on_empty: str
    sets: object
    set_mode: str
    evaluate: tuple
    evaluation_runs: int
    mean: object
    std: object
    seed: int

    def fingerprint(self, methods):
        """Plain values that must be equal for a run to be continued."""
        search = _Search(methods[0], self)
        own = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
        }
        for name in ("data", "make_model", "optimizer", "pruner", "filters"):
            own.pop(name)
        sets = own.pop("sets")
        return plain(
            {
                **own,
                **dataclasses.asdict(own.pop("schedule")),
                "backend": keras.backend.backend(),
                "methods": list(methods),
                "data": self.data.name,
                "training_examples": len(self.data.train_ids),
                "batch_size": self.data.batch_size,
                **settings_of(self.data, self.mean, self.std),
                "model": search.model.name,
                "parameters": int(search.model.count_params()),
                "prunable": search.total,
                "optimizer": search.model.optimizer.get_config(),
                "pruner": search.pruner.get_config(),
                "sets": None if sets is None else sets.fingerprint,
            }
        )


@dataclasses.dataclass
class _Stage:
    """One training: a round of the search, or a ticket that is judged.

    Attributes:
        number: Place in the method's sequence, which the order of the data
            follows from.
        prunings: How often the network was pruned before.
        ids: What is trained on.
        schedule: For how long.
        judged: Whether it is not part of the search.
    """

    number: int
    prunings: int
    ids: np.ndarray
    schedule: _Schedule
    judged: bool


class _Search:
    """A method's model and everything it has found so far."""

    def __init__(self, method, settings):
        s = settings
        self.method = method
        self.settings = s
        self.reduces_data = method == "prac"
        keras.utils.set_random_seed(s.seed)
        self.model = s.make_model(
            input_shape=tuple(s.data.image_shape),
            num_classes=s.data.num_classes,
            mean=s.mean,
            std=s.std,
            seed=s.seed,
        )
        filters = s.filters or _convolutions(self.model)
        make = RandomPruner if method == "random" else s.pruner
        extra = {"seed": s.seed} if method == "random" else {}
        self.pruner = make(
            schedule=_never,
            scope="global",
            filters=filters,
            on_miss="ignore",
            **extra,
        )
        if getattr(self.pruner, "data", ()) is None:
            self.pruner.data = s.data.in_order(s.data.train_ids)
        self.model.compile(
            s.optimizer(),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        self.pruner.set_model(self.model)
        self.fresh = {
            name: value
            for name, value in model_state(self.model).items()
            if name.startswith("optimizer/") and value.dtype != bool
        }
        self.variables = self.pruner.variables
        self.total = sum(math.prod(v.shape) for v in self.variables.values())
        # After k prunings: {path: mask}.
        self.masks = [
            {p: np.ones(v.shape, bool) for p, v in self.variables.items()}
        ]
        self.start = lottery_lib.snapshot(self.model)
        self.ids = [s.data.train_ids]
        self.training_ids, self.pruning_ids = [], []
        self.epochs_run = []
        self.dense_predictions = None

    def begin(self, prunings):
        """Early weights, the mask, and an optimizer without momentum.

        Not a new optimizer, for which every step would be compiled again.
        """
        restore_model_state(
            self.model, {**model_state(self.model), **self.fresh}
        )
        masks = self.masks[prunings]
        self.pruner.apply(masks)
        # Behind the new mask: the old one may prune what it keeps.
        lottery_lib.rewind(self.model, self.start)

    def remaining(self, prunings):
        """Number of weights that so many prunings left."""
        return sum(int(m.sum()) for m in self.masks[prunings].values())

    def candidate(self, prunings):
        """The mask that one more pruning would give now."""
        s = self.settings
        before = self.remaining(prunings)
        if self.pruner.structure is not None:
            # Units are not weights: their share is what falls.
            return self.pruner.propose(1 - (1 - s.rate) ** (prunings + 1))
        gone = round(s.rate * before)
        if gone == 0:
            raise ValueError(
                "`rate` must prune at least one weight. Received: "
                f"rate={s.rate} of {before} remaining weights"
            )
        # Half a weight more cannot be rounded below the number meant.
        pruned = self.total - before + gone + 0.5
        return self.pruner.propose(min(pruned / self.total, 1 - 1e-12))

    def schedule_of(self, ids):
        """Epochs, milestones and warm-up for a set of examples."""
        base = self.settings.schedule
        if self.settings.iteration_scaling == "linear":
            return base
        return _Schedule(
            *lottery_lib.scale_schedule(
                len(ids),
                len(self.settings.data.train_ids),
                base.epochs,
                base.milestones,
                base.warmup_epochs,
            )
        )

    def stages(self):
        """Every training of the method, the rounds first; lazily."""
        s = self.settings
        everything = s.data.train_ids
        for r in range(s.rounds):
            # Only now the round before has said which examples are critical.
            ids = self.ids[r]
            yield _Stage(r, r, ids, self.schedule_of(ids), judged=False)
        if not self.reduces_data:
            return
        for i, prunings in enumerate(s.evaluate):
            for run in range(s.evaluation_runs):
                number = s.rounds + i * s.evaluation_runs + run
                yield _Stage(number, prunings, everything, s.schedule, True)

    def predictions(self):
        """Classes of the whole training set, in the order of its ids."""
        data = self.settings.data
        logits = devices.predict(
            self.model, data.in_order(data.train_ids), verbose=0
        )
        return np.argmax(logits, axis=-1)

    # ---- state ---------------------------------------------------------

    def arrays(self):
        """What a checkpoint needs, besides the model's own state."""
        found = {f"start/{i}": a for i, a in enumerate(self.start.values())}
        for k, masks in enumerate(self.masks):
            for i, mask in enumerate(masks.values()):
                found[f"mask/{k}/{i}"] = np.packbits(mask)
        for name in ("ids", "training_ids", "pruning_ids"):
            for r, ids in enumerate(getattr(self, name)):
                found[f"{name}/{r}"] = ids
        if self.dense_predictions is not None:
            found["dense_predictions"] = self.dense_predictions
        return found

    def restore(self, arrays, epochs_run):
        """Takes back what `arrays` gave."""
        self.epochs_run = list(epochs_run)
        self.start = {
            path: arrays[f"start/{i}"] for i, path in enumerate(self.start)
        }
        self.masks = [
            {
                path: _unpacked(arrays[f"mask/{k}/{i}"], variable.shape)
                for i, (path, variable) in enumerate(self.variables.items())
            }
            for k in range(_count(arrays, "mask"))
        ]
        for name in ("ids", "training_ids", "pruning_ids"):
            count = _count(arrays, name)
            setattr(self, name, [arrays[f"{name}/{r}"] for r in range(count)])
        self.dense_predictions = arrays.get("dense_predictions")


class _Run:
    """One run over all methods, from the start or from a checkpoint."""

    def __init__(self, session, methods, settings):
        self.session = session
        self.methods = methods
        self.settings = settings

    def go(self, on_start):
        first, state = 0, None
        checkpoint = self.session.begin(on_start)
        if checkpoint is not None:
            arrays, meta = checkpoint
            first = meta["method"]
            state = checkpoint if arrays else None
            self.session.terminal.line(
                f"resuming {self.methods[first]}"
                if first < len(self.methods)
                else "resuming: all methods are trained"
            )
        for number in range(first, len(self.methods)):
            self._search(number, state)
            state = None
        return self._finish()

    def _search(self, number, state):
        devices.clear_session()
        search = _Search(self.methods[number], self.settings)
        self.session.open_events(search.method)
        first, meta = 0, None
        if state is None:
            self.session.terminal.line(
                f"[bold]{search.method}[/bold]: {search.model.name}, "
                f"{search.total:,} prunable weights"
            )
        else:
            arrays, meta = state
            first = meta["stage"]
            search.restore(arrays, meta["epochs_run"])
        for stage in search.stages():
            if stage.number < first:
                continue
            if stage.number > first:
                self._checkpoint_between(number, search, stage)
            training = _Training(self, number, search, stage)
            if meta is not None:
                training.restore(arrays, meta)
                meta = None
            training.go()
        self._close(number, search)

    def _checkpoint_between(self, number, search, stage):
        """Before a stage, which starts with weights of its own.

        Not behind the last one, whose weights are still to be saved.
        """
        self.session.checkpoint(
            search.arrays(),
            {
                "method": number,
                "stage": stage.number,
                "epoch": 0,
                "epochs_run": search.epochs_run,
            },
        )

    def _close(self, number, search):
        """Writes what the method found, and the checkpoint behind it."""
        folder = self.session.folder
        name = MODEL if number == 0 else f"model_{search.method}.keras"
        folder.save_model(strip_pruning(search.model), name)
        if search.reduces_data:
            s = self.settings
            with folder.replacing(SETS) as path:
                lottery_lib.PracSets(
                    s.data.fingerprint,
                    s.data.train_ids,
                    search.ids,
                    search.training_ids,
                    search.pruning_ids,
                    {
                        "eps": s.eps,
                        "forgetting_threshold": s.forgetting_threshold,
                        "rate": s.rate,
                        "model": search.model.name,
                    },
                ).save(path)
        self.session.checkpoint({}, {"method": number + 1})

    # ---- figures -------------------------------------------------------

    def _finish(self):
        per_method = {m: self._summary_of(m) for m in self.methods}
        main = per_method[self.methods[0]]
        summary = {
            "experiment": "lottery",
            "method": self.methods[0],
            "accuracy": main["accuracy"],
            "effective_density": main["effective_density"],
            "sparsity_all": main["sparsity_all"],
            "seed": self.settings.seed,
            "data": self.settings.data.name,
            "model": self.session.settings["model"],
            "rounds": self.settings.rounds,
            "epochs": self.settings.schedule.epochs,
            "test_examples": len(self.settings.data.test[0]),
            "methods": per_method,
        }
        return self.session.finish(
            summary,
            f"lottery tickets on {self.settings.data.name}",
            ("method", "accuracy", "density", "iterations", "saved"),
            [
                (
                    method,
                    f"{row['accuracy']:.4f}",
                    f"{row['effective_density']:.4f}",
                    f"{row['iterations']:,}",
                    f"{row['saving_percent']:.1f} %",
                )
                for method, row in per_method.items()
            ],
        )

    def _summary_of(self, method):
        s = self.settings
        events = self.session.results[method]
        rounds = [e for e in events if e["event"] == "round"]
        runs = [e for e in events if e["event"] == "ticket"]
        account = lottery_lib.iteration_account(
            [row["set_size"] for row in rounds],
            [row["epochs_run"] for row in rounds],
            s.data.batch_size,
            len(s.data.train_ids),
            s.schedule.epochs,
        )
        tickets = _tickets(runs or rounds)
        last = tickets[-1]
        # What the sparsest judged ticket cost to find.
        found = max(0, last["prunings"] - 1)
        return {
            "accuracy": last["accuracy"],
            "effective_density": last["density"],
            "sparsity_all": last["sparsity_all"],
            "iterations": int(account["cumulative"][found]),
            "saving_percent": float(account["saving_percent"][found]),
            "set_fraction": float(account["set_fraction"][-1]),
            "overhead_samples": sum(row["overhead_samples"] for row in rounds),
            "account": {k: v.tolist() for k, v in account.items()},
            "rounds": rounds,
            "tickets": tickets,
        }


class _Training:
    """One stage: trains, and tells the search what came of it."""

    def __init__(self, run, number, search, stage):
        s = run.settings
        self.run = run
        self.number = number
        self.search = search
        self.stage = stage
        self.best = BestWeights()
        self.epoch = 0
        self.last = None  # the trial mask of the epoch before
        self.proposed = None
        reduces = search.reduces_data and not stage.judged
        self.stop = None
        if reduces and s.early_stop:
            self.stop = lottery_lib.MaskDistanceStop(
                s.eps,
                s.queue_length,
                stage.schedule.warmup_epochs,
                s.require_first_exceed,
            )
        self.tracker = None
        if reduces and s.sets is None:
            self.tracker = lottery_lib.ForgettingTracker(s.data.num_examples)
        self.stopped = False  # early, because the mask had settled
        self.restored = False

    def go(self):
        s, search, stage = self.run.settings, self.search, self.stage
        if not self.restored:
            search.begin(stage.prunings)
        self.epochs = self._least_epochs()
        first = stage.number * s.schedule.epochs
        rate = float(s.optimizer().get_config()["learning_rate"])
        if self.epoch < self.epochs and not self.stopped:
            search.model.fit(
                s.data.epochs(
                    first + self.epoch,
                    first + self.epochs,
                    stage.ids,
                    with_ids=self.tracker is not None,
                ),
                steps_per_epoch=s.data.steps(stage.ids),
                initial_epoch=self.epoch,
                epochs=self.epochs,
                validation_data=s.data.validation,
                callbacks=[
                    MilestoneLearningRate(rate, *self._learning_rate()),
                    *([self.tracker] if self.tracker else []),
                    self.best,
                    Recorder(self.run.session.folder, self.epoch_done),
                ],
                verbose=0,
                shuffle=False,
            )
        else:
            self.best.set_model(search.model)
            self.best.on_train_end()
        self._conclude()

    def _least_epochs(self):
        s = self.run.settings
        epochs = self.stage.schedule.epochs
        if self._keeps_a_start():
            epochs = max(epochs, s.rewind_epoch + 1)
        return epochs

    def _keeps_a_start(self):
        first = self.stage.number == 0 and not self.stage.judged
        return first and self.run.settings.ticket == "rewind_lt"

    def _learning_rate(self):
        """Milestones and warm-up, moved where the rate is rewound too."""
        s, schedule = self.run.settings, self.stage.schedule
        rewinds = s.lr_rewind
        if rewinds is None:
            rewinds = not self.search.reduces_data and s.ticket == "rewind_lt"
        if not rewinds or self.stage.number == 0 or self.stage.judged:
            return schedule.milestones, schedule.warmup_epochs
        back = s.rewind_epoch
        return (
            tuple(m - back for m in schedule.milestones),
            max(0, schedule.warmup_epochs - back),
        )

    # ---- epochs --------------------------------------------------------

    def epoch_done(self, epoch, logs):
        """Trial mask, early stop, log and checkpoint. Called by `fit`."""
        search, stage, session = self.search, self.stage, self.run.session
        # Before the trial mask, which would ask the weights for their order.
        session.check_losses(logs, f"epoch {epoch + 1}")
        self.epoch = epoch + 1
        if self._keeps_a_start() and epoch == self.run.settings.rewind_epoch:
            search.start = lottery_lib.snapshot(search.model)
        distance = None
        if not stage.judged:
            distance = self._try_mask()
        if distance is not None and self.stop is not None:
            early = self._keeps_a_start() and (
                epoch < self.run.settings.rewind_epoch
            )
            self.stopped = self.stop.update(distance) and not early
            search.model.stop_training = self.stopped
        event = {
            "event": "epoch",
            "method": search.method,
            "stage": stage.number,
            "prunings": stage.prunings,
            "epoch": epoch,
            **{name: float(value) for name, value in logs.items()},
        }
        if distance is not None:
            event["mask_distance"] = distance
        session.log(event)
        step = sum(
            e["event"] == "epoch" for e in session.results[search.method]
        )
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            session.scalar(f"epoch/{name}", event[name], step)
        self._checkpoint()
        what = "ticket" if stage.judged else "round"
        at = stage.prunings if stage.judged else stage.number + 1
        session.terminal.line(
            f"{search.method} {what} {at} epoch {epoch + 1}/{self.epochs}  "
            f"loss {event['loss']:.4f}  val_accuracy "
            f"{event['val_accuracy']:.4f}"
            + ("" if distance is None else f"  mask distance {distance:.4f}")
        )

    def _try_mask(self):
        search, prunings = self.search, self.stage.prunings
        self.proposed = search.candidate(prunings)
        last, self.last = self.last, self.proposed
        if last is None:
            return None
        return lottery_lib.mask_distance(
            self.proposed, last, search.remaining(prunings)
        )

    # ---- the end of a stage --------------------------------------------

    def _conclude(self):
        """The model holds its best weights; says what they are worth."""
        s, search, stage = self.run.settings, self.search, self.stage
        inputs, labels = s.data.test
        logits = devices.predict(
            search.model, inputs, batch_size=256, verbose=0
        )
        row = {
            "event": "ticket" if stage.judged else "round",
            "method": search.method,
            "prunings": stage.prunings,
            "density": search.remaining(stage.prunings) / search.total,
            "sparsity_all": shares.sparsity_all(search.model),
            "test_accuracy": float(np.mean(np.argmax(logits, -1) == labels)),
            "best_epoch": self.best.epoch,
            "best_val_accuracy": self.best.best,
            "epochs_run": self.epoch,
        }
        if not stage.judged:
            row.update(self._next_round())
        self.run.session.log(row)
        self.run.session.terminal.line(
            f"[bold]{search.method}[/bold] {row['event']} with density "
            f"{row['density']:.4f}, sparsity_all {row['sparsity_all']:.4f}: "
            f"test accuracy {row['test_accuracy']:.4f}, "
            f"{self.epoch} epochs on {len(stage.ids):,} examples"
        )

    def _next_round(self):
        """Mask, start and examples of the next round; figures of this one."""
        s, search, stage = self.run.settings, self.search, self.stage
        search.masks.append(self.proposed)
        search.epochs_run.append(self.epoch)
        row = {
            "round": stage.number,
            "set_size": len(stage.ids),
            "stopped_early": bool(self.stopped),
            "overhead_samples": 0,
        }
        if s.ticket == "pt" and stage.number == 0:
            search.start = lottery_lib.snapshot(search.model)
        if stage.number == s.rounds - 1:  # nobody will train on them
            return row
        if not search.reduces_data:
            search.ids.append(s.data.train_ids)
            return row
        if s.sets is not None:
            search.ids.append(s.sets.for_round(stage.number + 1, s.set_mode))
            search.training_ids.append(np.empty(0, "int64"))
            search.pruning_ids.append(np.empty(0, "int64"))
            return row
        training = self._critical_for_training()
        pruning = np.empty(0, "int64")
        if s.use_pruning_examples:
            predictions = search.predictions()
            row["overhead_samples"] = len(s.data.train_ids)
            if stage.number == 0:
                search.dense_predictions = predictions
            else:
                pruning = s.data.train_ids[
                    lottery_lib.critical_for_pruning(
                        search.dense_predictions, predictions
                    )
                ]
                row["overlap"] = (
                    lottery_lib.overlap_rate(training, pruning)
                    if len(pruning)
                    else None
                )
        search.training_ids.append(training)
        search.pruning_ids.append(pruning)
        search.ids.append(
            lottery_lib.prac_set(
                training,
                pruning,
                s.on_empty,
                current_ids=stage.ids,
                within=s.data.train_ids,
            )
        )
        row["critical_for_training"] = len(training)
        row["critical_for_pruning"] = len(pruning)
        row["next_set_size"] = len(search.ids[-1])
        if stage.number == 0:
            self._save_hardest()
        return row

    def _save_hardest(self, number=40):
        """Keeps the examples that were forgotten most often, for the page."""
        data, counts = self.run.settings.data, self.tracker.counts
        ids = data.train_ids
        ids = ids[np.argsort(-counts[ids], kind="stable")][:number]
        images, labels = next(data.in_order(ids).as_numpy_iterator())
        count = len(images)  # a batch may be smaller
        with self.run.session.folder.replacing(HARDEST) as path:
            np.savez_compressed(
                path,
                ids=ids[:count],
                counts=counts[ids[:count]],
                images=images,
                labels=labels,
            )

    def _critical_for_training(self):
        s, counts = self.run.settings, self.tracker.counts
        if s.select_examples == "threshold":
            return lottery_lib.critical_for_training(
                counts, s.forgetting_threshold
            )
        share = (1 - s.data_rate) ** (self.stage.number + 1)
        wanted = int(len(s.data.train_ids) * share)
        return lottery_lib.hardest_examples(counts, wanted)

    # ---- resuming ------------------------------------------------------

    def _checkpoint(self):
        search = self.search
        arrays = {**model_state(search.model), **search.arrays()}
        for i, weight in enumerate(self.best.weights or ()):
            arrays[f"best/{i}"] = weight
        for i, mask in enumerate((self.last or {}).values()):
            arrays[f"last/{i}"] = np.packbits(mask)
        self.run.session.checkpoint(
            arrays,
            {
                "method": self.number,
                "stage": self.stage.number,
                "epoch": self.epoch,
                "epochs_run": search.epochs_run,
                "best": [self.best.best, self.best.epoch],
                "stopped": bool(self.stopped),
                "stop": self.stop.state() if self.stop else None,
                "tracker": self.tracker.state() if self.tracker else None,
            },
        )

    def restore(self, arrays, meta):
        """Goes on within the stage that a checkpoint was taken in."""
        if meta["epoch"] == 0:
            return
        search = self.search
        self.restored = True
        restore_model_state(search.model, arrays)
        self.epoch = meta["epoch"]
        self.best.best, self.best.epoch = meta["best"]
        count = len(search.model.weights)
        self.best.weights = [arrays[f"best/{i}"] for i in range(count)]
        self.stopped = meta["stopped"]
        if meta["stop"] is not None:
            self.stop.restore(meta["stop"])
        if meta["tracker"] is not None:
            self.tracker.restore(meta["tracker"])
        if not self.stage.judged:
            self.last = self.proposed = {
                path: _unpacked(arrays[f"last/{i}"], variable.shape)
                for i, (path, variable) in enumerate(search.variables.items())
            }


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


def _check_methods(methods, prac):
    if methods is None:
        return ("prac",) if prac else ("vanilla",)
    methods = (methods,) if isinstance(methods, str) else tuple(methods)
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods or len(set(methods)) != len(methods):
        raise ValueError(
            f"`methods` must be different ones of {METHODS}. "
            f"Received: methods={methods}"
        )
    if prac and "prac" not in methods:
        raise ValueError(
            "`methods` must hold 'prac' with prac=True. "
            f"Received: methods={methods}"
        )
    return methods


def _tickets(rows):
    """Runs of equal tickets together: mean and spread of their accuracy."""
    found = {}
    for row in rows:
        found.setdefault(row["prunings"], []).append(row)
    return [
        {
            "prunings": prunings,
            "density": same[0]["density"],
            "sparsity_all": same[0]["sparsity_all"],
            "accuracy": float(np.mean([r["test_accuracy"] for r in same])),
            "accuracies": [r["test_accuracy"] for r in same],
        }
        for prunings, same in sorted(found.items())
    ]


def _unpacked(bits, shape):
    shape = tuple(shape)
    return np.unpackbits(bits, count=math.prod(shape)).reshape(shape) == 1


def _count(arrays, start):
    """How many different numbers follow `start/` in the names of arrays."""
    return len(
        {name.split("/")[1] for name in arrays if name.startswith(f"{start}/")}
    )
