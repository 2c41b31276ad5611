"""How a table of text is laid out: separator, decimal sign, names and units of its columns."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.names import printable, split_unit

if TYPE_CHECKING:
    from pathlib import Path

_HEAD_BYTES = 2**16  # looked at to find the layout
_EMPTY = {"", "na", "nan", "null", "none", "-"}


@dataclass(frozen=True)
class TableLayout:
    """How a table is laid out.

    Attributes:
        names: Column names, printable, with their units.
        units: Unit of each column as the file spells it; empty where it does not say.
        separator: Between the cells.
        decimal: ``.`` or ``,``.
        skipped: Lines before the first row of numbers.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    separator: str
    decimal: str
    skipped: int


def find_layout(path: Path) -> TableLayout:
    """Find a table's layout from its first lines.

    Args:
        path: The file: ``#`` comments and empty lines, a line of names, maybe a line of units, rows of numbers.

    Raises:
        UserError: If it is no text, empty, or has no line of names.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if b"\0" in head:
        raise UserError(f"{path} is not a text table: it holds zero bytes; save it as CSV in UTF-8")
    if b"\r" in head and b"\n" not in head:
        raise UserError(f"{path}: its lines end in carriage returns alone; save it with line feeds")
    lines = head.decode("utf-8-sig", errors="replace").split("\n")
    number = next((row for row, line in enumerate(lines) if line.strip() and not line.startswith("#")), None)
    if number is None:
        raise UserError(f"{path} is empty; expected a line of column names and rows of numbers")
    separator = max(",;\t", key=lines[number].count)
    names = _cells(lines[number], separator)
    if all(_is_number(name) or name.lower() in _EMPTY for name in names):
        raise UserError(
            f"{path}: line {number + 1} holds numbers where the column names should be; put a line such as "
            f"'time{separator}PPG{separator}ECG' on top"
        )
    rows = [_cells(line, separator) for line in lines[number + 1 : number + 3]]
    units = [split_unit(name)[1] for name in names]
    skipped = number + 1
    if rows and _is_units(rows[0]):
        given = [re.sub(r"^[\[(]|[\])]$", "", unit) for unit in rows[0]] + [""] * len(names)
        units = [unit or below for unit, below in zip(units, given, strict=False)]
        skipped += 1
    first = rows[skipped - number - 1] if len(rows) > skipped - number - 1 else []
    if not any(first):
        raise UserError(f"{path} has column names, but no rows of numbers after line {skipped}")
    return TableLayout(tuple(names), tuple(units), separator, _decimal(first, separator), skipped)


def _cells(line: str, separator: str) -> list[str]:
    cells = next(csv.reader([line.replace("\r", " ")], delimiter=separator, strict=False), [])
    while cells and not cells[-1].strip():  # a separator at the end of the line
        cells.pop()
    return [printable(cell.strip().strip("'")) for cell in cells]


def _decimal(cells: list[str], separator: str) -> str:
    commas = separator != "," and any(re.fullmatch(r"[-+]?\d*,\d+(e[-+]?\d+)?", cell.lower()) for cell in cells)
    return "," if commas else "."


def _is_units(cells: list[str]) -> bool:
    # units hold no digit but a power: m/s2, s^-1; a row of data has a number or a time stamp
    words = [cell for cell in cells if cell.lower() not in _EMPTY]
    return bool(words) and all(not re.search(r"\d", re.sub(r"(?<=[a-zA-Z^⁻-])-?[1-3]", "", word)) for word in words)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True
