"""The columns of a table of text, collected block by block: numbers and times."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.names import printable
from butppg_lightning.sources.recordings.recording import to_samples
from butppg_lightning.sources.recordings.time_stamps import seconds_per_unit

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.npz import Array

_SINCE_1970 = (631_152_000.0, 4_102_444_800.0)  # 1990 to 2100: other numbers are no dates
_LOOKED_AT = 1_000_000  # stamps that tell the unit of all
_LARGEST_STAMP = 1e19  # nanoseconds since 1970 have 18 digits
_UNITS = {"s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0}
_UNITS |= dict.fromkeys(("ms", "millis", "millisecond", "milliseconds"), 1e-3)
_UNITS |= dict.fromkeys(("us", "µs", "μs", "micros", "microsecond", "microseconds"), 1e-6)
_UNITS |= dict.fromkeys(("ns", "nanos", "nanosecond", "nanoseconds"), 1e-9)


class NumberColumn:
    """Collects a table's numbers without its empty cells, which prevail where channels of other rates share it."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._values: list[Array] = []
        self._filled: list[tuple[int, Array]] = []

    def add(self, cells: Any) -> None:
        """Take the next cells, a pandas Series indexed by line number."""
        values = to_samples(self.path, self.name, _numbers(self.path, self.name, cells))
        filled = ~np.isnan(values)
        self._values.append(values[filled])
        self._filled.append((len(filled), np.packbits(filled)))

    def take(self) -> tuple[Array, Array]:
        """Return the numbers, float32 without NaN, and which rows ``[T]`` they stand in; afterwards there are none."""
        filled = [np.unpackbits(packed, count=count).view(np.bool_) for count, packed in self._filled]
        values = _joined(self._values, np.float32)
        self._filled = []
        return values, _joined(filled, np.bool_)


class TimeColumn:
    """Collects a table's time stamps and turns them into seconds.

    Args:
        path: The file, for messages.
        name: The column's name; its last word may be a unit (``time_ms``).
        unit: The unit as the file spells it, or empty.

    Attributes:
        guesses: After :meth:`seconds`: what was assumed of the column, one line each.
    """

    def __init__(self, path: Path, name: str, unit: str) -> None:
        self.path, self.name = path, name
        words = (unit.lower(), name.lower().replace("_", " ").split(" ")[-1])
        self._unit = next((_UNITS[word] for word in words if word in _UNITS), None)
        self._dated: bool | None = None
        self._zone: Any = None
        self._first = self._last = 0.0
        self._stamps: list[Array] = []
        self.guesses: list[str] = []

    def add(self, cells: Any) -> None:
        """Take the next cells, a pandas Series indexed by line number.

        Raises:
            UserError: If one is no time, or time goes backwards.
        """
        if not len(cells):
            return
        dated = cells.dtype.kind not in "iuf" and not _mostly_numbers(cells)
        stamps = self._dates(cells) if dated else _numbers(self.path, self.name, cells)
        if self._dated is None:
            self._dated, self._first = dated, float(stamps[0])
        if dated != self._dated:
            raise UserError(
                f"{self.path}, line {cells.index[0]}: '{self.name}' changes between numbers and dates; use one form"
            )
        bad = np.flatnonzero(~(np.abs(stamps) < _LARGEST_STAMP))
        if bad.size:
            raise UserError(f"{self.path}, line {cells.index[bad[0]]}: '{self.name}' holds no time; drop the row")
        stamps = stamps - self._first
        back = np.flatnonzero(np.diff(stamps, prepend=self._last) < 0)
        if back.size:
            raise UserError(
                f"{self.path}, line {cells.index[back[0]]}: the time in '{self.name}' goes backwards; "
                "sort the rows by time"
            )
        self._stamps.append(stamps)
        self._last = stamps[-1]

    def seconds(self) -> tuple[Array, datetime | None]:
        """Return the stamps ``[T]`` in seconds after the first one, and the moment of that one if it is known."""
        stamps = _joined(self._stamps, np.float64)
        unit = 1.0 if self._dated else self._unit
        if unit is None:
            steps = np.diff(stamps[:_LOOKED_AT])
            steps = steps[steps > 0]
            unit = seconds_per_unit(float(np.median(steps))) if len(steps) else 1.0
            name = next(name for name, seconds in _UNITS.items() if seconds == unit)
            settled = f"'{self.name} [{name}]' in the header says it"
            self.guesses.append(f"'{self.name}' states no unit of time; taken as {name} by its steps ({settled})")
        stamps *= unit
        first = self._first * unit
        if not (self._dated or _SINCE_1970[0] <= first <= _SINCE_1970[1]):
            return stamps, None
        moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=first)
        if self._dated:
            moment = moment.replace(tzinfo=None) if self._zone is None else moment.astimezone(self._zone)
        return stamps, moment

    def _dates(self, cells: Any) -> Array:
        import pandas as pd

        parsed = pd.to_datetime(cells, format="ISO8601", utc=True, errors="coerce")
        bad = cells.index[parsed.isna() & cells.notna()]
        if len(bad):
            raise UserError(
                f"{self.path}, line {bad[0]}: '{self.name}' holds {_quoted(cells[bad[0]])}, which is "
                "neither a number nor an ISO time stamp (2024-01-31T22:15:00.25)"
            )
        if self._dated is None:
            self._zone = pd.Timestamp(cells.iloc[0]).tzinfo
        return np.asarray((parsed - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1), dtype=np.float64)


def _joined(parts: list[Array], dtype: Any) -> Array:
    """Join arrays and let go of them."""
    joined = np.concatenate([np.empty(0, dtype), *parts])
    parts.clear()
    return joined


def _numbers(path: Path, name: str, cells: Any) -> Array:
    import pandas as pd

    if cells.dtype.kind in "iuf":
        return np.asarray(cells)
    numbers = pd.to_numeric(cells, errors="coerce")
    bad = cells.index[numbers.isna() & cells.notna()]
    if len(bad):
        raise UserError(f"{path}, line {bad[0]}: '{name}' holds {_quoted(cells[bad[0]])}, which is no number")
    return np.asarray(numbers, dtype=np.float64)


def _mostly_numbers(cells: Any) -> bool:
    import pandas as pd

    return bool(pd.to_numeric(cells, errors="coerce").notna().sum() * 2 > cells.notna().sum())


def _quoted(cell: Any) -> str:
    return repr(printable(str(cell))[:40])
