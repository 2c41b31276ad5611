"""One split of a data folder, with the channels of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from butppg_lightning.data.dataset import WindowDataset
from butppg_lightning.errors import UserError
from butppg_lightning.window import read_windows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def read_split(folder: Path, split: str, channels: Sequence[str], *, labelled: bool) -> WindowDataset:
    """Read a split and serve its windows with a model's channels.

    Args:
        folder: The data folder.
        split: train, val or test.
        channels: Those of the model.
        labelled: Whether there must be labels.

    Raises:
        UserError: If the file is missing or malformed, or has none of the channels.
    """
    path = folder / f"{split}.npz"
    if not path.is_file():
        raise UserError(f"{path} not found; --data_dir is the folder with train.npz, val.npz or test.npz (--split)")
    windows = read_windows(path, labelled=labelled)
    if not set(channels) & set(windows.channels):
        raise UserError(
            f"{path} has the channels {', '.join(windows.channels)}, but the model wants {', '.join(channels)}"
        )
    return WindowDataset(windows, channels)
