"""One-shot pruning of a small language model, and recovery by LoRA.

    KERAS_BACKEND=torch python benchmarks/language_model.py \
        --results docs/results/data

A GPT-2 of KerasHub is trained on the bytes of Python's help topics, pruned by
three methods to three structures without training, and recovered with LoRA that
keeps the zeros. Perplexities are those of the test part, of whole topics that
nothing was trained on or chosen by.
"""

import argparse
import pathlib
import tempfile

import keras
import keras_hub
import numpy as np
import results
from measure import plus_minus

import keras_app as ka

LENGTH = 128
BATCH = 16
LAYERS, HEADS, WIDTH = 2, 4, 64
EPOCHS = 14
RATE = 3e-3
# Windows of the training part to calibrate on.
CALIBRATION = 128
RANK = 8
# Half of an epoch.
RECOVERY = 1152

METHODS = ("magnitude", "wanda", "sparsegpt")
STRUCTURES = {
    "50 %": (0.5, None),
    "4:8": (None, ka.masks.NM(4, 8, axis="inputs")),
    "2:4": (None, ka.masks.NM(2, 4, axis="inputs")),
}


def arrays(text, ids):
    """Windows as the models of KerasHub take them, and what comes next."""
    x, y = text.arrays(ids)
    return {"token_ids": x, "padding_mask": np.ones_like(x)}, y


def gpt2(vocabulary_size):
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=vocabulary_size,
        num_layers=LAYERS,
        num_heads=HEADS,
        hidden_dim=WIDTH,
        intermediate_dim=4 * WIDTH,
        dropout=0.1,
        max_sequence_length=LENGTH,
    )
    return keras_hub.models.GPT2CausalLM(backbone)


def train(model, data, epochs):
    steps = epochs * -(-len(data[1]) // BATCH)
    rates = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=RATE, warmup_steps=steps // 20
    )
    model.compile(
        keras.optimizers.AdamW(rates, weight_decay=0.01, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(*data, batch_size=BATCH, epochs=epochs, verbose=0)


def recovered(model, data):
    """The model after LoRA that keeps its zeros, merged."""
    ka.enable_lora(model, RANK)
    train(model, data, 1)
    return ka.export.merge_lora(model)


def file_of(model, test, folder):
    """Bytes of the sparse file; it must hold all that the model is."""
    path = folder / "model.sparse"
    ka.export.save_sparse(model, path, optimizer=False)
    loaded = ka.export.load_sparse(path)
    if ka.report.perplexity(loaded, test) != ka.report.perplexity(model, test):
        raise RuntimeError(f"{path} is worth something else than its model")
    return path.stat().st_size


def figures(model, training, test, folder):
    """What a model is worth, before and after it is recovered."""
    pruned = ka.report.perplexity(model, test)
    model = recovered(model, training)
    return {
        "pruned": pruned,
        "recovered": ka.report.perplexity(model, test),
        "sparsity": ka.report.summarize(model).sparsity,
        "bytes": file_of(model, test, folder),
    }


def measure(seed):
    """`{row: figures}` with one seed."""
    keras.utils.set_random_seed(seed)
    text = ka.experiments.data.Text(length=LENGTH)
    test = arrays(text, text.test_ids)
    dense = gpt2(text.num_classes)
    train(dense, arrays(text, text.train_ids), EPOCHS)
    ids = np.random.default_rng(seed).permutation(text.train_ids)
    calibration, _ = arrays(text, ids[:CALIBRATION])
    again = arrays(text, ids[:RECOVERY])

    def copied():
        model = gpt2(text.num_classes)
        model.set_weights(dense.get_weights())
        return model

    cells = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        cells["dense"] = figures(copied(), again, test, folder)
        for structure, (sparsity, units) in STRUCTURES.items():
            for method in METHODS:
                model = copied()
                ka.prune(
                    model, sparsity, method, data=calibration, structure=units
                )
                name = f"{structure}, {method}"
                cells[name] = figures(model, again, test, folder)
                print(seed, name, cells[name], flush=True)
    return {"cells": cells}


def table(measured):
    rows = []
    for name in next(iter(measured.values()))["cells"]:
        cells = [each["cells"][name] for each in measured.values()]
        rows.append(
            [
                name,
                *(
                    plus_minus([cell[key] for cell in cells], 2)
                    for key in ("pruned", "recovered")
                ),
                f"{sum(c['bytes'] for c in cells) / len(cells):,.0f}",
            ]
        )
    return ["", "perplexity", "after LoRA", "bytes"], rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results.options(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args(argv)
    packages = ("keras", keras.config.backend(), "keras-hub")
    found = results.Results(args, "language_model", packages)
    for seed in args.seeds:
        found.measure(f"seed {seed}", measure, seed)
    found.finish({"perplexity": table(found.measured)})


if __name__ == "__main__":
    main()
