"""A long recording into 10-s windows of named channels at 125 Hz, and its outline for a picture, stretch by stretch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.sources.resampling import Gaps, Resampler
from butppg_lightning.threads import ahead
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from butppg_lightning.npz import Array
    from butppg_lightning.sources.recordings.recording import Channel, Recording

WINDOW_SECONDS = WINDOW_SAMPLES / SAMPLING_RATE  # length of a window (s)
LARGEST_MISSING_SHARE = 0.1  # of a window's samples that straight lines may bridge (1 s); with more it is absent
SHORTEST_HOP, LONGEST_HOP = 0.1, 86_400.0  # seconds that consecutive windows may be apart

_OFFSET_SAMPLES = 100_000  # looked at to find a channel's offset
_END_TOLERANCE = 0.05  # s; the rate of stamped samples is known to a few millionths only
_LONGEST_STRETCH = 7200.0  # s of the recording that is resampled together
_BASELINE = 0.4  # Hz; slower movement of the signal is no pulse and would hide it in a picture
_TOGETHER, _MARGIN = 1200.0, 10.0  # s filtered together, and s around them, so that the filter has settled


class Windows:
    """The windows of a recording, one after the other in batches, or each by its number.

    A batch has ``signals [n, C, 1250]``, float32, unfiltered and unscaled, and ``present [n, C]``, False (and the
    signal 0) where a channel misses more samples than may be bridged. Whether a present channel is usable, flat or
    railed is the model's to say: :func:`butppg_lightning.models.usable_channels.channel_faults`.

    Channels may have different rates, starts and ends: the common time axis begins with the earliest channel and ends
    with the latest. Starts of channels and windows are rounded to the grid of 125 Hz (4 ms at most). What is left over
    at the end, less than a window, is not used.

    Args:
        recording: The recording.
        channels: Channel names, the order of the windows' second axis; those that the recording lacks are absent.
        hop: Seconds from one window's start to the next one's.
        batch_size: Most windows that are made together.

    Raises:
        UserError: If the hop is impossible or the recording is shorter than a window.
    """

    def __init__(self, recording: Recording, channels: Sequence[str], hop: float = 10.0, batch_size: int = 512) -> None:
        if not SHORTEST_HOP <= hop <= LONGEST_HOP:
            raise UserError(f"--hop is {hop:g}; expected {SHORTEST_HOP:g} to {LONGEST_HOP:g} seconds")
        room = recording.duration - WINDOW_SECONDS + _END_TOLERANCE
        if room < 0:
            assumed = f", or correct what was assumed: {'; '.join(recording.guesses)}" if recording.guesses else ""
            raise UserError(
                f"{recording.path} lasts {recording.duration:.3g} s; a window is {WINDOW_SECONDS:g} s: "
                f"give a longer recording{assumed}"
            )
        self.channels = tuple(channels)
        self.starts = np.arange(int(room / hop) + 1) * hop  # [N] seconds from the recording's start
        self._grid = np.rint(self.starts * SAMPLING_RATE).astype(np.int64)
        self._batch_size = max(1, min(batch_size, int(_LONGEST_STRETCH / hop)))
        self._tracks = {name: _Track(recording.channels[name]) for name in channels if name in recording.channels}

    def __len__(self) -> int:
        return len(self._grid)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Return the batches, one after the other; where they meet makes no difference to the windows."""
        starts = range(0, len(self), self._batch_size)
        return ahead(self._windows, (self._grid[begin : begin + self._batch_size] for begin in starts), threads=1)

    def __getitem__(self, number: int) -> dict[str, Array]:
        """Return ``signals [C, 1250]`` and ``present [C]`` of one window."""
        return {key: values[0] for key, values in self._windows(self._grid[number : number + 1]).items()}

    def _windows(self, grid: Array) -> dict[str, Array]:
        signals = np.zeros((len(grid), len(self.channels), WINDOW_SAMPLES), dtype=np.float32)
        present = np.zeros(signals.shape[:2], dtype=bool)
        for column, name in enumerate(self.channels):
            if name in self._tracks:
                present[:, column] = there = self._tracks[name].present(grid)
                if there.any():
                    signals[there, column] = self._tracks[name].windows(grid[there])
        return {"signals": signals, "present": present}


class _Track:
    """A channel of which windows can be made anywhere on the common grid of 125 Hz."""

    def __init__(self, channel: Channel) -> None:
        self._rate = channel.rate
        self._first = round(channel.start * SAMPLING_RATE)
        self._gaps = Gaps(channel.samples)
        self._resampler = Resampler(channel.rate)
        some = channel.samples[:: max(1, len(channel.samples) // _OFFSET_SAMPLES)]
        self._offset = float(np.nanmedian(some)) if not np.isnan(some).all() else 0.0

    def present(self, grid: Array) -> Array:
        """Return whether each window that begins at ``grid`` has enough samples."""
        return np.asarray(self._gaps.missing_shares(grid - self._first, self._rate) <= LARGEST_MISSING_SHARE)

    def windows(self, grid: Array) -> Array:
        """Return the windows ``[n, 1250]`` that begin at ``grid`` (ascending)."""
        begin, end = int(grid[0]) - self._first, int(grid[-1]) + WINDOW_SAMPLES - self._first
        stretch = self._resampler.resample(self._gaps.bridged, begin, end, self._offset)
        return np.asarray(stretch[(grid - grid[0])[:, None] + np.arange(WINDOW_SAMPLES)])


def outline(channel: Channel, duration: float, most: int) -> tuple[Array, Array, Array]:
    """Return the lowest and highest value of a channel in equal stretches of time, after removing its baseline.

    The stretches cover ``duration`` seconds from the recording's start; they are ``most``, or fewer if they would hold
    under two samples each. Returns their edges ``[n + 1]`` in seconds, and their lowest and highest values ``[n]``, NaN
    where the channel has no sample.
    """
    count = max(1, min(most, int(duration * channel.rate / 2)))
    edges = np.linspace(0.0, duration, count + 1)
    rows = np.rint((edges - channel.start) * channel.rate).astype(np.int64)
    low, high = np.full(count, np.nan), np.full(count, np.nan)
    from scipy.signal import butter, sosfiltfilt

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
