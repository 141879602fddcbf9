"""`keras_app.compress`: from a trained model to a small one, and the proof."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_app as ka
from keras_app.compression import files
from keras_app.compression import scoring
from keras_app.compression.cuts import Cuts
from keras_app.compression.decide import Decision
from keras_app.experiments import Compress
from keras_app.experiments.compress import learner as learner_lib
from keras_app.experiments.compress import measured
from keras_app.experiments.compress import ways
from keras_app.experiments.compress.examples import Examples
from keras_app.experiments.compress.recipe import Recipe
from keras_app.experiments.compress.ways import Ramp
from keras_app.experiments.run.folder import RunFolder
from tests.helpers import BACKEND
from tests.helpers import to_numpy
from tests.helpers import zeros

CLASSES = 3
# One backend is enough for what is no business of a backend.
once = pytest.mark.skipif(BACKEND != "torch", reason="done on PyTorch alone")


def examples(count, seed=0):
    """Images whose class is where they are bright."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, CLASSES, count)
    x = generator.standard_normal((count, 8, 8, 1)).astype("float32")
    for i, label in enumerate(y):
        x[i, 2 * label : 2 * label + 2] += 1.5
    return x, y.astype("int32")


def network():
    """A residual stream of 16 channels, 24 inside of it, 16 neurons."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(
        inputs
    )
    x = layers.BatchNormalization(momentum=0.7)(x)
    x = layers.ReLU()(x)
    y = layers.Conv2D(24, 3, padding="same", name="inner")(x)
    y = layers.BatchNormalization(momentum=0.7)(y)
    y = layers.Conv2D(16, 1, name="outer")(layers.ReLU()(y))
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    x = layers.Dense(16, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="logits")(x))


X, Y = examples(192)
VALIDATION = examples(50, 1)


def trained(model=None, epochs=2):
    model = model or network()
    model.compile(
        keras.optimizers.Adam(5e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(X, Y, epochs=epochs, verbose=0)
    return model


def accuracy_of_file(path, x, y):
    """Counted anew, by the interpreter alone."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    [given] = interpreter.get_input_details()
    [output] = interpreter.get_output_details()
    right = 0
    for image, label in zip(x, y):
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        found = interpreter.get_tensor(output["index"])
        right += int(found.argmax() == label)
    return right / len(x)


@pytest.fixture(scope="module")
def model():
    return trained()


# ---- a whole compression ----------------------------------------------------


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """A model, its compression to half the FLOPs, and the run folder."""
    before = [w.copy() for w in model.get_weights()]
    folder = tmp_path_factory.mktemp("compress") / "run"
    result = ka.compress(
        model,
        (X, Y),
        "flops:0.5",
        validation_data=VALIDATION,
        epochs=4,
        run_dir=folder,
    )
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)
    return model, result, folder


def flops_of(widths):
    """By hand: three convolutions on 64 positions, and two dense layers."""
    stem, inner, hidden = widths
    return 2 * (
        64 * (9 * stem + 9 * stem * inner + inner * stem)
        + stem * hidden
        + hidden * CLASSES
    )


def test_the_target_is_reached(whole):
    _, result, _ = whole
    report = result.report
    widths = {name: (old, new) for name, old, new in report.widths}
    assert widths["stem"] == widths["outer"]
    names = ("stem", "inner", "hidden")
    assert [widths[name][0] for name in names] == [16, 24, 16]
    kept = [widths[name][1] for name in names]
    assert all(width % 8 == 0 for width in kept)
    assert report.before["flops"] == flops_of((16, 24, 16))
    assert report.after["flops"] == flops_of(kept)
    assert report.asked == 0.5 and report.is_reached
    assert report.reached == flops_of(kept) / flops_of((16, 24, 16)) <= 0.5
    for name, width in zip(names, kept):
        layer = result.model.get_layer(name)
        assert layer.kernel.shape[-1] == width


def test_the_figures_are_those_of_the_exported_file(whole, tmp_path):
    _, result, _ = whole
    path = tmp_path / "small.tflite"
    exported = result.export(path)
    after = result.report.after
    assert path.stat().st_size == after["bytes"] == exported.bytes
    assert after["accuracy"] == accuracy_of_file(path, *VALIDATION)
    assert after["accuracy"] > 0.5  # it has learned
    outputs = to_numpy(result.model(VALIDATION[0], training=False))
    own = np.mean(outputs.argmax(-1) == VALIDATION[1])
    assert after["accuracy"] == pytest.approx(own, abs=0.021)
    assert result.report.validated == 50
    assert 0 < after["milliseconds"]
    assert after["ram_bytes"] < result.report.before["ram_bytes"]
    assert after["bytes"] < result.report.before["bytes"]


def test_the_run_folder_holds_all_of_it(whole):
    _, result, folder = whole
    names = {path.name for path in folder.iterdir()}
    assert names >= {"model.keras", "summary.json", "report.html", "exports"}
    assert (folder / "exports" / "model.tflite").is_file()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["target"] == "flops:0.5" and summary["missed"] == []
    assert summary["reached"] == result.report.reached
    for side in ("before", "after"):
        figures = getattr(result.report, side)
        assert summary[side] == figures
        assert {"accuracy", "bytes", "milliseconds", "flops"} <= {*figures}
    stored = keras.saving.load_model(folder / "model.keras")
    for a, b in zip(stored.get_weights(), result.model.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_the_report_prints_before_and_after(whole):
    _, result, _ = whole
    text = str(result.report)
    assert "asked flops:0.5, reached: 0." in text
    for word in ("accuracy", "milliseconds", "bytes", "FLOPs", "inner"):
        assert word in text


# ---- without files ----------------------------------------------------------


@pytest.fixture
def no_files(monkeypatch):
    """Files take no time to make: their figures are invented."""
    figures = {
        "accuracy": 0.5,
        "loss": 1.0,
        "bytes": 100,
        "ram_bytes": 10,
        "flops": 1000,
        "parameters": 5,
        "milliseconds": 1.0,
    }
    monkeypatch.setattr(measured, "of_dense", lambda learner: figures)

    def close(learner, folder):
        learner.reached = {**figures, "flops": 10}
        return []

    monkeypatch.setattr(learner_lib.Compressing, "close", close)


def run(folder, target="flops:0.5", resume=False, *, model):
    experiment = Compress(
        model, (X, Y), target, epochs=4, validation_data=VALIDATION
    )
    return experiment.run(folder, resume, verbose=False)


# There are three checkpoints: one in each half, and one between them.
@pytest.mark.parametrize(
    "kept", [pytest.param(1, marks=once), 2, pytest.param(3, marks=once)]
)
@pytest.mark.usefixtures("no_files")
def test_a_killed_run_goes_on_to_the_same_bits(
    kept, model, whole, tmp_path, monkeypatch
):
    die_and_resume(tmp_path / "run", kept, monkeypatch, model=model)
    check_equal(whole[2], tmp_path / "run")


@once
@pytest.mark.usefixtures("no_files")
def test_a_killed_run_keeps_its_zeros(model, tmp_path, monkeypatch):
    target = "sparsity:0.8"
    run(tmp_path / "whole", target, model=model)
    for kept in (1, 2, 3):
        folder = tmp_path / f"killed_{kept}"
        die_and_resume(folder, kept, monkeypatch, target=target, model=model)
        check_equal(tmp_path / "whole", folder)
    found = keras.saving.load_model(folder / "model.keras")
    assert sum(map(zeros, found.trainable_weights)) > found.count_params() / 2


def die_and_resume(folder, kept, monkeypatch, **arguments):
    """Ends a run after so many checkpoints, and goes on."""
    save, written = RunFolder.save_checkpoint, []

    def save_and_die(self, *arguments):
        save(self, *arguments)
        written.append(1)
        if len(written) == kept:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            run(folder, **arguments)
    run(folder, resume=True, **arguments)


def check_equal(*folders):
    expected, found = (
        keras.saving.load_model(folder / "model.keras").get_weights()
        for folder in folders
    )
    assert len(expected) == len(found)
    for a, b in zip(expected, found):
        np.testing.assert_array_equal(a, b)


@once
@pytest.mark.usefixtures("no_files")
def test_a_sparsity_is_reached_without_a_cut(model, tmp_path):
    run(tmp_path / "run", "sparsity:0.8", model=model)
    found = keras.saving.load_model(tmp_path / "run" / "model.keras")
    kernels = [v for v in found.weights if v.path.endswith("kernel")]
    total = sum(int(np.prod(v.shape)) for v in kernels)
    assert sum(map(zeros, kernels)) == int(0.8 * total)
    assert found.count_params() == model.count_params()


@once
@pytest.mark.usefixtures("no_files")
def test_blocks_of_zeros(tmp_path):
    structure = ka.masks.NM(2, 4, axis="inputs")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((64,)), layers.Dense(8), layers.Dense(CLASSES)]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    experiment = Compress(
        model,
        (X.reshape(-1, 64), Y),
        "sparsity:0.5",
        structure=structure,
        epochs=2,
    )
    experiment.run(tmp_path / "run", verbose=False)
    found = keras.saving.load_model(tmp_path / "run" / "model.keras")
    groups = to_numpy(found.layers[0].kernel).reshape(16, 4, 8)
    assert ((groups != 0).sum(1) == 2).all()


@once
@pytest.mark.usefixtures("no_files")
def test_an_accuracy_keeps_the_last_step_that_is_good(
    model, tmp_path, monkeypatch
):
    def decide(model, *_):
        sizes = Cuts(model, 8).shapes
        order = sorted(sizes, key=lambda name: -sizes[name])
        steps = [(24, 16, 8), (16, 16, 8), (8, 8, 8)]
        return [
            Decision(dict(zip(order, step)), 3.0 - i, 4.0)
            for i, step in enumerate(steps)
        ]

    accuracies = iter([0.6, 0.495, 0.3])
    monkeypatch.setattr(ways, "decide", decide)
    monkeypatch.setattr(files, "content_of", lambda *_: b"")
    monkeypatch.setattr(measured, "accuracy_of", lambda *_: next(accuracies))
    summary = run(tmp_path / "run", "accuracy:-1", model=model)
    # 0.495 is within a point of 0.5, and 0.3 is not.
    found = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert found.get_layer("inner").filters == 16
    assert found.count_params() < model.count_params()
    front = [(point["name"], point["accuracy"]) for point in summary["front"]]
    assert front == [
        ("dense", 0.5),
        ("pruned, step 1", 0.6),
        ("pruned, step 2", 0.495),
        ("pruned, step 3", 0.3),
    ]


@once
@pytest.mark.usefixtures("no_files")
def test_the_search_shows_how_far_it_is(model, tmp_path, monkeypatch, capsys):
    decide = ways.decide

    def slowly(*arguments):
        *arguments, progress = arguments
        for done in range(4):
            progress("timings of layers", done, 3)
        return decide(*arguments)

    monkeypatch.setattr(ways, "decide", slowly)
    experiment = Compress(model, (X, Y), "flops:0.5", epochs=2)
    experiment.run(tmp_path / "said")
    lines = capsys.readouterr().out.splitlines()
    [place] = [i for i, line in enumerate(lines) if "timings of" in line]
    assert lines[place].endswith("timings of layers: 3")
    assert "target flops:0.5" in lines[place - 1]
    assert "epoch 1/1" in lines[place + 1]
    experiment.run(tmp_path / "silent", verbose=False)
    assert capsys.readouterr().out == ""


# ---- what fit takes ----------------------------------------------------------


def perceptron(x, outputs=4, activation="softmax", **last):
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(16, "relu")(x)
    return keras.layers.Dense(outputs, activation, **last)(hidden)


@once
@pytest.mark.usefixtures("no_files")
def test_metrics_with_a_number_for_each_class_are_logged(tmp_path):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, perceptron(inputs))
    model.compile(
        "adam", "categorical_crossentropy", metrics=[keras.metrics.F1Score()]
    )
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    y = np.eye(4, dtype="float32")[np.arange(64) % 4]
    Compress(model, (x, y), "sparsity:0.5", epochs=2).run(
        tmp_path / "run", verbose=False
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(json.loads(lines[0])["f1_score"]) == 4


@once
@pytest.mark.parametrize("kind", ["loss in a dict", "in a list", "output"])
def test_one_output_may_stand_in_a_container(kind):
    inputs = keras.Input((6,))
    output = perceptron(inputs, name="probs")
    given = {"probs": output} if kind == "output" else output
    model = keras.Model(inputs, given)
    loss = "sparse_categorical_crossentropy"
    model.compile(
        "sgd",
        {
            "loss in a dict": {"probs": loss},
            "in a list": [loss],
            "output": loss,
        }[kind],
    )
    data = x, y = np.ones((8, 6), "float32"), np.arange(8) % 4
    model.fit(*data, verbose=0)
    ready = Compress(model, data, "accuracy:-1", validation_data=data)
    assert ready.resolved().recipe.settings["loss"] == loss.replace("_", "")
    # It is looked into.
    with pytest.raises(ValueError, match="classes from 0 to 3.*from 4 to 7"):
        Compress(model, (x, y + 4), "sparsity:0.5").resolved()


@once
def test_classes_that_the_loss_ignores_are_no_mistakes():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, perceptron(inputs))
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=255)
    model.compile("sgd", loss)
    data = np.ones((8, 6), "float32"), np.array([0, 1, 2, 3, 255, 0, 1, 255])
    Compress(model, data, "accuracy:-1", validation_data=data).resolved()
    outputs = np.eye(4)[[0, 1, 2, 0, 3, 0, 1, 2]]
    # Five of the six that count.
    assert scoring.accuracy(outputs, data[1], loss) == 5 / 6


@once
def test_inputs_by_name_need_not_be_in_the_order_of_the_model():
    b, a = keras.Input((4,), name="b"), keras.Input((3,), name="a")
    model = keras.Model([b, a], perceptron(keras.ops.concatenate([b, a], -1)))
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = {"a": np.ones((8, 3), "float32"), "b": np.ones((8, 4), "float32")}
    Compress(model, (x, np.arange(8) % 4), "sparsity:0.5").resolved()
    x["c"] = x.pop("a")
    with pytest.raises(ValueError, match="`data` must hold inputs"):
        Compress(model, (x, np.arange(8) % 4), "sparsity:0.5").resolved()


@once
@pytest.mark.parametrize(
    "last, logits",
    [
        (lambda x: keras.layers.Reshape((4, 1))(perceptron(x)), False),
        (lambda x: (perceptron(x) + perceptron(x)) / 2, True),
        (
            lambda x: keras.layers.Average()([perceptron(x), perceptron(x)]),
            False,
        ),
        (
            lambda x: keras.layers.Flatten()(perceptron(x, activation=None)),
            True,
        ),
    ],
)
def test_a_loss_by_name_sees_the_activation_behind_a_reshape(last, logits):
    inputs = keras.Input((6,))
    recipe = Recipe(keras.Model(inputs, last(inputs)), "binary_crossentropy")
    assert recipe.loss.get_config()["from_logits"] is logits


@once
def test_how_a_model_was_compiled_goes_on():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, perceptron(inputs))
    model.compile("sgd", "mse", run_eagerly=True, jit_compile=False)
    copy = Recipe(model).compile(keras.models.clone_model(model))
    assert copy.run_eagerly and copy.jit_compile is False
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.25))
    assert Recipe(model, optimizer=scaled).rate == 0.25


# ---- what is refused --------------------------------------------------------


def refused(*arguments, **options):
    with pytest.raises((TypeError, ValueError)) as error:
        ka.compress(*arguments, **options)
    text = str(error.value)
    assert "\n" not in text
    return text


class Own(keras.Model):
    """The graph of its layers is not known."""

    def __init__(self):
        super().__init__(name="own")
        self.flat = layers.Flatten()
        self.dense = layers.Dense(CLASSES)

    def call(self, x):
        return self.dense(self.flat(x))


def test_what_is_no_target(model):
    assert "must be one of latency:0.5" in refused(model, (X, Y), "half")


def test_a_model_without_a_loss():
    text = refused(network(), (X, Y), "flops:0.5")
    assert "`loss` must be given" in text and "loss=None" in text


def test_a_subclassed_model():
    model = Own()
    model.compile("sgd", "mse")
    model(X[:1])
    text = refused(model, (X, Y), "flops:0.5")
    assert "of type Own" in text and "sparsity" in text


class Endless(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, index):
        return X, Y


@pytest.mark.parametrize(
    "data, words",
    [
        ((X[:, :4], Y), "of shape (8, 8, 1). Received: inputs of shape (4, 8"),
        ((X, Y[:5]), "as many inputs as targets"),
        ((X, Y + 1), "classes from 0 to 2"),
        (iter([(X, Y)]), "walked through again"),
        (Endless(), "without an end"),
        ([X[:4]], "without targets"),
        ([], "no batches"),
        ("cifar10", "Received: data='cifar10'"),
    ],
)
def test_data_that_do_not_fit(model, data, words):
    assert words in refused(model, data, "flops:0.5")


def test_validation_data_that_do_not_fit(model):
    text = refused(model, (X, Y), "flops:0.5", validation_data=(X[:, :4], Y))
    assert "`validation_data` must hold inputs" in text


def test_an_accuracy_needs_validation_data(model):
    assert "validation_data=None" in refused(model, (X, Y), "accuracy:-1")


def test_a_structure_that_fixes_its_sparsity_is_not_asked_for_another(model):
    structure = ka.masks.NM(2, 4, axis="inputs")
    text = refused(model, (X, Y), "sparsity:0.9", structure=structure)
    assert "`target` must be 'sparsity:0.5' with" in text


def test_sample_weights_are_not_dropped_in_silence(model):
    batches = [(X[:32], Y[:32], np.zeros(32))]
    text = refused(model, batches, "sparsity:0.5")
    assert "without sample weights" in text and "3 parts" in text


def test_all_targets_must_be_classes_for_an_accuracy():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, perceptron(inputs, activation="sigmoid"))
    model.compile("sgd", "binary_crossentropy")
    x, y = np.ones((16, 6), "float32"), np.eye(4)[np.arange(16) % 4]
    y[12] = 1.0  # several classes, after the first eight
    data = x, y
    text = refused(model, data, "accuracy:-1", validation_data=data)
    assert "`validation_data` must hold classes" in text


def test_a_structure_goes_with_a_sparsity_alone(model):
    structure = ka.masks.NM(2, 4)
    text = refused(model, (X, Y), "flops:0.5", structure=structure)
    assert "`structure` must be 'auto'" in text


def test_one_epoch_is_too_few(model):
    assert "`epochs`" in refused(model, (X, Y), "flops:0.5", epochs=1)


def test_an_unreachable_target_leaves_no_folder(model, tmp_path):
    folder = tmp_path / "run"
    text = refused(model, (X, Y), "flops:0.01", run_dir=folder)
    # Widths of 8 everywhere.
    least = 1.01 * flops_of((8, 8, 8)) / flops_of((16, 24, 16))
    assert f"the nearest that can is 'flops:{least:.3g}'" in text
    assert not folder.exists()


# ---- parts -------------------------------------------------------------------


def test_the_order_of_an_epoch_follows_from_its_number():
    data = Examples((X, Y), batch_size=50)
    assert data.steps_per_epoch == 4
    both = list(data.epochs(0, 2))
    later = list(data.epochs(1, 2))
    assert [len(y) for _, y in later] == [50, 50, 50, 42]
    for (x, _), (again, _) in zip(both[4:], later):
        np.testing.assert_array_equal(x, again)
    assert not np.array_equal(both[0][0], both[4][0])
    seen = np.sort(np.concatenate([x[:, 0, 0, 0] for x, _ in later]))
    np.testing.assert_array_equal(seen, np.sort(X[:, 0, 0, 0]))


def test_batches_come_as_they_are():
    batches = [(X[:4], Y[:4]), (X[4:6], Y[4:6])]
    data = Examples(batches)
    assert data.steps_per_epoch == 2
    assert [len(y) for _, y in data.epochs(3, 5)] == [4, 2, 4, 2]
    np.testing.assert_array_equal(data.first(5), X[:5])


def test_each_set_ends_at_its_own_width():
    ramp = Ramp([16, 10, 4], [16, 10, 4], [8, 3, 4])
    assert ramp.final == 15 / 30
    names = {"a": (16,), "b": (10,), "c": (4,)}

    def gone(sparsity):
        spread = ramp(names, sparsity)
        return [int(s * n) for s, (n,) in zip(spread.values(), names.values())]

    assert gone(0.0) == [0, 0, 0]
    assert gone(0.25) == [4, 3, 0]
    assert gone(0.5) == [8, 7, 0]
    # The next step begins where this one ended.
    further = Ramp([16, 10, 4], [8, 3, 4], [8, 1, 2])
    spread = further(names, further.initial)
    assert [int(s * n[0]) for s, n in zip(spread.values(), names.values())] == [
        8,
        7,
        0,
    ]


@pytest.mark.parametrize(
    "last, logits",
    [(None, True), ("softmax", False), (layers.Softmax(), False)],
)
def test_a_loss_that_is_named_takes_what_the_model_gives(last, logits):
    model = network()
    if last is not None:
        outputs = layers.Activation(last)(model.outputs[0])
        if isinstance(last, keras.Layer):
            outputs = last(model.outputs[0])
        model = keras.Model(model.inputs, outputs)
    loss = Recipe(model, "sparse_categorical_crossentropy").loss
    assert loss.get_config()["from_logits"] is logits
    with pytest.raises(ValueError, match="`loss` must be given.*run folder"):
        Recipe(model)


@pytest.mark.parametrize(
    "compiled, given, rate",
    [
        (keras.optimizers.Adam(5e-3), None, 5e-3),
        # Lowered to nothing: a tenth of Adam's own 1e-3.
        (keras.optimizers.Adam(1e-7), None, 1e-4),
        (keras.optimizers.SGD(1e-7), None, 1e-3),
        (keras.optimizers.Adam(5e-3), keras.optimizers.SGD(1e-7), 1e-7),
        (keras.optimizers.Adam(5e-3), "sgd", 0.01),
        (
            keras.optimizers.SGD(
                keras.optimizers.schedules.CosineDecay(0.2, 10)
            ),
            None,
            0.2,
        ),
    ],
)
def test_the_learning_rate_to_go_on_with(compiled, given, rate):
    model = network()
    model.compile(compiled, "mse")
    recipe = Recipe(model, optimizer=given)
    assert recipe.rate == pytest.approx(rate)
    again = recipe.compile(network())
    assert float(again.optimizer.learning_rate) == pytest.approx(rate)
    assert type(again.optimizer) is type(
        keras.optimizers.get(given or compiled)
    )


def test_a_schedule_that_is_given_is_left_alone():
    model = network()
    model.compile("adam", "mse")
    schedule = keras.optimizers.schedules.CosineDecay(0.3, 10)
    recipe = Recipe(model, optimizer=keras.optimizers.SGD(schedule))
    assert recipe.rate is None
    again = recipe.compile(network())
    assert float(again.optimizer.learning_rate) == pytest.approx(0.3)


def test_metrics_and_loss_are_those_of_the_model(model):
    again = Recipe(model).compile(network())
    found = again.evaluate(X[:8], Y[:8], verbose=0, return_dict=True)
    assert set(found) == {"loss", "accuracy"}
