"""Compresses a trained model: `python -m keras_app.compress MODEL.keras ...`.

The command line of the function `keras_app.compress`. Exit status: 0 the target
is reached; 1 the run failed, on a loss that is no number or on a full disk,
said in one line; 2 the arguments are wrong, or the target cannot be reached,
said in one line before anything is trained; 3 everything ran and was saved, but
the target was missed; 75 the run was stopped by SIGTERM, and goes on with
--resume.
"""

import os
import pathlib
import sys

from keras_app import cli
from keras_app import files
from keras_app.compression.report import CompressionReport
from keras_app.experiments.cli import configuration
from keras_app.experiments.cli import data
from keras_app.experiments.cli.parser import number
from keras_app.experiments.cli.parser import Parser
from keras_app.experiments.cli.parser import several
from keras_app.experiments.cli.parser import switch
from keras_app.experiments.compress import Compress
from keras_app.experiments.compress.examples import Examples
from keras_app.experiments.exporting import export_run
from keras_app.experiments.run import interruption
from keras_app.export.formats import FORMATS
from keras_app.masks import DegenerateScores

_NAME = "keras_app.compress"
_PARSER = Parser(
    _NAME,
    __doc__,
    {
        "source": {"metavar": "MODEL.keras"},
        "--data": {
            "required": True,
            "help": f"what to train and to validate on: {data.WORDS}",
        },
        "--target": {
            "required": True,
            "help": "what the result must be: latency:0.5 (of the dense "
            "model), latency:3ms, bytes:0.25, bytes:300_000, ram:64_000, "
            "flops:0.5, sparsity:0.9, or accuracy:-1.0 (points that may be "
            "lost)",
        },
        "--epochs": number("epochs of all training", 10, 2),
        "--loss": "name of a loss, for a model that was compiled without one",
        "--quantize": {
            "choices": ("float16", "dynamic", "int8"),
            "help": "precision of the files; float32 if not given",
        },
        "--multiple_of": number("channels go so many at once", 8, 1),
        "--format": several(
            "what to export besides the LiteRT file that is measured; may be "
            "given several times",
            choices=tuple(FORMATS),
            default=[],
        ),
        "--seed": number("seed of everything", 0, 0),
        "--run_dir": "folder to write; a new one under runs/ if not given",
        "--resume": switch(
            "continue what is in --run_dir; start it if there is nothing yet"
        ),
    },
)


def main(argv):
    """Runs the command line.

    Args:
        argv: The arguments, without the program's name.

    Returns:
        The exit status: 0, 1, 3 or 75.

    Raises:
        cli.UsageError: What would be exit status 2.
    """
    options = _PARSER.parse_args(argv)
    with cli.usage(ValueError, ImportError):
        source = files.path(options.source)
    run_dir = options.run_dir or configuration.new_folder(source.stem)
    with cli.usage(TypeError, ValueError, OSError, ImportError):
        experiment = _experiment(options, source)
    started = []

    def say_stopped():
        cli.tell(
            _NAME,
            "stopped by SIGTERM; go on with the same command and "
            f"--run_dir={run_dir} --resume",
        )

    def on_start(folder):
        started.append(folder)
        cli.keep_native_chatter_in(folder.path)

    try:
        with interruption.noticing_sigterm(last_words=say_stopped):
            summary = experiment.run(run_dir, options.resume, on_start=on_start)
            _export_more(options, run_dir, experiment)
    except interruption.Interrupted:
        say_stopped()
        return cli.EXIT_INTERRUPTED
    except (
        FloatingPointError,
        DegenerateScores,
        OSError,
        TypeError,
        ValueError,
    ) as error:
        if os.environ.get("KERAS_APP_TRACEBACK"):
            raise
        said = cli.one_line(error)
        if not started or not started[0].trained:
            if started:
                started[0].discard()
            raise cli.UsageError(said) from error
        cli.tell(_NAME, f"{said} What was saved by then is in {run_dir}.")
        return cli.EXIT_FAILED
    if not started:
        print(f"{run_dir} is finished already; nothing to do.")
        return 0
    print(CompressionReport.from_dict(summary).verdict)
    for text in summary["missed"]:
        cli.tell(_NAME, f"missed: {text}")
    return cli.EXIT_MISSED if summary["missed"] else 0


def _experiment(options, source):
    examples = data.read(options.data)
    return Compress(
        files.load_model(source),
        Examples(
            examples.train,
            seed=options.seed,
            # Of a file, without where it lies.
            name=pathlib.PurePath(options.data).name,
        ),
        options.target,
        validation_data=examples.validation,
        epochs=options.epochs,
        loss=options.loss,
        quantize=options.quantize,
        multiple_of=options.multiple_of,
        seed=options.seed,
    )


def _export_more(options, run_dir, experiment):
    more = [each for each in options.format if each != "litert"]
    if not more:
        return
    samples = experiment.resolved().data.first(200)
    for report in export_run(
        run_dir,
        more,
        data=samples,
        quantize=options.quantize,
        resume=options.resume,
    ):
        print(report)


if __name__ == "__main__":
    with cli.command(_NAME):
        sys.exit(main(sys.argv[1:]))
