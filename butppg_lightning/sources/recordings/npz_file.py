"""Long recordings from npz files: one array per channel, as ``named_arrays`` says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from butppg_lightning.errors import UserError
from butppg_lightning.npz import read_npz
from butppg_lightning.sources.recordings.named_arrays import to_recording

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.sources.recordings.names import Selection
    from butppg_lightning.sources.recordings.recording import Recording


def read(path: Path, selection: Selection) -> Recording:
    """Read a recording from an npz file."""
    arrays = read_npz(path)
    if "signals" in arrays and arrays["signals"].ndim == 3:
        raise UserError(f"{path} holds windows, not a recording; `butppg predict` gives their probabilities")
    return to_recording(path, [((key,), value) for key, value in arrays.items()], selection, {})
