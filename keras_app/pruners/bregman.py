"""Bregman optimizers, held to a schedule of exact sparsities."""

from typing import Any

import keras

from keras_app import host
from keras_app import masks as masks_lib
from keras_app import selection
from keras_app import shares
from keras_app import split
from keras_app.checks import check_sparsity
from keras_app.hints import Arrays
from keras_app.hints import OnMiss
from keras_app.hints import Schedule
from keras_app.hints import Scope
from keras_app.hints import State
from keras_app.hints import Variables
from keras_app.masks.structures import Structure
from keras_app.masks.structures import Units
from keras_app.pruners import clock
from keras_app.pruners.pruner import Pruner
from keras_app.regularizers import SparsityRegularizer
from keras_app.selection import Selection


@keras.saving.register_keras_serializable(package="keras_app")
class BregmanPruner(Pruner):
    """Drives LinBreg, AdaBreg or ProxSGD along any schedule, to the weight.

    At each update the strength of the regularizer becomes the one at which
    just the asked share of its groups is zero: single weights with `L1`,
    columns and kernels with `GroupL2`.

        c = strength from which on a group is zero     |v|, or ||v|| / sqrt(n)
        lam <- between the k-th smallest c and the next,  k = int(sparsity N)
        theta <- prox_{delta J}(delta v)

    So a network that trains sparse from its first step, or grows from almost
    nothing, ends at a density that you name. In between the optimizer decides
    as it always does, and the density moves a little. After the schedule's
    `end_step` updates go on at its `frequency`, and the last one is made when
    training ends. Each costs what an update of masks does. `LambdaController`
    and `DensityController` are for those who want a strength, not a density.

    Groups that have never moved cannot be told apart. Where fewer have moved
    than are to be active (`sparsify` at less than the schedule begins with),
    all of these become active, and the update is made again a step later.

    Args:
        schedule: A `keras_app.schedules.PruningSchedule`, or any callable
            `step -> (should_prune, sparsity)`. `ConstantSparsity` is sparse
            from the first step; `PolynomialDecay` may fall as well as rise.
            `frequency` of some 10 steps; 1 with `ProxSGD`, whose strength
            shrinks at each step what stays.
        regularizer: One that the model's optimizer was given, of
            `keras_app.regularizers`, without `Nuclear`. Defaults to `None`:
            the only one it has, or with `scope="layer"` all of them.
        scope: `"global"`: the share is one of all groups of the regularizer;
            `"layer"`: of those of each weight, which then has a strength of
            its own. Defaults to `"global"`.
        on_miss: See `Pruner`. Defaults to `"warn"`.

    Raises:
        TypeError, ValueError: Bad arguments; when `fit` starts: an optimizer
            without such a regularizer, or a schedule that this training cannot
            complete.

    Example:

    >>> from keras_app.optimizers import LinBreg
    >>> from keras_app.regularizers import L1
    >>> from keras_app.schedules import ConstantSparsity
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile(LinBreg(0.1, regularizers=L1(0.1)), "mse")
    >>> x, y = np.eye(4), np.arange(20.0).reshape(4, 5)
    >>> pruner = BregmanPruner(ConstantSparsity(0.5, 0, frequency=2))
    >>> history = model.fit(x, y, epochs=4, verbose=0, callbacks=[pruner])
    >>> pruner.report.sparsity
    0.5

    Reference: [Bungert et al., 2022](https://arxiv.org/abs/2105.04319), the
    iterations; [arXiv 2605.07892](https://arxiv.org/abs/2605.07892), strengths
    that follow a target. Differs: the strength is computed, not fed back.
    """

    revives = True
    takes_split = True

    def __init__(
        self,
        schedule: Schedule,
        regularizer: SparsityRegularizer | None = None,
        scope: Scope = "global",
        on_miss: OnMiss = "warn",
    ) -> None:
        super().__init__(schedule, scope=scope, on_miss=on_miss)
        if regularizer is not None and not isinstance(
            regularizer, SparsityRegularizer
        ):
            raise TypeError(
                "`regularizer` must be None or one of keras_app.regularizers. "
                f"Received: regularizer={regularizer!r}"
            )
        critical = getattr(type(regularizer), "critical", None)
        if critical is SparsityRegularizer.critical:
            raise ValueError(
                "`regularizer` must say from which strength on weights are "
                "zero (`critical`), as L1 and GroupL2 do. "
                f"Received: regularizer={regularizer!r}"
            )
        self.regularizer = regularizer
        self._own = {}  # {path: the regularizer of this weight}
        self._waiting = None  # the sparsity of an update to try again

    # ---- what is pruned ------------------------------------------------

    def select(self, model: keras.Model) -> Selection:
        """Returns the weights of the regularizer, and why no others."""
        optimizer = host.inner_optimizer(model)
        if not hasattr(optimizer, "set_sparsity"):
            raise ValueError(
                "BregmanPruner moves the regularizers of LinBreg, AdaBreg or "
                "ProxSGD. Received: a model compiled with "
                f"{type(optimizer).__name__}"
            )
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        members = dict(optimizer.members(self.regularizer))
        if self.scope == "layer":
            own = optimizer.separate(self.regularizer)
            # A step compiled before knows the strength that they shared.
            model.train_function = None
        else:
            own = {i: optimizer.regularizer_of(i) for i in members}
            if len(set(own.values())) > 1:
                raise ValueError(
                    "`regularizer` must be one of the optimizer's, or scope "
                    "'layer', where it has several. Received: regularizer="
                    f"{self.regularizer}"
                )
        found = {id(members[index]): each for index, each in own.items()}
        trained = selection.paths_of(model.trainable_variables)
        self._own = {
            path: found[id(variable)]
            for path, variable in trained.items()
            if id(variable) in found
        }
        return selection.Selection(
            {path: trained[path] for path in self._own},
            {
                path: "it does not have the pruner's regularizer"
                for path in trained
                if path not in self._own
            },
        )

    def units_of(self, model: keras.Model, chosen: Selection) -> Units:
        """Returns the groups of the regularizers."""
        return _Groups(self._own, chosen)

    def hold(self, model: keras.Model) -> None:
        """Nothing: the optimizer itself holds the zeros."""

    def restored_zeros(self) -> list[str]:
        """Nothing: what is not zero is active."""
        return []

    @property
    def masks(self) -> Arrays:
        """`{path: bool array}`, `True` kept; empty before the first `fit`."""
        if self._units is None:
            return {}
        return selection.by_path(split.gathered, self._masks)

    @property
    def _masks(self):
        """`masks`, as `read` returns values."""
        host.sync(self.model)
        return selection.by_path(
            lambda v: split.nonzero(self.read(v)), self.variables
        )

    # ---- how -----------------------------------------------------------

    def scores(self, variables: Variables) -> Arrays:
        """Returns `{path: strength from which on an entry is zero}`."""
        optimizer = host.inner_optimizer(self.model)
        found = {}
        for regularizer in {id(r): r for r in self._own.values()}.values():
            for variable, critical in optimizer.critical(regularizer):
                spread = split.numpy_of(critical).broadcast_to
                found[id(variable)] = spread(critical, variable.shape)
        return selection.by_path(lambda v: found[id(v)], variables)

    def combine(
        self,
        scores: Arrays,
        sparsity: float,
        old: Arrays,
        structure: Structure | None,
    ) -> Arrays:
        """Returns new masks; what was zero may come back."""
        return masks_lib.mask_from_scores(scores, sparsity)

    def prune(self, sparsity: float) -> None:
        """Sets the strengths, and with them what is zero, now.

        Args:
            sparsity: Sparsity over the groups of the regularizer, in [0, 1).
        """
        host.sync(self.model)
        sparsity = check_sparsity("sparsity", sparsity)
        optimizer = host.inner_optimizer(self.model)
        regularizers = {id(r): r for r in self._own.values()}.values()
        done = [optimizer.set_sparsity(r, sparsity) for r in regularizers]
        host.hand_to_trainer(self.model)
        self._sparsity = sparsity
        # One step moves all that will ever move.
        again = self._waiting is not None
        self._waiting = None if again or all(done) else sparsity
        self._density = shares.density_of(self._masks)

    def on_epoch_end(self, epoch, logs=None):
        """Adds `sparsity` and `sparsity_all` to the logs, as they are now.

        In the last epoch, after the last update.
        """
        if epoch + 1 == self.params.get("epochs"):
            self._meet()
        self._density = shares.density_of(self._masks)
        super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        """Compares with the target; makes the last update if it is to come."""
        if self._clock.next is not None:
            self._meet()
        super().on_train_end(logs)

    def settle(self) -> None:
        """Makes an update, so that the epoch ends at the density itself."""
        if self._sparsity == clock.final_sparsity(self.schedule):
            self._meet()

    def _meet(self):
        """Meets the density at the end, whether an update is due or not."""
        self._waiting = self._sparsity
        self._advance(self._clock.at_end(self.model))

    def _due_at(self, time):
        due = super()._due_at(time)
        begin, end = clock.begin_and_end(self.schedule_in_steps)
        frequency = getattr(self.schedule_in_steps, "frequency", 1)
        if 0 <= end < time and (time - begin) % frequency == 0:
            due = clock.final_sparsity(self.schedule)
        return self._waiting if due is None else due

    # ---- resuming ------------------------------------------------------

    def state(self) -> State:
        """Returns `(plain values, {name: array})`, what `restore` needs."""
        return {"sparsity": self._sparsity, "waiting": self._waiting}, {}

    def restore(self, plain: dict[str, Any], arrays: Arrays) -> None:
        """Continues where `state()` was taken."""
        self._sparsity, self._waiting = plain["sparsity"], plain["waiting"]


class _Groups(Units):
    """The groups of regularizers, each pruned as one."""

    def __init__(self, own, chosen):
        super().__init__(masks_lib.Unstructured(), chosen)
        self._own = own

    def pool(self, scores):
        """Returns `{path: scores of its groups}`."""
        return {
            path: array.max(self._axes(path), keepdims=True)
            for path, array in scores.items()
        }

    def pool_masks(self, masks):
        """Returns `{path: which groups still keep anything}`."""
        return {
            path: mask.any(self._axes(path), keepdims=True)
            for path, mask in masks.items()
        }

    def _axes(self, path):
        return self._own[path].group_axes(self.shapes[path])

    def spread(self, units, beside):
        """Returns `{path: mask}`."""
        return {
            path: split.numpy_of(kept).broadcast_to(kept, self.shapes[path])
            for path, kept in units.items()
        }

    def expand(self, units, old):
        """Returns the masks; all of a group that is kept may be active."""
        return {
            path: kept.copy() for path, kept in self.spread(units, old).items()
        }
