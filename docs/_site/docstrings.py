"""Docstrings of the package, as the site's reader of them takes them.

Two habits of ours that it does not know: several arguments that share their
words, over more than one line, and examples that are not indented.
"""

import re

import griffe


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is read."""

    def on_instance(self, *, obj, **kwargs):
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text):
    """Returns a docstring whose arguments and examples are understood."""
    # Names that go on in the next line, until their colon.
    text = re.sub(
        r"^(    [\w*][\w*, ]*,)\n +([\w*, ]+:)",
        r"\1 \2",
        text,
        flags=re.MULTILINE,
    )
    lines, fenced = [], False
    for line in text.splitlines():
        if not fenced and line.startswith(">>>"):
            lines.append("```pycon")
            fenced = True
        elif fenced and not line.strip():
            lines.append("```")
            fenced = False
        lines.append("**Example**" if line == "Example:" else line)
    return "\n".join([*lines, "```"] if fenced else lines)
