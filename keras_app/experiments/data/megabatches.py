"""Megabatches: a data set that arrives in large chunks, as `tf.data`."""

import dataclasses
import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_app.checks import check_int
from keras_app.experiments.data import source
from keras_app.experiments.data import splits
from keras_app.experiments.data.loading import tf
from keras_app.experiments.data.source import Flip
from keras_app.experiments.data.source import PadMode
from keras_app.experiments.data.splits import Replay
from keras_app.experiments.data.splits import ScoringSource
from keras_app.hints import FilePath

# One stream of random numbers per use, so that a switch for one of them never
# changes the numbers of another.
_TRAIN, _VALIDATION, _SCORING, _PASSES = range(4)


@dataclasses.dataclass(frozen=True, eq=False)
class Megabatch:
    """What there is to learn from once a megabatch has arrived.

    The datasets yield batches of `(image, label)`, or of `(image, label, id)`
    if the `Megabatches` has `with_ids=True`. Ids are positions in the source,
    in its stored order.

    Args:
        index: Number of the megabatch, from 0.
        train: `tf.data.Dataset` of one pass over the training samples, in a
            new order at every iteration. Which orders these are follows from
            the seed of the `Megabatches` and TensorFlow's global one, and
            from how often it was iterated before; where a stopped run must
            continue exactly, use `epochs`.
        validation: `tf.data.Dataset` of the validation samples.
        scoring: `tf.data.Dataset` of the sample that scorers see.
        train_ids: int64 array of the ids in `train`.
        validation_ids: int64 array of the ids in `validation`, in order.
        scoring_ids: int64 array of the ids in `scoring`, in order.
        steps_per_epoch: Number of batches in one pass over `train`; the last
            may be smaller.
    """

    index: int
    train: Any
    validation: Any
    scoring: Any
    train_ids: np.ndarray = dataclasses.field(repr=False)
    validation_ids: np.ndarray = dataclasses.field(repr=False)
    scoring_ids: np.ndarray = dataclasses.field(repr=False)
    steps_per_epoch: int
    _epochs: Callable[[int, int], Any] = dataclasses.field(repr=False)

    def epochs(self, first: int, last: int) -> "tf.data.Dataset":
        """Batches of the epochs `first` to `last - 1`, one after another.

        Order and augmentation of an epoch depend on nothing but the seed, the
        index of the megabatch and the number of the epoch, so a run that
        stopped after two epochs goes on with
        `fit(megabatch.epochs(2, 5), initial_epoch=2, epochs=5,
        steps_per_epoch=megabatch.steps_per_epoch)` as if it had not stopped.

        Args:
            first: Number of the first epoch, from 0.
            last: Number of the epoch to stop before.

        Returns:
            A `tf.data.Dataset` of `(last - first) * steps_per_epoch` batches.
        """
        return self._epochs(first, last)


class Megabatches(source.InMemory):
    """A data set that arrives in megabatches, with replay.

    Holds the source in memory once, decoded, whatever the number of
    megabatches and the replay; batches are gathered from it by id. Images
    leave as float32: uint8 ones scaled to [0, 1], all others unchanged.
    Iterate over it, or take one by its index: `megabatches[0]`.

    Args:
        name_or_arrays: Name of a data set (see `load`), or a pair of arrays:
            features `(N, ...)` and integer labels `(N,)`.
        num_megabatches: Number of megabatches.
        replay: `"full"`, `"none"`, `"one"` or `"buffer"`, see
            `split_megabatches`. Defaults to `"full"`.
        megabatch_size: Samples per megabatch, training (nine tenths) and
            validation together. Defaults to `N // num_megabatches`.
        batch_size: Samples per batch of `train` and `validation`. Defaults
            to `64`.
        scoring_batch_size: Samples per batch of `scoring`. Defaults to `100`.
        scoring_fraction, scoring_source, buffer_sizes, replay_fraction,
            validation_offset: See `split_megabatches`.
        num_shots: Keep only so many samples of each class, the first ones.
            Defaults to `None`, all.
        shuffle: Whether to mix the source once, under `seed`, before it is
            split, so that class-sorted sources give megabatches alike.
            Defaults to `True`.
        augment: Whether to augment training images: padding and a random
            crop back to their size, and a horizontal flip. Defaults to
            `None`: samples of the shape (height, width, channels) are.
        augment_validation, augment_scoring: The same for the validation and
            the scoring sample, with the same draws at every pass. The
            released code of anytime progressive pruning augments both.
            Default to `False`.
        padding, flip, pad_mode: See `Holdout`; flips alternate within the
            epochs of a megabatch. Default to `4`, `True` and `"constant"`.
        with_ids: Whether batches carry the int64 ids of their samples as a
            third component. Keras reads a third component as sample weights:
            map it away before `fit`. Defaults to `False`.
        seed: Non-negative integer for mixing, replay, scoring samples, order
            and augmentation. Defaults to `0`.
        data_dir: See `load`.
        split: Split of a named data set to take. Defaults to `"train"`.

    Attributes `image_shape` (without the batch axis) and `num_classes` say
    what a model must take and give; `name` is the data set's, or `None`,
    `data_dir` as given, and `settings` what decides which batches come.

    Example:

    ```python
    megabatches = Megabatches("fashion_mnist_mini", 4, augment=True)
    for megabatch in megabatches:
        model.fit(
            megabatch.epochs(0, 2),
            epochs=2,
            steps_per_epoch=megabatch.steps_per_epoch,
            validation_data=megabatch.validation,
        )
    ```

    Reference: [Misra et al., 2022](https://arxiv.org/abs/2204.01640).
    Differs: mixes the source, draws the scoring sample, and augments neither
    it nor the validation sample; the arguments above restore each.
    """

    def __init__(
        self,
        name_or_arrays: str | tuple[npt.ArrayLike, npt.ArrayLike],
        num_megabatches: int,
        replay: Replay = "full",
        *,
        megabatch_size: int | None = None,
        batch_size: int = 64,
        scoring_batch_size: int = 100,
        scoring_fraction: float = 0.2,
        scoring_source: ScoringSource = "random",
        buffer_sizes: tuple[int, int] = (182, 182),
        replay_fraction: float | None = None,
        validation_offset: int | None = None,
        num_shots: int | None = None,
        shuffle: bool = True,
        augment: bool | None = None,
        augment_validation: bool = False,
        augment_scoring: bool = False,
        padding: int = 4,
        flip: Flip = True,
        pad_mode: PadMode = "constant",
        with_ids: bool = False,
        seed: int = 0,
        data_dir: FilePath | None = None,
        split: str = "train",
    ) -> None:
        check_int("num_megabatches", num_megabatches, 1)
        check_int("scoring_batch_size", scoring_batch_size, 1)
        self._changes = changes = {
            "padding": padding,
            "flip": flip,
            "pad_mode": pad_mode,
        }
        self._augmented = source.augmented(**changes)
        self._augment = [augment, augment_validation, augment_scoring]
        super().__init__(name_or_arrays, batch_size, seed, data_dir, split)
        if num_shots is None:
            ids = np.arange(len(self._labels), dtype="int64")
        else:
            ids = splits.few_shot(self._labels, num_shots)
        if shuffle:
            ids = ids[np.random.default_rng(seed).permutation(len(ids))]
        if megabatch_size is None:
            megabatch_size = len(ids) // num_megabatches
        positions = splits.split_megabatches(
            megabatch_size,
            num_megabatches,
            replay=replay,
            scoring_fraction=scoring_fraction,
            scoring_source=scoring_source,
            validation_offset=validation_offset,
            buffer_sizes=buffer_sizes,
            rng=random.Random(seed),
            replay_fraction=replay_fraction,
        )
        # Validation parts come after all training parts.
        needed = 1 + max(int(part["validation"].max()) for part in positions)
        if needed > len(ids):
            raise ValueError(
                f"`num_megabatches` ({num_megabatches}) of `megabatch_size` "
                f"({megabatch_size}) must fit into the source: they reach to "
                f"sample {needed}. Received: a source of {len(ids)} samples"
            )
        # In the order of the uses: of training, validation and scoring.
        self._ids = [[ids[at] for at in part.values()] for part in positions]
        self._sizes = (batch_size, batch_size, scoring_batch_size)
        self._with_ids = with_ids
        self.settings = {
            **self._which(itertools.chain(*self._ids)),
            "batch_size": batch_size,
            "scoring_batch_size": scoring_batch_size,
            "augment": self._augment[_TRAIN],
            "augment_validation": augment_validation,
            "augment_scoring": augment_scoring,
            **changes,
        }

    def _check(self, argument, images):
        if self._augment[_TRAIN] is None:
            self._augment[_TRAIN] = images.ndim == 4
        if any(self._augment):
            changes = self._changes
            source.check_augmentable(
                images, changes["padding"], changes["pad_mode"]
            )

    @property
    def train_ids(self) -> np.ndarray:
        """int64 array of the ids to train on in the first megabatch."""
        return self._ids[0][_TRAIN]

    def __len__(self):
        return len(self._ids)

    def __iter__(self):
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index):
        if not -len(self) <= index < len(self):
            raise IndexError(
                f"`index` must be below {len(self)}. Received: index={index}"
            )
        index %= len(self)
        ids = self._ids[index]

        def batches(part, use):
            augment = self._augment[part]
            return self._batches(
                [index, use],
                ids[part],
                self._augmented if augment else source.unchanged,
                self._sizes[part],
                self._with_ids,
                augment and self._changes["flip"],
            )

        epochs = batches(_TRAIN, _TRAIN)
        return Megabatch(
            index,
            batches(_TRAIN, _PASSES).passes(),
            batches(_VALIDATION, _VALIDATION).fixed(),
            batches(_SCORING, _SCORING).fixed(),
            *ids,
            steps_per_epoch=epochs.steps,
            _epochs=epochs.epochs,
        )
