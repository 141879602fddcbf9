"""What the Python launchers of this folder share; imported, not run."""

import argparse
import pathlib
import re
import shlex
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line, with exit status 2, as the scripts do.

    Args:
        file: `__file__` of the launcher.
        words: Its docstring.
    """

    def __init__(self, file, words):
        super().__init__(
            prog=f"launch/{pathlib.Path(file).name}",
            usage=argparse.SUPPRESS,
            description=words,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument(
            "--dry-run",
            action="store_true",
            help="print what would run and run nothing",
        )

    def error(self, message):
        print(f"{self.prog}: {message}", file=sys.stderr)
        sys.exit(2)

    def read(self, argv):
        """Returns the options, and what stands behind `--`."""
        argv = list(argv)
        cut = argv.index("--") if "--" in argv else len(argv)
        options, rest = self.parse_known_args(argv[:cut])
        if rest:
            self.error(
                f"unexpected argument: {rest[0]} (what the command itself "
                "takes goes behind --)"
            )
        return options, argv[cut + 1 :]

    def check_behind(self, flag, what, behind):
        """The command must be given a flag."""
        if not any(x == flag or x.startswith(f"{flag}=") for x in behind):
            self.error(f"{flag} must be given behind --: {what}.")

    def check_not_behind(self, flag, what, behind):
        """The command must not be given a flag."""
        if any(x == flag or x.startswith(f"{flag}=") for x in behind):
            self.error(f"{flag} must not be given behind --: {what}.")


def whole(text):
    """A whole number, at least 1."""
    if not re.fullmatch("[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(
            f"must be a whole number, at least 1. Received: {text}"
        )
    return int(text)


def training(arguments, **environment):
    """The command line of one training, as a shell reads it."""
    said = [f"{name}={value}" for name, value in environment.items()]
    command = ["env", *said, "python", "-m", "keras_app.train", *arguments]
    return shlex.join(command)
