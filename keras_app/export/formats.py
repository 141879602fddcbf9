"""The kinds of files that a model is exported to."""

import dataclasses
import inspect
from collections.abc import Callable

from keras_app import cli
from keras_app.export.litert import export_litert
from keras_app.export.onnx_file import export_onnx
from keras_app.export.saved_model import export_saved_model
from keras_app.export.sparse import export_sparse


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file, for `export_run` and the command line.

    Attributes:
        suffix: What a file is called after the model's name.
        export: Takes a model and a path, and by name what it knows of the
            options, such as `data` and `quantize`; returns an `ExportReport`.
        aliases: What else people call it; letter case, a dot before it, and
            what stands between words do not matter.
        near: What people ask for who may want it.
    """

    suffix: str
    export: Callable
    aliases: tuple = ()
    near: tuple = ()

    def options(self, **given):
        """Those of the given arguments that `export` knows."""
        known = inspect.signature(self.export).parameters
        return {name: each for name, each in given.items() if name in known}


FORMATS = {
    "litert": Format(
        ".tflite",
        export_litert,
        ("tflite", "tf_lite", "lite", "tensorflow_lite"),
    ),
    "saved_model": Format(
        "_saved_model", export_saved_model, ("tf", "tensorflow", "pb")
    ),
    "sparse": Format(
        ".sparse",
        export_sparse,
        ("sparse_checkpoint",),
        near=("h5", "hdf5", "keras"),
    ),
    "onnx": Format(".onnx", export_onnx, ("onnx_runtime", "ort")),
}


def named(text):
    """Returns the name in `FORMATS` of what somebody calls a format.

    Raises:
        ValueError: There is none of that name.
    """
    asked = _plain(text)
    for name, each in FORMATS.items():
        if asked in map(_plain, (name, *each.aliases)):
            return name
    for name, each in FORMATS.items():
        if asked in each.near:
            hint = f" Did you mean {name}? `model.save` of Keras writes {text}"
            break
    else:
        known = [x for n, each in FORMATS.items() for x in (n, *each.aliases)]
        hint = cli.did_you_mean(str(text), known)
    raise ValueError(
        f"`formats` must be of {', '.join(FORMATS)}. Received: {text!r}.{hint}"
    )


def _plain(text):
    return "".join(filter(str.isalnum, str(text).casefold()))
