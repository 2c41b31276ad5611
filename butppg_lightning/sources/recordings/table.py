"""Long recordings from tables of text: CSV, TSV, semicolons with decimal commas.

The first line that is neither empty nor a ``#`` comment names the columns, with units in brackets if there are any; a
line of units may follow. One column holds the time (seconds, ISO time stamps, or ms, µs, ns), unless ``--fs`` gives
the rate. Empty cells are missing samples, so that channels of different rates can share a table.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.names import TIME, Selection, listed, match_channels, printable
from butppg_lightning.sources.recordings.recording import LOWEST_RATE, Channel, Recording, assemble, empty_samples
from butppg_lightning.sources.recordings.table_columns import NumberColumn, TimeColumn
from butppg_lightning.sources.recordings.table_layout import TableLayout, find_layout
from butppg_lightning.sources.recordings.time_stamps import even_samples

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_BLOCK_BYTES = 2**24  # of text parsed together; bounds the memory it takes, and the length of a line


def read(path: Path, selection: Selection) -> Recording:
    """Read a recording from a table whose layout is found from its first lines; the module's docstring states the form.

    Args:
        path: The file.
        selection: What the user says of its columns.

    Raises:
        UserError: If the table is empty or malformed, a cell is no number, or time is missing or goes backwards.
    """
    return read_table(path, find_layout(path), selection)


def read_table(path: Path, layout: TableLayout, selection: Selection) -> Recording:
    """Read a recording from a table of a known layout; arguments and errors as :func:`read`."""
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
