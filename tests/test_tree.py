"""The tree reads as a newcomer reads it: no circles of files, one class and one file a name."""

import ast
from collections import Counter, defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "attnviz"
ROLES = {"__init__", "run", "compare", "explore"}
"""Basenames that stand in several rooms: a room's front, its main step, a command and its room."""
PRIVATE = {"told", "said", "whence", "had", "kept", "known", "met", "own"}
"""Words that are no names: they say how a thing came, not what it is."""


def modules() -> dict[str, ast.Module]:
    """Every module by its dotted name, parsed."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(tree: ast.Module, names: set[str]) -> set[str]:
    """Modules of ours that one imports, those inside of functions included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole & names or {node.module}
            found |= {node.module} if whole - names else set()
    return found & names


def test_no_files_lean_on_each_other() -> None:
    trees = modules()
    graph = {name: imports(tree, set(trees)) - {name} for name, tree in trees.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_no_class_name_stands_twice() -> None:
    classes = Counter(
        node.name
        for tree in modules().values()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in classes.items() if count > 1] == []


def test_no_basename_stands_twice_but_for_rooms_roles() -> None:
    paths = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        paths[path.stem].append(path)
    assert {stem for stem, where in paths.items() if len(where) > 1} <= ROLES


def test_names_are_words_of_the_field() -> None:
    """Of functions, classes and their parameters."""
    odd = []
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.strip("_") in PRIVATE:
                odd.append(f"{module}.{node.name}")
            if isinstance(node, ast.FunctionDef):
                every = [*node.args.args, *node.args.kwonlyargs]
                odd += [f"{module}.{node.name}({a.arg})" for a in every if a.arg in PRIVATE]
    assert odd == []
