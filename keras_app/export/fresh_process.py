"""Work that only Keras's TensorFlow backend can do, from every backend.

The backend is settled when Keras is imported. On the others the model is
therefore saved, and loaded again in a process of its own.
"""

import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
from keras import ops

from keras_app.cli import one_line

_PROGRAM = """
import sys
from keras_app.export import fresh_process
fresh_process.answer(sys.argv[1])
"""
_MODEL = "model.keras"
_ARGUMENTS = "arguments.json"
_ARRAYS = "arrays.npz"
_ANSWER = "answer.json"
_KEY = "__array__"  # marks the place of an array among the arguments


def run_on_tensorflow(task, model, **arguments):
    """Returns what a function makes of a model on the TensorFlow backend.

    There it is just called. On another backend the model and the arguments go
    through temporary files to a process with `KERAS_BACKEND=tensorflow`, which
    starts in seconds and leaves the accelerators to this one.

    Args:
        task: The function, as `"module:name"`. It takes the model and the
            arguments by name, and returns what JSON can hold.
        model: A built `keras.Model`.
        **arguments: Numbers, strings, paths and arrays, or lists and dicts of
            them. A path arrives as a string and a tuple as a list.

    Raises:
        ValueError: The function fails, or the model cannot be saved or is not
            known in the other process. On the TensorFlow backend errors of the
            function come as they are.
        ImportError: TensorFlow is not installed.
    """
    if keras.backend.backend() == "tensorflow":
        return _function(task)(model, **arguments)
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError(
            "This export needs TensorFlow on every backend: `pip install "
            "tensorflow`."
        )
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        _write(folder, task, model, arguments)
        result = subprocess.run(
            # Not the current folder, which is on the path below if it is on
            # ours: a file in it may have the name of a module.
            [sys.executable, "-P", "-c", _PROGRAM, str(folder)],
            env={
                **os.environ,
                "KERAS_BACKEND": "tensorflow",
                "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        try:
            answer = json.loads((folder / _ANSWER).read_text())
        except FileNotFoundError as error:
            last = result.stderr.strip().splitlines()[-1:] or ["no message"]
            raise ValueError(
                "The TensorFlow process of this export ended with exit status "
                f"{result.returncode}: {last[0]}"
            ) from error
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["result"]


def answer(folder):
    """Does the task that lies in `folder`, in a process of its own."""
    import tensorflow as tf

    # The other process holds their memory.
    tf.config.set_visible_devices([], "GPU")
    folder = pathlib.Path(folder)
    try:
        task, arguments = _read(folder)
        result = {"result": _function(task)(_load(folder), **arguments)}
    except Exception as error:
        result = {"error": str(error) or type(error).__name__}
    (folder / _ANSWER).write_text(json.dumps(result))


def _function(task):
    module, name = task.split(":")
    return getattr(importlib.import_module(module), name)


def _write(folder, task, model, arguments):
    """Writes all that the other process needs."""
    try:
        model.save(folder / _MODEL)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"{type(model).__name__} cannot be saved for the TensorFlow "
            f"process that exports it: {error} Give the class `get_config`, or "
            "export from the TensorFlow backend."
        ) from error
    arrays = {}

    def encode(value):
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        array = np.asarray(ops.convert_to_numpy(value))
        name = f"array_{len(arrays)}"
        # NumPy's files do not know bfloat16, which is exact in float32.
        known = array.dtype.kind != "V"
        arrays[name] = array if known else array.astype("float32")
        return {_KEY: name}

    text = json.dumps({"task": task, "arguments": arguments}, default=encode)
    (folder / _ARGUMENTS).write_text(text)
    np.savez(folder / _ARRAYS, **arrays)


def _read(folder):
    """The task and its arguments."""
    with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:

        def decode(value):
            return arrays[value[_KEY]] if _KEY in value else value

        text = (folder / _ARGUMENTS).read_text()
        described = json.loads(text, object_hook=decode)
    return described["task"], described["arguments"]


def _load(folder):
    # A class of the package is known once it is imported, and models are not
    # imported with the package.
    importlib.import_module("keras_app.experiments.models")
    try:
        # The file is our own: a function in it is as safe as the model was.
        return keras.saving.load_model(
            folder / _MODEL, compile=False, safe_mode=False
        )
    except Exception as error:
        reason = one_line(error).partition(". Make sure custom classes")[0]
        raise ValueError(
            "The model does not load in the TensorFlow process that exports "
            f"it: {reason}. That process knows the layers and functions of "
            "Keras and of keras_app only. Export models with others from the "
            "TensorFlow backend (KERAS_BACKEND=tensorflow)."
        ) from error
