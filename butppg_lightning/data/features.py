"""Stored features of windows: what a dataset serves while the part that made them is frozen, and their files."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from butppg_lightning.errors import UserError
from butppg_lightning.files import checksum, make_folder, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from butppg_lightning.npz import Array

_ABANDONED = 3600.0  # seconds without a write, after which features that are being written are taken to be a dead run's
_RESERVE = 2**28  # bytes of disk left free for checkpoints
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)}


class Features:
    """Features by row number of a dataset, ``[rows, ...]`` for each view of the windows; number ``view`` is served.

    ``depth`` is where in the network they go on, ``rows [rows]`` which row numbers are there, sorted; None for all.
    """

    def __init__(self, views: Sequence[Tensor], depth: Any, rows: Array | None) -> None:
        self.views, self.depth, self.rows, self.view = tuple(views), depth, rows, 0

    def batch(self, index: Array) -> dict[str, Any]:
        """Return ``features [B, ...]`` of the rows ``index [B]``, all of which must be there, and their ``depth``."""
        place = index
        if self.rows is not None:
            place = np.searchsorted(self.rows, index)
            if (place >= len(self.rows)).any() or (self.rows[place] != index).any():
                raise IndexError("a window was asked for whose features were not stored")
        return {"features": self.views[self.view][torch.from_numpy(place)], "depth": self.depth}


@dataclass(frozen=True)
class Layout:
    """Shape ``[rows, ...]`` and type of a tensor of features."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return self.shape[0] * self.row_bytes


class FeatureFile:
    """One tensor under the digest of what it was made from; valid once its description stands beside it.

    Runs that share a folder may compute the same features at the same time: ``writer`` is the name of one, the same in
    all its processes (None for one of its own).
    """

    def __init__(self, folder: Path, key: str, writer: str | None = None) -> None:
        self.data = folder / f"{key}.features"
        self.description = folder / f"{key}.json"
        self._part = folder / f"{key}.{writer or uuid.uuid4().hex}.part"

    def exists(self) -> bool:
        """Return whether something is stored under the key, sound or not."""
        return self.description.is_file()

    def layout(self) -> Layout:
        """Return what the description says; a ValueError tells what is wrong with it or with the file beside it."""
        try:
            stored = json.loads(self.description.read_bytes())
            layout = Layout(tuple(int(extent) for extent in stored["shape"]), _DTYPES[stored["dtype"]])
            expected = int(stored["crc32"])
            size = self.data.stat().st_size
            sound = min(layout.shape) > 0 and size == layout.bytes
            same = sound and checksum(self.data, size) == expected
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"it cannot be read ({type(error).__name__})") from error
        if not sound:
            raise ValueError(f"{size} bytes are not {list(layout.shape)} {layout.dtype}")
        if not same:
            raise ValueError("its checksum differs")
        return layout

    def load(self, layout: Layout, *, mapped: bool) -> Tensor:
        """Return the tensor, mapped or read into memory."""
        found = torch.from_file(str(self.data), size=math.prod(layout.shape), dtype=layout.dtype).view(layout.shape)
        return found if mapped else found.clone()

    @property
    def bytes(self) -> int:
        """Bytes of the stored tensor; 0 without one, or if another run has just removed it."""
        with suppress(FileNotFoundError):
            return self.data.stat().st_size
        return 0

    def note_use(self) -> None:
        """Let the file count as new: what was used longest ago goes first. An OSError says that it is impossible."""
        os.utime(self.data)

    def begin(self, layout: Layout) -> None:
        """Start writing under a temporary name, as long as it will be, which other runs that look for room see.

        An OSError says that it is impossible.
        """
        self._part.write_bytes(b"")
        os.truncate(self._part, layout.bytes)

    def write(self, piece: Tensor, row: int, layout: Layout) -> None:
        """Write rows from ``row`` on; several processes may write different rows. An OSError says that it failed."""
        content = piece.contiguous().reshape(-1).view(torch.uint8).numpy().data
        offset = row * layout.row_bytes
        # not through a mapping: on a full disk that is a signal that ends the process
        with self._part.open("r+b") as file:
            while content:
                written = os.pwrite(file.fileno(), content, offset)
                content, offset = content[written:], offset + written

    def finish(self, layout: Layout, facts: dict[str, Any]) -> None:
        """Make what was written valid, or raise an OSError; ``facts`` are for whoever looks into the folder."""
        self._part.replace(self.data)
        crc32 = checksum(self.data, layout.bytes)
        description = {"shape": list(layout.shape), "dtype": str(layout.dtype), "crc32": crc32, **facts}
        try:
            write_json(self.description, description)
        except UserError as error:
            raise OSError(str(error)) from error

    def discard(self) -> None:
        """Remove whatever is stored, whole or in part."""
        for path in (self.description, self.data, self._part):
            path.unlink(missing_ok=True)


def folder_bytes(folder: Path) -> int:
    """Return how much the features in a folder take, with those being written; what a killed run left of some goes."""
    total = 0
    for path in (*folder.glob("*.features"), *folder.glob("*.part")):
        try:
            found = path.stat()
            total += found.st_size
            if path.suffix == ".part" and time.time() - found.st_mtime > _ABANDONED:
                path.unlink()
        except FileNotFoundError:  # another run was quicker
            continue
    return total


def stored_features(folder: Path) -> list[FeatureFile]:
    """Return what a folder holds, that which was used longest ago first."""
    used = {}
    for path in folder.glob("*.features"):
        with suppress(FileNotFoundError):  # another run was quicker
            used[path.stem] = path.stat().st_mtime
    return [FeatureFile(folder, key) for key in sorted(used, key=used.__getitem__)]


def free_bytes(folder: Path) -> int:
    """Return how much may still be written; a reserve is left for what the run itself stores."""
    return max(0, shutil.disk_usage(make_folder(folder)).free - _RESERVE)


def remove_features(folder: Path) -> None:
    """Remove every feature file from a folder, and the folder if that leaves it empty."""
    for path in [*folder.glob("*.features"), *folder.glob("*.part")]:
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
