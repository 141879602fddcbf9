"""Megabatches: a data set that arrives in large chunks, as `tf.data`."""

import dataclasses
import random
import typing

import numpy as np

from keras_app.data import loading
from keras_app.data import splits
from keras_app.data.tensorflow_pipeline import import_tensorflow

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
    train: typing.Any
    validation: typing.Any
    scoring: typing.Any
    train_ids: np.ndarray = dataclasses.field(repr=False)
    validation_ids: np.ndarray = dataclasses.field(repr=False)
    scoring_ids: np.ndarray = dataclasses.field(repr=False)
    steps_per_epoch: int
    _epochs: typing.Callable = dataclasses.field(repr=False)

    def epochs(self, first, last):
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
        if not 0 <= first <= last:
            raise ValueError(
                "`first` and `last` must be epochs with 0 <= first <= last. "
                f"Received: first={first}, last={last}"
            )
        return self._epochs(first, last)


class Megabatches:
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
        augment: Whether to augment training images: zero padding and a random
            crop back to their size, then a random horizontal flip. Defaults
            to `None`: samples of the shape (height, width, channels) are.
        augment_validation, augment_scoring: The same for the validation and
            the scoring sample, with the same draws at every pass. The
            released code of anytime progressive pruning augments both.
            Default to `False`.
        padding: Zeros added on each side before the crop. Defaults to `4`.
        flip: Whether augmentation flips half of the images. Defaults to
            `True`.
        with_ids: Whether batches carry the int64 ids of their samples as a
            third component. Keras reads a third component as sample weights:
            map it away before `fit`. Defaults to `False`.
        seed: Non-negative integer for mixing, replay, scoring samples, order
            and augmentation. Defaults to `0`.
        data_dir: See `load`.
        split: Split of a named data set to take. Defaults to `"train"`.

    Attributes `image_shape` (without the batch axis) and `num_classes` say
    what a model must take and give; `name` is the data set's, or `None`, and
    `data_dir` as given.

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
        name_or_arrays,
        num_megabatches,
        replay="full",
        *,
        megabatch_size=None,
        batch_size=64,
        scoring_batch_size=100,
        scoring_fraction=0.2,
        scoring_source="random",
        buffer_sizes=(182, 182),
        replay_fraction=None,
        validation_offset=None,
        num_shots=None,
        shuffle=True,
        augment=None,
        augment_validation=False,
        augment_scoring=False,
        padding=4,
        flip=True,
        with_ids=False,
        seed=0,
        data_dir=None,
        split="train",
    ):
        splits.check_integer("num_megabatches", num_megabatches, 1)
        splits.check_integer("batch_size", batch_size, 1)
        splits.check_integer("scoring_batch_size", scoring_batch_size, 1)
        splits.check_integer("padding", padding, 0)
        splits.check_integer("seed", seed, 0)
        if isinstance(name_or_arrays, str):
            images, labels = loading.load_arrays(
                name_or_arrays, split, data_dir
            )
            num_classes = loading.info(name_or_arrays, data_dir).num_classes
            self.name = name_or_arrays
        else:
            self.name = None
            images, labels = _check_arrays(name_or_arrays)
            num_classes = int(labels.max()) + 1
        if augment is None:
            augment = images.ndim == 4
        augments = augment or augment_validation or augment_scoring
        if augments and images.ndim != 4:
            raise ValueError(
                "`augment` must be False unless images have the shape (N, "
                "height, width, channels). Received: images of shape "
                f"{images.shape}"
            )

        if num_shots is None:
            ids = np.arange(len(labels), dtype="int64")
        else:
            ids = splits.few_shot(labels, num_shots)
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
        # Validation parts lie behind all training parts.
        needed = 1 + max(int(part["validation"].max()) for part in positions)
        if needed > len(ids):
            raise ValueError(
                f"`num_megabatches` ({num_megabatches}) of `megabatch_size` "
                f"({megabatch_size}) must fit into the source: they reach to "
                f"sample {needed}. Received: a source of {len(ids)} samples"
            )

        self.data_dir = data_dir
        self.image_shape = images.shape[1:]
        self.num_classes = num_classes
        self._ids = [
            {key: ids[value] for key, value in part.items()}
            for part in positions
        ]
        self._source = _Source(images, labels, padding, flip, with_ids)
        self._batch_size = batch_size
        self._scoring_batch_size = scoring_batch_size
        self._augment = (augment, augment_validation, augment_scoring)
        self._seed = seed

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

        def batches(key, use, size):
            return self._source.fixed(
                ids[key], size, self._augment[use], self._key(index, use)
            )

        def epochs(first, last):
            return self._source.epochs(
                ids["train"],
                self._batch_size,
                self._augment[_TRAIN],
                self._key(index, _TRAIN),
                first,
                last,
            )

        return Megabatch(
            index=index,
            train=self._source.passes(
                ids["train"],
                self._batch_size,
                self._augment[_TRAIN],
                self._key(index, _PASSES),
            ),
            validation=batches("validation", _VALIDATION, self._batch_size),
            scoring=batches("scoring", _SCORING, self._scoring_batch_size),
            train_ids=ids["train"],
            validation_ids=ids["validation"],
            scoring_ids=ids["scoring"],
            steps_per_epoch=_ceil_div(len(ids["train"]), self._batch_size),
            _epochs=epochs,
        )

    def _key(self, index, use):
        state = np.random.SeedSequence([self._seed, index, use])
        return (state.generate_state(2) >> 1).astype("int32")


class _Source:
    """All samples in memory, and the datasets that gather from them."""

    def __init__(self, images, labels, padding, flip, with_ids):
        tf = import_tensorflow()
        if images.dtype != np.uint8:
            images = np.asarray(images, "float32")
        # Input pipelines run on the host; do not fill an accelerator.
        with tf.device("CPU:0"):
            self._images = tf.constant(images)
            self._labels = tf.constant(labels)
        self._padding = padding
        self._flip = flip
        self._with_ids = with_ids

    def fixed(self, ids, batch_size, augment, key):
        """Batches in the order of `ids`, the same at every pass."""
        tf = import_tensorflow()
        ids = self._on_host(ids)
        dataset = self._in_batches(ids, batch_size, tf.constant(key))
        return self._finish(dataset, augment, _ceil_div(len(ids), batch_size))

    def epochs(self, ids, batch_size, augment, key, first, last):
        """Batches of the epochs `first` to `last - 1`."""
        tf = import_tensorflow()
        steps = (last - first) * _ceil_div(len(ids), batch_size)
        numbers = tf.data.Dataset.range(first, last)
        dataset = self._shuffled(numbers, ids, batch_size, key)
        return self._finish(dataset, augment, steps)

    def passes(self, ids, batch_size, augment, key):
        """Batches of one epoch, of another number at every iteration."""
        tf = import_tensorflow()
        numbers = tf.data.Dataset.random(
            seed=int(key[0]), rerandomize_each_iteration=True
        ).take(1)
        dataset = self._shuffled(numbers, ids, batch_size, key)
        return self._finish(dataset, augment, _ceil_div(len(ids), batch_size))

    def _on_host(self, ids):
        tf = import_tensorflow()
        with tf.device("CPU:0"):
            return tf.constant(ids, "int64")

    def _shuffled(self, numbers, ids, batch_size, key):
        """For each epoch number, its `(ids, key)` batches."""
        tf = import_tensorflow()
        ids = self._on_host(ids)

        def epoch(number):
            epoch_key = tf.random.fold_in(key, number)
            order = tf.random.experimental.stateless_shuffle(ids, epoch_key)
            return self._in_batches(order, batch_size, epoch_key)

        return numbers.flat_map(epoch)

    def _in_batches(self, ids, batch_size, key):
        tf = import_tensorflow()

        def batch(step):
            begin = step * batch_size
            return (
                ids[begin : begin + batch_size],
                tf.random.fold_in(key, step),
            )

        return tf.data.Dataset.range(_ceil_div(len(ids), batch_size)).map(batch)

    def _finish(self, dataset, augment, num_batches):
        tf = import_tensorflow()

        def gather(ids, key):
            images = tf.gather(self._images, ids)
            if augment:
                images = _augment(images, key, self._padding, self._flip)
            if images.dtype == tf.uint8:
                images = tf.cast(images, "float32") / 255.0
            labels = tf.gather(self._labels, ids)
            return (images, labels, ids)[: 3 if self._with_ids else 2]

        options = tf.data.Options()
        options.deterministic = True
        # There are no files to share out between workers.
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        return (
            dataset.map(gather, num_parallel_calls=tf.data.AUTOTUNE)
            .apply(tf.data.experimental.assert_cardinality(num_batches))
            .with_options(options)
            .prefetch(tf.data.AUTOTUNE)
        )


def _augment(images, key, padding, flip):
    """Pads with zeros, crops back at random, flips half of the images."""
    tf = import_tensorflow()
    batch = tf.shape(images)[0]
    height, width = images.shape[1:3]
    draws = tf.random.stateless_uniform(
        (2, batch), key, maxval=2 * padding + 1, dtype="int32"
    )
    rows = draws[0][:, None] + tf.range(height)
    columns = draws[1][:, None] + tf.range(width)
    if flip:
        # A key of its own: whether to flip must not follow from the crop.
        coins = tf.random.stateless_uniform((batch,), tf.random.fold_in(key, 1))
        columns = tf.where(coins[:, None] < 0.5, columns[:, ::-1], columns)
    around = [padding, padding]
    images = tf.pad(images, [[0, 0], around, around, [0, 0]])
    images = tf.gather(images, rows, batch_dims=1)
    return tf.gather(images, columns, axis=2, batch_dims=1)


def _check_arrays(arrays):
    try:
        images, labels = (np.asarray(array) for array in arrays)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "`name_or_arrays` must be the name of a data set or a pair "
            f"(features, labels) of arrays. Received: {type(arrays).__name__}"
        ) from error
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            "`name_or_arrays` must have one-dimensional integer labels. "
            f"Received: labels of shape {labels.shape} and dtype {labels.dtype}"
        )
    if not len(labels) or len(images) != len(labels):
        raise ValueError(
            "`name_or_arrays` must have as many features as labels, and at "
            f"least one. Received: shapes {images.shape} and {labels.shape}"
        )
    return images, labels.astype("int32")


def _ceil_div(count, size):
    return -(-count // size)
