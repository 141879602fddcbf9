"""Tests of the page of several runs, and of what every page says in short."""

import json
import re

import pytest

from keras_app.experiments.page import write_page
from tests.pages import a_full_run
from tests.pages import a_megabatch
from tests.pages import a_run
from tests.pages import a_summary
from tests.pages import a_training
from tests.pages import conclusion
from tests.pages import figures
from tests.pages import page_of
from tests.pages import plain
from tests.pages import row
from tests.pages import seeds
from tests.pages import table
from tests.pages import write_begun
from tests.pages import write_lottery
from tests.pages import write_many
from tests.pages import write_seeds
from tests.pages import write_tickets
from tests.pages import write_training
from tests.pages import write_unfinished

pytestmark = pytest.mark.backend_free


# ---- several runs ----------------------------------------------------------


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


def test_a_bregman_optimizer_gives_way_for_the_dense_network_too(tmp_path):
    """It is sparse without its pruner as well."""
    folder = a_training(
        *(tmp_path / "run", "AdaBreg + BregmanPruner", 0.6, 0.1),
        optimizer={"regularizers": {"class_name": "L1"}},
    )
    (text,) = conclusion(write_page([folder]).read_text())
    assert (
        'the same run with --gin_param="experiments.Train.pruner=None" '
        "--gin_param=\"experiments.Train.optimizer='adam'\" "
        '--gin_param="experiments.Train.sparsify=None" '
        '--gin_param="experiments.Train.callbacks=[]", '
    ) in text


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
