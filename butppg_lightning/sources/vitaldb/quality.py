"""Is this window worth learning from? Beats, and how alike they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from butppg_lightning.sources.resampling import runs
from butppg_lightning.window import SAMPLING_RATE

if TYPE_CHECKING:
    from butppg_lightning.npz import Array


class BeatFinder(NamedTuple):
    """Elgendi's detector: two moving averages of the squared signal, one of a peak's width and one of a beat's.

    Attributes:
        band: Pass band in Hz.
        peak_seconds: Width of the shorter average.
        beat_seconds: Width of the longer average.
        offset: Share of the mean power added to the longer average.
    """

    band: tuple[float, float]
    peak_seconds: float
    beat_seconds: float
    offset: float

    def beats(self, filtered: Array) -> Array:
        """Find the beats of one filtered window.

        Args:
            filtered: ``[T]`` at 125 Hz, within ``band``. Both sides of 0 count, as a QRS complex may point either
                way; for a pulse, which points up, set what lies below to 0.

        Returns:
            Sample numbers of the peaks, increasing.
        """
        from scipy.ndimage import uniform_filter1d

        power = filtered**2
        peak_width, beat_width = (round(seconds * SAMPLING_RATE) for seconds in (self.peak_seconds, self.beat_seconds))
        threshold = uniform_filter1d(power, beat_width) + self.offset * power.mean()
        blocks = runs(uniform_filter1d(power, peak_width) > threshold)
        # a block narrower than a peak is noise
        found = [start + np.argmax(power[start:stop]) for start, stop in blocks if stop - start >= peak_width]
        return np.array(found, dtype=np.int64)


PULSE = BeatFinder((0.5, 8.0), 0.111, 0.667, 0.02)
"""Systolic peaks of a PPG (Elgendi et al. 2013, doi:10.1371/journal.pone.0076585)."""
QRS = BeatFinder((8.0, 20.0), 0.097, 0.611, 0.08)
"""QRS complexes of an ECG (Elgendi 2013, doi:10.1371/journal.pone.0073557)."""


def template_correlation(signal: Array, beats: Array) -> float:
    """Tell how alike a window's beats are (Orphanidou et al. 2015, doi:10.1109/JBHI.2014.2338351).

    Every beat, centred on its peak and as long as the median interval, is correlated with the mean of all.

    Args:
        signal: ``[T]``.
        beats: Sample numbers of the peaks.

    Returns:
        The mean correlation, -1 to 1; 0 with fewer than two whole beats. The paper calls a PPG acceptable from 0.86
        on, an ECG from 0.66 on.

    Examples:
        >>> time = np.arange(1250) / 125
        >>> round(template_correlation(np.sin(2 * np.pi * time), np.arange(31, 1250, 125)), 3)
        1.0
    """
    if beats.size < 3:
        return 0.0
    half = int(np.median(np.diff(beats))) // 2
    whole = beats[(beats >= half) & (beats + half < signal.size)]
    if half < 1 or whole.size < 2:
        return 0.0
    shapes = signal[whole[:, None] + np.arange(-half, half + 1)]
    shapes = shapes - shapes.mean(axis=1, keepdims=True)
    template = shapes.mean(axis=0)
    norms = np.linalg.norm(shapes, axis=1) * np.linalg.norm(template)
    return float(np.mean(shapes @ template / np.maximum(norms, np.finfo(float).tiny)))
