"""What SIGTERM leaves behind, and what is made of errors after it."""

import subprocess
import sys

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.backend_free

# In a process of its own, whose main thread is sure to run it.
PROGRAM = """
import os, signal, threading
from keras_app.experiments.run import interruption

os.environ[interruption.GRACE] = "1000"
asked = lambda: os.kill(os.getpid(), signal.SIGTERM)
before = signal.getsignal(signal.SIGTERM)
threads = threading.active_count()

def said():
    raise OSError("the store does not answer")

try:
    with interruption.noticing_sigterm(last_words=said):
        asked()
        raise RuntimeError("a worker was killed")
except interruption.Interrupted as error:
    print(repr(error.__cause__))
assert signal.getsignal(signal.SIGTERM) == before
assert threading.active_count() == threads
assert signal.set_wakeup_fd(-1) == -1

try:
    with interruption.noticing_sigterm(last_words=said):
        raise RuntimeError("of its own")
except RuntimeError as error:
    print(repr(error), flush=True)

os.environ[interruption.GRACE] = "0"
with interruption.noticing_sigterm(last_words=said):
    asked()
    threading.Event().wait()
"""


@pytest.fixture(scope="module")
def ended():
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_an_error_after_sigterm_is_an_interruption_and_no_other_is(ended):
    assert ended.stdout.splitlines() == [
        "RuntimeError('a worker was killed')",
        "RuntimeError('of its own')",
    ], ended.stderr


def test_the_process_ends_even_if_nothing_can_be_said(ended):
    assert ended.returncode == 75, ended.stderr
