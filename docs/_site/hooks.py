"""Pages of the site that are made of what stands elsewhere.

Home is the README, the changes are CHANGELOG.md, the reference follows
`__all__`, and commands and gin files say themselves what they take. mkdocs
calls the functions whose names begin with `on_`.
"""

import contextlib
import importlib
import inspect
import io
import os
import pathlib
import re
import sys

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras_app  # noqa: E402
from keras_app import __main__ as commands  # noqa: E402
from keras_app.experiments.cli import gin_files  # noqa: E402

FOLDER = "reference/"


def on_files(files, config):
    """Adds the pages that lie nowhere."""
    made = {
        "index.md": of_the_top("README.md"),
        "changelog.md": of_the_top("CHANGELOG.md"),
        f"{FOLDER}commands.md": commands_page(),
        f"{FOLDER}gin_files.md": gin_page(),
    }
    SHOWN.clear()
    # `compat` hands on what other rooms define.
    for name in sorted(rooms(), key=lambda name: name.startswith("compat")):
        made[f"{FOLDER}{name}.md"] = room_page(name)
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    return files


def of_the_top(name):
    """A page of the top folder, with links that hold in docs/."""
    text = (ROOT / name).read_text()
    text = text.replace("](CHANGELOG.md", "](changelog.md")
    return re.sub(r"\]\(docs/", "](", text)


# ---- the reference ----------------------------------------------------------


def rooms():
    """The names of the public modules, without `keras_app.`, in order."""
    names = ["keras_app"]
    for name in sorted(keras_app.__all__):
        room = getattr(keras_app, name)
        if inspect.ismodule(room):
            inner = [
                f"{name}.{each}"
                for each in public(room)
                if inspect.ismodule(getattr(room, each))
            ]
            # `compat` holds nothing itself.
            names += [name, *inner] if objects(room) else inner
    return names


def public(module):
    """The public names of a module: its `__all__`, or what it defines."""
    own = getattr(module, "__all__", None)
    return own or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    ]


def objects(module):
    """`{public name: class or function}`."""
    found = {name: getattr(module, name) for name in public(module)}
    return {
        name: value
        for name, value in sorted(found.items())
        if inspect.isclass(value) or inspect.isfunction(value)
    }


def module_of(room):
    """The module of one of `rooms()`."""
    if room == "keras_app":
        return keras_app
    return importlib.import_module(f"keras_app.{room}")


def room_page(room):
    """The reference of one public module."""
    module = module_of(room)
    name = module.__name__
    lines = [f"# {name}", "", f"::: {name}"]
    lines += options(members=False, show_root_heading=False)
    found = objects(module)
    for each, value in found.items():
        lines += ["", *entry(f"{name}.{each}", value, each)]
    behind = bases(found.values())
    if behind:
        lines += ["", "## What they share", ""]
        lines += ["Bases, whose arguments the classes above take.", ""]
        for base in behind:
            path = real(base)
            lines += ["", *entry(path, base, base.__name__, heading_level=3)]
    return "\n".join(lines) + "\n"


def real(value):
    """Where a class or function is defined."""
    return f"{value.__module__}.{value.__qualname__}"


# What is on a page already; a second place for it would be ambiguous.
SHOWN = set()


def entry(path, value, name, **more):
    """A class or function, under the name that users give it."""
    if real(value) in SHOWN:
        mark = "#" * more.get("heading_level", 2)
        anchor = "" if real(value) == path else f" {{#{path}}}"
        link = f"[`{real(value)}`][{real(value)}]"
        return [f"{mark} {name}{anchor}", "", f"See {link}."]
    SHOWN.add(real(value))
    lines = [f"::: {real(value)}"]
    lines += options(heading=name, toc_label=name, **more)
    # Other pages link to the public name.
    return lines if real(value) == path else [f"[](){{#{path}}}", "", *lines]


def options(**given):
    """The lines that set options of an entry."""
    lines = [f"        {name}: {value}" for name, value in given.items()]
    return ["    options:", *lines]


def bases(values):
    """Classes of the package that the classes are made of, once each."""
    values = list(values)
    found = {
        base: None
        for each in values
        if inspect.isclass(each)
        for base in each.__mro__[1:]
        if base.__module__.startswith("keras_app.")
        and base not in values
        and not base.__name__.startswith("_")
        and base.__doc__
    }
    return sorted(found, key=lambda base: base.__name__)


# ---- commands and gin files -------------------------------------------------


def commands_page():
    """What each command says of itself."""
    lines = ["# Commands", ""]
    lines += ["Installed they are `keras-app train`, `keras-app compress`, ..."]
    for name, words in commands.COMMANDS.items():
        lines += ["", f"## keras_app.{name}", "", f"It {words}.", ""]
        lines += ["```text", help_of(name), "```"]
    return "\n".join(lines) + "\n"


def help_of(name):
    """What a command prints for `--help`."""
    said, argv = io.StringIO(), sys.argv
    columns = os.environ.get("COLUMNS")
    sys.argv = ["keras-app", name, "--help"]
    os.environ["COLUMNS"] = "80"
    try:
        with contextlib.redirect_stdout(said):
            with contextlib.suppress(SystemExit):
                commands.main()
    finally:
        sys.argv = argv
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    return said.getvalue().rstrip()


def gin_page():
    """The gin files, as `--list` shows them."""
    return f"""# Gin files

What `python -m keras_app.train --gin_file=NAME` runs, and parts that go with
it. Each file begins with its paper, command, hardware, time and expected
result.

```text
{gin_files.listing()}
```
"""


# ---- names in the text lead to the reference --------------------------------


def on_page_content(html, page, config, files):
    """Inline code such as `ka.pruners.RigL(...)` becomes a link."""

    def link(match):
        name = match.group(2)
        while name and name not in KNOWN:
            name = name.rpartition(".")[0]
        if not name:
            return match.group()
        return (
            f'<autoref identifier="keras_app.{name}" optional>'
            f"{match.group(1)}</autoref>"
        )

    # Code of blocks, links and headings stays.
    kept = r"(<pre.*?</pre>|<a\b.*?</a>|<h\d.*?</h\d>)"
    parts = re.split(kept, html, flags=re.DOTALL)
    pattern = r"(<code>(?:ka|keras_app)\.([\w.]+)[^<]*</code>)"
    parts[::2] = [re.sub(pattern, link, part) for part in parts[::2]]
    return "".join(parts)


def known():
    """The public objects, without `keras_app.`."""
    names = set()
    for room in rooms():
        prefix = "" if room == "keras_app" else f"{room}."
        found = objects(module_of(room))
        names |= {f"{prefix}{name}" for name in found}
        behind = map(real, bases(found.values()))
        names |= {path.removeprefix("keras_app.") for path in behind}
    return names


KNOWN = known()
