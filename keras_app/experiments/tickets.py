"""Tickets by continuous sparsification: search, rewind, retrain."""

import keras
import numpy as np
from keras import ops

from keras_app.checks import check_choice
from keras_app.checks import check_int
from keras_app.experiments import data as data_lib
from keras_app.experiments.callbacks import MilestoneLearningRate
from keras_app.experiments.training import train
from keras_app.optimizers import ContinuousSparsification
from keras_app.pruners import ContinuousSparsifier

MODES = ("ticket", "prune")
STRATEGIES = ("sequential", "iterative")


def ticket_search(
    data,
    model,
    run_dir,
    *,
    optimizer=ContinuousSparsification,
    mode="ticket",
    strategy="sequential",
    rounds=3,
    epochs=85,
    rewind_epoch=2,
    retrain_epochs=None,
    final_temperature=200.0,
    milestones=(56, 71),
    granularity="epoch",
    reference_code_prune=False,
    reset_momentum_between_rounds=False,
    min_density=0.0,
    mean=None,
    std=None,
    label=None,
    seed=0,
    resume=False,
    on_start=None,
    verbose=True,
):
    """Searches which weights to keep, and judges the network that is left.

    Rounds of training with a growing temperature decide which weights stay.
    Then, with the mask fixed, `mode="ticket"` rewinds the weights to those
    after `rewind_epoch` epochs and trains them as a lottery ticket;
    `mode="prune"` keeps the weights found, measures the moving statistics of
    batch normalization anew, and fine-tunes. The learning rate starts over in
    every round and for the retraining.

    The density that comes out is steered by the optimizer's `s_init`. Searches
    with several `s_init` or `lam` from the same initial weights run side by
    side with `python -m keras_app.sweep`.

    Args:
        data: See `train`, with classes.
        model: See `train`.
        run_dir: Folder to write; see `docs/run_folder.md`.
        optimizer: A callable without arguments that makes a
            `ContinuousSparsification`. Its learning rate is that of the first
            epochs. Defaults to the class.
        mode: `"ticket"` or `"prune"`. Defaults to `"ticket"`.
        strategy: `"sequential"`: a round goes on with the weights of the one
            before; `"iterative"`: each starts from those of `rewind_epoch`.
            Defaults to `"sequential"`.
        rounds: R, >= 1. Defaults to `3`.
        epochs: Epochs of each round, >= 2. Defaults to `85`.
        rewind_epoch: Epochs of the first round after which the weights to go
            back to are kept, in [0, epochs). Defaults to `2`.
        retrain_epochs: Epochs with the mask fixed, >= 0. Defaults to `epochs`
            for a ticket and to `0` for pruning.
        final_temperature, granularity, reference_code_prune,
            reset_momentum_between_rounds, min_density: See
            `keras_app.pruners.ContinuousSparsifier`.
        milestones: Epochs of a round at which the learning rate falls to a
            tenth. Defaults to `(56, 71)`.
        mean, std, seed, resume, on_start, verbose: See `train`.
        label: Name of the method in tables. Defaults to mode and strategy.

    Returns:
        The summary, as in `summary.json`: a dict. `rounds` lists densities,
        and soft and hard validation accuracies, after each round.

    Raises:
        ValueError: Bad arguments, before anything is written or trained.

    Example:

    ```python
    summary = ticket_search(
        Holdout("fashion_mnist_mini"), "convnet", "runs/ticket", rounds=2,
        epochs=5, milestones=(3,)
    )
    ```

    Reference: [Savarese et al., 2020](https://arxiv.org/abs/1912.04427),
    algorithms 1 and 2. Differs: moving statistics are measured anew in
    `mode="prune"`.
    """
    check_choice("mode", mode, MODES)
    check_choice("strategy", strategy, STRATEGIES)
    check_int("epochs", epochs, 1)
    check_int("seed", seed, 0)
    check_int("rewind_epoch", rewind_epoch, 0)
    if retrain_epochs is None:
        retrain_epochs = epochs if mode == "ticket" else 0
    keras.utils.set_random_seed(seed)
    data_lib.make_deterministic()
    data = data(seed=seed) if callable(data) else data
    if data.num_classes is None:
        raise ValueError(
            "`data` must have classes, whose accuracy a ticket is judged by. "
            f"Received: {data.name}, whose targets are images"
        )
    optimizer = optimizer()
    pruner = ContinuousSparsifier(
        final_temperature=final_temperature,
        rounds=rounds,
        retrain_epochs=retrain_epochs,
        ticket=mode == "ticket",
        rewind_epoch=rewind_epoch,
        rewind_between_rounds=strategy == "iterative",
        granularity=granularity,
        reference_code_prune=reference_code_prune,
        reset_momentum_between_rounds=reset_momentum_between_rounds,
        min_density=min_density,
        batch_norm_data=data.epochs(0, 1) if mode == "prune" else None,
        validation_data=data.validation,
    )
    total = rounds * epochs + retrain_epochs
    pruner.epochs_per_round(total)
    rate = float(np.asarray(ops.convert_to_numpy(optimizer.learning_rate)))
    return train(
        data,
        model,
        run_dir,
        optimizer=lambda: optimizer,
        pruner=pruner,
        callbacks=[MilestoneLearningRate(rate, milestones, period=epochs)],
        epochs=total,
        mean=mean,
        std=std,
        discover=lambda model: {"rounds": pruner.history},
        label=label or f"{mode}, {strategy}",
        seed=seed,
        resume=resume,
        on_start=on_start,
        verbose=verbose,
    )
