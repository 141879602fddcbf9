"""PrAC sets: the examples that are enough to find a lottery ticket.

Pure functions on NumPy arrays. An example is known by its id, a non-negative
integer that never changes: its position in the source, in stored order.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from keras_app.checks import check_number
from keras_app.checks import check_whole

ABSENT = -1

# Larger than any number of epochs: what is never learned ranks hardest.
NEVER_RIGHT = 200_000


def forgetting_counts(history: npt.ArrayLike) -> np.ndarray:
    """Counts how often each example was forgotten.

        count_i = number of epochs e with  c_i,e-1 = 1  and  c_i,e = 0

    Wrong predictions before the first right one do not count.

    Args:
        history: Array `(examples, epochs)` of one round of training: 1 where
            the training-mode prediction was right, 0 wrong, -1 absent.
            An example that is absent in the first epoch is absent from the
            round; later gaps are passed over.

    Returns:
        int64 array `(examples,)`: the count, -1 for an example that is absent
        from the round, 200000 for one that was never right.

    Raises:
        ValueError: Another shape, no epoch, NaN or any other value.

    Example:

    >>> forgetting_counts([[1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0], [-1] * 4])
    array([     2,      0, 200000,     -1])

    Reference: [Zhang et al., 2021](https://arxiv.org/abs/2106.03225); the
    statistics are those of
    [Toneva et al., 2019](https://arxiv.org/abs/1812.05159).
    """
    history = np.asarray(history)
    if history.ndim != 2 or not history.shape[1]:
        raise ValueError(
            "`history` must have the shape (examples, epochs), with at least "
            f"one epoch. Received: shape {history.shape}"
        )
    valid = (history == 1) | (history == 0) | (history == ABSENT)
    if not valid.all():
        raise ValueError(
            "`history` must hold 1 (right), 0 (wrong) and -1 (absent). "
            f"Received: {history[~valid][0]!s}"
        )
    counts = np.zeros(len(history), "int64")
    was_right = np.zeros(len(history), bool)
    for outcome in history.T:
        counts += was_right & (outcome == 0)
        was_right = np.where(outcome == ABSENT, was_right, outcome == 1)
    counts[~(history == 1).any(axis=1)] = NEVER_RIGHT
    counts[history[:, 0] == ABSENT] = ABSENT
    return counts


def critical_for_training(
    counts: npt.ArrayLike, threshold: float = 0
) -> np.ndarray:
    """Selects the examples that were forgotten more than `threshold` times.

    Args:
        counts: int array `(examples,)` of `forgetting_counts`.
        threshold: >= 0. Defaults to `0`.

    Returns:
        int64 array of ids, ascending. It is empty where training forgot
        nothing; `prac_set` decides what happens then.

    Raises:
        ValueError: A negative threshold; counts that are no integers.

    Example:

    >>> critical_for_training([3, 0, 200000, -1, 1])
    array([0, 2, 4])

    Reference: [Zhang et al., 2021](https://arxiv.org/abs/2106.03225). Differs:
    the released code takes all examples where none qualifies.
    """
    threshold = check_number("threshold", threshold, lambda x: x >= 0, ">= 0")
    counts = _integers("counts", counts)
    return np.flatnonzero(counts > threshold).astype("int64")


def hardest_examples(counts: npt.ArrayLike, num_examples: int) -> np.ndarray:
    """Selects a fixed number of examples, those forgotten most often.

    The alternative to a threshold. Among equal counts the higher ids are
    taken, so that the choice is the same everywhere.

    Args:
        counts: int array `(examples,)` of `forgetting_counts`.
        num_examples: How many, from 1 to the number of examples in the round.
            The released code takes `int(num_train * (1 - data_rate) ** level)`
            after `level` prunings.

    Returns:
        int64 array of ids, ascending.

    Raises:
        ValueError: More examples than the round had; counts that are no
            integers.

    Example:

    >>> hardest_examples([3, 0, 200000, -1, 1, 0], 4)
    array([0, 2, 4, 5])

    Reference: [Zhang et al., 2021](https://arxiv.org/abs/2106.03225), the
    `constant` rule of the released code. Differs: ties are not left to chance.
    """
    counts = _integers("counts", counts)
    num_examples = check_whole("num_examples", num_examples, 1)
    present = int(np.count_nonzero(counts != ABSENT))
    if num_examples > present:
        raise ValueError(
            "`num_examples` must be at most the number of examples in the "
            f"round. Received: num_examples={num_examples} of {present}"
        )
    hardest_last = np.argsort(counts, kind="stable")
    return np.sort(hardest_last[-num_examples:]).astype("int64")


def critical_for_pruning(
    dense_predictions: npt.ArrayLike, sparse_predictions: npt.ArrayLike
) -> np.ndarray:
    """Finds the examples on which a dense and a sparse model disagree.

    Labels play no role: what counts is that pruning changed the prediction.

    Args:
        dense_predictions: Integer array `(examples,)` of classes, or an array
            `(examples, classes)` of outputs whose largest one is the class;
            inference mode, no augmentation.
        sparse_predictions: The same of the sparse model, in the same order.

    Returns:
        int64 array of positions, ascending. Where the models saw the examples
        of `ids` in this order, the ids are `ids[positions]`.

    Raises:
        ValueError: Shapes that differ; NaN; numbers that are no classes.

    Example:

    >>> critical_for_pruning([4, 1, 2], [4, 0, 1])
    array([1, 2])

    Reference: [Zhang et al., 2021](https://arxiv.org/abs/2106.03225). As in
    the released code the sparse model is the trained one of the round.
    """
    dense = _classes("dense_predictions", dense_predictions)
    sparse = _classes("sparse_predictions", sparse_predictions)
    if dense.shape != sparse.shape:
        raise ValueError(
            "`dense_predictions` and `sparse_predictions` must be of the same "
            f"examples. Received: {len(dense)} and {len(sparse)} examples"
        )
    return np.flatnonzero(dense != sparse).astype("int64")


def prac_set(
    training_ids: npt.ArrayLike,
    pruning_ids: npt.ArrayLike,
    on_empty: Literal["raise", "keep"] = "raise",
    current_ids: npt.ArrayLike | None = None,
    within: npt.ArrayLike | None = None,
) -> np.ndarray:
    """Joins what is critical for training and what is critical for pruning.

        D_r+1 = CET_r  union  CEP_r

    Args:
        training_ids: Ids of `critical_for_training`.
        pruning_ids: Ids of the positions of `critical_for_pruning`; none
            after the round that trained the dense model.
        on_empty: What happens where both are empty: `"raise"`, or `"keep"`
            `current_ids`. Defaults to `"raise"`.
        current_ids: Ids of the round that just ended, for `"keep"`.
        within: Ids that may be trained on: the whole training set, without
            what is held out. Defaults to `None`, not checked.

    Returns:
        int64 array of ids, ascending.

    Raises:
        ValueError: An empty set; ids that are negative, twice in one
            argument, or not `within`.

    Example:

    >>> prac_set([5, 2], [2, 9])
    array([2, 5, 9])

    Reference: [Zhang et al., 2021](https://arxiv.org/abs/2106.03225).
    """
    if on_empty not in ("raise", "keep"):
        raise ValueError(
            "`on_empty` must be 'raise' or 'keep'. "
            f"Received: on_empty={on_empty!r}"
        )
    if on_empty == "keep" and current_ids is None:
        raise ValueError(
            "`current_ids` must be given with on_empty='keep'. "
            "Received: current_ids=None"
        )
    joined = np.union1d(
        check_ids("training_ids", training_ids, within),
        check_ids("pruning_ids", pruning_ids, within),
    )
    if joined.size:
        return joined
    if on_empty == "raise":
        raise ValueError(
            "`training_ids` and `pruning_ids` must not both be empty: no "
            "example was forgotten, and none is lost by pruning. Train for "
            "more epochs, or go on with the same examples (on_empty='keep')."
        )
    return check_ids("current_ids", current_ids, within)


def overlap_rate(
    training_ids: npt.ArrayLike, pruning_ids: npt.ArrayLike
) -> float:
    """Share of the ids critical for pruning that training finds critical too.

        |CEP and CET| / |CEP|

    Args:
        training_ids: Ids of `critical_for_training`.
        pruning_ids: Ids that are critical for pruning, at least one.

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: No `pruning_ids`; ids that are negative or come twice.

    Example:

    >>> overlap_rate([5, 2], [2, 9])
    0.5
    """
    training_ids = check_ids("training_ids", training_ids)
    pruning_ids = check_ids("pruning_ids", pruning_ids)
    if not pruning_ids.size:
        raise ValueError(
            "`pruning_ids` must not be empty to have an overlap. Received: []"
        )
    return float(np.isin(pruning_ids, training_ids).mean())


def check_ids(
    name: str, ids: npt.ArrayLike, within: npt.ArrayLike | None = None
) -> np.ndarray:
    """Returns ids in ascending order, or raises.

    Args:
        name: What the ids are called in the message.
        ids: Integer array of rank 1.
        within: Ids that may occur. Defaults to `None`, all that are >= 0.

    Returns:
        int64 array.

    Raises:
        ValueError: Ids that are negative, come twice or are not `within`.

    Example:

    >>> check_ids("ids", [7, 3], within=np.arange(10))
    array([3, 7])
    """
    ordered = np.sort(_integers(name, ids)).astype("int64")
    if ordered.size and ordered[0] < 0:
        raise ValueError(f"`{name}` must be >= 0. Received: {ordered[0]}")
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if twice.size:
        raise ValueError(
            f"`{name}` must be distinct. Received: {twice[0]} more than once"
        )
    if within is not None:
        outside = ordered[~np.isin(ordered, np.asarray(within))]
        if outside.size:
            raise ValueError(
                f"`{name}` must be ids of the training set, which holds no "
                f"validation examples. Received: {outside[0]} and "
                f"{outside.size - 1} others outside"
            )
    return ordered


def _integers(name, values):
    values = np.asarray(values)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise ValueError(
            f"`{name}` must be a one-dimensional integer array. Received: "
            f"shape {values.shape} and dtype {values.dtype}"
        )
    return values


def _classes(name, predictions):
    predictions = np.asarray(predictions)
    if predictions.ndim == 2 and predictions.shape[1] > 1:
        if np.isnan(predictions).any():
            raise ValueError(
                f"`{name}` must not contain NaN. Did the training diverge?"
            )
        return np.argmax(predictions, axis=1)
    if predictions.ndim != 1 or predictions.dtype.kind not in "iub":
        raise ValueError(
            f"`{name}` must be integer classes of the shape (examples,), or "
            "outputs of the shape (examples, classes). Received: shape "
            f"{predictions.shape} and dtype {predictions.dtype}"
        )
    return predictions
