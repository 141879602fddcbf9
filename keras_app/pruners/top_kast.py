"""Top-KAST: a sparse forward pass, and a little less sparse updates."""

from typing import Unpack

import keras

from keras_app.checks import check_number
from keras_app.checks import check_sparsity
from keras_app.hints import Arrays
from keras_app.hints import Schedule
from keras_app.pruners.arguments import PrunerArguments
from keras_app.pruners.clock import final_sparsity
from keras_app.pruners.dormant import DormantPruner
from keras_app.selection import by_path


@keras.saving.register_keras_serializable(package="keras_app")
class TopKAST(DormantPruner):
    """Always sparse, forward and backward: score = `|w|`.

    Two sets are chosen by magnitude at each update: A, of density D, with
    which the network computes, and B, larger, which trains. All other weights
    stay what they are. Weights of B that outgrow the smallest of A take their
    places at the next update.

        A = top-D of |w|       forward, and in the kernel
        B = top-(D + M) of |w|       updated; the others stay
        penalty = lam * (sum over A of w^2 + sum over B, not A, of w^2 / D)

    The penalty makes what is used compete with what is not: A shrinks, and
    weights of B that do not help shrink faster.

    D is here the density that the schedule ends at. It costs a value and a
    bool beside each weight, and three passes over the weights in each step.

    Args:
        schedule: When the sets are chosen again, and the sparsity of A. Usually
            `ConstantSparsity`, with a small `frequency`: between two updates
            what is in B and not in A grows unchecked, which at high
            sparsity and with momentum can ruin the network.
        backward_sparsity: Sparsity of B, in [0, 1). Where it is not below
            that of A, B is A. Defaults to `0.5`.
        lam: Strength of the penalty, >= 0. Defaults to `1e-4`.
        structure: As in `Pruner`, without n:m, whose groups leave no room for
            a larger B. Defaults to `None`.
        scope, distribution, filters, custom_sparsity, on_miss: See `Pruner`;
            they hold for A and B.

    Example:

    >>> from keras_app.schedules import ConstantSparsity
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> pruner = TopKAST(ConstantSparsity(0.75, 0), backward_sparsity=0.5)
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(x, y, verbose=0, callbacks=[pruner])
    >>> pruner.report.sparsity
    0.75
    >>> [int(mask.sum()) for mask in pruner.backward_masks.values()]
    [10]

    Reference: [Jayakumar et al., 2020](https://arxiv.org/abs/2106.03517).
    Differs: gradients are computed for all weights and
    used for B, because Keras's layers have dense gradients; the optimizer's
    second moments see all of them; momentum starts at zero when a weight
    enters B.
    """

    def __init__(
        self,
        schedule: Schedule,
        backward_sparsity: float = 0.5,
        lam: float = 1e-4,
        **kwargs: Unpack[PrunerArguments],
    ) -> None:
        super().__init__(schedule, **kwargs)
        if self.structure is not None and self.structure.fixes_sparsity:
            raise ValueError(
                "`structure` must be None, Block or Channel: the groups of n:m "
                "leave no room for a larger backward set. "
                f"Received: structure={self.structure!r}"
            )
        self.backward_sparsity = check_sparsity(
            "backward_sparsity", backward_sparsity
        )
        self.lam = check_number("lam", lam, lambda x: x >= 0)

    @property
    def backward_masks(self) -> Arrays:
        """`{path: bool array}`, `True` in B; empty before the first `fit`."""
        if not self.masks:
            return {}
        return by_path(self._state.learning, self.variables)

    def decay(self) -> tuple[float, float]:
        """Returns `(of kept, of dormant weights)`: times w, in the gradient."""
        forward_density = 1 - final_sparsity(self.schedule)
        return 2 * self.lam, 2 * self.lam / forward_density

    def prune(self, sparsity: float) -> None:
        """Chooses both sets by magnitude, now.

        Args:
            sparsity: Sparsity of the forward set, in [0, 1).
        """
        super().prune(sparsity)
        variables, forward = self.variables, self._masks
        backward = self.by_units(
            self.combine,
            min(sparsity, self.backward_sparsity),
            self.magnitudes(variables),
            forward,
        )
        self._state.learn(
            [
                (variable, backward[path] | forward[path])
                for path, variable in variables.items()
            ]
        )
