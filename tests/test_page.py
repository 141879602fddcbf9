"""Tests of the run page: literal numbers in, the same numbers on the page."""

import html
import json
import re
import runpy
import sys

import pytest

from keras_app.report import drawing
from keras_app.report import page as page_module
from keras_app.report import write_page

pytestmark = pytest.mark.backend_free


def figures(accuracy, cer, density=1.0, **more):
    return {
        "accuracy": accuracy,
        "effective_density": density,
        "cer": cer,
        **more,
    }


def a_summary(methods, **more):
    main = next(iter(methods))
    return {
        "experiment": "anytime",
        "method": main,
        "accuracy": methods[main]["accuracy"],
        "effective_density": methods[main]["effective_density"],
        "seconds": 75.0,
        "seed": 0,
        "versions": {"keras": "3.15.1", "backend": "jax", "jax": "0.10.2"},
        "data": "tiny",
        "model": "convnet",
        "num_megabatches": 2,
        "epochs": 2,
        "level": 4.5,
        "missed": [],
        "methods": methods,
        **more,
    }


def an_epoch(method, megabatch, epoch):
    return {
        "event": "epoch",
        "method": method,
        "megabatch": megabatch,
        "epoch": epoch,
        "loss": 1.5 - 0.25 * epoch,
        "accuracy": 0.5 + 0.1 * epoch,
        "val_loss": 1.75 - 0.25 * epoch,
        "val_accuracy": 0.4 + 0.1 * epoch,
    }


def a_megabatch(method, number, misclassified, density):
    return {
        "event": "megabatch",
        "method": method,
        "megabatch": number,
        "target_density": density,
        "density": density,
        "density_all": density,
        "kept_parameters": 1000,
        "misclassified": misclassified,
        "test_accuracy": 1.0 - misclassified / 100,
        "best_epoch": 1,
        "best_val_accuracy": 0.5,
        "generalization_gap_last": 10.0,
        "generalization_gap_best": 9.5,
        "training_examples": 400,
        "forward_flops": 2_000_000_000,
        "forward_flops_sparse": 1_000_000_000.0,
        "layers": {"a/kernel": density, "b/kernel": density / 2},
    }


def a_run(folder, summary=None, events=(), config=None):
    folder.mkdir(parents=True)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    if events:
        lines = "".join(json.dumps(event) + "\n" for event in events)
        (folder / "metrics.jsonl").write_text(lines)
    if config is not None:
        (folder / "config.gin").write_text(config)
    return folder


def a_full_run(folder):
    """Two methods, two megabatches of two epochs."""
    events = [
        event
        for method, density in (("app", 0.5), ("dense", 1.0))
        for number, misclassified in ((0, 40), (1, 30))
        for event in (
            an_epoch(method, number, 0),
            an_epoch(method, number, 1),
            a_megabatch(method, number, misclassified, density),
        )
    ]
    methods = {
        method: figures(
            0.7,
            70,
            density,
            megabatches=[
                event
                for event in events
                if event["event"] == "megabatch" and event["method"] == method
            ],
        )
        for method, density in (("app", 0.5), ("dense", 1.0))
    }
    return a_run(folder, a_summary(methods), events)


def plain(text):
    """The text of a piece of HTML, tags dropped, plain spaces."""
    text = re.sub(r"<(small|br)[^>]*>", " ", text)
    text = html.unescape(re.sub(r"<[^>]+>", "", text))
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


def table(written):
    """The first table: {row header: [cells]}, `head` the first line."""
    body = re.search(r"<table>(.*?)</table>", written, re.S).group(1)
    lines = re.findall(r"<tr.*?</tr>", body, re.S)
    cells = [
        [plain(c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.S)]
        for line in lines
    ]
    return {"head": cells[0], **{line[0]: line[1:] for line in cells[1:]}}


def row(written, start):
    (found,) = [v for k, v in table(written).items() if k.startswith(start)]
    return found


def conclusion(written):
    found = re.findall(r'<ul class="conclusion">(.*?)</ul>', written, re.S)
    return [plain(text) for text in found]


def page_of(tmp_path, methods, **more):
    folder = a_run(tmp_path / "run", a_summary(methods, **more))
    return write_page([folder]).read_text()


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


def test_conclusion_says_that_app_is_worse(tmp_path):
    app, dense = figures(0.820, 130, 0.366), figures(0.833, 118)
    (text,) = conclusion(page_of(tmp_path, {"app": app, "dense": dense}))
    assert text.startswith(
        "APP ends 1.3 points below the dense network (82.0 % against 83.3 %) "
        "with 36.6 % of the prunable weights; its CER is worse, higher by 12 "
        "(130 against 118)."
    )
    assert "Highest final accuracy: dense (83.3 %). Lowest CER: dense" in text


def test_conclusion_says_that_app_is_better(tmp_path):
    app, other = figures(0.833, 118, 0.366), figures(0.820, 130, 0.366)
    (text,) = conclusion(page_of(tmp_path, {"app": app, "one_shot": other}))
    assert text.startswith(
        "APP ends 1.3 points above one-shot pruning (83.3 % against 82.0 %) "
        "at the same density of 36.6 %; its CER is better, lower by 12 (118 "
        "against 130)."
    )
    assert "Highest final accuracy: APP (83.3 %). Lowest CER: APP" in text


def test_conclusion_separates_accuracy_from_cer(tmp_path):
    app, other = figures(0.80, 118, 0.2), figures(0.82, 130, 0.4)
    (text,) = conclusion(page_of(tmp_path, {"app": app, "one_shot": other}))
    assert text.startswith(
        "APP ends 2.0 points below one-shot pruning (80.0 % against 82.0 %) "
        "with 20.0 % of the prunable weights against 40.0 %; its CER is "
        "better, lower by 12 (118 against 130)."
    )
    assert "accuracy: one-shot (82.0 %). Lowest CER: APP (118)." in text


def test_conclusion_calls_a_draw_a_draw(tmp_path):
    app, dense = figures(0.75, 40, 0.5), figures(0.75, 40)
    (text,) = conclusion(page_of(tmp_path, {"app": app, "dense": dense}))
    assert text.startswith(
        "APP ends level with the dense network (75.0 % against 75.0 %) with "
        "50.0 % of the prunable weights; its CER is the same (40 against 40)."
    )
    assert "Highest final accuracy: APP and dense (75.0 %)." in text


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


# ---- several runs ----------------------------------------------------------


def seeds(tmp_path, configs=(None, None, None), **more):
    """Three seeds, whose statistics are easy to take by hand."""
    numbers = [(0.60, 0.65, 100), (0.64, 0.65, 104), (0.68, 0.65, 111)]
    return [
        a_run(
            tmp_path / f"run{seed}",
            a_summary(
                {"app": figures(ours, cer, 0.5), "dense": figures(theirs, 90)},
                **{"seed": seed, **more},
            ),
            config=configs[seed],
        )
        for seed, (ours, theirs, cer) in enumerate(numbers)
    ]


def test_runs_that_differ_by_seed_get_mean_and_standard_deviation(tmp_path):
    path = tmp_path / "all.html"
    folders = seeds(tmp_path)
    assert write_page(folders, path) == path
    written = path.read_text()
    # 60, 64, 68: mean 64, deviations 4: sqrt(32 / 2) = 4.
    # 100, 104, 111: mean 105, sqrt((25 + 1 + 36) / 2) = 5.57.
    head = table(written)["head"][1:]
    expected = {
        "APP, mean of 3 seeds": ["64.0 ± 4.0 % −1.0", "105.0 ± 5.6 +15"],
        "dense, mean of 3 seeds": ["65.0 ± 0.0 %", "90.0 ± 0.0"],
        "run1, APP": ["64.0 % −1.0", "104 +14"],
    }
    for name, cells in expected.items():
        found = dict(zip(head, row(written, name)))
        assert [found["Test accuracy"], found["CER"]] == cells
    (text,) = conclusion(written)
    assert (
        "APP ends 1.0 points below the dense network (64.0 % against 65.0 %) "
        "with 50.0 % of the prunable weights on average over 3 seeds, below "
        "it in 2 of them, with a standard deviation of the difference of 4.0 "
        "points; its CER is worse, higher by 15 (105 against 90)."
    ) in text
    assert not (folders[0] / "report.html").exists()


def test_runs_with_other_settings_are_not_averaged(tmp_path):
    first = seeds(tmp_path / "a", level=3.0)[0]
    second = seeds(tmp_path / "b", level=4.5)[1]
    written = write_page([first, second]).read_text()
    assert "mean of" not in written
    assert len(conclusion(written)) == 2


def test_the_same_seed_twice_is_not_averaged(tmp_path):
    written = write_page(seeds(tmp_path, seed=5)).read_text()
    assert "mean of" not in written


@pytest.mark.parametrize(
    "rates, averaged", [((0.1, 0.1, 0.1), True), ((0.1, 0.1, 0.2), False)]
)
def test_configurations_decide_what_differs_only_by_seed(
    tmp_path, rates, averaged
):
    configs = [
        f"SGD.learning_rate = {rate}\nexperiments.Anytime.seed = {seed}\n"
        for seed, rate in enumerate(rates)
    ]
    written = write_page(seeds(tmp_path, configs)).read_text()
    assert ("APP, mean of 3 seeds" in written) == averaged


@pytest.mark.parametrize(
    "rates, averaged", [((0.1, 0.1, 0.1), True), ((0.1, 0.1, 0.2), False)]
)
def test_settings_decide_where_there_is_no_configuration(
    tmp_path, rates, averaged
):
    folders = seeds(tmp_path)
    summaries = [json.loads((f / "summary.json").read_text()) for f in folders]
    for seed, (summary, rate) in enumerate(zip(summaries, rates)):
        summary["settings"] = {
            "optimizer": {"learning_rate": rate},
            "pruner": {"scorers": [{"batches": 4, "seed": seed}], "seed": seed},
            "seed": seed,
        }
    path = write_page(folders, summaries=summaries)
    assert ("APP, mean of 3 seeds" in path.read_text()) == averaged


def test_runs_with_the_same_folder_name_are_told_apart(tmp_path):
    methods = {"dense": figures(0.5, 9)}
    folders = [
        a_run(tmp_path / name / "run", a_summary(methods, level=level))
        for name, level in (("a", 2.0), ("b", 3.0))
    ]
    written = write_page(folders).read_text()
    assert f"{folders[0]}, dense" in table(written)
    assert f"{folders[1]}, dense" in table(written)


def test_several_runs_share_the_figures(tmp_path):
    folders = [a_full_run(tmp_path / name) for name in ("first", "second")]
    written = write_page(folders).read_text()
    # The front, 7 over the megabatches, 2 maps, accuracy and loss per method.
    assert written.count("<img") == 1 + 7 + 2 + 2 + 2
    assert "first, APP from 60.0 to 70.0; " in written
    assert "second, dense from 60.0 to 70.0." in written


# ---- density and accuracy --------------------------------------------------


def the_front(written):
    """The section's table, and what is said instead of its picture."""
    section = re.search(
        r"<h2>Density and accuracy</h2>(.*?)</section>", written, re.S
    ).group(1)
    (alt,) = re.findall(r'alt="([^"]*)"', section)
    return table(section), plain(alt)


def test_several_runs_show_their_front_by_density(tmp_path):
    numbers = {"a": (0.9, 1.0), "b": (0.8, 0.1), "c": (0.75, 0.2)}
    folders = [
        a_run(
            tmp_path / name,
            a_summary({"app": figures(accuracy, 9, density)}, level=density),
        )
        for name, (accuracy, density) in numbers.items()
    ]
    found, alt = the_front(write_page(folders).read_text())
    assert found == {
        "head": ["run", "density, prunable", "test accuracy", ""],
        "1 b": ["10.0 %", "80.0 %", "front"],
        "2 c": ["20.0 %", "75.0 %", ""],
        "3 a": ["100.0 %", "90.0 %", "front"],
    }
    assert alt == (
        "Scatter chart of the test accuracy over the density: 1 b, APP 80.0 % "
        "at 10.0 %; 2 c, APP 75.0 % at 20.0 %; 3 a, APP 90.0 % at 100.0 %. On "
        "the front: 1 and 3."
    )


def test_the_front_names_methods_and_leaves_out_what_is_unfinished(tmp_path):
    methods = {"app": figures(0.5, 9, 0.2), "dense": figures(0.6, 9)}
    folders = [
        a_run(tmp_path / "a", a_summary(methods, seed=0)),
        a_run(tmp_path / "b", a_summary(methods, seed=1)),
        a_run(tmp_path / "c", a_summary({"app": figures(None, 9, 0.2)})),
        a_run(tmp_path / "d", events=[a_megabatch("app", 0, 1, 0.1)]),
    ]
    written = write_page(folders).read_text()
    found, _ = the_front(written)
    assert found == {
        "head": [
            *("run, method", "seeds", "density, prunable", "test accuracy"),
            "",
        ],
        "1 a, b, APP": ["2", "20.0 ± 0.0 %", "50.0 ± 0.0 %", "front"],
        "2 a, b, dense": ["2", "100.0 ± 0.0 %", "60.0 ± 0.0 %", "front"],
    }


def test_the_front_is_of_means_over_seeds(tmp_path):
    # A lucky seed of 70 % is not what its setting ends with, 60 %.
    numbers = {0.1: (0.70, 0.50), 0.2: (0.60, 0.62)}
    folders = [
        a_run(
            tmp_path / f"density_{density}-seed_{seed}",
            a_summary(
                {"app": figures(accuracy, 9, density)}, level=density, seed=seed
            ),
        )
        for density, accuracies in numbers.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    written = write_page(folders, tmp_path / "all.html").read_text()
    found, alt = the_front(written)
    # sqrt(2 * 10^2) and sqrt(2 * 1^2)
    assert found == {
        "head": ["run", "seeds", "density, prunable", "test accuracy", ""],
        "1 density_0.1-seed_{0,1}": [
            *("2", "10.0 ± 0.0 %", "60.0 ± 14.1 %", "front")
        ],
        "2 density_0.2-seed_{0,1}": [
            *("2", "20.0 ± 0.0 %", "61.0 ± 1.4 %", "front")
        ],
    }
    assert "APP 60.0 % at 10.0 %" in alt and "70.0" not in alt


def test_one_run_has_no_front(tmp_path):
    folder = a_full_run(tmp_path / "run")
    assert "Density and accuracy" not in write_page(folder).read_text()


def test_notes_stand_before_the_results(tmp_path):
    folder = a_run(tmp_path / "run", a_summary({"dense": figures(0.5, 9)}))
    written = write_page(folder, notes=["x=<1> failed"]).read_text()
    assert written.index("x=&lt;1&gt; failed") < written.index("<h2>")


# ---- other experiments -----------------------------------------------------


def test_unknown_experiment_gets_its_numbers_and_curves(tmp_path):
    summary = {
        "experiment": "lottery_tickets",
        "method": "magnitude",
        "accuracy": 0.75,
        "effective_density": 0.25,
        "rewind_distance": 0.125,
        "seconds": 10.0,
        "seed": 0,
        "versions": {},
        "epochs": 2,
    }
    events = [
        {"event": "epoch", "epoch": i, "loss": 2.0 - i, "accuracy": 0.5}
        for i in range(2)
    ]
    folder = a_run(tmp_path / "run", summary, events)
    written = write_page([folder]).read_text()
    assert "<h1>Lottery tickets</h1>" in written
    assert table(written) == {
        "head": ["", "magnitude"],
        "Test accuracy at the end; higher is better": ["75.0 %"],
        "Sparsity, prunable share of the prunable kernels that is zero": [
            "75.0 %"
        ],
        "Rewind distance": ["0.1250"],
    }
    assert written.count("<img") == 2
    assert conclusion(written)[0].startswith(
        "Magnitude ends at 75.0 % test accuracy. Magnitude: 75.0 % of the "
        "prunable weights zero. No dense network was trained on the same data, "
        "model and epochs, so what the zeros cost in accuracy cannot be told."
    )


# ---- in short, on every page -----------------------------------------------


def a_training(folder, method, accuracy, density, seed=0, **more):
    """A run of `experiments.Train`, as it is logged."""
    told = {
        "accuracy": accuracy,
        "effective_density": density,
        "initial_density": density,
        "sparsity_all": 0.9 * (1 - density),
    }
    event = {
        **{"event": "epoch", "method": method, "epoch": 0, "loss": 1.0},
        **{"accuracy": accuracy, "val_accuracy": accuracy, "lam": 0.5},
        **{"effective_density": density, "temperature": 2.0},
        "sparsity_all": told["sparsity_all"],
    }
    summary = a_summary(
        {method: told},
        experiment="train",
        seed=seed,
        settings={"parameters": 1000, "density": density, "seed": seed},
        **more,
    )
    return a_run(folder, summary, [event])


def write_training(folder):
    return [a_training(folder, "Adam + RigL", 0.5, 0.1)]


def write_tickets(folder):
    rounds = [{"density": 0.4, "val_accuracy": 0.5, "hard_val_accuracy": 0.4}]
    return [
        a_training(folder, "ticket, sequential", 0.5, 0.1, rounds=rounds),
    ]


def write_lottery(folder):
    """The first round, which is dense, is logged as a round."""
    rounds = [
        {
            **{"density": 1.0, "test_accuracy": 0.6, "set_size": 100},
            "stopped_early": False,
        },
        {"density": 0.5, "test_accuracy": 0.5, "set_size": 50},
    ]
    tickets = [{"density": 0.5, "accuracy": 0.58, "accuracies": [0.58]}]
    prac = figures(0.58, None, 0.5, rounds=rounds, tickets=tickets)
    prac["account"] = {"cumulative": [10, 15]}
    summary = a_summary({"prac": prac}, experiment="lottery")
    return [a_run(folder, summary)]


def write_unfinished(folder):
    return [a_run(folder, events=[an_epoch("app", 0, 0)])]


def write_begun(folder):
    (a_run(folder) / "metrics.jsonl").touch()
    return [folder]


def write_seeds(folder):
    return [
        a_training(folder / f"seed_{seed}", "Adam + RigL", 0.5, 0.1, seed=seed)
        for seed in range(3)
    ]


def write_many(folder):
    return [
        a_training(folder / f"density_{i}", "Adam + RigL", 0.5, i / 20)
        for i in range(1, 13)
    ]


@pytest.mark.parametrize(
    "write, says",
    [
        (lambda folder: [a_full_run(folder)], "level with the dense network"),
        (
            write_training,
            "Adam + RigL: 90.0 % of the prunable weights and 81.0 % of the "
            "whole model zero (810 of 1,000). No dense network was trained",
        ),
        (write_tickets, "experiments.Train and no pruner"),
        (
            write_lottery,
            "The search on PrAC sets ends 2.0 points below the dense network "
            "(58.0 % against 60.0 %)",
        ),
        (write_unfinished, "Unfinished: 1 epoch so far. APP: 40.0 %"),
        (write_begun, "Unfinished: 0 epochs so far."),
        (write_seeds, "Adam + RigL ends at 50.0 ± 0.0 % test accuracy."),
        (
            write_many,
            "density_12: Adam + RigL ends at 50.0 % test accuracy; 40",
        ),
    ],
)
def test_every_page_says_in_short_what_came_out(tmp_path, write, says):
    folders = write(tmp_path / "run")
    written = write_page(folders, tmp_path / "page.html").read_text()
    assert "<h2>In short</h2>" in written
    assert says in " ".join(conclusion(written))


@pytest.mark.parametrize(
    "methods, binding",
    [
        (("app",), "experiments.Anytime.methods=('app', 'dense')"),
        (("app", "one_shot"), "methods=('app', 'one_shot', 'dense')"),
    ],
)
def test_how_to_get_a_dense_network_is_said(tmp_path, methods, binding):
    told = {method: figures(0.5, 9, 0.5) for method in methods}
    (text,) = conclusion(page_of(tmp_path, told))
    assert "No dense network was trained" in text
    assert f'--gin_param="experiments.Anytime.{binding.split(".")[-1]}"' in text


def test_a_dense_run_of_the_same_task_is_what_others_are_compared_to(tmp_path):
    folders = [
        a_training(tmp_path / "rigl", "Adam + RigL", 0.625, 0.1),
        a_training(tmp_path / "plain", "Adam", 0.65, 1.0),
    ]
    written = write_page(folders, tmp_path / "page.html").read_text()
    first, second = conclusion(written)
    assert first.startswith(
        "Adam + RigL ends 2.5 points below the dense network of plain (62.5 % "
        "against 65.0 %) with 10.0 % of the prunable weights."
    )
    assert second.startswith("Adam (dense) ends at 65.0 % test accuracy.")
    assert row(written, "rigl, Adam + RigL")[0] == "62.5 % −2.5"
    other = a_training(tmp_path / "other", "Adam", 0.65, 1.0, model="resnet18")
    written = write_page([folders[0], other], tmp_path / "b.html").read_text()
    assert "No dense network was trained on the same" in conclusion(written)[0]


def test_zeros_and_size_stand_beside_the_accuracy(tmp_path):
    folder = a_training(tmp_path / "run", "Adam + RigL", 0.5, 0.1)
    (folder / "model.keras").write_bytes(b"x" * 2500)
    (folder / "exports").mkdir()
    report = {
        **{"path": "model.sparse", "format": "sparse", "precision": "float32"},
        **{"bytes": 600, "compressed_bytes": 500, "max_difference": 0.0},
        **{"dense_bytes": 2400, "dense_compressed_bytes": 2000},
        **{key: [] for key in ("sparse_tensors", "blocked_tensors")},
        **{key: [] for key in ("repairs", "notes")},
    }
    path = folder / "exports" / "model.sparse.report.json"
    path.write_text(json.dumps(report))
    written = write_page(folder).read_text()
    names = [name.split(" ")[0] for name in list(table(written))[1:9]]
    assert names[:3] == ["Test", "Sparsity,", "Sparsity,"]
    expected = {
        "Sparsity, prunable": ["90.0 %"],
        "Sparsity, whole": ["81.0 %"],
        "Zeros": ["810"],
        "Parameters": ["1,000"],
        "Size, stored sparse": ["600 bytes"],
        "Size, stored dense": ["2.4 kB"],
        "Size, Keras file": ["2.5 kB"],
    }
    assert {name: row(written, name) for name in expected} == expected
    assert (
        "Adam + RigL takes 600 bytes stored sparse, 25.0 % of the 2.4 kB "
        "stored dense."
    ) in conclusion(written)[0]


# ---- looks -----------------------------------------------------------------


def colours(written, *labels):
    """The colours of entries of the legends, `[{...}, ...]`."""
    found = {label: set() for label in labels}
    for entry in re.findall(r"<li><svg.*?</li>", written, re.S):
        if plain(entry) in found:
            color = re.search(r'stroke="(#\w+)"', entry).group(1)
            found[plain(entry)].add(color.lower())
    return list(found.values())


def test_a_method_has_one_colour_on_every_page_in_any_order(tmp_path):
    full = a_full_run(tmp_path / "full")
    others = [
        a_training(tmp_path / name, method, 0.5, density)
        for name, method, density in (
            ("rigl", "Adam + RigL", 0.1),
            ("own", "my_method", 0.2),
            ("plain", "Adam", 1.0),
        )
    ]
    page = tmp_path / "page.html"
    alone = write_page(full, page).read_text()
    assert colours(alone, "APP", "dense") == [{"#0072b2"}, {"#4d4d4d"}]
    for folders in ([full, *others], [*reversed(others), full]):
        written = write_page(folders, page).read_text()
        assert colours(written, "APP", "dense", "Adam (dense)") == [
            *({"#0072b2"}, {"#4d4d4d"}, {"#4d4d4d"})
        ]
        names = "Adam + RigL", "my method"
        assert colours(written, *names) == [{"#332288"}, {"#cc79a7"}]


def test_known_methods_differ_in_colour_or_mark_and_none_looks_dense():
    looks = [drawing.look(name) for name in drawing._KNOWN]
    pairs = {(look["color"], look["marker"]) for look in looks}
    assert len(pairs) == len(drawing._KNOWN)
    dense = drawing.look("Adam", dense="Adam")
    assert dense["color"] not in {look["color"] for look in looks}


def test_twelve_settings_are_told_apart_and_named_in_full(tmp_path):
    name = "a-long-name-of-a-run-that-no-picture-could-hold"
    folders = [
        a_training(tmp_path / f"{name}-{i:02}", "Adam + RigL", 0.5, i / 20)
        for i in range(1, 13)
    ]
    written = write_page(folders, tmp_path / "page.html").read_text()
    chart = re.search(r"RigL: accuracy</b>.*?</figure>", written, re.S).group()
    entries = re.findall(r"<li><svg.*?</li>", chart, re.S)
    looks = {
        plain(entry): re.findall(
            r'stroke="(.*?)".*?stroke-dasharray="(.*?)"', entry, re.S
        )
        for entry in entries
    }
    shown = {k: str(v) for k, v in looks.items() if k.startswith(name)}
    assert len(shown) == len(set(shown.values())) == 12


@pytest.mark.parametrize(
    "write", [a_full_run, write_training, write_tickets, write_many]
)
def test_no_title_is_a_key(tmp_path, write):
    folders = write(tmp_path / "run")
    folders = folders if isinstance(folders, list) else [folders]
    written = write_page(folders, tmp_path / "page.html").read_text()
    for tag in ("h1", "h2", "th", "dt", "summary", "figcaption"):
        for text in re.findall(rf"<{tag}[ >].*?</{tag}>", written, re.S):
            # Names of runs are the user's.
            text = re.sub(r"density_\d+", "", plain(text))
            assert "_" not in text and "lam" not in text.split(), text


def test_tables_scroll_in_a_box_with_a_name(tmp_path):
    written = write_page(a_full_run(tmp_path / "run")).read_text()
    boxes = re.findall(
        r'<div class="scroll[^"]*" tabindex="0" role="region" '
        r'aria-label="[^"]+"><table>',
        written,
    )
    assert len(boxes) == written.count("<table>") >= 2


@pytest.mark.parametrize(
    "values, least, expected",
    [
        # Noise of half a point: ten points, and 5 % of them on both sides.
        ([50.0, 50.5], 10.0, (44.75, 55.75)),
        ([], 10.0, (-0.5, 10.5)),
        # At the top they reach no further than 100.
        ([99.0, 99.5], 10.0, (89.5, 100.5)),
        ([1.0, 1.0], 10.0, (-0.5, 10.5)),
        # What is wider is left alone.
        ([20.0, 80.0], 10.0, (17.0, 83.0)),
    ],
)
def test_axes_do_not_blow_noise_up(values, least, expected):
    found = drawing.limits(values, least, (0, 100))
    assert found == pytest.approx(expected)


# ---- discovered architecture -----------------------------------------------


CONNECTIONS = {
    "connections": {
        "sources": ["stem", "unit 1"],
        "targets": ["unit 1", "unit 2"],
        "density": [[0.028, None], [0.0, 1.0]],
    }
}
ARCHITECTURE = {
    "architecture": {
        "units": 1000,
        "active_rows": [1000, 12, 0],
        "skips": [[0.0, None, None], [-1.25, 0.0, None], [0.0, 0.001, 0.5]],
    }
}


def discoveries(written):
    """`{caption: alt}` of the section's figures."""
    section = re.search(
        r"<h2>Discovered architecture</h2>(.*?)</section>", written, re.S
    )
    pairs = re.findall(
        r'<figcaption><b>(.*?)</b>.*?alt="([^"]*)"', section.group(1), re.S
    )
    return {caption: html.unescape(alt) for caption, alt in pairs}


def test_page_without_a_discovered_architecture_has_no_such_section(tmp_path):
    written = page_of(tmp_path, {"dense": figures(0.5, 9)})
    assert "Discovered" not in written


def test_connections_are_drawn_and_told_in_percent(tmp_path):
    written = page_of(tmp_path, {"adabreg": figures(0.5, 9)}, **CONNECTIONS)
    assert discoveries(written) == {
        "Connections": "Heat map of the connections that are left, in "
        "percent: to unit 1 2.8 from stem; to unit 2 0 from stem, 100 from "
        "unit 1."
    }


def test_widths_and_skips_are_drawn_and_told(tmp_path):
    written = page_of(tmp_path, {"adabreg": figures(0.5, 9)}, **ARCHITECTURE)
    assert discoveries(written) == {
        "Active units": "Bar chart of the active units per layer, of 1000: "
        "1000, 12 and 0.",
        "Skips": "Heat map of the skip coefficients: input to layer 2 −1.25, "
        "layer 1 to layer 3 0.00, layer 2 to layer 3 0.50.",
    }
    assert "dashed is what a layer has, 1,000." in plain(written)


def test_no_skips_at_all_are_said_to_be_zero(tmp_path):
    summary = json.loads(json.dumps(ARCHITECTURE))
    summary["architecture"]["skips"] = [[0.0, None], [0.0, 0.0]]
    written = page_of(tmp_path, {"adabreg": figures(0.5, 9)}, **summary)
    alt = discoveries(written)["Skips"]
    assert alt == "Heat map of the skip coefficients: all zero."


def test_discoveries_of_several_runs_carry_their_names(tmp_path):
    methods = {"adabreg": figures(0.5, 9)}
    folders = [
        a_run(tmp_path / name, a_summary(methods, **found))
        for name, found in (("a", CONNECTIONS), ("b", ARCHITECTURE), ("c", {}))
    ]
    written = write_page(folders).read_text()
    names = ["Connections, a", "Active units, b", "Skips, b"]
    assert list(discoveries(written)) == names


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
