"""Records of the release → named channels at 125 Hz: in parallel, and so that a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import re
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from butppg_lightning.errors import StoppedError, first_line
from butppg_lightning.files import file_sha256
from butppg_lightning.npz import read_npz, write_npz
from butppg_lightning.sources import UnusableError
from butppg_lightning.sources.but_ppg.release import CHECKSUM_FILE
from butppg_lightning.sources.parallel import in_order
from butppg_lightning.sources.recordings.recording import UNITS as ACC_UNITS
from butppg_lightning.sources.recordings.recording import unit_of
from butppg_lightning.sources.resampling import Gaps, resample
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from butppg_lightning.npz import Array
    from butppg_lightning.sources.but_ppg.release import Release

PARTS_FOLDER = ".but_ppg_parts"  # folder of the output that holds what has been read, until the splits are written
COLOURS = ("red", "green", "blue")  # the camera's channels; the first release has one, which is red
ROWS = (*COLOURS, "ACC_X", "ACC_Y", "ACC_Z", "ECG")  # what is read of a record, in this order
DAMAGED = "damaged: "  # how the reason begins where a record is left out because its files have to be downloaded again

_VERSION = 3  # raise it when the same files give other signals
_PPG = ROWS[:3]
_ACC = ROWS[3:6]
_MOST_VALUES = 10**7  # a header may not ask for more than this; ten seconds of ECG are 10,000
_BYTES = 2  # of a sample in format 16, the only one the release uses
_INVALID = -(2**15)  # format 16's mark for a sample that is not there (WFDB signal(5))
_ECG_UNITS = {"uv": 1e-3, "mv": 1.0, "v": 1e3}
_SECONDS = WINDOW_SAMPLES / SAMPLING_RATE
_LENGTH_TOLERANCE = 0.1  # s that a record may be shorter (its last sample is held) or longer (the rest is dropped)
_LONGEST_GAP = 0.2  # s of invalid samples on end that are bridged by a straight line: about a pulse's upstroke
_GAP_SHARE = 0.05  # of a channel's samples that may be bridged altogether


class DamagedError(Exception):
    """A file is not what the recorder wrote: it has to be downloaded again."""


@dataclass(frozen=True)
class Signals:
    """What a WFDB record holds."""

    values: Array  # [signals, samples] float64 in the header's physical units, NaN where invalid
    rate: float  # Hz
    names: list[str]  # description of each signal
    unit: str  # of the first signal


@dataclass
class Record:
    """A record at 125 Hz."""

    # [1250] floats by name in ROWS: ECG in mV, acceleration in g, PPG in the camera's unit
    channels: dict[str, Array] = field(default_factory=dict)
    colours: int = 0  # that the camera gave, usable or not
    notes: list[str] = field(default_factory=list)  # what was bridged, and why a channel is not there
    left_out: str = ""  # why it gives no window: there is no usable PPG, or what is wrong with the files


class _Part(NamedTuple):
    """A record to read, and the npz file, named by the source files, for what is read of it."""

    record: str
    folder: Path
    checksums: dict[str, str]
    path: Path


def read_recordings(
    release: Release, records: list[str], parts: Path, workers: int, progress: Callable[[int], None]
) -> dict[str, Record]:
    """Read records of a release in several processes; the damaged ones and those without usable PPG then say so.

    What has been read is in the folder ``parts``, also after an interrupt (StoppedError); what an earlier run left
    there of the same files is not read again.
    """
    wanted = [_part(release, record, parts) for record in records]
    todo = [part for part in wanted if not part.path.is_file()]
    progress(len(wanted) - len(todo))
    try:
        for done in in_order(_store, todo, min(workers, len(todo))):
            progress(done)
    except KeyboardInterrupt:
        raise StoppedError("interrupted; the same command goes on where it stopped", 128 + signal.SIGINT) from None
    return {part.record: _stored(part.path) for part in wanted}


def _part(release: Release, record: str, parts: Path) -> _Part:
    folder, checksums = release.records[record], release.checksums_of(record)
    states = [(file.name, file.stat()) for file in sorted(folder.glob(f"{record}_*"))]
    identity = [_VERSION, record, checksums, [(name, state.st_size, state.st_mtime_ns) for name, state in states]]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]
    return _Part(record, folder, checksums, parts / f"{key}.npz")


def _store(part: _Part) -> int:
    try:
        read = read_record(part.record, part.folder, part.checksums)
    except UnusableError as error:
        read = Record(left_out=str(error))
    except (DamagedError, OSError) as error:
        read = Record(left_out=f"{DAMAGED}{error}")
    signals = {name: samples.astype(np.float32) for name, samples in read.channels.items()}
    words = {"notes": np.array(read.notes, dtype=str), "left_out": read.left_out}
    write_npz(part.path, {**signals, **words, "colours": read.colours})
    return 1


def _stored(path: Path) -> Record:
    arrays = read_npz(path)
    # copies: a map of each of the thousands of files is more than a process may have
    channels = {name: np.array(arrays[name]) for name in ROWS if name in arrays}
    return Record(channels, int(arrays["colours"]), arrays["notes"].tolist(), str(arrays["left_out"]))


def read_record(record: str, folder: Path, checksums: dict[str, str]) -> Record:
    """Read one record: PPG, and ECG and acceleration where they are usable; notes say why a channel is left out.

    ``checksums`` are the SHA-256 sums of those of its files that the release lists; all are checked. An UnusableError
    says that there is no usable PPG, a DamagedError what is wrong with a file.
    """
    for name, expected in checksums.items():
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{name} is missing, though {CHECKSUM_FILE} lists it")
        if file_sha256(path) != expected:
            raise DamagedError(f"{name} does not match {CHECKSUM_FILE}")
    read = Record()
    for kind in ("PPG", "ECG", "ACC"):
        path = folder / f"{record}_{kind}"
        try:
            if not path.with_suffix(".hea").is_file():
                raise UnusableError("has no file")
            _add(read, kind, read_signals(path))
        except UnusableError as error:
            if kind == "PPG":
                raise UnusableError(f"PPG {error}") from None
            read.notes.append(f"{kind} absent: {error}")
    return read


def to_window(samples: Array, rate: float) -> tuple[Array, int]:
    """Bridge short gaps, bring ``[T]`` at ``rate`` (Hz), not finite where invalid, to ten seconds, resample to 125 Hz.

    Returns:
        ``[1250]`` float64 in the unit of ``samples``, and how many samples were bridged.

    Examples:
        >>> window, bridged = to_window(np.array([np.nan, *range(1, 299), np.nan]), 30.0)
        >>> window.shape, bridged
        ((1250,), 2)
    """
    expected = round(_SECONDS * rate)
    if abs(samples.size - expected) > _LENGTH_TOLERANCE * rate:
        raise UnusableError(
            f"lasts {samples.size / rate:.2f} s ({samples.size} samples at {rate:g} Hz), not {_SECONDS:g} s"
        )
    samples = np.where(np.isfinite(samples), samples, np.nan)
    bridged = int(np.isnan(samples).sum())
    if bridged == samples.size:
        raise UnusableError("has no valid sample")
    gaps = Gaps(samples)
    longest = int((gaps.stops - gaps.starts).max(initial=0))
    if longest > _LONGEST_GAP * rate or bridged > _GAP_SHARE * samples.size:
        raise UnusableError(f"has {bridged / rate:.2f} s of invalid samples, {longest / rate:.2f} s of them on end")
    # a record that is too short is held at its last sample
    return np.asarray(resample(gaps.bridged(0, expected), rate)[:WINDOW_SAMPLES]), bridged


def read_signals(path: Path) -> Signals:
    """Read the signals of a WFDB record from its files' path without suffix, in physical units.

    The records of the first release (100001 to 111004) declare as many signals as there are samples, one sample
    each, with the value in each signal's baseline: they are one signal. A DamagedError says what is wrong with a file.
    """
    import wfdb

    try:
        header = wfdb.rdheader(str(path))
        _check(path, header)
        if header.sig_len == 1 and header.n_sig > len(ROWS):
            return _one_sample_each(path, header)
        values = wfdb.rdrecord(str(path)).p_signal.T
    except DamagedError:
        raise
    except Exception as error:
        # wfdb parses by regular expressions and lists: damage surfaces as whatever these raise
        raise DamagedError(f"{path.name} is no complete WFDB record ({first_line(error)})") from error
    return Signals(values, float(header.fs), [str(name) for name in header.sig_name], str(header.units[0]))


def _check(path: Path, header: Any) -> None:
    """Believe a header only as far as its data file goes, before anything is allocated."""
    if not hasattr(header, "file_name") or not header.n_sig or not header.sig_len:
        raise DamagedError(f"{path.name}.hea declares no signals of a known length")
    if not 1 <= header.fs <= 1e5:
        raise DamagedError(f"{path.name}.hea declares {header.fs} Hz")
    if header.n_sig * header.sig_len > _MOST_VALUES:
        raise DamagedError(f"{path.name}.hea declares {header.n_sig} signals of {header.sig_len} samples")
    if set(header.file_name) != {f"{path.name}.dat"} or set(header.fmt) != {"16"}:
        raise DamagedError(f"{path.name}.hea does not describe {path.name}.dat in format 16")
    data = path.with_suffix(".dat")
    expected = _BYTES * header.n_sig * header.sig_len
    found = data.stat().st_size if data.is_file() else 0
    if found != expected:
        raise DamagedError(f"{data.name} has {found} of {expected} bytes")


def _one_sample_each(path: Path, header: Any) -> Signals:
    # what wfdb.rdrecord would return as one row, in a third of the time: it searches a list for each of 10,000 signals
    digital = np.fromfile(path.with_suffix(".dat"), dtype="<i2").astype(np.float64)
    digital[digital == _INVALID] = np.nan
    values = (digital - np.array(header.baseline, float)) / np.array(header.adc_gain, float)
    return Signals(values[None], float(header.fs), [path.name], str(header.units[0]))


def _add(read: Record, kind: str, signals: Signals) -> None:
    scale, note = 1.0, ""
    if kind == "PPG":
        read.colours = len(signals.values)
    else:
        known, default = (ACC_UNITS, "g") if kind == "ACC" else (_ECG_UNITS, "mv")
        unit = (unit_of(signals.unit) or "") if kind == "ACC" else signals.unit.lower().replace("µ", "u")
        scale = known.get(unit, 1.0)
        note = "" if unit in known else f"{kind}: unit {signals.unit!r} unknown, taken as {default}"
    found: dict[str, Array] = {}
    for name, row in _rows(kind, signals).items():
        try:
            window, bridged = to_window(signals.values[row] * scale, signals.rate)
        except UnusableError as error:
            if kind == "PPG" and len(signals.values) > 1:
                read.notes.append(f"{name} PPG absent: {error}")
                continue
            raise UnusableError(str(error)) from None
        found[name] = window
        if bridged:
            read.notes.append(f"{name}: {bridged} invalid samples bridged")
    if not found:
        raise UnusableError("has no usable colour")
    read.channels |= found
    if note:
        read.notes.append(note)


def _rows(kind: str, signals: Signals) -> dict[str, int]:
    """Find the rows of :data:`ROWS` among a record's signals: by name, or in order where names say nothing."""
    count = len(signals.values)
    if kind == "ECG":
        return {"ECG": 0}
    if kind == "PPG" and count == 1:
        return {"red": 0}
    wanted, letters = (_PPG, "rgb") if kind == "PPG" else (_ACC, "xyz")
    if count != len(wanted):
        raise UnusableError(f"has {count} signals; expected {len(wanted)}")
    # wfdb takes the dot in the unit "a.u." for its end and leaves the rest of the line before the name
    last = [re.split(r"[\s_]", name.lower())[-1][-1:] for name in signals.names]
    order = [last.index(letter) for letter in letters] if sorted(last) == sorted(letters) else range(count)
    return dict(zip(wanted, order, strict=True))
