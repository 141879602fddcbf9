r"""Stores what benchmarks measure, and fills the pages of docs/ with it.

    python benchmarks/results.py

rewrites in every page what stands between markers, from the JSON files in
docs/results/data:

    <!-- table: scaling/steps -->       the table "steps" of scaling.json
    <!-- measured: scaling -->          its command, hardware, versions, ...
    <!-- end -->

A benchmark with `--results docs/results/data` writes these files. Files without
"measured" hold what was kept of earlier runs, and give way to the first new
measurement.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import measure

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
DATA = DOCS / "results" / "data"
BLOCK = re.compile(
    r"<!-- (table|measured): ([\w/]+) -->\n.*?<!-- end -->\n", re.DOTALL
)
NOTED = ("hardware", "versions", "commit", "settings")
PROVENANCE = (*NOTED, "seeds", "figures", "time")


# ---- tables ----------------------------------------------------------------


def markdown(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def show(header, rows, as_markdown):
    """Prints a table, for the terminal or as Markdown."""
    if as_markdown:
        print(markdown(header, rows), end="")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    # A file or a pipe has no width of its own.
    width = None if sys.stdout.isatty() else 160
    Console(width=width).print(table)


def provenance(record):
    """Command and what it ran on, as Markdown."""
    lines = [f"    {line}\n" for line in record["command"]]
    lines.append("\n")
    for name in PROVENANCE:
        value = record.get(name)
        if value:
            value = [value] if isinstance(value, str) else value
            text = (", " if name == "seeds" else "; ").join(map(str, value))
            lines.append(f"- {name.capitalize()}: {text}\n")
    return "".join(lines)


def fill(page, folder):
    """The text of a page with its blocks made from the files in a folder."""

    def block(found):
        kind, name = found.groups()
        name, _, table = name.partition("/")
        record = json.loads((folder / f"{name}.json").read_text())
        if kind == "measured":
            text = provenance(record)
        else:
            text = markdown(**record["tables"][table])
        return f"<!-- {kind}: {found[2]} -->\n\n{text}\n<!-- end -->\n"

    return BLOCK.sub(block, page)


# ---- results ---------------------------------------------------------------


def dump(record):
    """JSON in which a list of plain values takes one line."""
    text = json.dumps(record, indent=1, ensure_ascii=False, default=float)
    plain = re.compile(r"\[\n([^][{}]*?)\n\s*\]")
    return (
        plain.sub(
            lambda m: "[" + re.sub(r"\s*\n\s*", " ", m[1].strip()) + "]", text
        )
        + "\n"
    )


def commit():
    """Of the working tree, or `None`."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
        text = subprocess.check_output(
            command, cwd=ROOT, text=True, stderr=subprocess.DEVNULL
        )
        return text.strip()


def options(parser):
    parser.add_argument(
        "--markdown", action="store_true", help="print a Markdown table"
    )
    parser.add_argument(
        "--results",
        type=pathlib.Path,
        metavar="FOLDER",
        help="store each measurement there at once, as JSON, and measure "
        "nothing again that is stored (default: keep nothing)",
    )


def at_least_one(text):
    """The type of a number on the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def parser_of(description, backends=measure.BACKENDS, **numbers):
    """Options of a benchmark whose workers time fits on one backend each.

    Args:
        description: Its first line.
        backends: To choose from.
        **numbers: Name of an option, with its default and its help.
    """
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--backend", choices=backends, help="default: all")
    for name, (default, help) in numbers.items():
        option = f"--{name.replace('_', '-')}"
        add(option, type=at_least_one, default=default, help=help)
    add("--result", type=pathlib.Path, help=argparse.SUPPRESS)
    options(parser)
    return parser


def start(args, work, compare):
    """Does what a worker does, or what the process does that starts them."""
    (work if args.result else compare)(args)


class Results:
    """Measurements by name, in a JSON file that several processes may share.

    Arguments:
        args: With `results`, the folder or `None`, and `markdown`.
        name: Of the file in that folder.
        packages: Whose versions are noted, where a measurement has none of
            another process.
        settings: Names of the arguments on which a measurement depends.
    """

    def __init__(self, args, name, packages=(), settings=()):
        self.args = args
        self.path = args.results and args.results / f"{name}.json"
        self.packages = packages
        given = {name: getattr(args, name) for name in settings}
        self.settings = ", ".join(f"{k} {v}" for k, v in given.items())
        self.record = {}
        self.new = False
        if self.path and self.path.exists():
            self.record = json.loads(self.path.read_text())

    @property
    def measured(self):
        return self.record.get("measured", {})

    @contextlib.contextmanager
    def _changing(self):
        if self.path is None:
            yield
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if self.path.exists():
                self.record = json.loads(self.path.read_text())
            yield
            partial = self.path.with_suffix(".part")
            partial.write_text(dump(self.record))
            os.replace(partial, self.path)
        finally:
            os.close(folder)

    def measure(self, name, call, *args):
        """Stores what a call returns, unless that is there or is `None`."""
        if name in self.measured:
            before = self.measured[name]["settings"]
            if before != self.settings:
                sys.exit(
                    f"{self.path} holds {name!r} with other settings: choose "
                    f"another folder for --results. Received: {self.settings} "
                    f"(stored: {before})"
                )
            print(f"{name}: stored in {self.path}", file=sys.stderr)
            return
        print(f"measuring {name} ...", file=sys.stderr)
        found = call(*args)
        if found is None:
            return
        found = {
            "hardware": measure.hardware(),
            "versions": measure.versions(*self.packages),
            "commit": commit(),
            "settings": self.settings,
            **found,
        }
        with self._changing():
            if "measured" not in self.record:
                self.record = {"measured": {}}
            self.record["measured"][name] = found
        self.new = True

    def _noted(self, name):
        """What the measurements say of hardware and so on, each once."""
        found = [each.get(name) for each in self.measured.values()]
        return [text for text in dict.fromkeys(found) if text]

    def _note(self, tables):
        script, *rest = sys.argv
        command = shlex.join(["python", os.path.relpath(script, ROOT), *rest])
        with self._changing():
            commands = self.record.setdefault("command", [])
            if command not in commands:
                commands.append(command)
            for name in NOTED:
                self.record[name] = self._noted(name)
            if hasattr(self.args, "seeds"):
                self.record["seeds"] = self.args.seeds
            self.record["tables"] = {
                name: {"header": header, "rows": rows}
                for name, (header, rows) in tables.items()
            }

    def finish(self, tables, note="", sentences=()):
        """Stores and prints tables, `{name: (header, rows)}`."""
        if not self.measured:
            print("Nothing was measured.")
            return
        if self.new:
            self._note(tables)
        bullet = "- " if self.args.markdown else ""
        print()
        for name in NOTED:
            for line in self._noted(name):
                print(f"{bullet}{name}: {line}")
        if note:
            print(f"\n{note}")
        for header, rows in tables.values():
            print()
            show(header, rows, self.args.markdown)
        print()
        for sentence in sentences:
            print(f"{bullet}{sentence}")


if __name__ == "__main__":
    for path in sorted(DOCS.rglob("*.md")):
        path.write_text(fill(path.read_text(), DATA))
