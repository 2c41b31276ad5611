"""Polyphase resampling of one stretch of a long channel at a time, the same wherever the stretches meet."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from scipy.signal import firwin, resample_poly

from butppg_lightning.window import SAMPLING_RATE

if TYPE_CHECKING:
    from collections.abc import Callable

    from butppg_lightning.npz import Array

_LARGEST_TERM = 10_000  # of the ratio of rates: off by 1 ms a day at most
_LOBES = 10  # zero crossings of the low-pass on either side, as in scipy.signal.resample_poly


class Resampler:
    """Resamples a channel to 125 Hz, any part of it at a time.

    The filter is that of :func:`scipy.signal.resample_poly` (Kaiser window, beta 5), with one change: each of its
    phases passes a constant unchanged. As it stands they differ by a few per mille, which turns a sensor's offset into
    a tone at the original rate: large beside a pulse that is a thousandth of the offset.

    Args:
        rate: The channel's sampling rate (Hz).
    """

    def __init__(self, rate: float) -> None:
        ratio = Fraction(SAMPLING_RATE / rate).limit_denominator(_LARGEST_TERM)
        if ratio.numerator > _LARGEST_TERM:
            ratio = 1 / Fraction(rate / SAMPLING_RATE).limit_denominator(_LARGEST_TERM)
        self._up, self._down = ratio.numerator, ratio.denominator
        longest = max(self._up, self._down)
        taps = np.ones(1) if longest == 1 else firwin(2 * _LOBES * longest + 1, 1 / longest, window=("kaiser", 5.0))
        for phase in range(self._up):
            taps[phase :: self._up] /= taps[phase :: self._up].sum() * self._up
        self._taps = taps.astype(np.float32)
        self._reach = _LOBES * longest // self._up + 2  # samples that an output depends on, on either side

    def resample(self, read: Callable[[int, int], Array], begin: int, end: int, offset: float) -> Array:
        """Return samples ``begin`` to ``end`` at 125 Hz, of which 0 is at the channel's first sample.

        Args:
            read: Returns the channel's samples of a range, also of one beyond its ends, as float32 without NaN.
            begin: The first sample wanted.
            end: The one after the last.
            offset: Subtracted before and added after filtering; near the signal, so that float32 has digits to spare.

        Returns:
            ``[end - begin]`` float32.
        """
        # the range read begins at a sample that coincides with an output
        period = (begin * self._down // self._up - self._reach) // self._down
        first = period * self._down
        last = -(-end * self._down // self._up) + self._reach
        values = read(first, last) - np.float32(offset)
        resampled = resample_poly(values, self._up, self._down, window=self._taps)
        skipped = begin - period * self._up
        return np.asarray(resampled[skipped : skipped + end - begin] + np.float32(offset), dtype=np.float32)
