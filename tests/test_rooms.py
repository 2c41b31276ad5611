"""Who may import whom: downwards only."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "butppg_lightning"
MAY_IMPORT = {
    "cli": {"tasks", "training", "data", "models", "export", "sources", "evaluation"},
    "tasks": {"training", "data", "models", "export", "evaluation"},
    "training": {"data", "models"},
    "data": set(),
    "export": {"models"},
    "evaluation": {"models"},
    "sources": {"data", "models"},  # they write what data reads: stores and splits without shared windows
    "models": set(),
}
HEAVY = {
    "models": {"lightning"},
    "export": {"lightning"},
    "sources": {"lightning"},
    "evaluation": {"lightning"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_downwards(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        for module in imports(path):
            first, *rest = module.split(".")
            assert first not in HEAVY.get(room, set()), f"{path} imports {module}"
            if first == "butppg_lightning" and rest and rest[0] in MAY_IMPORT:
                assert rest[0] == room or rest[0] in MAY_IMPORT[room], f"{path} imports {module}"


def trees() -> Iterator[tuple[str, Path, ast.Module]]:
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        yield name, path, ast.parse(path.read_text())


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Also not for annotations only, and not within a room."""
    found = {name: tree for name, _, tree in trees() if name != PACKAGE.name}
    graph: dict[str, set[str]] = {}
    for name, tree in found.items():
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        named = {(node.module, alias.name) for node in nodes for alias in node.names}
        wanted = {f"{module}.{item}" if f"{module}.{item}" in found else module for module, item in named}
        graph[name] = (wanted & found.keys()) - {name}
    TopologicalSorter(graph).prepare()


def test_no_function_is_longer_than_sixty_lines() -> None:
    long = [
        f"{path}: {node.name}, {node.end_lineno - node.lineno + 1} lines"
        for _, path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert not long
