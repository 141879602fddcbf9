"""Pruning by what the loss says: SNIP, Taylor, GraSP, SynFlow."""

import keras

from keras_app import scorers
from keras_app.pruners.pruner import Pruner


@keras.saving.register_keras_serializable(package="keras_app")
class SaliencyPruner(Pruner):
    """Prunes by one of the scorers of `keras_app.scorers`.

    Use it with `OneShot` to prune at initialization. It costs one gradient of
    each batch of `data` at each update.

    Args:
        scorer: Name of a scorer, or a callable; see `keras_app.scorers.score`.
            Defaults to `"snip"`.
        data: Re-iterable of `(x, y)` batches to score on. Not part of the
            configuration: set `pruner.data` after `from_config`.
        bn_mode: `"train"` or `"inference"`. Defaults to the scorer's own.
        samples_per_class: Size of GraSP's samples. Defaults to `10`.
        seed: Seed of the `"random"` scorer. Defaults to `0`.
        schedule, scope, structure, distribution, filters, custom_sparsity,
            on_miss: See `Pruner`.

    Example:

    >>> from keras_app.schedules import OneShot
    >>> pruner = SaliencyPruner(OneShot(0.9), scorer="synflow")
    >>> pruner.scorer
    'synflow'
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
    def needs_data(self):
        """Whether the scorer may need `data`, and there is none."""
        return self.data is None and scorers.takes_data(self.scorer)

    def select(self, model):
        """Returns the selection; refuses a scorer that lacks data or a loss."""
        scorers.check_data(self.scorer, self.data)
        scorers.check_model(self.scorer, model)
        return super().select(model)

    def scores(self, variables):
        """Returns `{path: scores}` on `data`."""
        return scorers.score(
            self.scorer,
            self.model,
            variables,
            self.data,
            self.bn_mode,
            masks=self.masks,
            samples_per_class=self.samples_per_class,
            compiled=self._compiled,
            seed=self.seed,
        )
