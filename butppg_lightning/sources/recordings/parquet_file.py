"""Long recordings from Parquet files, whose columns state their names and types: tables as those of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.devices import recognise
from butppg_lightning.sources.recordings.names import printable, split_unit
from butppg_lightning.sources.recordings.table import FIRST_ROWS, Cells, read_table
from butppg_lightning.sources.recordings.table_layout import TableLayout
from butppg_lightning.sources.recordings.table_rows import check_turns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from butppg_lightning.sources.recordings.names import Selection
    from butppg_lightning.sources.recordings.recording import Recording

_ROWS = 2**19  # read together


def read(path: Path, selection: Selection) -> Recording:
    """Read a recording from a Parquet file; a damaged one makes pyarrow raise anything."""
    cells = ParquetCells(path)
    names = tuple(printable(name) for name in cells.columns)
    layout = TableLayout(names, tuple(split_unit(name)[1] for name in names), ",", 0)
    check_turns(path, layout, cells.first_rows(), selection)
    return read_table(cells, recognise(path, layout, []), selection)


class ParquetCells(Cells):
    """The cells of a Parquet file."""

    def __init__(self, path: Path) -> None:
        from pyarrow.parquet import ParquetFile

        self.path = path
        self.notes: dict[str, str] = {}
        self._file: Any = ParquetFile(path)
        self.columns: list[str] = self._file.schema_arrow.names

    def first_rows(self) -> list[list[str]]:
        """Return some rows as text."""
        batch = next(self._file.iter_batches(FIRST_ROWS), None)
        return [] if batch is None else [[str(cell) for cell in row.values()] for row in batch.to_pylist()]

    def frames(self, layout: TableLayout, columns: Sequence[int], decimal: str) -> Iterator[Any]:
        """Yield pandas DataFrames of the columns, by position, indexed by row (from 1)."""
        wanted = [column for column in columns if column < len(self.columns)]
        if len(set(self.columns)) < len(self.columns):
            raise UserError(f"{self.path} has two columns of one name; rename them")
        row = 1
        for batch in self._file.iter_batches(_ROWS, columns=[self.columns[column] for column in wanted]):
            table = batch.to_pandas(timestamp_as_object=False)[[self.columns[column] for column in wanted]]
            table.columns = wanted
            table[len(self.columns)] = None  # no row has a cell too many
            table.index = range(row, row + len(table))
            row += len(table)
            yield table
