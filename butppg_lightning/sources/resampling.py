"""Signals of any rate, with gaps, to 125 Hz: straight lines over the gaps, then one polyphase filter.

Also the band-pass by which sources look at pulses and beats; what the model sees is filtered by the model.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from butppg_lightning.npz import Array

_LARGEST_TERM = 10_000  # of the ratio of rates: off by 1 ms a day at most
_LOBES = 10  # zero crossings of the low-pass on either side, as in scipy.signal.resample_poly
_HELD_SECONDS = 1.0  # a converter that repeats one value for so long is off or at its limit, or nothing moves


class Resampler:
    """Resamples a channel of ``rate`` (Hz) to 125 Hz, any part of it at a time, the same wherever the parts meet.

    The filter is that of :func:`scipy.signal.resample_poly` (Kaiser window, beta 5), with one change: each of its
    phases passes a constant unchanged. As it stands they differ by a few per mille, which turns a sensor's offset into
    a tone at the original rate: large beside a pulse that is a thousandth of the offset. A value that the recorder
    held for a second or longer stays that value: no ringing from either side hides that the channel is flat or railed.
    """

    def __init__(self, rate: float) -> None:
        from scipy.signal import firwin

        ratio = Fraction(SAMPLING_RATE / rate).limit_denominator(_LARGEST_TERM)
        if ratio.numerator > _LARGEST_TERM:
            ratio = 1 / Fraction(rate / SAMPLING_RATE).limit_denominator(_LARGEST_TERM)
        self._up, self._down = ratio.numerator, ratio.denominator
        longest = max(self._up, self._down)
        taps = np.ones(1) if longest == 1 else firwin(2 * _LOBES * longest + 1, 1 / longest, window=("kaiser", 5.0))
        for phase in range(self._up):
            taps[phase :: self._up] /= taps[phase :: self._up].sum() * self._up
        self._taps = taps
        self._held = max(2, math.ceil(_HELD_SECONDS * rate))
        # samples read on either side of those wanted: what an output depends on, and enough to recognise a held value
        self._reach = _LOBES * longest // self._up + 2 + self._held

    def count(self, samples: int) -> int:
        """Return how many samples at 125 Hz lie within ``samples`` of the channel's."""
        return -(-samples * self._up // self._down)

    def resample(self, read: Callable[[int, int], Array], begin: int, end: int, offset: float) -> Array:
        """Return samples ``[begin, end)`` at 125 Hz, of which 0 is at the channel's first sample.

        ``read`` gives the channel's samples of a range, also beyond its ends, as floats without NaN. ``offset``, near
        the signal so that float32 has digits to spare, is subtracted before filtering and added after.
        """
        from scipy.signal import resample_poly

        # the range read begins at a sample that coincides with an output
        period = (begin * self._down // self._up - self._reach) // self._down
        first = period * self._down
        last = -(-end * self._down // self._up) + self._reach
        values = read(first, last)
        offset = values.dtype.type(offset)
        filtered = resample_poly(values - offset, self._up, self._down, window=self._taps.astype(values.dtype))
        skipped = begin - period * self._up
        resampled: Array = filtered[skipped : skipped + end - begin] + offset
        held = runs(values[1:] == values[:-1])
        for start, stop in held[held[:, 1] + 1 - held[:, 0] >= self._held]:
            place = [min(max(self.count(first + row) - begin, 0), end - begin) for row in (start, stop + 1)]
            resampled[place[0] : place[1]] = values[start]
        return resampled


def resample(samples: Array, rate: float) -> Array:
    """Resample a whole finite signal ``[T]`` to 125 Hz: ``[T * 125 / rate]``, rounded up, neither filtered nor scaled.

    Its median is subtracted before and added again after. The ends are extended by their point reflection, so that no
    step rings into the signal.
    """
    resampler = Resampler(rate)

    def read(begin: int, end: int) -> Array:
        return np.pad(samples, (-begin, max(0, end - samples.size)), mode="reflect", reflect_type="odd")[: end - begin]

    return resampler.resample(read, 0, resampler.count(samples.size), float(np.median(samples)))


def band_pass(signals: Array, low: float, high: float) -> Array:
    """Filter ``[..., T]`` at 125 Hz by a second-order Butterworth band-pass (Hz), in float64 without phase shift."""
    from scipy.signal import butter, sosfiltfilt

    sections = butter(2, (low, high), btype="bandpass", fs=SAMPLING_RATE, output="sos")
    centred = np.asarray(signals, dtype=np.float64)
    centred = centred - np.median(centred, axis=-1, keepdims=True)
    return np.asarray(sosfiltfilt(sections, centred, axis=-1))


class Gaps:
    """The gaps (NaN) of evenly sampled values ``[T]``: a table, so that any stretch is bridged in the same way."""

    def __init__(self, samples: Array) -> None:
        self._samples = samples
        self.starts, self.stops = runs(np.isnan(samples)).T  # [G] first sample of each gap, and the one behind its last
        self._totals = np.append(0, np.cumsum(self.stops - self.starts))

    def missing(self, begin: Array, end: Array) -> Array:
        """Count the missing samples of each range ``[begin, end)``; those outside the channel are missing too."""
        length = len(self._samples)
        inside_begin, inside_end = np.clip(begin, 0, length), np.clip(end, 0, length)
        outside: Array = (end - begin) - (inside_end - inside_begin)
        return outside + self._before(inside_end) - self._before(inside_begin)

    def missing_shares(self, starts: Array, rate: float) -> Array:
        """Return which share of its samples (at ``rate``, Hz) each window from ``starts`` (at 125 Hz) on misses."""
        edges = np.array([starts, starts + WINDOW_SAMPLES]) * (rate / SAMPLING_RATE)
        begin, end = np.rint(edges).astype(np.int64)
        return np.asarray(self.missing(begin, end) / (end - begin))

    def bridged(self, begin: int, end: int) -> Array:
        """Return the samples ``[begin, end)`` with straight lines over the gaps.

        A gap at an end of the channel, and what lies outside of it, is held at the nearest sample's value.
        """
        length = len(self._samples)
        inside = np.clip(np.array([begin, end]), 0, length)
        values: Array = self._samples[inside[0] : inside[1]].copy()
        rows = np.flatnonzero(np.isnan(values)) + inside[0]
        if len(rows):
            gap = np.searchsorted(self.starts, rows, side="right") - 1
            start, stop = self.starts[gap], self.stops[gap]
            left = self._samples[np.where(start > 0, start - 1, stop % length)]
            right = self._samples[np.where(stop < length, stop, start - 1)]
            share = (rows - start + 1) / (stop - start + 1)
            values[rows - inside[0]] = left + (right - left) * share.astype(values.dtype)
        if (begin < 0 or end > length) and begin < end:
            if not len(values):  # wholly outside
                nearest = 0 if end <= 0 else length - 1
                values = self.bridged(nearest, nearest + 1)
            values = np.pad(values, (min(max(0, -begin), end - begin - 1), 0), mode="edge")
            values = np.pad(values, (0, end - begin - len(values)), mode="edge")
        return values

    def _before(self, row: Array) -> Array:
        gap = np.searchsorted(self.starts, row, side="right") - 1
        inside = np.where(gap >= 0, np.minimum(row, self.stops[gap]) - self.starts[gap], 0) if len(self.starts) else 0
        return np.asarray(self._totals[np.maximum(gap, 0)] + inside)


def runs(mask: Array) -> Array:
    """Return begin and end of every run of True, ``[R, 2]``.

    Examples:
        >>> runs(np.array([True, False, True, True])).tolist()
        [[0, 1], [2, 4]]
    """
    padded = np.concatenate([[False], mask, [False]])
    return np.flatnonzero(padded[1:] != padded[:-1]).reshape(-1, 2)
