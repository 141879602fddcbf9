"""Tests of the scores: recorded values, refusals, and an untouched model."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_app import gradients
from keras_app import pruners
from keras_app import schedules
from keras_app import scorers
from keras_app.masks import mask_from_scores
from tests.models import chain

BACKEND = keras.backend.backend()
CNN = ("conv1", "conv2", "fc")
MLP = ("fc1", "fc2")
RECORDED = [
    *(("cnn", "all", scorer, "train") for scorer in ("snip", "taylor")),
    *(("cnn", variant, "snip", "eval") for variant in ("all", "conv")),
    ("cnn", "conv", "snip", "train"),
    ("cnn", "all", "taylor", "eval"),
    *(
        ("cnn", variant, scorer, mode)
        for variant in ("all", "conv")
        for scorer, mode in (
            ("grasp", "train"),
            ("grasp", "eval"),
            ("grasp2", "train"),
            ("synflow", "eval"),
        )
    ),
    ("cnn", "all", "mag", "eval"),
    *(
        ("mlp", "all", scorer, "eval")
        for scorer in ("snip", "taylor", "grasp", "synflow", "mag")
    ),
    # The modes are one for a network without batch normalization.
    ("mlp", "all", "grasp2", "train"),
]
if BACKEND == "jax":
    # Each is a compilation or two; which variables are scored is no matter of
    # the backend.
    RECORDED = [case for case in RECORDED if case[1] == "all"]
NAMES = {"mag": "magnitude", "grasp2": "grasp"}


class Batches:
    """Re-iterable of (x, y) batches, in order."""

    def __init__(self, x, y, size):
        self.x, self.y, self.size = x, y, size

    def __iter__(self):
        for start in range(0, len(self.x), self.size):
            part = slice(start, start + self.size)
            yield self.x[part], self.y[part]


class TwoSamples:
    """Yields one sample at the first pass and another at the second."""

    def __init__(self, first, second):
        self.samples = [first, second]

    def __iter__(self):
        x, y = self.samples.pop(0)
        return iter([(x, y)])


def build(name, vectors, dtype="float32"):
    if name == "cnn":
        stack = [
            layers.Conv2D(
                4, 3, padding="same", use_bias=False, name="conv1", dtype=dtype
            ),
            layers.BatchNormalization(epsilon=1e-5, name="bn1", dtype=dtype),
            layers.ReLU(dtype=dtype),
            layers.Conv2D(
                6,
                3,
                padding="same",
                activation="relu",
                name="conv2",
                dtype=dtype,
            ),
            layers.GlobalAveragePooling2D(dtype=dtype),
            layers.Dense(10, name="fc", dtype=dtype),
        ]
    else:
        stack = [
            layers.Dense(16, activation="tanh", name="fc1", dtype=dtype),
            layers.Dense(10, name="fc2", dtype=dtype),
        ]
    model = chain(vectors["x"].shape[1:], *stack, dtype=dtype)
    for layer in stack:
        for variable in layer.variables:
            key = f"param.{layer.name}.{variable.name}"
            if key in vectors.files:
                variable.assign(vectors[key])
    return model


def kernels(model, variant="all"):
    return [
        model.get_layer(name).kernel
        for name in (CNN if len(model.layers) > 3 else MLP)
        if variant == "all" or name.startswith("conv")
    ]


def recorded_data(vectors, scorer, dtype):
    def sample(i):
        x = vectors[f"grasp_x{i}"].astype(dtype)
        return x, vectors[f"grasp_y{i}"]

    if scorer == "grasp":
        return Batches(*sample(1), 100)
    if scorer == "grasp2":
        return TwoSamples(sample(1), sample(2))
    return Batches(vectors["x"].astype(dtype), vectors["y"], 10)


def recorded_score(golden, network, variant, scorer, mode, dtype, **kwargs):
    vectors = golden(f"app/scorers_{network}.npz")
    model = build(network, vectors, dtype)
    return scorers.score(
        NAMES.get(scorer, scorer),
        model,
        kernels(model, variant),
        recorded_data(vectors, scorer, dtype),
        "train" if mode == "train" else "inference",
        **kwargs,
    )


def assert_close(scores, expected, tolerance):
    """Within `tolerance` of the largest score."""
    assert list(scores) == list(expected)
    scale = max(np.abs(e).max() for e in expected.values())
    for path, values in expected.items():
        error = np.abs(scores[path] - values).max() / scale
        assert error < tolerance, (path, error)


def expected_scores(vectors, prefix, suffix="", paths=CNN + MLP):
    return {
        f"{layer}/kernel": vectors[f"{prefix}.{layer}{suffix}"]
        for layer in paths
        if f"{prefix}.{layer}{suffix}" in vectors.files
    }


# ---- recorded values ---------------------------------------------------


@pytest.mark.parametrize("network", ["cnn", "mlp"])
def test_the_networks_are_those_that_were_recorded(golden, network):
    vectors = golden(f"app/scorers_{network}.npz")
    model = build(network, vectors)
    x = vectors["x"].astype("float32")
    logits = ops.convert_to_numpy(model(x, training=False))
    np.testing.assert_allclose(logits, vectors["logits_eval"], atol=1e-5)
    if network == "cnn":
        logits = ops.convert_to_numpy(model(x[:10], training=True))
        expected = vectors["logits_train_batch0"]
        np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("network, variant, scorer, mode", RECORDED)
def test_scores_match_the_recorded_ones(golden, network, variant, scorer, mode):
    vectors = golden(f"app/scorers_{network}.npz")
    scores = recorded_score(golden, network, variant, scorer, mode, "float32")
    prefix = f"score.{variant}.{scorer}_{mode}"
    # float32 against float64. GraSP's second derivatives through batch
    # statistics are differences of large terms.
    tolerance = 1e-3 if "grasp" in scorer and mode == "train" else 1e-4
    assert_close(scores, expected_scores(vectors, prefix), tolerance)
    for i, density in enumerate(vectors["densities"]):
        sparsity = 1.0 - float(density)
        masks = {
            "global": mask_from_scores(scores, sparsity),
            "local": {
                path: mask_from_scores(values, sparsity)
                for path, values in scores.items()
            },
        }
        for scope, actual in masks.items():
            prefix = f"mask.{variant}.{scorer}_{mode}.{scope}.d{i}"
            expected = expected_scores(vectors, prefix)
            assert list(actual) == list(expected)
            for path, mask in expected.items():
                np.testing.assert_array_equal(actual[path], mask, prefix)


@pytest.mark.skipif(
    BACKEND != "tensorflow",
    reason="Keras computes a float64 Dense in 32 bits on this backend",
)
@pytest.mark.parametrize("network, variant, scorer, mode", RECORDED)
def test_scores_in_float64_match_to_rounding(
    golden, network, variant, scorer, mode
):
    vectors = golden(f"app/scorers_{network}.npz")

    # A loss object of Keras would cast the logits to float32.
    def loss(y, logits):
        return ops.mean(
            keras.losses.sparse_categorical_crossentropy(
                y, logits, from_logits=True
            )
        )

    scores = recorded_score(
        golden, network, variant, scorer, mode, "float64", loss=loss
    )
    assert all(values.dtype == np.float64 for values in scores.values())
    prefix = f"score.{variant}.{scorer}_{mode}"
    assert_close(scores, expected_scores(vectors, prefix), 1e-9)


@pytest.mark.parametrize("scorer", ["snip", "taylor", "grasp", "synflow"])
@pytest.mark.parametrize("network", ["cnn", "mlp"])
def test_scores_of_a_masked_network_match_the_recorded_ones(
    golden, network, scorer
):
    vectors = golden(f"app/scorers_{network}.npz")
    prefix = f"premasked_score.{scorer}_eval"
    expected = expected_scores(vectors, prefix)
    assert len(expected) == len(CNN if network == "cnn" else MLP)
    old = {
        path: mask.astype(bool)
        for path, mask in expected_scores(vectors, "prev_mask").items()
    }
    scores = recorded_score(
        golden, network, "all", scorer, "eval", "float32", masks=old
    )
    assert_close(scores, expected, 1e-4)
    new = mask_from_scores(scores, 0.5, ties="le")
    raw = expected_scores(vectors, f"premasked_newmask.{scorer}_eval")
    both = expected_scores(vectors, f"premasked_effective.{scorer}_eval")
    assert len(raw) == len(both) == len(expected)
    for path in new:
        np.testing.assert_array_equal(new[path], raw[path])
        np.testing.assert_array_equal(new[path] & old[path], both[path])


def iterated(vectors):
    """The keys of the recorded iterative runs."""
    keys = {k.rsplit(".", 1)[0] for k in vectors.files if "synflow_iter" in k}
    return sorted(keys)


def passes_and_density(key):
    """Reads "synflow_iter.T20.d0.3"."""
    _, passes, density = key.split(".", 2)
    return int(passes[1:]), float(density[1:])


@pytest.mark.parametrize("network", ["cnn", "mlp"])
def test_iterated_synflow_matches_the_recorded_masks(golden, network):
    vectors = golden(f"app/scorers_{network}.npz")
    runs = iterated(vectors)
    assert len(runs) == 4
    if BACKEND == "jax":
        # Each pass is a compilation.
        runs = ["synflow_iter.T5.d0.1"]
    for key in runs:
        passes, density = passes_and_density(key)
        model = build(network, vectors)
        variables = kernels(model)
        masks = {v.path: np.ones(v.shape, bool) for v in variables}
        total = sum(mask.size for mask in masks.values())
        counts = []
        for e in range(1, passes + 1):
            sparsity = 1.0 - density ** (e / passes)
            counts.append(int(sparsity * total))
            scores = scorers.score("synflow", model, variables, masks=masks)
            masks = mask_from_scores(scores, sparsity, previous=masks)
        assert counts == vectors[f"{key}.k"].tolist()
        for path, mask in expected_scores(vectors, key).items():
            np.testing.assert_array_equal(masks[path], mask, key)


def test_the_pruner_iterates_synflow_like_that(golden):
    vectors = golden("app/scorers_cnn.npz")
    key = "synflow_iter.T5.d0.3"
    passes, density = passes_and_density(key)
    model = build("cnn", vectors)
    model.compile("sgd", "mse")
    pruner = pruners.AnytimeProgressivePruner(
        schedules.OneShot(1.0 - density),
        scorer="synflow",
        scoring_passes=passes,
        filters="kernel",
    )
    pruner.set_model(model)
    pruner.prune(1.0 - density)
    for path, mask in expected_scores(vectors, key).items():
        np.testing.assert_array_equal(pruner.masks[path], mask)


def test_synflow_is_scored_in_inference_mode_and_says_so(golden):
    vectors = golden("app/scorers_cnn.npz")
    with pytest.warns(UserWarning, match="inference mode"):
        scores = recorded_score(
            golden, "cnn", "all", "synflow", "train", "float32"
        )
    expected = expected_scores(vectors, "score.all.synflow_eval")
    assert_close(scores, expected, 1e-4)


# ---- by hand -----------------------------------------------------------


def line(*weights):
    """y = sum_i w_i x_i."""
    model = chain((len(weights),), layers.Dense(1, use_bias=False, name="line"))
    model.get_layer("line").kernel.assign(np.array(weights)[:, None])
    return model


def test_snip_and_taylor_by_hand():
    # The loss is the output, so that the gradient of batch b is its mean x:
    # (1, 2, 3) and (3, 0, 1); their sum is (4, 2, 4).
    model = line(0.5, -3.0, 1.0)
    data = [
        (np.array([[1.0, 2.0, 3.0]], "float32"), np.zeros((1, 1))),
        (
            np.array([[4.0, 0.0, 2.0], [2.0, 0.0, 0.0]], "float32"),
            np.zeros((2, 1)),
        ),
    ]

    def loss(y, outputs):
        return ops.mean(outputs)

    variables = model.trainable_variables
    taylor = scorers.score("taylor", model, variables, data, loss=loss)
    np.testing.assert_allclose(
        taylor["line/kernel"].ravel(), [2.0, 6.0, 4.0], rtol=1e-6
    )
    snip = scorers.score("snip", model, variables, data, loss=loss)
    np.testing.assert_allclose(
        snip["line/kernel"].ravel(), [1 / 6, 1 / 2, 1 / 3], rtol=1e-6
    )


# ---- the loss that the model trains with -------------------------------

POINT = np.array([[1.0, 2.0]], "float32"), np.zeros((1, 1), "float32")


def taylor(model):
    """Of the first weight, at `POINT`: |g w|."""
    [scores] = scorers.score(
        "taylor", model, model.trainable_variables, [POINT]
    ).values()
    return scores.ravel()


def test_a_pruner_scores_the_loss_of_the_last_compile():
    # w = (2), v = (0.5, -3): the loss is c w (v x).
    model = chain(
        (2,),
        layers.Dense(1, use_bias=False, name="v"),
        layers.Dense(1, use_bias=False, name="w"),
    )
    model.get_layer("v").kernel.assign([[0.5], [-3.0]])
    model.get_layer("w").kernel.assign([[2.0]])
    pruner = pruners.SaliencyPruner(
        schedules.OneShot(0.5), "taylor", data=[POINT]
    )
    optimizer = keras.optimizers.SGD()

    def scores_with(c, optimizer):
        model.compile(optimizer, lambda y, outputs: c * outputs)
        pruner.set_model(model)
        scores = pruner.scores(pruner.variables)
        return {path: s.ravel().tolist() for path, s in scores.items()}

    expected = {"v/kernel": [1.0, 12.0], "w/kernel": [11.0]}
    assert scores_with(1.0, optimizer) == expected
    expected = {"v/kernel": [3.0, 36.0], "w/kernel": [33.0]}
    assert scores_with(3.0, optimizer) == expected
    model.get_layer("v").trainable = False
    assert scores_with(3.0, "sgd") == {"w/kernel": [33.0]}


def distiller():
    """The loss of the outputs z is (z^2 + (z - 3)^2) / 2."""
    model = keras.distillation.Distiller(
        teacher=line(1.0, 1.0),
        student=line(0.5, -3.0),
        distillation_losses=keras.distillation.FeatureDistillation("mse"),
        student_loss_weight=0.5,
    )
    model.compile("sgd", "mse")
    return model


def test_a_distiller_is_scored_by_its_loss():
    # z = -5.5, so that g = (z + z - 3) x = -14 x.
    np.testing.assert_allclose(taylor(distiller()), [7.0, 84.0], rtol=1e-5)


class NoTraining(keras.Model):
    def __init__(self):
        super().__init__()
        self.line = layers.Dense(1, use_bias=False)

    def call(self, x):
        return self.line(x)


def test_a_model_whose_call_knows_no_training_is_scored():
    model = NoTraining()
    model(POINT[0])
    model.line.kernel.assign([[0.5], [-3.0]])
    model.compile("sgd", "mse")
    # g = 2 z x = -11 x.
    np.testing.assert_allclose(taylor(model), [5.5, 66.0], rtol=1e-5)


def test_all_outputs_and_penalties_count():
    x = keras.Input((2,))
    kernel = layers.Dense(1, use_bias=False, kernel_regularizer="l2")
    kernel.kernel_regularizer.l2 = 0.5
    z = kernel(x)
    model = keras.Model(x, [layers.Identity(name=n)(z) for n in "ab"])
    kernel.kernel.assign([[0.5], [-3.0]])

    def loss(y, outputs):
        return outputs

    model.compile("sgd", [loss, loss], loss_weights=[1.0, 10.0])
    x, y = POINT
    data = [(x, (y, y), "ids do not count")]
    # g = 11 x + w.
    [scores] = scorers.score(
        "taylor", model, model.trainable_variables, data
    ).values()
    np.testing.assert_allclose(scores.ravel(), [5.75, 57.0], rtol=1e-5)
    # What Keras made for its losses in the meantime is sound.
    logs = model.train_on_batch(x, [y, y], return_dict=True)
    assert logs["a_loss"] == -5.5


@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e3])
def test_gradients_in_float16_neither_vanish_nor_overflow(factor):
    model = chain(
        (2,),
        layers.Dense(1, use_bias=False, name="line", dtype="mixed_float16"),
    )
    model.get_layer("line").kernel.assign([[0.5], [-3.0]])
    model.compile("sgd", lambda y, z: factor * ops.cast(z, "float32"))
    expected = [0.5 * factor, 6.0 * factor]
    np.testing.assert_allclose(taylor(model), expected, rtol=1e-2)


def test_a_masked_weight_has_a_snip_score_but_no_taylor_score():
    model = line(0.5, -3.0)
    data = [(np.array([[1.0, 2.0]], "float32"), np.zeros((1, 1)))]
    masks = {"line/kernel": np.array([[True], [False]])}

    def score(name):
        values = scorers.score(
            name,
            model,
            model.trainable_variables,
            data,
            masks=masks,
            loss=lambda y, outputs: ops.mean(outputs),
        )
        return values["line/kernel"].ravel()

    np.testing.assert_allclose(score("taylor"), [0.5, 0.0])
    np.testing.assert_allclose(score("snip"), [0.5 / 6.5, 6 / 6.5], rtol=1e-6)


def test_magnitude_is_the_absolute_value_of_the_stored_weight():
    model = line(0.5, -3.0)
    masks = {"line/kernel": np.array([[True], [False]])}
    scores = scorers.score(
        "magnitude", model, model.trainable_variables, masks=masks
    )
    assert scores["line/kernel"].ravel().tolist() == [0.5, 3.0]


def test_other_weights_can_be_scored_in_place_of_the_stored():
    model = line(0.5, -3.0)
    weights = {"line/kernel": np.array([[7.0], [-8.0]], "float32")}
    scores = scorers.score(
        "magnitude", model, model.trainable_variables, weights=weights
    )
    assert scores["line/kernel"].ravel().tolist() == [7.0, 8.0]


def test_synflow_by_hand():
    # |W1| = (2, 3), |W2| = (5, 1): every path 1 -> i -> out carries the
    # product of its weights, and each weight scores the flow through it.
    model = chain(
        (1,),
        layers.Dense(2, activation="relu", use_bias=False, name="a"),
        layers.Dense(1, use_bias=False, name="b"),
    )
    model.get_layer("a").kernel.assign([[-2.0, 3.0]])
    model.get_layer("b").kernel.assign([[5.0], [-1.0]])
    scores = scorers.score("synflow", model, model.trainable_variables)
    np.testing.assert_allclose(scores["a/kernel"], [[10.0, 3.0]])
    np.testing.assert_allclose(scores["b/kernel"], [[10.0], [3.0]])


def test_random_scores_depend_on_the_seed_and_on_nothing_else():
    model = line(0.5, -3.0, 1.0)
    variables = model.trainable_variables

    def draw(seed):
        return scorers.score("random", model, variables, seed=seed)[
            "line/kernel"
        ].ravel()

    # NumPy's own generator, so that every backend draws the same.
    np.testing.assert_allclose(
        draw(3), [2.04091912, -2.55566503, 0.41809885], rtol=1e-8
    )
    np.testing.assert_array_equal(draw(3), draw(3))
    assert (draw(3) != draw(4)).all()


def test_a_callable_is_a_scorer():
    model = line(0.5, -3.0)

    def scorer(model, variables, data, masks):
        assert masks == [None]
        return [2 * ops.convert_to_numpy(v) for v in variables]

    scores = scorers.score(scorer, model, model.trainable_variables)
    assert scores["line/kernel"].ravel().tolist() == [1.0, -6.0]


# ---- the model stays as it is ------------------------------------------


def busy_model(**last):
    """Batch normalization and dropout: state that training mode moves."""
    return chain(
        (6, 6, 2),
        layers.Conv2D(4, 3, name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.Activation("relu"),
        layers.Dropout(0.5, seed=3),
        layers.Flatten(),
        layers.Dense(3, name="logits", **last),
    )


def busy_data():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((30, 6, 6, 2)).astype("float32")
    return Batches(x, np.arange(30) % 3, 10)


def state_of(model):
    return [
        ops.convert_to_numpy(variable).copy()
        for variable in [*model.variables, *model.optimizer.variables]
    ]


@pytest.mark.filterwarnings("ignore:SynFlow")
def test_scoring_leaves_no_trace_in_the_model():
    model = busy_model(activation="softmax")
    model.compile("adam", "sparse_categorical_crossentropy")
    data = busy_data()
    model.fit(data.x, data.y, verbose=0)
    before = state_of(model)
    activation = model.layers[-1].activation
    variables = [model.get_layer(n).kernel for n in ("conv", "logits")]
    modes = [(name, "train") for name in scorers.NAMES]
    for scorer, mode in [*modes, ("grasp", "inference")]:
        scores = scorers.score(scorer, model, variables, data, mode, seed=1)
        for path in scores:
            assert np.isfinite(scores[path]).all() and scores[path].any()
        for value, old in zip(state_of(model), before):
            np.testing.assert_array_equal(value, old, scorer)
        assert model.layers[-1].activation is activation
        assert "call" not in vars(model.get_layer("norm"))
    # And it still trains.
    model.fit(data.x, data.y, verbose=0)


def test_scoring_twice_gives_the_same_scores():
    # Dropout is active: a seed that moved on would show.
    model = busy_model()
    variables = [model.get_layer("conv").kernel]
    first, second = (
        scorers.score("snip", model, variables, busy_data(), "train")
        for _ in range(2)
    )
    assert_close(second, first, 1e-5)


def test_scoring_works_on_a_model_that_was_never_compiled():
    model = busy_model()
    variables = [model.get_layer("conv").kernel]
    scores = scorers.score("snip", model, variables, busy_data())
    assert scores["conv/kernel"].sum() == pytest.approx(1.0, rel=1e-5)


def test_training_mode_and_inference_mode_differ():
    model = busy_model()
    variables = [model.get_layer("conv").kernel]
    train, inference = (
        scorers.score("snip", model, variables, busy_data(), mode)
        for mode in ("train", "inference")
    )
    assert np.abs(train["conv/kernel"] - inference["conv/kernel"]).max() > 1e-4


def test_variables_may_be_a_dict_and_name_the_scores():
    model = line(0.5, -3.0)
    [kernel] = model.trainable_variables
    assert list(scorers.score("magnitude", model, {"mine": kernel})) == ["mine"]


def test_scores_have_the_shape_of_their_weight():
    model = busy_model()
    variables = [model.get_layer(n).kernel for n in ("logits", "conv")]
    for scorer in ("magnitude", "random", "snip", "synflow"):
        scores = scorers.score(scorer, model, variables, busy_data())
        assert list(scores) == ["logits/kernel", "conv/kernel"]
        for variable in variables:
            values = scores[variable.path]
            assert isinstance(values, np.ndarray)
            assert values.shape == tuple(variable.shape)


def test_half_precision_models_are_scored_in_float32():
    model = chain((4,), layers.Dense(3, dtype="bfloat16", name="half"))
    data = [(np.ones((3, 4), "float32"), np.arange(3))]
    for scorer in ("magnitude", "snip", "synflow"):
        scores = scorers.score(
            scorer, model, model.trainable_variables[:1], data
        )
        assert scores["half/kernel"].dtype.itemsize >= 4
        assert scores["half/kernel"].any()


# ---- models that end in a softmax --------------------------------------


@pytest.mark.parametrize(
    "scorer, loss",
    [
        ("synflow", None),
        ("grasp", None),
        ("grasp", "sparse_categorical_crossentropy"),
        ("grasp", keras.losses.SparseCategoricalCrossentropy()),
    ],
    ids=["synflow", "grasp", "grasp-name", "grasp-object"],
)
def test_a_softmax_at_the_end_does_not_change_the_masks(scorer, loss):
    with_softmax = busy_model(activation="softmax")
    if loss is not None:
        with_softmax.compile("sgd", loss)
    logits = busy_model()
    logits.set_weights(with_softmax.get_weights())
    data = list(busy_data())
    masks = []
    for model in (with_softmax, logits):
        variables = [model.get_layer(n).kernel for n in ("conv", "logits")]
        scores = scorers.score(scorer, model, variables, data, "inference")
        masks.append(mask_from_scores(scores, 0.7))
    for path in masks[0]:
        np.testing.assert_array_equal(masks[0][path], masks[1][path])


def test_a_softmax_layer_at_the_end_is_refused():
    model = chain((4,), layers.Dense(3), layers.Softmax())
    with pytest.raises(ValueError, match="Softmax"):
        scorers.score("synflow", model, model.trainable_variables[:1])


def test_a_loss_without_logits_is_refused_by_grasp():
    model = busy_model(activation="softmax")
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="logits"):
        scorers.score(
            "grasp", model, model.trainable_variables[:1], busy_data()
        )


# ---- refusals ----------------------------------------------------------


def test_an_unknown_scorer_is_refused_with_a_suggestion():
    model = line(1.0)
    with pytest.raises(ValueError) as error:
        scorers.score("snp", model, model.trainable_variables)
    assert "scorer='snp'" in str(error.value)
    assert "Did you mean 'snip'?" in str(error.value)


def test_an_option_that_no_scorer_has_is_refused_with_those_there_are():
    model = line(1.0)
    with pytest.raises(TypeError, match="'sead'.*seed, samples_per_class"):
        scorers.score("random", model, model.trainable_variables, sead=1)


@pytest.mark.parametrize("scorer", ["snip", "taylor", "grasp"])
def test_missing_data_is_refused(scorer):
    model = line(1.0)
    with pytest.raises(ValueError, match="data=None"):
        scorers.score(scorer, model, model.trainable_variables)


@pytest.mark.parametrize("scorer", ["snip", "taylor", "grasp"])
def test_empty_data_is_refused(scorer):
    model = line(1.0)
    with pytest.raises(ValueError, match="data"):
        scorers.score(scorer, model, model.trainable_variables, [])


def test_an_unknown_mode_is_refused_with_its_value():
    model = line(1.0)
    with pytest.raises(ValueError, match="bn_mode='eval'"):
        scorers.score(
            "magnitude", model, model.trainable_variables, bn_mode="eval"
        )


def test_grasp_names_the_classes_it_lacks():
    data = busy_data()
    few = Batches(data.x, np.minimum(data.y, 1), 10)
    model = busy_model()
    with pytest.raises(ValueError) as error:
        scorers.score("grasp", model, model.trainable_variables[:1], few)
    assert "{2: 0}" in str(error.value)
    assert "samples_per_class" in str(error.value)


def test_grasp_refuses_a_label_beyond_the_outputs():
    data = busy_data()
    wrong = Batches(data.x, data.y + 1, 10)
    model = busy_model()
    with pytest.raises(ValueError, match="class|label"):
        scorers.score("grasp", model, model.trainable_variables[:1], wrong)


def test_grasp_takes_one_hot_labels():
    data = busy_data()
    one_hot = Batches(data.x, np.eye(3, dtype="float32")[data.y], 10)
    model = busy_model()
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    sparse = scorers.score(
        "grasp",
        model,
        model.trainable_variables[:1],
        data,
        "inference",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    dense = scorers.score(
        "grasp", model, model.trainable_variables[:1], one_hot, "inference"
    )
    assert_close(dense, sparse, 1e-5)


@pytest.mark.parametrize("scorer", ["grasp", "synflow"])
def test_several_outputs_are_refused_by_what_needs_one(scorer):
    x = keras.Input((3,))
    model = keras.Model(x, [layers.Dense(2)(x), layers.Dense(2)(x)])
    model.compile("sgd", ["mse", "mse"])
    pruner = pruners.SaliencyPruner(schedules.OneShot(0.5), scorer, data=[])
    with pytest.raises(ValueError, match="one output.* Use 'snip'"):
        pruner.set_model(model)


@pytest.mark.parametrize("scorer", ["grasp", "synflow"])
def test_a_distiller_is_refused_by_what_needs_its_logits(scorer):
    pruner = pruners.SaliencyPruner(schedules.OneShot(0.5), scorer, data=[])
    with pytest.raises(ValueError, match="Received: Distiller"):
        pruner.set_model(distiller())


@pytest.mark.parametrize(
    "make", [pruners.SaliencyPruner, pruners.RigL], ids=["snip", "rigl"]
)
def test_a_model_compiled_without_a_loss_is_refused_when_training_starts(make):
    model = line(0.5, -3.0)
    model.compile("sgd")
    with pytest.raises(ValueError, match="Pass `loss` to `model.compile`"):
        make(schedules.ConstantSparsity(0.5, 0), data=[]).set_model(model)


def test_synflow_refuses_inputs_of_unknown_shape():
    model = chain((None, 3), layers.Dense(2))
    with pytest.raises(ValueError, match="known shape"):
        scorers.score("synflow", model, model.trainable_variables[:1])


# ---- second derivatives ------------------------------------------------


class SelfAttention(layers.Layer):
    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 2)

    def call(self, x):
        return self.attention(x, x)


MIDDLES = {
    "batch": layers.BatchNormalization,
    "group": lambda: layers.GroupNormalization(2),
    "layer": layers.LayerNormalization,
    "layer of two axes": lambda: layers.LayerNormalization(axis=[1, 2]),
    "unit": layers.UnitNormalization,
    "rms": layers.RMSNormalization,
    "attention": SelfAttention,
}


@pytest.mark.parametrize("kind", MIDDLES)
def test_grasp_is_right_or_refused_in_inference_mode(kind):
    check_grasp(kind, "inference")


@pytest.mark.parametrize("kind", ["batch", "group", "layer of two axes"])
def test_grasp_is_right_or_refused_in_training_mode(kind):
    check_grasp(kind, "train")


def check_grasp(kind, mode):
    """Restates H g as a difference of first derivatives."""
    middle = MIDDLES[kind]()
    model = chain(
        (6, 4),
        layers.Dense(4, name="first"),
        middle,
        layers.Activation("tanh"),
        layers.Flatten(),
        layers.Dense(3, name="logits"),
    )
    generator = np.random.default_rng(5)
    for variable in model.trainable_variables:
        variable.assign(generator.standard_normal(variable.shape) + 0.3)
    x = generator.standard_normal((30, 6, 4)).astype("float32")
    y = np.repeat(np.arange(3), 10)
    kernel = model.get_layer("first").kernel
    # TensorFlow's moments stop a gradient.
    refusable = BACKEND == "tensorflow" and kind in (
        "group",
        "layer of two axes",
    )
    try:
        scores = scorers.score(
            "grasp", model, [kernel], [(x, y)], mode, temperature=1.0
        )["first/kernel"]
    except ValueError as error:
        assert refusable and type(middle).__name__ in str(error)
        return
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pure = gradients.PureLoss(model, [kernel], loss, training=mode == "train")
    w = ops.convert_to_numpy(kernel)
    [g] = pure.gradient([w], x, y)
    step = 3e-3 / np.abs(g).max()
    [up] = pure.gradient([w + step * g], x, y)
    [down] = pure.gradient([w - step * g], x, y)
    product = w * (up - down) / (2 * step)
    expected = product / abs(product.sum())
    assert np.abs(scores - expected).max() < 0.02 * np.abs(expected).max()


def test_what_was_replaced_for_second_derivatives_is_put_back():
    model = busy_model()
    norm = model.get_layer("norm")
    with gradients.exact_second_derivatives(model.layers, training=True):
        pass
    assert "call" not in vars(norm)
    assert norm.call.__func__ is layers.BatchNormalization.call


@pytest.mark.parametrize("name", ["snip", "taylor", "grasp"])
def test_arrays_are_cut_into_batches(name):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    x = np.random.default_rng(0).normal(size=(70, 5)).astype("float32")
    y = np.arange(70) % 3
    batches = [(x[i : i + 32], y[i : i + 32]) for i in (0, 32, 64)]
    variables = [model.layers[0].kernel]
    [expected] = scorers.score(name, model, variables, batches).values()
    [found] = scorers.score(name, model, variables, (x, y)).values()
    np.testing.assert_array_equal(expected, found)
