"""Gradual pruning that grows back what the gradient asks for: GraNet."""

from typing import Unpack

import keras

from keras_app.hints import Data
from keras_app.hints import Schedule
from keras_app.pruners.arguments import GrowthArguments
from keras_app.pruners.clock import begin_and_end
from keras_app.pruners.clock import exact
from keras_app.pruners.gradient_growth import GradientGrowth


@keras.saving.register_keras_serializable(package="keras_app")
class GraNet(GradientGrowth):
    """Gradual pruning with zero-cost neuroregeneration.

    Each update prunes to the schedule's sparsity s(t) and then replaces a share
    of what is left; N is the number of weights, n that of the kept ones:

        prune: the smallest |w|, until n = (1 - s(t)) N
        drop:  of these, the int(f(t) n) with the smallest |w|
        grow:  as many with the largest |dL/dw|, of all not kept now
        f(t) = drop_fraction / 2 (1 + cos(pi t / T_end))

    What was pruned too early comes back, which gradual pruning by magnitude
    alone does not allow. A schedule that begins at sparsity 0 is the paper's
    dense-to-sparse training: all masks follow from magnitudes and gradients.
    One that begins above it is sparse-to-sparse training: the first masks are
    drawn at random, and the network is never dense.

    Args:
        schedule: s(t): usually `PolynomialDecay`, whose `power=3` is the
            paper's. Its `end_step` is T_end, where the last update only prunes.
        scope, structure, distribution, filters, custom_sparsity, on_miss, seed:
            See `keras_app.pruners.dynamic.DynamicPruner`.
        drop_fraction: Share of the kept weights that the first updates replace,
            in [0, 1). With 0 it is gradual pruning by magnitude. Defaults to
            `0.5`.
        data, batches_per_update: Whose gradients: see
            `keras_app.pruners.gradient_growth.GradientGrowth`.

    Example:

    >>> from keras_app.schedules import PolynomialDecay
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> pruner = GraNet(PolynomialDecay(0.0, 0.8, 0, 4, frequency=1))
    >>> history = model.fit(x, y, epochs=5, verbose=0, callbacks=[pruner])
    >>> pruner.report.sparsity
    0.8

    Reference: [Liu et al., 2021](https://arxiv.org/abs/2106.10404). Differs:
    prunes and grows within one `scope`, a layer or all of them, where the
    authors' code prunes over all layers and grows within each; f(t) is 0 when
    the schedule ends, and masks rest from there on, where theirs move until the
    training ends; a weight that is pruned and grown in one update keeps its
    value, as one that is dropped and grown does there too.
    """

    def __init__(
        self,
        schedule: Schedule,
        data: Data | None = None,
        *,
        batches_per_update: int | None = None,
        drop_fraction: float = 0.5,
        **kwargs: Unpack[GrowthArguments],
    ) -> None:
        super().__init__(
            schedule,
            data,
            batches_per_update=batches_per_update,
            drop_fraction=drop_fraction,
            **kwargs,
        )

    def are_first_masks(self) -> bool:
        """Whether the next masks are drawn: the first of a sparse start."""
        schedule = self.schedule_in_steps
        begin, _ = begin_and_end(schedule)
        starts_sparse = exact(schedule(begin)[1]) > 0
        return starts_sparse and super().are_first_masks()
