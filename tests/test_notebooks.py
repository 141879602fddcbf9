"""The notebooks in examples/ run from the first cell to the last."""

import json
import pathlib
import re

import pytest
from keras import ops
from matplotlib import pyplot

FOLDER = pathlib.Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))

# They run on one backend, for the time that they take.
pytestmark = pytest.mark.backend_free


def cells(name):
    """Code of the cells, with as few epochs as there may be."""
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            yield re.sub(
                r"^(EPOCHS|COMPRESSING|RECOVERING) = \d+",
                r"\1 = 2",
                "".join(cell["source"]),
                flags=re.MULTILINE,
            )


def ran(name, tmp_path, monkeypatch):
    """The names that a notebook leaves behind."""
    monkeypatch.chdir(tmp_path)
    pyplot.switch_backend("agg")
    names = {}
    for number, code in enumerate(cells(name)):
        exec(compile(code, f"{name}, cell {number}", "exec"), names)
    pyplot.close("all")
    return names


def test_all_are_known():
    assert NOTEBOOKS == [
        "adabreg_from_scratch",
        "come_from_tfmot",
        "lora_2_4_kerashub",
        "make_a_cnn_twice_as_fast",
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_outputs_are_stored_and_none_is_an_error(name):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    found = [
        output
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
    ]
    assert found and all(each["output_type"] != "error" for each in found)


@pytest.mark.slow  # the README's own code, which is tested, does the same
def test_a_cnn_twice_as_fast(tmp_path, monkeypatch):
    names = ran("make_a_cnn_twice_as_fast", tmp_path, monkeypatch)
    small, model = names["small"].model, names["model"]
    assert small.count_params() < model.count_params()
    assert (tmp_path / "tiny.tflite").stat().st_size < 4 * small.count_params()


def test_adabreg_from_scratch(tmp_path, monkeypatch):
    pytest.importorskip("IPython", reason="shows a picture")
    names = ran("adabreg_from_scratch", tmp_path, monkeypatch)
    for pruner in (names["pruner"], names["magnitude"]):
        assert pruner.report.sparsity == pytest.approx(0.95, abs=1e-4)
    assert (tmp_path / "density.png").exists()


def test_coming_from_tfmot(tmp_path, monkeypatch):
    names = ran("come_from_tfmot", tmp_path, monkeypatch)
    assert names["stripped"].count_params() == names["native"].count_params()
    assert names["pruner"].report.sparsity == pytest.approx(0.8, abs=5e-3)
    assert (tmp_path / "native.tflite").exists()


def test_lora_keeps_two_of_four(tmp_path, monkeypatch):
    pytest.importorskip("keras_hub", reason="the extra `hub`")
    names = ran("lora_2_4_kerashub", tmp_path, monkeypatch)
    kernel = names["merged"].get_layer("transformer_layer_0")
    kernel = kernel._feedforward_intermediate_dense.kernel
    kept = ops.convert_to_numpy(kernel) != 0
    groups = kept.reshape(4, 4, -1).sum(axis=1)
    assert groups.max() == 2
    assert (tmp_path / "bert.sparse").exists()
