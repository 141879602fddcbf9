"""Tests of the run page: literal numbers in, the same numbers on the page."""

import html
import json
import re
import runpy
import sys

import pytest

from keras_app.experiments.page import page as page_module
from keras_app.experiments.page import write_page
from tests.pages import a_full_run
from tests.pages import a_megabatch
from tests.pages import a_run
from tests.pages import a_summary
from tests.pages import an_epoch
from tests.pages import conclusion
from tests.pages import figures
from tests.pages import page_of
from tests.pages import plain
from tests.pages import row
from tests.pages import table

pytestmark = pytest.mark.backend_free


# ---- one file --------------------------------------------------------------


def test_page_holds_every_figure_and_asks_for_nothing_from_outside(tmp_path):
    folder = a_full_run(tmp_path / "run")
    path = write_page([folder])
    assert path == folder / "report.html"
    written = path.read_text()
    sources = re.findall(r"""(?:src|href|data|action)=["']([^"']*)""", written)
    # 7 over the megabatches, 1 map of layers, accuracy and loss per method.
    assert len(sources) == written.count("<img") == 7 + 1 + 2 + 2
    assert all(s.startswith("data:image/svg+xml;base64,") for s in sources)
    for outside in ("http:", "https:", "<script", "<link", "@import", "url("):
        assert outside not in written
    alts = re.findall(r'<img [^>]*alt="([^"]*)"', written)
    assert len(alts) == 12 and all(len(alt) > 20 for alt in alts)
    assert "APP from 60.0 to 70.0" in alts[0]


def test_same_run_gives_the_same_bytes(tmp_path):
    folder = a_full_run(tmp_path / "run")
    first = write_page([folder], tmp_path / "a.html").read_bytes()
    assert write_page([folder], tmp_path / "b.html").read_bytes() == first


def test_failed_page_leaves_the_old_one_and_no_other_file(
    tmp_path, monkeypatch
):
    folder = a_run(tmp_path / "run", a_summary({"dense": figures(0.5, 9)}))
    write_page([folder])
    before = (folder / "report.html").read_bytes()

    def full_disk(source, target):
        raise OSError("no space left")

    monkeypatch.setattr(page_module.os, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_page([folder])
    assert (folder / "report.html").read_bytes() == before
    names = {path.name for path in folder.iterdir()}
    assert names == {"summary.json", "report.html"}


def test_given_summaries_need_no_summary_file(tmp_path):
    folder = a_run(tmp_path / "run")
    summary = a_summary({"dense": figures(0.625, 9)})
    written = write_page(folder, summaries=[summary]).read_text()
    assert row(written, "Test accuracy") == ["62.5 %"]
    assert "unfinished" not in written


# ---- numbers ---------------------------------------------------------------


def test_table_shows_the_summarys_numbers_and_differences_to_dense(tmp_path):
    app = figures(
        0.625,
        1382,
        0.3663733609385783,
        density_all=0.3893923,
        mean_error_rate=0.46066667,
        generalization_gap=-6.6049,
        generalization_gap_best=1.25,
        mean_generalization_gap=0.04,
        cumulative_kept_parameters=42216,
        cumulative_training_examples=6480,
        cumulative_forward_flops=7122401280,
        cumulative_forward_flops_sparse=3937252320.0,
    )
    dense = figures(
        0.633,
        1371,
        density_all=1.0,
        mean_error_rate=0.457,
        generalization_gap=-5.8025,
        generalization_gap_best=-5.8025,
        mean_generalization_gap=-7.428,
        cumulative_kept_parameters=72174,
        cumulative_training_examples=6480,
        cumulative_forward_flops=7122401280,
        cumulative_forward_flops_sparse=7122401280.0,
    )
    written = page_of(tmp_path, {"app": app, "dense": dense})
    assert table(written)["head"] == ["", "APP", "dense"]
    expected = {
        "Test accuracy": ["62.5 % −0.8", "63.3 %"],
        "CER": ["1,382 +11", "1,371"],
        "Mean error rate": ["46.1 % +0.4", "45.7 %"],
        "Gap, last": ["−6.6 −0.8", "−5.8"],
        "Gap, best": ["1.2 +7.1", "−5.8"],
        "Gap, mean": ["0.0 +7.5", "−7.4"],
        "Sparsity, prunable": ["63.4 %", "0.0 %"],
        "Sparsity, whole model": ["61.1 %", "0.0 %"],
        "Kept parameters": ["42,216 58.5 % of dense", "72,174"],
        "Training examples": ["6,480 100.0 % of dense", "6,480"],
        "Forward FLOPs in": ["7.12 G 100.0 % of dense", "7.12 G"],
        "Forward FLOPs, kept": ["3.94 G 55.3 % of dense", "7.12 G"],
    }
    assert {name: row(written, name) for name in expected} == expected
    # 3937252320 / 7122401280 = 0.5528
    assert "relative to dense: APP 55.3 %." in conclusion(written)[0]
    # The dense network wins all three: 2nd cell of each is marked.
    assert written.count('<td class="best">') == 3


def test_header_says_what_was_run(tmp_path):
    written = page_of(
        tmp_path,
        {"app": figures(0.5, 10, 0.366), "dense": figures(0.5, 10)},
        target_density=0.36636,
        test_examples=1000,
        seed=7,
    )
    assert (
        "APP and dense on tiny, model convnet: 2 megabatches of 2 epochs each, "
        "level 4.5 (target density 36.6 %), 1,000 test examples, seed 7, "
        "75 seconds."
    ) in plain(written)
    assert "jax backend · keras 3.15.1 · jax 0.10.2" in plain(written)


def test_figures_that_are_not_numbers_show_as_a_dash(tmp_path):
    written = page_of(
        tmp_path,
        {"app": figures(float("nan"), 10, 0.5), "dense": figures(0.5, None)},
    )
    assert row(written, "Test accuracy") == ["–", "50.0 %"]
    assert row(written, "CER") == ["10", "–"]


# ---- words -----------------------------------------------------------------


@pytest.mark.parametrize(
    "ours, other, theirs, start, best",
    [
        pytest.param(
            figures(0.820, 130, 0.366),
            "dense",
            figures(0.833, 118),
            "APP ends 1.3 points below the dense network (82.0 % against "
            "83.3 %) with 36.6 % of the prunable weights; its CER is worse, "
            "higher by 12 (130 against 118).",
            "Highest final accuracy: dense (83.3 %). Lowest CER: dense",
            id="worse",
        ),
        pytest.param(
            figures(0.833, 118, 0.366),
            "one_shot",
            figures(0.820, 130, 0.366),
            "APP ends 1.3 points above one-shot pruning (83.3 % against "
            "82.0 %) at the same density of 36.6 %; its CER is better, lower "
            "by 12 (118 against 130).",
            "Highest final accuracy: APP (83.3 %). Lowest CER: APP",
            id="better",
        ),
        pytest.param(
            figures(0.80, 118, 0.2),
            "one_shot",
            figures(0.82, 130, 0.4),
            "APP ends 2.0 points below one-shot pruning (80.0 % against "
            "82.0 %) with 20.0 % of the prunable weights against 40.0 %; its "
            "CER is better, lower by 12 (118 against 130).",
            "accuracy: one-shot (82.0 %). Lowest CER: APP (118).",
            id="less accurate with the better CER",
        ),
        pytest.param(
            figures(0.75, 40, 0.5),
            "dense",
            figures(0.75, 40),
            "APP ends level with the dense network (75.0 % against 75.0 %) "
            "with 50.0 % of the prunable weights; its CER is the same (40 "
            "against 40).",
            "Highest final accuracy: APP and dense (75.0 %).",
            id="a draw",
        ),
    ],
)
def test_conclusion_says_how_app_ends(
    tmp_path, ours, other, theirs, start, best
):
    (text,) = conclusion(page_of(tmp_path, {"app": ours, other: theirs}))
    assert text.startswith(start)
    assert best in text


def test_dense_as_the_main_method_is_still_what_others_are_held_to(tmp_path):
    dense, app = figures(0.833, 118), figures(0.820, 130, 0.366)
    (text,) = conclusion(page_of(tmp_path, {"dense": dense, "app": app}))
    assert text.startswith("APP ends 1.3 points below the dense network")


@pytest.mark.parametrize(
    "ours, ending",
    [
        (0.86, "can be chance; the difference to the dense network is that"),
        (0.70, "can be chance."),
    ],
)
def test_conclusion_warns_of_chance(tmp_path, ours, ending):
    methods = {"app": figures(ours, 1, 0.5), "dense": figures(0.94, 1)}
    (text,) = conclusion(page_of(tmp_path, methods, test_examples=100))
    # 2 sqrt(2 0.9 0.1 / 100) = 0.0849; 2 sqrt(2 0.82 0.18 / 100) = 0.1087
    limit = {0.86: "8.5", 0.70: "10.9"}[ours]
    assert f"below about {limit} points {ending}" in text


def test_missed_targets_stand_before_the_results(tmp_path):
    written = page_of(
        tmp_path,
        {"app": figures(0.8, 1, 0.9)},
        missed=["app: asked for <0.5>, got 0.1"],
    )
    assert "app: asked for &lt;0.5&gt;, got 0.1" in written
    assert written.index("missed its target") < written.index("<h2>")
    assert 'role="alert"' in written


# ---- unfinished runs -------------------------------------------------------


def test_unfinished_run_is_shown_from_its_log_and_marked(tmp_path):
    folder = a_run(
        tmp_path / "going",
        events=[
            an_epoch("app", 0, 0),
            a_megabatch("app", 0, 45, 0.8),
            an_epoch("app", 1, 0),
            a_megabatch("app", 1, 25, 0.5),
            an_epoch("dense", 0, 0),
        ],
    )
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"event": "epoch", "meth')
    written = write_page([folder]).read_text()
    assert "going is unfinished" in written
    assert "3 epochs (APP 2 megabatches, dense 0 megabatches)" in written
    assert row(written, "Test accuracy") == ["75.0 %"]
    assert row(written, "CER") == ["70"]
    assert row(written, "Sparsity, prunable") == ["50.0 %"]
    assert row(written, "Forward FLOPs, kept") == ["2.00 G"]
    (text,) = conclusion(written)
    assert text == (
        "Unfinished: 3 epochs (APP 2 megabatches, dense 0 megabatches) so far. "
        "APP: 75.0 % test accuracy; 50.0 % of the prunable weights and 50.0 % "
        "of the whole model zero (1,000 of 2,000). Dense: 40.0 % validation "
        "accuracy."
    )


def test_unfinished_methods_are_not_compared_to_dense(tmp_path):
    folder = a_run(
        tmp_path / "going",
        events=[
            a_megabatch("dense", 0, 45, 1.0),
            a_megabatch("dense", 1, 35, 1.0),
            a_megabatch("app", 0, 40, 0.8),
        ],
    )
    written = write_page([folder]).read_text()
    assert row(written, "CER") == ["80", "40"]
    assert 'class="best"' not in written


def test_run_that_has_only_begun_gets_a_page(tmp_path):
    folder = a_run(tmp_path / "going")
    (folder / "metrics.jsonl").touch()
    assert "going is unfinished" in write_page([folder]).read_text()


# ---- hostile input ---------------------------------------------------------


def test_names_from_outside_cannot_become_markup(tmp_path):
    evil = '<img src=x onerror="alert(1)">$\\frac{$'
    folders = [a_full_run(tmp_path / f"{evil}{i}") for i in range(2)]
    method = "<b onload=x>$_{$"
    summaries = [
        a_summary(
            {
                method: json.loads((f / "summary.json").read_text())["methods"][
                    m
                ]
            },
            data="</style><script>alert(2)</script>",
            model="'\"><i>",
            missed=["<u>"],
            seed=i,
        )
        for i, (f, m) in enumerate(zip(folders, ("app", "dense")))
    ]
    written = write_page(folders, summaries=summaries).read_text()
    for markup in ("<img src=x", "<script", "<b onload", "<i>", "<u>"):
        assert markup not in written
    assert written.count("</style>") == 1
    assert evil in html.unescape(written)


def test_arguments_that_make_no_page_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"at least one .*run_dirs=\[\]"):
        write_page([])
    folder = a_run(tmp_path / "run", a_summary({"dense": figures(0.5, 9)}))
    with pytest.raises(ValueError, match="2 summaries for 1 folders"):
        write_page([folder], summaries=[{}, {}])
    with pytest.raises(ValueError, match="none is no run folder: it holds"):
        write_page([folder, tmp_path / "none"])
    (folder / "summary.json").write_text('{"accuracy": ')
    with pytest.raises(ValueError, match="summary.json cannot be read"):
        write_page([folder])


# ---- command line ----------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command: `(exit status, stdout, stderr)`."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments)])
        monkeypatch.delitem(
            sys.modules, "keras_app.report.__main__", raising=False
        )
        with pytest.raises(SystemExit) as caught:
            runpy.run_module("keras_app.report", run_name="__main__")
        return (caught.value.code, *capsys.readouterr())

    return run


def test_command_writes_the_page_and_prints_where(tmp_path, command):
    folder = a_run(tmp_path / "run", a_summary({"dense": figures(0.5, 9)}))
    assert command(folder) == (0, f"{folder / 'report.html'}\n", "")
    path = tmp_path / "page.html"
    assert command(folder, f"--output={path}") == (0, f"{path}\n", "")
    assert path.read_text().startswith("<!DOCTYPE html>")


def test_command_never_writes_over_the_page_of_one_of_several(
    tmp_path, command
):
    first, second, third = (
        a_run(tmp_path / name, a_summary({"dense": figures(0.5, 9)}))
        for name in ("a", "b", "of/c")
    )
    for folder in (first, second, third):
        (folder / "report.html").write_text("own")
    path = tmp_path.resolve() / "comparison.html"
    for folders in ([first, second], [third, first], [first, first]):
        assert command(*folders) == (0, f"{path}\n", "")
    for folder in (first, second, third):
        assert (folder / "report.html").read_text() == "own"
    # Named, it is what was asked for.
    page = first / "report.html"
    assert command(first, second, f"--output={page}")[0] == 0
    assert page.read_text() != "own"


def test_command_shows_the_runs_of_a_sweep(tmp_path, command):
    sweep = tmp_path / "sweep"
    a_run(sweep / "lam=1", a_summary({"dense": figures(0.5, 9)}))
    rows = [
        {"label": "lam=1", "status": "done", "message": None},
        {"label": "lam=2", "status": "failed", "message": "exit status 1: x"},
        {"label": "lam=3", "status": "waiting", "message": None},
    ]
    (sweep / "sweep.json").write_text(json.dumps({"grids": [], "runs": rows}))
    assert command(sweep) == (0, f"{sweep / 'report.html'}\n", "")
    written = (sweep / "report.html").read_text()
    assert "lam=2 failed: exit status 1: x" in written
    assert "lam=3 has not begun" in written and "lam=1" in written
    other = a_run(tmp_path / "run", a_summary({"dense": figures(0.5, 9)}))
    status, told, _ = command(sweep, other)
    path = tmp_path.resolve() / "comparison.html"
    assert (status, told) == (0, f"{path}\n")
    assert "lam=1" in path.read_text() and ">run" in path.read_text()
    (sweep / "sweep.json").write_text("{")
    status, _, error = command(sweep)
    assert status == 2 and "sweep.json cannot be read" in error


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["none"],
            "none is no run folder: it holds neither summary.json nor "
            "metrics.jsonl",
        ),
        ([], "RUN_DIR"),
        (["run", "--outptu=x"], "--outptu=x. Did you mean --output?"),
        (["run", "--output="], "output must not be empty"),
        (["run", "--output=none/page.html"], "No such file or directory"),
    ],
)
def test_command_says_a_mistake_in_one_line(
    tmp_path, command, monkeypatch, arguments, message
):
    a_run(tmp_path / "run", a_summary({"dense": figures(0.5, 9)}))
    monkeypatch.chdir(tmp_path)
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1 and err.startswith("keras_app.report: ")
