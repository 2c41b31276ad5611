"""Windows as a torch dataset that is indexed by whole batches."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from butppg_lightning.errors import UserError
from butppg_lightning.window import read_windows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from butppg_lightning.data.features import Features
    from butppg_lightning.window import WindowSet

Batch = dict[str, Any]

_HASHED = 4096  # windows looked at together for the fingerprint; bounds its memory


class WindowDataset(Dataset[Batch]):
    """Serves batches of windows with the channels that a model wants, in its order.

    A channel that the file does not have is absent: zeros, with ``present`` False.

    Only the channels in ``used`` (None for all) count as recorded.
    """

    def __init__(self, windows: WindowSet, channels: Sequence[str], used: Sequence[str] | None = None) -> None:
        self.windows = windows
        self.channels = tuple(channels)
        there = [name for name in windows.channels if used is None or name in used]
        self._columns = [windows.channels.index(name) if name in there else -1 for name in self.channels]
        self.features: Features | None = None  # served in place of the signals; None for the signals
        self.indices: Features | None = None  # side inputs [rows, K] served beside either, where they are stored
        self._fingerprint: str | None = None
        self._as_stored = self._columns == list(range(len(windows.channels)))

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, rows: Tensor | Sequence[int] | int) -> Batch:
        """Return the batch of the row numbers ``rows [B]``.

        It holds ``signals [B, C, 1250]`` raw and ``present [B, C]`` bool (or, where features are stored, ``features``
        and their ``depth``), stored side inputs ``indices [B, K]``, ``index [B]``, and where the file has them
        ``labels [B]`` int64, ``soft_labels [B]``, ``weights [B]`` and ``hr_ref [B]`` in bpm.
        """
        index = np.atleast_1d(np.asarray(rows)).astype(np.int64, copy=False)
        batch = self.fetch(index) if self.features is None else self.features.batch(index)
        batch["index"] = torch.from_numpy(index)
        if self.indices is not None:
            batch["indices"] = self.indices.batch(index)["features"]
        for key in ("labels", "soft_labels", "weights", "hr_ref"):
            values = getattr(self.windows, key)
            if values is not None:
                batch[key] = torch.from_numpy(values[index])
        return batch

    def fetch(self, index: np.ndarray) -> Batch:
        """Return ``signals [B, C, 1250]`` and ``present [B, C]`` of the rows ``index [B]``, whatever else is stored."""
        stored = self.windows.signals[index]
        # torch knows no unsigned 16 and 32 bit arithmetic, and a foreign byte order not at all
        if stored.dtype.kind in "iu" or not stored.dtype.isnative or stored.dtype == np.longdouble:
            stored = stored.astype(np.float32)
        there = np.ones(stored.shape[:2], dtype=bool) if self.windows.present is None else self.windows.present[index]
        signals, present = np.ascontiguousarray(stored), there
        if not self._as_stored:
            signals = np.zeros((len(index), len(self.channels), stored.shape[2]), dtype=stored.dtype)
            present = np.zeros(signals.shape[:2], dtype=bool)
            for row, column in enumerate(self._columns):
                if column >= 0:
                    signals[:, row], present[:, row] = stored[:, column], there[:, column]
        return {"signals": torch.from_numpy(signals), "present": torch.from_numpy(present)}

    def batches(self, size: int = 256) -> Iterator[Batch]:
        """Yield ``signals`` and ``present`` of all rows in order, ``size`` rows at a time."""
        for start in range(0, len(self), size):
            yield self.fetch(np.arange(start, min(start + size, len(self))))

    def fingerprint(self) -> str:
        """Return a digest of the signals, their channels and which are present."""
        if self._fingerprint is None:
            windows, digest = self.windows, hashlib.blake2b(digest_size=16)
            layout = f"{windows.channels} {self._columns} {windows.signals.dtype} {windows.signals.shape}"
            digest.update(layout.encode())
            for start in range(0, len(self), _HASHED):
                digest.update(np.ascontiguousarray(windows.signals[start : start + _HASHED]).data)
            if windows.present is not None:
                digest.update(np.packbits(windows.present).data)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def sample(self, most: int) -> Batch:
        """Fetch at most ``most`` windows spread evenly over the set, with their labels if there are any."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(len(self), most)).astype(np.int64))
        labels = self.windows.labels
        return self.fetch(rows) | ({} if labels is None else {"labels": torch.from_numpy(labels[rows])})


def read_split(folder: Path, split: str, channels: Sequence[str], *, labelled: bool) -> WindowDataset:
    """Read a split, with labels if it must have them, and serve its windows with a model's channels."""
    path = folder / f"{split}.npz"
    if not path.is_file():
        raise UserError(f"{path} not found; --data_dir is the folder with train.npz, val.npz or test.npz (--split)")
    windows = read_windows(path, labelled=labelled)
    if not set(channels) & set(windows.channels):
        raise UserError(
            f"{path} has the channels {', '.join(windows.channels)}, but the model wants {', '.join(channels)}"
        )
    return WindowDataset(windows, channels)
