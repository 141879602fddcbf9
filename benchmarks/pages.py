r"""Runs each page as printed, and notes what each snippet and command takes.

    python benchmarks/pages.py --work runs/pages --results docs/results/data
    python benchmarks/pages.py --work runs/pages --only tutorial

What a page prints runs from its top to its end in a folder of its own, as a
person would who copies it: its Python in one process, its commands in a shell.
What wants a cluster, a bucket or weights from the network is left out, and so
are commands that install and snippets for other backends than TensorFlow.
Commands on CIFAR-10 are run where TFDS_DATA_DIR is set. The first thing that
fails ends the page, and its last words are shown. A page that is stored is not
run again.

Times are of the processor, all processes together: about how long a step takes
on one core that does nothing else.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import results

PAGES = {page.stem: page for page in sorted(results.DOCS.glob("*.md"))}
PAGES["README"] = results.ROOT / "README.md"
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LEFT_OUT = (
    re.compile(r"pip install|/activate|launch/|s3://|gs://|gin_file=llm_"),
    # One snippet for each backend; the old code of those who come from tfmot.
    re.compile(r"^import (torch|jax)$", re.MULTILINE),
    re.compile("tensorflow_model_optimization"),
)
TIMES = "times.json"


def steps(page):
    """What a page prints: `[(python or bash, text)]`, a command each."""
    found = []
    for language, text in BLOCK.findall(page.read_text()):
        if language == "python":
            found.append((language, text))
            continue
        if "TFDS_DATA_DIR=..." in text and "TFDS_DATA_DIR" not in os.environ:
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if line.strip():
                found.append((language, line))
    return [s for s in found if not any(r.search(s[1]) for r in LEFT_OUT)]


def run(page, folder):
    """`{"steps": [[what, seconds]]}` of a page, in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--page", str(page)]
    # `python` is this one.
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    with (folder / "said.txt").open("w") as said:
        status = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdout=said,
            stderr=subprocess.STDOUT,
        ).returncode
    if status:
        end = (folder / "said.txt").read_text().splitlines()[-12:]
        print(f"{page.name} failed:", *end, sep="\n  ", file=sys.stderr)
        return None
    return {"steps": json.loads((folder / TIMES).read_text())}


def work(page):
    """Runs the steps here, in the current folder."""
    names = {"__name__": "__main__"}
    found, snippets = [], 0
    for language, text in steps(page):
        if text.startswith("export "):
            # For all that follows; `...` is for the reader to fill in.
            pairs = (word.split("=") for word in shlex.split(text)[1:])
            os.environ.update({k: v for k, v in pairs if v != "..."})
            continue
        print(f"== {text.splitlines()[0]}", flush=True)
        start = processor_time()
        if language == "python":
            snippets += 1
            what = f"snippet {snippets}"
            exec(compile(text, page.name, "exec"), names)
        else:
            command = " ".join(text.split("  #")[0].split())
            what = "`{}`".format(command.replace("|", "\\|"))
            subprocess.run(["bash", "-c", text], check=True)
        found.append([what, round(processor_time() - start, 1)])
    pathlib.Path(TIMES).write_text(json.dumps(found))


def processor_time():
    """Seconds, also those of processes that have ended."""
    return sum(os.times()[:4])


def words(seconds):
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def table(found):
    """One row for each page: its steps in their order, and their sum."""
    rows = []
    for name, one in sorted(found.items()):
        each = "; ".join(f"{what} {words(took)}" for what, took in one["steps"])
        total = words(sum(took for _, took in one["steps"]))
        # The site of docs/ has no README.
        page = name if name == "README" else f"[{name}]({name}.md)"
        rows.append([page, each, total])
    return ["page", "its steps", "all"], rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results.options(parser)
    add = parser.add_argument
    pages = {name: page for name, page in PAGES.items() if steps(page)}
    add("--only", nargs="+", choices=pages, metavar="PAGE", help=str([*pages]))
    add("--work", type=pathlib.Path, default=pathlib.Path("runs/pages"))
    add("--page", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.page:
        return work(args.page)
    packages = ("keras", "tensorflow", "torch")
    found = results.Results(args, "pages", packages)
    for name in args.only or pages:
        found.measure(name, run, pages[name], args.work / name)
    found.finish({"steps": table(found.measured)})


if __name__ == "__main__":
    main()
