"""Spectra and autocorrelations of ten-second windows as products with fixed matrices, which ONNX takes as they are."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

_STEP = 0.05  # Hz: twice as fine as ten seconds resolve, so that a peak lies near a bin
_LOWEST, _HIGHEST = 0.5, 8.0  # Hz: the pulse and its harmonics
_SLOWEST, _FASTEST = 0.75, 3.5  # Hz: 45 to 210 beats a minute
_SEGMENT, _HOP = 4 * SAMPLING_RATE, SAMPLING_RATE  # samples: 4 s, the least that holds two slow beats
_SHORTEST, _LONGEST = 0.3, 1.5  # s: lags of 200 and 40 beats a minute
_NEARLY = 0.85  # of the highest peak: two periods correlate as well as one, and the shorter lag is the pulse's
_TINY = 1e-12


class Spectra(nn.Module):
    """Hann-tapered power spectra over 0.5-8 Hz and autocorrelations at lags of 0.3-1.5 s.

    Attributes:
        frequency: ``[F]`` grid of :meth:`power` in Hz, 0.5 to 8 in steps of 0.05.
        coarse_frequency: ``[G]`` grid of :meth:`segment_powers` in Hz, 0.5 to 8 in steps of 0.25.
        pulse_band: Where ``coarse_frequency`` lies in 0.75 to 3.5 Hz.
    """

    frequency: Tensor
    coarse_frequency: Tensor
    segment: Tensor
    tapered: Tensor
    plain: Tensor
    lagged: Tensor
    lags: Tensor

    def __init__(self) -> None:
        super().__init__()
        step = SAMPLING_RATE / _SEGMENT
        self.pulse_band = slice(round((_SLOWEST - _LOWEST) / step), round((_FASTEST - _LOWEST) / step) + 1)
        for name, matrix in _matrices().items():
            # derived from constants, so it need not swell every checkpoint
            self.register_buffer(name, matrix, persistent=False)

    def power(self, signals: Tensor) -> Tensor:
        """Return the power ``[..., F]`` of ``[..., 1250]`` at each ``frequency``, in arbitrary units."""
        return squared_modulus(signals @ self.tapered)

    def segment_powers(self, signals: Tensor) -> Tensor:
        """Return the power ``[B, 7, G]`` of ``[B, 1250]`` at each ``coarse_frequency`` in 4-s segments, one a second.

        Their mean is Welch's spectrum (1967). Unlike in :meth:`power`, no part of the window counts less than
        another, but for its very edges.
        """
        starts = range(0, WINDOW_SAMPLES - _SEGMENT + 1, _HOP)
        segments = torch.stack([signals[:, start : start + _SEGMENT] for start in starts], dim=1)
        return squared_modulus(segments @ self.segment)

    def within(self, low: float, high: float) -> Tensor:
        """Return ``[F]`` float: 1 where ``frequency`` lies in ``low`` to ``high`` Hz, both included."""
        return ((self.frequency >= low - _STEP / 4) & (self.frequency <= high + _STEP / 4)).float()

    def peak(self, power: Tensor, highest: float) -> Tensor:
        """Return the frequency (Hz) ``[...]`` of the largest power between 0.5 and ``highest`` Hz."""
        return self.frequency[(power * self.within(_LOWEST, highest)).argmax(-1)]

    def near(self, centre: Tensor, width: float = 0.15) -> Tensor:
        """Return ``[..., F]`` float: 1 within ``width`` Hz of ``centre`` ``[...]`` (Hz)."""
        return ((self.frequency - centre.unsqueeze(-1)).abs() <= width + _STEP / 4).float()

    def pulse(self, signals: Tensor) -> tuple[Tensor, Tensor]:
        """Find the pulse in the autocorrelation of ``[B, 1250]`` without offset; only 0.5-8 Hz counts.

        Returns:
            The height of the highest peak at lags of 0.3-1.5 s, ``[B]`` in -1..1 (estimated without bias, hence
            not lower at longer lags), and the pulse period (s) ``[B]``: the shortest lag whose peak nearly reaches it.
            Both are 0 where there is no peak.
        """
        power = squared_modulus(signals @ self.plain)
        correlation = (power @ self.lagged) / power.sum(-1, keepdim=True).clamp(min=_TINY)
        middle = correlation[:, 1:-1]
        peaks = (middle > correlation[:, :-2]) & (middle >= correlation[:, 2:])
        height = torch.where(peaks, middle, -1.0).amax(-1, keepdim=True)
        high = peaks & (middle >= height - (1 - _NEARLY) * height.abs())
        period = torch.where(high, self.lags, 2 * _LONGEST).amin(-1)
        found = peaks.any(-1)
        return (height.squeeze(-1).clamp(-1, 1) * found), period * found


def squared_modulus(products: Tensor) -> Tensor:
    """Return ``[..., F]`` from ``[..., 2 F]``, products with F cosines and then F sines."""
    cosines, sines = products.square().chunk(2, dim=-1)
    return cosines + sines


def segment_waves(length: int, frequency: Tensor) -> Tensor:
    """Return ``[length, 2 F]`` float64: Hann-tapered cosines and sines that leave out each segment's own mean."""
    taper = torch.hann_window(length, dtype=torch.float64).unsqueeze(1)
    waves = taper * _waves(torch.arange(length, dtype=torch.float64) / SAMPLING_RATE, frequency)
    return waves - waves.mean(0)


def frequency_grid(step: float = _STEP) -> Tensor:
    """Return 0.5 to 8 Hz in steps of ``step``, float64."""
    return torch.arange(round(_LOWEST / step), round(_HIGHEST / step) + 1, dtype=torch.float64) * step


@functools.cache  # every model of a process shares the matrices
def _matrices() -> dict[str, Tensor]:
    time = torch.arange(WINDOW_SAMPLES, dtype=torch.float64) / SAMPLING_RATE
    grid, coarse = frequency_grid(), frequency_grid(SAMPLING_RATE / _SEGMENT)
    taper = torch.hann_window(WINDOW_SAMPLES, dtype=torch.float64).unsqueeze(1)
    # half a sample: at 150 beats a minute a whole one would be 3 beats
    lags = torch.arange(_SHORTEST * SAMPLING_RATE - 0.5, _LONGEST * SAMPLING_RATE + 1, 0.5, dtype=torch.float64)
    lags = lags / SAMPLING_RATE
    # a grid of 0.05 Hz means zero-padding to 20 s, so that the correlation is linear, not circular
    bias = WINDOW_SAMPLES / SAMPLING_RATE / (WINDOW_SAMPLES / SAMPLING_RATE - lags)
    return {
        "frequency": grid.float(),
        "coarse_frequency": coarse.float(),
        "segment": segment_waves(_SEGMENT, coarse).float(),
        "tapered": (taper * _waves(time, grid)).float(),
        "plain": _waves(time, grid).float(),
        "lagged": (torch.cos(2 * torch.pi * grid.unsqueeze(1) * lags) * bias).float(),
        "lags": lags[1:-1].float(),
    }


def _waves(time: Tensor, frequency: Tensor) -> Tensor:
    angle = 2 * torch.pi * time.unsqueeze(1) * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)
