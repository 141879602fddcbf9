"""Benchmarks time in turns, store results, and fill the results pages."""

import argparse
import json
import math
import pathlib
import re
import sys

import pytest

from tests.methods import PRUNERS

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = sorted((ROOT / "docs" / "results").glob("*.md"))
PAGES = sorted((ROOT / "docs").rglob("*.md"))
DATA = ROOT / "docs" / "results" / "data"

pytestmark = pytest.mark.backend_free


@pytest.fixture
def shared(monkeypatch):
    """The two modules, found as the scripts beside them find them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import measure
    import results

    yield measure, results
    for name in ("measure", "results"):
        del sys.modules[name]


@pytest.fixture
def as_printed(shared):
    """Of benchmarks/pages.py."""
    import pages

    yield pages
    del sys.modules["pages"]


@pytest.fixture
def open_results(shared, tmp_path, monkeypatch):
    results = shared[1]
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks/toy.py"), "-a 1"])

    def open_results(folder=tmp_path, **settings):
        args = argparse.Namespace(results=folder, markdown=True, **settings)
        settings = [name for name in settings if name != "seeds"]
        return results.Results(args, "toy", ["numpy"], settings)

    return open_results


def rows_of(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def unreachable(*args):
    raise AssertionError("This was measured before.")


# ---- time ------------------------------------------------------------------


def test_calls_take_turns_and_the_first_of_a_round_changes(shared):
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    shared[0].in_turns(calls, 3, warm_up=False)
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]


def test_a_round_that_warms_up_is_not_in_the_figures(shared):
    figures = iter([9.0, 1.0, 2.0])
    calls = {"a": lambda: next(figures)}
    assert shared[0].in_turns(calls, 2) == {"a": [1.0, 2.0]}


def test_a_call_is_timed_by_the_clock_and_split_into_its_parts(shared):
    now = [100.0]

    def call():
        now[0] += 8.0

    measured = shared[0].timed(call, parts=4, clock=lambda: now[0])
    assert measured() == 2.0
    assert now == [108.0]


def test_ratios_are_taken_round_by_round(shared):
    seconds = {"ours": [1.0, 6.0], "base": [2.0, 3.0]}
    assert shared[0].ratios(seconds, "ours", "base") == [0.5, 2.0]


def test_figures_are_written_with_their_spread(shared):
    measure = shared[0]
    assert measure.spread([1.5, 1.0, 3.0], 2) == "1.50 (1.00-3.00)"
    assert measure.plus_minus([1.0, 3.0], 2) == "2.00 ± 1.41"
    assert measure.plus_minus([98.64], 1) == "98.6"
    assert measure.milliseconds([0.001, 0.0254, 0.9]) == "25.4"


@pytest.mark.parametrize(
    ("ratio", "controls", "words"),
    [
        (1.10, [0.98, 1.03], "met"),
        (1.17, [0.98, 1.03], "met beyond the control's spread only"),
        (1.30, [0.98, 1.03], "MISSED"),
        (1.00, [0.80, 1.03], "undecided"),
    ],
)
def test_a_ratio_is_judged_against_what_equal_twins_differ_by(
    shared, ratio, controls, words
):
    judged = shared[0].judge(ratio, controls, 1.15)
    assert judged.partition("<= 1.15: ")[2].startswith(words)


def test_a_worker_returns_what_it_writes_and_is_none_if_it_fails(
    shared, tmp_path, capsys
):
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "assert sys.argv[3:] == ['--rounds', '2'], 'other options'\n"
        "pathlib.Path(sys.argv[2]).write_text(os.environ['FOUND'])\n"
    )
    run_worker = shared[0].run_worker
    assert run_worker(script, {"rounds": 2}, FOUND="[7]") == [7]
    assert run_worker(script, {"rounds": 3}, FOUND="[7]") is None
    assert "The worker for rounds 3 ended with 1" in capsys.readouterr().err


# ---- results ---------------------------------------------------------------


def test_a_table_is_written_as_markdown(shared):
    text = shared[1].markdown(["method", "time"], [["dense", "1.00"]])
    assert text == "| method | time |\n| --- | --- |\n| dense | 1.00 |\n"


def test_what_is_stored_is_not_measured_again(open_results, tmp_path):
    open_results().measure("a", lambda x: {"seconds": [x]}, 0.5)
    stored = json.loads((tmp_path / "toy.json").read_text())
    assert stored["measured"]["a"]["seconds"] == [0.5]
    assert stored["measured"]["a"]["versions"].startswith("Python 3")
    assert stored["measured"]["a"]["hardware"]
    again = open_results()
    again.measure("a", unreachable)
    assert again.measured["a"]["seconds"] == [0.5]


def test_a_file_does_not_mix_figures_of_two_settings(open_results):
    open_results(rounds=3).measure("a", dict)
    open_results(rounds=1).measure("b", dict)
    with pytest.raises(SystemExit, match=r"Received: rounds 5 \(.*rounds 3\)"):
        open_results(rounds=5).measure("a", unreachable)


def test_processes_that_share_a_file_keep_each_others_measurements(
    open_results,
):
    first, second = open_results(), open_results()
    first.measure("a", dict)
    second.measure("b", dict)
    assert list(open_results().measured) == ["a", "b"]


def test_a_failed_measurement_is_not_stored(open_results, tmp_path, capsys):
    found = open_results()
    found.measure("a", lambda: None)
    found.finish({"times": (["x"], [])})
    assert not (tmp_path / "toy.json").exists()
    assert "Nothing was measured." in capsys.readouterr().out


def test_without_a_folder_nothing_is_written(open_results, tmp_path, capsys):
    found = open_results(folder=None)
    found.measure("a", lambda: {"seconds": 1.0})
    found.finish({"times": (["x"], [["1"]])})
    assert rows_of(capsys.readouterr().out) == ["| x |", "| --- |", "| 1 |"]
    assert list(tmp_path.iterdir()) == []


def test_rounded_figures_of_earlier_runs_give_way_to_a_measurement(
    open_results, tmp_path
):
    earlier = {"command": ["old"], "time": "an hour", "tables": {}}
    (tmp_path / "toy.json").write_text(json.dumps(earlier))
    found = open_results(seeds=[0, 1])
    found.measure("a", dict)
    found.finish({"times": (["x"], [["1"]])})
    stored = json.loads((tmp_path / "toy.json").read_text())
    assert stored["command"] == ["python benchmarks/toy.py '-a 1'"]
    assert stored["seeds"] == [0, 1]
    assert stored["tables"] == {"times": {"header": ["x"], "rows": [["1"]]}}
    assert "time" not in stored


def test_a_page_is_filled_between_its_markers_and_nowhere_else(
    open_results, shared, tmp_path
):
    found = open_results(seeds=[3, 4])
    found.measure("a", lambda: {"hardware": "a clock", "versions": "v1"})
    found.finish({"times": (["x"], [["1"]])})
    page = (
        "Before.\n\n<!-- table: toy/times -->\nstale\n<!-- end -->\n\n"
        "Between.\n\n<!-- measured: toy -->\n<!-- end -->\nAfter.\n"
    )
    filled = shared[1].fill(page, tmp_path)
    assert "stale" not in filled
    assert filled.startswith(
        "Before.\n\n<!-- table: toy/times -->\n\n| x |\n| --- |\n| 1 |\n\n"
        "<!-- end -->\n\nBetween.\n\n<!-- measured: toy -->\n\n"
        "    python benchmarks/toy.py '-a 1'\n\n"
        "- Hardware: a clock\n- Versions: v1\n"
    )
    assert filled.endswith("- Seeds: 3, 4\n\n<!-- end -->\nAfter.\n")
    assert shared[1].fill(filled, tmp_path) == filled


# ---- pages as printed ------------------------------------------------------

PAGE = """
```bash
pip install -e .
export WORD=here
python3 -c 'print(1 | 2)' \\
  > 3  # three
```

```python
import pathlib

told = pathlib.Path("3").read_text()
```

```python
import torch
```

```
not_run
```

```python
import os

pathlib.Path(os.environ["WORD"]).write_text(told)
```
"""


def test_a_page_runs_as_printed_from_its_top(as_printed, tmp_path, monkeypatch):
    (tmp_path / "page.md").write_text(PAGE)
    monkeypatch.setenv("WORD", "elsewhere")
    found = as_printed.run(tmp_path / "page.md", tmp_path / "work")
    assert (tmp_path / "work" / "here").read_text() == "3\n"
    names = [name for name, _ in found["steps"]]
    command = "`python3 -c 'print(1 \\| 2)' > 3`"
    assert names == [command, "snippet 1", "snippet 2"]
    found = {"steps": [["a", 59.4], ["b", 61.0]]}
    _, rows = as_printed.table({"stream": found, "README": found})
    told = ["a 59 s; b 1 min 1 s", "2 min 0 s"]
    assert rows == [
        ["README", *told],
        ["[stream](stream.md)", *told],
    ]


def test_a_page_that_fails_says_why(as_printed, tmp_path, capsys):
    (tmp_path / "page.md").write_text("```python\nnowhere\n```\n")
    assert as_printed.run(tmp_path / "page.md", tmp_path / "work") is None
    assert "NameError: name 'nowhere'" in capsys.readouterr().err


# ---- the pages -------------------------------------------------------------


def test_pages_hold_what_the_files_say(shared):
    for page in PAGES:
        text = page.read_text()
        filled = shared[1].fill(text, DATA)
        assert filled == text, f"{page}: python benchmarks/results.py"
        if page in RESULTS:
            # All tables are generated: none is written by hand.
            assert rows_of(shared[1].BLOCK.sub("", text)) == []


def test_every_stored_table_is_on_a_page_with_its_provenance(shared):
    pages = "\n".join(page.read_text() for page in PAGES)
    shown = set(re.findall(r"<!-- (\w+: [\w/]+) -->", pages))
    stored = set()
    for path in DATA.glob("*.json"):
        record = json.loads(path.read_text())
        stored.add(f"measured: {path.stem}")
        stored |= {f"table: {path.stem}/{name}" for name in record["tables"]}
        for table in record["tables"].values():
            widths = {len(row) for row in [table["header"], *table["rows"]]}
            assert len(widths) == 1, path.name
    assert shown == stored
    assert len(RESULTS) == 10


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "results.md").read_text()
    linked = re.findall(r"\]\(results/(\w+\.md)\)", index)
    assert sorted(linked) == [page.name for page in RESULTS]


def anchors(path):
    """What GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", h.lower()) for h in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = page.parent / file if file else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_pages_named_in_configurations_exist():
    named = set()
    for path in (ROOT / "gin").rglob("*.gin"):
        named |= set(re.findall(r"docs/[\w/]+\.md", path.read_text()))
    assert named
    assert all((ROOT / name).exists() for name in named)


# ---- methods ---------------------------------------------------------------


def test_every_pruner_of_the_catalogue_is_compared(shared):
    import compare_methods

    drawn = {
        PRUNERS[row.method].kind
        for row in compare_methods.METHODS.values()
        if hasattr(row, "method")
    }
    # A row of its own trains with it, on megabatches.
    drawn.add("AnytimeProgressivePruner")
    missing = {row.kind for row in PRUNERS.values()} - drawn
    assert not missing, f"compare_methods.py has no row of {sorted(missing)}."


@pytest.mark.parametrize("data,budget", [("fashion_mnist", 12), ("cifar10", 3)])
def test_every_method_has_the_same_tuning_budget(shared, data, budget):
    import tuned_methods

    for name, (file, grids) in tuned_methods.TASKS[data].methods.items():
        assert (ROOT / "benchmarks" / "protocols" / f"{file}.gin").exists()
        settings = sum(math.prod(map(len, grid.values())) for _, grid in grids)
        assert settings == budget, name
