"""Columns of a store, memory-mapped and indexed as if each were one array."""

from __future__ import annotations

import errno
import math
import mmap
import os
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from butppg_lightning.data.store.layout import HEADER_BYTES, Column
from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.npz import Array

MEND = "copy the store again, or write it again"
"""What can be done about a damaged shard."""

_MEMORY_SHARE = 0.5  # of the machine's memory that files may fill before others need it


class ShardedRows:
    """One column of all shards, indexed by window numbers as if it were one array.

    Rows are copied out of the memory maps one by one and joined, which costs little more than numpy's own indexing
    of a single map. The maps are opened at the first use, in each process anew. Where the column does not fit into
    memory, the system is told to read no more than the rows, and all rows of a batch at once: a random batch from the
    disk then takes a ninth of the time.

    Args:
        folder: The store.
        column: Which column.
        counts: Windows of each shard.
    """

    def __init__(self, folder: Path, column: Column, counts: list[int]) -> None:
        self.column = column
        self.paths = [column.path(folder, number) for number in range(len(counts))]
        self.ends = np.cumsum(counts)
        self.starts = self.ends - np.array(counts)
        self.dtype = column.dtype
        self.shape = (int(self.ends[-1]), *column.row)
        self.ndim = len(self.shape)
        self._beyond_memory = self.shape[0] * column.row_bytes > _MEMORY_SHARE * _memory_bytes()
        self._maps: list[mmap.mmap] | None = None
        self._views: list[memoryview] = []

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Array:
        """Read windows.

        Args:
            rows: A number, a slice, numbers ``[B]`` or a mask ``[N]``.

        Returns:
            ``[B, ...]``, or one row for a number; a copy.

        Raises:
            IndexError: If a number is out of range.
        """
        if isinstance(rows, slice):
            return self[np.arange(*rows.indices(len(self)))]
        wanted = np.asarray(rows)
        if wanted.dtype.kind == "b":
            if wanted.shape != self.shape[:1]:
                raise IndexError(f"a mask of shape {wanted.shape} does not fit {len(self)} windows")
            wanted = np.flatnonzero(wanted)
        if wanted.ndim == 0:
            return cast("Array", self[wanted[None]][0])
        wanted = wanted.astype(np.int64, casting="same_kind" if wanted.size else "unsafe")
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"window {wanted.max()} of {len(self)}")
        return self._gather(wanted)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Read everything; what np.asarray asks for."""
        return np.asarray(self[:], dtype=dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the maps out: another process opens its own."""
        return {**self.__dict__, "_maps": None, "_views": []}

    def _gather(self, rows: Array) -> Array:
        maps = self._open()
        size = self.column.row_bytes
        shards = np.searchsorted(self.ends, rows, side="right")
        offsets = (HEADER_BYTES + (rows - self.starts[shards]) * size).tolist()
        places = list(zip(shards.tolist(), offsets, strict=True))
        if self._beyond_memory:
            for shard, offset in places:
                before = offset % mmap.PAGESIZE
                maps[shard].madvise(mmap.MADV_WILLNEED, offset - before, size + before)
        joined = bytearray().join([self._views[shard][offset : offset + size] for shard, offset in places])
        return np.frombuffer(joined, dtype=self.dtype).reshape(len(rows), *self.column.row)

    def _open(self) -> list[mmap.mmap]:
        if self._maps is None:
            maps = [_map(path) for path in self.paths]
            if self._beyond_memory:
                for mapped in maps:
                    mapped.madvise(mmap.MADV_RANDOM)
            self._views = [memoryview(mapped) for mapped in maps]
            self._maps = maps
        return self._maps


class SubjectNames:
    """The subject of every window, indexed like an array of strings.

    Args:
        codes: ``[N]`` positions in ``names``.
        names: The subjects.
    """

    def __init__(self, codes: ShardedRows, names: tuple[str, ...]) -> None:
        self.codes, self.names = codes, np.array(names, dtype=str)
        self.shape, self.dtype = codes.shape, self.names.dtype

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> Array:
        """Return the names of windows ``rows``, as :class:`ShardedRows` indexes."""
        return cast("Array", self.names[self.codes[rows]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Read everything; what np.asarray asks for."""
        return np.asarray(self[:], dtype=dtype)


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise UserError(
                f"{path} cannot be opened beside the other shards: raise the limit of open files (ulimit -n)"
            ) from None
        raise UserError(f"{path} cannot be read ({error.strerror}); {MEND}") from None


def _memory_bytes() -> float:
    if not hasattr(mmap, "MADV_WILLNEED"):
        return math.inf  # advice cannot be given
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
