#!/usr/bin/env python
"""One training on several machines of a Ray cluster, on the JAX backend.

Usage: launch/ray_train.py --workers=N [--address=ADDRESS]
           [--tpu=TOPOLOGY --accelerator=TYPE | --gpus=N | --cpus=N]
           [--retries=N] [--dry-run] -- TRAINING

TRAINING: arguments of python -m keras_app.train; --gin_file and --run_dir,
which all machines must see, among them.

Ray's JaxTrainer starts a process on each machine and has JAX's processes meet.
When a machine is lost, all start again and go on from the checkpoint. The exit
status is that of the training.
"""

import os
import sys

import doors


def main(argv):
    """Runs the command line; returns the exit status."""
    parser = doors.Parser(__file__, __doc__)
    add = parser.add_argument
    add(
        "--workers",
        type=doors.whole,
        required=True,
        metavar="N",
        help="processes: the machines of the TPU, or one for each machine with "
        "GPUs",
    )
    add(
        "--address",
        help="host:port of the cluster's head, or auto on a machine of it; "
        "this machine alone if not given",
    )
    add("--tpu", metavar="TOPOLOGY", help="such as 4x4; with --accelerator")
    add("--accelerator", metavar="TYPE", help="Ray's name, such as TPU-V6E")
    add("--gpus", type=doors.whole, metavar="N", help="of each process")
    add(
        "--cpus",
        type=doors.whole,
        metavar="N",
        help="of each process, on processors alone",
    )
    add(
        "--retries",
        type=int,
        default=10,
        metavar="N",
        help="how often to start again; -1: without end; 10 if not given",
    )
    options, behind = parser.read(argv)
    kinds = [options.tpu, options.gpus, options.cpus]
    if sum(kind is not None for kind in kinds) != 1:
        parser.error("one of --tpu, --gpus and --cpus must be given.")
    if (options.tpu is None) != (options.accelerator is None):
        parser.error("--tpu and --accelerator must be given together.")
    if options.retries < -1:
        parser.error(f"--retries must be >= -1. Received: {options.retries}")
    parser.check_behind("--gin_file", "what to train", behind)
    parser.check_behind("--run_dir", "a folder that all machines see", behind)
    name = "data_parallel" if options.tpu is None else "tpu"
    behind += [f"--gin_file=distribution/{name}.gin", "--resume"]
    scaling, platform = _scaling(options)
    environment = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": platform}
    if options.dry_run:
        said = [f"{key}={value!r}" for key, value in scaling.items()]
        print(f"ray.init({options.address or 'local'!r})")
        print(f"JaxTrainer on ScalingConfig({', '.join(said)})")
        print(f"    {doors.training(behind, **environment)}")
        return 0
    return _run(parser, options, behind, scaling, environment)


def _scaling(options):
    """Arguments of Ray's `ScalingConfig`, and the platform of JAX."""
    found = {"num_workers": options.workers}
    if options.tpu is not None:
        more = {
            "use_tpu": True,
            "topology": options.tpu,
            "accelerator_type": options.accelerator,
        }
        return {**found, **more}, "tpu"
    if options.gpus is not None:
        more = {"use_gpu": True, "resources_per_worker": {"GPU": options.gpus}}
        return {**found, **more}, "cuda"
    return {**found, "resources_per_worker": {"CPU": options.cpus}}, "cpu"


def _run(parser, options, behind, scaling, environment):
    # Ray reports to its makers unless told otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    try:
        import ray
        import ray.cloudpickle
        from ray.train import FailureConfig
        from ray.train import RunConfig
        from ray.train import ScalingConfig
        from ray.train.v2.jax import JaxConfig
        from ray.train.v2.jax import JaxTrainer
    except ImportError as error:
        parser.error(f"Ray Train is needed: pip install 'ray[train]'. {error}")
    for name in ("TFDS_DATA_DIR", "KERAS_APP_TRACEBACK"):
        if name in os.environ:
            environment[name] = os.environ[name]
    try:
        ray.init(
            options.address or "local",
            log_to_driver=True,
            include_dashboard=False if options.address is None else None,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        parser.error(f"--address={options.address}: {error}")
    trainer = JaxTrainer(
        _work,
        train_loop_config={"folder": os.getcwd(), "arguments": behind},
        scaling_config=ScalingConfig(**scaling),
        # Ray has processes meet for TPUs and GPUs alone; on processors, too,
        # it does so where JAX_PLATFORMS says cpu.
        jax_config=JaxConfig(
            use_tpu=options.gpus is None, use_gpu=options.gpus is not None
        ),
        run_config=RunConfig(
            worker_runtime_env={"env_vars": environment},
            failure_config=FailureConfig(max_failures=options.retries),
        ),
    )
    try:
        status, said = trainer.fit().return_value
    except ray.train.TrainingFailedError as error:
        last = str(error).strip().splitlines()[-1]
        print(f"{parser.prog}: {last}", file=sys.stderr)
        return 75
    finally:
        ray.shutdown()
    for text in said:
        print(text, file=sys.stderr)
    return status


def _work(config):
    """What each process does; Ray has initialized JAX before."""
    import os
    import sys

    os.chdir(config["folder"])
    sys.path.insert(0, config["folder"])
    from keras_app import cli
    from keras_app import train

    said = []
    try:
        status = train.main(["keras_app.train", *config["arguments"]])
    except cli.UsageError as error:
        status, said = cli.EXIT_USAGE, [f"keras_app.train: {error}"]
    if status not in (0, 1, 2, 3):
        # Ray starts all again.
        raise RuntimeError(f"keras_app.train ended with exit status {status}")
    return status, said


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
