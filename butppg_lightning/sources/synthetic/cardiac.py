"""What a heart beat looks like: an ECG and a PPG drawn from the same beats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from butppg_lightning.sources.synthetic.beat_times import Beats
    from butppg_lightning.sources.synthetic.subjects import Subject

_REFERENCE_INTERVAL = 0.8  # s; the rate (75 bpm) the subject's widths are given for
_ECG_CENTRES = np.array([-0.17, -0.026, 0.0, 0.028, 0.27])  # P Q R S T behind the R peak, s
_ECG_WIDTHS = np.array([0.022, 0.009, 0.010, 0.010, 0.045])  # s


def draw_ecg(subject: Subject, beats: Beats) -> Array:
    """Draw the clean ECG.

    Every beat is a sum of Gaussians for P, Q, R, S and T (McSharry et al. 2003, doi:10.1109/TBME.2003.808805),
    placed in time rather than in phase because the QRS complex keeps its width when the heart speeds up; P and T
    move with the square root of the RR interval (Bazett). Premature ventricular beats are wide, without P and with
    an inverted T; fibrillation has no P waves.

    Args:
        subject: Gives the heights.
        beats: When the heart beats.

    Returns:
        ``[1250]`` mV.
    """
    stretch = np.sqrt(np.clip(beats.intervals, 0.3, 1.5) / _REFERENCE_INTERVAL)
    scale = np.stack([stretch, np.ones_like(stretch), np.ones_like(stretch), np.ones_like(stretch), stretch])
    heights = np.outer(subject.ecg_heights, np.ones(beats.times.size))
    widths = _ECG_WIDTHS[:, None] * scale
    centres = _ECG_CENTRES[:, None] * scale
    if beats.rhythm == "fibrillation":
        heights[0] = 0
    wide = beats.ectopic
    heights[:, wide] *= np.array([0, 0, 1.2, 2.0, -1.8])[:, None]
    widths[:4, wide] *= 3
    centres[1:4, wide] *= 3
    total = np.zeros(WINDOW_SAMPLES)
    for height, centre, width in zip(heights, centres, widths, strict=True):
        total += _sum_of_gaussians(beats.times + centre, height, width, width)
    return total


def draw_pulse(rng: np.random.Generator, subject: Subject, beats: Beats) -> Array:
    """Draw the clean PPG pulse train, systole up.

    Every pulse is a systolic and a dicrotic wave, the two-Gaussian form of Tang et al. (2020,
    doi:10.1038/s41598-020-69076-x), here with an upstroke steeper than the decay; how high the dicrotic wave is
    runs through the classes of Dawber et al. (1973), from a separate wave to none. A pulse after a short interval
    is lower because the ventricle has filled less; breathing modulates the height (Charlton et al. 2018,
    doi:10.1109/RBME.2017.2763681).

    Args:
        rng: Source of randomness (beat-to-beat transit time and height).
        subject: Gives shape and lag.
        beats: When the heart beats.

    Returns:
        ``[1250]``, an ordinary pulse being about 1 high.
    """
    stretch = np.sqrt(np.clip(beats.intervals, 0.3, 1.2) / _REFERENCE_INTERVAL)
    upstroke, decay = subject.upstroke * stretch, subject.decay * stretch
    # a Gaussian is steepest one width before its peak: the lag is measured there
    peaks = beats.times + subject.lag + upstroke + rng.normal(0, 0.004, beats.times.size)
    filling = np.sqrt(np.clip(beats.intervals / np.median(beats.intervals), 0.45, 1.5))
    breathing = 1 + rng.uniform(0.02, 0.12) * beats.breathing(beats.times)
    heights = filling * breathing * rng.normal(1, 0.03, beats.times.size)
    heights[beats.ectopic] *= 0.85
    systolic = _sum_of_gaussians(peaks, heights, upstroke, decay)
    delay, width = subject.dicrotic_delay * stretch, 0.085 * stretch
    return systolic + _sum_of_gaussians(peaks + delay, subject.dicrotic * heights, width, 1.3 * width)


def _sum_of_gaussians(centres: Array, heights: Array, rise: Array, fall: Array) -> Array:
    """Sum two-sided Gaussians (widths ``rise`` before and ``fall`` after the centre, s) over one window."""
    reach = int(4 * max(rise.max(), fall.max()) * SAMPLING_RATE) + 1
    nearest = np.round(centres * SAMPLING_RATE).astype(int)
    samples = nearest[:, None] + np.arange(-reach, reach + 1)
    offset = samples / SAMPLING_RATE - centres[:, None]
    width = np.where(offset < 0, rise[:, None], fall[:, None])
    values = heights[:, None] * np.exp(-0.5 * (offset / width) ** 2)
    inside = (samples >= 0) & (samples < WINDOW_SAMPLES)
    return np.bincount(samples[inside], weights=values[inside], minlength=WINDOW_SAMPLES)
