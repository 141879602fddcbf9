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


def checked(formats=("litert",), **options):
    """Returns the names in `FORMATS` of what is asked for, each once.

    Args:
        formats: What somebody calls one format or several.
        **options: As of `export_run`.

    Raises:
        ValueError: There is no such format, or none of them takes an option.
    """
    formats = (formats,) if isinstance(formats, str) else tuple(formats)
    if not formats:
        raise ValueError(
            f"`formats` must name one at least. Received: formats={formats}"
        )
    formats = tuple(dict.fromkeys(map(named, formats)))
    _check_options(formats, options)
    return formats


def _check_options(formats, options):
    """Raises for what none of the formats takes."""
    for name, value in options.items():
        takers = [x for x, kind in FORMATS.items() if kind.options(**{name: 0})]
        if not takers:
            known = {
                each
                for kind in FORMATS.values()
                for each in inspect.signature(kind.export).parameters
            }
            hint = cli.did_you_mean(name, known - {"model", "path"})
            raise ValueError(
                f"`{name}` must be an option of a format. "
                f"Received: {name}={value!r}.{hint}"
            )
        # What is as it would be without it is no matter.
        default = inspect.signature(FORMATS[takers[0]].export).parameters[name]
        idle = isinstance(value, (str, bool, type(None)))
        idle = idle and value == default.default
        if not idle and not set(takers) & set(formats):
            raise ValueError(
                f"`{name}` must go with a format that takes it, "
                f"{', '.join(takers)}. Received: {name}={value!r}, "
                f"formats={', '.join(formats)}"
            )
