"""The base of pruners that ask a scorer, most often on data."""

from keras_app import scorers
from keras_app.pruners.pruner import Pruner


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
        schedule,
        scorer="snip",
        data=None,
        *,
        bn_mode=None,
        samples_per_class=10,
        seed=0,
        **kwargs,
    ):
        super().__init__(schedule, **kwargs)
        scorers.check_scorer(scorer, bn_mode)
        self._compiled = {}
        self.scorer = scorer
        self.data = data
        self.bn_mode = bn_mode
        self.samples_per_class = samples_per_class
        self.seed = seed

    @property
    def takes_split(self):
        """Whether the scorer is not one of the caller's."""
        return not callable(self.scorer)

    @property
    def needs_data(self):
        """Whether the scorer may need `data`, and there is none."""
        return self.data is None and scorers.takes_data(self.scorer)

    def check_scorer(self, model):
        """Raises if the scorer lacks data, or a loss of the model."""
        scorers.check_data(self.scorer, self.data)
        scorers.check_model(self.scorer, model)

    def scores(self, variables, **changed):
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
