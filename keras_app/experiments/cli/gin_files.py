"""The gin files: where they are looked up, and what they promise."""

import itertools
import pathlib
import re
import textwrap

from keras_app import cli

_NAME_WIDTH, _LINE_WIDTH = 26, 80
SEE_LIST = " --list shows the gin files."


def search_path():
    """Where gin files are looked up: here, in gin/, and those of the package.

    They are a part of what is installed; in a checkout they lie beside it.
    """
    package = pathlib.Path(__file__).resolve().parents[2]
    ours = package / "configs"
    return [
        pathlib.Path("."),
        pathlib.Path("gin"),
        ours if ours.is_dir() else package.parent / "gin",
    ]


def nearest(name):
    """The hint at the nearest gin file, by its path or by its name alone."""
    known = {}
    for path in map(pathlib.PurePath.as_posix, _files()):
        file = path.rpartition("/")[2]
        for spelling in (path, file):
            known.setdefault(spelling, path)
            known.setdefault(spelling.removesuffix(".gin"), path)
    found = cli.nearest(name.replace("\\", "/"), known)
    if found is None:
        return SEE_LIST
    return f" Did you mean {known[found]}?"


def listing():
    """Returns a line for each gin file, by folder: its name and promise."""
    folders = {}
    for name, path in _files().items():
        folders.setdefault(name.parent, []).append((name.as_posix(), path))
    blocks = []
    for folder, rows in folders.items():
        kind = f"{folder}/: parts" if folder.name else "runs, and what ends one"
        lines = [f"# {kind}"]
        for name, path in rows:
            name = f"{name:{_NAME_WIDTH}} "
            text = textwrap.shorten(
                _promise(path), _LINE_WIDTH - len(name), placeholder=" ..."
            )
            lines.append((name + text).rstrip())
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _files():
    """The gin files that can be named: `{path as it is named: path}`."""
    here, *folders = search_path()
    found = {path.relative_to(here): path for path in here.glob("*.gin")}
    for folder in folders:
        for path in folder.rglob("*.gin"):
            found.setdefault(path.relative_to(folder), path)
    return dict(sorted(found.items(), key=lambda x: (len(x[0].parts), x[0])))


def _promise(path):
    """The first sentence of the comment that a gin file begins with."""
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        return f"({error.strerror})"
    lines = itertools.takewhile(
        lambda line: re.match(r"# *\S", line), text.splitlines()
    )
    comment = " ".join(line.strip("# ") for line in lines)
    return re.match(r"(.*?[.:?](?= )|.*)", comment).group().rstrip(".:")
