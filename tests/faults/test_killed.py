"""The short version of `python -m tests.faults`."""

import json
import pathlib
import subprocess
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_killed_runs_end_like_those_that_were_not(tmp_path):
    # A process of its own: this one has threads, and cannot be forked.
    figures = tmp_path / "faults.json"
    arguments = ["--kills=14", f"--json={figures}"]
    arguments += [f"--backend={keras.backend.backend()}"]
    result = subprocess.run(
        [sys.executable, "-m", "tests.faults", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    rows = json.loads(figures.read_text())["methods"]
    assert len(rows) == 7
    assert sum(row["kills"] for row in rows) == 14
    for row in rows:
        assert row["survived"] == row["kills"]
        assert row["largest_difference"] == 0.0
