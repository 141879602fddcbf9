"""Pruning by what the loss says: SNIP, Taylor, GraSP, SynFlow."""

import keras

from keras_app.pruners.scored import ScoredPruner
from keras_app.selection import Selection


@keras.saving.register_keras_serializable(package="keras_app")
class SaliencyPruner(ScoredPruner):
    """Prunes by one of the scorers of `keras_app.scorers`.

    Use it with `OneShot` to prune at initialization. It costs one gradient of
    each batch of `data` at each update.

    Args:
        scorer: Name of a scorer, or a callable; see `keras_app.scorers.score`.
            Defaults to `"snip"`.
        data: Arrays `(x, y)`, or a re-iterable of such batches, to score on.
            Not part of the configuration: set `pruner.data` after
            `from_config`.
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

    def select(self, model: keras.Model) -> Selection:
        """Returns the selection; refuses a scorer that lacks data or a loss."""
        self.check_scorer(model)
        return super().select(model)
