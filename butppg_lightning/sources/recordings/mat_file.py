"""Long recordings from MATLAB files: arrays by name, also in structs, as ``named_arrays`` says."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from butppg_lightning.errors import UserError
from butppg_lightning.npz import read_npz
from butppg_lightning.sources.recordings.mat_contents import ARRAYS, INDEX
from butppg_lightning.sources.recordings.named_arrays import to_recording

if TYPE_CHECKING:
    from butppg_lightning.sources.recordings.names import Selection
    from butppg_lightning.sources.recordings.recording import Recording

# with the program's path in place of the working directory: a numpy.py may lie beside a stranger's file
_TAKE_OUT = """import sys
sys.path[:] = sys.argv[3:]
from butppg_lightning.sources.recordings.mat_contents import take_out
take_out(*sys.argv[1:3])"""


def read(path: Path, selection: Selection) -> Recording:
    """Read a recording from a MATLAB file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-I", "-c", _TAKE_OUT, str(path), name]
        ended = subprocess.run([*command, *filter(None, sys.path)], capture_output=True, check=False)
        if ended.returncode or not (folder / INDEX).is_file():
            raise UserError(f"{path} cannot be read: the process that read it ended with code {ended.returncode}")
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if "error" in index:
            raise UserError(index["error"])
        names = [tuple(parts) for parts in index["names"]]
        header = path.with_suffix(".hea")
        if names == [("val",)] and header.is_file():
            raise UserError(f"{path} holds the samples of a WFDB record; give its header: {header}")
        arrays = read_npz(folder / ARRAYS) if names else {}
        recording = to_recording(
            path, [(parts, arrays[str(row)]) for row, parts in enumerate(names)], selection, index["skipped"]
        )
    recording.notes[:0] = index["notes"]
    return recording
