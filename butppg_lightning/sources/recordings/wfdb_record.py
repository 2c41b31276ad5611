"""Long recordings from WFDB records: of one or several segments, with one or several rates."""

from __future__ import annotations

import math
import re
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.names import Selection, match_channels, printable
from butppg_lightning.sources.recordings.recording import LONGEST_DAYS, Channel, Recording, assemble, empty_samples

if TYPE_CHECKING:
    from butppg_lightning.npz import Array

_CHUNK_SECONDS = 1800.0  # read together: wfdb makes several copies
# bytes per sample (header(5) of the WFDB library); FLAC has no fixed size, and its reader knows the length
_BYTES = {"8": 1.0, "16": 2.0, "24": 3.0, "32": 4.0, "61": 2.0, "80": 1.0, "160": 2.0, "212": 1.5, "310": 4 / 3}
_BYTES |= {"311": 4 / 3}
_LARGEST_HEADER = 2**24  # bytes
_MISREAD_UNIT = re.compile(r"^\.\S*(?:\s+-?\d+){5}\s+")
_FLAC = ("508", "516", "524")


def read(path: Path, selection: Selection) -> Recording:
    """Read a recording from a WFDB record, given with or without ``.hea``; damage makes wfdb raise anything."""
    record = path.with_suffix("") if path.suffix == ".hea" else path
    path, header = Path(f"{record}.hea"), _header(record)
    segments, rate = _segments(record, header), float(header.fs)
    first: dict[str, tuple[float, str]] = {}  # rate and unit by name
    for _, segment_path, segment in segments:
        if float(segment.fs) != rate:
            raise UserError(f"{segment_path} is sampled at {segment.fs:g} Hz, {path} at {rate:g}; convert the record")
        for name, frames, unit in zip(segment.sig_name, segment.samps_per_frame, segment.units, strict=True):
            stated = first.setdefault(_name(name), (rate * frames, unit or ""))
            if stated[0] != rate * frames:
                raise UserError(f"{segment_path}: the rate of '{_name(name)}' changes; convert the record")
    names = tuple(first)
    total = max((start + segment.sig_len for start, _, segment in segments), default=0)
    found = match_channels(path, names, selection)
    if not rate > 0 or not total / rate <= LONGEST_DAYS * 86_400:
        raise UserError(f"{path} declares {total:,} samples at {rate:g} Hz; expected up to {LONGEST_DAYS} days")
    channels = {}
    for channel, row in found.items():
        own, unit = first[names[row]]
        samples = empty_samples(path, names[row], round(total * own / rate))
        channels[channel] = Channel(channel, names[row], own, 0.0, samples, unit)
    wanted = {names[row]: channels[channel].samples for channel, row in found.items()}
    for start, segment_path, segment in segments:
        _read_segment(segment_path, segment, start, wanted)
    return assemble(path, channels, getattr(header, "base_datetime", None), names, selection.acc_unit)


def _segments(name: Path, header: Any) -> list[tuple[int, Path, Any]]:
    """Return every segment that has signals: its first frame, its record and its header."""
    if not hasattr(header, "seg_name"):
        return [(0, name, _checked(name, header))]
    found, start = [], 0
    for segment, length in zip(header.seg_name, header.seg_len, strict=True):
        if segment != "~" and length:
            path = name.parent / _inside(name, segment)
            inner = _header(path)
            if hasattr(inner, "seg_name"):
                raise UserError(f"{path}.hea is a segment that has segments itself; convert the record")
            inner = _checked(path, inner)
            if inner.sig_len != length:
                raise UserError(f"{path}.hea declares {inner.sig_len} samples, {name}.hea {length}; write them again")
            found.append((start, path, inner))
        start += length
    return found


def _checked(path: Path, header: Any) -> Any:
    """Return a segment's header if its files can hold what it declares, with its length filled in."""
    if not header.n_sig:
        raise UserError(f"{path}.hea declares no signals; give a record with samples")
    for file in dict.fromkeys(header.file_name):
        rows = [row for row, other in enumerate(header.file_name) if other == file]
        data = path.parent / _inside(path, file)
        if not data.is_file():
            raise UserError(f"{path}.hea names the signal file {data}, which does not exist; copy it there")
        form, per_frame = header.fmt[rows[0]], sum(header.samps_per_frame[row] for row in rows)
        offset = header.byte_offset[rows[0]] or 0
        if form in _FLAC:
            held = header.sig_len or 0
        elif form in _BYTES and per_frame > 0:
            held = math.floor((data.stat().st_size - offset) / (_BYTES[form] * per_frame) + 1e-9)
        else:
            raise UserError(
                f"{path}.hea: {file} has the format {form}, {per_frame} samples a frame; convert the record"
            )
        if header.sig_len is None:
            header.sig_len, header.read_whole = held, True
        if header.sig_len > held:
            raise UserError(
                f"{path}.hea declares {header.sig_len:,} samples, but {data} holds {held:,}: "
                "it is truncated or the header is damaged"
            )
    if not header.sig_len:
        raise UserError(f"{path}.hea declares no samples; give a record with samples")
    return header


def _read_segment(path: Path, segment: Any, start: int, wanted: dict[str, Array]) -> None:
    import wfdb

    rows = [row for row, name in enumerate(segment.sig_name) if _name(name) in wanted]
    if not rows:
        return
    # format 8 stores differences, which mean nothing from the middle on; without a stated length wfdb reads no part
    whole = "8" in segment.fmt or hasattr(segment, "read_whole")
    step = segment.sig_len if whole else max(1, int(_CHUNK_SECONDS * segment.fs))
    for begin in range(0, segment.sig_len, step):
        end = min(begin + step, segment.sig_len)
        until = None if whole else end
        part = wfdb.rdrecord(str(path), begin, until, channels=rows, smooth_frames=False, return_res=32)
        for row, values in zip(rows, part.e_p_signal, strict=True):
            frames = segment.samps_per_frame[row]
            place = (start + begin) * frames
            samples = wanted[_name(segment.sig_name[row])]
            samples[place : place + len(values)] = np.where(np.isfinite(values), values, np.nan)


def _inside(path: Path, name: str) -> str:
    """Return a file's name that a header gives, if it lies beside the header: a header must not lead elsewhere."""
    if PurePath(name).name != name or "\\" in name or ":" in name:
        raise UserError(f"{path}.hea names the file {printable(name)[:60]!r}, which is not beside it; copy it there")
    return name


def _header(name: Path) -> Any:
    """Read a record's header and check its first line: wfdb leaves out what it misreads, and takes 250 Hz instead."""
    import wfdb

    path = Path(f"{name}.hea")
    try:
        if path.stat().st_size > _LARGEST_HEADER:
            raise UserError(f"{path} has {path.stat().st_size / 2**20:.0f} MiB; that is no header of a WFDB record")
        lines = path.read_text("ascii", errors="ignore").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    header = wfdb.rdheader(str(name))
    fields = next(line.split() for line in lines if line.strip() and not line.startswith("#"))
    understood = [None, None, header.fs, header.sig_len]
    for field, value in list(zip(fields, understood, strict=False))[2:]:
        number = re.match(r"[^/(]*", field)
        if value is None or number is None or float(number[0]) != float(value):
            raise UserError(f"{path}: its first line says {printable(field)[:40]!r} where a rate or a length should be")
    return header


def _name(name: str | None) -> str:
    # wfdb 4.3 reads the unit "a.u." up to its first dot and takes the rest of the line for the name
    return printable(_MISREAD_UNIT.sub("", name or ""))
