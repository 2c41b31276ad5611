"""Long recordings from WFDB records: of one or several segments, with one or several rates.

A signal is known by its place: by its name, and which one of that name it is. What a segment states (unit, gain,
rate) holds for that segment. A stretch that is declared but not there is missing samples, with a note.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.names import Selection, match_channels
from butppg_lightning.sources.recordings.recording import (
    LONGEST_DAYS,
    UNITS,
    Channel,
    Recording,
    assemble,
    empty_samples,
    unit_of,
)
from butppg_lightning.sources.recordings.wfdb_header import Header, Signal, inside, read_header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from butppg_lightning.npz import Array

_CHUNK_SECONDS = 1800.0  # read together: wfdb makes several copies
# bytes per sample (header(5) of the WFDB library); FLAC has no fixed size, and its reader knows the length
_BYTES = {"8": 1.0, "16": 2.0, "24": 3.0, "32": 4.0, "61": 2.0, "80": 1.0, "160": 2.0, "212": 1.5, "310": 4 / 3}
_BYTES |= {"311": 4 / 3}
_MOST_NOTES = 5  # a record has thousands of segments
_FLAC = ("508", "516", "524")
_VOLTS = {"v": 1.0, "mv": 1e-3, "uv": 1e-6, "µv": 1e-6, "μv": 1e-6, "nv": 1e-9}

Key = tuple[str, int]  # a signal's name, and how many of that name stand before it in the segment


@dataclass
class _Segment:
    """A stretch of the record with its own header; where it begins and ends the record's header says."""

    header: Header
    start: int  # in frames
    length: int
    factors: dict[Key, float] = field(default_factory=dict)  # that bring wanted signals to the unit of the first

    def keys(self) -> list[Key]:
        """Return what each of its signals is known by."""
        before: Counter[str] = Counter()
        keys = []
        for signal in self.header.signals:
            keys.append((signal.name, before[signal.name]))
            before[signal.name] += 1
        return keys

    def unit(self, key: Key) -> str | None:
        """Return the unit of a signal, None if the segment has no such signal."""
        keys = self.keys()
        return self.header.signals[keys.index(key)].unit if key in keys else None

    def files(self) -> dict[str, list[int]]:
        """Return its signals by the file that has their samples."""
        rows: dict[str, list[int]] = {}
        for row, signal in enumerate(self.header.signals):
            if not signal.absent:
                rows.setdefault(signal.file, []).append(row)
        return rows


def read(path: Path, selection: Selection) -> Recording:
    """Read a recording from a WFDB record, given with or without ``.hea``; damage makes wfdb raise anything."""
    header = read_header(path if path.suffix.lower() == ".hea" else Path(f"{path}.hea"))
    path, notes = header.path, header.notes
    segments, total = _segments(header)
    if not total / header.rate <= LONGEST_DAYS * 86_400:
        raise UserError(f"{path} declares {total:,} samples at {header.rate:g} Hz; expected up to {LONGEST_DAYS} days")
    rates = _rates(header, segments)
    keys = list(rates)
    names = tuple(name for name, _ in keys)
    channels, wanted = {}, {}
    for channel, row in match_channels(path, names, selection).items():
        key, rate = keys[row], rates[keys[row]]
        unit = _one_unit(header, channel, key, segments, selection.acc_unit if channel.startswith("ACC") else None)
        wanted[key] = empty_samples(path, key[0], round(total * rate / header.rate))
        channels[channel] = Channel(channel, key[0], rate, 0.0, wanted[key], unit)
    notes += _uncertain(segments, [name for name, _ in wanted])
    parts_read = [_read_segment(segment, wanted, notes) for segment in segments]
    if not any(parts_read):
        raise UserError(notes[-1] if notes else f"{path} declares no samples; give a record with samples")
    recording = assemble(path, channels, header.start_time, names, selection.acc_unit)
    if len(notes) > _MOST_NOTES:
        notes[_MOST_NOTES:] = [f"and {len(notes) - _MOST_NOTES} more of this kind"]
    recording.notes[:0], recording.guesses[:0] = notes, header.guesses
    return recording


def _segments(header: Header) -> tuple[list[_Segment], int]:
    """Return every segment that has signals and is there, and the record's frames; what does not fit is noted."""
    path, notes = header.path, header.notes
    if header.segments is None:
        segment = _Segment(header, 0, header.length or 0)
        if header.length is None:
            files = [rows for file, rows in segment.files().items() if inside(path, file).is_file()]
            segment.length = max((_held(segment, rows) for rows in files), default=0)
        return [segment], segment.length
    found: list[_Segment] = []
    start = 0
    for name, length in header.segments:
        file = inside(path, f"{name}.hea")
        if name != "~" and length and file.is_file():
            inner = read_header(file)
            if header.guesses and not found:  # one of both states the rate
                header.rate, header.guesses = inner.rate, inner.guesses
            elif inner.guesses:
                inner.rate = header.rate
            found.append(_Segment(inner, start, length))
        elif name != "~" and length:
            notes.append(f"{file}, a segment of {length / header.rate:g} s, does not exist: missing samples there")
        start += length
    declared = start if header.length is None else header.length
    if len(header.segments) != header.declared_segments or declared != start:
        rest = f"; the last {(declared - start) / header.rate:g} s are missing samples" if declared > start else ""
        notes.append(
            f"{path} declares {header.declared_segments} segments and {declared:,} samples, but lists "
            f"{len(header.segments)} segments of {start:,} samples{rest}"
        )
    if not found:
        raise UserError(notes[-1] if notes else f"{path} has no segments with signals; give a record with samples")
    return found, max(start, declared)


def _rates(header: Header, segments: list[_Segment]) -> dict[Key, float]:
    """Return every signal's rate (Hz), in the order in which they first appear."""
    rates: dict[Key, float] = {}
    for segment in segments:
        inner = segment.header
        if inner is not header and inner.segments is not None:
            raise UserError(f"{inner.path} is a segment that has segments itself; convert the record")
        if not inner.signals:
            raise UserError(f"{inner.path} declares no signals; give a record with samples")
        if inner.rate != header.rate:
            raise UserError(
                f"{inner.path} is sampled at {inner.rate:g} Hz, {header.path} at {header.rate:g}; convert the record"
            )
        for key, signal in zip(segment.keys(), inner.signals, strict=True):
            rate = inner.rate * signal.per_frame
            if rates.setdefault(key, rate) != rate:
                raise UserError(f"{inner.path}: the rate of '{signal.name}' changes; convert the record")
    return rates


def _uncertain(segments: list[_Segment], names: list[str]) -> list[str]:
    """Return a note for each name that segments have in different numbers: which is which is then not stated."""
    notes = []
    for name in dict.fromkeys(names):
        counts = {sum(signal.name == name for signal in segment.header.signals) for segment in segments} - {0}
        if len(counts) > 1:
            notes.append(
                f"segments have {min(counts)} to {max(counts)} signals named '{name}', told apart by their order"
            )
    return notes


def _one_unit(header: Header, channel: str, key: Key, segments: list[_Segment], asked: str | None) -> str:
    """Return a signal's unit, with what brings each segment's samples to it (where they differ) in the segments.

    The unit that the user says (``asked``) is that of the segments that state none; those that do are brought to it.
    """
    units = list(dict.fromkeys(unit for segment in segments if (unit := segment.unit(key)) is not None))
    if len(units) == 1:
        return units[0]
    acceleration, listed = channel.startswith("ACC"), ", ".join(unit or "none" for unit in units)
    sizes = {unit: UNITS.get(unit_of(unit) or "") if acceleration else _VOLTS.get(unit.lower()) for unit in units}
    known = {unit: size for unit, size in sizes.items() if size}
    if acceleration and known and len(known) < len(units) and not asked:
        raise UserError(
            f"{header.path}: the segments state '{key[0]}' in {listed}; give the others' unit by --acc-unit, "
            f"or leave it out: --channels {channel}=none"
        )
    if not known or (len(known) < len(units) and not acceleration):
        header.notes.append(f"the segments state '{key[0]}' in units that differ ({listed}), taken as they are")
        return units[0]
    chosen = asked or next(iter(known))
    base = UNITS[asked] if asked else known[chosen]
    for segment in segments:
        segment.factors[key] = known.get(segment.unit(key) or "", base) / base
    return chosen


def _held(segment: _Segment, rows: list[int]) -> int:
    """Return how many frames a data file holds of its signals, as many as declared where only its reader knows."""
    path, signals = segment.header.path, [segment.header.signals[row] for row in rows]
    first, per_frame = signals[0], sum(signal.per_frame for signal in signals)
    if first.form in _FLAC and segment.header.length:
        return segment.header.length
    if first.form not in _BYTES or per_frame < 1 or any(signal.form != first.form for signal in signals):
        raise UserError(
            f"{path}: {first.file} has the format {first.form}, {per_frame} samples a frame; convert the record"
        )
    size = inside(path, first.file).stat().st_size
    return max(0, math.floor((size - first.offset) / (_BYTES[first.form] * per_frame) + 1e-9))


def _read_segment(segment: _Segment, wanted: dict[Key, Array], notes: list[str]) -> bool:
    """Fill in a segment's samples, and return whether there were any; what is declared but not there is noted."""
    path, rate, keys = segment.header.path, segment.header.rate, segment.keys()
    own, chunk = segment.header.length, max(1, int(_CHUNK_SECONDS * rate))
    if own is not None and own != segment.length:
        notes.append(f"{path} declares {own:,} samples, the record's header {segment.length:,}: the fewer are read")
    read_any = False
    for file, members in segment.files().items():
        rows = [row for row in members if keys[row] in wanted]
        data = inside(path, file)
        if not rows:
            continue
        if not data.is_file():
            notes.append(f"{path} names the signal file {data}, which does not exist; copy it there")
            continue
        held, declared = _held(segment, members), own or segment.length
        # some data files are filled up to a round size
        if held < declared or held > declared + rate:
            rest = "the rest are missing samples" if held < declared else "the rest are not read"
            notes.append(f"{path} declares {declared:,} samples, but {data} holds {held:,}: {rest}")
        signals = [segment.header.signals[row] for row in members]
        length = min(held, declared, segment.length)
        for begin, part in _parts(data, signals, [members.index(row) for row in rows], chunk, length):
            for row, values in zip(rows, part, strict=True):
                place = (segment.start + begin) * segment.header.signals[row].per_frame
                values *= np.float32(segment.factors.get(keys[row], 1.0))
                wanted[keys[row]][place : place + len(values)] = np.where(np.isfinite(values), values, np.nan)
        read_any |= length > 0
    return read_any


def _parts(
    data: Path, signals: list[Signal], rows: list[int], chunk: int, length: int
) -> Iterator[tuple[int, list[Array]]]:
    """Yield some signals of a data file, a part at a time: the first frame, and each one's samples (float32)."""
    import wfdb

    with tempfile.TemporaryDirectory() as folder:
        # a header of this file alone: wfdb counts signals from the first one of a file, as if none came in between
        lines = [f"copy {len(signals)} 1 {length}", *(f"copy.dat {signal.fields}" for signal in signals)]
        (Path(folder) / "copy.hea").write_text("\n".join([*lines, ""]))
        link = Path(folder) / "copy.dat"
        try:
            link.symlink_to(data.resolve())
        except OSError:  # a system that keeps links to its administrators
            copyfile(data, link)
        # format 8 stores differences, which mean nothing from the middle on
        step = length if signals[0].form == "8" else chunk
        for begin in range(0, length, step):
            end = min(begin + step, length)
            record = wfdb.rdrecord(f"{folder}/copy", begin, end, channels=rows, smooth_frames=False, return_res=32)
            yield begin, record.e_p_signal
