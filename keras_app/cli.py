"""What the command lines share: one line for a mistake, and nothing else."""

import contextlib
import logging
import os
import pathlib
import sys
import tempfile
import warnings

EXIT_USAGE = 2

NATIVE_LOG = "native.log"

# gin ends messages with which functions it was in; the sentence is enough.
GIN_TRACE = "In call to configurable"


class UsageError(Exception):
    """What the user has to change, in one line."""


def one_line(error):
    """Returns an exception's message without its line breaks."""
    lines = [line.strip() for line in str(error).splitlines()]
    text = " ".join(x for x in lines if x and not x.startswith(GIN_TRACE))
    return text or type(error).__name__


@contextlib.contextmanager
def command(name):
    """Turns a `UsageError` into one line on stderr and exit status 2."""
    try:
        yield
    except UsageError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def start_command():
    """Silences native libraries if this process is one of our commands.

    Python sets `sys.argv[0]` to "-m" while it imports the packages around the
    module that it is asked to run.
    """
    argv = sys.orig_argv
    if sys.argv[:1] != ["-m"] or "-m" not in argv:
        return
    module = argv[argv.index("-m") + 1]
    if module.split(".")[0] == "keras_app":
        _silence()


def keep_native_chatter_in(folder):
    """From here on it goes to a file of the run, and warnings are shown."""
    if _silenced:
        with open(pathlib.Path(folder) / NATIVE_LOG, "a+b") as file:
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
