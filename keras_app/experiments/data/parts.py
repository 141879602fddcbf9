"""What a data set in three parts is, whatever a batch of it holds."""

import functools
import inspect

import numpy as np

from keras_app.checks import check_number
from keras_app.experiments.data import loading
from keras_app.experiments.data import source

# One stream of random numbers per use, as for megabatches.
_TRAIN, _VALIDATION, _TEST = range(3)


class Parts(source.InMemory):
    """Training, validation and test; children say what a batch holds.

    They hand on as `**parts` what is the same for all of them.
    """

    def __init_subclass__(cls):
        # gin and `help` shall see the arguments that `**parts` stands for.
        own = dict(inspect.signature(cls.__init__).parameters)
        if own.pop("parts", None) is None:
            return
        shared = inspect.signature(Parts.__init__).parameters
        kind = inspect.Parameter.KEYWORD_ONLY
        named = {name: shared[name].replace(kind=kind) for name in shared}
        named |= own
        cls.__init__.__signature__ = inspect.Signature(list(named.values()))

    def __init__(
        self,
        name_or_arrays,
        validation_fraction=0.05,
        *,
        test=None,
        batch_size=128,
        shuffle=True,
        seed=0,
        data_dir=None,
        split="train",
    ):
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
        self.num_examples = len(self._source.labels)
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
            self._key(_TRAIN),
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
            self._key(_VALIDATION),
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
            self._key(_TEST),
            self._prepare,
        )
        return next(whole.as_numpy_iterator())

    def _prepare(self, images, labels, key):
        """The `(input, target)` of a batch; see `source.Source`."""
        raise NotImplementedError

    def _prepare_training(self, images, labels, key):
        return self._prepare(images, labels, key)
