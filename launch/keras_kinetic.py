#!/usr/bin/env python
"""One training, or a sweep, on TPUs of Google Cloud, by keras-kinetic.

Usage: launch/keras_kinetic.py --accelerator=TYPE --output=gs://BUCKET/FOLDER
           [--grid=GRID ...] [--at_a_time=N] [--spot] [--data=PLACE]
           [--image=IMAGE] [--project=NAME] [--zone=ZONE] [--cluster=NAME]
           [--retries=N] [--dry-run] -- TRAINING

TRAINING: arguments of python -m keras_app.train, --gin_file among them. The
output folder becomes the run folder; with --grid it gets a run folder for each
point. A training that was preempted is sent again, and the same command, given
again, goes on with what the folder holds.

The package, the folder gin/ and the gin files that are named are sent along.
"""

import os
import pathlib
import re
import runpy
import shutil
import sys
import tempfile

import doors

_SENT = ("keras_app", "gin", "launch/kinetic_job.py")
# Without the comment kinetic would choose the version.
_BACKEND = "jax[tpu]>=0.10,<0.11  # kn:keep"


def main(argv):
    """Runs the command line; returns the exit status."""
    parser = doors.Parser(__file__, __doc__)
    add = parser.add_argument
    add(
        "--accelerator",
        required=True,
        metavar="TYPE",
        help="as kinetic names it, such as tpu-v5e-1 or tpu-v6e-8: TPUs of one "
        "machine",
    )
    add(
        "--output",
        required=True,
        metavar="gs://BUCKET/FOLDER",
        help="the run folder; with --grid the folder of all of them",
    )
    add(
        "--grid",
        action="append",
        default=[],
        help="what differs, as for python -m keras_app.sweep; several grids "
        "multiply",
    )
    add(
        "--at_a_time",
        type=doors.whole,
        metavar="N",
        help="how many runs go on at a time; all if not given",
    )
    add("--spot", action="store_true", help="on machines that may be taken")
    add(
        "--data",
        metavar="PLACE",
        help="a folder with data of TFDS, here or at gs://",
    )
    add("--image", help="a container image, with all that keras_app needs")
    for name in ("project", "zone", "cluster"):
        add(f"--{name}", help="as kinetic's profile says if not given")
    add(
        "--retries",
        type=int,
        default=10,
        metavar="N",
        help="how often a training is sent again; 10 if not given",
    )
    options, behind = parser.read(argv)
    if not re.fullmatch(r"gs://[^/]+/.+", options.output):
        parser.error(
            "--output must be gs://BUCKET/FOLDER. Received: "
            f"--output={options.output}"
        )
    if options.retries < 0:
        parser.error(
            f"--retries must be >= 0. Received: --retries={options.retries}"
        )
    parser.check_behind("--gin_file", "what to train", behind)
    for flag in ("--run_dir", "--resume"):
        parser.check_not_behind(flag, "--output says where", behind)
    own = _own_files(parser, behind)
    behind.append("--gin_file=distribution/tpu.gin")
    jobs = _jobs(parser, options.grid, behind)
    how = _how(options)
    if options.dry_run:
        said = [f"{key}={value!r}" for key, value in how.items()]
        print(f"kinetic.run({', '.join(said)})")
        for label, arguments in jobs:
            folder = "/".join(filter(None, (options.output.rstrip("/"), label)))
            arguments = [*arguments, f"--run_dir={folder}", "--resume"]
            print(f"    {doors.training(arguments, KERAS_BACKEND='jax')}")
        return 0
    return _run(parser, options, jobs, how, own)


def _own_files(parser, behind):
    """The gin files that are named and lie here; those of gin/ are sent too."""
    named = [
        text.removeprefix("--gin_file=")
        for before, text in zip(["", *behind], behind)
        if text.startswith("--gin_file=") or before == "--gin_file"
    ]
    own = [path for path in map(pathlib.Path, named) if path.is_file()]
    for path in own:
        if path.is_absolute() or ".." in path.parts:
            parser.error(
                "--gin_file must be below the folder where this is started, to "
                f"be sent along. Received: --gin_file={path}"
            )
    return own


def _jobs(parser, grids, behind):
    """`[(folder, arguments), ...]`, a training each."""
    if not grids:
        return [("", behind)]
    # The sweep's own, without the package around it, which would import Keras.
    sys.path.insert(0, str(doors.ROOT / "keras_app/experiments/sweep"))
    import grid

    try:
        points = grid.points([grid.parse(text) for text in grids])
    except ValueError as error:
        parser.error(str(error))
    bound = [
        [f"--gin_param={name}={value!r}" for name, value in point.items()]
        for point in points
    ]
    return [
        (label, [*behind, *more])
        for label, more in zip(grid.labels(points), bound)
    ]


def _how(options):
    """Arguments of `kinetic.run`."""
    given = {
        "container_image": options.image,
        "project": options.project,
        "zone": options.zone,
        "cluster": options.cluster,
    }
    how = {
        "accelerator": options.accelerator,
        "output_dir": options.output.rstrip("/"),
        "spot": options.spot,
        **{name: value for name, value in given.items() if value is not None},
    }
    if options.data is not None:
        how["volumes"] = {"/data": options.data}
    return how


def _run(parser, options, jobs, how, own):
    try:
        import kinetic
        from kinetic.core.accelerators import parse_accelerator
    except ImportError as error:
        parser.error(f"kinetic is needed: pip install keras-kinetic. {error}")
    try:
        chips = parse_accelerator(options.accelerator, spot=options.spot)
    except ValueError as error:
        parser.error(f"--accelerator: {error}")
    if getattr(chips, "num_nodes", 1) > 1:
        parser.error(
            "--accelerator must be TPUs of one machine. Received: "
            f"--accelerator={options.accelerator}, which has {chips.num_nodes}"
        )
    if "volumes" in how:
        how["volumes"] = {
            place: kinetic.Data(path) for place, path in how["volumes"].items()
        }
        os.environ["TFDS_DATA_DIR"] = "/data"
        how["capture_env_vars"] = ["TFDS_DATA_DIR"]
    with tempfile.TemporaryDirectory() as folder:
        _stage(pathlib.Path(folder), own)
        sys.path.insert(0, folder)
        import kinetic_job

        handle = kinetic.run(**how)(kinetic_job.train).run_async_map(
            jobs,
            input_mode="args",
            max_concurrent=options.at_a_time,
            retries=options.retries,
        )
        results = handle.results(return_exceptions=True)
    worst = 0
    for (label, _), status in zip(jobs, results):
        said = f"exit status {status}"
        if isinstance(status, BaseException):
            status, said = 1, str(status)
        if status:
            where = label or options.output
            print(f"{parser.prog}: {where}: {said}", file=sys.stderr)
        worst = worst or status
    return worst


def _stage(folder, own):
    """Puts what is sent into one folder, which kinetic packs."""
    for name in _SENT:
        source = doors.ROOT / name
        if source.is_dir():
            unread = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=unread)
        else:
            shutil.copy(source, folder)
    for path in own:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path)
    needed = "\n".join([*_requirements(), _BACKEND])
    (folder / "requirements.txt").write_text(f"{needed}\n")


def _requirements():
    """What the package needs, and a run folder in a bucket."""
    import setuptools

    found = {}
    before = setuptools.setup
    setuptools.setup = found.update
    try:
        runpy.run_path(str(doors.ROOT / "setup.py"))
    finally:
        setuptools.setup = before
    return [*found["install_requires"], *found["extras_require"]["cloud"]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
