"""The short versions of `python -m tests.faults`."""

import json
import subprocess
import sys

import pytest

from tests.helpers import BACKEND
from tests.helpers import ROOT
from tests.methods import RUNS
from tests.methods import SEARCHES


def check(folder, names, kills, *more):
    # A process of its own: this one has threads, and cannot be forked.
    figures = folder / "faults.json"
    arguments = [f"--kills={kills}", f"--json={figures}"]
    arguments += [f"--backend={BACKEND}", *more, "--methods", *names]
    result = subprocess.run(
        [sys.executable, "-m", "tests.faults", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    rows = json.loads(figures.read_text())["methods"]
    assert [row["method"] for row in rows] == list(names)
    assert sum(row["kills"] for row in rows) == kills
    for row in rows:
        assert row["survived"] == row["kills"]
        assert row["largest_difference"] == 0.0


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_that_is_killed_ends_like_one_that_was_not(name, tmp_path):
    check(tmp_path, [name], kills=3)


# What a store does depends on no backend.
@pytest.mark.backend_free
def test_a_run_in_a_store_that_is_killed_ends_like_one_that_was_not(tmp_path):
    check(tmp_path, ["linbreg"], 3, "--s3")


@pytest.mark.slow
def test_killed_runs_end_like_those_that_were_not(tmp_path):
    check(tmp_path, list(RUNS), kills=2 * len(RUNS))
