"""Prunes a model once: `python -m keras_app.prune MODEL.keras --sparsity=0.8`.

The command line of the function `keras_app.prune`. Nothing is trained. Exit
status: 0 the pruned model is written; 2 the arguments are wrong or the model
cannot be pruned so, said in one line, and nothing is written.
"""

import sys

from keras_app import cli
from keras_app import files
from keras_app.experiments.cli import data
from keras_app.experiments.cli import structures
from keras_app.experiments.cli.parser import number
from keras_app.experiments.cli.parser import Parser
from keras_app.experiments.cli.parser import several
from keras_app.oneshot import METHODS
from keras_app.oneshot import prune

_NAME = "keras_app.prune"
_PARSER = Parser(
    _NAME,
    "Prunes a trained model once, without training it.",
    {
        "source": {"metavar": "MODEL.keras"},
        "--sparsity": {
            "type": float,
            "help": "share to prune, in [0, 1); not needed with n:m",
        },
        "--method": {
            "default": "magnitude",
            "help": f"one of {', '.join(METHODS)}; magnitude if not given",
        },
        "--structure": structures.WORDS,
        "--data": f"what methods with data score on: {data.WORDS}",
        "--samples": number(
            "of a data set or of arrays, so many examples are used", 512, 1
        ),
        "--scope": {
            "choices": ("layer", "global"),
            "default": "layer",
            "help": "whether each weight has a threshold of its own, or all "
            "have one; layer if not given",
        },
        "--filters": several(
            "regex in the paths of the weights to prune; may be given several "
            "times; kernels of dense, attention and convolution layers if not "
            "given"
        ),
        "--output": {
            "required": True,
            "metavar": "PRUNED.keras",
            "help": "file to write",
        },
    },
)


@cli.usage(ValueError, TypeError, OSError, ImportError)
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
    structure = structures.read(options.structure)
    if options.sparsity is None and not hasattr(structure, "sparsity"):
        raise cli.UsageError(
            "--sparsity must be given, except with --structure=n:m."
        )
    target = files.path(options.output)
    files.check_target(target)
    if target.suffix != ".keras":
        raise cli.UsageError(
            f"--output must end in .keras. Received: --output={target}"
        )
    model = files.load_model(files.path(options.source))
    examples = None
    if options.data is not None:
        examples = data.read(options.data).first(options.samples)
    report = prune(
        model,
        options.sparsity,
        options.method,
        examples,
        structure,
        options.scope,
        options.filters,
    )
    with files.replacing(target) as temporary:
        model.save(temporary)
    print(report)
    print(f"written: {target}")
    return 0


if __name__ == "__main__":
    with cli.command(_NAME):
        sys.exit(main(sys.argv[1:]))
