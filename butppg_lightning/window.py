"""The window contract: ten seconds of named channels at 125 Hz, and the npz files that hold them.

A file has ``signals [N, C, 1250]`` and, where windows are labelled, ``labels [N]`` in {0 poor, 1 good}. Optional:
``channels [C]`` (names), ``subjects [N]``, ``present [N, C]`` (False where a channel was not recorded; its samples
are 0), ``soft_labels [N]`` and ``weights [N]``, ``hr_ref [N]`` in bpm, ``fs``. Further arrays are carried along.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.npz import Array, read_npz, write_npz

if TYPE_CHECKING:
    from collections.abc import Sequence

CHANNELS = ("ACC_X", "ACC_Y", "ACC_Z", "PPG", "ECG")
"""The five channels in the guide's order."""
PRETRAIN_CHANNELS = ("PPG", "ECG")
"""The two channels of the pretraining recordings."""
SAMPLING_RATE = 125
"""Samples per second of every window (Hz)."""
WINDOW_SAMPLES = 1250
"""Samples per window: ten seconds."""

_COLUMNS = ("labels", "subjects", "soft_labels", "weights", "hr_ref")
_RANGES = {"soft_labels": (0.0, 1.0), "weights": (0.0, np.inf)}
_SCAN_WINDOWS = 4096  # windows looked at together when a file is checked; bounds the memory of the check


def channel_names(channels: int | Sequence[str]) -> tuple[str, ...]:
    """Check names of channels and make them upper case; a count of the guide, 2 or 5, means the standard names.

    Raises:
        UserError: On another count, an unknown name, a repeated name or an empty list.

    Examples:
        >>> channel_names(2)
        ('PPG', 'ECG')
        >>> channel_names(["ppg", "acc_x"])
        ('PPG', 'ACC_X')
    """
    if isinstance(channels, int):
        standard = {len(PRETRAIN_CHANNELS): PRETRAIN_CHANNELS, len(CHANNELS): CHANNELS}
        if channels not in standard:
            raise UserError(f"{channels} channels have no standard names; name them, for example [PPG, ECG]")
        return standard[channels]
    names = tuple(str(name).upper() for name in channels)
    unknown = [name for name in names if name not in CHANNELS]
    if unknown or not names:
        raise UserError(f"unknown channel names {unknown}; known are {', '.join(CHANNELS)}")
    if len(set(names)) != len(names):
        raise UserError(f"a channel is named twice in {list(names)}")
    return names


@dataclass(eq=False)
class WindowSet:
    """Windows and what is known about them.

    Attributes:
        signals: ``[N, C, 1250]``, unfiltered and unscaled, any float or int dtype; possibly memory-mapped.
        channels: The names of the C channels.
        labels: ``[N]`` int64 in {0 poor, 1 good}, or None.
        subjects: ``[N]`` strings, or None.
        present: ``[N, C]`` bool, False where a channel was not recorded, or None when all are there.
        soft_labels: ``[N]`` float in 0..1, or None.
        weights: ``[N]`` float of at least 0, or None.
        hr_ref: ``[N]`` reference heart rate in bpm, or None.
        extras: Further arrays of the file, as they are.
    """

    signals: Array
    channels: tuple[str, ...]
    labels: Array | None = None
    subjects: Array | None = None
    present: Array | None = None
    soft_labels: Array | None = None
    weights: Array | None = None
    hr_ref: Array | None = None
    extras: dict[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.signals.shape[0])

    def take(self, rows: Array) -> WindowSet:
        """Return the windows ``rows`` (indices or a mask) with everything known about them."""
        count = len(self)
        values: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            values[item.name] = value[rows] if isinstance(value, np.ndarray) else value
        values["extras"] = {
            key: value[rows] if value.ndim and value.shape[0] == count else value for key, value in self.extras.items()
        }
        return WindowSet(**values)

    def save(self, path: Path) -> None:
        """Write the npz file, atomically and uncompressed (so that it can be memory-mapped)."""
        arrays: dict[str, Any] = {**self.extras, "fs": np.int64(SAMPLING_RATE), "channels": np.array(self.channels)}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                arrays[item.name] = value
        write_npz(path, arrays)


def read_windows(path: Path, *, labelled: bool) -> WindowSet:
    """Read and check one npz file of windows; signals stay memory-mapped when the file is uncompressed.

    Args:
        path: The npz file.
        labelled: Whether ``labels`` must be there (fine-tuning) or may be missing (pretraining).

    Raises:
        UserError: If anything breaks the contract; the line names the file, the problem and the mend.
    """
    path = Path(path)
    arrays = read_npz(path)
    needed = ("signals", "labels") if labelled else ("signals",)
    missing = [key for key in needed if key not in arrays]
    if missing:
        raise UserError(f"{path} has no '{missing[0]}'; it holds {', '.join(sorted(arrays))}")
    signals = arrays.pop("signals")
    _check_shape(path, signals)
    channels = _read_channels(path, arrays.pop("channels", None), signals.shape[1])
    rate = arrays.pop("fs", None)
    if rate is not None and (rate.size != 1 or rate.dtype.kind not in "fiu" or rate.item() != SAMPLING_RATE):
        raise UserError(f"{path}: 'fs' says {rate}; windows are {SAMPLING_RATE} Hz, so resample them")
    count = signals.shape[0]
    present = arrays.pop("present", None)
    if present is not None:
        present = _read_present(path, present, signals)
    _check_finite(path, signals)
    columns = {key: _read_column(path, key, arrays.pop(key), count) for key in _COLUMNS if key in arrays}
    return WindowSet(signals, channels, present=present, extras=arrays, **columns)


def _check_shape(path: Path, signals: Array) -> None:
    shape = signals.shape
    if signals.dtype.kind not in "fiu":
        raise UserError(f"{path}: signals are {signals.dtype}; they must be real numbers (float or int)")
    if signals.ndim != 3:
        raise UserError(f"{path}: signals have shape {list(shape)}; expected [windows, channels, {WINDOW_SAMPLES}]")
    if shape[0] == 0:
        raise UserError(f"{path} holds no windows")
    if shape[2] != WINDOW_SAMPLES and shape[1] == WINDOW_SAMPLES:
        raise UserError(
            f"{path}: signals have shape {list(shape)}, time before channels; "
            f"save signals.transpose(0, 2, 1), which is [windows, channels, {WINDOW_SAMPLES}]"
        )
    if shape[2] != WINDOW_SAMPLES:
        raise UserError(
            f"{path}: windows have {shape[2]} samples; expected {WINDOW_SAMPLES} (10 s at {SAMPLING_RATE} Hz): resample"
        )


def _read_channels(path: Path, names: Array | None, count: int) -> tuple[str, ...]:
    if names is None:
        if count not in (len(PRETRAIN_CHANNELS), len(CHANNELS)):
            raise UserError(
                f"{path}: signals have {count} channels and no names; expected {len(CHANNELS)} "
                f"({', '.join(CHANNELS)}) or {len(PRETRAIN_CHANNELS)} ({', '.join(PRETRAIN_CHANNELS)}), "
                "or save 'channels' beside them"
            )
        return channel_names(count)
    if names.ndim != 1 or names.shape[0] != count or names.dtype.kind not in "US":
        raise UserError(f"{path}: 'channels' must hold one name for each of the {count} channels")
    try:
        return channel_names([str(name) for name in _as_text(path, "channels", names)])
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def _check_finite(path: Path, signals: Array) -> None:
    if signals.dtype.kind != "f":
        return
    bad = []
    for start in range(0, signals.shape[0], _SCAN_WINDOWS):
        with np.errstate(over="ignore"):  # the model computes in float32, where a larger number is Inf
            chunk = np.asarray(signals[start : start + _SCAN_WINDOWS], dtype=np.float32)
        bad.append(start + np.flatnonzero(~np.isfinite(chunk).all(axis=(1, 2))))
    rows = np.concatenate(bad)
    if rows.size:
        raise UserError(
            f"{path}: {rows.size} of {signals.shape[0]} windows hold NaN or Inf, the first at index {rows[0]}; "
            "drop or interpolate them (an absent channel is 0 with present=False)"
        )


def _read_present(path: Path, present: Array, signals: Array) -> Array:
    if present.shape != signals.shape[:2] or present.dtype.kind != "b":
        raise UserError(f"{path}: 'present' must be bool of shape {list(signals.shape[:2])}")
    rows = np.flatnonzero(~present.all(axis=1))
    for start in range(0, rows.size, _SCAN_WINDOWS):
        chunk = rows[start : start + _SCAN_WINDOWS]
        filled = (signals[chunk] != 0).any(axis=2) & ~present[chunk]
        if filled.any():
            raise UserError(
                f"{path}: a channel of window {chunk[filled.any(axis=1)][0]} is absent but not 0; "
                "set its samples to 0, or its 'present' to True"
            )
    return np.asarray(present)


def _read_column(path: Path, key: str, values: Array, count: int) -> Array:
    if values.shape != (count,):
        raise UserError(
            f"{path}: {key} have shape {list(values.shape)}, but there are {count} windows; expected [{count}]"
        )
    if key == "labels":
        return _read_labels(path, values)
    if key == "subjects":
        return _as_text(path, key, values)
    if key not in _RANGES:
        return np.asarray(values)
    low, high = _RANGES[key]
    if values.dtype.kind not in "biuf" or not bool(((values >= low) & (values <= high) & np.isfinite(values)).all()):
        raise UserError(f"{path}: '{key}' must be finite numbers from {low:g} to {high:g}")
    return values.astype(np.float32)


def _read_labels(path: Path, labels: Array) -> Array:
    if labels.dtype.kind not in "biuf":
        raise UserError(f"{path}: labels are {labels.dtype}; expected 0 (poor) and 1 (good)")
    wrong = np.flatnonzero(~np.isin(labels, (0, 1)))
    if wrong.size:
        raise UserError(
            f"{path}: {wrong.size} labels are neither 0 (poor) nor 1 (good), "
            f"the first is {labels[wrong[0]]} at index {wrong[0]}"
        )
    return np.asarray(labels).astype(np.int64)


def _as_text(path: Path, key: str, values: Array) -> Array:
    try:
        return values.astype(str)
    except UnicodeDecodeError:
        raise UserError(f"{path}: '{key}' holds bytes that are no text; save plain strings") from None
