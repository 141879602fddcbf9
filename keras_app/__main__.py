"""Every command line under one name: `keras-app train|compress|...`.

`keras-app train ...`, which is installed with the package, and `python -m
keras_app train ...` do what `python -m keras_app.train ...` does, with the same
exit statuses.
"""

import os
import runpy
import sys

from keras_app import cli

# {command: what it does}; each is a module of the package.
COMMANDS = {
    "train": "runs what gin files configure, and writes a run folder",
    "compress": "makes a trained model as fast or as small as asked",
    "prune": "prunes a trained model once, without training it",
    "export": "writes a trained model to files that are smaller, verified",
    "report": "makes one page of one or several runs",
    "sweep": "trains every point of a grid",
}


def main():
    """Runs the command line of this process.

    Raises:
        SystemExit: With the exit status of the command; 2 if there is no such
            command, said in one line.
    """
    _, *argv = sys.argv
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(_help())
        sys.exit(0 if argv else cli.EXIT_USAGE)
    with cli.command(cli.SCRIPT):
        if name not in COMMANDS:
            raise cli.UsageError(
                f"the command must be one of {', '.join(COMMANDS)}. Received: "
                f"{name}.{cli.did_you_mean(name, COMMANDS)}"
            )
    # As under `python -m`: what `--data` and gin files name may be here.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    sys.argv = argv
    runpy.run_module(f"keras_app.{name}", run_name="__main__", alter_sys=True)


def _help():
    lines = [f"usage: {cli.SCRIPT} COMMAND ...", ""]
    lines += [f"  {name:<10}{words}" for name, words in COMMANDS.items()]
    lines += ["", f"{cli.SCRIPT} COMMAND --help says what it takes."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
