"""A data set in three parts, for training that sees all of it."""

from keras_app.checks import check_int
from keras_app.experiments.data import source
from keras_app.experiments.data.parts import Parts


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
        augment=False,
        padding=4,
        flip=True,
        **parts,
    ):
        check_int("padding", padding, 0)
        self._augment = augment
        self._padding = padding
        self._flip = flip
        super().__init__(name_or_arrays, validation_fraction, **parts)

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
