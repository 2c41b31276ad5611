"""What gating buys: how far the pulse rate read from the PPG is off, as fewer and surer windows are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.signal import detrend

from butppg_lightning.evaluation.bootstrap import window_weights
from butppg_lightning.window import SAMPLING_RATE

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet

SLOWEST, FASTEST = 0.6, 3.5
"""Band in which a pulse is looked for (Hz): 36 to 210 beats per minute."""
TOLERANCE = 5.0
"""An estimate counts as right within so many beats per minute (the tolerance of BUT PPG's annotation)."""
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Shares of the windows kept at which figures are shown."""
_RESAMPLES = 400
_PADDED = 8192  # samples: a grid of 0.015 Hz, or 0.9 beats per minute, before the peak is interpolated
_CHUNK = 512  # windows transformed together; bounds the memory


def pulse_rates(ppg: Array) -> Array:
    """Return the pulse rates ``[N]`` (36 to 210 beats per minute, NaN if flat) of raw PPG ``[N, T]`` at 125 Hz.

    The straight line through the window is removed and the rest tapered (Hann) and transformed. Every frequency from
    0.6 to 3.5 Hz is rated by its power times the autocorrelation at the lag of one period: power alone may prefer the
    second harmonic, at whose period a pulse does not repeat, and the autocorrelation alone two periods, at which
    there is no power. The best one is interpolated by a parabola. Either polarity will do.
    """
    rates = [_chunk_rates(ppg[start : start + _CHUNK]) for start in range(0, len(ppg), _CHUNK)]
    return np.concatenate(rates) if rates else np.empty(0)


def _chunk_rates(ppg: Array) -> Array:
    samples = np.asarray(ppg, dtype=np.float64)
    centred = detrend(samples, axis=1)
    flat = centred.std(axis=1) <= 1e-6 * np.abs(samples).max(axis=1).clip(1e-9)
    frequency = np.fft.rfftfreq(_PADDED, 1 / SAMPLING_RATE)
    power = np.abs(np.fft.rfft(centred * np.hanning(samples.shape[1]), _PADDED)) ** 2
    power[:, frequency < SLOWEST / 1.5] = 0  # slow drift would swamp the autocorrelation
    power[:, frequency > 8.0] = 0
    band = np.flatnonzero((frequency >= SLOWEST) & (frequency <= FASTEST))
    correlation = np.fft.irfft(power, axis=1)
    correlation /= np.maximum(correlation[:, :1], 1e-300)
    lags = SAMPLING_RATE / frequency[band]
    whole = np.floor(lags).astype(np.int64)
    part = lags - whole
    repeats = (1 - part) * correlation[:, whole] + part * correlation[:, whole + 1]
    rating = power[:, band] * np.maximum(repeats, 1e-3)
    best = rating.argmax(axis=1).clip(1, len(band) - 2)
    rows = np.arange(len(best))
    before, at, after = (rating[rows, best + step] for step in (-1, 0, 1))
    bend = before - 2 * at + after
    offset = np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, 1), 0.0).clip(-1, 1)
    rates = 60 * (frequency[band][best] + offset * (frequency[1] - frequency[0]))
    return np.where(flat, np.nan, rates)


class HeartRates(NamedTuple):
    """Absolute errors (bpm), rows in the file and probabilities ``[M]`` of the windows with a rate, surest first.

    ``left_out`` counts the windows without a reference, without PPG, or with a flat one.
    """

    errors: Array
    rows: Array
    probabilities: Array
    left_out: int

    def kept(self, share: float) -> int:
        """Return how many windows ``share`` (0..1) of them is, at least one."""
        return max(1, round(share * len(self.errors)))

    def figures(self) -> dict[str, Any]:
        """Return, in plain types, the errors at each of :data:`SHARES`, in three orders."""

        def errors_at(errors: Array) -> list[dict[str, float]]:
            return [_error_summary(share, errors[: self.kept(share)]) for share in SHARES]

        return {
            "windows": len(self.errors),
            "left_out": self.left_out,
            "tolerance_bpm": TOLERANCE,
            "by_probability": errors_at(self.errors),
            "ideal": errors_at(np.sort(self.errors)),
            # a random order has the same expected figures at every share: those of all windows
            "random": _error_summary(1.0, self.errors),
        }


def window_heart_rates(windows: WindowSet, probabilities: Array) -> HeartRates | None:
    """Return the errors of the pulse rate of a file's windows, or None without ``hr_ref`` or PPG."""
    if windows.hr_ref is None or windows.hr_ref.dtype.kind not in "iuf" or "PPG" not in windows.channels:
        return None
    # an absent PPG is 0 throughout, which has no rate
    rates = pulse_rates(windows.signals[:, windows.channels.index("PPG")])
    return match_heart_rates(rates, windows.hr_ref, probabilities)


def match_heart_rates(estimated: Array, reference: Array, probabilities: Array) -> HeartRates | None:
    """Pair estimates with references (bpm ``[N]``; what is not finite, or no reference above 0, counts as unknown).

    They come in falling order of the probability of good; None if there is no pair.
    """
    reference = np.asarray(reference, dtype=np.float64)
    rows = np.flatnonzero(np.isfinite(estimated) & np.isfinite(reference) & (reference > 0))
    if not len(rows):
        return None
    rows = rows[np.argsort(-probabilities[rows], kind="stable")]
    errors = np.abs(estimated[rows] - reference[rows])
    return HeartRates(errors, rows, probabilities[rows], len(reference) - len(rows))


def coverage_curves(errors: Array) -> tuple[Array, Array, Array]:
    """Return, for the first 1, 2, ... M errors, their share of all, their mean and the share within the tolerance."""
    counts = np.arange(1, len(errors) + 1)
    return counts / len(errors), np.cumsum(errors) / counts, np.cumsum(errors <= TOLERANCE) / counts


def coverage_bands(rates: HeartRates, subjects: Array | None, shares: Array) -> tuple[Array, Array]:
    """Return 95 % bands ``[2, K]`` of the mean error and of the share within the tolerance at ``[K]`` shares kept.

    Subjects (``[N]`` names of all windows of the file) are drawn anew; where they are None, windows.
    """
    people = None if subjects is None else subjects[rates.rows]
    curves = []
    for some in window_weights(len(rates.errors), people, resamples=_RESAMPLES):
        kept = np.cumsum(some, axis=1)
        at = np.stack([np.searchsorted(row, shares * row[-1] - 1e-9).clip(max=len(row) - 1) for row in kept])
        counts = np.take_along_axis(kept, at, axis=1)
        sums = [np.cumsum(some * values, axis=1) for values in (rates.errors, rates.errors <= TOLERANCE)]
        curves.append(np.stack([np.take_along_axis(total, at, axis=1) / counts for total in sums]))
    mean, within = np.percentile(np.concatenate(curves, axis=1), (2.5, 97.5), axis=1).swapaxes(0, 1)
    return mean, within


def _error_summary(share: float, errors: Array) -> dict[str, float]:
    return {
        "kept": share,
        "mean_error_bpm": float(errors.mean()),
        "median_error_bpm": float(np.median(errors)),
        "within_tolerance": float((errors <= TOLERANCE).mean()),
    }
