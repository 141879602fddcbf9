"""The kinds of files that a model is exported to."""

import dataclasses
import inspect
from collections.abc import Callable

from keras_app.export.litert import export_litert
from keras_app.export.onnx_file import export_onnx
from keras_app.export.saved_model import export_saved_model
from keras_app.export.sparse import export_sparse


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file, for `export_run` and the command line.

    Attributes:
        suffix: What a file is called after the model's name.
        export: Takes a model and a path, and by name what it knows of `data`,
            `quantize` and `sparse`; returns an `ExportReport`.
    """

    suffix: str
    export: Callable

    def options(self, **given):
        """Those of the given arguments that `export` knows."""
        known = inspect.signature(self.export).parameters
        return {name: each for name, each in given.items() if name in known}


FORMATS = {
    "litert": Format(".tflite", export_litert),
    "saved_model": Format("_saved_model", export_saved_model),
    "sparse": Format(".sparse", export_sparse),
    "onnx": Format(".onnx", export_onnx),
}
