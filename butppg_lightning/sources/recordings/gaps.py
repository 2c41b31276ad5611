"""Where a channel has gaps, and the straight lines that bridge them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from butppg_lightning.npz import Array


class Gaps:
    """The gaps of evenly sampled values: a table, so that any stretch can be bridged in the same way.

    Args:
        samples: ``[T]`` float32, NaN in gaps; at least one is a number.
    """

    def __init__(self, samples: Array) -> None:
        missing = np.isnan(samples)
        edges = np.flatnonzero(missing[1:] != missing[:-1]) + 1
        if missing[0]:
            edges = np.append(0, edges)
        if missing[-1]:
            edges = np.append(edges, len(samples))
        self._samples = samples
        self._starts, self._stops = edges[::2], edges[1::2]
        self._totals = np.append(0, np.cumsum(self._stops - self._starts))

    def missing(self, begin: Array, end: Array) -> Array:
        """Count the missing samples of each range ``[begin, end)``; those outside the channel are missing too."""
        length = len(self._samples)
        inside_begin, inside_end = np.clip(begin, 0, length), np.clip(end, 0, length)
        outside: Array = (end - begin) - (inside_end - inside_begin)
        return outside + self._before(inside_end) - self._before(inside_begin)

    def bridged(self, begin: int, end: int) -> Array:
        """Return the samples ``[begin, end)`` with straight lines over the gaps.

        A gap at an end of the channel, and what lies outside of it, is held at the nearest sample's value.
        """
        length = len(self._samples)
        inside = np.clip(np.array([begin, end]), 0, length)
        values: Array = self._samples[inside[0] : inside[1]].copy()
        rows = np.flatnonzero(np.isnan(values)) + inside[0]
        if len(rows):
            gap = np.searchsorted(self._starts, rows, side="right") - 1
            start, stop = self._starts[gap], self._stops[gap]
            left = self._samples[np.where(start > 0, start - 1, stop % length)]
            right = self._samples[np.where(stop < length, stop, start - 1)]
            share = (rows - start + 1) / (stop - start + 1)
            values[rows - inside[0]] = left + (right - left) * share.astype(np.float32)
        if (begin < 0 or end > length) and begin < end:
            if not len(values):  # wholly outside
                nearest = 0 if end <= 0 else length - 1
                values = self.bridged(nearest, nearest + 1)
            values = np.pad(values, (min(max(0, -begin), end - begin - 1), 0), mode="edge")
            values = np.pad(values, (0, end - begin - len(values)), mode="edge")
        return values

    def _before(self, row: Array) -> Array:
        gap = np.searchsorted(self._starts, row, side="right") - 1
        inside = (
            np.where(gap >= 0, np.minimum(row, self._stops[gap]) - self._starts[gap], 0) if len(self._starts) else 0
        )
        total: Array = self._totals[np.maximum(gap, 0)] + inside
        return total
