"""What a run folder in S3 costs beside one on a disk.

A run of `app.gin`, and checkpoints of 24 million numbers, with the folder on a
disk and in S3: a server of `moto` on this machine, so that no network is
measured. Pinned to a core:

    PYTHONPATH=. python benchmarks/run_folder.py --results docs/results/data
"""

import argparse
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import results

from tests import s3

_RUN = (
    "--gin_file=app.gin",
    "--gin_param=experiments.Anytime.methods=('app',)",
    "--gin_param=experiments.Anytime.epochs=5",
    "--gin_param=data.Megabatches.num_megabatches=2",
)


def run(folder):
    """Seconds of a whole run, and those of them that it computed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "keras_app.train", *_RUN, f"--run_dir={folder}"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, used


def checkpoint(folder, numbers):
    """Seconds that a training waits, until it is written, and to read it."""
    from keras_app.experiments.run.folder import RunFolder

    folder = RunFolder(folder)
    folder.begin()
    arrays = {"a": np.random.default_rng(0).normal(size=numbers).astype("f4")}
    start = time.perf_counter()
    folder.save_checkpoint(arrays, {})
    held = time.perf_counter() - start
    folder.flush()
    written = time.perf_counter() - start
    start = time.perf_counter()
    folder.load_checkpoint()
    read = time.perf_counter() - start
    folder.release()
    return held, written, read


def measure(rounds, numbers):
    """`{"rounds": {place: [figures]}}`, the places in turns."""
    figures = {"disk": [], "S3": []}
    with tempfile.TemporaryDirectory() as disk:
        log = pathlib.Path(disk) / "puts.log"
        with s3.serving(log) as environment:
            os.environ.update(environment)
            log.write_text("")  # what the server put at its start
            for turn in range(rounds):
                for where, place in (
                    ("disk", f"{disk}/{turn}"),
                    ("S3", f"s3://{s3.BUCKET}/{turn}"),
                ):
                    times = run(f"{place}/run")
                    puts = log.read_text().count("begun")
                    times += checkpoint(f"{place}/large", numbers)
                    figures[where].append((*times, puts))
                    log.write_text("")
    return {"rounds": figures}


def table(rounds):
    header = [
        "folder",
        "run, s",
        "of processor, s",
        "training held, s",
        "written after, s",
        "read in, s",
        "objects put",
    ]
    rows = []
    for where, figures in rounds.items():
        cells = []
        for column in zip(*figures):
            middle = statistics.median(column)
            text = f"{middle:.3g}"
            if min(column) != max(column):
                text += f" ({min(column):.3g}-{max(column):.3g})"
            cells.append(text)
        rows.append([where, *cells])
    return header, rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results.options(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--numbers", type=int, default=24_000_000)
    args = parser.parse_args(argv)
    packages = ("keras", keras.config.backend(), "fsspec", "s3fs")
    found = results.Results(args, "run_folder", packages, ("rounds", "numbers"))
    found.measure("places", measure, args.rounds, args.numbers)
    found.finish({"places": table(found.measured["places"]["rounds"])})


if __name__ == "__main__":
    main()
