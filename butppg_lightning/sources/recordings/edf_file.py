"""Long recordings from EDF and EDF+ files (Kemp et al. 1992; Kemp and Olivan 2003), continuous or with gaps."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.names import Selection, match_channels, printable
from butppg_lightning.sources.recordings.recording import Channel, Recording, assemble, empty_samples

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from butppg_lightning.npz import Array

_CHUNK_SECONDS = 600.0  # converted together
_PLACEHOLDER_YEAR = 1985  # "01.01.85" stands for an unknown date
_ONSET = re.compile(rb"^([+-]\d+(?:\.\d*)?)\x14")


def read(path: Path, selection: Selection) -> Recording:
    """Read a recording from an EDF or EDF+ file; a damaged header makes edfio raise anything."""
    from edfio import read_edf

    declared = _declared_records(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that do not fit: checked below
        return _recording(path, read_edf(path, lazy_load_data=True, header_encoding="latin-1"), declared, selection)


def _recording(path: Path, edf: Any, declared: int, selection: Selection) -> Recording:
    names = tuple(printable(signal.label) for signal in edf.signals)
    if declared not in (-1, edf.num_data_records):  # -1: not known when the header was written
        raise UserError(
            f"{path} declares {declared:,} data records but holds {edf.num_data_records:,}: "
            "it is truncated or its header is damaged; write it again"
        )
    if edf.num_data_records < 1:
        raise UserError(f"{path} holds no data records; give a file with samples")
    onsets = _onsets(path, edf)
    channels = {}
    for channel, row in match_channels(path, names, selection).items():
        signal = edf.signals[row]
        samples = _samples(path, names[row], signal, onsets, edf.num_data_records, edf.data_record_duration)
        rate, unit = float(signal.sampling_frequency), signal.physical_dimension
        channels[channel] = Channel(channel, names[row], rate, 0.0, samples, unit)
    return assemble(path, channels, _start_time(edf), names, selection.acc_unit)


def _samples(path: Path, name: str, signal: Any, onsets: Array | None, records: int, duration: float) -> Array:
    per_record = signal.samples_per_data_record
    if signal.physical_max == signal.physical_min or signal.digital_max <= signal.digital_min:
        raise UserError(f"{path}: '{name}' has an empty physical or digital range; mend its header")
    places = np.arange(records) * per_record
    if onsets is not None:
        places = np.rint((onsets - onsets[0]) * signal.sampling_frequency).astype(np.int64)
    samples = empty_samples(path, name, int(places[-1]) + per_record)
    step = max(1, int(_CHUNK_SECONDS / duration))
    for begin in range(0, records, step):
        end = min(begin + step, records)
        values = signal.get_data_slice(begin * duration, end * duration).reshape(end - begin, per_record)
        samples[(places[begin:end, None] + np.arange(per_record)).ravel()] = values.ravel()
    return samples


def _onsets(path: Path, edf: Any) -> Array | None:
    """Return each data record's start in seconds for a file with gaps (EDF+D), else None."""
    if not edf.reserved.startswith("EDF+D"):
        return None
    with path.open("rb") as file:
        file.seek(256)
        count = edf.bytes_in_header_record // 256 - 1
        header = file.read(256 * count)
        labels = [header[16 * row : 16 * row + 16].strip() for row in range(count)]
        sizes = [2 * int(header[216 * count + 8 * row : 216 * count + 8 * row + 8]) for row in range(count)]
        if b"EDF Annotations" not in labels:
            raise UserError(f"{path} says it has gaps (EDF+D), but has no annotations that say where; write it again")
        row = labels.index(b"EDF Annotations")
        times = np.empty(edf.num_data_records)
        for record in range(len(times)):
            file.seek(256 * (count + 1) + record * sum(sizes) + sum(sizes[:row]))
            match = _ONSET.match(file.read(sizes[row]))
            if match is None:
                raise UserError(f"{path}: data record {record} does not say when it begins; write it again")
            times[record] = float(match[1])
    if (np.diff(times) < edf.data_record_duration - 1e-6).any():
        raise UserError(f"{path}: the data records overlap or go back in time; write it again")
    return times


def _declared_records(path: Path) -> int:
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    try:
        if len(head) == 256 and head[:8].strip() == b"0":
            return int(head[236:244])
    except ValueError:
        pass
    raise UserError(f"{path} is not an EDF file (no header of EDF); give a file of EDF or EDF+")


def _start_time(edf: Any) -> datetime | None:
    from edfio import AnonymizedDateError

    try:
        moment: datetime = edf.startdatetime
    except (AnonymizedDateError, ValueError):  # withheld, or no date at all
        return None
    return None if moment.year == _PLACEHOLDER_YEAR else moment
