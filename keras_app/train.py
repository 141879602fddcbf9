"""Trains what gin files describe: `python -m keras_app.train --gin_file=...`.

The gin files bind `keras_app.train.run.experiment` to one of
`keras_app.experiments` and that function's arguments; the experiment writes
the run folder. Exit status: 0 done; 2 the arguments or the configuration are
wrong, said in one line before anything is trained; 3 everything ran and was
saved, but a pruner missed its target.
"""

import difflib
import logging
import os
import pathlib
import sys

from absl import flags

from keras_app import cli

EXIT_MISSED = 3
RUNS = "runs"
CONFIG = "config.gin"


def _define_flags():
    values = flags.FlagValues()
    flags.DEFINE_multi_string(
        "gin_file",
        [],
        "A gin file, looked up here, then in gin/. May be given several times.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "gin_param",
        [],
        "A binding such as 'anytime.level=3.0', which wins over the files. May "
        "be given several times.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "run_dir",
        None,
        "Folder to write. Defaults to a new one under runs/.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "resume",
        False,
        "Continue what is in --run_dir; start it if there is nothing yet.",
        flag_values=values,
    )
    flags.DEFINE_bool("help", False, "Show this help.", flag_values=values)
    return values


def run(experiment, run_dir, resume, on_start):
    """Runs one experiment; gin binds `experiment`.

    Args:
        experiment: One of `keras_app.experiments`, with its arguments bound.
        run_dir, resume, on_start: Passed to it.

    Returns:
        The experiment's summary.
    """
    return experiment(run_dir=run_dir, resume=resume, on_start=on_start)


def main(argv):
    """Runs the command line.

    Args:
        argv: The arguments, the program's name first.

    Returns:
        The exit status, 0 or 3.

    Raises:
        cli.UsageError: What would be exit status 2.
    """
    options = _parse(argv)
    if options.help:
        print(__doc__)
        print(options.get_help())
        return 0
    gin = _import_gin()
    resume = options.resume
    files = list(options.gin_file)
    if resume and options.run_dir is None:
        raise cli.UsageError(
            "--resume needs --run_dir, the folder to continue."
        )
    if resume and not files:
        stored = pathlib.Path(options.run_dir) / CONFIG
        files = [str(stored)] if stored.exists() else []
    if not files:
        raise cli.UsageError("name a configuration with --gin_file=app.gin.")
    paths = [_find(name) for name in files]
    run_dir = options.run_dir or _new_run_dir(paths[0].stem)
    started = []

    def on_start(folder):
        started.append(folder)
        cli.keep_native_chatter_in(folder.path)
        folder.write_text(CONFIG, _config_text(gin))

    try:
        summary = _configured_run(gin, paths, options)(
            run_dir=run_dir, resume=resume, on_start=on_start
        )
    except (
        ValueError,
        TypeError,
        OSError,
        ImportError,
        NameError,
        AttributeError,
        SyntaxError,
        RuntimeError,
    ) as error:
        if started or os.environ.get("KERAS_APP_TRACEBACK"):
            raise
        raise cli.UsageError(cli.one_line(error)) from error
    if not started:
        print(f"{run_dir} is finished already; nothing to do.")
        return 0
    # What ran last decides which arguments were used at all.
    started[0].write_text(CONFIG, _config_text(gin))
    if summary.get("missed"):
        for text in summary["missed"]:
            print(f"keras_app.train: missed: {text}", file=sys.stderr)
        return EXIT_MISSED
    return 0


def _parse(argv):
    options = _define_flags()
    try:
        rest = options(list(argv))[1:]
    except flags.Error as error:
        raise cli.UsageError(cli.one_line(error)) from error
    if rest:
        raise cli.UsageError(f"unexpected argument: {rest[0]}")
    return options


def _import_gin():
    import gin

    # Without gin-config installed, the folder gin/ is taken for the library.
    if not hasattr(gin, "parse_config_files_and_bindings"):
        raise cli.UsageError(
            "gin-config is not installed: `pip install gin-config`."
        )
    return gin


def _search_path():
    beside = pathlib.Path(__file__).resolve().parents[1] / "gin"
    return [pathlib.Path("."), pathlib.Path("gin"), beside]


def _find(name):
    for folder in _search_path():
        path = folder / name
        if path.is_file():
            return path
    known = sorted(
        {
            str(path.relative_to(folder))
            for folder in _search_path()[1:]
            for path in folder.rglob("*.gin")
        }
    )
    near = difflib.get_close_matches(name, known, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise cli.UsageError(f"--gin_file={name}: there is no such file.{hint}")


def _configured_run(gin, paths, options):
    """`run` with what the files and parameters bind."""
    for folder in _search_path():
        gin.add_config_file_search_path(str(folder))
    # gin calls it an error that a file is not in the first place it looks.
    quiet = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        # Dynamic registration makes `run` configurable when a file names it.
        gin.parse_config_files_and_bindings(
            [str(path) for path in paths], list(options.gin_param)
        )
    finally:
        logging.disable(quiet)
    return gin.get_configurable("keras_app.train.run")


def _config_text(gin):
    """The operative configuration, which `--resume` can read again."""
    return gin.operative_config_str()


def _new_run_dir(stem):
    number = 1
    while (path := pathlib.Path(RUNS) / f"{stem}-{number}").exists():
        number += 1
    return str(path)


def app():
    """Runs the command line of this process."""
    with cli.command("keras_app.train"):
        sys.exit(main(sys.argv))


if __name__ == "__main__":
    # gin knows this module by its name, under which it is another module than
    # the one that runs as __main__.
    from keras_app import train

    train.app()
