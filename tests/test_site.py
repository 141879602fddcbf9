"""The documentation site: it builds without a warning, and is whole."""

import inspect
import os
import pathlib
import re
import subprocess
import sys

import pytest

import keras_app

pytestmark = pytest.mark.backend_free

ROOT = pathlib.Path(__file__).parents[1]
# {page: the objects of the package that a reader looks for there}; written out,
# so that a page that is made empty is noticed.
EXPECTED = {
    "keras_app": {"compress", "prune", "sensitivity", "masks_of"},
    "pruners": {"MagnitudePruner", "RigL", "BregmanPruner", "CustomLoop"},
    "schedules": {"PolynomialDecay", "AnytimeSchedule", "OneShot"},
    "masks": {"NM", "GraphChannel", "mask_from_scores"},
    "distributions": {"uniform", "erdos_renyi"},
    "scorers": {"score"},
    "optimizers": {"LinBreg", "AdaBreg", "ContinuousSparsification"},
    "regularizers": {"L1", "GroupL2", "Nuclear"},
    "initializers": {"sparsify"},
    "callbacks": {"SparseModelCheckpoint", "SparseEarlyStopping"},
    "lottery": {"ForgettingTracker", "rewind", "snapshot"},
    "export": {"export_litert", "shrink", "strip_pruning", "save_sparse"},
    "report": {"PruningReport", "summarize"},
    "budgets": {"sparsity_for"},
    "layers": {"LayerType", "Kernel"},
    "experiments": {"Train", "Anytime", "Lottery", "TicketSearch", "Compress"},
    "experiments.data": {"Holdout", "Megabatches", "load"},
    "experiments.models": {"resnet20", "convnet", "get"},
    "experiments.devices": {"scope", "is_chief"},
    "compat.tfmot": {"prune_low_magnitude", "UpdatePruningStep"},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built as its readers build it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(
        [*command, "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def ids(path):
    return set(re.findall(r'\bid="([^"]+)"', path.read_text()))


def test_every_public_object_is_in_the_reference(site):
    modules = {"keras_app": keras_app}
    for name in EXPECTED.keys() - {"keras_app"}:
        module = keras_app
        for part in name.split("."):
            module = getattr(module, part)
        modules[name] = module
    # No room of the package is left out.
    rooms = {n for n, v in vars(keras_app).items() if inspect.ismodule(v)}
    rooms = (rooms & set(keras_app.__all__)) - {"compat"}
    assert rooms <= set(EXPECTED)
    for name, module in modules.items():
        names = set(EXPECTED[name])
        for each in getattr(module, "__all__", ()):
            value = getattr(module, each)
            if inspect.isclass(value) or inspect.isfunction(value):
                names.add(each)
        prefix = "keras_app" if name == "keras_app" else f"keras_app.{name}"
        shown = ids(site / "reference" / f"{name}.html")
        missing = {n for n in names if f"{prefix}.{n}" not in shown}
        assert not missing, (name, missing)


def test_arguments_that_share_their_words_are_shown(site):
    text = (site / "reference" / "pruners.html").read_text()
    # Two lines of a docstring, joined; the base that they point to is there.
    assert re.search(r"schedule, scope, structure, .*drop_fraction, seed", text)
    assert "keras_app.pruners.dynamic.DynamicPruner" in ids(
        site / "reference" / "pruners.html"
    )
    assert "&gt;&gt;&gt;" in text and "<blockquote>" not in text


def test_names_in_the_text_lead_to_the_reference(site):
    text = (site / "export.html").read_text()
    link = r'href="reference/masks.html#[\w.]+"[^>]*><code>ka\.masks\.NM'
    assert re.search(link, text)


def test_commands_and_gin_files_say_what_they_take(site):
    commands = (site / "reference" / "commands.html").read_text()
    for flag in (
        "--gin_file",
        "--target",
        "--sparsity",
        "--quantize",
        "--grid",
    ):
        assert flag in commands
    files = (site / "reference" / "gin_files.html").read_text()
    for path in (ROOT / "gin").glob("*.gin"):
        assert path.name in files


def test_nothing_is_loaded_from_elsewhere(site):
    for path in site.rglob("*.html"):
        text = path.read_text()
        loaded = re.findall(r"<(?:script|img|iframe)[^>]+src=\"(\S+)\"", text)
        loaded += re.findall(r'<link[^>]+href="(\S+)"[^>]*rel="style', text)
        loaded += re.findall(r'<link[^>]+rel="style\S+ href="(\S+)"', text)
        assert loaded and not [x for x in loaded if "//" in x], path.name


@pytest.mark.parametrize(
    "title",
    [
        "Make a model faster",
        "Prune while fine-tuning",
        "Sparse from the first step",
        "Find a lottery ticket",
        "Learn from a stream",
        "Prune a language model",
        "Come from tfmot",
        "Write your own method",
        "Ship to Android, to a microcontroller, to a server",
    ],
)
def test_the_pages_are_named_by_their_tasks(site, title):
    pages = [path.read_text() for path in site.glob("*.html")]
    assert any(f">{title}<" in page for page in pages)
