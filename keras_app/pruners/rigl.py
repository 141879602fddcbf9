"""Dynamic sparse training that grows where the gradient is large: RigL."""

import keras

from keras_app.pruners.gradient_growth import GradientGrowth


@keras.saving.register_keras_serializable(package="keras_app")
class RigL(GradientGrowth):
    """The rigged lottery: grow score = |dL/dw|, of dormant weights as well.

    The network is sparse from the first step on, and finds its connections
    while it trains. End the updates at about three quarters of the training
    (`end_step`), so that what was grown last can still learn.

    The gradients are those of the training step before the update, of the batch
    it trained on, which costs one array beside each weight; or those of `data`,
    which costs a gradient of each batch, at updates only.

    Args:
        schedule, scope, structure, distribution, filters, custom_sparsity,
            on_miss, drop_fraction, seed: See
            `keras_app.pruners.dynamic.DynamicPruner`.
        data, batches_per_update: Whose gradients: see
            `keras_app.pruners.gradient_growth.GradientGrowth`.

    Example:

    >>> from keras_app.schedules import ConstantSparsity
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> pruner = RigL(ConstantSparsity(0.5, 0, frequency=1))
    >>> history = model.fit(x, y, epochs=3, verbose=0, callbacks=[pruner])
    >>> pruner.report.sparsity
    0.5

    Reference: [Evci et al., 2020](https://arxiv.org/abs/1911.11134), algorithm
    1. Differs: the gradients are those of the step before, or of `data`, and no
    step is left out for an update. Second moments of weights that grow are
    kept, because an optimizer tracks them for dormant weights too. As in the
    authors' code, and left open by the paper, a weight that is dropped and
    grown in one update keeps its value; unlike there, no noise is added to the
    magnitudes.
    """
