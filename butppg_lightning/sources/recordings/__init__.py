"""Long recordings: npz, CSV, WFDB and EDF files into named channels, and those into 10-s windows at 125 Hz.

``selection`` finds the channels by name, ``npz_file``, ``csv_file``, ``wfdb_record`` and ``edf_file`` read one format
each into a :class:`Recording`, ``gaps`` and ``resampling`` make a channel even and whole, ``windows`` cuts it.
"""

from __future__ import annotations

from pathlib import Path

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.recording import Channel, Recording
from butppg_lightning.sources.recordings.selection import Selection

__all__ = ["Channel", "Recording", "Selection", "read_recording"]

_TABLES = (".csv", ".tsv", ".txt")


def read_recording(path: Path, selection: Selection | None = None) -> Recording:
    """Read a long recording, whatever its format.

    Args:
        path: An npz, CSV or EDF file, or a WFDB record (its name, with or without ``.hea``).
        selection: What the user says of its signals; None for their own names.

    Raises:
        UserError: If there is no such file, its format is unknown, or it cannot be read.
    """
    path, selection = Path(path), selection or Selection()
    suffix = path.suffix.lower()
    if Path(f"{path}.hea").is_file() or (suffix == ".hea" and path.is_file()):
        from butppg_lightning.sources.recordings.wfdb_record import read_wfdb_recording

        return read_wfdb_recording(path, selection)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give one recording: an npz, CSV or EDF file, or a WFDB record's name")
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    if suffix == ".npz":
        from butppg_lightning.sources.recordings.npz_file import read_npz_recording

        return read_npz_recording(path, selection)
    if suffix in _TABLES:
        from butppg_lightning.sources.recordings.csv_file import read_csv_recording

        return read_csv_recording(path, selection)
    if suffix == ".edf":
        from butppg_lightning.sources.recordings.edf_file import read_edf_recording

        return read_edf_recording(path, selection)
    if suffix == ".dat" and path.with_suffix(".hea").is_file():
        raise UserError(f"{path} holds the samples of a WFDB record; give its header: {path.with_suffix('.hea')}")
    raise UserError(f"{path} is of an unknown kind; known are .npz, .csv, .tsv, .txt, .edf and WFDB records (.hea)")
