"""Five readers of heart rate from a PPG, and the rule by which BUT PPG calls a recording good.

In BUT PPG five people estimated the heart rate from each PPG; the recording is good when most of them came within
5 bpm of the ECG's rate (Nemcova et al. 2021, doi:10.1155/2021/3453007). Here five algorithms with different bands,
thresholds and errors of their own take the people's place. None of them sees anything but the PPG.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import find_peaks

from butppg_lightning.sources.resampling import band_pass, runs
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

if TYPE_CHECKING:
    from butppg_lightning.npz import Array

READERS = {"peaks": 0.8, "upstrokes": 1.0, "moving_averages": 1.0, "spectrum": 1.2, "autocorrelation": 1.5}
"""The readers in the order of the columns of :func:`read_rates`, with the standard deviation of their errors (bpm)."""
TOLERANCE, MAJORITY = 5.0, 3
"""Largest difference from the true rate that counts as agreement (bpm), and how many readers have to agree."""

_SLOWEST, _FASTEST = 40.0, 210.0  # bpm
_MOST_IRREGULAR = 0.3  # scatter of intervals over their mean; fibrillation stays below, noise lies above
_TRANSFORM_SAMPLES = 8192  # zero padding: a bin is 0.9 bpm wide


def read_rates(ppg: Array) -> Array:
    """Return heart rates ``[N, 5]`` (bpm, NaN for none) by reader, before its own errors, of PPG ``[N, 1250]``."""
    wide, narrow = band_pass(ppg, 0.5, 8.0), band_pass(ppg, 0.6, 4.0)
    by_beats = _read_peaks(wide), _read_upstrokes(narrow), _read_moving_averages(wide)
    return np.stack([*by_beats, _read_spectrum(wide), _read_autocorrelation(narrow)], axis=1)


def judge(rates: Array, errors: Array, true_rate: Array) -> Array:
    """Apply the rule: good (1, else 0) when most readers lie within 5 bpm of the true rate ``[N]``.

    ``rates [N, 5]`` are their estimates (NaN where one finds none), ``errors [N, 5]`` their own errors, all in bpm.

    Examples:
        >>> rates = np.array([[70, 72, 74, 120, np.nan], [70, 72, 90, 120, np.nan]])
        >>> judge(rates, np.zeros((2, 5)), np.array([71.0, 71.0]))
        array([1, 0])
    """
    agree = np.abs(rates + errors - true_rate[:, None]) <= TOLERANCE  # NaN never agrees
    return np.asarray(agree.sum(axis=1) >= MAJORITY).astype(np.int64)


def signal_to_noise(pulse: Array, ppg: Array) -> Array:
    """Scale-invariant ratio of pulse to corruption in the pulse band (Le Roux et al. 2019).

    The recorded PPG ``[N, 1250]`` is projected on the clean pulse ``[N, 1250]``; what remains (motion, clipping,
    quantisation, lost contact, changes of gain) is corruption. The ratio ``[N]`` is in dB, -40 to 60.
    """
    clean, recorded = band_pass(pulse, 0.5, 8.0), band_pass(ppg, 0.5, 8.0)
    gain = (clean * recorded).sum(axis=1) / (clean**2).sum(axis=1)
    kept = np.maximum(gain, 0)[:, None] * clean
    power, corruption = (kept**2).sum(axis=1), ((recorded - kept) ** 2).sum(axis=1)
    ratio = power / np.maximum(corruption, np.finfo(float).tiny)  # 0 for a flat recording
    return np.asarray(10 * np.log10(np.clip(ratio, 1e-4, 1e6)))


def _rate_of(events: Array) -> float:
    """Mean rate (bpm) of events given in samples; NaN when they are too few or too irregular to be a heart's."""
    if events.size < 4:
        return math.nan
    intervals = np.diff(events)
    mean = float(intervals.mean())
    rate = 60 * SAMPLING_RATE / mean
    readable = _SLOWEST <= rate <= _FASTEST and float(intervals.std()) <= _MOST_IRREGULAR * mean
    return rate if readable else math.nan


def _read_peaks(wide: Array) -> Array:
    """Count systolic peaks that stand out by a good part of the typical excursion."""
    excursion = np.quantile(wide, 0.9, axis=1) - np.quantile(wide, 0.1, axis=1)
    found = (
        find_peaks(row, prominence=0.4 * reach, distance=int(0.27 * SAMPLING_RATE))[0]
        for row, reach in zip(wide, excursion, strict=True)
    )
    return np.array([_rate_of(peaks) for peaks in found])


def _read_upstrokes(narrow: Array) -> Array:
    """Count upstrokes: peaks of the slope sum (Zong et al. 2003, doi:10.1109/CIC.2003.1291140)."""
    slope = np.diff(narrow, axis=1, prepend=narrow[:, :1])
    slope_sum = uniform_filter1d(np.maximum(slope, 0), 16, axis=1)
    threshold = 0.4 * np.quantile(slope_sum, 0.92, axis=1)
    found = (
        find_peaks(row, height=least, prominence=0.6 * least, distance=int(0.27 * SAMPLING_RATE))[0]
        for row, least in zip(slope_sum, threshold, strict=True)
    )
    return np.array([_rate_of(peaks) for peaks in found])


def _read_moving_averages(wide: Array) -> Array:
    """Two moving averages, one of a peak's width and one of a beat's (Elgendi et al. 2013)."""
    power = np.maximum(wide, 0) ** 2
    peak_average = uniform_filter1d(power, 14, axis=1)
    beat_average = uniform_filter1d(power, 83, axis=1) + 0.02 * power.mean(axis=1, keepdims=True)
    found = (runs(block) for block in peak_average > beat_average)
    return np.array([_rate_of(blocks[np.diff(blocks)[:, 0] >= 10].mean(axis=1)) for blocks in found])


def _read_spectrum(wide: Array) -> Array:
    """Take the frequency where the fundamental and its second harmonic carry most."""
    spectrum = np.abs(np.fft.rfft(wide * np.hanning(WINDOW_SAMPLES), _TRANSFORM_SAMPLES, axis=1))
    per_bin = 60 * SAMPLING_RATE / _TRANSFORM_SAMPLES  # bpm
    bins = np.arange(int(_SLOWEST / per_bin), int(_FASTEST / per_bin))
    score = uniform_filter1d(spectrum, 5, axis=1)
    score = score[:, bins] + 0.4 * score[:, 2 * bins]
    return np.where(score.max(axis=1) > 0, bins[score.argmax(axis=1)] * per_bin, np.nan)


def _read_autocorrelation(narrow: Array) -> Array:
    """Take the first lag at which the waveform repeats almost as well as at any other."""
    power = np.abs(np.fft.rfft(narrow, 2 * WINDOW_SAMPLES, axis=1)) ** 2
    correlation = np.fft.irfft(power, axis=1)[:, :WINDOW_SAMPLES]
    overlap = 1 - np.arange(WINDOW_SAMPLES) / WINDOW_SAMPLES
    correlation /= np.maximum(correlation[:, :1], np.finfo(float).tiny) * overlap
    shortest, longest = int(60 * SAMPLING_RATE / _FASTEST), int(60 * SAMPLING_RATE / _SLOWEST)
    part = correlation[:, shortest : longest + 1]
    inner = part[:, 1:-1]
    peak = (inner >= part[:, :-2]) & (inner > part[:, 2:])
    heights = np.where(peak, inner, -np.inf)
    best = heights.max(axis=1, keepdims=True)
    first = np.argmax(heights >= 0.85 * best, axis=1)
    rates = 60 * SAMPLING_RATE / (first + shortest + 1.0)
    return np.where(best[:, 0] > 0.3, rates, np.nan)
