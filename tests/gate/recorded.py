"""Recorded windows of patients, and which of them show a clean pulse: by the ECG beside the PPG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.signal import butter, find_peaks, sosfiltfilt

from butppg_lightning.models.preprocess import band_pass_matrix, steep_side
from butppg_lightning.window import SAMPLING_RATE, WindowSet, read_windows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from butppg_lightning.npz import Array

LICENSED = ("cinc2015/windows.npz", "bidmc/train_windows.npz", "bidmc/val_windows.npz")
"""What the gate is trained on: ODC-By, all of it."""
_WIDE = band_pass_matrix("ppg_band", (0.5, 8.0)).double().numpy()
_QRS = butter(2, (8, 20), "band", fs=SAMPLING_RATE, output="sos")
_PULSE = butter(3, (0.6, 4), "band", fs=SAMPLING_RATE, output="sos")
_LEAST_DISTANCE = {"ecg": 32, "ppg": 34}  # samples between beats
_LAGS = np.arange(-0.3, 1.0, 0.04)  # s from an R peak to the top of its pulse
_TOLERANCE, _OF_INTERVAL = 0.1, 0.15  # s, and as a share of the interval
_EDGE, _LENGTH = 0.15, 10.0  # s
_IN_RHYTHM = 0.15  # coefficient of variation of the intervals
CLEAN = 0.9  # agreement of the beats from which on a pulse is clean


@dataclass(eq=False)
class Recorded:
    """N windows of patients.

    Attributes:
        ppg: ``[N, 1250]`` float64, upright, as recorded otherwise.
        beats: Of each window, the times (s) of the ECG's R peaks.
        agreement: ``[N]`` in 0..1: F1 score of the PPG's beats against the ECG's.
        labels: ``[N]``: whether most PPG rates agree with the ECG's: 1, 0, or -1 where that is not known.
        rates: ``[N]`` bpm of the ECG, NaN where unknown.
        variation: ``[N]`` coefficient of variation of the ECG's intervals; infinite where unknown.
        subjects: ``[N]`` names.
        following: ``[N]`` row of the window that follows in the same record, or -1.
    """

    ppg: Array
    beats: list[Array]
    agreement: Array
    labels: Array
    rates: Array
    variation: Array
    subjects: Array
    following: Array

    @property
    def clean(self) -> Array:
        """``[N]`` bool: the PPG shows the ECG's beats, and nothing says otherwise."""
        return np.asarray((self.agreement >= CLEAN) & (self.labels != 0))

    @property
    def regular(self) -> Array:
        """``[N]`` bool: the rate means something for the whole window."""
        return np.asarray((self.labels >= 0) | ((self.variation < _IN_RHYTHM) & (self.agreement > CLEAN)))


def read_recorded(data: Path, names: Sequence[str] = LICENSED) -> Recorded:
    """Read windows with PPG and ECG below a folder, but for those that stand twice."""
    return _join([_describe(read_windows(data / name, labelled=False), name.partition("/")[0]) for name in names])


def wide_band(ppg: Array) -> Array:
    """Return PPG ``[..., 1250]`` in 0.5-8 Hz with a root mean square of 1."""
    found = (ppg - ppg.mean(-1, keepdims=True)) @ _WIDE
    return np.asarray(found / np.maximum(np.sqrt((found**2).mean(-1, keepdims=True)), 1e-9))


def _describe(windows: WindowSet, source: str) -> Recorded:
    repeated = windows.extras.get("repeated", np.zeros(len(windows), dtype=bool)).astype(bool)
    windows = windows.take(~repeated)
    extras, count = windows.extras, len(windows)
    ppg = windows.signals[:, windows.channels.index("PPG")].astype(np.float64)
    ppg *= steep_side(torch.from_numpy(wide_band(ppg))).numpy()
    beats = [ecg_beats(window) for window in windows.signals[:, windows.channels.index("ECG")].astype(np.float64)]
    intervals = [np.diff(found) for found in beats]
    means = np.array([found.mean() if len(found) > 2 else np.nan for found in intervals])
    spreads = np.array([found.std() if len(found) > 2 else np.inf for found in intervals])
    known = np.full(count, np.nan) if windows.hr_ref is None else windows.hr_ref.astype(np.float64)
    labels = extras.get("labels_hr", np.full(count, -1)).astype(int)
    following = np.full(count, -1)
    if {"record", "t0"} <= extras.keys():
        places = list(zip(extras["record"].tolist(), extras["t0"].tolist(), strict=True))
        numbers = {place: row for row, place in enumerate(places)}
        following = np.array([numbers.get((record, start + _LENGTH), -1) for record, start in places])
    return Recorded(
        ppg,
        beats,
        np.array([agreement(found, ppg_beats(window)) for found, window in zip(beats, wide_band(ppg), strict=True)]),
        labels,
        np.where(np.isfinite(known), known, 60 / means),
        spreads / np.nan_to_num(means, nan=1.0),
        np.array([f"{source}/{name}" for name in np.asarray(windows.subjects)]),
        following,
    )


def _join(parts: Sequence[Recorded]) -> Recorded:
    starts = np.cumsum([0, *(len(part.ppg) for part in parts[:-1])])
    arrays = ("ppg", "agreement", "labels", "rates", "variation", "subjects")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays}
    following = [
        np.where(part.following < 0, -1, part.following + start) for part, start in zip(parts, starts, strict=True)
    ]
    return Recorded(
        **joined, beats=[found for part in parts for found in part.beats], following=np.concatenate(following)
    )


def ecg_beats(ecg: Array) -> Array:
    """Return the times (s) of the R peaks of an ECG ``[T]``: peaks of its smoothed power in 8-20 Hz."""
    power = np.convolve(sosfiltfilt(_QRS, ecg - np.median(ecg)) ** 2, np.ones(12) / 12, mode="same")
    return (
        np.asarray(find_peaks(power, height=np.quantile(power, 0.98) / 4, distance=_LEAST_DISTANCE["ecg"])[0])
        / SAMPLING_RATE
    )


def ppg_beats(ppg: Array) -> Array:
    """Return the times (s) of the tops of an upright PPG ``[T]``, in 0.6-4 Hz."""
    pulse = sosfiltfilt(_PULSE, ppg)
    found = find_peaks(pulse, distance=_LEAST_DISTANCE["ppg"], prominence=0.35 * pulse.std())[0]
    return np.asarray(found) / SAMPLING_RATE


def agreement(beats: Array, tops: Array) -> float:
    """Return the F1 score of a PPG's tops (s) against an ECG's beats (s), at the lag where it is highest."""
    if len(beats) < 4 or len(tops) < 3:
        return 0.0
    tolerance = min(_TOLERANCE, _OF_INTERVAL * float(np.median(np.diff(beats))))
    return max(_f1(beats + lag, tops, tolerance) for lag in _LAGS)


def _f1(expected: Array, tops: Array, tolerance: float) -> float:
    expected = expected[(expected > _EDGE) & (expected < _LENGTH - _EDGE)]
    if len(expected) < 3:
        return 0.0
    near = np.abs(expected[:, None] - tops) <= tolerance
    judged = (tops > expected[0] - tolerance) & (tops < expected[-1] + tolerance)
    found, right = near.any(1).mean(), near[:, judged].any(0).mean() if judged.any() else 0.0
    return float(2 * found * right / max(found + right, 1e-9))
