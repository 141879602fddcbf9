"""The launch scripts: what they would run, and that it is well formed.

No cluster is near. Stand-ins for `sbatch`, `srun`, `kubectl`, ... note how they
were called; a batch script runs with them as it would on two machines.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import jsonschema
import pytest
import yaml

from keras_app import sweep
from keras_app import train
from keras_app.experiments.cli import configuration

pytestmark = pytest.mark.backend_free

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
GRID = "--grid=regularizers.L1.lam=[0.1, 0.3]"
# Options of the script, and what the command itself gets.
CALLS = {
    "local_gpus.sh": (["--gpus=2"], ["--gin_file=rigl.gin"]),
    "slurm.sh": (
        ["--nodes=2", "--gpus=4", "--sbatch=--time=4:00:00"],
        ["--gin_file=rigl.gin", "--run_dir=/shared/rigl"],
    ),
    "slurm_array.sh": (
        [GRID, "--grid=models.mlp.hidden=[(20, 10)]", "--sweep_dir=/shared/lam"]
        + ["--at_a_time=4", "--gpus=1"],
        ["--gin_file=bregman.gin"],
    ),
    "kubernetes.sh": (
        ["--name=rigl", "--image=registry.example.com/a@sha256:b"]
        + ["--claim=shared", "--nodes=3", "--gpus=8"],
        ["--gin_file=rigl.gin", "--run_dir=/runs/rigl"],
    ),
    "tpu_vm.sh": (
        ["--tpu=my-tpu", "--zone=us-central2-b", "--setup=cd app && . env"],
        ["--gin_file=rigl.gin", "--run_dir=/shared/rigl"],
    ),
    "ray.sh": (
        ["--address=10.0.0.1:6379"],
        ["--gin_file=bregman.gin", GRID, "--sweep_dir=/shared/lam"],
    ),
}
SCRIPTS = list(CALLS)
DATA_PARALLEL = "--gin_file=distribution/data_parallel.gin"


# ---- stand-ins ----------------------------------------------------------

RECORDER = """#!{python} -IS
import json, os, sys, time
name = os.path.basename(sys.argv[0])
if name == "python" and sys.argv[1] == "-":
    os.execv({python!r}, sys.argv)
call = [name, *sys.argv[1:]]
said = {{"call": call, "env": dict(os.environ), "stdin": sys.stdin.read()}}
with open({log!r}, "a") as file:
    file.write(json.dumps(said) + "\\n")
if name == "python":
    time.sleep(float(os.environ.get("SECONDS_TO_RUN", 0)))
    sys.exit(int(os.environ.get("STATUS_TO_EXIT_WITH", 0)))
"""
SRUN = """#!/usr/bin/env bash
while [[ $1 == -* ]]; do shift; done
for index in 0 1; do
  SLURM_PROCID=$index SLURM_LOCALID=0 "$@" || exit
done
"""
SCONTROL = """#!/usr/bin/env bash
case $* in
  "show hostnames node[1-2]") printf 'node1\\nnode2\\n' ;;
  *) exec "$@" ;;
esac
"""
OF_A_JOB = {
    "SLURM_JOB_ID": "12345",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_CPUS_PER_TASK": "8",
    "SLURM_ARRAY_JOB_ID": "12340",
    "SLURM_ARRAY_TASK_ID": "1",
}


class Tools:
    """A folder of stand-ins, and what they noted."""

    def __init__(self, path):
        self.path = path
        self.log = path / "log"
        text = RECORDER.format(python=sys.executable, log=str(self.log))
        for name in ("python", "sbatch", "kubectl", "gcloud", "requeue"):
            self.write(name, text)
        self.write("srun", SRUN)
        self.write("scontrol", SCONTROL)

    def write(self, name, text):
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)

    @property
    def calls(self):
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines]

    def called(self, name):
        return [said for said in self.calls if said["call"][0] == name]

    def start(self, *arguments, stdin=None, backend="jax", **environment):
        process = subprocess.Popen(
            ["bash", *arguments],
            cwd=ROOT,
            env={
                "PATH": f"{self.path}:{os.environ['PATH']}",
                "KERAS_BACKEND": backend,
                **environment,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A group of its own, which can be ended as a whole.
            start_new_session=True,
        )
        if stdin is not None:
            process.stdin.write(stdin)
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, *arguments, **options):
        process = self.start(*arguments, **options)
        process.output, process.errors = process.communicate(timeout=60)
        return process

    def launch(self, script, *more, options=None, dry=False, backend="jax"):
        """Runs a script as in `CALLS`; returns what it printed."""
        given, behind = CALLS[script]
        options = given if options is None else options
        flags = [*options, *["--dry-run"] * dry, "--", *behind, *more]
        done = self.run(f"launch/{script}", *flags, backend=backend)
        assert (done.returncode, done.errors) == (0, "")
        return done.output

    def trained(self, script, *more, **options):
        """Runs a script, and what it submits; returns the calls of python."""
        self.launch(script, *more, **options)
        backend = options.get("backend", "jax")
        for said in self.calls:
            name, *rest = said["call"]
            if name == "sbatch":
                done = self.run("-c", said["stdin"], **OF_A_JOB)
                assert (done.returncode, done.errors) == (0, "")
            elif name == "gcloud":
                command = rest[-1].removeprefix("--command=cd app && . env && ")
                assert self.run("-c", command).returncode == 0
            elif name == "kubectl":
                return pods(said["stdin"], backend)
        return self.called("python")


@pytest.fixture
def tools(tmp_path):
    return Tools(tmp_path)


def job_of(manifest):
    service, job = yaml.safe_load_all(manifest)
    return service, job


def pods(manifest, backend):
    """What Kubernetes makes of a manifest: a call for each index."""
    _, job = job_of(manifest)
    [container] = job["spec"]["template"]["spec"]["containers"]
    command = [
        word.replace("$$", "\0").replace("\0", "$")
        for word in container["command"]
    ]
    assert not any(
        re.search(r"(?<!\$)(\$\$)*\$\(", word) for word in container["command"]
    ), "a reference to a variable"
    found = []
    for index in range(job["spec"]["completions"]):
        environment = {}
        for entry in container["env"]:
            value = entry.get("value")
            if value is None:
                assert entry["valueFrom"]["fieldRef"]["fieldPath"] == (
                    "metadata.annotations"
                    "['batch.kubernetes.io/job-completion-index']"
                )
                value = str(index)
            # Kubernetes knows the variables that stand above.
            for name, known in environment.items():
                value = value.replace(f"$({name})", known)
            environment[entry["name"]] = value
        assert environment["KERAS_BACKEND"] == backend
        found.append({"call": command, "env": environment})
    return found


# ---- what is run --------------------------------------------------------

BATCH = """\
#!/usr/bin/env bash
#SBATCH --job-name=keras_app
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@60
#SBATCH --time=4:00:00
set -euo pipefail
export KERAS_BACKEND=jax

# The time is nearly over: wait for more, and go on from the checkpoint.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

port=$((20000 + SLURM_JOB_ID % 10000))
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=$(head -n 1 <<<"$hosts")
export KERAS_DISTRIBUTION_JOB_ADDRESSES="$first:$port"
export KERAS_DISTRIBUTION_NUM_PROCESSES="$SLURM_JOB_NUM_NODES"
# srun does not give a process the job's CPUs by itself.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] ||
  export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"

srun --kill-on-bad-exit=1 bash -c '
  export KERAS_DISTRIBUTION_PROCESS_ID="$SLURM_PROCID"
  # JAX would take but one GPU of the machine where it sees this.
  unset SLURM_LOCALID
  exec "$@"
' process python -m keras_app.train --gin_file=rigl.gin \
--run_dir=/shared/rigl --gin_file=distribution/data_parallel.gin --resume &
wait $!
"""
ARRAY = """\
#!/usr/bin/env bash
#SBATCH --job-name=keras_app
#SBATCH --array=0-1%4
#SBATCH --gpus=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@60
set -euo pipefail
export KERAS_BACKEND=jax

# The time is nearly over: wait for more, and go on from the checkpoint.
trap 'scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"' USR1

case $SLURM_ARRAY_TASK_ID in
  0) set -- --gin_param=regularizers.L1.lam=0.1 \
'--gin_param=models.mlp.hidden=(20, 10)' \
--run_dir=/shared/lam/lam=0.1,hidden=20_10 ;;
  1) set -- --gin_param=regularizers.L1.lam=0.3 \
'--gin_param=models.mlp.hidden=(20, 10)' \
--run_dir=/shared/lam/lam=0.3,hidden=20_10 ;;
esac
python -m keras_app.train --gin_file=bregman.gin "$@" --resume &
wait $!
"""
PRINTED = {
    "local_gpus.sh": "env KERAS_BACKEND=jax python -m keras_app.train "
    "--gin_file=rigl.gin --gin_file=distribution/data_parallel.gin "
    "--gin_param=devices.scope.devices=2\n",
    # The lines that end with a backslash here are one line there.
    "slurm.sh": BATCH,
    "slurm_array.sh": ARRAY,
    "tpu_vm.sh": "gcloud compute tpus tpu-vm ssh my-tpu --zone=us-central2-b "
    "--worker=all '--command=cd app && . env && env KERAS_BACKEND=jax "
    "KERAS_DISTRIBUTION_JOB_ADDRESSES= python -m keras_app.train "
    "--gin_file=rigl.gin --run_dir=/shared/rigl "
    "--gin_file=distribution/tpu.gin --resume'\n",
    "ray.sh": "python -m keras_app.sweep --gin_file=bregman.gin "
    "'--grid=regularizers.L1.lam=[0.1, 0.3]' --sweep_dir=/shared/lam "
    "--address=10.0.0.1:6379 --resume\n",
}


def test_every_script_is_tested():
    found = {path.name for path in LAUNCH.glob("*.sh")} - {"common.sh"}
    assert found == set(SCRIPTS)
    assert all(os.access(LAUNCH / name, os.X_OK) for name in found)


@pytest.mark.parametrize("script", list(PRINTED))
def test_a_dry_run_prints_what_would_run_and_runs_nothing(tools, script):
    assert tools.launch(script, dry=True) == PRINTED[script]
    assert tools.calls == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_dry_run_prints_is_what_runs(tools, script):
    printed = tools.launch(script, dry=True)
    tools.launch(script)
    [said] = tools.calls
    if said["stdin"]:
        assert said["stdin"] == printed
        assert said["call"] in (["sbatch"], ["kubectl", "apply", "-f", "-"])
    else:
        words = shlex.split(printed)
        if words[0] == "env":
            assert said["env"]["KERAS_BACKEND"] == "jax"
            words = words[2:]
        assert said["call"] == words


ODD = [
    "--gin_param=a.b='it''s \"$HOME\" & $(c) $$ `d` \\ * @GPUS@'",
    "--gin_param=a.c=[1, 2]",
    "--gin_param=d=@e/f()",
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_command_gets_the_arguments_unchanged(tools, script):
    calls = tools.trained(script, *ODD)
    assert calls
    for said in calls:
        start = 3 + len(CALLS[script][1])
        assert said["call"][start : start + 3] == ODD


# The file of gin/distribution/ that comes with it, if any.
ADDED = {
    ("local_gpus.sh", "tensorflow"): ["mirrored"],
    ("local_gpus.sh", "jax"): ["data_parallel"],
    ("slurm.sh", "tensorflow"): ["multi_worker"],
    ("slurm.sh", "jax"): ["data_parallel"],
    ("slurm_array.sh", "torch"): [],
    ("kubernetes.sh", "tensorflow"): ["multi_worker"],
    ("kubernetes.sh", "jax"): ["data_parallel"],
    ("tpu_vm.sh", "jax"): ["tpu"],
    ("ray.sh", "torch"): [],
}


@pytest.mark.parametrize("script, backend", list(ADDED))
def test_the_real_parser_takes_the_command_line(tools, script, backend):
    module = sweep if script == "ray.sh" else train
    calls = tools.trained(script, backend=backend)
    assert calls
    for said in calls:
        name = "keras_app.sweep" if module is sweep else "keras_app.train"
        assert said["call"][:3] == ["python", "-m", name]
        assert said["env"]["KERAS_BACKEND"] == backend
        options = module.PARSER.parse_args(said["call"][3:])
        first, *added = options.gin_file
        assert f"--gin_file={first}" in CALLS[script][1]
        assert added == [
            f"distribution/{file}.gin" for file in ADDED[script, backend]
        ]
        assert all(configuration.find(file) for file in options.gin_file)
        assert options.resume == (script != "local_gpus.sh")


def test_gin_takes_the_number_of_gpus(tools):
    gin = configuration.import_gin()
    [said] = tools.trained("local_gpus.sh")
    flags = train.PARSER.parse_args(said["call"][3:])
    gin.clear_config()
    try:
        path = configuration.find(flags.gin_file[1])
        configuration.parse(gin, [path], flags.gin_param)
        devices = gin.query_parameter(
            "keras_app.experiments.devices.scope.devices"
        )
    finally:
        gin.clear_config()
    assert devices == 2


def test_all_gpus_of_a_machine_if_no_number_is_given(tools):
    printed = tools.launch("local_gpus.sh", options=[], dry=True)
    assert printed.split()[5:] == ["--gin_file=rigl.gin", DATA_PARALLEL]


def test_each_job_of_an_array_is_one_point_of_the_grid(tools):
    [said] = tools.trained("slurm_array.sh")
    assert said["call"][3:] == [
        "--gin_file=bregman.gin",
        "--gin_param=regularizers.L1.lam=0.3",
        "--gin_param=models.mlp.hidden=(20, 10)",
        "--run_dir=/shared/lam/lam=0.3,hidden=20_10",
        "--resume",
    ]


# ---- who the processes are ----------------------------------------------


@pytest.mark.parametrize(
    "script, addresses",
    [
        ("slurm.sh", ["node1:22345", "node2:22345"]),
        ("kubernetes.sh", [f"rigl-{i}.rigl:1234" for i in range(3)]),
    ],
)
def test_processes_know_each_other(tools, script, addresses):
    calls = tools.trained(script)
    told = [
        {
            key.removeprefix("KERAS_DISTRIBUTION_"): value
            for key, value in said["env"].items()
            if key.startswith("KERAS_DISTRIBUTION_")
        }
        for said in calls
    ]
    assert told == [
        {
            "JOB_ADDRESSES": addresses[0],
            "NUM_PROCESSES": str(len(addresses)),
            "PROCESS_ID": str(index),
        }
        for index in range(len(addresses))
    ]
    tools.log.unlink()
    calls = tools.trained(script, backend="tensorflow")
    assert [json.loads(said["env"]["TF_CONFIG"]) for said in calls] == [
        {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": index},
        }
        for index in range(len(addresses))
    ]


def test_a_process_of_slurm_has_the_cpus_and_all_gpus_of_its_job(tools):
    for said in tools.trained("slurm.sh"):
        assert said["env"]["SRUN_CPUS_PER_TASK"] == "8"
        # With it, JAX hides all GPUs but one.
        assert "SLURM_LOCALID" not in said["env"]


def test_machines_of_a_tpu_find_each_other_by_themselves(tools):
    [said] = tools.trained("tpu_vm.sh")
    assert said["env"]["KERAS_DISTRIBUTION_JOB_ADDRESSES"] == ""
    assert "KERAS_DISTRIBUTION_NUM_PROCESSES" not in said["env"]


# ---- batch scripts ------------------------------------------------------

BATCHES = [("slurm.sh", "12345"), ("slurm_array.sh", "12340_1")]


@pytest.mark.parametrize("script, job", BATCHES)
def test_a_job_whose_time_is_nearly_over_is_queued_again(tools, script, job):
    batch = tools.launch(script, dry=True)
    process = tools.start("-c", batch, SECONDS_TO_RUN="60", **OF_A_JOB)
    try:
        patience = time.monotonic() + 30
        while not tools.called("python") and time.monotonic() < patience:
            time.sleep(0.02)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=30) != 0
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert len(tools.called("python")) == 1
    assert [said["call"] for said in tools.called("requeue")] == [
        ["requeue", job]
    ]


@pytest.mark.parametrize("script, job", BATCHES)
def test_the_exit_status_of_a_job_is_the_trainings(tools, script, job):
    batch = tools.launch(script, dry=True)
    done = tools.run("-c", batch, STATUS_TO_EXIT_WITH="3", **OF_A_JOB)
    assert done.returncode == 3


# ---- the manifest -------------------------------------------------------

NAME = {"type": "string", "pattern": "^[a-z]([a-z0-9-]*[a-z0-9])?$"}
COUNT = {"type": "integer", "minimum": 0}


def fields(**properties):
    """All of these fields, and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def listed(items):
    return {"type": "array", "items": items, "minItems": 1}


VARIABLE = {
    "anyOf": [
        fields(name={"type": "string"}, value={"type": "string"}),
        fields(
            name={"type": "string"},
            valueFrom=fields(fieldRef=fields(fieldPath={"type": "string"})),
        ),
    ]
}
CONTAINER = fields(
    name=NAME,
    image={"type": "string"},
    command=listed({"type": "string"}),
    env=listed(VARIABLE),
    resources=fields(limits={"type": "object", "additionalProperties": COUNT}),
    volumeMounts=listed(fields(name=NAME, mountPath={"type": "string"})),
)
POD = fields(
    subdomain=NAME,
    # Kubernetes takes a podFailurePolicy with no other.
    restartPolicy={"const": "Never"},
    containers=listed(CONTAINER),
    volumes=listed(
        fields(name=NAME, persistentVolumeClaim=fields(claimName=NAME))
    ),
)
RULE = {
    "anyOf": [
        fields(
            action={"const": "Ignore"},
            onPodConditions=listed(fields(type={"const": "DisruptionTarget"})),
        ),
        fields(
            action={"const": "FailJob"},
            onExitCodes=fields(
                containerName=NAME,
                operator={"enum": ["In", "NotIn"]},
                values=listed({"type": "integer", "minimum": 1}),
            ),
        ),
    ]
}
JOB = fields(
    apiVersion={"const": "batch/v1"},
    kind={"const": "Job"},
    metadata=fields(name=NAME),
    spec=fields(
        completionMode={"const": "Indexed"},
        completions=COUNT,
        parallelism=COUNT,
        backoffLimit=COUNT,
        podFailurePolicy=fields(rules=listed(RULE)),
        template=fields(spec=POD),
    ),
)
SERVICE = fields(
    apiVersion={"const": "v1"},
    kind={"const": "Service"},
    metadata=fields(name=NAME),
    spec=fields(
        clusterIP={"const": "None"},
        publishNotReadyAddresses={"const": True},
        selector=fields(**{"job-name": NAME}),
    ),
)


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_the_manifest_has_the_fields_of_a_job_and_a_service(tools, backend):
    printed = tools.launch("kubernetes.sh", dry=True, backend=backend)
    assert tools.calls == []
    assert not re.search("@[A-Z]+@", printed)
    service, job = job_of(printed)
    jsonschema.validate(service, SERVICE)
    jsonschema.validate(job, JOB)


def test_the_pods_of_the_manifest_find_each_other_and_their_files(tools):
    service, job = job_of(tools.launch("kubernetes.sh", dry=True))
    assert service["metadata"]["name"] == job["metadata"]["name"] == "rigl"
    assert service["spec"]["selector"] == {"job-name": "rigl"}
    spec = job["spec"]
    assert spec["completions"] == spec["parallelism"] == 3
    assert spec["backoffLimit"] == 18
    pod = spec["template"]["spec"]
    assert pod["subdomain"] == "rigl"
    [container], [volume] = pod["containers"], pod["volumes"]
    assert container["image"] == "registry.example.com/a@sha256:b"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert volume["persistentVolumeClaim"] == {"claimName": "shared"}
    assert container["volumeMounts"] == [
        {"name": volume["name"], "mountPath": "/runs"}
    ]
    _, exit_codes = spec["podFailurePolicy"]["rules"]
    assert exit_codes["onExitCodes"]["containerName"] == container["name"]


# ---- mistakes, help, lint, docs -----------------------------------------


@pytest.mark.parametrize(
    "command, message",
    [
        ("local_gpus.sh", "--gin_file must be given behind --: what to train."),
        (
            "local_gpus.sh --gpus=two -- --gin_file=a.gin",
            "--gpus must be a whole number, at least 1. Received: --gpus=two",
        ),
        (
            "local_gpus.sh --gin_file=a.gin",
            "unexpected argument: --gin_file=a.gin (what the command itself "
            "takes goes behind --)",
        ),
        ("slurm.sh", "--nodes must be given: how many machines."),
        (
            "slurm.sh --nodes=2 -- --gin_file=a.gin",
            "--run_dir must be given behind --: a folder that all machines "
            "see.",
        ),
        ("slurm_array.sh", "--grid must be given: what to vary."),
        (
            "slurm_array.sh --grid=a.b=[1]",
            "--sweep_dir must be given: a folder that all machines see.",
        ),
        (
            "slurm_array.sh --grid=a.b=1 --sweep_dir=s -- --gin_file=a.gin",
            "`--grid` must be a binding and a list of Python literals, such as "
            '"regularizers.L1.lam=[0.1, 0.3]". Received: --grid=a.b=1',
        ),
        ("kubernetes.sh", "--name must be given: what the Job is called."),
        ("kubernetes.sh --name=a", "--image must be given: what the pods run."),
        (
            "kubernetes.sh --name=a --image=b",
            "--claim must be given: the volume claim for /runs.",
        ),
        (
            "kubernetes.sh --name=a --image=b --claim=c",
            "--nodes must be given: how many pods.",
        ),
        ("tpu_vm.sh", "--tpu must be given: the name of the TPU VM."),
        ("tpu_vm.sh --tpu=a", "--zone must be given: where the TPU VM is."),
        (
            "ray.sh",
            "--address must be given: host:port of the head of the cluster, "
            "or auto.",
        ),
        (
            "ray.sh --address=auto -- --gin_file=a.gin --grid=a.b=[1]",
            "--sweep_dir must be given behind --: a folder that all machines "
            "see.",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(tools, command, message):
    script, *arguments = command.split()
    done = tools.run(f"launch/{script}", *arguments)
    assert done.returncode == 2
    assert done.output == ""
    assert done.errors == f"launch/{script}: {message}\n"
    assert tools.calls == []


@pytest.mark.parametrize(
    "script, known",
    [
        ("local_gpus.sh", "tensorflow jax"),
        ("slurm.sh", "tensorflow jax"),
        ("kubernetes.sh", "tensorflow jax"),
        ("slurm_array.sh", "tensorflow jax torch"),
        ("tpu_vm.sh", "jax"),
    ],
)
def test_a_backend_that_cannot_do_it_is_refused(tools, script, known):
    options, behind = CALLS[script]
    done = tools.run(f"launch/{script}", *options, "--", *behind, backend="x")
    assert done.returncode == 2
    assert done.errors == (
        f"launch/{script}: KERAS_BACKEND must be one of: {known}. Received: x\n"
    )
    assert tools.calls == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_option(tools, script):
    done = tools.run(f"launch/{script}", "--help")
    assert (done.returncode, done.errors) == (0, "")
    assert f"launch/{script}" in done.output
    text = "".join((LAUNCH / x).read_text() for x in (script, "common.sh"))
    options = re.findall(r"^ {4,}(--[\w-]+)(?:=\*)?\)", text, re.MULTILINE)
    assert "--dry-run" in options
    for option in {*options} - {"--help"}:
        assert option in done.output
    assert "shellcheck" not in done.output


@pytest.mark.parametrize("script", [*SCRIPTS, "common.sh"])
def test_bash_can_read_the_script(tools, script):
    done = tools.run("-n", f"launch/{script}")
    assert (done.returncode, done.errors) == (0, "")


def test_shellcheck_finds_nothing(tools):
    beside = pathlib.Path(sys.executable).with_name("shellcheck")
    shellcheck = shutil.which("shellcheck") or shutil.which(beside)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    batches = []
    for script in ("slurm.sh", "slurm_array.sh"):
        for backend in ("tensorflow", "jax"):
            path = tools.path / f"{backend}_{script}"
            path.write_text(tools.launch(script, dry=True, backend=backend))
            batches.append(path)
    sources = ["--external-sources", "--source-path=SCRIPTDIR"]
    for arguments in (
        [*sources, *sorted(LAUNCH.glob("*.sh"))],
        # In '...' the process on each machine expands, as it should.
        ["--severity=warning", *batches],
    ):
        done = subprocess.run(
            [shellcheck, *arguments], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, "")


def test_the_commands_of_the_docs_are_accepted(tools):
    text = (ROOT / "docs" / "launch.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    seen = set()
    for block in blocks:
        script = re.search(r"launch/(\w+\.sh)", block)
        # Those in Python have tests of their own.
        if script is None:
            continue
        seen.add(script.group(1))
        assert block.count(" -- ") == 1
        done = tools.run("-c", block.replace(" -- ", " --dry-run -- "))
        assert (done.returncode, done.errors) == (0, "")
        assert "keras_app." in done.output
    assert seen == set(SCRIPTS)
    assert tools.calls == []
