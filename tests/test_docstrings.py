"""Runs the examples of the docstrings, as a reader would paste them."""

import doctest
import importlib
import pkgutil

import keras
import numpy as np
import pytest

import keras_app


def module_names():
    """Every module of the package but the command lines.

    The networks are left to their own tests: building them all takes long.
    """
    names = [keras_app.__name__]
    for found in pkgutil.walk_packages(keras_app.__path__, "keras_app."):
        names.append(found.name)
    return [
        name
        for name in names
        if not name.endswith("__main__")
        and not name.startswith("keras_app.experiments.models")
    ]


# Examples teach; they run on one backend, for the time that they take.
@pytest.mark.backend_free
@pytest.mark.parametrize("name", module_names())
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_examples_run_and_print_what_they_say(name, tmp_path, monkeypatch):
    # What an example writes stays out of the repository.
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    result = doctest.testmod(
        module,
        extraglobs={"keras": keras, "np": np, "keras_app": keras_app},
        optionflags=doctest.NORMALIZE_WHITESPACE,
    )
    assert result.failed == 0


def test_there_are_examples_to_run():
    finder = doctest.DocTestFinder()
    count = sum(
        len(test.examples)
        for name in module_names()
        for test in finder.find(importlib.import_module(name))
    )
    assert count >= 40


@pytest.mark.parametrize(
    "module",
    [
        "budgets",
        "distributions",
        "export",
        "compat.tfmot",
        "experiments.devices",
        "host",
        "initializers",
        "lottery",
        "masks",
        "optimizers",
        "pruners",
        "regularizers",
        "report",
        "schedules",
        "scorers",
    ],
)
def test_every_public_object_has_an_example(module):
    module = importlib.import_module(f"keras_app.{module}")
    public = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and value.__module__ == module.__name__
    ]
    # Helpers of the package's own rooms, errors, results that only functions
    # make, and exports, which may start a process each.
    known = {
        "DegenerateScores",
        "ExportReport",
        "Pruner",
        "PruningMissed",
        "PruningReport",
        "PruningSchedule",
        "SparsityRegularizer",
        "Unstructured",
        "VariableReport",
        "as_tensor",
        "batches_seen",
        "build",
        "carried",
        "check_bn_mode",
        "check_data",
        "check_int",
        "check_scorer",
        "check_scores",
        "check_sparsity",
        "count_of_writes",
        "export_litert",
        "export_onnx",
        "export_saved_model",
        "flops_per_sample",
        "hand_to_trainer",
        "known",
        "lend",
        "move_saved",
        "outside_the_graph",
        "patch_tf2onnx",
        "placed_like",
        "refuse_multi_worker",
        "sync",
        "take_back",
        "unalias",
        "without_gradients",
    }
    without = [
        name
        for name in public
        if name not in known
        and callable(getattr(module, name))
        and ">>>" not in (getattr(module, name).__doc__ or "")
    ]
    assert without == []
