"""What a window store says about itself, and the checks that make a stranger's manifest safe to believe."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.files import write_json
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES, channel_names

if TYPE_CHECKING:
    from pathlib import Path

STORE_SUFFIX = ".store"
"""Ending of a store's folder: ``train_windows.store`` stands where ``train_windows.npz`` would."""
MANIFEST = "manifest.json"
"""The file that makes a folder a store."""
DTYPES = ("float32", "float16")
"""What windows can be stored as; little-endian on disk."""
HEADER_BYTES = 128
"""Length of the header of every ``.npy`` file of a store."""

_FORMAT, _VERSION = "butppg window store", 1
_LARGEST_MANIFEST = 32 * 2**20  # bytes; a million windows of six thousand subjects take one
_MOST_WINDOWS = 2**40


class Column(NamedTuple):
    """One value of every window: ``name-00000.npy`` holds ``[n, *row]`` of ``dtype``."""

    name: str
    dtype: np.dtype[Any]
    row: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one window."""
        return self.dtype.itemsize * math.prod(self.row)

    def header(self, windows: int) -> bytes:
        """Return the header of a ``.npy`` file (format 1.0) of so many windows."""
        shape = (windows, *self.row)
        text = f"{{'descr': '{self.dtype.str}', 'fortran_order': False, 'shape': {shape!r}, }}"
        length = (HEADER_BYTES - 10).to_bytes(2, "little")
        return b"\x93NUMPY\x01\x00" + length + f"{text:<{HEADER_BYTES - 11}}\n".encode()

    def path(self, folder: Path, shard: int) -> Path:
        """Return where a shard's file is."""
        return folder / f"{self.name}-{shard:05d}.npy"


@dataclass(frozen=True)
class ShardFile:
    """Size in bytes and CRC-32 (eight hexadecimal digits, of the whole file) of one file of a shard."""

    bytes: int
    crc32: str


@dataclass(frozen=True)
class Shard:
    """One shard: how many windows, its files by column name, and notes about these windows in plain JSON."""

    windows: int
    files: dict[str, ShardFile]
    notes: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Manifest:
    """What is in a store."""

    channels: tuple[str, ...]
    dtype: str
    centred: tuple[str, ...] = ()  # stored less each window's median (float16 only: an offset would cost the pulse)
    subjects: tuple[str, ...] | None = None  # what the subject codes stand for; None when subjects are unknown
    present: bool = False  # whether each shard says which channels are there
    shards: tuple[Shard, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)  # what else is to be known about the store; plain JSON

    def __len__(self) -> int:
        return sum(shard.windows for shard in self.shards)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns every shard has."""
        width = len(self.channels)
        found = [Column("signals", np.dtype(self.dtype).newbyteorder("<"), (width, WINDOW_SAMPLES))]
        if self.subjects is not None:
            found.append(Column("subjects", np.dtype("<i4"), ()))
        if self.present:
            found.append(Column("present", np.dtype(bool), (width,)))
        return tuple(found)

    def write(self, folder: Path) -> None:
        """Replace a store's manifest in one step; a UserError says that it cannot be written."""
        head = {"format": _FORMAT, "version": _VERSION, "windows": len(self), "samples": WINDOW_SAMPLES}
        # the writer lets no NaN or Inf in
        write_json(folder / MANIFEST, {**head, "fs": SAMPLING_RATE, "finite": True, **asdict(self)})


def read_manifest(folder: Path) -> Manifest:
    """Read and check a store's manifest; nothing of the shards is looked at."""
    path = folder / MANIFEST
    content = _Part(path, "the manifest", _load(path))
    if content.get("format", str) != _FORMAT:
        how = "butppg prepare vitaldb-windows --splits FILE --output DIR"
        raise UserError(f"{path} is not that of a window store; write one with: {how}")
    if (version := content.get("version", int)) != _VERSION:
        raise UserError(
            f"{path} is of version {version}, but version {_VERSION} is read here: "
            "update butppg-lightning, or write the store again"
        )
    if content.get("fs", int) != SAMPLING_RATE or content.get("samples", int) != WINDOW_SAMPLES:
        raise UserError(f"{path}: windows are {WINDOW_SAMPLES} samples at {SAMPLING_RATE} Hz; these are not")
    try:
        channels = channel_names(content.names("channels"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if (dtype := content.get("dtype", str)) not in DTYPES:
        raise UserError(f"{path}: dtype is {dtype!r}; expected {' or '.join(DTYPES)}")
    manifest = Manifest(
        channels=channels,
        dtype=dtype,
        centred=content.names("centred"),
        subjects=None if content.content.get("subjects") is None else content.names("subjects"),
        present=content.get("present", bool),
        about=content.get("about", dict),
    )
    shards = enumerate(content.get("shards", list))
    return replace(manifest, shards=tuple(_shard(path, manifest, number, item) for number, item in shards))


def _load(path: Path) -> Any:
    try:
        if not path.is_file():
            raise UserError(f"{path.parent} is no window store: it has no {MANIFEST}")
        size = path.stat().st_size
        if size > _LARGEST_MANIFEST:
            raise UserError(f"{path} has {size / 2**20:.0f} MiB, too much for a manifest; write the store again")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is damaged ({reason}); write the store again") from None


def _shard(path: Path, manifest: Manifest, number: int, item: Any) -> Shard:
    shard = _Part(path, f"shard {number}", item)
    windows = shard.get("windows", int)
    if not 0 < windows <= _MOST_WINDOWS:
        raise UserError(f"{path}: shard {number} has {windows} windows; write the store again")
    stored = _Part(path, f"shard {number}", shard.get("files", dict))
    files = {}
    for column in manifest.columns:
        part = _Part(path, f"{column.name} of shard {number}", stored.get(column.name, dict))
        file = ShardFile(part.get("bytes", int), part.get("crc32", str))
        if file.bytes != HEADER_BYTES + windows * column.row_bytes:
            raise UserError(f"{path}: {part.what} cannot have {file.bytes} bytes; write the store again")
        if not re.fullmatch("[0-9a-f]{8}", file.crc32):
            raise UserError(f"{path}: {part.what} has no CRC-32; write the store again")
        files[column.name] = file
    return Shard(windows, files, shard.get("notes", list))


@dataclass(frozen=True)
class _Part:
    """A JSON object whose entries are checked as they are taken."""

    path: Path
    what: str
    content: Any

    def get(self, key: str, kind: type) -> Any:
        value = self.content.get(key) if isinstance(self.content, dict) else None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise UserError(f"{self.path} is damaged: '{key}' of {self.what} is missing or not {kind.__name__}")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        values = self.get(key, list)
        if not all(isinstance(value, str) for value in values):
            raise UserError(f"{self.path} is damaged: '{key}' of {self.what} holds something that is no name")
        return tuple(values)
