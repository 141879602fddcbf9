"""`keras_app.compress`: one call from a trained model to a small one."""

import pathlib
import tempfile
from typing import Literal

import keras

from keras_app import files
from keras_app.compression.report import CompressionReport
from keras_app.experiments.compress.experiment import Compress
from keras_app.experiments.run.folder import MODEL
from keras_app.export import export_report
from keras_app.export.export_report import ExportReport
from keras_app.hints import Data
from keras_app.hints import FilePath
from keras_app.hints import Loss
from keras_app.hints import Quantize
from keras_app.masks.structures import Structure


class Compressed:
    """What `compress` returns.

    Attributes:
        model: The compressed `keras.Model`, an ordinary one.
        report: The `CompressionReport`.
        exported: The `ExportReport` of the file.
    """

    def __init__(
        self,
        model: keras.Model,
        report: CompressionReport,
        exported: ExportReport,
        content: bytes,
    ) -> None:
        self.model = model
        self.report = report
        self.exported = exported
        self._content = content

    def export(self, path: FilePath) -> ExportReport:
        """Writes the LiteRT file that the report is about.

        Args:
            path: File to write; its folder must exist.

        Returns:
            The `ExportReport` of the file.
        """
        path = files.path(path)
        files.check_target(path)
        files.write_bytes(path, self._content)
        values = {**self.exported.to_dict(), "path": str(path)}
        return export_report.ExportReport.from_dict(values).write()


def compress(
    model: keras.Model,
    data: Data,
    target: str,
    *,
    validation_data: Data | None = None,
    epochs: int | None = None,
    optimizer: str | keras.optimizers.Optimizer | None = None,
    loss: Loss | None = None,
    structure: Structure | Literal["auto"] | None = "auto",
    quantize: Quantize | None = None,
    multiple_of: int = 8,
    seed: int = 0,
    run_dir: FilePath | None = None,
) -> Compressed:
    """Makes a trained model as fast or as small as asked, and proves it.

    Widths are chosen before anything is trained: channels that matter little
    for the time, bytes, memory or FLOPs that they cost go first, and files of
    the narrower network are measured until they are what was asked for. Then
    the model is pruned to these widths in half of the epochs, cut, and what is
    left is trained in the other half, with a learning rate that falls to zero.
    The LiteRT file of the result is run on the validation data and timed in
    turns with that of the dense model.

    Args:
        model: A built `keras.Model`, trained; it is left as it is. To cut
            channels it must be Sequential or functional.
        data: Training data: `(x, y)` with arrays, or batches `(x, y)` that can
            be walked through again, such as a `tf.data.Dataset`.
        target: What the result must be, a text:
            `"latency:0.5"`: half the time of the dense model (LiteRT, one
            thread, this machine), `"latency:3ms"`; `"bytes:0.25"` or
            `"bytes:300_000"`: of the file; `"ram:0.5"` or `"ram:64_000"`: of
            the activations that are alive at once; `"flops:0.5"`;
            `"sparsity:0.9"`: zeros among the prunable weights, nothing is cut;
            `"accuracy:-1.0"`: the fastest that loses no more than a point on
            the validation data.
        validation_data: As `data`: examples that accuracies are measured on.
            Defaults to `None`: accuracies are not measured.
        epochs: Epochs of all training, >= 2. On the way to an accuracy each
            step takes a fifth of them, and the end all. Defaults to `None`: 10.
        optimizer: An optimizer, or its name; its own learning rate holds.
            Defaults to that of the model, see
            `experiments.compress.recipe.Recipe` for its learning rate.
        loss: A loss, or its name. Defaults to that of the model.
        structure: `"auto"`: channels and heads are cut; for a sparsity single
            weights become zero, or what a structure of `keras_app.masks` says.
            Defaults to `"auto"`.
        quantize: `None`, `"float16"`, `"dynamic"` or `"int8"`: the precision
            of both files. A share is one of the dense model in the same
            precision. Defaults to `None`: float32.
        multiple_of: Channels go so many at once, so that what stays is a
            multiple of it; 8 is fast on most hardware. Defaults to `8`.
        seed: Seed of everything, >= 0. Defaults to `0`.
        run_dir: A new folder for the model, the file, the page and what
            `python -m keras_app.compress --resume` goes on from. Defaults to
            `None`: a temporary one.

    Returns:
        A `Compressed`, with `.model`, `.report` and `.export(path)`.

    Raises:
        ValueError: Before anything is trained: a target that cannot be
            reached, with the nearest that can; a model without a loss, or
            whose graph is not known; data that do not fit.
        TypeError: Arguments of other types.

    Example:

    ```python
    model = keras.saving.load_model("trained.keras")
    small = ka.compress(
        model, (x, y), "latency:0.5", validation_data=(x_val, y_val)
    )
    print(small.report)
    small.export("small.tflite")
    ```

    References: [Yang et al., 2018](https://arxiv.org/abs/1804.03230),
    [Shen et al., 2021](https://arxiv.org/abs/2110.10811).
    """
    more = {} if epochs is None else {"epochs": epochs}
    experiment = Compress(
        model,
        data,
        target,
        validation_data=validation_data,
        optimizer=optimizer,
        loss=loss,
        structure=structure,
        quantize=quantize,
        multiple_of=multiple_of,
        seed=seed,
        **more,
    )
    if run_dir is not None:
        return _run(experiment, run_dir)
    with tempfile.TemporaryDirectory() as folder:
        return _run(experiment, pathlib.Path(folder) / "run")


def _run(experiment, run_dir):
    started = []
    try:
        summary = experiment.run(run_dir, on_start=started.append)
    except (TypeError, ValueError):
        # Whether a target can be reached shows when the folder is made.
        if started and not started[0].trained:
            started[0].discard()
        raise
    folder = files.path(run_dir)
    [exported] = export_report.read(folder)
    return Compressed(
        files.load_model(folder / MODEL, compile=False),
        CompressionReport.from_dict(summary),
        exported,
        files.path(exported.path).read_bytes(),
    )
