"""From a device's sampling rate to ten seconds at 125 Hz."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.sources.resampling import resample, runs
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

if TYPE_CHECKING:
    from butppg_lightning.npz import Array

SECONDS = WINDOW_SAMPLES / SAMPLING_RATE
LENGTH_TOLERANCE = 0.1
"""Seconds a record may be shorter (its last sample is held) or longer (it is cut) than ten seconds."""
LONGEST_GAP = 0.2
"""Seconds of invalid samples in one piece that are bridged by a straight line: about a pulse's upstroke."""
GAP_SHARE = 0.05
"""Share of invalid samples that may be bridged in a channel altogether."""


class UnusableError(Exception):
    """What was recorded is intact but cannot become a window; the message says why."""


def to_window(samples: Array, rate: float) -> tuple[Array, int]:
    """Bridge short gaps, bring the length to ten seconds and resample to 125 Hz.

    Args:
        samples: ``[T]`` float, NaN or Inf where the recorder gave no valid sample.
        rate: Sampling rate in Hz.

    Returns:
        ``[1250]`` float64 in the unit of ``samples``, and how many samples were bridged.

    Raises:
        UnusableError: If the recording is not ten seconds long or has too many invalid samples.

    Examples:
        >>> window, bridged = to_window(np.array([np.nan, *range(1, 299), np.nan]), 30.0)
        >>> window.shape, bridged
        ((1250,), 2)
    """
    expected = round(SECONDS * rate)
    if abs(samples.size - expected) > LENGTH_TOLERANCE * rate:
        raise UnusableError(
            f"lasts {samples.size / rate:.2f} s ({samples.size} samples at {rate:g} Hz), not {SECONDS:g} s"
        )
    filled, bridged = _bridge(samples, rate)
    filled = np.pad(filled[:expected], (0, max(0, expected - filled.size)), mode="edge")
    return np.asarray(resample(filled, rate)[:WINDOW_SAMPLES]), bridged


def _bridge(samples: Array, rate: float) -> tuple[Array, int]:
    valid = np.isfinite(samples)
    missing = int((~valid).sum())
    if not missing:
        return samples, 0
    if not valid.any():
        raise UnusableError("has no valid sample")
    longest = int(np.diff(runs(~valid)).max())
    if longest > LONGEST_GAP * rate or missing > GAP_SHARE * samples.size:
        raise UnusableError(f"has {missing / rate:.2f} s of invalid samples, {longest / rate:.2f} s in one piece")
    positions = np.arange(samples.size)
    return np.interp(positions, positions[valid], samples[valid]), missing
