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
from keras_app.experiments.exporting import export_run
from keras_app.export.formats import FORMATS
from keras_app.export.litert.targets import TARGETS

_NAME = "keras_app.export"
_SPARSE = {"auto": "auto", "true": True, "false": False}


def _parser():
    """The formats are those there are when it is called."""
    return Parser(
        _NAME,
        "Writes a trained model to files that are smaller, verified and "
        "described.",
        {
            "source": {"metavar": "RUN_DIR_OR_KERAS_FILE"},
            "--format": several(
                f"{', '.join(FORMATS)}, or what they are called elsewhere, "
                "such as tflite; may be given several times; litert if not "
                "given",
            ),
            "--output": "file to write, or the folder for several formats; "
            "exports/ in a run folder if not given",
            "--quantize": {
                "choices": ("float16", "dynamic", "int8"),
                "help": "precision of a LiteRT file; float32 if not given",
            },
            "--sparse": {
                "choices": tuple(_SPARSE),
                "help": "whether a LiteRT file stores weights sparse; auto if "
                "not given",
            },
            "--target": {
                "choices": tuple(TARGETS),
                "help": "what will run a LiteRT file; cpu if not given. micro "
                "is TensorFlow Lite Micro: int8, and its operations only",
            },
            "--io_dtype": {
                "choices": ("float32", "int8"),
                "help": "what a LiteRT file takes and gives; int8 with "
                "--quantize=int8",
            },
            "--baseline": "a .tflite or .keras file to compare a LiteRT file "
            "with: bytes, milliseconds, accuracy",
            "--evaluate": "a data set, whose test part is used, or arrays.npz "
            "with x and y: the accuracy of the LiteRT file itself",
            "--dense_twin": switch(
                "write a LiteRT file without sparse weights beside it, too"
            ),
            "--data": "x.npy, arrays.npz with x, or a data set: inputs to "
            "compare and calibrate on; the run's data set, or random ones, if "
            "not given",
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
    given = {
        "quantize": options.quantize,
        "sparse": _SPARSE.get(options.sparse),
        "target": options.target,
        "io_dtype": options.io_dtype,
        "baseline": options.baseline,
        "evaluate": options.evaluate,
        "dense_twin": options.dense_twin or None,
    }
    reports = export_run(
        options.source,
        options.format or ("litert",),
        options.output,
        data=options.data,
        shrink=options.shrink,
        multiple_of=options.multiple_of,
        **{name: x for name, x in given.items() if x is not None},
    )
    for report in reports:
        print(report)
    return 0


if __name__ == "__main__":
    with cli.command(_NAME):
        sys.exit(main(sys.argv[1:]))
