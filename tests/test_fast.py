"""What the fast recipes add: network, whitening, flips, rates, precision."""

import keras
import numpy as np
import pytest

from keras_app import pruners
from keras_app.experiments import Anytime
from keras_app.experiments import Lottery
from keras_app.experiments import TicketSearch
from keras_app.experiments import Train
from keras_app.experiments import TriangularLearningRate
from keras_app.experiments.data import Holdout
from keras_app.experiments.data import Megabatches
from keras_app.experiments.data import Restoration
from keras_app.experiments.losses import SmoothedCrossentropy
from keras_app.experiments.models import convnet
from keras_app.experiments.models import fast_convnet
from keras_app.experiments.models import mlp
from keras_app.experiments.models import whiten
from keras_app.experiments.run.folder import RunFolder
from keras_app.schedules import ConstantSparsity
from keras_app.schedules import PolynomialDecay
from tests.helpers import events
from tests.helpers import to_numpy


def arrays(count=60, size=9, channels=1, seed=0):
    generator = np.random.default_rng(seed)
    labels = (np.arange(count) % 3).astype("int32")
    images = generator.random((count, size, size, channels), "float32")
    images[..., 0] += labels[:, None, None] * np.eye(size, dtype="float32")
    return images, labels


def holdout(**kwargs):
    return Holdout(
        arrays(),
        test=arrays(20, seed=1),
        validation_fraction=0.2,
        batch_size=16,
        **kwargs,
    )


def small_mlp(input_shape, num_classes, mean, std, seed):
    return mlp(input_shape, num_classes, (12, 8), mean=mean, std=std, seed=seed)


def small_conv(input_shape, num_classes, mean, std, seed):
    return convnet(
        input_shape, num_classes, filters=(4, 6), mean=mean, std=std, seed=seed
    )


def small_fast(input_shape, num_classes, mean, std, seed):
    return fast_convnet(
        input_shape, num_classes, (4, 6, 6), mean=mean, std=std, seed=seed
    )


# ---- the network -------------------------------------------------------------


def test_the_fast_network_has_the_parameters_counted_by_hand():
    # 3x3 kernels 3*3*(24*32 + 32*32 + 32*128 + 3*128*128), logits 128*10,
    # offsets 2*(32 + 128 + 128); 2*2*3*24 and statistics are not trained.
    model = fast_convnet((32, 32, 3), 10, widths=(32, 128, 128), seed=0)
    trained = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert trained == 497_216
    assert model.count_params() == 497_216 + 288 + 1_152
    assert model.output_shape == (None, 10)
    shapes = [tuple(layer.output.shape[1:3]) for layer in model.layers]
    assert [s for s in shapes if s in {(31, 31), (15, 15), (7, 7), (3, 3)}] == (
        [(31, 31)] * 3 + [(15, 15)] * 7 + [(7, 7)] * 7 + [(3, 3)] * 6
    )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: fast_convnet((32, 32, 3), 10, ()), r"`widths`.*widths=\(\)"),
        (lambda: fast_convnet((8, 8, 3), 10), r"at least 9.*\(8, 8, 3\)"),
    ],
)
def test_bad_arguments_of_the_fast_network(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_pruners_pass_the_whitening_by():
    model = fast_convnet((9, 9, 1), 3, widths=(4,), seed=0)
    model.compile("sgd", "mse")
    pruner = pruners.MagnitudePruner(ConstantSparsity(0.5, 0, 10, 1))
    pruner.set_model(model)
    assert sorted(pruner.masks) == [
        "group1_conv1/kernel",
        "group1_conv2/kernel",
        "logits/kernel",
    ]


def test_whitened_patches_have_the_identity_as_their_covariance():
    images = arrays(30, 9, 2)[0]
    model = fast_convnet(
        (9, 9, 2), 3, (4,), mean=(0.4, 0.6), std=(0.2, 0.5), seed=0
    )
    whiten(model, images, epsilon=0.0)
    normal = (images.astype("float64") - (0.4, 0.6)) / (0.2, 0.5)
    windows = np.lib.stride_tricks.sliding_window_view(normal, (2, 2), (1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 8)
    layer = model.get_layer("whitening")
    kernel = to_numpy(layer.kernel).reshape(8, 16)
    np.testing.assert_array_equal(kernel[:, :8], -kernel[:, 8:])
    covariance = np.cov((patches @ kernel[:, :8]).T)
    np.testing.assert_allclose(covariance, np.eye(8), atol=2e-3)
    # The layer itself gives these products.
    found = keras.Model(model.input, layer.output).predict(images, verbose=0)
    np.testing.assert_allclose(
        found.reshape(-1, 16), patches @ kernel, atol=1e-4
    )


def test_the_sign_of_a_filter_is_that_of_its_largest_entry():
    model = fast_convnet((9, 9, 1), 3, (4,), seed=0)
    whiten(model, arrays(20)[0])
    kernel = to_numpy(model.get_layer("whitening").kernel).reshape(4, 8)
    largest = kernel[np.abs(kernel).argmax(axis=0), np.arange(8)]
    assert np.all(largest[:4] > 0) and np.all(largest[4:] < 0)


def test_what_cannot_be_whitened_is_refused():
    with pytest.raises(ValueError, match="`model`.*'whitening'.*'mlp'"):
        whiten(mlp((9, 9, 1), 3, (4,)), arrays()[0])
    model = fast_convnet((9, 9, 1), 3, (4,))
    with pytest.raises(ValueError, match=r"`images`.*\(60, 8, 8, 1\)"):
        whiten(model, arrays(size=8)[0])
    with pytest.raises(ValueError, match="`epsilon`.*epsilon=-1"):
        whiten(model, arrays()[0], epsilon=-1)


# ---- data --------------------------------------------------------------------


def seen(dataset):
    """`{id: image}` of the batches."""
    return {
        int(i): image
        for images, _, ids in dataset.as_numpy_iterator()
        for i, image in zip(ids, images, strict=True)
    }


@pytest.mark.backend_free
@pytest.mark.parametrize("kind", ["holdout", "megabatches"])
def test_alternating_flips_show_each_image_both_ways(kind):
    images, labels = arrays()
    changes = {"augment": True, "padding": 0, "flip": "alternating"}

    def of_epochs(seed):
        if kind == "holdout":
            parts = Holdout((images, labels), seed=seed, **changes)
            return lambda e: seen(parts.epochs(e, e + 1, with_ids=True))
        stream = Megabatches(
            (images, labels), 2, with_ids=True, seed=seed, **changes
        )
        return lambda e: seen(stream[1].epochs(e, e + 1))

    of_epoch = of_epochs(seed=3)
    first, second, third = (of_epoch(e) for e in range(3))
    assert sorted(first) == sorted(second) == sorted(third)
    begun = 0
    for i in first:
        mirrored = np.array_equal(first[i], images[i][:, ::-1])
        assert mirrored or np.array_equal(first[i], images[i])
        np.testing.assert_array_equal(second[i], first[i][:, ::-1])
        np.testing.assert_array_equal(third[i], first[i])
        begun += mirrored
    assert 0.2 < begun / len(first) < 0.8
    other = of_epochs(seed=4)(0)
    assert any(not np.array_equal(other[i], first.get(i)) for i in other)


@pytest.mark.backend_free
def test_reflected_padding_shows_no_zeros():
    images = np.ones((20, 6, 6, 1), "float32")
    labels = np.zeros(20, "int32")
    for mode, least in (("constant", 0.0), ("reflect", 1.0)):
        parts = Holdout(
            (images, labels), 0.5, augment=True, padding=2, pad_mode=mode
        )
        batches = parts.epochs(0, 1).as_numpy_iterator()
        assert min(batch[0].min() for batch in batches) == least


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"flip": "sometimes"}, "`flip`.*'alternating'.*flip='sometimes'"),
        ({"pad_mode": "wrap"}, "`pad_mode`.*'reflect'.*pad_mode='wrap'"),
        ({"pad_mode": "reflect", "padding": 9}, "`padding`.*padding=9.*9, 9"),
    ],
)
def test_bad_changes_of_images_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Holdout(arrays(), augment=True, **changes)
    with pytest.raises(ValueError, match=message):
        Megabatches(arrays(), 2, **changes)


# ---- rate and loss -----------------------------------------------------------


def test_the_triangular_rate_rises_and_falls():
    model = mlp((2,), 2, ())
    model.compile(keras.optimizers.SGD(1.0), "mse")
    rates = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            rates.append(float(to_numpy(self.model.optimizer.learning_rate)))

    triangle = TriangularLearningRate(2.0, start=0.2, end=0.1, rise=0.4)
    x = np.zeros((4, 2), "float32")
    history = model.fit(
        x, x, 2, epochs=5, verbose=0, callbacks=[triangle, Watch()]
    )
    # 0.4 to 2 in four steps, then down by 0.3 a step, to 0.2 after the last.
    expected = [0.4, 0.8, 1.2, 1.6, 2.0, 1.7, 1.4, 1.1, 0.8, 0.5]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    assert history.history["learning_rate"][-1] == pytest.approx(0.5)
    config = triangle.get_config()
    assert TriangularLearningRate.from_config(config).get_config() == config


def test_the_triangular_rate_starts_over_with_each_round(tmp_path):
    rates = {}
    for kind, rounds in ((Lottery, {"rewind_epoch": 0}), (TicketSearch, {})):
        kind(
            holdout(),
            small_conv,
            rounds=2,
            epochs=3,
            rate_schedule="triangle",
            **rounds,
        ).run(tmp_path / kind.__name__, verbose=False)
        found = [
            event["learning_rate"]
            for event in events(tmp_path / kind.__name__)
            if "learning_rate" in event
        ]
        # Nine steps of 3 in an epoch: before step 8, at u = 8/9, of the last.
        last = 0.1 * (1 - 0.93 * (8 / 9 - 0.23) / 0.77)
        np.testing.assert_allclose(found[2::3], last, rtol=1e-5)
        rates[kind] = found
    assert len(rates[Lottery]) == 6 and len(rates[TicketSearch]) == 9
    with pytest.raises(ValueError, match="`retrain_epochs`.*retrain_epochs=1"):
        TicketSearch(
            holdout(),
            small_conv,
            epochs=3,
            retrain_epochs=1,
            rate_schedule="triangle",
        ).resolved()


@pytest.mark.parametrize("kind", [Anytime, Lottery])
def test_comparisons_judge_by_the_mean_over_the_flip(tmp_path, kind):
    fields = {"rewind_epoch": 0, "rounds": 1} if kind is Lottery else {}
    data = holdout()
    if kind is Anytime:
        data = Megabatches(arrays(), 1)
        fields = {"test": arrays(20, seed=1), "methods": ("dense",)}
    summary = kind(data, small_conv, epochs=1, average_flip=True, **fields).run(
        tmp_path, verbose=False
    )
    assert summary["averaged_over_flip"] == ["accuracy"]
    model = keras.models.load_model(tmp_path / "model.keras")
    images, labels = arrays(20, seed=1)
    both = model.predict(images, verbose=0)
    both = both + model.predict(images[:, :, ::-1], verbose=0)
    right = both.argmax(axis=1) == labels
    assert summary["accuracy"] == pytest.approx(right.mean(), abs=1e-6)


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "name, value", [("peak", 0), ("start", 2), ("end", -1), ("rise", 1)]
)
def test_bad_arguments_of_the_triangular_rate(name, value):
    with pytest.raises(ValueError, match=f"`{name}`.*{name}={value}"):
        TriangularLearningRate(**{"peak": 1.0, name: value})


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_smoothed_labels_cost_what_the_formula_says(shape):
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(5, 4)).astype("float32")
    labels = np.array([0, 3, 1, 1, 2])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.full((5, 4), 0.2 / 4)
    targets[np.arange(5), labels] += 0.8
    expected = -(targets * np.log(p)).sum(axis=1).mean()
    loss = SmoothedCrossentropy(0.2)
    found = float(to_numpy(loss(labels.reshape(shape), logits)))
    assert found == pytest.approx(expected, rel=1e-5)
    assert loss.get_config()["label_smoothing"] == 0.2


# ---- experiments -------------------------------------------------------------


class Killed(Exception):
    """The process dies."""


def kill_after(epochs, monkeypatch):
    save = RunFolder.save_checkpoint
    left = [epochs]

    def save_and_die(self, *args):
        save(self, *args)
        self.flush()
        left[0] -= 1
        if not left[0]:
            raise Killed

    monkeypatch.setattr(RunFolder, "save_checkpoint", save_and_die)


def train(path, model, resume=False, **kwargs):
    schedule = PolynomialDecay(0.0, 0.75, begin_step=1, end_step=6, frequency=1)
    arguments = {
        "optimizer": lambda: keras.optimizers.SGD(
            0.1, momentum=0.85, nesterov=True, weight_decay=1e-2
        ),
        "pruner": pruners.MagnitudePruner(schedule, filters="conv|hidden"),
        "callbacks": [TriangularLearningRate(0.1)],
        "epochs": 3,
        "label_smoothing": 0.2,
        "no_decay": ("bias", "beta"),
        "dtype_policy": "mixed_bfloat16",
        "average_flip": True,
        **kwargs,
    }
    data = holdout(
        augment=True, padding=2, flip="alternating", pad_mode="reflect"
    )
    experiment = Train(data, model, **arguments)
    return experiment.run(path, resume=resume, verbose=False)


@pytest.mark.parametrize("model", [small_mlp, small_conv, small_fast])
def test_a_run_in_bfloat16_keeps_zeros_and_is_resumed_bit_for_bit(
    model, tmp_path, monkeypatch
):
    before = keras.config.dtype_policy().name
    summary = train(tmp_path / "whole", model)
    assert keras.config.dtype_policy().name == before
    assert summary["missed"] == []
    assert summary["averaged_over_flip"] == ["accuracy"]
    (figures,) = summary["methods"].values()
    assert 0 <= figures["accuracy_unflipped"] <= 1
    with monkeypatch.context() as patched:
        kill_after(1, patched)
        with pytest.raises(Killed):
            train(tmp_path / "killed", model)
    with pytest.raises(ValueError, match="dtype_policy: mixed_bfloat16 -> fl"):
        train(tmp_path / "killed", model, resume=True, dtype_policy="float32")
    again = train(tmp_path / "killed", model, resume=True)
    assert again["methods"] == summary["methods"]
    assert events(tmp_path / "killed") == events(tmp_path / "whole")
    one, other = (
        keras.models.load_model(tmp_path / name / "model.keras")
        for name in ("whole", "killed")
    )
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        assert a.dtype == "float32"
        np.testing.assert_array_equal(a, b)
    assert any(layer.compute_dtype == "bfloat16" for layer in one.layers)
    assert one.get_layer("logits").compute_dtype == "float32"
    pruned = [w for w in one.weights if "conv" in w.path or "hidden" in w.path]
    pruned = [to_numpy(w) for w in pruned if w.path.endswith("/kernel")]
    zeros = sum(int(np.sum(w == 0)) for w in pruned)
    assert zeros == pytest.approx(0.75 * sum(w.size for w in pruned), abs=3)


def test_the_whitening_of_a_run_is_that_of_its_training_images(tmp_path):
    train(tmp_path / "run", small_fast, epochs=1, pruner=None)
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert not model.get_layer("whitening").trainable
    parts = holdout()
    expected = small_fast((9, 9, 1), 3, None, None, 0)
    whiten(expected, arrays()[0][parts.train_ids])
    np.testing.assert_array_equal(
        to_numpy(model.get_layer("whitening").kernel),
        to_numpy(expected.get_layer("whitening").kernel),
    )


def test_every_backend_whitens_alike():
    experiment = Train(
        holdout(),
        small_fast,
        mean=(0.3,),
        std=(0.7,),
        dtype_policy="mixed_bfloat16",  # rounds mean and std, too
    )
    kernel = experiment.build_model().get_layer("whitening").kernel
    # Found on PyTorch, TensorFlow and JAX, equal in every bit on one machine.
    np.testing.assert_allclose(
        to_numpy(kernel).reshape(4, 8)[:, 0],
        [-1.7041767, 0.02243569, 0.00179115, 1.7200152],
        rtol=1e-4,
    )


def test_the_mean_over_the_flip_is_that_of_the_logits(tmp_path):
    summary = train(tmp_path / "run", small_conv, epochs=1, pruner=None)
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    images, labels = arrays(20, seed=1)
    straight = model.predict(images, verbose=0)
    mirrored = model.predict(images[:, :, ::-1], verbose=0)
    right = ((straight + mirrored) / 2).argmax(axis=1) == labels
    assert summary["accuracy"] == pytest.approx(right.mean(), abs=1e-6)


def test_weight_decay_leaves_out_what_is_named():
    experiment = Train(
        holdout(),
        small_conv,
        optimizer=lambda: keras.optimizers.SGD(weight_decay=0.1),
        no_decay=("bias", "beta", "gamma"),
    )
    model = experiment.build_model()
    decayed = {
        variable.path
        for variable in model.trainable_variables
        if model.optimizer._use_weight_decay(variable)
    }
    assert decayed == {"conv1/kernel", "conv2/kernel", "logits/kernel"}


@pytest.mark.parametrize("kind", [Anytime, Lottery, TicketSearch, Train])
def test_all_experiments_take_policy_and_smoothing(kind):
    data = Megabatches(arrays(), 2) if kind is Anytime else holdout()
    fields = {"test": arrays(20)} if kind is Anytime else {}
    if kind is Lottery:
        fields["rewind_epoch"] = 0
    experiment = kind(
        data,
        small_fast,
        epochs=3,
        dtype_policy="mixed_bfloat16",
        label_smoothing=0.1,
        **fields,
    ).resolved()
    model = experiment.build_model()
    assert model.get_layer("group1_conv1").compute_dtype == "bfloat16"
    assert model.loss.label_smoothing == 0.1
    assert np.isfinite(to_numpy(model.get_layer("whitening").kernel)).all()


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "error, fields, message",
    [
        (
            ValueError,
            {"dtype_policy": "mixed_float16"},
            "`dtype_policy`.*None, 'float32', 'mixed_bfloat16'.*'mixed_float16",
        ),
        (ValueError, {"label_smoothing": 1}, r"\[0, 1\).*label_smoothing=1"),
        (TypeError, {"no_decay": "bias"}, "`no_decay`.*no_decay='bias'"),
    ],
)
def test_bad_fields_are_named(error, fields, message):
    with pytest.raises(error, match=message):
        Train(holdout(), small_mlp, **fields)


@pytest.mark.backend_free
def test_what_does_not_go_with_the_data_or_the_optimizer_is_refused(tmp_path):
    images = Restoration((np.ones((20, 6, 6, 1), "float32") / 2, np.arange(20)))
    for name, value in (("label_smoothing", 0.1), ("average_flip", True)):
        with pytest.raises(ValueError, match=f"`{name}`.*images.*{value}"):
            Train(images, "skip_encoder", **{name: value}).run(tmp_path / "a")
    flat = Holdout((np.ones((20, 6), "float32"), np.arange(20) % 2))
    with pytest.raises(ValueError, match=r"`average_flip`.*\(6,\)"):
        Train(flat, "mlp", average_flip=True).run(tmp_path / "a")
    with pytest.raises(ValueError, match="`no_decay`.*'bias'.*Adam"):
        Train(holdout(), small_mlp, no_decay=("bias",)).run(tmp_path / "a")
    assert not (tmp_path / "a").exists()
