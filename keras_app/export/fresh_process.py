"""Work in a process of its own, which may crash without harm to this one.

Converters and runtimes are native code, and some inputs make them end the
process that they are in. The backend, too, is settled when Keras is imported:
what only TensorFlow can do, the others do there.
"""

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import types

import keras
import numpy as np
from keras import ops

from keras_app.cli import one_line
from keras_app.export import copies

_PROGRAM = """
from keras_app.export import fresh_process
fresh_process.serve()
"""
_MODEL = "model.keras"
_ARGUMENTS = "arguments.json"
_ARRAYS = "arrays.npz"
_ANSWER = "answer.json"
_PROGRESS = "progress.jsonl"
_END = "\n"  # instead of a folder
_MEANWHILE = 0.1  # seconds
_PATIENCE = 5.0  # seconds
_KEY = "__array__"  # marks the place of an array among the arguments


class Crash(ValueError):
    """The process ended without an answer."""


class UnknownModel(ValueError):
    """The model cannot be written for the process, or not be read there."""


@contextlib.contextmanager
def refusing_crashes(model, advice=""):
    """Turns a crash of what happens inside into one error about the model.

    Args:
        model: What is exported.
        advice: Sentences on what to do, each followed by a space.
    """
    try:
        yield
    except Crash as error:
        raise ValueError(
            f"The process that converts and runs {model.name} crashed: "
            f"{error}. {advice}Nothing was written."
        ) from error


@contextlib.contextmanager
def kept():
    """Lets the processes of `run` go on to the next task, of each backend one.

    To start one takes seconds. They end with the context.
    """
    _contexts.append(None)
    try:
        yield
    finally:
        _contexts.pop()
        while _waiting and not _contexts:
            _, process = _waiting.popitem()
            process.end()


def run(
    task,
    model=None,
    backend="tensorflow",
    progress=None,
    reuse=True,
    **arguments,
):
    """Returns what a function gives in a process of its own.

    The model and the arguments go through temporary files. The process starts
    in seconds and leaves the accelerators to this one.

    Args:
        task: The function, as `"module:name"`. It takes the model, if there is
            one, and the arguments by name, and returns what JSON can hold.
        model: A built `keras.Model`. The process imports the modules that
            define its classes and functions; what is defined in a script, a
            notebook or a function is not known there. Defaults to none.
        backend: Keras's backend there. Defaults to `"tensorflow"`.
        progress: A function that is called here with what the task calls its
            argument `progress` with, a fraction of a second later: what JSON
            can hold. Defaults to `None`: the task has no such argument.
        reuse: Whether one may do it that has done others, where they are
            `kept`. Defaults to `True`.
        **arguments: Numbers, strings, paths and arrays, or lists and dicts of
            them. A path arrives as a string and a tuple as a list.

    Raises:
        ValueError: The function fails; its message is passed on.
        Crash: The process ends without an answer.
        UnknownModel: The model cannot be saved, or is not known there.
        ImportError: The backend, TensorFlow, is not installed.
    """
    if importlib.util.find_spec(backend) is None:
        raise ImportError(
            "This export needs TensorFlow on every backend: `pip install "
            "tensorflow`."
        )
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        _write(folder, task, model, arguments)
        calls = _Calls(folder, progress)
        crash = _do(folder, backend, reuse, calls.pass_on)
        calls.pass_on()
        if crash:
            raise Crash(crash)
        answer = json.loads((folder / _ANSWER).read_text())
    if "unknown" in answer:
        raise UnknownModel(answer["unknown"])
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["result"]


class _Calls:
    """What a task says while it goes on: a line for each call of `progress`.

    Args:
        folder: What the process reads and writes.
        progress: As of `run`.
    """

    def __init__(self, folder, progress):
        self._path = folder / _PROGRESS
        self._progress = progress
        self._read = 0
        if progress is not None:
            # The process writes to it where it finds it.
            self._path.touch()

    def pass_on(self):
        """Calls `progress` with what is new."""
        if self._progress is None:
            return
        # The last line may not be whole yet.
        *lines, _ = self._path.read_text()[self._read :].split("\n")
        for line in lines:
            self._read += len(line) + 1
            self._progress(*json.loads(line))


def _writing(folder):
    """`{"progress": function}` for a task whose calls are read."""
    path = folder / _PROGRESS
    if not path.exists():
        return {}

    def progress(*arguments):
        with open(path, "a") as file:
            file.write(json.dumps(arguments) + "\n")

    return {"progress": progress}


_contexts = []  # of `kept` that are open
_waiting = {}  # by their backends, the processes that have nothing to do


def _do(folder, backend, reuse, meanwhile):
    """Has the task in a folder done; returns the last words of a crash.

    Args:
        folder: What the process reads and writes.
        backend: Keras's backend there.
        reuse: As of `run`.
        meanwhile: Called again and again until then.
    """
    process = _waiting.pop(backend, None) if reuse else None
    if process is not None and not process.do(folder, meanwhile):
        # It had ended since, or suffered from what it did before.
        process.end()
        process = None
    if process is None:
        process = _Process(backend)
        if not process.do(folder, meanwhile):
            return process.last_words()
    if reuse and _contexts:
        _waiting[backend] = process
    else:
        process.end()
    return None


class _Process:
    """Another process, which does one task after the other.

    Args:
        backend: Keras's backend there.
    """

    def __init__(self, backend):
        self._errors = tempfile.TemporaryFile("w+", errors="replace")
        self._process = subprocess.Popen(
            # Not the current folder, which is on the path below if it is on
            # ours: a file in it may have the name of a module.
            [sys.executable, "-P", "-c", _PROGRAM],
            env={
                **os.environ,
                "KERAS_BACKEND": backend,
                "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
                # This process holds their memory.
                "CUDA_VISIBLE_DEVICES": "-1",
                "JAX_PLATFORMS": "cpu",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            text=True,
        )

    def do(self, folder, meanwhile):
        """Returns whether there is an answer; else the process has ended."""
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended
                self._process.stdin.write(f"{folder}\n")
                self._process.stdin.flush()
            answer = folder / _ANSWER
            while self._process.poll() is None and not answer.exists():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_MEANWHILE)
                meanwhile()
            return answer.exists()
        except BaseException:
            self._process.kill()
            self.end()
            raise

    def end(self):
        # Processes forked from this one may hold its stdin open too.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(_END)
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def last_words(self):
        """What is known of a process that has ended."""
        self._errors.seek(0)
        errors = self._errors.read()
        self.end()
        return _last_words(self._process.returncode, errors)


def _last_words(status, errors):
    if status < 0:
        # What stands last in its log has nothing to do with it.
        return f"it was ended by {signal.Signals(-status).name}"
    last = errors.strip().splitlines()[-1:] or ["no message"]
    return f"it ended with exit status {status}: {last[0]}"


def serve():
    """Does the tasks in the folders that stdin names, line by line."""
    # Converters collect garbage again and again, and modules are none.
    gc.freeze()
    # A task that reads its stdin is not to read the next order.
    orders = os.fdopen(os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for line in orders:
        if line == _END:
            break
        answer(line.rstrip("\n"))
        keras.utils.clear_session()
    # What native code does as a process ends takes long, and may crash.
    os._exit(0)


def answer(folder):
    """Does the task that lies in `folder`, here."""
    folder = pathlib.Path(folder)
    try:
        task, definitions, arguments = _read(folder)
        models = []
        if (folder / _MODEL).exists():
            models = [_load(folder, definitions)]
        arguments.update(_writing(folder))
        result = {"result": function(task)(*models, **arguments)}
    except UnknownModel as error:
        result = {"unknown": str(error)}
    except Exception as error:
        result = {"error": str(error) or type(error).__name__}
    # Whole, as soon as it is there.
    partial = folder / "answer.part"
    partial.write_text(json.dumps(result))
    partial.replace(folder / _ANSWER)


def function(task):
    """The function that `"module:name"` names."""
    module, name = task.split(":")
    return getattr(importlib.import_module(module), name)


def _write(folder, task, model, arguments):
    """Writes all that the other process needs."""
    if model is not None:
        try:
            model.save(folder / _MODEL)
        except (NotImplementedError, TypeError, ValueError) as error:
            raise UnknownModel(
                f"{type(model).__name__} cannot be saved for the process that "
                f"exports it: {one_line(error)} Give the class `get_config`, "
                "or export from the TensorFlow backend."
            ) from error
    arrays = {}

    def encode(value):
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if not isinstance(value, np.ndarray):
            value = np.asarray(ops.convert_to_numpy(value))
        name = f"array_{len(arrays)}"
        # NumPy's files do not know bfloat16, which is exact in float32.
        known = value.dtype.kind != "V"
        arrays[name] = value if known else value.astype("float32")
        return {_KEY: name}

    described = {
        "task": task,
        "definitions": {} if model is None else _definitions(model),
        "arguments": arguments,
    }
    text = json.dumps(described, default=encode)
    (folder / _ARGUMENTS).write_text(text)
    np.savez(folder / _ARRAYS, **arrays)


def _read(folder):
    """The task, where classes are defined, and the arguments."""
    with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:

        def decode(value):
            return arrays[value[_KEY]] if _KEY in value else value

        text = (folder / _ARGUMENTS).read_text()
        described = json.loads(text, object_hook=decode)
    return tuple(described.values())


def _load(folder, definitions):
    try:
        # The file is our own: a function in it is as safe as the model was.
        return keras.saving.load_model(
            folder / _MODEL,
            custom_objects=_imported(definitions),
            compile=False,
            safe_mode=False,
        )
    except Exception as error:
        text = one_line(error)
        # Around it Keras prints the whole configuration.
        missing = re.search(r"Could not locate \w+ '[^']*'", text)
        reason = missing[0] if missing else text[:300]
        raise UnknownModel(
            "The model does not load in the process that exports it: "
            f"{reason}. That process knows the layers and functions of Keras, "
            "of keras_app, and of modules that can be imported; put those of a "
            "script or notebook into a module, or export from the TensorFlow "
            "backend (KERAS_BACKEND=tensorflow)."
        ) from error


def _definitions(model):
    """`{name that Keras saves: "module:name"}` of what others defined."""
    found = {}
    for value in copies.held_by(model):
        saved = hasattr(type(value), "get_config")
        thing = type(value) if saved else value
        if not (saved or isinstance(value, types.FunctionType)):
            continue
        module, name = thing.__module__, thing.__qualname__
        known = module.partition(".")[0] == "keras"
        here = getattr(sys.modules.get(module), name, None)
        if not known and module != "__main__" and here is thing:
            registered = keras.saving.get_registered_name(thing)
            found[registered] = f"{module}:{name}"
    return found


def _imported(definitions):
    """`{name: class or function}` of those whose modules are found."""
    found = {}
    for name, place in definitions.items():
        # Keras says it better if it does miss one.
        with contextlib.suppress(ImportError, AttributeError):
            found[name] = function(place)
    return found
