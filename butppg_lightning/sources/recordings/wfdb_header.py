"""WFDB headers (header(5) of the WFDB library) by their own words.

The package wfdb reads samples well, but takes a header apart with patterns that some headers get past: ``a.u.`` and
``m/(s^2)`` end up in names, an ISO date ends everything. So a header is parted here at its blanks, as its definition
says, and wfdb is given a copy without names, units and times.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePath
from typing import NoReturn

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.names import printable

_LARGEST = 2**24  # bytes
DEFAULT_RATE = 250.0  # Hz, where a header states none
_RECORD = re.compile(r"([^/\s]+)(?:/(\d+))?")
_RATE = re.compile(r"(\d*\.?\d+(?:e[-+]?\d+)?|\d+\.)(?:/.*)?", re.IGNORECASE)  # behind the stroke is a counter
_FORMAT = re.compile(r"(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?")
_GAIN = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)?(?:\(\+?(-?\d+)\))?(?:/(.*))?", re.IGNORECASE)
_INTEGER = re.compile(r"[-+]?\d{1,18}")
_FOREIGN_DATE = re.compile(r"(\d\d)/(\d\d)/(\d{4})")
_TIME = re.compile(r"(?:(?:(\d{1,2}):)?(\d{1,2}):)?(\d{1,2})(?:\.(\d{1,6})\d*)?")
_ABSENT = "~"  # the file of a signal without samples, the name of a segment without signals


@dataclass
class Signal:
    """A signal's line."""

    name: str  # its description, or signal_1 ... by its place where there is none
    file: str
    form: str  # of its samples: a number, 16 for instance
    per_frame: int
    offset: int  # bytes before the first sample
    unit: str  # empty where nothing is calibrated or stated
    fields: str  # for wfdb: from the format to the block size, without units

    @property
    def absent(self) -> bool:
        """Whether it is only declared, and has no samples anywhere."""
        return self.file == _ABSENT or self.form == "0"


@dataclass
class Header:
    """A record's header: of one segment (``signals``) or of several (``segments``)."""

    path: Path
    rate: float  # frames per second
    length: int | None  # frames, None if it does not say
    signals: list[Signal] = field(default_factory=list)
    segments: list[tuple[str, int]] | None = None  # names (~ for a gap) and frames
    declared_segments: int = 0
    start_time: datetime | None = None
    notes: list[str] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)


def read_header(path: Path) -> Header:
    """Read a header file; what is optional in it costs no more than itself."""
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} has {path.stat().st_size / 2**20:.0f} MiB; that is no header of a WFDB record")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # a µ of another time
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path} cannot be read: it is empty; copy the record again")
    header, declared = _record_line(path, lines[0])
    if header.segments is not None:
        header.segments = [_segment_line(path, line) for line in lines[1:]]
    elif declared != len(lines) - 1:
        raise UserError(
            f"{path} declares {declared} signals but describes {len(lines) - 1}; mend the header, or copy it again"
        )
    else:
        header.signals = [_signal_line(path, line, place) for place, line in enumerate(lines[1:], 1)]
    return header


def inside(path: Path, name: str) -> Path:
    """Return a file that a header names, if it lies beside the header: a header must not lead elsewhere."""
    if PurePath(name).name != name or "\\" in name or ":" in name:
        raise UserError(f"{path} names the file {printable(name)[:60]!r}, which is not beside it; copy it there")
    return path.parent / name


def _record_line(path: Path, line: str) -> tuple[Header, int]:
    record, *fields = line.split()
    found = _RECORD.fullmatch(record)
    if not found or not fields or not fields[0].isdecimal():
        raise UserError(f"{path} cannot be read: its first line is no record's: {printable(line)[:40]!r}")
    header = Header(path, DEFAULT_RATE, None)
    if found[2] is not None:
        header.segments, header.declared_segments = [], int(found[2])
    if len(fields) > 1:
        rate = _RATE.fullmatch(fields[1]) or _refuse(path, fields[1])
        header.rate = float(rate[1])
    else:
        header.guesses.append(
            f"{path} states no sampling rate; taken as {DEFAULT_RATE:g} Hz, as WFDB does (write it there)"
        )
    if len(fields) > 2:
        # 0 stands for a length that was not known
        header.length = (int(fields[2]) if fields[2].isdecimal() else _refuse(path, fields[2])) or None
    if len(fields) > 3:
        try:
            header.start_time = parse_start(fields[3:])
        except ValueError:
            header.notes.append(
                f"{path} begins at {printable(' '.join(fields[3:]))[:40]!r}, which is no time and date "
                "(22:15:00 31/01/2024): no clock times"
            )
    if not 0 < header.rate < math.inf:
        raise UserError(f"{path} states samples at {header.rate:g} Hz; mend its first line")
    return header, int(fields[0])


def _refuse(path: Path, text: str) -> NoReturn:
    raise UserError(f"{path}: its first line says {printable(text)[:40]!r} where a rate or a length should be")


def parse_start(fields: list[str]) -> datetime | None:
    """Read a base time and date: HH:MM:SS DD/MM/YYYY, or the date (and time) in ISO form; None without a date.

    Examples:
        >>> parse_start(["22:15:00.5", "31/01/2024"]) == parse_start(["2024-01-31T22:15:00.5"])
        True
    """
    text = " ".join(fields)
    if len(fields) > 2:
        raise ValueError(text)
    times = [value for value in fields if _TIME.fullmatch(value)]
    dates = [value for value in fields if value not in times]
    if len(times) > 1 or len(dates) > 1:
        raise ValueError(text)
    clock = "00:00:00"
    if times:
        hours, minutes, seconds, fraction = _TIME.fullmatch(times[0]).groups("0")  # type: ignore[union-attr]
        clock = f"{hours:0>2}:{minutes:0>2}:{seconds:0>2}.{fraction:0<6}"
        datetime.fromisoformat(f"2000-01-01T{clock}")  # also without a date a time must be one
    if not dates:
        return None
    day = dates[0].replace("Z", "+00:00")
    if "T" not in day:
        day = _FOREIGN_DATE.sub(r"\3-\2-\1", day) + f"T{clock}"
    elif times:
        raise ValueError(text)
    return datetime.fromisoformat(day)


def _segment_line(path: Path, line: str) -> tuple[str, int]:
    name, *rest = line.split()
    if not rest or not rest[0].isdecimal():
        raise UserError(f"{path} cannot be read: no segment and its length: {printable(line)[:40]!r}")
    if name != _ABSENT:
        inside(path, name)
    return name, int(rest[0])


def _signal_line(path: Path, line: str, place: int) -> Signal:
    file, *fields = line.split()
    form = _FORMAT.fullmatch(fields.pop(0)) if fields else None
    gain = _GAIN.fullmatch(fields[0]) if fields else None
    if not form or (gain is None and fields and fields[0][0] in "+-.0123456789("):
        raise UserError(f"{path} cannot be read: its line {printable(line)[:60]!r} describes no signal")
    # everything behind the format may be absent: what is no number any more is the description
    fields = fields[1:] if gain else fields
    count = next((row for row, value in enumerate(fields[:5]) if not _INTEGER.fullmatch(value)), min(5, len(fields)))
    numbers = [int(value) for value in fields[:count]]  # resolution, zero, first value, checksum, block size
    _, zero, first, *_ = *numbers, *[0] * 5
    gain_text, baseline, unit = gain.groups() if gain else (None, None, None)
    scale = float(gain_text or 0)
    return Signal(
        name=printable(" ".join(fields[count:])) or f"signal_{place}",
        file=file,
        form=form[1],
        per_frame=int(form[2] or 1),
        offset=int(form[4] or 0),
        # without a gain (0 stands for that too) 200 steps are one unit, of nothing in particular
        unit=(printable(unit or "") or "mV") if scale else "",
        fields=f"{form[0]} {scale or 200.0:.12g}({baseline or zero})/NU 0 {zero} {first}",
    )
