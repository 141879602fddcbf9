"""How every command line reads its arguments."""

import argparse

from keras_app import cli


class Parser(argparse.ArgumentParser):
    """Reads arguments; leaves it to `cli.command` how a mistake is told.

    Args:
        name: The module that is run, such as `"keras_app.train"`.
        description: What `--help` begins with.
        options: `{argument or flag: what add_argument takes}`.
    """

    def __init__(self, name, description, options):
        super().__init__(
            prog=f"python -m {name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for argument, settings in options.items():
            self.add_argument(argument, **settings)

    def error(self, message):
        raise cli.UsageError(message)

    def parse_args(self, argv):
        options, rest = self.parse_known_args(argv)
        if rest:
            flag = rest[0].partition("=")[0]
            hint = cli.did_you_mean(flag, self._option_string_actions)
            raise cli.UsageError(f"unexpected argument: {rest[0]}.{hint}")
        # Such as the text of a variable that is not set.
        for name, value in vars(options).items():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and not text.strip():
                    raise cli.UsageError(f"{name} must not be empty.")
        return options


# Of every command that reads gin files.
GIN_OPTIONS = {
    "--gin_file": {
        "action": "append",
        "default": [],
        "help": "a gin file, looked up here, then in gin/; may be given "
        "several times",
    },
    "--gin_param": {
        "action": "append",
        "default": [],
        "help": "a binding such as 'Anytime.level=3.0', which wins over the "
        "files; may be given several times",
    },
    "--list": {
        "action": "store_true",
        "help": "list the gin files, a line each",
    },
}
