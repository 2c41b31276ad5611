"""The cells of a table of text, a block of lines at a time."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.csv_columns import NumberColumn, TimeColumn
from butppg_lightning.sources.recordings.selection import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from butppg_lightning.sources.recordings.csv_layout import TableLayout

_BLOCK_BYTES = 2**24  # of text parsed together; bounds the memory it takes, and the length of a line


def read_cells(
    path: Path, layout: TableLayout, wanted: Sequence[int], time_row: int | None
) -> tuple[dict[int, NumberColumn], TimeColumn | None]:
    """Read columns of a table.

    Args:
        path: The file.
        layout: Its layout.
        wanted: Positions of the columns of numbers.
        time_row: Position of the time column, or None.

    Returns:
        The columns of numbers by position, and the time column.

    Raises:
        UserError: If a cell is no number, a row or a line is too long, or the time is wrong.
    """
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
