"""How long a round trains, and what a ticket costs."""

from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np

from keras_app.checks import check_whole
from keras_app.hints import Arrays


def scale_schedule(
    set_size: int,
    num_train: int,
    epochs: int,
    milestones: Sequence[int],
    warmup_epochs: int,
) -> tuple[int, Sequence[int], int]:
    """Shortens a training schedule in proportion to the data.

        E' = max(1, int(E |D| / n)),  and the same for each epoch it names

    An epoch over fewer examples has fewer steps already, so that steps fall
    with the square of the share. That is what the released code does; for
    the paper's linear scaling leave the schedule as it is.

    Args:
        set_size: Examples in the round's set, 1 <= |D| <= n.
        num_train: Examples in the whole training set, n.
        epochs: Epochs of the unscaled schedule, >= 1.
        milestones: Epochs, >= 0, at which its learning rate falls.
        warmup_epochs: Its warm-up, >= 0.

    Returns:
        `(epochs, milestones, warmup_epochs)`. Milestones come in a tuple if
        they came in one, else in a list. Those that fall on epoch 0 or on one
        another are dropped: the rate would fall before the first epoch, or
        twice at once.

    Raises:
        ValueError: A number out of its range.

    Example:

    >>> scale_schedule(22500, 45000, 182, [91, 136], 15)
    (91, [45, 68], 7)

    Reference: [Zhang et al., 2021](https://arxiv.org/abs/2106.03225). Differs:
    a round has at least one epoch, and the milestones dropped above.
    """
    num_train = check_whole("num_train", num_train, 1)
    set_size = check_whole("set_size", set_size, 1)
    if set_size > num_train:
        raise ValueError(
            "`set_size` must be at most `num_train`. "
            f"Received: set_size={set_size}, num_train={num_train}"
        )

    def scaled(name, value, minimum):
        return check_whole(name, value, minimum) * set_size // num_train

    kept = {scaled("milestones", milestone, 0) for milestone in milestones}
    kept = sorted(kept - {0})
    return (
        max(1, scaled("epochs", epochs, 1)),
        tuple(kept) if isinstance(milestones, tuple) else kept,
        scaled("warmup_epochs", warmup_epochs, 0),
    )


def iteration_account(
    set_sizes: Iterable[int],
    epochs_run: Iterable[int],
    batch_size: int,
    num_train: int,
    base_epochs: int,
) -> Arrays:
    """Adds up training steps, and compares them with ordinary pruning rounds.

        N_r = epochs_run_r * ceil(|D_r| / batch_size)
        saving after k prunings = 100 (1 - sum_(r<k) N_r / (k N)),
        N = base_epochs * ceil(n / batch_size)

    Passes over data that train nothing (validation, predictions) are left out.

    Args:
        set_sizes: Examples in the set of each round, `(rounds,)`.
        epochs_run: Epochs that each round was trained for, `(rounds,)`.
        batch_size: Examples in a step, >= 1.
        num_train: Examples in the whole training set, n.
        base_epochs: Epochs of a round on all data, >= 1.

    Returns:
        Dict of arrays `(rounds,)`: `"iterations"`, `"iterations_vanilla"`
        (without PrAC sets) and `"cumulative"`, int64; `"saving_percent"` and
        `"set_fraction"` (|D| / n), float64. Entry r of the cumulative ones is
        the cost of the ticket after r + 1 prunings.

    Raises:
        ValueError: A number out of its range; arrays of different lengths.

    Example:

    >>> account = iteration_account([1000, 300], [10, 3], 100, 1000, 10)
    >>> account["cumulative"], account["saving_percent"]
    (array([100, 109]), array([ 0. , 45.5]))

    Reference: [Zhang et al., 2021](https://arxiv.org/abs/2106.03225).
    """
    batch_size = check_whole("batch_size", batch_size, 1)
    num_train = check_whole("num_train", num_train, 1)
    base_epochs = check_whole("base_epochs", base_epochs, 1)
    sizes = [check_whole("set_sizes", size, 1) for size in set_sizes]
    runs = [check_whole("epochs_run", epochs, 1) for epochs in epochs_run]
    if len(sizes) != len(runs):
        raise ValueError(
            "`set_sizes` and `epochs_run` must have one entry for each round. "
            f"Received: {len(sizes)} and {len(runs)} entries"
        )
    if sizes and max(sizes) > num_train:
        raise ValueError(
            "`set_sizes` must be at most `num_train`. "
            f"Received: {max(sizes)} with num_train={num_train}"
        )
    sizes = np.array(sizes, "int64")
    iterations = np.array(runs, "int64") * -(-sizes // batch_size)
    vanilla = np.full(len(sizes), base_epochs * -(-num_train // batch_size))
    cumulative = np.cumsum(iterations)
    return {
        "iterations": iterations,
        "iterations_vanilla": vanilla,
        "cumulative": cumulative,
        "saving_percent": 100 * (1 - cumulative / np.cumsum(vanilla)),
        "set_fraction": sizes / num_train,
    }
