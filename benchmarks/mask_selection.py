"""Time and memory of exact global mask selection, against `np.partition`.

    python benchmarks/mask_selection.py
    python benchmarks/mask_selection.py --sizes 1 25 --sparsity 0.5

`mask_from_scores` prunes several tensors with one threshold, here 90 % of all
their float32 scores. It takes turns with two comparators:

- partition: `np.partition` alone, of scores that lie concatenated already. It
  yields a threshold and no masks.
- whole: concatenate, `np.partition`, compare. It yields masks, but prunes every
  score that ties with the threshold.

Memory is the peak of what NumPy allocates during a call, the masks that are
returned included, as a multiple of the bytes of the scores.
"""

import argparse
import gc
import statistics
import tracemalloc

import numpy as np
import results
from measure import in_turns
from measure import met
from measure import milliseconds
from measure import ratios
from measure import spread
from measure import timed

from keras_app.masks import mask_from_scores

# The tensors of a network differ in size; the largest holds half.
SHARES = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)

TARGET_TIME = 1.5
TARGET_MEMORY = 2.0


def half_normal(generator, size):
    """Magnitudes of normal weights: what a network starts with."""
    return np.abs(generator.standard_normal(size, dtype=np.float32))


def all_equal(generator, size):
    """One value: nothing but ties."""
    return np.ones(size, np.float32)


def zeros_60(generator, size):
    """60 % zeros, as in a network that was pruned before."""
    scores = half_normal(generator, size)
    scores[generator.random(size, dtype=np.float32) < 0.6] = 0
    return scores


def two_values(generator, size):
    """The threshold on the border of two values: no sample can tell them."""
    return (generator.random(size, dtype=np.float32) < 0.1).astype(np.float32)


DISTRIBUTIONS = {
    "half-normal": half_normal,
    "all equal": all_equal,
    "60 % zeros": zeros_60,
    "two values": two_values,
}


def tensors(draw, size):
    """`{name: scores}` of `size` entries together."""
    generator = np.random.default_rng(0)
    sizes = [int(share * size) for share in SHARES]
    sizes.append(size - sum(sizes))
    return {
        f"kernel_{i}": draw(generator, count) for i, count in enumerate(sizes)
    }


def whole(scores, k):
    """Concatenate, partition, compare."""
    flat = np.concatenate(list(scores.values()))
    threshold = np.partition(flat, k - 1)[k - 1]
    return {name: array > threshold for name, array in scores.items()}


def peak_bytes(call):
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    result = call()
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    del result
    return peak


def measure(size, name, args):
    size, sparsity = int(size * 1e6), args.sparsity
    scores = tensors(DISTRIBUTIONS[name], size)
    k = int(sparsity * size)
    joined = np.concatenate(list(scores.values()))
    calls = {
        "ours": lambda: mask_from_scores(scores, sparsity),
        "partition": lambda: np.partition(joined, k - 1),
        "whole": lambda: whole(scores, k),
    }
    kept = sum(np.count_nonzero(mask) for mask in calls["ours"]().values())
    if kept != size - k:
        raise RuntimeError(f"{kept} scores are kept instead of {size - k}.")
    timing = {name: timed(call) for name, call in calls.items()}
    seconds = in_turns(timing, args.rounds, warm_up=False)
    memory = {
        name: peak_bytes(calls[name]) / joined.nbytes
        for name in ("ours", "whole")
    }
    return {
        "scores": f"{size / 1e6:g}M",
        "distribution": name,
        "seconds": seconds,
        "memory": memory,
    }


def row(found):
    return [
        found["scores"],
        found["distribution"],
        *map(milliseconds, found["seconds"].values()),
        spread(ratios(found["seconds"], "ours", "partition"), 2),
        spread(ratios(found["seconds"], "ours", "whole"), 2),
        *(f"{found['memory'][name]:.2f}" for name in ("ours", "whole")),
    ]


def sentence(found):
    ratio = statistics.median(ratios(found["seconds"], "ours", "partition"))
    extra = found["memory"]["ours"]
    return (
        f"{found['scores']}, {found['distribution']}: {ratio:.2f} times "
        f"np.partition alone, target <= {TARGET_TIME}: "
        f"{met(ratio <= TARGET_TIME)}; extra memory {extra:.2f} times the "
        f"scores, target < {TARGET_MEMORY:g}: {met(extra < TARGET_MEMORY)} "
        f"(with the scores themselves {1 + extra:.2f})"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description="Exact global mask selection against np.partition."
    )
    add = parser.add_argument
    add(
        "--sizes",
        type=float,
        nargs="+",
        default=[1, 25, 100],
        metavar="M",
        help="numbers of scores, in millions",
    )
    add("--rounds", type=int, default=5)
    add("--sparsity", type=float, default=0.9)
    results.options(parser)
    args = parser.parse_args(argv)
    if args.rounds < 1 or min(args.sizes) <= 0 or not 0 < args.sparsity < 1:
        parser.error(
            "--rounds and --sizes must be positive and --sparsity in (0, 1)."
        )
    found = results.Results(
        *(args, "mask_selection"),
        packages=("numpy", "keras"),
        settings=("rounds", "sparsity"),
    )
    for size in args.sizes:
        for name in DISTRIBUTIONS:
            found.measure(f"{size:g}M, {name}", measure, size, name, args)
    header = ["scores", "distribution", "mask_from_scores", "partition"]
    header += ["whole", "/ partition", "/ whole", "memory", "memory, whole"]
    cells = found.measured.values()
    found.finish(
        {"selection": (header, [row(cell) for cell in cells])},
        "Times in ms, ratios as medians over the rounds (min-max), peak memory "
        "in multiples of the scores' bytes.",
        [sentence(cell) for cell in cells],
    )


if __name__ == "__main__":
    main()
