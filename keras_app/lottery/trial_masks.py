"""Prune what remains on trial, and see when the mask has settled."""

import collections
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_app.checks import check_number
from keras_app.checks import check_whole
from keras_app.config import Configured
from keras_app.hints import Arrays
from keras_app.hints import State
from keras_app.masks import mask_from_scores
from keras_app.masks.structures import ArraysOf
from keras_app.masks.structures import by_name
from keras_app.masks.structures import in_container


def mask_distance(a: ArraysOf, b: ArraysOf, remaining: int) -> float:
    """Share of the remaining weights on which two masks differ.

        d = (number of entries where a and b differ) / P

    Args:
        a: Mask (bool, or 0 and 1), or a dict or list of masks.
        b: The other mask, in the same container.
        remaining: P, the number of weights that were kept when the round
            started; >= 1. Not the size of the mask.

    Returns:
        A float >= 0.

    Raises:
        ValueError: Masks that differ in names or shapes; entries that are
            neither 0 nor 1; `remaining` < 1.

    Example:

    >>> mask_distance([1, 1, 0, 0], [1, 0, 1, 0], remaining=4)
    0.5

    Reference: [Zhang et al., 2021](https://arxiv.org/abs/2106.03225); [You et
    al., 2020](https://arxiv.org/abs/1909.11957) stop by such a distance.
    """
    remaining = check_whole("remaining", remaining, 1)
    a, b = by_name(a, 0), by_name(b, 0)
    _check_alike("a", a, "b", b)
    differ = sum(
        int(np.count_nonzero(_as_mask("a", a[name]) ^ _as_mask("b", b[name])))
        for name in a
    )
    return differ / remaining


@keras.saving.register_keras_serializable(package="keras_app")
class MaskDistanceStop(Configured):
    """Stops a round once the mask that pruning would give has settled.

    Each epoch the weights are pruned on trial; what is given to `update` is
    the distance to the mask of the epoch before.

        d_e > eps                   starts the recording, for good
        e > warmup and recording    d_e goes into a queue of length Q
        max(queue) < eps            stop

    The queue starts as Q ones. A distance of exactly `eps` is on neither side.

    Args:
        eps: Threshold on the distance, in (0, 1]. Defaults to `0.08`, as in
            the released code; the paper says 0.07.
        queue_length: Q, >= 1. A round of Q epochs or fewer runs to its end.
            Defaults to `5`.
        warmup_epochs: Epochs, >= 0, whose distances are not recorded: those
            of the learning rate's warm-up. Defaults to `0`.
        require_first_exceed: Whether a distance above `eps` must come first. A
            round whose distances never exceed `eps` then runs to its end.
            Defaults to `True`. `False` with `queue_length=1` is the rule as
            the paper words it.

    Attributes `recording` and `queue` (newest first) show the state.

    Raises:
        ValueError: An argument out of its range.

    Example:

    >>> stop = MaskDistanceStop(eps=0.1, queue_length=2)
    >>> [stop.update(distance) for distance in (0.05, 0.3, 0.05, 0.04)]
    [False, False, False, True]

    Reference: [Zhang et al., 2021](https://arxiv.org/abs/2106.03225), the rule
    of the released code.
    """

    def __init__(
        self,
        eps: float = 0.08,
        queue_length: int = 5,
        warmup_epochs: int = 0,
        require_first_exceed: bool = True,
    ) -> None:
        # The queue starts with ones: above 1 it would stop at once.
        self.eps = check_number("eps", eps, lambda x: 0 < x <= 1, "in (0, 1]")
        self.queue_length = check_whole("queue_length", queue_length, 1)
        self.warmup_epochs = check_whole("warmup_epochs", warmup_epochs, 0)
        self.require_first_exceed = bool(require_first_exceed)
        self.reset()

    def reset(self) -> None:
        """Starts a new round."""
        self._epoch = 0
        self.recording = not self.require_first_exceed
        self.queue = collections.deque(
            [1.0] * self.queue_length, maxlen=self.queue_length
        )

    def update(self, distance: float) -> bool:
        """Takes an epoch's distance; returns whether to stop after it.

        Args:
            distance: `mask_distance` between the trial masks of this epoch and
                of the one before, >= 0. So the first call is that of epoch 1,
                the second one of the round.
        """
        distance = check_number("distance", distance, lambda x: x >= 0, ">= 0")
        self._epoch += 1
        if distance > self.eps:
            self.recording = True
        if self._epoch > self.warmup_epochs and self.recording:
            self.queue.appendleft(distance)
        return max(self.queue) < self.eps

    def state(self) -> State:
        """Returns `(plain values, {name: array})`, what `restore` needs."""
        plain = {
            "epoch": self._epoch,
            "recording": self.recording,
            "queue": list(self.queue),
        }
        return plain, {}

    def restore(self, plain: dict[str, Any], arrays: Arrays) -> None:
        """Continues where `state()` was taken."""
        self._epoch = plain["epoch"]
        self.recording = plain["recording"]
        self.queue = collections.deque(plain["queue"], maxlen=self.queue_length)


def prune_remaining(weights: ArraysOf, masks: ArraysOf, rate: float) -> Any:
    """Prunes the smallest magnitudes among the weights that are kept.

        k = round(rate * remaining)

    over all tensors together; a half is rounded to the even number. Among
    equal magnitudes the earlier tensor goes first, then the lower flat index.
    Nothing is changed: the result is a trial until it is put to use.

    Args:
        weights: Array, or a dict or list of arrays. Where the mask is `False`
            they may hold anything.
        masks: Masks in the same container.
        rate: Share of the kept weights to prune, in (0, 1).

    Returns:
        Bool masks, `True` kept, in the container of `weights`. They keep
        nothing that `masks` prune.

    Raises:
        ValueError: A rate out of its range, or so small that k is 0; names
            or shapes that differ; NaN among the kept weights.

    Example:

    >>> weights = {"a": np.array([3.0, -1.0]), "b": np.array([0.0, 2.0])}
    >>> masks = {"a": np.array([True, True]), "b": np.array([False, True])}
    >>> prune_remaining(weights, masks, 0.5)["a"]
    array([ True, False])

    Reference: [Frankle and Carbin, 2019](https://arxiv.org/abs/1803.03635).
    """
    rate = check_number("rate", rate, lambda x: 0 < x < 1, "in (0, 1)")
    named, kept = by_name(weights, 0), by_name(masks, 0)
    _check_alike("weights", named, "masks", kept)
    kept = {name: _as_mask("masks", kept[name]) for name in named}
    magnitudes = {}
    for name, values in named.items():
        values = np.abs(ops.convert_to_numpy(values))
        magnitudes[name] = np.where(kept[name], values, np.zeros_like(values))
        if np.isnan(magnitudes[name]).any():
            raise ValueError(
                "`weights` must not contain NaN. Received NaN in "
                f"{name!r}; did the training diverge?"
            )
    total = sum(mask.size for mask in kept.values())
    remaining = sum(int(np.count_nonzero(mask)) for mask in kept.values())
    sparsity = min(1.0, next_sparsity(rate, remaining, total))
    pruned = mask_from_scores(magnitudes, sparsity, previous=kept)
    return in_container(weights, pruned.values())


def next_sparsity(rate, remaining, total):
    """Returns the sparsity that prunes `round(rate * remaining)` more weights.

    Raises:
        ValueError: These are none.
    """
    more = round(rate * remaining)
    if more == 0:
        raise ValueError(
            "`rate` must prune at least one weight. Received: "
            f"rate={rate} of {remaining} remaining weights, which rounds to 0"
        )
    # `mask_from_scores` prunes int(sparsity * total): half a weight more than
    # the whole number that is meant cannot be rounded below it.
    return (total - remaining + more + 0.5) / total


def _check_alike(first, a, second, b):
    if set(a) != set(b):
        raise ValueError(
            f"`{first}` and `{second}` must have the same tensors. "
            f"Received: {list(a)} and {list(b)}"
        )
    for name in a:
        shapes = np.shape(a[name]), np.shape(b[name])
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"`{first}` and `{second}` must have the same shapes. "
                f"Received: {shapes[0]} and {shapes[1]} for {name!r}"
            )


def _as_mask(argument, mask):
    mask = np.asarray(mask)
    if mask.dtype == bool:
        return mask
    valid = (mask == 0) | (mask == 1)
    if not valid.all():
        raise ValueError(
            f"`{argument}` must be bool, or hold 0 and 1. "
            f"Received: {mask[~valid].reshape(-1)[0]!s}"
        )
    return mask.astype(bool)
