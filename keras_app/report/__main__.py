"""Writes the run page: `python -m keras_app.report RUN_DIR [RUN_DIR ...]`.

Exit status: 0 the page is written; 2 the arguments are wrong, said in one line.
"""

import argparse
import sys

from keras_app import cli
from keras_app.report.page import PAGE
from keras_app.report.page import write_page

_NAME = "keras_app.report"


class _Parser(argparse.ArgumentParser):
    """Leaves it to `cli.command` how a mistake is told."""

    def error(self, message):
        raise cli.UsageError(message)


def main(argv):
    """Runs the command line.

    Args:
        argv: The arguments, without the program's name.

    Returns:
        The exit status, 0.

    Raises:
        cli.UsageError: What would be exit status 2.
    """
    parser = _Parser(
        prog=f"python -m {_NAME}",
        description="One page with plots and tables of one or several runs.",
    )
    parser.add_argument("run_dirs", metavar="RUN_DIR", nargs="+")
    parser.add_argument(
        "--output",
        metavar="page.html",
        help=f"file to write; {PAGE} in the first run folder if not given",
    )
    options = parser.parse_args(argv)
    try:
        path = write_page(options.run_dirs, options.output)
    except (ValueError, OSError) as error:
        raise cli.UsageError(cli.one_line(error)) from error
    print(path)
    return 0


if __name__ == "__main__":
    with cli.command(_NAME):
        sys.exit(main(sys.argv[1:]))
