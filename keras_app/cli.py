"""What the command lines share: one line for a mistake, and nothing else."""

import contextlib
import difflib
import logging
import os
import pathlib
import re
import sys
import tempfile
import warnings

# Exit statuses; what they mean for a command is in its docstring.
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_MISSED = 3
EXIT_INTERRUPTED = 75  # "try again", as of sysexits.h
EXIT_BY_HAND = 130  # as a shell says it of Ctrl-C

NATIVE_LOG = "native.log"

# What is installed along with the package; see `keras_app.__main__`.
SCRIPT = "keras-app"

# gin ends messages with which functions it was in, and what those were given;
# the sentence is enough.
GIN_TRACE = (
    "In call to configurable",
    "No values supplied by Gin",
    "Gin had values bound for",
    "Caller supplied values for",
)


class UsageError(Exception):
    """What the user has to change, in one line."""


def one_line(error):
    """Returns an exception's message without line breaks and colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in plain.splitlines()]
    text = " ".join(x for x in lines if x and not x.startswith(GIN_TRACE))
    return text or type(error).__name__


def nearest(name, known):
    """Returns the name that is most like `name`, or `None`."""
    names = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), names, 1)
    return names[near[0]] if near else None


def did_you_mean(name, known):
    """Returns " Did you mean ...?" with the nearest name, or an empty text."""
    found = nearest(name, known)
    return f" Did you mean {found}?" if found else ""


def tell(name, text):
    """Says something on stderr in the name of a command, in one line."""
    print(f"{name}: {one_line(text)}", file=sys.stderr)


@contextlib.contextmanager
def usage(*errors):
    """Turns such errors into a `UsageError` with their message."""
    try:
        yield
    except errors as error:
        raise UsageError(one_line(error)) from error


@contextlib.contextmanager
def command(name):
    """Turns a `UsageError` into one line on stderr and exit status 2."""
    try:
        yield
    except UsageError as error:
        if os.environ.get("KERAS_APP_TRACEBACK"):
            raise
        tell(name, error)
        sys.exit(EXIT_USAGE)


def start_command():
    """Silences native libraries if this process is one of our commands."""
    name = _command_of_this_process()
    if name is not None:
        _silence()
        with command(name):
            _start_keras()


def _command_of_this_process():
    """Its name, or `None` if this process is somebody else's.

    Python sets `sys.argv[0]` to "-m" while it imports the packages around the
    module that it is asked to run.
    """
    program = sys.argv[0] if sys.argv else ""
    if pathlib.PurePath(program).stem == SCRIPT:
        return SCRIPT
    if program != "-m" or "-m" not in sys.orig_argv:
        return None
    module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
    return module if module.split(".")[0] == "keras_app" else None


_BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


def _start_keras():
    """Raises a `UsageError` unless Keras starts on one of our backends.

    Keras imports the backend along with itself, and says in a traceback what
    is wrong with it.
    """
    chosen = os.environ.get("KERAS_BACKEND")
    rule = f"must be one of {', '.join(_BACKENDS)}"
    if chosen and chosen not in _BACKENDS:
        raise UsageError(
            f"KERAS_BACKEND {rule}. Received: KERAS_BACKEND={chosen}."
            + did_you_mean(chosen, _BACKENDS)
        )
    home = os.environ.get("KERAS_HOME", "~/.keras")
    settings = f'KERAS_BACKEND, or "backend" in {home}/keras.json, {rule}'
    try:
        from keras.config import backend
    except Exception as error:
        missing = getattr(error, "name", None)
        if isinstance(error, ModuleNotFoundError) and missing in _BACKENDS:
            raise UsageError(
                f"the Keras backend {_BACKENDS[missing]} is not installed: "
                f"`pip install {missing}`, or choose another one with "
                "KERAS_BACKEND."
            ) from error
        raise UsageError(
            f"Keras does not start: {one_line(error)} ({settings})"
        ) from error
    if backend() not in _BACKENDS:
        raise UsageError(f"{settings}. Received: {backend()}.")


def keep_native_chatter_in(folder):
    """From here on it goes to a file of the run, and warnings are shown."""
    if _silenced:
        # Here: Keras, which it imports, comes after the silence.
        from keras_app import files

        with files.open_log(files.path(folder) / NATIVE_LOG) as file:
            _send_native_stderr_to(file)
        logging.disable(logging.NOTSET)
        warnings.simplefilter("default", UserWarning)


_silenced = False


def _silence():
    """Redirects file descriptor 2 but not Python's own `sys.stderr`.

    TensorFlow's C++ side writes to the descriptor past every setting, which
    would bury the one line that matters.
    """
    global _silenced
    _silenced = True
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    # The same for Python's loggers and warnings, until training starts.
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    # `devices.explain_aborts` reads it; gone with the process.
    with tempfile.TemporaryFile() as file:
        _send_native_stderr_to(file)


def _send_native_stderr_to(file):
    os.dup2(file.fileno(), 2)
