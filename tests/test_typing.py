"""What editors and type checkers see of the package."""

import ast
import dataclasses
import inspect
import os
import pathlib
import re
import subprocess
import sys
import types
import typing

import keras
import pytest

import keras_app as ka
from keras_app import oneshot
from keras_app import scorers
from keras_app.export.litert import targets

pytestmark = pytest.mark.backend_free

ROOT = pathlib.Path(__file__).parents[1]


def is_ours(thing):
    return getattr(thing, "__module__", "").startswith("keras_app")


def public_things(module, seen):
    """Functions and classes under the names that a module shows."""
    own = [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
        and name[0] != "_"
    ]
    for name in getattr(module, "__all__", own):
        value = getattr(module, name)
        if isinstance(value, types.ModuleType):
            if value.__name__.startswith("keras_app") and value not in seen:
                seen.add(value)
                yield from public_things(value, seen)
        elif callable(value) and is_ours(value):
            yield value


def is_keras_hook(cls, name):
    """Whether Keras, or Python, says what a method takes."""
    return any(
        name in vars(each) for each in cls.__mro__ if not is_ours(each)
    ) or (name[0] == "_" and name not in ("__init__", "__call__"))


def functions_of(thing):
    """`{name: function}` of what a user may call, itself or its methods."""
    if not inspect.isclass(thing):
        return {f"{thing.__module__}.{thing.__name__}": thing}
    found = {}
    for cls in filter(is_ours, thing.__mro__):
        for name, value in vars(cls).items():
            if isinstance(value, (classmethod, staticmethod)):
                value = value.__func__
            if isinstance(value, property):
                value = value.fget
            hook = name != "__init__" and is_keras_hook(cls, name)
            made = name == "__init__" and dataclasses.is_dataclass(cls)
            if inspect.isfunction(value) and not hook and not made:
                found[f"{cls.__module__}.{cls.__qualname__}.{name}"] = value
    return found


@pytest.fixture(scope="module")
def functions():
    found = {}
    for thing in public_things(ka, {ka}):
        found |= functions_of(thing)
    return found


@pytest.fixture(scope="module")
def classes():
    return [t for t in public_things(ka, {ka}) if inspect.isclass(t)]


def parameters_of(function):
    """Those that its own code names; not what `**kwargs` stands for."""
    hinted = function.__annotations__
    if hasattr(function, "__wrapped__") or inspect.isgeneratorfunction(
        function
    ):
        return list(inspect.signature(function).parameters.values())
    whole = inspect.Signature.from_callable(
        types.FunctionType(
            function.__code__,
            {},
            argdefs=function.__defaults__,
            closure=function.__closure__,
        )
    )
    return [
        each.replace(
            annotation=hinted.get(each.name, each.empty),
            default=(function.__kwdefaults__ or {}).get(
                each.name, each.default
            ),
        )
        for each in whole.parameters.values()
        if each.name not in ("self", "cls")
    ]


def test_public_functions_and_methods_are_found(functions):
    assert {
        "keras_app.oneshot.prune",
        "keras_app.experiments.compress.function.compress",
        "keras_app.experiments.models.networks.convnet",
        "keras_app.export.litert.export.export_litert",
        "keras_app.pruners.pruner.Pruner.__init__",
        "keras_app.pruners.pruner.Pruner.masks",
        "keras_app.masks.structures.mask_from_scores",
        "keras_app.schedules.OneShot.__call__",
    } <= set(functions)
    assert len(functions) > 350


def test_every_public_signature_says_its_types(functions):
    lacking = {}
    for name, function in functions.items():
        empty = inspect.Parameter.empty
        without = [
            p.name for p in parameters_of(function) if p.annotation is empty
        ]
        if "return" not in function.__annotations__:
            without.append("return")
        if without:
            lacking[name] = without
    assert lacking == {}


def test_the_types_resolve_and_admit_the_default_none(functions, classes):
    refusing = {}
    for name, function in functions.items():
        resolved = typing.get_type_hints(function)
        for parameter in parameters_of(function):
            if parameter.default is None:
                hint = resolved[parameter.name]
                if not admits_none(hint):
                    refusing[f"{name}.{parameter.name}"] = hint
    for cls in classes:
        resolved = typing.get_type_hints(cls)
        if not dataclasses.is_dataclass(cls):
            continue
        for field in dataclasses.fields(cls):
            if field.default is None and not admits_none(resolved[field.name]):
                refusing[f"{cls.__name__}.{field.name}"] = resolved[field.name]
    assert refusing == {}


def admits_none(hint):
    none = type(None)
    return hint in (typing.Any, none) or none in typing.get_args(hint)


def test_fields_say_what_they_hold(classes):
    vague = {
        f"{cls.__name__}.{field.name}": field.type
        for cls in classes
        if dataclasses.is_dataclass(cls)
        for field in dataclasses.fields(cls)
        if field.type in (object, tuple, list, dict)
    }
    assert vague == {}


# ---- one place for each list ------------------------------------------------


def test_checkers_see_the_public_names_and_nothing_lazy_is_missing():
    tree = ast.parse((ROOT / "keras_app" / "__init__.py").read_text())
    bound = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and "keras_app" in node.module:
            bound |= {alias.name for alias in node.names}
    assert bound - {"cli"} == set(ka.__all__)


def test_choices_are_those_of_what_is_chosen_from():
    names = set(typing.get_args(targets.TargetName))
    assert names == set(targets.TARGETS)
    methods, named = (
        typing.get_args(t) for t in (oneshot.Method, scorers.Scorer)
    )
    methods = {word for each in methods for word in typing.get_args(each)}
    assert set(typing.get_args(named[0])) == {
        "magnitude",
        "random",
        "snip",
        "taylor",
        "grasp",
        "synflow",
    }
    assert {m for m in methods if isinstance(m, str)} == set(oneshot.METHODS)


# What a constructor hands on as `**kwargs` stands in two places: where it is
# taken, and in the types.
def handed_on():
    for module in (ka.pruners, ka.optimizers):
        for name in module.__all__:
            for cls in getattr(module, name).__mro__:
                init = vars(cls).get("__init__")
                if not is_ours(cls) or init is None:
                    continue
                hint = init.__annotations__.get("kwargs")
                if typing.get_origin(hint) is typing.Unpack:
                    yield cls, typing.get_args(hint)[0]


# Refused, with words on what to use instead.
REFUSED = {"weight_decay", "use_ema", "ema_momentum", "ema_overwrite_frequency"}


@pytest.mark.parametrize("cls, types_", sorted(set(handed_on()), key=str))
def test_what_a_constructor_hands_on_is_typed_as_where_it_is_taken(cls, types_):
    own = {p.name for p in parameters_of(cls.__init__)}
    rest = {
        name: parameter
        for name, parameter in inspect.signature(cls).parameters.items()
        if name not in own and name != "kwargs"
    }
    named = typing.get_type_hints(types_)
    if issubclass(cls, keras.optimizers.Optimizer):
        allowed = set(rest) - set(named)
        assert allowed <= REFUSED and set(named) <= set(rest)
        return
    assert set(named) == set(rest)
    for name, parameter in rest.items():
        assert named[name] == parameter.annotation, name


# ---- a user's code, under a checker -----------------------------------------

USER = """
import numpy as np
import keras
import keras_app as ka

model = keras.Sequential()
x, y = np.zeros((8, 2)), np.zeros(8)

schedule = ka.schedules.PolynomialDecay(0.0, 0.9, 0, end_step=200)
ka.schedules.ConstantSparsity("half", 0)  # error: arg-type
pruner = ka.pruners.MagnitudePruner(schedule, scope="global", filters="dense")
ka.pruners.MagnitudePruner(schedule, scope="lyer")  # error: arg-type
ka.pruners.MagnitudePruner(0.9)  # error: arg-type
ka.pruners.MagnitudePruner(lambda step: (True, 0.5))
ka.pruners.MagnitudePruner(schedule, sparsity=0.5)  # error: call-arg
ka.pruners.RigL(schedule, drop_fraction=0.2, on_miss="raise")
ka.pruners.RigL(schedule, [(x, y)], on_miss="rise")  # error: arg-type
ka.pruners.SaliencyPruner(schedule, "snip", [(x, y)], bn_mode="inference")
ka.pruners.SaliencyPruner(schedule, "snap")  # error: arg-type
ka.pruners.MagnitudePruner(schedule, structure=ka.masks.NM(2, 4))
ka.pruners.MagnitudePruner(schedule, structure="2:4")  # error: arg-type
reveal_type(pruner.masks)  # note: dict[str, ndarray
reveal_type(ka.masks_of(model))  # note: dict[str, ndarray

optimizer = ka.optimizers.LinBreg(0.1, regularizers=ka.regularizers.L1(0.1))
ka.optimizers.LinBreg(regularizers="l1")  # error: arg-type
ka.optimizers.AdaBreg(bias_correction="first", clipnorm=1.0)  # error: arg-type
ka.optimizers.LinBreg(clipnorm="1")  # error: arg-type

report = ka.prune(model, 0.5, "wanda", data=x, structure=ka.masks.Block((1, 4)))
reveal_type(report.density)  # note: float
ka.prune(model, 0.5, "wander")  # error: arg-type
ka.compress(model, (x, y), "latency:0.5", epochs=3, quantize="int8")
ka.compress(model, (x, y), 0.5)  # error: arg-type
ka.compress(model, (x, y), "latency:0.5", quantize="int4")  # error: arg-type
ka.export.export_litert(model, "model.tflite", quantize="int8", data=x)
ka.export.export_litert(model, "model.tflite", target="tpu")  # error: arg-type
reveal_type(ka.export.export_onnx(model, "m.onnx").bytes)  # note: int
holdout = ka.experiments.data.Holdout((x, y), seed=1, batch_size=4)
summary = ka.experiments.Train(holdout, "mlp", epochs=2).run("runs/x")
ka.experiments.Train(holdout, "mlp", epochs="2")  # error: arg-type
ka.sparsify  # error: attr-defined


class Mine(ka.pruners.Pruner):
    not_configured = ("data",)

    def scores(self, variables: dict[str, keras.Variable]) -> dict:
        return self.magnitudes(variables)


Mine(schedule).prune(0.5)
Mine(schedule).prune("0.5")  # error: arg-type
"""


def test_mypy_reports_wrong_arguments_in_the_code_of_a_user(tmp_path):
    pytest.importorskip("mypy")
    path = tmp_path / "user.py"
    path.write_text(USER)
    settings = ["--config-file", str(ROOT / "pyproject.toml")]
    result = subprocess.run(
        [sys.executable, "-m", "mypy", *settings, str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "MYPY_CACHE_DIR": str(tmp_path / "cache")},
    )
    found, seen = {}, {}
    pattern = r"user\.py:(\d+): (error|note): (.*?)(?:  \[([a-z-]+)\])?$"
    for number, kind, words, code in re.findall(pattern, result.stdout, re.M):
        if kind == "error":
            found[int(number)] = code
        elif "Revealed" in words:
            seen[int(number)] = words
    expected, notes = {}, {}
    for number, line in enumerate(USER.splitlines(), start=1):
        if "# error: " in line:
            expected[number] = line.rpartition(": ")[2]
        if "# note: " in line:
            notes[number] = line.rpartition("# note: ")[2]
    assert found == expected, result.stdout + result.stderr
    assert seen.keys() == notes.keys()
    for number, words in notes.items():
        assert words in seen[number].replace("numpy.", ""), seen[number]
