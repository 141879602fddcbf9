"""A data set in three parts: classes to learn, or images to restore."""

import functools
from typing import TypedDict
from typing import Unpack

import numpy as np
import numpy.typing as npt

from keras_app.checks import check_number
from keras_app.config import WholeSignature
from keras_app.experiments.data import loading
from keras_app.experiments.data import source
from keras_app.experiments.data.loading import tf
from keras_app.experiments.data.source import Flip
from keras_app.experiments.data.source import PadMode
from keras_app.hints import FilePath

# One stream of random numbers per use, as for megabatches.
_TRAIN, _VALIDATION, _TEST = range(3)
_BLUR_RADIUS = 4


class PartsArguments(TypedDict, total=False):
    """What `Parts` takes besides the data."""

    test: tuple[npt.ArrayLike, npt.ArrayLike] | None
    batch_size: int
    shuffle: bool
    seed: int
    data_dir: FilePath | None
    split: str


class RestorationArguments(PartsArguments, total=False):
    """And what `Restoration` hands on besides."""

    validation_fraction: float


class Parts(source.InMemory, WholeSignature):
    """Training, validation and test; children say what a batch holds.

    They hand on as `**parts` what is the same for all of them.
    """

    _flip = False  # of training images, see `source.augmented`

    def __init__(
        self,
        name_or_arrays: str | tuple[npt.ArrayLike, npt.ArrayLike],
        validation_fraction: float = 0.05,
        *,
        test: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        batch_size: int = 128,
        shuffle: bool = True,
        seed: int = 0,
        data_dir: FilePath | None = None,
        split: str = "train",
    ) -> None:
        check_number(
            "validation_fraction",
            validation_fraction,
            lambda x: 0 < x < 1,
            "in (0, 1)",
        )
        super().__init__(name_or_arrays, batch_size, seed, data_dir, split)
        if test is not None:
            if self.name is not None:
                raise ValueError(
                    "`test` must be None for a data set with a name, which "
                    f"has a test split. Received: name_or_arrays={self.name!r}"
                )
            test = source.check_arrays("test", test)
            if test[0].shape[1:] != self.image_shape:
                raise ValueError(
                    "`test` must have features of the same shape as those to "
                    f"train on, {self.image_shape}. "
                    f"Received: {test[0].shape[1:]}"
                )
            self._check("test", test[0])
        self._test_arrays = test
        self.num_examples = len(self._labels)
        num_validation = round(validation_fraction * self.num_examples)
        if not 0 < num_validation < self.num_examples:
            raise ValueError(
                "`validation_fraction` must leave at least one sample to "
                "train on and one to validate on. Received: "
                f"validation_fraction={validation_fraction} of "
                f"{self.num_examples} samples"
            )
        ids = np.arange(self.num_examples, dtype="int64")
        if shuffle:
            ids = np.random.default_rng(seed).permutation(ids)
        self.train_ids = ids[:-num_validation]
        self.validation_ids = ids[-num_validation:]
        self.steps_per_epoch = self.steps(self.train_ids)
        self.settings = {
            **self._which([self.train_ids, self.validation_ids]),
            **self._settings(),
        }

    def epochs(
        self,
        first: int,
        last: int,
        ids: np.ndarray | None = None,
        with_ids: bool = False,
    ) -> "tf.data.Dataset":
        """Training batches of the epochs `first` to `last - 1`.

        Order and random changes of an epoch depend on nothing but the seed
        and the number of the epoch, so a run that stopped after two epochs
        goes on with `fit(data.epochs(2, 5), initial_epoch=2, epochs=5,
        steps_per_epoch=data.steps_per_epoch)` as if it had not stopped.

        Args:
            first: Number of the first epoch, from 0.
            last: Number of the epoch to stop before.
            ids: int64 array of the training samples to use. Defaults to
                `None`: all of them, `train_ids`.
            with_ids: Whether batches carry their ids as a third component, as
                `keras_app.lottery.ForgettingTracker` wants. Defaults to
                `False`.

        Returns:
            A `tf.data.Dataset` of `(last - first) * steps(ids)` batches.
        """
        ids = self.train_ids if ids is None else ids
        batches = self._batches(
            [_TRAIN],
            ids,
            self._prepare_training,
            with_ids=with_ids,
            flip=self._flip,
        )
        return batches.epochs(first, last)

    def steps(self, ids: np.ndarray) -> int:
        """Number of batches of one epoch over so many samples."""
        return source.ceil_div(len(ids), self.batch_size)

    def in_order(self, ids: np.ndarray) -> "tf.data.Dataset":
        """`tf.data.Dataset` of samples in the order of `ids`, unaugmented."""
        return self._batches([_VALIDATION], ids, self._prepare).fixed()

    @functools.cached_property
    def fingerprint(self):
        """A digest of all samples to train and validate on, in order."""
        return self._samples.fingerprint()

    @property
    def validation(self) -> "tf.data.Dataset":
        """`tf.data.Dataset` of the validation batches, always the same."""
        return self.in_order(self.validation_ids)

    @functools.cached_property
    def test(self):
        """Arrays `(inputs, targets)` of the test split, read at first use."""
        arrays = self._test_arrays
        if self.name is not None:
            split = loading.test_split(self.name, self.data_dir)
            arrays = loading.load_arrays(self.name, split, self.data_dir)
        if arrays is None:
            raise ValueError(
                "`test` must be a pair (features, labels) where the data are "
                "arrays, to have a test part. Received: test=None"
            )
        images, labels = arrays
        # A single batch, so that what is drawn does not follow the batch size.
        whole = source.Batches(
            source.Samples(images, labels),
            np.arange(len(labels)),
            len(labels),
            source.stream_key(self._seed, _TEST),
            self._prepare,
        )
        return next(whole.fixed().as_numpy_iterator())

    def _prepare(self, images, labels, key):
        """The `(input, target)` of a batch; see `source.Batches`."""
        return images, labels

    def _prepare_training(self, images, labels, key):
        return self._prepare(images, labels, key)


class Holdout(Parts):
    """A data set in three parts: training, held-out validation, test.

    For ordinary training, which sees all of the training part in every epoch.
    Holds the data in memory once, decoded; batches are gathered by id. Images
    leave as float32: uint8 ones scaled to [0, 1], all others unchanged.

    `round(validation_fraction * N)` samples are held out, the last ones after
    mixing. The test part is that of the data set and is no share of these.

    Args:
        name_or_arrays: Name of a data set (see `load`), or a pair of arrays:
            features `(N, ...)` and integer labels `(N,)`.
        validation_fraction: Share of the samples to hold out, in (0, 1).
            Defaults to `0.05`.
        test: Pair of arrays to test on, where `name_or_arrays` is a pair.
            Defaults to `None`: the split of the named data set.
        batch_size: Samples per batch; the last one may be smaller. Defaults
            to `128`.
        augment: Whether to augment training images: padding and a random
            crop back to their size, and a horizontal flip. Defaults to
            `False`.
        padding: Pixels added on each side before the crop. Defaults to `4`.
        flip: `True`: whether an image is mirrored is drawn anew every time;
            `"alternating"`: it is in every other epoch, and which images
            begin is drawn once from the seed, so that two epochs show each
            image both ways; `False`: none is. Defaults to `True`.
        pad_mode: What the padding holds: `"constant"`, zeros, or `"reflect"`,
            the image reflected. Defaults to `"constant"`.
        shuffle: Whether to mix the samples once, under `seed`, before some
            are held out. The order within an epoch is always random. Defaults
            to `True`.
        seed: Non-negative integer for mixing, order and augmentation.
            Defaults to `0`.
        data_dir: See `load`.
        split: Split of a named data set to train and validate on. Defaults to
            `"train"`.

    Attributes `train_ids` and `validation_ids` are int64 arrays of positions
    in the source, which has `num_examples` samples; `steps_per_epoch` is the
    number of batches of one epoch, of `batch_size` samples.
    `image_shape` (without the batch axis) and `num_classes` say what a model
    must take and give; `name` is the data set's, or `None`, `data_dir` as
    given, and `settings` what decides which batches come.

    Raises:
        ValueError: An argument is out of its range, or `.test` is asked for
            where arrays came without `test`.

    Example:

    >>> fashion = Holdout("fashion_mnist_mini", batch_size=100)
    >>> len(fashion.train_ids), len(fashion.validation_ids)
    (5700, 300)
    >>> fashion.steps_per_epoch, fashion.test[0].shape
    (57, (1000, 28, 28, 1))
    """

    def __init__(
        self,
        name_or_arrays: str | tuple[npt.ArrayLike, npt.ArrayLike],
        validation_fraction: float = 0.05,
        *,
        augment: bool = False,
        padding: int = 4,
        flip: Flip = True,
        pad_mode: PadMode = "constant",
        **parts: Unpack[PartsArguments],
    ) -> None:
        self._augment = augment
        self._changes = {
            "padding": padding,
            "flip": flip,
            "pad_mode": pad_mode,
        }
        self._augmented = source.augmented(**self._changes)
        self._flip = augment and flip
        super().__init__(name_or_arrays, validation_fraction, **parts)

    def _check(self, argument, images):
        if self._augment:
            changes = self._changes
            source.check_augmentable(
                images, changes["padding"], changes["pad_mode"]
            )

    def _settings(self):
        return {"augment": self._augment, **self._changes}

    def _prepare_training(self, images, labels, key):
        prepare = self._augmented if self._augment else self._prepare
        return prepare(images, labels, key)


class Restoration(Parts):
    """Pairs `(degraded image, clean image)` in three parts, as `Holdout`.

    For networks that learn to undo what happened to an image:

        degraded = blur(clean) + noise * N(0, 1)

    `blur` is a convolution of each channel with a 9x9 Gaussian kernel that
    sums to 1; at the border the image is continued by its reflection (without
    the border pixels twice). Clean images are in [0, 1]; degraded ones are
    not clipped and may leave it. The noise of a training image is another one
    in every epoch, and follows from the seed, the number of the epoch and the
    step; that of the validation and the test images never changes.

    Args:
        name_or_arrays: Name of a data set (see `load`), or a pair of arrays:
            images `(N, height, width, channels)`, uint8 or in [0, 1], and
            integer labels `(N,)`, which are not used.
        noise: Standard deviation of the noise, at least 0, in units of the
            clean image. Defaults to `0.05`.
        blur_sigma: Standard deviation of the Gaussian kernel in pixels, a
            positive number. Defaults to `None`, no blur.
        validation_fraction, test, batch_size, shuffle, seed, data_dir, split:
            See `Holdout`; the seed is that of the noise, too.

    The attributes are those of `Holdout`, with `num_classes` `None`.

    Raises:
        ValueError: An argument is out of its range, the images do not have
            the shape above or leave [0, 1], or `.test` is asked for where
            arrays came without `test`.

    Example:

    >>> blurred = Restoration("fashion_mnist_mini", blur_sigma=5)
    >>> degraded, clean = blurred.test
    >>> degraded.shape == clean.shape == (1000, 28, 28, 1)
    True
    """

    def __init__(
        self,
        name_or_arrays: str | tuple[npt.ArrayLike, npt.ArrayLike],
        *,
        noise: float = 0.05,
        blur_sigma: float | None = None,
        **parts: Unpack[RestorationArguments],
    ) -> None:
        check_number("noise", noise, lambda x: x >= 0)
        if blur_sigma is not None:
            check_number("blur_sigma", blur_sigma, lambda x: x > 0, "> 0")
        self._noise = noise
        self._blur_sigma = blur_sigma
        super().__init__(name_or_arrays, **parts)
        self.num_classes = None

    def _check(self, argument, images):
        smallest = 1 if self._blur_sigma is None else _BLUR_RADIUS + 1
        if images.ndim != 4 or min(images.shape[1:3]) < smallest:
            raise ValueError(
                f"`{argument}` must have images of the shape (N, height, "
                f"width, channels), with height and width of at least "
                f"{smallest}. Received: images of shape {images.shape}"
            )
        if images.dtype != np.uint8 and not (
            images.min() >= 0 and images.max() <= 1
        ):
            raise ValueError(
                f"`{argument}` must have images that are uint8 or in [0, 1]. "
                f"Received: {images.dtype} images from {images.min()} to "
                f"{images.max()}"
            )

    def _settings(self):
        return {"noise": self._noise, "blur_sigma": self._blur_sigma}

    def _prepare(self, images, labels, key):
        clean = source.in_unit_range(images)
        degraded = clean
        if self._blur_sigma is not None:
            degraded = _blur(degraded, self._blur_sigma)
        draws = tf.random.stateless_normal(tf.shape(clean), key)
        return degraded + self._noise * draws, clean


def _blur(images, sigma):
    """Convolves each channel with a 9x9 Gaussian kernel."""
    distances = np.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1)
    weights = np.exp(-0.5 * (distances / sigma) ** 2)
    kernel = np.outer(weights, weights) / weights.sum() ** 2
    channels = images.shape[-1]
    kernel = np.tile(kernel[..., None, None], (1, 1, channels, 1))
    around = [_BLUR_RADIUS, _BLUR_RADIUS]
    images = tf.pad(images, [[0, 0], around, around, [0, 0]], mode="REFLECT")
    return tf.nn.depthwise_conv2d(
        images, kernel.astype("float32"), strides=[1, 1, 1, 1], padding="VALID"
    )
