"""Exports a trained model: `python -m keras_app.export RUN_DIR`.

Exit status: 0 the files are written and verified; 2 the arguments are wrong or
the export was refused, said in one line.
"""

import sys

from keras_app import cli
from keras_app.experiments.cli.parser import number
from keras_app.experiments.cli.parser import Parser
from keras_app.experiments.cli.parser import several
from keras_app.experiments.cli.parser import switch
from keras_app.export.formats import FORMATS

_NAME = "keras_app.export"


def _parser():
    """The formats are those there are when it is called."""
    return Parser(
        _NAME,
        "Writes a trained model to files that are smaller, verified and "
        "described.",
        {
            "source": {"metavar": "RUN_DIR_OR_KERAS_FILE"},
            "--format": several(
                "may be given several times; litert if not given",
                choices=tuple(FORMATS),
            ),
            "--output": "file to write, or the folder for several formats; "
            "exports/ in a run folder if not given",
            "--quantize": {
                "choices": ("float16", "dynamic", "int8"),
                "help": "precision of a LiteRT file; float32 if not given",
            },
            "--sparse": {
                "choices": ("auto", "true", "false"),
                "default": "auto",
                "help": "whether a LiteRT file stores weights sparse",
            },
            "--data": "x.npy, or a data set: inputs to compare and calibrate "
            "on; the run's data set, or random ones, if not given",
            "--shrink": switch("cut dead channels out first"),
            "--multiple_of": number(
                "with --shrink: layers keep a multiple of this many channels",
                1,
                least=None,
            ),
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
    options = _parser().parse_args(argv)
    from keras_app.export.run import export_run

    reports = export_run(
        options.source,
        options.format or ("litert",),
        options.output,
        data=options.data,
        quantize=options.quantize,
        sparse={"true": True, "false": False}.get(options.sparse, "auto"),
        shrink=options.shrink,
        multiple_of=options.multiple_of,
    )
    for report in reports:
        print(report)
    return 0


if __name__ == "__main__":
    with cli.command(_NAME):
        sys.exit(main(sys.argv[1:]))
