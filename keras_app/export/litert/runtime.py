"""LiteRT's runtime: loading a file, and what it gives.

Native code, which may end the process that it is in.
"""

import numpy as np

from keras_app.cli import one_line


def load(content, threads=1):
    """Returns an interpreter with its tensors allocated.

    Args:
        content: The bytes of a LiteRT file.
        threads: How many it may use. Defaults to `1`.

    Raises:
        ValueError: The runtime refuses the file.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(
            model_content=bytes(content), num_threads=threads
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"The LiteRT runtime does not load the file: {one_line(error)} "
            "Nothing was written."
        ) from error
    return interpreter


def outputs_of(content, batches, outputs):
    """What a file gives, flat; of each output, all batches in one array.

    Args:
        content: The bytes of the file.
        batches: `{input: array}`s.
        outputs: Names of the outputs, in order.
    """
    run = load(content).get_signature_runner()
    found = [run(**batch) for batch in batches]
    return [
        np.stack([np.asarray(each[name], "float32") for each in found])
        for name in outputs
    ]
