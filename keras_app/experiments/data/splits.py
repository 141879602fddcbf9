"""Which sample goes into which megabatch: index arithmetic only."""

import random
import warnings
from typing import get_args
from typing import Literal

import numpy as np
import numpy.typing as npt

from keras_app.checks import check_choice
from keras_app.checks import check_int
from keras_app.checks import check_number
from keras_app.hints import Arrays

Replay = Literal["full", "none", "one", "buffer"]
ScoringSource = Literal["random", "first", "current_first"]


def split_megabatches(
    megabatch_size: int,
    num_megabatches: int,
    replay: Replay = "full",
    scoring_fraction: float = 0.2,
    scoring_source: ScoringSource = "random",
    validation_offset: int | None = None,
    buffer_sizes: tuple[int, int] = (182, 182),
    rng: random.Random | None = None,
    replay_fraction: float | None = None,
) -> list[Arrays]:
    """Splits a stream of samples into megabatches, as positions.

    A megabatch of `B` samples has `int(0.9 * B)` for training and the rest
    for validation. Training parts lie one after another from position 0,
    validation parts one after another from `validation_offset`. What a
    megabatch trains and validates on follows `replay`; the sample that
    scorers see is taken from what it trains on.

    Draws are made in this order: those of the buffer (or of
    `replay_fraction`) for all megabatches, per megabatch training before
    validation, then those of `scoring_source="random"`. So the choice of
    `scoring_source` never changes what is trained on.

    Args:
        megabatch_size: Samples per megabatch, training and validation
            together; at least 2.
        num_megabatches: Number of megabatches; at least 1.
        replay: `"full"` (megabatches up to the current one), `"none"` (the
            current one), `"one"` (the previous and the current one), or
            `"buffer"` (the current one, then a buffer that grows by a draw
            without replacement from that list after every megabatch, and
            may hold duplicates). Defaults to `"full"`.
        scoring_fraction: Size of the scoring sample as a share of
            `megabatch_size`, in (0, 1]. Where the list it is taken from is
            shorter, all of that list is taken, with a warning. Defaults to
            `0.2`.
        scoring_source: `"random"` (a uniform draw without replacement from
            the training list), `"first"` (its first entries; with full
            replay always those of the first megabatch), or
            `"current_first"` (the first entries of the current megabatch).
            Defaults to `"random"`.
        validation_offset: Position of the first validation sample.
            Defaults to the end of the training parts.
        buffer_sizes: How many training and validation entries join the
            buffer after each megabatch. Defaults to `(182, 182)`.
        rng: A `random.Random`. Defaults to `random.Random(0)`.
        replay_fraction: Share in [0, 1] of every earlier megabatch that is
            replayed, instead of all of it: 0 is `"none"`, 1 is `"full"`. A
            sample once kept stays. Only with `replay="full"`. Defaults to
            `None`.

    Returns:
        A list with one dict per megabatch; `"train"`, `"validation"` and
        `"scoring"` are int64 arrays of positions.

    Example:

    >>> first, second = split_megabatches(10, 2, scoring_source="first")
    >>> second["validation"], second["scoring"]
    (array([18, 19]), array([0, 1]))

    Reference: [Misra et al., 2022](https://arxiv.org/abs/2204.01640); the
    replayed share is that of
    [Caccia et al., 2021](https://arxiv.org/abs/2106.09563). Differs: the
    released code of the former scores on the first entries
    (`scoring_source="first"`).
    """
    check_int("megabatch_size", megabatch_size, 2)
    check_int("num_megabatches", num_megabatches, 1)
    check_choice("replay", replay, get_args(Replay))
    check_choice("scoring_source", scoring_source, get_args(ScoringSource))
    check_number(
        "scoring_fraction", scoring_fraction, lambda x: 0 < x <= 1, "in (0, 1]"
    )
    num_scoring = int(scoring_fraction * megabatch_size)
    if num_scoring < 1:
        raise ValueError(
            "`scoring_fraction` must give a scoring sample of at least 1. "
            f"Received: scoring_fraction={scoring_fraction} with "
            f"megabatch_size={megabatch_size}"
        )
    if replay_fraction is not None:
        check_number(
            "replay_fraction",
            replay_fraction,
            lambda x: 0 <= x <= 1,
            "in [0, 1]",
        )
        if replay != "full":
            raise ValueError(
                "`replay_fraction` must be None unless `replay` is 'full'. "
                f"Received: replay_fraction={replay_fraction} with "
                f"replay={replay!r}"
            )

    num_train = int(0.9 * megabatch_size)
    num_validation = megabatch_size - num_train
    train_end = num_megabatches * num_train
    if validation_offset is None:
        validation_offset = train_end
    check_int("validation_offset", validation_offset, 0)
    if train_end > validation_offset:
        raise ValueError(
            "`validation_offset` must be at least num_megabatches * "
            f"int(0.9 * megabatch_size) = {train_end}. "
            f"Received: validation_offset={validation_offset}"
        )

    rng = random.Random(0) if rng is None else rng
    parts = (
        _parts(0, num_train, num_megabatches),
        _parts(validation_offset, num_validation, num_megabatches),
    )
    if replay == "buffer":
        _check_buffer(buffer_sizes, parts)
    train, validation = _with_replay(
        parts, replay, replay_fraction, buffer_sizes, rng
    )

    splits = []
    for t in range(num_megabatches):
        source = parts[0][t] if scoring_source == "current_first" else train[t]
        if num_scoring > len(source):
            warnings.warn(
                f"`scoring_fraction={scoring_fraction}` asks for "
                f"{num_scoring} samples of megabatch {t}, which has "
                f"{len(source)} to choose from: all of them are used.",
                stacklevel=2,
            )
        size = min(num_scoring, len(source))
        if scoring_source == "random":
            scoring = source[rng.sample(range(len(source)), size)]
        else:
            scoring = source[:size].copy()
        splits.append(
            {"train": train[t], "validation": validation[t], "scoring": scoring}
        )
    return splits


def few_shot(labels: npt.ArrayLike, num_shots: int) -> np.ndarray:
    """Selects the first samples of each class.

    Args:
        labels: Integer array `(N,)` of class numbers that start at 0.
        num_shots: Samples per class, at least 1.

    Returns:
        int64 array of the selected positions, ascending.

    Example:

    >>> few_shot([0, 1, 1, 0, 0, 1], num_shots=2)
    array([0, 1, 2, 3])
    """
    check_int("num_shots", num_shots, 1)
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            "`labels` must be a one-dimensional integer array. Received: "
            f"labels of shape {labels.shape} and dtype {labels.dtype}"
        )
    if not labels.size or labels.min() != 0:
        start = labels.min() if labels.size else "no labels"
        raise ValueError(f"`labels` must start at 0. Received: {start}")
    counts = np.bincount(labels)
    if counts.min() < num_shots:
        scarce = int(counts.argmin())
        raise ValueError(
            "`num_shots` must be at most the number of samples of every "
            f"class. Received: num_shots={num_shots}, but class {scarce} has "
            f"{counts[scarce]} samples"
        )
    # A stable sort keeps the stored order within each class.
    by_class = np.argsort(labels, kind="stable")
    begins = np.cumsum(counts) - counts
    chosen = by_class[begins[:, None] + np.arange(num_shots)]
    return np.sort(chosen.ravel()).astype("int64")


def _parts(begin, size, count):
    stop = begin + size * count
    return list(np.arange(begin, stop, dtype="int64").reshape(count, size))


def _check_buffer(buffer_sizes, parts):
    if len(buffer_sizes) != 2:
        raise ValueError(
            "`buffer_sizes` must be a pair (training, validation). "
            f"Received: buffer_sizes={buffer_sizes}"
        )
    # The lists only grow, so the first is the tightest.
    for size, part in zip(buffer_sizes, parts):
        check_int("buffer_sizes", size, 0)
        if size > len(part[0]):
            raise ValueError(
                "`buffer_sizes` must not be larger than the lists of "
                f"{len(parts[0][0])} training and {len(parts[1][0])} "
                "validation samples that they are drawn from. "
                f"Received: buffer_sizes={tuple(buffer_sizes)}"
            )


def _with_replay(parts, replay, fraction, buffer_sizes, rng):
    """Adds to what arrives in each megabatch what is kept of those before."""

    def draw(ids, count):
        # Sampling positions draws what sampling the list would draw.
        return ids[rng.sample(range(len(ids)), count)]

    lists = ([], [])
    kept = [np.zeros(0, "int64"), np.zeros(0, "int64")]
    for currents in zip(*parts):
        for i, current in enumerate(currents):
            both = [kept[i], current]
            if replay == "buffer":
                both.reverse()
            merged = np.concatenate(both)
            lists[i].append(merged)
            if replay == "buffer":
                drawn = draw(merged, buffer_sizes[i])
                kept[i] = np.concatenate([kept[i], drawn])
            elif fraction is not None:
                drawn = np.sort(draw(current, int(fraction * len(current))))
                kept[i] = np.concatenate([kept[i], drawn])
            else:
                rest = {"full": merged, "one": current, "none": current[:0]}
                kept[i] = rest[replay]
    return lists
