"""Tests on backbones of KerasHub: pruned, adapted, saved, exported."""

import pathlib
import re

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_app as ka
from keras_app import selection
from keras_app.pruners import MagnitudePruner
from keras_app.schedules import OneShot

keras_hub = pytest.importorskip("keras_hub", reason="the extra `hub`")

# These models are made of layers that other files test on every backend.
once = pytest.mark.backend_free

BACKEND = keras.backend.backend()
IMAGES = np.random.default_rng(0).random((8, 8, 8, 3)).astype("float32")
TEXT = {
    "token_ids": np.random.default_rng(0).integers(0, 11, (8, 8), "int32"),
    "segment_ids": np.zeros((8, 8), "int32"),
    "padding_mask": np.ones((8, 8), "int32"),
}
LABELS = np.arange(8) % 3
VIT = {
    "patch_size": (4, 4),
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 16,
    "mlp_dim": 32,
}
ATTENTION = ("query", "key", "value", "attention_output")
BERT_KERNELS = [
    *(
        f"transformer_layer_{i}/{layer}/kernel"
        for i in range(2)
        for layer in (
            *(f"self_attention_layer/{each}" for each in ATTENTION),
            "feedforward_intermediate_dense",
            "feedforward_output_dense",
        )
    ),
    "pooled_dense/kernel",
    "logits/kernel",
]
VIT_KERNELS = [
    "vit_patching_and_embedding/patch_embedding/kernel",
    *(
        f"vit_encoder/transformer_block_1/{layer}/kernel"
        for layer in (
            *(f"mha/{each}" for each in ATTENTION),
            "mlp/dense_1",
            "mlp/dense_2",
        )
    ),
    "logits/kernel",
]


def bert():
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=11,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=8,
    )
    x = backbone.output["pooled_output"]
    x = layers.Dense(3, name="logits")(x)
    return keras.Model(backbone.inputs, x)


def vit():
    return ka.experiments.models.get(
        "keras_hub.models.ViTBackbone", (8, 8, 3), 3, **VIT
    )


def train(model, x, *callbacks):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(x, LABELS, batch_size=4, verbose=0, callbacks=callbacks)
    return model


def value(x):
    return ops.convert_to_numpy(x)


@pytest.fixture(scope="module")
def trained():
    """`{name: (pruned model, pruner, inputs)}`, to read only."""
    keras.utils.set_random_seed(0)
    found = {}
    for make, x in ((bert, TEXT), (vit, IMAGES)):
        pruner = MagnitudePruner(OneShot(0.75))
        found[make.__name__] = train(make(), x, pruner), pruner, x
    return found


def assert_same(copy, model):
    assert len(copy.weights) == len(model.weights)
    for new, old in zip(copy.weights, model.weights):
        np.testing.assert_array_equal(value(new), value(old))


@once
@pytest.mark.parametrize(
    "name, kernels", [("bert", BERT_KERNELS), ("vit", VIT_KERNELS)]
)
def test_three_of_four_weights_are_pruned_in_fit(trained, name, kernels):
    model, pruner, _ = trained[name]
    assert list(pruner.masks) == kernels
    table = str(pruner.report)
    for path, mask in pruner.masks.items():
        [variable] = [v for v in model.weights if v.path == path]
        assert np.count_nonzero(mask) == mask.size // 4
        np.testing.assert_array_equal(value(variable) != 0, mask)
        assert f"│ {path} " in table
    assert "an embedding; name it" in str(pruner.report.skipped)


@once
def test_a_broad_filter_leaves_the_biases_of_attention(trained):
    model, _, _ = trained["bert"]
    chosen = selection.select(model, "_1/self_attention")
    assert list(chosen.variables) == [
        path for path in BERT_KERNELS if "_1/self_attention" in path
    ]
    bias = "transformer_layer_1/self_attention_layer/query/bias"
    assert chosen.skipped[bias] == "a bias"


@once
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_a_keras_file_brings_the_zeros_back_into_training(
    trained, name, tmp_path
):
    model, pruner, x = trained[name]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(loaded, model)
    if name == "vit":  # compiling it once more says nothing new
        return
    again = MagnitudePruner(OneShot(0.75))
    loaded.fit(x, LABELS, batch_size=4, verbose=0, callbacks=[again])
    for new, old in zip(again.masks.values(), pruner.masks.values()):
        np.testing.assert_array_equal(new, old)


@once
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_sparse_checkpoints_and_copies_are_exact(trained, name, tmp_path):
    model, pruner, _ = trained[name]
    ka.export.save_sparse(model, tmp_path / "model.sparse")
    loaded = ka.export.load_sparse(tmp_path / "model.sparse")
    assert_same(loaded, model)
    masks = ka.masks_of(loaded).values()
    for new, old in zip(masks, pruner.masks.values(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert_same(ka.export.strip_pruning(model), model)


def test_a_task_keeps_its_preprocessor_in_copies_and_checkpoints(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "good", "bad"]
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=words)
    task = keras_hub.models.BertTextClassifier(
        keras_hub.models.BertBackbone(8, 1, 2, 16, 32, max_sequence_length=8),
        num_classes=2,
        preprocessor=keras_hub.models.BertTextClassifierPreprocessor(
            tokenizer, sequence_length=8
        ),
    )
    x = np.array(["the good", "the bad"] * 4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task.compile(keras.optimizers.SGD(0.5, momentum=0.5), loss)
    pruner = MagnitudePruner(OneShot(0.5))
    task.fit(x, np.array([1, 0] * 4), verbose=0, callbacks=[pruner])
    path = tmp_path / "task.sparse"
    copies = {"strip": ka.export.strip_pruning(task)}
    for optimizer in (True, False):
        ka.export.save_sparse(task, path, optimizer=optimizer)
        copies[optimizer] = ka.export.load_sparse(path)
    expected = task.predict(x, verbose=0)
    for copy in copies.values():
        assert type(copy) is keras_hub.models.BertTextClassifier
        assert copy.preprocessor.tokenizer.get_vocabulary() == words
        assert_same(copy, task)
        np.testing.assert_array_equal(copy.predict(x, verbose=0), expected)
    assert not copies["strip"].compiled and copies["strip"].optimizer is None
    for each in (True, False):
        kept = copies[each].optimizer
        assert type(kept) is type(task.optimizer) and kept.momentum == 0.5
        assert int(value(kept.iterations)) == each
        masks = ka.masks_of(copies[each])
        assert list(masks) == list(pruner.masks)
        for path, mask in pruner.masks.items():
            np.testing.assert_array_equal(masks[path], mask)


# From the others it takes the start of a TensorFlow process, as any model.
@pytest.mark.skipif(BACKEND != "tensorflow", reason="converted by TensorFlow")
@pytest.mark.parametrize(
    "name, export",
    [
        ("bert", ka.export.export_saved_model),
        ("vit", ka.export.export_litert),
    ],
)
def test_exports_compute_the_same(trained, name, export, tmp_path):
    model, _, x = trained[name]
    # Compares the file with the model, and raises where they differ.
    report = export(model, tmp_path / "exported", data=x)
    assert report.max_difference < 1e-5
    if report.format == "litert":
        assert len(report.sparse_tensors) == len(VIT_KERNELS)


@once
def test_shrink_says_what_it_does_not_cut(trained):
    model, _, x = trained["bert"]
    with pytest.warns(UserWarning, match="transformer_layer_0: its zeros stay"):
        small = ka.export.shrink(model, data=x)
    np.testing.assert_allclose(value(small(x)), value(model(x)), atol=1e-5)
    model, _, x = trained["vit"]
    with pytest.raises(ValueError, match="ViTPatchingAndEmbedding cannot be"):
        ka.export.shrink(model, data=x)


@once
def test_lora_of_a_backbone_is_merged_into_the_zeros():
    inputs = keras.Input((8, 8, 3))
    backbone = keras_hub.models.ViTBackbone(image_shape=(8, 8, 3), **VIT)
    x = layers.GlobalAveragePooling1D()(backbone(inputs))
    model = keras.Model(inputs, layers.Dense(3)(x))
    query = backbone.get_layer("vit_encoder").encoder_layers[0].mha.query_dense
    kept = np.arange(8) % 2 == 1
    query.kernel.assign(value(query.kernel) * kept)
    before = value(query.kernel)
    backbone.enable_lora(2)
    for variable in model.trainable_variables:
        variable.assign(np.full(variable.shape, 0.5))
    merged = ka.export.merge_lora(model)
    [kernel] = [
        v for v in merged.weights if v.path.endswith("block_1/mha/query/kernel")
    ]
    # Rank 2: A B = 2 * 0.5 * 0.5.
    expected = np.where(before == 0, 0, before + 0.5)
    np.testing.assert_allclose(value(kernel), expected, atol=1e-6)


@once
def test_networks_by_name():
    model = vit()
    assert model.name == "vitbackbone"
    assert model.output_shape == (None, 3)
    model = ka.experiments.models.hub_backbone(
        "efficientnetbackbone",
        (8, 8, 3),
        5,
        std=0.5,
        stackwise_width_coefficients=[1.0],
        stackwise_depth_coefficients=[1.0],
        stackwise_kernel_sizes=[3],
        stackwise_num_repeats=[1],
        stackwise_input_filters=[8],
        stackwise_output_filters=[8],
        stackwise_expansion_ratios=[1],
        stackwise_squeeze_and_excite_ratios=[0.25],
        stackwise_strides=[1],
        stackwise_block_types=["unfused"],
        stackwise_nores_option=[False],
        num_features=16,
    )
    assert model.get_layer("logits").kernel.shape == (16, 5)
    assert model.output_shape == (None, 5)


@once
@pytest.mark.parametrize(
    "name, words", [("BertBackbone", "takes images"), ("ViTBakbone", "ViTBack")]
)
def test_unknown_networks_are_refused(name, words):
    with pytest.raises(ValueError, match=f"`name` must be .*{words}"):
        ka.experiments.models.get(f"keras_hub.models.{name}", (8, 8, 3), 3)


@once
def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    page = pathlib.Path(__file__).parents[1] / "docs" / "combining.md"
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(code, page.name, "exec"), names)
    assert names["student_sparsity"] == names["merged_sparsity"] == 0.75
    assert names["int8_zeros"] >= names["zeros"] == 0.75 * 784 * 32
    assert names["hub_sparsity"] == 0.5
    float8 = ka.report.summarize(names["merged"])
    assert float8.sparsity == 0.75
    layer = names["QuantizedDense"](3)
    # 127 steps to 2, the largest: 1 is 63.5 of them.
    layer.build((None, 2))
    layer.kernel.assign([[2, 0, 1], [0, 0.004, -2]])
    received = value(layer(np.eye(2, dtype="float32")))
    assert received[0, 1] == received[1, 0] == received[1, 1] == 0
    np.testing.assert_allclose(np.abs(received[[0, 1], [0, 2]]), 2, atol=1e-5)
    assert names["vit"].output_shape == (None, 10)
    assert (tmp_path / "bert.sparse").exists()
