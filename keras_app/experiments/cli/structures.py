"""What `--structure` names: what is pruned together."""

import re

from keras_app import cli
from keras_app import masks

_NAMED = {
    "channel": masks.Channel,
    "graph_channel": masks.GraphChannel,
    "head": masks.AttentionHead,
    "litert": lambda: masks.TargetBlock("litert"),
    "litert_int8": lambda: masks.TargetBlock("litert_int8"),
}

WORDS = (
    "what is pruned together: n:m along the inputs, such as 2:4; blocks, such "
    f"as 4x1; {', '.join(_NAMED)}; single weights if not given"
)


def read(text):
    """Returns the structure that the flag `--structure` names, or `None`.

    Args:
        text: The value of the flag, or `None`.

    Raises:
        ValueError: There is no such structure.
    """
    if text is None:
        return None
    if text in _NAMED:
        return _NAMED[text]()
    n_m = re.fullmatch(r"(\d+):(\d+)", text)
    if n_m:
        return masks.NM(*map(int, n_m.groups()), axis="inputs")
    block = re.fullmatch(r"(\d+)x(\d+)", text)
    if block:
        return masks.Block(tuple(map(int, block.groups())))
    raise ValueError(
        "--structure must be n:m such as 2:4, a block such as 4x1, or one of "
        f"{', '.join(_NAMED)}. Received: --structure={text}."
        + cli.did_you_mean(text, _NAMED)
    )
