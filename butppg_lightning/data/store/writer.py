"""Adding windows to a store."""

from __future__ import annotations

import dataclasses
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.data.store.layout import DTYPES, MANIFEST, Column, Manifest, Shard, ShardFile, read_manifest
from butppg_lightning.data.store.reader import check_files
from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write, make_folder
from butppg_lightning.window import WINDOW_SAMPLES, channel_names

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from butppg_lightning.npz import Array

SHARD_BYTES = 128 * 2**20
"""Signals a shard holds at least (but for the last); a writer keeps that much in memory."""

_LARGEST_ERROR = 0.01  # of a channel's spread in the window: 40 dB below the signal
_LARGEST_ACC_ERROR = 1e-3  # g; the model's own floor for motion
_CENTRED = ("PPG", "ECG")


class StoreWriter:
    """Writes a new store, or adds to one that is there.

    Windows that were added together lie in one shard; a shard is written as soon as ``shard_bytes`` have gathered,
    and what is left when the ``with`` block ends (also when the user interrupts it).

    float16 holds 11 bits. PPG and ECG are therefore stored less each window's median (their offset carries no
    information: the model removes it first), acceleration as it is, because its offset is gravity. A window that
    would lose more than 1 % of a channel's spread to rounding (or, acceleration, 1 mg) is refused, naming float32.

    Args:
        folder: The store's folder, ``….store``.
        channels: Names of the C channels.
        dtype: ``float32`` or ``float16``.
        subjects: Whether every window's subject is known.
        present: Whether channels may be absent.
        about: What else is to be known about the store; plain JSON. Adding to a store needs the same again.
        shard_bytes: Bytes of signals after which a shard is written.

    Raises:
        UserError: If the folder cannot be written, or holds a store that is damaged or of another kind.
    """

    def __init__(
        self,
        folder: Path,
        channels: Sequence[str],
        *,
        dtype: str = "float32",
        subjects: bool = True,
        present: bool = False,
        about: dict[str, Any] | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"a store's dtype is {dtype!r}; choose {' or '.join(DTYPES)}")
        self.folder = Path(folder)
        names = channel_names(channels)
        self.manifest = Manifest(
            channels=names,
            dtype=dtype,
            centred=tuple(name for name in names if name in _CENTRED and dtype == "float16"),
            subjects=() if subjects else None,
            present=present,
            about=json.loads(json.dumps(about or {})),  # as it will be read: without tuples
        )
        self.shard_bytes = shard_bytes
        self._open()
        self._codes = {name: code for code, name in enumerate(self.manifest.subjects or ())}
        self._clear()

    def __len__(self) -> int:
        """Return the number of windows added so far, those of finished shards included."""
        return len(self.manifest) + self._windows

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.flush()

    def add(
        self,
        signals: Array,
        *,
        subjects: Sequence[str] | Array | None = None,
        present: Array | None = None,
        note: Any = None,
    ) -> None:
        """Add windows that belong together.

        Args:
            signals: ``[n, C, 1250]`` finite, unfiltered and unscaled; n may be 0.
            subjects: ``[n]`` names, if the store has subjects.
            present: ``[n, C]`` bool, False where a channel was not recorded (its samples are 0), if the store has it.
            note: Plain JSON, written into the manifest with these windows' shard.
        """
        count = len(signals)
        expected = (count, len(self.manifest.channels), WINDOW_SAMPLES)
        if signals.shape != expected:
            raise UserError(f"windows have shape {list(signals.shape)}; {self.folder} takes {list(expected)}")
        columns = {"signals": _encode_signals(signals, self.manifest, len(self))}
        if self.manifest.present:
            columns["present"] = self._check_present(present, signals)
        elif present is not None and not present.all():
            raise UserError(f"{self.folder} was begun with every channel present, so none can be absent")
        if self.manifest.subjects is not None:
            names = [] if subjects is None else [str(name) for name in subjects]
            if len(names) != count:
                raise UserError(f"{len(names)} subjects were given for {count} windows")
            codes = [self._codes.setdefault(name, len(self._codes)) for name in names]
            columns["subjects"] = np.array(codes, dtype="<i4")
        elif subjects is not None:
            raise UserError(f"{self.folder} was begun without subjects, so none can be added")
        for name, values in columns.items() if count else ():
            self._waiting[name].append(values)
        self._windows += count
        if note is not None:
            self._notes.append(note)
        if sum(part.nbytes for part in self._waiting["signals"]) >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write the windows added since the last shard as a shard of its own, if there are any."""
        if not self._windows:
            return
        number = len(self.manifest.shards)
        files = {
            column.name: _write(column.path(self.folder, number), column, self._waiting[column.name], self._windows)
            for column in self.manifest.columns
        }
        subjects = None if self.manifest.subjects is None else tuple(self._codes)
        shards = (*self.manifest.shards, Shard(self._windows, files, self._notes))
        self.manifest = dataclasses.replace(self.manifest, subjects=subjects, shards=shards)
        self.manifest.write(self.folder)
        self._clear()

    def _clear(self) -> None:
        self._waiting: dict[str, list[Array]] = {column.name: [] for column in self.manifest.columns}
        self._notes: list[Any] = []
        self._windows = 0

    def _open(self) -> None:
        make_folder(self.folder)
        if not (self.folder / MANIFEST).exists():
            self.manifest.write(self.folder)
        wanted, self.manifest = self.manifest, read_manifest(self.folder)
        for key in ("channels", "dtype", "centred", "present", "about"):
            there, asked = getattr(self.manifest, key), getattr(wanted, key)
            if there != asked:
                difference = _difference(key, there, asked)
                raise UserError(f"{self.folder} was begun with {difference}; write into another folder")
        if (self.manifest.subjects is None) != (wanted.subjects is None):
            raise UserError(f"{self.folder} was begun {'without' if wanted.subjects == () else 'with'} subjects")
        check_files(self.folder, self.manifest)
        # what a killed writer had not finished
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def _check_present(self, present: Array | None, signals: Array) -> Array:
        if present is None:
            return np.ones(signals.shape[:2], dtype=bool)
        if present.shape != signals.shape[:2] or present.dtype.kind != "b":
            raise UserError(f"'present' must be bool of shape {list(signals.shape[:2])}")
        if np.any(np.any(signals != 0, axis=2) & ~present):
            raise UserError("a channel is absent but not 0; set its samples to 0, or its 'present' to True")
        return present


def _encode_signals(signals: Array, manifest: Manifest, first: int) -> Array:
    """Return windows ``[n, C, 1250]`` as the store keeps them; ``first`` is the first one's number, for messages."""
    with np.errstate(over="ignore"):
        values = np.array(signals, dtype="<f4")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
    if bad.size:
        raise UserError(f"window {first + bad[0]} holds NaN or Inf; drop it or interpolate")
    if manifest.dtype == "float32":
        return values
    centred = [row for row, name in enumerate(manifest.channels) if name in manifest.centred]
    values[:, centred] -= np.median(values[:, centred], axis=-1, keepdims=True)
    with np.errstate(over="ignore"):
        stored = values.astype("<f2")
    error = np.sqrt(np.mean((stored.astype(np.float32) - values) ** 2, axis=-1))
    allowed = _LARGEST_ERROR * values.std(axis=-1)
    allowed += [0.0 if name in _CENTRED else _LARGEST_ACC_ERROR for name in manifest.channels]
    rows, columns = np.nonzero(~(error <= allowed))
    if rows.size:
        raise UserError(
            f"{manifest.channels[columns[0]]} of window {first + rows[0]} does not fit float16: rounding would change "
            f"it by {error[rows[0], columns[0]]:.3g}, of a spread of {values[rows[0], columns[0]].std():.3g}; "
            "use --dtype float32"
        )
    return stored


def _write(path: Path, column: Column, parts: list[Array], windows: int) -> ShardFile:
    size, checksum = 0, 0
    with atomic_write(path) as file:
        for piece in (column.header(windows), *parts):
            content = piece if isinstance(piece, bytes) else np.ascontiguousarray(piece).data.cast("B")
            file.write(content)
            checksum = zlib.crc32(content, checksum)
            size += len(content)
    return ShardFile(size, f"{checksum:08x}")


def _difference(key: str, there: Any, asked: Any) -> str:
    if key == "about":
        for name in {**there, **asked}:
            if there.get(name) != asked.get(name):
                return f"{name} {there.get(name)}, not {asked.get(name)}"
    return f"{key} {there}, not {asked}"
