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


class Batch(NamedTuple):
    """Folders and checksums of some records, by record, and the npz file for what is read of them.

    The file's name depends on the source files, so that it is never mistaken for that of others.
    """

    folders: dict[str, Path]
    checksums: dict[str, dict[str, str]]
    path: Path


@dataclass(frozen=True)
class Recordings:
    """All records of a release at 125 Hz.

    Attributes:
        records: ``[N]`` record names.
        signals: ``[N, 7, 1250]`` float32, the rows named by :data:`~butppg_lightning.sources.but_ppg.reader.ROWS`;
            0 where not present.
        present: ``[N, 7]`` bool.
        colours: ``[N]`` number of colours the camera gave.
        notes: What was bridged and which channels are not there, by record.
        left_out: Why a record has no signals, by record.
        damaged: What is wrong with a record's files, by record.
    """

    records: Array
    signals: Array
    present: Array
    colours: Array
    notes: dict[str, list[str]]
    left_out: dict[str, str]
    damaged: dict[str, str]


def read_recordings(
    release: Release, records: list[str], parts: Path, workers: int, progress: Callable[[int], None]
) -> Recordings:
    """Read records of a release.

    Args:
        release: The release.
        records: Which of its records.
        parts: Folder for what has been read. What an earlier run left there of the same files is not read again.
        workers: Number of processes; 1 reads in this one.
        progress: Called with the number of records done, as they are done.

    Returns:
        The records.

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


def _batch(release: Release, records: list[str], parts: Path) -> Batch:
    folders = {record: release.records[record] for record in records}
    checksums = {record: release.checksums_of(record) for record in records}
    identity = []
    for record, folder in folders.items():
        states = [(file.name, file.stat()) for file in sorted(folder.glob(f"{record}_*"))]
        identity.append((record, checksums[record], [(name, st.st_size, st.st_mtime_ns) for name, st in states]))
    key = hashlib.sha256(json.dumps([_VERSION, identity]).encode()).hexdigest()[:24]
    return Batch(folders, checksums, parts / f"{key}.npz")


def _read_batch(batch: Batch) -> int:
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
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    remarks: dict[str, dict[str, str]] = {}
    for key in ("notes", "left_out", "damaged"):
        named = zip(joined["records"], joined[key], strict=True)
        remarks[key] = {str(record): str(words) for record, words in named if words}
    return Recordings(
        records=joined["records"],
        signals=joined["signals"],
        present=joined["present"],
        colours=joined["colours"],
        notes={record: words.split(_SEPARATOR) for record, words in remarks["notes"].items()},
        left_out=remarks["left_out"],
        damaged=remarks["damaged"],
    )
