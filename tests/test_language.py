"""Language models: perplexity, text, LoRA that keeps the zeros."""

import pathlib
import re
import sys

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_app as ka
from keras_app import lora
from keras_app.experiments.data import Text
from keras_app.report import perplexity

once = pytest.mark.backend_free

GENERATOR = np.random.default_rng(0)
TOKENS = np.cumsum(GENERATOR.integers(0, 2, (16, 9)), axis=1) % 11
Y = TOKENS[:, 1:]
X = {"token_ids": TOKENS[:, :-1], "padding_mask": np.ones((16, 8), "int32")}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def value(x):
    return ops.convert_to_numpy(x)


# ---- perplexity --------------------------------------------------------------


def predictor(activation=None):
    """Logits for each of 3 tokens of 4 features; a vocabulary of 5."""
    keras.utils.set_random_seed(1)
    layer = layers.Dense(5, activation=activation, kernel_initializer="normal")
    return keras.Sequential([keras.Input((3, 4)), layer])


FEATURES = GENERATOR.normal(size=(70, 3, 4)).astype("float32")
LABELS = GENERATOR.integers(0, 5, (70, 3))
WEIGHTS = GENERATOR.random((70, 3)) * (LABELS != 2)


def restated(model, weights):
    logits = value(model(FEATURES)).astype("float64")
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    losses = -np.log(np.take_along_axis(p, LABELS[..., None], -1)[..., 0])
    return np.exp((weights * losses).sum() / weights.sum())


def test_perplexity_is_that_of_all_tokens_whatever_the_batches():
    model = predictor()
    expected = restated(model, np.ones_like(WEIGHTS))
    found = perplexity(model, (FEATURES, LABELS))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    batches = [
        (FEATURES[:60], LABELS[:60, :, None]),
        (FEATURES[60:], LABELS[60:]),
    ]
    np.testing.assert_allclose(perplexity(model, batches), expected, rtol=1e-5)
    assert isinstance(found, float)


def test_weights_leave_out_padding():
    model = predictor()
    labels = np.where(WEIGHTS > 0, LABELS, -100)
    expected = restated(model, WEIGHTS)
    for data in (
        (FEATURES, labels, WEIGHTS),
        [(FEATURES, labels, WEIGHTS[..., None])],
    ):
        found = perplexity(model, data)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_probabilities_are_recognized():
    model = predictor("softmax")
    logits = predictor()
    logits.set_weights(model.get_weights())
    expected = perplexity(logits, (FEATURES, LABELS))
    for from_logits in (None, False):
        found = perplexity(model, (FEATURES, LABELS), from_logits)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    # They are logits for who says so.
    found = perplexity(model, (FEATURES, LABELS), True)
    expected = restated(model, np.ones_like(WEIGHTS))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@once
def test_a_token_that_cannot_be_costs_infinitely_much_unless_it_is_padding():
    class Sure(layers.Layer):
        def call(self, x):
            return ops.one_hot(ops.zeros_like(x, dtype="int32"), 2)

    model = keras.Sequential([keras.Input((2,)), Sure()])
    x, y = np.zeros((1, 2)), np.array([[0, 1]])
    with np.errstate(divide="ignore"):
        assert perplexity(model, (x, y)) == np.inf
        assert perplexity(model, (x, y, np.array([[1, 0]]))) == 1.0


@once
@pytest.mark.parametrize(
    "data, words",
    [
        (FEATURES, "`data` must be .x, y.: .* Received: data without y"),
        ((FEATURES, LABELS[:, 0]), r"shape \(32, 3\). Received: y of shape"),
        ((FEATURES, LABELS + 0.5), "integer tokens as y. .*float64"),
        ((FEATURES, LABELS + 1), "from 0 to 4, .*Received: from 1 to 5"),
        ((FEATURES, LABELS, WEIGHTS * 0), "above 0, one at least.*all 0"),
        ((FEATURES, LABELS, WEIGHTS - 1), "at least 0 in the shape"),
        ((FEATURES, LABELS, WEIGHTS[:, 0]), r"weights of shape \(32,\)"),
        ((FEATURES[:, :2], LABELS), r"of shape \(None, 3, 4\)"),
    ],
)
def test_what_perplexity_refuses(data, words):
    with pytest.raises(ValueError, match=words):
        perplexity(predictor(), data)


@once
def test_perplexity_takes_only_what_from_logits_may_be():
    with pytest.raises(ValueError, match="`from_logits` must be.*'yes'"):
        perplexity(predictor(), (FEATURES, LABELS), from_logits="yes")


# ---- LoRA that keeps the zeros -----------------------------------------------

BASES = {"tokens": "embeddings", "mix": "kernel", "slide": "kernel"}
GOALS = GENERATOR.normal(size=(16, 8, 3)).astype("float32")


def tagger():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8,), dtype="int32")
    x = layers.Embedding(11, 8, name="tokens")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.EinsumDense("abc,cd->abd", (None, 6), name="mix")(x)
    x = layers.Conv1D(4, 3, padding="same", name="slide")(x)
    model = keras.Model(inputs, layers.Dense(3, name="last")(x))
    model.compile(keras.optimizers.Adam(0.05), "mse")
    return model


def adapted_tagger():
    """Half pruned, adapted in all layers but the last, and trained."""
    model = tagger()
    filters = ["tokens/embeddings", "(mix|slide)/kernel"]
    ka.prune(model, 0.5, filters=filters)
    before = {v.path: value(v).copy() for v in model.weights}
    paths = ka.enable_lora(model, 2, lora_alpha=3, filters=filters)
    assert paths == ["tokens/embeddings", "mix/kernel", "slide/kernel"]
    model.compile(keras.optimizers.Adam(0.05), "mse")
    model.fit(TOKENS[:, :-1], GOALS, batch_size=4, epochs=2, verbose=0)
    return model, before


def expected_weights(model, before):
    """W + 3/2 A B where W is not zero."""
    found = {}
    for name, weight in BASES.items():
        own = {v.name: value(v) for v in model.get_layer(name).weights}
        a, b = (own[f"lora_{weight}_{each}"] for each in "ab")
        base = before[f"{name}/{weight}"]
        product = base + 1.5 * np.einsum("...r,ro->...o", a, b)
        found[name] = np.where(base == 0, 0, product)
    return found


def test_the_product_keeps_the_zeros_while_it_trains(tmp_path):
    model, before = adapted_tagger()
    trained = [
        *("tokens/lora_embeddings_a", "tokens/lora_embeddings_b"),
        *("mix/lora_kernel_a", "mix/lora_kernel_b"),
        *("slide/bias", "slide/lora_kernel_a", "slide/lora_kernel_b"),
    ]
    assert [v.path for v in model.trainable_variables] == trained
    for variable in model.weights:
        if variable.path in before and variable.path != "slide/bias":
            np.testing.assert_array_equal(
                value(variable), before[variable.path]
            )
    # Nothing is filled, so that exports and reports have nothing to say.
    assert lora.filled_zeros(model) is None
    expected = expected_weights(model, before)
    merged = ka.export.merge_lora(model)
    model.save(tmp_path / "model.keras")
    saved = keras.saving.load_model(tmp_path / "model.keras")
    for name, weight in BASES.items():
        zeros = before[f"{name}/{weight}"] == 0
        assert np.count_nonzero(zeros) == zeros.size // 2
        used = value(getattr(model.get_layer(name), weight))
        # Adapters that learned nothing would pass the rest.
        assert np.abs(used - before[f"{name}/{weight}"]).max() > 1e-3
        kept = [
            value(getattr(m.get_layer(name), weight)) for m in (merged, saved)
        ]
        for found in (used, *kept):
            np.testing.assert_allclose(found, expected[name], atol=1e-5)
            np.testing.assert_array_equal(found == 0, zeros)
    x = TOKENS[:, :-1]
    np.testing.assert_allclose(value(merged(x)), value(model(x)), atol=1e-5)


def test_the_gradient_is_that_of_the_masked_product():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, name="it")])
    layer = model.get_layer("it")
    layer.kernel.assign([[1.0, 0.0], [0.0, 2.0]])
    ka.enable_lora(model, 1)
    layer.lora_kernel_a.assign([[1.0], [1.0]])
    model.compile(keras.optimizers.SGD(1.0), lambda y, z: ops.sum(z, axis=-1))
    x = np.array([[3.0, 5.0]])
    model.fit(x, np.zeros((1, 2)), verbose=0)
    # dB_j = sum_i A_i x_i [W_ij != 0], where plain LoRA has 8 twice.
    np.testing.assert_allclose(value(layer.lora_kernel_b), [[-3.0, -5.0]])
    # B was zero, so that A has no gradient.
    np.testing.assert_allclose(value(layer.lora_kernel_a), [[1.0], [1.0]])
    np.testing.assert_allclose(value(layer.kernel), [[-2.0, 0.0], [0.0, -3.0]])


def test_what_lora_froze_trains_again_once_it_is_merged():
    model, _ = adapted_tagger()
    merged = ka.export.merge_lora(model)
    assert [v.path for v in merged.trainable_variables] == [
        "tokens/embeddings",
        *("norm/gamma", "norm/beta"),
        *("mix/kernel", "slide/kernel", "slide/bias"),
        *("last/kernel", "last/bias"),
    ]
    pruner = ka.pruners.MagnitudePruner(
        ka.schedules.OneShot(0.5), filters="mix/kernel"
    )
    merged.compile("adam", "mse")
    zeros = value(merged.get_layer("mix").kernel) == 0
    merged.fit(TOKENS[:, :-1], GOALS, verbose=0, callbacks=[pruner])
    after = value(merged.get_layer("mix").kernel)
    np.testing.assert_array_equal(after == 0, zeros)


@once
def test_layers_are_to_keras_what_they_were():
    model, _ = adapted_tagger()
    layer = model.get_layer("mix")
    assert isinstance(layer, layers.EinsumDense)
    assert layer.__class__ is layers.EinsumDense
    config = keras.saving.serialize_keras_object(layer)
    assert config["module"] == "keras.layers"
    assert config["class_name"] == "EinsumDense"


@once
def test_what_lora_does_not_fit_is_refused():
    model, _ = adapted_tagger()
    with pytest.raises(ValueError, match="no layers with LoRA yet: .*tokens"):
        ka.enable_lora(model, 2)
    inputs = keras.Input((6, 6, 2))
    x = layers.DepthwiseConv2D(3, name="deep")(inputs)
    x = layers.SeparableConv2D(3, 2, name="parts")(x)
    model = keras.Model(inputs, layers.Dense(3, name="last")(x))
    with pytest.raises(ValueError, match="`filters` must .*Received: deep/"):
        ka.enable_lora(model, 2, filters="deep|last")
    for rank in (0, 1.5, "2"):
        with pytest.raises((ValueError, TypeError), match=f"`rank`.*{rank!r}"):
            ka.enable_lora(model, rank)
    with pytest.raises(ValueError, match="`lora_alpha` must be .*> 0.*-1"):
        ka.enable_lora(model, 2, lora_alpha=-1)
    assert model.trainable and lora.adapted(model) == []
    assert ka.enable_lora(model, 2) == ["last/kernel"]


# ---- text --------------------------------------------------------------------


@once
def test_text_is_cut_into_windows_of_whole_documents():
    documents = ["abcdefgh", "ijk\n\nabcdefgh", "lmn\n \nop", "qrs"]
    # 8 + 3 + 7 + 3 bytes, and two between; "abcdefgh" comes once.
    text = Text(documents, 2, validation_fraction=0.35, test_fraction=0.15)
    assert [text.train_ids.size, text.validation_ids.size] == [6, 3]
    x, y = text.arrays(text.train_ids)
    assert b"".join(map(bytes, x.astype("uint8"))) == b"abcdefgh\n\nij"
    assert b"".join(map(bytes, y.astype("uint8"))) == b"bcdefgh\n\nijk"
    assert bytes(text.test[0].astype("uint8")[0]) == b"qr"
    [[x, y]] = text.validation.as_numpy_iterator()
    assert bytes(x[0].astype("uint8")) == b"lm" and x.dtype == "int32"
    assert bytes(y[0].astype("uint8")) == b"mn"


@once
def test_no_paragraph_of_the_help_topics_is_in_two_parts():
    text = Text()
    parts = []
    for ids in (text.train_ids, text.validation_ids, text.test_ids):
        x, _ = text.arrays(ids)
        whole = bytes(x.astype("uint8").ravel()).decode()
        paragraphs = [" ".join(p.split()) for p in whole.split("\n\n")]
        parts.append(set(paragraphs[1:-1]) - {""})
    assert len(parts[0]) > 500 and min(map(len, parts)) > 50
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not parts[one] & parts[other]
    assert text.steps_per_epoch == -(-len(text.train_ids) // 32)


@once
@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"documents": "romeo"}, ValueError, "'pydoc_topics' or.*'romeo'"),
        ({"documents": 3}, TypeError, "list of strings. Received: int"),
        ({"documents": ["abc", "def"]}, ValueError, "more text.*length=128"),
        ({"documents": []}, ValueError, "more text.*parts of 0, 0, 0 bytes"),
        ({"length": 0}, ValueError, "`length`.*0"),
        ({"test_fraction": 1.0}, ValueError, "`test_fraction`.*1.0"),
        (
            {"test_fraction": 0.5, "validation_fraction": 0.5},
            ValueError,
            "more text.*parts of 0,",
        ),
    ],
)
def test_text_that_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        Text(**arguments)


# ---- KerasHub ----------------------------------------------------------------


def gpt2(hub):
    return hub.models.GPT2Backbone(
        vocabulary_size=11,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=8,
        dropout=0.0,
    )


def gemma(hub):
    return hub.models.GemmaBackbone(
        vocabulary_size=11,
        num_layers=1,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=16,
        intermediate_dim=32,
        head_dim=8,
    )


def language_model(make):
    hub = pytest.importorskip("keras_hub", reason="the extra `hub`")
    keras.utils.set_random_seed(0)
    backbone = make(hub)
    task = {
        "gpt2": hub.models.GPT2CausalLM,
        "gemma": hub.models.GemmaCausalLM,
    }[make.__name__]
    model = task(backbone, preprocessor=None)
    model.compile(keras.optimizers.Adam(0.01), LOSS)
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    return model


def groups_of_inputs(kernel):
    """A kernel of 16 or 32 inputs as `(groups, 8, outputs)`."""
    array = value(kernel)
    layer = kernel.path.split("/")[-2]
    outputs = 16 if layer != "feedforward_intermediate_dense" else 32
    return array.reshape(-1, 8, outputs)


def test_a_gpt2_is_pruned_recovered_merged_and_stored(tmp_path):
    model = language_model(gpt2)
    dense = perplexity(model, (X, Y))
    loss, *_ = model.evaluate(X, Y, verbose=0)
    assert dense == pytest.approx(np.exp(loss), rel=1e-4)
    four_of_eight = ka.masks.NM(4, 8, axis="inputs")
    report = ka.prune(model, None, "sparsegpt", X, structure=four_of_eight)
    assert report.sparsity == 0.5
    assert sum(row.prunable for row in report.rows) == 6
    assert "an embedding" in report.skipped["token_embedding/embeddings"]
    before = perplexity(model, (X, Y))
    assert before != dense
    ka.enable_lora(model, 2)
    assert perplexity(model, (X, Y)) == pytest.approx(before, rel=1e-5)
    model.compile(keras.optimizers.Adam(0.02), LOSS)
    model.fit(X, Y, batch_size=8, epochs=4, verbose=0)
    after = perplexity(model, (X, Y))
    assert after < before
    merged = ka.export.merge_lora(model)
    assert perplexity(merged, (X, Y)) == pytest.approx(after, rel=1e-5)
    kernels = [v for v in merged.weights if v.name == "kernel"]
    assert len(kernels) == 6
    for kernel in kernels:
        groups = groups_of_inputs(kernel)
        assert np.all((groups != 0).sum(axis=1) == 4)
    path = tmp_path / "model.sparse"
    ka.export.save_sparse(merged, path, optimizer=False)
    loaded = ka.export.load_sparse(path)
    assert perplexity(loaded, (X, Y)) == perplexity(merged, (X, Y))


@once
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("structure", [None, "2:4"])
def test_a_gemma_is_pruned_by_every_method(method, structure):
    model = language_model(gemma)
    two_of_four = ka.masks.NM(2, 4, axis="inputs")
    report = ka.prune(
        model, 0.5, method, X, structure=structure and two_of_four
    )
    assert report.sparsity == 0.5
    assert len(ka.enable_lora(model, 2, filters="(query|value)/kernel")) == 2
    model.compile(keras.optimizers.Adam(0.02), LOSS)
    model.fit(X, Y, batch_size=8, verbose=0)
    merged = ka.export.merge_lora(model)
    assert ka.report.summarize(merged).sparsity == 0.5
    assert perplexity(merged, (X, Y)) < 20


DOCUMENTS = [chr(97 + i) * 3 + " bananas and apples" * 3 for i in range(12)]


@once
def test_a_run_is_judged_by_perplexity(tmp_path):
    pytest.importorskip("keras_hub", reason="the extra `hub`")

    def model(**kwargs):
        return ka.experiments.models.hub_causal_lm(
            "gpt2causallm",
            **kwargs,
            num_layers=1,
            num_heads=2,
            hidden_dim=8,
            intermediate_dim=16,
        )

    steps = len(Text(DOCUMENTS, 8, batch_size=4).train_ids) // 4
    pruner = ka.pruners.SparseGPTPruner(
        ka.schedules.OneShot(0.5, steps),
        structure=ka.masks.NM(2, 4, axis="inputs"),
    )
    run = ka.experiments.Train(
        lambda seed: Text(DOCUMENTS, 8, batch_size=4, seed=seed),
        model,
        pruner=pruner,
        epochs=2,
    )
    summary = run.run(tmp_path / "run", verbose=False)
    assert summary["effective_density"] == 0.5
    [figures] = summary["methods"].values()
    assert 1 < figures["perplexity"] < 256
    loaded = keras.saving.load_model(tmp_path / "run" / "model.keras")
    found = perplexity(loaded, Text(DOCUMENTS, 8).test)
    assert figures["perplexity"] == pytest.approx(found, rel=1e-5)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Perplexity" in page


@once
@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"name": "BertBackbone"}, "that ends in CausalLM.*Bert"),
        ({"name": "GPT2CausalLN"}, "Did you mean.*GPT2CausalLM"),
        ({"input_shape": (8, 8)}, r"\(length,\).*\(8, 8\)"),
        ({"mean": 0.5}, "must be None for tokens.*0.5"),
    ],
)
def test_language_models_that_are_refused(arguments, words):
    pytest.importorskip("keras_hub", reason="the extra `hub`")
    given = {"name": "GPT2CausalLM", "input_shape": (8,), "num_classes": 11}
    with pytest.raises(ValueError, match=words):
        ka.experiments.models.hub_causal_lm(**{**given, **arguments})


@once
def test_without_kerashub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_app\[hub\]'"):
        ka.experiments.models.hub_causal_lm("GPT2CausalLM", (8,), 11)


@once
def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    pytest.importorskip("keras_hub", reason="the extra `hub`")
    monkeypatch.chdir(tmp_path)
    page = pathlib.Path(__file__).parents[1] / "docs" / "language_models.md"
    names = {"DOCUMENTS": DOCUMENTS}
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        # A model as on the page, on a text that takes no time.
        code = code.replace("Text(length=128)", "Text(DOCUMENTS, 8)")
        exec(compile(code, page.name, "exec"), names)
    assert len(names["text"].train_ids) < 200
    for kernel in names["merged"].weights:
        if kernel.name == "kernel":
            array = value(kernel)
            assert np.count_nonzero(array) == array.size // 2
    assert names["report"].sparsity == 0.5
    assert (tmp_path / "gpt2.sparse").exists()
