"""The outline of a long signal: how far it swings in each stretch of a picture's width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.signal import butter, sosfiltfilt

from butppg_lightning.sources.resampling import Gaps

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from butppg_lightning.sources.recordings.recording import Channel

_BASELINE = 0.4  # Hz; slower movement of the signal is no pulse and would hide it
_TOGETHER = 1200.0  # s filtered together
_MARGIN = 10.0  # s around them, so that the filter has settled


def outline(channel: Channel, duration: float, most: int) -> tuple[Array, Array, Array]:
    """Return the lowest and highest value of a channel in equal stretches of time, after removing its baseline.

    Args:
        channel: The channel.
        duration: Seconds that the stretches cover, from the recording's start.
        most: Number of stretches at most; fewer if they would hold under two samples each.

    Returns:
        The stretches' edges ``[n + 1]`` in seconds, and their lowest and highest values ``[n]``, NaN where the channel
        has no sample.
    """
    count = max(1, min(most, int(duration * channel.rate / 2)))
    edges = np.linspace(0.0, duration, count + 1)
    rows = np.rint((edges - channel.start) * channel.rate).astype(np.int64)
    low, high = np.full(count, np.nan), np.full(count, np.nan)
    sections = butter(2, _BASELINE, "highpass", fs=channel.rate, output="sos")
    gaps = Gaps(channel.samples)
    together = max(1, int(_TOGETHER / duration * count))
    margin = int(_MARGIN * channel.rate)
    for first in range(0, count, together):
        last = min(first + together, count)
        # one sample more than the stretch, so that neighbouring stretches touch
        begin, end = max(0, int(rows[first])), min(len(channel.samples), int(rows[last]) + 1)
        if end <= begin:
            continue
        part = sosfiltfilt(sections, gaps.bridged(begin - margin, end + margin))[margin:-margin]
        part[np.isnan(channel.samples[begin:end])] = np.nan
        for row in range(first, last):
            values = part[max(0, rows[row] - begin) : max(0, rows[row + 1] + 1 - begin)]
            values = values[~np.isnan(values)]
            if len(values):
                low[row], high[row] = values.min(), values.max()
    return edges, low, high
