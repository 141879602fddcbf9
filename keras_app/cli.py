"""What the command lines share: one line for a mistake, and nothing else."""

import contextlib
import logging
import os
import pathlib
import sys
import warnings

EXIT_USAGE = 2

NATIVE_LOG = "native.log"


class UsageError(Exception):
    """What the user has to change, in one line."""


def one_line(error):
    """Returns an exception's message without its line breaks."""
    lines = [line.strip() for line in str(error).splitlines()]
    # gin appends which functions it was in; the sentence itself is enough.
    trace = "In call to configurable"
    text = " ".join(x for x in lines if x and not x.startswith(trace))
    return text or type(error).__name__


@contextlib.contextmanager
def command(name):
    """Turns a `UsageError` into one line on stderr and exit status 2."""
    try:
        yield
    except UsageError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


class NativeChatter:
    """Keeps what C++ libraries write to stderr away from the terminal.

    TensorFlow greets on file descriptor 2, past every setting, which would
    bury the one line that matters. Python's own `sys.stderr` still reaches
    the terminal.
    """

    def __init__(self):
        sys.stderr.flush()
        terminal = os.dup(2)
        self._send_to(os.devnull)
        sys.stderr = os.fdopen(terminal, "w", buffering=1)
        # The same for Python's loggers and warnings, until training starts.
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")

    def keep_in(self, folder):
        """From here on the chatter goes to a file, and warnings are shown."""
        self._send_to(pathlib.Path(folder) / NATIVE_LOG)
        logging.disable(logging.NOTSET)
        warnings.simplefilter("default", UserWarning)

    def _send_to(self, path):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, 2)
        os.close(file)
