"""Long recordings from EDF, EDF+ and BDF files (Kemp et al. 1992; Kemp and Olivan 2003), continuous or with gaps.

Samples are what a file is read for: a count of data records or a date that is wrong costs a note, not the file.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.names import Selection, match_channels, printable, split_unit
from butppg_lightning.sources.recordings.recording import Channel, Recording, assemble, empty_samples

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.npz import Array

_CHUNK_SECONDS = 600.0  # converted together
_PLACEHOLDER_YEAR = 1985  # "01.01.85" stands for an unknown date
_ONSET = re.compile(rb"^([+-]\d+(?:\.\d*)?)\x14")
_DRIFT = 0.5  # seconds by which the times of data records without gaps may differ from their count
_UNKNOWN = -1  # the count of data records in a file that was never closed


@dataclass
class _Layout:
    """What the header says of the file's parts, beside what edfio makes of it."""

    path: Path
    header: bytes  # as a reader can take it
    mended: bool  # whether that differs from what the file has
    declared: int  # data records, _UNKNOWN if it does not say
    labels: list[bytes]
    sizes: list[int]  # bytes of each signal in a data record
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """Which of the two formats it is."""
        return "EDF" if self.header[:1] == b"0" else "BDF"


def read(path: Path, selection: Selection) -> Recording:
    """Read a recording from an EDF, EDF+ or BDF file; a damaged header makes edfio raise anything."""
    import edfio

    layout = _layout(path)
    source = layout.header + path.read_bytes()[len(layout.header) :] if layout.mended else path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that do not fit: checked below
        if layout.kind == "BDF":
            return _recording(layout, edfio.read_bdf(source, header_encoding="latin-1"), selection)
        return _recording(layout, edfio.read_edf(source, lazy_load_data=True, header_encoding="latin-1"), selection)


def _recording(layout: _Layout, edf: Any, selection: Selection) -> Recording:
    path, records = layout.path, edf.num_data_records
    names = tuple(printable(signal.label) or f"signal_{place}" for place, signal in enumerate(edf.signals, 1))
    if not names:
        raise UserError(f"{path} has annotations only; give a file with signals")
    if records < 1:
        raise UserError(f"{path} holds no data records; give a file with samples")
    _compare_counts(layout, records)
    onsets = _onsets(layout, edf)
    total = max(records, layout.declared)
    channels = {}
    for channel, row in match_channels(path, names, selection).items():
        signal = edf.signals[row]
        samples = _samples(path, names[row], signal, onsets, records, total, edf.data_record_duration)
        unit = signal.physical_dimension or split_unit(names[row])[1]
        channels[channel] = Channel(channel, names[row], float(signal.sampling_frequency), 0.0, samples, unit)
    recording = assemble(path, channels, _start_time(layout, edf), names, selection.acc_unit)
    recording.notes[:0] = layout.notes
    return recording


def _samples(
    path: Path, name: str, signal: Any, onsets: Array | None, records: int, total: int, duration: float
) -> Array:
    per_record = signal.samples_per_data_record
    if signal.physical_max == signal.physical_min or signal.digital_max <= signal.digital_min:
        raise UserError(f"{path}: '{name}' has an empty physical or digital range; mend its header")
    places, count = np.arange(records) * per_record, total * per_record
    if onsets is not None:
        places = np.rint((onsets - onsets[0]) * signal.sampling_frequency).astype(np.int64)
        count = int(places[-1]) + per_record
    samples = empty_samples(path, name, count)
    step = max(1, int(_CHUNK_SECONDS / duration))
    for begin in range(0, records, step):
        end = min(begin + step, records)
        values = signal.get_data_slice(begin * duration, end * duration).reshape(end - begin, per_record)
        samples[(places[begin:end, None] + np.arange(per_record)).ravel()] = values.ravel()
    return samples


def _compare_counts(layout: _Layout, records: int) -> None:
    path, declared = layout.path, layout.declared
    rest = (path.stat().st_size - len(layout.header)) % sum(layout.sizes)
    part = " and a part of one" if rest else ""
    if declared == _UNKNOWN:
        layout.notes.append(
            f"{path} does not say how many data records it has, as one that was never closed: "
            f"the {records:,} it holds are read"
        )
    elif declared != records or rest:
        missing = "the others are missing samples" if declared > records else f"{records:,} are read"
        layout.notes.append(f"{path} declares {declared:,} data records, but holds {records:,}{part}: {missing}")


def _onsets(layout: _Layout, edf: Any) -> Array | None:
    """Return each data record's start in seconds for a file with gaps (EDF+D), else None."""
    path, annotations = layout.path, f"{layout.kind} Annotations".encode()
    gaps = edf.reserved.startswith(f"{layout.kind}+D")
    if annotations not in layout.labels:
        if gaps:
            raise UserError(f"{path} says it has gaps (EDF+D), but has no annotations that say where; write it again")
        return None
    row, duration = layout.labels.index(annotations), edf.data_record_duration
    times = np.empty(edf.num_data_records)
    with path.open("rb") as file:
        for record in range(len(times)):
            file.seek(len(layout.header) + record * sum(layout.sizes) + sum(layout.sizes[:row]))
            match = _ONSET.match(file.read(layout.sizes[row]))
            if match is None and not gaps:
                return None
            if match is None:
                raise UserError(f"{path}: data record {record} does not say when it begins; write it again")
            times[record] = float(match[1])
    overlap = bool((np.diff(times) < duration - 1e-6).any())
    if gaps:
        if overlap:
            raise UserError(f"{path}: the data records overlap or go back in time; write it again")
        return times
    if np.abs(times - times[0] - duration * np.arange(len(times))).max() <= _DRIFT:
        return None
    taken = "taken as they follow each other" if overlap else "read with them"
    layout.notes.append(f"{path} says that it has no gaps, but the times of its data records have some: {taken}")
    return None if overlap else times


def _layout(path: Path) -> _Layout:
    """Read the header's fields of fixed places, and mend what is plain but not as the format has it."""
    try:
        with path.open("rb") as file:
            head = file.read(256)
            kind = head[:8].strip(b" ")
            if len(head) < 256 or kind not in (b"0", b"\xffBIOSEMI") or not head[252:].strip().isdigit():
                raise UserError(f"{path} is not an EDF file (no header of EDF or BDF); give a file of EDF, EDF+ or BDF")
            count = int(head[252:])
            fields = file.read(256 * count)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not head[184:192].strip().isdigit() or int(head[184:192]) != 256 * (count + 1) or len(fields) < 256 * count:
        raise UserError(
            f"{path} is not a complete EDF file: its header does not fit its {count} signals; copy it again"
        )
    try:
        declared = int(head[236:244])
    except ValueError:
        declared = _UNKNOWN
    declared = max(declared, _UNKNOWN)
    # decimal commas in the duration of a data record, and in the physical minima and maxima
    header = head[:236] + f"{declared:<8}".encode() + head[244:252].replace(b",", b".") + head[252:]
    header += fields[: 104 * count] + fields[104 * count : 120 * count].replace(b",", b".") + fields[120 * count :]
    width = 2 if kind == b"0" else 3
    return _Layout(
        path=path,
        header=header,
        mended=header[244:] != (head + fields)[244:] or head[236:244].strip() != str(declared).encode(),
        declared=declared,
        labels=[fields[16 * row : 16 * row + 16].strip() for row in range(count)],
        sizes=[width * _whole(path, fields[216 * count + 8 * row : 216 * count + 8 * row + 8]) for row in range(count)],
    )


def _whole(path: Path, text: bytes) -> int:
    if not text.strip().isdigit():
        raise UserError(
            f"{path} is not a complete EDF file: {printable(text.decode('latin-1'))!r} samples a data record"
        )
    return int(text)


def _start_time(layout: _Layout, edf: Any) -> datetime | None:
    from edfio import AnonymizedDateError

    wrong = (ValueError, IndexError, OverflowError)
    try:
        moment: datetime = edf.startdatetime
    except AnonymizedDateError:
        return None
    except wrong:
        try:  # EDF+ states the date twice, and one may be right
            moment = datetime.combine(edf.recording.startdate, edf.starttime)
        except AnonymizedDateError:
            return None
        except wrong:
            text = printable(layout.header[168:184].decode("latin-1"))
            if text:
                layout.notes.append(f"{layout.path} begins at {text!r}, which is no date and time: no clock times")
            return None
    return None if moment.year == _PLACEHOLDER_YEAR else moment
