"""Writes the run page: `python -m keras_app.report RUN_DIR [RUN_DIR ...]`.

The folder of a sweep stands for all its runs. Exit status: 0 the page is
written; 2 the arguments are wrong, said in one line.
"""

import sys

from keras_app import cli
from keras_app import files
from keras_app.experiments.cli.parser import Parser
from keras_app.experiments.page import COMPARISON
from keras_app.experiments.page import default_path
from keras_app.experiments.page import PAGE
from keras_app.experiments.page import write_page
from keras_app.experiments.sweep.results import folders_and_notes
from keras_app.experiments.sweep.results import SWEEP

_NAME = "keras_app.report"
_PARSER = Parser(
    _NAME,
    "One page with plots and tables of one or several runs.",
    {
        "run_dirs": {
            "metavar": "RUN_DIR",
            "nargs": "+",
            "help": "a run folder, or a sweep folder for all its runs",
        },
        "--output": f"file to write; {PAGE} in the folder if not given, or "
        f"{COMPARISON} beside several",
    },
)


@cli.usage(ValueError, OSError, ImportError)
def main(argv):
    """Runs the command line.

    Args:
        argv: The arguments, without the program's name.

    Returns:
        The exit status, 0.

    Raises:
        cli.UsageError: What would be exit status 2.
    """
    options = _PARSER.parse_args(argv)
    named = [files.path(folder) for folder in options.run_dirs]
    folders, notes = [], []
    for folder in named:
        found, said = [folder], []
        if (folder / SWEEP).is_file():
            found, said = folders_and_notes(folder)
        folders += found
        notes += said
    if not folders:
        raise cli.UsageError(f"{named[0]}: none of its runs has begun.")
    path = options.output or default_path(named)
    print(write_page(folders, path, notes=notes))
    return 0


if __name__ == "__main__":
    with cli.command(_NAME):
        sys.exit(main(sys.argv[1:]))
