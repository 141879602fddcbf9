"""Tests of exporting runs: the command line, the run's end, the run page."""

import dataclasses
import inspect
import json

import keras
import numpy as np
import pytest
from keras import layers

from keras_app import cli
from keras_app import export
from keras_app import train
from keras_app.experiments import export_run
from keras_app.export import formats
from keras_app.export.__main__ import main
from keras_app.export.formats import Format
from keras_app.export.formats import FORMATS


@pytest.fixture
def run_dir(tmp_path):
    """A finished run, as an experiment leaves it."""
    folder = tmp_path / "run"
    folder.mkdir()
    model = keras.Sequential(
        [keras.Input((12,)), layers.Dense(40), layers.Dense(3)]
    )
    kernel = np.zeros((12, 40))
    kernel[:, :10] = 1.0
    model.layers[0].set_weights([kernel, np.zeros(40)])
    model.save(folder / "model.keras")
    summary = {
        "method": "SGD",
        "accuracy": 0.5,
        "effective_density": 0.25,
        "data": "arrays",
        "methods": {"SGD": {"accuracy": 0.5, "effective_density": 0.25}},
        "missed": [],
        "seconds": 1.0,
        "seed": 0,
        "versions": {"keras": keras.__version__},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text("")
    return folder


def replace_format(monkeypatch, name, export):
    """Writes files of a format by a function of the test."""
    changed = dataclasses.replace(FORMATS[name], export=export)
    monkeypatch.setitem(FORMATS, name, changed)


def test_a_run_folder_is_exported_into_itself(run_dir, capsys):
    assert main([str(run_dir), "--format=sparse"]) == 0
    loaded = export.load_sparse(run_dir / "exports" / "model.sparse")
    original = keras.saving.load_model(run_dir / "model.keras")
    for found, expected in zip(loaded.get_weights(), original.get_weights()):
        np.testing.assert_array_equal(found, expected)
    printed = capsys.readouterr().out
    assert "bit by bit" in printed and "model.sparse" in printed


def test_a_run_killed_between_two_exports_gets_the_missing_one(
    run_dir, monkeypatch
):
    [whole] = export_run(run_dir, ("sparse",))
    file = run_dir / "exports" / "model.sparse"
    before = file.stat().st_mtime_ns
    asked = []
    replace_format(
        monkeypatch,
        "saved_model",
        lambda model, path, data: asked.append(path),
    )
    formats = ("sparse", "saved_model")
    kept, _ = export_run(run_dir, formats, resume=True)
    assert asked == [run_dir / "exports" / "model_saved_model"]
    assert kept == whole and file.stat().st_mtime_ns == before
    # A kill comes before the report; and a report may have lost its file.
    for lost in ("model.sparse.report.json", "model.sparse"):
        (run_dir / "exports" / lost).unlink()
        [again] = export_run(run_dir, ("sparse",), resume=True)
        # The model inside is an archive with times: a byte more or less.
        sizes = {"bytes": whole.bytes}
        sizes["compressed_bytes"] = whole.compressed_bytes
        assert dataclasses.replace(again, **sizes) == whole
        assert file.is_file()
    # Without being asked to resume, all are made.
    after = file.stat().st_mtime_ns
    export_run(run_dir, ("sparse",))
    assert file.stat().st_mtime_ns > after > before


def test_the_run_page_shows_the_exports(run_dir):
    report = export_run(run_dir, ("sparse",))[0]
    page = (run_dir / "report.html").read_text()
    assert "<h2>Exports</h2>" in page
    assert f"{report.bytes:,}" in page


def test_dead_channels_are_cut_on_request(run_dir, tmp_path):
    path = tmp_path / "small.sparse"
    main([str(run_dir), "--format=sparse", "--shrink", f"--output={path}"])
    assert export.load_sparse(path).layers[0].units == 10
    options = ["--shrink", "--multiple_of=8", f"--output={path}"]
    main([str(run_dir), "--format=sparse", *options])
    assert export.load_sparse(path).layers[0].units == 16


def test_several_formats_go_to_one_folder(run_dir, tmp_path, monkeypatch):
    asked = []
    replace_format(
        monkeypatch,
        "saved_model",
        lambda model, path, data: asked.append(path),
    )
    source = run_dir / "model.keras"
    export_run(source, ("sparse", "saved_model"), output=tmp_path / "out")
    assert asked == [tmp_path / "out" / "model_saved_model"]
    assert (tmp_path / "out" / "model.sparse").is_file()


def test_a_format_is_one_row(run_dir, monkeypatch):
    def export_words(model, path, quantize=None):
        path.write_text(model.name)
        return quantize

    monkeypatch.setitem(FORMATS, "words", Format(".txt", export_words))
    options = ["--format=words", "--format=sparse", "--quantize=float16"]
    assert main([str(run_dir), *options]) == 0
    names = [path.name for path in (run_dir / "exports").iterdir()]
    assert "model_float16.txt" in names and "model.sparse" in names


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("tflite", "litert"),
        (".tflite", "litert"),
        ("TFLite", "litert"),
        ("savedmodel", "saved_model"),
        ("saved-model", "saved_model"),
        ("tf", "saved_model"),
        ("ONNX", "onnx"),
        (".sparse", "sparse"),
    ],
)
@pytest.mark.backend_free
def test_formats_are_known_by_what_people_call_them(written, name):
    assert formats.named(written) == name


def test_options_reach_the_format_that_takes_them(
    run_dir, tmp_path, monkeypatch
):
    seen = []

    def export_it(model, path, data=None, quantize=None, **more):
        seen.append((path.name, more))

    names = ("target", "baseline", "evaluate", "io_dtype", "dense_twin")
    known = inspect.signature(export_it).parameters.values()
    parameters = [*known][:-1] + [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in names
    ]
    export_it.__signature__ = inspect.Signature(parameters)
    replace_format(monkeypatch, "litert", export_it)
    x, y = np.ones((3, 12)), np.arange(3)
    np.savez(tmp_path / "arrays.npz", x=x, y=y)
    np.savez(tmp_path / "held_out.npz", x=x, y=y, x_val=2 * x, y_val=y)
    options = ["--target=micro", "--baseline=b.tflite", "--dense_twin"]
    options += ["--quantize=int8", "--io_dtype=int8"]
    main([str(run_dir), *options, f"--evaluate={tmp_path / 'arrays.npz'}"])
    name, more = seen[-1]
    found = more.pop("evaluate")
    np.testing.assert_array_equal(found[0], x)
    np.testing.assert_array_equal(found[1], y)
    assert name == "model_int8_micro.tflite"
    assert more == {
        "target": "micro",
        "baseline": "b.tflite",
        "io_dtype": "int8",
        "dense_twin": True,
    }
    main([str(run_dir), f"--evaluate={tmp_path / 'held_out.npz'}"])
    np.testing.assert_array_equal(seen[-1][1]["evaluate"][0], 2 * x)
    main([str(run_dir), "--evaluate=fashion_mnist_mini"])
    images, labels = seen[-1][1]["evaluate"]
    assert images.shape[1:] == (28, 28, 1) and 0.5 < images.max() <= 1.0
    assert labels.shape == images.shape[:1]


def test_a_misspelt_option_is_named(run_dir):
    with pytest.raises(ValueError, match="`quantise`.*Did you mean quantize"):
        export_run(run_dir, quantise="int8")


def test_samples_come_from_a_file_or_the_data_of_the_run(
    run_dir, tmp_path, monkeypatch
):
    seen = []
    replace_format(
        monkeypatch,
        "litert",
        lambda model, path, data, **rest: seen.append(data),
    )
    np.save(tmp_path / "x.npy", np.full((2, 12), 7.0))
    main([str(run_dir), f"--data={tmp_path / 'x.npy'}"])
    np.testing.assert_array_equal(seen[-1], np.full((2, 12), 7.0))
    main([str(run_dir)])  # its data are arrays that nobody kept
    assert seen[-1] is None
    main([str(run_dir), "--data=fashion_mnist_mini"])
    assert seen[-1].shape == (200, 28, 28, 1)
    assert 0.5 < seen[-1].max() <= 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "run folder with a model.keras.*nowhere"),
        (["RUN", "--format=h5"], "'h5'. Did you mean sparse"),
        (["RUN", "--format=onx"], "'onx'. Did you mean onnx"),
        (["RUN", "--target=phone"], "invalid choice: 'phone'"),
        (["RUN", "--format=sparse", "--target=gpu"], "takes it, litert"),
        (["RUN", "--baseline=none.tflite"], "file that exists.*none.tflite"),
        (["RUN", "--evaluate=none.npz"], "none.npz"),
        (["RUN", "--data=text.npz"], "text.npz does not load"),
        (["RUN", "--data=other.npz"], "other.npz must hold x. Received: z"),
        (["RUN", "--io_dtype=int8"], "`quantize` must be 'int8' with io_dt"),
        (["RUN", "--target=gpu", "--sparse=true"], "refuses sparse tensors"),
        (["RUN", "--data=nothing_known"], "nothing_known"),
        (["RUN", "--data=none.npy"], "none.npy"),
        (["RUN", "--quantize=int8"], "`data` must hold sample inputs"),
        (["RUN", "--quantize=dynamic", "--sparse=true"], "Use 'int8'"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    run_dir, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.npz").write_text("no arrays")
    np.savez("other.npz", z=np.ones(3))
    arguments = [str(run_dir) if x == "RUN" else x for x in arguments]
    with pytest.raises(cli.UsageError, match=message) as caught:
        main(arguments)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_model_is_named(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"nothing")
    with pytest.raises(cli.UsageError, match="model.keras does not load"):
        main([str(path)])


def test_a_run_ends_with_its_exports(run_dir):
    summary = {"missed": ["a target"]}

    class Told:
        def run(self, run_dir, resume, on_start):
            return summary

    def fails(folder, resume):
        raise ValueError("not this one")

    found = train.run(Told(), run_dir, False, None, export=fails)
    assert found["missed"] == ["a target", "export: not this one"]

    def exports(folder, resume):
        return export_run(folder, ("sparse",), resume=resume)

    file = run_dir / "exports" / "model.sparse"
    found = train.run(Told(), run_dir, False, None, export=exports)
    assert found == summary
    before = file.stat().st_mtime_ns
    assert train.run(Told(), run_dir, True, None, export=exports) == summary
    assert file.stat().st_mtime_ns == before
