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


class Runner:
    """Calls a file with floats, whatever it takes and gives.

    Where it takes or gives eight bits, they are rounded as the file says:
    q = round(x / scale) + zero point.

    Args:
        content: The bytes of a LiteRT file.

    Attributes:
        inputs, outputs: `{name: details}` of the runtime, in the file's order.
    """

    def __init__(self, content):
        self._interpreter = load(content)
        self.inputs = self._interpreter.get_input_details()
        self.outputs = self._interpreter.get_output_details()
        if self._interpreter.get_signature_list():
            # Its names are those of the model.
            signature = self._interpreter.get_signature_runner()
            self.inputs = signature.get_input_details()
            self.outputs = signature.get_output_details()
        else:
            self.inputs = {each["name"]: each for each in self.inputs}
            self.outputs = {each["name"]: each for each in self.outputs}

    def __call__(self, batch):
        """Returns `{output: array of float32}`.

        Args:
            batch: `{input: array}`.
        """
        for name, details in self.inputs.items():
            value = quantized(batch[name], details)
            self._interpreter.set_tensor(details["index"], value)
        self._interpreter.invoke()
        return {
            name: dequantized(
                self._interpreter.get_tensor(details["index"]), details
            )
            for name, details in self.outputs.items()
        }

    def named(self, samples):
        """Returns `{input: array}` by the file's own names, in its order.

        Raises:
            ValueError: The file has other names, and inputs of equal shapes.
        """
        if set(self.inputs) == set(samples):
            return {name: samples[name] for name in self.inputs}
        by_shape = {values.shape[1:]: values for values in samples.values()}
        wanted = {
            name: tuple(details["shape"][1:].tolist())
            for name, details in self.inputs.items()
        }
        if len(samples) == len(self.inputs) == 1:
            return dict(zip(self.inputs, samples.values()))
        if set(by_shape) != set(wanted.values()) or not (
            len(by_shape) == len(samples) == len(self.inputs)
        ):
            raise ValueError(
                "A file of several inputs must name them as the model does, "
                "unless their shapes tell them apart. Received: a file with "
                f"the inputs {', '.join(self.inputs)} for a model with "
                f"{', '.join(samples)}"
            )
        return {name: by_shape[shape] for name, shape in wanted.items()}

    def over(self, samples):
        """Yields `{output: array of float32}` of samples, batch by batch.

        The file takes whole batches: the last one is filled up with its last
        sample, and what comes of that is left out.

        Args:
            samples: `{input: array}`, first axis the samples.
        """
        size = int(next(iter(self.inputs.values()))["shape"][0])
        count = len(next(iter(samples.values())))
        for start in range(0, count, size):
            here = min(size, count - start)
            places = np.minimum(np.arange(start, start + size), count - 1)
            batch = {name: values[places] for name, values in samples.items()}
            yield {name: x[:here] for name, x in self(batch).items()}


def quantized(values, details):
    """Returns numbers as an input takes them."""
    scale, zero_point = details["quantization"]
    values, dtype = np.asarray(values), np.dtype(details["dtype"])
    if scale and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.round(values / np.float32(scale)) + zero_point
        values = np.clip(values, limits.min, limits.max)
    return values.astype(dtype)


def dequantized(values, details):
    """Returns what an output holds, in float32."""
    scale, zero_point = details["quantization"]
    values = np.asarray(values, "float32")
    return (values - zero_point) * np.float32(scale) if scale else values


def outputs_of(content, batches, outputs):
    """What a file gives, flat; of each output, all batches in one array.

    Args:
        content: The bytes of the file.
        batches: `{input: array}`s.
        outputs: Names of the outputs, in order.
    """
    found = list(map(Runner(content), batches))
    return [np.stack([each[name] for each in found]) for name in outputs]
