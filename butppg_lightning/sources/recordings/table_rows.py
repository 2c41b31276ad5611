"""Rows of a table that are none, or not of one signal: lines between them, several sensors in turn, several tables."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.console import quoted
from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.names import known_names, numbered, printable, split_unit
from butppg_lightning.sources.recordings.numbers import EMPTY
from butppg_lightning.sources.recordings.table_layout import SPACES, TableLayout, is_figure, split_cells

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from butppg_lightning.sources.recordings.names import Selection

_TURNS = 0.2  # share of the rows before which the sensor changes, where rows of several take turns
_MOST_KINDS = 12  # sensors
_MOST_FIGURES = 20  # lines of numbers only that may stand above a table's names
_DATES = re.compile(r"date|day|datum|(recording|start|local)[ _]?date", re.IGNORECASE)
_KINDS = re.compile(
    r"(sensor|signal|channel|led|wavelength|colou?r|variable|measure(ment)?|parameter|metric|stream|source)"
    r"([ _]?(type|name|id|no|number|index))?|type|name|kind|id",
    re.IGNORECASE,
)


class Passed:
    """Passes over lines that are no rows (names once more, comments, totals), and counts them."""

    def __init__(self, path: Path, names: Sequence[str], time_row: int | None) -> None:
        self.path, self._names, self._time_row = path, names, time_row
        self._count, self._first = 0, ""

    def over(self, table: Any, columns: Sequence[int]) -> Any:
        """Return the table (a pandas DataFrame) without such lines."""
        stray = np.ones(len(table), dtype=bool)
        for column in columns:
            stray &= _no_number(table[column])
            if not stray.any():
                return table
        rows = table[stray]
        text = rows[rows.columns[0] if self._time_row is None else self._time_row].astype(str).map(printable)
        begins = rows[min(rows.columns)].astype(str).str.strip()
        none = begins.str.startswith(("#", "%")) & (begins.str.len() > 1)
        if self._time_row is not None:
            none |= ~text.map(is_figure) & ~text.str.lower().isin(EMPTY)
        else:
            none |= text == self._names[rows.columns[0]]
        rows = rows[none]
        if not len(rows):
            return table
        for line, cells in rows.iterrows():
            known = [printable(str(cell)) for cell in cells if isinstance(cell, str)]
            if (
                len(known) > 1
                and known_names(known)
                and not set(known) <= {*self._names, *(split_unit(name)[0] for name in self._names)}
            ):
                raise UserError(
                    f"{self.path}, line {line}: another table begins there ({', '.join(known)[:60]}); write each to a "
                    "file of its own"
                )
        self._first = self._first or f"{str(text[rows.index[0]])[:40]!r} in line {rows.index[0]}"
        self._count += len(rows)
        return table.drop(rows.index)

    def notes(self) -> list[str]:
        """Return what was passed over, in one line."""
        return [f"lines that are no rows have been passed over: {self._count}, first {self._first}"] * bool(self._count)


def _no_number(cells: Any) -> Any:
    empty = cells.isna().to_numpy()
    if cells.dtype.kind in "iufMb":
        return empty
    text = cells.astype(str).str.strip()
    return empty | ~text.str.contains(r"^[^A-Za-z#%]*\d").to_numpy()


def date_column(names: Sequence[str], time_row: int) -> int | None:
    """Return the column of the dates that belong to a column of times of day, if there is one."""
    rows = [row for row, name in enumerate(names) if row != time_row and _DATES.fullmatch(split_unit(name)[0])]
    return rows[0] if len(rows) == 1 else None


def check_quotes(path: Path, block: bytes, line: int, separator: str) -> None:
    """Refuse rows that a quote without its end has made one cell of, which would be missing without a word."""
    sign = b" " if separator == SPACES else separator.encode()
    opened = 0
    lines = block.split(b"\n")
    usual = min(one.count(sign) for one in lines[:9] if one.strip())
    for number, one in enumerate(lines, line):
        if opened and one.count(sign) >= usual > 0 and re.match(rb"[\d.+-]", one.strip()):
            raise UserError(
                f"{path}, line {opened}: a quote opens there and does not end, so the rows below it cannot be told "
                "apart; remove that quote"
            )
        if one.count(b'"') % 2:
            opened = 0 if opened else number


def check_tables(path: Path, layout: TableLayout, lines: Sequence[str]) -> None:
    """Refuse a file with another table above the one that was found, which would be missing without a word."""
    above = [split_cells(line, layout.separator) for line in lines[: layout.skipped]]
    figures = [number for number, cells in enumerate(above) if any(cells) and all(map(is_figure, cells))]
    if layout.device or not layout.named or len(figures) <= _MOST_FIGURES:
        return
    begin = figures[-1] + 1
    first, second, source = (
        quoted(file) for file in (Path(f"{path.stem}_1{path.suffix}"), Path(f"{path.stem}_2{path.suffix}"), path)
    )
    raise UserError(
        f"{path} holds two tables, the second below line {begin}; part them: "
        f"head -n {begin} {source} > {first}; tail -n +{begin + 1} {source} > {second}"
    )


def check_turns(path: Path, layout: TableLayout, rows: Sequence[Sequence[str]], selection: Selection) -> None:
    """Refuse a table in whose first rows several sensors take turns: one signal would be made of them."""
    rows = [row for row in rows if len(row) >= len(layout.names)]
    for column, name in enumerate(layout.names):
        if layout.device or not _KINDS.fullmatch(split_unit(name)[0]) or name in selection.channels.values():
            continue
        kinds = [row[column] for row in rows]
        turns = sum(one != other for one, other in pairwise(kinds))
        if turns > _TURNS * len(rows) and 1 < len(set(kinds)) <= _MOST_KINDS:
            raise UserError(_take_turns(path, layout, column, list(dict.fromkeys(kinds))))


def check_times(path: Path, names: Sequence[str], time_row: int | None, found: Mapping[str, int]) -> None:
    """Refuse channels in front of which a time of their own stands, other than the one that all would go by."""
    if time_row is None or time_row + 1 not in found.values():
        return
    for row, name in enumerate(names):
        word = re.sub(r"[^a-z]", "", split_unit(name)[0].lower())
        if row <= time_row + 1 or row + 1 not in found.values() or not re.search(r"time(stamp)?s?$", word):
            continue
        own = [channel for channel, column in found.items() if column > row]
        choice = ",".join([f"TIME={numbered(names, time_row)}", *(f"{channel}=none" for channel in own)])
        raise UserError(
            f"{path}: {', '.join(own)} have a time of their own, '{name}', and one table is read by one time; leave "
            f"them out: --channels {quoted(choice)} (or write each time and its signals to a file of its own)"
        )


def _take_turns(path: Path, layout: TableLayout, column: int, kinds: Sequence[str]) -> str:
    told = (
        f"{path} has rows of several sensors in turn ({', '.join(kinds)[:60]} in '{layout.names[column]}'); write each "
        "one's to a file of its own"
    )
    if layout.separator == SPACES or path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return told
    target = quoted(Path(f"{path.stem}_part{path.suffix}"))
    test = quoted(f'NR <= {layout.skipped} || $c == k || $c == "\\"" k "\\""')
    return (
        f"{told}: awk -F {quoted(layout.separator)} -v c={column + 1} -v k={quoted(kinds[0])} {test} "
        f"{quoted(path)} > {target}"
    )
