"""LiteRT files of models: made, timed beside others, and run on data."""

import pathlib
import tempfile

import numpy as np

from keras_app.export import fresh_process
from keras_app.export import portable
from keras_app.export import saved_model
from keras_app.export import signature
from keras_app.export.litert import asking
from keras_app.export.litert.memory import peak_activations
from keras_app.export.litert.timing import time_files


def content_of(model, quantize=None, data=None):
    """Returns the LiteRT file that a model becomes, as bytes, unverified.

    Args:
        model: A built `keras.Model`.
        quantize: As of `keras_app.export.export_litert`.
        data: Sample inputs; int8 needs real ones. Defaults to random ones.
    """
    asked = asking.request(model, data, quantize=quantize, sparse=False)
    with (
        tempfile.TemporaryDirectory() as folder,
        fresh_process.refusing_crashes(model),
    ):
        path = pathlib.Path(folder) / "model.tflite"
        saved_model.convert(
            "keras_app.export.litert.process:make_plain",
            model,
            **asked.tracing,
            path=path,
            request=vars(asked),
        )
        return path.read_bytes()


def samples_of(model, data, count):
    """`{input: array}` of samples, as the file of a model takes them."""
    given = signature.inputs_for(model, data, count, one_batch=False)
    arrays = signature.in_order(model, given)
    _, dtypes = signature.specs(model, arrays)
    return {
        name: array.astype(portable.float32(dtype))
        for name, array, dtype in zip(
            signature.names(model), arrays, dtypes, strict=True
        )
    }


def outputs_of(content, model, data):
    """Returns what a file gives for all samples, flat, as arrays.

    Args:
        content: The bytes of the file.
        model: The model that it was made of.
        data: Inputs, first axis the samples.
    """
    count = len(next(iter(signature.in_order(model, data))))
    samples = samples_of(model, data, count)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "outputs.npz"
        fresh_process.run(
            "keras_app.compression.files:run",
            content=np.frombuffer(content, "uint8"),
            samples=samples,
            path=path,
        )
        with np.load(path) as found:
            return [found[name][:count] for name in sorted(found)]


def run(content, samples, path):
    """Runs a file on samples and writes what it gives, in another process.

    Args:
        content: Its bytes.
        samples: `{input: array}`.
        path: The `.npz` file to write: `output_0` and so on, by name.
    """
    from keras_app.export.litert import runtime

    runner = runtime.Runner(content)
    found = {}
    for outputs in runner.over(runner.named(samples)):
        for name, values in outputs.items():
            found.setdefault(name, []).append(values)
    joined = {name: np.concatenate(each) for name, each in found.items()}
    np.savez(path, **joined)


def in_turns(contents, rounds=2):
    """Returns the milliseconds of several files, timed in turns.

    Args:
        contents: The bytes of the files.
        rounds: How many processes time them, one after the other: where
            memory falls differs between processes.

    Returns:
        For each file the least over all turns of a process, and of these the
        median.
    """
    times = [
        [each.least_ms for each in time_files(contents)] for _ in range(rounds)
    ]
    return [float(value) for value in np.median(times, axis=0)]


def figures_of(content):
    """`{"bytes", "ram_bytes"}` of a file."""
    return {"bytes": len(content), "ram_bytes": peak_activations(content)}
