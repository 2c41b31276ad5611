"""One VitalDB case: its PPG and ECG at the rate they were recorded, from a `.vital` file or the VitalDB server."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import socket
import zlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.error import HTTPError

import numpy as np

from butppg_lightning.errors import UserError, first_line
from butppg_lightning.extras import require
from butppg_lightning.sources import UnusableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from butppg_lightning.npz import Array

import_vitaldb = partial(require, "vitaldb", "VitalDB", "recordings")  # or say what to install
TRACKS = {"PPG": "SNUADC/PLETH", "ECG": "SNUADC/ECG_II"}  # track of each channel
NO_NETWORK = (
    "use local files: --source DIR, a folder of .vital files (and --clinical clinical_data.csv for the patients)"
)

_LONGEST = 48.0  # hours; a stranger's file may declare any length
_RATES = (50.0, 2000.0)  # Hz
_MOST_BYTES = 4 * 2**30  # of an unpacked file; a day of 16-bit waveforms on 16 tracks takes one
_CHUNK = 2**20
_PATIENCE = 60.0  # seconds


class Track(NamedTuple):
    """One waveform."""

    samples: Array  # [T] float32 in the unit of the file; NaN where nothing was recorded
    rate: float  # Hz


def read_case(where: Path | int) -> dict[str, Track]:
    """Read PPG and ECG of a case, by channel name, from a `.vital` file or by its number on the VitalDB server.

    Both begin at the same instant and have every sample that was recorded, at 1/rate intervals. An UnusableError says
    what is wrong with the file, a UserError that the package or the server is missing.
    """
    file = _open_local(where) if isinstance(where, Path) else _open_remote(where)
    found = {}
    for channel, name in TRACKS.items():
        track = file.trks.get(name)
        if track is None or track.type != 1 or not track.recs:
            raise UnusableError(f"has no {name}")
        if not _RATES[0] <= track.srate <= _RATES[1]:
            raise UnusableError(f"{name} is sampled at {track.srate:g} Hz")
        found[channel] = track
    records = [(record["dt"], len(record["val"]) / track.srate) for track in found.values() for record in track.recs]
    begin = min(start for start, _ in records)
    seconds = max(start + length for start, length in records) - begin
    if not (math.isfinite(seconds) and 0 < seconds <= _LONGEST * 3600):
        raise UnusableError(f"declares a length of {seconds / 3600:g} hours")
    packed = bool(getattr(file, "packed", False))
    return {name: Track(_samples(track, begin, seconds, packed), track.srate) for name, track in found.items()}


@contextlib.contextmanager
def patient_sockets() -> Iterator[None]:
    """Wait a minute for the server's every answer, not forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _open_local(path: Path) -> Any:
    vitaldb = import_vitaldb()
    _check_archive(path)
    file = vitaldb.VitalFile()
    file.dtstart = file.dtend = 0
    said = io.StringIO()
    try:
        # the package prints what goes wrong
        with contextlib.redirect_stdout(said):
            complete = file.load_vital(str(path.resolve()), list(TRACKS.values()))
    except Exception as error:  # a stranger's file: whatever its parser stumbles over
        raise UnusableError(f"is damaged ({first_line(error)})") from error
    if not complete:
        reason = said.getvalue().strip().partition("\n")[0].removeprefix("Error in reading file: ")
        raise UnusableError(f"is damaged ({reason or 'no .vital file'})")
    return file


def _open_remote(case: int) -> Any:
    vitaldb = import_vitaldb()
    try:
        with contextlib.redirect_stdout(io.StringIO()), patient_sockets():
            return vitaldb.VitalFile(case, list(TRACKS.values()))
    except HTTPError as error:
        raise UnusableError(f"is not on the server (HTTP {error.code})") from error
    except gzip.BadGzipFile as error:
        raise UnusableError(f"is no .vital file on the server ({first_line(error)})") from error
    except OSError as error:
        reason = first_line(getattr(error, "reason", error))
        raise UserError(f"case {case} cannot be loaded from VitalDB ({reason}); {NO_NETWORK}") from error
    except Exception as error:
        raise UnusableError(f"is damaged ({first_line(error)})") from error


def _check_archive(path: Path) -> None:
    """Unpack it once to the end: the package takes a truncated file for a shorter recording."""
    try:
        with gzip.open(path) as file:
            size = 0
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                if size > _MOST_BYTES:
                    raise UnusableError(f"unpacks to more than {_MOST_BYTES / 2**30:.0f} GiB")
    except EOFError:
        raise UnusableError("is truncated") from None
    except (OSError, zlib.error) as error:
        raise UnusableError(f"is no complete .vital file ({first_line(error)})") from None


def _samples(track: Any, begin: float, seconds: float, packed: bool) -> Array:
    samples = np.full(math.ceil(seconds * track.srate), np.nan, dtype=np.float32)
    for record in track.recs:
        # rounded, where the package takes the next sample up: a clock's last digit must not open a gap
        start = round((record["dt"] - begin) * track.srate)
        values = np.asarray(record["val"])[: max(0, samples.size - start)]
        recorded = np.isfinite(values)
        if packed and values.dtype.kind in "iu":
            # a packed file fills gaps with the type's extreme value, and the package takes that for a measurement
            limits = np.iinfo(values.dtype)
            recorded = values != (limits.min if values.dtype.kind == "i" else limits.max)
        samples[start : start + values.size] = np.where(recorded, values, np.nan)
    if track.fmt > 2:  # integers of a converter
        samples = samples * np.float32(track.gain) + np.float32(track.offset)
    samples[~np.isfinite(samples) | (samples > 4e9)] = np.nan  # the package's own limit
    return samples
