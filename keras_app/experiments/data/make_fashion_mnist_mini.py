"""Makes the data set that ships with the package.

    python -m keras_app.experiments.data.make_fashion_mnist_mini SOURCE_DATA_DIR

`SOURCE_DATA_DIR` holds a prepared `fashion_mnist` of TensorFlow Datasets. The
first 600 training and 100 test records of each class are copied unchanged, in
the order in which they are stored, one class after the other in turn, so that
every run of ten records holds each class once.
"""

import argparse
import pathlib
import sys

from keras_app.experiments.data.loading import SHIPPED_DATA_DIR
from keras_app.experiments.data.loading import SHIPPED_NAME

RECORDS_PER_CLASS = {"train": 600, "test": 100}
_VERSION = "1.0.0"
_DESCRIPTION = (
    "A class-balanced slice of Fashion-MNIST: 6,000 training and 1,000 test "
    "images of Zalando's articles (28x28, grayscale, 10 classes), the first "
    "600 and 100 records of each class."
)


def make(source_data_dir, data_dir=SHIPPED_DATA_DIR):
    """Writes the data set as `data_dir/fashion_mnist_mini/1.0.0`.

    Args:
        source_data_dir: Folder that holds a prepared `fashion_mnist`.
        data_dir: Folder to write to. Defaults to the one in this package.

    Returns:
        The `pathlib.Path` of the folder that was written.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    source = tfds.builder("fashion_mnist", data_dir=source_data_dir).info
    folder = pathlib.Path(data_dir) / SHIPPED_NAME / _VERSION
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in RECORDS_PER_CLASS.items():
        paths = [str(path) for path in source.splits[split].filepaths]
        records = {label: [] for label in range(10)}
        for record in tf.data.TFRecordDataset(paths).as_numpy_iterator():
            example = tf.train.Example.FromString(record)
            label = example.features.feature["label"].int64_list.value[0]
            if len(records[label]) < count:
                records[label].append(record)
        path = folder / f"{SHIPPED_NAME}-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for turn in zip(*records.values(), strict=True):
                for record in turn:
                    writer.write(record)

    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=source.features,
        version=_VERSION,
        supervised_keys=("image", "label"),
        description=_DESCRIPTION,
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        citation=source.citation,
        license="MIT, Copyright 2017 Zalando SE",
    )
    return folder


def main(arguments=None):
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_app.experiments.data.make_fashion_mnist_mini",
        description="Makes the data set that ships with the package.",
    )
    parser.add_argument("source_data_dir")
    parser.add_argument("--data_dir", default=str(SHIPPED_DATA_DIR))
    options = parser.parse_args(arguments)
    print(make(options.source_data_dir, options.data_dir))
    return 0


if __name__ == "__main__":
    sys.exit(main())
