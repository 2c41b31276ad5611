"""How a table of text is laid out: where its rows of numbers begin, what stands above them, and what parts the cells.

The rows decide it, not the first line: most lines of a table have one number of cells, and numbers in the same columns.
Names are found above the first such row, units between them; what stands above the names may state a rate.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.names import known_names, printable, split_unit
from butppg_lightning.sources.recordings.numbers import EMPTY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

SPACES = r"\s+"  # the separator of a table whose columns are parted by blanks
_SEPARATORS = (";", "\t", ",", "|", SPACES)
_MOST_LOOKED_AT = 400  # of the last lines that are known
_MOST_NAME_ROWS = 5  # names, units, and what else stands with them
_SIGNS = r"\s:.,/TZ+\-eE'%\u2019\u00a0\u202f\u2212"
_FIGURE = re.compile(rf"[{_SIGNS}]*\d[\d{_SIGNS}]*(?:[AaPp][Mm]|UTC|GMT)?")
_UNIT_WORDS = re.compile(
    r"m?g|m/\(?s(\^?2|²)\)?|m/s/s|ms\^?-2|s(ec(ond)?s?)?|m(illi)?s(ec(ond)?s?)?|[uµμn]s(ec)?|min|[muµn]?v(olts?)?"
    r"|n\.?u\.?|a\.?[du]?\.?u\.?|bpm|%|counts?|raw|lsb|d(eg)?(/s|ps)|rad/s|[muµ]t|°?c|(unit|no)[_ ]?(less|units?)"
    r"|[kmµu]?ohms?|[muµ]?s(iemens)?|k?hz|unix|text|yyyy.*|hh?:mm.*",
    re.IGNORECASE,
)
_RATE = re.compile(
    r"(?:sampl(?:ing|e)[\s_-]*(?:rate|freq\w*)|measurement[\s_-]*frequency|(?<![a-z])fs(?![a-z]))[^\d\n]{0,24}?"
    r"(\d+(?:[.,]\d+)?)(?![.,]?\d)\s*(k?)(?:hz|hertz)?(?!\s*(?:[a-z ]*/\s*min|[mµunμ]?s(?:ec)?\b|min))",
    re.IGNORECASE,
)
_INTERVAL = re.compile(
    r"(?:(?:sampl(?:e|ing)[\s_-]*)?(?:interval|period)\W{1,6}(\d+(?:[.,]\d+)?)\s*([mµuμ]?)s(?:ec)?\b"
    r"|^(\d+(?:[.,]\d+)?)\s*([mµuμ]?)s(?:ec)?/sample)",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"(?:low|high|band)[\s_-]*pass|filt|notch|cut[\s_-]*off|(?<![a-z])[lhb]pf?(?![a-z])", re.IGNORECASE
)


@dataclass(frozen=True)
class TableLayout:
    """How a table is laid out; a device's own layout is one of these, which ``table.read_table`` reads."""

    names: tuple[str, ...]  # of the columns, printable, with their units
    units: tuple[str, ...]  # of the columns as the file spells them; empty where it does not say
    separator: str  # between the cells; SPACES where blanks part them
    skipped: int  # lines before the first row of numbers
    named: bool = True  # whether the file names its columns; else they are called 1, 2 ...
    preamble: tuple[str, ...] = ()  # the lines above the names
    rate: float | None = None  # Hz, that the lines above the names state
    device: str = ""  # which known device wrote it
    channels: Mapping[str, int] = field(default_factory=dict)  # columns that the device's format fixes, by channel
    start: datetime | None = None  # when the first row was, where the lines above it say so
    epoch: datetime | None = None  # from which the device counts
    scale: float = 1.0  # g per unit of acceleration, where no unit says it


def find_layout(path: Path, lines: Sequence[str]) -> TableLayout:
    """Find a table's layout from its first lines."""
    separator, first_line = _stated_separator(lines)
    rows = [(number, line) for number, line in enumerate(lines) if number >= first_line and line.strip()]
    table = [(number, line) for number, line in rows if not line.startswith(("#", "%"))]
    if not table:
        raise UserError(f"{path} is empty; expected a line of column names and rows of numbers")
    separator = separator or _separator(table)
    cells = {number: split_cells(line, separator) for number, line in table}
    begin = _first_row([(number, cells[number]) for number, _ in table])
    if begin is None:
        last = table[-1][0] + 1
        raise UserError(
            f"{path} has no rows of numbers after line {last}; expected column names and numbers below them"
        )
    above = [number for number, _ in rows if number < begin]
    names, units, top = _names(lines, cells, above, separator, cells[begin])
    named = bool(names)
    names = names or [str(column + 1) for column in range(len(cells[begin]))]
    stated = [split_unit(name)[1] for name in names]
    below = [re.sub(r"^[\[(]|[\])]$", "", unit) for unit in units] + [""] * len(names)
    preamble = tuple(printable(lines[number]) for number in above if number < top)
    return TableLayout(
        tuple(names),
        tuple(unit or other for unit, other in zip(stated, below, strict=False)),
        separator,
        begin,
        named,
        preamble,
        _stated_rate(preamble) or _named_rate([path.stem, *names]),
    )


def split_cells(line: str, separator: str) -> list[str]:
    """Return the cells of a line, printable and without what surrounds them; one for each separator, and one more."""
    if separator == SPACES:
        return [printable(cell) for cell in next(csv.reader([" ".join(line.split())], delimiter=" ", strict=False), [])]
    cells = next(csv.reader([line.replace("\r", " ")], delimiter=separator, skipinitialspace=True, strict=False), [])
    return [printable(cell.strip().strip("'")) for cell in cells]


def is_figure(cell: str) -> bool:
    """Return whether a cell is a number or a time stamp of any spelling."""
    return bool(_FIGURE.fullmatch(cell))


def _stated_separator(lines: Sequence[str]) -> tuple[str, int]:
    for number, line in enumerate(lines[:3]):
        match = re.fullmatch(r"\"?sep=(.|\\t)\"?", line.strip("\r\n "), re.IGNORECASE)
        if match or line.strip(' "\r\n').lower() == "sep=":  # a tab that was stripped
            return (match[1].replace("\\t", "\t") if match else "\t"), number + 1
    return "", 0


def _separator(table: Sequence[tuple[int, str]]) -> str:
    """Return what parts the cells: it makes the most numbers of the last lines, all with one number of cells."""
    last = [line for _, line in table[len(table) // 2 :][-_MOST_LOOKED_AT:]]
    above = [line for _, line in table[:_MOST_NAME_ROWS]]
    best: tuple[float, ...] = (0.0, 0.0, 0.0)
    found = ","
    for separator in _SEPARATORS:
        split = [split_cells(line, separator) for line in last]
        width, often = Counter(map(len, split)).most_common(1)[0]
        filled = [cell for row in split for cell in row if cell.lower() not in EMPTY]
        numbers = sum(map(is_figure, filled)) / max(1, len(filled)) * often / len(split)
        named = any(len(split_cells(line, separator)) == width and not is_figure(line.strip()) for line in above)
        if separator == SPACES and best[2] > 1:
            break  # blanks within dates and names part nothing
        score = (round(numbers, 1), float(named and width > 1), float(width))
        if score > best:
            best, found = score, separator
    return found


def _first_row(rows: Sequence[tuple[int, list[str]]]) -> int | None:
    """Return the line of the first row of numbers: it has the usual number of cells, and numbers where the rest has."""
    last = [cells for _, cells in rows[len(rows) // 2 :][-_MOST_LOOKED_AT:]]
    width = Counter(map(len, last)).most_common(1)[0][0]
    usual = [cells for cells in last if len(cells) == width]
    columns = []
    for column in range(width):
        filled = [cells[column] for cells in usual if cells[column].lower() not in EMPTY]
        if filled and sum(map(is_figure, filled)) * 2 > len(filled):
            columns.append(column)
    timed = all(cells[0] for cells in usual)  # a row without a first cell is none: a count of samples, say
    found = None
    for row, (_, cells) in enumerate(rows):
        filled = [cells[column] for column in columns if column < len(cells) and cells[column].lower() not in EMPTY]
        if len(cells) == width and filled and all(map(is_figure, filled)) and (cells[0] or not timed):
            found = row
            break
    while found and (rows[found - 1][1][:1] != [""] or not timed) and _continues(rows, found, width, columns):
        found -= 1  # a spoiled row is one all the same: it is told where it is read
    return None if found is None else rows[found][0]


def _continues(rows: Sequence[tuple[int, list[str]]], row: int, width: int, columns: Sequence[int]) -> bool:
    number, cells = rows[row - 1]
    return number == rows[row][0] - 1 and len(cells) == width and any(is_figure(cells[column]) for column in columns)


def _names(
    lines: Sequence[str], cells: Mapping[int, list[str]], above: Sequence[int], separator: str, first: Sequence[str]
) -> tuple[list[str], list[str], int]:
    """Return the columns' names, what stands below them as units, and the line where the table begins."""
    width, filled = len(first), bool(first[-1])
    rows: list[tuple[int, list[str]]] = []
    for number in reversed(above[-_MOST_NAME_ROWS:]):
        row = cells.get(number)
        if row is None and not rows:  # numpy writes "# time,PPG"
            row = split_cells(lines[number].lstrip("#% "), separator)
            row = row if len(row) == width else None
        while row and not row[-1]:  # a separator at the end of the line
            row = row[:-1]
        if row and len(row) == width - 1 and filled and known_names(row):
            row = ["", *row]  # R writes no name above those of the rows
        as_wide = row is not None and width in (len(row), len(cells.get(number, row)))
        if not row or not (known_names(row) or _are_units(row) or (as_wide and not any(map(is_figure, row)))):
            break
        rows.append((number, row))
    if not rows:
        return [], [], above[-1] + 1 if above else 0
    place = max(
        range(len(rows)), key=lambda index: (not _are_units(rows[index][1]), known_names(rows[index][1]), -index)
    )
    number, names = rows[place]
    units = next((row for _, row in rows[:place] if _are_units(row)), rows[0][1] if place else [])
    return names, units, number


def _are_units(row: Sequence[str]) -> bool:
    words = [cell.lower().strip("[]() ") for cell in row if cell.lower() not in EMPTY]
    return bool(words) and sum(bool(_UNIT_WORDS.fullmatch(word)) for word in words) * 2 >= len(words)


def _named_rate(names: Sequence[str]) -> float | None:
    """Return the one rate (Hz) that a file's or its columns' names state (ppg_64Hz), or None."""
    names = [name for name in names if not _FILTERED.search(name)]
    found = {float(number) for name in names for number in re.findall(r"(\d+(?:\.\d+)?)\s*hz", name, re.IGNORECASE)}
    return found.pop() if len(found) == 1 else None


def _stated_rate(preamble: Sequence[str]) -> float | None:
    """Return the one sampling rate (Hz) that the lines above a table state, or None if they state none or several."""
    found = set()
    for line in preamble:
        for number, kilo in _RATE.findall(line):
            found.add(float(number.replace(",", ".")) * (1000 if kilo else 1))
        for one, size, other, scale in _INTERVAL.findall(line):
            seconds = float((one or other).replace(",", ".")) * {"": 1.0, "m": 1e-3}.get((size or scale).lower(), 1e-6)
            found |= {round(1 / seconds, 6)} if seconds else set()
    return found.pop() if len(found) == 1 else None
