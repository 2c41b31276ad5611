"""Long recordings from npz files.

One array ``[samples]`` per channel, keyed by its name (or an alias, or as ``--channels`` says); acceleration may be
one array ``acc`` of shape ``[samples, 3]`` or ``[3, samples]``. ``fs`` is the sampling rate of all, ``fs_NAME`` that of
one array (Hz). Optional: ``start_NAME`` (seconds after the recording's start, default 0) and ``start_time`` (ISO text,
or seconds since 1970). NaN marks gaps.
"""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError
from butppg_lightning.npz import Array, read_npz
from butppg_lightning.sources.recordings.names import Selection, match_channels, printable
from butppg_lightning.sources.recordings.recording import Channel, Recording, assemble, to_samples

if TYPE_CHECKING:
    from pathlib import Path

_TRIPLES = ("acc", "accel", "acceleration", "accelerometer")


def read(path: Path, selection: Selection) -> Recording:
    """Read a recording from an npz file of one array per channel; the module's docstring states the form."""
    arrays = {printable(key): value for key, value in read_npz(path).items()}
    if "signals" in arrays and arrays["signals"].ndim == 3:
        raise UserError(f"{path} holds windows, not a recording; `butppg predict` gives their probabilities")
    settings = {key: arrays.pop(key) for key in list(arrays) if key == "fs" or key.startswith(("fs_", "start_"))}
    origin = {key: key for key in arrays}
    for key in [key for key in arrays if key.lower() in _TRIPLES and arrays[key].ndim == 2]:
        triple = arrays.pop(key)
        if 3 not in triple.shape:
            raise UserError(f"{path}: '{key}' has shape {list(triple.shape)}; expected [samples, 3]")
        for axis, name in enumerate("XYZ"):
            arrays[f"{key}_{name}"] = triple[:, axis] if triple.shape[1] == 3 else triple[axis]
            origin[f"{key}_{name}"] = key
    names = [key for key, value in arrays.items() if value.ndim]
    found = match_channels(path, names, selection)
    channels = {}
    for channel, row in found.items():
        key = names[row]
        keys = (key, origin[key], channel, channel.split("_")[0])
        stated, asked = _number(path, settings, [*(f"fs_{name}" for name in keys), "fs"]), selection.rate(channel)
        if stated is not None and asked is not None and stated != asked:
            raise UserError(f"--fs says {asked:g} Hz for {channel}, but {path} states {stated:g}; drop the flag")
        rate = stated if stated is not None else asked
        if rate is None:
            raise UserError(f"{path} states no sampling rate of '{key}'; save fs or fs_{key} (Hz), or give --fs")
        start = _number(path, settings, [f"start_{name}" for name in keys])
        samples = to_samples(path, key, arrays.pop(key))
        channels[channel] = Channel(channel, key, rate, 0.0 if start is None else start, samples)
    return assemble(path, channels, _start_time(path, settings.get("start_time")), tuple(names), selection.acc_unit)


def _number(path: Path, settings: dict[str, Array], keys: list[str]) -> float | None:
    key = next((key for key in keys if key in settings), None)
    if key is None:
        return None
    value = settings[key]
    if value.size != 1 or value.dtype.kind not in "fiu":
        raise UserError(f"{path}: '{key}' is {value.dtype} of shape {list(value.shape)}; expected one number")
    return float(value.item())


def _start_time(path: Path, value: Array | None) -> datetime | None:
    if value is None:
        return None
    stated: Any = value.item() if value.size == 1 else value.tolist()
    stated = stated.decode("ascii", "replace") if isinstance(stated, bytes) else stated
    try:
        if isinstance(stated, str):
            return datetime.fromisoformat(stated.strip().replace("Z", "+00:00"))
        if math.isfinite(stated):
            return datetime.fromtimestamp(stated, timezone.utc)
    except (ValueError, TypeError, OverflowError, OSError):
        pass
    raise UserError(
        f"{path}: 'start_time' is {str(stated)[:60]!r}; expected ISO text (2024-01-31T22:15:00) or seconds since 1970"
    )
