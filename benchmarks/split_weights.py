"""Weights and masks split over devices, beside whole copies on each of them.

    python benchmarks/split_weights.py
    python benchmarks/split_weights.py --sizes 10M --devices 1 2 --choose 1M

On JAX, on parts of one CPU. Three tables:

- train: a step, a mask update (magnitude, global, 90 %) and the memory of a
  perceptron whose weights every device holds whole (`DataParallel`), or which
  are split over all of them (`ModelParallel`).
- choose: `mask_from_scores` of split scores, where they lie, against
  gathering them and choosing on the host.
- large: what a model of bfloat16 needs on each device, and what choosing its
  masks needs besides, as XLA plans it for arrays that are never made.

Devices of one CPU share its cores and its memory: they show that nothing is
gathered, what that costs in passes, and what lies where. They cannot show the
bandwidth of an accelerator, nor of what connects several.
"""

import argparse
import json
import os
import statistics

import results
import scaling
import tasks
from measure import in_turns
from measure import peak_bytes
from measure import run_worker
from measure import timed

SIZES = ("10M",)
DEVICES = (1, 2, 4)
CHOOSE = ("1M", "4M", "16M")
LARGE = "1000M"


def width(parameters):
    """Of the hidden layers, such that eight devices can share it."""
    return scaling.width(parameters) // 8 * 8


def shapes(parameters):
    wide = width(parameters)
    ends = [tasks.FEATURES, wide, wide, wide, tasks.CLASSES]
    return list(zip(ends, ends[1:]))


# ---- workers -------------------------------------------------------------


def of_one_device(model):
    """Bytes that one device holds of a model and its optimizer."""
    import jax

    first = jax.devices()[0]
    return sum(
        shard.data.nbytes
        for variable in [*model.variables, *model.optimizer.variables]
        for shard in variable.value.addressable_shards
        if shard.device == first
    )


def train(args):
    import keras

    from keras_app.experiments import devices
    from keras_app.schedules import PolynomialDecay

    count, steps = args.devices[0], 4
    scope = {"name": "data_parallel"}
    if args.split:
        scope = {"name": "model_parallel", "model_devices": count}
        scope["layout"] = {".*kernel": (None, "model"), ".*bias": ("model",)}
    x, y = tasks.data("mlp", steps * args.batch_size)
    with devices.scope(**(scope if count > 1 else {})):
        model = tasks.perceptron(keras, [width(args.parameters)] * 3)
        tasks.compiled(keras, model, keras.optimizers.SGD(1e-3))
        schedule = PolynomialDecay(
            0.5, scaling.SPARSITY, 2, 2 + steps * args.rounds, frequency=steps
        )
        pruner = tasks.timed_pruner(keras, schedule, scope="global")

        def fit():
            model.fit(
                x,
                y,
                batch_size=args.batch_size,
                shuffle=False,
                verbose=0,
                callbacks=[pruner],
            )
            tasks.wait(keras, model)

        def milliseconds():
            elapsed = timed(fit)() - pruner.seconds[-1]
            return 1e3 * elapsed / steps

        found = in_turns({"step": milliseconds}, args.rounds)
        return found | {
            "update": [1e3 * seconds for seconds in pruner.seconds[1:]],
            "peak": peak_bytes(),
            "device": of_one_device(model),
            "parameters": int(model.count_params()),
            "versions": tasks.keras_versions(keras),
        }


def choose(args):
    import jax
    import numpy as np

    from keras_app.masks import mask_from_scores

    generator = np.random.default_rng(0)
    scores = {
        str(i): np.abs(generator.standard_normal(shape, dtype=np.float32))
        for i, shape in enumerate(shapes(args.parameters))
    }
    layout = layout_of(args.devices[0])
    split = {name: jax.device_put(a, layout) for name, a in scores.items()}

    def on_devices():
        jax.block_until_ready(mask_from_scores(split, scaling.SPARSITY))

    def gathered():
        # Copies, because an array remembers that it was fetched.
        fresh = {n: jax.numpy.copy(a) for n, a in split.items()}
        whole = {name: np.asarray(array) for name, array in fresh.items()}
        masks = mask_from_scores(whole, scaling.SPARSITY)
        jax.block_until_ready(jax.device_put(list(masks.values()), layout))

    def milliseconds(call):
        return lambda: 1e3 * timed(call)()

    calls = {"there": on_devices, "host": gathered}
    measured = {name: milliseconds(call) for name, call in calls.items()}
    found = in_turns(measured, args.rounds)
    count = sum(array.size for array in scores.values())
    return found | {"parameters": count}


def large(args):
    """What XLA plans, of shapes alone."""
    import jax
    import numpy as np

    from keras_app import split
    from keras_app.masks import on_devices

    layout = layout_of(args.devices[0])

    def planned(dtype):
        return [
            jax.ShapeDtypeStruct(shape, dtype, sharding=layout)
            for shape in shapes(args.parameters)
        ]

    with split.in_64_bits():
        chosen = on_devices.compiled(True, (layout,) * 4)
        arguments = planned("bfloat16"), planned(bool), np.int64(1)
        plan = chosen.lower(*arguments).compile().memory_analysis()
    entries = sum(rows * columns for rows, columns in shapes(args.parameters))
    return {
        "parameters": entries,
        "held": plan.argument_size_in_bytes,
        "besides": plan.output_size_in_bytes + plan.temp_size_in_bytes,
    }


def layout_of(count):
    import jax
    import numpy as np

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("model",))
    spec = jax.sharding.PartitionSpec(None, "model")
    return jax.sharding.NamedSharding(mesh, spec)


def work(args):
    measure = {"train": train, "choose": choose, "large": large}[args.worker]
    args.result.write_text(json.dumps(measure(args)))


# ---- the process that starts the workers ---------------------------------


def start_worker(args, worker, size, devices, split=False):
    flag = f"--xla_force_host_platform_device_count={devices}"
    environment = {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}",
        # See `scaling.py`.
        "NPROC": str(16 * devices),
    }
    options = {
        "worker": worker,
        "parameters": scaling.in_words(size),
        "devices": devices,
        "rounds": args.rounds,
        "batch-size": args.batch_size,
        "split": int(split),
    }
    found = run_worker(__file__, options, **environment)
    return found and {
        "worker": worker,
        "devices": devices,
        "split": split,
        **found,
    }


def median(found, name):
    value = found[name]
    value = statistics.median(value) if isinstance(value, list) else value
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def mebibytes(found, name):
    return f"{found[name] / 2**20:.0f}"


def millions(found):
    return f"{found['parameters'] / 1e6:.1f}M"


def training_row(found):
    placed = "split" if found["split"] else "whole"
    return [
        str(found["devices"]),
        placed,
        millions(found),
        median(found, "step"),
        median(found, "update"),
        mebibytes(found, "device"),
        mebibytes(found, "peak"),
    ]


def choosing_row(found):
    ours, host = (statistics.median(found[n]) for n in ("there", "host"))
    return [
        str(found["devices"]),
        millions(found),
        median(found, "there"),
        median(found, "host"),
        f"{ours / host:.1f}",
    ]


def large_row(found):
    return [
        str(found["devices"]),
        millions(found),
        mebibytes(found, "held"),
        mebibytes(found, "besides"),
    ]


TABLES = {
    "train": (
        "devices|weights and masks|parameters|ms/step|mask update, ms|"
        "held by each device, MiB|peak of the process, MiB",
        training_row,
    ),
    "choose": (
        "devices|scores|where they lie, ms|gathered on the host, ms|ratio",
        choosing_row,
    ),
    "large": (
        "devices|bfloat16 weights|weights and masks on each device, MiB|"
        "to choose new masks besides, MiB",
        large_row,
    ),
}


def parse(argv):
    parser = results.parser_of(
        "Split weights and masks, beside whole copies on every device.",
        backends=("jax",),
        rounds=(3, "timed fits, and choices"),
        batch_size=(64, "of all devices together"),
    )
    add = parser.add_argument
    add("--sizes", nargs="+", default=SIZES, metavar="SIZE", help="such as 10M")
    add("--choose", nargs="+", default=CHOOSE, metavar="SIZE")
    add("--large", default=LARGE, metavar="SIZE")
    count = {"type": results.at_least_one, "metavar": "N"}
    add("--devices", nargs="+", default=DEVICES, **count)
    add("--worker", choices=list(TABLES), help=argparse.SUPPRESS)
    add("--parameters", type=int, help=argparse.SUPPRESS)
    add("--split", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def compare(args):
    found = results.Results(
        args, "split_weights", settings=("rounds", "batch_size")
    )

    def measure(*arguments):
        name = " ".join(map(str, arguments))
        found.measure(name, start_worker, args, *arguments)

    for devices in args.devices:
        measure("large", args.large, devices)
        for size in args.sizes:
            measure("train", size, devices)
            if devices > 1:
                measure("train", size, devices, True)
    for size in args.choose:
        measure("choose", size, max(args.devices))
    cells = found.measured.values()
    tables = {
        name: (
            header.split("|"),
            [row(cell) for cell in cells if cell["worker"] == name],
        )
        for name, (header, row) in TABLES.items()
    }
    found.finish(tables, "Medians over the rounds.")


def main(argv=None):
    results.start(parse(argv), work, compare)


if __name__ == "__main__":
    main()
