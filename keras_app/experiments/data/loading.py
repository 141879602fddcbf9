"""Image data by name, through TensorFlow Datasets."""

import contextlib
import dataclasses
import difflib
import functools
import http.client
import os
import pathlib
import queue
import re
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING

import numpy as np

from keras_app import files
from keras_app import host
from keras_app.hints import FilePath
from keras_app.hints import Shape

SHIPPED_NAME = "fashion_mnist_mini"
SHIPPED_DATA_DIR = pathlib.Path(__file__).parent / "tfds"
_PROBE_SECONDS = 4.0


@functools.cache
def import_tensorflow():
    """Returns the module, kept off the accelerators of another backend.

    TensorFlow would otherwise reserve a GPU's memory for a few input batches,
    and leave none for JAX or PyTorch.
    """
    try:
        import tensorflow
    except ImportError as error:
        raise ImportError(
            "The input pipelines need TensorFlow on every backend: `pip "
            "install tensorflow tensorflow-datasets`."
        ) from error
    if host.BACKEND != "tensorflow":
        # If somebody used TensorFlow before, its devices are settled.
        with contextlib.suppress(RuntimeError):
            tensorflow.config.set_visible_devices([], "GPU")
    return tensorflow


class _TensorFlow:
    """TensorFlow, imported when something of it is first needed."""

    def __getattr__(self, name):
        return getattr(import_tensorflow(), name)


if TYPE_CHECKING:
    import tensorflow as tf
else:
    tf = _TensorFlow()


def make_deterministic() -> None:
    """Makes TensorFlow's kernels deterministic, where it is the backend.

    Together with `keras.utils.set_random_seed` the same program then computes
    the same bits on every run of one machine. JAX and PyTorch are
    deterministic on CPUs as they are.
    """
    if host.BACKEND == "tensorflow":
        tf.config.experimental.enable_op_determinism()


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What a model or an experiment needs to know of a data set.

    Args:
        name: Name of the data set.
        image_shape: Shape of one image, `(height, width, channels)`; `None`
            where images differ.
        num_classes: Number of classes.
        class_names: Tuple of the class names, in label order.
        num_examples: `{split: number of examples}`.
    """

    name: str
    image_shape: Shape
    num_classes: int
    class_names: tuple[str, ...]
    num_examples: dict[str, int]


def load(
    name: str,
    split: str,
    data_dir: FilePath | None = None,
    *,
    download: bool = True,
    shuffle_files: bool = False,
    with_ids: bool = False,
) -> "tf.data.Dataset":
    """Loads one split of a data set.

    `"fashion_mnist_mini"` (6,000 training and 1,000 test images) ships with
    the package and needs no network. Everything else is what
    `tfds.load(name)` finds: prepared already, or downloaded and prepared now.

    Args:
        name: Name in TensorFlow Datasets, or of a prepared data set in
            `data_dir` that carries its own metadata.
        split: Name of a split, or a slice such as `"train[:90%]"`.
        data_dir: Folder of prepared data sets. Defaults to the package's own
            folder for the shipped set, else to the environment variable
            `TFDS_DATA_DIR`, else to `~/tensorflow_datasets`.
        download: Whether to download and prepare what is missing. Defaults
            to `True`.
        shuffle_files: Whether to mix the order of the files (not of the
            examples within one). Defaults to `False`, the stored order.
        with_ids: Whether to add the int64 position of each example among
            those loaded, in stored order, as a third component. Defaults to
            `False`, because Keras reads a third component as sample weights.

    Returns:
        A `tf.data.Dataset` of `(image, label)`, unbatched: uint8 images
        `(height, width, channels)`, int64 labels.

    Raises:
        ValueError: If there is no such data set or split.
        OSError: If the data set is not prepared and cannot be downloaded. A
            failed attempt leaves no files behind.

    Example:

    ```python
    train = load("fashion_mnist_mini", "train").shuffle(6000).batch(64)
    ```
    """
    if shuffle_files and with_ids:
        raise ValueError(
            "`shuffle_files` must be False for `with_ids`. "
            "Received: shuffle_files=True, with_ids=True"
        )
    builder = _builder(name, data_dir, download)
    _check_split(builder, split)
    config = _import_tfds().ReadConfig()
    if not shuffle_files:
        # One file after the other, so that positions are those of the records.
        config.interleave_cycle_length = 1
    dataset = builder.as_dataset(
        split=split,
        as_supervised=True,
        shuffle_files=shuffle_files,
        read_config=config,
    )
    if with_ids:
        dataset = dataset.enumerate().map(lambda i, xy: (*xy, i))
    return dataset


def load_arrays(
    name: str,
    split: str,
    data_dir: FilePath | None = None,
    *,
    download: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Loads one split of a data set into memory.

    Args:
        name, split, data_dir, download: As for `load`.

    Returns:
        `(images, labels)`: a uint8 array `(N, height, width, channels)` and an
        int32 array `(N,)`, in the stored order.

    Raises:
        ValueError: As for `load`, or if the images differ in size.
        OSError: As for `load`.
    """
    dataset = load(name, split, data_dir, download=download)
    shape = dataset.element_spec[0].shape
    if not shape.is_fully_defined():
        raise ValueError(
            "`name` must be a data set whose images all have one size, to be "
            f"held in one array. Received: name={name!r} with images of shape "
            f"{shape}"
        )
    batches = list(dataset.batch(1024).as_numpy_iterator())
    if not batches:
        return np.zeros((0, *shape), "uint8"), np.zeros((0,), "int32")
    images, labels = zip(*batches)
    return np.concatenate(images), np.concatenate(labels).astype("int32")


def info(
    name: str, data_dir: FilePath | None = None, *, download: bool = True
) -> DatasetInfo:
    """Describes a data set without reading its records.

    Args:
        name, data_dir, download: As for `load`.

    Returns:
        A `DatasetInfo`.

    Example:

    >>> info("fashion_mnist_mini").num_classes
    10
    """
    builder = _builder(name, data_dir, download)
    keys = builder.info.supervised_keys
    if keys is None or len(keys) != 2:
        raise ValueError(
            "`name` must be a data set of images and labels. "
            f"Received: name={name!r}"
        )
    image, label = (builder.info.features[key] for key in keys)
    return DatasetInfo(
        name=builder.name,
        image_shape=tuple(image.shape),
        num_classes=label.num_classes,
        class_names=tuple(label.names),
        num_examples={
            split: builder.info.splits[split].num_examples
            for split in builder.info.splits
        },
    )


def test_split(
    name: str, data_dir: FilePath | None = None, *, download: bool = True
) -> str:
    """Names the split to test on: `"test"`, or else `"validation"`.

    Args:
        name, data_dir, download: As for `load`.
    """
    splits = list(_builder(name, data_dir, download).info.splits)
    for split in ("test", "validation"):
        if split in splits:
            return split
    raise ValueError(
        "`name` must be a data set with a split 'test' or 'validation'. "
        f"Received: name={name!r} with splits {_listed(splits)}"
    )


# The name starts with "test": keep pytest from collecting it on import.
test_split.__test__ = False


def _import_tfds():
    try:
        import_tensorflow()
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            "Loading data by name needs TensorFlow Datasets (`pip install "
            "tensorflow tensorflow-datasets`); arrays can be passed without "
            f"it. Missing: {error.name}"
        ) from error
    return tfds


def _builder(name, data_dir, download):
    """A TFDS builder whose data set is prepared."""
    tfds = _import_tfds()
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"`name` must be the name of a data set. Received: name={name!r}"
        )
    if data_dir is not None:
        data_dir = os.path.expanduser(data_dir)
    elif name == SHIPPED_NAME:
        data_dir = str(SHIPPED_DATA_DIR)
    else:
        # TFDS reads the variable once, when it is imported.
        data_dir = os.environ.get("TFDS_DATA_DIR") or None
    if data_dir is not None and files.is_stored(data_dir):
        data_dir, download = _copied(name, data_dir), False
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        if name == SHIPPED_NAME:
            raise FileNotFoundError(
                f"The data set {name!r} is not in {data_dir}: leave `data_dir` "
                "out to load the copy that ships with keras_app."
            ) from error
        raise ValueError(_unknown_name(name, data_dir, tfds)) from error
    except (AssertionError, ImportError, ValueError) as error:
        raise ValueError(
            "`name` must be the name of a data set, as in 'cifar10'. "
            f"Received: name={name!r} ({_first_line(error)})"
        ) from error
    metadata = os.path.join(builder.data_dir, "dataset_info.json")
    if not tf.io.gfile.exists(metadata):
        if not download:
            raise FileNotFoundError(_not_prepared(builder, "download=False"))
        _prepare(builder)
    return builder


def _copied(name, data_dir):
    """The data folder on this disk that holds what a store has of a data set.

    TensorFlow, which reads the records, knows no S3.
    """
    # As in "name/config:version".
    folder = re.split("[/:]", name)[0]
    source = files.path(data_dir) / folder
    if not source.is_dir():
        raise FileNotFoundError(
            f"The data set {name!r} is not in {data_dir}: prepare it in a "
            f"folder on a disk, and copy that folder's {folder}/ there."
        )
    return str(files.copy_of(source).parent)


def _prepare(builder):
    """Downloads and prepares, or raises soon and leaves nothing behind."""
    # The downloader tries ten times before it gives up, so ask first.
    if not builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not _reachable(
        [*builder.url_infos] or [builder.info.homepage]
    ):
        reason = "its source cannot be reached from here"
        raise FileNotFoundError(_not_prepared(builder, reason))
    root = pathlib.Path(_root(builder))
    folders = [root, root / builder.name, root / "downloads"]
    folders += [root / "downloads" / builder.name]
    folders += [root / "downloads" / "extracted"]
    before = {path for folder in folders for path in folder.glob("*")}
    before |= {path for path in [*root.parents, *folders] if path.exists()}
    try:
        builder.download_and_prepare()
    except BaseException as error:
        _clean_up(folders, before)
        if not isinstance(error, Exception):
            raise
        reason = f"preparing it failed with {_first_line(error)}"
        raise OSError(_not_prepared(builder, reason)) from error


def _clean_up(folders, before):
    """Removes what an attempt left, but nothing that was there before."""
    for folder in folders:
        for path in folder.glob("*"):
            unfinished = "incomplete" in path.name or ".tmp." in path.name
            if unfinished and path not in before and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
    # Innermost first; a folder that holds finished downloads stays.
    empty = sorted(folders, key=lambda path: -len(path.parts))
    for path in [*empty, *folders[0].parents]:
        if path not in before and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _reachable(urls):
    """Whether any host of `urls` answers within a few seconds."""
    parts = [urllib.parse.urlsplit(url) for url in urls]
    if any(part.scheme not in ("http", "https") for part in parts):
        return True  # Nothing to ask for a copy from a file system.
    sites = [*{f"{part.scheme}://{part.netloc}/" for part in parts}][:8]
    answers = queue.SimpleQueue()
    # Looking up a name has no timeout of its own, hence the threads.
    for site in sites:
        ask = functools.partial(_ask, site, answers)
        threading.Thread(target=ask, daemon=True).start()
    end = time.monotonic() + _PROBE_SECONDS
    with contextlib.suppress(queue.Empty):
        for _ in sites:
            if answers.get(timeout=max(0, end - time.monotonic())):
                return True
    return False


def _ask(site, answers):
    """Puts whether a host answers."""
    request = urllib.request.Request(site, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_PROBE_SECONDS).close()
        answers.put(True)
    except urllib.error.HTTPError:
        answers.put(True)  # A refusal is an answer.
    except urllib.error.URLError as error:
        # The downloader brings its own certificates.
        answers.put(isinstance(error.reason, ssl.SSLError))
    except (OSError, http.client.HTTPException):
        answers.put(False)


def _check_split(builder, split):
    splits = list(builder.info.splits)
    try:
        known = isinstance(split, str) and builder.info.splits[split]
    except (KeyError, ValueError):
        known = None
    if not known:
        base = str(split).split("[")[0]
        raise ValueError(
            f"`split` must be one of {_listed(splits)} of {builder.name!r}, or "
            "a slice such as 'train[:90%]'. "
            f"Received: split={split!r}{_did_you_mean(base, splits)}"
        )


def _unknown_name(name, data_dir, tfds):
    known = {SHIPPED_NAME, *tfds.list_builders(with_community_datasets=False)}
    if data_dir and os.path.isdir(data_dir):
        known |= {entry.name for entry in os.scandir(data_dir)}
    where = data_dir or tfds.core.constants.DATA_DIR
    return (
        "`name` must be a data set of TensorFlow Datasets or one prepared in "
        f"{where} (see `data_dir`). "
        f"Received: name={name!r}{_did_you_mean(name, known)}"
    )


def _not_prepared(builder, reason):
    return (
        f"The data set {builder.name!r} is not prepared in {_root(builder)} "
        f"({reason}): pass `data_dir=` or set TFDS_DATA_DIR to a folder that "
        "holds it, or run once with a network."
    )


def _root(builder):
    """The data folder, above the name, the config and the version."""
    path = pathlib.Path(builder.data_dir)
    return str(path.parents[1 if builder.builder_config is None else 2])


def _did_you_mean(word, known):
    close = difflib.get_close_matches(word, sorted(known))
    return f" (did you mean {_listed(close, ' or ')}?)" if close else ""


def _listed(words, separator=", "):
    return separator.join(map(repr, words))


def _first_line(error):
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else repr(error)
