"""`python -m keras_app.compress`: arguments, exit statuses, the page."""

import json
import re

import keras
import numpy as np
import pytest

from keras_app import cli
from keras_app.compress import main
from keras_app.experiments.compress import learner as learner_lib
from keras_app.experiments.compress import measured
from keras_app.experiments.page import write_page
from tests.pages import plain
from tests.test_compress import network
from tests.test_compress import once
from tests.test_compress import trained
from tests.test_compress import VALIDATION
from tests.test_compress import X
from tests.test_compress import Y

FIGURES = {
    "accuracy": 0.5,
    "loss": 1.0,
    "bytes": 1000,
    "ram_bytes": 100,
    "flops": 1000,
    "parameters": 5,
    "milliseconds": 2.0,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, one without a loss, and arrays."""
    folder = tmp_path_factory.mktemp("door")
    trained().save(folder / "model.keras")
    network().save(folder / "lossless.keras")
    x, y = VALIDATION
    np.savez(folder / "arrays.npz", x=X, y=Y, x_val=x, y_val=y)
    return folder


@pytest.fixture
def no_files(monkeypatch):
    """Files take no time to make: a quarter of the FLOPs is reached."""

    def close(learner, folder):
        learner.dense = FIGURES
        learner.reached = {
            **FIGURES,
            "flops": 250,
            "milliseconds": 0.5,
            "accuracy": 0.48,
        }
        learner.front = [
            {"name": "dense", "accuracy": 0.5, "milliseconds": 2.0},
            {"name": "pruned", "accuracy": 0.4, "milliseconds": 0.5},
            {"name": "compressed", "accuracy": 0.48, "milliseconds": 0.5},
        ]
        learner.decisions[-1].layers.append(["stem", 1.5, 0.25])
        report = learner.experiment.report(learner)
        return [] if report.is_reached else ["so much was asked"]

    monkeypatch.setattr(measured, "of_dense", lambda learner: FIGURES)
    monkeypatch.setattr(learner_lib.Compressing, "close", close)


def arguments(place, *more, model="model.keras", target="flops:0.5"):
    return [
        str(place / model),
        f"--data={place / 'arrays.npz'}",
        f"--target={target}",
        "--epochs=2",
        *more,
    ]


@pytest.mark.usefixtures("no_files")
def test_the_command_compresses_and_shows_it(place, tmp_path, capsys):
    folder = tmp_path / "run"
    given = arguments(place, f"--run_dir={folder}")
    assert main(given) == 0
    out = capsys.readouterr().out
    assert "asked flops:0.5, reached: 0.25 (LiteRT, float32)" in out
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["data"] == "arrays.npz"
    assert summary["test_examples"] == 50
    model = keras.saving.load_model(folder / "model.keras")
    assert model.count_params() < network().count_params()
    # A finished run says so.
    assert main([*given, "--resume"]) == 0
    assert "finished already" in capsys.readouterr().out
    page = plain((folder / "report.html").read_text())
    for words in (
        "Compression on arrays.npz",
        "The target flops:0.5 was reached: 0.25.",
        "25.0 % of the time",
        "right on 48.0 % of 50 validation examples",
        "Accuracy over time",
        "Where the milliseconds went",
        "Widths of the layers",
    ):
        assert words in page, words
    written = (folder / "report.html").read_text()
    assert "dense 50.0 % in 2.000 ms; pruned 40.0 % in 0.500 ms" in written
    assert "milliseconds of each layer: stem 1.500 to 0.250" in written
    # Beside another run it is one of several.
    both = write_page([folder, folder.parent / "run"], tmp_path / "both.html")
    assert re.search("was reached", both.read_text())


@once
@pytest.mark.usefixtures("no_files")
def test_a_missed_target_ends_with_three(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(FIGURES, "flops", 300)
    folder = tmp_path / "run"
    assert main(arguments(place, f"--run_dir={folder}")) == 3
    assert "missed: so much was asked" in capsys.readouterr().err
    assert json.loads((folder / "summary.json").read_text())["missed"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"target": "half"}, "`target` must be one of"),
        ({"target": "flops:0.001"}, "the nearest that can is 'flops:0."),
        ({"model": "lossless.keras"}, "`loss` must be given"),
        ({"model": "none.keras"}, "must be a .keras file"),
        ({"model": "arrays.npz"}, "does not load"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(
    place, tmp_path, change, words
):
    folder = tmp_path / "run"
    with pytest.raises(cli.UsageError) as error:
        main(arguments(place, f"--run_dir={folder}", **change))
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not folder.exists()
