"""A data set in three parts, for training that sees all of it."""

import functools

import numpy as np

from keras_app.experiments.data import loading
from keras_app.experiments.data import source
from keras_app.experiments.data import splits
from keras_app.experiments.data.tensorflow_pipeline import import_tensorflow

# One stream of random numbers per use, as for megabatches.
_TRAIN, _VALIDATION, _TEST = range(3)
_BLUR_RADIUS = 4


class _Parts:
    """Training, validation and test; children say what a batch holds."""

    def __init__(
        self,
        name_or_arrays,
        validation_fraction,
        test,
        batch_size,
        shuffle,
        seed,
        data_dir,
        split,
    ):
        splits.check_integer("batch_size", batch_size, 1)
        splits.check_integer("seed", seed, 0)
        if not 0 < validation_fraction < 1:
            raise ValueError(
                "`validation_fraction` must be in (0, 1). "
                f"Received: validation_fraction={validation_fraction}"
            )
        self.name, images, labels, self.num_classes = source.read(
            name_or_arrays, split, data_dir
        )
        self._check("name_or_arrays", images)
        if test is not None:
            if self.name is not None:
                raise ValueError(
                    "`test` must be None for a data set with a name, which "
                    f"has a test split. Received: name_or_arrays={self.name!r}"
                )
            test = source.check_arrays("test", test)
            if test[0].shape[1:] != images.shape[1:]:
                raise ValueError(
                    "`test` must have features of the same shape as those to "
                    f"train on, {images.shape[1:]}. "
                    f"Received: {test[0].shape[1:]}"
                )
            self._check("test", test[0])
        num_validation = round(validation_fraction * len(labels))
        if not 0 < num_validation < len(labels):
            raise ValueError(
                "`validation_fraction` must leave at least one sample to "
                "train on and one to validate on. Received: "
                f"validation_fraction={validation_fraction} of {len(labels)} "
                "samples"
            )
        ids = np.arange(len(labels), dtype="int64")
        if shuffle:
            ids = np.random.default_rng(seed).permutation(ids)
        self.data_dir = data_dir
        self.image_shape = images.shape[1:]
        self.train_ids = ids[:-num_validation]
        self.validation_ids = ids[-num_validation:]
        self.num_examples = len(labels)
        self.batch_size = batch_size
        self.steps_per_epoch = self.steps(self.train_ids)
        self.settings = {
            "seed": seed,
            "samples": source.digest(
                labels, [self.train_ids, self.validation_ids]
            ),
            **self._settings(),
        }
        self._source = source.Source(images, labels)
        self._seed = seed
        self._test_arrays = test

    def epochs(self, first, last, ids=None, with_ids=False):
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
        chosen = self._source.carrying_ids() if with_ids else self._source
        return chosen.epochs(
            self.train_ids if ids is None else ids,
            self.batch_size,
            source.stream_key(self._seed, _TRAIN),
            self._prepare_training,
            first,
            last,
        )

    def steps(self, ids):
        """Number of batches of one epoch over so many samples."""
        return source.ceil_div(len(ids), self.batch_size)

    def in_order(self, ids):
        """`tf.data.Dataset` of samples in the order of `ids`, unaugmented."""
        return self._source.fixed(
            ids,
            self.batch_size,
            source.stream_key(self._seed, _VALIDATION),
            self._prepare,
        )

    @functools.cached_property
    def fingerprint(self):
        """A digest of all samples to train and validate on, in order."""
        return self._source.fingerprint()

    @property
    def validation(self):
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
        whole = source.Source(images, labels).fixed(
            np.arange(len(labels)),
            len(labels),
            source.stream_key(self._seed, _TEST),
            self._prepare,
        )
        return next(whole.as_numpy_iterator())

    def _check(self, argument, images):
        """Raises unless `images` are what `_prepare` can work on."""

    def _prepare(self, images, labels, key):
        """The `(input, target)` of a batch; see `source.Source`."""
        raise NotImplementedError

    def _prepare_training(self, images, labels, key):
        return self._prepare(images, labels, key)


class Holdout(_Parts):
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
        augment: Whether to augment training images: zero padding and a random
            crop back to their size, then a random horizontal flip. Defaults
            to `False`.
        padding: Zeros added on each side before the crop. Defaults to `4`.
        flip: Whether augmentation flips half of the images. Defaults to
            `True`.
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
        name_or_arrays,
        validation_fraction=0.05,
        *,
        test=None,
        batch_size=128,
        augment=False,
        padding=4,
        flip=True,
        shuffle=True,
        seed=0,
        data_dir=None,
        split="train",
    ):
        splits.check_integer("padding", padding, 0)
        self._augment = augment
        self._padding = padding
        self._flip = flip
        super().__init__(
            name_or_arrays,
            validation_fraction,
            test,
            batch_size,
            shuffle,
            seed,
            data_dir,
            split,
        )

    def _check(self, argument, images):
        if self._augment:
            source.check_augmentable(images)

    def _settings(self):
        return {
            "augment": self._augment,
            "padding": self._padding,
            "flip": self._flip,
        }

    def _prepare(self, images, labels, key):
        return images, labels

    def _prepare_training(self, images, labels, key):
        if self._augment:
            images = source.crop_and_flip(
                images, key, self._padding, self._flip
            )
        return images, labels


class Restoration(_Parts):
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
        name_or_arrays,
        *,
        noise=0.05,
        blur_sigma=None,
        validation_fraction=0.05,
        test=None,
        batch_size=128,
        shuffle=True,
        seed=0,
        data_dir=None,
        split="train",
    ):
        if not 0 <= noise < np.inf:
            raise ValueError(
                "`noise` must be a finite number of at least 0. "
                f"Received: noise={noise}"
            )
        if blur_sigma is not None and not 0 < blur_sigma < np.inf:
            raise ValueError(
                "`blur_sigma` must be None or a positive, finite number. "
                f"Received: blur_sigma={blur_sigma}"
            )
        self._noise = noise
        self._blur_sigma = blur_sigma
        super().__init__(
            name_or_arrays,
            validation_fraction,
            test,
            batch_size,
            shuffle,
            seed,
            data_dir,
            split,
        )
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
        tf = import_tensorflow()
        clean = source.in_unit_range(images)
        degraded = clean
        if self._blur_sigma is not None:
            degraded = _blur(degraded, self._blur_sigma)
        draws = tf.random.stateless_normal(tf.shape(clean), key)
        return degraded + self._noise * draws, clean


def _blur(images, sigma):
    """Convolves each channel with a 9x9 Gaussian kernel."""
    tf = import_tensorflow()
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
