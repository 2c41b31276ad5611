"""A typed function with a docstring is a command."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from butppg_lightning.cli.parser import function_parser, run_function
from butppg_lightning.errors import UserError

CALLS: list[dict] = []


def brew(
    path: Path,
    *,
    pot_size: int,
    kind: Literal["green", "black"] = "green",
    herbs: list[str] | None = None,
    sugar: bool = False,
) -> None:
    """Brew tea.

    It takes long.

    Args:
        path: the kettle
        pot_size: in litres
        kind: of tea
        herbs: what else goes in
        sugar: whether sugar does

    Example:
        butppg brew kettle --pot_size 1
    """
    CALLS.append({"path": path, "pot_size": pot_size, "kind": kind, "herbs": herbs, "sugar": sugar})


DEFAULTS = {"path": Path("kettle"), "pot_size": 1, "kind": "green", "herbs": None, "sugar": False}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("kettle --pot_size 1", {}),
        ("--pot-size=1 kettle", {}),
        ("kettle --pot-size 1 --sugar", {"sugar": True}),
        ("kettle --sugar --pot-size 1", {"sugar": True}),
        ("kettle --pot-size 1 --sugar false", {"sugar": False}),
        ("kettle --pot-size 1 --sugar=true --kind black", {"sugar": True, "kind": "black"}),
        ("kettle --pot-size 1 --herbs mint A=1", {"herbs": ["mint", "A=1"]}),
        ("kettle --herbs a-b --pot-size 1", {"herbs": ["a-b"]}),
    ],
)
def test_what_is_typed_reaches_the_function(typed: str, expected: dict) -> None:
    CALLS.clear()
    run_function("brew", brew, typed.split())
    assert [{**DEFAULTS, **expected}] == CALLS


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("kettle", "missing: --pot_size; `--help` says"),
        ("--pot_size 1", "missing: path; `--help` says"),
        ("kettle --pot_size big", "--pot_size: expected int, got big"),
        ("kettle --pot_size 1 --kind red", "--kind: expected one of green, black, got red"),
        ("kettle --pot_size 1 --sugar maybe", "--sugar: expected bool, got maybe"),
        ("kettle --pot-sise 1", "unknown option --pot_sise; the nearest is --pot_size"),
        ("kettle --pot 1", "unknown option --pot; the nearest is --pot_size"),
    ],
)
def test_what_does_not_fit_ends_in_one_line(typed: str, expected: str) -> None:
    with pytest.raises(UserError) as found:
        run_function("brew", brew, typed.split())
    assert expected in str(found.value)
    assert "\n" not in str(found.value)


def test_the_help_is_the_docstring() -> None:
    text = function_parser("brew", brew).format_help()
    for part in (
        "Brew tea.\n\nIt takes long.\n\nExample:\n  butppg brew kettle --pot_size 1\n",
        "the kettle",
        "in litres",
    ):
        assert part in text
    assert "what else goes in" in text
    assert "Args:" not in text
