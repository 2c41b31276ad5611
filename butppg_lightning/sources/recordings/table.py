"""Long recordings from tables: CSV, TSV, semicolons with decimal commas, blanks; compressed or not, of any encoding.

Names stand above the rows of numbers, with units in brackets or below them. One column holds the time (numbers of a
stated or guessed unit, or dates), unless ``--fs`` or a line above the names gives the rate. Empty cells are missing
samples, so that channels of different rates can share a table.
"""

from __future__ import annotations

import io
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.devices import recognise
from butppg_lightning.sources.recordings.even_sampling import even_samples
from butppg_lightning.sources.recordings.names import TIME, NoSignalError, Selection, listed, match_channels, printable
from butppg_lightning.sources.recordings.numbers import NumberColumn, find_decimal, settle_points
from butppg_lightning.sources.recordings.recording import LOWEST_RATE, Channel, Recording, assemble, empty_samples
from butppg_lightning.sources.recordings.stamps import TIME_UNITS, ClockRules, TimeColumn, Timeline
from butppg_lightning.sources.recordings.table_layout import SPACES, TableLayout, find_layout, split_cells
from butppg_lightning.sources.recordings.table_rows import (
    Passed,
    check_quotes,
    check_tables,
    check_times,
    check_turns,
    date_column,
)
from butppg_lightning.sources.recordings.text_file import TextFile
from butppg_lightning.threads import ahead

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from butppg_lightning.npz import Array

FIRST_ROWS = 400  # looked at to find out what a table is of
_HIGHEST_GUESSED_RATE = 300.0  # Hz of a PPG, where the unit of time was guessed
_FEWEST_TWICE = 10  # rows that repeat the one above, below which it may be chance
_SAME_RATE = 0.05  # share by which a stated rate and that of the times may differ
_USUAL_RATES = (400.0, 500.0, 512.0, 1000.0, 1024.0)  # Hz, also believed


class Cells:
    """The cells of a table, block by block; in a kind of file whose numbers are no text, unless a subclass says so."""

    path: Path
    notes: dict[str, str]  # what was passed over, a line each

    @abstractmethod
    def frames(self, layout: TableLayout, columns: Sequence[int], decimal: str) -> Iterator[Any]:
        """Yield pandas DataFrames of the columns, by position, indexed by line number (from 1)."""

    def decimal(self, layout: TableLayout, columns: Sequence[int]) -> tuple[str, str]:
        """Return the decimal sign of the columns' numbers, and what had to be assumed for it (else empty)."""
        return ".", ""

    def texts(self, layout: TableLayout, column: int) -> Iterator[Any]:
        """Yield a column's cells as text, pandas Series."""
        return iter(())

    def cut(self, layout: TableLayout) -> int | None:
        """Return how many lines a part of the file needs in front, or None if it cannot be cut by lines."""
        return None


def read(path: Path, selection: Selection) -> Recording:
    """Read a recording from a table whose layout is found from its first lines; the module's docstring says which."""
    file = TextFile(path)
    layout = find_layout(path, file.lines)
    lines = [line for line in file.lines[layout.skipped :] if line.strip()][:FIRST_ROWS]
    rows = [split_cells(line, layout.separator) for line in lines]
    layout = recognise(path, layout, rows)
    check_tables(path, layout, file.lines)
    check_turns(path, layout, rows, selection)
    return read_table(TextCells(file), layout, selection)


def read_table(cells: Cells, layout: TableLayout, selection: Selection) -> Recording:
    """Read a recording from a table of a known layout."""
    path, names = cells.path, layout.names
    if not (layout.named or layout.channels or selection.channels):
        raise NoSignalError(
            f"{path} has no column names; say which of its {len(names)} columns is what: --channels TIME=1,PPG=2 "
            "(or --channels PPG=1 and the rate of its rows in Hz: --fs RATE)"
        )
    found = match_channels(path, names, selection, timed=True, known=layout.channels)
    time_row = found.pop(TIME, None)
    check_times(path, names, time_row, found)
    rates = {channel: selection.rate(channel) or layout.rate for channel in found}
    if time_row is None and not all(rates.values()):
        raise UserError(
            f"{path} has no time column among {listed(names)}; "
            "name it (--channels TIME=...), or give the rate of its evenly sampled rows (--fs)"
        )
    if time_row is None and selection.time_unit is not None:
        raise UserError(f"{path} has no time column among {listed(names)}; drop --time-unit, or name it")
    wanted = [*found.values(), *([] if time_row is None else [time_row])]
    decimal, assumed = (selection.decimal, "") if selection.decimal else cells.decimal(layout, wanted)
    columns = {row: NumberColumn(path, names[row], decimal) for row in found.values()}
    time = None
    if time_row is not None:
        rules = ClockRules(selection.time_unit, layout.epoch, decimal, rates[next(iter(found))], cells.cut(layout))
        time = TimeColumn(path, names[time_row], layout.units[time_row], rules, time_row)
    passed = _fill(cells, layout, columns, time)
    if decimal == "." and selection.decimal is None:
        assumed = _settle_points(cells, layout, columns if time is None else {**columns, time.row: time})
    timeline = None if time is None else time.seconds()
    channels, notes = {}, list(cells.notes.values())
    for channel, row in found.items():
        rate = rates[channel] if timeline is None else selection.rate(channel)
        unit = layout.units[row]
        samples = _evenly(path, names[row], columns.pop(row), timeline, rate, notes)
        if channel.startswith("ACC") and layout.scale != 1:
            samples[2][:] *= np.float32(layout.scale)
            unit = "g"
        channels[channel] = Channel(channel, names[row], *samples, unit)
    start = layout.start if timeline is None or timeline.start is None else timeline.start
    first = min(channel.start for channel in channels.values())
    recording = assemble(path, channels, start, names, selection.acc_unit)
    recording.device = layout.device
    recording.notes += passed + notes
    recording.guesses += [assumed] if assumed else []
    if timeline is None:
        if layout.rate and not selection.rates:
            where = f"its {layout.device} file says" if layout.device else "its names or the lines above them say"
            recording.notes.append(f"sampled at {layout.rate:g} Hz, as {where}")
    elif time is not None:
        recording.clock = None if timeline.clock is None else timeline.clock + first
        recording.guesses += time.guesses
        recording.notes += time.notes
        if time.guessed_unit:
            _check_guessed_rate(recording, time.guessed_unit)
        by_time = {channel.rate for channel in recording.channels.values()}
        if layout.rate and not any(abs(one / layout.rate - 1) < _SAME_RATE for one in by_time):
            told = ", ".join(f"{one:.4g}" for one in sorted(by_time))
            recording.notes.append(f"{layout.rate:g} Hz is stated, but its times make {told} Hz, which is used")
    return recording


def _evenly(
    path: Path, name: str, column: NumberColumn, timeline: Timeline | None, rate: float | None, notes: list[str]
) -> tuple[float, float, Array]:
    """Return a column's rate (Hz), the time of its first sample (s), and its samples ``[T]`` with NaN for gaps."""
    values, filled = column.take()
    if timeline is not None and timeline.order is not None:
        rows = empty_samples(path, name, len(filled))
        rows[filled] = values
        rows = rows[timeline.order]
        filled = ~np.isnan(rows)
        values = rows[filled]
    if timeline is not None and len(values):
        own = timeline.seconds if filled.all() else timeline.seconds[filled]
        own, values = _once(name, own, values, notes)
        return even_samples(path, name, own, values, rate)
    samples = empty_samples(path, name, len(filled))
    samples[filled] = values
    return rate or LOWEST_RATE, 0.0, samples  # a column without numbers has no rate; assemble() drops it


def _once(name: str, stamps: Array, values: Array, notes: list[str]) -> tuple[Array, Array]:
    """Return rows without those that were written twice, with the same time and the same sample."""
    again = np.diff(stamps) == 0
    count = np.count_nonzero(again)
    if count < _FEWEST_TWICE:
        return stamps, values
    equal = np.diff(values) == 0
    if not equal[again].all() or np.count_nonzero(equal) - count > (len(equal) - count) / 2:
        return stamps, values
    notes.append(f"{count:,} rows repeat the time and the sample of '{name}' above them and have been passed over")
    first = np.append(True, ~again)
    return stamps[first], values[first]


def _fill(cells: Cells, layout: TableLayout, columns: dict[int, NumberColumn], time: TimeColumn | None) -> list[str]:
    """Read the cells of the columns of numbers and of the time column; returns what was passed over, a line each."""
    extra = len(layout.names)  # the column that a row with a cell too many fills
    time_row = None if time is None else time.row
    days = None if time_row is None else date_column(layout.names, time_row)
    wanted = [*columns, extra, *(row for row in (time_row, days) if row is not None)]
    decimal = next(iter(columns.values())).decimal
    passed = Passed(cells.path, layout.names, time_row)
    for whole in cells.frames(layout, list(dict.fromkeys(wanted)), decimal):
        table = passed.over(whole, list(columns))
        long = table.index[table[extra].notna()]
        if len(long):
            raise UserError(
                f"{cells.path}, line {long[0]}: the row has more cells than there are columns ({extra}); mend it"
            )
        if time is not None:
            empty = table[[*columns]].isna().all(axis=1)  # lines, if their times are empty too
            if empty.any():
                table = table[~(empty & table.isna().all(axis=1))]
            time.add(table[time.row], None if days is None else table[days])
        for row, column in columns.items():
            column.add(table[row])
    return passed.notes()


def _settle_points(cells: Cells, layout: TableLayout, columns: Mapping[int, NumberColumn | TimeColumn]) -> str:
    """Refuse points that may group thousands beside smaller numbers; return what is assumed where there are none."""
    if any(column.points.decided for column in columns.values()):
        return ""
    doubtful = {row: column.name for row, column in columns.items() if column.points.doubtful}
    told = [settle_points(cells.path, name, cells.texts(layout, row)) for row, name in doubtful.items()]
    return next(filter(None, told), "")


def _check_guessed_rate(recording: Recording, unit: str) -> None:
    ppg = recording.channels.get("PPG")
    if ppg is None or ppg.rate <= _HIGHEST_GUESSED_RATE:
        return
    if not any(abs(ppg.rate / usual - 1) < 0.005 for usual in _USUAL_RATES):
        raise UserError(
            f"{recording.path} states no unit of time; as {unit} its PPG would have {ppg.rate:.4g} Hz, which no sensor "
            f"has: give --time-unit ({', '.join(TIME_UNITS)})"
        )


class TextCells(Cells):
    """The cells of a table of text."""

    def __init__(self, file: TextFile) -> None:
        self.file, self.path, self.notes = file, file.path, file.notes

    def decimal(self, layout: TableLayout, columns: Sequence[int]) -> tuple[str, str]:
        """Return the decimal sign that the cells themselves decide, and what had to be assumed for it (else empty)."""

        def parse(block: bytes, line: int) -> Any:
            return self._parse(layout, columns, line, block, dtype=str)

        return find_decimal(self.path, layout.names, layout.separator, self._blocks(layout), parse)

    def frames(self, layout: TableLayout, columns: Sequence[int], decimal: str) -> Iterator[Any]:
        """Return pandas DataFrames of the columns, one after the other, by position, indexed by line number."""
        # pandas cannot take one sign for both, and would read the quoted "1.017" as 1.017
        how: dict[str, Any] = (
            {"dtype": str} if decimal == layout.separator else {"decimal": decimal, "low_memory": False}
        )

        def parse(lines: tuple[int, bytes]) -> Any:
            return self._parse(layout, columns, *lines, **how)

        return ahead(parse, self._blocks(layout), threads=1)

    def texts(self, layout: TableLayout, column: int) -> Iterator[Any]:
        """Yield a column's cells as text, pandas Series."""
        for line, block in self._blocks(layout):
            yield self._parse(layout, [column], line, block, dtype=str)[column]

    def cut(self, layout: TableLayout) -> int | None:
        """Return how many lines a part of the file needs in front, or None if it cannot be cut by lines."""
        return layout.skipped if self.file.plain else None

    def _blocks(self, layout: TableLayout) -> Iterator[tuple[int, bytes]]:
        """Yield blocks of lines, without a last line that was cut off: nothing ends it, and it has fewer cells."""
        last = b""
        for line, block in self.file.blocks(layout.skipped):
            if line == self.file.unended and last and _width(block, layout) < _width(last, layout):
                self.file.notes["cut"] = f"line {line}, the last one, is cut off and has been passed over"
                return
            yield line, block
            last = block.rpartition(b"\n")[2]

    def _parse(self, layout: TableLayout, columns: Sequence[int], line: int, block: bytes, **options: Any) -> Any:
        import pandas as pd

        # pandas takes the number of columns from a block's longest row: the row put in front has them all
        width = len(layout.names) + 1
        front = (" " if layout.separator == SPACES else layout.separator).join("0" * width).encode()
        try:
            table = pd.read_csv(
                io.BytesIO(front + b"\n" + block),
                sep=layout.separator,
                header=None,
                names=range(width),
                usecols=list(columns),
                index_col=False,
                skip_blank_lines=False,
                skipinitialspace=True,
                encoding_errors="replace",
                **options,
            )
        except (pd.errors.ParserError, ValueError, OverflowError) as error:
            reason = printable(str(error))[:120]
            told = f"{self.path}, in the rows from line {line}: not a table of text ({reason}); mend it"
            raise UserError(told) from None
        if len(table) < block.count(b"\n") + 2:
            check_quotes(self.path, block, line, layout.separator)
        table.index = range(line - 1, line - 1 + len(table))
        return table.iloc[1:]


def _width(line: bytes, layout: TableLayout) -> int:
    return len(split_cells(line.decode("utf-8", "replace"), layout.separator))
