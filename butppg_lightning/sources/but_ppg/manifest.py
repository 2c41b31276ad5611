"""What the manifest says of a prepared release: where it came from, what was decided, what was left out and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.sources.but_ppg.release import file_checksum
from butppg_lightning.window import CHANNELS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from butppg_lightning.npz import Array
    from butppg_lightning.sources.but_ppg.release import Release
    from butppg_lightning.window import WindowSet

MANIFEST_FILE = "manifest.json"
"""Name of the manifest in the output folder."""

_ACC = [row for row, name in enumerate(CHANNELS) if name.startswith("ACC")]
_ECG = CHANNELS.index("ECG")


def describe_source(source: Path, release: Release) -> dict[str, Any]:
    """Tell which files the windows come from.

    Returns:
        The folder, the SHA-256 sums of the two tables, and how many files were checked against SHA256SUMS.txt
        (None when the release came without).
    """
    tables = (release.quality_file, release.info_file)
    checked = None
    if release.checksum_file is not None:
        records = sum(len(release.checksums_of(record)) for record in release.records)
        checked = {
            "file": release.checksum_file.name,
            "sha256": file_checksum(release.checksum_file),
            "files_checked": records + sum(path in release.checksums for path in tables),
        }
    return {
        "folder": str(source),
        "sha256": {path.name: file_checksum(path) for path in tables},
        "checked_against": checked,
    }


def describe_windows(windows: WindowSet, annotated: int) -> dict[str, Any]:
    """Count what was written.

    Args:
        windows: All windows of all splits.
        annotated: Number of records in ``quality-hr-ann.csv``.
    """
    labels, present = np.asarray(windows.labels), np.asarray(windows.present)
    good = int(labels.sum())
    return {
        "annotated": annotated,
        "windows": len(windows),
        "good": good,
        "poor": len(windows) - good,
        "good_share": round(good / len(windows), 4),
        "subjects": len(np.unique(np.asarray(windows.subjects))),
        "without_acceleration": int((~present[:, _ACC].all(axis=1)).sum()),
        "without_ecg": int((~present[:, _ECG]).sum()),
        "acceleration_magnitude_g": acceleration_magnitude(windows),
    }


def acceleration_magnitude(windows: WindowSet) -> float | None:
    """Return the median length of the mean acceleration: about 1 g, unless a header names the wrong unit."""
    rows = np.flatnonzero(np.asarray(windows.present)[:, _ACC].all(axis=1))
    if not rows.size:
        return None
    means: Array = windows.signals[rows][:, _ACC].mean(axis=-1, dtype=np.float64)
    return round(float(np.median(np.linalg.norm(means, axis=1))), 4)


def records_by_note(notes: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Turn notes by record into records by note.

    Examples:
        >>> records_by_note({"100001": ["ACC absent"], "100002": ["ACC absent"]})
        {'ACC absent': ['100001', '100002']}
    """
    grouped: dict[str, list[str]] = {}
    for record, lines in sorted(notes.items()):
        for line in lines:
            grouped.setdefault(line, []).append(record)
    return grouped
