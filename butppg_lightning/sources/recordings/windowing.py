"""A long recording into 10-s windows of named channels at 125 Hz, a stretch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.gaps import Gaps
from butppg_lightning.sources.recordings.resampling import Resampler
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from butppg_lightning.npz import Array
    from butppg_lightning.sources.recordings.recording import Channel, Recording

WINDOW_SECONDS = WINDOW_SAMPLES / SAMPLING_RATE
"""Length of a window (s)."""
LARGEST_MISSING_SHARE = 0.1
"""Share of a window's samples that a channel may miss, 1 s together: they are bridged by straight lines. A channel
that misses more is absent from the window."""
LARGEST_HELD_SHARE = 0.5
"""Share of a window's PPG or ECG samples that may lie exactly at its own highest or lowest value. A sensor that is off
(flat) or overdriven (railed) exceeds it; the channel then is absent from the window."""
SHORTEST_HOP, LONGEST_HOP = 0.1, 86_400.0
"""Seconds that consecutive windows may be apart."""
STATES = ("", "missing", "flat", "railed")
"""Why a channel is absent from a window, by the numbers in :attr:`WindowChunk.states`; 0 is present."""

_OFFSET_SAMPLES = 100_000  # looked at to find a channel's offset
_END_TOLERANCE = 0.05  # s; the rate of stamped samples is known to a few millionths only
_LONGEST_STRETCH = 7200.0  # s of the recording that is resampled together


@dataclass
class WindowChunk:
    """Consecutive windows.

    Attributes:
        starts: ``[n]`` seconds from the recording's start.
        signals: ``[n, C, 1250]`` float32, unfiltered and unscaled; 0 where a channel is absent.
        present: ``[n, C]`` bool.
        states: ``[n, C]`` uint8, positions in :data:`STATES`.
    """

    starts: Array
    signals: Array
    present: Array
    states: Array


class Windows:
    """The windows of a recording.

    Channels may have different rates, starts and ends: the common time axis begins with the earliest channel and ends
    with the latest. Starts of channels and windows are rounded to the grid of 125 Hz (4 ms at most). What is left over
    at the end, less than a window, is not used.

    Args:
        recording: The recording.
        channels: Channel names, the order of the windows' second axis; those that the recording lacks are absent.
        hop: Seconds from one window's start to the next one's.
        chunk: Most windows that are cut together.

    Raises:
        UserError: If the hop is impossible or the recording is shorter than a window.
    """

    def __init__(self, recording: Recording, channels: Sequence[str], hop: float = 10.0, chunk: int = 512) -> None:
        if not SHORTEST_HOP <= hop <= LONGEST_HOP:
            raise UserError(f"--hop is {hop:g}; expected {SHORTEST_HOP:g} to {LONGEST_HOP:g} seconds")
        room = recording.duration - WINDOW_SECONDS + _END_TOLERANCE
        if room < 0:
            raise UserError(
                f"{recording.path} lasts {recording.duration:.3g} s; a window is {WINDOW_SECONDS:g} s: "
                "give a longer recording"
            )
        self.channels = tuple(channels)
        self._starts = np.arange(int(room / hop) + 1) * hop
        self._grid = np.rint(self._starts * SAMPLING_RATE).astype(np.int64)
        self._chunk = max(1, min(chunk, int(_LONGEST_STRETCH / hop)))
        self._tracks = {name: _Track(recording.channels[name]) for name in channels if name in recording.channels}

    def __len__(self) -> int:
        return len(self._grid)

    def __iter__(self) -> Iterator[WindowChunk]:
        """Cut the windows, chunk by chunk; where the chunks meet makes no difference to the windows."""
        for begin in range(0, len(self), self._chunk):
            grid = self._grid[begin : begin + self._chunk]
            signals = np.zeros((len(grid), len(self.channels), WINDOW_SAMPLES), dtype=np.float32)
            states = np.full(signals.shape[:2], STATES.index("missing"), dtype=np.uint8)
            for column, name in enumerate(self.channels):
                if name in self._tracks:
                    states[:, column] = self._tracks[name].states(grid)
                    there = states[:, column] == 0
                    if there.any():
                        signals[there, column] = self._tracks[name].cut(grid[there])
            yield WindowChunk(self._starts[begin : begin + self._chunk], signals, states == 0, states)


class _Track:
    """A channel that can be cut anywhere on the common grid of 125 Hz."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._first = round(channel.start * SAMPLING_RATE)
        self._gaps = Gaps(channel.samples)
        self._resampler = Resampler(channel.rate)
        some = channel.samples[:: max(1, len(channel.samples) // _OFFSET_SAMPLES)]
        self._offset = float(np.nanmedian(some)) if not np.isnan(some).all() else 0.0
        # acceleration at rest is constant through a coarse converter, and that is what rest looks like
        self._can_be_held = channel.name in ("PPG", "ECG")

    def states(self, grid: Array) -> Array:
        """Return the state of each window that begins at ``grid``."""
        scale = self._channel.rate / SAMPLING_RATE
        begin = np.rint((grid - self._first) * scale).astype(np.int64)
        end = np.rint((grid + WINDOW_SAMPLES - self._first) * scale).astype(np.int64)
        states = np.zeros(len(grid), dtype=np.uint8)
        states[self._gaps.missing(begin, end) > LARGEST_MISSING_SHARE * (end - begin)] = STATES.index("missing")
        if self._can_be_held:
            for row in np.flatnonzero(states == 0):
                values = self._channel.samples[max(0, begin[row]) : end[row]]
                lowest, highest = np.nanmin(values), np.nanmax(values)
                held = np.count_nonzero((values == lowest) | (values == highest))
                if held > LARGEST_HELD_SHARE * len(values):
                    states[row] = STATES.index("flat" if lowest == highest else "railed")
        return states

    def cut(self, grid: Array) -> Array:
        """Return the windows ``[n, 1250]`` that begin at ``grid`` (ascending)."""
        begin, end = int(grid[0]) - self._first, int(grid[-1]) + WINDOW_SAMPLES - self._first
        stretch = self._resampler.resample(self._gaps.bridged, begin, end, self._offset)
        return np.asarray(stretch[(grid - grid[0])[:, None] + np.arange(WINDOW_SAMPLES)])
