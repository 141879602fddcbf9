"""What the process that writes a LiteRT file is asked for."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Request:
    """A file to make of a SavedModel.

    Attributes:
        samples: `{input: array}`, whose first axis is the samples; all of them
            calibrate int8, the first of them, as `expected` has, are compared.
        batch_size: How many samples the file computes at once.
        quantize, sparse: As for `export_litert`.
        expected: What the model gives, flat; of each output, all batches in
            one array.
        tolerance: How far the file may be from that, of the largest output;
            in int8, from the dense file.
        nonzeros: `[(size, non-zeros)]` of the model's weights.
        layers: Names of the layers, for errors.
        target, io_dtype: As for `export_litert`.
        evaluate: `{"x": {input: array}, "y": labels}` to evaluate on, labels
            as of `evaluation.classes`, or `None`.
    """

    samples: dict
    batch_size: int
    quantize: str | None = None
    sparse: bool | str = "auto"
    expected: list = ()
    tolerance: float = 0.0
    nonzeros: list = ()
    layers: list = ()
    target: str = "cpu"
    io_dtype: str = "float32"
    evaluate: dict | None = None

    @property
    def precision(self):
        """What weights are stored in."""
        return self.quantize or "float32"

    @property
    def batches(self):
        """The samples, as the file takes them, one batch after the other."""
        return batches(self.samples, self.batch_size)

    @property
    def tracing(self):
        """How `saved_model.convert` traces the model for the file."""
        return tracing(self.samples, self.batch_size, self.quantize)


def tracing(samples, size, quantize):
    """How a model is traced for a file, as `saved_model.convert` takes it.

    Args:
        samples: `{input: array}`.
        size: Samples that the file computes at once.
        quantize: As for `export_litert`.
    """
    return {
        "shapes": [[size, *x.shape[1:]] for x in samples.values()],
        "dtypes": [x.dtype.name for x in samples.values()],
        "unroll": quantize == "int8",
    }


def batches(samples, size):
    """Returns `{input: array}`s of at most `size` samples each."""
    count = len(next(iter(samples.values())))
    return [
        {name: x[i : i + size] for name, x in samples.items()}
        for i in range(0, count, size)
    ]
