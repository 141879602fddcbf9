"""The short versions of `python -m tests.faults`."""

import json
import subprocess
import sys

import pytest

from tests.helpers import BACKEND
from tests.helpers import ROOT
from tests.methods import RUNS
from tests.methods import SEARCHES


def killed(folder, names, kills, *more):
    """Kills runs of some methods, in all so often; what came of each."""
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
    assert figures.exists(), result.stdout + result.stderr
    rows = json.loads(figures.read_text())["methods"]
    assert [row["method"] for row in rows] == list(names)
    fine = all(row["survived"] == row["kills"] for row in rows)
    assert fine == (result.returncode == 0), result.stdout + result.stderr
    return {row["method"]: row for row in rows}


def check(row, kills):
    assert row["kills"] == row["survived"] == kills, row["differences"]
    assert row["largest_difference"] == 0.0


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    # One process for all: to import what they need takes longer than a run.
    folder = tmp_path_factory.mktemp("searches")
    return killed(folder, SEARCHES, 3 * len(SEARCHES))


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_that_is_killed_ends_like_one_that_was_not(name, searches):
    check(searches[name], 3)


# What a store does depends on no backend.
@pytest.mark.backend_free
def test_a_run_in_a_store_that_is_killed_ends_like_one_that_was_not(tmp_path):
    check(killed(tmp_path, ["linbreg"], 3, "--s3")["linbreg"], 3)


@pytest.mark.slow
def test_killed_runs_end_like_those_that_were_not(tmp_path):
    for row in killed(tmp_path, RUNS, 2 * len(RUNS)).values():
        check(row, 2)
