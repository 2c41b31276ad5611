"""What the tests of recordings' formats share: a signal, reading it, and a refusal in one line."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings import Recording, Selection, read_recording

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 40
START = dt.datetime(2024, 2, 29, 23, 50, 0)


def signal(rate: float, scale: float = 1.0, seconds: float = SECONDS) -> np.ndarray:
    return scale * np.sin(2 * np.pi * 1.1 * np.arange(round(rate * seconds)) / rate)


def read(path: Path, channels: dict[str, str] | None = None, **rest: Any) -> Recording:
    return read_recording(path, Selection(channels or {}, **rest))


def refuse(path: Path, message: str, channels: dict[str, str] | None = None, **rest: Any) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        read(path, channels, **rest)
    assert "\n" not in str(refusal.value)


def plain_record(folder: Path, name: str, lines: list[str], *rows: np.ndarray, first: str | None = None) -> Path:
    """A record of format 16 whose header is written by hand: ``lines`` are what follows the file and the format."""
    values = np.round(np.column_stack(rows)).astype("<i2")
    values.tofile(folder / f"{name}.dat")
    first = first or f"{name} {len(lines)} 125 {len(values)}"
    signals = [f"{name}.dat 16 {line}" for line in lines]
    (folder / f"{name}.hea").write_text("\n".join([first, *signals, ""]), encoding="utf-8")
    return folder / name
