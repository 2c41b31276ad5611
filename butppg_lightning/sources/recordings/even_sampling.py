"""Stamped samples onto an even grid: the rate they have where there is no gap, and a place for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.recording import check_rate, empty_samples

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.npz import Array

LOOKED_AT = 500_000  # steps that tell the usual one
_GAP = 0.5  # sampling intervals by which a step is too long to be none
_JITTER = 6.0  # standard deviations of the steps that are no gap either
_BLOCK_SECONDS = 10.0  # stretches placed as a whole; between them the clock may drift
_MOST_UNEVEN = 0.05  # share of a stretch that may find no room; two rates in a file have far more
_LONG_SECONDS, _OTHER_RATE = 5.0, 0.1  # a stretch that has a rate of its own, and by which share it may differ
_MOST_ALONE = 0.2  # share of the samples that may have a gap on both sides
_BY_RATE = "--channels TIME=none and --fs RATE"
_PLACED = 2**20  # samples placed together


def even_samples(path: Path, name: str, stamps: Array, values: Array, rate: float | None) -> tuple[float, float, Array]:
    """Put stamped samples on an even grid, with NaN where samples are missing.

    Samples keep their order and their values (nothing is interpolated): stamps only decide the rate and where each
    stretch of ten seconds, or up to a gap, begins. So neither jitter nor the rounding of stamps adds noise; where the
    clock drifts, a sample is left out or missing now and then. Equal stamps (coarser than the sampling, for example
    whole seconds) are spread evenly. ``stamps [T]`` are seconds and never decrease, ``values [T]`` float32 without NaN;
    ``rate`` (Hz) is None to find it. Returns the rate, the first sample's time (s), and ``[S]`` float32 samples.
    """
    if len(stamps) < 2:
        raise UserError(f"{path}: '{name}' has {len(stamps)} samples; leave it out with --channels NAME=none")
    stamps, found = _spread(path, name, stamps, rate)
    rate = check_rate(path, name, found if rate is None else rate)
    blocks, anchors = _blocks(stamps, rate)
    sizes = np.diff(np.append(blocks, len(stamps)))
    span = float(np.ptp(anchors)) * rate
    if not span < 2**48:  # int64 has room for it, memory has not
        empty_samples(path, name, int(min(span, 1e18)))
    _check_blocks(path, name, stamps, blocks, sizes, rate)
    places = np.rint((anchors - anchors[0]) * rate).astype(np.int64)
    places -= places.min()
    crowded = places[:-1] + sizes[:-1] - places[1:] - np.maximum(3, _MOST_UNEVEN * sizes[:-1])
    if len(crowded) and crowded.max() > 0:
        raise UserError(
            f"{path}: '{name}' has more samples {stamps[blocks[int(crowded.argmax())]]:.1f} s after the first one than "
            f"{rate:.4g} Hz leaves room for: its time stamps are uneven, or the rate changes or --fs is wrong; if no "
            f"sample is missing, go by the rate alone: {_BY_RATE}"
        )
    samples = empty_samples(path, name, int((places + sizes).max()))
    for begin in range(0, len(values), _PLACED):
        rows = np.arange(begin, min(begin + _PLACED, len(values)))
        block = np.searchsorted(blocks, rows, side="right") - 1
        samples[rows + (places - blocks)[block]] = values[rows]
    return rate, float(anchors[0]), samples


def _check_blocks(path: Path, name: str, stamps: Array, blocks: Array, sizes: Array, rate: float) -> None:
    """Refuse long stretches without a gap that have another rate: it changes, or the rate that was given is wrong."""
    alone = np.count_nonzero(sizes == 1) > _MOST_ALONE * len(stamps)  # every step is a gap to another rate
    long = sizes >= max(3, _LONG_SECONDS * rate)
    spans = stamps[blocks + sizes - 1][long] - stamps[blocks][long]
    found = (sizes[long] - 1) / np.maximum(spans, 1e-9)
    off = np.flatnonzero(np.abs(found / rate - 1) > _OTHER_RATE)
    if len(off) or alone:
        usual = 1 / float(np.median(np.diff(stamps[blocks[sizes == 1]]))) if not len(off) else found[off[0]]
        row = blocks[long][off[0]] if len(off) else blocks[np.argmax(sizes == 1)]
        raise UserError(
            f"{path}: '{name}' has {usual:.4g} Hz by its times {stamps[row]:.1f} s after the first one, and {rate:.4g} "
            "Hz were given or found for all: correct --fs, or part the file where the rate changes"
        )


def _spread(path: Path, name: str, stamps: Array, rate: float | None) -> tuple[Array, float]:
    """Return stamps that differ from each other, and the rate they have where there is no gap."""
    steps = _steps(stamps)
    if steps.all():
        return stamps, _rate(None, steps)
    first = np.append(0, np.flatnonzero(steps) + 1)  # of each run of equal stamps
    if len(first) < 3:
        raise UserError(
            f"{path}: '{name}' has {len(first)} different time stamps; give stamps that advance, or go by "
            f"the rate alone: {_BY_RATE}"
        )
    sizes = np.diff(np.append(first, len(stamps)))
    # the first run may have begun before the recording did: it says nothing of the rate, and ends where the next begins
    found = _rate(sizes[1:-1], np.diff(stamps[first[1:]]))
    rate = found if rate is None else rate
    if not rate > 0:
        return stamps, found
    within = np.arange(len(stamps)) - np.repeat(first, sizes)
    spread = stamps + within / rate
    spread[: sizes[0]] = stamps[first[1]] - np.arange(sizes[0], 0, -1) / rate
    return spread, found


def _steps(stamps: Array) -> Array:
    # float32 has digits enough for a step, and a day of ECG has 20 million of them
    steps = np.empty(len(stamps) - 1, dtype=np.float32)
    return np.subtract(stamps[1:], stamps[:-1], out=steps, casting="same_kind")


def _rate(counts: Array | None, steps: Array) -> float:
    near = steps <= _longest_step(steps)
    passed = np.count_nonzero(near) if counts is None else counts[near].sum()
    return float(passed / steps.sum(where=near, dtype=np.float64))


def _longest_step(steps: Array) -> float:
    """Return the step beyond which there is a gap: by how much the usual steps vary tells what is none."""
    some = steps[:: 1 + 2 * (len(steps) // (2 * LOOKED_AT))]
    usual = float(np.median(some))
    deviation = 1.4826 * float(np.median(np.abs(some - usual)))
    return usual + max(_GAP * usual, _JITTER * deviation)


def _blocks(stamps: Array, rate: float) -> tuple[Array, Array]:
    """Return the first row and the start time of every stretch to be placed as a whole."""
    steps = _steps(stamps)
    gaps = np.flatnonzero(steps > max(_longest_step(steps), (1 + _GAP) / rate)) + 1
    edges = np.concatenate([[0], gaps, [len(stamps)]])
    size = max(2, round(_BLOCK_SECONDS * rate))
    long = np.flatnonzero(np.diff(edges) > size)
    inner = [np.arange(edges[row] + size, edges[row + 1] - size // 2, size) for row in long]
    blocks = np.unique(np.concatenate([edges[:-1], *inner])).astype(np.int64)
    sizes = np.diff(np.append(blocks, len(stamps)))
    # the mean over a block averages the jitter of single stamps out
    anchors = np.add.reduceat(stamps, blocks) / sizes - (sizes - 1) / 2 / rate
    return blocks, anchors
