"""The README's code runs as printed, and its commands are where CI looks."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# It runs on one backend, for the time that it takes.
pytestmark = pytest.mark.backend_free


def test_the_python_example_runs_as_pasted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "sparse.keras").exists()
    assert names["pruner"].report.sparsity > 0.899
    assert "conv3/kernel" in capsys.readouterr().out


def test_there_are_exactly_two_set_up_commands():
    text = (ROOT / "README.md").read_text()
    commands = [x for x in text.splitlines() if x.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert commands[0].endswith("keras_app.train --gin_file=app.gin")
    assert commands[1].endswith("-m tests")
