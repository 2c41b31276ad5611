"""Reading all records of a release: in parallel, and so that a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from butppg_lightning.errors import StoppedError
from butppg_lightning.npz import read_npz, write_npz
from butppg_lightning.sources import UnusableError
from butppg_lightning.sources.but_ppg.reader import ROWS, DamagedError, read_record
from butppg_lightning.sources.parallel import in_order
from butppg_lightning.window import WINDOW_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from butppg_lightning.npz import Array
    from butppg_lightning.sources.but_ppg.release import Release

PARTS_FOLDER = ".but_ppg_parts"
"""Folder of the output that holds what has been read, until the splits are written."""

_BATCH = 4  # records read and stored together: three seconds of the first release, a tenth of a second of the second
_VERSION = 2  # raise it when the same files give other signals
_SEPARATOR = "\n"  # between a record's notes


class _Batch(NamedTuple):
    """Folders and checksums of some records, and the npz file, named by the source files, for what is read of them."""

    folders: dict[str, Path]
    checksums: dict[str, dict[str, str]]
    path: Path


@dataclass(frozen=True)
class Recordings:
    """All records of a release at 125 Hz."""

    records: Array  # [N] names
    signals: Array  # [N, 7, 1250] float32, the rows named by reader.ROWS; 0 where not present
    present: Array  # [N, 7] bool
    colours: Array  # [N] number of colours the camera gave
    notes: dict[str, list[str]]  # what was bridged and which channels are not there, by record
    left_out: dict[str, str]  # why a record has no signals
    damaged: dict[str, str]  # what is wrong with a record's files

    def by_note(self) -> dict[str, list[str]]:
        """Return the records that each note is about."""
        grouped: dict[str, list[str]] = {}
        for record, lines in sorted(self.notes.items()):
            for line in lines:
                grouped.setdefault(line, []).append(record)
        return grouped


def read_recordings(
    release: Release, records: list[str], parts: Path, workers: int, progress: Callable[[int], None]
) -> Recordings:
    """Read records of a release in several processes.

    Args:
        release: The release.
        records: Which of its records.
        parts: Folder for what has been read. What an earlier run left there of the same files is not read again.
        workers: Number of processes; 1 reads in this one.
        progress: Called with the number of records done, as they are done.

    Raises:
        UserError: If the folder cannot be written or a process was killed.
        StoppedError: If the user interrupts it; what has been read is kept.
    """
    batches = [_batch(release, records[start : start + _BATCH], parts) for start in range(0, len(records), _BATCH)]
    todo = [batch for batch in batches if not batch.path.is_file()]
    progress(sum(len(batch.folders) for batch in batches if batch not in todo))
    try:
        for done in in_order(_read_batch, todo, min(workers, len(todo))):
            progress(done)
    except KeyboardInterrupt:
        raise StoppedError("interrupted; the same command goes on where it stopped", 128 + signal.SIGINT) from None
    return _collect([read_npz(batch.path) for batch in batches])


def _batch(release: Release, records: list[str], parts: Path) -> _Batch:
    folders = {record: release.records[record] for record in records}
    checksums = {record: release.checksums_of(record) for record in records}
    identity = []
    for record, folder in folders.items():
        states = [(file.name, file.stat()) for file in sorted(folder.glob(f"{record}_*"))]
        identity.append((record, checksums[record], [(name, st.st_size, st.st_mtime_ns) for name, st in states]))
    key = hashlib.sha256(json.dumps([_VERSION, identity]).encode()).hexdigest()[:24]
    return _Batch(folders, checksums, parts / f"{key}.npz")


def _read_batch(batch: _Batch) -> int:
    count = len(batch.folders)
    signals = np.zeros((count, len(ROWS), WINDOW_SAMPLES), dtype=np.float32)
    present = np.zeros((count, len(ROWS)), dtype=bool)
    colours = np.zeros(count, dtype=np.int64)
    remarks: dict[str, list[str]] = {"notes": [""] * count, "left_out": [""] * count, "damaged": [""] * count}
    for row, (record, folder) in enumerate(batch.folders.items()):
        try:
            read = read_record(record, folder, batch.checksums[record])
            colours[row] = read.colours
            remarks["notes"][row] = _SEPARATOR.join(read.notes)
            for name, channel in read.channels.items():
                signals[row, ROWS.index(name)] = channel
                present[row, ROWS.index(name)] = True
        except UnusableError as error:
            remarks["left_out"][row] = str(error)
        except (DamagedError, OSError) as error:
            remarks["damaged"][row] = str(error)
    arrays = {"records": np.array(list(batch.folders)), "signals": signals, "present": present, "colours": colours}
    write_npz(batch.path, arrays | {key: np.array(words) for key, words in remarks.items()})
    return count


def _collect(parts: list[dict[str, Array]]) -> Recordings:
    def joined(key: str) -> Array:
        return np.concatenate([part[key] for part in parts])

    def remarks(key: str) -> dict[str, str]:
        return {str(record): str(words) for record, words in zip(records, joined(key), strict=True) if words}

    records = joined("records")
    notes = {record: words.split(_SEPARATOR) for record, words in remarks("notes").items()}
    signals, present, colours = joined("signals"), joined("present"), joined("colours")
    return Recordings(records, signals, present, colours, notes, remarks("left_out"), remarks("damaged"))
