"""What gin says of a mistake, in one line, with the nearest right name."""

import contextlib
import importlib
import inspect
import pkgutil
import pydoc
import re
import sys
import tokenize

from keras_app import cli
from keras_app import experiments
from keras_app import files
from keras_app.experiments.cli import gin_files

# What gin, and an experiment before it starts, raise over a configuration.
MISTAKES = (
    ValueError,
    TypeError,
    KeyError,
    OSError,
    ImportError,
    NameError,
    AttributeError,
    SyntaxError,
    RuntimeError,
    tokenize.TokenError,
)

# gin appends it: the innermost file comes first.
_PLACE = re.compile(
    r'\n  In (?:file "(?P<file>.*)",|bindings string) line (?P<line>\d+)\n'
)
_BINDING = (
    "A binding is a name, = and a Python literal, such as Anytime.level=3.0 "
    "or Anytime.model='mlp'"
)
_UNREADABLE = SyntaxError, tokenize.TokenError


@contextlib.contextmanager
def told(gin, where):
    """Turns what gin raises into a `UsageError`.

    Args:
        gin: The library.
        where: What is read: a file, or a flag with its text.

    Raises:
        cli.UsageError: Where the mistake is, what it is, and the nearest
            right name.
    """
    try:
        yield
    except MISTAKES as error:
        raise cli.UsageError(_sentence(gin, where, error)) from error


def _sentence(gin, where, error):
    said = str(error)
    place = _PLACE.search(said)
    file, line = (place["file"], place["line"]) if place else (None, None)
    text = cli.one_line(said[: place.start()] if place else said)
    if isinstance(error, SyntaxError):
        file, line = error.filename, error.lineno
        # Python's own words about the token come first.
        text = re.sub(r"(?s)^.*(?=Failed to parse token)", "", error.msg)
    elif isinstance(error, tokenize.TokenError):
        text = "A bracket or a quotation mark is not closed"
    elif isinstance(error, UnicodeDecodeError):
        text = f"It is no text: {text}"
    text = re.sub(r"<(?:module|class) '([\w.]+)'[^>]*>", r"\1", text)
    # Lists of all places and bindings follow.
    text = re.split(r"\. Searched| in config string:", text)[0].strip('". ')
    # A text on the command line is its own place.
    if file is not None and files.path(file).is_file():
        where = f"{file}, line {line}"
    elif where.startswith("--") and isinstance(error, _UNREADABLE):
        text = f"{text}. {_BINDING}"
    return f"{' '.join(where.split())}: {text}.{_hint(gin, said, file)}"


def _configurable(gin, file, name):
    parts = name.count(".") + 1
    known = [name for name, _ in gin.config._REGISTRY.items()]
    known = [name for name in known if not name.startswith("gin.")]
    ends = {".".join(name.split(".")[-parts:]): name for name in known}
    hint = cli.did_you_mean(name, ends)
    if hint:
        return hint
    names = [".".join(name.split(".")[-2:]) for name in sorted(known)]
    return f" What the gin files name: {', '.join(names) or 'nothing'}."


def _attribute(gin, file, owner, name):
    if name in experiments.__all__:
        return (
            f" Write experiments.{name}, and above it the line: "
            "from keras_app import experiments"
        )
    found = pydoc.locate(owner)
    public = getattr(found, "__all__", None) or dir(found)
    return cli.did_you_mean(name, [x for x in public if x[0] != "_"])


def _parameter(gin, file, name, parameter):
    try:
        found = gin.config._REGISTRY.get_match(name).wrapped
        return cli.did_you_mean(parameter, inspect.signature(found).parameters)
    except (KeyError, AttributeError, ValueError, TypeError):
        return ""


def _import(gin, file, name):
    package, _, module = name.rpartition(".")
    if not package:
        return cli.did_you_mean(name, ("keras_app", "keras"))
    found = importlib.import_module(package)
    known = [info.name for info in pkgutil.iter_modules(found.__path__)]
    return cli.did_you_mean(name, [f"{package}.{x}" for x in known])


def _symbol(gin, file, name):
    places = {
        each: package
        for package in ("keras_app.experiments", "keras_app")
        for each in getattr(sys.modules.get(package), "__all__", ())
    }
    if name in places:
        return f" Add the line: from {places[name]} import {name}"
    imported = re.findall(
        r"^ *(?:from +\S+ +)?import +(?:\S+ +as +)?(\w+)",
        files.path(file).read_text() if file else "",
        re.MULTILINE,
    )
    return cli.did_you_mean(name, imported or places)


def _include(gin, file, name):
    return gin_files.nearest(name)


def _macro(gin, file, name):
    bound = [scope for scope, of in gin.config._CONFIG if of == "gin.macro"]
    return cli.did_you_mean(name, bound)


_HINTS = {
    r"No configurable matching (?:reference )?'@?([\w.]+)": _configurable,
    r"<(?:module|class) '([\w.]+)'.* has no attribute (\w+)": _attribute,
    r"'([\w.]+)' doesn't have a parameter named '(\w+)'": _parameter,
    r"No module named '([\w.]+)'": _import,
    r"'(\w+)' was not provided by an import": _symbol,
    r"Unable to open file: (.*?)\. Searched": _include,
    r"No bindings specified for '(.+)/gin.macro'": _macro,
}


def _hint(gin, text, file):
    for pattern, hint in _HINTS.items():
        found = re.search(pattern, text)
        if found:
            return hint(gin, file, *found.groups())
    return ""
