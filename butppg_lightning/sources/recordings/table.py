"""Long recordings from tables of text: CSV, TSV, semicolons with decimal commas.

The first line that is neither empty nor a ``#`` comment names the columns, with units in brackets if there are any; a
line of units may follow. One column holds the time (seconds, ISO time stamps, or ms, µs, ns), unless ``--fs`` gives
the rate. Empty cells are missing samples, so that channels of different rates can share a table.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.names import TIME, Selection, listed, match_channels, printable, split_unit
from butppg_lightning.sources.recordings.recording import LOWEST_RATE, Channel, Recording, assemble, empty_samples
from butppg_lightning.sources.recordings.table_columns import NumberColumn, TimeColumn, even_samples

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_HEAD_BYTES = 2**16  # looked at to find the layout
_EMPTY = {"", "na", "nan", "null", "none", "-"}
_BLOCK_BYTES = 2**24  # of text parsed together; bounds the memory it takes, and the length of a line


@dataclass(frozen=True)
class TableLayout:
    """How a table is laid out; a device's own layout is one of these, which :func:`read_table` reads."""

    names: tuple[str, ...]  # of the columns, printable, with their units
    units: tuple[str, ...]  # of the columns as the file spells them; empty where it does not say
    separator: str  # between the cells
    decimal: str  # . or ,
    skipped: int  # lines before the first row of numbers


def read(path: Path, selection: Selection) -> Recording:
    """Read a recording from a table whose layout is found from its first lines; the module's docstring says which."""
    return read_table(path, find_layout(path), selection)


def read_table(path: Path, layout: TableLayout, selection: Selection) -> Recording:
    """Read a recording from a table of a known layout."""
    found = match_channels(path, layout.names, selection, timed=True)
    time_row = found.pop(TIME, None)
    if time_row is None and not all(selection.rate(channel) for channel in found):
        raise UserError(
            f"{path} has no time column among {listed(layout.names)}; "
            "name it (--channels TIME=...), or give the rate of its evenly sampled rows (--fs)"
        )
    columns, time = _read_cells(path, layout, list(found.values()), time_row)
    stamps, start_time = time.seconds() if time is not None else (None, None)
    channels = {}
    for channel, row in found.items():
        name, rate, start = layout.names[row], selection.rate(channel), 0.0
        values, filled = columns.pop(row).take()
        if stamps is not None and len(values):
            own = stamps if filled.all() else stamps[filled]
            rate, start, samples = even_samples(path, name, own, values, rate)
        else:
            samples = empty_samples(path, name, len(filled))
            samples[filled] = values
        # a column without numbers has no rate; assemble() drops it
        channels[channel] = Channel(channel, name, rate or LOWEST_RATE, start, samples, layout.units[row])
    recording = assemble(path, channels, start_time, layout.names, selection.acc_unit)
    if time is not None:
        recording.guesses += time.guesses
    return recording


def _read_cells(
    path: Path, layout: TableLayout, wanted: Sequence[int], time_row: int | None
) -> tuple[dict[int, NumberColumn], TimeColumn | None]:
    """Read columns of numbers, by their position, and the time column."""
    time = None if time_row is None else TimeColumn(path, layout.names[time_row], layout.units[time_row])
    columns = {row: NumberColumn(path, layout.names[row]) for row in wanted}
    extra = len(layout.names)  # the column that a row with a cell too many fills
    for line, block in _blocks(path, layout.skipped):
        table = _parse(path, layout, block, [*wanted, extra] + ([] if time_row is None else [time_row]), line)
        long = table.index[table[extra].notna()]
        if len(long):
            raise UserError(f"{path}, line {long[0]}: the row has more cells than there are columns ({extra}); mend it")
        if time is not None:
            table = table[table.notna().any(axis=1)]  # empty lines
            time.add(table[time_row])
        for row, column in columns.items():
            column.add(table[row])
    return columns, time


def _blocks(path: Path, skipped: int) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines, and the number of the first of them (from 1)."""
    with path.open("rb") as file:
        for _ in range(skipped):
            file.readline()
        line, rest = skipped + 1, b""
        while block := file.read(_BLOCK_BYTES):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if len(rest) > _BLOCK_BYTES:
                raise UserError(f"{path}, line {line}: the line does not end; this is no table of text")
            if newline:
                yield line, whole
                line += whole.count(b"\n") + 1
        if rest.strip():
            yield line, rest


def _parse(path: Path, layout: TableLayout, block: bytes, columns: list[int], line: int) -> Any:
    import pandas as pd

    # pandas takes the number of columns from a block's longest row: the row put in front has them all
    front = layout.separator.join("0" * (len(layout.names) + 1)).encode()
    try:
        table = pd.read_csv(
            io.BytesIO(front + b"\n" + block),
            sep=layout.separator,
            decimal=layout.decimal,
            header=None,
            names=range(len(layout.names) + 1),
            usecols=columns,
            index_col=False,
            skip_blank_lines=False,
            skipinitialspace=True,
            low_memory=False,
            encoding_errors="replace",
        )
    except (pd.errors.ParserError, ValueError, OverflowError) as error:
        reason = printable(str(error))[:120]
        raise UserError(f"{path}, in the rows from line {line}: not a table of text ({reason}); mend it") from None
    table.index = range(line - 1, line - 1 + len(table))
    return table.iloc[1:]


def find_layout(path: Path) -> TableLayout:
    """Find a table's layout from its first lines: comments, a line of names, maybe one of units, rows of numbers."""
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
    commas = separator != "," and any(re.fullmatch(r"[-+]?\d*,\d+(e[-+]?\d+)?", cell.lower()) for cell in first)
    return TableLayout(tuple(names), tuple(units), separator, "," if commas else ".", skipped)


def _cells(line: str, separator: str) -> list[str]:
    cells = next(csv.reader([line.replace("\r", " ")], delimiter=separator, strict=False), [])
    while cells and not cells[-1].strip():  # a separator at the end of the line
        cells.pop()
    return [printable(cell.strip().strip("'")) for cell in cells]


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
