"""How every command line reads its arguments."""

import argparse

from keras_app import cli


def switch(words):
    """A flag that is given or not."""
    return {"action": "store_true", "help": words}


def several(words, **more):
    """A flag that may be given several times: a list."""
    return {"action": "append", "help": words, **more}


def number(words, default, least):
    """A flag with a number of the default's type."""
    return {
        "type": type(default),
        "default": default,
        "least": least,
        "help": words,
    }


class Parser(argparse.ArgumentParser):
    """Reads arguments; leaves it to `cli.command` how a mistake is told.

    Args:
        name: The module that is run, such as `"keras_app.train"`.
        description: What `--help` begins with.
        options: `{argument or flag: settings}`: its words, what the functions
            of this module make of them, or what `add_argument` takes.
    """

    def __init__(self, name, description, options):
        super().__init__(
            prog=f"python -m {name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._least = {}
        for flag, given in options.items():
            given = {"help": given} if isinstance(given, str) else {**given}
            self._least[flag.strip("-")] = given.pop("least", None)
            self.add_argument(flag, **given)

    def error(self, message):
        raise cli.UsageError(message)

    def parse_args(self, argv):
        options, rest = self.parse_known_args(argv)
        if rest:
            flag = rest[0].partition("=")[0]
            hint = cli.did_you_mean(flag, self._option_string_actions)
            raise cli.UsageError(f"unexpected argument: {rest[0]}.{hint}")
        for name, value in vars(options).items():
            least = self._least[name]
            if least is not None and not value >= least:
                raise cli.UsageError(
                    f"--{name} must be at least {least}. Received: "
                    f"--{name}={value}"
                )
            # Such as the text of a variable that is not set.
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and not text.strip():
                    raise cli.UsageError(f"{name} must not be empty.")
        return options


# Of every command that reads gin files.
GIN_OPTIONS = {
    "--gin_file": several(
        "a gin file, looked up here, then in gin/; may be given several times",
        default=[],
    ),
    "--gin_param": several(
        "a binding such as 'Anytime.level=3.0', which wins over the files; may "
        "be given several times",
        default=[],
    ),
    "--list": switch("list the gin files, a line each"),
}
