"""The pages of docs/ do what they say: snippets run, commands are accepted."""

import importlib
import pathlib
import re
import shlex

import pytest

from keras_app import cli
from keras_app import sweep
from keras_app import train
from keras_app.experiments.cli import configuration
from keras_app.export import __main__ as export
from keras_app.report import __main__ as report

# On one backend, for the time that it takes.
pytestmark = pytest.mark.backend_free

# The package's names are the functions.
compress = importlib.import_module("keras_app.compress")
prune = importlib.import_module("keras_app.prune")

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md")])


def blocks(path, language):
    pattern = rf"```{language}\n(.*?)```"
    return re.findall(pattern, path.read_text(), re.DOTALL)


def run_blocks(name, count):
    """Runs the Python of a page in order; returns the names it leaves."""
    found = blocks(DOCS / name, "python")
    assert len(found) == count
    names = {}
    for block in found:
        exec(compile(block, name, "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ---- snippets ---------------------------------------------------------------


def test_pruning_while_fine_tuning(tmp_path):
    names = run_blocks("finetuning.md", 5)
    assert names["pruner"].report.sparsity >= 0.9499
    summarize = names["ka"].report.summarize
    for model in ("sparse", "moved", "cut", "again"):
        assert summarize(names[model]).sparsity >= 0.9499
    assert summarize(names["dense"]).sparsity == 0
    assert (tmp_path / "tuned.keras").exists()


def test_sparse_from_the_first_step(capsys):
    run_blocks("sparse_start.md", 4)
    said = capsys.readouterr().out
    found = re.findall(r"sparsity (\S+), test accuracy (\S+)", said)
    assert [sparsity for sparsity, _ in found] == ["0.900"] * 3
    assert all(float(accuracy) > 0.7 for _, accuracy in found)


def test_finding_a_lottery_ticket(tmp_path):
    names = run_blocks("lottery.md", 2)
    tickets = names["summary"]["methods"]["vanilla"]["tickets"]
    assert [ticket["density"] for ticket in tickets] == [1, 0.5, 0.25]
    assert (tmp_path / "runs" / "tickets" / "report.html").exists()
    assert names["ka"].report.summarize(names["model"]).sparsity >= 0.899


def test_learning_from_a_stream(capsys):
    run_blocks("stream.md", 1)
    found = re.findall(r"density (\S+), accuracy", capsys.readouterr().out)
    # 0.8 to the power of 4.5 at the end, by equal steps of the exponent.
    assert found == ["0.800", "0.617", "0.475", "0.366"]


@pytest.mark.slow  # the code of the README, which is tested, on other data
def test_making_a_model_faster(tmp_path):
    names = run_blocks("compress.md", 2)
    small, model = names["small"], names["model"]
    # Not the time, which a busy machine changes.
    assert small.model.count_params() < model.count_params()
    for name in ("small.tflite", "small.keras", "trained.keras", "arrays.npz"):
        assert (tmp_path / name).exists()


@pytest.mark.slow  # a process for each file; each export is tested by itself
def test_shipping(tmp_path):
    names = run_blocks("export.md", 5)
    assert names["small"].count_params() < names["model"].count_params() / 2
    micro = (tmp_path / "micro.tflite").stat().st_size
    assert micro < (tmp_path / "dense.keras").stat().st_size / 4
    assert (tmp_path / "served" / "saved_model.pb").exists()
    assert (tmp_path / "small.onnx").exists()


def test_the_first_hour(tmp_path):
    found = blocks(DOCS / "tutorial.md", "python")
    assert len(found) == 4
    names = {}
    for block in found[:3]:
        exec(compile(block, "tutorial.md", "exec"), names)
    assert 0.899 < names["pruner"].report.sparsity <= 0.9
    # The command of the page, as printed.
    page = commands(DOCS / "tutorial.md")
    (words,) = [words for words in page if "keras_app.compress" in words]
    assert compress.main(words[3:]) == 0
    exec(compile(found[3], "tutorial.md", "exec"), names)
    assert names["right"] > 0.6 * len(names["y_val"])
    assert (tmp_path / "sparse.bin").exists()


# ---- commands ---------------------------------------------------------------

PARSERS = {
    "train": lambda: train.PARSER,
    "sweep": lambda: sweep.PARSER,
    "compress": lambda: compress._PARSER,
    "prune": lambda: prune._PARSER,
    "export": export._parser,
    "report": lambda: report._PARSER,
}


def commands(path):
    """The commands of a page: `[words]`, without what is set before them."""
    found = []
    for block in blocks(path, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            while "&&" in words:
                words = words[words.index("&&") + 1 :]
            if words:
                found.append(words)
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_are_accepted(path):
    for program, *words in commands(path):
        if not program.endswith("python") or words[0] != "-m":
            continue
        package, _, name = words[1].partition(".")
        if package != "keras_app":
            continue
        options = PARSERS[name]().parse_args(words[2:])
        if name in ("train", "sweep") and not options.list:
            accepts(options)


def accepts(options):
    """Asks gin, as before a training: every file and binding is there."""
    gin = configuration.import_gin()
    # What is in a run folder is there once there is a run.
    named = [n for n in options.gin_file if not n.startswith("RUN_DIR")]
    gin.clear_config()
    try:
        paths = [configuration.find(name) for name in named]
        configuration.parse(gin, paths, options.gin_param)
        configuration.finish(gin, "the gin files")
    except cli.UsageError as error:
        pytest.fail(f"{named}: {error}")
    finally:
        gin.clear_config()


def test_there_are_commands_to_look_at():
    said = [words for path in PAGES for words in commands(path)]
    assert len([words for words in said if "keras_app.train" in words]) >= 15


def test_scripts_that_pages_name_exist():
    text = "\n".join(path.read_text() for path in PAGES)
    named = set(re.findall(r"\b(?:benchmarks|launch|gin)/[\w/]+\.\w+", text))
    assert len(named) > 5
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
