"""Tests of pruning together with distillation, LoRA and training in 8 bits."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_app as ka
from keras_app.export import merge_lora
from keras_app.export import save_sparse
from keras_app.export import strip_pruning
from keras_app.pruners import MagnitudePruner
from keras_app.schedules import OneShot
from keras_app.schedules import PolynomialDecay

HALF = OneShot(0.5)


def value(variable):
    return ops.convert_to_numpy(variable)


def zeros_of(variables):
    return [int(np.count_nonzero(value(v) == 0)) for v in variables]


# ---- distillation ----------------------------------------------------------

X = np.random.default_rng(0).standard_normal((32, 6)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 32)


def classifier(width, name):
    x = inputs = keras.Input((6,))
    x = layers.Dense(width, activation="relu", name=f"{name}_hidden")(x)
    return keras.Model(
        inputs, layers.Dense(3, name=f"{name}_logits")(x), name=name
    )


def distiller():
    made = keras.distillation.Distiller(
        teacher=classifier(16, "teacher"),
        student=classifier(8, "student"),
        distillation_losses=keras.distillation.LogitsDistillation(),
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile("adam", loss)
    return made


def test_the_student_of_a_distiller_is_pruned_and_its_teacher_is_not():
    model = distiller()
    before = model.teacher.get_weights()
    pruner = MagnitudePruner(PolynomialDecay(0.0, 0.75, 0, 6, frequency=2))
    model.fit(X, Y, batch_size=8, epochs=3, verbose=0, callbacks=[pruner])
    assert list(pruner.masks) == [
        "student_hidden/kernel",
        "student_logits/kernel",
    ]
    assert list(pruner.report.skipped) == [
        "student_hidden/bias",
        "student_logits/bias",
    ]
    student = model.student
    kernels = [layer.kernel for layer in student.layers[1:]]
    # Of 6 * 8 and 8 * 3 weights.
    assert zeros_of(kernels) == [36, 18]
    for new, old in zip(model.teacher.get_weights(), before):
        np.testing.assert_array_equal(new, old)
    copy = strip_pruning(student)
    np.testing.assert_array_equal(value(copy(X)), value(student(X)))
    # The student trains on alone, under the masks that it has.
    masks = pruner.masks
    student.compile("sgd", "mse")
    goals = np.ones((32, 3))
    student.fit(X, goals, epochs=7, verbose=0, callbacks=[pruner])
    for path, mask in pruner.masks.items():
        np.testing.assert_array_equal(mask, masks[path])
    assert zeros_of(kernels) == [36, 18]


def test_a_distiller_is_no_sparse_checkpoint_and_its_student_is(tmp_path):
    model = distiller()
    model.fit(X, Y, verbose=0, callbacks=[MagnitudePruner(HALF)])
    with pytest.raises(ValueError, match="save `model.student`.*distiller"):
        save_sparse(model, tmp_path / "distiller.sparse")
    save_sparse(model.student, tmp_path / "student.sparse")
    loaded = ka.export.load_sparse(tmp_path / "student.sparse")
    for new, old in zip(loaded.get_weights(), model.student.get_weights()):
        np.testing.assert_array_equal(new, old)


# ---- LoRA ------------------------------------------------------------------

TOKENS = np.random.default_rng(0).integers(0, 9, (16, 5)).astype("int32")
GOALS = np.random.default_rng(1).standard_normal((16, 5, 3)).astype("float32")
# {layer: the weight that LoRA freezes}
BASES = {
    "tokens": "embeddings",
    "mix": "kernel",
    "slide": "kernel",
    "logits": "kernel",
}
ADAPTED = [f"{layer}/{weight}" for layer, weight in BASES.items()]


def tagger():
    x = inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(9, 8, name="tokens")(x)
    x = layers.EinsumDense("abc,cd->abd", (None, 6), name="mix")(x)
    x = layers.Conv1D(4, 3, padding="same", name="slide")(x)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    model.compile(keras.optimizers.Adam(0.1), "mse")
    return model


def fit(model, *callbacks):
    return model.fit(
        TOKENS, GOALS, batch_size=4, verbose=0, callbacks=callbacks
    )


def adapt(model, *names):
    for name in names or BASES:
        model.get_layer(name).enable_lora(2, lora_alpha=3)
    model.compile(keras.optimizers.Adam(0.1), "mse")
    return model


def bases(model):
    """The frozen weights and the products added to them, `{layer: arrays}`."""
    found = {}
    for name, weight in BASES.items():
        layer = model.get_layer(name)
        [base] = [v for v in layer.weights if v.name == weight]
        a, b = (
            value(v)
            for v in layer.weights
            if v.name in (f"lora_{weight}_a", f"lora_{weight}_b")
        )
        found[name] = value(base), 3 / 2 * np.einsum("...r,ro->...o", a, b)
    return found


def adapted_tagger(zeros):
    """Adapters that are not zero, as if they had been trained."""
    model = tagger()
    generator = np.random.default_rng(2)
    for name, weight in BASES.items():
        base = getattr(model.get_layer(name), weight)
        kept = np.arange(base.shape[-1]) >= zeros
        base.assign(value(base) * kept)
    for variable in adapt(model).weights:
        if variable.name.endswith("_b"):
            variable.assign(generator.uniform(0.5, 1, variable.shape))
    return model


def test_lora_trains_beside_the_zeros_and_its_merge_keeps_them():
    model = tagger()
    fit(model, MagnitudePruner(HALF, filters="kernel|embeddings"))
    adapt(model)
    # B starts from zero, so that nothing is filled yet.
    assert ka.report.summarize(model).notes == []
    before = {name: base for name, (base, _) in bases(model).items()}
    fit(model)
    after = bases(model)
    for name, (base, product) in after.items():
        np.testing.assert_array_equal(base, before[name])
        assert np.count_nonzero(base == 0) == base.size // 2
        assert np.all(product != 0)
    copy = merge_lora(model)
    paths = [v.path for v in copy.trainable_variables]
    assert paths == [*ADAPTED[:3], "slide/bias", "logits/kernel", "logits/bias"]
    for name, weight in BASES.items():
        base, product = after[name]
        expected = np.where(base == 0, 0, base + product)
        received = value(getattr(copy.get_layer(name), weight))
        np.testing.assert_allclose(received, expected, atol=1e-6)
        np.testing.assert_array_equal(received == 0, base == 0)
    for name in ("slide", "logits"):
        np.testing.assert_array_equal(
            value(copy.get_layer(name).bias), value(model.get_layer(name).bias)
        )
    assert model.get_layer("mix").lora_enabled


def test_without_zeros_the_merge_computes_what_lora_computes():
    model = adapted_tagger(zeros=0)
    copy = merge_lora(model)
    # Outputs of 44 differ by some units in the last place where JAX 0.9 sums.
    np.testing.assert_allclose(
        value(copy(TOKENS)), value(model(TOKENS)), rtol=1e-6, atol=1e-5
    )


def test_a_report_says_which_zeros_lora_fills():
    # One output in 8, 6, 4 and 3: 9 + 8 + 18 + 4 zeros.
    [note] = ka.report.summarize(adapted_tagger(zeros=1)).notes
    assert note.startswith("LoRA fills 39 of the 39 zeros of ")
    assert "mix/kernel" in note and "merge_lora(model)" in note


def test_what_would_lose_the_zeros_is_refused(tmp_path):
    model = adapted_tagger(zeros=1)
    path = tmp_path / "model"
    for export in (
        ka.export.export_litert,
        ka.export.export_saved_model,
        lambda model, path: strip_pruning(model),
    ):
        with pytest.raises(ValueError, match="zeros that LoRA fills.*39"):
            export(model, path)
    with pytest.raises(ValueError, match="merge_lora.*LoRA in tokens, mix"):
        save_sparse(model, path)
    assert not path.exists()


def test_pruning_under_lora_is_refused_or_warned_of():
    model = adapt(tagger())
    # A pattern that would match the adapters' names.
    for filters in (None, "kernel"):
        pruner = MagnitudePruner(HALF, filters=filters)
        with pytest.raises(ValueError, match="LoRA has frozen.*tokens, mix"):
            fit(model, pruner)
    model = adapt(tagger(), "mix")
    pruner = MagnitudePruner(HALF)
    with pytest.warns(UserWarning, match="LoRA has frozen the weights of mix,"):
        fit(model, pruner)
    assert list(pruner.masks) == ["slide/kernel", "logits/kernel"]
    assert "an adapter of LoRA" in pruner.report.skipped["mix/lora_kernel_a"]


@pytest.mark.backend_free
def test_merging_needs_lora_in_floats():
    model = tagger()
    with pytest.raises(ValueError, match="LoRA enabled. Received: functional"):
        merge_lora(model)
    model.quantize("int8", filters="mix")
    with pytest.raises(ValueError, match=r"quantize what.*\['mix/kernel'\]"):
        merge_lora(adapt(model))


# ---- quantization that trains ----------------------------------------------


def test_a_pruned_model_trains_on_in_float8_with_its_zeros(tmp_path):
    model = tagger()
    pruner = MagnitudePruner(HALF)
    fit(model, pruner)
    masks = pruner.masks
    model.quantize("float8", filters="mix|logits")
    with pytest.raises(ValueError, match="mix/inputs_scale.*Compile the model"):
        fit(model, pruner)
    model.compile(keras.optimizers.Adam(0.1), "mse")
    fit(model, pruner)
    # The scales train, by their own rule, and carry no mask.
    assert value(model.get_layer("mix").kernel_amax_history).any()
    assert list(pruner.masks) == ["mix/kernel", "slide/kernel", "logits/kernel"]
    kernels = {}
    for name in ("mix", "slide", "logits"):
        kernels[name] = value(model.get_layer(name).kernel)
        kept = kernels[name] != 0
        assert np.count_nonzero(kept) == kept.size // 2
        np.testing.assert_array_equal(kept, masks[f"{name}/kernel"])
    copy = strip_pruning(model)
    np.testing.assert_array_equal(value(copy(TOKENS)), value(model(TOKENS)))
    with pytest.raises(ValueError, match="float8.*`model.save`.*mix, logits"):
        save_sparse(model, tmp_path / "model.sparse")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fit(loaded, MagnitudePruner(HALF))
    for name, kernel in kernels.items():
        trained = value(loaded.get_layer(name).kernel)
        np.testing.assert_array_equal(trained == 0, kernel == 0)
        assert not np.array_equal(trained, kernel)


@pytest.mark.backend_free
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_pruning_integers_is_refused(mode):
    model = tagger()
    model.quantize(mode, filters="mix|logits")
    model.compile("adam", "mse")
    for filters in ("mix", "^logits"):
        pruner = MagnitudePruner(HALF, filters=filters)
        words = "quantization has frozen mix/kernel, logits/kernel. Prune first"
        with pytest.raises(ValueError, match=words):
            fit(model, pruner)


class FakeQuantized(layers.Dense):
    """Trains for int8: its kernel is rounded in the forward pass."""

    def rounded(self):
        largest = ops.stop_gradient(ops.max(ops.abs(self.kernel)))
        return keras.quantizers.fake_quant_with_min_max_vars(
            self.kernel, -largest, largest, narrow_range=True
        )

    def call(self, inputs):
        return ops.matmul(inputs, self.rounded()) + self.bias


def test_fake_quantization_computes_with_the_zeros():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, FakeQuantized(8, name="rounded")(inputs))
    model.compile("adam", "mse")
    pruner = MagnitudePruner(OneShot(0.75))
    before = value(model.layers[1].kernel)
    model.fit(X, np.ones((32, 8)), verbose=0, callbacks=[pruner])
    layer = model.layers[1]
    kernel, rounded = value(layer.kernel), value(layer.rounded())
    assert zeros_of([layer.kernel]) == [36]
    np.testing.assert_array_equal(rounded[kernel == 0], 0)
    # On a grid of 127 steps to each side, and near what is trained.
    step = np.abs(kernel).max() / 127
    np.testing.assert_allclose(rounded, kernel, atol=0.51 * step)
    np.testing.assert_allclose(
        rounded / step, np.rint(rounded / step), atol=1e-3
    )
    assert np.abs(kernel - before)[kernel != 0].min() > 0
