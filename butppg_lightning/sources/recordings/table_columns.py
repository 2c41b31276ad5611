"""The columns of a table of text, collected block by block: numbers and times, and time stamps into even sampling."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.names import printable
from butppg_lightning.sources.recordings.recording import check_rate, empty_samples, to_samples

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.npz import Array

_SINCE_1970 = (631_152_000.0, 4_102_444_800.0)  # 1990 to 2100: other numbers are no dates
_LOOKED_AT = 500_000  # steps that tell the usual one
_LARGEST_STAMP = 1e19  # nanoseconds since 1970 have 18 digits
_UNITS = {"s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0}
_UNITS |= dict.fromkeys(("ms", "millis", "millisecond", "milliseconds"), 1e-3)
_UNITS |= dict.fromkeys(("us", "µs", "μs", "micros", "microsecond", "microseconds"), 1e-6)
_UNITS |= dict.fromkeys(("ns", "nanos", "nanosecond", "nanoseconds"), 1e-9)
_GAP = 0.5  # sampling intervals by which a step is too long to be none
_JITTER = 6.0  # standard deviations of the steps that are no gap either
_BLOCK_SECONDS = 10.0  # stretches placed as a whole; between them the clock may drift
_MOST_UNEVEN = 0.05  # share of a stretch that may find no room; two rates in a file have far more
_PLACED = 2**20  # samples placed together


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
    """Collects a table's time stamps and turns them into seconds; its name's last word may be a unit (``time_ms``)."""

    def __init__(self, path: Path, name: str, unit: str) -> None:
        self.path, self.name = path, name
        words = (unit.lower(), name.lower().replace("_", " ").split(" ")[-1])
        self._unit = next((_UNITS[word] for word in words if word in _UNITS), None)
        self._dated: bool | None = None
        self._zone: Any = None
        self._first = self._last = 0.0
        self._stamps: list[Array] = []
        self.guesses: list[str] = []  # what seconds() had to assume of the column, one line each

    def add(self, cells: Any) -> None:
        """Take the next cells, a pandas Series indexed by line number; time must not go backwards."""
        if not len(cells):
            return
        dated = cells.dtype.kind not in "iuf" and _mostly_dates(cells)
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
            steps = np.diff(stamps[: 2 * _LOOKED_AT])
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


def _mostly_dates(cells: Any) -> bool:
    import pandas as pd

    return bool(pd.to_numeric(cells, errors="coerce").notna().sum() * 2 <= cells.notna().sum())


def _quoted(cell: Any) -> str:
    return repr(printable(str(cell))[:40])


def seconds_per_unit(step: float) -> float:
    """Return what one unit of plain-number stamps is, from their median step: s, ms, µs or ns.

    A signal of 1.4 Hz to 1.4 kHz has a step of 0.0007 to 0.7 s, which is unambiguous in powers of 1000.

    Examples:
        >>> seconds_per_unit(0.008), seconds_per_unit(15.6), seconds_per_unit(4000)
        (1.0, 0.001, 1e-06)
    """
    for unit in (1.0, 1e-3, 1e-6):
        if step * unit < 0.7:
            return unit
    return 1e-9


def even_samples(path: Path, name: str, stamps: Array, values: Array, rate: float | None) -> tuple[float, float, Array]:
    """Put stamped samples on an even grid, with NaN where samples are missing.

    Samples keep their order and their values (nothing is interpolated): stamps only decide the rate and where each
    stretch of ten seconds, or up to a gap, begins. So neither jitter nor the rounding of stamps adds noise; where the
    clock drifts, a sample is left out or missing now and then. Equal stamps (coarser than the sampling, for example
    whole seconds) are spread evenly. ``stamps [T]`` are seconds and never decrease, ``values [T]`` float32 without NaN;
    ``rate`` (Hz) is None to find it. Returns the rate, the first sample's time (s), and ``[S]`` float32 samples.
    """
    if len(stamps) < 2:
        raise UserError(f"{path}: '{name}' has {len(stamps)} samples; leave it out with --channels NAME=none")
    stamps, found = _spread(path, name, stamps, rate)
    rate = check_rate(path, name, found if rate is None else rate)
    blocks, anchors = _blocks(stamps, rate)
    sizes = np.diff(np.append(blocks, len(stamps)))
    places = np.rint((anchors - anchors[0]) * rate).astype(np.int64)
    places -= places.min()
    crowded = places[:-1] + sizes[:-1] - places[1:] - np.maximum(3, _MOST_UNEVEN * sizes[:-1])
    if len(crowded) and crowded.max() > 0:
        raise UserError(
            f"{path}: '{name}' has more samples {stamps[blocks[int(crowded.argmax())]]:.1f} s after the first one than "
            f"{rate:.4g} Hz leaves room for: its time stamps are uneven or --fs is too low; split the file there"
        )
    samples = empty_samples(path, name, int((places + sizes).max()))
    for begin in range(0, len(values), _PLACED):
        rows = np.arange(begin, min(begin + _PLACED, len(values)))
        block = np.searchsorted(blocks, rows, side="right") - 1
        samples[rows + (places - blocks)[block]] = values[rows]
    return rate, float(anchors[0]), samples


def _spread(path: Path, name: str, stamps: Array, rate: float | None) -> tuple[Array, float]:
    """Return stamps that differ from each other, and the rate they have where there is no gap."""
    steps = _steps(stamps)
    if steps.all():
        return stamps, _rate(None, steps)
    first = np.append(0, np.flatnonzero(steps) + 1)  # of each run of equal stamps
    if len(first) < 3:
        raise UserError(f"{path}: '{name}' has {len(first)} different time stamps; give stamps that advance, or --fs")
    sizes = np.diff(np.append(first, len(stamps)))
    # the first run may have begun before the recording did: it says nothing of the rate, and ends where the next begins
    found = _rate(sizes[1:-1], np.diff(stamps[first[1:]]))
    rate = found if rate is None else rate
    if not rate > 0:
        return stamps, found
    within = np.arange(len(stamps)) - np.repeat(first, sizes)
    spread = stamps + within / rate
    spread[: sizes[0]] = stamps[first[1]] - np.arange(sizes[0], 0, -1) / rate
    return spread, found


def _steps(stamps: Array) -> Array:
    # float32 has digits enough for a step, and a day of ECG has 20 million of them
    steps = np.empty(len(stamps) - 1, dtype=np.float32)
    return np.subtract(stamps[1:], stamps[:-1], out=steps, casting="same_kind")


def _rate(counts: Array | None, steps: Array) -> float:
    near = steps <= _longest_step(steps)
    passed = np.count_nonzero(near) if counts is None else counts[near].sum()
    return float(passed / steps.sum(where=near, dtype=np.float64))


def _longest_step(steps: Array) -> float:
    """Return the step beyond which there is a gap: by how much the usual steps vary tells what is none."""
    some = steps[:: 1 + 2 * (len(steps) // (2 * _LOOKED_AT))]
    usual = float(np.median(some))
    deviation = 1.4826 * float(np.median(np.abs(some - usual)))
    return usual + max(_GAP * usual, _JITTER * deviation)


def _blocks(stamps: Array, rate: float) -> tuple[Array, Array]:
    """Return the first row and the start time of every stretch to be placed as a whole."""
    steps = _steps(stamps)
    gaps = np.flatnonzero(steps > max(_longest_step(steps), (1 + _GAP) / rate)) + 1
    edges = np.concatenate([[0], gaps, [len(stamps)]])
    size = max(2, round(_BLOCK_SECONDS * rate))
    long = np.flatnonzero(np.diff(edges) > size)
    inner = [np.arange(edges[row] + size, edges[row + 1] - size // 2, size) for row in long]
    blocks = np.unique(np.concatenate([edges[:-1], *inner])).astype(np.int64)
    sizes = np.diff(np.append(blocks, len(stamps)))
    # the mean over a block averages the jitter of single stamps out
    anchors = np.add.reduceat(stamps, blocks) / sizes - (sizes - 1) / 2 / rate
    return blocks, anchors
