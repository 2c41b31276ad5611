"""Long recordings: npz, CSV, WFDB and EDF files into named channels, and those into 10-s windows at 125 Hz.

Each format has a module with ``read(path, selection)``; :data:`FORMATS` says which files are whose. A reader takes what
its file states (names, rates, units, times) and makes a :class:`Channel` of each signal that ``names`` finds a channel
for; ``assemble`` checks them and brings acceleration to g. What no file states and is assumed all the same goes into
:attr:`Recording.guesses`. A device's own files are one more entry in front of the general ones: how they are
recognised, and for a table its layout, which ``table.read_table`` reads. ``windowing`` makes the windows.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.names import Selection, printable
from butppg_lightning.sources.recordings.recording import Channel, Recording

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Channel", "Recording", "Selection", "read_recording"]


class Format(NamedTuple):
    """A kind of recording."""

    name: str  # what one of them is called in messages
    recognises: Callable[[Path], bool]  # whether a path is one, from its name or its first bytes
    module: str  # of this package, that reads it; it has read(path, selection)
    library: str = ""  # that it needs, of the extra "recordings"; such files also state their rates

    def read(self, path: Path, selection: Selection) -> Recording:
        """Read a recording; whatever a stranger's file makes the library raise ends in one line."""
        module = importlib.import_module(f"{__name__}.{self.module}")
        if not self.library:
            return cast("Recording", module.read(path, selection))
        try:
            importlib.import_module(self.library)
        except ImportError:
            raise UserError(
                f"reading an {self.name} needs {self.library}; pip install 'butppg-lightning[recordings]'"
            ) from None
        if selection.rates:
            raise UserError(f"{path} states its sampling rates; drop --fs")
        try:
            return cast("Recording", module.read(path, selection))
        except UserError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {printable(str(error))[:100]}"
            raise UserError(f"{path} cannot be read, it is not a complete {self.name} ({reason})") from None


def _ends(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.suffix.lower() in suffixes and path.is_file()


def _is_wfdb(path: Path) -> bool:
    return _ends(".hea")(path) or Path(f"{path}.hea").is_file()


FORMATS = (
    Format("WFDB record (.hea)", _is_wfdb, "wfdb_record", "wfdb"),
    Format("npz file", _ends(".npz"), "npz_file"),
    Format("MATLAB file (.mat)", _ends(".mat"), "mat_file"),
    Format("text table (.csv, .tsv, .txt)", _ends(".csv", ".tsv", ".txt"), "table"),
    Format("EDF file (.edf, .bdf)", _ends(".edf", ".bdf"), "edf_file", "edfio"),
)
"""Known formats; the first that recognises a file reads it."""


def read_recording(path: Path, selection: Selection | None = None) -> Recording:
    """Read an npz, CSV or EDF file, or a WFDB record (its name, with or without ``.hea``); a UserError says why not.

    ``selection`` is what the user says of its signals; None for their own names.
    """
    path = Path(path)
    for form in FORMATS:
        if form.recognises(path):
            return form.read(path, selection or Selection())
    if path.is_dir():
        raise UserError(f"{path} is a folder; give one recording: an npz, CSV or EDF file, or a WFDB record's name")
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    if path.suffix.lower() == ".dat" and path.with_suffix(".hea").is_file():
        raise UserError(f"{path} holds the samples of a WFDB record; give its header: {path.with_suffix('.hea')}")
    raise UserError(f"{path} is of an unknown kind; known are: {', '.join(form.name for form in FORMATS)}")
