"""SIGTERM at every kind of moment: the run ends soon, and resumes exactly.

What happens between batches and in Python depends on no backend; what native
code does, there is once for each.
"""

import json
import subprocess
import sys

import pytest

from tests.faults.moments import GRACE_SECONDS
from tests.faults.moments import MOMENTS
from tests.helpers import BACKEND
from tests.helpers import ROOT

COMPILED = ["a step is compiled", "validation"]
HERE = list(MOMENTS) if BACKEND == "torch" else COMPILED


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moments")
    # A process of its own: this one has threads, and cannot be forked.
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.moments", str(folder), *HERE],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("moment", HERE)
def test_sigterm_ends_the_run_within_seconds(found, moment):
    end = found["moments"][moment]
    assert end["status"] == 75, end
    # A busy machine takes the most of it. Schedulers wait for 30; without the
    # signal no native code here would ever end.
    assert end["seconds"] < 2 * GRACE_SECONDS + 20
    assert "stopped by SIGTERM" in end["said"][-1]


def test_a_run_that_was_stopped_again_and_again_ends_with_the_same_bits(found):
    assert found["differences"] == []
