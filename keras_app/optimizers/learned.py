"""The base of optimizers that learn by descent which weights to keep."""

import abc
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_app import enforcement
from keras_app import host
from keras_app import selection
from keras_app.checks import check_number
from keras_app.hints import Arrays
from keras_app.hints import Filters
from keras_app.hints import LearningRate
from keras_app.hints import Tensor
from keras_app.hints import Variables
from keras_app.optimizers import latent
from keras_app.optimizers.base import ConfiguredOptimizer


class LearnedSparsity(ConfiguredOptimizer, abc.ABC):
    """Trains latent weights w, whose image the kernels are, zeros included.

    Args:
        learning_rate: A float > 0 or a schedule.
        momentum: In [0, 1).
        weight_decay: Coupled, >= 0.
        filters: Which variables have latent weights: a regex or a list of
            regexes, searched in `variable.path`; a callable `variable -> bool`.
            Defaults to `None`: all kernels.
        strict: Whether a `kernel_regularizer` on one of them is an error
            instead of a warning. Defaults to `False`.
        **kwargs: Keras's base arguments, such as `clipnorm`.
    """

    # A mask would change weights behind the latent state's back.
    finds_zeros = True

    def __init__(
        self,
        learning_rate: LearningRate,
        momentum: float,
        weight_decay: float,
        filters: Filters = None,
        strict: bool = False,
        **kwargs: Any,
    ) -> None:
        if isinstance(learning_rate, (int, float)):
            learning_rate = check_number(
                "learning_rate", learning_rate, lambda x: x > 0, "> 0"
            )
        momentum = check_number(
            "momentum", momentum, lambda x: 0 <= x < 1, "in [0, 1)"
        )
        decay = check_number("weight_decay", weight_decay, lambda x: x >= 0)
        selection.check_filters(filters)
        latent.refuse_base_arguments(type(self).__name__, kwargs)
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.momentum = momentum
        # The base class would apply a decay of its own, decoupled.
        self.coupled_decay = decay
        self.filters = filters
        self.strict = strict

    # ---- what a method says --------------------------------------------

    @abc.abstractmethod
    def add_state(self, variables: list[keras.Variable]) -> None:
        """Adds the latent state; `_weights` holds w, or `None`, of each."""

    @abc.abstractmethod
    def start(self, index: int, variable: keras.Variable) -> None:
        """Sets the latent state of a weight at the beginning."""

    @abc.abstractmethod
    def consistent(self, index: int, variable: keras.Variable) -> Tensor | None:
        """Returns the w, a tensor, that a weight as it is now is the image of.

        Where it does not say, w stays.
        """

    @property
    @abc.abstractmethod
    def masks(self) -> Arrays:
        """`{variable.path: bool array}`: `True` where a weight is kept."""

    @property
    def density(self) -> float:
        """Share of the weights with a mask that are kept, in [0, 1]."""
        kept = [mask.ravel() for mask in self.masks.values()]
        return float(np.mean(np.concatenate(kept)))

    # ---- state ---------------------------------------------------------

    def build(self, variables):
        """Makes the latent state, from the weights as they are now."""
        if self.built:
            return
        masked = self._choose(variables)
        super().build(variables)
        self._masked = tuple(masked)
        self.add_state(variables)
        with host.outside_the_graph():
            self.watch = latent.Watch(
                self, [v if m else None for v, m in zip(variables, masked)]
            )
            for index, variable in self.members():
                self.start(index, variable)
                self.watch.remember(index, variable)

    def slots(
        self,
        name: str,
        variables: list[keras.Variable],
        chosen: Sequence[bool] | None = None,
        **kwargs: Any,
    ) -> list[keras.Variable | None]:
        """Adds a variable for each of `variables`.

        Args:
            name: What they are.
            variables: The trainable variables.
            chosen: A bool for each; `None` stands where it is false. Defaults
                to `None`: all.
            **kwargs: See `enforcement.add_latent`.
        """
        chosen = [True] * len(variables) if chosen is None else chosen
        return [
            enforcement.add_latent(self, v, name, **kwargs) if c else None
            for v, c in zip(variables, chosen)
        ]

    def _choose(self, variables):
        filters = self.filters
        chosen = selection.is_kernel if filters is None else filters
        masked = [selection.matches(v, chosen) for v in variables]
        if not any(masked):
            known = [
                selection.path_of(v)
                for v in variables
                if selection.is_kernel(v)
            ]
            raise ValueError(
                "`filters` must match at least one trainable variable. "
                f"Received: filters={filters!r}; the kernels are {known[:8]}"
            )
        for variable in (v for v, m in zip(variables, masked) if m):
            self._check_member(variable)
        return masked

    def _check_member(self, variable):
        kind = type(self).__name__
        latent.refuse_constraint(kind, variable, "leave the constraint out")
        penalty = getattr(variable, "regularizer", None)
        if penalty is None:
            return
        text = (
            f"{variable.path} has a kernel_regularizer ({penalty!r}), whose "
            f"gradient {kind} also passes to the mask. Use `weight_decay`, "
            "which it does not pass on."
        )
        if self.strict:
            raise ValueError(f"{text} Received: strict=True")
        warnings.warn(text)

    def members(self) -> list[tuple[int, keras.Variable]]:
        """`[(index, variable)]` of the weights that may become zero."""
        if not self.built:
            raise RuntimeError(
                f"{self.name} is not built yet, so there are no masks. Call "
                "`fit`, or `optimizer.build(model.trainable_variables)`, first."
            )
        return [
            (index, variable)
            for index, variable in enumerate(self._trainable_variables)
            if self._masked[index]
        ]

    @property
    def masked_variables(self) -> Variables:
        """`{path: variable}` of the weights that have a mask."""
        return selection.paths_of([v for _, v in self.members()])

    def sync_from_model(self) -> None:
        """Makes w again, after weights were set from outside.

        A training step does it by itself where it notices; call it to look at
        latent state before.
        """
        for index, variable in self.members():
            self._weights[index].assign(self.consistent(index, variable))
            self.watch.remember(index, variable)

    # ---- configuration -------------------------------------------------

    def get_config(self):
        """Returns the constructor's arguments, serialized."""
        return {
            **super().get_config(),
            "weight_decay": self.coupled_decay,
            "filters": self._filters_config(),
        }

    def _filters_config(self):
        """A file must not depend on what a callable is."""
        if callable(self.filters) and self.built:
            return [
                selection.pattern_of(variable, self._trainable_variables)
                for _, variable in self.members()
            ]
        if callable(self.filters):
            return keras.saving.serialize_keras_object(self.filters)
        return self.filters

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the optimizer that `get_config` described."""
        config = dict(config)
        if isinstance(config.get("filters"), dict):
            config["filters"] = keras.saving.deserialize_keras_object(
                config["filters"], custom_objects=custom_objects
            )
        return super().from_config(config, custom_objects)
