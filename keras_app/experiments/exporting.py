"""Exports of what a run left behind, and of `.keras` files."""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_app import files
from keras_app.experiments import data as data_lib
from keras_app.experiments import page
from keras_app.experiments.run.folder import MODEL
from keras_app.experiments.run.folder import SUMMARY
from keras_app.export import export_report
from keras_app.export import fresh_process
from keras_app.export.export_report import ExportReport
from keras_app.export.formats import checked
from keras_app.export.formats import FORMATS
from keras_app.export.shrink import shrink as shrink_model
from keras_app.hints import FilePath
from keras_app.hints import Inputs

_SAMPLES = 200


def export_run(
    source: FilePath,
    formats: Sequence[str] = ("litert",),
    output: FilePath | None = None,
    data: Inputs | FilePath | None = None,
    shrink: bool = False,
    multiple_of: int = 1,
    resume: bool = False,
    **options: Any,
) -> list[ExportReport]:
    """Exports the model of a run folder or of a `.keras` file.

    In a run folder the files go to `exports/`, and the run page shows them.

    Args:
        source: A run folder, or a `.keras` file.
        formats: Names of `keras_app.export.formats.FORMATS`, such as
            `"litert"`, or what else people call them, such as `"tflite"`.
            Defaults to `("litert",)`.
        output: File to write, or with several formats the folder. Defaults to
            `exports/` in a run folder, and to the folder of a file.
        data: Inputs to compare and calibrate on: an array, a `.npy` file, a
            `.npz` file with `x`, or the name of a data set of images, whose
            first 200 of the training part are used. Defaults to the data set
            of the run, if it can be loaded, or to random inputs.
        shrink: Whether to cut dead channels first. Defaults to `False`.
        multiple_of: For that; see `keras_app.export.shrink`.
        resume: Whether to keep exports that are whole, those with a report
            beside them, and to make only the others. Defaults to `False`.
        **options: What one of the formats takes besides, such as `quantize`,
            `sparse`, `target`, `baseline`, `evaluate` and `io_dtype` of
            `export_litert`; the other formats go without. `evaluate` may also
            be a `.npz` file with `x` and `y` (or `x_val` and `y_val`, which
            win), or the name of a data set, whose test part is used.

    Returns:
        A list of `ExportReport`s, one for each of `formats`.

    Raises:
        ValueError: What a format refuses, an unknown format, an option that
            none of the formats takes, a file that holds no model.
        OSError: A file is missing or cannot be written.

    Example:

    ```python
    for report in export_run("runs/app-1", ("litert", "sparse")):
        print(report)
    ```
    """
    source = files.path(source)
    formats = checked(formats, **options)
    path = source / MODEL if source.is_dir() else source
    if not path.is_file():
        raise FileNotFoundError(
            f"`source` must be a run folder with a {MODEL}, or a .keras file. "
            f"Received: source={source}"
        )
    targets = _targets(source, path, formats, output, options)
    found = {}
    if resume:
        found = {
            each: export_report.read_one(targets[each]) for each in formats
        }
    missing = [each for each in formats if found.get(each) is None]
    if missing:
        data = _samples(source, data)
        if options.get("evaluate") is not None:
            options["evaluate"] = _labelled(options["evaluate"])
        model = files.load_model(path, compile=False)
        if shrink:
            model = shrink_model(model, data, multiple_of)
    with fresh_process.kept():
        for each in missing:
            targets[each].parent.mkdir(parents=True, exist_ok=True)
            taken = FORMATS[each].options(data=data, **options)
            found[each] = FORMATS[each].export(model, targets[each], **taken)
    if (source / SUMMARY).is_file():
        page.write_page(source)
    return [found[each] for each in formats]


def _targets(source, model, formats, output, options):
    """`{format: path}` of the files to write."""
    if output is not None and len(formats) == 1:
        return {formats[0]: files.path(output)}
    folder = source / export_report.FOLDER if source.is_dir() else source.parent
    if output is not None:
        folder = files.path(output)
    targets = {}
    for each in formats:
        kind = FORMATS[each]
        # A format without the option ignores it.
        taken = kind.options(**options)
        words = [model.stem, taken.get("quantize"), taken.get("target")]
        stem = "_".join(word for word in words if word not in (None, "cpu"))
        targets[each] = folder / f"{stem}{kind.suffix}"
    return targets


def _samples(source, data):
    """Inputs as an array, or `None` for random ones."""
    if data is None:
        summary = source / SUMMARY
        if not summary.is_file():
            return None
        name = json.loads(summary.read_text()).get("data")
        try:
            return _images(name)
        except (OSError, TypeError, ValueError):
            return None  # arrays of the caller's, or data that are not here
    if not isinstance(data, str):
        return data
    if data.endswith(".npy"):
        with files.path(data).open("rb") as file:
            return np.load(file, allow_pickle=False)
    if data.endswith(".npz"):
        [x] = _arrays(data, ["x"])
        return x
    return _images(data)


def _arrays(path, *choices):
    """Arrays of a `.npz` file: the first of several lists that it holds."""
    found = files.load_arrays(files.path(path))
    for names in choices:
        if found.keys() >= set(names):
            return [found[name] for name in names]
    raise ValueError(
        f"{path} must hold {' and '.join(choices[-1])}. "
        f"Received: {', '.join(found) or 'nothing'}"
    )


def _labelled(evaluate):
    """`(x, y)` of what names them."""
    if not isinstance(evaluate, (str, os.PathLike)):
        return evaluate
    name = os.fspath(evaluate)
    if name.endswith(".npz"):
        return _arrays(name, ["x_val", "y_val"], ["x", "y"])
    return _images_and_labels(name, "test")


def _images(name):
    return _images_and_labels(name, f"train[:{_SAMPLES}]")[0]


def _images_and_labels(name, split):
    images, labels = data_lib.load_arrays(name, split, download=False)
    return images.astype("float32") / 255.0, labels
