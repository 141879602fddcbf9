"""Tests of SavedModels: one copy of each weight, the same outputs, no rest."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
from operator import itemgetter

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_app import enforcement
from keras_app.export import fresh_process
from keras_app.export import saved_model
from keras_app.export import signature
from keras_app.export.saved_model import export_saved_model
from tests.models import Mute

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"

# Elsewhere each export starts a process, which takes seconds.
directly = pytest.mark.skipif(
    not ON_TENSORFLOW, reason="one export in a process of its own is enough"
)
through_a_process = pytest.mark.skipif(
    ON_TENSORFLOW, reason="the TensorFlow backend exports directly"
)


def randomize(model):
    """Biases and moving statistics that are not the initial zeros and ones."""
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.uniform(0.2, 0.8, weight.shape))
    return model


def network():
    """Two inputs, two outputs, batch normalization and a nested model."""
    image = keras.Input((6, 6, 2), name="image")
    side = keras.Input((3,), name="side")
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dropout(0.5, name="dropout")(layers.ReLU()(x))
    inner = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(6, activation="tanh", name="hidden"),
            layers.Dense(4, name="code"),
        ],
        name="inner",
    )
    code = inner(layers.Flatten()(x))
    score = layers.Dense(2, name="score")(layers.Concatenate()([code, side]))
    inputs = {"image": image, "side": side}
    return randomize(keras.Model(inputs, {"score": score, "code": code}))


def pruned(model, layer):
    """Gives a kernel a mask, and weights that came back under it."""
    model.compile("sgd", "mse")
    kernel = layer.kernel
    state = enforcement.attach(model, [kernel])
    mask = np.random.default_rng(1).random(kernel.shape) < 0.3
    state.set([(kernel, mask)])
    kernel.assign(np.full(kernel.shape, 0.5))
    return mask


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.embedding = layers.Embedding(9, 3)
        self.last = layers.Dense(2)

    def call(self, inputs):
        return self.last(self.embedding(inputs["id"]) + inputs["shift"])


def two_in_two_out():
    a, b = keras.Input((3,), name="a-1"), keras.Input((3,), name="b")
    total = layers.Add()([a, layers.Dense(3)(b)])
    return keras.Model([a, b], [total, layers.Dense(2)(b)])


def sequence(*stack, shape, **kwargs):
    return keras.Sequential([keras.Input(shape, name="x", **kwargs), *stack])


def floats(*shape):
    return np.random.default_rng(2).standard_normal(shape).astype("float32")


def ids(*shape):
    return np.random.default_rng(3).integers(0, 9, shape)


# What a case gives: the model, samples in its structure, and the names.
def case_network():
    model = network()
    pruned(model, model.get_layer("inner").get_layer("hidden"))
    samples = {"image": floats(5, 6, 6, 2), "side": floats(5, 3)}
    return model, samples, ["image", "side"], ["code", "score"]


def case_lists():
    samples = [floats(5, 3), floats(5, 3)[::-1]]
    return two_in_two_out(), samples, ["a_1", "b"], ["output_0", "output_1"]


def case_subclassed():
    model, samples = Subclassed(), {"id": ids(5), "shift": floats(5, 3)}
    model(samples)
    return model, samples, ["id", "shift"], ["output_0"]


def case_tokens():
    stack = [layers.Embedding(9, 4), layers.LSTM(3)]
    model = sequence(*stack, shape=(None,), dtype="int32")
    return model, ids(5, 7).astype("int32"), ["x"], ["output_0"]


def case_half():
    model = sequence(layers.Dense(3, dtype="mixed_float16"), shape=(4,))
    return model, floats(5, 4), ["x"], ["output_0"]


def case_tables():
    word, code = (
        keras.Input((1,), dtype="string", name="word"),
        keras.Input((1,), dtype="int64", name="code"),
    )
    text = keras.Input((1,), dtype="string", name="text")
    tokens = layers.TextVectorization(
        output_sequence_length=4, vocabulary=["a", "good", "film"]
    )(text)
    known = [
        layers.StringLookup(vocabulary=["ab", "cd"], output_mode="one_hot"),
        layers.IntegerLookup(vocabulary=[7, 9], output_mode="one_hot"),
    ]
    found = layers.Concatenate()(
        [
            *(layer(x) for layer, x in zip(known, (word, code))),
            layers.Flatten()(layers.Embedding(9, 2)(tokens)),
        ]
    )
    inputs = {"word": word, "code": code, "text": text}
    model = keras.Model(inputs, layers.Dense(2)(found))
    samples = {
        "word": np.array([["ab"], ["xy"], ["cd"], ["ab"], ["q"]]),
        "code": np.array([[7], [8], [9], [9], [7]]),
        "text": np.array([["a good film"], ["bad"], ["film"], ["a"], [""]]),
    }
    return model, samples, ["code", "text", "word"], ["output_0"]


CASES = {
    "network": case_network,
    "lists": case_lists,
    "subclassed": case_subclassed,
    "tokens": case_tokens,
    "half": case_half,
    "tables": case_tables,
}

PLAIN = """
    import json
    import sys

    # An import of them fails, even where they are installed.
    sys.modules["keras"] = sys.modules["keras_app"] = None
    import numpy as np
    import tensorflow as tf

    samples, found = np.load("samples.npz"), {}
    for case in json.loads(sys.argv[1]):
        serve = tf.saved_model.load(case).signatures["serving_default"]
        names = list(serve.structured_input_signature[1])
        for rows in (1, 5):
            inputs = [samples[f"{case}:{name}"][:rows] for name in names]
            if len(names) == 1:
                outputs = serve(tf.constant(inputs[0]))
            else:
                outputs = serve(**dict(zip(names, map(tf.constant, inputs))))
            for name, output in outputs.items():
                found[f"{case}:output:{rows}:{name}"] = output.numpy()
        prefix = f"{case}/variables/variables"
        for name, _ in tf.train.list_variables(prefix):
            if name != "_CHECKPOINTABLE_OBJECT_GRAPH":
                value = tf.train.load_variable(prefix, name)
                found[f"{case}:variable:{name}"] = value
    np.savez("found.npz", **found)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """`{case: (model, samples, report)}` and what TensorFlow alone makes."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("exported")
    cases, arrays = {}, {}
    for name in CASES if ON_TENSORFLOW else ["network"]:
        model, samples, inputs, _ = CASES[name]()
        report = export_saved_model(model, folder / name, data=samples)
        cases[name] = model, samples, report
        for key, array in zip(inputs, keras.tree.flatten(samples)):
            arrays[f"{name}:{key}"] = array
    np.savez(folder / "samples.npz", **arrays)
    program = textwrap.dedent(PLAIN)
    result = subprocess.run(
        [sys.executable, "-c", program, json.dumps(list(cases))],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return folder, cases, dict(np.load(folder / "found.npz"))


def of(found, *key):
    prefix = ":".join(key) + ":"
    return {k.removeprefix(prefix): found[k] for k in found if prefix in k}


def plain(case):
    return pytest.param(case, marks=() if case == "network" else directly)


@pytest.mark.parametrize("case", map(plain, CASES))
def test_tensorflow_alone_gives_the_models_outputs(exported, case):
    _, cases, found = exported
    model, samples, report = cases[case]
    # Of every batch size.
    for rows in (1, 5):
        first = keras.tree.map_structure(itemgetter(slice(rows)), samples)
        first = keras.tree.map_structure(ops.convert_to_tensor, first)
        outputs = keras.tree.flatten(model(first, training=False))
        received = of(found, case, "output", str(rows))
        assert sorted(received) == CASES[case]()[3]
        for name, output in zip(sorted(received), outputs, strict=True):
            expected = ops.convert_to_numpy(output)
            assert received[name].dtype == expected.dtype
            scale = np.abs(expected).max()
            tolerance = (1e-2 if case == "half" else 1e-5) * scale
            np.testing.assert_allclose(
                received[name], expected, rtol=0, atol=tolerance
            )
    assert report.max_difference <= (1e-2 if case == "half" else 1e-5)


@pytest.mark.parametrize("case", map(plain, CASES))
def test_every_variable_is_stored_once_bit_by_bit(exported, case):
    _, cases, found = exported
    model, _, _ = cases[case]
    stored = list(of(found, case, "variable").values())
    assert len(stored) == len(model.variables)
    # The states of random generators do not travel between backends.
    for weight in model.weights:
        value = ops.convert_to_numpy(weight)
        same = [x for x in stored if np.array_equal(x, value)]
        assert same and all(x.dtype == value.dtype for x in same)


def test_masked_weights_are_zero_in_the_folder(exported):
    _, cases, found = exported
    model, _, _ = cases["network"]
    kernel = model.get_layer("inner").get_layer("hidden").kernel
    mask = np.random.default_rng(1).random((64, 6)) < 0.3
    (stored,) = [
        x
        for x in of(found, "network", "variable").values()
        if x.shape == (64, 6)
    ]
    # They had come back in the model, too.
    np.testing.assert_array_equal(stored, np.where(mask, 0.5, 0))
    np.testing.assert_array_equal(ops.convert_to_numpy(kernel), stored)


def test_the_report_says_what_lies_there(exported):
    folder, cases, _ = exported
    _, _, report = cases["network"]
    files = [p for p in (folder / "network").rglob("*") if p.is_file()]
    assert report.path == str(folder / "network")
    assert (report.format, report.precision) == ("saved_model", "float32")
    assert report.bytes == sum(p.stat().st_size for p in files)
    assert 0 < report.compressed_bytes < report.bytes
    assert report.dense_bytes is None
    assert report.notes[1] == (
        "serving_default takes image, side and gives code, score"
    )
    text = (folder / "network.report.json").read_text()
    assert json.loads(text) == report.to_dict()
    # And nothing else.
    names = {p.name for p in folder.iterdir()} - {"samples.npz", "found.npz"}
    assert names == {*cases, *(f"{case}.report.json" for case in cases)}


@directly
def test_the_folder_is_as_large_as_the_weights_and_compresses(tmp_path):
    model = sequence(*[layers.Dense(400) for _ in range(2)], shape=(400,))
    for layer in model.layers:
        kernel = ops.convert_to_numpy(layer.kernel).copy()
        kernel[np.random.default_rng(0).random(kernel.shape) < 0.9] = 0
        layer.kernel.assign(kernel)
    report = export_saved_model(model, tmp_path / "served")
    weights = 4 * 2 * (400 * 400 + 400)
    assert weights < report.bytes < 1.05 * weights
    assert report.compressed_bytes < 0.2 * weights
    assert report.max_difference <= 1e-5


@directly
def test_the_type_of_most_weights_is_named(tmp_path):
    model = sequence(layers.Dense(3, dtype="bfloat16"), shape=(4,))
    assert export_saved_model(model, tmp_path / "a").precision == "bfloat16"


@directly
def test_a_fixed_batch_size_stays(tmp_path):
    import tensorflow as tf

    x = keras.Input(batch_shape=(2, 3), name="x")
    export_saved_model(keras.Model(x, layers.Dense(1)(x)), tmp_path / "fixed")
    loaded = tf.saved_model.load(tmp_path / "fixed")
    spec = loaded.signatures["serving_default"].structured_input_signature[1]
    assert spec["x"].shape == (2, 3)


@directly
def test_samples_by_name_are_put_in_the_models_order(tmp_path):
    # Sorted by name they would be the other way round, and have no fit.
    first, second = keras.Input((3,), name="z"), keras.Input((2,), name="a")
    outputs = layers.Concatenate()([first, layers.Dense(1)(second)])
    model = keras.Model([first, second], outputs)
    samples = {"z": floats(4, 3), "a": floats(4, 2)}
    report = export_saved_model(model, tmp_path / "named", data=samples)
    assert "takes z, a and gives output_0" in report.notes[1]


# ---- the folder ------------------------------------------------------------


def dense(**kwargs):
    return sequence(layers.Dense(2, **kwargs), shape=(3,))


@directly
def test_a_saved_model_and_an_empty_folder_are_replaced(tmp_path):
    import tensorflow as tf

    target = tmp_path / "served"
    target.mkdir()
    export_saved_model(dense(use_bias=False), target)
    (target / "old").touch()
    export_saved_model(dense(bias_initializer="ones"), f"{target}/")
    values = tf.saved_model.load(target).values
    assert [tuple(value.shape) for value in values] == [(3, 2), (2,)]
    assert not (target / "old").exists()
    assert {p.name for p in tmp_path.iterdir()} == {
        "served",
        "served.report.json",
    }


@pytest.mark.backend_free
def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("x")
    for name in ("notes", "file"):
        with pytest.raises(ValueError, match=f"`path` must be.*path=.*{name}"):
            export_saved_model(dense(), tmp_path / name)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "years"
    with pytest.raises(ValueError, match="in one that exists.*path=.*none"):
        export_saved_model(dense(), tmp_path / "none" / "served")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.backend_free
@pytest.mark.parametrize("difference", [2e-5, float("inf"), float("nan")])
def test_what_differs_is_refused_and_leaves_all_as_it_was(
    tmp_path, monkeypatch, difference
):
    def write_and_compare(*args, path, **arguments):
        pathlib.Path(path).mkdir()
        pathlib.Path(path, "saved_model.pb").write_text("new")
        return {"difference": difference, "outputs": ["output_0"]}

    for module, name in (
        (saved_model, "write_and_compare"),
        (fresh_process, "run"),
    ):
        monkeypatch.setattr(module, name, write_and_compare)
    target = tmp_path / "served"
    target.mkdir()
    (target / "saved_model.pb").write_text("old")
    with pytest.raises(ValueError, match=f"1e-05.*difference of {difference}"):
        export_saved_model(dense(), target)
    assert [p.name for p in tmp_path.rglob("*")] == ["served", "saved_model.pb"]
    assert (target / "saved_model.pb").read_text() == "old"


@pytest.mark.backend_free
def test_a_rename_that_fails_brings_the_old_folder_back(tmp_path, monkeypatch):
    target = tmp_path / "served"
    target.mkdir()
    (target / "saved_model.pb").write_text("old")
    rename = os.rename

    def failing(source, to):
        if ".writing" in str(source):
            raise OSError("disk full")
        rename(source, to)

    monkeypatch.setattr(os, "rename", failing)

    def write_and_compare(*args, path, **arguments):
        pathlib.Path(path).mkdir()
        return {"difference": 0.0, "outputs": []}

    for module, name in (
        (saved_model, "write_and_compare"),
        (fresh_process, "run"),
    ):
        monkeypatch.setattr(module, name, write_and_compare)
    with pytest.raises(OSError, match="disk full"):
        export_saved_model(dense(), target)
    assert [p.name for p in tmp_path.rglob("*")] == ["served", "saved_model.pb"]


# ---- models that are refused -----------------------------------------------


@pytest.mark.backend_free
def test_outputs_with_nan_are_refused_before_anything_is_written(tmp_path):
    model = dense()
    model.layers[0].kernel.assign(np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match="must be finite.*Received: NaN"):
        export_saved_model(model, tmp_path / "served")
    assert not list(tmp_path.iterdir())


@pytest.mark.backend_free
def test_models_without_weights_or_shapes_are_refused(tmp_path):
    with pytest.raises(TypeError, match="must be a keras.Model.*'model'"):
        export_saved_model("model", tmp_path / "served")
    unbuilt = keras.Sequential([layers.Dense(2)])
    with pytest.raises(ValueError, match="must be built: .* Call it"):
        export_saved_model(unbuilt, tmp_path / "served")
    model = Subclassed()
    model({"id": ids(2), "shift": floats(2, 3)})
    with pytest.raises(ValueError, match="`data` must be given.*data=None"):
        export_saved_model(model, tmp_path / "served")
    with pytest.raises(ValueError, match="`data` must be the one argument"):
        export_saved_model(model, tmp_path / "served", data=[floats(2, 3)])
    assert not list(tmp_path.iterdir())


@directly
def test_a_model_that_is_never_twice_the_same_is_refused(tmp_path):
    class Noise(layers.Layer):
        def __init__(self):
            super().__init__()
            self.seeds = keras.random.SeedGenerator(1)

        def call(self, x):
            return x + keras.random.normal(ops.shape(x), seed=self.seeds)

    with pytest.raises(ValueError, match="1e-05 of the largest.*Received"):
        export_saved_model(sequence(Noise(), shape=(3,)), tmp_path / "served")
    assert not list(tmp_path.iterdir())


@directly
def test_what_tensorflow_cannot_save_is_named(tmp_path):
    import tensorflow as tf

    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer([3], [5]), 0
    )
    x = keras.Input((1,), dtype="int32")
    outputs = layers.Lambda(table.lookup, output_shape=(1,))(x)
    model = keras.Model(x, outputs, name="words")
    with pytest.raises(ValueError, match="cannot save words.*untracked"):
        export_saved_model(model, tmp_path / "served")
    assert not list(tmp_path.iterdir())


@directly
def test_words_that_the_model_knows_stand_in_for_data(tmp_path):
    x = keras.Input((3,), dtype="string")
    lookup = layers.StringLookup(vocabulary=["one", "two"])
    model = keras.Model(x, lookup(x))
    words = signature.inputs_for(model)
    assert set(words.ravel()) == {"[UNK]", "one", "two"}
    assert export_saved_model(model, tmp_path / "served").max_difference == 0


@directly
def test_what_a_layer_of_ones_own_keeps_is_stored(tmp_path):
    import tensorflow as tf

    class Keeps(layers.Layer):
        def __init__(self):
            super().__init__()
            self.scale = tf.Variable(3.0)
            self.table = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer([3], [5]), 0
            )

        def call(self, x):
            found = self.table.lookup(tf.cast(x, "int32"))
            return self.scale * tf.cast(found, "float32")

    x = keras.Input((1,))
    model = keras.Model(x, Keeps()(x))
    export_saved_model(model, tmp_path / "served", data=np.array([[3.0], [4]]))
    serve = tf.saved_model.load(tmp_path / "served").signatures
    received = serve["serving_default"](tf.constant([[3.0], [4.0]]))
    assert received["output_0"].numpy().tolist() == [[15.0], [0.0]]


@pytest.mark.parametrize("started", [False, True])
def test_states_go_from_call_to_call_and_start_as_in_the_model(
    tmp_path, started
):
    tf = pytest.importorskip("tensorflow")
    x = keras.Input((5, 3), batch_size=2, name="x")
    model = keras.Model(x, layers.LSTM(4, stateful=True)(x))
    samples = floats(2, 5, 3)
    if started:
        model(samples)
    state = model.layers[1].states[0]
    before = ops.convert_to_numpy(state)
    export_saved_model(model, tmp_path / "served", data=samples)
    np.testing.assert_array_equal(ops.convert_to_numpy(state), before)
    loaded = tf.saved_model.load(tmp_path / "served")
    outputs = []
    for _ in range(2):
        found = loaded.signatures["serving_default"](tf.constant(samples))
        expected = ops.convert_to_numpy(model(samples))
        np.testing.assert_allclose(found["output_0"], expected, atol=1e-6)
        outputs.append(expected)
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "data", [[["a"], ["b"]], 3.0, np.array([None, "a"]), np.ones((0, 3))]
)
def test_data_that_are_no_arrays_are_refused(tmp_path, data):
    with pytest.raises(ValueError, match="`data` must hold numbers.*Received"):
        export_saved_model(dense(), tmp_path / "served", data=data)
    assert not list(tmp_path.iterdir())


# ---- from the other backends -----------------------------------------------


@keras.saving.register_keras_serializable(package="test_saved_model")
class Own(layers.Layer):
    def call(self, x):
        return 2 * x


def doubled(x):
    return 2 * x


@pytest.fixture
def here(monkeypatch):
    """Saves the seconds that another process takes to start."""

    def do(folder, *_):
        known = keras.saving.get_custom_objects()
        monkeypatch.delitem(known, "test_saved_model>Own", raising=False)
        fresh_process.answer(folder)

    monkeypatch.setattr(fresh_process, "_do", do)


def outputs_of_ones(model):
    return ops.convert_to_numpy(model(np.ones((1, 3), "float32"))).tolist()


def test_classes_and_functions_of_a_module_are_known_there(here):
    model = sequence(
        Own(), layers.Lambda(doubled), layers.Activation(doubled), shape=(3,)
    )
    task = f"{__name__}:outputs_of_ones"
    backend = keras.backend.backend()
    assert fresh_process.run(task, model, backend) == [[8.0, 8.0, 8.0]]


@through_a_process
def test_a_class_of_a_script_is_named_with_the_way_out(tmp_path, here):
    class Local(layers.Layer):
        def call(self, x):
            return x

    model = sequence(Local(), layers.Dense(2), shape=(3,))
    with pytest.raises(
        ValueError,
        match="Could not locate class 'Local'.*into a module, or export from",
    ):
        export_saved_model(model, tmp_path / "served")
    assert not list(tmp_path.iterdir())


@through_a_process
def test_a_missing_tensorflow_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match="needs TensorFlow.*pip install"):
        export_saved_model(dense(), tmp_path / "served")
    assert not list(tmp_path.iterdir())


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; sys.exit('out of memory')", "exit status 1: out of mem"),
        ("import os; os.abort()", "it was ended by SIGABRT$"),
        ("import ctypes; ctypes.string_at(0)", "it was ended by SIGSEGV$"),
    ],
)
def test_a_process_that_dies_is_told_with_its_last_words(
    monkeypatch, program, words
):
    monkeypatch.setattr(fresh_process, "_PROGRAM", program)
    with pytest.raises(fresh_process.Crash, match=words):
        fresh_process.run("json:dumps")


def count_to_two(mark, progress):
    progress("halves", 1, 2)
    deadline = time.monotonic() + 60
    while not pathlib.Path(mark).exists():
        assert time.monotonic() < deadline, "nobody heard of the first half"
        time.sleep(0.01)
    progress("halves", 2, 2)
    return "two"


@pytest.mark.backend_free
def test_what_a_process_says_arrives_while_it_goes_on(tmp_path):
    mark, told = tmp_path / "heard", []

    def hear(*call):
        told.append(call)
        mark.touch()

    task = f"{__name__}:count_to_two"
    backend = keras.backend.backend()
    found = fresh_process.run(task, None, backend, hear, mark=mark)
    assert found == "two"
    assert told == [("halves", 1, 2), ("halves", 2, 2)]


def process_id():
    return os.getpid()


def leave():
    os._exit(3)


@pytest.mark.backend_free
def test_a_kept_process_does_task_after_task_until_it_crashes():
    # numpy starts fastest; two levels, of a caller and what it calls.
    ask = functools.partial(fresh_process.run, backend="numpy")
    with fresh_process.kept():
        with fresh_process.kept():
            first = ask(f"{__name__}:process_id")
        assert first != os.getpid()
        with pytest.raises(ValueError, match="no luck"):
            ask(f"{__name__}:fail")
        assert ask(f"{__name__}:process_id") == first
        assert ask(f"{__name__}:process_id", reuse=False) != first
        with pytest.raises(fresh_process.Crash, match="exit status 3"):
            ask(f"{__name__}:leave")
        second = ask(f"{__name__}:process_id")
        assert second != first
        # Ended while it had nothing to do.
        os.kill(second, signal.SIGKILL)
        assert ask(f"{__name__}:process_id") != second
    for number in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


def fail():
    # What a task prints, or reads, is not taken for an order or an answer.
    print("answer.json")
    assert sys.stdin.read() == ""
    raise ValueError("no luck")


@through_a_process
def test_a_model_without_a_config_is_told_the_way_out():
    model = Mute(2)
    model(floats(1, 3))
    with pytest.raises(ValueError, match="(?s)Mute cannot be saved.*get_conf"):
        fresh_process.run("json:dumps", model)


@pytest.mark.backend_free
def test_arguments_arrive_in_the_other_process(tmp_path):
    half = ops.convert_to_numpy(ops.cast([1.5, -2.0], "bfloat16"))
    arguments = {
        "path": tmp_path,
        "quantize": None,
        "samples": {"a": floats(2, 3), "b": [ids(2), half]},
    }
    fresh_process._write(tmp_path, "module:name", dense(), arguments)
    task, _, received = fresh_process._read(tmp_path)
    assert task == "module:name"
    assert received["path"] == str(tmp_path)
    assert received["quantize"] is None
    np.testing.assert_array_equal(received["samples"]["a"], floats(2, 3))
    first, second = received["samples"]["b"]
    assert first.dtype == np.int64
    np.testing.assert_array_equal(first, ids(2))
    np.testing.assert_array_equal(second, np.array([1.5, -2.0], "float32"))
