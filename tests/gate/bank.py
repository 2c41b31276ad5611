"""Training windows of the gate: recorded ones, and clean ones as other people, devices and motion would show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from butppg_lightning.models.rates import TOLERANCE, RateReaders
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES, WindowSet
from gate.recorded import CLEAN, Recorded
from gate.spoil import other_device, spoil

if TYPE_CHECKING:
    from collections.abc import Iterator

    from butppg_lightning.npz import Array

_TIME = np.arange(WINDOW_SAMPLES) / SAMPLING_RATE
_SHARE, _AS_RECORDED, _SECOND_COPY, _STRETCHED, _IRREGULAR = 0.6, 0.45, 0.4, 0.85, 0.2
_RATES, _FASTEST = (50.0, 185.0), 3.0  # bpm that pulses are stretched to; the largest factor
_SHAKEN = (0.08, 0.28)  # standard deviation of the logarithm of a beat's own tempo, as in fibrillation
_IRREGULAR_VARIATION, _IRREGULAR_WEIGHT = 0.15, 3.0
_VALIDATED = slice(6, None, 7)  # of the subjects by name: every seventh calibrates


class Made(NamedTuple):
    """A window ``ppg [1250]``; the share of its pulse that is left, the pulse's rate (bpm), both NaN where unknown."""

    ppg: Array
    row: int  # of the recorded window it begins with
    left: float
    rate: float
    irregular: bool


def make_windows(recorded: Recorded, seed: int) -> WindowSet:
    """Return windows of the PPG alone, with soft labels, weights and subjects.

    The soft label is the mean of what is known: the share of the pulse that is left; and whether two of three readers
    find the heart's rate, a half for those who read tops and a half for those who read feet.
    """
    rng = np.random.default_rng(seed)
    drawn = np.flatnonzero(rng.random(len(recorded.ppg)) < _SHARE)
    made = [window for row in drawn for window in _from_row(rng, recorded, int(row))]
    ppg = np.stack([window.ppg * rng.choice([-1, 1]) for window in made]).astype(np.float32)
    rates = np.array([window.rate for window in made])
    known = np.stack([[window.left for window in made], _readable(ppg, rates)])
    counted = np.isfinite(known).any(0)
    soft = np.nanmean(known[:, counted], axis=0)
    weights = np.where([window.irregular for window in made], _IRREGULAR_WEIGHT, 1.0)[counted]
    return WindowSet(
        ppg[counted, None],
        ("PPG",),
        labels=(soft >= 0.5).astype(np.int64),
        subjects=recorded.subjects[[window.row for window in made]][counted],
        soft_labels=soft.astype(np.float32),
        weights=weights.astype(np.float32),
        hr_ref=rates[counted].astype(np.float32),
    )


def split(windows: WindowSet) -> dict[str, WindowSet]:
    """Return the windows to train on, and those of other people to calibrate on."""
    subjects = np.asarray(windows.subjects)
    validated = np.isin(subjects, np.unique(subjects)[_VALIDATED])
    return {"train": windows.take(~validated), "val": windows.take(validated)}


def _from_row(rng: np.random.Generator, recorded: Recorded, row: int) -> Iterator[Made]:
    """Yield a recorded window as it is, and one or two copies, if any of them is drawn and may be used."""
    label, clean = recorded.labels[row], recorded.clean[row]
    irregular = bool(recorded.variation[row] > _IRREGULAR_VARIATION)
    if rng.random() < _AS_RECORDED and (label >= 0 or recorded.agreement[row] >= CLEAN):
        left = 1.0 if clean else 0.0 if label == 0 else np.nan
        rate = recorded.rates[row] if recorded.regular[row] else np.nan
        yield Made(recorded.ppg[row], row, left, rate, irregular)
    if clean and np.isfinite(recorded.rates[row]):
        for _ in range(1 + (rng.random() < _SECOND_COPY)):
            ppg, rate, shaken = _retimed(rng, recorded, row)
            spoilt = spoil(rng, other_device(rng, ppg))
            known = recorded.regular[row] and not shaken
            yield Made(spoilt.ppg, row, spoilt.left, rate if known else np.nan, irregular or shaken)


def _retimed(rng: np.random.Generator, recorded: Recorded, row: int) -> tuple[Array, float, bool]:
    """Return a clean window ``[1250]`` at another rate, that rate (bpm), and whether its beats were shaken.

    A faster pulse needs more than one window, so clean ones that follow are joined, as far as there are any.
    """
    factor = min(rng.uniform(*_RATES) / recorded.rates[row], _FASTEST) if rng.random() < _STRETCHED else 1.0
    parts, beats, at = [recorded.ppg[row]], [recorded.beats[row]], row
    while len(parts) < np.ceil(factor - 1e-6) and (at := recorded.following[at]) >= 0 and recorded.clean[at]:
        beats.append(10.0 * len(parts) + recorded.beats[at])
        parts.append(recorded.ppg[at])
    factor = min(factor, float(len(parts)))
    time, whole = _TIME * factor, np.concatenate(parts)
    shaken = bool(rng.random() < _IRREGULAR and recorded.regular[row])
    if shaken:
        time = np.clip(_shake(rng, time, np.concatenate(beats)), 0, (len(whole) - 1) / SAMPLING_RATE)
    ppg = np.interp(time * SAMPLING_RATE, np.arange(len(whole)), whole)
    return ppg, float(recorded.rates[row] * factor), shaken


def _shake(rng: np.random.Generator, time: Array, beats: Array) -> Array:
    """Return the moments ``[1250]`` of a recording that stand at ``time`` once each beat has a tempo of its own."""
    edges = np.concatenate([[-1.0], beats, [beats[-1] + 1.0]])
    tempos = np.exp(rng.normal(0, rng.uniform(*_SHAKEN), len(edges) - 1))
    moved = np.concatenate([[0.0], np.cumsum(np.diff(edges) * tempos)])
    return np.asarray(np.interp(time, moved - np.interp(0, edges, moved), edges))


def _readable(ppg: Array, rates: Array) -> Array:
    """Return how many of two groups of readers find the rate ``[N]`` of ``[N, 1250]``, 0..1; NaN where unknown."""
    readers = RateReaders()
    found = np.concatenate([readers(part).numpy() for part in torch.split(torch.from_numpy(ppg), 256)])
    near = np.abs(found - rates[:, None]) <= TOLERANCE
    groups = [near[:, [0, 1, side]].sum(1) >= 2 for side in (2, 3)]
    return np.where(np.isfinite(rates), np.mean(groups, axis=0), np.nan)
