"""What a newcomer sees first: names, help, and the console command."""

import dataclasses
import os
import runpy
import subprocess
import sys

import pytest

import keras_app as ka
from keras_app.__main__ import COMMANDS
from keras_app.__main__ import main

pytestmark = pytest.mark.backend_free


def test_tab_completion_shows_the_public_names_and_nothing_else():
    assert set(dir(ka)) == set(ka.__all__)
    assert not {"cli", "host", "checks", "importlib"} & set(dir(ka))
    for name in dir(ka):
        assert getattr(ka, name) is not None
        # Whoever looks for help finds the name in it.
        assert name in ka.__doc__ or name.startswith("__") or name in RARE


# Public and in their own documentation.
RARE = {"layers", "masks_of"}


@pytest.mark.parametrize("name", ["Anytime", "Train", "Lottery", "Compress"])
def test_what_the_summary_calls_an_experiment_is_no_argument(name):
    """As a field it would be what the base says, in every child."""
    experiment = getattr(ka.experiments, name)
    assert "kind" not in {f.name for f in dataclasses.fields(experiment)}
    assert experiment.kind == name.lower()


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "keras_app", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )


@pytest.mark.parametrize(
    "arguments, status, words",
    [
        ((), 2, "usage: keras-app COMMAND"),
        (("trian",), 2, "Received: trian. Did you mean train?"),
        (("report",), 2, "RUN_DIR"),
        (("sweep", "--help"), 0, "--grid"),
    ],
)
def test_the_commands_are_those_of_the_modules(arguments, status, words):
    done = run(*arguments)
    assert done.returncode == status
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if arguments and status == 2:
        assert len(done.stderr.splitlines()) == 1


def test_a_command_finds_modules_of_the_folder_it_is_called_in(
    tmp_path, monkeypatch
):
    # A script has its own folder on the path, in place of this one.
    monkeypatch.setattr(sys, "path", ["/usr/bin", *sys.path[1:]])
    monkeypatch.setattr(sys, "argv", ["keras-app", "train", "--list"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runpy, "run_module", lambda name, **kwargs: None)
    main()
    assert sys.path[0] == str(tmp_path)
    assert sys.argv == ["train", "--list"]


def test_every_command_is_listed_once():
    assert list(COMMANDS) == [
        "train",
        "compress",
        "prune",
        "export",
        "report",
        "sweep",
    ]
