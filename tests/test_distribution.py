"""Several devices and machines: the same masks and weights as on one.

Devices are parts of a CPU, two on TensorFlow and four on JAX, in a process of
its own, because they must be there before the backend starts. Machines are two
processes that meet on the loopback.
"""

import contextlib
import inspect
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

import keras
import numpy as np
import pytest

from keras_app import enforcement
from keras_app import host
from keras_app import pruners
from keras_app import schedules
from keras_app.experiments import devices
from keras_app.experiments.devices import processes
from keras_app.experiments.run import interruption
from tests import methods
from tests.helpers import BACKEND
from tests.helpers import jax_only
from tests.helpers import not_torch
from tests.helpers import ROOT
from tests.helpers import run
from tests.helpers import tensorflow_only

# ---- every method, on one device and on several -------------------------

BATCH = 8
# On JAX the last batch of 6 is more than the devices can share evenly.
COUNT = 30 if BACKEND == "jax" else 32


def data(count=COUNT):
    random = np.random.default_rng(0)
    x = random.standard_normal((count, 8)).astype("float32")
    return x, (np.arange(count) % 4).astype("int32")


def perceptron():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    x = keras.layers.Dense(16, activation="tanh", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(4, name="head")(x))


def compiled(optimizer):
    model = perceptron()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    return model


def fit(model, *callbacks, epochs=2):
    x, y = data()
    model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )


SCHEDULES = {
    "gradual": lambda: schedules.PolynomialDecay(0.0, 0.7, 0, 6, frequency=2),
    "constant": lambda: schedules.ConstantSparsity(0.6, 0, 8, frequency=2),
    "once": lambda: schedules.OneShot(0.6, step=2),
    "cyclic": lambda: schedules.CyclicSparsity(0.0, 0.6, 1, 6, period=2),
    "megabatches": lambda: schedules.AnytimeSchedule(2, level=4),
}
ARGUMENTS = {
    **dict.fromkeys(["magnitude", "acdc"], {"scope": "global"}),
    "grasp": {"samples_per_class": 4},
    "ste": {"lam": 0.01},
    "top_kast": {"backward_sparsity": 0.3, "lam": 0.01},
}


def pruner_of(name):
    row = methods.PRUNERS[name]
    schedule = SCHEDULES[row.schedule]()
    return row.make(schedule, [data()], **ARGUMENTS.get(name, {}))


# Split weights, too: one method of each kind, and what reads gradients.
SPLIT = ["magnitude", "snip", "rigl", "linbreg", "continuous_sparsification"]


def results(names):
    """`{method: (weights, masks)}` in the distribution that is open."""
    found = {}
    model = compiled(keras.optimizers.Adam(0.02))
    start = None
    for name in names:
        if name not in methods.PRUNERS:
            continue
        pruner = pruner_of(name)
        pruner.set_model(model)
        if start is None:
            state = [*model.variables, *model.optimizer.variables]
            start = [np.array(keras.ops.convert_to_numpy(v)) for v in state]
        # One model for all, because compiling its step takes the time.
        for variable, value in zip(state, start):
            variable.assign(value)
        for _ in range(2 if name == "app" else 1):
            fit(model, pruner)
        check_copies(model)
        found[name] = model.get_weights(), list(pruner.masks.values())
    for name in names:
        if name not in methods.OPTIMIZERS:
            continue
        optimizer, callbacks = methods.OPTIMIZERS[name].make()
        model = compiled(optimizer)
        fit(model, *callbacks)
        check_copies(model)
        masks = []
        if methods.OPTIMIZERS[name].sparse:
            assert 0 < model.optimizer.density < 1
            masks = [layer.get_weights()[0] != 0 for layer in model.layers[1:]]
        found[name] = model.get_weights(), masks
    return found


ALL_METHODS = [*methods.PRUNERS, *methods.OPTIMIZERS]
METHODS = {
    "mirrored": ALL_METHODS,
    "data_parallel": ALL_METHODS,
    "model_parallel": SPLIT,
}


def check_copies(model):
    """Every device of an open distribution holds the same weights."""
    if BACKEND == "tensorflow":
        strategy = model.distribute_strategy
        for variable in model.variables:
            first, *others = strategy.experimental_local_results(variable.value)
            assert len(others) == strategy.num_replicas_in_sync - 1
            for other in others:
                np.testing.assert_array_equal(first.numpy(), other.numpy())
    elif keras.distribution.distribution() is not None:
        for variable in [*model.variables, *model.optimizer.variables]:
            assert len(variable.value.sharding.device_set) == 4, variable.path


def compare(one, several):
    weights, masks = one
    for a, b in zip(masks, several[1], strict=True):
        np.testing.assert_array_equal(a, b)
    if masks:
        kept = sum(int(mask.sum()) for mask in masks)
        assert 0 < kept < sum(mask.size for mask in masks), "no case: dense"
    for a, b in zip(weights, several[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def from_gin(folder, name):
    """The experiment of a gin file, with the file that distributes it."""
    from keras_app import train

    def case():
        run_dir = pathlib.Path(folder) / name
        status = train.main(
            [
                "train",
                "--gin_file=app.gin",
                "--gin_file=models/mlp.gin",
                f"--gin_file=distribution/{name}.gin",
                "--gin_param=Anytime.epochs=1",
                "--gin_param=Anytime.milestones=()",
                "--gin_param=Anytime.methods=('app',)",
                "--gin_param=data.Megabatches.num_megabatches=2",
                "--gin_param=data.Megabatches.megabatch_size=200",
                f"--run_dir={run_dir}",
            ]
        )
        assert status == 0
        summary = json.loads((run_dir / "summary.json").read_text())
        assert abs(summary["effective_density"] - 0.8**10) < 1e-3
        config = (run_dir / "config.gin").read_text()
        assert f"devices.scope.name = '{name}'" in config

    return case


def a_new_session_is_still_distributed(arguments):
    with devices.scope(**arguments):
        devices.clear_session()
        model = compiled("sgd")
        fit(model, epochs=1)
        check_copies(model)
        if BACKEND == "tensorflow":
            assert model.distribute_strategy.num_replicas_in_sync == 2
        else:
            assert keras.distribution.distribution() is not None


def in_this_process(scopes, folder):
    """Runs all cases; prints `{case: "ok" or what went wrong}`."""
    one = results(ALL_METHODS)
    said = {}

    def note(name, case, *arguments):
        try:
            case(*arguments)
            said[name] = "ok"
        except Exception:
            said[name] = traceback.format_exc()

    for name, arguments in scopes.items():
        with devices.scope(name, **arguments):
            several = results(METHODS[name])
        for method in several:
            note(f"{name} {method}", compare, one[method], several[method])
    name, arguments = next(iter(scopes.items()))
    note("gin", from_gin(folder, name))
    note(
        "session",
        a_new_session_is_still_distributed,
        {"name": name, **arguments},
    )
    print(json.dumps(said))


FORCED = {
    "tensorflow": """
        import sys
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
        from tests import test_distribution as tests
        tests.in_this_process({"mirrored": {}}, %r)
    """,
    "jax": """
        from tests import test_distribution as tests
        layout = {
            "hidden/kernel": (None, "model"),
            "hidden/bias": ("model",),
            "head/kernel": ("model", None),
        }
        split = {"model_devices": 2, "layout": layout}
        tests.in_this_process(
            {"data_parallel": {}, "model_parallel": split}, %r
        )
    """,
}


@pytest.fixture(scope="module")
def forced(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("forced"))
    environment = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    lines = run(
        FORCED[BACKEND] % folder, **environment if BACKEND == "jax" else {}
    )
    return json.loads(lines[-1])


def cases():
    names = {"tensorflow": ["mirrored"], "jax": list(METHODS)[1:]}
    return [
        (name, method)
        for name in names.get(BACKEND, ())
        for method in METHODS[name]
    ]


@pytest.mark.parametrize("name, method", cases())
def test_several_devices_agree_with_one_under(forced, name, method):
    assert forced[f"{name} {method}"] == "ok", forced[f"{name} {method}"]


@not_torch
def test_a_gin_file_distributes_an_experiment(forced):
    assert forced["gin"] == "ok", forced["gin"]


@not_torch
def test_a_new_session_is_still_distributed(forced):
    assert forced["session"] == "ok", forced["session"]


# ---- several processes --------------------------------------------------


def trained(folder, **arguments):
    """An experiment as JSON; only the first process writes to the folder."""
    from keras_app import experiments
    from keras_app.experiments import data as data_lib

    x, y = data(arguments.pop("count", COUNT))
    parts = data_lib.Holdout((x, y), 0.25, test=(x, y), batch_size=BATCH)

    def network(input_shape, num_classes, mean, std, seed):
        return perceptron()

    def weights_and_masks(model):
        masks = enforcement.masks_of(model).values()
        return {
            "weights": [weight.tolist() for weight in model.get_weights()],
            "masks": [mask.tolist() for mask in masks],
        }

    resume = arguments.pop("resume", False)
    return experiments.Train(
        parts,
        network,
        **{"epochs": 2, **arguments},
        pruner=pruners.MagnitudePruner(
            schedules.PolynomialDecay(0.0, 0.7, 0, 4, frequency=2)
        ),
        discover=weights_and_masks,
    ).run(folder, resume)


def refusal_of(call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except ValueError as error:
        return str(error)


def in_one_of_two(scope, folder):
    """Trains; meets what must be refused; the first process leaves alone."""
    processes.LAST_WORDS_SECONDS = 0
    with devices.leaving(together=(0,)), devices.scope(**scope):
        chief = devices.is_chief()
        summary = trained(folder)
        summary["disagreement"] = refusal_of(
            devices.check_agreement, "number", int(chief)
        )
        if chief:
            pathlib.Path(folder, "summary.json").unlink()
        devices.anywhere(False)
        summary["changed"] = refusal_of(trained, folder, epochs=3, resume=True)
        print(json.dumps(summary), flush=True)
        with tempfile.TemporaryFile() as native:
            os.dup2(native.fileno(), 2)
        devices.explain_aborts(end_as_lost)
        devices.anywhere(False)
        if chief:
            sys.exit(4)
        try:
            if BACKEND == "jax":
                # No computation will say that the first process is gone.
                time.sleep(100)
            devices.anywhere(False)
        except Exception as error:
            assert processes.means_lost(error)
            end_as_lost("Python heard of it.")


def end_as_lost(reason):
    print(reason, flush=True)
    os._exit(75)


WORKER = """
import json, sys
from tests import test_distribution as tests
tests.in_one_of_two(json.loads(sys.argv[1]), sys.argv[2])
"""


def two_processes(tmp_path, scopes, environments):
    """Starts both; returns their summaries and what else they printed."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(scope), str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "KERAS_BACKEND": BACKEND, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for scope, environment in zip(scopes, environments)
    ]
    try:
        outputs = [process.communicate(timeout=400) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, status, (_, errors) in zip(processes, (4, 75), outputs):
        assert process.returncode == status, errors[-3000:]
    lines = [output.strip().splitlines() for output, _ in outputs]
    heard = lines[1].pop()
    assert heard == {
        "jax": "another process of this training is gone.",
        "tensorflow": "Python heard of it.",
    }.get(BACKEND)
    return [json.loads(found[-1]) for found in lines], lines


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def check_two(tmp_path, scopes, environments):
    together = tmp_path / "together"
    (first, second), lines = two_processes(together, scopes, environments)
    alone = trained(tmp_path / "alone")
    for one in (second, alone):
        assert one["masks"] == first["masks"]
        for a, b in zip(one["weights"], first["weights"], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        assert one["accuracy"] == first["accuracy"]
    assert second["weights"] == first["weights"]
    assert first["effective_density"] == pytest.approx(0.3, abs=0.01)
    for each in (first, second):
        assert "same number" in each["disagreement"]
        assert "Received: [1, 0]" in each["disagreement"]
        assert "another configuration" in each["changed"]
        assert "epochs: 2 -> 3" in each["changed"]
    # Written once, printed once.
    log = (together / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in log] == [0, 1]
    said = ["\n".join(found[:-1]) for found in lines]
    assert "epoch 2/2" in said[0]
    assert "epoch" not in said[1]


@jax_only
def test_two_processes_agree_with_one_on_jax(tmp_path):
    (port,) = free_ports(1)
    # One is told by arguments who it is, the other by Keras's variables.
    address = f"127.0.0.1:{port}"
    scopes = [
        {"job_addresses": address, "num_processes": 2, "process_id": 0},
        {},
    ]
    told = {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
        "KERAS_DISTRIBUTION_PROCESS_ID": "1",
    }
    check_two(
        tmp_path,
        [{"name": "data_parallel", **scope} for scope in scopes],
        [{"JAX_PLATFORMS": "cpu"}, {"JAX_PLATFORMS": "cpu", **told}],
    )


@tensorflow_only
def test_two_mended_workers_agree_with_one(tmp_path):
    scopes = [{"name": "multi_worker", "mend_keras": True}] * 2
    check_two(tmp_path, scopes, variables())


DISTRIBUTED = {
    "jax": ("data_parallel", False),
    "tensorflow": ("multi_worker", True),
}.get(BACKEND)


def variables():
    """What says to two processes who they are."""
    ports = free_ports(2)
    if BACKEND == "jax":
        return [
            {
                "JAX_PLATFORMS": "cpu",
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{ports[0]}",
                "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
                "KERAS_DISTRIBUTION_PROCESS_ID": str(index),
            }
            for index in range(2)
        ]
    workers = [f"127.0.0.1:{port}" for port in ports]
    return [
        {
            "TF_CONFIG": json.dumps(
                {
                    "cluster": {"worker": workers},
                    "task": {"type": "worker", "index": index},
                }
            )
        }
        for index in range(2)
    ]


# ---- one of them is sent SIGTERM -----------------------------------------


class Slow(keras.callbacks.Callback):
    """Says that the third step has come; counts those that were begun."""

    steps = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.steps += 1
        if self.steps == 3:
            print("now", flush=True)
        time.sleep(0.2)


def until_sigterm(scope, folder):
    """Trains for an epoch of 15 seconds, or until it is stopped."""
    slow = Slow()
    # Of a machine that is busy with other tests.
    interruption._UNWIND_SECONDS = 100
    with devices.leaving(together=(75,)):
        with interruption.noticing_sigterm(last_words=lambda: os._exit(1)):
            try:
                with devices.scope(**scope):
                    interruption.among(devices.board())
                    trained(folder, count=800, callbacks=[slow], epochs=1)
            except interruption.Interrupted:
                print(slow.steps, flush=True)
                sys.exit(75)


@not_torch
def test_sigterm_to_one_of_two_stops_both_at_one_step(tmp_path):
    name, mend = DISTRIBUTED
    program = WORKER.replace("in_one_of_two", "until_sigterm")
    scope = json.dumps({"name": name, "mend_keras": mend})
    command = [sys.executable, "-c", program, scope, str(tmp_path / "run")]
    grace = {"KERAS_APP_GRACE_SECONDS": "3"}
    both = started(command, [{**each, **grace} for each in variables()])
    try:
        first, second = both
        while (line := second.stdout.readline()) != "now\n":
            assert line, second.communicate()[1][-3000:]
        second.send_signal(signal.SIGTERM)
        outputs = [each.communicate(timeout=200) for each in both]
    finally:
        for each in both:
            each.kill()
    for each, (_, errors) in zip(both, outputs):
        assert each.returncode == 75, errors[-3000:]
    steps = [int(output.split()[-1]) for output, _ in outputs]
    assert steps[0] == steps[1]
    # 600 examples are an epoch of 75 steps; nobody waited for its end.
    assert 3 < steps[0] < 75


# ---- a process is lost --------------------------------------------------

GONE = {
    "jax": [
        "UNKNOWN: Gloo AllGather failed: [external/gloo/gloo/transport/tcp/"
        "pair.cc:547] Connection closed by peer [127.0.0.1]:2476",
        "UNAVAILABLE: Task 1 heartbeat timeout. This indicates that the remote "
        "task has failed",
        "INTERNAL: NCCL operation ncclGroupEnd() failed: remote process exited "
        "or there was a network error",
    ],
    "tensorflow": [
        "Graph execution error:\n\nDetected at node CollectiveReduceV2\n"
        "Collective ops is aborted by: failed to connect to all addresses",
        "Additional GRPC error information from remote target "
        "/job:worker/replica:0/task:0\nSocket closed",
    ],
}


def unavailable(message):
    if BACKEND != "tensorflow":
        return ValueError(message)
    import tensorflow as tf

    return tf.errors.UnavailableError(None, None, message)


def raised(error):
    with pytest.raises(Exception) as caught:
        with processes.naming_lost_processes():
            raise error
    return caught.value


@not_torch
@pytest.mark.parametrize("message", GONE.get(BACKEND, ()))
def test_what_means_that_another_process_is_gone(message, monkeypatch):
    monkeypatch.setattr(processes, "lost", False)
    error = unavailable(message)
    assert raised(error) is error, "a single process has no others"
    monkeypatch.setattr(processes, "process_count", lambda: 2)
    told = raised(error)
    assert type(told) is devices.ProcessLost
    assert told.__cause__ is error
    assert "another process" in str(told)


@not_torch
@pytest.mark.parametrize(
    "error",
    [
        ValueError("Arguments `target` and `output` must have the same shape."),
        OSError(28, "No space left on device"),
        unavailable("The bucket is not to be reached"),
    ],
)
def test_what_does_not(error, monkeypatch):
    monkeypatch.setattr(processes, "process_count", lambda: 2)
    assert raised(error) is error


FATAL = (
    b"F1121 22:48:29.266452 7669 client.h:80] Terminating process because the "
    b"JAX distributed service detected fatal errors. absl::Status: UNAVAILABLE"
)
OTHER = b"F1121 22:48:29.266452 7669 buffer.cc:80] Check failed: size > 0"


@jax_only
@pytest.mark.parametrize(
    "words, gone",
    [
        (FATAL + b"\n*** Check failure stack trace: ***\n", True),
        (OTHER + b"\n" + FATAL, True),
        (FATAL + b"\n" + OTHER, False),
        (b"", False),
    ],
)
def test_an_abort_of_another_kind_goes_its_way(words, gone):
    before = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            os.write(2, words)
            line = processes.fatal_line()
    finally:
        os.dup2(before, 2)
        os.close(before)
    assert (processes.JAX_GAVE_UP in line) == gone


@jax_only
@pytest.mark.parametrize("native", [True, False])
def test_processes_that_do_not_meet(native, monkeypatch):
    import jax

    given = {}

    def initialize(**arguments):
        given.update(arguments)
        kind = jax.errors.JaxRuntimeError if native else RuntimeError
        raise kind("said by JAX")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(processes, "lost", False)
    kind = devices.ProcessLost if native else ValueError
    with pytest.raises(kind, match="did not meet|must meet") as error:
        with devices.scope(
            "data_parallel",
            job_addresses="127.0.0.1:1",
            num_processes=2,
            process_id=1,
            wait_seconds=7,
        ):
            pytest.fail("the scope was opened")
    assert "said by JAX" in str(error.value)
    if native:
        assert "at 127.0.0.1:1: waited 0 seconds." in str(error.value)
    assert given["coordinator_address"] == "127.0.0.1:1"
    assert given["initialization_timeout"] == 7
    assert jax.distributed.initialize is initialize


@jax_only
def test_a_time_to_wait_is_checked():
    message = refusal(name="data_parallel", wait_seconds=0)
    assert "`wait_seconds`" in message and "wait_seconds=0" in message


# Half a minute each, on a quiet machine.
RUN = [
    *(sys.executable, "-m", "keras_app.train"),
    *("--gin_file=rigl.gin", "--gin_param=experiments.Train.epochs=8"),
    "--gin_param=schedules.ConstantSparsity.end_step=500",
    {
        "jax": "--gin_file=distribution/data_parallel.gin",
        "tensorflow": "--gin_file=distribution/multi_worker.gin",
    }.get(BACKEND),
]


def started(command, environments):
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "KERAS_BACKEND": BACKEND, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]


def ended(processes):
    """`[(status, lines on stderr)]`."""
    try:
        errors = [each.communicate(timeout=400)[1] for each in processes]
    finally:
        for each in processes:
            each.kill()
    return [
        (each.returncode, [x for x in text.splitlines() if "train:" in x])
        for each, text in zip(processes, errors)
    ]


def outcome(run_dir):
    model = keras.saving.load_model(run_dir / "model.keras", compile=False)
    log = (run_dir / "metrics.jsonl").read_text()
    return log, [weight.tobytes() for weight in model.get_weights()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    both = ended(started([*RUN, f"--run_dir={run_dir}"], variables()))
    assert both == [(0, []), (0, [])]
    return outcome(run_dir)


@not_torch
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_stops_the_other_and_resume_goes_on(
    undisturbed, tmp_path, victim
):
    run_dir = tmp_path / "run"
    command = [*RUN, f"--run_dir={run_dir}"]
    both = started(command, variables())
    checkpoint = run_dir / "checkpoints" / "000001.ckpt"
    while not checkpoint.exists():
        assert all(each.poll() is None for each in both), ended(both)
        time.sleep(0.05)
    both[victim].kill()
    killed = time.monotonic()
    survivor = both[1 - victim]
    survivor.wait(120)
    print(f"the other stopped after {time.monotonic() - killed:.1f} s")
    statuses, lines = zip(*ended(both))
    assert statuses[victim] == -9
    assert statuses[1 - victim] == 75
    [line] = lines[1 - victim]
    assert "another process of this training is gone" in line
    assert f"--run_dir={run_dir} --resume" in line
    assert not (run_dir / "summary.json").exists()

    again = ended(started([*command, "--resume"], variables()))
    assert again == [(0, []), (0, [])]
    assert outcome(run_dir) == undisturbed


@jax_only
@pytest.mark.slow
@pytest.mark.parametrize("alone", [0, 1])
def test_a_process_that_stays_alone_says_where_it_waited(tmp_path, alone):
    [[status, [line]]] = ended(
        started(
            [
                *RUN,
                "--gin_param=devices.scope.wait_seconds=1",
                f"--run_dir={tmp_path / 'run'}",
            ],
            variables()[alone : alone + 1],
        )
    )
    assert status == 75
    assert "did not meet at 127.0.0.1:" in line and " seconds." in line
    assert not (tmp_path / "run").exists()


# ---- files --------------------------------------------------------------


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    from keras_app.experiments.run.folder import RunFolder

    monkeypatch.setattr(devices, "is_chief", lambda: False)
    folder = RunFolder(tmp_path / "run")
    folder.check(resume=False)
    folder.begin()
    folder.write_text("config.gin", "a = 1")
    folder.write_log([])
    folder.log({"epoch": 0})
    folder.save_checkpoint({"a": np.zeros(3)}, {})
    folder.save_model(perceptron())
    with folder.replacing("file") as path:
        path.write_text("elsewhere")
    assert list(tmp_path.iterdir()) == []


def test_a_single_process_is_the_first():
    assert devices.is_chief()


# ---- refusals -----------------------------------------------------------

HERE = {
    "tensorflow": {"none", "mirrored", "multi_worker", "tpu"},
    "jax": {"none", "tpu", "data_parallel", "model_parallel"},
    "torch": {"none"},
}[BACKEND]
ALL = "none mirrored multi_worker tpu data_parallel model_parallel".split()
DEVICES = {"tensorflow": "mirrored", "jax": "data_parallel"}.get(BACKEND)
ONE_DEVICE = {"name": DEVICES, "devices": 1}


def refusal(**arguments):
    with pytest.raises(ValueError) as error:
        with devices.scope(**arguments):
            pytest.fail("the scope was opened")
    return str(error.value)


@pytest.mark.parametrize("name", [name for name in ALL if name not in HERE])
def test_a_name_of_another_backend_says_which(name):
    message = refusal(name=name)
    assert f"Received: name='{name}'" in message
    assert "which needs KERAS_BACKEND of" in message
    assert "'none'" in message


def test_the_command_line_refuses_it_in_one_line(tmp_path):
    import gin
    from keras_app import cli
    from keras_app import train

    name = "data_parallel" if BACKEND == "tensorflow" else "mirrored"
    files = ["--gin_file=rigl.gin", f"--gin_file=distribution/{name}.gin"]
    try:
        with pytest.raises(cli.UsageError, match=f"name='{name}', which needs"):
            train.main(["train", *files, f"--run_dir={tmp_path / 'run'}"])
    finally:
        gin.clear_config()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_lists_the_known_ones():
    message = refusal(name="mirored")
    assert "'mirrored'" in message
    assert "name='mirored'" in message


@not_torch
@pytest.mark.parametrize("devices", [99, 0, [], ["GPU:7"], ["CPU:0"] * 2])
def test_devices_that_there_are_not(devices):
    message = refusal(name=DEVICES, devices=devices)
    assert message.startswith("`devices` must be ")
    assert f"Received: devices={devices!r}" in message


@not_torch
@pytest.mark.parametrize(
    "arguments", [{"layout": {"a": ("model",)}}, {"model_devices": 2}]
)
def test_a_layout_needs_model_parallel(arguments):
    message = refusal(name=DEVICES, **arguments)
    assert "are for name='model_parallel'" in message


@jax_only
@pytest.mark.parametrize(
    "arguments, words",
    [
        ({}, "`layout` must be a dict"),
        ({"layout": {"a": ("rows",)}}, "Received: ('rows',) for 'a'"),
        (
            {"layout": {"a": ("model",)}, "devices": 1, "model_devices": 2},
            "`model_devices` must divide the number of devices, 1",
        ),
    ],
)
def test_a_layout_that_cannot_be(arguments, words):
    assert words in refusal(name="model_parallel", **arguments)


@jax_only
def test_a_layout_that_matches_nothing_is_refused_before_training():
    with pytest.raises(ValueError, match="'kernel', which matches none of"):
        with devices.scope(
            "model_parallel", devices=1, layout={"kernel": (None, "model")}
        ):
            fit(compiled("sgd"), pruner_of("magnitude"))


@not_torch
def test_a_tpu_that_is_not_there():
    assert "name='tpu' needs a TPU" in refusal(name="tpu")


@tensorflow_only
def test_unmended_workers_are_refused_with_two_ways_out():
    message = refusal(name="multi_worker")
    assert "cannot `fit` under MultiWorkerMirroredStrategy" in message
    assert "scope('data_parallel')" in message
    assert "mend_keras=True" in message


@tensorflow_only
def test_workers_need_their_addresses(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert "TF_CONFIG" in refusal(name="multi_worker", mend_keras=True)


@not_torch
def test_scopes_do_not_nest():
    with devices.scope(**ONE_DEVICE):
        assert "inside another one" in refusal(**ONE_DEVICE)


@not_torch
def test_a_scope_that_is_ended_from_inside_says_so():
    with pytest.raises(ValueError, match="clear_session` instead"):
        with devices.scope(**ONE_DEVICE):
            keras.utils.clear_session()
            host.check_model(compiled("sgd"))
    with devices.scope(**ONE_DEVICE):
        pass


@not_torch
def test_a_failure_inside_ends_the_scope():
    with pytest.raises(KeyError):
        with devices.scope(**ONE_DEVICE):
            raise KeyError
    assert keras.distribution.distribution() is None
    with devices.scope(**ONE_DEVICE):
        pass


# ---- Keras's private names ----------------------------------------------


@jax_only
def test_keras_still_lays_out_batches_in_one_function():
    from keras.src.backend.jax import trainer

    before = trainer._distribute_data
    assert list(inspect.signature(before).parameters) == ["data", "layouts"]
    with devices.scope(**ONE_DEVICE):
        assert trainer._distribute_data is not before
    assert trainer._distribute_data is before


@tensorflow_only
def test_keras_still_has_what_is_mended():
    from keras.src.backend.tensorflow import trainer

    assert list(inspect.signature(trainer.reduce_per_replica).parameters) == [
        "values",
        "strategy",
        "reduction",
    ]
    assert hasattr(trainer.TensorFlowTrainer, "_maybe_symbolic_build")
