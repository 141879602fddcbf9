"""How the command lines read flags and gin files."""

import functools
import importlib
import io
import logging
import pathlib
import re

from keras_app import cli
from keras_app.experiments.cli import gin_files
from keras_app.experiments.cli import mistakes
from keras_app.files import is_stored
from keras_app.files import path as path_of

CONFIG = "config.gin"
RUNS = "runs"

_OWN = ("keras_app", "keras")
_MACROS = "# Macros:"


@functools.cache
def import_gin():
    """Returns the gin library.

    Raises:
        cli.UsageError: It is not installed.
    """
    import gin

    # Without gin-config installed, the folder gin/ is taken for the library.
    if not hasattr(gin, "parse_config_files_and_bindings"):
        raise cli.UsageError(
            "gin-config is not installed: `pip install gin-config`."
        )
    for folder in gin_files.search_path():
        gin.add_config_file_search_path(str(folder))
    gin.config.register_file_reader(_open_stored, is_stored)
    return gin


def _open_stored(name):
    return io.StringIO(path_of(name).read_text())


def find(name):
    """Returns the path of a gin file, which may lie in gin/.

    Raises:
        cli.UsageError: There is no such file.
    """
    places = [folder / name for folder in gin_files.search_path()]
    if is_stored(name):
        with cli.usage(ValueError, ImportError):
            places = [path_of(name)]
    for path in places:
        if path.is_file():
            return path
    what = "there is no such file." + gin_files.nearest(name)
    if any(path.is_dir() for path in places):
        what = f"it is a folder.{gin_files.SEE_LIST}"
    raise cli.UsageError(f"--gin_file={name}: {what}")


def files(options, place, what, stored=None):
    """Returns the paths of the gin files to read.

    Args:
        options: What the command line says.
        place: The flag of the folder to write.
        what: What `--resume` continues.
        stored: Path of what the folder was started with, if it was.

    Raises:
        cli.UsageError: There is none, or no folder to continue.
    """
    folder = getattr(options, place)
    if options.resume and folder is None:
        raise cli.UsageError(
            f"--resume needs --{place}, the folder to continue."
        )
    if options.gin_file:
        return [find(name) for name in options.gin_file]
    if stored is not None:
        return [stored]
    where = f"{folder} holds no {what} to continue: " if options.resume else ""
    raise cli.UsageError(
        f"{where}name a configuration with --gin_file=app.gin."
    )


def parse(gin, paths, params):
    """Binds what gin files, and then single bindings, say.

    Raises:
        cli.UsageError: What is wrong, where, and the nearest right name.
    """
    # gin calls it an error that a file is not in the first place it looks.
    quiet = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        # One after the other, to know which of them is wrong.
        for path in paths:
            with mistakes.told(gin, str(path)):
                gin.parse_config_file(str(path))
        for param in params:
            with mistakes.told(gin, f"--gin_param={param}"):
                if not re.sub(r"#.*", "", param).strip():
                    raise SyntaxError("Nothing is bound")
                gin.parse_config(param)
    finally:
        logging.disable(quiet)


def finish(gin, where):
    """Closes the configuration, which must make a run.

    Args:
        gin: The library.
        where: What a message begins with.

    Raises:
        cli.UsageError: There is no experiment, or a macro without a binding,
            or one that nothing uses.
    """
    with mistakes.told(gin, where):
        gin.finalize()
        _check_experiment(gin)
        _check_macros(gin)


def _check_experiment(gin):
    try:
        experiment = gin.query_parameter("keras_app.train.run.experiment")
    except ValueError as error:
        raise ValueError(
            "Nothing binds `train.run.experiment`, what to run. A file such as "
            "models/mlp.gin completes one such as app.gin; --list shows both"
        ) from error
    if not isinstance(experiment, gin.config.ConfigurableReference):
        raise ValueError(
            "`train.run.experiment` must be a reference such as "
            f"@experiments.Train(). Received: {experiment!r}"
        )


def _check_macros(gin):
    """Raises over a macro that is bound for nothing: its name is wrong."""
    names, bound = _Names(), set()
    for statement in gin.config.config_parser.ConfigParser(
        gin.config_str(), names
    ):
        # A macro is bound by its name alone.
        if getattr(statement, "arg_name", None) == "":
            bound.add("/".join(filter(None, statement[:2])))
    for name in sorted(bound - names.macros):
        hint = cli.did_you_mean(name, names.macros).rstrip(".")
        raise ValueError(f"{name} is bound, but nothing uses it.{hint}")


def check_own(path):
    """Raises unless a gin file names nothing but this package and Keras.

    A gin file can call whatever Python can import. That of a run folder is
    read without anybody naming it, and the folder may come from elsewhere.

    Args:
        path: Path of the gin file.

    Raises:
        cli.UsageError: It includes a file, imports another module, or reaches
            one through an attribute.
    """
    from gin import config_parser

    names = _Names()
    modules = {}
    try:
        for statement in config_parser.ConfigParser(path.read_text(), names):
            if isinstance(statement, config_parser.IncludeStatement):
                raise _foreign(path, f"includes {statement.filename}")
            if isinstance(statement, config_parser.BindingStatement):
                names.found.append(statement.selector)
            elif isinstance(statement, config_parser.ImportStatement):
                if statement.module.split(".")[0] not in (*_OWN, "__gin__"):
                    raise _foreign(path, f"imports {statement.module}")
                # `import a.b` binds a.
                bound = statement.bound_name()
                whole = statement.is_from or statement.alias
                modules[bound] = statement.module if whole else bound
    except SyntaxError:
        return  # reading it says what is wrong
    for name in names.found:
        first, *rest = name.split("/")[-1].split(".")
        if first not in modules:
            continue  # a macro, or a mistake that reading it names
        found = importlib.import_module(modules[first])
        for attribute in rest:
            found = getattr(found, attribute, None)
            module = getattr(found, "__module__", None)
            module = getattr(found, "__name__", "") if not module else module
            if found is not None and module.split(".")[0] not in _OWN:
                raise _foreign(path, f"names {name}")


class _Names:
    """Stands in for what gin makes of references; keeps their names."""

    def __init__(self):
        self.found = []
        self.macros = set()

    def configurable_reference(self, name, evaluate):
        self.found.append(name)

    def macro(self, name):
        self.macros.add(name)
        return name


def _foreign(path, what):
    return cli.UsageError(
        f"{path} {what}, which is not of this package or Keras and could run "
        f"anything. If you trust it, name it: --gin_file={path}."
    )


def text_so_far(gin):
    """Returns a gin file: what was used by now, and what may still be.

    The operative configuration holds every argument of what has run, defaults
    included. What is bound and has not run, such as the export at the end of a
    run, follows as it is bound.
    """
    bound, used = map(_sections, (gin.config_str(), gin.operative_config_str()))
    imports = dict.fromkeys([*used.pop(""), *bound.pop("")])
    macros = dict.fromkeys([*used.pop(_MACROS, []), *bound.pop(_MACROS, [])])
    parts = {"": imports, _MACROS: macros, **used}
    for title, statements in bound.items():
        parts.setdefault(title, statements)
    blocks = [
        [*filter(None, [title]), *statements]
        for title, statements in parts.items()
        if statements
    ]
    return "\n\n".join(map("\n".join, blocks)) + "\n"


def _sections(text):
    """`{title: statements}` of what gin has formatted; imports have none."""
    title = ""
    sections = {title: []}
    for line in text.splitlines():
        if line == _MACROS or line.startswith("# Parameters for "):
            title = line
            sections[title] = []
        elif line.startswith(" "):
            sections[title][-1] += f"\n{line}"
        elif line:
            sections[title].append(line)
    return sections


def new_folder(stem):
    """Returns a path under runs/ that is not taken yet."""
    number = 1
    while (path := pathlib.Path(RUNS) / f"{stem}-{number}").exists():
        number += 1
    return str(path)
