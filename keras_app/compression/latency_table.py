"""How long layers take at several widths, measured once for each machine.

Each kind of layer is converted to LiteRT files of its own, at a few numbers of
channels that it reads and gives, and these are timed in turns. What lies
between is interpolated. The times are kept in a file, by machine, runtime and
configuration of the layer, so that the next model with such layers measures
nothing.

What a model takes is not the sum of these times: caches, fused operations and
what has no weights are not in it. The sum leads to widths; models are timed
whole.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import warnings

import keras
import numpy as np

from keras_app import files
from keras_app.compression import costs
from keras_app.compression.plan import Place
from keras_app.compression.progress import silent

_ROUNDS = 15
_SECONDS = 6.0
_CHUNK = 48  # files that are in memory at once
_WHAT = "timings of layers"
# They do not change the time.
_IGNORED = ("name", "dtype", "trainable", "build_config", "batch_input_shape")
_IGNORED_ENDS = ("_initializer", "_regularizer", "_constraint", "_quantizer")


def latency_places(cuts, members, groups, quantize=None, progress=silent):
    """Returns `(places, constant)` of the milliseconds of the layers.

    Args:
        cuts: The `cuts.Cuts` of a model.
        members: As of `Cuts.members`.
        groups: The `plan.Group`s.
        quantize: `None` or `"int8"`, `"float16"`, `"dynamic"`: what the files
            are. Defaults to `None`.
        progress: Told how many layers are timed, each width for itself; see
            `progress.silent`, the default.
    """
    shapes = costs.layer_shapes(cuts.model)
    table = Table(quantize)
    widths = {group.name: group.widths() for group in groups}
    flops, _ = costs.flop_places(cuts, members)
    wanted = []
    for record, by_flops in zip(cuts.records(), flops, strict=True):
        read, _ = shapes.get(id(record.layer), (None, None))
        is_timed = by_flops.at(cuts.shapes) and not record.is_attention
        if read is None or not is_timed:
            wanted.append((by_flops, None))
            continue
        grid = Grid(record, read, by_flops, widths)
        wanted.append((by_flops, grid))
    specs = {
        table.key(spec): spec
        for _, grid in wanted
        if grid is not None
        for spec in grid.specs()
    }
    table.measure(specs, progress)
    places, seconds, work = [], 0.0, 0.0
    for by_flops, grid in wanted:
        if grid is None or not grid.fill(table):
            continue
        place = Place(by_flops.name, by_flops.inputs, by_flops.outputs, grid)
        places.append(place)
        seconds += place.at(cuts.shapes)
        work += by_flops.at(cuts.shapes)
    # What cannot be timed alone costs what its FLOPs cost elsewhere.
    rate = seconds / work if work else 1e-9
    done = {place.name for place in places}
    for by_flops, _ in wanted:
        if by_flops.name not in done:
            scaled = functools.partial(_scaled, by_flops.cost, rate)
            places.append(
                Place(by_flops.name, by_flops.inputs, by_flops.outputs, scaled)
            )
    return places, 0.0


def _scaled(cost, rate, read, given):
    return rate * cost(read, given)


class Grid:
    """The times of a layer, interpolated between a few widths.

    Args:
        record: The `graph.analysis.Record` of the layer.
        shape: Shape of its input in the model, the batch in front.
        place: The `Place` of its FLOPs.
        widths: `{group: widths it can have}`.
    """

    def __init__(self, record, shape, place, widths):
        self._record = record
        self._shape = [length or 1 for length in shape[1:-1]]
        least = {name: each[0] for name, each in widths.items()}
        dense = {name: each[-1] for name, each in widths.items()}
        self._inputs = _points(place.inputs.at(least), place.inputs.at(dense))
        self._outputs = _points(
            place.outputs.at(least), place.outputs.at(dense)
        )
        # A depthwise convolution gives what it reads.
        self._apart = not record.row.makes
        self._times = None

    def specs(self):
        """Yields what is to be measured."""
        for pair in self._pairs():
            yield self._spec(*pair)

    def _pairs(self):
        if self._apart:
            return [(width, width) for width in self._inputs]
        return [(i, o) for i in self._inputs for o in self._outputs]

    def _spec(self, read, given):
        layer = self._record.layer
        config = keras.saving.serialize_keras_object(layer)
        changes = {}
        if not self._apart:
            of = len(self._record.outputs.atoms)
            changes = self._record.row.resized(layer, given, of)
        values = {
            name: value
            for name, value in {**config["config"], **changes}.items()
            if name not in _IGNORED and not name.endswith(_IGNORED_ENDS)
        }
        if not isinstance(values.get("activation"), (str, type(None))):
            del values["activation"]
        return {
            "class": type(layer).__name__,
            "config": values,
            "shape": [*self._shape, read],
        }

    def fill(self, table):
        """Takes the times from a `Table`; returns whether all are there."""
        times = [table.get(self._spec(*pair)) for pair in self._pairs()]
        if None in times:
            return False
        self._times = np.array(times)
        if not self._apart:
            shape = len(self._inputs), len(self._outputs)
            self._times = self._times.reshape(shape)
        return True

    def __call__(self, read, given):
        """The milliseconds with so many channels read and given."""
        if self._apart:
            return float(np.interp(read, self._inputs, self._times))
        along = [np.interp(given, self._outputs, row) for row in self._times]
        return float(np.interp(read, self._inputs, along))


def _points(least, most):
    """Two or three widths, the ends among them.

    >>> _points(8, 64), _points(8, 16), _points(3, 3)
    ([8, 32, 64], [8, 16], [3])
    """
    middle = round((least + most) / 16) * 8
    found = {least, most}
    if most >= 4 * least and least < middle < most:
        found.add(middle)
    return sorted(found)


class Table:
    """Measured times, kept in a file.

    Args:
        quantize: What the files are; see `latency_places`.
        folder: Where the file is. Defaults to `keras_app` in the user's cache
            (`XDG_CACHE_HOME`).
    """

    def __init__(self, quantize=None, folder=None):
        self._quantize = quantize
        described = machine()
        digest = hashlib.sha256(json.dumps(described).encode()).hexdigest()
        folder = files.path(folder) if folder else files.cache()
        self.path = (
            folder / f"latency-{quantize or 'float32'}-{digest[:12]}.json"
        )
        self._times = {}
        self._described = described
        with contextlib.suppress(OSError, ValueError, KeyError):
            self._times = json.loads(self.path.read_text())["milliseconds"]

    @staticmethod
    def key(spec):
        """The name of a layer at some widths."""
        return json.dumps(spec, sort_keys=True)

    def get(self, spec):
        """Milliseconds, or `None`."""
        return self._times.get(self.key(spec))

    def measure(self, specs, progress=silent):
        """Measures what is not known yet, and writes it down.

        Args:
            specs: `{key: spec}`.
            progress: As of `latency_places`.
        """
        missing = [
            spec for key, spec in specs.items() if key not in self._times
        ]
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]

            def begun(count, before=start):
                progress(_WHAT, before + count, len(missing))

            times = time_layers(chunk, self._quantize, begun)
            self._times.update(zip(map(self.key, chunk), times))
            self._write()
        if missing:
            progress(_WHAT, len(missing), len(missing))

    def _write(self):
        text = json.dumps(
            {"machine": self._described, "milliseconds": self._times}, indent=0
        )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(self.path, text.encode())
        except OSError as error:
            warnings.warn(f"The times of layers are not kept: {error}")


def machine():
    """What times depend on: processor, number of its cores, runtime."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        line = next(x for x in lines if x.startswith("model name"))
        name = line.partition(":")[2].strip()
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "runtime": importlib.metadata.version("ai-edge-litert"),
    }


# ---- one layer --------------------------------------------------------------


def time_layers(specs, quantize, begun):
    """Returns the milliseconds of each layer, `None` where it has no file.

    Args:
        specs: As of `Grid.specs`.
        quantize: See `latency_places`.
        begun: Called as the file of each is begun, with how many were before:
            making the files takes longer than timing all of them.
    """
    from keras_app.export.litert import timing

    contents = []
    for count, spec in enumerate(specs):
        begun(count)
        contents.append(_file(spec, quantize))
    there = [content for content in contents if content is not None]
    found = iter(timing.take_turns(there, rounds=_ROUNDS, seconds=_SECONDS))
    return [
        None if content is None else next(found)["least_ms"]
        for content in contents
    ]


def _file(spec, quantize):
    """A LiteRT file of one layer; `None` if the converter does not take it."""
    import tensorflow as tf

    layer = getattr(keras.layers, spec["class"])
    shape = tuple(spec["shape"])
    model = keras.Sequential(
        [keras.Input(shape, batch_size=1), layer.from_config(spec["config"])]
    )
    trained = [v.numpy() for v in model.trainable_variables]
    others = [v.numpy() for v in model.non_trainable_variables]

    def compute(x):
        # As constants: kernels that are variables of the file run slower.
        weights = [
            [tf.constant(value) for value in values]
            for values in (trained, others)
        ]
        return model.stateless_call(*weights, x)[0]

    given = tf.TensorSpec((1, *shape), "float32")
    traced = tf.function(compute).get_concrete_function(given)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced], model)
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        draws = np.random.default_rng(0).standard_normal((4, 1, *shape))
        samples = [[draw] for draw in draws.astype("float32")]
        converter.representative_dataset = lambda: iter(samples)
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return converter.convert()
    except Exception:
        return None
