"""Which widths fulfil a target: planned, made into files, and measured.

All of it happens in one process of its own with TensorFlow: what the time, the
bytes and the memory of widths are does not hang on the weights, so nothing has
to be trained, and dozens of files are converted without starting anew.
"""

import dataclasses
import tempfile

import keras

from keras_app import host
from keras_app.compression import costs
from keras_app.compression import latency_table
from keras_app.compression import targets as targets_lib
from keras_app.compression.cuts import Cuts
from keras_app.compression.files import samples_of
from keras_app.compression.plan import Found
from keras_app.compression.plan import MOST
from keras_app.compression.plan import Planner
from keras_app.compression.plan import search
from keras_app.compression.progress import Counted
from keras_app.compression.progress import silent
from keras_app.export import fresh_process
from keras_app.export import saved_model
from keras_app.export import signature
from keras_app.export.litert.memory import peak_activations
from keras_app.export.litert.request import Request
from keras_app.export.litert.request import tracing

# Timing in turns, each the least of many, still differs by so much.
_TIMING_TOLERANCE = 0.02
_ROUNDS = 41
_WHAT = "networks measured"
_SECONDS = 3.0
# Of the time of the step before, on the way to an accuracy.
_STEP = 0.85
_CALIBRATION = 8  # samples of int8: which ranges does not change the time


@dataclasses.dataclass(frozen=True)
class Decision:
    """Widths for a target.

    Attributes:
        widths: `{group: how many units stay}`.
        amount: What was measured, in the same unit.
        dense: The same of the dense model.
        layers: `[[layer, milliseconds before, after], ...]` by the table of
            latencies; empty for other targets.
    """

    widths: dict
    amount: float
    dense: float
    layers: list = ()


def decide(
    model,
    target,
    scores,
    multiple_of=8,
    quantize=None,
    data=None,
    progress=silent,
):
    """Returns the `Decision`s for a target.

    Args:
        model: A built Sequential or functional `keras.Model`.
        target: A `targets.Target`. Of an accuracy there are several
            decisions, each for less time than the one before.
        scores: `{path: array}` of the importance of the weights of
            `Cuts(model).variables`.
        multiple_of: Channels are taken so many at once. Defaults to `8`.
        quantize: What the files are. Defaults to `None`: float32.
        data: Sample inputs. Defaults to random ones.
        progress: Told how many layers are timed and networks measured; see
            `progress.silent`, the default.

    Raises:
        ValueError: A target that cannot be reached: see `plan.search`.
    """
    arguments = {
        "target": dataclasses.asdict(target),
        "scores": [scores[path] for path in Cuts(model, 1).variables],
        "multiple_of": multiple_of,
        "quantize": quantize,
    }
    samples = samples_of(model, data, _CALIBRATION)
    arguments.update(samples=samples, progress=progress)
    if target.quantity == "flops":
        found = decide_here(model, **arguments)
    else:
        task = "keras_app.compression.decide:decide_here"
        try:
            with fresh_process.refusing_crashes(model):
                found = fresh_process.run(task, model, **arguments)
        except fresh_process.UnknownModel:
            # Classes of a script or a notebook, which only it knows.
            if host.BACKEND != "tensorflow":
                raise
            found = decide_here(model, **arguments)
    names = list(Cuts(model, 1).shapes)
    return [
        Decision(**{**each, "widths": dict(zip(names, each["widths"]))})
        for each in found
    ]


def decide_here(
    model, target, scores, multiple_of, quantize, samples, progress
):
    """Decides as `decide` does, in this process.

    Args:
        model: A built model.
        target: Fields of a `Target`, as a dict.
        scores: Arrays, in the order of `Cuts.variables`.
        multiple_of, quantize: As of `decide`.
        samples: `{input: array}`.
        progress: As of `decide`.

    Returns:
        Fields of `Decision`s, as dicts, with widths in the order of the
        groups.
    """
    target = targets_lib.Target(**target)
    cuts = Cuts(model, multiple_of)
    groups = cuts.groups(dict(zip(cuts.variables, scores, strict=True)))
    members = cuts.members(groups)
    places, constant = _places(
        target, cuts, groups, members, quantize, progress
    )
    planner = Planner(groups, places, constant)
    measuring = _Measuring(cuts, groups, quantize, samples)
    measure, tolerance = measuring.of(target, planner)
    if target.quantity == "accuracy":
        # All at once, to know how many there are.
        steps = list(_steps(planner))
        measure = Counted(measure, _WHAT, len(steps), progress)
        results = [measure(widths) for widths in steps]
    elif target.quantity == "flops":
        results = [search(planner, measure, target, tolerance)]
    else:
        # Besides those searched, the dense one and the smallest.
        measure = Counted(measure, _WHAT, MOST + 2, progress)
        results = [search(planner, measure, target, tolerance)]
        measure.close()
    return [
        {
            "widths": [found.widths[name] for name in cuts.shapes],
            "amount": found.amount,
            "dense": found.dense,
            "layers": [
                [place.name, place.at(planner.start), place.at(found.widths)]
                for place in (places if target.is_of_time else ())
            ],
        }
        for found in results
    ]


def _steps(planner):
    """Yields narrower and narrower widths, of less and less cost."""
    widths = planner.start
    while widths != planner.least:
        planner.start = widths
        before, widths = widths, planner.plan(_STEP * planner.cost(widths))
        if widths == before:
            return
        yield widths


def _places(target, cuts, groups, members, quantize, progress):
    if target.is_of_time:
        return latency_table.latency_places(
            cuts, members, groups, quantize, progress
        )
    kinds = {
        "flops": costs.flop_places,
        "bytes": costs.weight_places,
        "ram": costs.activation_places,
    }
    return kinds[target.quantity](cuts, members)


class _Measuring:
    """Makes the files of widths, and measures them; each once."""

    def __init__(self, cuts, groups, quantize, samples):
        self._cuts = cuts
        self._groups = groups
        self._quantize = quantize
        self._samples = samples
        self._contents = {}

    def of(self, target, planner):
        """`(function widths -> Found, tolerance)` for a target."""
        functions = {
            "latency": (self._latency, _TIMING_TOLERANCE),
            "accuracy": (self._latency, _TIMING_TOLERANCE),
            "bytes": (self._amount(len), 0.0),
            "ram": (self._amount(peak_activations), 0.0),
            "flops": (
                lambda widths: Found(
                    widths, planner.cost(widths), planner.cost(planner.whole)
                ),
                0.0,
            ),
        }
        return functions[target.quantity]

    def _latency(self, widths):
        from keras_app.export.litert import timing

        dense, own = (
            each["least_ms"]
            for each in timing.take_turns(
                [self._content(self._cuts.shapes), self._content(widths)],
                rounds=_ROUNDS,
                seconds=_SECONDS,
            )
        )
        return Found(widths, own, dense)

    def _amount(self, count):
        def measure(widths):
            dense = count(self._content(self._cuts.shapes))
            return Found(widths, count(self._content(widths)), dense)

        return measure

    def _content(self, widths):
        key = tuple(widths[name] for name in self._cuts.shapes)
        if key not in self._contents:
            model = self._cuts.smaller(widths, self._groups)
            content = _converted(model, self._quantize, self._samples)
            self._contents[key] = content
        return self._contents[key]


def _converted(model, quantize, samples):
    from keras_app.export.litert.conversion import convert

    size = signature.batch_size(model) or 1
    with tempfile.TemporaryDirectory() as folder:
        keras.backend.clear_session(free_memory=False)
        saved_model.write_portable(
            model,
            folder,
            **tracing(samples, size, quantize),
        )
        request = Request(samples, size, quantize, sparse=False)
        return convert(folder, request, sparse=False)
