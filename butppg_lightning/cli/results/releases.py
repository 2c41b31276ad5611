"""Windows of BUT PPG for the protocol: a whole release to hold people out of, or its first records as a check."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from butppg_lightning.cli.results import fingerprints
from butppg_lightning.cli.results.workers import command
from butppg_lightning.console import progress_bar, say
from butppg_lightning.errors import UserError
from butppg_lightning.files import require_writable

if TYPE_CHECKING:
    from pathlib import Path

_LAST_OF_V1 = "111004"
"""Records up to here are of the first release; what a sample numbers from 2xxxxx on is from elsewhere."""


def prepare_release(source: Path, output: Path, workers: int) -> Path:
    """Prepare a whole release by `butppg prepare but-ppg`, once, into one file of windows.

    Args:
        source: Folder of the release.
        output: Folder for the windows and the manifest.
        workers: Processes that read.

    Returns:
        The npz file.

    Raises:
        UserError: If the release cannot be read.
    """
    found = output / "train.npz"
    asked = fingerprints.fingerprint(source=str(source.resolve()), files=_files(source))
    if fingerprints.is_done(found, asked):
        return found
    words = ["--val_share", "0", "--test_share", "0", "--workers", str(workers), "--overwrite", "true"]
    command(["prepare", "but-ppg", "--source", str(source), "--output", str(output), *words])
    fingerprints.finish(found, asked)
    return found


def first_records(source: Path, output: Path, workers: int) -> Path:
    """Read the records of the first release (100001 to 111004) into one file of windows, once.

    Args:
        source: Folder of a release, or of some of its records.
        output: Folder for the file.
        workers: Processes that read.

    Returns:
        The npz file.

    Raises:
        UserError: If there are none, or they cannot be read.
    """
    found = output / "windows.npz"
    asked = fingerprints.fingerprint(source=str(source.resolve()), files=_files(source))
    if fingerprints.is_done(found, asked):
        return found
    from butppg_lightning.sources.but_ppg.annotations import read_annotations
    from butppg_lightning.sources.but_ppg.assemble import Choices, assemble
    from butppg_lightning.sources.but_ppg.batches import read_recordings
    from butppg_lightning.sources.but_ppg.release import find_release

    release = find_release(source)
    annotations = read_annotations(release.quality_file, release.info_file)
    chosen = {
        name: note
        for name, note in annotations.items()
        if name <= _LAST_OF_V1 and name in release.records and note.label is not None
    }
    if not chosen:
        raise UserError(f"{source} has no labelled record of BUT PPG v1 (100001 to {_LAST_OF_V1}); drop --release")
    parts = require_writable(output / "parts")
    with progress_bar("reading records of BUT PPG v1", len(chosen)) as progress:
        recordings = read_recordings(release, list(chosen), parts, workers, progress)
    if recordings.damaged:
        first = min(recordings.damaged)
        raise UserError(f"record {first} is damaged: {recordings.damaged[first]}; download it again")
    windows, _, left_out = assemble(recordings, chosen, Choices())
    for record, reason in sorted({**recordings.left_out, **left_out}.items()):
        say(f"note: record {record} is left out: {reason}")
    windows.save(found)
    fingerprints.finish(found, asked)
    shutil.rmtree(parts)
    return found


def _files(source: Path) -> dict[str, list[int]]:
    """Return size and time of every file below a folder: what is read anew when one of them changes."""
    paths = sorted(path for path in source.rglob("*") if path.is_file())
    return {str(path.relative_to(source)): [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}
