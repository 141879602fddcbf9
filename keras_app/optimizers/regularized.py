"""The base of optimizers that give each variable a sparsity regularizer."""

import abc
import itertools
import math
import re
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import Literal

import keras
import numpy as np
from keras import ops

from keras_app import host
from keras_app import selection
from keras_app import split
from keras_app.checks import check_number
from keras_app.hints import LearningRate
from keras_app.hints import Tensor
from keras_app.masks import mask_from_scores
from keras_app.optimizers.base import ConfiguredOptimizer
from keras_app.regularizers import SparsityRegularizer

OnChange = Literal["reset", "rescale", "keep"]

# See `LinBreg`. A layer stands for its kernels.
Regularizers = (
    SparsityRegularizer
    | Mapping[Any, SparsityRegularizer]
    | Callable[[keras.Variable], SparsityRegularizer | None]
    | None
)

# Further than rounding moves a number, and no more than it may matter.
_NUDGE = 1 + 2**-20


class RegularizedOptimizer(ConfiguredOptimizer, abc.ABC):
    """Which variable has which regularizer, and with what strength.

    The strengths are kept among the optimizer's variables. Everything is
    decided when the optimizer is built, by the index of a variable.

    Args:
        learning_rate: A float >= 0 or a schedule.
        regularizers: One regularizer of `keras_app.regularizers` for all
            kernels; `{regex: regularizer}`, searched in `variable.path`, or
            with layers as keys, which stand for their kernels; a callable
            `variable -> regularizer or None`; or `None`. A regularizer under
            several keys is one group with one strength. A pattern takes
            biases along if it matches them.
        **kwargs: Keras's base arguments.
    """

    not_configured = ("regularizers",)

    def __init__(
        self,
        learning_rate: LearningRate,
        regularizers: Regularizers,
        **kwargs: Any,
    ) -> None:
        if isinstance(learning_rate, (int, float)):
            check_number("learning_rate", learning_rate, lambda x: x >= 0)
            learning_rate = float(learning_rate)
        super().__init__(learning_rate=learning_rate, **kwargs)
        self._rules = _Rules(regularizers)
        for regularizer in self._rules.regularizers():
            regularizer.optimizers.add(self)

    def build(self, variables):
        """Gives each variable its regularizer, or none."""
        if self.built:
            return
        chosen = self._rules.resolve(variables)
        super().build(variables)
        self._regularizer_of = list(chosen)
        self._given = tuple(chosen)  # before `separate`
        self._strengths = []
        self._track_strengths()

    def _track_strengths(self):
        """Keeps the strengths of all regularizers among its variables."""
        regularizers = _different(self._regularizer_of)
        with host.outside_the_graph():
            strengths = [
                variable
                for regularizer in regularizers
                for variable in regularizer.variables()
            ]
        for regularizer in regularizers:
            regularizer.optimizers.add(self)
        # In the place of those before, where an optimizer that is loaded has
        # them: files tell variables apart by their order.
        replaced = {id(variable) for variable in self._strengths}
        later = list(
            itertools.dropwhile(lambda v: id(v) not in replaced, self.variables)
        )
        for variable in later:
            self._untrack_variable(variable)
        # Keras tracks variables in lists that are set as attributes.
        self._strengths = strengths
        for variable in later:
            if id(variable) not in replaced:
                self._track_variable(variable)

    @property
    def density(self) -> float:
        """Share of the regularized weights that are not zero, in [0, 1]."""
        return self.density_of(None)

    def density_of(self, regularizer: SparsityRegularizer | None) -> float:
        """Share of one regularizer's weights that are not zero.

        Args:
            regularizer: A regularizer of this optimizer; `None` for all.

        Raises:
            RuntimeError: The optimizer is not built.
        """
        members = self.members(regularizer)
        kept = sum(split.count(split.read(v)) for _, v in members)
        return kept / sum(math.prod(v.shape) for _, v in members)

    def members(
        self, regularizer: SparsityRegularizer | None
    ) -> list[tuple[int, keras.Variable]]:
        """`[(index, variable)]` of a regularizer; of all for `None`."""
        if not self.built:
            raise RuntimeError(
                f"{self.name} is not built yet, so no variable has a "
                "regularizer. Call `fit`, or `optimizer.build("
                "model.trainable_variables)`, first."
            )
        found = [
            (index, variable)
            for index, variable in self._regularized()
            if regularizer
            in (None, self._regularizer_of[index], self._given[index])
        ]
        if not found:
            raise ValueError(
                f"`regularizer` must be one of {self.name}'s. "
                f"Received: {regularizer!r}"
            )
        return found

    def regularizer_of(self, index: int) -> SparsityRegularizer | None:
        """The regularizer of the trainable variable at an index, or `None`."""
        return self._regularizer_of[index]

    def _regularized(self):
        return [
            (index, variable)
            for index, variable in enumerate(self._trainable_variables)
            if self._regularizer_of[index] is not None
        ]

    def set_strength(
        self,
        regularizer: SparsityRegularizer,
        lam: float,
        on_change: OnChange = "reset",
    ) -> None:
        """Sets `regularizer.lam`; optimizers with a dual variable mind it."""
        self.members(regularizer)
        regularizer.lam = lam

    # ---- exact sparsity ------------------------------------------------

    @abc.abstractmethod
    def refresh(self, index: int, variable: keras.Variable) -> None:
        """Makes the latent state again if the weight was replaced."""

    @abc.abstractmethod
    def point(self, index: int) -> tuple[Tensor, Tensor]:
        """Returns `(x, t)`: the weight is `prox(x, t)` of its regularizer."""

    def after_write(self, index: int, variable: keras.Variable) -> None:
        """Comes after a weight was written outside of a step."""

    @abc.abstractmethod
    def latent(self, index: int) -> keras.Variable:
        """Returns the variable that a weight is the prox of, up to a factor."""

    def critical(
        self, regularizer: SparsityRegularizer
    ) -> list[tuple[keras.Variable, Tensor]]:
        """`[(variable, strengths from which on its groups are zero)]`.

        Each an array that broadcasts to the variable, in NumPy, or where the
        variable is split over devices, there; infinite where a learning rate
        of 0 leaves no strength anything to do.
        """
        found = []
        for index, variable in self.members(regularizer):
            self.refresh(index, variable)
            x, t = self.point(index)
            each = regularizer.critical(x if t in (0, 1) else x / t)
            each = split.read(each if t else ops.full_like(each, np.inf))
            found.append((variable, each))
        return found

    def set_sparsity(
        self, regularizer: SparsityRegularizer, sparsity: float
    ) -> bool:
        """Makes just a share of a regularizer's groups zero, now.

            c = strength from which on a group is zero
            lam <- halfway between the k-th smallest c and the next
            theta <- prox of what it is the prox of

        with `k = int(sparsity * number of groups)`. Groups that come back do
        so with what they have accumulated. Of groups with equal c those of
        lower index become zero: the others are moved by their last bits. What
        is compared is compared on the host, or on the devices that a weight is
        split over, and nothing is sorted.

        Args:
            regularizer: One of this optimizer's.
            sparsity: Share of its groups, single weights for `L1`, in [0, 1).

        Returns:
            Whether it did. Groups that have never moved, c = 0, are zero
            whatever the strength; with a learning rate of 0 `ProxSGD` changes
            nothing.
        """
        members = self.members(regularizer)
        paths = selection.paths_of([variable for _, variable in members])
        critical = [each for _, each in self.critical(regularizer)]
        kept = mask_from_scores(dict(zip(paths, critical)), sparsity).values()
        below = max(_largest(c, ~m) for c, m in zip(critical, kept))
        above = min(_smallest(c, m) for c, m in zip(critical, kept))
        if not np.isfinite(above):
            return False
        exact = above > 0
        if not exact:
            above = min(_smallest(c, c > 0) for c in critical)
        elif below == above:
            for (index, _), c, m in zip(members, critical, kept):
                latent = self.latent(index)
                now = host.as_tensor(latent)
                chosen = m & (c == above)
                latent.assign(ops.where(chosen, _NUDGE * now, now))
        # In the middle, far from what rounding could move.
        middle = np.float32(below + (above - below) / 2)
        lam = float(middle if below <= middle < above else below)
        regularizer.lam = lam
        for index, variable in members:
            theta = regularizer.prox(*self.point(index))
            variable.assign(ops.cast(theta, variable.dtype))
            self.after_write(index, variable)
        return exact

    def separate(
        self, regularizer: SparsityRegularizer | None
    ) -> dict[int, SparsityRegularizer]:
        """Gives each weight of a regularizer a strength of its own, in a copy.

        Args:
            regularizer: One that this optimizer was given; `None` for all.

        Returns:
            `{index of the weight: regularizer}`.
        """
        own = {}
        for index, _ in self.members(regularizer):
            each = self._regularizer_of[index]
            shared = self._regularizer_of.count(each) > 1
            own[index] = each.from_config(each.get_config()) if shared else each
        for index, each in own.items():
            self._regularizer_of[index] = each
        self._track_strengths()
        return own

    def get_config(self):
        """Returns the constructor's arguments, serialized."""
        config = super().get_config()
        chosen = self._regularizer_of if self.built else None
        config["regularizers"] = self._rules.get_config(
            chosen, self._trainable_variables
        )
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the optimizer that `get_config` described."""
        config = dict(config)
        config["regularizers"] = _deserialize(
            config.get("regularizers"), custom_objects
        )
        return super().from_config(config, custom_objects)


def _largest(array, where):
    """The largest entry where it says so, 0 or more, as a NumPy number."""
    found = split.numpy_of(array).where(where, array, 0).max(initial=0)
    return np.asarray(found)[()]


def _smallest(array, where):
    """The smallest entry where it says so, or infinity, as a NumPy number."""
    found = split.numpy_of(array).where(where, array, np.inf)
    return np.asarray(found.min(initial=np.inf))[()]


class _Rules:
    """What the user said about regularizers, before there are variables."""

    def __init__(self, given):
        # A plain object, because Keras would track the values of a dict.
        self._given = given
        if isinstance(given, dict):
            if not given:
                raise ValueError(
                    "`regularizers` must not be empty. "
                    "Received: regularizers={}"
                )
            for key, value in given.items():
                if not isinstance(key, keras.layers.Layer):
                    selection.check_filters(key)
                _check_ours(value)
        elif isinstance(given, keras.regularizers.Regularizer):
            _check_ours(given)
        elif given is not None and not callable(given):
            raise TypeError(
                "`regularizers` must be a regularizer of "
                "keras_app.regularizers, a dict {regex or layer: regularizer}, "
                f"a callable, or None. Received: regularizers={given!r}"
            )

    def regularizers(self):
        """The regularizers that are known without any variable."""
        given = self._given
        values = given.values() if isinstance(given, dict) else [given]
        return _different(
            value for value in values if isinstance(value, SparsityRegularizer)
        )

    def resolve(self, variables):
        """One regularizer or `None` for each variable, as a tuple."""
        given = self._given
        if given is None:
            return (None,) * len(variables)
        if isinstance(given, SparsityRegularizer):
            chosen = [
                given if selection.is_kernel(v) else None for v in variables
            ]
        elif isinstance(given, dict):
            chosen = _match(given, variables)
        else:
            chosen = [given(variable) for variable in variables]
            for value in chosen:
                _check_ours(value)
        if not _different(chosen):
            raise ValueError(
                "`regularizers` must give at least one variable a regularizer. "
                f"Received: {given!r} for {_some_paths(variables)}"
            )
        for variable, regularizer in zip(variables, chosen):
            if regularizer is not None:
                regularizer.check_shape(
                    variable.shape, selection.path_of(variable)
                )
        _refuse_guessed_groups(variables, chosen)
        return tuple(chosen)

    def get_config(self, chosen, variables):
        """Serialized; once resolved, as one pattern for each regularizer.

        A file must not depend on what a callable is, nor on the beginning of
        a path, which Keras may change when it loads a model.
        """
        serialize = keras.saving.serialize_keras_object
        given = self._given
        one = given is None or isinstance(given, SparsityRegularizer)
        # `separate` may have taken the place of the one that was given.
        one = one and _different([given, *(chosen or ())]) in ([], [given])
        if one or (chosen is None and not isinstance(given, dict)):
            return serialize(given)
        patterns = list(given.items() if chosen is None else [])
        for variable, regularizer in zip(variables, chosen or []):
            pattern = selection.pattern_of(variable, variables)
            patterns.append((pattern, regularizer))
        # One entry for each regularizer, so that what shared a strength
        # shares it after loading.
        config = {}
        for regularizer in _different(value for _, value in patterns):
            mine = [key for key, value in patterns if value is regularizer]
            joined = mine[0] if len(mine) == 1 else f"(?:{')|(?:'.join(mine)})"
            config[joined] = serialize(regularizer)
        return config


def _deserialize(config, custom_objects):
    if not isinstance(config, dict):
        return config
    restore = keras.saving.deserialize_keras_object
    if "class_name" in config:
        return restore(config, custom_objects=custom_objects)
    return {
        key: restore(value, custom_objects=custom_objects)
        if isinstance(value, dict)
        else value
        for key, value in config.items()
    }


def _different(regularizers):
    """Each regularizer once, in order, `None` left out."""
    unique = {id(r): r for r in regularizers if r is not None}
    return list(unique.values())


def _match(given, variables):
    chosen = [None] * len(variables)
    rule_of = [None] * len(variables)
    for key, regularizer in given.items():
        matched = [i for i, v in enumerate(variables) if _matches(key, v)]
        if not matched:
            raise ValueError(
                f"`regularizers` must match variables. Received: {key!r}, "
                f"which matches none of {_some_paths(variables)}"
            )
        for i in matched:
            if rule_of[i] is not None and chosen[i] is not regularizer:
                raise ValueError(
                    "`regularizers` must give a variable one regularizer. "
                    f"Received: {rule_of[i]!r} and {key!r}, which both match "
                    f"{selection.path_of(variables[i])}"
                )
            chosen[i], rule_of[i] = regularizer, key
    return chosen


def _matches(key, variable):
    if isinstance(key, keras.layers.Layer):
        mine = any(variable is weight for weight in key.trainable_variables)
        return mine and selection.is_kernel(variable)
    return re.search(key, selection.path_of(variable)) is not None


def _some_paths(variables):
    return [selection.path_of(variable) for variable in variables[:8]]


def _check_ours(value):
    if value is not None and not isinstance(value, SparsityRegularizer):
        raise TypeError(
            "`regularizers` must hold regularizers of keras_app.regularizers, "
            "which have a prox; those of Keras go to `kernel_regularizer=`. "
            f"Received: {value!r}"
        )


def _refuse_guessed_groups(variables, chosen):
    """A kernel of EinsumDense has no axes that "auto" could know."""
    guessed = [
        variable
        for variable, regularizer in zip(variables, chosen)
        if isinstance(getattr(regularizer, "axes", None), str)
        and len(variable.shape) > 2
    ]
    for variable in selection.einsum_kernels(guessed):
        raise ValueError(
            "`axes` must be a tuple of axes for a kernel of EinsumDense or "
            "attention, whose groups cannot be told from its shape. Received: "
            f"a name for {selection.path_of(variable)} of shape "
            f"{tuple(variable.shape)}"
        )
