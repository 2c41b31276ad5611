"""Variation of the time axis: crop shift, lag between ECG and PPG, stretch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from butppg_lightning.window import SAMPLING_RATE


@dataclass(frozen=True)
class TimeAxis:
    """Draws where in the recorded window each sample of the varied one comes from.

    Nothing wraps around: a wrapped window has a jump that no recording has. What lies beyond an edge is the recorded
    signal mirrored at it. That part is made up (pulses run backwards there), so shifts should stay short; a window
    cut out of a longer recording would have none, but here only the ten seconds are at hand.

    Attributes:
        shift: All channels move by up to this many seconds, either way.
        lag: The channel ``ecg`` moves against the others by up to this many seconds, either way.
        stretch: All channels are stretched by a factor within 1 plus and minus this, about a random centre.
        ecg: Row of the ECG; None for no channel with a lag.
    """

    shift: float
    lag: float
    stretch: float
    ecg: int | None

    def __bool__(self) -> bool:
        """Tell whether anything is varied."""
        return bool(self.shift or self.stretch or (self.lag and self.ecg is not None))

    def draw(self, windows: Tensor) -> Tensor:
        """Draw positions (samples, fractional, possibly beyond the edges) for windows ``[B, C, T]``, as ``[B, C, T]``.

        Shift and lag are whole samples, so that alone they interpolate nothing.
        """
        batch, channels, samples = windows.shape
        device = windows.device
        positions = torch.arange(samples, device=device, dtype=torch.float32).expand(batch, samples)
        if self.stretch:
            factors = 1 + self.stretch * (2 * torch.rand(batch, 1, device=device) - 1)
            centres = (samples - 1) * torch.rand(batch, 1, device=device)
            positions = centres + (positions - centres) / factors
        if self.shift:
            positions = positions + _whole_samples(self.shift, batch, device)
        positions = positions.unsqueeze(1).repeat(1, channels, 1)
        if self.lag and self.ecg is not None:
            positions[:, self.ecg] += _whole_samples(self.lag, batch, device)
        return positions


def take(signals: Tensor, positions: Tensor) -> Tensor:
    """Read signals at fractional positions, linearly interpolated, mirrored beyond the edges.

    Linear interpolation half-way between samples halves the amplitude of ECG at 40 Hz and costs PPG 2 % at 8 Hz.

    Args:
        signals: ``[B, C, T]``.
        positions: ``[B, C, T']`` in samples.

    Returns:
        ``[B, C, T']``.

    Examples:
        >>> take(torch.tensor([[[0.0, 1.0, 2.0, 3.0]]]), torch.tensor([[[-1.0, 0.5, 3.0, 4.0]]])).tolist()
        [[[1.0, 0.5, 3.0, 2.0]]]
    """
    last = signals.shape[-1] - 1
    around = positions.remainder(2 * last)
    inside = torch.minimum(around, 2 * last - around)
    below = inside.floor()
    start = signals.gather(-1, below.long())
    end = signals.gather(-1, (below.long() + 1).clamp(max=last))
    return torch.lerp(start, end, (inside - below).to(signals.dtype))


def _whole_samples(seconds: float, batch: int, device: torch.device) -> Tensor:
    most = round(seconds * SAMPLING_RATE)
    return torch.randint(-most, most + 1, (batch, 1), device=device)
