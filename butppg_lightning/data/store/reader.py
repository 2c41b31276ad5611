"""Reading a store: memory-mapped, a batch of rows from any shards at once."""

from __future__ import annotations

import errno
import math
import mmap
import os
import stat
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from butppg_lightning.console import say
from butppg_lightning.data.store.layout import HEADER_BYTES, Column, Manifest, read_manifest
from butppg_lightning.errors import UserError
from butppg_lightning.window import WindowSet

if TYPE_CHECKING:
    from butppg_lightning.npz import Array

_MEND = "copy the store again, or write it again"
_MEMORY_SHARE = 0.5  # of the machine's memory that files may fill before others need it
_CHUNK = 4 * 2**20  # bytes read together when checksums are verified
_WORTH_SAYING = 2 * 2**30  # bytes; verifying more takes long enough to say so


def read_store(folder: Path, *, verify: bool = True) -> StoredWindows:
    """Open a window store.

    Every shard's size and header are checked against the manifest, which takes milliseconds. Its content is checked
    against its checksum only with ``verify``, which reads everything once (about a second per GiB when the disk keeps
    up); otherwise nothing is read before it is asked for.

    Raises:
        UserError: If the manifest or a shard is missing, truncated or damaged; the line names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder, so no window store")
    manifest = read_manifest(folder)
    if not manifest.shards:
        raise UserError(f"{folder} holds no windows")
    check_files(folder, manifest)
    windows = StoredWindows(folder, manifest)
    if verify:
        windows.verify()
    return windows


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check that every shard's files are there, as long as the manifest says, and begin as they should."""
    for number, shard in enumerate(manifest.shards):
        for column in manifest.columns:
            path = column.path(folder, number)
            expected = shard.files[column.name].bytes
            try:
                status = path.stat()
                if stat.S_ISREG(status.st_mode) and status.st_size == expected:
                    with path.open("rb") as file:
                        if file.read(HEADER_BYTES) != column.header(shard.windows):
                            raise UserError(f"{path} does not begin as the manifest says; {_MEND}")
                    continue
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error.strerror}); {_MEND}") from None
            kind = "is truncated" if status.st_size < expected else "is too long"
            raise UserError(f"{path} {kind}: it has {status.st_size:,} of {expected:,} bytes; {_MEND}")


class StoredWindows(WindowSet):
    """The windows of a store, read as they are asked for; :meth:`take` brings some into memory.

    ``subject_names`` are the distinct subjects, or None.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest, self.subject_names = folder, manifest, manifest.subjects
        counts = [shard.windows for shard in manifest.shards]
        rows: dict[str, Any] = {
            column.name: SubjectNames(folder, column, counts, manifest.subjects or ())
            if column.name == "subjects"
            else ShardedRows(folder, column, counts)
            for column in manifest.columns
        }
        super().__init__(channels=manifest.channels, **rows)

    def take(self, rows: Array) -> WindowSet:
        """Read the windows ``rows`` (indices or a mask) into memory."""
        subjects = None if self.subjects is None else self.subjects[rows]
        present = None if self.present is None else self.present[rows]
        return WindowSet(self.signals[rows], self.channels, subjects=subjects, present=present)

    def save(self, path: Path) -> None:
        """Write all windows into one npz file; they have to fit into memory."""
        self.take(np.arange(len(self))).save(path)

    def verify(self) -> None:
        """Read every file once and check it against its checksum, and that the windows are finite."""
        size = sum(file.bytes for shard in self.manifest.shards for file in shard.files.values())
        if size > _WORTH_SAYING:
            count = len(self.manifest.shards)
            say(f"checking {count} shards ({size / 2**30:.1f} GiB) of {self.folder} against their checksums")
        for number, shard in enumerate(self.manifest.shards):
            for column in self.manifest.columns:
                path = column.path(self.folder, number)
                _verify(path, column, shard.files[column.name].crc32, len(self.manifest.subjects or ()))


class ShardedRows:
    """One column of all shards, indexed by window numbers as if it were one array.

    Rows are copied out of the memory maps one by one and joined, which costs little more than numpy's own indexing
    of a single map. The maps are opened at the first use, in each process anew. Where the column does not fit into
    memory, the system is told to read no more than the rows, and all rows of a batch at once: a random batch from the
    disk then takes a ninth of the time. ``counts`` are the windows of each shard.
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
        """Return a copy ``[B, ...]`` of the windows ``rows``: a slice, numbers ``[B]`` or a mask ``[N]``; or of one."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        wanted = np.asarray(rows)
        if wanted.dtype.kind == "b":
            if wanted.shape != self.shape[:1]:
                raise IndexError(f"a mask of shape {wanted.shape} does not fit {len(self)} windows")
            wanted = np.flatnonzero(wanted)
        wanted = wanted.astype(np.int64, casting="same_kind" if wanted.size else "unsafe")
        if wanted.size and not -len(self) <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"window {wanted.max()} of {len(self)}")
        found = self._gather(np.atleast_1d(wanted) % len(self))
        return found if wanted.ndim else cast("Array", found[0])

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
        return np.frombuffer(joined, dtype=self.column.dtype).reshape(len(rows), *self.column.row)

    def _open(self) -> list[mmap.mmap]:
        if self._maps is None:
            maps = [_map(path) for path in self.paths]
            if self._beyond_memory:
                for mapped in maps:
                    mapped.madvise(mmap.MADV_RANDOM)
            self._views = [memoryview(mapped) for mapped in maps]
            self._maps = maps
        return self._maps


class SubjectNames(ShardedRows):
    """The subject of every window, indexed like an array of strings; the column holds positions in ``names``."""

    def __init__(self, folder: Path, column: Column, counts: list[int], names: tuple[str, ...]) -> None:
        super().__init__(folder, column, counts)
        self.names = np.array(names, dtype=str)
        self.dtype = self.names.dtype

    def __getitem__(self, rows: Any) -> Array:
        """Return the names of windows ``rows``."""
        return cast("Array", self.names[super().__getitem__(rows)])


def _verify(path: Path, column: Column, expected: str, subjects: int) -> None:
    plausible = True
    buffer = memoryview(bytearray(_CHUNK))
    try:
        with path.open("rb", buffering=0) as file:
            checksum = zlib.crc32(file.read(HEADER_BYTES))
            while count := file.readinto(buffer):
                checksum = zlib.crc32(buffer[:count], checksum)
                values = np.frombuffer(buffer[: count - count % column.dtype.itemsize], dtype=column.dtype)
                plausible = plausible and _plausible(values, subjects)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {_MEND}") from None
    if f"{checksum:08x}" != expected:
        raise UserError(f"{path} does not match its checksum (CRC-32 {checksum:08x}, not {expected}); {_MEND}")
    if not plausible:
        raise UserError(f"{path} holds NaN, Inf or an unknown subject, as no store does; write it again")


def _plausible(values: Array, subjects: int) -> bool:
    if not values.size:
        return True
    if values.dtype.kind == "f":
        # NaN and Inf are those whose exponent has all bits set, the largest of their sign when read as integers;
        # a maximum of integers takes a tenth of the time of np.isfinite
        bits = values.dtype.itemsize * 8
        least = 0x7C00 if bits == 16 else 0x7F800000
        positive, negative = values.view(f"<i{bits // 8}").max(), values.view(f"<u{bits // 8}").max()
        return bool(positive < least and negative < least + (1 << (bits - 1)))
    if values.dtype.kind == "b":
        return bool(values.view(np.uint8).max() <= 1)
    return bool(values.min() >= 0 and values.max() < subjects)


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise UserError(
                f"{path} cannot be opened beside the other shards: raise the limit of open files (ulimit -n)"
            ) from None
        raise UserError(f"{path} cannot be read ({error.strerror}); {_MEND}") from None


def _memory_bytes() -> float:
    if not hasattr(mmap, "MADV_WILLNEED"):
        return math.inf  # advice cannot be given
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
