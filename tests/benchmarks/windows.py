"""Any number of five-channel windows within seconds: a few hundred synthetic ones, each copy with noise of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from butppg_lightning.sources.synthetic.generate import write_mock
from butppg_lightning.window import WindowSet, read_windows

_BASE = 400  # windows drawn as `butppg mock` draws them; what is above repeats these
_HELD_OUT = 10  # val and test hold one window for so many of train's, and at least _LEAST
_LEAST = 24
_NOISE = 0.02  # of each channel's standard deviation: no two windows are the same
_CHUNK = 2000


def write_splits(folder: Path, train: int) -> Path:
    """Write train, val and test splits of different subjects, unless they are there.

    Args:
        folder: Where they go.
        train: Windows of train; val and test have a tenth of it each.

    Returns:
        The folder.
    """
    if (folder / "test.npz").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        write_mock(Path(scratch), _BASE, seed=0)
        for seed, (split, count) in enumerate(
            {"train": train, "val": held_out(train), "test": held_out(train)}.items()
        ):
            base = read_windows(Path(scratch) / f"{split}.npz", labelled=True)
            repeat(base, count, seed, Path(scratch) / "signals.npy").save(folder / f"{split}.npz")
    return folder


def held_out(train: int) -> int:
    """Return how many windows val and test have beside so many of train."""
    return max(train // _HELD_OUT, _LEAST)


def repeat(base: WindowSet, count: int, seed: int, scratch: Path) -> WindowSet:
    """Return ``count`` windows: those of ``base`` over and over, with noise, in a mapped file."""
    shape = (count, *base.signals.shape[1:])
    signals = np.lib.format.open_memmap(scratch, mode="w+", dtype=np.float32, shape=shape)
    generator = np.random.default_rng(seed)
    source = np.asarray(base.signals)
    scale = _NOISE * source.std(axis=-1, keepdims=True)
    rows = np.arange(count) % len(base)
    for start in range(0, count, _CHUNK):
        part = rows[start : start + _CHUNK]
        noise = generator.standard_normal((len(part), *shape[1:]), dtype=np.float32)
        signals[start : start + len(part)] = source[part] + scale[part] * noise
    # a copy is another person: as many subjects for so many windows as the synthetic set has
    names = np.char.add(np.asarray(base.subjects)[rows].astype(str), np.char.mod("-%d", np.arange(count) // len(base)))
    present = None if base.present is None else base.present[rows]
    return WindowSet(signals, base.channels, np.asarray(base.labels)[rows], names, present)
