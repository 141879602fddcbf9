"""Trains what gin files describe: `python -m keras_app.train --gin_file=...`.

The gin files bind `keras_app.train.run.experiment` to one of
`keras_app.experiments` and that function's arguments; the experiment writes
the run folder. Exit status: 0 done; 1 the run failed, on a loss or scores that
are no numbers or on a full disk, said in one line; 2 the arguments or the
configuration are wrong, said in one line before anything is trained; 3
everything ran and was saved, but a pruner missed its target or an export was
refused; 75 the run was stopped by SIGTERM, or another of its processes is gone
or never came, and it goes on with --resume.

Of several processes all end with the same status, except for 3: the others end
with 0, because a scheduler may end all processes with the first that does not,
and the first process still writes and exports when the others are done.
"""

import contextlib
import inspect
import os
import sys

from keras_app import cli
from keras_app import files
from keras_app.experiments import devices
from keras_app.experiments.cli import configuration
from keras_app.experiments.cli import gin_files
from keras_app.experiments.cli import mistakes
from keras_app.experiments.cli.configuration import CONFIG
from keras_app.experiments.cli.parser import GIN_OPTIONS
from keras_app.experiments.cli.parser import Parser
from keras_app.experiments.cli.parser import switch
from keras_app.experiments.run import interruption
from keras_app.masks import DegenerateScores

NAME = "keras_app.train"
PARSER = Parser(
    NAME,
    __doc__,
    {
        **GIN_OPTIONS,
        "--run_dir": "folder to write; a new one under runs/ if not given",
        "--resume": switch(
            "continue what is in --run_dir; start it if there is nothing yet"
        ),
    },
)


def run(
    experiment,
    run_dir,
    resume,
    on_start,
    export=None,
    distribution=contextlib.nullcontext,
):
    """Runs one experiment; gin binds `experiment`.

    Args:
        experiment: One of `keras_app.experiments`.
        run_dir, resume, on_start: Passed to its `run`.
        export: Called with `run_dir` and `resume` at the end, such as
            `keras_app.experiments.export_run`. Defaults to `None`.
        distribution: A callable without arguments that makes a context to
            run the experiment in, such as `experiments.devices.scope` with
            its arguments bound. Defaults to none: one device.

    Returns:
        The experiment's summary. What an export refuses is added to its
        `missed`.
    """
    if isinstance(experiment, type) or not hasattr(experiment, "run"):
        raise TypeError(
            "`train.run.experiment` must be an experiment, with its "
            "parentheses: @experiments.Train(). "
            f"Received: experiment={experiment!r}"
        )
    with distribution():
        interruption.among(devices.board())
        summary = experiment.run(run_dir, resume, on_start=on_start)
        chief = devices.is_chief()
    if export is not None and chief:
        try:
            for report in export(run_dir, resume=resume):
                print(report)
        except (ValueError, OSError, ImportError) as error:
            if interruption.was_asked():
                # Sent to a process that exports, too, it ends that one.
                raise
            problem = f"export: {cli.one_line(error)}"
            missed = [*summary.get("missed", ()), problem]
            summary = {**summary, "missed": missed}
    return summary


def main(argv):
    """Runs the command line.

    Args:
        argv: The arguments, the program's name first.

    Returns:
        The exit status: 0, 1, 3 or 75.

    Raises:
        cli.UsageError: What would be exit status 2.
    """
    options = PARSER.parse_args(argv[1:])
    if options.list:
        print(gin_files.listing())
        return 0
    gin = configuration.import_gin()
    resume = options.resume
    stored = None
    if resume and options.run_dir is not None and not options.gin_file:
        with cli.usage(ValueError, ImportError, OSError):
            stored = files.path(options.run_dir) / CONFIG
            stored = stored if stored.exists() else None
    if stored is not None:
        configuration.check_own(stored)
    paths = configuration.files(options, "run_dir", "run", stored)
    run_dir = options.run_dir or configuration.new_folder(paths[0].stem)
    started = []
    lost = []

    def say_lost(reason):
        # Native code may notice it while Python says it already.
        if not lost:
            lost.append(reason)
            again = f"again with --run_dir={run_dir} --resume."
            said = cli.one_line(reason)
            cli.tell(NAME, f"{said} Start all of them {again}")

    def give_up(reason):
        say_lost(reason)
        sys.stdout.flush()
        os._exit(cli.EXIT_INTERRUPTED)

    devices.explain_aborts(give_up)

    def say_stopped():
        how = "it had not begun: start it again"
        if started or resume:
            how = f"go on with --run_dir={run_dir} --resume"
        cli.tell(NAME, f"stopped by SIGTERM; {how}")

    def on_start(folder):
        started.append(folder)
        if folder.writes:
            cli.keep_native_chatter_in(folder.path)
        # All bindings: nothing tells yet which ones will be used.
        folder.write_text(CONFIG, gin.config_str())
        folder.before_summary = lambda: folder.write_text(
            CONFIG, configuration.text_so_far(gin)
        )

    try:
        with interruption.noticing_sigterm(last_words=say_stopped):
            summary = _configured_run(gin, paths, options)(
                run_dir=run_dir, resume=resume, on_start=on_start
            )
    except interruption.Interrupted:
        say_stopped()
        return cli.EXIT_INTERRUPTED
    except devices.ProcessLost as error:
        if os.environ.get("KERAS_APP_TRACEBACK"):
            raise
        say_lost(error)
        return cli.EXIT_INTERRUPTED
    except (FloatingPointError, DegenerateScores, OSError) as error:
        if not started:
            raise cli.UsageError(cli.one_line(error)) from error
        if os.environ.get("KERAS_APP_TRACEBACK"):
            raise
        # First, because gin's words at the end of it would take ours along.
        said = cli.one_line(error)
        cli.tell(NAME, f"{said} What was saved by then is in {run_dir}.")
        return cli.EXIT_FAILED
    except mistakes.MISTAKES as error:
        # A mistake of the configuration may show as late as in `fit`, but
        # before the first step.
        if started and started[0].trained is not False:
            raise
        if started:
            started[0].discard()
        raise cli.UsageError(cli.one_line(error)) from error
    if not started:
        print(f"{run_dir} is finished already; nothing to do.")
        return 0
    # All know what was missed; the docstring says why one of them says so.
    if summary.get("missed") and started[0].writes:
        for text in summary["missed"]:
            cli.tell(NAME, f"missed: {text}")
        return cli.EXIT_MISSED
    return 0


def _configured_run(gin, paths, options):
    """`run` with what the files and parameters bind."""
    configuration.parse(gin, paths, options.gin_param)
    configuration.finish(gin, "the gin files")
    _check_export(gin)
    # Dynamic registration made it configurable when a file named it.
    return gin.get_configurable("keras_app.train.run")


@cli.usage(ValueError)
def _check_export(gin):
    """Raises for options that an export would refuse after the training."""
    try:
        bound = gin.get_bindings(
            "keras_app.experiments.export_run", resolve_references=False
        )
    except ValueError:
        return  # no file names it
    from keras_app.experiments import export_run
    from keras_app.export import formats

    own = set(inspect.signature(export_run).parameters) - {"formats"}
    formats.checked(**{x: bound[x] for x in bound if x not in own})


def app():
    """Runs the command line of this process."""
    ends = (0, cli.EXIT_MISSED, cli.EXIT_INTERRUPTED)
    with devices.leaving(together=ends):
        with cli.command(NAME):
            sys.exit(main(sys.argv))


if __name__ == "__main__":
    # gin knows this module by its name, under which it is another module than
    # the one that runs as __main__.
    from keras_app import train

    train.app()
