"""The README's code runs as printed, and its commands are where CI looks."""

import pathlib
import re

import pytest

from keras_app.experiments import data

ROOT = pathlib.Path(__file__).parents[1]

# It runs on one backend, for the time that it takes.
pytestmark = pytest.mark.backend_free


def test_the_python_examples_run_as_pasted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    # A quarter of the images: what they teach is not what is tested.
    load = data.load_arrays
    monkeypatch.setattr(
        data,
        "load_arrays",
        lambda *name: tuple(part[::4] for part in load(*name)),
    )
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    told = capsys.readouterr().out
    # Not the time, which a busy machine changes.
    assert names["small"].model.count_params() < names["model"].count_params()
    assert (tmp_path / "small.tflite").exists() and "milliseconds" in told
    assert names["pruner"].report.sparsity > 0.899 and "conv3/kernel" in told
    assert (tmp_path / "sparse.keras").exists()
    dense = 4 * names["model"].count_params()
    assert (tmp_path / "model.sparse").stat().st_size < dense / 2


def test_what_one_writes_oneself_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 7
    names = {}
    for block in blocks:
        lines = [line for line in block.splitlines() if line.strip()]
        assert len(lines) <= 22
        exec(compile(block, "extending.md", "exec"), names)


def test_the_times_are_those_of_the_gin_files():
    text = (ROOT / "README.md").read_text()
    told = re.findall(r"--gin_file=(\w+\.gin) +# ([^:]+):", text)
    assert len(told) == text.count("python -m keras_app.train --gin_file") - 1
    told.append(("app.gin", "2 minutes"))
    assert "on two cores 2 minutes and" in text
    for name, time in told:
        header = (ROOT / "gin" / name).read_text()
        assert f"\n# Time: {time}.\n" in header
        assert "\n# Hardware: 2 CPU cores.\n" in header


def test_there_are_exactly_two_set_up_commands():
    text = (ROOT / "README.md").read_text()
    commands = [x for x in text.splitlines() if x.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert commands[0].endswith("keras_app.train --gin_file=app.gin")
    assert commands[1].endswith("-m tests")
