"""Samples held in memory, and the `tf.data` pipelines that gather from them."""

import dataclasses
import hashlib
from typing import get_args
from typing import Literal

import numpy as np
import numpy.typing as npt

from keras_app.checks import check_choice
from keras_app.checks import check_int
from keras_app.experiments.data import loading
from keras_app.experiments.data.loading import tf
from keras_app.hints import FilePath

Flip = bool | Literal["alternating"]

PadMode = Literal["constant", "reflect"]

# The stream of random numbers that says which images are mirrored first.
_MIRRORED = 7


def read(name_or_arrays, split, data_dir):
    """Returns `(name, images, labels, num_classes)`; arrays have no name."""
    if isinstance(name_or_arrays, str):
        images, labels = loading.load_arrays(name_or_arrays, split, data_dir)
        num_classes = loading.info(name_or_arrays, data_dir).num_classes
        return name_or_arrays, images, labels, num_classes
    images, labels = check_arrays(
        "name_or_arrays", name_or_arrays, "the name of a data set or "
    )
    return None, images, labels, int(labels.max()) + 1


def check_arrays(argument, arrays, alternative=""):
    """Returns features and int32 labels, or raises and names `argument`."""
    try:
        images, labels = (np.asarray(array) for array in arrays)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{argument}` must be {alternative}a pair (features, labels) of "
            f"arrays. Received: {type(arrays).__name__}"
        ) from error
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"`{argument}` must have one-dimensional integer labels. "
            f"Received: labels of shape {labels.shape} and dtype {labels.dtype}"
        )
    if not len(labels) or len(images) != len(labels):
        raise ValueError(
            f"`{argument}` must have as many features as labels, and at "
            f"least one. Received: shapes {images.shape} and {labels.shape}"
        )
    return images, labels.astype("int32")


# A mirror image in every other epoch, for each image.
ALTERNATING = "alternating"


def digest(labels, parts):
    """A short text that tells which samples are where.

    Args:
        labels: `(N,)` array.
        parts: Arrays of ids, in a fixed order.
    """
    hashed = hashlib.sha256(np.ascontiguousarray(labels).tobytes())
    for ids in parts:
        hashed.update(len(ids).to_bytes(8, "little"))
        hashed.update(np.ascontiguousarray(ids, "<i8").tobytes())
    return hashed.hexdigest()[:16]


def check_augmentable(images, padding, pad_mode):
    """Raises unless `images` are such that they can be padded and cropped."""
    if images.ndim != 4:
        raise ValueError(
            "`augment` must be False unless images have the shape (N, height, "
            f"width, channels). Received: images of shape {images.shape}"
        )
    if pad_mode == "reflect" and padding >= min(images.shape[1:3]):
        raise ValueError(
            "`padding` must be below the height and the width with "
            f"pad_mode='reflect'. Received: padding={padding} for images of "
            f"shape {images.shape}"
        )


def stream_key(*numbers):
    """A key of TensorFlow's stateless random numbers from integers."""
    state = np.random.SeedSequence(numbers)
    return (state.generate_state(2) >> 1).astype("int32")


def ceil_div(count, size):
    """Batches of `size` that hold `count` samples."""
    return -(-count // size)


def in_unit_range(images):
    """Scales uint8 images to float32 in [0, 1]; leaves all others."""
    if images.dtype == tf.uint8:
        return tf.cast(images, "float32") / 255.0
    return images


def unchanged(images, labels, key):
    """The `(input, target)` of a batch, see `Batches`: as they are stored."""
    return images, labels


def augmented(padding, flip, pad_mode):
    """Returns a function for `Batches`: shifted images, half of them flipped.

    Args:
        padding: Pixels added on each side before images are cropped at random.
        flip: Whether half of the images are flipped. `"alternating"` is done
            elsewhere, see `Batches`.
        pad_mode: `"constant"`: zeros, or `"reflect"`.
    """
    check_int("padding", padding, 0)
    check_choice("flip", flip, (True, False, ALTERNATING))
    check_choice("pad_mode", pad_mode, get_args(PadMode))
    coins = flip != ALTERNATING and bool(flip)

    def prepare(images, labels, key):
        return _crop_and_flip(images, key, padding, coins, pad_mode), labels

    return prepare


def _crop_and_flip(images, key, padding, flip, pad_mode):
    """Pads, crops back at random, flips half of the images."""
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
    images = tf.pad(images, [[0, 0], around, around, [0, 0]], mode=pad_mode)
    images = tf.gather(images, rows, batch_dims=1)
    return tf.gather(images, columns, axis=2, batch_dims=1)


class Samples:
    """All samples, in memory.

    Args:
        images: Array `(N, ...)`; uint8, or else held as float32.
        labels: int32 array `(N,)`.
    """

    def __init__(self, images, labels):
        if images.dtype != np.uint8:
            images = np.asarray(images, "float32")
        # Input pipelines run on the host; do not fill an accelerator.
        with tf.device("CPU:0"):
            self.images = tf.constant(images)
            self.labels = tf.constant(labels)

    def fingerprint(self):
        """A digest of all images and labels, in order: a str."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            array = np.ascontiguousarray(tensor.numpy())
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array)
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """Some samples in batches, as `tf.data`.

    Args:
        samples: The `Samples`.
        ids: int64 array: which of them, and their order.
        size: Samples in a batch; the last one may be smaller.
        key: Key of all random numbers.
        prepare: A function `(images, labels, key)` that makes the `(input,
            target)` of a batch from the images as they are stored, and draws
            from `key`, a new one for every batch. What it returns as input is
            scaled to [0, 1] if it is uint8 still.
        with_ids: Whether batches carry their ids as a third component.
        mirrored: bool array by id: which images `prepare` is given mirrored
            in the epochs 0, 2, 4, ...; the others are in 1, 3, 5, ...
            Defaults to `None`: no image ever.
    """

    samples: Samples
    ids: np.ndarray
    size: int
    key: np.ndarray
    prepare: object
    with_ids: bool = False
    mirrored: np.ndarray | None = None

    @property
    def steps(self):
        """Number of batches that hold all samples once."""
        return ceil_div(len(self.ids), self.size)

    def fixed(self):
        """Batches in the order of `ids`, the same at every pass."""
        ids, key = self._ids_on_host(), tf.constant(self.key)
        dataset = self._cut(ids, key, tf.constant(0, "int64"))
        return self._gathered(dataset, self.steps)

    def epochs(self, first, last):
        """Batches of the epochs `first` to `last - 1`."""
        if not 0 <= first <= last:
            raise ValueError(
                "`first` and `last` must be epochs with 0 <= first <= last. "
                f"Received: first={first}, last={last}"
            )
        return self._shuffled(tf.data.Dataset.range(first, last), last - first)

    def passes(self):
        """Batches of one epoch, of another number at every iteration."""
        numbers = tf.data.Dataset.random(
            seed=int(self.key[0]), rerandomize_each_iteration=True
        )
        return self._shuffled(numbers.take(1), 1)

    def _ids_on_host(self):
        with tf.device("CPU:0"):
            return tf.constant(self.ids, "int64")

    def _shuffled(self, numbers, count):
        """Batches of the epochs of these numbers, `count` of them."""
        ids = self._ids_on_host()

        def epoch(number):
            key = tf.random.fold_in(self.key, number)
            order = tf.random.experimental.stateless_shuffle(ids, key)
            return self._cut(order, key, number)

        return self._gathered(numbers.flat_map(epoch), count * self.steps)

    def _cut(self, ids, key, number):
        """The `(ids, key, number of the epoch)` of each batch."""

        def batch(step):
            here = ids[step * self.size : (step + 1) * self.size]
            return here, tf.random.fold_in(key, step), number

        return tf.data.Dataset.range(self.steps).map(batch)

    def _gathered(self, dataset, count):
        """The `count` batches themselves."""

        def gather(ids, key, number):
            images = tf.gather(self.samples.images, ids)
            if self.mirrored is not None:
                now = tf.gather(self.mirrored, ids) ^ (number % 2 == 1)
                images = tf.where(
                    now[:, None, None, None], images[:, :, ::-1], images
                )
            labels = tf.gather(self.samples.labels, ids)
            inputs, targets = self.prepare(images, labels, key)
            parts = (in_unit_range(inputs), targets, ids)
            return parts[: 3 if self.with_ids else 2]

        options = tf.data.Options()
        options.deterministic = True
        # There are no files to share out between workers.
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        return (
            dataset.map(gather, num_parallel_calls=tf.data.AUTOTUNE)
            .apply(tf.data.experimental.assert_cardinality(count))
            .with_options(options)
            .prefetch(tf.data.AUTOTUNE)
        )


class InMemory:
    """A data set whose samples are in memory, and who asks for them.

    Args:
        name_or_arrays, batch_size, seed, data_dir, split: Those of the
            children.
    """

    def __init__(
        self,
        name_or_arrays: str | tuple[npt.ArrayLike, npt.ArrayLike],
        batch_size: int,
        seed: int,
        data_dir: FilePath | None,
        split: str,
    ) -> None:
        check_int("batch_size", batch_size, 1)
        check_int("seed", seed, 0)
        self.name, images, labels, self.num_classes = read(
            name_or_arrays, split, data_dir
        )
        self._check("name_or_arrays", images)
        self.data_dir = data_dir
        self.image_shape = images.shape[1:]
        self.batch_size = batch_size
        self._seed = seed
        self._labels = labels
        self._samples = Samples(images, labels)

    def _check(self, argument, images):
        """Raises unless `images` are what batches can be made of."""

    def _batches(
        self, use, ids, prepare, size=None, with_ids=False, flip=False
    ):
        """The `Batches` of some samples, which draw as this use of them does.

        Args:
            use: Integers, which make a stream of random numbers of its own.
            ids, prepare, size, with_ids: See `Batches`.
            flip: See `augmented`; here decides whether flips alternate.
        """
        key = stream_key(self._seed, *use)
        size = size or self.batch_size
        mirrored = None
        if flip == ALTERNATING:
            # One draw for the whole source, whatever the use and the split.
            coins = np.random.default_rng((self._seed, _MIRRORED))
            mirrored = coins.random(len(self._labels)) < 0.5
        return Batches(
            self._samples, ids, size, key, prepare, with_ids, mirrored
        )

    def images(self, ids: np.ndarray) -> np.ndarray:
        """Array of some inputs as they are stored, uint8 ones in [0, 1]."""
        return in_unit_range(tf.gather(self._samples.images, ids)).numpy()

    def arrays(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Arrays `(inputs, labels)` of some samples, unaugmented."""
        return self.images(ids), self._labels[ids]

    def _which(self, ids):
        """What decides which samples come, for `settings`."""
        return {"seed": self._seed, "samples": digest(self._labels, ids)}
