"""Long recordings: files of many formats and devices into named channels, and those into 10-s windows at 125 Hz.

Each format has a module with ``read(path, selection)``; :data:`FORMATS` says which files are whose. A reader takes what
its file states (names, rates, units, times) and makes a :class:`Channel` of each signal that ``names`` finds a channel
for; ``assemble`` checks them and brings acceleration to g. What no file states and is assumed all the same goes into
:attr:`Recording.guesses`. A device's own files are one more entry in front of the general ones: how they are
recognised, and for a table its layout (``devices``), which ``table.read_table`` reads. ``parts`` joins the files of one
recording; ``windowing`` makes the windows.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from butppg_lightning.errors import UserError
from butppg_lightning.extras import require
from butppg_lightning.sources.recordings.names import Selection, overlooked, printable
from butppg_lightning.sources.recordings.parts import read_parts
from butppg_lightning.sources.recordings.recording import Channel, Recording

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Channel", "Recording", "Selection", "read_recording", "recording_files"]


class Format(NamedTuple):
    """A kind of recording."""

    name: str  # what one of them is called in messages
    recognises: Callable[[Path], bool]  # whether a path is one, from its name or its first bytes
    module: str  # of this package, that reads it; it has read(path, selection)
    library: str = ""  # that it needs, of the extra "recordings"
    clocked: bool = False  # whether a column or an array may be the time; others state their rates

    def read(self, path: Path, selection: Selection) -> Recording:
        """Read a recording; whatever a stranger's file makes the library raise ends in one line."""
        module = importlib.import_module(f"{__name__}.{self.module}")
        if selection.decimal and self.module != "table" and not selection.partial:
            raise UserError(f"{path} is no table of text, so --decimal means nothing; drop it")
        if (selection.time_unit or selection.rates) and not self.clocked and not selection.partial:
            raise UserError(f"{path} states its sampling rates; drop {'--fs' if selection.rates else '--time-unit'}")
        if not self.library:
            return cast("Recording", module.read(path, selection))
        require(self.library, f"reading an {self.name}", "recordings")
        try:
            return cast("Recording", module.read(path, selection))
        except UserError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {printable(str(error))[:100]}"
            raise UserError(f"{path} cannot be read, it is not a complete {self.name} ({reason})") from None


def _ends(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.name.lower().endswith(suffixes) and path.is_file()


def _is_wfdb(path: Path) -> bool:
    return _ends(".hea")(path) or Path(f"{path}.hea").is_file()


TABLES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
FORMATS = (
    Format("WFDB record (.hea)", _is_wfdb, "wfdb_record", "wfdb"),
    Format("npz file", _ends(".npz"), "named_arrays", clocked=True),
    Format("MATLAB file (.mat)", _ends(".mat"), "mat_file", clocked=True),
    Format("text table (.csv, .tsv, .txt, also with .gz)", _ends(*TABLES), "table", clocked=True),
    Format("EDF file (.edf, .bdf)", _ends(".edf", ".bdf"), "edf_file", "edfio"),
    Format("Parquet file (.parquet)", _ends(".parquet"), "parquet_file", "pyarrow", clocked=True),
)
"""Known formats; the first that recognises a file reads it."""
_NO_RECORDINGS = {"eda.csv", "temp.csv", "hr.csv", "ibi.csv", "tags.csv", "info.txt", "readme.txt"}
"""Files that devices put beside their recordings."""


def read_recording(path: Path | Sequence[Path], selection: Selection | None = None) -> Recording:
    """Read a recording, or say in a UserError why not.

    Args:
        path: A file (npz, CSV, EDF, Parquet ...), a WFDB record (its name, with or without ``.hea``), the folder that a
            device wrote, or several files that are one recording.
        selection: What the user says of its signals; None for their own names.

    Raises:
        UserError: If it is of an unknown kind, damaged, or its signals or times are ambiguous.
    """
    selection = selection or Selection()
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(part) for part in path]
    if len(paths) == 1 and not paths[0].is_dir():
        recording = _read_file(paths[0], selection)
    else:
        folder = paths[0] if len(paths) == 1 else None
        files = recording_files(folder) if folder is not None else paths
        if not files:
            raise UserError(f"{folder} holds no recording; known are: {', '.join(form.name for form in FORMATS)}")
        recording = read_parts(files, selection, _read_file, folder)
    recording.notes += overlooked(recording.names, recording.channels, selection)
    return recording


def recording_files(folder: Path) -> list[Path]:
    """Return the files of a folder that some format reads, without those that devices put beside their recordings."""
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
        and path.name.lower() not in _NO_RECORDINGS
        and any(form.recognises(path) for form in FORMATS)
    ]


def _read_file(path: Path, selection: Selection) -> Recording:
    for form in FORMATS:
        if form.recognises(path):
            return form.read(path, selection)
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    if path.suffix.lower() == ".dat" and path.with_suffix(".hea").is_file():
        raise UserError(f"{path} holds the samples of a WFDB record; give its header: {path.with_suffix('.hea')}")
    raise UserError(f"{path} is of an unknown kind; known are: {', '.join(form.name for form in FORMATS)}")
