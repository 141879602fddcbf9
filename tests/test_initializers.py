"""Sparse initial weights: statistics of the authors' code, counts, fan-ins."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_app.initializers import sparsify
from keras_app.optimizers import LinBreg
from keras_app.regularizers import L1

TRIALS = 30


def model_of(shape, *stack):
    return keras.Sequential([keras.Input(shape), *stack])


def dense(n_in=40, n_out=50, **kwargs):
    return model_of((n_in,), layers.Dense(n_out, **kwargs))


def conv(n_in=20, n_out=30, size=3, **kwargs):
    return model_of((8, 8, n_in), layers.Conv2D(n_out, size, **kwargs))


def weights(model):
    return [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]


def kernel_of(model):
    return weights(model)[0]


def normals(seed, index, shape):
    """The draws that the docstring promises for a kernel."""
    generator = np.random.default_rng([seed, index])
    return generator.standard_normal(shape, dtype="float32")


def assert_mean(values, recorded):
    """Our mean over `TRIALS` draws is the recorded mean over 200.

    Only statistics can agree between two random generators. Two means of n and
    m draws of one quantity differ by std * sqrt(1 / n + 1 / m) typically; four
    times that is exceeded by chance once in 15,000, and the seeds are fixed.
    """
    mean, std = recorded[:2]
    tolerance = 4 * std * np.sqrt(1 / TRIALS + 1 / 200)
    assert abs(np.mean(values) - mean) <= tolerance


# ---- statistics of the authors' code ------------------------------------


@pytest.mark.parametrize("name", ["mlp", "rows", "full_correction"])
def test_dense_kernels_have_the_recorded_statistics(golden, name):
    recorded = golden("bregman/init_stats.npz")
    n_out, n_in, density, gain, rows = recorded[f"dense__{name}__cfg"]
    model = dense(int(n_in), int(n_out))
    columns = []
    for seed in range(TRIALS):
        sparsify(
            model,
            float(density),
            # The default gain is this one for full_correction: 1 / sqrt(0.1).
            gain=None if name == "full_correction" else float(gain),
            seed=seed,
            groups="neuron" if rows else "auto",
            ensure_nonempty=False,
            bias_gain=float(recorded[f"dense__{name}__bias_r"]),
        )
        kernel, bias = weights(model)
        columns.append(
            {
                "density": np.mean(kernel != 0),
                "row_density": np.mean((kernel != 0).any(axis=0)),
                "nonzero_rms": np.sqrt(np.mean(kernel[kernel != 0] ** 2)),
                # The mean square of W x over standard normal x is the squared
                # norm of W's rows, in Keras its columns.
                "preact_var_over_he": np.mean(np.sum(kernel**2, axis=0)) / 2,
                "bias": bias.mean(),
                "bias_max": bias.max(),
                "bias_min": bias.min(),
            }
        )
    ours = {key: np.array([c[key] for c in columns]) for key in columns[0]}
    for key in ("density", "row_density", "nonzero_rms", "preact_var_over_he"):
        assert_mean(ours[key], recorded[f"dense__{name}__{key}_mean_std"])
    bias_mean, bias_max = recorded[f"dense__{name}__bias_mean_max"]
    # The standard deviation of the mean of n_out numbers from U(0, max).
    assert_mean(ours["bias"], (bias_mean, bias_max / np.sqrt(12 * n_out)))
    top = 1 / np.sqrt(n_in)
    assert ours["bias_min"].min() >= 0
    assert 0.99 * top < ours["bias_max"].max() <= top * (1 + 1e-6)


@pytest.mark.parametrize("name", ["c64", "c64_3"])
def test_kernels_with_replacement_have_the_recorded_statistics(golden, name):
    recorded = golden("bregman/init_stats.npz")
    n_out, n_in, height, width, density, gain = recorded[f"conv__{name}__cfg"]
    model = conv(int(n_in), int(n_out), (int(height), int(width)))
    counts, rms = [], []
    for seed in range(TRIALS):
        sparsify(model, density, gain=gain, seed=seed, replacement=True)
        kernel = kernel_of(model)
        counts.append(np.count_nonzero(kernel.any(axis=(0, 1))))
        rms.append(np.sqrt(np.mean(kernel[kernel != 0] ** 2)))
    assert_mean(
        counts, recorded[f"conv__{name}__kernel_count_mean_std_min_max"]
    )
    assert_mean(rms, recorded[f"conv__{name}__nonzero_rms_mean_std"])
    assert max(counts) <= recorded[f"conv__{name}__requested_kernels"]


# ---- which weights are zero ---------------------------------------------


@pytest.mark.parametrize(
    "density, count",
    # 20 * 30 = 600 kernels, rounded up; in floats 0.07 * 600 is above 42.
    [(0.01, 6), (0.0101, 7), (0.07, 42), (1e-9, 1), (1.0, 600)],
)
def test_convolutions_keep_an_exact_count_of_whole_kernels(density, count):
    model = conv()
    densities = sparsify(model, density, seed=0)
    kept = np.count_nonzero(kernel_of(model), axis=(0, 1))
    assert sorted(np.unique(kept)) == ([9] if count == 600 else [0, 9])
    assert np.count_nonzero(kept) == count
    assert list(densities.values()) == [pytest.approx(count / 600)]


@pytest.mark.parametrize(
    "layer, groups",
    [
        (layers.Conv2DTranspose(30, 3), 600),
        (layers.Conv2D(30, 3, groups=2), 300),
        (layers.DepthwiseConv2D(3, depth_multiplier=5), 100),
    ],
)
def test_every_kind_of_convolution_is_cut_by_kernels(layer, groups):
    model = model_of((8, 8, 20), layer)
    sparsify(model, 0.1, seed=0, filters="kernel")
    kept = np.count_nonzero(kernel_of(model), axis=(0, 1))
    assert np.count_nonzero(kept == 9) == groups // 10
    assert np.count_nonzero(kept == 0) == groups - groups // 10


def test_groups_none_draws_single_weights_of_convolutions():
    model = conv()
    densities = sparsify(model, 0.1, seed=0, groups=None)
    kernel = kernel_of(model)
    kept = np.count_nonzero(kernel, axis=(0, 1))
    assert len(np.unique(kept)) > 2
    # 5400 weights: the standard deviation of the density is 0.004.
    share = np.count_nonzero(kernel) / 5400
    assert share == pytest.approx(0.1, abs=0.016)
    assert list(densities.values()) == [pytest.approx(share)]


def test_groups_neuron_keeps_whole_columns_and_whole_kernels():
    model = model_of(
        (8, 8, 20), layers.Conv2D(30, 3), layers.Flatten(), layers.Dense(50)
    )
    densities = sparsify(model, 0.2, seed=0, groups="neuron")
    kernel, _, matrix, _ = weights(model)
    assert np.count_nonzero(kernel.any(axis=(0, 1))) == 120
    kept = np.count_nonzero(matrix, axis=0)
    assert sorted(np.unique(kept)) == [0, 1080]
    # 50 neurons, each with probability 0.2: 10 +- 2.8.
    assert 2 <= np.count_nonzero(kept) <= 18
    share = np.count_nonzero(kept) / 50
    assert list(densities.values()) == [0.2, pytest.approx(share)]


def test_groups_neuron_of_an_einsum_keeps_all_that_enters_an_output():
    layer = layers.EinsumDense("abcd,cde->abe", output_shape=(None, 40))
    model = model_of((5, 3, 4), layer)
    sparsify(model, 0.5, seed=0, groups="neuron")
    kept = np.count_nonzero(kernel_of(model), axis=(0, 1))
    assert sorted(np.unique(kept)) == [0, 12]


@pytest.mark.parametrize("groups, size", [("auto", 1), ("neuron", 40)])
def test_no_mask_is_empty_unless_allowed(groups, size):
    model = dense()
    density = 1e-9
    kept = []
    for seed in range(5):
        done = sparsify(model, density, seed=seed, groups=groups)
        assert np.count_nonzero(kernel_of(model)) == size
        assert list(done.values()) == [pytest.approx(size / 2000)]
        kept.append(np.flatnonzero(kernel_of(model))[0])
    assert len(set(kept)) > 1
    done = sparsify(model, density, groups=groups, ensure_nonempty=False)
    assert list(done.values()) == [0.0]
    assert not kernel_of(model).any()


def test_zeros_are_plain_zeros():
    model = dense()
    sparsify(model, 0.1, seed=0)
    kernel = kernel_of(model)
    assert not np.signbit(kernel[kernel == 0]).any()


# ---- how large they are --------------------------------------------------


@pytest.mark.parametrize(
    "shape, layer, fan_ins",
    [
        ((8,), layers.Dense(5), [8]),
        ((7, 6), layers.Conv1D(4, 3), [18]),
        ((9, 9, 6), layers.Conv2D(4, (3, 5)), [90]),
        ((9, 9, 6), layers.Conv2D(4, (3, 5), groups=2), [45]),
        ((9, 9, 6), layers.Conv2DTranspose(4, (3, 5)), [90]),
        ((9, 9, 6), layers.DepthwiseConv2D((3, 5), depth_multiplier=2), [15]),
        ((9, 9, 6), layers.SeparableConv2D(4, 3, depth_multiplier=2), [9, 12]),
        ((7, 6), layers.EinsumDense("abc,cde->abde", (None, 2, 3)), [6]),
        ((7, 2, 3), layers.EinsumDense("abcd,cde->abe", (None, 5)), [6]),
        ((7, 6), layers.EinsumDense("...x,yx->...y", 4), [6]),
        ((7,), layers.Embedding(11, 4), [11]),
    ],
)
def test_weights_are_normals_scaled_by_the_fan_in(shape, layer, fan_ins):
    model = model_of(shape, layer)
    sparsify(model, 1.0, seed=3, filters="kernel|embeddings")
    kernels = [w for w in weights(model) if w.ndim > 1]
    for i, (kernel, fan_in) in enumerate(zip(kernels, fan_ins, strict=True)):
        expected = np.sqrt(2 / fan_in) * normals(3, i, kernel.shape)
        np.testing.assert_allclose(kernel, expected, rtol=1e-5)


def test_attention_kernels_are_scaled_by_what_enters_one_output():
    x = keras.Input((7, 12))
    attention = layers.MultiHeadAttention(num_heads=2, key_dim=5)
    model = keras.Model(x, attention(x, x))
    sparsify(model, 1.0, seed=0)
    kernels = [w for w in weights(model) if w.ndim == 3]
    shapes = [(12, 2, 5)] * 3 + [(2, 5, 12)]
    assert [kernel.shape for kernel in kernels] == shapes
    for i, fan_in in enumerate([12, 12, 12, 10]):
        expected = np.sqrt(2 / fan_in) * normals(0, i, shapes[i])
        np.testing.assert_allclose(kernels[i], expected, rtol=1e-5)


@pytest.mark.parametrize("gain, factor", [(None, 5.0), (3.0, 3.0)])
def test_what_stays_is_multiplied_by_the_gain(gain, factor):
    model = dense()
    sparsify(model, 0.04, gain=gain, seed=0)  # 1 / sqrt(0.04) = 5
    kernel = kernel_of(model)
    expected = factor * np.sqrt(2 / 40) * normals(0, 0, (40, 50))
    kept = kernel != 0
    np.testing.assert_allclose(kernel[kept], expected[kept], rtol=1e-5)


def test_biases_stay_or_are_uniform_below_the_bound():
    model = model_of(
        (9, 9, 6),
        layers.Conv2D(400, 3, bias_initializer="ones"),
        layers.BatchNormalization(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(300, bias_initializer="ones"),
        layers.Dense(2, use_bias=False),
    )
    sparsify(model, 0.5, seed=0)
    before = weights(model)
    np.testing.assert_array_equal(before[1], np.ones(400))
    np.testing.assert_array_equal(before[5], np.ones(300))
    sparsify(model, 0.5, seed=0, bias_gain=10)
    after = weights(model)
    for bias, fan_in in ((after[1], 54), (after[5], 400)):
        top = 10 / np.sqrt(fan_in)
        assert 0 <= bias.min() < 0.05 * top
        assert 0.95 * top < bias.max() <= top
    # Kernels do not depend on the biases, and others keep their values.
    for i in (0, 2, 3, 4, 6):
        np.testing.assert_array_equal(before[i], after[i])
    sparsify(model, 0.5, seed=0, bias_gain=0)
    assert not weights(model)[1].any()


# JAX keeps float64 in float32 and says so.
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_any_float_dtype_gets_the_same_weights_rounded(dtype):
    model, wide = dense(dtype=dtype), dense()
    for each in (model, wide):
        sparsify(each, 0.5, seed=0, bias_gain=1)
    for a, b in zip(model.trainable_variables, weights(wide), strict=True):
        assert keras.backend.standardize_dtype(a.dtype) == dtype
        a = keras.ops.convert_to_numpy(keras.ops.cast(a, "float32"))
        # bfloat16 has 8 significant bits, so rounding errs by up to 2^-9.
        np.testing.assert_allclose(a, b, rtol=2**-8)
        np.testing.assert_array_equal(a != 0, b != 0)


# ---- seeds, selection, optimizers ----------------------------------------


def test_same_seed_same_weights_another_seed_others():
    one, two, three = conv(), conv(), conv()
    sparsify(one, 0.1, seed=5, bias_gain=1)
    sparsify(two, 0.1, seed=5, bias_gain=1)
    sparsify(three, 0.1, seed=6, bias_gain=1)
    for a, b, c in zip(*map(weights, (one, two, three)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


def test_without_a_seed_keras_decides():
    drawn = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        model = dense()
        sparsify(model, 0.5)
        drawn.append(kernel_of(model))
        sparsify(model, 0.5)
        assert (kernel_of(model) != drawn[-1]).any()
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


def test_equal_shapes_get_different_weights():
    model = model_of((8,), layers.Dense(8), layers.Dense(8))
    sparsify(model, 1.0, seed=0)
    first, _, second, _ = weights(model)
    assert (first != second).all()


def test_filters_choose_the_kernels():
    model = model_of(
        (8,), layers.Dense(8, name="first"), layers.Dense(8, name="second")
    )
    before = weights(model)
    densities = sparsify(model, 0.25, filters="second/", bias_gain=1)
    after = weights(model)
    assert list(densities) == [model.layers[1].kernel.path]
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])
    assert (before[2] != after[2]).all()
    assert (before[3] != after[3]).all()


@pytest.mark.parametrize("scaled", [False, True])
def test_the_dual_variables_of_a_built_optimizer_follow_the_weights(scaled):
    model = dense()
    inner = LinBreg(regularizers=L1(0.5))
    optimizer = keras.optimizers.LossScaleOptimizer(inner) if scaled else inner
    model.compile(optimizer, "mse")
    sparsify(model, 0.5)
    assert not optimizer.built
    optimizer.build(model.trainable_variables)
    sparsify(model, 0.5)
    (dual,) = inner.subgradients.values()
    kernel = kernel_of(model)
    # v = theta / delta + subgradient(theta), with delta 1 and lam 0.5
    expected = kernel + 0.5 * np.sign(kernel)
    np.testing.assert_allclose(dual, expected, rtol=1e-6)


def test_other_optimizers_are_left_alone():
    model = dense()
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    sparsify(model, 0.5)
    assert int(model.optimizer.iterations.value) == 0


# ---- errors ---------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(density=0), r"`density` must be in \(0, 1\].*density=0$"),
        (dict(density=3), r"`density` must be in \(0, 1\].*density=3$"),
        (dict(density=np.nan), r"`density` must be in \(0, 1\].*=nan$"),
        (dict(density=0.5, gain=0.0), "`gain` must be > 0.*gain=0.0$"),
        (dict(density=0.5, gain=-2), "`gain` must be > 0.*gain=-2$"),
        (dict(density=0.5, gain=np.inf), "`gain` must be > 0.*gain=inf$"),
        (dict(density=0.5, bias_gain=-1), "`bias_gain` must be >= 0.*=-1$"),
        (dict(density=0.5, seed=-1), "`seed` must be an integer >= 0.*=-1$"),
        (dict(density=0.5, groups="rows"), "`groups` must be one.*='rows'$"),
        (dict(density=0.5, filters="nothing"), "filters='nothing'"),
    ],
)
def test_bad_values_name_the_rule_and_the_value(arguments, message):
    model = dense()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        sparsify(model, **arguments)
    for a, b in zip(before, weights(model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(density="0.5"), r"`density` must be a number in .*='0.5'$"),
        (dict(density=True), r"`density` must be a number in .*=True$"),
        (dict(density=0.5, gain="he"), "`gain` must be a number > 0.*='he'$"),
        (dict(density=0.5, seed=1.5), "`seed` must be an integer >= 0.*=1.5$"),
    ],
)
def test_bad_types_name_the_rule_and_the_value(arguments, message):
    with pytest.raises(TypeError, match=message):
        sparsify(dense(), **arguments)


def test_an_unbuilt_model_is_refused():
    model = keras.Sequential([layers.Dense(3)])
    with pytest.raises(ValueError, match="must be built"):
        sparsify(model, 0.5)
