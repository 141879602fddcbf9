"""The base of pruners that ask a scorer, most often on data."""

from typing import Any
from typing import Unpack

import keras

from keras_app import scorers
from keras_app.hints import Arrays
from keras_app.hints import Data
from keras_app.hints import Schedule
from keras_app.hints import Variables
from keras_app.pruners.arguments import PrunerArguments
from keras_app.pruners.pruner import Pruner
from keras_app.scorers import BatchNormMode
from keras_app.scorers import Scorer


class ScoredPruner(Pruner):
    """The base of pruners that ask one of `keras_app.scorers`.

    Args:
        scorer, data, bn_mode, samples_per_class, seed: See `SaliencyPruner`.
        schedule, scope, structure, distribution, filters, custom_sparsity,
            on_miss: See `Pruner`.
    """

    not_configured = ("data",)

    def __init__(
        self,
        schedule: Schedule,
        scorer: Scorer = "snip",
        data: Data | None = None,
        *,
        bn_mode: BatchNormMode | None = None,
        samples_per_class: int = 10,
        seed: int = 0,
        **kwargs: Unpack[PrunerArguments],
    ) -> None:
        super().__init__(schedule, **kwargs)
        scorers.check_scorer(scorer, bn_mode)
        self._compiled = {}
        self.scorer = scorer
        self.data = data
        self.bn_mode = bn_mode
        self.samples_per_class = samples_per_class
        self.seed = seed

    @property
    def takes_split(self) -> bool:
        """Whether the scorer is not one of the caller's."""
        return not callable(self.scorer)

    @property
    def needs_data(self) -> bool:
        """Whether the scorer may need `data`, and there is none."""
        return self.data is None and scorers.takes_data(self.scorer)

    def check_scorer(self, model: keras.Model) -> None:
        """Raises if the scorer lacks data, or a loss of the model."""
        scorers.check_data(self.scorer, self.data)
        scorers.check_model(self.scorer, model)

    def scores(self, variables: Variables, **changed: Any) -> Arrays | None:
        """Returns `{path: scores}` on `data`.

        Args:
            variables: `{path: variable}`.
            changed: Other arguments of `keras_app.scorers.score`.
        """
        options = {"seed": self.seed, **changed}
        return scorers.score(
            self.scorer,
            self.model,
            variables,
            self.data,
            self.bn_mode,
            masks=self._masks,
            samples_per_class=self.samples_per_class,
            compiled=self._compiled,
            **options,
        )
