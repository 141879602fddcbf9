"""Many runs side by side: `python -m keras_app.sweep --gin_file= --grid=`.

Each point of the grid is one run of `python -m keras_app.train`, started by
Ray: on this machine, or with `--address` on a cluster. A sweep that was killed
goes on with `--resume`. The sweep folder holds a run folder for each point,
`config.gin` (what they share), `sweep.json`, `logs/` and `report.html`. Exit
status: 0 done; 1 some runs failed, the others are done; 2 the arguments or a
configuration are wrong, said in one line before anything is started; 75 it was
stopped by SIGTERM, and its runs with it.
"""

import pathlib
import re
import signal
import sys

from keras_app import cli
from keras_app import files
from keras_app.experiments.cli import configuration
from keras_app.experiments.cli import gin_files
from keras_app.experiments.cli import mistakes
from keras_app.experiments.cli.configuration import CONFIG
from keras_app.experiments.cli.parser import GIN_OPTIONS
from keras_app.experiments.cli.parser import number
from keras_app.experiments.cli.parser import Parser
from keras_app.experiments.cli.parser import several
from keras_app.experiments.cli.parser import switch
from keras_app.experiments.run import interruption
from keras_app.experiments.run.folder import RunFolder
from keras_app.experiments.sweep import grid
from keras_app.experiments.sweep import parallel
from keras_app.experiments.sweep.results import SWEEP
from keras_app.experiments.sweep.runs import bindings
from keras_app.experiments.sweep.runs import NAME
from keras_app.experiments.sweep.runs import Sweep

PARSER = Parser(
    NAME,
    __doc__,
    {
        **GIN_OPTIONS,
        "--grid": several(
            "what to vary, such as 'regularizers.L1.lam=[0.1, 0.3]'; several "
            "grids multiply",
            default=[],
        ),
        "--sweep_dir": "folder to write; a new one under runs/ if not given",
        "--resume": switch(
            "continue what is in --sweep_dir; start it if there is nothing yet"
        ),
        "--address": "address of a Ray cluster; a Ray of this machine alone, "
        "started and stopped with the sweep, if not given",
        "--retries": number(
            "how often a run that failed is started again", 1, least=0
        ),
        "--cpus_per_run": number("CPUs, and threads, of each run", 1, least=1),
        "--gpus_per_run": number(
            "GPUs of each run; 0.5 lets two runs share one, 0 hides them",
            0.0,
            least=0,
        ),
    },
)


def main(argv):
    """Runs the command line.

    Args:
        argv: The arguments, the program's name first.

    Returns:
        The exit status, 0 or 1; 75 after SIGTERM, 130 after Ctrl-C.

    Raises:
        cli.UsageError: What would be exit status 2.
    """
    options = PARSER.parse_args(argv[1:])
    if options.list:
        print(gin_files.listing())
        return 0
    gin = configuration.import_gin()
    with cli.usage(*mistakes.MISTAKES):
        _check_gpus(options.gpus_per_run)
        sweep = _planned(gin, options)
        _check_points(gin, sweep)
    if not sweep.waiting:
        print(f"{sweep.path} is finished already; nothing to do.")
        return sweep.finish()
    ray = parallel.import_ray()
    try:
        # The one exception that Ray lets a signal's handler raise.
        with interruption.noticing_sigterm(then=signal.default_int_handler):
            with parallel.started(ray, options.address):
                sweep.run(
                    ray,
                    cpus=options.cpus_per_run,
                    gpus=options.gpus_per_run,
                    retries=options.retries,
                    may_grow=options.address is not None,
                )
    except KeyboardInterrupt:
        by_sigterm = interruption.was_asked()
        stopped = "stopped by SIGTERM" if by_sigterm else "stopped"
        again = f"It goes on with --resume --sweep_dir={sweep.path}"
        cli.tell(NAME, f"{stopped}. {again}")
        return cli.EXIT_INTERRUPTED if by_sigterm else cli.EXIT_BY_HAND
    return sweep.finish()


# ---- the plan ----------------------------------------------------------


def _planned(gin, options):
    """The sweep that the command line asks for, or that is to be resumed."""
    stored = folder = None
    if options.sweep_dir is not None:
        folder = pathlib.Path(options.sweep_dir)
        if files.is_stored(options.sweep_dir):
            raise cli.UsageError(
                "--sweep_dir must be a folder on a disk that all machines of "
                "the sweep see, where its runs write their logs; single runs "
                "of keras_app.train may be in a store. "
                f"Received: --sweep_dir={options.sweep_dir}"
            )
        stored = _stored(folder, options.resume)
    config = folder / CONFIG if stored is not None else None
    paths = configuration.files(options, "sweep_dir", "sweep", config)
    texts = options.grid or (stored["grids"] if stored is not None else [])
    grids = [grid.parse(text) for text in texts]
    if not grids:
        raise cli.UsageError(
            'name what to vary with --grid="regularizers.L1.lam=[0.1, 0.3]".'
        )
    gin.clear_config()
    configuration.parse(gin, paths, options.gin_param)
    _check_bindings(gin, grids, options.gin_param)
    path = options.sweep_dir or configuration.new_folder(
        f"{paths[0].stem}-sweep"
    )
    sweep = Sweep(path, gin.config_str(), grids)
    if stored is not None:
        sweep.restore(stored)
    return sweep


def _stored(path, resume):
    """What a sweep folder holds; `None` for a folder that is still empty."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    found = RunFolder(path).read_json(SWEEP)
    if found is None:
        raise cli.UsageError(
            f"--sweep_dir={path} must be a new or an empty folder, or one with "
            "a sweep to continue."
        )
    if not resume:
        raise cli.UsageError(
            f"--sweep_dir={path} holds a sweep already. Continue it with "
            "--resume, or choose another folder."
        )
    return found


def _check_gpus(gpus):
    if gpus > 1 and not gpus.is_integer():
        raise cli.UsageError(
            "--gpus_per_run must be a whole number, or less than 1. Received: "
            f"--gpus_per_run={gpus}"
        )


def _check_bindings(gin, grids, params):
    """Raises if a binding is unknown, or has more than one source."""
    taken = set()
    for param in params:
        binding = re.match(r"\s*([\w./]+)\s*=", param)
        if binding:
            taken.add(_parameter(gin, binding.group(1)))
    for binding, _ in grids:
        parameter = _parameter(gin, binding)
        if parameter in taken:
            raise cli.UsageError(
                f"--grid={binding}: it is bound already, by another --grid or "
                "a --gin_param."
            )
        taken.add(parameter)


def _parameter(gin, binding):
    """What a binding binds, however much of its name is written."""
    # A macro is called by its name alone.
    if "." not in binding:
        return binding
    with mistakes.told(gin, f"--grid={binding}"):
        return gin.config.ParsedBindingKey.parse(binding).scope_selector_arg


def _check_points(gin, sweep):
    """Raises unless gin can read every run's configuration."""
    for run, point in zip(sweep.runs, sweep.points):
        gin.clear_config()
        with mistakes.told(gin, run["label"]):
            gin.parse_config(sweep.config)
            gin.parse_config(bindings(point))
        configuration.finish(gin, run["label"])


if __name__ == "__main__":
    with cli.command(NAME):
        sys.exit(main(sys.argv))
