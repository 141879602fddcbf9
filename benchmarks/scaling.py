"""Time and memory as the work grows: 1M to 200M parameters, 1 to 4 devices.

    pip install -e .
    python benchmarks/scaling.py
    python benchmarks/scaling.py --backend jax --sizes 1M 10M --devices 1 2

A perceptron with three hidden layers of equal width, so many parameters in
all. Devices are parts of one CPU (data parallel on JAX, `MirroredStrategy` on
TensorFlow, one device on PyTorch): they show what more devices cost, each with
its copy of the weights, and cannot show what they gain. A batch is that of all
devices together.

Every number comes from a process of its own, one for dense and one for masked
training, with plain SGD, which keeps nothing beside the weights. Each timed fit
holds one real mask update (magnitude, global, up to 90 %), whose time is
measured apart from the steps. The checkpoint is that of the experiments: the
state of model and optimizer in `RunFolder.save_checkpoint`.

A cell's growth is its ratio to the size before, beside the ratio of the
parameters: what grows by more than that does not scale. A cell for which the
machine has not enough free memory is left out, with a word.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import tempfile
import time

import results
import tasks
from measure import in_turns
from measure import installed
from measure import peak_bytes
from measure import run_worker
from measure import timed

SIZES = ("1M", "10M", "50M", "200M")
DEVICES = (1, 2, 4)
DISTRIBUTIONS = {"jax": "data_parallel", "tensorflow": "mirrored"}
SPARSITY = 0.9
# Fits of about equal length, but never too short to time.
PARAMETER_STEPS = 10**9
FEWEST_STEPS = 4
MOST_STEPS = 100
# What a process with a backend in it needs besides.
BASE_BYTES = 2 * 2**30
MEASURED = {
    "step": "ms/step",
    "update": "mask update, ms",
    "peak": "peak MiB",
    "checkpoint_peak": "peak MiB with checkpoints",
    "held": "training held by a checkpoint, ms",
    "written": "until on disk, ms",
    "bytes": "checkpoint MiB",
}
UNITS = {"peak": 2**-20, "checkpoint_peak": 2**-20, "bytes": 2**-20}


# ---- the work ------------------------------------------------------------


def width(parameters):
    """Of the three hidden layers, without regard to biases."""
    ends = tasks.FEATURES + tasks.CLASSES
    return round(((ends**2 + 8 * parameters) ** 0.5 - ends) / 4)


def steps_of(parameters):
    steps = PARAMETER_STEPS // parameters
    return max(FEWEST_STEPS, min(MOST_STEPS, steps))


def bytes_needed(parameters, devices):
    """An estimate on the safe side, in float32.

    Every device holds weights, gradients, new weights and one more of these on
    the way; the host those of a checkpoint twice, and the scores.
    """
    return BASE_BYTES + 4 * parameters * (4 * devices + 3)


def build(keras, parameters):
    model = tasks.perceptron(keras, [width(parameters)] * 3)
    return tasks.compiled(keras, model, keras.optimizers.SGD(1e-3))


def pruner_for(keras, args, steps):
    """One update in the middle of each fit; the last reaches the target."""
    from keras_app.schedules import PolynomialDecay

    schedule = PolynomialDecay(
        initial_sparsity=0.5,
        final_sparsity=SPARSITY,
        begin_step=steps // 2,
        end_step=args.rounds * steps + steps // 2,
        frequency=steps,
    )
    return tasks.timed_pruner(keras, schedule, scope="global")


# ---- workers -------------------------------------------------------------


def split_processor(backend, devices):
    """Before anything is computed; for JAX its variable has done it."""
    if backend == "tensorflow" and devices > 1:
        import tensorflow as tf

        processor = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            processor, [tf.config.LogicalDeviceConfiguration()] * devices
        )


def measure(args):
    import keras

    steps = steps_of(args.parameters)
    x, y = tasks.data("mlp", steps * args.batch_size)
    model = build(keras, args.parameters)
    masked = args.worker == "masked"
    pruner = pruner_for(keras, args, steps) if masked else None

    def fit():
        model.fit(
            x,
            y,
            batch_size=args.batch_size,
            shuffle=False,
            verbose=0,
            callbacks=[pruner] if masked else [],
        )
        tasks.wait(keras, model)

    def milliseconds():
        elapsed = timed(fit)()
        if masked:
            elapsed -= pruner.seconds[-1]
        return 1e3 * elapsed / steps

    result = in_turns({"step": milliseconds}, args.rounds)
    result["peak"] = peak_bytes()
    result["parameters"] = int(model.count_params())
    result["versions"] = tasks.keras_versions(keras)
    if masked:
        assert len(pruner.seconds) == args.rounds + 1, "one update in each fit"
        # The first one makes the masks.
        result["update"] = [1e3 * seconds for seconds in pruner.seconds[1:]]
        kept = sum(int(mask.sum()) for mask in pruner.masks.values())
        result["density"] = kept / sum(m.size for m in pruner.masks.values())
        result |= measure_checkpoints(model, args)
    return result


def measure_checkpoints(model, args):
    from keras_app.experiments.run.folder import RunFolder
    from keras_app.experiments.run.runner import model_state

    held, written = [], []
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(path)
        folder.begin()
        for _ in range(args.rounds):
            start = time.perf_counter()
            folder.save_checkpoint(model_state(model), {})
            held.append(1e3 * (time.perf_counter() - start))
            folder.flush()
            written.append(1e3 * (time.perf_counter() - start))
        newest = max(pathlib.Path(path).rglob("*.ckpt"))
        size = newest.stat().st_size
    return {
        "held": held,
        "written": written,
        "bytes": size,
        "checkpoint_peak": peak_bytes(),
    }


def work(args):
    split_processor(args.backend, args.devices[0])
    from keras_app.experiments import devices

    count = args.devices[0]
    scope = {}
    if count > 1:
        scope = {"name": DISTRIBUTIONS[args.backend], "devices": count}
    with devices.scope(**scope):
        args.result.write_text(json.dumps(measure(args)))


# ---- the process that starts the workers ---------------------------------


def free_bytes():
    """Memory that is free now, or `None` where that cannot be read."""
    info = pathlib.Path("/proc/meminfo")
    if not info.exists():
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", info.read_text())
    return 1024 * int(found[1])


def start_worker(args, backend, parameters, devices, kind):
    environment = {"KERAS_BACKEND": backend}
    if backend == "jax":
        flag = f"--xla_force_host_platform_device_count={devices}"
        before = os.environ.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{before} {flag}"
        environment["JAX_PLATFORMS"] = "cpu"
        # A sum over the devices holds a thread of XLA's pool until all have
        # come. With one thread for each core, a few cores wait for each other
        # forever.
        environment["NPROC"] = str(16 * devices)
    options = {"worker": kind, "parameters": parameters, "backend": backend}
    options |= {"devices": devices, "rounds": args.rounds}
    options["batch-size"] = args.batch_size
    return run_worker(__file__, options, **environment)


def measure_cell(args, backend, size, devices):
    """What dense and masked training take, or `None`."""
    parameters = in_words(size)
    needed, free = bytes_needed(parameters, devices), free_bytes()
    if free is not None and needed > free:
        print(
            f"{backend}, {size}, {devices} devices: left out. It needs about "
            f"{needed / 2**30:.0f} GiB, of which {free / 2**30:.0f} are free."
        )
        return None
    cell = {"backend": backend, "devices": devices}
    for kind in ("dense", "masked"):
        cell[kind] = start_worker(args, backend, parameters, devices, kind)
        if cell[kind] is None:
            return None
    cell["parameters"] = cell["dense"]["parameters"]
    cell["versions"] = cell["dense"].pop("versions")
    return cell


def in_words(size):
    """The number that "10M" stands for."""
    return int(float(size.removesuffix("M")) * 10**6)


def number(result, name):
    """The median of what was measured, in the unit of its column."""
    values = result[name]
    values = values if isinstance(values, list) else [values]
    return statistics.median(values) * UNITS.get(name, 1)


def growing(cell, before, kind, name):
    """A figure with its growth: `12.5 (x9.8)`."""
    here = number(cell[kind], name)
    text = f"{here:.1f}" if here < 100 else f"{here:.0f}"
    if before is None:
        return text
    return f"{text} (x{here / number(before[kind], name):.1f})"


COLUMNS = [
    ("dense", "step"),
    ("masked", "step"),
    ("masked", "update"),
    ("dense", "peak"),
    ("masked", "peak"),
    ("masked", "checkpoint_peak"),
    ("masked", "held"),
    ("masked", "written"),
    ("masked", "bytes"),
]


def header():
    both = {"step", "peak"}
    return [
        "backend",
        "devices",
        "parameters",
        *(
            f"{kind}, {MEASURED[name]}" if name in both else MEASURED[name]
            for kind, name in COLUMNS
        ),
    ]


def row(cell, before):
    text = f"{cell['parameters'] / 1e6:.1f}M"
    if before is not None:
        text += f" (x{cell['parameters'] / before['parameters']:.1f})"
    figures = [growing(cell, before, *column) for column in COLUMNS]
    return [cell["backend"], str(cell["devices"]), text, *figures]


def rows(cells):
    """By backend and devices, each beside the size before."""
    kinds = {}
    for cell in sorted(cells, key=lambda cell: cell["parameters"]):
        kinds.setdefault((cell["backend"], cell["devices"]), []).append(cell)
    return [
        row(cell, before)
        for _, growing in sorted(kinds.items())
        for cell, before in zip(growing, [None, *growing])
    ]


def parse(argv):
    parser = results.parser_of(
        "Time and memory as parameters and devices grow.",
        rounds=(3, "timed fits, and checkpoints"),
        batch_size=(64, "of all devices together"),
    )
    add = parser.add_argument
    add("--sizes", nargs="+", default=SIZES, metavar="SIZE", help="such as 10M")
    count = {"type": results.at_least_one, "metavar": "N"}
    add("--devices", nargs="+", default=DEVICES, **count)
    add("--worker", choices=["dense", "masked"], help=argparse.SUPPRESS)
    add("--parameters", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for size in args.sizes:
        if not re.fullmatch(r"\d+(\.\d+)?M", size) or in_words(size) < 10**5:
            parser.error(
                "--sizes must be millions of parameters such as 10M, at least "
                f"0.1M. Received: {size}"
            )
    return args


def compare(args):
    sizes = sorted(args.sizes, key=in_words)
    found = results.Results(args, "scaling", settings=("rounds", "batch_size"))
    for backend in installed(args.backend):
        for devices in args.devices:
            if devices > 1 and backend not in DISTRIBUTIONS:
                print(f"{backend}, {devices} devices: left out, Keras has one.")
                continue
            for size in sizes:
                name = f"{backend}, {devices} devices, {size}"
                found.measure(name, measure_cell, args, backend, size, devices)
    cells = found.measured.values()
    densities = {round(cell["masked"]["density"], 4) for cell in cells}
    found.finish(
        {"growth": (header(), rows(cells))},
        f"SGD without momentum, {FEWEST_STEPS} to {MOST_STEPS} steps a round. "
        "Medians, and their ratio to the size before.\nDensity of the masks at "
        "the end: "
        f"{', '.join(map(str, sorted(densities)))}.",
    )


def main(argv=None):
    results.start(parse(argv), work, compare)


if __name__ == "__main__":
    main()
