"""What a person sees while a run goes on, in a terminal and in a file."""

import functools
import io

import pytest
from rich.console import Console

from keras_app.experiments.run import progress

pytestmark = pytest.mark.backend_free


def written(monkeypatch, is_terminal, verbose=True, seconds=0.0):
    """What is written while four layers are timed, before ten epochs."""
    file, now = io.StringIO(), [0.0]
    console = functools.partial(
        Console,
        file=file,
        force_terminal=is_terminal,
        width=80,
        get_time=lambda: now[0],
    )
    monkeypatch.setattr(progress, "Console", console)
    terminal = progress.Terminal(verbose)
    with terminal.bar(10):
        for done in range(5):
            terminal.part("timings of layers", done, 4)
            now[0] += seconds
        terminal.advance("training")
    return file.getvalue()


def test_a_terminal_shows_how_far_a_part_is_and_keeps_a_line_of_it(monkeypatch):
    text = written(monkeypatch, is_terminal=True)
    for done in range(4):
        assert f"{done}/4" in text
    before, line, after = text.rpartition("timings of layers: 4")
    assert "0/10" in before  # the bar of the epochs
    # The row has gone.
    assert line and "timings of layers" not in after


def test_the_time_that_is_left_is_shown_once_it_is_known(monkeypatch):
    text = written(monkeypatch, is_terminal=True, seconds=20.0)
    first, _, last = text.partition("1/4")
    # Two of four, of 20 seconds each, are left.
    assert "0:00:40" not in first and "0:00:40" in last


def test_a_file_gets_one_line_without_control_characters(monkeypatch):
    [line] = written(monkeypatch, is_terminal=False).splitlines()
    assert line.endswith("timings of layers: 4")
    assert line.isprintable()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_nothing_is_shown_if_nothing_is_to_be(is_terminal, monkeypatch):
    assert written(monkeypatch, is_terminal, verbose=False) == ""
