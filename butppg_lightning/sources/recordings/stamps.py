"""The time column of a table, numbers or dates, in seconds; and what clocks do: wrap, be set back, begin in 2000."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from butppg_lightning.console import quoted as as_word
from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.date_text import as_iso, compact_dates, mostly_dates, time_of_day
from butppg_lightning.sources.recordings.even_sampling import LOOKED_AT
from butppg_lightning.sources.recordings.names import split_unit
from butppg_lightning.sources.recordings.numbers import PointEvidence, joined, quoted, to_numbers
from butppg_lightning.sources.recordings.recording import LONGEST_DAYS

if TYPE_CHECKING:
    from butppg_lightning.npz import Array

TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "100ns": 1e-7, "min": 60.0, "h": 3600.0, "d": 86_400.0}
"""Units of time that ``--time-unit`` accepts, in seconds; ``samples`` too, where the rate is known."""
_SPELLINGS = {
    "s": "sec secs second seconds",
    "ms": "milli millis msec msecs millisecond milliseconds",
    "us": "µs μs micro micros usec usecs microsecond microseconds",
    "ns": "nano nanos nsec nanosecond nanoseconds",
    "100ns": "",
    "min": "mins minute minutes",
    "h": "hr hrs hour hours",
    "d": "day days",
    "samples": "sample frame frames index",
}
_UNIT = {word: unit for unit, words in _SPELLINGS.items() for word in (unit, *words.split())}
_SINCE_1970 = re.compile(r"unix|epoch|utc|posix|1970", re.IGNORECASE)
_EARLIEST = datetime(2005, 1, 1, tzinfo=timezone.utc)  # numbers that would mean an earlier date are taken for none
_POSSIBLE_RATES = (8.0, 1430.0)  # Hz; less than 1000 apart, so that at most one of s, ms, µs, ns fits
_LATEST = 1e10  # s after any epoch: 300 years
_DATED_RATES = (0.5, 5000.0)  # Hz, of numbers that are a date in one unit
_LARGEST_STAMP = 1e19  # nanoseconds since 1970 have 19 digits
_COUNTERS = (2.0**16, 2.0**24, 2.0**32, 2.0**32 / 1e3, 2.0**32 / 1e6, 86_400.0, 86_400e3)  # what they wrap at
_CLOCKS = (86_400.0, 43_200.0)  # s; a time of day wraps at midnight, one of twelve hours twice a day
_LONGEST_WRAP = 20.0  # usual steps that may pass while a clock wraps or is set
_MOST_RESETS = 20  # times that a clock may be set back; more are rows of several sensors
_FARTHEST_MOVED = 10.0  # s that a row may stand out of order


@dataclass(frozen=True)
class ClockRules:
    """What is known of a table's time column before it is read."""

    unit: str | None = None  # the user's --time-unit
    epoch: datetime | None = None  # from which a device counts
    decimal: str = "."
    rate: float | None = None  # Hz, where the user or the file's first lines state it
    cut: int | None = None  # lines that a part of the file needs in front of its rows; None if it cannot be cut


class Timeline(NamedTuple):
    """A time column that is understood."""

    seconds: Array  # [T] float64 after the first one, never decreasing
    start: datetime | None  # of the first one
    clock: float | None  # s, what the first one says on a clock of its own (numbers without a date)
    order: Array | None  # [T] the rows sorted by time, if they were not


class TimeColumn:
    """Collects a table's time stamps and turns them into seconds."""

    def __init__(self, path: Path, name: str, unit: str, rules: ClockRules, row: int = 0) -> None:
        self.path, self.name, self._rules, self.points = path, name, rules, PointEvidence()
        self.row = row  # the column's place in its table
        self._stated = unit or split_unit(name)[1]
        self._kind = ""  # numbers, dates or times of day
        self._zone: Any = None
        self._first = 0.0
        self._dateless = False
        self._stamps: list[Array] = []
        self._lines: list[Any] = []
        self.guessed_unit = ""
        self.guesses: list[str] = []  # what seconds() had to assume of the column, one line each
        self.notes: list[str] = []

    def add(self, cells: Any, days: Any = None) -> None:
        """Take the next cells, a pandas Series indexed by line number; ``days`` are the dates of times of day."""
        if not len(cells):
            return
        if days is not None and re.match(r"\d\d?:\d", str(cells.iloc[0]).strip()):
            cells = days.ffill().astype(str).str.strip() + " " + cells.astype(str).str.strip()
        if mostly_dates(cells):
            kind, stamps = self._dates(cells)
        else:
            kind, stamps = "numbers", to_numbers(self.path, self.name, cells, self._rules.decimal)
            self.points.look(stamps)
        if not self._kind:
            self._kind, self._first = kind, stamps[0].item()
        if kind != self._kind:
            raise UserError(
                f"{self.path}, line {cells.index[0]}: '{self.name}' changes from {self._kind} to {kind}; use one form"
            )
        if kind == "numbers" and compact_dates(stamps):
            raise UserError(
                f"{self.path}: '{self.name}' holds {quoted(cells.iloc[0])}, a date as a number; write ISO time stamps "
                "(2024-01-31T22:15:00.25)"
            )
        bad = np.flatnonzero(~(np.abs(stamps) < _LARGEST_STAMP))
        if bad.size:
            raise UserError(f"{self.path}, line {cells.index[bad[0]]}: '{self.name}' holds no time; drop the row")
        self._stamps.append(np.asarray(stamps - stamps.dtype.type(self._first), dtype=np.float64))
        self._lines.append(cells.index)

    def seconds(self) -> Timeline:
        """Return the stamps in seconds, in the order of time, and when the first of them was."""
        stamps = joined(self._stamps, np.float64)
        steps = np.diff(stamps)
        order = None
        if len(steps) and (steps.min() < 0 or (self._kind == "dates" and self._zone is None)):
            stamps, order = self._mended(stamps, steps)
        if self._kind != "numbers" and self._rules.unit is not None:
            raise UserError(f"{self.path}: '{self.name}' holds {self._kind}, no plain numbers; drop --time-unit")
        unit = 1.0 if self._kind != "numbers" else self._unit(stamps)
        stamps *= unit
        leaps = np.flatnonzero(np.diff(stamps) > LONGEST_DAYS * 86_400)
        if len(leaps) and order is None:
            raise UserError(self._parted(int(leaps[0]), f"leaps by {LONGEST_DAYS} days or more", "set"))
        first = self._first * unit
        if order is not None:
            first += float(stamps[order[0]])
            stamps = stamps[order] - stamps[order[0]]
        if self._kind == "dates":
            moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=first)
            start = moment.replace(tzinfo=None) if self._zone is None else moment.astimezone(self._zone)
            return Timeline(stamps, start, None, order)
        if self._kind != "numbers":
            if self._dateless:
                told = f"the dates of '{self.name}' are not clear (2024-01-31 is), so only its times of day are used"
                self.notes.append(told)
            return Timeline(stamps, None, first, order)
        known = self._moment(first)
        return Timeline(stamps, known, None if known else first, order)

    def _moment(self, first: float) -> datetime | None:
        since = re.search(r"since[\s_]*(\d{4})(?:-(\d\d)-(\d\d))?", f"{self.name} {self._stated}", re.IGNORECASE)
        epoch = datetime(int(since[1]), int(since[2] or 1), int(since[3] or 1)) if since else self._rules.epoch
        if epoch is not None:
            return epoch + timedelta(seconds=first)
        if not dated(first):
            return None
        moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=first)
        told = f"taken as since 1970, so the recording began {moment.isoformat(timespec='seconds')}"
        if self.guesses and self.guessed_unit:
            self.guesses[-1] += f"; {told}"
        elif not _SINCE_1970.search(self.name):
            self.guesses.append(f"'{self.name}' states no epoch; {told}")
        return moment

    # which unit

    def _unit(self, stamps: Array) -> float:
        """Return how many seconds one unit of plain numbers is."""
        word = self._stated_unit()
        if word == "samples":
            if self._rules.rate is None:
                raise UserError(f"{self.path}: '{self.name}' counts samples; give their rate in Hz: --fs RATE")
            return 1 / self._rules.rate
        if word is not None:
            return TIME_UNITS[word]
        steps = np.diff(stamps[: 2 * LOOKED_AT])
        runs = np.flatnonzero(steps > 0)
        if len(runs) < 2:
            return 1.0
        step, together = float(np.median(steps[runs])), float(np.median(np.diff(runs)))
        if (steps == 1).all() and self._rules.rate is None:
            raise UserError(
                f"{self.path}: '{self.name}' counts by one and states no unit; give --time-unit ms (or s, us ...), "
                "or --time-unit samples and their rate in Hz: --fs RATE"
            )
        word, why = self._guess(step, together)
        self.guessed_unit = word
        unknown = f"the unit {self._stated!r} of '{self.name}' is not known" if self._stated else ""
        self.guesses.append(
            f"{unknown or f'{self.name!r} states no unit of time'}; taken as {word} by {why} (--time-unit)"
        )
        return TIME_UNITS[word]

    def _stated_unit(self) -> str | None:
        stated = self._stated.lower().partition(" since ")[0].strip("[]() ")
        return self._rules.unit or _UNIT.get(stated) or _unit_in(self.name)

    def _guess(self, step: float, together: float) -> tuple[str, str]:
        rates = {word: together / (step * seconds) for word, seconds in TIME_UNITS.items()}
        if self._rules.rate is not None:
            fitting = [word for word, rate in rates.items() if abs(rate / self._rules.rate - 1) < 0.05]
            if fitting:
                return fitting[0], f"the rate of {self._rules.rate:g} Hz"
        thousands = ("s", "ms", "us", "ns")
        for word in thousands:
            if dated(self._first * TIME_UNITS[word]) and _DATED_RATES[0] <= rates[word] <= _DATED_RATES[1]:
                return word, "its size, that of a date"
        for word in thousands:
            possible = self._first * TIME_UNITS[word] < _LATEST  # ticks of 100 ns since 1601 would be ages of µs
            if possible and _POSSIBLE_RATES[0] <= rates[word] <= _POSSIBLE_RATES[1]:
                return word, "its steps"
        raise UserError(
            f"{self.path}: '{self.name}' states no unit of time, and as seconds its rows would come at "
            f"{rates['s']:.4g} Hz; give --time-unit ({', '.join(TIME_UNITS)})"
        )

    # what clocks do

    def _mended(self, stamps: Array, steps: Array) -> tuple[Array, Array | None]:
        """Return stamps of a clock that only advances, or the order of rows that do not stand in theirs."""
        usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
        if (steps <= 0).all():
            self.notes.append(f"the rows stand in the reverse order of '{self.name}' and have been turned")
            return stamps, np.arange(len(stamps))[::-1]
        back = np.flatnonzero(steps < 0)
        if self._kind == "dates" and self._zone is None:
            stamps, back = self._summer_time(stamps, steps, usual)
        if not len(back):
            return stamps, None
        for wrap in {"numbers": _COUNTERS, "dates": ()}.get(self._kind, _CLOCKS):
            passed = steps[back] + wrap
            if (passed >= 0).all() and (passed <= _LONGEST_WRAP * usual).all() and np.ptp(stamps) <= wrap:
                self.notes.append(
                    f"'{self.name}' begins anew at {wrap:.10g} (first in line {self._line(int(back[0]) + 1)}); "
                    "taken as a clock that goes on"
                )
                return stamps + wrap * np.append(0, np.cumsum(steps < 0)), None
        order = np.argsort(stamps, kind="stable")
        if self._may_be_sorted(stamps, steps, order, usual):
            moved = int(np.count_nonzero(order != np.arange(len(order))))
            self.notes.append(f"{moved} rows were not in the order of '{self.name}' and have been sorted")
            return stamps, order
        if len(back) > _MOST_RESETS:
            raise UserError(
                f"{self.path}: the time in '{self.name}' goes backwards {len(back)} times, first in line "
                f"{self._line(int(back[0]) + 1)}: its rows are of several sensors or recordings, or shuffled; write "
                "each one's rows to a file of its own, in their order"
            )
        raise UserError(self._parted(int(back[0]), f"goes backwards by {-steps[back[0]]:g}", "set back"))

    def _summer_time(self, stamps: Array, steps: Array, usual: float) -> tuple[Array, Array]:
        """Take changes of summer time out of local dates: an hour to or fro, at a full hour of a Sunday's night."""
        hour = 3600.0
        back = np.flatnonzero(steps < 0)
        near = np.flatnonzero(np.abs(np.abs(steps - usual) - hour) <= min(_LONGEST_WRAP * usual, hour / 4))
        changes = []
        for row in near.tolist():
            after = datetime(1970, 1, 1) + timedelta(seconds=float(self._first + stamps[row + 1]))
            to_the_hour = after.minute * 60 + after.second + after.microsecond / 1e6
            if after.weekday() == 6 and after.hour <= 4 and to_the_hour <= 2 * usual:
                changes.append(row)
        for row in changes:
            lost = float(np.sign(steps[row])) * hour
            stamps[row + 1 :] -= lost
            way = "forward" if lost > 0 else "back"
            self.guesses.append(
                f"'{self.name}' jumps {way} by an hour in line {self._line(row + 1)}, as local time does in that "
                "night; read as going on without a gap (stamps in UTC say it)"
            )
        return stamps, np.setdiff1d(back, changes)

    def _may_be_sorted(self, stamps: Array, steps: Array, order: Array, usual: float) -> bool:
        """Return whether rows were only stored out of order: sorted, they are as regular as the rest."""
        unit = TIME_UNITS.get(self._stated_unit() or "", 1.0) if self._kind == "numbers" else 1.0
        if float(-steps.min()) * unit > _FARTHEST_MOVED or stamps[-1] < stamps.max():
            return False  # a clock that was set back need not reach again what it had shown
        crowded = np.count_nonzero(np.abs(steps) < usual / 2)
        return bool(np.count_nonzero(np.diff(stamps[order]) < usual / 2) <= crowded)

    def _parted(self, row: int, what: str, how: str) -> str:
        """Return what to do where a clock jumps, with the commands that part the file behind a row."""
        line = self._line(row + 1)
        told = (
            f"{self.path}, line {line}: the time in '{self.name}' {what}: the clock was {how}, or the logger began "
            "again there. Do not sort the rows; score the parts on their own"
        )
        if self._rules.cut is None:
            return f"{told}: split the file at that line"
        source = as_word(self.path)
        first, second = (as_word(Path(f"{self.path.stem}_part{part}{self.path.suffix}")) for part in (1, 2))
        return (
            f"{told}: head -n {line - 1} {source} > {first}; "
            f"(head -n {self._rules.cut} {source}; tail -n +{line} {source}) > {second}"
        )

    def _line(self, row: int) -> int:
        for lines in self._lines:
            if row < len(lines):
                return int(lines[row])
            row -= len(lines)
        raise IndexError(row)

    # dates

    def _dates(self, cells: Any) -> tuple[str, Array]:
        import pandas as pd

        if cells.dtype.kind == "M":
            self._zone = cells.dt.tz
            seconds = (pd.to_datetime(cells, utc=True) - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
            return "dates", np.asarray(seconds, dtype=np.float64)
        parsed = pd.to_datetime(cells, format="ISO8601", utc=True, errors="coerce")
        other = parsed.isna()
        if other.any():  # to look for empty cells of text takes as long as to read dates
            other &= cells.notna()
        text = cells[other].astype(str).str.strip()  # text in other spellings
        if len(text):
            parsed = parsed.mask(other, pd.to_datetime(as_iso(text), format="ISO8601", utc=True, errors="coerce"))
        if parsed.notna().any():
            bad = cells.index[parsed.isna() & other]
            seconds = (parsed - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
            if not self._kind:
                one = cells[parsed.notna()].iloc[:1].astype(str).str.strip()
                self._zone = pd.Timestamp(as_iso(one).iloc[0]).tzinfo
            kind = "dates"
        else:
            clock, self._dateless = time_of_day(text)
            clock = clock.reindex(cells.index)
            bad = cells.index[clock.isna() & other]
            seconds = clock / pd.Timedelta(seconds=1)
            kind = "times of day"
        if len(bad):
            raise UserError(
                f"{self.path}, line {bad[0]}: '{self.name}' holds {quoted(cells[bad[0]])}, which is "
                "neither a number nor an ISO time stamp (2024-01-31T22:15:00.25)"
            )
        return kind, np.asarray(seconds, dtype=np.float64)


def dated(seconds: float) -> bool:
    """Return whether seconds since 1970 are a moment at which a recording can have been made."""
    latest = datetime.now(timezone.utc) + timedelta(days=2)  # two: a clock may run ahead of this one
    return _EARLIEST.timestamp() <= seconds <= latest.timestamp()


def _unit_in(name: str) -> str | None:
    """Return the unit in a name: its last word (time_ms), or what is joined to it (timestampms)."""
    word = re.split(r"[\W_]+", name.lower().strip("])} "))[-1]
    joined_on = re.search(r"(?:time|stamp|epoch|unix)(ms|us|ns|sec|seconds)$", word)
    return _UNIT.get(joined_on[1] if joined_on else word)
