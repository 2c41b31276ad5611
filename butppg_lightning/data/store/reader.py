"""Reading a store: memory-mapped, a batch of rows from any shards at once."""

from __future__ import annotations

import stat
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from butppg_lightning.console import say
from butppg_lightning.data.store.layout import HEADER_BYTES, Manifest, read_manifest
from butppg_lightning.data.store.rows import MEND, ShardedRows, SubjectNames
from butppg_lightning.errors import UserError
from butppg_lightning.window import WindowSet

if TYPE_CHECKING:
    from butppg_lightning.data.store.layout import Column
    from butppg_lightning.npz import Array

_CHUNK = 4 * 2**20  # bytes read together when checksums are verified
_WORTH_SAYING = 2 * 2**30  # bytes; verifying more takes long enough to say so


def read_store(folder: Path, *, verify: bool = True) -> StoredWindows:
    """Open a window store.

    Every shard's size and header are checked against the manifest, which takes milliseconds. Its content is checked
    only with ``verify``, which reads everything once (about a second per GiB when the disk keeps up).

    Args:
        folder: The store.
        verify: Whether to check every shard against its checksum.

    Returns:
        The windows; nothing is read before it is asked for.

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
    """Check that every shard's files are there, as long as the manifest says, and begin as they should.

    Raises:
        UserError: If one is not, naming it.
    """
    for number, shard in enumerate(manifest.shards):
        for column in manifest.columns:
            path = column.path(folder, number)
            expected = shard.files[column.name].bytes
            try:
                status = path.stat()
                if stat.S_ISREG(status.st_mode) and status.st_size == expected:
                    with path.open("rb") as file:
                        if file.read(HEADER_BYTES) != column.header(shard.windows):
                            raise UserError(f"{path} does not begin as the manifest says; {MEND}")
                    continue
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error.strerror}); {MEND}") from None
            kind = "is truncated" if status.st_size < expected else "is too long"
            raise UserError(f"{path} {kind}: it has {status.st_size:,} of {expected:,} bytes; {MEND}")


class StoredWindows(WindowSet):
    """The windows of a store, read as they are asked for; :meth:`take` brings some into memory.

    Args:
        folder: The store.
        manifest: Its manifest, checked.

    Attributes:
        subject_names: The distinct subjects, or None.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.subject_names = manifest.subjects
        counts = [shard.windows for shard in manifest.shards]
        rows = {column.name: ShardedRows(folder, column, counts) for column in manifest.columns}
        subjects = None if manifest.subjects is None else SubjectNames(rows["subjects"], manifest.subjects)
        super().__init__(
            signals=cast("Array", rows["signals"]),
            channels=manifest.channels,
            subjects=cast("Array | None", subjects),
            present=cast("Array | None", rows.get("present")),
        )

    def take(self, rows: Array) -> WindowSet:
        """Read the windows ``rows`` (indices or a mask) into memory."""
        return WindowSet(
            signals=self.signals[rows],
            channels=self.channels,
            subjects=None if self.subjects is None else self.subjects[rows],
            present=None if self.present is None else self.present[rows],
        )

    def save(self, path: Path) -> None:
        """Write all windows into one npz file; they have to fit into memory.

        Raises:
            UserError: If it cannot be written.
        """
        self.take(np.arange(len(self))).save(path)

    def verify(self) -> None:
        """Read every file once and check it against its checksum, and that the windows are finite.

        Raises:
            UserError: If a file differs, naming it.
        """
        size = sum(file.bytes for shard in self.manifest.shards for file in shard.files.values())
        if size > _WORTH_SAYING:
            count = len(self.manifest.shards)
            say(f"checking {count} shards ({size / 2**30:.1f} GiB) of {self.folder} against their checksums")
        for number, shard in enumerate(self.manifest.shards):
            for column in self.manifest.columns:
                path = column.path(self.folder, number)
                _verify(path, column, shard.files[column.name].crc32, len(self.manifest.subjects or ()))


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
        raise UserError(f"{path} cannot be read ({error.strerror}); {MEND}") from None
    if f"{checksum:08x}" != expected:
        raise UserError(f"{path} does not match its checksum (CRC-32 {checksum:08x}, not {expected}); {MEND}")
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
