"""Who may import whom: downwards only."""

import ast
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
