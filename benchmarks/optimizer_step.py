"""Step time and state of the sparse optimizers, against Keras's own.

    pip install -e .
    python benchmarks/optimizer_step.py
    python benchmarks/optimizer_step.py --backend jax --model mlp --rounds 9

One process per backend and model. For each pair it holds three models of one
architecture: one under Keras's optimizer, its identical twin, and one under
ours. Whole fits of the three take turns; the twin's ratio to the first is the
noise of the machine, against which ours is read.

State is what the optimizer keeps beside the weights, in bytes per trainable
weight. Timing never decides the exit status.

The pair "traffic" bounds what a rewrite of continuous sparsification could
gain: an optimizer that reads and writes the same arrays and computes next to
nothing. It is measured when asked for with --pair.
"""

import functools
import json
import statistics

import results
import tasks
from measure import in_turns
from measure import installed
from measure import judge
from measure import milliseconds
from measure import ratios
from measure import run_worker
from measure import spread
from measure import timed

TARGET = 1.15
BATCH_SIZES = {"mlp": 128, "convnet": 32}

# {pair: (Keras's optimizer, ours)}, each made from both packages.
PAIRS = {
    "AdaBreg / Adam": (
        lambda keras, app: keras.optimizers.Adam(1e-3),
        lambda keras, app: app.optimizers.AdaBreg(
            1e-3, regularizers=app.regularizers.L1(1e-3)
        ),
    ),
    "LinBreg / SGD": (
        lambda keras, app: keras.optimizers.SGD(1e-2),
        lambda keras, app: app.optimizers.LinBreg(
            1e-2, regularizers=app.regularizers.L1(1e-3)
        ),
    ),
    "ContinuousSparsification / SGD, Nesterov": (
        lambda keras, app: keras.optimizers.SGD(
            1e-2, momentum=0.9, nesterov=True
        ),
        lambda keras, app: app.optimizers.ContinuousSparsification(1e-2),
    ),
    "traffic": (
        lambda keras, app: keras.optimizers.SGD(
            1e-2, momentum=0.9, nesterov=True
        ),
        lambda keras, app: traffic(keras, app),
    ),
}
BOUNDS = ("traffic",)  # of which there is nothing to judge


def traffic(keras, app):
    """Reads five arrays and writes five, as continuous sparsification does."""
    enforcement = app.enforcement

    class Traffic(keras.optimizers.Optimizer):
        def build(self, variables):
            if self.built:
                return
            super().build(variables)
            self.latent = [
                [enforcement.add_latent(self, v, name) for v in variables]
                for name in ("w", "s", "b_w", "b_s")
            ]

        def update_step(self, gradient, variable, learning_rate):
            index = self._get_variable_index(variable)
            latent = [each[index] for each in self.latent]
            enforcement.apply_rule(
                self,
                lambda g, w, s, b, d: (w + s, w + g, s + g, b + g, d + g),
                [gradient, *latent],
                [variable, *latent],
            )

    return Traffic(1e-2)


# ---- worker --------------------------------------------------------------


def build(keras, name):
    if name == "mlp":
        # Smaller than that of training_overhead.py: 3.1 million weights.
        return tasks.perceptron(keras, (1024, 1024))
    return tasks.build(keras, name)


def state_bytes(keras, model):
    convert = keras.ops.convert_to_numpy
    return sum(convert(v).nbytes for v in model.optimizer.variables)


def measure(args, pair):
    import keras

    import keras_app

    baseline, ours = PAIRS[pair]
    makers = {"baseline": baseline, "control": baseline, "ours": ours}
    models = {
        name: tasks.compiled(
            keras, build(keras, args.model), make(keras, keras_app)
        )
        for name, make in makers.items()
    }
    batch_size = BATCH_SIZES[args.model]
    x, y = tasks.data(args.model, args.steps * batch_size)

    def fit(model):
        model.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0)
        tasks.wait(keras, model)

    fits = {
        name: timed(functools.partial(fit, model), args.steps)
        for name, model in models.items()
    }
    seconds = in_turns(fits, args.rounds)
    weights = sum(keras.ops.size(v) for v in models["ours"].trainable_variables)
    return {
        "seconds": seconds,
        "weights": int(weights),
        "bytes": {
            name: state_bytes(keras, models[name])
            for name in ("baseline", "ours")
        },
    }


def work(args):
    import keras

    measured = [pair for pair in PAIRS if pair not in BOUNDS]
    pairs = [args.pair] if args.pair else measured
    done = {pair: measure(args, pair) for pair in pairs}
    done = {"pairs": done, "versions": tasks.keras_versions(keras)}
    args.result.write_text(json.dumps(done))


# ---- the process that starts the workers ---------------------------------


def start_worker(args, backend, model):
    options = {"backend": backend, "model": model}
    options |= {"rounds": args.rounds, "steps": args.steps}
    if args.pair:
        options["pair"] = args.pair
    done = run_worker(__file__, options, KERAS_BACKEND=backend)
    return done and {"backend": backend, "model": model, **done}


def row(backend, model, pair, result):
    seconds = result["seconds"]
    weights = result["weights"]
    return [
        backend,
        f"{model}, {weights / 1e6:.1f}M",
        pair,
        milliseconds(seconds["baseline"]),
        milliseconds(seconds["ours"]),
        spread(ratios(seconds, "ours", "baseline")),
        spread(ratios(seconds, "control", "baseline")),
        " / ".join(
            f"{result['bytes'][name] / weights:.2f}"
            for name in ("ours", "baseline")
        ),
    ]


def verdict(backend, model, pair, result):
    seconds = result["seconds"]
    ratio = statistics.median(ratios(seconds, "ours", "baseline"))
    judged = judge(ratio, ratios(seconds, "control", "baseline"), TARGET)
    return f"{backend}, {model}: {pair} {ratio:.3f}, {judged}"


def parse(argv):
    parser = results.parser_of(
        "Step time and state of the sparse optimizers.",
        rounds=(5, "timed fits of each model"),
        steps=(100, "of a fit"),
    )
    add = parser.add_argument
    add("--model", choices=list(BATCH_SIZES), help="default: both")
    add("--pair", choices=list(PAIRS), help="default: all but the bound")
    return parser.parse_args(argv)


def compare(args):
    found = results.Results(
        args, "optimizer_step", settings=("rounds", "steps")
    )
    for backend in installed(args.backend):
        for model in [args.model] if args.model else BATCH_SIZES:
            name = f"{backend}, {model}, {args.pair or 'all pairs'}"
            found.measure(name, start_worker, args, backend, model)
    rows, sentences = [], []
    for done in found.measured.values():
        for pair, result in done["pairs"].items():
            each = done["backend"], done["model"], pair, result
            rows.append(row(*each))
            if pair not in BOUNDS:
                sentences.append(verdict(*each))
    header = [
        "backend",
        "model",
        "pair",
        "Keras's, ms/step",
        "ours, ms/step",
        "ours / Keras's",
        "control: Keras's / Keras's",
        "state, bytes per weight",
    ]
    sizes = ", ".join(f"{size} ({name})" for name, size in BATCH_SIZES.items())
    note = f"Batch size {sizes}. Ratios are medians over the rounds (min-max)."
    found.finish({"steps": (header, rows)}, note, sentences)


def main(argv=None):
    results.start(parse(argv), work, compare)


if __name__ == "__main__":
    main()
