"""What an installed package holds: it works in any folder."""

import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.backend_free

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = ("keras_app", "gin", "setup.py", "pyproject.toml", "README.md")
SOURCES += ("LICENSE",)
# What is included lies in the package, too.
SHORT = [
    "--gin_file=app.gin",
    "--gin_param=include 'models/mlp.gin'",
    "--gin_param=Anytime.epochs=1",
    "--gin_param=Anytime.milestones=()",
    "--gin_param=Anytime.methods=('app',)",
    "--gin_param=data.Megabatches.num_megabatches=1",
    "--gin_param=data.Megabatches.megabatch_size=200",
]


def python(*arguments, cwd, **environment):
    result = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built by way of a source distribution as a release is."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    code = "from setuptools import build_meta; build_meta.build_sdist('..')"
    python("-c", code, cwd=source)
    [archive] = source.parent.glob("*.tar.gz")
    pip = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    python(*pip, "--no-index", str(archive), cwd=source.parent)
    archive.unlink()
    [path] = source.parent.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel):
    """Runs Python with the wheel instead of the sources."""
    site, elsewhere = wheel.parent / "site", wheel.parent / "elsewhere"
    elsewhere.mkdir()
    pip = ["-m", "pip", "install", "--no-deps", "--no-index", "-q"]
    python(*pip, f"--target={site}", str(wheel), cwd=elsewhere)

    def run(*arguments):
        return python(*arguments, cwd=elsewhere, PYTHONPATH=str(site))

    code = (
        "import importlib.util\n"
        "print(importlib.util.find_spec('keras_app').origin)"
    )
    assert run("-c", code).strip() == str(site / "keras_app" / "__init__.py")
    return run


def test_a_wheel_holds_the_gin_files_the_data_and_the_licence(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    ours = {
        path.relative_to(ROOT / "gin").as_posix()
        for path in (ROOT / "gin").rglob("*.gin")
    }
    start = "keras_app/configs/"
    found = {x.removeprefix(start) for x in names if x.startswith(start)}
    assert found == ours and "app.gin" in found
    data = ROOT / "keras_app" / "experiments" / "data" / "tfds"
    shipped = {
        p.relative_to(ROOT).as_posix() for p in data.rglob("*") if p.is_file()
    }
    assert len(shipped) > 3 and shipped <= set(names)
    assert any(x.endswith(".dist-info/licenses/LICENSE") for x in names)
    # Type checkers look for it.
    assert "keras_app/py.typed" in names
    # A folder gin/ beside the package would hide the gin library.
    tops = {name.split("/")[0] for name in names}
    assert sorted(x for x in tops if "dist-info" not in x) == ["keras_app"]


def test_a_config_runs_from_any_folder(installed):
    told = installed("-m", "keras_app.train", *SHORT, "--run_dir=run")
    assert "app: mlp, 266,610 parameters" in told
    assert "run/report.html shows the run" in told


def test_the_console_command_is_the_module(wheel, installed):
    """Its script is called as pip writes it, by a name that it knows."""
    script = wheel.parent / "site" / "bin" / "keras-app"
    told = installed(str(script), "train", "--list")
    assert "\nmagnitude.gin " in told
    assert "  sweep     " in installed("-m", "keras_app", "--help")


def test_the_configs_are_listed_in_any_folder(installed):
    told = installed("-m", "keras_app.train", "--list")
    assert "\nmagnitude.gin " in told and "\nmodels/mlp.gin " in told


# ---- what is asked for -------------------------------------------------------

# Seen by each process that is started, too: its folder is on their path.
ONLY_WHAT_IS_ASKED_FOR = """
import sys

class Finder:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *arguments):
        if name.partition(".")[0] not in {absent!r}:
            return self.finder.find_spec(name, *arguments)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Finder, sys.meta_path)
"""
COMPRESSED = """
import keras
import numpy as np
import keras_app as ka

keras.utils.set_random_seed(0)
model = keras.Sequential([
    keras.Input((32,)), keras.layers.Dense(512, "relu"), keras.layers.Dense(4)
])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss)
x, y = np.random.default_rng(0).normal(size=(64, 32)), np.arange(64) % 4
result = ka.compress(model, (x, y), "latency:0.9", epochs=2)
result.export("small.tflite")
ka.export.export_saved_model(model, "served")
"""


def required(name, found):
    """Adds a distribution and all that it requires without extras."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in found:
        return
    try:
        requirements = importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError:
        return  # for another platform
    found.add(name)
    for text in requirements:
        requirement = Requirement(text)
        if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
            required(requirement.name, found)


def test_nothing_is_missing_where_nothing_else_is_installed(tmp_path):
    found = set()
    required("keras_app", found)
    assert "keras" in found and "jax" not in found
    absent = {
        module
        for module, names in importlib.metadata.packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", n).lower() for n in names} & found
    }
    hidden = ONLY_WHAT_IS_ASKED_FOR.format(absent=absent)
    (tmp_path / "sitecustomize.py").write_text(hidden)
    environment = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "KERAS_BACKEND": "tensorflow",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    python("-c", COMPRESSED, cwd=tmp_path, **environment)
    assert (tmp_path / "small.tflite").stat().st_size
    assert (tmp_path / "served" / "saved_model.pb").stat().st_size
