"""Who may import whom: the library knows nothing of the experiments."""

import ast
import functools
import pathlib

import pytest

pytestmark = pytest.mark.backend_free

ROOT = pathlib.Path(__file__).parents[1]
EXPERIMENTS = "keras_app.experiments"
# What the command lines run may use both.
DOORS = {
    "keras_app.compress",
    "keras_app.prune",
    "keras_app.sweep",
    "keras_app.train",
}


@functools.cache
def modules():
    """`{dotted name: syntax tree}` of the package."""
    found = {}
    for path in sorted((ROOT / "keras_app").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name] = ast.parse(path.read_text())
    return found


def is_door(name):
    return name in DOORS or name.endswith(".__main__")


def imported(nodes):
    """The modules of the package that import statements name."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # `from package import module` needs the module, and of the
            # package only what stands before that import.
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {w if w in modules() else node.module for w in whole}
    return names & set(modules())


def is_for_checkers(node):
    """Whether nobody runs it: type checkers alone read it."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(
        node.test
    )


def at_once(tree):
    """The nodes that importing a module runs: all outside of functions."""
    for node in ast.iter_child_nodes(tree):
        if is_for_checkers(node):
            continue
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
            yield from at_once(node)


def ever(tree):
    """The nodes that a module may run."""
    for node in ast.iter_child_nodes(tree):
        if not is_for_checkers(node):
            yield node
            yield from ever(node)


def imports_by_name(tree):
    """The arguments of `importlib.import_module`, where they are literal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            if called == "import_module" and isinstance(
                node.args[0], ast.Constant
            ):
                yield node.args[0].value


def test_the_library_imports_nothing_of_the_experiments():
    wrong = {}
    for name, tree in modules().items():
        if name.startswith(EXPERIMENTS) or is_door(name):
            continue
        names = imported(ever(tree))
        names |= set(imports_by_name(tree))
        names = {each for each in names if each.startswith(EXPERIMENTS)}
        if names:
            wrong[name] = names
    assert wrong == {}


def test_a_reader_need_not_know_more_than_500_lines():
    files = (ROOT / "keras_app").rglob("*.py")
    lines = {path: len(path.read_text().splitlines()) for path in files}
    assert {path: n for path, n in lines.items() if n > 500} == {}


def test_the_doors_are_needed():
    doors = {
        name
        for name in DOORS
        if any(
            each.startswith(EXPERIMENTS)
            for each in imported(ast.walk(modules()[name]))
        )
    }
    assert doors == DOORS


def test_importing_the_package_loads_no_experiments():
    loaded, waiting = set(), {"keras_app"}
    while waiting:
        loaded |= waiting
        found = [imported(at_once(modules()[name])) for name in waiting]
        waiting = set().union(*found) - loaded
    assert "keras_app.pruners.magnitude" in loaded
    assert not {name for name in loaded if name.startswith(EXPERIMENTS)}


def test_no_module_imports_itself_through_others():
    edges = {
        name: imported(at_once(tree)) - {name}
        for name, tree in modules().items()
    }
    # Whoever imports nothing that is left is on no cycle.
    while True:
        leaves = {name for name, needed in edges.items() if not needed}
        if not leaves:
            break
        edges = {
            name: needed - leaves
            for name, needed in edges.items()
            if name not in leaves
        }
    assert edges == {}
