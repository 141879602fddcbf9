"""Tests of the networks: sizes, names, first weights, normalization."""

import doctest
import functools
import importlib
import inspect
import math
import pkgutil
import warnings

import keras
import numpy as np
import pytest

from keras_app.experiments import models
from keras_app.experiments.models import lookup
from tests.helpers import assert_refused

# Trainable parameters for 10 classes. The MLP (28x28x1) is LeNet-300-100; the
# rest (32x32x3) are the sizes of the usual CIFAR-10 code: resnet18, resnet50
# as published, vgg16_bn as published (14,728,266) less its 4,224 convolution
# biases, resnet20/32/56 as published with identity shortcuts (269,722,
# 464,154, 853,018) plus 2,560 for two 1x1 convolutions and 192 for their
# batch normalization. By hand for 28x28x1: convnet_5x5 has 1,664 + 102,464 in
# the convolutions (24x24, pooled to 12x12; 8x8, pooled to 4x4), 131,200 + 1,290
# in the dense layers; densenet_design has 108 in the stem, 9 * 12 * 12 * (1 +
# 2 + 3 + 4 + 5) + 60 in five units, 649 in the last one, 7,850 in the logits.
PARAMETERS = {
    "mlp": 266_610,
    "convnet": 24_058,
    "resnet20": 272_474,
    "resnet32": 466_906,
    "resnet56": 855_770,
    "resnet18": 11_173_962,
    "resnet50": 23_520_842,
    "vgg16_bn": 14_724_042,
    "fast_convnet": 1_971_328,
    "convnet_5x5": 236_618,
    "densenet_design": 28_107,
}

GREY = ("mlp", "convnet", "convnet_5x5", "densenet_design")
SMALL = (*GREY, "resnet20")


def input_shape_of(name):
    return (28, 28, 1) if name in GREY else (32, 32, 3)


@functools.cache
def build(name, seed=0):
    """One shared instance; tests only read it."""
    return models.get(name, input_shape_of(name), 10, seed=seed)


def to_numpy(value):
    return keras.ops.convert_to_numpy(value)


def size(variables):
    return sum(math.prod(variable.shape) for variable in variables)


def kernel(model, layer):
    return to_numpy(model.get_layer(layer).kernel)


@pytest.mark.parametrize("name", PARAMETERS)
def test_trainable_parameters_match_the_literature(name):
    assert size(build(name).trainable_variables) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_output_is_one_logit_per_class(name):
    model = build(name)
    images = np.random.default_rng(0).random((2, *input_shape_of(name)))
    logits = to_numpy(model(images.astype("float32")))
    assert logits.shape == (2, 10)
    assert np.all(np.isfinite(logits))
    assert not np.allclose(logits.sum(axis=-1), 1.0)
    assert model.get_layer("logits").get_config()["activation"] == "linear"


@pytest.mark.parametrize("name", PARAMETERS)
def test_models_come_uncompiled_and_without_regularizers(name):
    model = build(name)
    assert model.name == name
    assert not model.compiled
    assert model.losses == []


@pytest.mark.parametrize("name", SMALL)
def test_names_and_paths_are_the_same_in_every_instance(name):
    first = build(name)
    second = models.get(name, input_shape_of(name), 10)
    assert [x.name for x in first.layers] == [x.name for x in second.layers]
    assert [v.path for v in first.variables] == [
        v.path for v in second.variables
    ]


def test_resnet20_has_readable_paths():
    paths = {variable.path for variable in build("resnet20").variables}
    assert {
        "stem_conv/kernel",
        "stem_bn/gamma",
        "stage1_block1_conv1/kernel",
        "stage3_block3_bn2/moving_variance",
        "stage2_block1_shortcut_conv/kernel",
        "stage2_block1_shortcut_bn/beta",
        "logits/kernel",
        "logits/bias",
    } <= paths


def test_resnet20_has_nineteen_3x3_convolutions_and_two_1x1_shortcuts():
    convolutions = {
        layer.name: layer
        for layer in build("resnet20").layers
        if isinstance(layer, keras.layers.Conv2D)
    }
    shortcuts = {
        name: tuple(layer.kernel.shape)
        for name, layer in convolutions.items()
        if "shortcut" in name
    }
    assert shortcuts == {
        "stage2_block1_shortcut_conv": (1, 1, 16, 32),
        "stage3_block1_shortcut_conv": (1, 1, 32, 64),
    }
    others = [convolutions[name] for name in set(convolutions) - set(shortcuts)]
    assert len(others) == 19
    assert sum(size([layer.kernel]) for layer in others) == 267_696
    assert all(not layer.use_bias for layer in convolutions.values())


@pytest.mark.parametrize(
    ("name", "height"),
    [("convnet", 4), ("resnet20", 8), ("resnet18", 4), ("vgg16_bn", 1)],
)
def test_spatial_size_before_the_global_pool(name, height):
    features = build(name).get_layer("global_pool").input
    assert features.shape[1:3] == (height, height)


def test_bottleneck_strides_on_its_3x3_convolution():
    model = build("resnet50")
    strides = [
        model.get_layer(f"stage2_block1_{conv}").strides
        for conv in ("conv1", "conv2", "conv3", "shortcut_conv")
    ]
    assert strides == [(1, 1), (2, 2), (1, 1), (2, 2)]


def test_vgg16_bn_takes_images_that_do_not_halve_five_times():
    assert models.vgg16_bn((28, 28, 1), 10).output_shape == (None, 10)


def test_batch_normalization_keeps_the_constants_of_the_reference():
    for layer in build("resnet20").layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert layer.momentum == 0.9
            assert layer.epsilon == 1e-5


def test_convnet_5x5_pools_before_its_activations():
    model = build("convnet_5x5")
    names = [layer.name for layer in model.layers]
    assert names[1:7] == ["conv1", "pool1", "relu1", "conv2", "pool2", "relu2"]
    assert model.get_layer("conv2").output.shape == (None, 8, 8, 64)
    assert model.get_layer("hidden").kernel.shape == (1024, 128)
    assert all(
        model.get_layer(name).use_bias
        for name in ("conv1", "conv2", "hidden", "logits")
    )


def test_densenet_units_see_the_maps_of_all_units_before_them():
    model = build("densenet_design")
    shapes = {
        layer.name: tuple(layer.kernel.shape)
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    }
    assert shapes == {
        "stem": (3, 3, 1, 12),
        "unit1_conv": (3, 3, 12, 12),
        "unit2_conv": (3, 3, 24, 12),
        "unit3_conv": (3, 3, 36, 12),
        "unit4_conv": (3, 3, 48, 12),
        "unit5_conv": (3, 3, 60, 12),
        "unit6_conv": (3, 3, 72, 1),
    }
    assert not model.get_layer("stem").use_bias
    assert model.get_layer("logits").kernel.shape == (784, 10)


def test_densenet_keeps_new_maps_behind_old_ones():
    model = models.densenet_design((4, 4, 1), 2, seed=0, units=2, growth=3)
    images = np.random.default_rng(0).random((2, 4, 4, 1)).astype("float32")
    parts = keras.Model(
        model.input,
        [
            model.get_layer(name).output
            for name in ("stem", "unit1_conv", "unit2_conv", "unit2_concat")
        ],
    )(images)
    stem, first, second, together = map(to_numpy, parts)
    expected = np.concatenate([stem, first, second], axis=-1)
    np.testing.assert_array_equal(together, expected)
    # The stem is linear, the units are not.
    assert stem.min() < 0 and first.min() == 0 and second.min() == 0


def a_skip_encoder(**kwargs):
    return models.skip_encoder((2, 3, 1), depth=3, seed=0, **kwargs)


def test_skip_encoder_has_the_parameters_of_six_square_layers():
    model = models.get("skip_encoder", (28, 28, 1), None)
    # 6 * (784 * 784 + 784) and 1 + 2 + ... + 6 skip coefficients.
    assert model.count_params() == size(model.trainable_variables) == 3_692_661
    assert model.output_shape == (None, 28, 28, 1)
    for k in range(1, 7):
        assert model.get_layer(f"layer{k}").kernel.shape == (784, 784)
        coefficients = to_numpy(model.get_layer(f"skip{k}").coefficients)
        np.testing.assert_array_equal(coefficients, np.zeros(k))


def test_skip_encoder_computes_the_stated_recursion():
    model = a_skip_encoder(mean=0.25, std=0.5)
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    images = rng.random((4, 2, 3, 1)).astype("float32")
    kept = [(images.reshape(4, 6) - 0.25) / 0.5]
    for k in (1, 2, 3):
        layer = model.get_layer(f"layer{k}")
        w, b = to_numpy(layer.kernel), to_numpy(layer.bias)
        a = to_numpy(model.get_layer(f"skip{k}").coefficients)
        new = np.maximum(kept[-1] @ w + b, 0)
        kept.append(new + sum(a[i] * kept[i] for i in range(k)))
    np.testing.assert_allclose(
        to_numpy(model(images)), kept[3].reshape(4, 2, 3, 1), rtol=1e-4
    )


def test_skip_coefficients_learn_in_fit_and_are_saved(tmp_path):
    model = a_skip_encoder(mean=0.25, std=0.5)
    images = np.random.default_rng(0).random((16, 2, 3, 1)).astype("float32")
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(images, images, batch_size=8, epochs=2, verbose=0)
    assert all(
        to_numpy(model.get_layer(f"skip{k}").coefficients).all()
        for k in (1, 2, 3)
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [v.path for v in loaded.variables] == [
        v.path for v in model.variables
    ]
    np.testing.assert_allclose(
        to_numpy(loaded(images)), to_numpy(model(images)), rtol=1e-6
    )


def test_skip_encoder_has_no_classes():
    with pytest.raises(ValueError, match="must be None.*num_classes=10"):
        models.skip_encoder((28, 28, 1), 10)


def test_same_seed_gives_the_same_skip_encoder():
    first, second = a_skip_encoder(), a_skip_encoder()
    assert [v.path for v in first.variables] == [
        v.path for v in second.variables
    ]
    for a, b in zip(first.variables, second.variables):
        np.testing.assert_array_equal(to_numpy(a), to_numpy(b))


def test_mlp_options_change_width_activation_and_bias():
    model = models.mlp((6,), 3, (5, 4), "tanh", batch_norm=True)
    # Kernels 30 + 20 + 12, no hidden biases, 2 * (5 + 4) for batch
    # normalization, 3 biases of the logits.
    assert size(model.trainable_variables) == 83
    config = model.get_layer("hidden2_activation").get_config()
    assert config["activation"] == "tanh"


def test_resnet_cifar_takes_other_depths():
    model = models.get("resnet_cifar", (32, 32, 3), 10, depth=8)
    # By hand: 432 + 4,608 + 13,824 + 55,296 for 3x3 convolutions, 2,560 for
    # 1x1, 672 for batch normalization, 650 for the logits.
    assert size(model.trainable_variables) == 78_042


def test_seed_gives_these_weights_on_every_backend():
    model = models.resnet20((32, 32, 3), 10, seed=3)
    recorded = {
        "stem_conv": (-3.754870607081102, 0.6578649282455444),
        "stage3_block1_shortcut_conv": (-2.579061892728, 0.2810791134834),
        "logits": (2.183095452550, 0.16233216226),
    }
    for layer, (total, first) in recorded.items():
        values = kernel(model, layer).astype("float64")
        assert values.sum() == pytest.approx(total, abs=1e-6)
        assert values.flat[0] == pytest.approx(first, abs=1e-6)
    total = sum(
        np.abs(to_numpy(variable).astype("float64")).sum()
        for variable in model.trainable_variables
    )
    assert total == pytest.approx(16224.497009676, abs=1e-4)


def test_same_seed_gives_the_same_logits_on_every_backend():
    model = models.resnet20(
        (32, 32, 3), 10, mean=(0.4914, 0.4822, 0.4465), std=0.25, seed=3
    )
    images = np.linspace(0, 1, 2 * 32 * 32 * 3, dtype="float32")
    logits = to_numpy(model(images.reshape((2, 32, 32, 3))))[1]
    # Recorded on JAX; TensorFlow and PyTorch differ by 2e-6 of the largest.
    # They would differ by more, were strided padding not the same.
    expected = [
        -34.38014, -9.093985, 31.326765, 25.220253, 2.6537657,
        4.5527992, -3.1346512, -3.717392, 82.589157, 4.3726096,
    ]  # fmt: skip
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", SMALL)
def test_rebuilding_with_a_seed_gives_the_same_weights(name):
    keras.utils.set_random_seed(123)
    again = models.get(name, input_shape_of(name), 10, seed=0)
    for first, second in zip(build(name).variables, again.variables):
        np.testing.assert_array_equal(to_numpy(first), to_numpy(second))


@pytest.mark.parametrize("name", SMALL)
def test_another_seed_changes_every_kernel(name):
    pairs = zip(build(name).variables, build(name, seed=1).variables)
    kernels = [pair for pair in pairs if pair[0].path.endswith("kernel")]
    assert kernels
    for first, second in kernels:
        assert np.all(np.mean(to_numpy(first) == to_numpy(second)) < 0.01)


def test_initialize_follows_its_stated_distributions():
    inputs = keras.Input((8, 8, 6))
    x = keras.layers.Conv2D(64, 3, name="conv")(inputs)
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=4, name="depthwise")(x)
    inner = keras.Sequential(
        [keras.Input((256,)), keras.layers.Dense(128, name="dense")]
    )
    x = inner(keras.layers.GlobalMaxPooling2D()(x))
    x = keras.layers.BatchNormalization(name="bn")(x)
    model = keras.Model(inputs, x)
    model.get_layer("bn").gamma.assign(np.full(128, 3.0))
    inner.get_layer("dense").bias.assign(np.full(128, 3.0))

    models.initialize(model, seed=7)

    conv = np.random.default_rng((7, 0)).standard_normal(
        (3, 3, 6, 64), dtype="float32"
    )
    np.testing.assert_allclose(
        kernel(model, "conv"), conv * np.sqrt(2 / 54), rtol=1e-6
    )
    depthwise = np.random.default_rng((7, 1)).standard_normal(
        (3, 3, 64, 4), dtype="float32"
    )
    np.testing.assert_allclose(
        kernel(model, "depthwise"), depthwise * np.sqrt(2 / 9), rtol=1e-6
    )
    dense = kernel(inner, "dense")
    assert np.abs(dense).max() == pytest.approx(0.125, rel=1e-3)
    assert dense.mean() == pytest.approx(0.0, abs=2e-3)
    assert dense.std() == pytest.approx(0.125 / np.sqrt(3), rel=0.02)
    np.testing.assert_array_equal(
        to_numpy(inner.get_layer("dense").bias), np.zeros(128)
    )
    np.testing.assert_array_equal(
        to_numpy(model.get_layer("bn").gamma), np.full(128, 3.0)
    )


def test_initialize_draws_both_kernels_of_a_separable_convolution():
    model = keras.Sequential(
        [keras.Input((8, 8, 32)), keras.layers.SeparableConv2D(64, 3)]
    )
    models.initialize(model, seed=0)
    depthwise, pointwise, bias = (to_numpy(w) for w in model.weights)
    assert depthwise.std() == pytest.approx(np.sqrt(2 / 9), rel=0.15)
    assert pointwise.std() == pytest.approx(np.sqrt(2 / 32), rel=0.1)
    assert not bias.any()


@pytest.mark.parametrize(
    ("seed", "error"),
    [(-1, ValueError), (0.5, TypeError), ("0", TypeError), (None, TypeError)],
)
def test_initialize_refuses_other_seeds(seed, error):
    with pytest.raises(error, match=f"`seed` must .*seed={seed!r}"):
        models.initialize(build("mlp"), seed)


def test_initialize_refuses_a_model_without_weights():
    model = keras.Sequential([keras.layers.Dense(2)], name="unbuilt")
    with pytest.raises(ValueError, match="`model` must be built.*'unbuilt'"):
        models.initialize(model, 0)


def test_normalization_subtracts_mean_and_divides_by_std_per_channel():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    model = models.mlp((2, 2, 3), 4, hidden=(), mean=mean, std=std, seed=0)
    images = np.random.default_rng(0).random((5, 2, 2, 3)).astype("float32")
    normalized = (images - np.array(mean)) / np.array(std)
    expected = normalized.reshape((5, 12)) @ kernel(model, "logits")
    np.testing.assert_allclose(to_numpy(model(images)), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 0.75),
        ({"mean": 0.5}, 0.25),
        ({"std": 0.5}, 1.5),
        ({"mean": [0.5], "std": np.array([0.25])}, 1.0),
    ],
)
def test_mean_and_std_default_to_none(arguments, expected):
    model = models.mlp((1,), 1, hidden=(), seed=0, **arguments)
    model.get_layer("logits").kernel.assign([[1.0]])
    logits = to_numpy(model(np.array([[0.75]], "float32")))
    assert logits.item() == pytest.approx(expected)
    assert len(model.layers) == (4 if arguments else 3)


def test_normalization_adds_no_variables():
    model = models.convnet((28, 28, 1), 10, mean=0.286, std=0.353)
    assert size(model.variables) == size(build("convnet").variables)


def test_keras_file_keeps_weights_names_and_normalization(tmp_path):
    model = models.convnet(
        (8, 8, 3), 5, (4, 8), mean=(0.4, 0.5, 0.6), std=0.25, seed=1
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).random((3, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(
        to_numpy(loaded(images)), to_numpy(model(images)), rtol=1e-6
    )
    assert [x.name for x in loaded.layers] == [x.name for x in model.layers]


def test_application_returns_logits_from_seeded_weights():
    model = models.get("mobilenet", (32, 32, 3), 10, seed=3, alpha=0.25)
    assert model.output_shape == (None, 10)
    assert model.layers[-1].get_config()["activation"] == "linear"
    images = np.zeros((2, 32, 32, 3), "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model(images).shape == (2, 10)
    depthwise = kernel(model, "conv_dw_2").astype("float64")
    assert depthwise.sum() == pytest.approx(2.962473434, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "first_layer"),
    [
        ("EfficientNetB0", "stem_conv_pad"),
        ("MobileNetV3Small", "conv"),
    ],
)
def test_application_sees_normalized_images_only(name, first_layer):
    model = models.application(name, (32, 32, 3), 10, mean=0.5, std=0.25)
    start = keras.Model(model.input, model.get_layer(first_layer).input)
    images = np.random.default_rng(0).random((1, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(
        to_numpy(start(images)), (images - 0.5) / 0.25, rtol=1e-4, atol=1e-5
    )


def test_get_tells_our_resnet50_from_the_one_of_keras(monkeypatch):
    # Built for real, the other one would take seconds.
    monkeypatch.setattr(lookup, "application", lambda name, *_: name)
    assert models.get("ResNet50", (32, 32, 3), 10) == "ResNet50"
    assert "stem_conv" in {layer.name for layer in build("resnet50").layers}
    assert models.get("RESNET50", (32, 32, 3), 10).name == "resnet50"


def test_get_takes_upper_and_lower_case():
    assert models.get("MLP", (4,), 2).name == "mlp"


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("resnet21", "'resnet20'"),
        ("MobilNetV2", "'MobileNetV2'"),
        ("vgg16bn", "'vgg16_bn'"),
    ],
)
def test_get_suggests_close_names(name, suggestion):
    assert_refused(
        lambda: models.get(name, (32, 32, 3), 10),
        [f"Received: name='{name}'. Did you mean", suggestion],
    )


def test_get_suggests_nothing_for_a_name_like_no_other():
    with pytest.raises(ValueError, match=r"Received: name='qqqqqq'\.$"):
        models.get("qqqqqq", (32, 32, 3), 10)


def test_get_refuses_a_name_that_is_no_string():
    with pytest.raises(ValueError, match="`name` must .*name=None"):
        models.get(None, (32, 32, 3), 10)


def test_get_passes_arguments_on_and_refuses_unknown_ones():
    with pytest.raises(TypeError, match="filtres"):
        models.get("convnet", (8, 8, 1), 10, filtres=(4,))


def test_application_does_not_know_our_networks():
    with pytest.raises(ValueError, match="`keras.applications`.*'vgg16_bn'"):
        models.application("vgg16_bn", (32, 32, 3), 10)


def test_application_names_the_input_shape_that_it_does_not_take():
    with pytest.raises(ValueError) as error:
        models.application("InceptionV3", (32, 32, 3), 10)
    assert "InceptionV3 takes" in str(error.value)
    assert "input_shape=(32, 32, 3)" in str(error.value)
    assert "75x75" in str(error.value)


@pytest.mark.parametrize(
    ("name", "input_shape"),
    [
        ("resnet20", (32, 32)),
        ("vgg16_bn", (None, 32, 3)),
        ("MobileNetV2", (32, 0, 3)),
        ("convnet", 28),
        ("mlp", 784),
        ("mlp", (-1,)),
    ],
)
def test_wrong_input_shapes_are_refused(name, input_shape):
    with pytest.raises(ValueError) as error:
        models.get(name, input_shape, 10)
    assert str(error.value).startswith("`input_shape` must be")
    assert f"input_shape={input_shape}" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "`num_classes` must .*num_classes=0"),
        ({"filters": ()}, r"`filters` must .*filters=\(\)"),
        ({"std": 0}, r"`std` must be positive.*std=\[0\]"),
        ({"std": (1.0, -1.0, 1.0)}, r"`std` must be positive"),
        ({"mean": (0.1, 0.2)}, r"`mean` must .*3 channels.*\[0.1, 0.2\]"),
        ({"seed": -1}, "`seed` must .*seed=-1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    arguments = {"input_shape": (8, 8, 3), "num_classes": 10, **arguments}
    with pytest.raises(ValueError, match=message):
        models.convnet(**arguments)


def test_counts_must_be_integers():
    with pytest.raises(TypeError, match="`num_classes` must .*=2.5"):
        models.convnet((8, 8, 3), 2.5)
    with pytest.raises(TypeError, match="`growth` must .*growth=1.5"):
        models.densenet_design((28, 28, 1), 10, growth=1.5)
    with pytest.raises(TypeError, match="`depth` must .*depth=20.0"):
        models.resnet_cifar(20.0, (32, 32, 3), 10)


def arguments_of(network):
    """Its signature as text, without types."""
    empty = inspect.Parameter.empty
    shown = inspect.signature(network)
    bare = [p.replace(annotation=empty) for p in shown.parameters.values()]
    return str(shown.replace(parameters=bare, return_annotation=empty))


def test_a_network_shows_all_its_arguments():
    assert arguments_of(models.mlp) == (
        "(input_shape, num_classes, hidden=(300, 100), activation='relu', "
        "mean=None, std=None, seed=None, *, batch_norm=False)"
    )
    assert arguments_of(models.resnet_cifar) == (
        "(depth, input_shape, num_classes, mean=None, std=None, seed=None)"
    )


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("convnet_5x5", {"input_shape": (16, 15, 1)}, r"16.*=\(16, 15, 1\)"),
        ("densenet_design", {"units": 0}, "`units` must .*units=0"),
        (
            "skip_encoder",
            {"depth": 0, "num_classes": None},
            "`depth` must .*depth=0",
        ),
    ],
)
def test_wrong_sizes_are_refused(name, arguments, message):
    arguments = {"input_shape": (28, 28, 1), "num_classes": 10, **arguments}
    with pytest.raises(ValueError, match=message):
        models.get(name, **arguments)


@pytest.mark.parametrize("depth", [2, 18])
def test_resnet_cifar_refuses_other_depths(depth):
    with pytest.raises(ValueError, match=f"`depth` must .*depth={depth}"):
        models.resnet_cifar(depth, (32, 32, 3), 10)


def test_examples_in_the_docstrings_run():
    attempted = 0
    for found in pkgutil.iter_modules(models.__path__, f"{models.__name__}."):
        module = importlib.import_module(found.name)
        results = doctest.testmod(module, extraglobs={"keras": keras})
        assert results.failed == 0
        attempted += results.attempted
    assert attempted >= 18
