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
import sys
import time
import tracemalloc

import numpy as np
from training_overhead import hardware
from training_overhead import show
from training_overhead import spread
from training_overhead import versions

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


def measure(scores, sparsity, rounds):
    size = sum(array.size for array in scores.values())
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
    seconds = {name: [] for name in calls}
    names = list(calls)
    for round_number in range(rounds):
        first = round_number % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            result = calls[name]()
            seconds[name].append(time.perf_counter() - start)
            del result
    memory = {
        name: peak_bytes(calls[name]) / joined.nbytes
        for name in ("ours", "whole")
    }
    return seconds, memory


def ratios(seconds, name):
    return [a / b for a, b in zip(seconds["ours"], seconds[name])]


def verdict(holds):
    return "met" if holds else "MISSED"


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
    add("--markdown", action="store_true", help="print a Markdown table")
    args = parser.parse_args(argv)
    if args.rounds < 1 or min(args.sizes) <= 0 or not 0 < args.sparsity < 1:
        parser.error(
            "--rounds and --sizes must be positive and --sparsity in (0, 1)."
        )
    rows, sentences = [], []
    for size in args.sizes:
        for name, draw in DISTRIBUTIONS.items():
            print(f"measuring {size:g}M, {name} ...", file=sys.stderr)
            scores = tensors(draw, int(size * 1e6))
            seconds, memory = measure(scores, args.sparsity, args.rounds)
            rows.append(
                [
                    f"{size:g}M",
                    name,
                    *(
                        f"{1e3 * statistics.median(values):.1f}"
                        for values in seconds.values()
                    ),
                    spread(ratios(seconds, "partition"), 2),
                    spread(ratios(seconds, "whole"), 2),
                    f"{memory['ours']:.2f}",
                    f"{memory['whole']:.2f}",
                ]
            )
            ratio = statistics.median(ratios(seconds, "partition"))
            extra = memory["ours"]
            sentences.append(
                f"{size:g}M, {name}: {ratio:.2f} times np.partition alone, "
                f"target <= {TARGET_TIME}: {verdict(ratio <= TARGET_TIME)}; "
                f"extra memory {extra:.2f} times the scores, target < "
                f"{TARGET_MEMORY:g}: {verdict(extra < TARGET_MEMORY)} (with "
                f"the scores themselves {1 + extra:.2f})"
            )
    print(f"\n{hardware()}\n{versions('numpy', 'keras')}\n")
    print(
        f"Sparsity {args.sparsity:g}, {args.rounds} rounds. Times in ms, "
        "ratios as medians over the rounds (min-max), peak memory in "
        "multiples of the scores' bytes.\n"
    )
    header = [
        "scores",
        "distribution",
        "mask_from_scores",
        "partition",
        "whole",
        "/ partition",
        "/ whole",
        "memory",
        "memory, whole",
    ]
    show(header, rows, args.markdown)
    print()
    bullet = "- " if args.markdown else ""
    for sentence in sentences:
        print(f"{bullet}{sentence}")


if __name__ == "__main__":
    main()
