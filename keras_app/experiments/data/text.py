"""Text as windows of bytes, in three parts."""

import functools
import re
from collections.abc import Sequence

import numpy as np

from keras_app.checks import check_int
from keras_app.checks import check_number
from keras_app.experiments.data import source
from keras_app.experiments.data.holdout import Parts
from keras_app.experiments.data.loading import tf

_BETWEEN = "\n\n"


class Text(Parts):
    """Documents, as windows of bytes whose next byte a model predicts.

    The bytes of UTF-8 are the tokens, 256 of them: no vocabulary has to be
    made or kept. A window gives `length` pairs: each byte, and the one after
    it. Windows do not overlap; what is left of a part at its end, shorter than
    a window, is not used.

    Whole documents are held out, in their order: the last ones are the test
    part, those before them the validation part. A paragraph that was there
    before, in any document, is left out, so that none is in two parts.

    Args:
        documents: A list of strings, or `"pydoc_topics"`: the topics of
            Python's `help()`, in the order of the alphabet. They come with
            Python, under its licence, and differ between its versions: 79
            topics, 373 kB without repetitions, in 3.11.
        length: Tokens of an input, >= 1. Defaults to `128`.
        validation_fraction, test_fraction: Shares of the bytes to hold out, in
            (0, 1). A document is where its middle is. Default to `0.1`.
        batch_size: Windows per batch; the last one may be smaller. Defaults to
            `32`.
        seed: Non-negative integer, for the order of the windows in training.
            Defaults to `0`.

    Attributes and methods are those of `Holdout`: `train_ids`,
    `validation_ids` and `test_ids` are windows, `arrays(ids)` returns inputs
    and targets `(windows, length)`, int32; `image_shape` is `(length,)`.
    `num_classes` is 256.

    Raises:
        ValueError: An argument is out of its range, or there is too little
            text for a window in each part.
        TypeError: `documents` are something else.

    Example:

    >>> text = Text(["one fish", "two fish", "red fish"], 4, test_fraction=0.3,
    ...             validation_fraction=0.3)
    >>> x, y = text.test
    >>> bytes(x[0].tolist()), bytes(y[0].tolist())
    (b'red ', b'ed f')
    """

    def __init__(
        self,
        documents: str | Sequence[str] = "pydoc_topics",
        length: int = 128,
        *,
        validation_fraction: float = 0.1,
        test_fraction: float = 0.1,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        check_int("length", length, 1)
        check_int("batch_size", batch_size, 1)
        check_int("seed", seed, 0)
        fractions = {
            "validation_fraction": validation_fraction,
            "test_fraction": test_fraction,
        }
        for name, value in fractions.items():
            check_number(name, value, lambda x: 0 < x < 1, "in (0, 1)")
        self.name = documents if isinstance(documents, str) else None
        parts = _split(
            _without_repetitions(_read(documents)), *fractions.values()
        )
        windows = [_windows(part, length) for part in parts]
        sizes = [len(each) for each in windows]
        if not all(sizes):
            raise ValueError(
                "`documents` must have more text than a window of `length` + 1 "
                "bytes in each part. Received: parts of "
                f"{', '.join(str(len(p)) for p in parts)} bytes (training, "
                f"validation, test) with length={length}"
            )
        self.data_dir = None
        self.num_classes = 256
        self.image_shape = (length,)
        self.batch_size = batch_size
        self.num_examples = sum(sizes)
        ids = np.arange(self.num_examples, dtype="int64")
        self.train_ids, self.validation_ids, self.test_ids = np.split(
            ids, np.cumsum(sizes)[:-1]
        )
        self._seed = seed
        self._labels = np.zeros(len(ids), "int32")
        self._samples = source.Samples(np.concatenate(windows), self._labels)
        self.steps_per_epoch = self.steps(self.train_ids)
        self.settings = {
            "seed": seed,
            "samples": self.fingerprint[:16],
            "sizes": sizes,
        }

    def arrays(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Arrays `(inputs, targets)` of some windows, int32."""
        tokens = tf.gather(self._samples.images, ids)
        inputs, targets = self._prepare(tokens, None, None)
        return inputs.numpy(), targets.numpy()

    def images(self, ids: np.ndarray) -> np.ndarray:
        """Array of some inputs, int32."""
        return self.arrays(ids)[0]

    @functools.cached_property
    def test(self) -> tuple[np.ndarray, np.ndarray]:
        """Arrays `(inputs, targets)` of the test part."""
        return self.arrays(self.test_ids)

    def _prepare(self, images, labels, key):
        tokens = tf.cast(images, "int32")
        return tokens[:, :-1], tokens[:, 1:]


def _read(documents):
    """The documents, a list of strings."""
    if documents == "pydoc_topics":
        from pydoc_data.topics import topics

        return [topics[name] for name in sorted(topics)]
    if isinstance(documents, str):
        raise ValueError(
            "`documents` must be 'pydoc_topics' or a list of strings. "
            f"Received: documents={documents[:80]!r}"
        )
    if not isinstance(documents, (list, tuple)) or not all(
        isinstance(each, str) for each in documents
    ):
        raise TypeError(
            "`documents` must be 'pydoc_topics' or a list of strings. "
            f"Received: {type(documents).__name__}"
        )
    return documents


def _without_repetitions(documents):
    """The documents without paragraphs that came before, whatever their lines.

    What is left has one line between paragraphs; documents of which nothing is
    left go.
    """
    seen, kept = set(), []
    for document in documents:
        paragraphs = []
        for paragraph in re.split(r"\n\s*\n", document):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                paragraphs.append(paragraph.strip("\n"))
        if paragraphs:
            kept.append(_BETWEEN.join(paragraphs))
    return kept


def _split(documents, validation_fraction, test_fraction):
    """Training, validation and test, each one text in bytes."""
    encoded = [document.encode() for document in documents]
    ends = np.cumsum([len(each) for each in encoded])
    total = ends[-1] if len(ends) else 0
    middles = [end - len(each) / 2 for end, each in zip(ends, encoded)]
    bounds = [
        (1 - validation_fraction - test_fraction) * total,
        (1 - test_fraction) * total,
    ]
    parts = [[], [], []]
    for middle, each in zip(middles, encoded):
        parts[sum(middle >= bound for bound in bounds)].append(each)
    return [_BETWEEN.encode().join(part) for part in parts]


def _windows(text, length):
    """uint8 array `(windows, length + 1)`; each begins where one ends."""
    tokens = np.frombuffer(text, "uint8")
    count = max(0, (len(tokens) - 1) // length)
    starts = length * np.arange(count)[:, None]
    return tokens[starts + np.arange(length + 1)]
