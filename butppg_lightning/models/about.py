"""What only its makers can say of a model: its version, its data, where it fails, how good it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError, first_line
from butppg_lightning.models.calibration import stored_calibration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

ABOUT_KEY = "about"
"""The key of an exported model's description that holds it."""
_TEXTS = ("name", "version", "trained_on", "config")
_LISTS = ("never_shown", "failures")
_TABLES = {  # with the keys of a row
    "sources": {"name", "licence", "attribution"},
    "figures": {"set", "channels", "people", "windows", "metric", "value", "interval"},
}


def read_about(paths: Iterable[Path]) -> dict[str, Any]:
    """Read YAML or JSON files; a later one replaces what an earlier one says of the same key.

    Every command that uses the model says ``name``, ``version`` and ``trained_on`` (a few words); ``config`` is that of
    the package to fine-tune it with. ``never_shown`` and ``failures`` are lists of sentences, ``sources`` and
    ``figures`` of rows; a figure's ``interval`` is its 95 % interval as two numbers, or null.

    Raises:
        UserError: If a file cannot be read or says anything else.
    """
    import yaml

    found: dict[str, Any] = {}
    for path in paths:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"--about {path} cannot be read: {first_line(error)}") from None
        if fault := about_fault(content):
            raise UserError(f"--about {path}: {fault}")
        found |= content
    return found


def about_fault(content: Any) -> str:
    """Return what is wrong with what a file says of a model, or nothing."""
    if not isinstance(content, dict) or not content.keys() <= {*_TEXTS, *_LISTS, *_TABLES}:
        return f"expected only the keys {', '.join((*_TEXTS, *_LISTS, *_TABLES))}"
    for key, value in content.items():
        if key in _TEXTS and not (isinstance(value, str) and value.isprintable()):
            return f"{key} is no line of text; put it in quotes"
        if key in _LISTS and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            return f"{key} is no list of sentences"
        if key in _TABLES and not (isinstance(value, list) and all(_is_row(row, key) for row in value)):
            numbers = " (value a number, interval two numbers or null)" if key == "figures" else ""
            return f"{key} is no list of rows with the keys {', '.join(sorted(_TABLES[key]))}{numbers}"
    return ""


def _is_row(row: Any, table: str) -> bool:
    if not isinstance(row, dict) or row.keys() != _TABLES[table]:
        return False
    interval = row.get("interval")
    if interval is not None and not (isinstance(interval, list) and len(interval) == 2):
        return False
    numbers = [row["value"], *(interval or [])] if table == "figures" else []
    # a date or NaN, which YAML knows, could not be written as JSON
    plain = all(isinstance(row[key], str | int | None) for key in row.keys() - {"value", "interval"})
    return plain and all(isinstance(number, int | float) and abs(number) < math.inf for number in numbers)


def identity(content: dict[str, Any]) -> dict[str, str] | None:
    """Return an exported model's name, version and ``trained_on``, as far as stated, with its ``weights_sha256``.

    ``calibrated_on`` is among them, because `butppg calibrate` changes its verdicts and leaves its weights. ``content``
    is what was read of it; None for a checkpoint and a model of which nothing is said.
    """
    about, digest = content.get(ABOUT_KEY), content.get("weights_sha256")
    if about is None or about_fault(about) or not isinstance(digest, str):
        return None
    known = {key: about[key] for key in _TEXTS[:3] if key in about}
    if source := stored_calibration(content, about.get("name", "the model")).source:
        known["calibrated_on"] = source
    return {**known, "weights_sha256": digest}


def in_words(known: Mapping[str, str]) -> str:
    """Return an identity as one line.

    Examples:
        >>> in_words({"name": "shipped", "version": "1.0", "trained_on": "BIDMC", "weights_sha256": 64 * "a"})
        "model 'shipped' 1.0, trained on BIDMC (SHA-256 aaaaaaaaaaaa)"
    """
    name, version = known.get("name", "unnamed"), known.get("version", "of no stated version")
    trained_on, digest = known.get("trained_on", "unstated data"), known["weights_sha256"][:12]
    calibrated = f", calibrated on {known['calibrated_on']}" if "calibrated_on" in known else ""
    return f"model '{name}' {version}, trained on {trained_on}{calibrated} (SHA-256 {digest})"
